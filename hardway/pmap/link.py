"""One instance as the driver knows it: a connection, the agent at its other end, and frames in and out.

Opening is for a worker thread and may take long; everything else is called by the driver's one thread and never
waits. What arrives is announced by putting the link on the driver's queue.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import socket
import threading
import time
from collections.abc import Mapping
from functools import cache
from queue import SimpleQueue
from typing import Any, NamedTuple

import fabric
import paramiko

from hardway import ssh
from hardway.config import Settings
from hardway.errors import HardwayError
from hardway.instances import Instance
from hardway.keys import HostKeys
from hardway.pmap import agent
from hardway.pmap.files import Load

# Reads the agent's source, its length first, from the connection that it will talk on.
BOOT = (
    "exec python3 -IS -c 'import os;"
    'r=lambda n,b=b"":b if len(b)==n else r(n,b+(os.read(0,n-len(b)) or os._exit(1)));'
    "exec(r(int(r(8))))'"
)
# Bytes sent without a sign of life: more could block on a host that hangs. The agent speaks up after half of it.
_UNHEARD_MOST = 2 * agent.SPEAK_UP
_PREFACE_MOST = 1 << 16  # what login shells may print before the agent's first word
_NOT_FOUND = 127


class Unusable(HardwayError):
    """The instance can be reached, but no agent can ever run on it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 1)


class Holding(NamedTuple):
    """An attempt that an agent holds; `seconds` since it started."""

    task: int
    attempt: int
    state: int
    seconds: float


class Hello(NamedTuple):
    """What an agent says first."""

    identity: str
    cpus: int
    holdings: list[Holding]


class Frame(NamedTuple):
    """One frame from the agent."""

    kind: int
    task: int
    attempt: int
    payload: bytes


class Link:
    """Made for an instance once; opened as often as its connection is lost."""

    def __init__(self, instance: Instance, events: SimpleQueue[Any]) -> None:
        self.instance = instance
        self.name = instance.id
        self.made = now()
        self.channel: paramiko.Channel | None = None
        self.up = False  # the agent has said hello over the present connection
        self.ever_up = False
        self.identity = ""
        self.worker = -1
        self.opening = False
        self.failures = 0  # to connect, in a row
        self.reason = ""
        self.retry_at = 0.0
        self.lost_at = 0.0
        self.heard = 0.0
        self.left = False  # the agent has ended
        self.given_up = False  # what it held runs elsewhere
        self.round_trips: list[float] = []
        self._connection: fabric.Connection | None = None
        self._events = events
        self._announcement = _Announcement(self, events)
        self._frames = agent.Frames()
        self._preface = bytearray()
        self._out = bytearray()
        self._unheard = 0

    def connect(
        self,
        settings: Settings,
        environment: Mapping[str, str],
        job: str,
        known: HostKeys | None = None,
        over: threading.Event | None = None,
        load: Load | None = None,
    ) -> None:
        """Open a connection and start, or find, the job's agent. Raises HardwayError. For a worker thread.

        Not any more once `over` is set, if that has not begun. `load` is what the instance gets before its first task.
        """
        connection = ssh.InstanceConnection(self.instance, settings, known, over)
        ssh.open_connection(connection)
        try:
            channel = ssh.open_session(connection, environment)
            channel.settimeout(settings.ec2.connect_timeout)
            ssh.execute(channel, BOOT, settings.ec2.connect_timeout)
            source = _source() + (load.call(job) if load else b"\nmain(%r)\n" % job)
            with contextlib.suppress(OSError):  # the reason it closed is read where the answer is awaited
                channel.sendall(b"%08d" % len(source) + source)
            if load:
                load.deliver(channel, self.instance.id)
            channel.settimeout(0.0)
        except BaseException:
            cut(connection)
            connection.close()
            raise
        self._connection = connection
        self.channel = channel

    def opened(self, now: float) -> None:
        """The driver takes over what `connect` made."""
        self._frames = agent.Frames()
        self._preface = bytearray()
        self._out = bytearray()
        self._unheard = 0
        self.heard = now
        if self.channel is not None:
            self._announcement = _Announcement(self, self._events)
            self.channel.in_buffer.set_event(self._announcement)

    def detach(self) -> fabric.Connection | None:
        """Forget the connection, for the caller to close in a thread of its own."""
        connection, self._connection = self._connection, None
        if self.channel is not None:
            self.channel.in_buffer.set_event(_Nobody())
        self.channel = None
        self.up = False
        return connection

    # Frames

    def receive(self, now: float) -> list[Hello | Frame]:
        """What has arrived. Raises EOFError at the end of the connection, Unusable or BrokenStream for what is none."""
        channel = self.channel
        if channel is None:
            return []
        found: list[Hello | Frame] = []
        while channel.recv_ready():
            data = channel.recv(1 << 18)
            self.heard = now
            self._unheard = 0
            if not self.up:
                data = self._skip_preface(data)
            frames = [Frame(*raw) for raw in self._frames.feed(data)]
            if frames and not self.up:
                if frames[0].kind == agent.ERROR:
                    raise Unusable(frames[0].payload.decode(errors="replace"))
                found.append(_hello(frames.pop(0)))
                self.up = self.ever_up = True
            found += frames
        if channel.eof_received or channel.closed:
            if not self.up and not channel.exit_status_ready():
                # Why it ended comes after its last output, and then the channel is closed, which is announced anew.
                self._announcement.clear()
                if not channel.closed:
                    return found
            if found:
                self._events.put(("ready", self))  # the end came with the last frames and is not announced again
                return found
            if not self.up:
                self._explain(channel)
            raise EOFError
        return found

    def send(self, kind: int, task: int = 0, attempt: int = 0, payload: bytes = b"") -> None:
        """Put a frame in line; `flush` sends it."""
        self._out += agent.frame(kind, task, attempt, payload)

    def flush(self) -> bool:
        """Send what can be sent without waiting; False if some of it has yet to wait."""
        while self._out and self.channel is not None:
            allowed = _UNHEARD_MOST - self._unheard
            if allowed <= 0:
                return False
            try:
                sent = self.channel.send(bytes(self._out[: min(allowed, 1 << 16)]))
            except TimeoutError:
                return False
            except (OSError, EOFError):  # the latter by Paramiko, on a socket that has just been closed
                return True  # the end of the connection is announced on its own
            if sent == 0:
                return True
            del self._out[:sent]
            self._unheard += sent
        return True

    def _skip_preface(self, data: bytes) -> bytes:
        self._preface += data
        at = self._preface.find(agent.MARK)
        if at < 0:
            if len(self._preface) > _PREFACE_MOST:
                raise Unusable("its login shell prints without end before the agent can speak")
            return b""
        rest = bytes(self._preface[at + len(agent.MARK) :])
        self._preface = bytearray()
        return rest

    def _explain(self, channel: paramiko.Channel) -> None:
        said = b""
        with contextlib.suppress(OSError):
            while channel.recv_stderr_ready():
                said += channel.recv_stderr(1 << 16)
        lines = said.decode(errors="replace").strip().splitlines()
        code = channel.recv_exit_status() if channel.exit_status_ready() else -1
        if code == _NOT_FOUND:
            raise Unusable("it has no python3: install it there (on Ubuntu and Debian: apt-get install python3)")
        if code > 0:
            raise Unusable(f"the agent did not start: {lines[-1] if lines else f'exit code {code}'}")


