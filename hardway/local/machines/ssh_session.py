"""A session of an instance's SSH server: one command or shell, whose process runs in the sandbox; or SFTP or scp.

Behaves as OpenSSH's sshd does where clients can tell: half-closed streams, exit status while children hold the output,
signals, hang-ups.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

import asyncssh

from hardway.errors import reason_of
from hardway.local.machines import shared_sessions
from hardway.local.machines.asyncssh_internals import SessionChannel, StreamSession
from hardway.local.machines.process_streams import CHUNK, ProcessStreams
from hardway.local.machines.processes import SandboxError, SandboxProcess
from hardway.local.machines.sandbox import Sandbox
from hardway.local.machines.sftp import InstanceFiles
from hardway.local.machines.spawner import Bind
from hardway.s3 import stub_sessions
from hardway.s3.stub_sessions import CLI_VARIABLE, SESSION_VARIABLE, TMP_VARIABLE

SFTP_VERSION = 3
ACCEPTED_VARIABLES = re.compile(r"LANG|LC_[A-Z]{1,20}")
OWNERS_VARIABLES = (SESSION_VARIABLE, TMP_VARIABLE, CLI_VARIABLE)
"""The variables that are accepted besides, of a client with the key that the instance was launched with."""
MOST_VARIABLES, MOST_CHARACTERS = 50, 4096
SCP_SERVER = re.compile(r"scp( -[a-zA-Z]+)* -[a-zA-Z]*[tf]")
"""The command that a client of scp runs on the other side."""

log = logging.getLogger(__name__)


def accepts(name: str, value: bytes, known: Mapping[str, str]) -> bool:
    """Whether a client may set a variable beside those that it has set."""
    if not (ACCEPTED_VARIABLES.fullmatch(name) or name in OWNERS_VARIABLES):
        return False
    return len(known) < MOST_VARIABLES and len(value) <= MOST_CHARACTERS and b"\0" not in value


class SSHSession(StreamSession):
    """One command, login shell, SFTP or scp server. The last two are asyncssh's, on `InstanceFiles`.

    `is_owner` says whether the client may launch instances here; `background` runs a coroutine that its machine ends.
    """

    def __init__(
        self,
        name: str,
        sandbox: Sandbox,
        user: str,
        is_owner: bool,
        background: Callable[[Coroutine[Any, Any, None]], Any],
    ) -> None:
        super().__init__(None, lambda channel: InstanceFiles(channel, sandbox.disk, user), sftp_version=SFTP_VERSION)
        self._name = name
        self._sandbox = sandbox
        self._user = user
        self._is_owner = is_owner
        self._background = background
        self._channel: SessionChannel
        self._streams: ProcessStreams
        self._terminal: tuple[str, list[int], list[tuple[int, int]]] | None = None
        self._process: SandboxProcess | None = None
        self._early_signals: list[int] = []  # which came before the process was asked for
        self._runs_process = False
        self._has_exited = False

    def connection_made(self, chan: Any) -> None:
        super().connection_made(chan)
        self._channel = chan
        self._streams = ProcessStreams(chan, self._close_if_over)
        chan.set_write_buffer_limits(high=4 * CHUNK)

    def pty_requested(self, term_type: str, term_size: tuple[int, int, int, int], term_modes: Any) -> bool:
        width, height, pixel_width, pixel_height = (min(size, 0xFFFF) for size in term_size)
        self._terminal = (term_type, [height, width, pixel_width, pixel_height], list(term_modes.items()))
        return True

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        self._streams.resize(*(min(size, 0xFFFF) for size in (width, height, pixwidth, pixheight)))

    def shell_requested(self) -> bool:
        self._runs_process = True
        return True

    def exec_requested(self, command: str) -> bool:
        is_scp = SCP_SERVER.match(command) is not None
        self.allow_scp(is_scp)
        self._runs_process = not is_scp
        return True

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == "sftp"

    def session_started(self) -> None:
        if self._runs_process:
            self._background(self._run())
        else:
            super().session_started()

    def break_received(self, msec: int) -> bool:
        return False

    def signal_received(self, signal: str) -> None:
        if number := _signal_number(signal):
            if self._process:
                self._process.signal(number)
            else:
                self._early_signals.append(number)

    def exception_received(self, exc: Exception) -> None:
        if not self._runs_process:
            super().exception_received(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._streams.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._streams.resume()

    def data_received(self, data: Any, datatype: Any) -> None:
        if self._runs_process:
            self._streams.feed(data)
        else:
            super().data_received(data, datatype)

    def eof_received(self) -> bool:
        if not self._runs_process:
            return super().eof_received()
        self._streams.end_input()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._runs_process:
            self._streams.close()

    # the process

    async def _run(self) -> None:
        theirs: list[int] = []
        try:
            if not self._terminal:
                theirs = self._streams.open_pipes()
            self._process = process = self._spawn(theirs)
            for number in self._early_signals:
                process.signal(number)
        except OSError as error:
            self._refuse(reason_of(error))
            return
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        process.exited.add_done_callback(self._exited)
        try:
            if self._terminal:
                self._streams.use_terminal(await asyncio.shield(process.terminal))
            else:
                await asyncio.shield(process.started)
        except SandboxError as error:
            self._refuse(str(error))
            return
        if self.is_lost:
            self._streams.close()
        else:
            self._streams.start()

    def _spawn(self, stdio: Sequence[int]) -> SandboxProcess:
        command = self._channel.get_command()
        environment, binds = self._environment()
        return self._sandbox.spawn(
            ["/bin/bash", "-c", command] if command is not None else ["/bin/bash"],
            stdio,
            user=self._user,
            name="bash" if command is not None else "-bash",
            environment=environment,
            terminal={"size": self._terminal[1], "modes": self._terminal[2]} if self._terminal else None,
            binds=binds,
        )

    def _environment(self) -> tuple[dict[str, str], list[Bind]]:
        """The variables of the process beyond its instance's, and the directory of the host that it needs."""
        channel = self._channel
        requested = dict(channel.requested_environment())
        if not self._is_owner:
            for name in OWNERS_VARIABLES:
                requested.pop(name, None)
        session = shared_sessions.find(requested)
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
        if not future.cancelled() and not future.exception() and not self.is_lost:
            self._has_exited = True
            self._channel.tell_exit(future.result())
            self._close_if_over()

    def _close_if_over(self) -> None:
        if self._has_exited and self._streams.outputs_ended and not self.is_lost:
            self._channel.close()

    def _refuse(self, why: str) -> None:
        log.error("%s: could not start a process: %s", self._name, why)
        if not self.is_lost:
            self._channel.write(f"hardway: {why}\n".encode(), asyncssh.EXTENDED_DATA_STDERR)
            self._channel.exit(255)
        self._streams.close()


def _signal_number(name: str) -> int | None:
    number = getattr(signal, f"SIG{name}", None)
    return int(number) if number is not None else None
