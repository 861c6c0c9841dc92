"""The SSH server of one instance: who may log in, and what a session, a copy or a forwarding does.

Real SSH by asyncssh on the instance's own address; what is run is run by the instance's `sandbox`. Behaves as OpenSSH's
sshd does where clients can tell: half-closed streams, exit status while children hold the output, signals, hang-ups.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import signal
import socket
import struct
import termios
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import asyncssh
from asyncssh.packet import Boolean, SSHPacket, String, UInt32
from asyncssh.stream import SSHServerStreamSession

from hardway import stub_sessions
from hardway.local import beneath, cloudinit, sessions
from hardway.local.files import Files
from hardway.local.sandbox import Process, Sandbox, SandboxError
from hardway.local.spawner import Bind
from hardway.stub_sessions import SESSION_VARIABLE, TMP_VARIABLE

CHUNK = 1 << 16
RECEIVE = 1 << 15
"""What is read from a connection at once. asyncio's 256 KiB, allocated and then shrunk to what came, fragment the heap
until a stream of a gigabyte costs one of memory; a packet is no longer than this."""
RUN_SECONDS = 0.02
"""How long a slowed host runs between two stops: short enough to look slow, not jerky."""
SFTP_VERSION = 3
MOST_KEYS = 1 << 16
"""Bytes of a user's authorized_keys that are read."""
HOOK_SECONDS = 20
"""How long a boothook may hold up a boot."""
WATCH = "/etc/hardway/watch"
"""Where hardway's boothook, if the user data has it, leaves what ends the instance when its time is up."""
WATCH_SECONDS = 1.0
"""How long after one start of that another one may be."""
ACCEPTED_VARIABLES = re.compile(r"LANG|LC_[A-Z]{1,20}")
OWNERS_VARIABLES = (SESSION_VARIABLE, TMP_VARIABLE)
"""What is accepted besides that of who has the key that the instance was launched with."""
MOST_VARIABLES, MOST_CHARACTERS = 50, 4096
SCP_SERVER = re.compile(r"scp( -[a-zA-Z]+)* -[a-zA-Z]*[tf]")
"""What a client of scp runs on the other side."""

