"""Jobs whose driver leaves: it deals all tasks out to the agents, and another driver comes back for the results.

Every attempt is in the journal before it is sent, as in any job. So the next driver knows which attempts an instance
may hold, and takes nothing else from it.
"""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

from hardway.config import Mapreduce, Settings
from hardway.ec2 import instances
from hardway.ec2.instances import Instance
from hardway.errors import Failed, UsageError
from hardway.pmap.arguments import Arguments
from hardway.pmap.connecting import Connections
from hardway.pmap.intake import known_arguments
from hardway.pmap.job import Asked, read_asked, read_journal, read_keys
from hardway.pmap.link import now
from hardway.pmap.member import Member, Presence
from hardway.pmap.schedule import Decision, Schedule
from hardway.system.paths import current_directory
from hardway.tables import duration
from hardway.terminal import command_line, printable

LINGER = 3 * 86_400.0
"""Seconds that agents keep results, from the end of their last task on, unless told: a weekend."""
ARGUMENTS_MOST = 128 << 20  # bytes of arguments for each instance, whose agent has them in memory
_UNSENT_MOST = 1 << 20  # bytes in line for an agent, from which it is dealt no more for now
_DOUBT = 3.0  # seconds, at most, for which a driver stays where the first tasks have failed: the command may be wrong
_AT_ONCE = 500  # tasks, at most, that an agent is dealt before others are looked at


class Detach(Enum):
    """The part that a driver has in a detached job."""

    NO = "the job isn't detached"
    DEAL = "it deals the tasks out, and leaves"
    WAIT = "it is back for the results, and may leave again"


class Dealer:
    """Deals a job's tasks out to the members, and finds out when all of them have confirmed their share."""

    def __init__(self, schedule: Schedule, connections: Connections) -> None:
        self._schedule = schedule
        self._connections = connections
        self.has_more = False  # the last decision was to send tasks: there may be others
        self._dealt: dict[Member, float] = {}  # when each was last given a task

    def decide(self, time: float) -> list[Decision]:
        """Return what to send now. Nothing is dealt before each member has been reached, or could not be."""
        members = [*self._connections.present()]
        if any(member.presence is Presence.AWAITED for member in members):
            return []
        ready = {member.name for member in members if member.is_up and member.link.unsent < _UNSENT_MOST}
        decisions = self._schedule.deal(time, ready, _AT_ONCE)
        self.has_more = bool(decisions)
        for decision in decisions:
            self._dealt[self._connections.members[str(decision.host)]] = now()
        return decisions

    @property
    def is_over(self) -> bool:
        """Whether all tasks that may start are on instances, and every agent has said that it has what it was sent.

        Tasks that failed and wait to be tried again are left for the next driver.
        """
        schedule = self._schedule
        if schedule.unstarted or schedule.asks_back:
            return False
        if schedule.failed_attempts and not schedule.done and now() - max(self._dealt.values(), default=0.0) < _DOUBT:
            return False
        confirmed = True
        for member in self._connections.present():
            if member.presence is Presence.AWAITED:
                return False
            if member.is_up:
                confirmed &= self._has_confirmed(member)
            elif schedule.held(member.name):
                return False  # it may come back; else its tasks will go elsewhere
        return confirmed

    def _has_confirmed(self, member: Member) -> bool:
        """Return whether the agent has read all that it was sent; if it hasn't, ask."""
        link = member.link
        if link.unsent:
            return False
        if link.reached > self._dealt.get(member, member.greeted):
            return True
        if not link.pinged:
            self._connections.ping(member)
        return False


