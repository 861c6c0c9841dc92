"""One instance as the driver knows it: a connection, the agent at its other end, and frames in and out.

A worker thread opens the link, and this may take long. The driver's thread calls everything else, and these calls never
wait. The link puts itself on the driver's queue when data arrives. The size of the data kept here is bounded, for any
input from the other end; the ledger judges which messages the agent may send, and when.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import importlib.util
import marshal
import re
import socket
import struct
import sys
import threading
import time
import zlib
from collections import deque
from collections.abc import Mapping
from functools import cache
from queue import SimpleQueue
from typing import Any, NamedTuple

import fabric
import paramiko

from hardway.config import Settings
from hardway.ec2.instances import Instance
from hardway.errors import HardwayError
from hardway.pmap import agent
from hardway.pmap.files import Load
from hardway.pmap.ledger import CPUS_MOST, Holding, Ledger, Lie
from hardway.s3 import fast_aws
from hardway.ssh import connection as ssh
from hardway.ssh.keys import HostKeys
from hardway.ssh.script import other_user
from hardway.tables import count
from hardway.terminal import cut_short, last_line

# Reads the agent from the connection that the agent will talk on, see `program`: the compiled code if the instance's
# Python has our version, else the source. Compiling takes half of an agent's start.
BOOT = (
    "exec python3 -IS -c 'import marshal,os,sys,zlib;from _frozen_importlib_external import MAGIC_NUMBER as m;"
    'r=lambda n,b=b"":b if len(b)==n else r(n,b+(os.read(0,n-len(b)) or os._exit(1)));'
    "n=r(24);s,c,t=[r(int(n[i:i+8]))for i in(0,8,16)];t,_,k=t.partition(bytes(1));"
    "exec(marshal.loads(zlib.decompress(c))if t.decode()==sys.implementation.cache_tag+m.hex()else zlib.decompress(s));"
    "exec(k)'"
)
# Bytes sent without a sign of life: more could block on a host that hangs. The agent speaks up after half of them.
_UNHEARD_MOST = 2 * agent.SPEAK_UP
_SILENT = 20.0  # seconds: no agent that answers pings is silent for longer
_PREFACE_MOST = 1 << 16  # what login shells may print before the agent's first word
_ERROR_MOST = 1 << 16
_TURN_MOST = 1 << 20  # bytes taken from one host before others have their turn
_GREETS_WITHIN = 120.0  # seconds from the connection to the agent's first word
_ANSWERS_WITHIN = 600.0  # seconds from a ping to its answer: large and slow messages may be in line before the answer
_ENDS_WITHIN = 300.0  # seconds from the first byte of a frame to its last one
_NOT_FOUND = 127
_GREETING = re.compile(rb"([0-9]{1,9}) ([0-9a-f]{1,64}) ([0-9]{1,9}) ([0-9]{1,9})\n")
SPOKEN = (3, agent.VERSION)
"""The versions of agents that are understood: one of version 3 never says FINISHED."""
# The messages that an agent may send, and the most bytes of each; a greeting may name as many attempts as were sent.
_LENGTHS = {
    agent.STARTED: agent.START.size,
    agent.RETURNED: 0,
    agent.CHUNK: 1 + agent.CHUNK_SIZE,
    agent.DONE: agent.RESULT.size + agent.INLINE,
    agent.PONG: 8,
    agent.BYE: 0,
    agent.ERROR: _ERROR_MOST,
    agent.NOTICE: 8,
    agent.SAID: 1 << 12,
    agent.SHARED: 0,
    agent.FINISHED: 0,
}


class Unusable(HardwayError):
    """The instance can be reached, but no agent can ever run on it."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 1)


class Hello(NamedTuple):
    """An agent's first message."""

    identity: str
    cpus: int
    holdings: list[Holding]


class Frame(NamedTuple):
    """One frame from the agent."""

    kind: int
    task: int
    attempt: int
    payload: bytes


