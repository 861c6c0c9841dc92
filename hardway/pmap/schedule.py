"""Which task runs where, when: a pure state machine. Events go in, decisions come out, the clock is passed in.

Tasks are numbers from 0, hosts any hashable names, times seconds of any one clock. It owns dispatch, retries,
sending ahead and taking back, backups of stragglers and the setting aside of hosts; it does no I/O, holds no
argument and no result, and imports nothing of ours.

A host has `slots` places where tasks run, and some places ahead where tasks wait for one, so that the host does
not stand idle for a round trip. A task may have several attempts alive (a backup); the first to succeed counts.

Who is to blame: an attempt that ends with an exit code is charged to its task. One that its host says it could not
run as it should, and one that died with its host, are charged to the host first: the task goes to another host, and a
host to which that happens again and again, with different tasks, is set aside. Only a task that died on several hosts
is taken to be what kills them.
"""

from __future__ import annotations

import heapq
import math
import random
from array import array
from bisect import insort
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Iterator
from enum import Enum
from typing import NamedTuple

AHEAD_SECONDS = 0.2  # what is sent ahead keeps a host busy for two round trips and this
AHEAD_WORTH = 0.02  # below this share of a task's duration a round trip isn't worth sending ahead for
AHEAD_MOST = 64
FIRST_WAIT = 0.5  # the wait before the first retry; each further one doubles it
BACKUP_TASKS = 10  # backups start with at least this many tasks,
BACKUP_DONE = 0.5  # this share of them done,
BACKUP_FACTOR = 3.0  # for attempts that have run this many times the median,
BACKUP_LEAST = 1.0  # and this many seconds: below that a backup costs more than it saves
PAUSE_PATIENCE = 5.0  # seconds without a connection, or without an answer, until what waits there runs elsewhere too
BACKUP_TRIES = 8  # stragglers looked at for one that a free host may run
# Of a host, without a success in between: tasks that fail there and succeed elsewhere, times that it could not run what
# it was sent, times that it died while different tasks ran.
SET_ASIDE = 3
SPARED_AFTER = 120.0  # seconds past its announced end after which a host that still lives takes tasks again
NOTICE_MOST = 3600.0  # seconds; no notice comes earlier
DEADLY = 5  # times that a host or its agent died while this task ran there: it is taken to be what kills them
LAST_ATTEMPT = 65_000  # numbers end there
SAMPLE = 1001  # durations kept to estimate the median

Host = Hashable


class Start(NamedTuple):
    """Send this attempt to the host."""

    host: Host
    task: int
    attempt: int


class Recall(NamedTuple):
    """Ask for the attempt back if it hasn't started: answered by `returned`, or not at all if it has."""

    host: Host
    task: int
    attempt: int


class Cancel(NamedTuple):
    """End the attempt: its result is not needed. Answered by `finished` or `returned`."""

    host: Host
    task: int
    attempt: int


Decision = Start | Recall | Cancel


class Verdict(Enum):
    """What became of a finished attempt."""

    DONE = "done"  # the task's one result
    RETRY = "retry"  # failed; the task will be tried again, or another attempt of it still runs
    FAILED = "failed"  # failed, and its retries are spent
    IGNORED = "ignored"  # not awaited: cancelled, given up, or another attempt was first


class _Attempt:
    __slots__ = ("host", "number", "recalled", "single", "started", "task", "twin")

    def __init__(self, host: _Host, task: int, number: int) -> None:
        self.host = host
        self.task = task
        self.number = number
        self.started: float | None = None
        self.recalled = False
        self.single = False  # it runs, and is the only attempt of its task
        self.twin: _Attempt | None = None  # the task's other attempt