_buffer = memoryview(bytearray(CHUNK))
"""Where all sessions read output, one at a time; for the same reason."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Address:
    """Where an instance listens."""

    ip: str
    port: int


class _Wire:
    """A connection's transport that can be held: nothing comes in, nothing goes out, and it stays open.

    Otherwise it is the transport.
    """

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._held: bytearray | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._held is None:
            self._transport.write(data)
        else:
            self._held += data

    def hold(self) -> None:
        if self._held is None:
            self._held = bytearray()
            self._transport.pause_reading()

    def release(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            self._transport.resume_reading()
            self._transport.write(bytes(held))

    def sever(self) -> None:
        """Have what closes it next reset it, as if its other end had never heard of it."""
        with contextlib.suppress(OSError):
            linger = struct.pack("ii", 1, 0)
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


class _Channel(asyncssh.SSHServerChannel[Any]):
    """A session's channel that takes only some environment variables, and commands that aren't UTF-8."""

    def _process_env_request(self, packet: SSHPacket) -> bool:
        name, value = packet.get_string(), packet.get_string()
        packet.check_end()
        text = os.fsdecode(name)
        known = self.requested_environment()
        if not (ACCEPTED_VARIABLES.fullmatch(text) or text in OWNERS_VARIABLES):
            return False
        if len(known) >= MOST_VARIABLES or len(value) > MOST_CHARACTERS or b"\0" in value:
            return False
        known[text] = os.fsdecode(value)
        return True

    def _process_exec_request(self, packet: SSHPacket) -> bool:
        command = os.fsdecode(packet.get_string())
        packet.check_end()
        return self._start_session(command=command)

    def requested_environment(self) -> dict[str, str]:
        if not hasattr(self, "_requested_environment"):
            self._requested_environment: dict[str, str] = {}
        return self._requested_environment

    def tell_exit(self, status: int) -> None:
        """Tell how the process ended, without closing: sshd does so while children still hold its output."""
        if status >= 0:
            self._send_request(b"exit-status", UInt32(status))
        else:
            name = _signal_name(-status).encode()
            self._send_request(b"exit-signal", String(name), Boolean(False), String(b""), String(b""))


class _Session(SSHServerStreamSession[Any]):
    """One command, login shell, SFTP or scp server. The last two are asyncssh's, on our `Files`."""

    def __init__(self, host: Host, owner: bool) -> None:
        super().__init__(
            None, lambda channel: Files(channel, host.sandbox, host.user_of(channel)), sftp_version=SFTP_VERSION
        )
        self._host = host
        self._owner = owner
        self._channel: _Channel
        self._terminal: tuple[str, list[int], list[tuple[int, int]]] | None = None
        self._process: Process | None = None
        self._runs_process = False
        self._input = -1
        self._outputs: dict[int, int | None] = {}
        self._backlog: deque[memoryview] = deque()
        self._input_ended = False
        self._paused = False
        self._input_closed = False
        self._ended = False

    def connection_made(self, chan: Any) -> None:
        super().connection_made(chan)
        self._channel = chan
        chan.set_write_buffer_limits(high=4 * CHUNK)

    def pty_requested(self, term_type: str, term_size: tuple[int, int, int, int], term_modes: Any) -> bool:
        width, height, pixel_width, pixel_height = (min(size, 0xFFFF) for size in term_size)
        self._terminal = (term_type, [height, width, pixel_width, pixel_height], list(term_modes.items()))
        return True

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        width, height, pixwidth, pixheight = (min(size, 0xFFFF) for size in (width, height, pixwidth, pixheight))
        if self._terminal and self._input >= 0:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._input, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, pixwidth, pixheight))

    def shell_requested(self) -> bool:
        self._runs_process = True
        return True

    def exec_requested(self, command: str) -> bool:
        self._allow_scp = SCP_SERVER.match(command) is not None
        self._runs_process = not self._allow_scp
        return True

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == "sftp"

    def session_started(self) -> None:
        if self._runs_process:
            self._host.background(self._run())
        else:
            super().session_started()

    def break_received(self, msec: int) -> bool:
        return False

    def signal_received(self, signal: str) -> None:
        if self._process and (number := _signal_number(signal)):
            self._process.signal(number)

    def exception_received(self, exc: Exception) -> None:
        if not self._runs_process:
            super().exception_received(exc)

    # output: what the process writes goes to the channel as fast as its window allows

    def pause_writing(self) -> None:
        super().pause_writing()
        self._paused = True
        for descriptor in self._outputs:
            self._host.loop.remove_reader(descriptor)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._paused = False
        for descriptor in self._outputs:
            self._host.loop.add_reader(descriptor, self._forward_output, descriptor)

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
            self._maybe_finish()

    def _close_output(self, descriptor: int) -> None:
        self._host.loop.remove_reader(descriptor)
        del self._outputs[descriptor]
        if descriptor == self._input:
            self._host.loop.remove_writer(descriptor)
            self._input = -1
        os.close(descriptor)

    # input: what the client sends goes to the process; what it can't take yet waits, and then the client does

    def data_received(self, data: Any, datatype: Any) -> None:
        if not self._runs_process:
            super().data_received(data, datatype)
            return
        self._backlog.append(memoryview(data))
        self._forward_input()

    def eof_received(self) -> bool:
        if not self._runs_process:
            return super().eof_received()
        self._input_ended = True
        if not self._backlog:
            self._close_input()
        return True

    def _forward_input(self) -> None:
        if self._input_closed:
            self._backlog.clear()  # nobody reads it any more
        if self._input < 0:
            return
        while self._backlog:
            try:
                written = os.write(self._input, self._backlog[0])
            except BlockingIOError:
                self._host.loop.add_writer(self._input, self._forward_input)
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
            self._host.loop.remove_writer(self._input)
            if self._input_ended:
                self._close_input()
        self._channel.resume_reading()

    def _close_input(self) -> None:
        # a terminal stays open: its client has only stopped typing
        if self._input >= 0 and not self._terminal:
            self._host.loop.remove_writer(self._input)
            os.close(self._input)
            self._input = -1
            self._input_closed = True

    # the process

    async def _run(self) -> None:
        channel = self._channel
        theirs: list[int] = []
        try:
            if not self._terminal:
                stdin, self._input = os.pipe()
                stdout, stdout_write = os.pipe()
                stderr, stderr_write = os.pipe()
                theirs = [stdin, stdout_write, stderr_write]
                self._outputs = {stdout: None, stderr: asyncssh.EXTENDED_DATA_STDERR}
                for descriptor in (self._input, stdout, stderr):
                    os.set_blocking(descriptor, False)
            user = self._host.user_of(channel)
            command = channel.get_command()
            environment, binds = self._environment(channel)
            self._process = self._host.sandbox.spawn(
                ["/bin/bash", "-c", command] if command is not None else ["/bin/bash"],
                theirs,
                user=user,
                name="bash" if command is not None else "-bash",
                environment=environment,
                terminal={"size": self._terminal[1], "modes": self._terminal[2]} if self._terminal else None,
                binds=binds,
            )
        except OSError as error:
            self._refuse(str(error))
            return
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        self._process.exited.add_done_callback(self._exited)
        try:
            if self._terminal:
                self._input = await self._process.terminal
                self._outputs = {self._input: None}
            else:
                await self._process.started
        except SandboxError as error:
            self._refuse(str(error))
            return
        if self._connection_lost:
            self._hang_up()
            return
        if not self._paused:
            self.resume_writing()
        self._forward_input()
        if self._input_ended and not self._backlog:
            self._close_input()

    def _environment(self, channel: _Channel) -> tuple[dict[str, str], list[Bind]]:
        """What this session's process finds beyond its instance's environment, and the host directory it needs."""
        requested = dict(channel.requested_environment())
        if not self._owner:
            for name in OWNERS_VARIABLES:
                requested.pop(name, None)
        session = sessions.find(requested)
        binds = [session] if session else []
        if SESSION_VARIABLE in requested:
            requested.setdefault(TMP_VARIABLE, "/tmp")
            requested.update(stub_sessions.closed())
        peer, ours = channel.get_extra_info("peername"), channel.get_extra_info("sockname")
        requested["SSH_CLIENT"] = f"{peer[0]} {peer[1]} {ours[1]}"
        requested["SSH_CONNECTION"] = f"{peer[0]} {peer[1]} {ours[0]} {ours[1]}"
        if self._terminal:
            requested["TERM"] = self._terminal[0]
        return requested, binds

    def _exited(self, future: asyncio.Future[int]) -> None:
        if not future.cancelled() and not future.exception() and not self._connection_lost:
            self._ended = True
            self._channel.tell_exit(future.result())
            self._maybe_finish()

    def _maybe_finish(self) -> None:
        if self._ended and not self._outputs and not self._connection_lost:
            self._channel.close()

    def _refuse(self, why: str) -> None:
        log.error("%s: could not start a process: %s", self._host.name, why)
        if not self._connection_lost:
            self._channel.write(f"hardway: {why}\n".encode(), asyncssh.EXTENDED_DATA_STDERR)
            self._channel.exit(255)
        self._hang_up()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._runs_process:
            self._hang_up()

    def _hang_up(self) -> None:
        """Close our ends: the process sees an end of file, SIGPIPE, or SIGHUP from its terminal; it isn't killed."""
        self._backlog.clear()
        for descriptor in list(self._outputs):
            self._close_output(descriptor)
        if self._input >= 0:
            self._host.loop.remove_writer(self._input)
            os.close(self._input)
            self._input = -1


