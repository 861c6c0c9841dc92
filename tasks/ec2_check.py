"""Checking the needs of a launch before it; part of `ec2`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from invoke import Context

from hardway import config
from hardway.cli.task import Lines, say, task
from hardway.errors import Failed, PartlyFailed
from hardway.tables import count

from .flags import JSON
from .lazy import check as checking


@task(autoprint=True, help={"json": JSON})
def check(
    c: Context,
    num: int | str | None = None,
    type: str | Sequence[str] | None = None,
    spot: float | str | None = None,
    ami: str | None = None,
    key: str | None = None,
    vpc: str | None = None,
    json: bool = False,
    region: str | None = None,
    via: str | None = None,
) -> Any:
    """Check all needs of a launch.

    Check credentials, clock, region, permissions, quotas, network, image, cost, key and ~/.ssh/config. Print ok, warn
    or fail for each, with a remedy. The check makes nothing and costs nothing. The exit code is 1 if a failure would
    stop a launch. `inv ec2.new --dry-run` checks all flags of a launch.

    Examples:
      inv ec2.check
      inv ec2.check --type c7i.large --num 4 --spot 1.0 --json
    """
    flags = {"num": num, "type": type, "spot": spot, "ami": ami, "key": key, "vpc": vpc, "via": via}
    found = checking.check(config.settings(c, region, ec2=flags))
    result = found.json() if json else found
    if found.failures:
        raise PartlyFailed(_stops(found), result)
    return result


def say_checks(settings: config.Settings, tags: Iterable[str]) -> Lines:
    """Tell a person the needs of a launch with these settings. Raises Failed if a failure would stop it."""
    found = checking.check(settings, tags)
    say(*str(found).splitlines())
    if found.failures:
        raise Failed(f"{_stops(found)}; nothing was started")
    say("a launch would start; nothing was started")
    return Lines()


def _stops(found: Any) -> str:
    return f"{len(found.failures)} of {count(len(found), 'check')} would stop a launch"
