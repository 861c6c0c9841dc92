"""A call in a process of its own, ended with all that it has started when its time is over."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable


def within(seconds: float, call: Callable[[], bytes]) -> bytes | None:
    """Return what the call returns; None if it raises, or has not returned in time.

    The call has no terminal to ask on, and what it prints is lost. Threads of this process are not there.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        _run(writer, call, seconds)
    os.close(writer)
    try:
        return _read(reader, time.monotonic() + seconds)
    finally:
        os.close(reader)
        for end in (os.killpg, os.kill):  # it may not have made its group yet
            with contextlib.suppress(ProcessLookupError, PermissionError):
                end(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _run(writer: int, call: Callable[[], bytes], seconds: float) -> None:
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds + 1)  # where nobody is left to end it
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nowhere, stream)
        data = memoryview(call() + b"\n")
        while data:
            data = data[os.write(writer, data) :]
        code = 0
    finally:
        os._exit(code)


def _read(reader: int, deadline: float) -> bytes | None:
    """Return what comes until the end of the pipe, without its last newline, the sign that it is whole."""
    data = b""
    while select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
        piece = os.read(reader, 1 << 16)
        if not piece:
            return data[:-1] if data.endswith(b"\n") else None
        data += piece
    return None