class _GuestKeys:
    """What a login user's authorized_keys say: whom they let in is the instance's guest, and not its owner's."""

    def __init__(self, server: _Server, keys: asyncssh.SSHAuthorizedKeys) -> None:
        self._server = server
        self._keys = keys

    def validate(self, key: asyncssh.SSHKey, *more: Any, **named: Any) -> Any:
        found = self._keys.validate(key, *more, **named)
        if found is not None:
            self._server.entered(key)
        return found

    def validate_x509(self, *certificate: Any) -> Any:
        self._server.entered(None)
        return self._keys.validate_x509(*certificate)


class _Server(asyncssh.SSHServer):
    """One connection: the instance's key pair opens it, or what its user's authorized_keys hold.

    `owner` says whether it was the former, which only who may launch could choose: what those send and ask for that
    reaches beyond the instance is taken of nobody else.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self.owner = False
        self._connection: asyncssh.SSHServerConnection

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        conn._transport.max_size = RECEIVE  # type: ignore[union-attr]
        wire = _Wire(conn._transport)
        conn._transport = wire  # type: ignore[assignment]
        self._host.connected(conn, wire)

    def connection_lost(self, exc: Exception | None) -> None:
        self._host.disconnected(self._connection)

    def begin_auth(self, username: str) -> bool:
        # As sshd does: what is in the login user's own authorized_keys lets in too.
        home = {"root": "root", **{user: f"home/{user}" for user in self._host.sandbox.users}}.get(username)
        if home is not None:
            with contextlib.suppress(OSError, ValueError, asyncssh.KeyImportError):
                text = beneath.read(self._host.sandbox.directory, f"{home}/.ssh/authorized_keys", MOST_KEYS).decode()
                keys: Any = _GuestKeys(self, asyncssh.import_authorized_keys(text))
                self._connection.set_authorized_keys(keys)
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        if username not in self._host.sandbox.users or key != self._host.authorized:
            return False
        self.entered(key)
        return True

    def entered(self, key: asyncssh.SSHKey | None) -> None:
        """A key would do, and is the one that did if its signature is right: each is looked at again with that."""
        self.owner = key is not None and key == self._host.authorized

    def session_requested(self) -> Any:
        channel = self._connection.create_server_channel(encoding=None)
        channel.__class__ = _Channel  # asyncssh has no way to be told which class to make
        return channel, _Session(self._host, self.owner)

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return True

    def server_requested(self, listen_host: str, listen_port: int) -> Any:
        if listen_host in ("localhost", "127.0.0.1"):
            return True
        # as GatewayPorts=no: whatever was asked for, nothing listens beyond loopback
        return self._connection.forward_local_port("127.0.0.1", listen_port, listen_host, listen_port)


class Host:
    """An instance as one meets it over the network: its address, its host key, its sandbox.

    `power` is called with "poweroff" or "reboot" when a process of the instance asks for that.
    """

    def __init__(
        self,
        name: str,
        address: Address,
        sandbox: Sandbox,
        authorized: asyncssh.SSHKey | None,
        power: Callable[[str], None],
        user_data: Sequence[cloudinit.Part],
    ) -> None:
        self.name = name
        self.address = address
        self.sandbox = sandbox
        self.authorized = authorized
        self._connections: dict[asyncssh.SSHServerConnection, _Wire] = {}
        self._hung = False
        self._pace: asyncio.Task[None] | None = None
        self.loop = asyncio.get_running_loop()
        self._key = asyncssh.generate_private_key("ssh-ed25519")
        self._power = power
        self._user_data = user_data
        self._power_pipe = -1
        self._is_killed = False
        self._watching: asyncio.Task[None] | None = None
        self._acceptor: asyncssh.SSHAcceptor | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def console(self) -> str:
        """What cloud-init prints on it at the first boot: the host key."""
        key = self._key.export_public_key("openssh").decode().strip()
        return (
            f"-----BEGIN SSH HOST KEY KEYS-----\n{key} root@{self.sandbox.hostname}\n-----END SSH HOST KEY KEYS-----\n"
        )

    async def boot(self) -> None:
        """Make the sandbox ready, run the boothooks, then listen. Raises SandboxError, OSError."""
        await self.sandbox.boot()
        self._power_pipe = self.sandbox.open_power()
        self.loop.add_reader(self._power_pipe, self._power_asked)
        for part in self._user_data:
            if part.kind == cloudinit.BOOTHOOK:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._run_part(part, {"INSTANCE_ID": self.name}), HOOK_SECONDS)
        self._acceptor = await asyncssh.listen(
            sock=_listen(self.address),
            options=self._options(),
        )

    async def halt(self) -> None:
        """Stop listening, cut every connection, end every process."""
        if self._acceptor:
            self._acceptor.close()
            self._acceptor = None
        self.drop()
        self._hung, self._pace = False, None
        if self._power_pipe >= 0:
            self.loop.remove_reader(self._power_pipe)
            os.close(self._power_pipe)
            self._power_pipe = -1
        for task in list(self._tasks):
            task.cancel()
        await self.sandbox.halt()

    # what may happen to a host

    def drop(self) -> None:
        """Cut every connection, as a network does: no goodbye, a reset."""
        for connection, wire in list(self._connections.items()):
            wire.sever()
            connection.abort()

    def hang(self) -> None:
        """Answer no more, neither on connections there are nor on new ones, which stay open; stop every process."""
        self._hung = True
        self._freeze()

    def thaw(self) -> None:
        """Undo `hang`."""
        self._hung = False
        self._unfreeze()

    def slow(self, factor: float) -> None:
        """Let its processes run, and its connections be served, 1/factor of the time; 1 undoes it."""
        if self._pace:
            self._pace.cancel()
        self._pace = self.background(self._run_slowly(factor)) if factor > 1 else None

    async def _run_slowly(self, factor: float) -> None:
        try:
            while True:
                begun = self.loop.time()
                await asyncio.sleep(RUN_SECONDS)
                self._freeze()
                # by what it really ran: a busy daemon may wake up late
                await asyncio.sleep((self.loop.time() - begun) * (factor - 1))
                if not self._hung:
                    self._unfreeze()
        finally:
            if not self._hung:
                self._unfreeze()

    def _freeze(self) -> None:
        for wire in self._connections.values():
            wire.hold()
        self.sandbox.freeze()

    def _unfreeze(self) -> None:
        self.sandbox.unfreeze()
        for wire in self._connections.values():
            wire.release()

    def connected(self, connection: asyncssh.SSHServerConnection, wire: _Wire) -> None:
        """A connection is there, of whoever it may be."""
        self._connections[connection] = wire
        if self.sandbox.frozen:
            wire.hold()

    def disconnected(self, connection: asyncssh.SSHServerConnection) -> None:
        """A connection is gone."""
        self._connections.pop(connection, None)

    async def run_user_data(self) -> None:
        """Run the scripts of its user data, one after the other, by name, whether they fail or not."""
        for part in sorted(self._user_data, key=lambda part: part.name):
            if part.kind == cloudinit.SCRIPT:
                await self._run_part(part, {})
            elif part.kind != cloudinit.BOOTHOOK:
                self._note("only user data that starts with #! is run by a local instance")

    async def _run_part(self, part: cloudinit.Part, environment: dict[str, str]) -> None:
        """Run a script as root of the instance, its output in the cloud-init log."""
        path = f"/run/hardway/user-data/{part.name}"
        try:
            beneath.write(self.sandbox.directory, path[1:], part.content, 0o700)
            with open(self.sandbox.open_log(), "ab") as output, open(os.devnull, "rb") as null:
                process = self.sandbox.spawn(
                    [path if self.sandbox.isolated else str(self.sandbox.host_path(path))],
                    [null.fileno(), output.fileno(), output.fileno()],
                    user="root",
                    environment=environment,
                )
        except OSError as error:
            log.error("%s: user data %s was not run: %s", self.name, part.name, error)
            return
        with contextlib.suppress(SandboxError):
            status = await asyncio.shield(process.exited)
            if status:
                self._note(f"user data ended with {status}")

    def _note(self, text: str) -> None:
        """Write a line to the cloud-init log."""
        try:
            with open(self.sandbox.open_log(), "ab") as output:
                output.write(f"hardway: {text}\n".encode())
        except OSError as error:
            log.error("%s: %s; and its cloud-init log can't be written: %s", self.name, text, error)

    def background(self, work: Any) -> asyncio.Task[None]:
        """Run a coroutine that this host owns: `halt` ends it."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def user_of(self, channel: Any) -> str:
        return cast(str, channel.get_extra_info("username"))

    def _power_asked(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for word in os.read(self._power_pipe, 4096).decode(errors="replace").split():
                if word in ("poweroff", "reboot"):
                    self._power(word)
                elif word == "again":
                    self._is_killed = True
                    if not self._watching or self._watching.done():
                        self._watching = self.background(self._watch_again())

    async def _watch_again(self) -> None:
        """Start again what ends the instance, as all its processes have been killed: systemd would, in a real one."""
        while self._is_killed:
            self._is_killed = False
            with contextlib.suppress(OSError, SandboxError, asyncio.TimeoutError), open(os.devnull, "r+b") as null:
                process = self.sandbox.spawn(["/bin/sh", WATCH, "again"], [null.fileno()] * 3, user="root")
                await asyncio.wait_for(asyncio.shield(process.exited), HOOK_SECONDS)
            await asyncio.sleep(WATCH_SECONDS)  # it may be told so without end

    def _options(self) -> asyncssh.SSHServerConnectionOptions:
        return asyncssh.SSHServerConnectionOptions(
            server_factory=lambda: _Server(self),
            server_host_keys=[self._key],
            gss_host=None,
            password_auth=False,
            kbdint_auth=False,
            host_based_auth=False,
            allow_pty=True,
            line_editor=False,
            x11_forwarding=False,
            agent_forwarding=False,
            rdns_lookup=False,
            encoding=None,
            login_timeout=120,
            server_version="hardway",
        )


def _listen(address: Address) -> socket.socket:
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.ip, address.port))
        listener.listen(128)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _signal_number(name: str) -> int | None:
    number = getattr(signal, f"SIG{name}", None)
    return int(number) if number is not None else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return f"{number}@openssh.com"
