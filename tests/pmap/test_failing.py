"""Jobs that fail, as a person meets them: they fail soon, keep what is done, and say what was the matter."""

from __future__ import annotations

import json
import time

import pytest

from tests.conftest import run_inv
from tests.patience import patience
from tests.pmap.conftest import Cluster, Pmap, eventually

ALL = "\n".join(str(x) for x in range(1, 11))
ONE_BAD = 'read x; [ $x != 7 ] || { echo "bad input" >&2; exit 3; }; echo "<$x>"'
WITHOUT_7 = "".join("\n" if x == 7 else f"<{x}>\n" for x in range(1, 11))


def test_a_typo_costs_seconds(pmap: Pmap, cluster: Cluster) -> None:
    began = time.monotonic()
    done = pmap(ALL, "bash stpe1.sh", "--keep-going", "--job", "typo")
    assert time.monotonic() - began < patience(10), "it takes a second, and this machine is busy"
    assert (done.code, done.stdout) == (1, "")
    assert "stpe1.sh: No such file or directory" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert "tasks failed alike on " in last and "none has succeeded; " in last and "--resume typo" in last
    assert "--no-fail-fast" in last
    listed = json.loads(run_inv("mapreduce.jobs", "--json", env=cluster.env).stdout)
    about = next(one for one in listed if one["name"] == "typo")
    assert (about["state"], about["done"], about["tasks"]) == ("failed", 0, 10) and about["failed"] >= 3
    assert "failed" in run_inv("mapreduce.explain", "typo", env=cluster.env).stdout.splitlines()[1]


def test_one_bad_input_costs_three_attempts_and_the_others_are_printed(pmap: Pmap, cluster: Cluster) -> None:
    # Agents of an earlier test's job would share the slots, and tasks could be taken back and sent again.
    eventually(lambda: not any([*home.glob(".hardway/slots-*")] for home in cluster.homes))
    done = pmap(ALL, ONE_BAD, "--retries", "10", "--keep-going", "--job", "one-bad", "--name", "nightly")
    assert (done.code, done.stdout) == (1, WITHOUT_7)
    assert "9 of 10 tasks done, 1 failed, 12 attempts, 2 retries, " in done.stderr
    assert "backup" not in done.stderr and " lost" not in done.stderr
    again = run_inv("mapreduce.results", "one-bad", env=cluster.env)
    assert (again.code, again.stdout) == (1, WITHOUT_7)
    assert "1 of 10 tasks have no result: 1 failed, 0 not finished" in again.stderr
    failed = run_inv("mapreduce.results", "one-bad", "--failed", env=cluster.env)
    assert (failed.code, failed.stdout) == (0, "7\n")
    assert run_inv("mapreduce.results", "one-bad", "--arguments", env=cluster.env).stdout == f"{ALL}\n"
    told = json.loads(run_inv("mapreduce.results", "one-bad", "--json", env=cluster.env).stdout)
    assert [one["state"] for one in told] == ["failed" if x == 7 else "done" for x in range(1, 11)]
    assert (told[6]["argument"], told[6]["exit_code"], told[6]["stderr"]) == ("7", 3, "bad input\n")
    assert (told[6]["attempts"], told[0]["stdout"]) == (3, "<1>\n")
    line = next(
        line for line in run_inv("mapreduce.jobs", env=cluster.env).stdout.splitlines() if line.startswith("one-bad ")
    )
    assert line.split()[1:6] == ["nightly", "failed", "9/10", "1", "failed"]
    assert "  took " in line and "  3 instances  " in line and "$" in line


def test_what_failed_is_the_next_jobs_arguments_however_long(pmap: Pmap, cluster: Cluster) -> None:
    long = ["x" * 95, "y" * 5000, "z" * 96]
    command = 'read x; [ "${x:0:1}" = x ]'
    assert pmap("\n".join(long), command, "--retries", "0", "--keep-going", "--job", "long").code == 1
    failed = run_inv("mapreduce.results", "long", "--failed", env=cluster.env)
    assert failed.stdout.splitlines() == long[1:]
    (cluster.jobs / "long" / "long").write_bytes(b"damaged")
    damaged = run_inv("mapreduce.results", "long", "--failed", env=cluster.env)
    assert (damaged.code, damaged.stdout) == (1, "")
    assert "2 arguments are not in the job's directory" in damaged.stderr


def test_a_job_that_is_done_is_printed_again(pmap: Pmap, cluster: Cluster) -> None:
    done = pmap(ALL, "cat", "--job", "fine")
    again = run_inv("mapreduce.results", "fine", env=cluster.env)
    assert (again.code, again.stdout, again.stderr) == (0, done.stdout, "")
    assert run_inv("mapreduce.results", "fine", "--failed", env=cluster.env).stdout == ""
    both = run_inv("mapreduce.results", "fine", "--failed", "--json", env=cluster.env)
    assert (both.code, both.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(("halt", "least"), [("3", 3), ("25%", 3)])
def test_the_job_stops_after_so_many_failures(pmap: Pmap, halt: str, least: int) -> None:
    done = pmap(ALL, "read x; exit $x", "--halt", halt, "--retries", "0", "--no-fail-fast")
    assert (done.code, done.stdout) == (1, "")
    said = done.stderr.splitlines()[-1]
    assert least <= int(said.split("stopped after ")[1].split()[0]) <= least + 2
    assert " not finished. Fix it, then: " in said and f"--halt={halt}" in said


def test_fewer_failures_than_that_leave_the_results(pmap: Pmap) -> None:
    done = pmap(ALL, ONE_BAD, "--halt", "2")
    assert (done.code, done.stdout) == (1, WITHOUT_7)


@pytest.mark.parametrize("flags", [("--halt", "0"), ("--halt", "101%"), ("--halt", "x"), ("--halt", "2", "-k")])
def test_a_halt_that_makes_no_sense_is_refused(pmap: Pmap, flags: tuple[str, ...]) -> None:
    done = pmap("x", "cat", *flags)
    assert (done.code, done.stdout) == (2, "")
    assert "--halt" in done.stderr and done.stderr.count("\n") == 1


def test_waiting_to_retry_is_what_took_the_time(pmap: Pmap, cluster: Cluster) -> None:
    done = pmap(ALL, "read x; [ $x != 7 ] || [ $HARDWAY_ATTEMPT = 4 ] || exit $HARDWAY_ATTEMPT", "--job", "waits")
    assert done.code == 0, done.stderr
    told = run_inv("mapreduce.explain", "waits", env=cluster.env).stdout.split("would have helped:\n")[1]
    assert "of the slot time was spent waiting to retry" in told.splitlines()[0]
    assert "--retry-sleep" in " ".join(told.split())


def test_few_tasks_for_many_slots_and_a_straggler_are_named(pmap: Pmap, cluster: Cluster) -> None:
    assert pmap("1", "sleep 1.5", "--slots", "2", "--job", "few").code == 0
    told = " ".join(run_inv("mapreduce.explain", "few", env=cluster.env).stdout.split())
    assert "6 slots for 1 tasks" in told and "fewer instances, or more, shorter tasks" in told
    assert pmap(ALL, "read x; [ $x != 1 ] || sleep 2", "--job", "straggler", "--no-backup").code == 0
    told = " ".join(run_inv("mapreduce.explain", "straggler", env=cluster.env).stdout.split())
    assert "the longest task alone took" in told and "task 1 (1): split it" in told
