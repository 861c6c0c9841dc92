"""A script of ours on one instance, with bytes to and from it, up to the last word that it says at its end.

Without the last word nothing has succeeded. The end of the stream, silence, and the exit code of a login shell don't
prove that a script has done its work.
"""

from __future__ import annotations

import contextlib
import select
import time
from collections.abc import Callable, Iterable, Mapping

import paramiko

from hardway.errors import Failed
from hardway.ssh import connection as ssh
from hardway.ssh.script import Launch, Script, Words, not_run
from hardway.terminal import last_line

# If nothing moves for these seconds, the host hangs.
STALL_SECONDS = 120.0
CHUNK = 1 << 18
_LOOK_SECONDS = 0.5
# The most of a script's output that is taken in advance, and the most of its complaints that is kept, from their end.
_AHEAD_BYTES = 1 << 20
_COMPLAINT_BYTES = 1 << 16
_MOST_COMPLAINTS_BYTES = 1 << 26
# tar pads its output.
_BEHIND_BYTES = 1 << 20
# Complaints come on a stream of their own, a little behind the last word.
_COMPLAINT_SECONDS = 1.0
_LOST = "the connection was lost before the copy was whole"

Progress = Callable[[int], None]


def no_progress(_moved: int) -> None:
    """Tell nobody."""


class TransferError(Failed):
    """A failed copy to or from one instance; the files that were there before are still there."""


