"""mapreduce.logs: what running tasks write to stderr, as it comes, and what ended ones have written."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.conftest import INV, REPOSITORY, run_inv
from tests.patience import patience
from tests.pmap.conftest import Cluster, eventually
from tests.pmap.test_resume import started

HELD = 'read x; echo "begun $x" >&2; until [ -e logs-go ]; do sleep .05; done; printf "over $x" >&2; echo $x'


@pytest.fixture
def held(cluster: Cluster) -> Iterator[Cluster]:
    cluster.remove("logs-go")
    yield cluster
    cluster.remove("logs-go")


def logs(cluster: Cluster, *arguments: str) -> list[str]:
    """The lines of a log, without the instances' names."""
    done = run_inv("mapreduce.logs", *arguments, env=cluster.env)
    assert done.code == 0, done.stderr
    return sorted(line.partition(": ")[2] or line for line in done.stdout.splitlines())


def test_stderr_is_shown_while_tasks_run_and_afterwards(held: Cluster) -> None:
    cluster = held
    begun = ["task 1: begun 1", "task 2: begun 2", "task 3: begun 3"]
    with started(cluster, "1\n2\n3", HELD, "--job", "logged") as process:
        eventually(lambda: (cluster.jobs / "logged" / "journal").exists() and logs(cluster, "logged") == begun)
        assert logs(cluster, "logged", "2") == ["begun 2"]
        follower = subprocess.Popen(
            [*INV, "mapreduce.logs", "logged", "--follow"],
            cwd=REPOSITORY,
            env={**os.environ, **cluster.env},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert follower.stdout is not None
            first = [follower.stdout.readline() for _ in range(3)]
            assert sorted(line.partition(": ")[2].rstrip() for line in first) == begun
            assert {line.split()[1].rstrip(":") for line in first} == {*cluster.ids}
            cluster.touch("logs-go")
            rest, _ = follower.communicate(timeout=patience(60))
        finally:
            follower.kill()
            follower.communicate()
        assert process.wait(patience(60)) == 0
    over = sorted(line.partition(": ")[2] for line in rest.splitlines())
    assert (follower.returncode, over) == (0, ["task 1: over 1", "task 2: over 2", "task 3: over 3"])
    assert run_inv("mapreduce.logs", "logged", "3", env=cluster.env).stdout == "begun 3\nover 3"
    quiet = run_inv("mapreduce.logs", "logged", env=cluster.env)
    assert (quiet.code, quiet.stdout) == (0, "") and "no task of job logged runs" in quiet.stderr
    for wrong in ("4", "0", "x"):
        refused = run_inv("mapreduce.logs", "logged", wrong, env=cluster.env)
        assert refused.code == 2 and "its tasks are 1 to 3" in refused.stderr
