"""The library's modules, each imported at its first use: `from .lazy import launch`.

This is why `inv --list`, help and completion don't wait for boto3, fabric and paramiko. A type in a signature is
imported under TYPE_CHECKING from its own module.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardway.clusters import engines, store
    from hardway.ec2 import account, images, instances, known, networks, security_groups, tags
    from hardway.fanout import broadcast, commands, group, rsync, transfer
    from hardway.launch import (
        block,
        check,
        cleanup,
        init,
        launch,
        lifetime,
        orphans,
        prerequisites,
        readiness,
        user_data,
        volumes,
    )
    from hardway.local import daemon
    from hardway.local.machines import guest_image
    from hardway.money import budget, costs, everywhere, market
    from hardway.pmap import again, arguments, detach, job_list, job_logs, job_paths, job_results, run, shuffle, stream
    from hardway.pmap.afterwards import report
    from hardway.s3 import stub_sessions
    from hardway.ssh import connection as ssh
    from hardway.ssh import proxy

_MODULES = {
    "account": "hardway.ec2.account",
    "again": "hardway.pmap.again",
    "arguments": "hardway.pmap.arguments",
    "block": "hardway.launch.block",
    "broadcast": "hardway.fanout.broadcast",
    "budget": "hardway.money.budget",
    "check": "hardway.launch.check",
    "cleanup": "hardway.launch.cleanup",
    "commands": "hardway.fanout.commands",
    "costs": "hardway.money.costs",
    "daemon": "hardway.local.daemon",
    "detach": "hardway.pmap.detach",
    "engines": "hardway.clusters.engines",
    "everywhere": "hardway.money.everywhere",
    "group": "hardway.fanout.group",
    "guest_image": "hardway.local.machines.guest_image",
    "images": "hardway.ec2.images",
    "init": "hardway.launch.init",
    "instances": "hardway.ec2.instances",
    "job_list": "hardway.pmap.job_list",
    "job_logs": "hardway.pmap.job_logs",
    "job_paths": "hardway.pmap.job_paths",
    "job_results": "hardway.pmap.job_results",
    "known": "hardway.ec2.known",
    "launch": "hardway.launch.launch",
    "lifetime": "hardway.launch.lifetime",
    "market": "hardway.money.market",
    "networks": "hardway.ec2.networks",
    "orphans": "hardway.launch.orphans",
    "prerequisites": "hardway.launch.prerequisites",
    "proxy": "hardway.ssh.proxy",
    "readiness": "hardway.launch.readiness",
    "report": "hardway.pmap.afterwards.report",
    "rsync": "hardway.fanout.rsync",
    "run": "hardway.pmap.run",
    "security_groups": "hardway.ec2.security_groups",
    "shuffle": "hardway.pmap.shuffle",
    "ssh": "hardway.ssh.connection",
    "store": "hardway.clusters.store",
    "stream": "hardway.pmap.stream",
    "stub_sessions": "hardway.s3.stub_sessions",
    "tags": "hardway.ec2.tags",
    "transfer": "hardway.fanout.transfer",
    "user_data": "hardway.launch.user_data",
    "volumes": "hardway.launch.volumes",
}
__all__ = [
    "account", "again", "arguments", "block", "broadcast", "budget", "check", "cleanup", "commands", "costs", "daemon",
    "detach", "engines", "everywhere", "group", "guest_image", "images", "init", "instances", "job_list", "job_logs",
    "job_paths", "job_results", "known", "launch", "lifetime", "market", "networks", "orphans", "prerequisites",
    "proxy", "readiness", "report", "rsync", "run", "security_groups", "shuffle", "ssh", "store", "stream",
    "stub_sessions", "tags", "transfer", "user_data", "volumes",
]  # fmt: skip


class _Later(ModuleType):
    """Stands in for a module; as safe from several threads as an import."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _Later(_MODULES[name])
