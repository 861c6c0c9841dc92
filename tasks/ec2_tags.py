"""Setting tags on instances and taking them off; part of `ec2`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from invoke import Context

from hardway import config
from hardway.cli.task import Lines, confirm, task
from hardway.errors import UsageError

from .ec2_shared import all_or_error, how_many, ids_of, say_failed
from .flags import SELECTOR, YES
from .lazy import instances, tags

if TYPE_CHECKING:
    from hardway.ec2.instances import Instance


@task(
    changes=Lines,
    autoprint=True,
    iterable=["tag"],
    help={"selector": SELECTOR, "tag": "key=value; repeat it for more", "yes": YES},
)
def tag(
    c: Context,
    selector: str | Iterable[str],
    tag: str | Iterable[str] | None = None,
    yes: bool = False,
    region: str | None = None,
) -> Lines:
    """Set tags on instances.

    Print their ids. Instances may be in any state but terminated.

    Examples:
      inv ec2.tag web --tag stage=test --yes
      inv ec2.tag 'web db' --tag stage=test --tag cost-center=42 -y
    """
    return _retag(c, region, selector, tags.read(tag or ()), yes, "tag", tags.add)


@task(
    changes=Lines,
    autoprint=True,
    iterable=["tag"],
    help={"selector": SELECTOR, "tag": "key, without a value; repeat it for more", "yes": YES},
)
def untag(
    c: Context,
    selector: str | Iterable[str],
    tag: str | Iterable[str] | None = None,
    yes: bool = False,
    region: str | None = None,
) -> Lines:
    """Take tags off instances.

    Print their ids. Instances may be in any state but terminated.

    Examples:
      inv ec2.untag web --tag stage --yes
      inv ec2.untag db --tag stage --tag cost-center -y
    """
    return _retag(c, region, selector, tags.read_keys(tag or ()), yes, "untag", tags.remove)


def _retag(
    c: Context,
    region: str | None,
    selector: str | Iterable[str],
    given: Any,
    yes: bool,
    verb: str,
    change: Callable[[config.Settings, list[Instance], Any], instances.Done],
) -> Lines:
    if not given:
        raise UsageError(f"there is nothing to {verb}: add --tag, once or more")
    settings = config.settings(c, region)
    chosen = instances.select(settings, selector, states=instances.ALIVE)
    confirm(f"{verb} {how_many(chosen)}?", instances.Instances(chosen).brief(), yes)
    done = change(settings, chosen, given)
    say_failed(done.failed, f"{verb}ged", len(chosen))
    return all_or_error(ids_of(done), done.failed, f"{verb}ged", len(chosen))
