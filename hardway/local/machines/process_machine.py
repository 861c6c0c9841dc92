"""A machine of processes of this host: they run in a `sandbox`, and people reach them by its `ssh_server`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import Any

import asyncssh

from hardway.local.addresses import Address
from hardway.local.machines import cloudinit
from hardway.local.machines.pacer import Pacer
from hardway.local.machines.processes import SandboxError
from hardway.local.machines.sandbox import Sandbox
from hardway.local.machines.ssh_server import SSHServer

HOOK_SECONDS = 20
"""How long a boothook may hold up a boot."""
WATCH = "/etc/hardway/watch"
"""The script that ends the instance when its time is up, where hardway's boothook leaves it."""
BOOTING = "System is booting up. Unprivileged users are not permitted to log in yet. Please come back later.\n"
"""The message of systemd for a login before the boot has ended."""
RESULT = "/run/cloud-init/result.json"
"""The file that cloud-init writes when all of a boot has ended."""
WATCH_SECONDS = 1.0
"""The shortest time between two starts of that script."""

log = logging.getLogger(__name__)


class ProcessMachine:
    """The machine of one instance: its sandbox, and an SSH server at its address.

    `power` is called with "poweroff" or "reboot" when a process of the instance asks for one.
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
        self._disk = sandbox.disk
        self._ssh = SSHServer(name, sandbox, authorized, self.background)
        self._pacer = Pacer(self._freeze, self._unfreeze)
        self._loop = asyncio.get_running_loop()
        self._power = power
        self._user_data = user_data
        self._power_pipe = -1
        self._is_killed = False
        self._is_first_boot = True
        self._watching: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def console(self) -> str:
        """The text on the console after the first boot: the host key, as cloud-init prints it."""
        key = f"{self._ssh.host_key} root@{self._disk.hostname}"
        return f"-----BEGIN SSH HOST KEY KEYS-----\n{key}\n-----END SSH HOST KEY KEYS-----\n"

    async def create(self) -> None:
        """Make its directories. Raises OSError."""
        self._disk.create()

    async def boot(self) -> None:
        """Make the sandbox ready, run the boothooks, then listen. Raises SandboxError, OSError."""
        await self.sandbox.boot()
        self._power_pipe = self._disk.open_power()
        self._loop.add_reader(self._power_pipe, self._power_asked)
        self._disk.forbid_logins(BOOTING)
        for part in self._user_data:
            if part.kind == cloudinit.BOOTHOOK:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._run_part(part, {"INSTANCE_ID": self.name}), HOOK_SECONDS)
        await self._ssh.listen(self.address)
        self._disk.allow_logins()
        if not self._is_first_boot:
            self._note_result([])
        self._is_first_boot = False

    async def halt(self) -> None:
        """Stop listening, cut every connection, end every process."""
        self._ssh.close()
        self._pacer.forget()
        if self._power_pipe >= 0:
            self._loop.remove_reader(self._power_pipe)
            os.close(self._power_pipe)
            self._power_pipe = -1
        for task in list(self._tasks):
            task.cancel()
        await self.sandbox.halt()

    async def shut_down(self) -> None:
        """Halt: processes of this host are no system that could end by itself."""
        await self.halt()

    async def stop(self) -> None:
        """Halt: there is no instance storage."""
        await self.halt()

    def remove(self) -> None:
        """Delete its directories. Raises OSError."""
        self._disk.remove()

    # what may happen to a machine

    def drop(self) -> None:
        """Cut every connection, as a network does: no goodbye, a reset."""
        self._ssh.drop()

    def hang(self) -> None:
        """Answer no more, on old or new connections, which stay open; stop every process."""
        self._pacer.hang()

    def thaw(self) -> None:
        """Undo `hang`."""
        self._pacer.thaw()

    def slow(self, factor: float) -> None:
        """Let its processes run, and its connections be served, 1/factor of the time; 1 undoes it."""
        self._pacer.slow(factor)

    def _freeze(self) -> None:
        self._ssh.hold()
        self.sandbox.freeze()

    def _unfreeze(self) -> None:
        self.sandbox.unfreeze()
        self._ssh.release()

    def start_user_data(self) -> None:
        """Run the scripts of its user data in the background."""
        self.background(self._run_user_data())

    async def _run_user_data(self) -> None:
        """Run the scripts of its user data, one after the other, by name, whether they fail or not.

        Leaves what cloud-init leaves at the end of a boot.
        """
        failed: list[str] = []
        for part in sorted(self._user_data, key=lambda part: part.name):
            if part.kind == cloudinit.SCRIPT:
                if not await self._run_part(part, {}):
                    failed.append(part.name)
            elif part.kind != cloudinit.BOOTHOOK:
                self._note("only user data that starts with #! is run by a local instance")
        self._note_result([f"scripts_user: Runparts: {len(failed)} failures ({', '.join(failed)})"] if failed else [])

    def _note_result(self, errors: list[str]) -> None:
        """Say that all of this boot has ended, as cloud-init does."""
        try:
            self._disk.write(RESULT, json.dumps({"v1": {"datasource": "local", "errors": errors}}).encode(), 0o644)
        except OSError as error:
            log.error("%s: %s can't be written: %s", self.name, RESULT, error)

    async def _run_part(self, part: cloudinit.Part, environment: dict[str, str]) -> bool:
        """Run a script as root of the instance, its output in the cloud-init log; returns whether it succeeded."""
        path = f"/run/hardway/user-data/{part.name}"
        try:
            self._disk.write(path, part.content, 0o700)
            with open(self._disk.open_log(), "ab") as output, open(os.devnull, "rb") as null:
                process = self.sandbox.spawn(
                    [path if self._disk.isolated else str(self._disk.host_path(path))],
                    [null.fileno(), output.fileno(), output.fileno()],
                    user="root",
                    environment=environment,
                    logged_in=False,
                )
        except OSError as error:
            log.error("%s: user data %s was not run: %s", self.name, part.name, error)
            return False
        with contextlib.suppress(SandboxError):
            status = await asyncio.shield(process.exited)
            if status:
                self._note(f"Failed running {path} [{status}]")
            return not status
        return False

    def _note(self, text: str) -> None:
        """Write a line to the cloud-init log."""
        try:
            with open(self._disk.open_log(), "ab") as output:
                output.write(f"{datetime.now():%Y-%m-%d %H:%M:%S},000 - hardway: {text}\n".encode())
        except OSError as error:
            log.error("%s: %s; and its cloud-init log can't be written: %s", self.name, text, error)

    def background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine that this machine owns: `halt` ends it."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

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
        """Start WATCH again, as all processes have been killed: systemd would, in a real instance."""
        while self._is_killed:
            self._is_killed = False
            with contextlib.suppress(OSError, SandboxError, asyncio.TimeoutError), open(os.devnull, "r+b") as null:
                process = self.sandbox.spawn(["/bin/sh", WATCH, "again"], [null.fileno()] * 3, user="root")
                await asyncio.wait_for(asyncio.shield(process.exited), HOOK_SECONDS)
            await asyncio.sleep(WATCH_SECONDS)  # an instance may ask without end
