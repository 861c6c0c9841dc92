"""Signal handling around work that must not stay half done. Only the main thread changes signal handlers."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from hardway.errors import HardwayError, Interrupted


class Signal(KeyboardInterrupt):
    """A signal that ends us. Like Ctrl-C it is no Exception: else botocore would retry as after a failed request."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.error = HardwayError(f"ended by {signal.Signals(number).name}", 128 + number)


def as_error(interrupt: KeyboardInterrupt) -> HardwayError:
    """Return the exception to raise for Ctrl-C or a Signal, after the cleanup."""
    return interrupt.error if isinstance(interrupt, Signal) else Interrupted()


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt as Ctrl-C does, unless ignored at our start, as by `nohup`."""

    def interrupt(number: int, _frame: Any) -> None:
        raise Signal(number)

    heeded = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]
    with _handled(interrupt, *heeded):
        yield


@contextlib.contextmanager
def ignored() -> Iterator[None]:
    """Ignore Ctrl-C, SIGTERM and SIGHUP for this block."""
    with _handled(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        yield


@contextlib.contextmanager
def _handled(handler: Any, *signals: signal.Signals) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {which: signal.signal(which, handler) for which in signals}
    try:
        yield
    finally:
        for which, before in previous.items():
            signal.signal(which, before)
