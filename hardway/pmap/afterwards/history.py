"""What happened in a job, from the bytes of its journal: when and where attempts ran, instances' lives, faults.

Pure: it reads nothing else and no clock. Times are in seconds since the job began; a while in which no driver was there
and nothing ran is left out.
"""

from __future__ import annotations

import itertools
import json
import math
from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from hardway.pmap.journal import Result, result_of, words_of

QUIET = 5.0  # seconds without a driver and without an attempt that are left out
_GIVEN_UP = 8  # driver.LOST: importing it would import all of SSH
_MOST_SLOTS = 4096
_TOUCHING = 0.001  # seconds by which two attempts in one slot may seem to overlap


class Outcome(IntEnum):
    """What became of an attempt."""

    DONE = 0
    BACKUP = 1  # done, as a second attempt that was first to end
    RETRIED = 2  # failed, and the task was tried again
    FAILED = 3  # failed, the last attempt of a task without a result
    LOST = 4  # with its instance or agent
    ENDED = 5  # another attempt was first, or the result wasn't kept
    STOPPED = 6  # by the end of the job's run
    RUNNING = 7


GOOD = (Outcome.DONE, Outcome.BACKUP)


@dataclass(slots=True, eq=False)
class Attempt:
    """One attempt that ran. `lane` is the slot of its host, from 0; `result` is None where no end was recorded."""

    task: int
    number: int
    host: str
    sent: float
    began: float = math.nan
    ended: float = math.nan
    outcome: Outcome = Outcome.RUNNING
    code: int = 0
    flags: int = 0
    backup: bool = False
    worker: int = -1
    lane: int = 0
    result: Result | None = None

    @property
    def seconds(self) -> float:
        """How long it ran, as far as is known."""
        return self.ended - self.began


@dataclass(slots=True)
class Life:
    """A time in which a host was part of a run: asked for at `began`, there from `up` to `until`."""

    host: str
    began: float
    up: float
    until: float
    slots: int
    worker: int


@dataclass(slots=True)
class Run:
    """One run of the job by one driver; `why` it was over is empty where the driver was killed, or still runs."""

    began: float
    ended: float
    tasks: int
    timeout: float
    why: str = ""


@dataclass(slots=True)
class Mark:
    """A fault or another event at a time, on a host or (empty) of the whole job."""

    time: float
    host: str
    kind: str
    text: str


@dataclass(slots=True)
class Host:
    """An instance. `price` in USD/hour, None where it isn't known; `lanes` are its slots."""

    name: str
    label: str = ""
    type: str = ""
    zone: str = ""
    spot: bool = False
    price: float | None = None
    lanes: int = 0


