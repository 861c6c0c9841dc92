"""Failures for which no retry helps, because an instance that had the task's data is gone.

A command says so in the last line of its stderr: `its data went with i-...`. Nobody takes its word for it. The task's
argument must name an object on this instance, and EC2 must say that the instance is terminated, or not know it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from queue import SimpleQueue

from hardway.config import Settings
from hardway.ec2 import instances
from hardway.pmap.endings import WENT
from hardway.pmap.events import Checked, Ended, Event
from hardway.pmap.link import now
from hardway.pmap.locality import urls_in
from hardway.system.workers import Workers
from hardway.terminal import last_line

ASKED_MOST = 20_000  # instances at a time: an instance that lies may name any number
ASK_EVERY = 5.0  # seconds, about an instance that was there
_TAIL = 4096  # bytes of stderr's end that are looked at


def gone_among(settings: Settings, ids: Iterable[str]) -> frozenset[str]:
    """Return the ids of instances that EC2 says are terminated, or does not know. Raises HardwayError."""
    asked = sorted({*ids})[:ASKED_MOST]
    there = {found.id for found in instances.described(settings, asked) if found.state in instances.ALIVE}
    return frozenset(asked) - there


def data_gone_with(settings: Settings, ids: Iterable[str]) -> frozenset[str]:
    """Return those of these instances that are gone with their objects of the store. Raises HardwayError.

    In a session of the S3 stub all objects are on this machine.
    """
    return frozenset() if settings.stub_session else gone_among(settings, ids)


class Losses:
    """Checks what failed attempts say of instances that are gone. Answers come as events."""

    def __init__(
        self, argument: Callable[[int], bytes], settings: Settings, workers: Workers, events: SimpleQueue[Event]
    ) -> None:
        """Take a function that returns a task's argument as it was sent, by position."""
        self._argument = argument
        self._settings = settings
        self._workers = workers
        self._events = events
        self._gone: set[str] = set()
        self._there: dict[str, float] = {}  # when EC2 said so
        self._waiting: dict[str, list[Ended]] = {}  # for an answer about this instance

    def claimed(self, ended: Ended) -> str:
        """Return the instance that an attempt says its data went with; empty if it says nothing of what it was given.

        Raises OSError.
        """
        if ended.end.code <= 0 or ended.end.flags:
            return ""
        found = WENT.search(last_line(_tail(ended.stderr)))
        if not found or not any(url.instance == found[1] for url in urls_in(self._argument(ended.position))):
            return ""
        return found[1]

    def check(self, ended: Ended, instance: str) -> None:
        """Have EC2 asked for the instance; `Checked` is the answer."""
        waiting = self._waiting.setdefault(instance, [])
        waiting.append(ended)
        if len(waiting) > 1:
            return
        if instance in self._gone or now() - self._there.get(instance, -ASK_EVERY) < ASK_EVERY:
            self._events.put(Checked(instance, instance in self._gone))
        else:
            self._workers.do(lambda: self._ask(instance))

    def answered(self, instance: str, gone: bool) -> list[Ended]:
        """Note EC2's answer; return the attempts that waited for it."""
        if gone:
            self._gone.add(instance)
        else:
            self._there[instance] = now()
        return self._waiting.pop(instance, [])

    def _ask(self, instance: str) -> None:
        gone = False
        try:
            gone = bool(data_gone_with(self._settings, [instance]))
        finally:  # if EC2 can't be asked, the attempt is a failure like others
            self._events.put(Checked(instance, gone))


def _tail(stderr: bytes | Path) -> bytes:
    if isinstance(stderr, bytes):
        return stderr[-_TAIL:]
    with stderr.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - _TAIL))
        return file.read()
