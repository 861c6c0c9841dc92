"""The state machine of pmap in simulated worlds: whatever happens, each task has exactly one outcome."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardway.pmap.durations import ahead
from hardway.pmap.health import SET_ASIDE
from hardway.pmap.schedule import DEADLY, Cancel, Decision, Recall, Schedule, Start, Verdict, retry_wait


class World:
    """Hosts that run attempts as an agent does, in simulated time, with faults drawn from a seed."""

    def __init__(self, schedule: Schedule, hosts: dict[str, int], seed: int, **chances: float) -> None:
        self.schedule = schedule
        self.random = random.Random(seed)
        self.slots = hosts
        self.fail = chances.get("fail", 0.0)
        self.leave = chances.get("leave", 0.0)
        self.drop = chances.get("drop", 0.0)
        self.lie = chances.get("lie", 0.0)
        self.results: dict[str, list[int]] = {}  # the tasks whose results are from a host
        self.spread = chances.get("spread", 0.5)
        self.bad = {name for name in hosts if self.random.random() < chances.get("bad", 0.0)}
        self.slow = {name: 10.0 if self.random.random() < chances.get("slow", 0.0) else 1.0 for name in hosts}
        self.now = 0.0
        self.events: list[tuple[float, int, str, tuple[Any, ...]]] = []
        self.order = 0
        self.queue: dict[str, list[tuple[int, int]]] = {}
        self.running: dict[str, dict[int, int]] = {}
        self.connected: dict[str, bool] = {}
        self.outcomes: dict[int, list[Verdict]] = {}
        self.dispatched: set[tuple[int, int]] = set()
        self.starts: list[tuple[str, int, int]] = []
        self.busy = 0.0
        self.ended = 0.0
        for name, slots in hosts.items():
            self.join(name, slots)

    def at(self, delay: float, what: str, *args: object) -> None:
        self.order += 1
        heapq.heappush(self.events, (self.now + delay, self.order, what, args))

    def join(self, name: str, slots: int) -> None:
        self.queue[name], self.running[name], self.connected[name] = [], {}, True
        self.schedule.join(name, slots)

    def run(self, limit: float = 1e7) -> None:
        while not self.schedule.finished_all:
            self.act()
            if self.schedule.finished_all:
                break
            due = self.schedule.due(self.now)
            if self.events and (due is None or self.events[0][0] <= due):
                self.now, _, what, args = heapq.heappop(self.events)
                getattr(self, f"on_{what}")(*args)
            else:
                assert due is not None, "nothing will ever happen again"
                self.now = max(due, self.now)
            assert self.now < limit
        self.ended = self.now

    def act(self) -> None:
        while decisions := self.schedule.decide(self.now):
            for decision in decisions:
                self.carry_out(decision)
        for name in self.running:
            load = len(self.schedule.held(name))
            assert len(self.running[name]) <= self.slots[name]
            assert load <= self.slots[name] + 64

    def carry_out(self, decision: Decision) -> None:
        name, task, attempt = str(decision.host), decision.task, decision.attempt
        if isinstance(decision, Start):
            assert self.connected[name], "started on a host that can't be reached"
            assert (task, attempt) not in self.dispatched or attempt >= 1
            self.dispatched.add((task, attempt))
            self.queue[name].append((task, attempt))
            self.advance(name)
        elif isinstance(decision, Recall):
            if (task, attempt) in self.queue[name]:
                self.queue[name].remove((task, attempt))
                self.schedule.returned(name, task, attempt)
        elif isinstance(decision, Cancel):
            if (task, attempt) in self.queue[name]:
                self.queue[name].remove((task, attempt))
                self.schedule.returned(name, task, attempt)
            elif self.running[name].get(task) == attempt:
                self.at(0.0, "finish", name, task, attempt, False, 0.1)

    def advance(self, name: str) -> None:
        while self.queue[name] and len(self.running[name]) < self.slots[name]:
            task, attempt = self.queue[name].pop(0)
            self.running[name][task] = attempt
            self.starts.append((name, task, attempt))
            self.schedule.started(name, task, attempt, self.now)
            duration = self.random.lognormvariate(0, self.spread) * self.slow[name]
            fate = self.random.random()
            ok = name not in self.bad and self.random.random() >= self.fail
            if fate < self.leave:
                self.at(duration / 2, "die", name)
            elif fate < self.leave + self.lie:
                self.at(duration / 2, "die", name, True)
            elif fate < self.leave + self.lie + self.drop and self.connected[name]:
                self.at(duration / 2, "drop", name)
            self.at(duration, "finish", name, task, attempt, ok, duration)

    def on_finish(self, name: str, task: int, attempt: int, ok: bool, duration: float) -> None:
        if self.running.get(name, {}).get(task) != attempt:
            return
        if not self.connected[name]:
            self.at(0.5, "finish", name, task, attempt, ok, duration)  # kept until the connection is back
            return
        del self.running[name][task]
        self.busy += duration
        verdict = self.schedule.finished(name, task, attempt, ok, duration, self.now)
        self.outcomes.setdefault(task, []).append(verdict)
        if verdict is Verdict.DONE:
            self.results.setdefault(name, []).append(task)
        self.advance(name)

    def on_die(self, name: str, found_out: bool = False) -> None:
        if name not in self.running:
            return
        if found_out:
            for task in self.results.pop(name, ()):
                self.outcomes[task].remove(Verdict.DONE)
                self.schedule.reopen(task)
        del self.running[name], self.queue[name], self.connected[name]
        self.schedule.leave(name)
        new = f"{name}+"
        self.slots[new], self.slow[new] = self.slots[name], 1.0
        self.at(1.0, "born", new)

    def on_born(self, name: str) -> None:
        self.join(name, self.slots[name])

    def on_drop(self, name: str) -> None:
        if self.connected.get(name):
            self.connected[name] = False
            self.schedule.pause(name, self.now)
            self.at(2.0, "back", name)

    def on_back(self, name: str) -> None:
        if name in self.connected:
            self.connected[name] = True
            self.schedule.join(name, self.slots[name])


def final(world: World, verdict: Verdict) -> Counter[int]:
    return Counter(task for task, all_of in world.outcomes.items() for one in all_of if one is verdict)


def test_what_was_sent_ahead_is_not_taken_to_run() -> None:
    schedule = Schedule(99, retries=0, retry_sleep=1, halt=0, backup=False, seed=0)
    schedule.join("one", 1)
    held: list[Start] = []
    for now in range(1, 9):  # until its tasks are known to be short
        held += [decision for decision in schedule.decide(float(now)) if isinstance(decision, Start)]
        schedule.started("one", held[0].task, held[0].attempt, float(now))
        assert schedule.running == 1
        schedule.finished("one", held[0].task, held[0].attempt, True, 0.001, now + 0.001)
        assert schedule.running == 0
        del held[0]
    assert held


def prefer(schedule: Schedule, hosts: dict[str, int], seed: int, share: float) -> None:
    """This share of the tasks prefers one of the hosts, or one that never comes."""
    chance = random.Random(seed)
    for task in range(schedule.total):
        if chance.random() < share:
            schedule.prefer(task, chance.choice([*hosts, "nobody"]))


@settings(max_examples=150, deadline=None)
@given(
    tasks=st.integers(0, 120),
    slots=st.lists(st.integers(1, 4), min_size=1, max_size=8),
    seed=st.integers(0, 2**32),
    fail=st.sampled_from([0.0, 0.1, 0.4]),
    leave=st.sampled_from([0.0, 0.05]),
    drop=st.sampled_from([0.0, 0.1]),
    lie=st.sampled_from([0.0, 0.03]),
    slow=st.sampled_from([0.0, 0.2]),
    backup=st.booleans(),
    prefers=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_every_task_has_exactly_one_outcome(
    tasks: int,
    slots: list[int],
    seed: int,
    fail: float,
    leave: float,
    drop: float,
    lie: float,
    slow: float,
    backup: bool,
    prefers: float,
) -> None:
    schedule = Schedule(tasks, retries=3, retry_sleep=5, halt=0, backup=backup, seed=seed)
    hosts = {f"h{i}": n for i, n in enumerate(slots)}
    prefer(schedule, hosts, seed, prefers)
    world = World(schedule, hosts, seed, fail=fail, leave=leave, drop=drop, lie=lie, slow=slow)
    world.run()
    done, failed = final(world, Verdict.DONE), final(world, Verdict.FAILED)
    failed.update(task for task, _, _ in schedule.deadly)
    assert set(done) | set(failed) == set(range(tasks))
    assert not set(done) & set(failed)
    assert all(count == 1 for count in (done + failed).values())
    assert schedule.done == len(done)
    assert schedule.failed == len(failed)
    if not fail:
        assert set(failed) == {task for task, _, _ in schedule.deadly}
    assert len(set(world.starts)) == len(world.starts), "an attempt ran twice"
    assert len({(task, attempt) for _, task, attempt in world.starts}) == len(world.starts), "a number was given twice"


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60),
    st.lists(st.integers(1, 4), min_size=1, max_size=6),
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.5, 1.0]),
)
def test_no_slot_stands_idle_while_a_task_waits(tasks: int, slots: list[int], seed: int, prefers: float) -> None:
    hosts = {f"h{i}": n for i, n in enumerate(slots)}
    schedule = Schedule(tasks, seed=seed)
    prefer(schedule, hosts, seed, prefers)
    world = World(schedule, hosts, seed)
    act = world.act

    def watched() -> None:
        act()
        idle = sum(n - min(n, len(schedule.held(name))) for name, n in world.slots.items())
        assert not idle or schedule.done + schedule.running >= tasks
        assert not idle or not any(world.queue.values()), "what was sent ahead is taken back"

    monkey = pytest.MonkeyPatch()
    monkey.setattr(world, "act", watched)
    world.run()


def test_a_retry_goes_where_the_task_has_not_failed() -> None:
    schedule = Schedule(1, retries=5, retry_sleep=0)
    for name in "abc":
        schedule.join(name, 1)
    tried = []
    for _ in range(3):
        (start,) = starts(schedule, 0)
        tried.append(str(start.host))
        schedule.started(*start, 0)
        assert schedule.finished(*start, False, 1, 0) is Verdict.RETRY
    assert sorted(tried) == ["a", "b", "c"]
    assert len(schedule.decide(0)) == 1, "it failed everywhere: any host is as good"


def test_a_retry_waits_for_a_busy_host_rather_than_fail_again_where_it_failed() -> None:
    schedule = Schedule(2, retry_sleep=0)
    schedule.join("a", 1)
    schedule.join("b", 1)
    first, second = starts(schedule, 0)
    assert schedule.finished(*first, False, 1, 1) is Verdict.RETRY
    assert schedule.decide(1) == []
    schedule.finished(*second, True, 1, 2)
    assert schedule.decide(2) == [Start(second.host, first.task, 2)]


def test_waits_before_retries_grow_and_hold_up_nothing() -> None:
    schedule = Schedule(51, retries=10, retry_sleep=30, halt=0, backup=False)
    schedule.join("a", 1)
    (long,) = starts(schedule, 0.0)
    schedule.started(*long, 0.0)
    schedule.join("a", 2)
    now, failed_at, others = 0.0, 0.0, 0
    waits: list[float] = []
    sent: list[Start] = []
    while schedule.left > 1:
        sent += [decision for decision in schedule.decide(now) if isinstance(decision, Start)]
        if not sent:
            due = schedule.due(now)
            assert due is not None
            now = due
            continue
        start = sent.pop(0)
        if start.task == 1:
            if start.attempt > 1:
                waits.append(now - failed_at)
            schedule.finished(*start, False, 0.1, now)
            failed_at = now
        else:
            schedule.finished(*start, True, 0.1, now)
            others += 1
    assert len(waits) == 10
    assert all(wait <= 30 for wait in waits)
    assert waits[-1] >= 15 > waits[2]
    assert others == 49


def test_spent_retries_stop_the_job_and_let_what_runs_end() -> None:
    schedule = Schedule(10, retries=0)
    schedule.join("a", 1)
    schedule.join("b", 1)
    first, second = starts(schedule, 0)
    assert schedule.finished(*first, False, 1, 1) is Verdict.FAILED
    assert schedule.decide(1) == []
    assert not schedule.finished_all
    assert schedule.finished(*second, True, 1, 2) is Verdict.DONE
    assert schedule.finished_all
    assert (schedule.done, schedule.failed) == (1, 1)


def starts(schedule: Schedule, now: float) -> list[Start]:
    return [decision for decision in schedule.decide(now) if isinstance(decision, Start)]


def run_all_but_one(schedule: Schedule, now: float = 1.0) -> Start:
    """Finish everything but one attempt, and return that."""
    held: Start | None = None
    while schedule.left > 1:
        for start in starts(schedule, now):
            schedule.started(*start, now)
            if held is None:
                held = start
            else:
                schedule.finished(*start, True, 1.0, now)
    assert held
    return held


def test_a_straggler_gets_one_backup_elsewhere_and_the_first_to_finish_counts() -> None:
    schedule = Schedule(20)
    schedule.join("a", 1)
    schedule.join("b", 1)
    straggler = run_all_but_one(schedule)
    assert schedule.decide(3.9) == []
    assert schedule.due(3.9) == 4.0
    (backup,) = starts(schedule, 4.0)
    assert (backup.task, backup.attempt) == (straggler.task, 2)
    assert backup.host != straggler.host
    assert schedule.decide(100) == []
    schedule.started(*backup, 4)
    assert schedule.finished(*backup, True, 1, 5) is Verdict.DONE
    assert schedule.decide(5) == [Cancel(*straggler)]
    assert schedule.finished(*straggler, True, 9, 6) is Verdict.IGNORED
    assert schedule.finished_all


def test_a_backup_that_ends_by_our_order_is_no_failure_though_the_first_result_was_a_liars() -> None:
    schedule = Schedule(20, retries=0)
    schedule.join("a", 1)
    schedule.join("b", 1)
    straggler = run_all_but_one(schedule)
    [backup] = starts(schedule, 4.0)
    schedule.started(*backup, 4)
    assert schedule.finished(*straggler, True, 9, 5) is Verdict.DONE
    assert schedule.decide(5) == [Cancel(*backup)]
    schedule.reopen(straggler.task)
    schedule.leave(straggler.host)
    assert schedule.finished(*backup, False, 1, 6) is Verdict.IGNORED
    [again] = starts(schedule, 6)
    assert (again.host, again.task, schedule.failed) == (backup.host, backup.task, 0)
    assert schedule.finished(*again, True, 1, 7) is Verdict.DONE
    assert schedule.finished_all


def test_no_backup_for_what_has_ended_and_is_sent() -> None:
    schedule = Schedule(20)
    schedule.join("a", 1)
    schedule.join("b", 1)
    straggler = run_all_but_one(schedule)
    schedule.sends(*straggler)
    assert schedule.decide(1e6) == []
    assert schedule.due(1e6) is None
    schedule.lost(*straggler)
    assert [one.task for one in starts(schedule, 1e6)] == [straggler.task], "the result was lost on its way"


def test_no_backup_where_it_is_turned_off_or_the_job_is_small() -> None:
    for tasks, backup in ((20, False), (9, True)):
        schedule = Schedule(tasks, backup=backup)
        schedule.join("a", 1)
        schedule.join("b", 1)
        run_all_but_one(schedule)
        assert schedule.decide(1e6) == []
        assert schedule.due(1e6) is None


def test_a_host_that_fails_what_others_can_do_is_set_aside() -> None:
    schedule = Schedule(100, retry_sleep=0)
    world = World(schedule, {"good": 2, "bad": 1, "fine": 1}, 1)
    world.bad = {"bad"}
    world.run()
    assert schedule.done == 100
    assert schedule.put_aside == ["bad"]
    assert 3 <= sum(1 for host, _, _ in world.starts if host == "bad") < 12


def test_the_last_host_is_never_set_aside() -> None:
    schedule = Schedule(30, retry_sleep=0, retries=2, halt=0)
    world = World(schedule, {"bad": 2}, 1)
    world.bad = {"bad"}
    world.run()
    assert schedule.failed == 30
    assert not schedule.put_aside


def test_what_was_sent_ahead_is_taken_back_for_a_free_slot() -> None:
    schedule = Schedule(8)
    schedule.join("a", 1)
    (first,) = starts(schedule, 0)
    schedule.started(*first, 0)
    schedule.finished(*first, True, 0.01, 0)
    sent = starts(schedule, 0)
    assert len(sent) > 2, "short tasks are sent ahead"
    schedule.started(*sent[0], 0)
    schedule.finished(*sent[0], True, 0.01, 0)
    schedule.started(*sent[1], 0)
    while more := starts(schedule, 0):
        sent += more
    schedule.join("b", 1)
    decisions = schedule.decide(0)
    if not any(isinstance(d, Start) for d in decisions):
        (recall,) = decisions
        assert isinstance(recall, Recall)
        schedule.returned(*recall)
        decisions = schedule.decide(0)
    assert decisions[0].host == "b"


def test_what_waits_for_another_jobs_tasks_runs_where_slots_stand_free() -> None:
    schedule = Schedule(2)
    schedule.join("a", 1)
    schedule.join("b", 1)
    assert {one.host for one in schedule.decide(0.0)} == {"a", "b"}
    schedule.share("b")
    task = next(iter(schedule.held("a")))[0]
    schedule.started("a", task, 1, 0.1)
    assert schedule.decide(0.2) == []
    schedule.finished("a", task, 1, True, 0.2, 0.3)
    assert schedule.decide(0.3) == [Start("a", 1 - task, 2)]
    assert schedule.decide(0.4) == []
    schedule.started("a", 1 - task, 2, 0.4)
    assert schedule.finished("a", 1 - task, 2, True, 0.2, 0.6) is Verdict.DONE
    assert schedule.decide(0.6) == [Cancel("b", 1 - task, 1)] and schedule.finished_all


def test_an_attempt_given_up_is_fenced() -> None:
    schedule = Schedule(1)
    schedule.join("a", 1)
    (lost,) = starts(schedule, 0)
    assert schedule.leave("a") == [0]
    schedule.join("b", 1)
    (again,) = starts(schedule, 0)
    assert again == Start("b", 0, 2)
    schedule.join("a", 1)
    assert not schedule.adopt("a", 0, lost.attempt, started=0.0)
    assert schedule.finished(*lost, True, 1, 1) is Verdict.IGNORED
    assert schedule.finished(*again, True, 1, 1) is Verdict.DONE


def test_a_resumed_job_skips_what_is_done_and_adopts_what_runs() -> None:
    schedule = Schedule(5)
    schedule.skip(0)
    schedule.skip(3)
    schedule.used(1, 4)
    schedule.join("a", 2)
    assert schedule.adopt("a", 2, 7, started=0.0)
    assert not schedule.adopt("a", 3, 1, started=0.0), "it has its result"
    assert schedule.decide(0) == [Start("a", 1, 5)]
    assert schedule.finished("a", 2, 7, True, 1, 1) is Verdict.DONE
    assert schedule.decide(1)[0] == Start("a", 4, 1)


def test_sending_ahead_fits_the_round_trip() -> None:
    assert ahead(1, 0.0, 60.0) == 0
    assert ahead(1, 0.08, 0.04) >= 4
    assert ahead(4, 0.08, 0.04) >= 16
    assert ahead(1, 0.08, 1.0) == 1


def test_the_makespan_is_near_ideal_with_uneven_tasks_and_a_slow_host() -> None:
    schedule = Schedule(1000)
    world = World(schedule, {f"h{i}": 1 for i in range(50)}, 7, spread=1.5)
    world.slow["h7"] = 10.0
    world.run()
    assert world.ended <= 1.25 * world.busy / 50 + 60


def test_what_an_interruption_would_cut_short_starts_elsewhere_before_anything_else() -> None:
    schedule = Schedule(20)
    for name in "ab":
        schedule.join(name, 1)
    first = {start.host: start for start in starts(schedule, 0.0)}
    for start in first.values():
        schedule.started(*start, 0.0)
    assert schedule.finished(*first["b"], True, 1.0, 1.0) is Verdict.DONE
    assert schedule.interrupt("a", 100.0, 3.0) == 1
    backup = starts(schedule, 3.0)[0]
    assert (backup.host, backup.task, backup.attempt) == ("b", first["a"].task, 2)
    assert all(start.host == "b" for start in starts(schedule, 4.0))


def test_what_an_interruption_leaves_time_for_is_not_run_twice() -> None:
    schedule = Schedule(20)
    for name in "ab":
        schedule.join(name, 1)
    first = {start.host: start for start in starts(schedule, 0.0)}
    for start in first.values():
        schedule.started(*start, 0.0)
    assert schedule.finished(*first["b"], True, 60.0, 60.0) is Verdict.DONE
    assert schedule.interrupt("a", 100.0, 30.0) == 0
    assert all(start.attempt == 1 for start in starts(schedule, 60.0))


def test_a_task_that_kills_its_hosts_is_given_up_and_those_beside_it_are_not() -> None:
    schedule = Schedule(20, halt=0)
    for number in range(30):
        schedule.join(number, 2)
    killed: list[object] = []
    now = 0.0
    while not schedule.finished_all:
        now += 1
        begun = starts(schedule, now)
        assert begun
        for start in begun:
            schedule.started(*start, now)
        deadly = next((start for start in begun if start.task == 3), None)
        if deadly:
            killed.append(deadly.host)
            schedule.leave(deadly.host)
        for start in begun:
            if not deadly or start.host != deadly.host:
                schedule.finished(*start, True, 0.5, now)
    assert len(killed) == DEADLY
    assert schedule.deadly == [(3, DEADLY, killed[-1])]
    assert (schedule.done, schedule.failed) == (19, 1)


def test_a_host_that_outlives_its_notice_takes_tasks_again() -> None:
    schedule = Schedule(2)
    schedule.join("a", 1)
    schedule.interrupt("a", 100.0, 0.0)
    assert schedule.decide(1.0) == []
    at = schedule.due(1.0)
    assert at is not None
    assert at > 100.0
    assert schedule.decide(at - 1.0) == []
    assert schedule.decide(at) == [Start("a", 0, 1)]
    assert schedule.spared == ["a"]


def test_a_host_set_aside_stays_so_whatever_it_announces() -> None:
    schedule = Schedule(2)
    schedule.join("a", 1)
    for _ in range(SET_ASIDE):
        schedule.died("a", [(start.task, start.attempt) for start in starts(schedule, 0.0)])
    assert schedule.put_aside == ["a"]
    schedule.interrupt("a", float("nan"), 0.0)
    assert schedule.due(1.0) is None
    assert schedule.decide(1e6) == []


def test_interruptions_with_notice_are_no_fault_of_a_task() -> None:
    schedule = Schedule(1)
    for number in range(3 * DEADLY):
        schedule.join(number, 1)
        (start,) = starts(schedule, number)
        schedule.started(*start, number)
        schedule.interrupt(number, 0.1, number)
        schedule.leave(number)
    schedule.join("last", 1)
    (start,) = starts(schedule, 99)
    assert schedule.finished(*start, True, 1, 100) is Verdict.DONE


def test_a_host_that_fails_at_once_does_not_take_all_tasks() -> None:
    """The others need 1 s for a task, it fails 1,000 a second."""
    schedule = Schedule(300, retry_sleep=30)
    world = World(schedule, {"bad": 1, "good": 1, "fine": 1, "well": 1}, 1, spread=0.1)
    world.bad, world.slow["bad"] = {"bad"}, 0.001
    world.run()
    assert schedule.done == 300
    assert schedule.put_aside == ["bad"]
    assert 3 <= sum(1 for host, _, _ in world.starts if host == "bad") < 15


def test_a_wait_that_was_doubled_a_thousand_times_is_the_longest() -> None:
    schedule = Schedule(1200, retries=0, retry_sleep=1.0, halt=0)
    schedule.join("a", 1)
    for now in range(1100):
        (start, *_) = starts(schedule, float(now))
        schedule.started(*start, now)
        assert schedule.finished(*start, False, 0.1, now) is Verdict.FAILED
    schedule.join("b", 1)
    for later in (2000.0, 2001.0):
        (start,) = [one for one in starts(schedule, later) if one.host == "a"]
        schedule.finished(*start, False, 0.1, later)
    assert schedule.due(2001.0) == 2002.0


def test_tasks_that_fail_everywhere_are_not_held_up() -> None:
    schedule = Schedule(500, retries=0, halt=0)
    world = World(schedule, {"a": 1, "b": 2}, 1, spread=0.1, bad=1.0)
    world.run()
    assert schedule.failed == 500
    assert world.ended < 1.2 * 500 / 3


def test_what_a_host_lacks_is_not_charged_to_a_task() -> None:
    """It runs elsewhere at once; what no host can do fails after a few times, and sets no host aside."""
    schedule = Schedule(1, retries=0, retry_sleep=1.0)
    schedule.join("full", 1)
    [start] = schedule.decide(0.0)
    schedule.started("full", 0, 1, 0.0)
    schedule.join("other", 1)
    assert schedule.spoiled("full", 0, start.attempt, 1.0) is Verdict.RETRY
    [again] = schedule.decide(1.0)
    assert (again.host, again.attempt) == ("other", 2)
    now, verdict = 2.0, schedule.spoiled("other", 0, 2, 2.0)
    for _ in range(50):
        for start in schedule.decide(now):
            verdict = schedule.spoiled(start.host, 0, start.attempt, now)
        if verdict is not Verdict.RETRY:
            break
        now = max(now, schedule.due(now) or now)
    assert verdict is Verdict.FAILED
    assert not schedule.put_aside  # two hosts can't do it, which says nothing of either
    assert schedule.spoiled("full", 0, 1, now) is Verdict.IGNORED


def test_a_task_does_not_fail_for_what_some_hosts_lack_while_another_is_away() -> None:
    """Both that are there can run small tasks alone; the third is well, and its connection is cut for a while."""
    schedule = Schedule(1, retries=0, retry_sleep=1.0)
    for name in ("full", "well"):
        schedule.join(name, 1)
    [start] = starts(schedule, 0.0)
    assert schedule.spoiled(start.host, 0, start.attempt, 0.0) is Verdict.RETRY
    schedule.pause("well", 0.0)
    schedule.join("tight", 1)
    now = 0.0
    for _ in range(50):
        now = max(now + 0.1, schedule.due(now) or now)
        for start in starts(schedule, now):
            assert schedule.spoiled(start.host, 0, start.attempt, now) is Verdict.RETRY
    schedule.join("well", 1)
    now += 10
    [start] = starts(schedule, now)
    assert start.host == "well"
    assert schedule.finished("well", 0, start.attempt, True, 0.1, now) is Verdict.DONE


def test_a_task_does_not_fail_for_hosts_that_die_of_any_task() -> None:
    schedule = Schedule(1, retries=0, retry_sleep=1.0)
    for name in ("sick", "ill", "well"):
        schedule.join(name, 1)
    schedule.pause("well", 0.0)
    for now in range(20):
        for start in starts(schedule, float(now)):
            schedule.started(*start, float(now))
            schedule.died(start.host, [(0, start.attempt)])
    assert not schedule.deadly
    schedule.join("well", 1)
    [start] = starts(schedule, 99.0)
    assert start.host == "well"


def test_a_host_that_can_run_nothing_is_set_aside_and_no_task_fails() -> None:
    schedule = Schedule(40, retries=0, retry_sleep=1.0)
    schedule.join("full", 2)
    schedule.join("well", 2)
    now = 0.0
    for _ in range(1000):
        now = max(now + 0.1, schedule.due(now) or now)
        for one in schedule.decide(now):
            if isinstance(one, Recall):
                schedule.returned(*one)
            elif isinstance(one, Start) and one.host == "full":
                assert schedule.spoiled("full", one.task, one.attempt, now) is Verdict.RETRY
            elif isinstance(one, Start):
                schedule.started("well", one.task, one.attempt, now)
                assert schedule.finished("well", one.task, one.attempt, True, 0.1, now) is Verdict.DONE
    assert (schedule.done, schedule.failed, schedule.put_aside) == (40, 0, ["full"])


def test_the_wait_before_a_retry_has_a_limit() -> None:
    assert [retry_wait(times, 3.0) for times in (1, 2, 3, 4, 100_000)] == [0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_host_gets_what_prefers_it_then_what_prefers_none_then_the_rest() -> None:
    schedule = Schedule(7)
    for task, name in ((0, "b"), (1, "a"), (2, "a"), (4, "b"), (5, "gone")):
        schedule.prefer(task, name)
    schedule.join("a", 1)
    schedule.join("b", 1)
    order = []
    for now in range(7):
        for start in starts(schedule, now):
            order.append((start.host, start.task))
            if start.host == "a":  # b is at its first task for ever
                schedule.finished(*start, True, 1, now)
    assert order == [("a", 1), ("b", 0), ("a", 2), ("a", 3), ("a", 6), ("a", 4), ("a", 5)]


def test_a_preferred_host_with_a_free_slot_gets_the_task_whoever_was_free_first() -> None:
    schedule = Schedule(2)
    schedule.prefer(0, "b")
    schedule.prefer(1, "b")
    schedule.join("a", 1)
    schedule.join("b", 1)
    assert starts(schedule, 0) == [Start("b", 0, 1), Start("a", 1, 1)], "and nothing waits for one that is busy"


def test_no_retry_helps_after_a_final_failure_and_no_host_is_to_blame() -> None:
    schedule = Schedule(5, retries=10, retry_sleep=0, halt=0)
    schedule.join("a", 1)
    for now in range(5):
        [start] = starts(schedule, now)
        assert schedule.finished(*start, False, 1, now, final=True) is Verdict.FAILED
    assert schedule.finished_all and (schedule.failed, schedule.retried) == (5, 0)
    assert schedule.health("a").failures == 0 and not schedule.hopeless