@dataclass
class Timeline:
    """All of a job. `away` are times (host, from, to) in which a living host could not be reached."""

    attempts: list[Attempt] = field(default_factory=list)
    hosts: dict[str, Host] = field(default_factory=dict)
    lives: list[Life] = field(default_factory=list)
    away: list[tuple[str, float, float]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    done: int = 0
    damaged: int = 0
    running: bool = False
    began: float = 0.0  # of Unix
    quiet: float = 0.0  # seconds left out

    @property
    def seconds(self) -> float:
        """From the beginning to the end of the last run."""
        return max((run.ended for run in self.runs), default=0.0)

    @property
    def failed(self) -> list[Attempt]:
        """The last attempts of tasks that have no result and failed."""
        return [attempt for attempt in self.attempts if attempt.outcome is Outcome.FAILED]


def read(data: bytes, now: float | None = None) -> Timeline:
    """What the journal tells; lines that are not what was written, or make no sense, are counted and left out.

    `now`, in seconds of Unix, is given where the job is being run.
    """
    reader = _Reader()
    for line in data.split(b"\n")[:-1]:
        reader.line(line)
    return reader.finish(now)


class _Reader:
    """Builds a timeline from one line after the other, in seconds of Unix until `finish`."""

    def __init__(self) -> None:
        self.timeline = Timeline()
        self.attempts: dict[tuple[int, int], Attempt] = {}
        self.open: dict[int, list[Attempt]] = {}  # by task; those that may be running
        self.done: dict[int, Attempt] = {}
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
            elif kind in ("start", "end", "done"):
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

    def host(self, name: str) -> Host:
        return self.timeline.hosts.setdefault(name, Host(name))

    # Attempts

    def line_start(self, key: tuple[int, int], words: Sequence[str]) -> None:
        attempt = Attempt(*key, words[2], self.seen(float(words[3])))
        self.host(attempt.host)
        others = []
        for other in self.open.get(attempt.task, ()):
            if other.number == attempt.number:
                continue  # it was taken back
            if len(self.timeline.runs) > 1 and other.host not in self.living:
                self.lose(other, self.timeline.runs[-2].ended)  # an instance of an earlier run that isn't in this one
            else:
                others.append(other)
        attempt.backup = bool(others)
        self.open[attempt.task] = [*others, attempt]
        self.attempts[key] = attempt

    def line_end(self, key: tuple[int, int], words: Sequence[str]) -> None:
        result = result_of(words[1:])
        if not 0 <= result.seconds < math.inf:
            raise ValueError(result.seconds)
        attempt = self.attempts.get(key) or Attempt(*key, result.host, self.seen(result.ended) - result.seconds)
        self.attempts[key] = attempt
        self.host(result.host)
        self.forget(attempt)
        attempt.host, attempt.result = result.host, result
        attempt.code, attempt.flags = result.code, result.flags
        if not (result.flags & _GIVEN_UP and attempt.outcome is Outcome.LOST):  # when it ran is known from its loss
            attempt.worker = int(words[12]) if len(words) > 12 else -1
            attempt.ended = self.seen(result.ended)
            attempt.began = attempt.ended - result.seconds
        attempt.outcome = Outcome.RETRIED if result.code or result.flags else Outcome.ENDED

    def line_done(self, key: tuple[int, int], words: Sequence[str]) -> None:
        attempt = self.attempts[key]
        if attempt.result is None:
            raise ValueError("done without an end")
        attempt.outcome = Outcome.BACKUP if attempt.backup else Outcome.DONE
        self.done[attempt.task] = attempt

    def on_lost(self, time: float, task: int, attempt: int, host: str, seconds: float | None) -> None:
        known = self.known(task, attempt, host)
        if known is not None:
            self.lose(known, time)
            known.began = math.inf if seconds is None else time - float(seconds)

    def on_ended(self, time: float, task: int, attempt: int, host: str, code: int, seconds: float, worker: int) -> None:
        known = self.known(task, attempt, host)
        if known is not None:
            self.forget(known)
            known.ended, known.began = time, time - float(seconds)
            known.code, known.worker, known.outcome = int(code), int(worker), Outcome.ENDED

    def on_back(self, time: float, task: int, attempt: int, host: str) -> None:
        known = self.known(task, attempt, host)
        if known is not None:
            self.forget(known)
            del self.attempts[task, attempt]

    def known(self, task: int, number: int, host: str) -> Attempt | None:
        attempt = self.attempts.get((task, number))
        return attempt if attempt is not None and attempt.host == host and attempt in self.open.get(task, ()) else None

    def forget(self, attempt: Attempt) -> None:
        others = [other for other in self.open.get(attempt.task, ()) if other is not attempt]
        if others:
            self.open[attempt.task] = others
        else:
            self.open.pop(attempt.task, None)

    def lose(self, attempt: Attempt, time: float) -> None:
        self.forget(attempt)
        attempt.outcome, attempt.ended = Outcome.LOST, time

    # Runs and instances

    def on_run(self, time: float, tasks: int, slots: int, timeout: float) -> None:
        before = self.timeline.runs[-1] if self.timeline.runs else None
        self.mark(time, "", "run", "resumed" if before else "begun")
        self.timeline.runs.append(Run(time, math.nan, int(tasks), float(timeout)))
        if before and math.isnan(before.ended):
            self.end_run(before, self.before)

    def on_over(self, time: float, why: str, prices: dict[str, float]) -> None:
        run = self.timeline.runs[-1]
        run.why = str(why)
        self.on_prices(time, **prices)
        self.end_run(run, time)

    def end_run(self, run: Run, time: float) -> None:
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
        worker: int,
        seconds: float,
        name: str,
        type: str,
        zone: str,
        spot: bool,
    ) -> None:
        run = self.timeline.runs[-1]
        if not math.isnan(run.ended):
            raise ValueError("up after the run")
        known = self.host(host)
        known.label, known.type, known.zone, known.spot = str(name), str(type), str(zone), bool(spot)
        self.back(host, time)
        if host not in self.living:
            again = any(life.host == host and life.began >= run.began for life in self.timeline.lives)
            began = time if again else max(run.began, time - float(seconds))
            life = Life(host, began, time, math.nan, min(max(1, int(slots)), _MOST_SLOTS), int(worker))
            self.living[host] = life
            self.timeline.lives.append(life)
            if again:
                self.mark(time, host, "back", "it is back")

    def on_away(self, time: float, host: str, reason: str) -> None:
        if host in self.living:
            self.away.setdefault(host, time)
        self.mark(time, host, "away", str(reason) or "the connection was lost")

    def back(self, host: str, time: float) -> None:
        since = self.away.pop(host, None)
        if since is not None:
            self.timeline.away.append((host, since, time))

    def on_gone(self, time: float, host: str, reason: str) -> None:
        self.back(host, time)
        life = self.living.pop(host, None)
        if life is not None:
            life.until = time
        self.mark(time, host, "gone", str(reason))

    def on_died(self, time: float, host: str) -> None:
        self.mark(time, host, "died", "the agent had died; another one is there")

    def on_notice(self, time: float, host: str, seconds: float) -> None:
        self.mark(time, host, "notice", f"spot interruption in {max(0.0, float(seconds)):.0f} s")

    def on_spared(self, time: float, host: str) -> None:
        self.mark(time, host, "spared", "it was not interrupted, it takes tasks again")

    def on_aside(self, time: float, host: str) -> None:
        self.mark(time, host, "aside", "set aside: tasks that fail there succeed elsewhere")

    def mark(self, time: float, host: str, kind: str, text: str) -> None:
        if host:
            self.host(host)
        self.timeline.marks.append(Mark(time, host, kind, text))

    # The whole

    def finish(self, now: float | None) -> Timeline:
        timeline = self.timeline
        timeline.running = now is not None
        timeline.done = len(self.done)
        end = self.last if now is None else max(now, self.last)
        if not timeline.runs and self.first < math.inf:
            timeline.runs.append(Run(self.first, math.nan, 0, 0.0))
        if timeline.runs and math.isnan(timeline.runs[-1].ended):
            self.end_run(timeline.runs[-1], end)
        self._end_open(end)
        self._tell_failures()
        if timeline.lives:
            # Another engine's attempts are sent to nobody in particular.
            known: list[Life | Attempt | Mark] = [*timeline.lives, *self.attempts.values(), *timeline.marks]
            used = {one.host for one in known}
            timeline.hosts = {name: host for name, host in timeline.hosts.items() if name in used}
        timeline.attempts = _placed(self.attempts.values(), timeline)
        if not timeline.lives:  # an old journal, that says nothing of instances
            for run, host in itertools.product(timeline.runs, timeline.hosts.values()):
                timeline.lives.append(Life(host.name, run.began, run.began, run.ended, host.lanes, 0))
        _cut(timeline, self.first)
        timeline.attempts.sort(key=lambda attempt: attempt.began)
        return timeline

    def _end_open(self, end: float) -> None:
        """What became of attempts whose end nobody wrote down."""
        for task, attempts in self.open.items():
            result = self.done.get(task)
            for attempt in attempts:
                if result is not None and result.sent > attempt.sent and not self.timeline.lives:
                    attempt.outcome, attempt.ended = Outcome.LOST, result.sent
                elif result is not None:
                    attempt.outcome, attempt.ended = Outcome.ENDED, result.ended
                else:
                    attempt.outcome = Outcome.RUNNING if self.timeline.running else Outcome.STOPPED
                    attempt.ended = end

    def _tell_failures(self) -> None:
        """Of a task without a result, the last attempt that failed is what failed it; unless it may yet be retried."""
        last: dict[int, Attempt] = {}
        for attempt in self.attempts.values():
            if attempt.outcome is Outcome.RETRIED and attempt.task not in self.done and attempt.task not in self.open:
                last[attempt.task] = max(last.get(attempt.task, attempt), attempt, key=lambda one: one.number)
        if not self.timeline.running:
            for attempt in last.values():
                attempt.outcome = Outcome.FAILED


