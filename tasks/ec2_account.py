"""Key pairs, roles and scheduled events of the account; part of `ec2`."""

from __future__ import annotations

from typing import Any

from invoke import Context

from hardway import config
from hardway.cli.task import listing, task
from hardway.tables import Table

from .flags import JSON
from .lazy import account, prerequisites


@task(autoprint=True, help={"json": JSON})
def keys(c: Context, json: bool = False, region: str | None = None) -> Any:
    """List key pairs.

    Columns: name, id, type, time made, and `ours` for the one that new instances get.

    Examples:
      inv ec2.keys
      inv ec2.keys --json
    """
    settings = config.settings(c, region)
    found = account.key_pairs(settings, prerequisites.own_key_name(settings))
    return listing(Table(found, "name", "id", "type", "created", "ours"), json, "no key pairs; `ec2.new` makes one")


@task(autoprint=True, help={"json": JSON})
def roles(c: Context, json: bool = False, region: str | None = None) -> Any:
    """List the instance profiles that `ec2.new --role` takes.

    Columns: the instance profile's name, its IAM roles, time made.

    Examples:
      inv ec2.roles
      inv ec2.roles --json
    """
    found = account.instance_profiles(config.settings(c, region))
    return listing(Table(found, "name", "roles", "created"), json, "no instance profiles")


@task(autoprint=True, help={"json": JSON})
def events(c: Context, json: bool = False, region: str | None = None) -> Any:
    """List events that AWS has scheduled for instances.

    The next event comes first. Columns: name, id, event, its earliest and latest time, description.

    Examples:
      inv ec2.events
      inv ec2.events --json
    """
    found = account.events(config.settings(c, region))
    return listing(Table(found, "name", "id", "code", "not_before", "not_after", "description"), json, "no events")
