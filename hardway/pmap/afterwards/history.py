"""A job's history, read from its journal: when and where attempts ran, instances' lives, faults.

Pure: this module reads nothing but the journal, and no clock. Times are in seconds since the job began, without periods
in which no driver existed and no attempt ran.
"""

from __future__ import annotations

import json
import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from hardway.pmap.afterwards.attempt_table import AttemptOutcome, AttemptRecord, AttemptTable
from hardway.pmap.endings import LOST
from hardway.pmap.journal import Result, check, is_left_alone, result_of
from hardway.pmap.ledger import SLOTS_MOST

QUIET = 5.0  # seconds without a driver and without an attempt that are left out


GOOD = (AttemptOutcome.DONE, AttemptOutcome.BACKUP)


@dataclass(slots=True)
class Life:
    """A period in which a host was part of a run: asked for at `began`, present from `up` to `until`."""

    host: str
    began: float
    up: float
    until: float


@dataclass(slots=True)
class DriverRun:
    """One run of the job by one driver; `why` is the reason for its end, empty if the driver was killed or still runs.

    `driver` is the share of the run's time in which the driver was busy.
    """

    began: float
    ended: float
    tasks: int
    timeout: float
    why: str = ""
    driver: float = 0.0


@dataclass(slots=True)
class JobEvent:
    """A fault or another event, with its time, and its host (empty for the whole job)."""

    time: float
    host: str
    kind: str
    text: str


@dataclass(slots=True)
class HostRecord:
    """An instance. `price` is in USD/hour, None if unknown; `slots` is the largest number that it had.

    `cpus` is 0 if unknown.
    """

    name: str
    label: str = ""
    type: str = ""
    zone: str = ""
    spot: bool = False
    price: float | None = None
    slots: int = 0
    cpus: int = 0


@dataclass
class Timeline:
    """The whole history of a job. `away` are periods (host, from, to) in which a living host could not be reached.

    `tasks` is the number of numbered tasks; `keys` and `heads` are the checksums of these files. `torn` is the number
    of the first line that isn't the one that was written there, 0 for none.
    """

    attempts: list[AttemptRecord] | AttemptTable = field(default_factory=list)
    hosts: dict[str, HostRecord] = field(default_factory=dict)
    lives: list[Life] = field(default_factory=list)
    away: list[tuple[str, float, float]] = field(default_factory=list)
    runs: list[DriverRun] = field(default_factory=list)
    events: list[JobEvent] = field(default_factory=list)
    done: int = 0
    damaged: int = 0
    running: bool = False
    alone: bool = False  # the agents of a detached job go on without a driver
    began: float = 0.0  # of Unix
    quiet: float = 0.0  # seconds left out
    tasks: int = 0
    keys: int = 0
    heads: int = 0
    torn: int = 0

    @property
    def table(self) -> AttemptTable:
        """The attempts in columns."""
        return self.attempts if isinstance(self.attempts, AttemptTable) else AttemptTable(self.attempts)

    @property
    def seconds(self) -> float:
        """The seconds from the beginning to the end of the last run."""
        return max((run.ended for run in self.runs), default=0.0)


def read(data: bytes | Iterable[bytes], now: float | None = None, *, checked: bool = False) -> Timeline:
    """Read a journal, or its pieces; count and leave out lines that are damaged or make no sense.

    `now`, in seconds of Unix, is given if the job is still running. Lines that are `checked` otherwise are not compared
    with their checksums.
    """
    reader = _Reader(checked)
    rest = b""
    for piece in [data] if isinstance(data, bytes) else data:
        lines = (rest + piece).split(b"\n")
        rest = lines.pop()
        reader.take(lines)
    return reader.finish(now)


# The first attempt of a task, while nothing unusual is known about it.
_UNKNOWN, _SENT, _BEGAN, _ENDED, _DONE, _UNUSUAL = range(6)
_ROWS_MOST = 1 << 28
_WORDS = {b"start": 6, b"slot": 6, b"end": 15, b"done": 4}
_MOST = 1 << 31  # of a task's number, and an attempt's
_SIZE_MOST = 1 << 62


