"""The places and names of jobs on this machine."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
from collections.abc import Iterable
from pathlib import Path

from platformdirs import user_state_path

from hardway.errors import Failed, UsageError, did_you_mean, reason_of
from hardway.terminal import command_line, printable

# An instance has a directory of this name, a token and its own id; file names end at 255 bytes, on eCryptfs at 143.
NAME_MOST = 100
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def jobs_path() -> Path:
    """Return the directory of all jobs."""
    return user_state_path("hardway") / "jobs"


def check_name(name: str) -> None:
    """Check a job's name. Raises UsageError for a text that can't be one, here or on an instance."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"a job's name has letters of ASCII, digits and - _ . only, not {printable(name)!r}")
    if len(name) > NAME_MOST:
        raise UsageError(f"a job's name has {NAME_MOST} characters at most: {name[:20]}... has {len(name)}")


def all_jobs() -> list[Path]:
    """Return the directories of all jobs, oldest first, damaged ones too."""
    return sorted(each_job(), key=made)


def each_job() -> list[Path]:
    """Return the directories of all jobs in no order, which is faster."""
    try:
        with os.scandir(jobs_path()) as entries:
            return [Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise Failed(f"cannot read {jobs_path()}: {reason_of(error)}") from None


def made(path: Path) -> float:
    """Return when a job was made, in seconds of Unix, even if the job is damaged."""
    for file in (path / "job.json", path):
        with contextlib.suppress(OSError):
            return file.lstat().st_mtime
    return 0.0


def find(names: str | Iterable[str]) -> list[Path]:
    """Find the jobs of these names or globs; a text has white space between names.

    Raises UsageError for a name that no job has.
    """
    known = {path.name: path for path in all_jobs()}
    found: dict[Path, None] = {}
    for name in names.split() if isinstance(names, str) else names:
        matching = fnmatch.filter(known, name)
        if not matching:
            raise UsageError(no_such(name))
        found.update((known[match], None) for match in matching)
    return list(found)


def newest(name: str) -> Path:
    """Find the job of this name; if a glob matches several, the newest. Raises UsageError."""
    found = find(name)
    if not found:
        raise UsageError(f"which job? `{command_line('mapreduce.jobs')}` lists them; without a name it is the newest")
    return max(found, key=all_jobs().index)


def last() -> Path:
    """Find the newest job of all. Raises UsageError if there is none."""
    found = all_jobs()
    if not found:
        raise UsageError("there is no job on this machine yet")
    return found[-1]


def named(name: str) -> Path:
    """Return the directory for a job of this name, unchecked. Raises UsageError for a text that is no name."""
    if not _NAME.fullmatch(name):
        raise UsageError(no_such(name))
    return jobs_path() / name


def no_such(name: str) -> str:
    """Return the message for a name that no job has."""
    known = [path.name for path in all_jobs()]
    others = f"; `{command_line('mapreduce.jobs')}` lists them" if known else "; nor any other yet"
    hint = did_you_mean(name, known) or others
    return f"there is no job {name!r}{hint}"