class _Host:
    __slots__ = (
        "ahead",
        "connected",
        "deaths",
        "duration",
        "faults",
        "high",
        "leaving",
        "load",
        "low",
        "name",
        "paused",
        "pool",
        "proven",
        "resting",
        "round_trip",
        "set_aside",
        "shared",
        "slots",
        "streak",
    )

    def __init__(self, name: Host, slots: int) -> None:
        self.name = name
        self.slots = slots
        self.round_trip = 0.0
        self.ahead = 0
        self.low = self.high = 0.0  # the durations that `ahead` is right for
        self.duration = 0.0  # moving mean of what its attempts took
        self.load: dict[int, _Attempt] = {}
        self.connected = True
        self.shared = False
        self.paused = 0.0
        self.pool: OrderedDict[_Host, None] | None = None  # where the schedule keeps it
        self.set_aside = False
        self.resting = False  # it fails task after task: given none for a while
        self.leaving = False  # it will be interrupted, and said so
        self.streak: set[int] = set()  # tasks failed here since the last success here
        self.proven = 0  # those of them that succeeded elsewhere
        self.faults = 0  # times that it could not run what it was sent, since the last success here
        self.deaths: list[frozenset[int]] = []  # what ran each time it died or was lost, since the last success here


def ahead(slots: int, round_trip: float, duration: float) -> int:
    """How many tasks to send ahead to a host whose tasks take `duration` seconds each."""
    window = 2 * round_trip + AHEAD_SECONDS
    if duration <= 0:
        return AHEAD_MOST
    if window < AHEAD_WORTH * duration:
        return 0
    return min(AHEAD_MOST, int(slots * window / duration) + 1)


