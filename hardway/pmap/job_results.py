"""A job's results and its failed tasks, read from its directory: `mapreduce.results` prints them.

Tasks are in the order of their numbers: the order of the arguments, if all runs had the same arguments.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hardway.errors import Failed, PartlyFailed
from hardway.pmap.endings import how_it_ended
from hardway.pmap.job import Outputs, read_arguments, read_asked, read_journal
from hardway.pmap.journal import Result
from hardway.pmap.results import FailedTask, Results
from hardway.tables import count

TAIL = 2000  # bytes of the end of a failed task's stderr that are shown


def failed_task(outputs: Outputs, task: int, argument: bytes, result: Result, timeout: float) -> FailedTask:
    """Describe a task that failed with this result; `timeout` is its time limit in seconds."""
    said = outputs.tail(task, result, TAIL).decode(errors="replace")
    text = argument.decode("utf-8", "surrogateescape")
    return FailedTask(task, text, result.code, how_it_ended(result, timeout), said, result.attempt, result.host)


class JobResults:
    """The known facts about a job's tasks; another process may drive the job."""

    def __init__(self, path: Path) -> None:
        """Read a job. Raises Damaged."""
        self._name = path.name
        self._path = path
        asked = read_asked(path)
        self._batch = asked.batch
        _, self._history = read_journal(path, asked)
        self._outputs = Outputs(path)

    def results(self) -> Results:
        """Return all results. If a task has none, raises PartlyFailed with the existing results."""
        history, outputs = self._history, self._outputs
        missing = {place for place in range(history.tasks) if place + 1 not in history.results}
        found = Results(
            history.tasks,
            lambda place: outputs.pieces(place + 1, history.results[place + 1]),
            missing=missing,
        )
        if missing:
            failed = sum(place + 1 in history.failed for place in missing)
            what = f"{failed} failed, {len(missing) - failed} not finished"
            raise PartlyFailed(
                f"{len(missing)} of {count(history.tasks, 'task')} have no result: {what}",
                found,
            )
        return found

    def arguments(self, failed: bool = False) -> Results:
        """Return the arguments of all tasks, or of failed tasks, one a line. Raises Failed for missing arguments."""
        chosen = [place for place in range(self._history.tasks) if not failed or self._has_failed(place + 1)]
        known = read_arguments(self._path, self._history)
        texts = [text for place in chosen if (text := known[place]) is not None]
        if len(texts) < len(chosen):
            raise Failed(f"{len(chosen) - len(texts)} arguments are not in the job's directory, or damaged there")
        if any((b"\0" if self._batch else b"\n") in text for text in texts):
            raise Failed("arguments of this job contain newlines, so they can't be printed one a line: use --json")
        return Results(len(texts), lambda place: [texts[place]], lines=True)

    def as_json(self) -> str:
        """Return the known facts about each task, as a JSON array of objects."""
        known = read_arguments(self._path, self._history)
        return json.dumps([self._about(place + 1, known) for place in range(self._history.tasks)], indent=2)

    def _has_failed(self, task: int) -> bool:
        return task in self._history.failed and task not in self._history.results

    def _about(self, task: int, known: Sequence[bytes | None]) -> dict[str, Any]:
        history, argument = self._history, known[task - 1]
        about: dict[str, Any] = {"task": task, "argument": None if argument is None else _text(argument)}
        result = history.results.get(task)
        about["state"] = "done" if result else "failed" if self._has_failed(task) else "not finished"
        about["attempts"] = history.attempts.get(task, 0)
        result = result or history.failed.get(task)
        if result:
            about |= {"exit_code": result.code, "how": how_it_ended(result), "seconds": result.seconds}
            about["instance"] = result.host
            about["stdout"] = _text(b"".join(self._outputs.pieces(task, result)))
            about["stderr"] = _text(self._outputs.tail(task, result, TAIL))
        return about


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
