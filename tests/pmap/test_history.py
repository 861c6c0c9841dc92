"""A job's history from its journal, and its report: figures that add up, advice, a screen of text."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from hardway.pmap.afterwards import explain, history
from hardway.pmap.afterwards.attempt_table import AttemptOutcome, AttemptRecord
from hardway.pmap.afterwards.explain import Failure, Figures, HostFigures, Record, SlotTime
from hardway.pmap.afterwards.history import DriverRun, HostRecord, Life, Timeline


def journal(*texts: str) -> bytes:
    """Lines as a job writes them, each sealed with the one before it."""
    lines, chain = [], 0
    for text in texts:
        chain = zlib.crc32(text.encode(), chain)
        lines.append(b"%b %08x\n" % (text.encode(), chain))
    return b"".join(lines)


def event(time: float, kind: str, **about: Any) -> str:
    return f"event {time:.3f} {kind} {json.dumps(about)}"


def run(time: float) -> str:
    return event(time, "run", tasks=3, slots=1, timeout=0.0)


def up(time: float, host: str, slots: int = 1, seconds: float = 0.0) -> str:
    about = {"name": "n", "type": "m7i.large", "zone": "z", "spot": False}
    return event(time, "up", host=host, slots=slots, seconds=seconds, **about)


def slot(time: float, task: int, attempt: int, number: int = 0) -> str:
    return f"slot {task} {attempt} {number} {time:.6f}"


def end(time: float, task: int, attempt: int, host: str, code: int, seconds: float) -> str:
    return f"end {task} {attempt} {host} {time:.3f} {code} 0 {seconds:.6f} 0 0 0 0 0 0"


def over(time: float, why: str = "done", **prices: float) -> str:
    return event(time, "over", why=why, prices=prices)


def seen(timeline: Timeline) -> dict[tuple[int, int], tuple[str, int, float, float]]:
    return {
        (one.task, one.number): (one.outcome.name, one.slot, round(one.began, 3), round(one.ended, 3))
        for one in timeline.attempts
    }


def test_an_instance_set_aside_is_told_with_the_reason() -> None:
    reason = "it died time after time, whatever ran there"
    told = journal(run(100), event(101, "aside", host="i-1", reason=reason), event(102, "aside", host="i-2"))
    assert [one.text for one in history.read(told).events[1:]] == [f"set aside: {reason}", "set aside"]


@pytest.mark.parametrize("ends", [[over(104, "detached")], []], ids=["left", "killed"])
def test_what_a_driver_left_alone_runs_and_is_not_stopped(ends: list[str]) -> None:
    begins = event(100, "run", tasks=3, timeout=0.0, detach={})
    told = history.read(journal(begins, up(101, "i-1"), "start 1 1 i-1 101.000", slot(102, 1, 1), *ends))
    assert [one.outcome.name for one in told.attempts] == ["RUNNING"]
    assert told.alone
    lines = [begins, "start 1 1 i-1 101.000", slot(102, 1, 1), *ends, run(110), over(111, "failed")]
    resumed = history.read(journal(*lines))
    assert [one.outcome.name for one in resumed.attempts] == ["STOPPED"]


def test_what_becomes_of_attempts() -> None:
    timeline = history.read(
        journal(
            run(100),
            up(101, "i-1", 2, 0.9),
            up(101, "i-2", 1, 0.9),
            "start 1 1 i-1 101.000",
            slot(101, 1, 1, 1),
            "start 2 1 i-1 101.000",
            slot(101.1, 2, 1, 0),
            "start 3 1 i-2 101.000",
            slot(101, 3, 1),
            end(103, 1, 1, "i-1", 1, 2.0),  # fails,
            "start 1 2 i-1 104.000",
            slot(104, 1, 2, 1),
            event(105, "lost", task=3, attempt=1, host="i-2"),
            event(105, "gone", host="i-2", reason="it is terminated"),
            end(106, 1, 2, "i-1", 0, 2.0),  # and succeeds;
            "done 1 2",
            "start 3 2 i-1 106.000",
            "start 2 2 i-1 107.000",  # a backup that wins
            slot(107.5, 2, 2, 1),
            end(109, 2, 2, "i-1", 0, 1.5),
            "done 2 2",
            slot(109, 3, 2, 1),
            event(109.5, "ended", task=2, attempt=1, host="i-1", code=-15, seconds=8.4),
            over(110, "interrupted"),
        )
    )
    assert seen(timeline) == {
        (1, 1): ("RETRIED", 1, 1.0, 3.0),
        (1, 2): ("DONE", 1, 4.0, 6.0),
        (2, 1): ("ENDED", 0, 1.1, 9.5),
        (2, 2): ("BACKUP", 1, 7.5, 9.0),
        (3, 1): ("LOST", 0, 1.0, 5.0),
        (3, 2): ("STOPPED", 1, 9.0, 10.0),
    }
    assert [(one.kind, one.host, one.time) for one in timeline.events] == [("run", "", 0.0), ("gone", "i-2", 5.0)]
    assert [(life.host, life.up, life.until) for life in timeline.lives] == [("i-1", 1.0, 10.0), ("i-2", 1.0, 5.0)]
    assert (timeline.done, timeline.damaged, timeline.runs[0].why) == (2, 0, "interrupted")


def test_results_that_come_late_were_there_when_they_ended() -> None:
    lines = [run(100), up(100, "i-1")]
    for task in (1, 2, 3):
        lines += [f"start {task} 1 i-1 100.000", slot(97 + 3 * task, task, 1)]
    for task in (1, 2, 3):
        lines += [end(119, task, 1, "i-1", 0, 3.0), f"done {task} 1"]
    assert [(one.began, one.ended) for one in history.read(journal(*lines, over(119))).attempts] == [
        (0.0, 3.0),
        (3.0, 6.0),
        (6.0, 9.0),
    ]


def test_a_lost_attempt_ended_before_the_next_one_in_its_slot() -> None:
    timeline = history.read(
        journal(
            *(run(100), up(100, "i-1"), "start 1 1 i-1 100.000", slot(100, 1, 1), up(104, "i-1")),
            *("start 2 1 i-1 104.000", slot(104, 2, 1), event(105, "lost", task=1, attempt=1, host="i-1")),
            *(end(106, 2, 1, "i-1", 0, 2.0), "done 2 1", over(106)),
        )
    )
    assert seen(timeline) == {(1, 1): ("LOST", 0, 0.0, 4.0), (2, 1): ("DONE", 0, 4.0, 6.0)}


def test_a_task_that_failed_before_it_was_known_to_run_is_told_and_took_no_time() -> None:
    timeline = history.read(
        journal(
            *(run(100), up(100, "i-1"), "start 1 1 i-1 100.000", "start 2 1 i-1 100.000"),
            *(event(102, "lost", task=1, attempt=1, host="i-1"), "end 1 1 i-1 102.000 -9 8 0.0 0 0 0 0 0 0"),
            *("failed 1 1", over(103, "failed")),
        )
    )
    assert seen(timeline) == {(1, 1): ("FAILED", -1, 2.0, 2.0)}
    assert explain.figures(timeline).outcomes == {AttemptOutcome.FAILED: 1}
    assert explain.figures(timeline).time.busy == 0


def test_what_was_taken_back_or_never_began_is_no_attempt() -> None:
    timeline = history.read(
        journal(
            run(100),
            up(100, "i-1"),
            *("start 1 1 i-1 100.000", "start 2 1 i-1 100.000", "start 3 1 i-1 100.000", slot(100.1, 1, 1)),
            event(101, "back", task=2, attempt=1, host="i-1"),
            event(102, "lost", task=1, attempt=1, host="i-1"),
            event(102, "lost", task=3, attempt=1, host="i-1"),
            over(103, "failed"),
        )
    )
    assert list(seen(timeline)) == [(1, 1)]


def test_a_killed_driver_and_the_night_before_the_next_one() -> None:
    timeline = history.read(
        journal(
            *(run(100), up(100, "i-1"), up(100, "i-2", 1), "start 1 1 i-1 100.000", "start 2 1 i-2 101.000"),
            *(slot(101, 2, 1), event(102, "away", host="i-2", reason=""), run(9000), up(9001, "i-1", 1, 0.5)),
            *(slot(8998, 1, 1), "start 2 2 i-1 9001.000", end(9002, 1, 1, "i-1", 0, 4.0), "done 1 1"),
            *(slot(9002, 2, 2), end(9004, 2, 2, "i-1", 0, 2.0), "done 2 2", over(9004)),
        )
    )
    assert timeline.seconds == pytest.approx(2 + 2 + 4), "an attempt went on into the second run"
    assert timeline.quiet == pytest.approx(8998 - 102)
    assert {key: found[0] for key, found in seen(timeline).items()} == {
        (1, 1): "DONE",
        (2, 1): "LOST",
        (2, 2): "DONE",
    }


def test_a_job_that_is_running() -> None:
    lines = (run(100), up(100, "i-1"), "start 1 1 i-1 100.000", slot(100, 1, 1), "start 2 1 i-1 100.000")
    timeline = history.read(journal(*lines), now=130.0)
    assert seen(timeline) == {(1, 1): ("RUNNING", 0, 0.0, 30.0)}, "task 2 waits there"
    assert seen(history.read(journal(*lines))) == {(1, 1): ("STOPPED", 0, 0.0, 0.0)}


HOSTS, TASKS, ATTEMPTS = st.sampled_from(["i-1", "i-2", "i-3"]), st.integers(1, 4), st.integers(1, 3)
SECONDS = st.floats(0, 30)


def _line(make: Callable[..., str], *given: st.SearchStrategy[Any]) -> st.SearchStrategy[Callable[[float], str]]:
    return st.tuples(*given).map(lambda values: lambda time: make(time, *values))


LINES = st.one_of(
    _line(lambda time, task, attempt, host: f"start {task} {attempt} {host} {time:.3f}", TASKS, ATTEMPTS, HOSTS),
    _line(slot, TASKS, ATTEMPTS, st.integers(0, 7)),
    _line(end, TASKS, ATTEMPTS, HOSTS, st.integers(-9, 2), SECONDS),
    _line(lambda time, task, attempt: f"done {task} {attempt}", TASKS, ATTEMPTS),
    _line(run),
    _line(lambda time, price: over(time, **{"i-1": price}), st.floats(0, 9)),
    _line(up, HOSTS, st.integers(1, 3), SECONDS),
    _line(lambda time, host: event(time, "away", host=host, reason=""), HOSTS),
    _line(lambda time, host: event(time, "gone", host=host, reason="so"), HOSTS),
    _line(
        lambda time, task, attempt, host: event(time, "lost", task=task, attempt=attempt, host=host),
        *(TASKS, ATTEMPTS, HOSTS),
    ),
    _line(lambda time, task, attempt, host: event(time, "back", task=task, attempt=attempt, host=host),
          *(TASKS, ATTEMPTS, HOSTS)),
)  # fmt: skip
TEXTS = st.lists(st.tuples(st.floats(0.001, 20), LINES), max_size=40).map(
    lambda steps: [
        make(time)
        for time, (_, make) in zip(accumulate((step for step, _ in steps), initial=1000.0), steps, strict=False)
    ]
)
JOURNALS = TEXTS.map(lambda texts: journal(*texts))
TASKS_AT_TIMES = st.lists(st.tuples(TASKS, HOSTS), max_size=6)


def usual(tasks: list[tuple[int, str]], since: float) -> list[str]:
    """Tasks that go well at once, one begins each second."""
    return [
        line
        for at, (task, host) in enumerate(tasks)
        for line in (
            f"start {task} 1 {host} {since + at}",
            slot(since + at, task, 1),
            end(since + at, task, 1, host, 0, 1.5),
            f"done {task} 1",
        )
    ]


@settings(max_examples=200, deadline=None)
@given(TASKS_AT_TIMES, TEXTS, TASKS_AT_TIMES, st.none() | st.just(5000.0))
def test_tasks_that_nothing_happened_to_are_told_as_all_others(
    before: list[tuple[int, str]], texts: list[str], after: list[tuple[int, str]], now: float | None
) -> None:
    """A journal that tells the number of tasks first is read in a shorter way."""
    lines = [run(900), up(900, "i-1"), *usual(before, 900.25), *texts, *usual(after, 3000)]
    numbered = journal("tasks 3 00000000 00000000 0", *lines)  # of four
    slow, fast = history.read(journal(*lines), now), history.read([numbered[:70], numbered[70:]], now)
    unchecked = history.read(numbered, now, checked=True)
    for timeline in (fast, unchecked):
        assert seen(timeline) == seen(slow)
        assert (timeline.done, timeline.damaged, timeline.torn) == (slow.done, slow.damaged, 0)
        assert (timeline.hosts, timeline.lives, timeline.runs) == (slow.hosts, slow.lives, slow.runs)
        assert explain.figures(timeline).time == explain.figures(slow).time
        assert len(timeline.attempts) == len(slow.attempts)


@settings(max_examples=200, deadline=None)
@given(JOURNALS, st.none() | st.just(5000.0))
def test_whatever_happened_it_adds_up(data: bytes, now: float | None) -> None:
    timeline = history.read(data, now)
    slots: dict[tuple[str, int], list[AttemptRecord]] = {}
    for one in timeline.attempts:
        assert one.began <= one.ended
        assert one.slot < timeline.hosts[one.host].slots
        slots.setdefault((one.host, one.slot), []).append(one)
    for ran in slots.values():
        assert all(first.ended <= second.began + 1e-6 for first, second in pairwise(ran))
    found = explain.figures(timeline)
    shares = [found.time.share(part) for part in explain.PARTS]
    there = sum((life.until - life.began) * timeline.hosts[life.host].slots for life in timeline.lives)
    assert found.time.total == pytest.approx(there, abs=1e-5)
    assert min(shares) >= 0
    assert sum(shares) == pytest.approx(1 if found.time.total else 0)
    assert found.cost >= found.wasted + found.idle_cost - 1e-9
    told = explain.advice(found, timeline)
    assert all(0 <= one.weight <= 1 + 1e-9 for one in told)
    assert told == sorted(told, key=lambda one: -one.weight)


@settings(max_examples=100)
@given(st.lists(st.text(max_size=60)))
def test_the_reader_takes_anything(texts: list[str]) -> None:
    kinds = [
        "start",
        "slot",
        "end",
        "done",
        "failed",
        "event 1.0 up",
        "event 1.0 run",
        "event nan over",
        "event 1.0 line",
        "",
    ]
    lines = [f"{kind} {text}" for kind in kinds for text in texts if "\n" not in text]
    safe = [line for line in lines if line.isascii()]
    assert history.read(journal(*safe) + b"".join(line.encode() + b"\n" for line in lines)).damaged <= 2 * len(lines)


@settings(max_examples=60, deadline=None)
@given(st.text(), st.text(), st.lists(st.text(), max_size=30), JOURNALS)
def test_the_text_fits_a_terminal(name: str, command: str, said: list[str], data: bytes) -> None:
    timeline = history.read(data)
    failures = [Failure("exit code 1", explain.printable(line), timeline.attempts) for line in said]
    heads = [explain.printable(line) for line in said]
    record = Record(explain.printable(name), explain.printable(command), "done", timeline, heads, failures)
    lines = explain.text(record).split("\n")
    assert len(lines) <= 24
    assert all(cell_len(line) <= 80 and line.isprintable() for line in lines)


# Advice: the job of each test is 100 s of some slots


def job(*attempts: tuple[float, float], hosts: int = 2, price: float | None = None) -> tuple[Figures, Timeline]:
    """Attempts that were done, (began, ended) one on each host in turn, in a job of 100 s."""
    timeline = Timeline(runs=[DriverRun(0, 100, len(attempts), 0, "done")])
    for host in range(hosts):
        timeline.hosts[f"i-{host}"] = HostRecord(f"i-{host}", slots=1, price=price)
        timeline.lives.append(Life(f"i-{host}", 0, 0, 100))
    for number, (began, ended) in enumerate(attempts):
        timeline.attempts.append(
            AttemptRecord(number + 1, 1, f"i-{number % hosts}", began, began, ended, AttemptOutcome.DONE, slot=0)
        )
    return explain.figures(timeline), timeline


def kinds(found: Figures, timeline: Timeline) -> dict[str, str]:
    return {one.kind: str(one) for one in explain.advice(found, timeline)}


def test_the_longest_task_is_named_and_where_it_should_go() -> None:
    found, timeline = job((0, 10), (0, 10), (10, 20), (39, 100))
    advice = explain.longest_task(found, timeline, ["", "", "", "s3://b/big"])
    assert str(advice) == (
        "the longest task alone took 61% of the job (61 s, usual are 10): "
        "task 4 (s3://b/big): split it; the next run of this command starts it first"
    )
    found, timeline = job((0, 61), (0, 10), (61, 100))
    assert kinds(found, timeline).get("longest") is None, "39 s are usual here"


def test_idle_slots_at_the_end_and_in_between() -> None:
    found, timeline = job((0, 26), (0, 100))
    assert kinds(found, timeline)["end"] == "37% of the slot time was idle at the end: more, shorter tasks"
    found, timeline = job((0, 26), (0, 100), hosts=4)
    assert kinds(found, timeline)["end"].startswith("4 slots for 2 tasks: 68% of the slot time was idle")
    found, timeline = job((0, 10), (0, 10), (60, 100), (60, 100))
    assert kinds(found, timeline)["between"].startswith("50% of the slot time was spent waiting between tasks")


def test_waiting_for_a_retry_is_told_from_other_waits() -> None:
    found, timeline = job((0, 10), (0, 10), (60, 100), (60, 100))
    failed = timeline.attempts[0]
    timeline.attempts[2].task, failed.outcome = failed.task, AttemptOutcome.RETRIED
    timeline.attempts[3].task = timeline.attempts[1].task
    timeline.attempts[1].outcome = AttemptOutcome.RETRIED
    found = explain.figures(timeline)
    assert kinds(found, timeline)["backoff"] == (
        "50% of the slot time was spent waiting to retry what had failed: "
        "mend what fails, or set --retries or --retry-sleep lower"
    )
    assert "between" not in kinds(found, timeline)


def test_a_driver_without_cpu_is_named() -> None:
    _, timeline = job((0, 10), (0, 10), (60, 100), (60, 100))
    timeline.runs[0].driver = 0.93
    told = kinds(explain.figures(timeline), timeline)["between"]
    assert "for the driver on this machine, which was busy for 93% of its time: fewer, longer tasks" in told


def test_short_tasks_are_named() -> None:
    _, timeline = job(*((at, at + 0.01) for at in range(0, 100, 10) for _ in range(2)))
    told = kinds(explain.figures(timeline), timeline)["between"]
    assert "to start and end a task takes longer than the 0.01 s that it runs: fewer, longer tasks" in told


def test_more_slots_than_cpus_are_named() -> None:
    found, timeline = job(*((at, at + 9.9) for at in range(0, 100, 10) for _ in range(2)))
    timeline.hosts["i-1"].cpus, timeline.hosts["i-1"].slots = 2, 8
    told = explain.crowded(found, timeline)
    assert told and "such as 8 slots for 2 CPUs" in str(told) and "--slots 0 is one a CPU" in str(told)
    timeline.hosts["i-1"].cpus = 8
    assert explain.crowded(found, timeline) is None


def test_full_slots_want_more_instances() -> None:
    found, timeline = job(*((at, at + 9.9) for at in range(0, 100, 10) for _ in range(2)))
    assert kinds(found, timeline) == {
        "busy": "the slots were busy for 99% of their time: twice the instances take half the time, for the same money"
    }


def test_a_slow_instance_is_named() -> None:
    found = Figures(time=SlotTime(done=100.0))
    for name, usual in (("i-1", 1.0), ("i-2", 1.1), ("i-3", 4.0)):
        found.hosts[name] = HostFigures(SlotTime(done=33.0), done=9, median=usual)
    assert "one instance was 3.8 times slower than the others: i-3" in str(explain.slow_instances(found))
    found.hosts["i-3"].done = explain.SLOW_TASKS - 1
    assert explain.slow_instances(found) is None, "too few tasks to tell"


@pytest.mark.parametrize(
    ("part", "look", "words"),
    [
        ("connecting", explain.connecting, "connecting took 20% of the slot time, 10 s for each slot"),
        ("failed", explain.retries, "7 failed attempts took 20% of the slot time"),
        ("lost", explain.losses, "20% of the slot time went to 3 attempts lost with an instance or its agent"),
        ("needless", explain.needless, "20% of the slot time went to 2 attempts ended because another was first"),
        ("away", explain.lost_connections, "lost connections left slots idle for 20% of the slot time"),
    ],
)
def test_parts_that_are_worth_a_word(part: str, look: Callable[[Figures], Any], words: str) -> None:
    outcomes = {AttemptOutcome.RETRIED: 7, AttemptOutcome.LOST: 3, AttemptOutcome.ENDED: 2}
    found = Figures(time=SlotTime(done=80.0), outcomes=outcomes, slots=2)
    assert look(found) is None
    setattr(found.time, part, 20.0)
    assert str(look(found)).startswith(words)


def test_what_it_cost_and_what_was_wasted() -> None:
    found, timeline = job((0, 50), (0, 100), price=36.0)
    assert (found.cost, found.wasted, found.idle_cost) == pytest.approx((2.0, 0.0, 0.5))
    timeline.attempts[0].outcome = AttemptOutcome.LOST
    assert explain.figures(timeline).wasted == pytest.approx(0.5)
    timeline.hosts["i-1"].price = None
    found = explain.figures(timeline)
    assert found.cost == pytest.approx(1.0)
    assert found.unpriced == 1
