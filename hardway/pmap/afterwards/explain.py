"""Explain a job's time and money, with advice on improvements: figures, advice, and both as a screen of text.

Pure: everything is computed from a timeline. Times are in seconds, money in USD.
"""

from __future__ import annotations

import itertools
import textwrap
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from statistics import median

from rich.cells import cell_len, set_cell_size

from hardway import terminal
from hardway.pmap.afterwards.attempt_table import AttemptOutcome, AttemptRecord, AttemptTable
from hardway.pmap.afterwards.history import GOOD, Life, Timeline
from hardway.pmap.endings import unknown_cost
from hardway.tables import count, duration, money

LINES, COLUMNS = 24, 80
ADVICE_MOST = 5
# The shares of the slots' time, or of the job's, above which a fact is worth reporting.
LONGEST_SHARE = 0.3
LONGEST_FACTOR = 3.0  # the longest task's duration, as a multiple of the median
END_SHARE = 0.1
BETWEEN_SHARE = 0.15
CONNECTING_SHARE = 0.1
LOSS_SHARE = 0.03  # of failed, lost and needless attempts, each; and of lost connections
BUSY_SHARE = 0.85  # more instances help above this share
TASKS_A_SLOT = 4  # and with this number of tasks for each slot
SHORT = 0.1  # seconds below which a task is short
SLOW_FACTOR = 2.0  # an instance this many times slower than the others is slow
DRIVER_BUSY = 0.8  # share of its time above which the driver holds up the slots
SLOW_TASKS = 5  # tasks that must have ended on an instance before it counts as slow


@dataclass
class SlotTime:
    """Seconds of slots, by use. Each second of a slot, from its run's beginning, is in exactly one part.

    `connecting`: until the agent was there; `away`: idle while the connection was lost; `backoff`: idle while only
    failed tasks were left, and waited to be retried; `end`: idle when no task was left to start; `between`: idle
    otherwise.
    """

    done: float = 0.0
    failed: float = 0.0
    lost: float = 0.0
    needless: float = 0.0
    connecting: float = 0.0
    away: float = 0.0
    backoff: float = 0.0
    between: float = 0.0
    end: float = 0.0

    @property
    def busy(self) -> float:
        """Seconds in which an attempt ran."""
        return self.done + self.failed + self.lost + self.needless

    @property
    def total(self) -> float:
        """The sum of all parts, in seconds."""
        return sum(getattr(self, one.name) for one in fields(self))

    def share(self, name: str) -> float:
        """Return the share of one part in the total, from 0 to 1."""
        return getattr(self, name) / self.total if self.total else 0.0

    def add(self, other: SlotTime) -> None:
        """Add the seconds of another SlotTime."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


@dataclass
class HostFigures:
    """One instance: its slots' time, its results, the median of their seconds, and what it cost in USD, if known."""

    time: SlotTime
    done: int = 0
    failed: int = 0
    lost: int = 0
    median: float = 0.0
    there: float = 0.0
    cost: float | None = None


@dataclass
class Figures:
    """The totals of a job. `cost` and `wasted` cover instances with a known price; `unpriced` counts the others.

    `wasted` is the cost of attempts that didn't count, `idle_cost` the cost of idle slots, both in USD.
    """

    time: SlotTime = field(default_factory=SlotTime)
    hosts: dict[str, HostFigures] = field(default_factory=dict)
    outcomes: dict[AttemptOutcome, int] = field(default_factory=dict)
    durations: Sequence[float] = ()  # of attempts with a result, sorted
    longest: AttemptRecord | None = None
    seconds: float = 0.0  # that drivers ran
    slots: int = 0
    driver: float = 0.0  # the largest share of a run's time in which the driver was busy
    cost: float = 0.0
    wasted: float = 0.0
    idle_cost: float = 0.0
    unpriced: int = 0

    @property
    def busy(self) -> float:
        """The share of the slots' time, from when their agent was there, in which an attempt ran."""
        there = self.time.total - self.time.connecting
        return self.time.busy / there if there else 0.0

    @property
    def median(self) -> float:
        """The median duration of attempts with a result, in seconds; 0 if there are none."""
        return median(self.durations) if self.durations else 0.0

    def quantile(self, share: float) -> float:
        """Return the duration in seconds below which this share of the attempts with a result stays."""
        return self.durations[min(len(self.durations) - 1, int(share * len(self.durations)))] if self.durations else 0.0


