"""Runs a person's command when a job is over: `--notify`."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping

from hardway.config import child_environment
from hardway.errors import HardwayError, reason_of
from hardway.pmap import summary
from hardway.pmap.job import Job
from hardway.terminal import printable

SECONDS = 60.0  # that the command may take


def variables(job: Job, error: str) -> dict[str, str]:
    """Return the command's variables: the end of the job, and its numbers. An unknown number is empty."""
    about = summary.of_history(job.history)
    known: Mapping[str, object] = {
        "job": job.asked.name,
        "name": job.asked.label,
        "state": summary.ending_of(job.history),
        **{name: about[name] for name in ("tasks", "done", "failed", "seconds", "instances", "cost")},
        "error": error,
    }
    return {f"HARDWAY_{name}".upper(): "" if value is None else str(value) for name, value in known.items()}


class Notifier:
    """Runs the command at the end of a block in which a job was driven, if the job is done or has failed."""

    def __init__(self, command: str) -> None:
        self._command = command
        self._job: Job | None = None
        self._runs = 0
        self._say: Callable[[str], None] = lambda line: None

    def watch(self, job: Job, say: Callable[[str], None]) -> None:
        """Take the job that is about to be driven; `say` is told when something is wrong with the command."""
        self._job, self._runs, self._say = job, len(job.history.runs), say

    @contextlib.contextmanager
    def at_end(self) -> Iterator[None]:
        """Run the command after this block, and go on with its error."""
        try:
            yield
        except HardwayError as error:
            self._tell(str(error))
            raise
        self._tell("")

    def _tell(self, error: str) -> None:
        if not self._command or self._job is None or len(self._job.history.runs) == self._runs:
            return
        added = variables(self._job, error)
        if added["HARDWAY_STATE"] != "stopped" and (failure := _run(self._command, added)):
            self._say(f"--notify: {failure}")


def _run(command: str, added: Mapping[str, str]) -> str:
    """Run the command by bash; return the problem, empty for none. Its stdout is our stderr: stdout is for results."""
    environment = child_environment({name: text.replace("\0", "") for name, text in added.items()})
    words, nothing = ["bash", "-c", command], subprocess.DEVNULL
    try:
        out = 2 if _is_open(2) else nothing
        process = subprocess.Popen(words, stdin=nothing, stdout=out, env=environment, start_new_session=True)
    except OSError as failure:
        return reason_of(failure)
    try:
        code = process.wait(SECONDS)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return f"{printable(command)} had not ended within {SECONDS:g} s, and was killed"
    return f"{printable(command)} ended with exit code {code}" if code else ""


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