class _Reader:
    """Builds a timeline line by line; times are in seconds of Unix until `finish`.

    Nearly all tasks of a large job have one attempt that is sent, begins, ends well and is done. Such an attempt is a
    row of the table, at the task's number. Any other event turns the task's attempts into records.
    """

    def __init__(self, checked: bool) -> None:
        self.timeline = Timeline()
        self.table = AttemptTable()
        self.usual = bytearray()  # by task
        self.usual_done = 0
        self.places: dict[bytes, int] = {}
        self.attempts: dict[tuple[int, int], AttemptRecord] = {}  # of unusual tasks, like the next three
        self.open: dict[int, list[AttemptRecord]] = {}  # by task; those that may be running
        self.done: dict[int, AttemptRecord] = {}
        self.failed: dict[int, AttemptRecord] = {}  # the last of tasks that have failed for good
        self.living: dict[str, Life] = {}
        self.away: dict[str, float] = {}
        self.checked = checked
        self.chain = 0  # the checksum of the line before
        self.number = 0
        self.first = math.inf
        self.last = self.before = 0.0  # the time of the last event, with and without the present line

    def take(self, lines: Sequence[bytes]) -> None:
        usual, table, places = self.usual, self.table, self.places
        for line in lines:
            self.number += 1
            try:
                if not self.checked:
                    self.chain = self.check(line)
                words = line.split(b" ")
                kind = words[0]
                if len(words) != _WORDS.get(kind) or words[2] != b"1" or not self.timeline.runs:
                    self.line(words)
                    usual = self.usual  # there may be more tasks now
                    continue
                task = int(words[1])
                state = usual[task] if 0 < task < len(usual) else _UNUSUAL
                if kind == b"start" and state == _UNKNOWN:
                    time = self.seen(float(words[4]))
                    table.host[task] = places[words[3]] if words[3] in places else self.place(words[3])
                    table.sent[task] = time
                    usual[task] = _SENT
                elif kind == b"slot" and state == _SENT:
                    slot = int(words[3])
                    if not 0 <= slot < SLOTS_MOST:
                        raise ValueError(slot)
                    table.began[task] = self.seen(float(words[4]))
                    table.slot[task] = slot
                    usual[task] = _BEGAN
                elif kind == b"end" and state == _BEGAN and words[5] == words[6] == b"0":
                    seconds = float(words[7])
                    if not 0 <= seconds < math.inf:
                        raise ValueError(seconds)
                    if words[12] != b"0":
                        table.err_offset[task], table.err_checksum[task] = int(words[11]), int(words[13])
                        table.err_size[task] = int(words[12])
                    table.host[task] = places[words[3]] if words[3] in places else self.place(words[3])
                    table.ran[task] = seconds
                    table.ended[task] = table.began[task] + seconds
                    usual[task] = _ENDED
                elif kind == b"done" and state == _ENDED:
                    self.usual_done += 1
                    usual[task] = _DONE
                else:
                    self.line(words)
            except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
                self.timeline.damaged += 1

    def check(self, line: bytes) -> int:
        try:
            return check(line, self.chain)
        except ValueError:
            self.timeline.torn = self.timeline.torn or self.number
            raise

    def place(self, host: bytes) -> int:
        place = self.places[host] = self.table.host_place(host.decode("ascii"))
        return place

    def line(self, line: Sequence[bytes]) -> None:
        """Take in a line of any kind."""
        kind, *words = b" ".join(line).decode("ascii").split(" ")[:-1]
        if kind == "event":
            self.before = self.last
            handle = getattr(self, f"on_{words[1]}")
            handle(self.seen(float(words[0])), **json.loads(" ".join(words[2:])))
        elif kind in ("start", "slot", "end", "done", "void", "failed"):
            key = int(words[0]), int(words[1])
            if not (0 <= key[0] < _MOST and 0 <= key[1] < _MOST):
                raise ValueError(key)
            self.unusual(key[0])
            getattr(self, f"line_{kind}")(key, words)
        elif kind == "tasks":
            self.line_tasks(words)
        elif kind != "job":
            raise ValueError(kind)

    def line_tasks(self, words: Sequence[str]) -> None:
        tasks, self.timeline.keys, self.timeline.heads = int(words[0]), int(words[1], 16), int(words[2], 16)
        if not self.timeline.tasks <= tasks < _ROWS_MOST:
            raise ValueError(tasks)
        self.timeline.tasks = tasks
        self.usual.extend(bytes(tasks + 1 - len(self.usual)))
        self.table.grow(tasks + 1)

    def unusual(self, task: int) -> None:
        """Make a record of what is known of a usual task."""
        state = self.usual[task] if 0 < task < len(self.usual) else _UNUSUAL
        if state == _UNUSUAL:
            return
        self.usual[task] = _UNUSUAL
        if state == _UNKNOWN:
            return
        table, host = self.table, self.table.hosts[self.table.host[task]]
        attempt = self.attempts[task, 1] = AttemptRecord(task, 1, host, table.sent[task])
        if state >= _BEGAN:
            attempt.slot, attempt.began = table.slot[task], table.began[task]
        if state >= _ENDED:
            table.number[task] = 1
            attempt.ended, attempt.result = table.ended[task], table.record(task).result
            attempt.outcome = AttemptOutcome.DONE if state == _DONE else AttemptOutcome.ENDED
        else:
            self.open[task] = [attempt]
        if state == _DONE:
            self.usual_done -= 1
            self.done[task] = attempt

    def seen(self, time: float) -> float:
        if not 0 <= time < math.inf:
            raise ValueError(time)
        self.first = min(self.first, time)
        self.last = max(self.last, time)
        return time

    def host(self, name: str) -> HostRecord:
        return self.timeline.hosts.setdefault(name, HostRecord(name))

    # Attempts

    def line_start(self, key: tuple[int, int], words: Sequence[str]) -> None:
        *earlier, _ = self.timeline.runs
        attempt = AttemptRecord(*key, words[2], self.seen(float(words[3])))
        others = []
        for other in self.open.get(attempt.task, ()):
            if other.number == attempt.number:
                continue  # it was taken back
            if earlier and other.host not in self.living:
                self.lose(other, earlier[-1].ended)  # an instance of an earlier run that isn't in this one
            else:
                others.append(other)
        if failed := self.failed.pop(attempt.task, None):
            failed.outcome = AttemptOutcome.RETRIED
        attempt.backup = bool(others)
        self.open[attempt.task] = [*others, attempt]
        self.attempts[key] = attempt

    def line_slot(self, key: tuple[int, int], words: Sequence[str]) -> None:
        attempt, slot = self.attempts[key], int(words[2])
        if not 0 <= slot < SLOTS_MOST:
            raise ValueError(slot)
        if attempt.slot < 0:  # a driver that takes over may write the start again
            attempt.slot, attempt.began = slot, self.seen(float(words[3]))

    def line_end(self, key: tuple[int, int], words: Sequence[str]) -> None:
        attempt, result = self.attempts[key], result_of(words[1:])
        if not 0 <= result.seconds < math.inf or not _makes_sense(result):
            raise ValueError(result)
        self.forget(attempt)
        attempt.host, attempt.result = result.host, result
        attempt.code, attempt.flags = result.code, result.flags
        if not (result.flags & LOST and attempt.outcome is AttemptOutcome.LOST):  # it ended with its loss
            attempt.ended = self.seen(result.ended) if attempt.slot < 0 else attempt.began + result.seconds
        attempt.outcome = AttemptOutcome.RETRIED if result.code or result.flags else AttemptOutcome.ENDED

    def line_done(self, key: tuple[int, int], words: Sequence[str]) -> None:
        attempt = self.attempts[key]
        if attempt.result is None:
            raise ValueError("done without an end")
        attempt.outcome = AttemptOutcome.BACKUP if attempt.backup else AttemptOutcome.DONE
        self.done[attempt.task] = attempt

    def line_void(self, key: tuple[int, int], words: Sequence[str]) -> None:
        self.done.pop(key[0]).outcome = AttemptOutcome.LOST

    def line_failed(self, key: tuple[int, int], words: Sequence[str]) -> None:
        attempt = self.attempts[key]
        if attempt.result is None:
            raise ValueError("failed without an end")
        attempt.outcome = AttemptOutcome.FAILED
        self.failed[attempt.task] = attempt

    def on_lost(self, time: float, task: int, attempt: int, host: str) -> None:
        known = self.known(task, attempt, host)
        if known is not None:
            self.lose(known, time)

    def on_ended(self, time: float, task: int, attempt: int, host: str, code: int, seconds: float) -> None:
        known = self.known(task, attempt, host)
        if known is not None:
            self.forget(known)
            known.code, known.ended, known.outcome = int(code), known.began + float(seconds), AttemptOutcome.ENDED

    def on_back(self, time: float, task: int, attempt: int, host: str) -> None:
        known = self.known(task, attempt, host)
        if known is not None:
            self.forget(known)
            del self.attempts[task, attempt]

    def known(self, task: int, number: int, host: str) -> AttemptRecord | None:
        self.unusual(task)
        attempt = self.attempts.get((task, number))
        return attempt if attempt is not None and attempt.host == host and attempt in self.open.get(task, ()) else None

    def forget(self, attempt: AttemptRecord) -> None:
        others = [other for other in self.open.get(attempt.task, ()) if other is not attempt]
        if others:
            self.open[attempt.task] = others
        else:
            self.open.pop(attempt.task, None)

    def lose(self, attempt: AttemptRecord, time: float) -> None:
        self.forget(attempt)
        attempt.outcome, attempt.ended = AttemptOutcome.LOST, time

    # Runs and instances

    def on_run(self, time: float, tasks: int, timeout: float, **about: object) -> None:
        before = self.timeline.runs[-1] if self.timeline.runs else None
        self.note(time, "", "run", "resumed" if before else "begun")
        self.timeline.alone = "detach" in about
        self.timeline.runs.append(DriverRun(time, math.nan, int(tasks), float(timeout)))
        if before and math.isnan(before.ended):
            self.end_run(before, self.before)

    def on_over(self, time: float, why: str, prices: dict[str, float], driver: float = 0.0, **_: object) -> None:
        run = self.timeline.runs[-1]
        run.why = str(why)
        run.driver = float(driver)
        self.timeline.alone &= is_left_alone(run.why)
        self.on_prices(time, **prices)
        self.end_run(run, time)

    def end_run(self, run: DriverRun, time: float) -> None:
        run.ended = max(time, run.began)
        for life in self.living.values():
            life.until = max(life.up, run.ended)
        for host in list(self.away):
            self.back(host, run.ended)
        self.living.clear()

    def on_prices(self, time: float, **prices: float) -> None:
        for name, price in prices.items():
            self.host(name).price = float(price)

    def on_up(
        self,
        time: float,
        host: str,
        slots: int,
        seconds: float,
        name: str,
        type: str,
        zone: str,
        spot: bool,
        cpus: int = 0,
    ) -> None:
        run = self.timeline.runs[-1]
        if not math.isnan(run.ended):
            raise ValueError("up after the run")
        known = self.host(host)
        known.label, known.type, known.zone, known.spot = str(name), str(type), str(zone), bool(spot)
        known.cpus = max(0, int(cpus))
        known.slots = max(known.slots, min(max(1, int(slots)), SLOTS_MOST))
        self.back(host, time)
        if host not in self.living:
            again = any(life.host == host and life.began >= run.began for life in self.timeline.lives)
            began = time if again else max(run.began, time - float(seconds))
            self.living[host] = life = Life(host, began, time, math.nan)
            self.timeline.lives.append(life)
            if again:
                self.note(time, host, "back", "it is back")

    def on_away(self, time: float, host: str, reason: str) -> None:
        if host in self.living:
            self.away.setdefault(host, time)
        self.note(time, host, "away", str(reason) or "the connection was lost")

    def back(self, host: str, time: float) -> None:
        since = self.away.pop(host, None)
        if since is not None:
            self.timeline.away.append((host, since, time))

    def on_gone(self, time: float, host: str, reason: str) -> None:
        self.back(host, time)
        life = self.living.pop(host, None)
        if life is not None:
            life.until = time
        self.note(time, host, "gone", str(reason))

    def on_died(self, time: float, host: str) -> None:
        self.note(time, host, "died", "the agent had died, and a new one has started")

    def on_notice(self, time: float, host: str, seconds: float) -> None:
        self.note(time, host, "notice", f"spot interruption in {max(0.0, float(seconds)):.0f} s")

    def on_spared(self, time: float, host: str) -> None:
        self.note(time, host, "spared", "it was not interrupted, it takes tasks again")

    def on_aside(self, time: float, host: str, reason: str = "") -> None:
        self.note(time, host, "aside", f"set aside{': ' if reason else ''}{reason}")

    def note(self, time: float, host: str, kind: str, text: str) -> None:
        if host:
            self.host(host)
        self.timeline.events.append(JobEvent(time, host, kind, text))

    # The whole

    def finish(self, now: float | None) -> Timeline:
        timeline = self.timeline
        timeline.running = now is not None
        timeline.done = len(self.done) + self.usual_done
        end = self.last if now is None else max(now, self.last)
        if timeline.runs and math.isnan(timeline.runs[-1].ended):
            self.end_run(timeline.runs[-1], end)
        for state in (_SENT, _BEGAN):
            task = -1
            while (task := self.usual.find(state, task + 1)) >= 0:
                self.unusual(task)
        self._end_open(end)
        timeline.attempts = table = self._filled()
        lanes = table.by_lane()
        for place, slot in lanes:
            host = self.host(table.hosts[place])
            host.slots = max(host.slots, slot + 1, 1)
        # Another engine's attempts are sent to no known host, and prices may be those of a host that never came.
        known: list[Life | JobEvent] = [*timeline.lives, *timeline.events]
        used = {one.host for one in known} | {table.hosts[place] for place, _ in lanes}
        timeline.hosts = {name: host for name, host in timeline.hosts.items() if name in used}
        for (_, slot), rows in lanes.items():
            if slot >= 0:
                _bound(table, rows)
        _cut(timeline, table, self.first)
        return timeline

    def _filled(self) -> AttemptTable:
        """Return the table with all attempts, in order. An attempt that isn't known to have started took no time."""
        table, usual = self.table, self.usual
        if usual:
            table.task = array("I", range(len(usual)))
            table.number = array("I", [1]) * len(usual)
            outcome = {_DONE: AttemptOutcome.DONE, _ENDED: AttemptOutcome.ENDED}
            table.outcome = array("B", usual.translate(bytes(int(outcome.get(state, 0)) for state in range(256))))
            table.order = array("I", [task for task, state in enumerate(usual) if state in (_ENDED, _DONE)])
        for attempt in self.attempts.values():
            if attempt.slot < 0:
                attempt.began = attempt.ended
            else:
                attempt.ended = max(attempt.began, attempt.ended)
            if attempt.slot >= 0 or attempt.result is not None:
                table.append(attempt)
        table.sort()
        return table

    def _end_open(self, end: float) -> None:
        """Decide the outcome of attempts whose end was not recorded."""
        runs_on = self.timeline.running or self.timeline.alone
        for task, attempts in self.open.items():
            result = self.done.get(task)
            for attempt in attempts:
                if result is not None:
                    attempt.outcome, attempt.ended = AttemptOutcome.ENDED, result.ended
                else:
                    attempt.outcome = AttemptOutcome.RUNNING if runs_on else AttemptOutcome.STOPPED
                    attempt.ended = end


