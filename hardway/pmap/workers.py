"""Threads that do what may take long, for the one thread that runs a job and never waits for it."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue


class Workers:
    """Work is done in the order in which it came, as much at a time as there are threads."""

    def __init__(self) -> None:
        self.over = threading.Event()  # what has not begun by then is not worth beginning
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def start(self, count: int) -> None:
        """Begin, with this many threads."""
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def do(self, work: Callable[[], None]) -> None:
        """Have one of them do it; whom it concerns is told by the work itself."""
        self._work.put(work)

    def end(self, seconds: float) -> None:
        """Wait for all of them, together so many seconds."""
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
