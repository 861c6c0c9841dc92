"""The blame for a failure: it goes to the host first, to a task only where different hosts die with it."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hardway.pmap.schedule import DEADLY, Cancel, Recall, Schedule, Start, Verdict


def places(schedule: Schedule) -> Counter[int]:
    """In how many places of the schedule each task is; its attempts that are alive are one."""
    found: Counter[int] = Counter()
    backlog = schedule._backlog
    found.update(task for task in range(schedule.total) if schedule._over[task])
    found.update(task for task in schedule._attempts.alive if not schedule._over[task])
    found.update(backlog.again)
    found.update(task for tasks in backlog.ready.values() for task in tasks)
    found.update(task for _, task in backlog.retries)
    found.update(task for task in range(backlog.next, schedule.total) if task not in backlog.touched)
    return found


class Machine(RuleBasedStateMachine):
    """Hosts that do whatever hosts may do, in any order, and a job that must still come to an end."""

    names = st.sampled_from("abc")

    def __init__(self) -> None:
        super().__init__()
        self.schedule = Schedule(12, retries=2, retry_sleep=1.0, halt=0)
        self.now = 0.0
        self.here: dict[str, bool] = {}  # known to the schedule, and whether it is connected
        self.sent: dict[tuple[str, int], int] = {}
        self.running: set[tuple[str, int]] = set()
        self.verdicts: Counter[int] = Counter()

    def forget(self, name: str) -> None:
        self.sent = {key: attempt for key, attempt in self.sent.items() if key[0] != name}
        self.running = {key for key in self.running if key[0] != name}

    def act(self) -> None:
        for one in self.schedule.decide(self.now):
            key = str(one.host), one.task
            if isinstance(one, Start):
                assert key not in self.sent, "a host has two attempts of a task"
                self.sent[key] = one.attempt
            elif isinstance(one, Recall | Cancel) and self.sent.get(key) == one.attempt and key not in self.running:
                del self.sent[key]
                self.schedule.returned(*one)

    @rule(name=names, slots=st.integers(1, 3))
    def join(self, name: str, slots: int) -> None:
        self.here[name] = True
        self.schedule.join(name, slots)

    @rule()
    def decide(self) -> None:
        self.act()

    @rule(seconds=st.sampled_from([0.1, 1.0, 10.0, 300.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: set(self.sent) - self.running)
    @rule(data=st.data())
    def start(self, data: st.DataObject) -> None:
        name, task = data.draw(st.sampled_from(sorted(set(self.sent) - self.running)))
        if self.here[name]:
            self.running.add((name, task))
            self.schedule.started(name, task, self.sent[name, task], self.now)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), how=st.sampled_from(["ok", "failed", "host", "lost"]))
    def end(self, data: st.DataObject, how: str) -> None:
        name, task = data.draw(st.sampled_from(sorted(self.running)))
        if not self.here[name]:
            return
        attempt = self.sent.pop((name, task))
        self.running.discard((name, task))
        if how == "lost":
            self.schedule.lost(name, task, attempt)
        elif how == "host":
            self.schedule.spoiled(name, task, attempt, self.now)
        else:
            verdict = self.schedule.finished(name, task, attempt, how == "ok", 1.0, self.now)
            self.verdicts[task] += verdict in (Verdict.DONE, Verdict.FAILED)

    @rule(name=names)
    def die(self, name: str) -> None:
        if self.here.get(name):
            dead = [(task, attempt) for (host, task), attempt in self.sent.items() if host == name]
            self.forget(name)
            self.schedule.died(name, dead)

    @rule(name=names)
    def leave(self, name: str) -> None:
        self.here.pop(name, None)
        self.forget(name)
        self.schedule.leave(name)

    @rule(name=names)
    def pause(self, name: str) -> None:
        if self.here.get(name):
            self.here[name] = False
            self.schedule.pause(name, self.now)

    @rule(name=names, seconds=st.sampled_from([0.0, 60.0, 1e9]))
    def interrupt(self, name: str, seconds: float) -> None:
        self.schedule.interrupt(name, seconds, self.now)

    @invariant()
    def each_task_is_in_one_place(self) -> None:
        found = places(self.schedule)
        assert all(found[task] == 1 for task in range(12)), found
        self.verdicts.update(task for task, _, _ in self.schedule.deadly)
        self.schedule.deadly.clear()
        assert set(self.verdicts.values()) <= {0, 1}
        assert sum(self.verdicts.values()) == self.schedule.done + self.schedule.failed

    @invariant()
    def what_is_sent_is_what_the_hosts_have(self) -> None:
        known = {(name, task): number for name in self.here for task, number in self.schedule.held(name)}
        assert known == self.sent

    def teardown(self) -> None:
        """Whatever has happened: with one more host that works, the job ends."""
        for name, connected in list(self.here.items()):
            if not connected:
                self.leave(name)
        self.join("z", 1)
        for _ in range(500):
            self.act()
            if self.schedule.finished_all:
                break
            if waiting := sorted(set(self.sent) - self.running):
                for name, task in waiting:
                    self.running.add((name, task))
                    self.schedule.started(name, task, self.sent[name, task], self.now)
            for name, task in sorted(self.running):
                attempt = self.sent.pop((name, task))
                verdict = self.schedule.finished(name, task, attempt, True, 1.0, self.now)
                self.verdicts[task] += verdict in (Verdict.DONE, Verdict.FAILED)
            self.running.clear()
            self.now = max(self.now + 1.0, self.schedule.due(self.now) or 0.0)
        assert self.schedule.finished_all
        self.each_task_is_in_one_place()


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def run(
    schedule: Schedule, hosts: list[str], sick: str = "", deadly: int = -1, lacking: str = "", dies: bool = True
) -> Counter[str]:
    """Run a job in which an agent dies whenever anything runs on `sick`, or task `deadly` runs anywhere.

    On `lacking` nothing can be run. Returns how many attempts each host was sent; ends where nothing goes on.
    """
    now = 0.0
    counts: Counter[str] = Counter()
    for name in hosts:
        schedule.join(name, 1)
    for _ in range(10_000):
        now += 1.0
        sent = [one for one in schedule.decide(now) if isinstance(one, Start)]
        due = schedule.due(now)
        if schedule.finished_all or (not sent and due is None):
            return counts
        by_host: dict[str, list[Start]] = {}
        for one in sent:
            by_host.setdefault(str(one.host), []).append(one)
        for name, ones in by_host.items():
            counts[name] += len(ones)
            for at, one in enumerate(ones):
                if name == lacking:
                    schedule.spoiled(*one, now)
                    continue
                schedule.started(*one, now)
                if name == sick or one.task == deadly:
                    schedule.died(name, [(other.task, other.attempt) for other in ones[at:]])
                    break
                schedule.finished(*one, True, 1.0, now)
    raise AssertionError("it goes on for ever")


def test_a_host_where_the_agent_dies_whenever_a_task_runs_fails_no_task() -> None:
    schedule = Schedule(100)
    counts = run(schedule, list("abcdefgh"), sick="c")
    assert (schedule.done, schedule.failed, schedule.put_aside) == (100, 0, ["c"])
    assert counts["c"] <= 6


def test_on_one_sick_host_the_host_is_to_blame() -> None:
    schedule = Schedule(100)
    run(schedule, ["a"], sick="a")
    assert (schedule.done, schedule.failed, schedule.put_aside) == (0, 0, ["a"])
    assert schedule.idle
    assert not schedule.deadly


@pytest.mark.parametrize("hosts", ["a", "ab", "abcdefgh"])
def test_a_task_that_kills_wherever_it_runs_is_given_up_and_no_host_set_aside(hosts: str) -> None:
    schedule = Schedule(100, halt=0)
    run(schedule, list(hosts), deadly=7)
    assert (schedule.done, schedule.failed, schedule.put_aside) == (99, 1, [])
    assert [(task, attempt) for task, attempt, _ in schedule.deadly] == [(7, DEADLY)]


def test_a_deadly_task_and_a_sick_host_are_told_apart() -> None:
    schedule = Schedule(100, halt=0)
    run(schedule, list("abcd"), sick="b", deadly=7)
    assert (schedule.done, schedule.failed, schedule.put_aside) == (99, 1, ["b"])


@pytest.mark.parametrize("hosts", ["ab", "abcdefgh"])
def test_a_host_that_has_no_room_costs_no_task_an_attempt(hosts: str) -> None:
    schedule = Schedule(100, retries=0)
    counts = run(schedule, list(hosts), lacking="a")
    assert (schedule.done, schedule.failed, schedule.retried, schedule.put_aside) == (100, 0, 0, ["a"])
    assert counts["a"] < 20


def test_where_no_host_has_room_all_are_set_aside_and_no_task_fails() -> None:
    schedule = Schedule(10, retries=0)
    run(schedule, ["a"], lacking="a")
    assert (schedule.done, schedule.failed, schedule.put_aside) == (0, 0, ["a"])
    assert schedule.idle


def test_what_dies_before_it_is_known_to_run_counts_all_the_same() -> None:
    schedule = Schedule(9)
    schedule.join("a", 1)
    for now in range(3):
        sent = [one for one in schedule.decide(float(now)) if isinstance(one, Start)]
        schedule.died("a", [(one.task, one.attempt) for one in sent])
    assert schedule.put_aside == ["a"]


def test_a_host_that_is_lost_and_back_and_lost_again_is_set_aside() -> None:
    schedule = Schedule(9)
    for now in range(3):
        schedule.join("a", 1)
        (first, *_) = [one for one in schedule.decide(float(now)) if isinstance(one, Start)]
        schedule.started(*first, float(now))
        schedule.leave("a")
    schedule.join("a", 1)
    assert schedule.put_aside == ["a"]
    assert schedule.decide(9.0) == []


def test_a_success_clears_a_host() -> None:
    schedule = Schedule(50)
    schedule.join("a", 1)
    rng = random.Random(1)
    deaths = 0
    for now in range(200):
        for one in schedule.decide(float(now)):
            if isinstance(one, Start) and schedule.held("a"):
                schedule.started(*one, float(now))
                if one.task % 3 == 0 and one.attempt == 1 and rng.random() < 0.9:
                    deaths += 1
                    schedule.died("a", list(schedule.held("a")))
                    break
                schedule.finished(*one, True, 1.0, float(now))
    assert deaths > 10
    assert (schedule.done, schedule.put_aside) == (50, [])


def test_numbers_of_attempts_come_to_an_end() -> None:
    schedule = Schedule(1, halt=0, retries=1 << 20)
    schedule.used(0, 65_534)
    schedule.join("a", 1)
    (start,) = [one for one in schedule.decide(0.0) if isinstance(one, Start)]
    assert schedule.finished(*start, False, 1.0, 0.0) is Verdict.FAILED