class Schedule:
    """The state of one job. Call an event, then `decide`, and act on what it returns in that order."""

    def __init__(
        self,
        tasks: int,
        *,
        retries: int = 10,
        retry_sleep: float = 30.0,
        keep_going: bool = False,
        backup: bool = True,
        seed: int = 0,
    ) -> None:
        """`tasks` of them wait; `retry_sleep` is the longest wait before a retry, in seconds."""
        self.total = tasks
        self.retries = retries
        self.retry_sleep = retry_sleep
        self.keep_going = keep_going
        self.backup = backup
        self.done = 0
        self.failed = 0
        self.attempts = 0
        self.retried = 0
        self.backups = 0
        self.stopped = False
        self.put_aside: list[Host] = []  # hosts set aside
        self.spared: list[Host] = []  # hosts that take tasks again, their announced end being past
        self.deadly: list[tuple[int, int, Host]] = []  # tasks that failed for good as their host was lost, with attempt
        self._random = random.Random(seed)
        self._hosts: dict[Host, _Host] = {}
        self._active: set[Host] = set()  # connected and not set aside
        self._free: OrderedDict[_Host, None] = OrderedDict()  # active hosts with a free slot, longest first
        self._room: OrderedDict[_Host, None] = OrderedDict()  # active hosts whose slots are full, with a place ahead
        self._over = bytearray(tasks)  # 1: has its result or has failed for good
        self._number = array("I", bytes(4 * tasks))  # the number of the last attempt
        self._next = 0  # tasks from here on were never touched, unless in _skip
        self._skip: set[int] = set()
        self._again: deque[int] = deque()  # lost with their host or taken back: no failures, run first
        self._failures: dict[int, list[Host]] = {}  # where a task failed, each time
        self._rests: list[tuple[float, int, _Host]] = []  # when a host's rest is over
        self._announced: list[tuple[float, int, _Host]] = []  # when a host that was to end would have been spared
        self._losses: dict[int, list[Host]] = {}  # where a task ran when the host was lost without notice, each time
        self._deaths: dict[Host, list[frozenset[int]]] = {}  # of hosts that were lost and may come back
        self._unfit: dict[int, list[Host]] = {}  # hosts that could not run the task, each time
        # Tasks that may run again now, by where they failed, were lost or could not run, and whether
        # that was without an end of its own.
        self._ready: dict[tuple[frozenset[Host], bool], deque[int]] = {}
        self._ready_count = 0
        self._retry_at: list[tuple[float, int]] = []
        self._alive: dict[int, _Attempt] = {}  # by task; a second one is its twin
        self._waiting: dict[_Attempt, None] = {}  # sent ahead, not known to have started
        self._recalls = 0  # asked for, not answered
        self._recalled: deque[tuple[float, _Attempt]] = deque()  # when, for a slot that stands free
        self._stragglers: deque[_Attempt] = deque()  # the single ones, longest running first, among some that were
        self._urgent: deque[_Attempt] = deque()  # need a second attempt before anything else starts
        self._orders: list[Decision] = []  # cancels and recalls of the events since the last decide
        self._durations: list[float] = []  # a sorted sample
        self._timed = 0
        self._sampled = 0  # of so many durations, all that get into the sample have
        self._weight = 1.0

    # Events

    def skip(self, task: int) -> None:
        """The task has its result already (an earlier run of the job). Only before it was started."""
        if not self._over[task]:
            self._over[task] = 1
            self._skip.add(task)
            self.done += 1

    def used(self, task: int, attempt: int) -> None:
        """Attempt numbers up to this one belong to an earlier run."""
        self._number[task] = max(self._number[task], attempt)

    def avoid(self, task: int, name: Host) -> None:
        """Run the task on another host than this one, if there is another. Only before it was started."""
        self._failures[task] = [name]
        self._skip.add(task)
        self._make_ready(task)

    def join(self, name: Host, slots: int) -> None:
        """A host is there, or is there again."""
        host = self._hosts.get(name)
        if host is None:
            host = self._hosts[name] = _Host(name, slots)
            host.deaths = self._deaths.pop(name, [])
        host.slots = slots
        host.connected = True
        if not host.set_aside:
            self._active.add(name)
        self._place(host)
        self._judge(host)

    def distance(self, name: Host, round_trip: float) -> None:
        """A round trip to the host takes this many seconds."""
        if name in self._hosts:
            self._hosts[name].round_trip = round_trip
            self._hosts[name].high = 0.0  # work out anew what to send ahead

    def adopt(self, name: Host, task: int, attempt: int, started: float | None) -> bool:
        """A host that joined holds this attempt, which is not ours; False if it isn't wanted and is to be ended.

        Wanted is what an earlier driver started, or what was given up and waits to be run again.
        """
        host = self._hosts[name]
        if self._over[task] or task in self._alive or self._shunned(task) or self.stopped:
            return False
        self.used(task, attempt)
        if task in self._again:
            self._again.remove(task)
        else:
            self._skip.add(task)
        held = self._begin(host, task, attempt)
        if started is None:
            self._waiting[held] = None
        else:
            held.started = started
            held.single = True
            self._stragglers.append(held)
        self._place(host)
        return True

    def held(self, name: Host) -> dict[tuple[int, int], float | None]:
        """(task, attempt) of each attempt thought to be on the host, and when it started, if it is known to have."""
        host = self._hosts.get(name)
        return {(attempt.task, attempt.number): attempt.started for attempt in host.load.values()} if host else {}

    def pause(self, name: Host, now: float) -> None:
        """The connection is lost; what runs there may go on."""
        host = self._hosts[name]
        host.connected = False
        host.paused = now
        self._active.discard(name)
        for attempt in host.load.values():
            if attempt.recalled:
                attempt.recalled = False
                self._recalls -= 1
        self._place(host)

    def leave(self, name: Host) -> list[int]:
        """The host is gone with all it held; returns the tasks that run again elsewhere. No failed attempt.

        A task whose hosts are lost again and again, though, is given up as `deadly`.
        """
        host = self._hosts.pop(name, None)
        if host is None:
            return []
        host.connected = False
        self._active.discard(name)
        self._place(host)
        load = list(host.load.values())
        if ran := [attempt for attempt in load if attempt.started is not None and not host.leaving]:
            self._count_death(host, ran)
            self._deaths[name] = host.deaths
        return [attempt.task for attempt in load if self._lose(attempt, attempt in ran)]

    def lost(self, name: Host, task: int, attempt: int) -> bool:
        """The attempt, sent or running, never came to an end there, by no death; True if the task runs again."""
        known = self._known(name, task, attempt)
        if known is None:
            return False
        again = self._lose(known, False)
        self._place(known.host)
        return again

    def died(self, name: Host, attempts: Iterable[tuple[int, int]]) -> list[int]:
        """The host's agent died with these attempts; returns the tasks that run again.

        Where none is known to have started, those that would have been first did: what kills may be fast. The host is
        set aside if that happens time after time and no task was always there.
        """
        host = self._hosts.get(name)
        if host is None:
            return []
        dead = [known for task, number in attempts if (known := self._known(name, task, number))]
        ran = [attempt for attempt in dead if attempt.started is not None] or dead[: host.slots]
        if ran:
            self._count_death(host, ran)
        again = [attempt.task for attempt in dead if self._lose(attempt, attempt in ran)]
        self._place(host)
        self._judge(host)
        return again

    def returned(self, name: Host, task: int, attempt: int) -> None:
        """The host gave the attempt back before it started."""
        known = self._known(name, task, attempt)
        if known is None:
            return
        if self._number[task] == attempt:
            self._number[task] -= 1
        self.attempts -= 1
        self._lose(known, False)
        self._place(known.host)

    def share(self, name: Host) -> None:
        """Another job runs there: what is sent there may wait for as long as that one's tasks run."""
        host = self._hosts.get(name)
        if host is not None and not host.shared:
            host.shared = True
            for attempt in host.load.values():
                if attempt.started is None:
                    self._waiting[attempt] = None

    def started(self, name: Host, task: int, attempt: int, now: float) -> None:
        """The attempt runs."""
        host = self._hosts.get(name)  # as _known does; a call here costs a tenth of all decisions
        known = host.load.get(task) if host is not None else None
        if known is not None and known.number == attempt and known.started is None:
            self._waiting.pop(known, None)
            if known.recalled:
                self._unrecall(known)
            known.started = now
            if known.twin is None:
                known.single = True
                self._stragglers.append(known)
                if len(self._stragglers) > 2 * len(self._alive) + SAMPLE:
                    self._stragglers = deque(attempt for attempt in self._stragglers if attempt.single)

    def finished(self, name: Host, task: int, attempt: int, ok: bool, duration: float, now: float) -> Verdict:
        """The attempt ended after `duration` seconds of running."""
        host = self._hosts.get(name)
        known = host.load.get(task) if host is not None else None
        if host is None or known is None or known.number != attempt:
            return Verdict.IGNORED
        if known.twin is None and known.started is not None:
            known.single = False
            del host.load[task], self._alive[task]
        else:
            self._end(known)
        if ok:  # a failure says nothing of how long tasks take
            usual = host.duration
            host.duration = usual = 0.8 * usual + 0.2 * duration if usual else duration
            if not host.low < usual < host.high:
                host.ahead = ahead(host.slots, host.round_trip, usual)
                host.low, host.high = 0.75 * usual, 1.33 * usual
        if host.pool is not self._free:
            self._place(host)
        if self._over[task]:
            return Verdict.IGNORED
        if not ok:
            return self._fail(known, now)
        self._over[task] = 1
        self.done += 1
        self._timed += 1
        if self._timed > self._sampled:
            self._sample(duration)
        if host.streak:
            host.streak.clear()
            host.proven = 0
        if host.faults or host.deaths:
            host.faults = 0
            host.deaths.clear()
        if task in self._alive:
            other = self._alive[task]
            other.single = False
            self._orders.append(Cancel(other.host.name, task, other.number))
        if task in self._failures:
            for other_name in set(self._failures.pop(task)):
                self._suspect(other_name, task)
        return Verdict.DONE

    def spoiled(self, name: Host, task: int, attempt: int, now: float) -> Verdict:
        """The attempt came to nothing since the host had no room, no memory or no descriptors for it.

        The task isn't charged, and runs elsewhere if there is an elsewhere. The host rests, and is set aside if its
        next tasks after a rest fare the same; what runs while it rests doesn't count, nor does a task that another
        host could not run either. Such a task has failed after DEADLY times: it needs more than there is.
        """
        known = self._known(name, task, attempt)
        if known is None:
            return Verdict.IGNORED
        host = known.host
        where = self._unfit.setdefault(task, []) if not self._over[task] else []
        elsewhere = any(other != name for other in where)
        where.append(name)
        if elsewhere and len(where) >= DEADLY and known.twin is None:
            self._end(known)
            self._give_up_task(task)
            verdict = Verdict.FAILED
        else:
            over = not self._lose(known, False) and self._over[task]
            verdict = Verdict.IGNORED if over else Verdict.RETRY
        if not elsewhere and not host.resting:
            host.faults += 1
            if host.faults >= SET_ASIDE:
                self._put_aside(host)
            else:
                self._rest(host, FIRST_WAIT * 2.0 ** (host.faults - 1), now)
        self._place(host)
        return verdict

    def stop(self) -> None:
        """Start nothing more; what runs may end, what waits is taken back."""
        self.stopped = True
        for attempt in list(self._waiting):
            if attempt.host.connected and not attempt.recalled:
                self._recall(attempt)

    def give_up(self, name: Host) -> None:
        """Start nothing more on this host; what runs there may end, what waits is taken back."""
        host = self._hosts.get(name)
        if host is None:
            return
        host.set_aside = True
        self._active.discard(name)
        self._place(host)
        for attempt in host.load.values():
            if attempt in self._waiting and not attempt.recalled and host.connected:
                self._recall(attempt)

    def interrupt(self, name: Host, seconds: float, now: float) -> int:
        """The host will be gone in that many seconds: nothing more starts there, unless it lives much longer than that.

        What may not end in time gets a second attempt elsewhere, before anything else starts; returns how many.
        """
        host = self._hosts.get(name)
        if host is None:
            return 0
        if not host.set_aside:
            self.give_up(name)
            spared = now + min(max(0.0, seconds), NOTICE_MOST) + SPARED_AFTER
            heapq.heappush(self._announced, (spared, id(host), host))
        host.leaving = True
        urgent = [
            attempt
            for attempt in host.load.values()
            if self.backup and attempt.started is not None and not 0 < self.median + attempt.started - now < seconds
        ]
        self._urgent.extend(urgent)
        return len(urgent)

    # Decisions

    def decide(self, now: float) -> list[Decision]:
        """All that is to be done now."""
        orders = self._orders
        self._orders = []
        if not self.stopped:
            while self._retry_at and self._retry_at[0][0] <= now:
                self._make_ready(heapq.heappop(self._retry_at)[1])
            while self._rests and self._rests[0][0] <= now:
                host = heapq.heappop(self._rests)[2]
                host.resting = False
                self._place(host)
            while self._announced and self._announced[0][0] <= now:
                self._spare(heapq.heappop(self._announced)[2])
            if self._urgent and self._free:
                self._relieve(orders)
            if self._free:
                self._fill(self._free, orders)
            if self._room:
                self._fill(self._room, orders)
            if self._free and not self._runnable():
                self._take_back(orders, now)
                if self.backup:
                    self._back_up(orders, now)
        return orders

    def due(self, now: float) -> float | None:
        """The time at which `decide` has something to say though nothing happened; None: never."""
        if self.stopped:
            return None
        times = [first[0][0] for first in (self._retry_at, self._rests, self._announced) if first]
        if self._recalled and self._free and self._recalled[0][0] + PAUSE_PATIENCE > now:
            times.append(self._recalled[0][0] + PAUSE_PATIENCE)
        if self._free and not self._runnable() and self._backups_allowed():
            oldest = self._longest_running()
            if oldest is not None and oldest.started is not None:
                at = oldest.started + self._patience()
                if at > now:
                    times.append(at)
        return min(times) if times else None

    @property
    def finished_all(self) -> bool:
        """Every task is over; or, after a stop, none runs. Losers of a race may still be ending."""
        return self.left == 0 or (self.stopped and not self._alive)

    @property
    def idle(self) -> bool:
        """Nothing is sent to any host, or runs there, as far as is known."""
        return not self._alive

    @property
    def running(self) -> int:
        """Tasks that run, as far as hosts have told; those sent ahead wait there for a slot."""
        return sum(attempt.started is not None for attempt in self._alive.values())

    @property
    def left(self) -> int:
        """Tasks that aren't over."""
        return self.total - self.done - self.failed

    @property
    def median(self) -> float:
        """The median duration of the attempts that succeeded, in seconds; 0 before the first."""
        return self._durations[len(self._durations) // 2] if self._durations else 0.0

    @property
    def slowest(self) -> tuple[int, Host, float] | None:
        """Of the running tasks: number, host and start of the one that has run longest."""
        attempt = self._longest_running()
        if attempt is None or attempt.started is None:
            return None
        return attempt.task, attempt.host.name, attempt.started

    @property
    def hosts(self) -> int:
        """Hosts that take tasks."""
        return len(self._active)

    def failures(self, task: int) -> int:
        """How often the task has failed."""
        return len(self._failures.get(task, ()))

    # How it is done

    def _known(self, name: Host, task: int, number: int) -> _Attempt | None:
        host = self._hosts.get(name)
        attempt = host.load.get(task) if host else None
        return attempt if attempt and attempt.number == number else None

    def _place(self, host: _Host) -> None:
        """Put the host where it belongs: free, with room ahead, or neither."""
        load = len(host.load)
        pool: OrderedDict[_Host, None] | None = None
        if host.connected and not host.set_aside and not host.resting and load < host.slots + host.ahead:
            pool = self._free if load < host.slots else self._room
        before = host.pool
        if pool is not before:
            if before is not None:
                del before[host]
            if pool is not None:
                pool[host] = None
            host.pool = pool

    def _runnable(self) -> bool:
        self._advance()
        return bool(self._again or self._ready_count or self._next < self.total)

    def _advance(self) -> None:
        while self._skip and self._next in self._skip:
            self._skip.discard(self._next)
            self._next += 1

    def _pick(self, host: _Host) -> int | None:
        """The task to run next on this host, removed from where it waited."""
        if self._again:
            return self._again.popleft()
        self._advance()
        if self._ready_count:
            for key, tasks in self._ready.items():
                where, unlucky = key
                if host.name in where:
                    if not (len(where) >= len(self._active) and self._active <= where):
                        continue
                    # What died here, or didn't fit, comes last: other tasks show whether the host is to blame.
                    if unlucky and self._next < self.total:
                        continue
                task = tasks.popleft()
                self._ready_count -= 1
                if not tasks:
                    del self._ready[key]
                return task
        if self._next < self.total:
            self._next += 1
            return self._next - 1
        return None

    def _fill(self, pool: OrderedDict[_Host, None], orders: list[Decision]) -> None:
        """Give tasks to the hosts of the pool, one each in turn, until tasks or places run out."""
        unfit: list[_Host] = []
        share = (self.total - self._next + len(self._again)) // (2 * len(self._active)) if self._active else 0
        append, new = orders.append, tuple.__new__
        numbers, alive, again, skip, free, room = (
            self._number,
            self._alive,
            self._again,
            self._skip,
            self._free,
            self._room,
        )
        attempts = len(orders)
        while pool and (self._next < self.total or self._runnable()):
            host = pool.popitem(last=False)[0]
            host.pool = None
            load, slots = len(host.load), host.slots
            if load - slots >= share and load > slots:
                continue  # back in the pool when one of its tasks ends
            if again or skip or self._ready_count:
                task = self._pick(host)
                if task is None:
                    unfit.append(host)
                    continue
            else:
                task = self._next
                self._next = task + 1
            numbers[task] = number = numbers[task] + 1
            attempt = alive[task] = host.load[task] = _Attempt(host, task, number)
            if load >= slots or host.shared:
                self._waiting[attempt] = None
            append(new(Start, (host.name, task, number)))  # half the time of Start(...)
            load += 1
            place = free if load < slots else room if load < slots + host.ahead else None
            if place is not None:
                place[host] = None
                host.pool = place
        self.attempts += len(orders) - attempts
        for host in unfit:
            self._place(host)

    def _take_back(self, orders: list[Decision], now: float) -> None:
        """Slots stand free and nothing is left to start: ask for the tasks that wait elsewhere.

        A host that can't be asked, or doesn't answer, may be back soon; after a while its tasks are run a second time.
        So are at once those that wait for another job's, which taken back might be sent to that host again.
        """
        while self._recalled and self._free and now - self._recalled[0][0] >= PAUSE_PATIENCE:
            attempt = self._recalled.popleft()[1]
            if self.backup and attempt in self._waiting and attempt.twin is None:
                self._unrecall(attempt)
                self._double(attempt, orders)
        wanted = min(len(self._free), len(self._waiting)) - self._recalls
        for attempt in reversed(self._waiting) if wanted > 0 else ():
            if wanted <= 0:
                break
            if attempt.recalled or attempt.twin is not None or self._over[attempt.task]:
                continue
            if not self._welcome(attempt.task):
                continue
            if attempt.host.shared and self.backup:
                wanted -= self._double(attempt, orders)
            elif attempt.host.connected:
                self._recall(attempt)
                self._recalled.append((now, attempt))
                wanted -= 1
            elif self.backup and now - attempt.host.paused >= PAUSE_PATIENCE:
                wanted -= self._double(attempt, orders)
        orders.extend(self._orders)
        self._orders = []

    def _welcome(self, task: int) -> bool:
        """Whether a host with a free slot would take the task."""
        shunned = self._shunned(task)
        return any(host.name not in shunned for host in self._first(self._free, len(shunned) + 1))

    def _shunned(self, task: int) -> frozenset[Host]:
        """Hosts where the task failed, was lost or could not run: it goes to another, if there is one."""
        return frozenset((*self._failures.get(task, ()), *self._losses.get(task, ()), *self._unfit.get(task, ())))

    def _back_up(self, orders: list[Decision], now: float) -> None:
        """Slots stand free and nothing is left to start: run the stragglers twice."""
        if not self._backups_allowed():
            return
        limit = self._patience()
        unfit: list[_Attempt] = []
        while self._free and len(unfit) < BACKUP_TRIES:
            attempt = self._longest_running()
            if attempt is None or attempt.started is None or now - attempt.started < limit:
                break
            if not self._double(attempt, orders):
                unfit.append(self._stragglers.popleft())
        self._stragglers.extendleft(reversed(unfit))

    def _longest_running(self) -> _Attempt | None:
        stragglers = self._stragglers
        while stragglers and not stragglers[0].single:
            stragglers.popleft()
        return stragglers[0] if stragglers else None

    def _spare(self, host: _Host) -> None:
        if self._hosts.get(host.name) is host:
            host.set_aside = host.leaving = False
            if host.connected:
                self._active.add(host.name)
            self._place(host)
            self.spared.append(host.name)

    def _relieve(self, orders: list[Decision]) -> None:
        """Run elsewhere what its host will not live to finish."""
        unfit = []
        while self._urgent and self._free:
            attempt = self._urgent.popleft()
            if attempt.single and not self._double(attempt, orders):
                unfit.append(attempt)
        self._urgent.extend(unfit)

    def _patience(self) -> float:
        return max(BACKUP_LEAST, BACKUP_FACTOR * self.median)

    def _backups_allowed(self) -> bool:
        return self.backup and self.total >= BACKUP_TASKS and self.done >= BACKUP_DONE * self.total

    def _double(self, attempt: _Attempt, orders: list[Decision]) -> int:
        """Start a second attempt on another host; returns how many were started."""
        if self._number[attempt.task] >= LAST_ATTEMPT:
            return 0
        shunned = self._shunned(attempt.task)
        for host in self._first(self._free, 2 + len(shunned)):
            if host is attempt.host or host.name in shunned or attempt.task in host.load:
                continue
            self._number[attempt.task] += 1
            self.attempts += 1
            self.backups += 1
            second = self._begin(host, attempt.task, self._number[attempt.task])
            self._place(host)
            orders.append(Start(host.name, attempt.task, second.number))
            return 1
        return 0

    @staticmethod
    def _first(pool: Iterable[_Host], count: int) -> Iterator[_Host]:
        for host, _ in zip(pool, range(count), strict=False):
            yield host

    def _begin(self, host: _Host, task: int, number: int) -> _Attempt:
        attempt = _Attempt(host, task, number)
        host.load[task] = attempt
        other = self._alive.setdefault(task, attempt)
        if other is not attempt:
            other.single = False
            other.twin, attempt.twin = attempt, other
        return attempt

    def _end(self, attempt: _Attempt) -> None:
        """Forget the attempt."""
        task = attempt.task
        del attempt.host.load[task]
        if attempt.started is None:
            self._waiting.pop(attempt, None)
            self._unrecall(attempt)
        attempt.single = False
        twin = attempt.twin
        if twin is None:
            del self._alive[task]
            return
        self._alive[task] = twin
        attempt.twin = twin.twin = None
        if twin.started is not None and not self._over[task]:
            twin.single = True
            self._stragglers.append(twin)

    def _lose(self, attempt: _Attempt, died: bool) -> bool:
        """The attempt came to nothing, as far as is known through no fault of its own; True if the task runs again.

        `died`: its host did while it ran.
        """
        task = attempt.task
        self._end(attempt)
        if self._over[task]:
            return False
        losses = self._losses.get(task, [])
        if died and not attempt.host.leaving:
            losses = self._losses.setdefault(task, losses)
            losses.append(attempt.host.name)
        if task in self._alive:
            return False
        if (len(losses) >= DEADLY and self._deadly(task)) or attempt.number >= LAST_ATTEMPT:
            self.deadly.append((task, attempt.number, attempt.host.name))
            for host in self._hosts.values():
                host.deaths = [ran for ran in host.deaths if task not in ran]
            self._give_up_task(task)
            return False
        if task in self._failures or task in self._losses or task in self._unfit:
            self._make_ready(task)
        else:
            self._again.append(task)
        return True

    def _count_death(self, host: _Host, ran: list[_Attempt]) -> None:
        suspects = frozenset(attempt.task for attempt in ran)
        # Where another host has died with one of them, too, this proves nothing of the host.
        if not any(where != host.name for task in suspects for where in self._losses.get(task, ())):
            host.deaths.append(suspects)

    def _judge(self, host: _Host) -> None:
        """Set the host aside if it died time after time, and no task was always there."""
        if len(host.deaths) >= SET_ASIDE and not frozenset.intersection(*host.deaths):
            self._put_aside(host)

    def _deadly(self, task: int) -> bool:
        """Whether different hosts died with the task, as far as there are different ones."""
        where = set(self._losses[task])
        return len(where) > 1 or all(host.set_aside or host.name in where for host in self._hosts.values())

    def _recall(self, attempt: _Attempt) -> None:
        attempt.recalled = True
        self._recalls += 1
        self._orders.append(Recall(attempt.host.name, attempt.task, attempt.number))

    def _unrecall(self, attempt: _Attempt) -> None:
        if attempt.recalled:
            attempt.recalled = False
            self._recalls -= 1

    def _suspect(self, name: Host, task: int) -> None:
        """The task failed on this host and has now succeeded elsewhere."""
        host = self._hosts.get(name)
        if host is None or task not in host.streak:
            return
        host.proven += 1
        if host.proven >= SET_ASIDE and self._active - {name}:
            self._put_aside(host)

    def _put_aside(self, host: _Host) -> None:
        if not host.set_aside:
            self.give_up(host.name)
            self.put_aside.append(host.name)

    def _fail(self, attempt: _Attempt, now: float) -> Verdict:
        task, host = attempt.task, attempt.host
        failures = self._failures.setdefault(task, [])
        failures.append(host.name)
        host.streak.add(task)
        if len(host.streak) >= SET_ASIDE:
            # Else a host where all tasks fail at once takes them from the others faster than these can prove it wrong.
            others = (self._hosts[other] for other in self._active)
            if any(len(other.streak) < SET_ASIDE for other in others):
                self._rest(host, FIRST_WAIT * 2.0 ** (len(host.streak) - SET_ASIDE), now)
        if task in self._alive:
            return Verdict.RETRY
        if len(failures) > self.retries or attempt.number >= LAST_ATTEMPT:
            self._give_up_task(task)
            return Verdict.FAILED
        self.retried += 1
        longest = min(self.retry_sleep, FIRST_WAIT * 2.0 ** (len(failures) - 1))
        heapq.heappush(self._retry_at, (now + longest * self._random.uniform(0.5, 1.0), task))
        return Verdict.RETRY

    def _rest(self, host: _Host, seconds: float, now: float) -> None:
        if not host.resting:
            host.resting = True
            heapq.heappush(self._rests, (now + min(self.retry_sleep, seconds), id(host), host))
            self._place(host)

    def _give_up_task(self, task: int) -> None:
        self._over[task] = 1
        self.failed += 1
        if not self.keep_going:
            self.stop()

    def _make_ready(self, task: int) -> None:
        self._ready.setdefault((self._shunned(task), task in self._losses or task in self._unfit), deque()).append(task)
        self._ready_count += 1

    def _sample(self, duration: float) -> None:
        """Keep a sample of all durations, each with the same chance (algorithm L: Li, ACM TOMS 20, 1994)."""
        if len(self._durations) == SAMPLE:
            del self._durations[self._random.randrange(SAMPLE)]
        insort(self._durations, duration)
        if len(self._durations) == SAMPLE:
            self._weight *= (1 - self._random.random()) ** (1 / SAMPLE)
            self._sampled = self._timed + int(math.log(1 - self._random.random()) / math.log1p(-self._weight))