class _Announcement:
    """What Paramiko takes for an Event: puts the link on the queue when there is something to receive."""

    def __init__(self, link: Link, events: SimpleQueue[Any]) -> None:
        self._link = link
        self._events = events
        self._is_set = False

    def set(self) -> None:
        if not self._is_set:
            self._is_set = True
            self._events.put(("ready", self._link))

    def clear(self) -> None:
        self._is_set = False

    def is_set(self) -> bool:
        return self._is_set


class _Nobody:
    def set(self) -> None: ...

    def clear(self) -> None: ...

    def is_set(self) -> bool:
        return False


def cut(connection: fabric.Connection) -> None:
    """End the connection's socket at once, so that its threads end without waiting for a timeout."""
    transport = connection.client.get_transport()
    if transport is not None:
        with contextlib.suppress(OSError, AttributeError):
            transport.sock.shutdown(socket.SHUT_RDWR)


@cache
def _source() -> bytes:
    return importlib.resources.files("hardway.pmap").joinpath("agent.py").read_bytes()


def _hello(frame: Frame) -> Hello:
    line, _, rest = frame.payload.partition(b"\n")
    words = line.split()
    if frame.kind != agent.HELLO or len(words) != 4:
        raise agent.BrokenStream("a greeting of another kind")
    if int(words[0]) != agent.VERSION:
        raise Unusable(
            "another version of hardway started the agent of this job that still runs there: go on with that version, "
            "or wait until that agent ends, left alone, by itself"
        )
    if len(rest) != int(words[3]) * agent.HOLDING.size:
        raise agent.BrokenStream("a greeting that is cut short")
    holdings = [Holding(*item) for item in agent.HOLDING.iter_unpack(rest)]
    return Hello(words[1].decode(), int(words[2]), holdings)


def now() -> float:
    """The clock of the driver."""
    return time.monotonic()
