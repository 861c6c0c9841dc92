"""Jobs on one instance share its slots: together they run no more at a time than the largest alone; none starves."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

from hardway.pmap import agent
from tests.patience import patience
from tests.pmap.conftest import Cluster, PipedAgent, eventually
from tests.pmap.test_resume import started

TOGETHER = 'n=$(mktemp -d "$PWD/now/XXXXXX"); ls now | wc -l >> most; sleep 0.0$((RANDOM % 5)); rmdir "$n"'


def most(home: Path) -> int:
    """How many commands ever ran at a time."""
    return max(int(line) for line in (home / "most").read_text().split())


def test_two_jobs_run_no_more_at_a_time_than_the_larger(home: Path, start_agent: Callable[..., PipedAgent]) -> None:
    (home / "now").mkdir()
    small, large = start_agent(TOGETHER), start_agent(TOGETHER, slots=2)
    for task in range(1, 31):
        for one in (small, large):
            one.send(agent.RUN, task, 1)
    for _ in range(30):
        for one in (small, large):
            assert one.result()[0] == 0
    assert most(home) == 2
    for one in (small, large):
        one.stop()
    eventually(lambda: not list(home.glob(".hardway/slots-*")))


def test_the_second_says_that_another_is_there(start_agent: Callable[..., PipedAgent]) -> None:
    first = start_agent("echo one")
    assert first.run()[2] == b"one\n"
    second = start_agent("echo two")
    second.expect(agent.SHARED)
    assert second.run()[2] == b"two\n"


def test_jobs_take_turns(home: Path, start_agent: Callable[..., PipedAgent]) -> None:
    """One that comes while another has many tasks waiting does not wait for all of them."""
    busy = start_agent("echo busy >> order; sleep .02")
    for task in range(1, 101):
        busy.send(agent.RUN, task, 1)
    eventually(lambda: (home / "order").exists())
    late = start_agent("echo late >> order")
    for task in range(1, 4):
        late.send(agent.RUN, task, 1)
    for _ in range(3):
        late.result()
    order = (home / "order").read_text().split()
    assert order.count("late") == 3
    assert order.count("busy") < 90
    while busy.result() and len((home / "order").read_text().split()) < 103:
        pass


def test_a_killed_agents_slots_are_free(home: Path, start_agent: Callable[..., PipedAgent]) -> None:
    killed = PipedAgent(home, "echo $PPID > pid; exec sleep 1000", job="killed")
    killed.send(agent.RUN, 1, 1)
    pid = int(eventually(lambda: (home / "pid").exists() and (home / "pid").read_text().strip()))
    other = start_agent("echo other")
    other.send(agent.RUN, 1, 1)
    other.expect(agent.SHARED)
    assert not other.got
    os.kill(pid, signal.SIGKILL)
    killed.hang_up()
    assert other.result()[2] == b"other\n"
    again = PipedAgent(home, "true", job="killed")
    again.stop()


def test_a_file_that_cannot_be_made_stops_no_job(home: Path, start_agent: Callable[..., PipedAgent]) -> None:
    (home / ".hardway" / "slots-i-1").mkdir(parents=True)
    one = start_agent("echo alone", slots=2)
    assert [one.run(task=task)[2] for task in (1, 2, 3)] == 3 * [b"alone\n"]
    (home / ".hardway" / "slots-i-1").rmdir()


def test_it_is_said_at_the_start(cluster: Cluster) -> None:
    cluster.remove("go")
    one = Cluster(cluster.ids[:1], cluster.env, cluster.cloud)
    command = "touch first; until [ -e go ]; do sleep .02; done"
    with started(one, "x", command) as first:
        eventually(lambda: any((home / "first").exists() for home in one.homes))
        with started(one, "y", "cat") as second:
            assert second.stderr
            line = second.stderr.readline()
            assert "another job runs there too" in line
            assert one.ids[0] in line
            assert second.poll() is None
            cluster.touch("go")
            assert second.communicate(timeout=patience(30))[0] == "y\n"
        assert first.communicate(timeout=patience(30))[0] == ""
    cluster.remove("go", "first")