def _makes_sense(result: Result) -> bool:
    """Return whether the numbers are of a possible size."""
    sizes = result.size, result.err_size, result.offset + 1, result.err_offset + 1
    checksums = result.checksum, result.err_checksum
    return (
        abs(result.code) < _MOST
        and all(0 <= size < _SIZE_MOST for size in sizes)
        and all(0 <= checksum < 1 << 32 for checksum in checksums)
    )


def _bound(table: AttemptTable, rows: Sequence[int]) -> None:
    """Let each attempt of a slot end before the next one begins: a lost one ends when the loss was noticed."""
    began, ended = table.began, table.ended
    for row, following in pairwise(rows):
        if ended[row] > began[following]:
            ended[row] = began[following]


def _cut(timeline: Timeline, table: AttemptTable, first: float) -> None:
    """Let all times begin at 0, and cut out the empty periods between two runs."""
    order, starts, ends = table.order, table.began, table.ended
    zero = min(first, starts[order[0]]) if order else first
    zero = zero if math.isfinite(zero) else 0.0
    cuts: list[tuple[float, float]] = []  # from, and seconds left out up to there and with it
    left_out = 0.0
    for one, following in pairwise(timeline.runs):
        at = one.ended
        until = bisect_left(order, following.began, key=starts.__getitem__)
        within = [(starts[row], ends[row]) for row in order[:until] if ends[row] > one.ended]
        for began, ended in [*sorted(within), (following.began, following.began)]:
            if began - at > QUIET:
                left_out += began - at
                cuts.append((at, left_out))
                said = f"{began - at:.0f} s without a driver are left out"
                timeline.events.append(JobEvent(began, "", "quiet", said))
            at = max(at, ended)
    cut_at = [cut[0] for cut in cuts]

    def moved(time: float) -> float:
        place = bisect_right(cut_at, time)
        if not place:
            return time - zero
        since, total = cuts[place - 1]
        before = cuts[place - 2][1] if place > 1 else 0.0
        return time - zero - before - min(time - since, total - before)

    for name in ("sent", "began", "ended"):
        column = getattr(table, name)
        setattr(table, name, array("d", map(moved, column) if cuts else [time - zero for time in column]))
    for life in timeline.lives:
        life.began, life.up, life.until = moved(life.began), moved(life.up), moved(life.until)
    for run in timeline.runs:
        run.began, run.ended = moved(run.began), moved(run.ended)
    for event in timeline.events:
        event.time = moved(event.time)
    timeline.away = [(host, moved(since), moved(until)) for host, since, until in timeline.away]
    timeline.events.sort(key=lambda event: event.time)
    timeline.began, timeline.quiet = zero, left_out
