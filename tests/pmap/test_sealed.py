"""A job's directory, damaged in any way: what is read is what was written, or the job is refused and named."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from invoke import Context

from hardway.errors import Failed, HardwayError, UsageError
from hardway.pmap import job_list, job_paths
from hardway.pmap.afterwards import report
from hardway.pmap.job import Job, keys_of
from tasks import mapreduce
from tests.conftest import run_inv
from tests.pmap.conftest import Cluster

ARGUMENTS = [b"one\n", b"two\n", b"three\n", b"one\n", b"five\n"]
# Two are equal in length, two in content; two are in files of their own.
ANSWERS = [b"alpha\n", b"betas\n", b"L" * 200, b"alpha\n", b"M" * 200]
COMMAND = "cat"


def make(name: str, answers: list[bytes] = ANSWERS, arguments: list[bytes] = ARGUMENTS) -> Path:
    """A job with a result for each argument but the last, which failed."""
    with Job.create(COMMAND, name=name) as job:
        job.event("run", tasks=len(arguments), slots=1, timeout=0.0)
        for number in job.number(keys_of(arguments), arguments):
            answer = answers[number - 1]
            file = job.path / "large" / "part"
            failed = number == len(arguments)
            if len(answer) > 100 and not failed:
                file.write_bytes(answer)
            job.started(number, 1, "i-1")
            stdout = b"" if failed else file if len(answer) > 100 else answer
            result = job.ended(number, 1, "i-1", int(failed), 0, 0.5, stdout, b"said %d" % number)
            if not failed:
                job.done(number, result)
        job.leave("resume", b"inv mapreduce.pmap\n")
        return job.path


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Puts back two jobs, `j` and `other`, as they were made; returns the directory of all."""
    home = tmp_path_factory.mktemp("sealed")
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = str(home)
    try:
        good = make("j").parent
        make("other", [b"omega\n", *ANSWERS[1:]], [b"five\n", *ARGUMENTS[1:]])
    finally:
        if before is None:
            del os.environ["XDG_STATE_HOME"]
        else:
            os.environ["XDG_STATE_HOME"] = before
    kept = good.rename(home / "kept")

    def put_back() -> Path:
        shutil.rmtree(good, ignore_errors=True)
        shutil.copytree(kept, good)
        os.environ["XDG_STATE_HOME"] = str(home)
        return good

    return put_back


@pytest.fixture(autouse=True)
def own_state(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", os.environ.get("XDG_STATE_HOME", ""))


FILES = ("job.json", "journal", "keys", "heads", "stdout", "stderr", "lock", "resume", "large/3.1.stdout")
PLACES = st.floats(0, 1, exclude_max=True)


def flip(data: bytes, at: int, until: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << until % 8]) + data[at + 1 :] if data else b"x"


WAYS: dict[str, Callable[[bytes, int, int], bytes]] = {
    "flip": flip,
    "cut": lambda data, at, until: data[:at],
    "cut the beginning": lambda data, at, until: data[at + 1 :],
    "double": lambda data, at, until: data[:until] + data[at:until] + data[until:],
    "remove": lambda data, at, until: data[:at] + data[until:],
    "zero": lambda data, at, until: data[:at] + bytes(max(1, until - at)) + data[until:],
    "append": lambda data, at, until: data + data[at:until] + b"\n",
    "double a line": lambda data, at, until: _lines(data, lambda lines, n: [*lines[: n + 1], *lines[n:]], at),
    "remove a line": lambda data, at, until: _lines(data, lambda lines, n: [*lines[:n], *lines[n + 1 :]], at),
    "swap lines": lambda data, at, until: _lines(
        data, lambda lines, n: [*lines[:n], *lines[n : n + 2][::-1], *lines[n + 2 :]], at
    ),
    "swap records": lambda data, at, until: data[16:32] + data[:16] + data[32:],
}


