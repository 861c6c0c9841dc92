"""The daemon's side of `spawner`: starts it, sends it requests, and keeps the state of the processes it starts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hardway import config, files
from hardway.errors import reason_of
from hardway.local.machines import spawner
from hardway.local.machines.spawner import ProcessRequest
from hardway.local.running import SPAWNER


class SandboxError(Exception):
    """A sandbox could not be set up, or a process not be started; the text says why."""


class SandboxProcess:
    """A process of an instance, from its request on.

    `started` gives its pid (on the host) or raises SandboxError, `terminal` the master of its terminal, `exited` its
    exit code, negative for a signal. A waiter that may be cancelled shields it.
    """

    def __init__(self, status: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._status = status
        self._early_signals: list[int] = []  # which came before the process has started
        self.started: asyncio.Future[int] = self._loop.create_future()
        self.terminal: asyncio.Future[int] = self._loop.create_future()
        self.exited: asyncio.Future[int] = self._loop.create_future()
        for future in (self.started, self.terminal, self.exited):
            future.add_done_callback(lambda future: future.cancelled() or future.exception())
        status.setblocking(False)
        self._loop.add_reader(status, self._report)

    def signal(self, number: int) -> None:
        """Send a signal to the process group, if the process is still there; as soon as it has started."""
        if not self.started.done():
            self._early_signals.append(number)
        elif not self.started.exception() and not self.exited.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.started.result(), number)

    def fail(self, error: str) -> None:
        """Note that the process could not be started."""
        self._end(None, error)

    def _report(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._status, 4096, 1)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
            os.set_blocking(descriptor, False)
            self.terminal.set_result(descriptor)
        for line in data.splitlines():
            message = json.loads(line)
            if "pid" in message:
                self.started.set_result(message["pid"])
                for number in self._early_signals:
                    self.signal(number)
            elif "status" in message:
                self._end(message["status"], "")
            elif "error" in message:
                self._end(None, message["error"])
        if not data:
            self._end(None, "the process that starts others is gone")

    def _end(self, status: int | None, error: str) -> None:
        self._loop.remove_reader(self._status)
        self._status.close()
        for future in (self.started, self.terminal, self.exited):
            if status is None and not future.done():
                future.set_exception(SandboxError(error))
        if status is not None:
            self.exited.set_result(status)
            if not self.terminal.done():
                self.terminal.set_exception(SandboxError("no terminal"))


class SpawnerClient:
    """The daemon's side of `spawner`.

    All processes that it starts belong to instances below `directory`. The file SPAWNER there stays locked until the
    last one has ended.
    """

    def __init__(self, directory: Path) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control = ours
        # A process of an instance has this environment until it becomes the program: so it has nobody's secrets.
        variables = config.child_environment()
        environment = {name: text for name, text in variables.items() if name in ("PATH", "LANG", "TMPDIR")}
        with theirs, open(directory / SPAWNER, "w") as lock:
            files.lock(lock)
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-S", "-X", "utf8", spawner.__file__, str(theirs.fileno()), str(directory)],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), lock.fileno()],
                cwd="/",
                env=environment,
            )
        # A process takes one descriptor there, and several here: the usual 1024 would end at 200 instances.
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    @property
    def pid(self) -> int:
        """The process id of `spawner`."""
        return self._child.pid

    def spawn(self, request: ProcessRequest, stdio: Sequence[int] = ()) -> SandboxProcess:
        """Start a process. `stdio` are its stdin, stdout and stderr, none when the request has a terminal."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = SandboxProcess(ours)
        try:
            spawner.send(self._control, request, [theirs.fileno(), *stdio])
        except OSError as error:
            process.fail(reason_of(error))
        finally:
            theirs.close()
        return process

    def close(self, seconds: float = 10) -> None:
        """End `spawner` and all that it started."""
        self._control.close()
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


async def read_until(descriptor: int, word: bytes) -> bytes:
    """Read a pipe up to a word, or its end."""
    loop = asyncio.get_running_loop()
    os.set_blocking(descriptor, False)
    said = b""
    while word not in said:
        readable = loop.create_future()
        loop.add_reader(descriptor, readable.set_result, None)
        try:
            await readable
        finally:
            loop.remove_reader(descriptor)
        data = os.read(descriptor, 65536)
        if not data:
            break
        said += data
    return said
