"""Move the time at which instances end themselves.

`boot.sh` carries out the end. `user_data` sets the time at launch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

from fabric.group import GroupResult

from hardway import aws
from hardway.config import MOST_HOURS, Settings
from hardway.ec2 import tags
from hardway.ec2.instances import RESTARTED, Instance
from hardway.errors import Failed, UsageError
from hardway.fanout.group import CommandError, CommandResult, InstanceGroup, describe_outcome
from hardway.launch import user_data as userdata
from hardway.ssh.script import Script
from hardway.tables import count
from hardway.terminal import last_line

_SECONDS = 60.0
_NO_WATCH = 3
_EXTEND = f"""
root=${{HARDWAY_ROOT-}}
watch=$root/etc/hardway/watch
# The instance's disk may be read-only.
[ -e "$watch" ] || watch=$root/run/hardway/state/watch
[ -e "$watch" ] || exit {_NO_WATCH}
sudo -n sh "$watch" extend "$1"
"""


def check(hours: float) -> None:
    """Raise UsageError for hours that no instance can be given."""
    if not hours:
        raise UsageError("--hours is 0: ec2.rm ends instances at once")
    if hours > MOST_HOURS:
        raise UsageError(f"--hours is {hours:g}: it must be at most {MOST_HOURS:g}")


def over(chosen: Iterable[Instance]) -> list[Instance]:
    """Return the instances whose end, by their tag, is less than ten minutes away: a start gives them ten minutes."""
    soon = datetime.now(timezone.utc) + RESTARTED
    return [instance for instance in chosen if instance.ends and instance.ends < soon]


def extend(settings: Settings, chosen: Sequence[Instance], hours: float) -> GroupResult:
    """Have instances end `hours` from now; return each connection's result or exception.

    Also move the tag of the instances that took the new time. Raises Failed if AWS refuses the tag.
    """
    group = InstanceGroup(chosen, settings)
    now = datetime.now(timezone.utc)
    outcomes = group.execute(Script(_EXTEND, [str(userdata.seconds(hours))]), timeout=_SECONDS)
    for connection, outcome in outcomes.items():
        outcomes[connection] = _named(outcome)
    moved = [c.instance for c, outcome in outcomes.items() if isinstance(outcome, CommandResult)]
    if not moved:
        return outcomes
    try:
        tags.add(settings, moved, userdata.ends_tag(now, hours)).complete()
    except Exception as error:
        why = aws.translate(error)
        if not why:
            raise
        failed = [f"{c.instance}: {reason}" for c, one in outcomes.items() if (reason := describe_outcome(one))]
        others = f"; the end of {count(len(failed), 'other')} has not moved: {'; '.join(failed)}" if failed else ""
        ends = f"{count(len(moved), 'instance')} will end {count(hours, 'hour')} from now"
        raise Failed(f"{ends}, but could not be tagged with the time: {why}{others}") from error
    return outcomes


def _named(outcome: Any) -> Any:
    """Return the outcome; the failure of a command becomes an exception with the reason."""
    if not isinstance(outcome, CommandResult) or not outcome.exit_code:
        return outcome
    if outcome.exit_code == _NO_WATCH:
        return CommandError("it has no end to move: ec2.new did not start it")
    return CommandError(last_line(outcome.stderr) or f"exit code {outcome.exit_code}")
