"""Jobs whose driver leaves: the instances work on alone, and whoever comes back gets exactly pmap's results."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from invoke import Config, Context

from hardway.errors import Failed, UsageError
from hardway.pmap import agent
from hardway.pmap.schedule import Schedule, Start
from tasks import ec2, mapreduce
from tests.conftest import start_inv
from tests.patience import patience
from tests.pmap.conftest import Cluster, PipedAgent, eventually

SLOW = 'read x; echo $x >> log; until [ -e go ]; do sleep .02; done; echo "<$x>"'


@pytest.fixture
def c(cluster: Cluster, home: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    return Context(Config(defaults=mapreduce.ns.configuration()))


def state(c: Context, job: str) -> tuple[str, int]:
    jobs = mapreduce.jobs(c)
    assert not isinstance(jobs, str)
    found = next(one for one in jobs if one["name"] == job)
    return found["state"], found["done"]


def test_instances_work_alone_and_the_results_are_those_of_pmap(
    c: Context, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.remove("log", "go")
    arguments = [str(i) for i in range(40)]
    job = str(mapreduce.pmap(c, cluster.ids[:2], arguments, SLOW, detach=True, slots=2, job="alone"))
    assert job == "alone"
    assert "mapreduce.wait alone" in capsys.readouterr().err.splitlines()[-1]
    assert state(c, job) == ("detached", 0)
    cluster.touch("go")
    eventually(lambda: len(cluster.lines("log")) == 40)
    assert state(c, job) == ("detached", 0), "nobody has come for them yet"
    assert mapreduce.wait(c, job) == [f"<{i}>\n" for i in arguments]
    assert state(c, job) == ("done", 40)
    assert sorted(cluster.lines("log"), key=int) == arguments, "each task ran once"
    assert mapreduce.wait(c, job) == [f"<{i}>\n" for i in arguments]
    cluster.remove("log", "go")


def test_who_waits_may_be_interrupted_and_the_instances_go_on(c: Context, cluster: Cluster) -> None:
    cluster.remove("log", "go")
    mapreduce.pmap(c, cluster.ids, "a\nb\nc\nd\ne", SLOW, detach=True, job="left")
    eventually(lambda: len(cluster.lines("log")) == 3)
    waiting = start_inv("mapreduce.wait", "left", env=cluster.env)
    try:
        eventually(lambda: (cluster.jobs / "left" / "journal").read_text().count(" up {") == 6)
        with pytest.raises(Failed, match=f"pid {waiting.pid}"):
            mapreduce.wait(c, "left")
        waiting.send_signal(signal.SIGINT)
        said = waiting.communicate(timeout=patience())[1]
    finally:
        waiting.kill()
        waiting.communicate()
    assert waiting.returncode == 130
    assert "the instances go on" in said
    assert "mapreduce.wait left" in said
    assert state(c, "left") == ("detached", 0)
    cluster.touch("go")
    eventually(lambda: len(cluster.lines("log")) == 5)
    assert mapreduce.wait(c, "left") == [f"<{one}>\n" for one in "abcde"]
    assert sorted(cluster.lines("log")) == [*"abcde"]
    cluster.remove("log", "go")


def test_tasks_of_an_instance_that_has_gone_run_elsewhere(
    new_cluster: Callable[[int], Cluster], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = new_cluster(2)
    for name, value in own.env.items():
        monkeypatch.setenv(name, value)
    c = Context(Config(defaults={**mapreduce.ns.configuration(), **ec2.ns.configuration()}))
    command = 'read x; echo $x >> log; [ $x != 3 -o $HARDWAY_ATTEMPT -gt 1 ] || exit 9; echo "<$x>"'
    mapreduce.pmap(c, own.ids, [str(i) for i in range(20)], command, detach=True, job="goes")
    eventually(lambda: len(own.lines("log")) == 20)
    ec2.rm(c, own.ids[0], yes=True)
    assert mapreduce.wait(c, "goes") == [f"<{i}>\n" for i in range(20)]
    ec2.rm(c, own.ids[1], yes=True)
    assert mapreduce.wait(c, "goes") == [f"<{i}>\n" for i in range(20)], "what is here needs no instance"


@pytest.mark.parametrize(
    "flags", [{"notify": "true"}, {"verify": 1}, {"join": True}, {"results": "x"}, {"engine": "dask://localhost:1"}]
)
def test_what_nobody_could_heed_is_refused(flags: dict[str, Any]) -> None:
    c = Context(Config(defaults=mapreduce.ns.configuration()))
    with pytest.raises(UsageError, match=f"--{next(iter(flags))} can't be used with --detach"):
        mapreduce.pmap(c, "nobody", "x", "cat", detach=True, **flags)


def test_tasks_are_dealt_by_slots_and_busy_hosts_keep_their_share() -> None:
    schedule = Schedule(1000)
    for name, slots in (("small", 1), ("large", 4), ("slow", 5)):
        schedule.join(name, slots)
    first = schedule.deal(0, {"small", "large"}, 10_000)
    assert Counter(order.host for order in first) == {"small": 100, "large": 400}
    assert Counter(order.host for order in schedule.deal(0, {"small", "large", "slow"}, 10_000)) == {"slow": 500}
    assert len({order.task for order in first if isinstance(order, Start)}) == 500
    assert not schedule.unstarted


# The agent alone


def test_an_agent_without_a_driver_keeps_all_results_and_ends_itself_after_its_work(
    start_agent: Callable[..., PipedAgent], home: Path
) -> None:
    """More than it keeps in memory; its work takes longer than it lingers."""
    one = start_agent(
        "read x; [ $x != s ] || sleep .5; head -c 60000 /dev/zero | tr '\\0' $x; echo $x >> log",
        detached=1,
        linger=30,
        slots=2,
    )
    given = {task: b"abc"[task % 3 : task % 3 + 1] for task in range(1, 121)}
    for task, letter in given.items():
        one.send(agent.RUN, task, 1, letter + b"\n")
    one.send(agent.PING)
    one.expect(agent.PONG)
    one.hang_up()
    eventually(lambda: (home / "log").exists() and len((home / "log").read_text()) == 240)
    one.settings["linger"] = 0.2
    one.connect()
    while given:
        done = one.expect(agent.DONE)
        assert done.payload[agent.RESULT.size :] == given.pop(done.task) * 60000
        one.send(agent.ACK, done.task, 1)
    one.send(agent.RUN, 500, 1, b"s\n")
    one.send(agent.PING)
    one.expect(agent.PONG)
    one.hang_up()
    eventually(lambda: not (home / ".hardway").exists())
    assert (home / "log").read_text().endswith("s\n"), "it waited for the end of its work"


def test_an_agent_without_a_driver_starts_nothing_more_where_results_can_not_be_kept(
    start_agent: Callable[..., PipedAgent], home: Path
) -> None:
    one = start_agent(
        "echo >> log; until [ -e go ]; do sleep .01; done; head -c 100000 /dev/zero",
        login=lambda shell: f"ulimit -f 100; {shell}",
        detached=1,
    )
    for task in range(40):
        one.send(agent.RUN, task, 1)
    one.send(agent.PING)
    one.expect(agent.PONG)
    one.hang_up()
    (home / "go").touch()
    eventually(lambda: os.path.getsize(home / "log") == agent.FAULTS_MOST)
    one.connect()
    holdings = one.expect(agent.HELLO).payload.partition(b"\n")[2]
    states = Counter(state for _, _, state, *_ in agent.HOLDING.iter_unpack(holdings))
    assert states[agent.WAITING] == 40 - agent.FAULTS_MOST
    for _ in range(40):
        assert one.result()[1] & agent.HOST_FAULT
