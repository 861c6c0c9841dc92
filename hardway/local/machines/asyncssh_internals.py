"""All private parts of asyncssh that the local cloud uses, on one page.

asyncssh has no public way to these ends. A test checks that the installed version has `PRIVATE_NAMES` and
`PRIVATE_ATTRIBUTES`. Each new minor version may break any of this: hence its ceiling in pyproject.toml.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any

import asyncssh
from asyncssh import sftp
from asyncssh.packet import Boolean, SSHPacket, String, UInt32
from asyncssh.stream import SSHServerStreamSession

PRIVATE_NAMES: Mapping[str, str] = {
    "asyncssh.channel.SSHServerChannel._process_env_request": "to take some environment variables only, and bytes",
    "asyncssh.channel.SSHServerChannel._process_exec_request": "to take commands that aren't UTF-8",
    "asyncssh.channel.SSHServerChannel._start_session": "to start such a command",
    "asyncssh.channel.SSHServerChannel._send_request": "to tell an exit status before the end of the output",
    "asyncssh.sftp._setstat": "to set attributes of a file by its descriptor",
    "asyncssh.stream.SSHServerStreamSession": "to have asyncssh serve SFTP and scp in a session of our own",
    "asyncssh.packet.SSHPacket": "to read requests",
}
"""Names that asyncssh keeps to itself, and their use here."""
PRIVATE_ATTRIBUTES: Mapping[str, str] = {
    "asyncssh.connection.SSHConnection._transport": "to hold, release and reset a connection",
    "asyncssh.stream.SSHServerStreamSession._allow_scp": "to allow scp where a command is its server",
    "asyncssh.stream.SSHServerStreamSession._connection_lost": "to know whether the client is gone",
}
"""Attributes of objects that asyncssh keeps to itself, and their use here."""

RECEIVE = 1 << 15
"""The bytes that are read from a connection at once: a packet is no longer. asyncio's 256 KiB, allocated and then
shrunk, would fragment the heap until a stream of a gigabyte costs a gigabyte of memory."""


class Wire:
    """A connection's transport that can be held: it stays open, but nothing comes in or goes out."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._held: bytearray | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send, now or when the connection is released."""
        if self._held is None:
            self._transport.write(data)
        else:
            self._held += data

    def hold(self) -> None:
        """Let nothing in or out."""
        if self._held is None:
            self._held = bytearray()
            self._transport.pause_reading()

    def release(self) -> None:
        """Undo `hold`; the data that was held goes out."""
        held, self._held = self._held, None
        if held is not None:
            self._transport.resume_reading()
            self._transport.write(bytes(held))

    def sever(self) -> None:
        """Have the next close reset the connection, as if the other end had never heard of it."""
        with contextlib.suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


def interpose(connection: asyncssh.SSHServerConnection) -> Wire:
    """Put a `Wire` between a connection and its transport."""
    connection._transport.max_size = RECEIVE  # type: ignore[union-attr]
    wire = Wire(connection._transport)
    connection._transport = wire  # type: ignore[assignment]
    return wire


class SessionChannel(asyncssh.SSHServerChannel[Any]):
    """A session's channel that takes only accepted environment variables, and commands that aren't UTF-8."""

    accepts: Callable[[str, bytes, Mapping[str, str]], bool]

    def _process_env_request(self, packet: SSHPacket) -> bool:
        name, value = packet.get_string(), packet.get_string()
        packet.check_end()
        known = self.requested_environment()
        if not self.accepts(os.fsdecode(name), value, known):
            return False
        known[os.fsdecode(name)] = os.fsdecode(value)
        return True

    def _process_exec_request(self, packet: SSHPacket) -> bool:
        command = os.fsdecode(packet.get_string())
        packet.check_end()
        return self._start_session(command=command)

    def requested_environment(self) -> dict[str, str]:
        """The variables that were accepted."""
        if not hasattr(self, "_requested_environment"):
            self._requested_environment: dict[str, str] = {}
        return self._requested_environment

    def tell_exit(self, status: int) -> None:
        """Tell the exit status, without closing: children may still hold the output."""
        if status >= 0:
            self._send_request(b"exit-status", UInt32(status))
        else:
            name = _signal_name(-status).encode()
            self._send_request(b"exit-signal", String(name), Boolean(False), String(b""), String(b""))


def create_channel(
    connection: asyncssh.SSHServerConnection, accepts: Callable[[str, bytes, Mapping[str, str]], bool]
) -> SessionChannel:
    """Make a channel for a session. `accepts` decides on a variable by its name, its value and those before it."""
    channel: Any = connection.create_server_channel(encoding=None)
    channel.__class__ = SessionChannel  # asyncssh has no way to be told which class to make
    channel.accepts = accepts
    made: SessionChannel = channel
    return made


class StreamSession(SSHServerStreamSession[Any]):
    """A session for which asyncssh serves SFTP, and scp where that is allowed."""

    @property
    def is_lost(self) -> bool:
        """Whether the client is gone."""
        return self._connection_lost

    def allow_scp(self, allowed: bool) -> None:
        """Have asyncssh take the command for an scp server, or not."""
        self._allow_scp = allowed


def set_attributes(path: bytes, attributes: asyncssh.SFTPAttrs) -> None:
    """Set a file's attributes. Raises OSError."""
    sftp._setstat(path, attributes)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return f"{number}@openssh.com"
