"""Ending instances, now or at another time; part of `ec2`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from invoke import Context

from hardway import config
from hardway.cli.task import Lines, confirm, say, task
from hardway.errors import HardwayError, PartlyFailed
from hardway.tables import count

from .ec2_shared import all_or_error, connection_settings, how_many, ids_of, say_failed
from .flags import ANY_OWNER, SELECTOR, YES
from .lazy import budget, costs, instances, lifetime
from .lazy import group as groups

if TYPE_CHECKING:
    from hardway.ec2.instances import Instance


@task(changes=Lines, autoprint=True, help={"selector": SELECTOR, "yes": YES, "any-owner": ANY_OWNER})
def rm(
    c: Context,
    selector: str | Iterable[str],
    yes: bool = False,
    any_owner: bool = False,
    region: str | None = None,
) -> Lines:
    """Terminate instances.

    Print their ids. An instance that is terminated already is no error. An unknown id is an error, but the other
    instances are terminated.

    Examples:
      inv ec2.rm batch --yes
      inv ec2.rm 'db batch' -y
    """
    settings = config.settings(c, region)
    unknown: list[str] = []
    found = instances.select(settings, selector, states=instances.STATES, on_unknown=unknown.append)
    alive = [instance for instance in found if instance.state in instances.ALIVE]
    instances.refuse_foreign(alive, any_owner)
    done: list[Instance] = []
    if alive:
        confirm(f"terminate {how_many(alive)}?", instances.Instances(alive).brief(), yes)
        ended = instances.terminate(settings, alive)
        done = ended
        if ended:
            bill = costs.bill(settings, ended, say)
            budget.note(settings, bill)
            say(f"terminated {how_many(ended)}, cost so far: {bill.usd}")
        say_failed(ended.failed, "terminated", len(alive))
        if ended.failed and not unknown:
            return all_or_error(ids_of(ended), ended.failed, "terminated", len(alive))
    elif found:
        say(f"{how_many(found)} terminated already")
    if unknown:
        message = f"there is no instance {', '.join(unknown)}; {len(done)} others were terminated"
        raise PartlyFailed(message, ids_of(done), code=2)
    return ids_of(done)


@task(
    changes=Lines,
    autoprint=True,
    help={
        "selector": SELECTOR,
        "hours": "hours from now until each instance ends itself",
        "yes": YES,
    },
)
def extend(
    c: Context,
    selector: str | Iterable[str],
    hours: float | str,
    yes: bool = False,
    region: str | None = None,
    via: str | None = None,
    private_ip: bool = False,
    max_connections: int | str | None = None,
) -> Lines:
    """Move the time at which instances end themselves.

    Print their ids.

    Examples:
      inv ec2.extend web 4 --yes
      inv ec2.extend 'web db' 0.5 -y
    """
    settings = connection_settings(c, region, max_connections, private_ip=private_ip, via=via)
    wanted = config.number(hours, float, "--hours")
    lifetime.check(wanted)
    chosen = instances.select(settings, selector)
    confirm(f"have {how_many(chosen)} end {count(wanted, 'hour')} from now?", instances.Instances(chosen).brief(), yes)
    outcomes = lifetime.extend(settings, chosen, wanted)
    try:
        groups.report(outcomes, say)
    except HardwayError as error:
        error.result = ids_of(c.instance for c, outcome in outcomes.items() if not groups.describe_outcome(outcome))
        raise
    return ids_of(chosen)
