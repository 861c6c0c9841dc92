"""A job goes on after its driver, its connections or its instances are lost, and its results are exact."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from invoke import Config, Context

from hardway.errors import Failed, UsageError
from hardway.pmap.afterwards import history
from tasks import mapreduce
from tests.conftest import LocalCloud, run_inv, start_inv
from tests.patience import patience
from tests.pmap.conftest import Cluster, Pmap, eventually
from tests.pmap.proxy import Proxy

ARGUMENTS = "\n".join(str(i) for i in range(12))
SLOW = 'read x; echo $x $HARDWAY_ATTEMPT >> log; until [ -e go ]; do sleep .02; done; echo "<$x>"'
ANSWERS = "".join(f"<{i}>\n" for i in range(12))


@pytest.fixture
def c(cluster: Cluster, home: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    return Context(Config(defaults=mapreduce.ns.configuration()))


@contextmanager
def started(cluster: Cluster, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A pmap in the background."""
    process = start_inv("mapreduce.pmap", cluster.selector, *arguments, env=cluster.env)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def held(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, where SLOW tasks wait until `go` is there and write what they are to `log`."""
    cluster.remove("log", "go")
    yield cluster
    cluster.remove("log", "go")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_the_driver_may_die(pmap: Pmap, held: Cluster, number: signal.Signals) -> None:
    job = f"dies-{number.name}"
    with started(held, ARGUMENTS, SLOW, "--job", job, "--no-backup") as process:
        eventually(lambda: len(held.lines("log")) == 3)
        process.send_signal(number)
        said = process.communicate(timeout=patience(20))[1]
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:
        assert f"--resume {job}" in said
    held.touch("go")
    done = pmap(ARGUMENTS, SLOW, "--resume", job, "--no-backup")
    assert (done.code, done.stdout) == (0, ANSWERS), done.stderr
    assert sorted(held.lines("log")) == sorted(f"{i} 1" for i in range(12)), "no task ran twice"


def test_what_is_done_is_not_run_again_wherever_it_stands(c: Context, cluster: Cluster) -> None:
    command = "cat; echo $RANDOM$RANDOM"
    first = mapreduce.pmap(c, cluster.ids, ["a", "b", "c", "a"], command, job="moved")
    again = mapreduce.pmap(c, cluster.ids, ["new", "c", "a", "a"], command, resume="moved")
    assert again[1:] == [first[2], first[0], first[3]]
    assert again[0].startswith("new\n")
    newest = mapreduce.pmap(c, cluster.ids, ["b"], command, resume=True)
    assert newest == [first[1]]


def test_a_changed_command_is_another_job(c: Context, cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("1")
    mapreduce.pmap(c, cluster.ids, "x", "cat", job="this", depends=[str(file)])
    with pytest.raises(UsageError, match="another command"):
        mapreduce.pmap(c, cluster.ids, "x", "cat -v", resume="this", depends=[str(file)])
    file.write_text("2")
    with pytest.raises(UsageError, match="other content"):
        mapreduce.pmap(c, cluster.ids, "x", "cat", resume="this", depends=[str(file)])
    with pytest.raises(UsageError, match="no job 'that'"):
        mapreduce.pmap(c, cluster.ids, "x", "cat", resume="that")


def test_a_failed_job_goes_on_with_what_failed(c: Context, cluster: Cluster) -> None:
    command = 'read x; [ "$x" = a ] || [ -e /home/ubuntu/repaired ] || exit 1; echo $x'
    with pytest.raises(Failed, match="--resume mended"):
        mapreduce.pmap(c, cluster.ids, "a\nb", command, job="mended", retries=0, keep_going=True)
    cluster.touch("repaired")
    assert mapreduce.pmap(c, cluster.ids, "a\nb", command, resume="mended") == ["a\n", "b\n"]
    cluster.remove("repaired")


def test_jobs_are_listed_and_removed(cluster: Cluster, c: Context) -> None:
    with pytest.raises(Failed):
        mapreduce.pmap(c, cluster.ids, "a\nb", "read x; [ $x = a ]", job="listed", retries=0, keep_going=True)
    lines = run_inv("mapreduce.jobs", env=cluster.env).stdout.splitlines()
    line = next(line for line in lines if line.startswith("listed "))
    assert line.split()[1:5] == ["-", "failed", "1/2", "1"]
    assert line.endswith("read x; [ $x = a ]")
    assert run_inv("mapreduce.rm", "listed", env=cluster.env).code == 2
    assert run_inv("mapreduce.rm", "list*", "--yes", env=cluster.env).code == 0
    assert not (cluster.jobs / "listed").exists()
    assert run_inv("mapreduce.rm", "listed", "--yes", env=cluster.env).code == 2


def test_a_second_driver_is_refused(held: Cluster, c: Context) -> None:
    with started(held, "x", SLOW, "--job", "twice") as process:
        eventually(lambda: len(held.lines("log")) == 1)
        with pytest.raises(Failed, match=f"pid {process.pid}"):
            mapreduce.pmap(c, held.ids, "x", SLOW, resume="twice")
        held.touch("go")
        assert process.communicate(timeout=patience(20))[0] == "<x>\n"


@contextmanager
def behind_proxy(cloud: LocalCloud, cluster: Cluster, delay: float = 0.0) -> Iterator[Proxy]:
    """The cluster's instances, reached through a proxy."""
    client = cloud.client("ec2")
    pages = client.describe_instances(InstanceIds=cluster.ids)["Reservations"]
    found = [instance for page in pages for instance in page["Instances"]]
    port = next(tag["Value"] for tag in found[0]["Tags"] if tag["Key"] == "ssh-port")
    with Proxy([instance["PublicIpAddress"] for instance in found], int(port), delay) as proxy:
        client.create_tags(Resources=cluster.ids, Tags=[{"Key": "ssh-port", "Value": str(proxy.port)}])
        try:
            yield proxy
        finally:
            client.create_tags(Resources=cluster.ids, Tags=[{"Key": "ssh-port", "Value": port}])


def test_a_lost_connection_is_no_lost_task(cloud: LocalCloud, held: Cluster) -> None:
    with behind_proxy(cloud, held) as proxy, started(held, ARGUMENTS, SLOW, "--no-backup") as process:
        eventually(lambda: len(held.lines("log")) == 3)
        proxy.cut(refuse=True)
        proxy.refusing = False
        held.touch("go")
        out, said = process.communicate(timeout=patience(30))
    assert (process.returncode, out) == (0, ANSWERS), said
    assert sorted(held.lines("log")) == sorted(f"{i} 1" for i in range(12)), "no task ran twice"


def test_what_ran_while_connections_were_lost_is_told_when_it_ran(cloud: LocalCloud, held: Cluster) -> None:
    """Not when the results came."""
    command = 'read x; echo $x $(date +%s.%N) >> log; sleep 0.3; echo "<$x>"'
    sure = ("--no-backup", "--job", "late")
    away = patience(1)
    with behind_proxy(cloud, held) as proxy, started(held, ARGUMENTS, command, *sure) as process:
        eventually(lambda: len(held.lines("log")) > 3)
        proxy.cut(refuse=True)
        time.sleep(away)
        proxy.refusing = False
        out, said = process.communicate(timeout=patience(30))
    assert (process.returncode, out) == (0, ANSWERS), said
    told = history.read((held.jobs / "late" / "journal").read_bytes())
    assert told.away, "connections were lost"
    when = {int(x) + 1: float(began) for x, began in map(str.split, held.lines("log"))}
    for one in told.attempts:
        assert told.began + one.began == pytest.approx(when[one.task], abs=away / 2)
        assert one.result
        assert one.seconds == pytest.approx(one.result.seconds, abs=1e-3), "none is cut short by the next"


def test_ctrl_c_while_connections_are_lost_ends_what_runs(cloud: LocalCloud, held: Cluster) -> None:
    """But on instances that can't be told within the seconds that a person waits: those are named."""
    others = {left for home in held.homes for left in home.glob(".hardway/*")}  # of other tests' jobs
    with behind_proxy(cloud, held) as proxy, started(held, ARGUMENTS, SLOW) as process:
        eventually(lambda: len(held.lines("log")) == 3)
        proxy.cut(refuse=True)
        process.send_signal(signal.SIGINT)
        proxy.refusing = False
        _, said = process.communicate(timeout=patience(10))
        assert process.returncode == 130, said
    untold = "".join(line for line in said.splitlines() if "did not confirm" in line)
    told = [home for id_, home in zip(held.ids, held.homes, strict=True) if id_ not in untold]
    assert told, said
    eventually(lambda: not {left for home in told for left in home.glob(".hardway/*")} - others)


def test_an_instance_may_go(cloud: LocalCloud, new_cluster: Callable[[int], Cluster]) -> None:
    own = new_cluster(3)
    waits = "until [ -e go ]; do sleep 0.05; done"
    command = f"cat; if [ $HARDWAY_INSTANCE_ID = {own.ids[0]} ]; then touch mine; sleep 60; fi; {waits}"
    with started(own, ARGUMENTS, command, "--no-backup") as process:
        eventually(lambda: _touched(own))
        for home in own.homes:
            (home / "go").touch()
        cloud.client("ec2").terminate_instances(InstanceIds=[own.ids[0]])
        out, said = process.communicate(timeout=patience(20))
    assert (process.returncode, out) == (0, ARGUMENTS + "\n"), said
    assert "it is terminated" in said or "it is shutting down" in said
    assert "1 instance lost" in said


def _touched(cluster: Cluster) -> bool:
    return any((home / "mine").exists() for home in cluster.homes)


def test_none_left_says_how_to_go_on(cloud: LocalCloud, new_cluster: Callable[[int], Cluster]) -> None:
    own = new_cluster(1)
    with started(own, "x", "touch mine; sleep 60", "--job", "alone") as process:
        eventually(lambda: _touched(own))
        cloud.client("ec2").terminate_instances(InstanceIds=own.ids)
        _, said = process.communicate(timeout=patience(40))
    assert process.returncode == 1
    assert "no instance is left" in said
    assert "--resume alone" in said


def test_an_attempt_given_up_is_ended_when_its_instance_is_back(cloud: LocalCloud, held: Cluster) -> None:
    """No connection for longer than --reconnect: the task runs elsewhere, and its first attempt doesn't count."""
    env = {**held.env, "INVOKE_MAPREDUCE_RECONNECT": "1"}
    lone, both = Cluster(held.ids[:1], env, cloud), Cluster(held.ids[:2], env, cloud)
    here, there = held.homes[:2]
    names = ("go1", "go2", "ended")
    held.remove(*names)
    command = (
        'trap "touch ended; exit" TERM; read x; echo $x >> log; '
        'until [ -e go$HARDWAY_ATTEMPT ]; do sleep .02; done; echo "<$x> $HARDWAY_ATTEMPT"'
    )
    with behind_proxy(cloud, lone) as proxy, started(both, "1\n2", command, "--no-backup") as process:
        eventually(lambda: len(both.lines("log")) == 2)
        lost = (here / "log").read_text().strip()
        proxy.cut(refuse=True)
        (there / "go1").touch()
        eventually(lambda: len(both.lines("log")) == 3)
        proxy.refusing = False
        eventually(lambda: (here / "ended").exists())
        both.touch("go2")
        out, said = process.communicate(timeout=patience(30))
    assert process.returncode == 0
    assert out.splitlines() == [f"<{x}> {2 if x == lost else 1}" for x in "12"]
    assert "its 1 task goes to other instances" in said
    assert "it is back" in said
    held.remove(*names)


def test_instances_that_match_later_join(cloud: LocalCloud, new_cluster: Callable[[int], Cluster]) -> None:
    own = new_cluster(1)
    by_name = Cluster(["own0"], own.env, cloud)
    with started(by_name, ARGUMENTS, SLOW, "--join", "--job", "grows", "--slots", "3") as process:
        eventually(lambda: own.lines("log"))  # else the new one may be there before the job looks
        done = run_inv("ec2.new", "--name", "own0", env=own.env)
        assert done.code == 0, done.stderr
        both = Cluster([*own.ids, done.stdout.strip()], own.env, cloud)
        eventually(lambda: (both.homes[1] / "log").exists())
        both.touch("go")
        out, said = process.communicate(timeout=patience(30))
    assert (process.returncode, out) == (0, ANSWERS)
    assert f"{both.ids[1]}: it joins" in said
