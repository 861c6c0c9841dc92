"""Our standard streams as a shell has left them: each may be closed, full, or without a reader.

stderr is for messages: nothing depends on a reader, so `talk` never fails. stdout is for results: a failed write loses
a result for its reader, so every write is checked, in `writing`. Both streams fail with the same exceptions, so each
failure is handled at the write.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import signal
import stat
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from hardway.errors import Failed, HardwayError, UsageError, reason_of

_FILE_ROOM = 1 << 20  # bytes written at once where a write doesn't wait for a reader


class _Quiet:
    """A stream, of text or bytes, that drops all data after a failed write."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        if self._stream is None:
            raise AttributeError(name)
        return getattr(self._stream, name)

    @property
    def works(self) -> bool:
        """Whether all writes so far have succeeded."""
        return self._stream is not None

    def write(self, data: Any) -> int:
        """Write data, or drop it if the stream can't be written."""
        self._try("write", data)
        return len(data)

    def writelines(self, lines: Any) -> None:
        """Write each line."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write buffered data."""
        self._try("flush")

    def isatty(self) -> bool:
        """Return whether the stream is a terminal that still exists."""
        try:
            return self._stream is not None and bool(self._stream.isatty())
        except (OSError, ValueError):
            return False

    def fileno(self) -> int:
        """Return the stream's descriptor. Raises OSError if it has none."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return int(self._stream.fileno())

    def _try(self, method: str, *data: Any) -> None:
        if self._stream is None:
            return
        try:
            getattr(self._stream, method)(*data)
        except BlockingIOError:
            return  # another program has made the terminal non-blocking: only this text is lost
        except (OSError, ValueError):
            self._stream = None


class Talk(_Quiet):
    """A text stream for messages to a person; writing to it never fails."""

    encoding = "utf-8"
    errors = "backslashreplace"

    @property
    def buffer(self) -> Any:
        """The same stream for bytes; a stream that a Python caller put in place may have none."""
        return _Quiet(self._stream.buffer if self._stream is not None else None)


def talk() -> TextIO:
    """Return the current stderr as a stream that never fails."""
    now = sys.stderr
    return cast(TextIO, now if isinstance(now, Talk) else Talk(now))


def secure() -> None:
    """Make closed standard streams safe to use for the rest of a program. Only programs call this.

    A closed descriptor would be reused by the next file or socket, and Python's `print` writes messages for a missing
    stderr to stdout. So each closed stream is opened on the null device: reading stdin and writing stdout are errors,
    and messages on stderr are dropped.
    """
    for number, stream, mode in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        if getattr(sys, f"__{stream}__") is None:
            with contextlib.suppress(OSError):
                _fill(number, mode)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(_Closed()))
    if sys.stdout is None:
        # Opened for reading, so that a write is an error, as on a closed one.
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8")
    if sys.stderr is sys.__stderr__:
        sys.stderr = cast(TextIO, Talk(sys.stderr))


def accept_any_bytes() -> None:
    """Have stdout accept the instances' output, even bytes that are no UTF-8. Only programs call this."""
    with contextlib.suppress(AttributeError, ValueError):
        sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]


def _fill(number: int, mode: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, mode)
        if opened == number:
            os.set_inheritable(number, True)
        else:
            os.dup2(opened, number)
            os.close(opened)


class _Closed(io.RawIOBase):
    """A stdin that was closed when we were started."""

    def readable(self) -> bool:
        return True

    def readinto(self, _buffer: Any) -> int:
        raise UsageError("our stdin is closed: there is nothing to be read")


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Guard a block of nothing but writes to stdout. Raises HardwayError if a write fails: see `unwritable`."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise unwritable(error) from error


def unwritable(error: OSError | ValueError) -> HardwayError:
    """Return the error for a failed write to stdout; it has no text if the reader has gone, as `head` does."""
    _forget_what_stdout_holds()
    if isinstance(error, BrokenPipeError):
        return HardwayError("", 128 + signal.SIGPIPE)
    if isinstance(error, UnicodeEncodeError):
        return Failed(f"cannot write to stdout: its encoding, {error.encoding}, has no {error.object[error.start]!a}")
    closed = isinstance(error, ValueError) or error.errno == errno.EBADF
    return Failed(f"cannot write to stdout: {'it is closed' if closed else reason_of(error)}")


def is_unread() -> bool:
    """Return whether stdout is a pipe or socket without a reader."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):
        return False


def put(text: str) -> None:
    """Write a text and a newline to stdout, unbuffered. Raises HardwayError if stdout can't be written."""
    with writing():
        print(text, flush=True)


class Out:
    """stdout for bytes; raises HardwayError if stdout can't be written, but not for an error in making the bytes."""

    def room(self, timeout: float) -> int:
        """Wait until stdout takes bytes; return the number that it takes at once, 0 if none in `timeout` seconds."""
        try:
            descriptor = sys.stdout.fileno()
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return _FILE_ROOM
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            return select.PIPE_BUF if poll.poll(timeout * 1000) else 0
        except (OSError, ValueError, AttributeError):  # a stream of a Python caller's, or a closed one: the write tells
            return _FILE_ROOM

    def write(self, data: bytes) -> int:
        """Write bytes, buffered."""
        with writing():
            return int(sys.stdout.buffer.write(data))

    def flush(self) -> None:
        """Write buffered data."""
        with writing():
            sys.stdout.flush()


def _forget_what_stdout_holds() -> None:
    """Drop stdout's buffer once stdout takes no more, as the interpreter would else print an error at its exit."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)
