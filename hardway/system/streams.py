"""Our standard streams as a shell has left them: each may be closed, full, or read by nobody.

stderr is talk: nothing depends on a reader, so `talk` never fails. stdout is for results: a text that can't be written
is lost for its reader, so every write is checked, in `writing`. Both streams fail with the same exceptions, so each
failure is handled where the write is.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import signal
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from hardway.errors import Failed, HardwayError, UsageError, reason_of


class _Quiet:
    """A stream, of text or bytes, that says nothing more once it can't be written."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        if self._stream is None:
            raise AttributeError(name)
        return getattr(self._stream, name)

    @property
    def works(self) -> bool:
        """Whether all that was said so far could be written."""
        return self._stream is not None

    def write(self, data: Any) -> int:
        """Write what can be written."""
        self._try("write", data)
        return len(data)

    def writelines(self, lines: Any) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what is held back."""
        self._try("flush")

    def isatty(self) -> bool:
        """Whether it is a terminal, which is still there."""
        try:
            return self._stream is not None and bool(self._stream.isatty())
        except (OSError, ValueError):
            return False

    def fileno(self) -> int:
        """Its number. Raises OSError where it has none."""
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return int(self._stream.fileno())

    def _try(self, method: str, *data: Any) -> None:
        if self._stream is None:
            return
        try:
            getattr(self._stream, method)(*data)
        except BlockingIOError:
            return  # a terminal that another program has set so: this text is lost, the next one may not be
        except (OSError, ValueError):
            self._stream = None


class Talk(_Quiet):
    """A text stream for messages to a person; writing to it never fails."""

    encoding = "utf-8"
    errors = "backslashreplace"

    @property
    def buffer(self) -> Any:
        """The same for bytes; a stream that a Python caller put in place may have none."""
        return _Quiet(self._stream.buffer if self._stream is not None else None)


def talk() -> TextIO:
    """stderr, as it is now, as a stream that never fails."""
    now = sys.stderr
    return cast(TextIO, now if isinstance(now, Talk) else Talk(now))


def secure() -> None:
    """Make of standard streams that are closed, or may close, what the rest of a program can use. For programs alone.

    A descriptor that is closed would go to the next file or socket that is opened, and Python's `print` writes to
    stdout what is meant for a stderr that is not there. So each is put on the null device: what is read from stdin
    is an error, what is written to stdout as well, and what is said on stderr is said to nobody.
    """
    for number, stream, mode in ((0, "stdin", os.O_RDONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_WRONLY)):
        if getattr(sys, f"__{stream}__") is None:
            with contextlib.suppress(OSError):
                _fill(number, mode)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(_Closed()))
    if sys.stdout is None:
        # Opened to be read: to write there is an error, as on one that is closed.
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8")
    if sys.stderr is sys.__stderr__:
        sys.stderr = cast(TextIO, Talk(sys.stderr))


def accept_any_bytes() -> None:
    """Have stdout carry what instances wrote, bytes that are no UTF-8 included. For programs alone."""
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
    """Around nothing but writes to stdout. Raises HardwayError where it can't be written: see `unwritable`."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise unwritable(error) from error


def unwritable(error: OSError | ValueError) -> HardwayError:
    """The error for a stdout that can't be written. Without a word where its reader has seen enough, as of `head`."""
    _forget_what_stdout_holds()
    if isinstance(error, BrokenPipeError):
        return HardwayError("", 128 + signal.SIGPIPE)
    if isinstance(error, UnicodeEncodeError):
        return Failed(f"cannot write to stdout: its encoding, {error.encoding}, has no {error.object[error.start]!a}")
    closed = isinstance(error, ValueError) or error.errno == errno.EBADF
    return Failed(f"cannot write to stdout: {'it is closed' if closed else reason_of(error)}")


def is_unread() -> bool:
    """Whether stdout is a pipe, or its kind, that nobody reads any more."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))
    except (OSError, ValueError, AttributeError):
        return False


def put(text: str) -> None:
    """Write a text and a newline to stdout, now. Raises HardwayError where that can't be done."""
    with writing():
        print(text, flush=True)


class Out:
    """stdout for bytes; raises HardwayError where it can't be written, which no error in what is to be written is."""

    def write(self, data: bytes) -> int:
        """Write bytes, in a while."""
        with writing():
            return int(sys.stdout.buffer.write(data))

    def flush(self) -> None:
        """Write what is held back."""
        with writing():
            sys.stdout.flush()


def _forget_what_stdout_holds() -> None:
    """Where stdout takes no more: else the interpreter complains of that while it exits."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)
