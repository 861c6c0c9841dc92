"""The life of the local cloud's daemon: start or find it, ask it, end it; and the daemon itself, `python -m`.

One daemon a state directory. A locked file, not a process id, says that it lives, so a killed one leaves no doubt;
what a killed one left behind is cleared at the next start. What the daemon serves is `cloud`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import gc
import importlib.util
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import platformdirs

from hardway import private
from hardway.config import Local
from hardway.errors import HardwayError, NothingMatched, UsageError
from hardway.local import spawner
from hardway.local.sandbox import LEVELS, Spawner, Toolbox, choose, remove_tree

REGION = "us-east-1"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
    "AWS_EC2_METADATA_DISABLED": "true",
}
"""What a client of the local cloud needs besides an endpoint and a region; anybody on this machine may use it."""
STATUS_PATH = "/moto-api/hardway/status"
"""Answers with how many instances there are, by state. moto keeps this prefix from being taken for a bucket."""
FAULT_PATH = "/moto-api/hardway/fault"
"""Takes a fault: see `faults`."""
START_SECONDS = 60
STOP_SECONDS = 20
LOCK_SECONDS = START_SECONDS + STOP_SECONDS


@dataclass(frozen=True)
class Running:
    """A daemon: what it said of itself when it was up. `settings` are those it was started with."""

    pid: int
    endpoint: str
    ssh_port: int
    isolation: str
    level: str
    settings: Local

    @property
    def environment(self) -> dict[str, str]:
        """What points a shell, and what it starts, at this local cloud."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            **CREDENTIALS,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "INVOKE_EC2_SSH_PORT": str(self.ssh_port),
            "INVOKE_EC2_SSH_FROM": "127.0.0.0/8",
            **_past_proxies(),
        }

    def instances(self) -> dict[str, int]:
        """How many instances there are, by state."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.endpoint + STATUS_PATH, timeout=10) as answer:
            return {state: int(count) for state, count in json.load(answer).items()}


def _past_proxies() -> dict[str, str]:
    """Where the environment has proxies, what keeps clients of the local cloud from asking them for it."""
    if not urllib.request.getproxies_environment():
        return {}
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    past = known if "127.0.0.1" in known.split(",") else ",".join(filter(None, [known, "127.0.0.1"]))
    return {"NO_PROXY": past, "no_proxy": past}


def state_directory() -> Path:
    """Where everything of this user's local cloud is, the log included."""
    return platformdirs.user_state_path("hardway") / "local"


def up(settings: Local, directory: Path | None = None, owner: int = 0) -> tuple[Running, bool]:
    """Start the daemon, or find the running one; says which by True for a new one.

    `directory` is where all of it goes (None: `state_directory`); when the process `owner` ends, however that comes,
    a new daemon does too (0: it ends by `down` alone). Safe to call at the same time. Raises HardwayError with the
    daemon's own reason when it doesn't come up.
    """
    if settings.isolation not in ("auto", *LEVELS):
        raise UsageError(f"local.isolation is {settings.isolation!r}: it must be one of auto, {', '.join(LEVELS)}")
    missing = [name for name in ("moto", "asyncssh") if importlib.util.find_spec(name) is None]
    if missing:
        raise HardwayError(f"the local cloud needs {' and '.join(missing)}: pip install 'hardway[local]'")
    directory = directory or state_directory()
    with _locked(directory):
        directory.chmod(0o700)
        if running := _find(directory):
            return running, False
        _clear(directory)
        return _start(directory, settings, owner), True


def find(directory: Path | None = None) -> Running:
    """The running daemon. Raises NothingMatched when there is none, with the log of one that `down` has not ended."""
    directory = directory or state_directory()
    running = _find(directory)
    if running is None:
        log = directory / "log"
        ended = f" (the last one was not ended by local.down; its log is {log})" if log.exists() else ""
        raise NothingMatched(f'the local cloud is not running{ended}; eval "$(hardway local.up)" starts it')
    return running


def down(directory: Path | None = None) -> bool:
    """End the daemon and everything in it, and delete its state; False when there was none."""
    directory = directory or state_directory()
    if not directory.exists():
        return False
    with _locked(directory):
        running = _find(directory)
        if running:
            _end(running.pid)
        _clear(directory)
        shutil.rmtree(directory)
    with contextlib.suppress(OSError):
        directory.parent.rmdir()  # ours, unless jobs are in it
    return running is not None


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep other starts and ends out."""
    deadline = time.monotonic() + LOCK_SECONDS
    while (lock := _lock(directory)) is None:
        if time.monotonic() > deadline:
            raise HardwayError(f"another local.up or local.down has been at work for {LOCK_SECONDS} s")
        time.sleep(0.02)
    try:
        yield
    finally:
        os.close(lock)


def _lock(directory: Path) -> int | None:
    """Take the lock, if it is free. Who had it before may have deleted the file: then it isn't the lock any more."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for each in (directory, directory.parent):
        if each.name in ("local", "hardway"):
            private.directory(each)
    path = directory / "lock"
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    with contextlib.suppress(FileNotFoundError):
        if _try_lock(lock) and os.fstat(lock).st_ino == os.stat(path).st_ino:
            return lock
    os.close(lock)
    return None


