"""Listing instances, their addresses and their costs; part of `ec2`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from invoke import Context

from hardway import config
from hardway.cli.task import Lines, act, nothing, say, task
from hardway.errors import NothingMatched, PartlyFailed, UsageError

from .ec2_shared import connection_settings, how_many
from .flags import JSON, SELECTOR
from .lazy import costs, everywhere, init, instances, orphans, volumes
from .lazy import user_data as userdata

if TYPE_CHECKING:
    from hardway.money.costs import Bill

_REGIONS_SECONDS = 20.0


@task(
    autoprint=True,
    help={
        "only": SELECTOR,
        "state": "states with commas: pending, running, shutting-down, terminated, stopping, stopped",
        "json": JSON,
        "wide": "on a terminal, show all columns, however wide they are",
        "all_regions": "list the instances of every region that the account can use",
    },
)
def ls(
    c: Context,
    only: str | Iterable[str] = "",
    state: str | Iterable[str] = "",
    json: bool = False,
    region: str | None = None,
    wide: bool = False,
    all_regions: bool = False,
) -> Any:
    """List instances and what they cost.

    The newest comes first. A terminal gets columns with titles that fit it. AGE is the time since the last start, COST
    the cost since then. A narrow terminal does without ZONE, AGE or TYPE. An instance in the state overdue runs, but
    should have ended itself.

    A pipe or a file gets a line for each instance, without titles, in these columns: name, type, state, id, AMI, spot
    or ondemand, address, zone, groups, tags, price an hour (for spot, the current one), time since the last start,
    cost. --wide shows the same columns on a terminal, without the tags that hardway sets.

    Examples:
      inv ec2.ls
      inv ec2.ls --only 'web* team=data' --state running
      inv ec2.ls --all-regions --json
    """
    states = instances.states(state) if state else instances.STATES
    settings = config.settings(c, region)
    silent = ""
    if all_regions:
        if region:
            raise UsageError("--region and --all-regions exclude each other")
        shown, silent = _in_all_regions(settings, only, states, wide)
    else:
        found = instances.select(settings, only, states=states, acting=False)[::-1]
        orphans.report(settings, found, say)
        if not only and not state:
            volumes.report(settings, say)
        shown = costs.bill(settings, found, say, wide)
    if not shown and not silent and (only or state):
        raise NothingMatched("no instance matches")
    _say_overdue(settings, shown, all_regions)
    if shown:
        say(f"total per hour now: {shown.usd_per_hour}, so far: {shown.usd}")
    else:
        say("no instances")
    result = shown.json() if json else shown
    if silent:
        raise PartlyFailed(silent, result)
    return result


def _say_overdue(settings: config.Settings, shown: Bill, all_regions: bool) -> None:
    """Say which instances should have ended, and how to end them."""
    for place in sorted({one.region for one in shown.overdue}):
        late = [one for one in shown.overdue if one.region == place]
        there = settings.in_region(place) if all_regions else settings
        rm = there.command("ec2.rm", " ".join(one.id for one in late))
        say(f"{how_many(late)} should have ended by the tag {instances.ENDS_TAG}, but did not: `{rm}` ends them")


def _in_all_regions(
    settings: config.Settings, only: str | Iterable[str], states: Sequence[str], wide: bool
) -> tuple[Bill, str]:
    """Return the bill of the instances in all regions, and how many regions have not answered; empty if all have."""
    world = everywhere.look(settings, only, states, _REGIONS_SECONDS, say, wide)
    for place in sorted({one.region for one in world.bill}):
        orphans.report(settings.in_region(place), [one for one in world.bill if one.region == place], say)
    say(*world.missing())
    return world.bill, f"{len(world.silent)} of {len(world.asked)} regions have not answered" if world.silent else ""


@task(autoprint=True, help={"selector": SELECTOR})
def id(c: Context, selector: str | Iterable[str], region: str | None = None) -> Lines:
    """Print the ids of running instances.

    Examples:
      inv ec2.id web
      ids=$(inv ec2.id 'web db')
    """
    return Lines(instance.id for instance in instances.select(config.settings(c, region), selector))


@task(autoprint=True, help={"selector": SELECTOR, "private": "the private addresses"})
def ip(c: Context, selector: str | Iterable[str], private: bool = False, region: str | None = None) -> Lines:
    """Print the addresses of running instances.

    An instance without a public address has its private one.

    Examples:
      inv ec2.ip web
      inv ec2.ip 'web db' --private
    """
    found = instances.select(config.settings(c, region), selector)
    return Lines(instance.private_ip if private else instance.address for instance in found)


@task(autoprint=True, help={"selector": SELECTOR})
def dns(c: Context, selector: str | Iterable[str], region: str | None = None) -> Lines:
    """Print the DNS names of running instances.

    An instance without a public name has its private one.

    Examples:
      inv ec2.dns web
      inv ec2.dns team=data
    """
    found = instances.select(config.settings(c, region), selector)
    return Lines(instance.public_dns or instance.private_dns for instance in found)


@task(autoprint=True, help={"selector": SELECTOR})
def user_data(c: Context, selector: str | Iterable[str], region: str | None = None) -> str:
    """Print the user data that an instance runs at boot.

    Examples:
      inv ec2.user-data db
      inv ec2.user-data db --region us-east-1
    """
    settings = config.settings(c, region)
    chosen = instances.select(settings, selector, states=instances.ALIVE)
    if len(chosen) > 1:
        raise UsageError(f"{how_many(chosen)} match: select the one to look at")
    data = instances.user_data(settings, chosen[0])
    if not data:
        say(f"{chosen[0]} has no user data")
    return userdata.text(data)


@task(changes=nothing, help={"selector": SELECTOR, "follow": "go on with new output until the boot has ended"})
def log(
    c: Context,
    selector: str | Iterable[str],
    follow: bool = False,
    region: str | None = None,
    via: str | None = None,
    private_ip: bool = False,
    max_connections: int | str | None = None,
) -> None:
    """Show the output of instances' boot, --init included.

    Read cloud-init's output over SSH. If SSH does not answer, show the console as EC2 has it.

    Examples:
      inv ec2.log db
      inv ec2.log web --follow
    """
    settings = connection_settings(c, region, max_connections, private_ip=private_ip, via=via)
    chosen = instances.select(settings, selector, states=instances.ALIVE)
    act(f"connect to {how_many(chosen)} to read the output of the boot")
    init.show(settings, chosen, follow, say)
