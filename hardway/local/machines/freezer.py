"""Stops all processes of an instance, and lets them go on, so that none of them notices."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence

STOP_SECONDS = 0.02
"""How long to wait for one process to stop: it takes microseconds, or a turn of the CPU on a busy host."""


class Freezer:
    """Stops the processes whose directories in /proc `running` returns, oldest first."""

    def __init__(self, running: Callable[[], Sequence[str]]) -> None:
        self._running = running
        self._stopped: list[int] | None = None

    @property
    def frozen(self) -> bool:
        """Whether every process is stopped."""
        return self._stopped is not None

    def freeze(self) -> None:
        """Stop every process, parents first, so that none sees that its child has stopped."""
        if self._stopped is None:
            self._stopped = []
        known: set[str] = set()
        while new := [path for path in self._running() if path not in known]:
            for path in new:  # children that one of them started meanwhile are found in the next round
                known.add(path)
                with contextlib.suppress(OSError):
                    self._stopped.append(_stop(path))

    def unfreeze(self) -> None:
        """Let the stopped processes go on, children first."""
        for descriptor in reversed(self._stopped or ()):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGCONT)
        self.forget()

    def forget(self) -> None:
        """Forget the stopped processes, without a signal."""
        for descriptor in self._stopped or ():
            os.close(descriptor)
        self._stopped = None


def _stop(path: str) -> int:
    """Stop the process with a directory in /proc, and return a descriptor to send it signals by.

    Raises OSError for a process that is gone, or that somebody else stopped: it isn't ours to continue.
    """
    process = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _state(process) in b"TtZX":
            raise ProcessLookupError
        signal.pidfd_send_signal(process, signal.SIGSTOP)
        _until_stopped(process)
    except BaseException:
        os.close(process)
        raise
    return process


def _until_stopped(process: int) -> None:
    """Wait for the signal to have its effect, at most STOP_SECONDS: a parent that is about to stop still sees its child
    stop. A process that the kernel holds up, in a read from a disk, stops later.
    """
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline and _state(process) not in b"TtZX":
        time.sleep(0.0001)


def _state(process: int) -> bytes:
    """Read the letter of a process's state. Raises OSError for a process that is gone."""
    with open(os.open("stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process), "rb") as stat:
        return stat.read().rpartition(b")")[2].split()[0]
