"""The processes and directories of one instance, kept apart from the host's and from other instances'.

Three levels, the best that really works is chosen: bubblewrap; namespaces made with util-linux's `unshare`; none but an
own HOME and TMPDIR. In the first two a holder process keeps the instance's namespaces and everything in them ends with
it; in the third every process carries a mark by which it is found. Knows nothing of SSH or EC2.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hardway.errors import HardwayError
from hardway.local import beneath, shims, spawner
from hardway.local.spawner import MARK, Bind, Request, Terminal

LEVELS = ("bwrap", "unshare", "none")
UID = 1000
"""Who logs in to an instance is this user there; on the host, whoever runs the daemon."""
BOOT_SECONDS = 30
STOP_SECONDS = 0.02
"""How long one process is waited for that is to stop: it takes microseconds, on a busy machine a turn of the CPU."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TOOLS = "/run/hardway/bin"
"""Where an isolated instance sees `shims`."""
COVERED = {"/home": "home", "/root": "root", "/tmp": "tmp", "/var/tmp": "vartmp", "/var/log": "log", "/run": "run"}
"""What an instance has of its own, by its name in its directory on the host, and /etc/hardway. All else is the host's,
read only."""
OWN_ETC = ("passwd", "group", "hostname", "hosts")
"""Files in an instance's /etc that are not the host's."""
HOST_ETC = "/run/hardway/etc"
"""Where the links in an isolated instance's /etc lead."""
# Where the kernel is told things. It asks for a capability of the machine's own root in few of these places: in the
# others its user number is enough, which instances have where that is who runs the daemon.
KERNEL = ("acpi", "asound", "bus", "driver", "dynamic_debug", "fs", "irq", "latency_stats", "mtrr", "scsi", "sys",
          "sysrq-trigger", "tty")  # fmt: skip
"""In an instance's /proc, what is read only."""
DEVICES = ("full", "null", "random", "tty", "urandom", "zero")
POWER = "run/hardway/power"
VOLATILE = ("tmp", "run")
"""What a stop or a reboot empties."""

# pid 1 of the namespaces: reaps what is orphaned there, ends when its stdin does, which is when the daemon ends
# its child may be killed by anybody in there (kill -9 -1), it can't: then another one waits, and the daemon is told
HOLD = (
    "exec 3<&0; echo ready; while { read x <&3; } & wait $!; [ $? -gt 128 ]; do "
    f"{{ echo again >/{POWER}; }} 3<&- & done"
)

# Mounts as bubblewrap would: a copy of the host's tree, read only, with what is the instance's own on top, becomes /.
UNSHARE = r"""
set -eu
hostname "$1"
new=$2 hold=$3 devices=$4 kernel=$5; shift 5
mount --make-rprivate /
mount --rbind / "$new"
listed=$(printf %s "$new" | sed 's/\\/\\134/g; s/ /\\040/g; s/\t/\\011/g')
while read -r _ _ _ _ point _; do
  case $point in
    "$listed"/proc|"$listed"/proc/*|"$listed"/dev|"$listed"/dev/*) ;;
    "$listed"|"$listed"/*) mount -o remount,bind,ro "$(printf '%b' "$point")" 2>/dev/null || : ;;
  esac
done </proc/self/mountinfo
mount -t proc proc "$new/proc"
for name in $kernel; do
  [ -e "$new/proc/$name" ] || continue
  mount --bind "$new/proc/$name" "$new/proc/$name"
  mount -o remount,bind,ro "$new/proc/$name"
done
mount -t tmpfs -o mode=755 tmpfs "$new/dev"
for name in $devices; do
  : >"$new/dev/$name"
  mount --bind "/dev/$name" "$new/dev/$name"
done
mkdir "$new/dev/shm" "$new/dev/pts"
mount -t tmpfs tmpfs "$new/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$new/dev/pts"
ln -s pts/ptmx "$new/dev/ptmx"
ln -s /proc/self/fd "$new/dev/fd"
ln -s fd/0 "$new/dev/stdin"
ln -s fd/1 "$new/dev/stdout"
ln -s fd/2 "$new/dev/stderr"
while [ $# -ge 3 ]; do
  if [ -d "$2" ]; then mkdir -p "$new$3"; elif [ ! -e "$new$3" ]; then mkdir -p "$new${3%/*}"; : >"$new$3"; fi
  mount --bind "$2" "$new$3"
  [ "$1" = rw ] || mount -o remount,bind,ro "$new$3"
  shift 3
done
cd "$new"
pivot_root . .
umount -l .
cd /
exec unshare --user --map-user=1000 --map-group=1000 sh -c "$hold"
"""


