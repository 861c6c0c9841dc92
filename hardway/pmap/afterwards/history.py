"""A job's history, read from its journal: when and where attempts ran, instances' lives, faults.

Pure: this module reads nothing but the journal, and no clock. Times are in seconds since the job began, without periods
in which no driver existed and no attempt ran.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise

from hardway.pmap.endings import LOST
from hardway.pmap.journal import Result, result_of, words_of
from hardway.pmap.ledger import SLOTS_MOST

QUIET = 5.0  # seconds without a driver and without an attempt that are left out


class AttemptOutcome(IntEnum):
    """The outcome of an attempt."""

    DONE = 0
    BACKUP = 1  # done, as a second attempt that was first to end
    RETRIED = 2  # failed, and the task was tried again
    FAILED = 3  # failed, the last attempt of a task without a result
    LOST = 4  # with its instance or agent
    ENDED = 5  # another attempt was first, or the result wasn't kept
    STOPPED = 6  # by the end of the job's run
    RUNNING = 7


GOOD = (AttemptOutcome.DONE, AttemptOutcome.BACKUP)


@dataclass(slots=True, eq=False)
class AttemptRecord:
    """One attempt. `slot` is its slot on the host, from 0, or -1 if it is not known to have started.

    `result` is None if no end was recorded.
    """

    task: int
    number: int
    host: str
    sent: float
    began: float = math.nan
    ended: float = math.nan
    outcome: AttemptOutcome = AttemptOutcome.RUNNING
    code: int = 0
    flags: int = 0
    backup: bool = False
    slot: int = -1
    result: Result | None = None

    @property
    def seconds(self) -> float:
        """The attempt's known duration, in seconds."""
        return self.ended - self.began


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
    """The whole history of a job. `away` are periods (host, from, to) in which a living host could not be reached."""

    attempts: list[AttemptRecord] = field(default_factory=list)
    hosts: dict[str, HostRecord] = field(default_factory=dict)
    lives: list[Life] = field(default_factory=list)
    away: list[tuple[str, float, float]] = field(default_factory=list)
    runs: list[DriverRun] = field(default_factory=list)
    events: list[JobEvent] = field(default_factory=list)
    done: int = 0
    damaged: int = 0
    running: bool = False
    began: float = 0.0  # of Unix
    quiet: float = 0.0  # seconds left out

    @property
    def seconds(self) -> float:
        """The seconds from the beginning to the end of the last run."""
        return max((run.ended for run in self.runs), default=0.0)

    @property
    def failed(self) -> list[AttemptRecord]:
        """The last attempts of tasks that have failed for good."""
        return [attempt for attempt in self.attempts if attempt.outcome is AttemptOutcome.FAILED]


def read(data: bytes, now: float | None = None) -> Timeline:
    """Read a journal; count and leave out lines that are damaged or make no sense.

    `now`, in seconds of Unix, is given if the job is still running.
    """
    reader = _Reader()
    for line in data.split(b"\n")[:-1]:
        reader.line(line)
    return reader.finish(now)


