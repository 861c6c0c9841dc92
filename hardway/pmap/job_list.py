"""The jobs on this machine: find the one to resume, list their states, delete them."""

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
from hardway.pmap.journal import History
from hardway.tables import Table, count, duration, money
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
            *("name", "label", "state"),
            lambda job: f"{job['done']}/{job['tasks']}",
            lambda job: f"{job['failed']} failed" if job["failed"] else "",
            lambda job: f"{duration(max(0, int(time.time() - job['created'])), 2)} ago",
            lambda job: None if job["seconds"] is None else f"took {duration(job['seconds'], 2)}",
            lambda job: None if job["instances"] is None else count(job["instances"], "instance"),
            lambda job: None if job["cost"] is None else money(job["cost"]),
            lambda job: job["damage"] or printable(job["command"].replace("\n", " "))[:60],
        )


def describe(path: Path) -> dict[str, Any]:
    """Describe a job: name, label, state (see `state_of`, or damaged), tasks, those done and failed, command.

    And when it was created (seconds of Unix), how many seconds it took, on how many instances, and what they cost in
    USD, each None where it isn't known; `damage` says what is damaged.
    """
    found: dict[str, Any] = {"name": path.name, "label": "", "state": "damaged", "tasks": 0, "done": 0, "failed": 0}
    found |= {"created": made(path), "seconds": None, "instances": None, "cost": None, "command": "", "damage": ""}
    try:
        asked = read_asked(path)
        found |= {"created": asked.created, "label": asked.label, "command": asked.command}
        _, history = read_journal(path, asked)
        read_keys(path, history)
    except HardwayError as error:
        return found | {"damage": error.what if isinstance(error, Damaged) else str(error)}
    state = state_of(path, history)
    found |= {"state": state, "tasks": history.tasks, "done": len(history.results)}
    found["failed"] = len(history.failed.keys() - history.results.keys())
    with contextlib.suppress(KeyError, TypeError, ValueError):  # an older job has no such figures
        runs = [run for run in history.runs if run]
        found["seconds"] = math.fsum(run["seconds"] for run in runs) if runs else None
        found["instances"] = max((run["instances"] for run in runs), default=None)
        found["cost"] = math.fsum(run["cost"] for run in runs) or None
    if state == "running":
        found["seconds"] = max(0.0, time.time() - asked.created)
    return found


def state_of(path: Path, history: History) -> str:
    """Return running, done, failed or stopped. A job has failed if its last run ended by a failure."""
    if is_driven(path):
        return "running"
    if 0 < history.tasks == len(history.results):
        return "done"
    why = str(history.runs[-1].get("why", "")) if history.runs else ""  # empty where the driver was killed
    by_person = why in ("", "done", "stopped", "interrupted") or why.startswith("SIG")
    return "stopped" if by_person else "failed"
