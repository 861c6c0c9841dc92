"""Lists of jobs need no journals; jobs leave few files on the disk; the right jobs are deleted."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from invoke import Context

from hardway.errors import UsageError
from hardway.pmap import job_list, job_paths
from hardway.pmap.job import Job, keys_of, read_asked
from hardway.tables import size
from tasks import mapreduce_jobs

DAY = 86400


def make(name: str, done: int = 2, why: str = "done") -> Path:
    """A job of two tasks, of which some are done."""
    with Job.create("cat", name=name) as job:
        job.number(keys_of([b"a", b"b"]))
        job.event("run", tasks=2, timeout=0.0)
        for task in range(1, done + 1):
            job.started(task, 1, "i-1")
            job.done(task, job.ended(task, 1, "i-1", 0, 0, 0.5, b"x" * 9000, b""))
        job.event("over", why=why, prices={}, seconds=2.0, driver=0.1, instances=3, cost=0.25)
    return job.path


def age(path: Path, days: float) -> None:
    """Let the job be as if nothing had been done on it for so long."""
    then = time.time() - days * DAY
    os.utime(path / "journal", (then, then))


def test_a_list_tells_what_the_journal_tells(home: Path) -> None:
    path = make("j", done=1, why="failed")
    listed = job_list.describe(path)
    assert (listed["state"], listed["done"], listed["tasks"], listed["seconds"]) == ("failed", 1, 2, 2.0)
    assert (listed["instances"], listed["cost"]) == (3, 0.25)
    assert listed["bytes"] >= 9000
    (path / "summary").unlink()
    assert job_list.describe(path) | {"bytes": 0} == listed | {"bytes": 0}


def test_a_summary_that_is_stale_or_another_jobs_is_not_believed(home: Path) -> None:
    path, other = make("j", done=1, why="failed"), make("other")
    whole = (path / "summary").read_bytes()
    for wrong in ((other / "summary").read_bytes(), whole.replace(b'"done": 1', b'"done": 2'), b"", whole[:40]):
        (path / "summary").write_bytes(wrong)
        assert job_list.describe(path)["done"] == 1
    for name in ("job.json", "journal", "keys", "heads"):
        good = (path / name).read_bytes()
        assert job_list.describe(path)["state"] == "failed"
        (path / name).write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        assert name in ("journal",) or job_list.describe(path)["state"] == "damaged", name
        (path / name).write_bytes(good)


def test_a_driven_job_runs_and_one_whose_driver_was_killed_has_stopped(home: Path) -> None:
    path = make("j", done=1)
    with Job(path) as job:
        assert job_list.describe(path)["state"] == "running"
        job.number(keys_of([b"new"]))
        assert job_list.describe(path)["tasks"] == 3
        kept = (path / "summary").read_bytes()
    assert job_list.describe(path)["state"] == "stopped"
    (path / "summary").write_bytes(kept)  # as `kill -9` leaves it
    assert job_list.describe(path)["state"] == "stopped"


def test_only_finished_jobs_are_deleted_for_their_age(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, done, days in (("old", 2, 8), ("unfinished", 1, 8), ("new", 2, 6)):
        age(make(name, done), days)
    with Job(make("driven")) as driven:
        age(driven.path, 8)
        mapreduce_jobs.rm(Context(), older_than="7d", yes=True)
    assert {path.name for path in job_paths.all_jobs()} == {"unfinished", "new", "driven"}
    assert "1 unfinished job kept, name them to delete them: unfinished" in capsys.readouterr().err
    mapreduce_jobs.rm(Context(), "new", older_than="1w", yes=True)
    assert "no finished job is older than 1w" in capsys.readouterr().err
    with pytest.raises(UsageError, match="which jobs"):
        mapreduce_jobs.rm(Context(), yes=True)
    with pytest.raises(UsageError, match="--older-than '7': it must be a number and"):
        mapreduce_jobs.rm(Context(), "*", older_than="7", yes=True)
    assert job_list.prune(7, besides=driven.path) == []
    [said] = job_list.prune(7, besides=Path("none"))
    assert said.startswith("1 finished job older than 7 days deleted (")
    assert {path.name for path in job_paths.all_jobs()} == {"unfinished", "new"}


def test_of_failed_attempts_the_last_ones_stdout_is_kept(home: Path, tmp_path: Path) -> None:
    def fail(job: Job, attempt: int, long: bool = False) -> None:
        stdout = tmp_path / "large"
        stdout.write_bytes(b"%d" % attempt * 100_000)
        job.started(1, attempt, "i-1")
        last = job.ended(1, attempt, "i-1", 1, 0, 0.5, stdout if long else stdout.read_bytes(), b"no\n")
        job.failed(1, last)
        job.flush()
        assert b"".join(job.pieces(1, last)) == b"%d" % attempt * 100_000

    def kept(job: Job) -> list[str]:
        return sorted(path.name for path in (job.path / "large").iterdir() if path.suffix == ".stdout")

    with Job.create("cat", name="j") as job:
        job.number(keys_of([b"a"]))
        fail(job, 1)
        fail(job, 2, long=True)
        assert kept(job) == ["1.2.stdout"]
        (job.path / "large" / "1.1.stdout").touch()  # as a driver leaves it that is killed before it deletes
    with Job(job.path) as job:
        assert kept(job) == ["1.2.stdout"]
        fail(job, 3)
        assert kept(job) == ["1.3.stdout"]
        job.done(1, job.ended(1, 4, "i-1", 0, 0, 0.5, b"good", b""))
        job.flush()
        assert kept(job) == []
        assert (job.path / "stdout").stat().st_size == 4
    assert read_asked(job.path).name == "j"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (1024, "1 KB"), (1536, "1.5 KB"), (999 * 1024, "999 KB"), (20 << 20, "20 MB")],
)
def test_sizes_are_told_for_people(number: int, text: str) -> None:
    assert size(number) == text