class Incoming:
    """Cuts an agent's stream into frames. It keeps no more bytes than the longest frame allowed at the time."""

    def __init__(self) -> None:
        self.longest = dict(_LENGTHS)
        self._buffer = bytearray()

    def __len__(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that `data` completes. Raises Lie for a frame that no agent would send."""
        buffer = self._buffer
        buffer += data
        found: list[Frame] = []
        start, size, head = 0, len(buffer), agent.HEAD.size
        longest, unpack = self.longest, agent.HEAD.unpack_from
        while size - start >= head:
            length, kind, task, attempt = unpack(buffer, start)
            if length > longest.get(kind, -1):
                if kind == agent.HELLO and kind in longest:
                    raise Lie(f"a greeting of {length} bytes, more than for what was sent there")
                raise Lie(f"a frame of kind {kind} and {length} bytes")
            body = start + head
            if size - body < length:
                break
            start = body + length
            found.append(Frame(kind, task, attempt, bytes(buffer[body:start])))
        if start:
            del buffer[:start]
        return found


class Link:
    """The link to one instance, made once, and opened again each time its connection is lost."""

    def __init__(self, instance: Instance, events: SimpleQueue[Any], ledger: Ledger | None = None) -> None:
        self.instance = instance
        self.name = instance.id
        self.ledger = ledger or Ledger()
        self.channel: paramiko.Channel | None = None
        self.up = False  # the agent has said hello over the present connection
        self.heard = 0.0
        self.answers_since = 0.0  # since then the agent has never been silent for long
        self.reached = 0.0  # when the last answered ping was sent
        self.left = False  # the agent has ended
        self._connection: fabric.Connection | None = None
        self._events = events
        self._ready = _ReadyEvent(self, events)
        self._frames = Incoming()
        self._preface = bytearray()
        self._marked = False  # the agent's mark has come, after a login shell's text
        self._out = bytearray()
        self._unheard = 0
        self._opened = 0.0
        self._whole = 0.0  # when the last frame was complete
        self._pings: deque[bytes] = deque()
        self._total = 0  # bytes sent over the present connection
        self._signs = 0  # of life that the agent gave for them
        self._complained = False

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

        Begin nothing once `over` is set. `load` has the files that the instance gets before its first task.
        """
        connection = ssh.InstanceConnection(self.instance, settings, known, over)
        ssh.open_connection(connection)
        try:
            channel = ssh.open_session(connection, environment)
            channel.settimeout(settings.ec2.connect_timeout)
            ssh.execute(channel, BOOT, settings.ec2.connect_timeout)
            start = f"main({job!a}, {fast_aws.brought(settings)!a})"
            call = load.call(job, start) if load else start
            with contextlib.suppress(OSError):  # the wait for the answer reads the reason
                _send_within(channel, program(call.encode()), settings.ec2.connect_timeout)
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
        """Let the driver take over the connection that `connect` made."""
        self._frames = Incoming()
        self._preface = bytearray()
        self._out = bytearray()
        self._unheard = self._total = self._signs = 0
        self._pings.clear()
        self._complained = self._marked = self.left = False
        self.heard = self.answers_since = self.reached = self._opened = self._whole = now
        if self.channel is not None:
            self._ready = _ReadyEvent(self, self._events)
            self.channel.in_buffer.set_event(self._ready)

    def detach(self) -> fabric.Connection | None:
        """Forget and return the connection, for the caller to close in another thread."""
        connection, self._connection = self._connection, None
        if self.channel is not None:
            self.channel.in_buffer.set_event(_Nobody())
        self.channel = None
        self.up = False
        return connection

    # Frames

    def receive(self, now: float) -> list[Hello | Frame]:
        """Return the messages that have arrived.

        Raises EOFError at the end of the connection, Unusable if no agent can ever run there, and Lie for a message
        that our agent doesn't send.
        """
        channel = self.channel
        if channel is None:
            return []
        found: list[Hello | Frame] = []
        taken = 0
        while channel.recv_ready():
            if taken >= _TURN_MOST:
                self._events.put(Ready(self))
                return found
            data = channel.recv(1 << 18)
            taken += len(data)
            if now - self.heard > _SILENT:
                self.answers_since = now
            self.heard = now
            self._unheard = 0
            if not self._marked:
                data = self._skip_preface(data)
            frames = self._frames.feed(data)
            if frames:
                self._whole = now
            if frames and not self.up:
                if frames[0].kind == agent.ERROR:
                    raise Unusable(text(frames[0].payload))
                found.append(_hello(frames[0], self._greeting_most()))
                self.up = True
                del frames[0]
                self._frames.longest = _LENGTHS
            if not len(self._frames):
                self._whole = now
            found += frames
        if channel.eof_received or channel.closed:
            if not self.up and not channel.exit_status_ready():
                # The reason for the end follows the last output. Then the channel closes, and this is announced anew.
                self._ready.clear()
                if not channel.closed:
                    return found
            if found:
                self._events.put(Ready(self))  # the end came with the last frames and is not announced again
                return found
            if not self.up:
                self._explain(channel)
            raise EOFError
        return found

    def stalled(self, now: float) -> str:
        """Return why the connection is useless although data arrives; empty if it isn't useless."""
        if self.channel is None:
            return ""
        if not self.up and now - self._opened > _GREETS_WITHIN:
            return f"our agent has not spoken within {_GREETS_WITHIN:g} s"
        if self._pings and now - struct.unpack("!d", self._pings[0])[0] > _ANSWERS_WITHIN:
            return f"it has not answered within {_ANSWERS_WITHIN:g} s"
        if len(self._frames) and now - self._whole > _ENDS_WITHIN:
            return f"a message has not ended within {_ENDS_WITHIN:g} s"
        return ""

    def ping(self, now: float) -> None:
        """Put a ping in line; `pong` judges the answer."""
        self._pings.append(struct.pack("!d", now))
        self.send(agent.PING, payload=self._pings[-1])

    def pong(self, payload: bytes, now: float) -> float | None:
        """Return the round trip of a ping, in seconds; None for a mere sign of life. Raises Lie."""
        if not payload:
            self._signs += 1
            if self._signs > 1 + self._total // agent.SPEAK_UP:
                raise Lie("signs of life that nothing calls for")
            return None
        if len(payload) != 8:
            raise Lie(f"an answer of {len(payload)} bytes to a ping")
        sent: float = struct.unpack("!d", payload)[0]
        round_trip = now - sent
        if not self._pings or self._pings.popleft() != payload:
            raise Lie(f"a round trip of {round_trip} s, of no ping of ours")
        self.reached = sent
        return round_trip

    @property
    def unsent(self) -> int:
        """The number of bytes in line."""
        return len(self._out)

    @property
    def pinged(self) -> bool:
        """Whether a ping waits for its answer."""
        return bool(self._pings)

    def complaint(self, payload: bytes) -> str:
        """Return the reason for the agent's death. Raises Lie for a second one over the same connection."""
        if self._complained:
            raise Lie("it complains twice")
        self._complained = True
        return text(payload)

    def send(self, kind: int, task: int = 0, attempt: int = 0, payload: bytes = b"") -> None:
        """Put a frame in line; `flush` sends it."""
        self._out += agent.frame(kind, task, attempt, payload)

    def flush(self) -> bool:
        """Send frames without waiting; return False if some are left."""
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
            self._total += sent
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
        self._marked = True
        self._frames.longest = {**_LENGTHS, agent.HELLO: self._greeting_most()}
        return rest

    def _greeting_most(self) -> int:
        return 64 + 3 * 10 + self.ledger.most * agent.HOLDING.size

    def _explain(self, channel: paramiko.Channel) -> None:
        said = b""
        with contextlib.suppress(OSError):
            while channel.recv_stderr_ready() and len(said) < _PREFACE_MOST:
                said += channel.recv_stderr(1 << 16)
        code = channel.recv_exit_status() if channel.exit_status_ready() else -1
        if code == _NOT_FOUND:
            raise Unusable("it has no python3: install it there (on Ubuntu and Debian: apt-get install python3)")
        if other := other_user(bytes(self._preface)):
            raise Unusable(other)
        if code > 0:
            raise Unusable(f"the agent did not start: {text(said) or f'exit code {code}'}")


class Ready(NamedTuple):
    """Data has arrived over a connection, or the connection has ended."""

    link: Link


class _ReadyEvent:
    """Stands in for the Event that Paramiko sets: puts the link on the queue when there is data to receive."""

    def __init__(self, link: Link, events: SimpleQueue[Any]) -> None:
        self._link = link
        self._events = events
        self._is_set = False

    def set(self) -> None:
        if not self._is_set:
            self._is_set = True
            self._events.put(Ready(self._link))

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
def _agent() -> tuple[bytes, bytes]:
    """Return the agent's source, and its code as this Python compiles it, both compressed."""
    source = importlib.resources.files("hardway.pmap").joinpath("agent.py").read_bytes()
    return zlib.compress(source), zlib.compress(marshal.dumps(compile(source, "agent.py", "exec")))


def program(call: bytes) -> bytes:
    """Return the input of BOOT: three lengths, the agent twice, and the compiling Python's version with the `call`."""
    tag = f"{sys.implementation.cache_tag}{importlib.util.MAGIC_NUMBER.hex()}"
    parts = (*_agent(), tag.encode() + b"\0" + call)
    return b"".join([*(b"%08d" % len(part) for part in parts), *parts])


def _send_within(channel: paramiko.Channel, data: bytes, seconds: float) -> None:
    """Send all data within `seconds` in total, even if each write takes little. Raises OSError."""
    end = now() + seconds
    view = memoryview(data)
    while view:
        channel.settimeout(max(0.0, end - now()))
        sent = channel.send(bytes(view[: 1 << 15]))
        if not sent:
            raise OSError("the connection is closed")
        view = view[sent:]


def text(said: bytes) -> str:
    """Return the last line of an agent's or a program's output, usually the reason, short and safe to show."""
    return cut_short(last_line(said[-_ERROR_MOST:]))


def _hello(frame: Frame, most: int) -> Hello:
    found = _GREETING.match(frame.payload)
    if frame.kind != agent.HELLO or not found or len(frame.payload) > most:
        raise Lie("no greeting of our agent")
    version, cpus, number = (int(found[group]) for group in (1, 3, 4))
    holdings = frame.payload[found.end() :]
    if version not in SPOKEN:
        raise Unusable(_other_version(version, holdings, number))
    if not 0 < cpus <= CPUS_MOST:
        raise Lie(f"an instance of {cpus} CPUs")
    if len(holdings) != number * agent.HOLDING.size:
        raise Lie("a greeting that is cut short")
    return Hello(found[2].decode(), cpus, [Holding(*item) for item in agent.HOLDING.iter_unpack(holdings)])


def _other_version(version: int, holdings: bytes, number: int) -> str:
    """Explain an agent that this version can't talk to. Another version may list its attempts in another form."""
    held = ""
    if number and len(holdings) == number * agent.HOLDING.size:
        ended = sum(Holding(*item).state == agent.ENDED for item in agent.HOLDING.iter_unpack(holdings))
        held = f" It has the results of {count(ended, 'task')}, and {number - ended} more to run."
    return (
        f"another version of hardway started the agent of this job that still runs there (its messages are of version "
        f"{version}, ours of {agent.VERSION}).{held} To have what it has, go on with that version of hardway; to do "
        "without, wait until it ends, left alone, by itself (mapreduce.linger), or use other instances"
    )


def now() -> float:
    """Return the time of the driver's clock, in seconds."""
    return time.monotonic()