class Options:
    """How a detached job is run: what its next driver needs to know beside the job's own description."""

    def __init__(self, mapreduce: Mapreduce, **flags: Any) -> None:
        """Take the settings, and further parameters of `run.pmap`."""
        self._settings = dataclasses.asdict(mapreduce)
        self._flags = flags

    def kept(self, numbers: Sequence[int], chosen: Sequence[Instance]) -> dict[str, Any]:
        """Return the options as the journal keeps them, with the `chosen` instances.

        The tasks' `numbers` are kept if they are not 1, 2, 3 and so on.
        """
        flags = {name: list(value) if isinstance(value, tuple) else value for name, value in self._flags.items()}
        found: dict[str, Any] = {"settings": self._settings, "flags": flags}
        found |= {"instances": [instance.id for instance in chosen], "cwd": current_directory()}
        if list(numbers) != [*range(1, len(numbers) + 1)]:
            found["numbers"] = list(numbers)
        return found


class Left(NamedTuple):
    """A detached job, as its driver has left it. Its `hosts` may hold attempts, or their results."""

    asked: Asked
    arguments: Arguments
    hosts: list[str]
    settings: Mapreduce
    flags: dict[str, Any]


def read_left(path: Path) -> Left:
    """Read what is needed to go on with a detached job. Raises HardwayError."""
    asked = read_asked(path)
    _, history = read_journal(path, asked)
    if history.detach is None:
        raise UsageError(
            f"job {asked.name} was not detached: `{command_line('mapreduce.results', asked.name)}` prints its results"
        )
    flags = history.detach["flags"]
    here, there = current_directory(), history.detach["cwd"]
    if here != there and not all(os.path.isabs(name) for name in (*flags["send"], *flags["depends"])):
        line = command_line("mapreduce.wait", asked.name)
        raise UsageError(f"job {asked.name} needs its files again: cd {shlex.quote(there)} && {line}")
    items = known_arguments(path, read_keys(path, history), history)
    numbers = history.detach.get("numbers") or range(1, history.tasks + 1)
    if max(numbers, default=0) > len(items):
        raise Failed(f"arguments of job {asked.name} are damaged: give them again, to the command that began the job")
    arguments = Arguments([items[number - 1] for number in numbers], batch=asked.batch)
    hosts = sorted({*history.sent, *history.detach["instances"]}) if {*numbers} - history.results.keys() else []
    known = {field.name for field in dataclasses.fields(Mapreduce)}
    settings = Mapreduce(**{name: value for name, value in history.detach["settings"].items() if name in known})
    return Left(asked, arguments, hosts, settings, flags)


def still_there(settings: Settings, hosts: str | Iterable[str]) -> list[Instance]:
    """Return those of a job's instances that run."""
    ids = hosts.split() if isinstance(hosts, str) else list(hosts)
    return [one for one in instances.described(settings, ids) if one.state in ("pending", "running")]


def refuse(given: Mapping[str, object]) -> None:
    """Raise UsageError for a flag that has no meaning where the driver leaves."""
    if names := [f"--{name}" for name, value in given.items() if value]:
        raise UsageError(f"{names[0]} can't be used with --detach: nobody is there to heed it when the job ends")


def check_sizes(items: Sequence[bytes], hosts: int) -> None:
    """Raise UsageError for more arguments than the agents can have in memory."""
    if sum(map(len, items)) > hosts * ARGUMENTS_MOST:
        raise UsageError(
            f"the arguments are too large for --detach, over {ARGUMENTS_MOST >> 20} MiB for each instance: put them "
            "into S3, and let arguments name them"
        )


def warning(left: float) -> str:
    """Return a line about instances of which the first end themselves in `left` seconds."""
    extend = command_line("ec2.extend", "SELECTOR", "--hours", "N")
    return (
        f"the first instances end themselves in {duration(max(0.0, left), 2)}, with all results that nobody has come "
        f"for: `{extend}` gives them more time"
    )


def farewell(name: str, linger: float) -> str:
    """Return a line about a job that has been detached just now."""
    return (
        f"job {printable(name)} is detached: its instances work on by themselves, and keep results for "
        f"{duration(linger, 1)} after their last task; to come back for them: {command_line('mapreduce.wait', name)}"
    )