@dataclass(frozen=True)
class Advice:
    """A loss of time, and its remedy. `weight` is the loss as a share of the job; advice is sorted by it."""

    kind: str
    weight: float
    what: str
    help: str

    def __str__(self) -> str:
        return f"{self.what}: {self.help}" if self.help else self.what


_PART = {
    AttemptOutcome.DONE: "done",
    AttemptOutcome.BACKUP: "done",
    AttemptOutcome.RETRIED: "failed",
    AttemptOutcome.FAILED: "failed",
    AttemptOutcome.LOST: "lost",
    AttemptOutcome.STOPPED: "needless",
    AttemptOutcome.ENDED: "needless",
    AttemptOutcome.RUNNING: "done",
}


BAD = tuple(outcome for outcome, part in _PART.items() if part == "failed")


def figures(timeline: Timeline) -> Figures:
    """Compute a job's totals from its timeline."""
    found = Figures()
    table = timeline.table
    ends, waits = _work_ends(timeline, table), _retry_waits(table)
    _count(found, table)
    away: dict[str, list[tuple[float, float]]] = {}
    for name, since, until in timeline.away:
        away.setdefault(name, []).append((since, until))
    lanes = {(table.hosts[place], slot): rows for (place, slot), rows in table.by_lane().items()}
    for life in timeline.lives:
        host = found.hosts.setdefault(life.host, HostFigures(SlotTime()))
        host.there += life.until - life.up
        for lane in range(timeline.hosts[life.host].slots):
            rows = lanes.get((life.host, lane), ())
            _add_lane(host.time, life, table, rows, away.get(life.host, ()), ends, waits)
    for name, host in found.hosts.items():
        _price(found, host, timeline.hosts[name].price)
        found.time.add(host.time)
    found.seconds = sum(run.ended - run.began for run in timeline.runs)
    found.driver = max((run.driver for run in timeline.runs), default=0.0)
    found.slots = sum(host.slots for host in timeline.hosts.values())
    return found


def _count(found: Figures, table: AttemptTable) -> None:
    """Count the attempts by outcome and by host, and collect the durations of those with a result."""
    order, outcomes, began, ended = table.order, table.outcome, table.began, table.ended
    happened = bytes(map(outcomes.__getitem__, order))
    found.outcomes = {outcome: number for outcome in AttemptOutcome if (number := happened.count(outcome))}
    good = array("I", [row for row in order if outcomes[row] in GOOD])
    if len(good) < len(order):
        for row in order:
            host = found.hosts.setdefault(table.hosts[table.host[row]], HostFigures(SlotTime()))
            host.failed += outcomes[row] in BAD
            host.lost += outcomes[row] == AttemptOutcome.LOST
    seconds = array("d", [ended[row] - began[row] for row in good])
    if seconds:
        found.longest = table.record(good[seconds.index(max(seconds))])
    by_host: dict[int, array[float]] = {}
    for row, lasted in zip(good, seconds, strict=True):
        if (own := by_host.get(place := table.host[row])) is None:
            own = by_host[place] = array("d")
        own.append(lasted)
    for place, own in by_host.items():
        host = found.hosts.setdefault(table.hosts[place], HostFigures(SlotTime()))
        host.done, host.median = len(own), median(own)
    found.durations = array("d", sorted(seconds))


def _price(found: Figures, host: HostFigures, price: float | None) -> None:
    if not host.there:
        return
    if price is None:
        found.unpriced += 1
        return
    time = host.time
    there = (time.total - time.connecting) or 1.0
    host.cost = price * host.there / 3600
    found.cost += host.cost
    found.wasted += host.cost * (time.failed + time.lost + time.needless) / there
    found.idle_cost += host.cost * (time.away + time.backoff + time.between + time.end) / there


def _work_ends(timeline: Timeline, table: AttemptTable) -> list[tuple[float, float]]:
    """Return when each run began, and when its last attempt, backups aside, began: then no task was left to start."""
    began, backup = table.began, table.backup
    starts = array("d", [began[row] for row in table.order if not backup[row]])
    ends = []
    for run in timeline.runs:
        at = bisect_left(starts, run.ended)
        last = starts[at - 1] if at and starts[at - 1] >= run.began else run.began
        ends.append((run.began, last if run.why or not timeline.running else run.ended))
    return ends


