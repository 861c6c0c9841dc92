"""URLs of the store in arguments and results: where the data of a task is. Pure.

An object of the store stays on the instance that made it, and its URL names this instance. A task prefers the instance
that has the most objects among those that its argument names. Objects are counted, not weighed: the size of an object
isn't in its URL. Where several instances have as many, the task prefers the one that fewest tasks prefer so far.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from typing import NamedTuple

from hardway.pmap.schedule import Schedule
from hardway.s3.store_urls import store_bucket

PREFIX = f"s3://{store_bucket('')}".encode()
"""The beginning of all URLs of the store; a text without it is looked at no further."""
# The key ends where a line, a field, a text of JSON or a list of a shell or a program ends.
_URL = re.compile(re.escape(PREFIX) + rb"(i-[0-9a-f]{8}(?:[0-9a-f]{9})?)/([^\s\0\"'`<>()\[\]{},;|]+)")


class StoreUrl(NamedTuple):
    """An object of the store."""

    instance: str
    key: bytes

    def __str__(self) -> str:
        return f"s3://{store_bucket(self.instance)}/{self.key.decode('utf-8', 'backslashreplace')}"


Moves = Mapping[StoreUrl, str]
"""The instances on which objects are that were made again."""


def urls_in(text: bytes) -> list[StoreUrl]:
    """Return the URLs of objects of the store in an argument or a result, in their order."""
    if PREFIX not in text:
        return []
    return [StoreUrl(instance.decode(), key) for instance, key in _URL.findall(text)]


def moved(text: bytes, moves: Moves) -> bytes:
    """Return an argument that names the objects where they are now."""
    if not moves or PREFIX not in text:
        return text

    def url_now(found: re.Match[bytes]) -> bytes:
        instance = moves.get(StoreUrl(found[1].decode(), found[2]))
        return PREFIX + instance.encode() + b"/" + found[2] if instance else found[0]

    return _URL.sub(url_now, text)


class Placement:
    """Tells the schedule which instance each task prefers."""

    def __init__(self, schedule: Schedule, arguments: Sequence[bytes], moves: Moves) -> None:
        """Take the tasks' arguments, by position; more may come. `moves` is applied to each."""
        self._schedule = schedule
        self._arguments = arguments
        self._moves = moves
        self._preferred: Counter[str] = Counter()  # tasks, by instance
        self._next = 0

    def argument(self, position: int) -> bytes:
        """Return the argument as it is sent."""
        return moved(self._arguments[position], self._moves)

    def prefer(self, present: Container[str]) -> None:
        """Tell the schedule what the tasks prefer that have come since the last call, among `present` instances."""
        for position in range(self._next, len(self._arguments)):
            if PREFIX in self._arguments[position] and (instance := self._nearest(position, present)):
                self._preferred[instance] += 1
                self._schedule.prefer(position, instance)
        self._next = len(self._arguments)

    def _nearest(self, position: int, present: Container[str]) -> str:
        """Return the instance that has the most of a task's objects; empty if none of them is on a present one."""
        has: dict[str, int] = {}
        for name, _ in {*_URL.findall(self.argument(position))}:
            if (instance := name.decode()) in present:
                has[instance] = has.get(instance, 0) + 1
        if len(has) < 2:
            return next(iter(has), "")
        return max(sorted(has), key=lambda instance: (has[instance], -self._preferred[instance]))
