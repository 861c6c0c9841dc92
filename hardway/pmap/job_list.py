"""The jobs on this machine: find the one to resume, list their states, delete them."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from hardway import files
from hardway.errors import Failed, HardwayError, reason_of
from hardway.pmap.job import KEY_SIZE, Damaged, content_of, lock, open_file, read_asked, read_journal, read_keys
from hardway.pmap.job_paths import all_jobs, made
from hardway.pmap.journal import History
from hardway.tables import Table, count, duration, money
from hardway.terminal import printable

_TAIL = 1 << 16  # bytes at the end of a journal, more than the line at the end of a run takes


def latest(fingerprint: str, where: Mapping[str, str]) -> tuple[Path | None, list[str]]:
    """Return the newest job with this fingerprint that ran in the world `where`, and notes about other jobs.

    The notes name newer jobs with this fingerprint that ran elsewhere, and jobs that can't be read.
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
    """Return text about how a job's world differs from this one; empty if no difference is known."""
    unlike = [
        f"{what} {then.get(what) or 'none'}, here {now.get(what) or 'none'}"
        for what in ("endpoint", "account", "region", "session of the S3 stub")
        if then.get(what, "") != now.get(what, "")
        and (what not in ("account", "region") or (then.get(what) and now.get(what)))
    ]
    return "; ".join(unlike)


def latest_durations(command: str, besides: Path) -> dict[bytes, float]:
    """Return the tasks' durations in seconds, by key, in the newest other job with this command; empty without one.

    The durations are for estimates: nothing is checked, and the files a job depended on may have changed since.
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
    """Return whether a living process drives the job."""
    try:
        fd = open_file(path / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        return not files.lock(fd, shared=True)
    finally:
        os.close(fd)


def remove(path: Path) -> None:
    """Delete a job, even a damaged one. Raises Failed while the job is driven, and if it can't be deleted."""
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
    """Describe a job: name, label, state (see `state_of`, or damaged), command, numbers of tasks (all, done, failed).

    The rest is the creation time (seconds of Unix), the duration in seconds, the number of instances and their cost in
    USD, each None if unknown; `damage` is the reason that the job is damaged.
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


def unfinished(most: int) -> tuple[list[dict[str, Any]], int]:
    """Describe the jobs that have not run all their tasks, the newest ones first, and count the others.

    At most `most` are described. `resume` is the command line that goes on with a job, empty if it isn't known.
    """
    paths = [path for path in reversed(all_jobs()) if not _seems_done(path)]
    found: list[dict[str, Any]] = []
    for place, path in enumerate(paths):
        if len(found) == most:
            return found, len(paths) - place
        one = describe(path)
        if one["state"] not in ("done", "damaged"):
            line = ""
            with contextlib.suppress(Damaged):
                line = content_of(path / "resume").decode(errors="surrogateescape").strip()
            found.append({**one, "resume": line})
    return found, 0


def _seems_done(path: Path) -> bool:
    """Return whether the last event in the journal is the good end of a run, without a look at the rest of it."""
    try:
        with FileIO(open_file(path / "journal", os.O_RDONLY)) as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            last = file.readall().rstrip(b"\n").rpartition(b"\n")[2]
    except OSError:
        return False
    return b" over {" in last and b'"why": "done"' in last


def state_of(path: Path, history: History) -> str:
    """Return running, done, failed or stopped. A job has failed if its last run ended with a failure."""
    if is_driven(path):
        return "running"
    if 0 < history.tasks == len(history.results):
        return "done"
    why = str(history.runs[-1].get("why", "")) if history.runs else ""  # empty where the driver was killed
    by_person = why in ("", "done", "stopped", "interrupted") or why.startswith("SIG")
    return "stopped" if by_person else "failed"