class Channel:
    """A running script; it is ended with the block, whatever happens."""

    def __init__(
        self, connection: ssh.InstanceConnection, script: Script, environment: Mapping[str, str] | None = None
    ) -> None:
        self.timeout: float = connection.connect_timeout or 15
        self._given_up = connection.given_up
        self._out = bytearray()
        self._complaint = bytearray()
        self._complained = 0
        self._moved = time.monotonic()
        launch = Launch(script.command, both=True)
        self._words = Words(launch.begin, launch.end)
        self._complaints = Words(launch.begin)
        self.channel = ssh.open_session(connection, environment)
        try:
            ssh.execute(self.channel, launch.line, self.timeout)
            self.channel.settimeout(STALL_SECONDS)
            self.send([launch.head])
        except BaseException:
            self.channel.close()
            raise

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.channel.close()

    def started(self) -> None:
        """Wait until the script runs. Raises TransferError if it never will."""
        while not self._words.begun and self._pump():
            pass
        if not self._words.begun:
            self.finish()
            raise TransferError(_LOST)

    def send(self, chunks: Iterable[bytes], progress: Progress = no_progress) -> None:
        """Send bytes; `progress` is called with the size of each piece.

        Raises TransferError; if the script has ended, with the script's complaint.
        """
        for chunk in chunks:
            self._look()
            try:
                self.channel.sendall(chunk)
            except (OSError, EOFError, paramiko.SSHException) as error:
                if isinstance(error, TimeoutError):
                    raise TransferError(_stalled()) from error
                # If the script ended early, its complaint is the better reason.
                self.finish()
                raise TransferError(_LOST) from error
            self._moved = time.monotonic()
            progress(len(chunk))

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes of the script's output, fewer at its end. Raises TransferError."""
        while len(self._out) < size and self._words.code is None and self._pump():
            pass
        data = bytes(self._out[:size])
        del self._out[:size]
        return data

    def line(self, most: int) -> bytes:
        """Return the next line without its newline. Raises TransferError for none, or one above `most` bytes."""
        while True:
            text, newline, rest = self._out.partition(b"\n")
            if newline or len(text) > most:
                break
            if self._words.code is not None or not self._pump():
                self.finish()
                raise TransferError(_LOST)
        if len(text) > most:
            raise TransferError("it sent output that nobody asked for")
        self._out = rest
        return bytes(text)

    def lines_waiting(self) -> bool:
        """Take the waiting output; return whether it has a whole line. Raises TransferError at its end."""
        self._take()
        if (self._over() or self._words.code is not None) and b"\n" not in self._out:
            self.finish()
            raise TransferError(_LOST)
        return b"\n" in self._out

    def finish(self, good: Iterable[int] = (0,)) -> int:
        """Tell the script that all is sent, and wait for its last word; return the exit code in it, one of `good`.

        Raises TransferError with the script's complaint.
        """
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self.channel.shutdown_write()
        # A program left behind by a start-up file may hold the output open for longer.
        behind = 0
        while self._words.code is None and self._pump():
            behind += len(self._out)
            self._out.clear()
            if behind > _BEHIND_BYTES:
                raise TransferError("it sends more than it was asked for")
        if self._words.code != 0:
            deadline = time.monotonic() + _COMPLAINT_SECONDS
            while time.monotonic() < deadline and self._pump(deadline):
                self._out.clear()
        code = self._words.code
        if code is None or code not in good:
            raise TransferError(self.complaint() or self._why_not())
        return code

    def complaints(self) -> list[str]:
        """Return the lines on the script's stderr until now, without empty ones."""
        lines = bytes(self._complaint).decode(errors="replace").splitlines()
        said = [line.strip() for line in lines if line.strip()]
        # GNU tar's last line only refers to the reason in an earlier line.
        return [line for line in said if not line.endswith("due to previous errors")] or said

    def complaint(self) -> str:
        """Return the last line on the script's stderr, safe to show; empty for none."""
        return last_line("\n".join(self.complaints()))

    def leave(self) -> None:
        """Tell the script that all is sent, and wait a little for its end, good or bad."""
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self.channel.shutdown_write()
        self.channel.status_event.wait(self.timeout)

    def _why_not(self) -> str:
        if self._words.code is not None:
            return f"exit code {self._words.code}"
        # The exit status comes behind the end of the output.
        self.channel.status_event.wait(min(self.timeout, 2.0))
        if self._words.begun or self.channel.exit_status < 0:
            return _LOST
        return not_run(self.channel.exit_status, self._complaints, self._words)

    def _over(self) -> bool:
        if self.channel.recv_ready() or self.channel.recv_stderr_ready():
            return False
        return self.channel.closed or self.channel.eof_received

    def _pump(self, deadline: float | None = None) -> bool:
        """Wait for output and take it; return False once nothing more comes, or at the deadline."""
        while True:
            if self._take():
                return True
            if self._over():
                # Output may have come between the two looks.
                return self._take()
            self._look()
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                return False
            if now - self._moved > STALL_SECONDS:
                raise TransferError(_stalled())
            wait = _LOOK_SECONDS if deadline is None else min(_LOOK_SECONDS, deadline - now)
            poll = select.poll()
            poll.register(self.channel.fileno(), select.POLLIN)
            poll.poll(wait * 1000)

    def _look(self) -> None:
        if self._given_up.is_set():
            raise TransferError("interrupted")

    def _take(self) -> bool:
        """Take the output that is there, without waiting; return whether there was any."""
        came = False
        if self.channel.recv_ready() and len(self._out) < _AHEAD_BYTES:
            data = self.channel.recv(CHUNK)
            came |= bool(data)
            own = self._words.feed(data)
            self._out += own
        if self.channel.recv_stderr_ready():
            data = self.channel.recv_stderr(CHUNK)
            came |= bool(data)
            self._complained += len(data)
            self._complaint += self._complaints.feed(data)
            del self._complaint[:-_COMPLAINT_BYTES]
        if self._words.too_much or self._complaints.too_much:
            raise TransferError("its login shell prints without end before anything runs")
        if self._complained > _MOST_COMPLAINTS_BYTES:
            raise TransferError("its stderr never ends")
        if came:
            self._moved = time.monotonic()
        return came


def run(connection: ssh.InstanceConnection, script: Script, good: Iterable[int] = (0,)) -> int:
    """Run a script to its end; return its exit code, one of `good`. Raises TransferError with its complaint."""
    with Channel(connection, script) as channel:
        return channel.finish(good)


def _stalled() -> str:
    return f"nothing moved for {STALL_SECONDS:g} s: the host hangs"
