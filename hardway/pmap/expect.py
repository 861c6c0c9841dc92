"""Checks that the objects that a task should have written to S3 exist before its result counts: `--expect`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from hardway.config import Settings
from hardway.errors import UsageError
from hardway.pmap.endings import MISSING
from hardway.pmap.events import Ended, Event, Looked, Unseen
from hardway.s3 import objects
from hardway.s3.store_urls import instance_of
from hardway.system.workers import Workers
from hardway.terminal import printable

RESULTS = "results"
AT_ONCE = 16  # objects looked at at the same time
LOOKS_MOST = 8  # tasks whose objects one worker thread looks for in a row
_URL = re.compile(rb"(?<!\S)s3://\S+")


class Expected:
    """The objects that a task must leave, and a check that they exist. For use from several threads."""

    def __init__(self, settings: Settings, pattern: str) -> None:
        """Take an object's URL as `pattern`, with `{}` for a task's argument, or `results` for the URLs in its stdout.

        Raises UsageError.
        """
        if pattern != RESULTS:
            try:
                objects.parse(pattern.replace("{}", "x"))
            except UsageError:
                raise UsageError(
                    f"--expect {printable(pattern)!r}: write s3://bucket/key, with {{}} for the argument, or {RESULTS}"
                ) from None
        self._pattern = pattern
        self._store = objects.store(settings)
        self._all_here = bool(settings.stub_session)

    def missing(self, argument: bytes, stdout: Iterable[bytes]) -> str:
        """Return the URL of the first object of this task that is missing; empty if all exist.

        Raises Failed if S3 can't be asked.
        """
        return next((url for url in self._urls(argument, stdout) if not self._is_there(url)), "")

    def missing_of(self, tasks: Sequence[tuple[bytes, Iterable[bytes]]]) -> list[str]:
        """Return the result of `missing` for each of many tasks; several are checked at the same time."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(lambda task: self.missing(*task), tasks))

    def _urls(self, argument: bytes, stdout: Iterable[bytes]) -> Iterator[str]:
        if self._pattern != RESULTS:
            text = argument.rstrip(b"\n").decode("utf-8", "surrogateescape")
            yield self._pattern.replace("{}", text)
            return
        rest = b""
        for piece in stdout:
            # A word that may go on in the next piece waits for that piece.
            words = re.split(rb"(?<=\s)(?=\S)", rest + piece)
            rest = words.pop()
            yield from _urls_in(b"".join(words))
        yield from _urls_in(rest)

    def _is_there(self, url: str) -> bool:
        """Return whether an object exists. An object of a store is on its instance, where nobody looks for it."""
        if not self._all_here and instance_of(url):
            return True
        try:
            return self._store.exists(objects.parse(url))
        except (UsageError, UnicodeError):  # no object's URL
            return False


class Lookout:
    """Has worker threads look for the objects expected of attempts that have ended well. Answers come as events."""

    def __init__(
        self, expected: Expected, arguments: Sequence[bytes], workers: Workers, events: SimpleQueue[Event]
    ) -> None:
        self._expected = expected
        self._arguments = arguments
        self._workers = workers
        self._events = events
        self._todo: list[Ended] = []

    def add(self, ended: Ended) -> None:
        """Put an attempt in line for `begin`."""
        self._todo.append(ended)

    def begin(self) -> None:
        """Have workers look for the objects of all attempts in line."""
        for start in range(0, len(self._todo), LOOKS_MOST):
            self._workers.do(partial(self._look_for, self._todo[start : start + LOOKS_MOST]))
        self._todo = []

    def _look_for(self, batch: Sequence[Ended]) -> None:
        for ended in batch:
            try:
                stdout = [ended.stdout] if isinstance(ended.stdout, bytes) else _pieces(ended.stdout)
                missing = self._expected.missing(self._arguments[ended.position], stdout)
            except Exception as error:  # the driver's thread handles every error
                self._events.put(Unseen(error))
            else:
                self._events.put(Looked(ended, missing))


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            yield piece


def _urls_in(text: bytes) -> Iterator[str]:
    return (found.decode("utf-8", "surrogateescape") for found in _URL.findall(text))


def message(url: str) -> bytes:
    """Return the line about the missing object that is added to the attempt's stderr."""
    return f"hardway: expected {printable(url)}, which is not there\n".encode()


def charged(ended: Ended, url: str) -> Ended:
    """Add a missing object to an attempt's end, and to its stderr. Raises OSError."""
    stderr = ended.stderr
    if isinstance(stderr, bytes):
        stderr += message(url)
    else:
        with stderr.open("ab") as file:
            file.write(message(url))
    return ended._replace(end=ended.end._replace(flags=ended.end.flags | MISSING), stderr=stderr)
