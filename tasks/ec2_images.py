"""AMIs and snapshots of one's own; part of `ec2`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from invoke import Context

from hardway import config
from hardway.cli.task import Lines, checked_name, confirm, listing, say, task
from hardway.errors import PartlyFailed, UsageError
from hardway.tables import Table, count

from .flags import ANY_OWNER, JSON, SELECTOR, YES
from .lazy import images, instances, tags

STATES = ("running", "stopped")


@task(autoprint=True, help={"json": JSON})
def amis(c: Context, json: bool = False, region: str | None = None) -> Any:
    """List your own AMIs.

    The newest comes first. Columns: name, id, state, architecture, time made, login user.

    Examples:
      inv ec2.amis
      inv ec2.amis --json
    """
    found = images.own(config.settings(c, region))
    columns = ("name", "id", "state", "architecture", "created", "user")
    return listing(Table(found, *columns), json, "no AMIs of your own; `ec2.new --ami noble` starts a public one")


@task(
    changes=Lines,
    autoprint=True,
    help={
        "selector": "the one instance to make the AMI of",
        "name": "name of the new AMI, for ec2.new --ami",
        "yes": YES,
        "wait": "wait until the AMI is available",
        "reboot": "reboot the instance first, so that its file systems are at rest",
        "seconds-timeout": "seconds to wait until it is available",
        "any-owner": ANY_OWNER,
    },
)
def ami_new(
    c: Context,
    selector: str | Iterable[str],
    name: str,
    yes: bool = False,
    wait: bool = True,
    reboot: bool = True,
    seconds_timeout: int | str = 3600,
    any_owner: bool = False,
    region: str | None = None,
) -> Lines:
    """Make an AMI of an instance.

    Print its id. The same user logs in to the instances that are launched from it.

    Examples:
      inv ec2.ami-new db db-with-data --yes
      inv ec2.ami-new db db-later -y --no-reboot --no-wait
    """
    settings = config.settings(c, region)
    seconds = config.number(seconds_timeout, int, "--seconds-timeout")
    images.check_name(name)
    chosen = instances.select(settings, selector, states=STATES)
    if len(chosen) > 1:
        raise UsageError(f"{len(chosen)} instances match, but an AMI is made of one: select one")
    if reboot:
        instances.refuse_foreign(chosen, any_owner)
    first = "reboot it and " if reboot and chosen[0].state == "running" else ""
    confirm(f"{first}make the AMI {name}?", instances.Instances(chosen).brief(), yes)
    image = images.make(settings, chosen[0], name, reboot)
    if wait:
        say(f"{image} is being made; `{settings.command('ec2.ami-rm', image)}` removes it")
        images.wait(settings, image, seconds)
    return Lines([image])


@task(
    changes=Lines,
    autoprint=True,
    help={"name": "its name or id", "yes": YES, "any-owner": ANY_OWNER},
)
def ami_rm(c: Context, name: str, yes: bool = False, any_owner: bool = False, region: str | None = None) -> Lines:
    """Remove an AMI of your own with its snapshots.

    Print its id. Instances that were launched from it stay.

    Examples:
      inv ec2.ami-rm db-with-data --yes
      inv ec2.ami-rm db-later -y
    """
    settings = config.settings(c, region)
    image = images.find_own(settings, checked_name(name))
    tags.refuse_foreign(f"{image.name} {image.id}", image.tags, any_owner)
    lines = [f"{image.id} {image.name} {image.created}", *image.snapshots]
    confirm("deregister this AMI and delete its snapshots?", lines, yes)
    left = images.remove(settings, image)
    if left:
        say(f"kept, since another AMI uses them: {', '.join(left)}")
    return Lines([image.id])


@task(autoprint=True, help={"json": JSON})
def snapshots(c: Context, json: bool = False, region: str | None = None) -> Any:
    """List your own snapshots.

    The newest comes first. Columns: name, id, state, progress, GiB, time begun, volume, description.

    Examples:
      inv ec2.snapshots
      inv ec2.snapshots --json
    """
    found = images.snapshots(config.settings(c, region))
    columns = ("name", "id", "state", "progress", "gigs", "started", "volume", "description")
    return listing(Table(found, *columns), json, "no snapshots")


@task(changes=Lines, autoprint=True, help={"selector": SELECTOR, "yes": YES})
def snapshot(c: Context, selector: str | Iterable[str], yes: bool = False, region: str | None = None) -> Lines:
    """Take snapshots of instances' volumes.

    Take all of an instance's volumes at the same moment. Print the ids of the snapshots, which are not complete yet.

    Examples:
      inv ec2.snapshot web --yes
      inv ec2.snapshot 'web db' -y
    """
    settings = config.settings(c, region)
    chosen = instances.select(settings, selector, states=STATES)
    confirm("take snapshots of all their volumes?", instances.Instances(chosen).brief(), yes)
    taken, failed = images.take_snapshots(settings, chosen)
    say(*(f"failed: {instance}: {why}" for instance, why in failed.items()))
    if failed and taken:
        say(f"snapshots taken: {' '.join(taken)}")
    if failed:
        raise PartlyFailed(f"failed on {len(failed)} of {count(len(chosen), 'instance')}", Lines(taken))
    return Lines(taken)