def _placed(attempts: Iterable[Attempt], timeline: Timeline) -> list[Attempt]:
    """The attempts that ran, each in a lane of its host where no other is at the time; where needed, times are guessed.

    A result may come late, with its connection: a slot's attempts end, at the latest, when its next one began.
    """
    lives: dict[str, list[Life]] = {}
    for life in timeline.lives:
        lives.setdefault(life.host, []).append(life)
    slots: dict[tuple[str, int], list[Attempt]] = {}
    unplaced: list[Attempt] = []
    for attempt in attempts:
        lane = _lane(attempt, lives.get(attempt.host, ()))
        if lane is None:
            unplaced.append(attempt)
        else:
            attempt.lane = lane
            slots.setdefault((attempt.host, lane), []).append(attempt)
    lanes: dict[str, list[list[tuple[float, float]]]] = {
        name: [[] for _ in range(max((life.slots for life in lives.get(name, ())), default=0))]
        for name in timeline.hosts
    }
    placed: list[Attempt] = []
    for (host, lane), ran in slots.items():
        ran.sort(key=lambda attempt: attempt.ended)
        limit = math.inf
        for attempt in reversed(ran):
            if attempt.ended > limit:
                attempt.began -= attempt.ended - limit
                attempt.ended = limit
            limit = attempt.began
        lanes[host][lane] = [(attempt.began, attempt.ended) for attempt in ran]
        placed += ran
    unplaced.sort(key=lambda attempt: attempt.sent if math.isnan(attempt.began) else attempt.began)
    for attempt in unplaced:
        if attempt.began != math.inf and _fit(attempt, lanes[attempt.host], attempt.host in lives):
            placed.append(attempt)
    for name, busy in lanes.items():
        timeline.hosts[name].lanes = len(busy)
    return placed