def _try_lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _held(path: Path) -> bool:
    """Whether some process has this file locked."""
    try:
        with open(path) as file:
            return not _try_lock(file.fileno(), fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _find(directory: Path) -> Running | None:
    if not _held(directory / "alive"):
        return None
    try:
        said = json.loads((directory / "daemon.json").read_text())
    except (FileNotFoundError, ValueError):
        return None  # still starting, and not by one who holds the lock
    return Running(**{**said, "settings": Local(**said["settings"])})


def _clear(directory: Path) -> None:
    """Remove what a dead daemon left: processes, then files."""
    deadline = time.monotonic() + STOP_SECONDS
    while _held(directory / "spawner") or _held(directory / "alive"):
        if time.monotonic() > deadline:
            raise HardwayError(f"a process of a former local cloud does not end: see fuser {directory / 'spawner'}")
        time.sleep(0.02)
    spawner.kill_marked(str(directory))
    for entry in directory.iterdir():
        if entry.name == "lock":
            continue
        if entry.is_dir():
            remove_tree(entry)
        else:
            entry.unlink()


def _start(directory: Path, settings: Local, owner: int) -> Running:
    ours, theirs = os.pipe()
    package = str(Path(__file__).parents[2])
    environment = {name: value for name, value in os.environ.items() if name != spawner.MARK}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH", "")]))
    with open(directory / "log", "ab") as log, open(ours) as ready:
        try:
            child = subprocess.Popen(
                [sys.executable, "-m", __name__, str(directory), str(theirs), json.dumps(asdict(settings)), str(owner)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=environment,
                pass_fds=[theirs],
                start_new_session=True,
            )
        finally:
            os.close(theirs)
        try:
            child.wait(START_SECONDS)  # it goes on in a child of its own
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        said = ready.readline() if select.select([ready], [], [], START_SECONDS)[0] else ""
    if not said:
        tail = (directory / "log").read_text(errors="replace").strip().splitlines()[-1:]
        raise HardwayError(f"the local cloud did not start: {''.join(tail) or 'no word from it'} ({directory / 'log'})")
    answer = json.loads(said)
    if "error" in answer:
        raise HardwayError(answer["error"])
    return Running(**{**answer, "settings": settings})


def _end(pid: int) -> None:
    """End a daemon, and wait until it is no more."""
    deadline = time.monotonic() + STOP_SECONDS
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        process = os.pidfd_open(pid)
        try:
            if not select.select([process], [], [], deadline - time.monotonic())[0]:
                os.kill(pid, signal.SIGKILL)
                select.select([process], [], [], STOP_SECONDS)
        finally:
            os.close(process)


# the daemon


def main() -> None:
    """Serve until SIGTERM, or the owner's end.

    Arguments: state directory, descriptor to say on that it is up, settings as JSON, pid of the owner or 0.
    """
    directory, ready, settings = Path(sys.argv[1]), int(sys.argv[2]), Local(**json.loads(sys.argv[3]))
    owner = int(sys.argv[4])
    os.set_inheritable(ready, False)
    # Before the fork: whoever is interrupted while we start either still has a child to kill or sees this held.
    alive = os.open(directory / "alive", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(alive, fcntl.LOCK_EX)
    if os.fork():
        os._exit(0)
    os.umask(0o022)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("asyncssh").setLevel(logging.CRITICAL)
    gc.disable()  # until all is loaded: it takes a second off the start
    with open(ready, "w") as report:
        try:
            if asyncio.run(_serve(directory, settings, owner, report)):
                remove_tree(directory)
        except HardwayError as error:
            print(json.dumps({"error": str(error)}), file=report)
        except BaseException:
            logging.exception("the daemon failed")
    os._exit(0)  # all is closed; and `alive` is let go of only as the process ends


async def _serve(directory: Path, settings: Local, owner: int, report: TextIO) -> bool:
    """Returns whether it is over since the owner is gone: then nobody else is there to clear up."""
    stop, orphaned, broken = asyncio.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def ended_by(number: signal.Signals) -> None:
        logging.warning("ended by %s", number.name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended_by, number)
    (directory / "instances").mkdir()
    processes = Spawner(directory)
    try:
        toolbox = Toolbox.create(directory)
        isolation = await choose(settings.isolation, processes, toolbox, directory / "probe")
        from hardway.local.cloud import Cloud

        cloud = Cloud(directory, processes, toolbox, isolation, settings.boot_delay)
        cloud.start()
        try:
            said = {
                "pid": os.getpid(),
                "endpoint": cloud.endpoint,
                "ssh_port": cloud.addresses.port,
                "isolation": str(isolation),
                "level": isolation.level,
                "settings": asdict(settings),
            }
            (directory / "daemon.json").write_text(json.dumps(said))
            print(json.dumps(said), file=report, flush=True)
            report.close()
            _settle_memory()
            with _ends(loop, processes.pid, stop, broken), _ends(loop, owner, stop, orphaned):
                await stop.wait()
            if broken.is_set():
                logging.error("the process that starts those of instances (%d) was killed", processes.pid)
        finally:
            await cloud.stop()
    finally:
        processes.close()
    return orphaned.is_set()


@contextlib.contextmanager
def _ends(loop: asyncio.AbstractEventLoop, pid: int, *events: asyncio.Event) -> Iterator[None]:
    """In this block, the end of a process (0: none) sets the events."""

    def ended() -> None:
        for event in events:
            event.set()

    if not pid:
        yield
        return
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        ended()
        yield
        return
    loop.add_reader(process, ended)
    try:
        yield
    finally:
        loop.remove_reader(process)
        os.close(process)


def _settle_memory() -> None:
    """Give back what loading moto took and left; what stays isn't worth looking through again."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    gc.freeze()
    gc.enable()


if __name__ == "__main__":
    main()
