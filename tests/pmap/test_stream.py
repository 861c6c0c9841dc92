"""Arguments that start as they come, and results that come out as soon as all before them are done."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from invoke import Context

from hardway.errors import HardwayError, UsageError
from hardway.pmap import stream as streams
from hardway.pmap.arguments import stream
from hardway.pmap.results import TasksFailed
from hardway.pmap.schedule import Schedule, Start, Verdict
from tasks import mapreduce
from tests.conftest import INV, REPOSITORY, run_inv
from tests.patience import patience
from tests.pmap.conftest import Cluster, eventually

ECHO = 'read x; echo "<$x>"'
ONE_BAD = 'read x; [ $x != 3 ] || { echo "no luck" >&2; exit 3; }; printf %s "<$x>"'


@contextmanager
def piped(cluster: Cluster, command: str, *flags: str) -> Iterator[subprocess.Popen[bytes]]:
    """A pmap between two pipes: what is written to its stdin are its arguments."""
    process = subprocess.Popen(
        [*INV, "mapreduce.pmap", cluster.selector, "-", command, *flags],
        cwd=REPOSITORY,
        env={**os.environ, **cluster.env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def say(process: subprocess.Popen[bytes], text: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(text)


def heard(process: subprocess.Popen[bytes], size: int) -> bytes:
    """So many bytes of its stdout; waits for them."""
    assert process.stdout is not None
    data = b""
    while len(data) < size and (piece := process.stdout.read(size - len(data))):
        data += piece
    return data


@pytest.fixture
def c(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Context:
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    return Context()


def test_a_result_is_there_before_the_next_argument(cluster: Cluster) -> None:
    with piped(cluster, 'read x; printf "<$x>"', "--job", "drip") as process:
        say(process, b"1\n2")
        assert heard(process, 3) == b"<1>"
        say(process, b"\n\n3\n")
        assert heard(process, 8) == b"\n<2>\n<3>"
        stdout, stderr = process.communicate(timeout=patience(60))
    assert (process.returncode, stdout) == (0, b""), stderr
    assert b"1 empty line left out" in stderr and b"3 of 3 tasks done" in stderr
    assert run_inv("mapreduce.results", "drip", env=cluster.env).stdout == "<1>\n<2>\n<3>"
    assert b"arguments-" in (cluster.jobs / "drip" / "resume").read_bytes(), "the line that resumes has all arguments"


def test_a_killed_job_goes_on_with_the_same_arguments_only(cluster: Cluster) -> None:
    with piped(cluster, ECHO, "--job", "killed-stream") as process:
        say(process, b"1\n2\n3\n3\n")
        assert heard(process, 8) == b"<1>\n<2>\n"
        process.send_signal(signal.SIGKILL)
    flags = ("--resume", "killed-stream")
    other = run_inv("mapreduce.pmap", cluster.selector, "-", ECHO, *flags, env=cluster.env, stdin="1\n9\n")
    assert other.code == 1 and "argument 2 is 9, and job killed-stream has read another one" in other.stderr
    short = run_inv("mapreduce.pmap", cluster.selector, "-", ECHO, *flags, env=cluster.env, stdin="1\n2\n3\n")
    assert short.code == 1 and "ended after 3" in short.stderr
    assert short.stdout in ("<1>\n<2>\n", "<1>\n<2>\n<3>\n"), "3 may not be done by then"
    again = run_inv("mapreduce.pmap", cluster.selector, "-", ECHO, *flags, env=cluster.env, stdin="1\n2\n3\n3\n4\n")
    assert (again.code, again.stdout) == (0, "<1>\n<2>\n<3>\n<3>\n<4>\n"), again.stderr
    assert "5 of 5 tasks done" in again.stderr
    fewer = run_inv("mapreduce.pmap", cluster.selector, "3\n4\n3", ECHO, *flags, env=cluster.env)
    assert (fewer.code, fewer.stdout) == (0, "<3>\n<4>\n<3>\n") and "attempt" not in fewer.stderr


def test_a_reader_who_has_seen_enough_ends_the_job(cluster: Cluster) -> None:
    with piped(cluster, ECHO) as process:
        say(process, b"1\n")
        assert heard(process, 4) == b"<1>\n"
        assert process.stdout is not None
        process.stdout.close()
        say(process, b"2\n")
        assert process.wait(patience(60)) == 141
        assert process.stderr is not None
        assert b"rror" not in (told := process.stderr.read()) and b"--resume" not in told


@pytest.mark.parametrize(("flags", "printed"), [((), "<1>\n<2>"), (("-k",), "<1>\n<2>\n\n<4>")])
def test_a_failed_task_ends_the_results_or_leaves_its_place_empty(
    cluster: Cluster, flags: tuple[str, ...], printed: str
) -> None:
    args = ("mapreduce.pmap", cluster.selector, "-", ONE_BAD, "--retries", "0", *flags)
    done = run_inv(*args, env=cluster.env, stdin="1\n2\n3\n4\n")
    assert done.code == 1
    assert done.stdout.startswith(printed) if flags else done.stdout in ("", "<1>\n", "<1>\n<2>\n", printed)
    assert "exit code 3: no luck" in done.stderr and "--resume" in done.stderr.splitlines()[-1]


def test_python_takes_results_one_by_one_and_holds_an_endless_producer_back(
    c: Context, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PENDING_MOST", 5)
    monkeypatch.setattr("hardway.pmap.intake.OPEN_MOST", 20)
    made = itertools.count()
    results = mapreduce.stream(c, cluster.ids, (str(x) for x in made), ECHO, progress=False)
    first = [next(results) for _ in range(30)]
    assert first == [f"<{x}>\n" for x in range(30)]
    assert (first[7].task, first[7].argument) == (8, "7")
    threads = threading.active_count()
    results.close()  # type: ignore[attr-defined]
    assert next(made) <= 30 + 20 + 5 + 3
    assert threading.active_count() < threads


def test_as_they_come_the_slow_one_is_last(c: Context, cluster: Cluster) -> None:
    command = "read x; [ $x != 1 ] || sleep 1; echo $x"
    found = list(
        mapreduce.stream(c, cluster.ids, "1\n2\n3\n4", command, ordered=False, backup=False, slots=2, progress=False)
    )
    assert (found[-1], found[-1].argument, sorted(found)) == ("1\n", "1", ["1\n", "2\n", "3\n", "4\n"])


def test_errors_come_after_the_results_of_which_there_are_any(c: Context, cluster: Cluster) -> None:
    def broken() -> Iterator[str]:
        yield from "12"
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(mapreduce.stream(c, cluster.ids, broken(), ECHO, progress=False))
    got: list[str] = []
    with pytest.raises(TasksFailed, match="task 3 failed") as failed:
        for result in mapreduce.stream(
            c, cluster.ids, list("1234"), ONE_BAD, retries=0, keep_going=True, progress=False
        ):
            got.append(result)
    assert got == ["<1>", "<2>", "", "<4>"]
    assert [(each.task, each.argument) for each in failed.value.failed] == [(3, "3")]
    with pytest.raises(UsageError, match="no verify"):
        mapreduce.stream(c, cluster.ids, "1", "cat", verify=1)
    with pytest.raises(HardwayError, match="i-00000000000000000"):
        list(mapreduce.stream(c, "i-00000000000000000", "1", "cat"))
    assert list(mapreduce.stream(c, cluster.ids, iter(()), "cat")) == []


def test_a_producer_that_is_not_read_waits(tmp_path: Path) -> None:
    made = itertools.count()
    given = stream((str(x) for x in made), null=False, crlf=False, ordered=True)
    assert given.first()
    assert given.take(3, 1 << 20) == [b"0\n", b"1\n", b"2\n"]
    eventually(lambda: len(given._pending) == streams.PENDING_MOST)
    given.close()
    assert next(made) <= streams.PENDING_MOST + 5


def test_tasks_that_come_later_are_tasks_as_any() -> None:
    schedule = Schedule(0, backup=False)
    schedule.more = True
    schedule.join("a", 2)
    assert schedule.decide(0.0) == [] and not schedule.finished_all
    schedule.extend(1)
    assert schedule.decide(1.0) == [Start("a", 0, 1)]
    assert schedule.finished("a", 0, 1, True, 0.1, 1.1) is Verdict.DONE
    assert not schedule.finished_all, "more may come"
    schedule.extend(2)
    assert schedule.decide(2.0) == [Start("a", 1, 1), Start("a", 2, 1)]
    schedule.more = False
    for task in (1, 2):
        schedule.finished("a", task, 1, True, 0.1, 3.0)
    assert schedule.finished_all and (schedule.done, schedule.total) == (3, 3)
