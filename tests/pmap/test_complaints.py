"""Failures that are alike: when a task or a job is given up for them, and that no host alone can bring that about."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardway.pmap import agent
from hardway.pmap.complaints import ALIKE_TASKS, WITNESSES, Complaint
from hardway.pmap.endings import COMPARED, complaint_of
from hardway.pmap.schedule import LONELY_WAIT, Schedule, Start, Verdict

TYPO = Complaint(127, b"digest")
BAD = Complaint(1, b"digest")
SILENT = Complaint(1, b"")


def schedule_of(tasks: int, hosts: str = "abc", retries: int = 9, halt: int = 1, fail_fast: bool = True) -> Schedule:
    schedule = Schedule(tasks, retries=retries, halt=halt, fail_fast=fail_fast, backup=False)
    for name in hosts:
        schedule.join(name, 1)
    return schedule


def starts(schedule: Schedule, now: float) -> list[Start]:
    found = [decision for decision in schedule.decide(now) if isinstance(decision, Start)]
    for start in found:
        schedule.started(*start, now)
    return found


def fail_on(schedule: Schedule, hosts: str, complaint: Complaint | None, most: int = 200) -> list[Verdict]:
    """Tasks of these hosts fail, in the order in which these get them; those of other hosts run on."""
    verdicts: list[Verdict] = []
    now = 0.0
    while len(verdicts) < most and not schedule.finished_all:
        begun = starts(schedule, now)
        for start in begun:
            if str(start.host) in hosts and not schedule.finished_all:
                verdicts.append(schedule.finished(*start, False, 0.1, now, complaint))
        due = schedule.due(now)
        if not begun and due is None:
            break
        now = now if begun or due is None else max(now, due)
    return verdicts


@pytest.mark.parametrize("complaint", [TYPO, BAD, Complaint(126, b"")])
def test_a_job_whose_first_tasks_fail_alike_everywhere_is_stopped(complaint: Complaint) -> None:
    schedule = schedule_of(50)
    assert fail_on(schedule, "abc", complaint) == [Verdict.RETRY] * (ALIKE_TASKS - 1) + [Verdict.FAILED]
    assert schedule.hopeless == [0, 1, 2] and schedule.finished_all
    assert (schedule.failed, schedule.left, schedule.retried) == (3, 47, 0)
    assert schedule.decide(1.0) == []


def test_it_is_not_without_fail_fast_and_all_retries_are_made() -> None:
    schedule = schedule_of(1, retries=4, fail_fast=False)
    assert fail_on(schedule, "abc", TYPO) == [Verdict.RETRY] * 4 + [Verdict.FAILED]
    assert not schedule.hopeless


@pytest.mark.parametrize("complaint", [SILENT, None])
def test_failures_that_say_nothing_are_no_evidence_against_the_command(complaint: Complaint | None) -> None:
    schedule = schedule_of(50, retries=99)
    fail_on(schedule, "abc", complaint, 9)
    assert not schedule.hopeless


def test_nor_are_different_ones() -> None:
    schedule = schedule_of(6, "abcdef")
    for place, start in enumerate(starts(schedule, 0.0)):
        schedule.finished(*start, False, 0.1, 0.0, Complaint(1, b"%d" % place))
    assert not schedule.hopeless and schedule.failed == 0


def test_a_success_shows_that_the_command_can_succeed() -> None:
    schedule = schedule_of(9, "abcd")
    first, *others = starts(schedule, 0.0)
    for start in others[:2]:
        schedule.finished(*start, False, 0.1, 0.0, TYPO)
    schedule.finished(*first, True, 0.1, 0.0)
    assert schedule.finished(*others[2], False, 0.1, 0.0, TYPO) is Verdict.RETRY
    assert not schedule.hopeless


def test_a_task_that_fails_alike_on_three_hosts_is_not_tried_again() -> None:
    schedule = schedule_of(20, halt=0)
    now, tried = 0.0, []
    while not schedule.finished_all:
        for start in starts(schedule, now):
            bad = start.task == 5
            verdict = schedule.finished(*start, not bad, 0.1, now, SILENT if bad else None)
            tried += [(start.host, verdict)] if bad else []
        now = max(now, schedule.due(now) or now)
    assert [verdict for _, verdict in tried] == [Verdict.RETRY, Verdict.RETRY, Verdict.FAILED]
    assert {host for host, _ in tried} == set("abc")
    assert (schedule.done, schedule.failed, schedule.hopeless) == (19, 1, [])


def test_on_fewer_hosts_it_is_tried_as_often_as_retries_say() -> None:
    schedule = schedule_of(1, "ab", retries=5)
    assert fail_on(schedule, "ab", SILENT) == [Verdict.RETRY] * 5 + [Verdict.FAILED]


@pytest.mark.parametrize("hosts", ["a", "ab"])
def test_on_fewer_hosts_all_of_them_blame_the_command(hosts: str) -> None:
    schedule = schedule_of(9, hosts)
    fail_on(schedule, hosts, TYPO)
    assert len(schedule.hopeless) == ALIKE_TASKS
    other = schedule_of(9, hosts)
    other.health("late")  # it is a part of the job, and has not connected yet
    fail_on(other, hosts, TYPO, 9)
    assert not other.hopeless


@settings(max_examples=100, deadline=None)
@given(
    st.integers(WITNESSES, 6),
    st.integers(1, 2),
    st.integers(1, 40),
    st.lists(st.sampled_from([TYPO, BAD, SILENT]), min_size=1, max_size=5),
    st.randoms(),
)
def test_liars_that_are_too_few_fail_neither_job_nor_task(
    hosts: int, liars: int, tasks: int, said: list[Complaint], random: object
) -> None:
    """Whatever they say of whatever they get, and whenever, as long as the others can do it."""
    schedule = Schedule(tasks, retries=1000, backup=False, halt=0)
    for name in range(hosts):
        schedule.join(name, 1)
    now, told = 0.0, 0
    waiting: list[Start] = []
    for _ in range(3000):
        waiting += starts(schedule, now)
        waiting.sort(key=lambda start: (start.host not in range(liars), random.random()))  # type: ignore[attr-defined]
        if waiting:
            start = waiting.pop(0)
            lies = start.host in range(liars)
            told += lies
            schedule.finished(*start, not lies, 0.1, now, said[told % len(said)] if lies else None)
            now += 0.01
        elif (due := schedule.due(now)) is not None:
            now = max(now, due)
        assert not schedule.hopeless and schedule.failed == 0
        if schedule.finished_all:
            break
    assert schedule.done == tasks


def test_the_job_stops_after_as_many_failures_as_it_may_have() -> None:
    schedule = schedule_of(50, retries=0, halt=4)
    fail_on(schedule, "abc", None)
    assert 4 <= schedule.failed <= 4 + 2, "what runs may end"
    assert schedule.stopped


def test_a_lonely_task_waits_shortly_and_many_that_wait_for_an_outage_do_not() -> None:
    schedule = schedule_of(20, halt=0)
    now, waits = 0.0, []
    while not schedule.finished_all:
        begun = starts(schedule, now)
        for start in begun:
            schedule.finished(*start, start.task != 7, 0.1, now)
        due = schedule.due(now)
        if not begun and due is not None:
            waits.append(due - now)
            now = due
    assert len(waits) == 9 and max(waits) <= LONELY_WAIT + 1e-6
    outage = schedule_of(40, retries=50, halt=0)
    fail_on(outage, "abc", None, 40 * 8)
    soonest = outage.next_retry
    assert soonest is not None and outage.retrying == 40
    assert soonest > 40, "an outage of half a minute does not use up eight retries"


def test_what_is_compared_of_a_failure(tmp_path: Path) -> None:
    one = complaint_of(1, 0, b"/home/u/.hardway/scratch-0a1b2c3d/0/x.py on i-1: no\n", "i-1")
    other = complaint_of(1, 0, b"/home/u/.hardway/scratch-ffffffff/11/x.py on i-2: no\n", "i-2")
    assert one is not None and one == other
    assert one != complaint_of(2, 0, b"/home/u/.hardway/scratch-0a1b2c3d/0/x.py on i-1: no\n", "i-1")
    assert complaint_of(1, 0, b"", "i-1") == SILENT
    for code, flags in ((0, 512), (-9, 0), (1, agent.TIMED_OUT)):
        assert complaint_of(code, flags, b"said", "i-1") is None, "it may pass"
    long = tmp_path / "stderr"
    long.write_bytes(b"x" * 10 * COMPARED + b"end" * COMPARED)
    assert complaint_of(1, 0, long, "i-1") == complaint_of(1, 0, b"end" * COMPARED, "i-2")
