"""The library's modules, each imported when something of it is first used: `from hardway.later import launch`.

For tasks/, so that `inv --list`, help and completion wait for none of boto3, fabric and paramiko. A type that stands in
a signature comes under TYPE_CHECKING from where it lives.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardway import (
        account,
        cleanup,
        cluster,
        commands,
        costs,
        group,
        images,
        instances,
        launch,
        lifetime,
        market,
        networks,
        readiness,
        rsync,
        s3stub,
        security_groups,
        spread,
        ssh,
        tags,
        transfer,
        unfinished,
        userdata,
    )
    from hardway.local import daemon, faults
    from hardway.pmap import arguments, journal, report, run, shuffle

__all__ = [
    "account", "arguments", "cleanup", "cluster", "commands", "costs", "daemon", "faults", "group", "images",
    "instances", "journal", "launch", "lifetime", "market", "networks", "readiness", "report", "rsync", "run", "s3stub",
    "security_groups", "shuffle", "spread", "ssh", "tags", "transfer", "unfinished", "userdata",
]  # fmt: skip
_PACKAGES = {
    "hardway.local": ("daemon", "faults"),
    "hardway.pmap": ("arguments", "journal", "report", "run", "shuffle"),
}


class _Later(ModuleType):
    """Stands in for a module; safe from several threads, as imports are."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    package = next((package for package, names in _PACKAGES.items() if name in names), "hardway")
    return _Later(f"{package}.{name}")