def _retry_waits(table: AttemptTable) -> list[tuple[float, float]]:
    """Return the intervals in which tasks waited for a retry and none for its first start, in order, without overlaps.

    A wait for a retry beside other work is left out, since it leaves no slot idle.
    """
    task, began, outcomes = table.task, table.began, table.outcome
    if not any(outcomes[row] in BAD for row in table.order):
        return []
    seen: set[int] = set()
    fresh = 0.0
    for row in table.order:  # as they began
        if task[row] not in seen:
            seen.add(task[row])
            fresh = began[row]
    failed: dict[int, float] = {}
    waits = []
    for row in table.order:
        if (since := failed.pop(task[row], None)) is not None:
            waits.append((max(since, fresh), began[row]))
        if outcomes[row] in BAD:
            failed[task[row]] = table.ended[row]
    merged: list[tuple[float, float]] = []
    for since, until in sorted(wait for wait in waits if wait[0] < wait[1]):
        if merged and since <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(until, merged[-1][1]))
        else:
            merged.append((since, until))
    return merged


def _add_lane(
    time: SlotTime,
    life: Life,
    table: AttemptTable,
    rows: Sequence[int],
    away: Sequence[tuple[float, float]],
    ends: Sequence[tuple[float, float]],
    waits: Sequence[tuple[float, float]],
) -> None:
    """Add one slot's time in one life, cut into parts without a gap; `rows` are the lane's attempts, in order."""
    starts, stops, outcomes = table.began, table.ended, table.outcome
    out_of_work = max((end for began, end in ends if began <= life.began), default=life.until)
    busy, between = [0.0] * len(AttemptOutcome), 0.0
    cursor, up, until = life.began, life.up, life.until

    def idle(since: float, to: float) -> None:
        for part, one, other in _idle(since, to, life, away, out_of_work, waits):
            setattr(time, part, getattr(time, part) + other - one)

    for row in rows:
        began, ended = starts[row], stops[row]
        began = cursor if began < cursor else began
        ended = until if ended > until else ended
        if ended <= began:
            continue
        if began > cursor:
            if up <= cursor and began <= out_of_work and not away and not _overlaps(waits, cursor, began):
                between += began - cursor
            else:
                idle(cursor, began)
        busy[outcomes[row]] += ended - began
        cursor = ended
    idle(cursor, until)
    time.between += between
    for outcome, part in _PART.items():
        setattr(time, part, getattr(time, part) + busy[outcome])


def _overlaps(waits: Sequence[tuple[float, float]], since: float, until: float) -> bool:
    if not waits:
        return False
    place = bisect_left(waits, (since, since))
    before = place > 0 and waits[place - 1][1] > since
    return before or (place < len(waits) and waits[place][0] < until)


def _idle(
    since: float,
    until: float,
    life: Life,
    away: Sequence[tuple[float, float]],
    out_of_work: float,
    waits: Sequence[tuple[float, float]],
) -> Iterator[tuple[str, float, float]]:
    first = max(0, bisect_left(waits, (since, since)) - 1)
    near = itertools.takewhile(lambda wait: wait[0] < until, itertools.islice(waits, first, None))
    waiting = [wait for wait in near if wait[1] > since]
    edges = {since, until, life.up, out_of_work}
    edges.update(edge for piece in (*away, *waiting) for edge in piece)
    inside = sorted(edge for edge in edges if since <= edge <= until)
    for one, other in itertools.pairwise(inside):
        if one < life.up:
            part = "connecting"
        elif any(begun <= one < back for begun, back in away):
            part = "away"
        elif one < out_of_work and any(begun <= one < over for begun, over in waiting):
            part = "backoff"
        else:
            part = "end" if one >= out_of_work else "between"
        yield part, one, other


# Advice: each function looks at one loss, and returns None if it is small


