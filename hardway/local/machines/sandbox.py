"""The directories and processes of one instance, kept apart from the host's and from other instances'.

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
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hardway.local import beneath
from hardway.local.machines import namespaces, spawner
from hardway.local.machines.freezer import Freezer
from hardway.local.machines.namespaces import POWER, UID
from hardway.local.machines.processes import SandboxError, SandboxProcess, Spawner
from hardway.local.machines.spawner import MARK, Bind, ProcessRequest, Terminal
from hardway.local.machines.toolbox import COVERED, HOST_ETC, PATH, TOOLS, Toolbox

BOOT_SECONDS = 30
VOLATILE = ("tmp", "run")
"""What a stop or a reboot empties."""
MOST_KEYS = 1 << 16
"""Bytes of a user's authorized_keys that are read."""


@dataclass
class Sandbox:
    """One instance's directory on the host and, between `boot` and `halt`, its processes.

    The first of `users` owns the home directories; `environment` is what every process finds, over the usual.
    """

    level: str
    spawner: Spawner
    toolbox: Toolbox
    directory: Path
    hostname: str
    users: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    _holder: int = 0
    _holder_process: SandboxProcess | None = None
    _holder_stdin: int = -1

    def __post_init__(self) -> None:
        self._freezer = Freezer(self._running)

    @property
    def isolated(self) -> bool:
        """Whether its processes see a tree of their own."""
        return self.level != "none"

    def home(self, user: str) -> str:
        """The home directory of a user, or root, as processes of the instance see it."""
        path = "/root" if user == "root" else f"/home/{user}"
        return path if self.isolated else str(self.host_path(path))

    def host_path(self, path: str) -> Path:
        """Where on the host a path below one of COVERED lies."""
        for top, name in COVERED.items():
            if path == top or path.startswith(top + "/"):
                return self.directory / name / path[len(top) :].lstrip("/")
        return Path(path)

    def open_log(self) -> int:
        """Where user data's output goes, open for appending: /var/log/cloud-init-output.log. Raises OSError."""
        return beneath.append(self.directory, "log/cloud-init-output.log")

    def open_power(self) -> int:
        """A pipe on which processes of the instance ask for `poweroff` or `reboot`. Raises OSError."""
        return beneath.open_pipe(self.directory, POWER)

    def read_authorized_keys(self, user: str) -> bytes | None:
        """The authorized_keys of who may log in; None for anybody else. Raises OSError."""
        if user not in (*self.users, "root"):
            return None
        home = "root" if user == "root" else f"home/{user}"
        return beneath.read(self.directory, f"{home}/.ssh/authorized_keys", MOST_KEYS)

    def create(self) -> None:
        """Make the directories, as a fresh root disk has them. Raises OSError."""
        self.directory.mkdir(parents=True, mode=0o700)
        for name in (*COVERED.values(), "etc", "etc/hardway", "sbin", "new"):
            (self.directory / name).mkdir()
        (self.directory / "vartmp").chmod(0o1777)
        for name in ("poweroff", "shutdown"):
            (self.directory / "sbin" / name).symlink_to(self.toolbox.tools / name)
        self._empty_volatile()
        for user in (*self.users, "root"):
            self._make_home(user)
        (self.directory / "etc" / "hostname").write_text(self.hostname + "\n")
        self._write_accounts("passwd", "{user}:x:{id}:{id}::/home/{user}:/bin/bash")
        self._write_accounts("group", "{user}:x:{id}:")

    def _make_home(self, user: str) -> None:
        home = self.host_path("/root" if user == "root" else f"/home/{user}")
        home.mkdir(mode=0o750, exist_ok=True)
        if os.path.isdir("/etc/skel"):
            for entry in os.scandir("/etc/skel"):
                if entry.is_file(follow_symlinks=False):
                    shutil.copyfile(entry.path, home / entry.name)
        # /etc/profile sets PATH anew
        with open(home / ".profile", "a") as profile:
            profile.write(f'\nPATH="{self._tools}:$PATH"\n')

    def _write_accounts(self, name: str, account: str) -> None:
        """Write a file of /etc: our users, then those of the host that are none of ours."""
        lines = [account.format(id=UID, user=user) for user in self.users]
        with contextlib.suppress(OSError):
            for line in Path("/etc", name).read_text(errors="replace").splitlines():
                fields = line.split(":")
                if len(fields) > 2 and fields[0] not in self.users and fields[2] != str(UID):
                    lines.append(line)
        (self.directory / "etc" / name).write_text("\n".join(lines) + "\n")

    def remove(self) -> None:
        """Delete the directory. Raises OSError."""
        beneath.remove(self.directory)

    async def boot(self) -> None:
        """Make ready to run processes. Raises SandboxError."""
        if not self.isolated:
            return
        for path in self.toolbox.kept:
            # what makes them otherwise would follow the links that the instance may have left there
            for top, name in COVERED.items():
                if path.is_relative_to(top):
                    beneath.make_directories(self.directory, f"{name}/{path.relative_to(top)}")
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
            pid = await asyncio.wait_for(process.started, BOOT_SECONDS)
            said = await asyncio.wait_for(_until_ready(output.fileno()), BOOT_SECONDS)
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
                await asyncio.wait_for(process.exited, BOOT_SECONDS)
            self._holder_process = None
        loop = asyncio.get_running_loop()
        if not self.isolated:
            await loop.run_in_executor(None, spawner.kill_marked, str(self.directory))
        if self.directory.exists():
            await loop.run_in_executor(None, self._empty_volatile)

    def spawn(
        self,
        argv: Sequence[str],
        stdio: Sequence[int] = (),
        *,
        user: str,
        name: str | None = None,
        environment: dict[str, str] | None = None,
        terminal: Terminal | None = None,
        binds: Sequence[Bind] = (),
    ) -> SandboxProcess:
        """Start a process as `user` in its home directory; see `Spawner.spawn` and `ProcessRequest`."""
        home = self.home(user)
        process = self.spawner.spawn(
            {
                "argv": list(argv),
                "name": name or argv[0],
                "env": {
                    "PATH": f"{self._tools}:{PATH}",
                    "LANG": "C.UTF-8",
                    "SHELL": "/bin/bash",
                    "HOME": home,
                    "USER": user,
                    "LOGNAME": user,
                    MARK: str(self.directory),
                    **({} if self.isolated else self._own_paths()),
                    **self.environment,
                    **(environment or {}),
                },
                "cwd": [home, "/"],
                "holder": self._holder,
                "root": user == "root" and self.isolated,
                "binds": list(binds) if self.isolated else [],
                "spare": not self.isolated,
                "terminal": terminal,
            },
            stdio,
        )
        process.started.add_done_callback(self._freeze_late)
        return process

    def _own_paths(self) -> dict[str, str]:
        """What keeps a process that sees the host's directories to those of its instance."""
        return {"TMPDIR": str(self.directory / "tmp"), "HARDWAY_ROOT": str(self.directory)}

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
        return f"/proc/{self._holder}/root/proc" if self.isolated else "/proc"

    def _running(self) -> list[str]:
        """The directories in `_proc` of this instance's processes, oldest first, but for the one that holds it."""
        if not self.isolated:
            return [f"{self._proc}/{pid}" for pid in spawner.marked(str(self.directory))]
        try:
            names = sorted((name for name in os.listdir(self._proc) if name.isdigit() and name != "1"), key=int)
        except OSError:  # it has ended
            return []
        return [f"{self._proc}/{name}" for name in names]

    @property
    def _tools(self) -> str:
        return TOOLS if self.isolated else str(self.toolbox.tools)

    def _empty_volatile(self) -> None:
        for name in VOLATILE:
            beneath.remove(self.directory / name)
            (self.directory / name).mkdir()
        (self.directory / "tmp").chmod(0o1777)
        power = self.directory / POWER
        power.parent.mkdir()
        os.mkfifo(power)

    def view(self) -> list[tuple[str, str, str]]:
        """What lies over the host's tree: ("rw" or "ro", path on the host, path in the instance).

        Without isolation only SFTP and scp see the instance so; its processes see the host.
        """
        own = [("rw", str(self.directory / name), top) for top, name in COVERED.items()]
        hardway = ("rw", str(self.directory / "etc" / "hardway"), "/etc/hardway")
        if not self.isolated:
            return [*own, hardway, ("rw", str(self.directory), str(self.directory))]
        own += [("ro", str(cover), str(path)) for path, cover in self.toolbox.hidden]
        own.append(("ro", str(self.toolbox.tools), TOOLS))
        own += [("ro", str(path), str(path)) for path in self.toolbox.kept]
        own += [("ro", "/etc", HOST_ETC), ("ro", str(self.toolbox.etc), "/etc"), hardway]
        own += [("ro", str(self.directory / "etc" / name), f"/etc/{name}") for name in ("passwd", "group", "hostname")]
        own.append(("ro", str(self.toolbox.hosts), "/etc/hosts"))
        # What lies there may be a mount of its own, which a copy of /etc would lack.
        resolver = os.path.realpath("/etc/resolv.conf")
        if os.path.exists(resolver):
            own.append(("ro", resolver, resolver))
        if os.path.exists("/sys/block"):  # the host's disks are none of an instance's
            own.append(("ro", str(self.toolbox.nothing), "/sys/block"))
        return own

    def _holder_request(self) -> ProcessRequest:
        argv = namespaces.holder_command(self.level, self.hostname, str(self.directory / "new"), self.view())
        return {
            "argv": [shutil.which(argv[0]) or argv[0], *argv[1:]],
            "name": argv[0],
            "env": {"PATH": PATH, MARK: str(self.directory)},
            "cwd": ["/"],
            "holder": 0,
            "root": False,
            "binds": [],
            "spare": False,
            "terminal": None,
        }


async def _until_ready(descriptor: int) -> bytes:
    """Read up to the holder's word that it is up, or its end."""
    loop = asyncio.get_running_loop()
    os.set_blocking(descriptor, False)
    said = b""
    while not said.endswith(b"ready\n"):
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
