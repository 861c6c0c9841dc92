"""Threads that do slow work, for a thread that never waits for it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue


class Workers:
    """A few threads. Each takes the oldest piece of work that nobody has begun."""

    def __init__(self) -> None:
        self.over = threading.Event()  # set at the end: work that has not begun at the end need not begin
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def start(self, count: int) -> None:
        """Start this many threads."""
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def do(self, work: Callable[[], None]) -> None:
        """Have one of the threads do the work; the work itself reports its result."""
        self._work.put(work)

    def end(self, seconds: float) -> None:
        """End all threads; wait `seconds` at the most."""
        self.over.set()
        for _ in self._threads:
            self._work.put(None)
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            with contextlib.suppress(Exception):
                work()