def longest_task(found: Figures, timeline: Timeline, heads: Sequence[str] = ()) -> Advice | None:
    """Advise on one task that takes much of the job and so delays its end."""
    task, usual = found.longest, found.median
    if task is None or not found.seconds or len(found.durations) < 2:
        return None
    share = min(1.0, task.seconds / found.seconds)
    if share < LONGEST_SHARE or task.seconds < LONGEST_FACTOR * usual:
        return None
    what = f"the longest task alone took {share:.0%} of the job ({task.seconds:.3g} s, usual are {usual:.3g}): "
    waited = task.began - min(run.began for run in timeline.runs)
    late = waited > END_SHARE * found.seconds
    first = "split it; the next run of this command starts it first" if late else "split it"
    return Advice("longest", share, what + f"task {named(task.task, heads)}", first)


def idle_end(found: Figures) -> Advice | None:
    """Advise on slots that wait idle for the last tasks."""
    share = found.time.share("end")
    if share < END_SHARE:
        return None
    if len(found.durations) < found.slots:
        what = f"{found.slots} slots for {len(found.durations)} tasks: {share:.0%} of the slot time was idle"
        return Advice("end", share, what, "fewer instances, or more, shorter tasks")
    return Advice("end", share, f"{share:.0%} of the slot time was idle at the end", "more, shorter tasks")


def idle_between(found: Figures) -> Advice | None:
    """Advise on slots that wait though there is work."""
    share = found.time.share("between")
    if share < BETWEEN_SHARE:
        return None
    what = f"{share:.0%} of the slot time was spent waiting between tasks"
    usual = found.median
    if found.driver >= DRIVER_BUSY:
        cause = f"{what}, for the driver on this machine, which was busy for {found.driver:.0%} of its time"
        return Advice("between", share, cause, "fewer, longer tasks, or a machine with more CPU to run pmap on")
    if found.durations and usual < SHORT:
        cause = f"{what}: to start and end a task takes longer than the {usual:.2g} s that it runs"
        return Advice("between", share, cause, "fewer, longer tasks, or more --slots")
    return Advice("between", share, what, "")


def backing_off(found: Figures) -> Advice | None:
    """Advise on slots that wait because all remaining tasks have failed and wait for a retry."""
    share = found.time.share("backoff")
    if share < LOSS_SHARE:
        return None
    what = f"{share:.0%} of the slot time was spent waiting to retry what had failed"
    return Advice("backoff", share, what, "mend what fails, or set --retries or --retry-sleep lower")


def crowded(found: Figures, timeline: Timeline) -> Advice | None:
    """Advise on running more commands at a time than there are CPUs."""
    hosts = [host for host in timeline.hosts.values() if 0 < host.cpus < host.slots]
    if not hosts or found.busy < BUSY_SHARE:
        return None
    worst = max(hosts, key=lambda host: host.slots / host.cpus)
    where = f"{count(worst.slots, 'slot')} for {count(worst.cpus, 'CPU')}"
    what = f"{count(len(hosts), 'instance')} ran more commands at a time than they have CPUs, such as {where}"
    return Advice("crowded", 0.0, what, "commands that compute gain nothing: --slots 0 is one a CPU")


def connecting(found: Figures) -> Advice | None:
    """Advise on a short job, whose time went into connecting."""
    share = found.time.share("connecting")
    if share < CONNECTING_SHARE:
        return None
    each = found.time.connecting / max(1, found.slots)
    what = f"connecting took {share:.0%} of the slot time, {each:.2g} s for each slot"
    return Advice("connecting", share, what, "do more in one job")


def retries(found: Figures) -> Advice | None:
    """Advise on the time taken by failed attempts."""
    share = found.time.share("failed")
    failed = found.outcomes.get(AttemptOutcome.RETRIED, 0) + found.outcomes.get(AttemptOutcome.FAILED, 0)
    if share < LOSS_SHARE:
        return None
    return Advice(
        "failed", share, f"{count(failed, 'failed attempt')} took {share:.0%} of the slot time", "see the failures"
    )


def losses(found: Figures) -> Advice | None:
    """Advise on the time taken by attempts that were lost with their instances."""
    share = found.time.share("lost")
    lost = count(found.outcomes.get(AttemptOutcome.LOST, 0), "attempt")
    if share < LOSS_SHARE:
        return None
    what = f"{share:.0%} of the slot time went to {lost} lost with an instance or its agent"
    return Advice("lost", share, what, "shorter tasks lose less")


