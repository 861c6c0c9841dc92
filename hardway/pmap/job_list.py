"""The jobs on this machine: which one goes on, what each came to, and their end."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hardway import files
from hardway.errors import Failed, HardwayError, reason_of
from hardway.pmap.job import KEY_SIZE, Damaged, content_of, lock, open_file, read_asked, read_journal, read_keys
from hardway.pmap.job_paths import all_jobs, made
from hardway.tables import Table, count, duration
from hardway.terminal import printable


def latest(fingerprint: str, where: Mapping[str, str]) -> tuple[Path | None, list[str]]:
    """Find the newest job with this fingerprint that ran there; and what is to be said of others.

    The others are newer jobs of this fingerprint that ran elsewhere, and jobs that can't be looked at.
    """
    said = []
    for path in reversed(all_jobs()):
        try:
            asked = read_asked(path)
        except HardwayError as error:
            said.append(str(error))
            continue
        if asked.fingerprint == fingerprint:
            if not (other := elsewhere(asked.where, where)):
                return path, said
            said.append(f"job {asked.name} is not gone on with: it ran elsewhere ({other})")
    return None, said


def elsewhere(then: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Say how the world in which a job ran differs from this one; empty where it doesn't, as far as is known."""
    unlike = [
        f"{what} {then.get(what) or 'none'}, here {now.get(what) or 'none'}"
        for what in ("endpoint", "account", "region", "session of the S3 stub")
        if then.get(what, "") != now.get(what, "")
        and (what not in ("account", "region") or (then.get(what) and now.get(what)))
    ]
    return "; ".join(unlike)


def latest_durations(command: str, besides: Path) -> dict[bytes, float]:
    """Return what tasks took, in seconds, by key, in the newest other job that ran the command, if one did.

    The files a job depended on may have changed since, and nothing is checked: this is for estimates.
    """
    for path in reversed(all_jobs()):
        with contextlib.suppress(HardwayError, OSError):
            if path != besides and read_asked(path).command == command:
                return _durations(path)
    return {}


def _durations(path: Path) -> dict[bytes, float]:
    keys = content_of(path / "keys")
    found = {}
    for line in content_of(path / "journal").split(b"\n"):
        # end TASK ATTEMPT HOST ENDED CODE FLAGS SECONDS ...
        words = line.split(b" ", 8)
        if len(words) == 9 and words[0] == b"end" and words[5:7] == [b"0", b"0"]:
            with contextlib.suppress(ValueError):
                at = (int(words[1]) - 1) * KEY_SIZE
                seconds = float(words[7])
                if 0 <= seconds < math.inf:
                    found[keys[at : at + KEY_SIZE]] = seconds
    return found


def is_driven(path: Path) -> bool:
    """Tell whether a living process drives the job."""
    try:
        fd = open_file(path / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        return not files.lock(fd, shared=True)
    finally:
        os.close(fd)


def remove(path: Path) -> None:
    """Delete a job, one that is damaged too. Raises Failed while it is driven, and where it can't be deleted."""
    fd = -1
    with contextlib.suppress(Damaged):
        fd = lock(path, path.name)
    try:
        if path.is_symlink():
            path.unlink()
        else:
            shutil.rmtree(path)
    except OSError as error:
        raise Failed(f"cannot delete {printable(str(error.filename or path))}: {reason_of(error)}") from None
    finally:
        if fd >= 0:
            os.close(fd)


class Jobs(Table[dict[str, Any]]):
    """Jobs as `describe` gives them."""

    def __init__(self, jobs: Iterable[dict[str, Any]] = ()) -> None:
        super().__init__(
            jobs,
            *("name", "state"),
            lambda job: f"{job['done']}/{job['tasks']}",
            lambda job: count(job["failed"], "failed attempt") if job["failed"] else "",
            lambda job: f"{duration(max(0, int(time.time() - job['created'])), 2)} ago",
            lambda job: job["damage"] or printable(job["command"].replace("\n", " "))[:60],
        )


def describe(path: Path) -> dict[str, Any]:
    """Describe a job: name, state (running, done, stopped, damaged), tasks, done, failed, created (seconds of Unix).

    And its command; `damage` says what is damaged.
    """
    found: dict[str, Any] = {"name": path.name, "state": "damaged", "tasks": 0, "done": 0, "failed": 0}
    found |= {"created": made(path), "command": "", "damage": ""}
    try:
        asked = read_asked(path)
        found |= {"created": asked.created, "command": asked.command}
        _, history = read_journal(path, asked)
        read_keys(path, history)
    except HardwayError as error:
        return found | {"damage": error.what if isinstance(error, Damaged) else str(error)}
    tasks, done = history.tasks, len(history.results)
    state = "running" if is_driven(path) else "done" if 0 < tasks == done else "stopped"
    return found | {"state": state, "tasks": tasks, "done": done, "failed": sum(history.failed.values())}