def _lane(attempt: Attempt, lives: Sequence[Life]) -> int | None:
    """The slot that the attempt's worker is of its host, if that is known."""
    if attempt.worker >= 0 and attempt.ended >= attempt.began:
        for life in reversed(lives):
            if 0 <= attempt.worker - life.worker < life.slots:
                return attempt.worker - life.worker
    return None


def _fit(attempt: Attempt, lanes: list[list[tuple[float, float]]], all_known: bool) -> bool:
    """Put the attempt into the lane where it can begin first; False where it never can have begun.

    That a lost one had started may be a guess of the driver's. Where it isn't known that these are all of the host's
    lanes, another one is made rather than a known time changed.
    """
    guessed = math.isnan(attempt.began)
    best: tuple[float, int] | None = None
    for lane, busy in enumerate(lanes):
        at = bisect_right(busy, (attempt.ended - _TOUCHING, math.inf))
        free = busy[at - 1][1] if at else -math.inf
        began = max(attempt.sent if guessed else attempt.began, free)
        fits = began < attempt.ended if guessed or all_known else free <= attempt.began + _TOUCHING
        if fits and (best is None or began < best[0]):
            best = began, lane
    if best is None and lanes and (guessed or (all_known and attempt.result is None)):
        return False
    if best is None:
        lanes.append([])
        best = (attempt.sent if guessed else attempt.began), len(lanes) - 1
    attempt.began, attempt.lane = best
    attempt.ended = max(attempt.began, attempt.ended)
    insort(lanes[attempt.lane], (attempt.began, attempt.ended))
    return True


def _cut(timeline: Timeline, first: float) -> None:
    """Let all times begin at 0, and leave out those in which nothing was there, between two runs."""
    zero = min([first, *(attempt.began for attempt in timeline.attempts)], default=0.0)
    zero = zero if math.isfinite(zero) else 0.0
    cuts: list[tuple[float, float]] = []  # from, and seconds left out up to there and with it
    left_out = 0.0
    for one, following in zip(timeline.runs, timeline.runs[1:], strict=False):
        at = one.ended
        within = [a for a in timeline.attempts if a.ended > one.ended and a.began < following.began]
        for began, ended in [*sorted((a.began, a.ended) for a in within), (following.began, following.began)]:
            if began - at > QUIET:
                left_out += began - at
                cuts.append((at, left_out))
                timeline.marks.append(Mark(began, "", "quiet", f"{began - at:.0f} s without a driver are left out"))
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
    for mark in timeline.marks:
        mark.time = moved(mark.time)
    timeline.away = [(host, moved(since), moved(until)) for host, since, until in timeline.away]
    timeline.marks.sort(key=lambda mark: mark.time)
    timeline.began, timeline.quiet = zero, left_out
