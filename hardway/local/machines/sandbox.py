"""The processes of one instance, kept apart from the host's and from other instances'.

There are three levels: bubblewrap; namespaces made with util-linux's `unshare`; none but an own HOME and TMPDIR. In the
first two a holder process keeps the instance's namespaces and everything in them ends with it; in the third every
process carries a mark by which it is found. Knows nothing of SSH or EC2.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hardway.local.machines import namespaces, spawner
from hardway.local.machines.freezer import Freezer
from hardway.local.machines.processes import SandboxError, SandboxProcess, SpawnerClient, read_until
from hardway.local.machines.root_disk import RootDisk
from hardway.local.machines.spawner import MARK, Bind, ProcessRequest, Terminal
from hardway.local.machines.toolbox import PATH

BOOT_SECONDS = 30


@dataclass
class Sandbox:
    """The processes of one instance, between `boot` and `halt`. `environment` has each one's further variables."""

    spawner: SpawnerClient
    disk: RootDisk
    environment: Mapping[str, str] = field(default_factory=dict)
    _holder: int = 0
    _holder_process: SandboxProcess | None = None
    _holder_stdin: int = -1

    def __post_init__(self) -> None:
        self._freezer = Freezer(self._running)

    @property
    def _mark(self) -> str:
        """The value of MARK in the environment of each process."""
        return str(self.disk.directory)

    async def boot(self) -> None:
        """Make ready to run processes. Raises SandboxError."""
        if not self.disk.isolated:
            return
        self.disk.make_mount_points()
        try:
            self._holder = await self._start_holder()
        except (OSError, IndexError, asyncio.TimeoutError) as error:
            await self.halt()
            raise SandboxError(f"{type(error).__name__} {error}") from error
        except SandboxError:
            await self.halt()
            raise

    async def _start_holder(self) -> int:
        """Start the process that holds the namespaces, and return the pid of its child in them, when they are made."""
        stdin, self._holder_stdin = os.pipe()
        stdout, stdout_write = os.pipe()
        with open(stdout, "rb", closefd=True) as output:
            try:
                process = self.spawner.spawn(self._holder_request(), [stdin, stdout_write, stdout_write])
            finally:
                os.close(stdin)
                os.close(stdout_write)
            self._holder_process = process
            pid = await asyncio.wait_for(asyncio.shield(process.started), BOOT_SECONDS)
            said = await asyncio.wait_for(read_until(output.fileno(), b"ready\n"), BOOT_SECONDS)
        if not said.endswith(b"ready\n"):
            raise SandboxError(said.decode(errors="replace").strip() or "ended at once")
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    async def halt(self) -> None:
        """End every process, and empty what doesn't outlive that."""
        self._freezer.forget()
        holder, self._holder = self._holder, 0
        if holder:
            with contextlib.suppress(ProcessLookupError):
                os.kill(holder, signal.SIGKILL)
        if process := self._holder_process:
            os.close(self._holder_stdin)
            with contextlib.suppress(asyncio.TimeoutError, SandboxError):
                await asyncio.wait_for(asyncio.shield(process.exited), 2)
            process.signal(signal.SIGKILL)
            with contextlib.suppress(asyncio.TimeoutError, SandboxError):
                await asyncio.wait_for(asyncio.shield(process.exited), BOOT_SECONDS)
            self._holder_process = None
        loop = asyncio.get_running_loop()
        if not self.disk.isolated:
            await loop.run_in_executor(None, spawner.kill_marked, self._mark)
        if self.disk.directory.exists():
            await loop.run_in_executor(None, self.disk.empty_volatile)

    def spawn(
        self,
        argv: Sequence[str],
        stdio: Sequence[int] = (),
        *,
        user: str,
        name: str | None = None,
        environment: Mapping[str, str] | None = None,
        terminal: Terminal | None = None,
        binds: Sequence[Bind] = (),
        logged_in: bool = True,
    ) -> SandboxProcess:
        """Start a process as `user` in its home directory; see `SpawnerClient.spawn` and `ProcessRequest`.

        A service of the system is not `logged_in`: its environment lacks HOME and the like.
        """
        home = self.disk.home(user)
        process = self.spawner.spawn(
            {
                "argv": list(argv),
                "name": name or argv[0],
                "env": {**self._environment(user, logged_in), **(environment or {})},
                "cwd": [home, "/"],
                "holder": self._holder,
                "root": user == "root" and self.disk.isolated,
                "binds": list(binds) if self.disk.isolated else [],
                "spare": not self.disk.isolated,
                "terminal": terminal,
            },
            stdio,
        )
        process.started.add_done_callback(self._freeze_late)
        return process

    def _environment(self, user: str, logged_in: bool) -> dict[str, str]:
        own = {"PATH": f"{self.disk.tools}:{PATH}", "LANG": "C.UTF-8", MARK: self._mark}
        # Without isolation, a process without HOME would find that of the host's user.
        if logged_in or not self.disk.isolated:
            own |= {"SHELL": "/bin/bash", "HOME": self.disk.home(user), "USER": user, "LOGNAME": user}
        if not self.disk.isolated:  # keeps a process that sees the host's directories to those of its instance
            own |= {"TMPDIR": str(self.disk.directory / "tmp"), "HARDWAY_ROOT": str(self.disk.directory)}
        return {**own, **self.environment}

    def _freeze_late(self, _started: Any) -> None:
        if self.frozen:
            self.freeze()

    @property
    def frozen(self) -> bool:
        """Whether every process is stopped."""
        return self._freezer.frozen

    def freeze(self) -> None:
        """Stop every process."""
        self._freezer.freeze()

    def unfreeze(self) -> None:
        """Let the stopped processes go on."""
        self._freezer.unfreeze()

    @property
    def _proc(self) -> str:
        """Where the processes of this instance, and with isolation no others, are listed."""
        return f"/proc/{self._holder}/root/proc" if self.disk.isolated else "/proc"

    def _running(self) -> list[str]:
        """The directories in `_proc` of this instance's processes, oldest first, but for the one that holds it."""
        if not self.disk.isolated:
            return [f"{self._proc}/{pid}" for pid in spawner.marked(self._mark)]
        try:
            names = sorted((name for name in os.listdir(self._proc) if name.isdigit() and name != "1"), key=int)
        except OSError:  # it has ended
            return []
        return [f"{self._proc}/{name}" for name in names]

    def _holder_request(self) -> ProcessRequest:
        disk = self.disk
        argv = namespaces.holder_command(disk.level, disk.hostname, str(disk.directory / "new"), disk.view())
        return {
            "argv": [shutil.which(argv[0]) or argv[0], *argv[1:]],
            "name": argv[0],
            "env": {"PATH": PATH, MARK: self._mark},
            "cwd": ["/"],
            "holder": 0,
            "root": False,
            "binds": [],
            "spare": False,
            "terminal": None,
        }
