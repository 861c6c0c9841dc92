"""Data that went with an instance is made again, and nothing else: a result, what it was made of, and then the job."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from invoke import Config, Context

from hardway import config
from hardway.errors import Failed, UsageError
from hardway.pmap import again
from hardway.pmap.job import Job, keys_of
from tasks import mapreduce
from tests.conftest import LocalCloud, Result, run_inv, start_inv
from tests.patience import patience
from tests.pmap.conftest import Cluster, Pmap, eventually

GONE, OTHER, LAST = "i-0000000a", "i-0000000b", "i-0000000c"
# Stand for `aws s3 cp` to and from the store: an object's content is the end of its key.
FETCH = """
fetch() {
    instance=${1#s3://hardway_}; instance=${instance%%/*}
    if grep -qx $instance gone; then echo "aws: $1: its data went with $instance" >&2; return 1; fi
    echo ${1##*/}
}
while [ -e hold ]; do sleep .02; done
"""
FIRST = 'read n; echo "first $n" >>log; echo "s3://hardway_$HARDWAY_INSTANCE_ID/first/$n"'
SECOND = FETCH + 'read u; n=$(fetch $u) || exit; echo "second $n" >>log; echo "$n s3://hardway_$HARDWAY_INSTANCE_ID/2/$n"'
THIRD = FETCH + 'read n u; n=$(fetch $u) || exit; echo "third $n" >>log; echo "<$n>"'
ANSWERS = "".join(f"<{n}>\n" for n in range(1, 13))


def terminate_one(cluster: Cluster, results: str) -> str:
    """End the instance that most of these results name; what `fetch` is told of it is that it is gone."""
    gone = max(cluster.ids, key=results.count)
    assert run_inv("ec2.rm", gone, "--yes", env=cluster.env).code == 0
    cluster.ids.remove(gone)
    for home in cluster.homes:
        with (home / "gone").open("a") as file:
            file.write(f"{gone}\n")
    return gone


def test_a_chain_of_jobs_is_mended_from_its_beginning_whatever_is_killed(new_cluster: Callable[[int], Cluster]) -> None:
    cluster = new_cluster(3)
    cluster.touch("gone")

    def pmap(args: str, command: str, *flags: str) -> Result:
        # A hint for where tasks run would have few instances hold all: here each has some.
        on = ("--slots", "1", "--no-locality", "--retries", "10", "--retry-sleep", "0.1", "--no-backup")
        return run_inv("mapreduce.pmap", cluster.selector, args, command, *on, *flags, env=cluster.env)

    made = pmap("\n".join(map(str, range(1, 13))), FIRST, "--job", "first").stdout
    parts = pmap(made, SECOND, "--job", "second").stdout
    gone = terminate_one(cluster, parts)
    lost = {line.split()[0] for line in parts.splitlines() if gone in line}
    needed = {n for n in lost if f"{gone}/first/{n}\n" in made}
    failed = pmap(parts, THIRD, "--job", "third", "--keep-going")
    assert failed.code == 1
    tasks = "1 task" if len(lost) == 1 else f"{len(lost)} tasks"
    assert f"{tasks} failed, its data went with {gone}\n" in failed.stderr
    assert failed.stderr.splitlines()[-1].endswith("mapreduce.again third")
    assert f" {len(lost)} failed, 12 attempts, " in failed.stderr, "none was tried again"

    cluster.remove("log")
    cluster.touch("hold")
    with start_inv("mapreduce.again", "third", env=cluster.env) as process:
        eventually(lambda: runs_again(cluster.jobs / "second"))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=patience(20))
    cluster.remove("hold")
    done = run_inv("mapreduce.again", "third", env=cluster.env)
    assert (done.code, done.stdout) == (0, ANSWERS), done.stderr
    ran = sorted(cluster.lines("log"))
    assert ran == sorted([f"first {n}" for n in needed] + [f"{job} {n}" for job in ("second", "third") for n in lost])
    rest = run_inv("mapreduce.again", "third", env=cluster.env)
    assert (rest.code, rest.stdout, sorted(cluster.lines("log"))) == (0, ANSWERS, ran), "there is nothing left to do"

    # By hand: job after job, with the arguments as they were at first.
    gone = terminate_one(cluster, run_inv("mapreduce.results", "second", env=cluster.env).stdout)
    pmap("\n".join(map(str, range(1, 13))), FIRST, "--resume", "first")
    resumed = pmap(made, SECOND, "--resume", "second")
    assert resumed.code == 0 and " made again: the data went with i-" in resumed.stderr and gone in resumed.stderr
    other = pmap(parts, THIRD, "--job", "other")
    assert (other.code, other.stdout) == (0, ANSWERS), "its first URL is still the name of an object"


def runs_again(job: Path) -> bool:
    """Whether a job whose results were void has begun a task again."""
    text = (job / "journal").read_text()
    return "\nslot " in text.rpartition("\nvoid ")[2] and "\nvoid " in text