class SandboxError(Exception):
    """A sandbox could not be set up; the text says why."""


class Process:
    """A process of an instance, from its request on.

    `started` gives its pid (on the host) or raises SandboxError, `terminal` the master of its terminal, `exited` its
    exit code, negative for a signal.
    """

    def __init__(self, status: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        self._status = status
        self.started: asyncio.Future[int] = self._loop.create_future()
        self.terminal: asyncio.Future[int] = self._loop.create_future()
        self.exited: asyncio.Future[int] = self._loop.create_future()
        for future in (self.started, self.terminal, self.exited):
            future.add_done_callback(lambda future: future.cancelled() or future.exception())
        status.setblocking(False)
        self._loop.add_reader(status, self._report)

    def signal(self, number: int) -> None:
        """Send a signal to the process group, if the process is still there."""
        if self.started.done() and not self.started.exception() and not self.exited.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.started.result(), number)

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


class Spawner:
    """This side of `spawner`: starts it, sends requests, ends it.

    Everything it starts lives below `directory`, where it keeps the file `spawner` locked until all of it has ended.
    """

    def __init__(self, directory: Path) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control = ours
        # Its environment is what a process of an instance has until it becomes what was asked for: nobody's secrets.
        environment = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "TMPDIR")}
        with theirs, open(directory / "spawner", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-S", "-X", "utf8", spawner.__file__, str(theirs.fileno()), str(directory)],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno(), lock.fileno()],
                cwd="/",
                env=environment,
            )
        # one descriptor a process in there, several here: the usual 1024 would end at 200 instances
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    @property
    def pid(self) -> int:
        return self._child.pid

    def spawn(self, request: Request, stdio: Sequence[int] = ()) -> Process:
        """Start a process. `stdio` are its stdin, stdout and stderr, none when the request has a terminal."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = Process(ours)
        try:
            spawner.send(self._control, request, [theirs.fileno(), *stdio])
        except OSError as error:
            process._end(None, str(error))
        finally:
            theirs.close()
        return process

    def close(self, seconds: float = 10) -> None:
        """End it and all it started."""
        self._control.close()
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()


def own_directories(directory: Path) -> tuple[Path, ...]:
    """A cloud's directory and, where that is hardway's, the one it lies in."""
    return (directory.parent, directory) if directory.parent.name == "hardway" else (directory,)


@dataclass(frozen=True)
class Isolation:
    """A level that works here, and why none better does ("" for the best)."""

    level: str
    why: str = ""

    def __str__(self) -> str:
        said = {
            "bwrap": "bubblewrap",
            "unshare": "unshare (namespaces)",
            "none": "none: instances have an own HOME and TMPDIR, all else is the host's, /home/ubuntu too",
        }[self.level]
        return f"{said} ({self.why})" if self.why else said


@dataclass(frozen=True)
class Toolbox:
    """What instances get of the host beyond its system directories; the same for all of a daemon.

    tools: the directory of shims, first on PATH.
    hidden: empty directories by the path that they cover: what of this user's lies where an instance would see it, our
        own secrets among that.
    kept: directories to show at their own paths although an instance covers their parents: Python, the real `aws`.
    hosts: the file that is /etc/hosts in every instance.
    etc: a directory of links to all in the host's /etc, with room for what an instance has of its own.
    nothing: an empty directory.
    """

    tools: Path
    kept: tuple[Path, ...]
    hosts: Path
    etc: Path
    nothing: Path
    hidden: tuple[tuple[Path, Path], ...]

    @classmethod
    def create(cls, directory: Path) -> Toolbox:
        """Write shims and hosts into `directory`."""
        tools = directory / "bin"
        tools.mkdir()
        needed = [Path(sys.prefix), Path(sys.base_prefix), *shims.install(tools, PATH)]
        hidden = _hidden(directory)
        covers = [*map(Path, COVERED), *hidden]
        covered = [path for path in needed if any(path.is_relative_to(top) for top in covers)]
        kept = {path for path in covered if not any(path != other and path.is_relative_to(other) for other in covered)}
        hosts = directory / "hosts"
        try:
            text = Path("/etc/hosts").read_text(errors="replace")
        except OSError:
            text = "127.0.0.1 localhost\n"
        hosts.write_text(text.rstrip("\n") + "\n")
        nothing = directory / "nothing"
        nothing.mkdir()
        mounts = []
        for number, top in enumerate(hidden):
            cover = directory / f"hidden-{number}"
            cover.mkdir()
            for path in kept:  # a mount needs something to lie over
                if path.is_relative_to(top):
                    (cover / path.relative_to(top)).mkdir(parents=True, exist_ok=True)
            mounts.append((top, cover))
        return cls(tools, tuple(sorted(kept)), hosts, _links_to_etc(directory), nothing, tuple(mounts))


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
    _holder_process: Process | None = None
    _holder_stdin: int = -1
    _frozen: list[int] | None = None

    @property
    def isolated(self) -> bool:
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

    def create(self) -> None:
        """Make the directories, as a fresh root disk has them."""
        self.directory.mkdir(parents=True, mode=0o700)
        for name in (*COVERED.values(), "etc", "etc/hardway", "sbin", "new"):
            (self.directory / name).mkdir()
        (self.directory / "vartmp").chmod(0o1777)
        for name in ("poweroff", "shutdown"):
            (self.directory / "sbin" / name).symlink_to(self.toolbox.tools / name)
        self._fresh_volatile()
        for user in (*self.users, "root"):
            home = self.host_path("/root" if user == "root" else f"/home/{user}")
            home.mkdir(mode=0o750, exist_ok=True)
            if os.path.isdir("/etc/skel"):
                for entry in os.scandir("/etc/skel"):
                    if entry.is_file(follow_symlinks=False):
                        shutil.copyfile(entry.path, home / entry.name)
            # /etc/profile sets PATH anew
            with open(home / ".profile", "a") as profile:
                profile.write(f'\nPATH="{self._tools}:$PATH"\n')
        (self.directory / "etc" / "hostname").write_text(self.hostname + "\n")
        for name, account in (("passwd", "x:{id}:{id}::/home/{user}:/bin/bash"), ("group", "x:{id}:")):
            lines = [f"{user}:{account.format(id=UID, user=user)}" for user in self.users]
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
        stdin, self._holder_stdin = os.pipe()
        stdout, stdout_write = os.pipe()
        with open(stdout, "rb", closefd=True) as output:
            try:
                process = self.spawner.spawn(self._holder_request(), [stdin, stdout_write, stdout_write])
            finally:
                os.close(stdin)
                os.close(stdout_write)
            self._holder_process = process
            try:
                pid = await asyncio.wait_for(process.started, BOOT_SECONDS)
                said = await asyncio.wait_for(_until_ready(output.fileno()), BOOT_SECONDS)
                if not said.endswith(b"ready\n"):
                    raise SandboxError(said.decode(errors="replace").strip() or "ended at once")
                self._holder = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
            except (OSError, IndexError, asyncio.TimeoutError) as error:
                await self.halt()
                raise SandboxError(f"{type(error).__name__} {error}") from error
            except SandboxError:
                await self.halt()
                raise

    async def halt(self) -> None:
        """End every process, and empty what doesn't outlive that."""
        self._thawed()
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
            await loop.run_in_executor(None, self._fresh_volatile)

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
    ) -> Process:
        """Start a process as `user` in its home directory; see `Spawner.spawn` and `spawner.Request`."""
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
        return self._frozen is not None

    def freeze(self) -> None:
        """Stop every process, parents first, so that none sees that its child has stopped."""
        if self._frozen is None:
            self._frozen = []
        known: set[str] = set()
        while new := [name for name in self._running() if name not in known]:
            for name in new:  # what one of them started before it stopped is found in the next round
                known.add(name)
                with contextlib.suppress(OSError):
                    self._frozen.append(_stop(os.path.join(self._proc, name)))

    def unfreeze(self) -> None:
        """Let those go on that `freeze` stopped, children first."""
        for descriptor in reversed(self._frozen or ()):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGCONT)
        self._thawed()

    def _thawed(self) -> None:
        for descriptor in self._frozen or ():
            os.close(descriptor)
        self._frozen = None

    @property
    def _proc(self) -> str:
        """Where the processes of this instance, and with isolation no others, are listed."""
        return f"/proc/{self._holder}/root/proc" if self.isolated else "/proc"

    def _running(self) -> list[str]:
        """The names in `_proc` of this instance's processes, oldest first, but for the one that holds it."""
        if not self.isolated:
            return [str(pid) for pid in spawner.marked(str(self.directory))]
        try:
            return sorted((name for name in os.listdir(self._proc) if name.isdigit() and name != "1"), key=int)
        except OSError:  # it has ended
            return []

    @property
    def _tools(self) -> str:
        return TOOLS if self.isolated else str(self.toolbox.tools)

    def _fresh_volatile(self) -> None:
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

    def _holder_request(self) -> Request:
        argv = getattr(self, f"_argv_{self.level}")()
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

    def _argv_bwrap(self) -> list[str]:
        options = ["--die-with-parent", "--unshare-user", "--uid", str(UID), "--gid", str(UID)]
        options += ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--hostname", self.hostname]
        options += ["--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
        for mode, source, target in self.view():
            options += ["--bind" if mode == "rw" else "--ro-bind", source, target]
        for path in (f"/proc/{name}" for name in KERNEL):
            options += ["--ro-bind-try", path, path]
        return ["bwrap", *options, "--chdir", "/", "--as-pid-1", "/bin/sh", "-c", HOLD]

    def _argv_unshare(self) -> list[str]:
        namespaces = ["--user", "--map-root-user", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]
        own = [text for entry in self.view() for text in entry]
        return [
            "unshare",
            *namespaces,
            "/bin/sh",
            "-c",
            UNSHARE,
            "sh",
            self.hostname,
            str(self.directory / "new"),
            HOLD,
            " ".join(DEVICES),
            " ".join(KERNEL),
            *own,
        ]


def _hidden(directory: Path) -> list[Path]:
    """What lies outside of all that instances cover anyway: this user's home, and the cloud's own directory."""
    found = {Path(os.path.realpath(path)) for path in (Path.home(), *own_directories(directory))}
    outside = [path for path in found if not any(path.is_relative_to(top) for top in ("/proc", "/sys", *COVERED))]
    return sorted(path for path in outside if path != Path("/") and not set(path.parents) & set(outside))


def _links_to_etc(directory: Path) -> Path:
    """Make the directory that instances have for /etc: a mount needs something to lie over, and the host's has not."""
    etc = directory / "etc"
    (etc / "hardway").mkdir(parents=True)
    for entry in os.scandir("/etc"):
        if entry.name in (*OWN_ETC, "hardway"):
            continue
        if entry.is_symlink():
            (etc / entry.name).symlink_to(os.readlink(entry.path))
        elif entry.name == "resolv.conf":
            (etc / entry.name).touch()
        else:
            (etc / entry.name).symlink_to(f"{HOST_ETC}/{entry.name}")
    for name in OWN_ETC:
        (etc / name).touch()
    return etc


async def choose(wanted: str, spawner: Spawner, toolbox: Toolbox, scratch: Path) -> Isolation:
    """Find the best level that works by running a command in each; `wanted` other than "auto" is the only one tried.

    Raises HardwayError where that one doesn't work.
    """
    reasons: list[str] = []
    for level in LEVELS if wanted == "auto" else (wanted,):
        sandbox = Sandbox(level, spawner, toolbox, scratch / level, "probe", ("probe",))
        try:
            sandbox.create()
            await sandbox.boot()
            await _probe(sandbox)
            return Isolation(level, "; ".join(reasons))
        except SandboxError as error:
            missing = level != "none" and not shutil.which(level)
            reasons.append(f"{level}: {'not installed' if missing else _last_line(str(error))}")
        finally:
            await sandbox.halt()
            sandbox.remove()
    raise HardwayError(f"local.isolation={wanted} does not work here: {'; '.join(reasons)}")


def _stop(path: str) -> int:
    """Stop the process that a directory in /proc is of, and return a descriptor to send it signals by.

    Raises OSError for one that is gone, or that somebody else stopped: it isn't ours to continue.
    """
    process = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _state(process) in b"TtZX":
            raise ProcessLookupError
        signal.pidfd_send_signal(process, signal.SIGSTOP)
        _until_stopped(process)
    except BaseException:
        os.close(process)
        raise
    return process


def _until_stopped(process: int) -> None:
    """Wait for the signal to have its effect, at most STOP_SECONDS: a parent that is only about to stop sees its child
    do so. What the kernel holds up, in a read from a disk, stops when that is over.
    """
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline and _state(process) not in b"TtZX":
        time.sleep(0.0001)


def _state(process: int) -> bytes:
    """The letter of its state. Raises OSError for a process that is gone."""
    with open(os.open("stat", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process), "rb") as stat:
        return stat.read().rpartition(b")")[2].split()[0]


async def _probe(sandbox: Sandbox) -> None:
    with open(os.devnull, "r+b") as null:
        process = sandbox.spawn(
            ["/bin/sh", "-c", ': >"${TMPDIR:-/tmp}/probe" && : >~/probe'], [null.fileno()] * 3, user="probe"
        )
        status = await asyncio.wait_for(process.exited, BOOT_SECONDS)
    if status:
        raise SandboxError(f"a command in it ended with {status}")


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "failed"


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
