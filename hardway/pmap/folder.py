"""A directory with files for the outcome of each task of one job: `--results`.

The directory belongs to one job, named by a file in it, since the results of two jobs side by side could not be told
apart. The same job may write into the directory again. It then removes its earlier files that no longer have a place.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from hardway import files
from hardway.errors import Failed, UsageError, reason_of
from hardway.pmap.job import Asked, Job
from hardway.pmap.journal import Result
from hardway.system.paths import expanded, is_systems, put
from hardway.terminal import printable

MARK = ".hardway-job"
_OURS = re.compile(rf"\d+\.(stdout|stderr|json)({files.SUFFIX})?")
_ENDINGS = ("stdout", "stderr", "json")


def check(results: str | os.PathLike[str], asked: Asked | None) -> Path:
    """Return the directory that a person named, if this job may write there; `asked` is None for a new job.

    Raises UsageError if the job may not write there. Nothing is changed.
    """
    said = f"--results {printable(os.fspath(results))}"
    folder = expanded(results, said)
    try:
        if is_systems(folder):
            raise UsageError(f"{said}: it is the system's; name a directory of your own")
        if not os.path.lexists(folder):
            return folder
        if not folder.is_dir():
            raise UsageError(f"{said}: it is not a directory")
        owner = _owner(folder)
        ours = [name for name in os.listdir(folder) if _OURS.fullmatch(name) and _is_regular(folder / name)]
    except OSError as error:
        raise UsageError(f"{said}: {reason_of(error)}") from None
    if owner and (asked is None or owner != _mark(asked)):
        raise UsageError(f"{said}: it has the results of job {printable(owner.split()[0])}; name another directory")
    if ours and not owner:
        raise UsageError(f"{said}: it has results of no known job, such as {ours[0]}; name another directory")
    return folder


def _mark(asked: Asked) -> str:
    return f"{asked.name} {asked.token}"


def _owner(folder: Path) -> str:
    """Return the mark of the job that owns the directory, as made by `_mark`; empty if there is no owner."""
    mark = folder / MARK
    try:
        if not _is_regular(mark) and os.path.lexists(mark):
            return "unknown"
        with mark.open("rb") as file:
            return " ".join(file.read(1000).decode(errors="replace").split()) or "unknown"
    except FileNotFoundError:
        return ""


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


class Folder:
    """The files of one run of a job, named by the place of a task's argument, from 1."""

    def __init__(self, job: Job, numbers: Sequence[int], folder: Path) -> None:
        """Mark the directory as the job's, and write the results that exist already. Raises Failed and UsageError."""
        self.job = job
        self.numbers = numbers
        self.folder = folder
        self.width = len(str(len(numbers)))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            check(folder, job.asked)
            put(folder / MARK, [_mark(job.asked).encode() + b"\n"])
            places = range(len(numbers))
            wanted = {self.path(place, ending).name for place in places for ending in _ENDINGS}
            for name in os.listdir(folder):
                if _OURS.fullmatch(name) and name not in wanted and _is_regular(folder / name):
                    (folder / name).unlink()
            for position, number in enumerate(numbers):
                if number not in job.history.results:
                    for ending in _ENDINGS:  # files of a run with the arguments in other places
                        if _is_regular(self.path(position, ending)):
                            self.path(position, ending).unlink()
        except OSError as error:
            raise self._unwritable(error) from None
        for position, number in enumerate(numbers):
            if number in job.history.results:
                self.write(position, job.history.results[number])

    def path(self, position: int, ending: str = "stdout") -> Path:
        """Return the path of the file with this ending for the task at this position."""
        return self.folder / f"{position + 1:0{self.width}}.{ending}"

    def write(self, position: int, result: Result) -> None:
        """Write all of a task's files, each whole or not at all. stdout comes last, since its path is printed.

        Raises Failed if the directory takes no more.
        """
        number = self.numbers[position]
        about = {
            "task": number,
            "attempt": result.attempt,
            "instance": result.host,
            "exit_code": result.code,
            "seconds": round(result.seconds, 6),
            "ended": round(result.ended, 3),
        }
        try:
            put(self.path(position, "json"), [json.dumps(about).encode() + b"\n"])
            for which in ("stderr", "stdout"):
                put(self.path(position, which), self.job.pieces(number, result, which))
        except OSError as error:
            raise self._unwritable(error) from None

    def remove(self, position: int) -> None:
        """Remove a task's files, since its result counts no longer. Raises Failed if the directory doesn't allow it."""
        try:
            for ending in _ENDINGS:
                self.path(position, ending).unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from None

    def _unwritable(self, error: OSError) -> Failed:
        return Failed(f"cannot write to {printable(str(self.folder))}: {reason_of(error)}")
