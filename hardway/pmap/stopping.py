"""The reasons that end a run before its tasks are over: Ctrl-C, a signal, an error."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from hardway.errors import HardwayError, Interrupted


class Stop:
    """The reasons to stop so far; true if there is one."""

    def __init__(self) -> None:
        self.interrupts = 0  # how often Ctrl-C was pressed; the second time nothing waits for running tasks
        self.signal = 0  # SIGTERM or SIGHUP: the tasks go on
        self.error: HardwayError | None = None

    def __bool__(self) -> bool:
        return bool(self.interrupts or self.signal or self.error)

    @property
    def why(self) -> str:
        """The reason, for the journal; empty if there is none."""
        if self.interrupts:
            return "interrupted"
        return signal.Signals(self.signal).name if self.signal else str(self.error or "")

    def check(self, unfinished: str) -> None:
        """Raise HardwayError or Interrupted if there is a reason; `unfinished` says how far the run got."""
        if self.signal:
            name = signal.Signals(self.signal).name
            raise HardwayError(f"ended by {name}; running tasks go on; {unfinished}", 128 + self.signal)
        if self.interrupts:
            raise Interrupted(f"interrupted; {unfinished}")
        if self.error:
            raise self.error

    @contextlib.contextmanager
    def on_signals(self, wake: Callable[[], None]) -> Iterator[None]:
        """Note signals, and `wake` the loop so that it ends in order.

        Ctrl-C ends the tasks on the instances. SIGTERM and SIGHUP, which come at the end of a session, leave them
        running.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, stack: object) -> None:
            if number == signal.SIGINT:
                self.interrupts += 1
            else:
                self.signal = number
            wake()

        before = {
            number: signal.signal(number, note)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(number) != signal.SIG_IGN  # under nohup SIGHUP stays ignored
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
