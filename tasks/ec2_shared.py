"""Functions that the verbs of `ec2` share; no tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from invoke import Context

from hardway import config
from hardway.cli.task import Lines, say
from hardway.errors import HardwayError, PartlyFailed, UsageError
from hardway.tables import count

from .lazy import proxy

if TYPE_CHECKING:
    from hardway.ec2.instances import Instance


def connection_settings(
    c: Context,
    region: str | None,
    max_connections: int | str | None = None,
    real_s3: bool = True,
    private_ip: bool = False,
    via: str | None = None,
    seconds_timeout: int | str | None = None,
) -> config.Settings:
    """Read the settings with a task's flags for connecting. With `real_s3`, leave out the shell's S3 stub."""
    if via and via.startswith("s3://"):
        raise UsageError(f"--via {via}: it is a way to connect; ec2.push and ec2.scp send by way of S3 with --s3")
    flags = {
        "max_connections": max_connections,
        "private_ip": private_ip,
        "via": via,
        "seconds_timeout": seconds_timeout,
    }
    settings = config.settings(c, region, ec2=flags, real_s3=real_s3)
    proxy.check(settings)
    return settings


def how_many(chosen: list[Instance]) -> str:
    """Count instances, in words: `3 instances`."""
    return count(len(chosen), "instance")


def ids_of(chosen: Iterable[Instance]) -> Lines:
    """Return the instances' ids, in their order."""
    return Lines(instance.id for instance in chosen)


def say_failed(failed: Mapping[Instance, HardwayError], verb: str, total: int) -> None:
    """Tell a person how many instances succeeded, and why each of the others failed."""
    if failed and total > 1:  # else it is the error
        say(f"{verb} {total - len(failed)} of {count(total, 'instance')}")
        say(*(f"failed: {instance}: {why}" for instance, why in failed.items()))


def all_or_error(ids: Lines, failed: Mapping[Instance, HardwayError], verb: str, total: int) -> Lines:
    """Return the ids of the instances that succeeded. Raises HardwayError with them as its result if some failed."""
    if not failed:
        return ids
    if len(failed) == total == 1:
        [(instance, why)] = failed.items()
        raise HardwayError(f"nothing was {verb}: {instance}: {why}", why.code)
    raise PartlyFailed(f"failed on {len(failed)} of {count(total, 'instance')}", ids)
