"""A job in short, kept beside its journal, so that a list of jobs need not read their journals.

The driver writes the summary while it works, and a last time when it closes the job. A listing makes a missing or
invalid summary again, from the journal. A summary of an ended job names the sizes and times of the files that it was
made from: once one of them has changed, the summary is stale. A summary of a running job is valid while it runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from hardway import files
from hardway.pmap.journal import DETACHED, History

NAME = "summary"
RUNNING = "running"
_MADE_FROM = ("job.json", "journal", "keys", "heads")
_MOST = 1 << 20  # bytes; a command may be long
_DIGEST = 32


def write(path: Path, about: dict[str, Any], journal: int) -> None:
    """Keep the description of a job that was made from its files just now, and the checksum of its `journal`.

    A disk that takes no more is no error.
    """
    file = path / NAME
    try:
        made_from = [] if about["state"] == RUNNING else _stats(os.fspath(path))
        data = json.dumps({"made_from": made_from, "about": about, "journal": journal}).encode()
        files.write(file, [_digest(data), data])
    except (OSError, ValueError):
        with contextlib.suppress(OSError):
            file.unlink()


def read(path: Path) -> dict[str, Any] | None:
    """Return the kept description of a job; None if there is none, or the job's files have changed since."""
    found: dict[str, Any] | None = _kept(path).get("about")
    return found


def journal_checksum(path: Path) -> int | None:
    """Return the checksum (CRC-32) of the whole journal of a job that has ended; None if it isn't known."""
    kept = _kept(path)
    return kept["journal"] if kept and kept["about"]["state"] != RUNNING else None


def _kept(path: Path) -> dict[str, Any]:
    """Return the content of a valid summary, else nothing."""
    place = os.fspath(path)
    try:
        about = os.stat(place)
        if not files.is_ours(about) or about.st_mode & 0o022:
            return {}
        fd = os.open(f"{place}/{NAME}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            data = os.read(fd, _MOST)
        finally:
            os.close(fd)
        if data[:_DIGEST] != _digest(data[_DIGEST:]):
            return {}
        kept: dict[str, Any] = json.loads(data[_DIGEST:])
        found, checksum = kept["about"], kept["journal"]
        if type(checksum) is not int or found["name"] != path.name:
            return {}
        if found["state"] != RUNNING and kept["made_from"] != _stats(place):
            return {}
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return kept


def of_history(history: History) -> dict[str, Any]:
    """Return the numbers of tasks (all, done, failed), and duration in seconds, instances and cost in USD, if known."""
    found: dict[str, Any] = {"tasks": history.tasks, "done": len(history.results)}
    found["failed"] = len(history.failed.keys() - history.results.keys())
    found |= {"seconds": None, "instances": None, "cost": None}
    with contextlib.suppress(KeyError, TypeError, ValueError):  # an older job has no such figures
        runs = [run for run in history.runs if run]
        found["seconds"] = math.fsum(run["seconds"] for run in runs) if runs else None
        found["instances"] = max((run["instances"] for run in runs), default=None)
        found["cost"] = math.fsum(run["cost"] for run in runs) or None
    return found


def ending(tasks: int, done: int, why: str, alone: bool) -> str:
    """Return done, failed, stopped or detached, for a job without a driver.

    `why` is why its last run ended, empty if unknown. Its agents are `alone` while they go on without a driver.
    """
    if 0 < tasks == done:
        return "done"
    if alone or why == DETACHED:
        return DETACHED
    by_person = why in ("", "done", "stopped", "interrupted") or why.startswith("SIG")
    return "stopped" if by_person else "failed"


def ending_of(history: History) -> str:
    """Return done, failed, stopped or detached, for a job with this history and without a driver."""
    why = str(history.runs[-1].get("why", "")) if history.runs else ""
    return ending(history.tasks, len(history.results), why, history.alone and any(history.sent.values()))


def size_of(path: Path) -> int:
    """Return the bytes that a job takes on the disk; files that can't be read count nothing."""
    total = 0
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                about = entry.stat(follow_symlinks=False)
                total += about.st_blocks * 512
                if stat.S_ISDIR(about.st_mode):
                    total += size_of(Path(entry.path))
    return total


def _stats(place: str) -> list[list[int]]:
    """Return the facts that change with a file's content: its size and times. Raises OSError."""
    found = []
    for name in _MADE_FROM:
        about = os.lstat(f"{place}/{name}")
        found.append([about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino])
    return found


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST // 2).hexdigest().encode()
