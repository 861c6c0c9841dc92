"""The life of the local cloud's daemon, from outside: start, find and end it.

Each state directory has one daemon. A locked file shows that the daemon lives, since a killed daemon holds no lock. The
next start clears the files of a killed daemon. `daemon_process` is the daemon itself.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from hardway import config, files
from hardway.config import Local
from hardway.errors import HardwayError, NothingMatched, reason_of
from hardway.local import beneath
from hardway.local.machines import spawner
from hardway.local.running import ALIVE, LOG, RECORD, SPAWNER, Running, own_directories, state_directory
from hardway.terminal import command_line, last_line

PROCESS = "hardway.local.daemon_process"
START_SECONDS = 60
STOP_SECONDS = 20
LOCK_SECONDS = START_SECONDS + STOP_SECONDS


def up(settings: Local, directory: Path | None = None, owner: int = 0) -> tuple[Running, bool]:
    """Start the daemon, or find the running one; return its record, and True for a new one.

    `directory` holds all of its files (None: `state_directory`). A new daemon ends when the process `owner` ends, in
    any way (0: only `down` ends it). Safe to call at the same time. Raises HardwayError with the daemon's own reason if
    it doesn't come up.
    """
    missing = [name for name in ("moto", "flask", "flask_cors", "asyncssh") if importlib.util.find_spec(name) is None]
    if missing:
        raise HardwayError(f"the local cloud needs {' and '.join(missing)}: pip install 'hardway[local]'")
    directory = directory or state_directory()
    with _locked(directory):
        if running := _find(directory):
            return running, False
        _clear(directory)
        return _start(directory, settings, owner), True


def find(directory: Path | None = None) -> Running:
    """Return the running daemon. Raises NothingMatched for none, with the log of one that `down` has not ended."""
    directory = directory or state_directory()
    running = _find(directory)
    if running is None:
        log = directory / LOG
        ended = f" (the last one was not ended by local.down; its log is {log})" if log.exists() else ""
        raise NothingMatched(f'the local cloud is not running{ended}; eval "$({command_line("local.up")})" starts it')
    return running


def down(directory: Path | None = None) -> bool:
    """End the daemon and everything in it, and delete its state; return False if there was none."""
    directory = directory or state_directory()
    if not directory.exists():
        return False
    with _locked(directory):
        running = _find(directory)
        if running:
            _end(running.pid)
        _clear(directory)
        _remove(directory)
    with contextlib.suppress(OSError):
        directory.parent.rmdir()  # the directory is ours, unless jobs are in it
    return running is not None


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep other starts and ends out in this block. Raises HardwayError."""
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
    """Take the lock, if it is free. A file that its former holder has deleted is no lock any more."""
    try:
        _own(directory)
        path = directory / "lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        return None
    with contextlib.suppress(FileNotFoundError):
        if files.lock(lock) and os.fstat(lock).st_ino == os.stat(path).st_ino:
            return lock
    os.close(lock)
    return None


def _own(directory: Path) -> None:
    """Make a directory, and the one around it, for this user alone: they hold the secret.

    Raises FileNotFoundError for a directory that is being removed, HardwayError for other failures.
    """
    for path in own_directories(directory):
        try:
            files.private(path)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise HardwayError(f"the local cloud needs {path}: {reason_of(error)}") from None


def _held(path: Path) -> bool:
    """Return whether some process has this file locked."""
    try:
        with open(path) as file:
            return not files.lock(file, shared=True)
    except FileNotFoundError:
        return False


def _find(directory: Path) -> Running | None:
    if not _held(directory / ALIVE):
        return None
    try:
        return Running.read((directory / RECORD).read_text())
    except FileNotFoundError:
        return None  # still starting


def _clear(directory: Path) -> None:
    """Remove the processes, then the files, of a dead daemon. Raises HardwayError."""
    deadline = time.monotonic() + STOP_SECONDS
    while _held(directory / SPAWNER) or _held(directory / ALIVE):
        if time.monotonic() > deadline:
            raise HardwayError(f"a process of a former local cloud does not end: see fuser {directory / SPAWNER}")
        time.sleep(0.02)
    spawner.kill_marked(str(directory))
    for entry in directory.iterdir():
        if entry.name != "lock":
            _remove(entry)


def _remove(path: Path) -> None:
    try:
        beneath.remove(path)
    except OSError as error:
        raise HardwayError(f"could not remove all of {path}: {reason_of(error)}") from None


def _start(directory: Path, settings: Local, owner: int) -> Running:
    read, write = os.pipe()
    with open(read) as ready:
        try:
            _run_process(directory, settings, owner, write)
        finally:
            os.close(write)
        said = ready.readline() if select.select([ready], [], [], START_SECONDS)[0] else ""
    log = directory / LOG
    if not said:
        why = last_line(log.read_bytes()) or "it did not answer"
        raise HardwayError(f"the local cloud did not start: {why} ({log})")
    refused = json.loads(said).get("error")
    if refused:
        raise HardwayError(refused)
    return Running.read(said)


def _run_process(directory: Path, settings: Local, owner: int, report: int) -> None:
    """Start the daemon, with a descriptor for its report; return when it has gone into the background."""
    package = str(Path(__file__).parents[2])
    environment = config.child_environment(without=(spawner.MARK,))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH", "")]))
    with open(directory / LOG, "ab", opener=files.private_file) as log:
        child = subprocess.Popen(
            [sys.executable, "-m", PROCESS, str(directory), str(report), json.dumps(asdict(settings)), str(owner)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=environment,
            pass_fds=[report],
            start_new_session=True,
        )
        try:
            child.wait(START_SECONDS)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()


def _end(pid: int) -> None:
    """End a daemon, and wait until it has ended."""
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