class _Reader:
    """Builds a timeline line by line; times are in seconds of Unix until `finish`."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.attempts: dict[tuple[int, int], AttemptRecord] = {}
        self.open: dict[int, list[AttemptRecord]] = {}  # by task; those that may be running
        self.done: dict[int, AttemptRecord] = {}
        self.failed: dict[int, AttemptRecord] = {}  # the last of tasks that have failed for good
        self.living: dict[str, Life] = {}
        self.away: dict[str, float] = {}
        self.chain = 0  # the checksum of the line before
        self.first = math.inf
        self.last = self.before = 0.0  # when something was last seen; and that as it was before this line

    def line(self, line: bytes) -> None:
        try:
            (kind, *words), self.chain = words_of(line, self.chain)
            self.before = self.last
            if kind == "event":
                handle = getattr(self, f"on_{words[1]}")
                handle(self.seen(float(words[0])), **json.loads(" ".join(words[2:])))
            elif kind in ("start", "slot", "end", "done", "failed"):
                getattr(self, f"line_{kind}")((int(words[0]), int(words[1])), words)
            elif kind not in ("job", "tasks"):  # what those say is for the journal
                raise ValueError(kind)
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            self.timeline.damaged += 1

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
        if attempt.slot < 0:  # who takes over from another driver may tell it again
            attempt.slot, attempt.began = slot, self.seen(float(words[3]))

    def line_end(self, key: tuple[int, int], words: Sequence[str]) -> None:
        attempt, result = self.attempts[key], result_of(words[1:])
        if not 0 <= result.seconds < math.inf:
            raise ValueError(result.seconds)
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

    def on_run(self, time: float, tasks: int, timeout: float, **_: object) -> None:
        before = self.timeline.runs[-1] if self.timeline.runs else None
        self.note(time, "", "run", "resumed" if before else "begun")
        self.timeline.runs.append(DriverRun(time, math.nan, int(tasks), float(timeout)))
        if before and math.isnan(before.ended):
            self.end_run(before, self.before)

    def on_over(self, time: float, why: str, prices: dict[str, float], driver: float = 0.0, **_: object) -> None:
        run = self.timeline.runs[-1]
        run.why = str(why)
        run.driver = float(driver)
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
        self.note(time, host, "died", "the agent had died; another one is there")

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
        timeline.done = len(self.done)
        end = self.last if now is None else max(now, self.last)
        if timeline.runs and math.isnan(timeline.runs[-1].ended):
            self.end_run(timeline.runs[-1], end)
        self._end_open(end)
        timeline.attempts = [one for one in self.attempts.values() if one.slot >= 0 or one.result is not None]
        for attempt in timeline.attempts:
            host = self.host(attempt.host)
            host.slots = max(host.slots, attempt.slot + 1, 1)
        # Another engine's attempts are sent to nobody in particular, and prices may be of who never came.
        known: list[Life | AttemptRecord | JobEvent] = [*timeline.lives, *timeline.attempts, *timeline.events]
        used = {one.host for one in known}
        timeline.hosts = {name: host for name, host in timeline.hosts.items() if name in used}
        _bound(timeline.attempts)
        _cut(timeline, self.first)
        timeline.attempts.sort(key=lambda attempt: attempt.began)
        return timeline

    def _end_open(self, end: float) -> None:
        """Decide the outcome of attempts whose end was not recorded."""
        for task, attempts in self.open.items():
            result = self.done.get(task)
            for attempt in attempts:
                if result is not None:
                    attempt.outcome, attempt.ended = AttemptOutcome.ENDED, result.ended
                else:
                    attempt.outcome = AttemptOutcome.RUNNING if self.timeline.running else AttemptOutcome.STOPPED
                    attempt.ended = end


def _bound(attempts: Sequence[AttemptRecord]) -> None:
    """Give each attempt a beginning, and an end before the next attempt in its slot begins.

    An attempt that is not known to have started gets a duration of 0. A lost attempt ends when the loss was noticed.
    """
    slots: dict[tuple[str, int], list[AttemptRecord]] = {}
    for attempt in attempts:
        if attempt.slot < 0:
            attempt.began = attempt.ended
        else:
            attempt.ended = max(attempt.began, attempt.ended)
            slots.setdefault((attempt.host, attempt.slot), []).append(attempt)
    for ran in slots.values():
        ran.sort(key=lambda attempt: attempt.began)
        for one, following in pairwise(ran):
            one.ended = min(one.ended, following.began)


def _cut(timeline: Timeline, first: float) -> None:
    """Let all times begin at 0, and cut out the empty periods between two runs."""
    zero = min([first, *(attempt.began for attempt in timeline.attempts)], default=0.0)
    zero = zero if math.isfinite(zero) else 0.0
    cuts: list[tuple[float, float]] = []  # from, and seconds left out up to there and with it
    left_out = 0.0
    for one, following in pairwise(timeline.runs):
        at = one.ended
        within = [a for a in timeline.attempts if a.ended > one.ended and a.began < following.began]
        for began, ended in [*sorted((a.began, a.ended) for a in within), (following.began, following.began)]:
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

    for attempt in timeline.attempts:
        attempt.sent, attempt.began, attempt.ended = moved(attempt.sent), moved(attempt.began), moved(attempt.ended)
    for life in timeline.lives:
        life.began, life.up, life.until = moved(life.began), moved(life.up), moved(life.until)
    for run in timeline.runs:
        run.began, run.ended = moved(run.began), moved(run.ended)
    for event in timeline.events:
        event.time = moved(event.time)
    timeline.away = [(host, moved(since), moved(until)) for host, since, until in timeline.away]
    timeline.events.sort(key=lambda event: event.time)
    timeline.began, timeline.quiet = zero, left_out