def _lines(data: bytes, change: Callable[[list[bytes], int], list[bytes]], at: int) -> bytes:
    lines = data.splitlines(keepends=True)
    return b"".join(change(lines, data[:at].count(b"\n")))


def look(folder: Path) -> None:
    """Open the job as --resume does: each result is its argument's, or will be made again; or the job is refused."""
    path = folder / "j"
    try:
        with Job(path) as job:
            assert job.asked.command == COMMAND
            numbers = job.number(keys_of(ARGUMENTS), ARGUMENTS)
            assert sorted(numbers) == [1, 2, 3, 4, 5]
            for number, answer in zip(numbers, ANSWERS, strict=True):
                result = job.history.results.get(number)  # none: its task runs again
                if result is not None and job.intact(number, result):
                    assert b"".join(job.pieces(number, result)) == answer
                    assert number != numbers[-1], "that one failed"
            job.started(numbers[0], 7, "i-1")
            job.done(numbers[0], job.ended(numbers[0], 7, "i-1", 0, 0, 0.5, ANSWERS[0], b""))
        with Job(path) as again:
            assert b"".join(again.pieces(numbers[0], again.history.results[numbers[0]])) == ANSWERS[0]
    except HardwayError as error:
        assert "\n" not in str(error)
        assert str(path) in str(error) or "no job 'j'" in str(error)
        assert "job j" in str(error) or "no job 'j'" in str(error)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(FILES), st.sampled_from(list(WAYS)), PLACES, PLACES)
