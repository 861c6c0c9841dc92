"""Somebody is told that a job is over, by a command of theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardway.errors import Failed
from hardway.pmap import notify
from hardway.pmap.job import Job, keys_of
from hardway.pmap.notify import Notifier


def drive(job: Job, why: str, done: int = 2) -> None:
    job.event("run", tasks=2, timeout=0.0)
    for task in range(1, done + 1):
        job.started(task, 1, "i-1")
        job.done(task, job.ended(task, 1, "i-1", 0, 0, 0.5, b"x", b""))
    job.event("over", why=why, prices={}, seconds=2.5, driver=0.1, instances=3, cost=0.25)


@pytest.fixture
def job(home: Path) -> Job:
    made = Job.create("cat", name="j", label="nightly")
    made.number(keys_of([b"a", b"b"]))
    return made


def told(job: Job, command: str, why: str = "done", error: str = "", done: int = 2) -> list[str]:
    """Let a run of the job end so, and return what was said of the command."""
    said: list[str] = []
    notifier = Notifier(command)
    try:
        with job, notifier.at_end():
            notifier.watch(job, said.append)
            if why:
                drive(job, why, done)
            if error:
                raise Failed(error)
    except Failed as failure:
        assert str(failure) == error
    return said


NUMBERS = 'echo "$HARDWAY_JOB $HARDWAY_NAME $HARDWAY_STATE $HARDWAY_DONE/$HARDWAY_TASKS $HARDWAY_SECONDS $HARDWAY_COST"'


def test_it_knows_how_the_job_ended_and_its_numbers(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    assert told(job, NUMBERS) == []
    out, err = capfd.readouterr()
    assert (out, err) == ("", "j nightly done 2/2 2.5 0.25\n"), "stdout is for results"


def test_a_failure_is_told_with_its_error(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    assert told(job, 'echo "$HARDWAY_STATE $HARDWAY_DONE: $HARDWAY_ERROR"', "failed", "no instance is left", 1) == []
    assert capfd.readouterr().err == "failed 1: no instance is left\n"


@pytest.mark.parametrize("why", ["", "interrupted"])
def test_nobody_is_told_of_what_never_ran_or_was_interrupted(
    job: Job, why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert told(job, "echo told", why, done=0) == []
    assert capfd.readouterr().err == ""


def test_a_command_that_fails_or_hangs_is_said_and_changes_nothing(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(job, "exit 3") == ["--notify: exit 3 ended with exit code 3"]
    monkeypatch.setattr(notify, "SECONDS", 0.1)
    [said] = told(Job(job.path), "sleep 60")
    assert said == "--notify: sleep 60 had not ended within 0.1 s, and was killed"