def needless(found: Figures) -> Advice | None:
    """Advise on the time taken by second attempts and stopped attempts."""
    share = found.time.share("needless")
    if share < LOSS_SHARE:
        return None
    ended, stopped = found.outcomes.get(AttemptOutcome.ENDED, 0), found.outcomes.get(AttemptOutcome.STOPPED, 0)
    if stopped > ended:
        what = f"{share:.0%} of the slot time went to {count(stopped, 'attempt')} stopped with the job"
        return Advice("needless", share, what, "")
    won = found.outcomes.get(AttemptOutcome.BACKUP, 0)
    what = f"{share:.0%} of the slot time went to {count(ended, 'attempt')} ended because another was first"
    return Advice("needless", share, what, f"{count(won, 'backup')} won" if won else "--no-backup saves it")


def lost_connections(found: Figures) -> Advice | None:
    """Advise on slots that stood idle while their connection was lost."""
    share = found.time.share("away")
    if share < LOSS_SHARE:
        return None
    what = f"lost connections left slots idle for {share:.0%} of the slot time"
    return Advice("away", share, what, "run pmap where the network is steadier")


def slow_instances(found: Figures) -> Advice | None:
    """Advise on an instance that is much slower than the others."""
    seen = {name: host for name, host in found.hosts.items() if host.done >= SLOW_TASKS and host.median > 0}
    if len(seen) < 2:
        return None
    factors = {}
    for name, host in seen.items():
        others = median(other.median for key, other in seen.items() if key != name)
        factors[name] = host.median / others
    held_up = (name for name in factors if factors[name] >= SLOW_FACTOR and seen[name].median >= SHORT)
    slow = sorted(held_up, key=lambda name: -factors[name])
    if not slow or len(slow) > len(seen) / 2:
        return None
    worst = slow[0]
    weight = sum(found.hosts[name].time.total for name in slow) / found.time.total
    count = "one instance was" if len(slow) == 1 else f"{len(slow)} instances were"
    what = f"{count} {'' if len(slow) == 1 else 'up to '}{factors[worst]:.1f} times slower than the others: {worst}"
    return Advice("slow", weight, what, "leave out what is slow")


def more_instances(found: Figures) -> Advice | None:
    """Advise on more instances, if the slots are full and have many tasks each."""
    if found.busy < BUSY_SHARE or not found.slots or len(found.durations) < TASKS_A_SLOT * found.slots:
        return None
    what = f"the slots were busy for {found.busy:.0%} of their time"
    return Advice("busy", 0.0, what, "twice the instances take half the time, for the same money")


def advice(found: Figures, timeline: Timeline, heads: Sequence[str] = ()) -> list[Advice]:
    """Return all advice, the most important first."""
    looks = (
        longest_task(found, timeline, heads),
        idle_end(found),
        idle_between(found),
        backing_off(found),
        connecting(found),
        retries(found),
        losses(found),
        needless(found),
        lost_connections(found),
        slow_instances(found),
        crowded(found, timeline),
        more_instances(found),
    )
    return sorted((one for one in looks if one), key=lambda one: -one.weight)


# As text


@dataclass(frozen=True)
class Failure:
    """Attempts that ended in the same way; `line` is the last line of their stderr."""

    how: str
    line: str
    attempts: Sequence[AttemptRecord]

    def __str__(self) -> str:
        return f"{self.how}: {self.line}" if self.line else self.how


@dataclass(frozen=True)
class Record:
    """The content of a report on a job. `heads` are the arguments of all tasks, shortened, in order."""

    name: str
    command: str
    state: str
    timeline: Timeline
    heads: Sequence[str]
    failures: Sequence[Failure]


def named(task: int, heads: Sequence[str]) -> str:
    """Return a task's number and argument, as text for a person."""
    head = heads[task - 1] if 0 < task <= len(heads) else ""
    return f"{task} ({head})" if head else str(task)


PARTS = {
    "done": "useful work",
    "failed": "failed attempts",
    "lost": "lost attempts",
    "needless": "attempts not needed",
    "connecting": "connecting",
    "away": "connection lost",
    "backoff": "waiting to retry",
    "between": "idle between tasks",
    "end": "idle at the end",
}