def test_a_result_is_what_was_written_or_the_job_is_refused(
    jobs: Callable[[], Path], name: str, way: str, one: float, other: float
) -> None:
    folder = jobs()
    file = folder / "j" / name
    data = file.read_bytes()
    at, until = sorted((int(one * len(data)), int(other * len(data))))
    file.write_bytes(WAYS[way](data, at, until))
    before = job_list.describe(folder / "j")
    described = {one["name"]: one for one in map(job_list.describe, job_paths.all_jobs())}
    assert described["other"]["state"] == "stopped"
    assert before["state"] in ("stopped", "damaged")
    try:
        told = report.text("j")
    except HardwayError as error:
        assert "\n" not in str(error)
        assert before["state"] == "damaged"
        assert before["damage"]
    else:
        assert COMMAND in told
    look(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_file_may_be_another_jobs_or_gone_or_no_file(jobs: Callable[[], Path], name: str) -> None:
    def other(file: Path) -> None:
        file.write_bytes((file.parents[name.count("/") + 1] / "other" / name).read_bytes())

    def link(file: Path) -> None:
        file.unlink()
        file.symlink_to("/etc/passwd")

    def folder(file: Path) -> None:
        file.unlink()
        file.mkdir()

    def fifo(file: Path) -> None:
        file.unlink()
        os.mkfifo(file)

    for change in (other, link, folder, fifo, Path.unlink, lambda file: file.chmod(0)):
        path = jobs()
        change(path / "j" / name)
        assert {one["name"] for one in map(job_list.describe, job_paths.all_jobs())} == {"j", "other"}
        look(path)
        job_list.remove(path / "j")
        assert [one.name for one in job_paths.all_jobs()] == ["other"]


def test_a_directory_that_others_may_write_to_is_not_trusted(jobs: Callable[[], Path]) -> None:
    folder = jobs()
    (folder / "j").chmod(0o777)
    with pytest.raises(Failed, match="job j can't be trusted"):
        Job(folder / "j")
    assert "can't be trusted" in job_list.describe(folder / "j")["damage"]
    with pytest.raises(Failed, match="can't be trusted"):
        mapreduce.explain(Context(), "j")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_another_users_directory_is_not_trusted(jobs: Callable[[], Path]) -> None:
    folder = jobs()
    os.chown(folder / "j", 12345, -1)
    with pytest.raises(Failed, match="job j can't be trusted"):
        Job(folder / "j")
    os.chown(folder, 12345, -1)
    with pytest.raises(Failed, match="it is another user's"):
        Job.create("cat", name="new")
    os.chown(folder, os.geteuid(), -1)


def test_a_job_copied_to_another_name_is_not_that_job(jobs: Callable[[], Path]) -> None:
    folder = jobs()
    (folder / "j").rename(folder / "k")
    with pytest.raises(Failed, match=r"job k is damaged: .*job\.json is of a job named j"):
        Job(folder / "k")


def test_modes_are_set_and_not_inherited(home: Path) -> None:
    before = os.umask(0)
    try:
        job_paths.jobs_path().mkdir(parents=True, mode=0o777)
        path = make("open")
    finally:
        os.umask(before)
    for each in (path.parent.parent, path.parent, path, *path.rglob("*")):
        mode = each.stat().st_mode & 0o777
        assert mode == (0o700 if each.is_dir() else 0o600), each
    (path / "stdout").chmod(0o666)
    Job(path).close()
    assert (path / "stdout").stat().st_mode & 0o777 == 0o600


def test_what_is_damaged_is_named_and_the_others_are_listed(cluster: Cluster) -> None:
    env = cluster.env
    ran = run_inv("mapreduce.pmap", cluster.selector, "a\nb", "cat; : sealed", "--job", "fell", env=env)
    assert ran.code == 0, ran.stderr
    path = cluster.jobs / "fell"
    good = (path / "job.json").read_text()
    (path / "job.json").write_text(good.replace(": sealed", "rm -rf"))
    again = run_inv("mapreduce.pmap", cluster.selector, "a\nb", "cat; rm -rf", "--resume", "fell", env=env)
    assert (again.code, again.stdout) == (1, "")
    assert again.stderr.splitlines()[-1].startswith(f"job fell is damaged: {path}/job.json is not what was written")
    listed = run_inv("mapreduce.jobs", env=env)
    assert listed.code == 0
    assert "job.json is not what was written" in next(x for x in listed.stdout.splitlines() if x.startswith("fell "))
    assert "job fell is damaged" in listed.stderr
    (path / "job.json").write_text(good)
    (path / "keys").write_bytes((path / "keys").read_bytes()[:16])
    again = run_inv("mapreduce.pmap", cluster.selector, "b", "cat; : sealed", "--resume", "fell", env=env)
    assert (again.code, again.stdout) == (1, "")
    assert "keys has 16 of its 32 bytes" in again.stderr
    for verb in ("explain", "report"):
        told = run_inv(f"mapreduce.{verb}", "fell", env=env)
        assert (told.code, told.stdout) == (1, "")
        assert told.stderr.startswith("job fell is damaged: ")
    assert run_inv("mapreduce.rm", "fell", "--yes", env=env).code == 0
    assert not path.exists()


def test_of_several_jobs_those_that_may_be_deleted_are(home: Path) -> None:
    make("one")
    make("two")
    said = "1 of 3 jobs are still there: job driven is being run"
    with Job.create("cat", name="driven"), pytest.raises(Failed, match=said):
        mapreduce.rm(Context(), "*", yes=True)
    assert [path.name for path in job_paths.all_jobs()] == ["driven"]


def test_a_journal_that_can_not_be_written_is_no_damage(home: Path) -> None:
    """The line that was torn by a full disk is cut, and nothing is written behind it."""
    job = Job.create("cat", name="full")
    with pytest.raises(UsageError, match="resume full"):
        Job.create("cat", name="full")
    job.number(keys_of(ARGUMENTS), ARGUMENTS)
    job.started(1, 1, "i-1")
    said = r"cannot write to .*/full: no space left on device; .* --resume full"
    with pytest.raises(Failed, match=said), job.writing():
        raise OSError(28, "No space left on device")
    for _ in range(2):
        with pytest.raises(Failed, match="--resume full"):
            job.flush()
    with pytest.raises(Failed, match="--resume full"):
        job.close()
    with Job(job.path) as again:
        assert again.history.tasks == 5
        assert again.history.open == {}
