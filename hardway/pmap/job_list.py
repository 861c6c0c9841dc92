"""The jobs on this machine: find the one to resume, list their states, delete them."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hardway import files
from hardway.errors import Failed, HardwayError, UsageError, reason_of
from hardway.pmap import summary
from hardway.pmap.job import (
    KEY_SIZE,
    Damaged,
    content_of,
    lock,
    open_file,
    read_asked,
    read_journal,
    read_keys,
    summarize,
)
from hardway.pmap.job_paths import all_jobs, jobs_path, made
from hardway.pmap.journal import DETACHED
from hardway.tables import Table, count, duration, money, size
from hardway.terminal import command_line, printable


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
            said.append(f"job {asked.name} can't be resumed here: it ran elsewhere ({other})")
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
    """Jobs as `describe` gives them, the oldest first."""

    def __init__(self, jobs: Iterable[dict[str, Any]] = ()) -> None:
        now = time.time()
        super().__init__(
            sorted(jobs, key=lambda job: job["created"]),
            *("name", "label", "state"),
            lambda job: f"{job['done']}/{job['tasks']}",
            lambda job: f"{job['failed']} failed" if job["failed"] else "",
            lambda job: f"{duration(max(0, int(now - job['created'])), 2)} ago",
            lambda job: None if job["seconds"] is None else f"took {duration(job['seconds'], 2)}",
            lambda job: None if job["instances"] is None else count(job["instances"], "instance"),
            lambda job: None if job["cost"] is None else money(job["cost"]),
            lambda job: size(job["bytes"]),
            lambda job: job["damage"] or printable(job["command"][:60].replace("\n", " "))[:60],
        )


def describe(path: Path) -> dict[str, Any]:
    """Describe a job: name, label, command, state (running, done, failed, stopped, detached or damaged), numbers of
    tasks (all, done, failed).

    The other facts, each None if unknown: the times of its creation and of the last work on it (seconds of Unix), its
    duration in seconds, the number of instances, and their cost in USD. `bytes` is its size on the disk, and `damage`
    the reason that it is damaged.
    """
    known = summary.read(path)
    if known is None or (known["state"] == summary.RUNNING and not is_driven(path)):
        known = _described(path)
    if known["state"] == summary.RUNNING:
        known["seconds"] = max(0.0, time.time() - known["created"])
        known["bytes"] = summary.size_of(path)
    return known


def _described(path: Path) -> dict[str, Any]:
    """Describe a job from all its files, and keep its summary."""
    found: dict[str, Any] = {"name": path.name, "label": "", "state": "damaged", "tasks": 0, "done": 0, "failed": 0}
    found |= {"created": made(path), "ended": None, "seconds": None, "instances": None, "cost": None}
    found |= {"bytes": summary.size_of(path), "command": "", "damage": ""}
    try:
        asked = read_asked(path)
        found |= {"created": asked.created, "label": asked.label, "command": asked.command}
        _, history = read_journal(path, asked)
        read_keys(path, history)
    except HardwayError as error:
        return found | {"damage": error.what if isinstance(error, Damaged) else str(error)}
    if is_driven(path):
        return found | summary.of_history(history) | {"state": summary.RUNNING}
    return summarize(path, asked, history, summary.ending_of(history))


def unfinished(most: int) -> tuple[list[dict[str, Any]], int]:
    """Describe the jobs that have not run all their tasks, the newest ones first, and count those beyond `most`.

    `resume` is the command line that goes on with a job, empty if it isn't known.
    """
    described = map(describe, reversed(all_jobs()))
    found = [one for one in described if one["state"] not in ("done", "damaged")]
    return [{**one, "resume": _next_line(one)} for one in found[:most]], max(0, len(found) - most)


def _next_line(job: Mapping[str, Any]) -> str:
    if job["state"] == DETACHED:
        return command_line("mapreduce.wait", job["name"])
    return resume_line(job["name"])


def resume_line(name: str) -> str:
    """Return the command line that goes on with a job; empty if it isn't known."""
    try:
        return content_of(jobs_path() / name / "resume").decode(errors="surrogateescape").strip()
    except Damaged:
        return ""


def parse_age(text: str) -> float:
    """Return the seconds of an age such as 7d, 12h or 90m. Raises UsageError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if not found:
        raise UsageError(f"--older-than {printable(text)!r}: it must be a number and s, m, h, d or w, such as 7d")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}[found[2]]


def prunable(paths: Iterable[Path], seconds: float) -> tuple[list[Path], list[str]]:
    """Return the finished jobs without any work for `seconds`, and the names of unfinished ones.

    A job whose tasks have not all succeeded can be resumed, so that it is deleted by its name only.
    """
    before, old, kept = time.time() - seconds, [], []
    for path in paths:
        about = describe(path)
        if about["state"] == summary.RUNNING or (about["ended"] or about["created"]) > before:
            continue
        if about["state"] == "done":
            old.append(path)
        else:
            kept.append(path.name)
    return old, kept


def prune(days: float, besides: Path) -> list[str]:
    """Delete the finished jobs without any work for `days`; return lines that say so."""
    old, _ = prunable((path for path in all_jobs() if path != besides), days * 86400)
    freed, deleted = 0, 0
    for path in old:
        with contextlib.suppress(HardwayError):  # the job stays, for example because somebody resumes it now
            held = summary.size_of(path)
            remove(path)
            freed, deleted = freed + held, deleted + 1
    if not deleted:
        return []
    return [f"{count(deleted, 'finished job')} older than {days:g} days deleted ({size(freed)}): mapreduce.keep_days"]