def facts(record: Record, found: Figures) -> list[tuple[str, str]]:
    """Return the facts about a job, each a name and a text."""
    timeline, outcomes = record.timeline, found.outcomes
    took = f"{duration(found.seconds)}, {record.state}"
    if len(timeline.runs) > 1:
        took += f", in {len(timeline.runs)} runs"
        took += f" with {duration(timeline.quiet)} between them" if timeline.quiet else ""
    failed = outcomes.get(AttemptOutcome.FAILED, 0)
    tasks = f"{timeline.done} of {len(record.heads)} done" + (f", {failed} failed" if failed else "")
    attempts = [str(sum(outcomes.values()))]
    attempts += [f"{outcomes[outcome]} {said}" for outcome, said in _SAID.items() if outcomes.get(outcome)]
    gone = len({mark.host for mark in timeline.events if mark.kind == "gone"})
    instances = f"{len(timeline.hosts)}, {count(found.slots, 'slot')}" + (f", {gone} lost" if gone else "")
    facts = [("took", took), ("tasks", tasks), ("attempts", ", ".join(attempts)), ("instances", instances)]
    if found.durations:
        middle, most, longest = found.median, found.quantile(0.95), found.durations[-1]
        said = f"median {duration(middle)}, 95% within {duration(most)}, longest {duration(longest)}"
        facts.append(("durations", said))
    if found.cost:
        cost = money(found.cost)
        if found.cost >= 0.01:
            cost += f", of it {money(found.wasted)} for wasted attempts"
            cost += f", {money(found.idle_cost)} for idle slots"
        facts.append(("cost", cost + (f" ({unknown_cost(found.unpriced)})" if found.unpriced else "")))
    else:
        facts.append(("cost", "the instances' prices are not known"))
    if timeline.damaged:
        facts.append(("journal", f"{count(timeline.damaged, 'line')} damaged and left out"))
    return facts


_SAID = {
    AttemptOutcome.RETRIED: "failed and retried",
    AttemptOutcome.FAILED: "failed for good",
    AttemptOutcome.LOST: "lost",
    AttemptOutcome.BACKUP: "won as a backup",
    AttemptOutcome.ENDED: "ended",
    AttemptOutcome.STOPPED: "stopped",
    AttemptOutcome.RUNNING: "running",
}


def slot_time(found: Figures) -> str:
    """Return text with the parts of the slots' time, the largest first."""
    shares = sorted(((found.time.share(part), said) for part, said in PARTS.items()), reverse=True)
    return ", ".join(f"{share:.0%} {said}" for share, said in shares if share >= 0.005)


def text(record: Record) -> str:
    """Return the report as at most LINES lines of at most COLUMNS columns."""
    found = figures(record.timeline)
    lines = [f"job {record.name}: {record.command}"]
    for name, said in [*facts(record, found), ("slot time", slot_time(found))]:
        lines += textwrap.wrap(said, COLUMNS, initial_indent=f"{name:<11}", subsequent_indent=" " * 11)[:3]
    failures = [f"  {len(one.attempts)} x {one}" for one in record.failures[:3]]
    if len(record.failures) > 3:
        failures.append(f"  and in {len(record.failures) - 3} other ways")
    if failures:
        failures = ["failed attempts:", *failures]
    told = ["what took the time, and what would have helped:"]
    for one in advice(found, record.timeline, record.heads)[:ADVICE_MOST]:
        wrapped = textwrap.wrap(str(one), COLUMNS, initial_indent="- ", subsequent_indent="  ")
        if len(lines) + len(told) + len(wrapped) + len(failures) <= LINES:
            told += wrapped
    if len(told) == 1:
        told = ["nothing stands out that took time without need"]
    return "\n".join(fitted(line) for line in [*lines, *told, *failures])


def fitted(line: str, columns: int = COLUMNS) -> str:
    """Return the line, cut to this number of terminal columns."""
    if cell_len(line) <= columns:
        return line
    return set_cell_size(line, columns - 3).rstrip() + "..."


def printable(text: bytes | str) -> str:
    """Return any text as one line, safe for a terminal and a browser, with invisible characters escaped."""
    said = text.decode(errors="replace") if isinstance(text, bytes) else text
    shown = terminal.printable(said.replace("\n", " "))
    return shown if shown.isprintable() else "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in shown)
