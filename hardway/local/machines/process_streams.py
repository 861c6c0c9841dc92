"""The streams of a process, forwarded from and to an SSH channel as fast as both sides take them."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import termios
from collections import deque
from collections.abc import Callable

import asyncssh

from hardway.local.machines.asyncssh_internals import SessionChannel

CHUNK = 1 << 16

_buffer = memoryview(bytearray(CHUNK))
"""All sessions read output into it, one at a time: a buffer for each read would fragment the heap."""


class ProcessStreams:
    """Our ends of a process's stdin, stdout and stderr, or of its terminal.

    `ended` is called when an output has come to its end.
    """

    def __init__(self, channel: SessionChannel, ended: Callable[[], None]) -> None:
        self._channel = channel
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._input = -1
        self._outputs: dict[int, int | None] = {}
        self._backlog: deque[memoryview] = deque()
        self._is_terminal = False
        self._is_paused = False
        self._input_ended = False
        self._input_closed = False

    @property
    def outputs_ended(self) -> bool:
        """Whether each output has come to its end."""
        return not self._outputs

    def open_pipes(self) -> list[int]:
        """Open the three pipes of a process, keep our ends, return its ends."""
        stdin, self._input = os.pipe()
        stdout, stdout_write = os.pipe()
        stderr, stderr_write = os.pipe()
        self._outputs = {stdout: None, stderr: asyncssh.EXTENDED_DATA_STDERR}
        for descriptor in (self._input, stdout, stderr):
            os.set_blocking(descriptor, False)
        return [stdin, stdout_write, stderr_write]

    def use_terminal(self, master: int) -> None:
        """Take a terminal for all three."""
        self._is_terminal = True
        self._input = master
        self._outputs = {master: None}

    def resize(self, width: int, height: int, pixel_width: int, pixel_height: int) -> None:
        """Tell the terminal its size."""
        if self._is_terminal and self._input >= 0:
            size = struct.pack("HHHH", height, width, pixel_width, pixel_height)
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._input, termios.TIOCSWINSZ, size)

    def start(self) -> None:
        """Forward: the process runs."""
        if not self._is_paused:
            self.resume()
        self._forward_input()
        if self._input_ended and not self._backlog:
            self._close_input()

    def close(self) -> None:
        """Close our ends: the process sees an end of file, SIGPIPE, or SIGHUP from its terminal; it isn't killed."""
        self._backlog.clear()
        for descriptor in list(self._outputs):
            self._close_output(descriptor)
        if self._input >= 0:
            self._loop.remove_writer(self._input)
            os.close(self._input)
            self._input = -1

    # output: from the process to the channel, as fast as its window allows

    def pause(self) -> None:
        """Read no more output: the channel has enough."""
        self._is_paused = True
        for descriptor in self._outputs:
            self._loop.remove_reader(descriptor)

    def resume(self) -> None:
        """Read output."""
        self._is_paused = False
        for descriptor in self._outputs:
            self._loop.add_reader(descriptor, self._forward_output, descriptor)

    def _forward_output(self, descriptor: int) -> None:
        try:
            data = bytes(_buffer[: os.readv(descriptor, [_buffer])])
        except BlockingIOError:
            return
        except OSError:  # EIO: the last process with the terminal open is gone
            data = b""
        if data:
            self._channel.write(data, self._outputs[descriptor])
        else:
            self._close_output(descriptor)
            self._ended()

    def _close_output(self, descriptor: int) -> None:
        self._loop.remove_reader(descriptor)
        del self._outputs[descriptor]
        if descriptor == self._input:
            self._loop.remove_writer(descriptor)
            self._input = -1
        os.close(descriptor)

    # input: from the client to the process; data that it can't take yet waits, and the client with it

    def feed(self, data: bytes) -> None:
        """Have the process read these bytes, now or later."""
        self._backlog.append(memoryview(data))
        self._forward_input()

    def end_input(self) -> None:
        """Have the process read the end of its input, after all that was fed."""
        self._input_ended = True
        if not self._backlog:
            self._close_input()

    def _forward_input(self) -> None:
        if self._input_closed:
            self._backlog.clear()  # nobody reads it any more
        if self._input < 0:
            return
        while self._backlog:
            try:
                written = os.write(self._input, self._backlog[0])
            except BlockingIOError:
                self._loop.add_writer(self._input, self._forward_input)
                self._channel.pause_reading()
                return
            except OSError:
                self._backlog.clear()
                self._close_input()
                break
            if written == len(self._backlog[0]):
                self._backlog.popleft()
            else:
                self._backlog[0] = self._backlog[0][written:]
        if self._input >= 0:
            self._loop.remove_writer(self._input)
            if self._input_ended:
                self._close_input()
        self._channel.resume_reading()

    def _close_input(self) -> None:
        # a terminal stays open: its client has only stopped typing
        if self._input >= 0 and not self._is_terminal:
            self._loop.remove_writer(self._input)
            os.close(self._input)
            self._input = -1
            self._input_closed = True
