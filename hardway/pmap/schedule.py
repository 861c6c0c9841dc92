"""Decides where and when each task runs: a pure state machine. It takes events and the time, and returns decisions.

Tasks are numbers from 0, hosts any hashable names, times seconds of any one clock. The schedule owns dispatch, retries,
sending ahead and taking back, backups of stragglers and the setting aside of hosts. It does no I/O, holds no argument
and no result, and imports nothing of ours but its own parts: the backlog of waiting tasks, the roster of hosts with
their health, and the attempts on hosts.

A host has `slots` places where tasks run, and some places ahead where tasks wait for one, so that the host does
not stand idle for a round trip. A task may have several attempts alive (a backup); the first to succeed counts.

Blame: an attempt that ends with an exit code is charged to its task. An attempt that its host couldn't run, or that
died with its host, is charged to the host first: the task goes to another host. A host that fails repeatedly, with
different tasks, is set aside. The task is charged for such attempts only after it has died on several hosts.

Retries are for failures that may pass. A task that has failed alike on several hosts is not tried again. A job is
hopeless if nothing has succeeded in it and its first tasks fail alike on several hosts.
"""

from __future__ import annotations

import heapq
import math
import random
from array import array
from collections import OrderedDict
from collections.abc import Container, Iterable
from enum import Enum
from itertools import islice
from typing import NamedTuple

from hardway.pmap.attempts import Attempts
from hardway.pmap.backlog import Backlog
from hardway.pmap.complaints import WITNESSES, Complaint, FirstFailures
from hardway.pmap.durations import Durations
from hardway.pmap.health import SET_ASIDE, Cause, Health
from hardway.pmap.hosts import Attempt, HostState, Name, Roster

FIRST_WAIT = 0.5  # the wait before the first retry; each further one doubles it
LONELY_WAIT = 2.0  # seconds until the next retry, at most, where nothing runs
LONELY_SHARE = 0.05  # and at most this share of the tasks is left; a larger share may wait for a service that is down
BACKUP_TASKS = 10  # backups start with at least this many tasks,
BACKUP_DONE = 0.5  # this share of them done,
BACKUP_FACTOR = 3.0  # for attempts that have run this many times the median,
BACKUP_LEAST = 1.0  # and this many seconds: below that a backup costs more than it saves
PAUSE_PATIENCE = 5.0  # seconds without a connection or an answer, until tasks that wait there run elsewhere, too
BACKUP_TRIES = 8  # stragglers looked at for one that a free host may run
SPARED_AFTER = 120.0  # seconds past its announced end after which a host that still lives takes tasks again
NOTICE_MOST = 3600.0  # seconds; no notice comes earlier
DEADLY = 5  # deaths of hosts while a task ran there, or hosts without room for it, after which the task is blamed
LAST_ATTEMPT = 65_000  # the highest number of an attempt
DOUBLED_MOST = 64  # doublings of a wait, after which every limit is reached


class Start(NamedTuple):
    """Send this attempt to the host."""

    host: Name
    task: int
    attempt: int


class Recall(NamedTuple):
    """Ask for the attempt back. The host answers with `returned`, or not at all if the attempt has started."""

    host: Name
    task: int
    attempt: int


class Cancel(NamedTuple):
    """End the attempt: its result is not needed. The host answers with `finished` or `returned`."""

    host: Name
    task: int
    attempt: int


Decision = Start | Recall | Cancel


class Verdict(Enum):
    """The schedule's judgement of a finished attempt."""

    DONE = "done"  # the task's one result
    RETRY = "retry"  # failed; the task will be tried again, or another attempt of it still runs
    FAILED = "failed"  # failed, and its retries are spent
    IGNORED = "ignored"  # not awaited: cancelled, given up, or another attempt was first


def retry_wait(times: int, longest: float) -> float:
    """Return the seconds to wait before the retry that follows this number of failures, `longest` at most."""
    return min(longest, FIRST_WAIT * 2.0 ** min(times - 1, DOUBLED_MOST))


class Schedule:
    """The state of one job. Call an event's method, then `decide`, and act on the decisions in their order."""

    def __init__(
        self,
        tasks: int,
        *,
        retries: int = 10,
        retry_sleep: float = 30.0,
        halt: int = 1,
        fail_fast: bool = True,
        backup: bool = True,
        seed: int = 0,
    ) -> None:
        """Take the number of `tasks`; `retry_sleep` is the longest wait before a retry, in seconds.

        `halt` is the number of failed tasks after which no task starts; 0 for no limit. Without `fail_fast` all retries
        are made, even if failures are alike.
        """
        self.total = tasks
        self.retries = retries
        self.retry_sleep = retry_sleep
        self.halt = halt
        self.fail_fast = fail_fast
        self.backup = backup
        self.done = 0
        self.failed = 0
        self.failed_attempts = 0
        self.attempts = 0
        self.retried = 0
        self.backups = 0
        self.stopped = False
        self.more = False  # further tasks may be added: the job isn't over yet
        self.hopeless: list[int] = []  # tasks whose failures were so alike that the job was stopped for them
        self.put_aside: list[Name] = []  # hosts set aside
        self.spared: list[Name] = []  # hosts that take tasks again, their announced end being past
        self.deadly: list[tuple[int, int, Name]] = []  # tasks that failed for good as their host was lost, with attempt
        self._random = random.Random(seed)
        self._over = bytearray(tasks)  # 1: has its result or has failed for good
        self._number = array("I", bytes(4 * tasks))  # the number of the last attempt
        self._backlog = Backlog(tasks)
        self._roster = Roster()
        self._attempts = Attempts()
        self._durations = Durations(self._random)
        self._first_failures = FirstFailures()
        self._orders: list[Decision] = []  # cancels and recalls of the events since the last decide

    # Events

    def skip(self, task: int) -> None:
        """Note that the task has its result from an earlier run of the job. Call this only before the task starts."""
        if not self._over[task]:
            self._over[task] = 1
            self._backlog.take(task)
            self.done += 1

    def reopen(self, task: int) -> None:
        """Note that the task's result no longer counts: the task runs again."""
        self._over[task] = 0
        self.done -= 1
        if task not in self._attempts.alive:
            self._backlog.put(task)

    def extend(self, tasks: int) -> None:
        """Add this number of tasks, after those that are there."""
        self.total += tasks
        self._over.extend(bytes(tasks))
        self._number.frombytes(bytes(self._number.itemsize * tasks))
        self._backlog.total += tasks

    def used(self, task: int, attempt: int) -> None:
        """Note that attempt numbers up to this one belong to an earlier run."""
        self._number[task] = max(self._number[task], attempt)

    def avoid(self, task: int, name: Name) -> None:
        """Run the task on another host, if there is one. Call this only before the task starts."""
        self._backlog.take(task)
        self._backlog.setbacks_of(task).failed = [name]
        self._backlog.put(task)

    def prefer(self, task: int, name: Name) -> None:
        """Run the task on this host if the host has a free slot in time; nothing waits for it.

        Call this in the order of tasks, before the task starts.
        """
        self._backlog.prefer(task, name)

    def join(self, name: Name, slots: int) -> None:
        """Note that a host is present, or present again, with this number of slots."""
        self._judge(self._roster.join(name, slots))

    def distance(self, name: Name, round_trip: float) -> None:
        """Note the length of a round trip to the host, in seconds."""
        if host := self._roster.hosts.get(name):
            host.is_as_far_as(round_trip)

    def adopt(self, name: Name, task: int, attempt: int, started: float | None) -> bool:
        """Take over an attempt that a joined host holds; return False if it isn't wanted and must be ended.

        An attempt is wanted if an earlier driver started it, or if it was given up and its task waits to run again.
        """
        host = self._roster.hosts[name]
        if self._over[task] or task in self._attempts.alive or self._backlog.shunned(task) or self.stopped:
            return False
        self.used(task, attempt)
        self._backlog.take(task)
        held = self._attempts.begin(host, task, attempt)
        if started is None:
            self._attempts.waiting[held] = None
        else:
            self._attempts.start(held, started)
        self._roster.place(host)
        return True

    def held(self, name: Name) -> dict[tuple[int, int], float | None]:
        """Return the start of each attempt (task, attempt) thought to be on the host; None if no start is known."""
        host = self._roster.hosts.get(name)
        return {(attempt.task, attempt.number): attempt.started for attempt in host.attempts.values()} if host else {}

    def pause(self, name: Name, now: float) -> None:
        """Note that the connection is lost; attempts may go on running there."""
        host = self._roster.hosts[name]
        for attempt in host.attempts.values():
            self._attempts.forget_recall(attempt)
        self._roster.pause(host, now)

    def leave(self, name: Name) -> list[int]:
        """Note that the host is gone with all its attempts; return the tasks that run again elsewhere.

        No attempt counts as failed. A task whose hosts are lost repeatedly is given up as `deadly`.
        """
        host = self._roster.leave(name)
        if host is None:
            return []
        load = list(host.attempts.values())
        ran = [attempt for attempt in load if attempt.started is not None and not host.health.leaving]
        self._count_death(host, ran)
        again = [attempt.task for attempt in load if self._lose(attempt, attempt in ran)]
        host.health.left()
        return again

    def lost(self, name: Name, task: int, attempt: int) -> bool:
        """Note that an attempt is lost, but not by a death; return True if the task runs again."""
        known = self._known(name, task, attempt)
        if known is None:
            return False
        again = self._lose(known, False)
        self._roster.place(known.host)
        return again

    def died(self, name: Name, attempts: Iterable[tuple[int, int]]) -> list[int]:
        """Note that the host's agent died with these attempts; return the tasks that run again.

        If no attempt is known to have started, the first ones in line count as started, since a task may kill its host
        fast. The host is set aside if its agent dies repeatedly and no task was there each time.
        """
        host = self._roster.hosts.get(name)
        if host is None:
            return []
        dead = [known for task, number in attempts if (known := self._known(name, task, number))]
        ran = [attempt for attempt in dead if attempt.started is not None] or dead[: host.slots]
        self._count_death(host, ran)
        again = [attempt.task for attempt in dead if self._lose(attempt, attempt in ran)]
        self._roster.place(host)
        self._judge(host)
        return again

    def returned(self, name: Name, task: int, attempt: int) -> None:
        """Note that the host gave the attempt back before it started."""
        known = self._known(name, task, attempt)
        if known is None:
            return
        if self._number[task] == attempt:
            self._number[task] -= 1
        self.attempts -= 1
        self._lose(known, False)
        self._roster.place(known.host)

    def share(self, name: Name) -> None:
        """Note that another job runs on the host: attempts there may wait as long as the other job's tasks run."""
        host = self._roster.hosts.get(name)
        if host is not None and not host.shared:
            host.shared = True
            for attempt in host.attempts.values():
                if attempt.started is None:
                    self._attempts.waiting[attempt] = None

    def started(self, name: Name, task: int, attempt: int, now: float) -> None:
        """Note that the attempt runs."""
        known = self._known(name, task, attempt)
        if known is not None and known.started is None:
            self._attempts.start(known, now)

    def waits(self, name: Name, task: int, attempt: int) -> None:
        """Note that an attempt that was taken to run waits on its host."""
        known = self._known(name, task, attempt)
        if known is not None and known.started is not None:
            self._attempts.unstart(known)

    def sends(self, name: Name, task: int, attempt: int) -> None:
        """Note that the attempt has ended and its result is on its way: a second attempt would come too late."""
        known = self._known(name, task, attempt)
        if known is not None:
            known.sends = True

    def finished(
        self,
        name: Name,
        task: int,
        attempt: int,
        ok: bool,
        duration: float,
        now: float,
        complaint: Complaint | None = None,
        final: bool = False,
    ) -> Verdict:
        """Judge an attempt that ended after `duration` seconds. A failure without a `complaint` resembles no other.

        No host is to blame for a `final` failure, and none could do better.
        """
        known = self._known(name, task, attempt)
        if known is None:
            return Verdict.IGNORED
        if known.cancelled and not ok:  # it failed by our order; the task runs again if its result counts no longer
            self._lose(known, False)
            self._roster.place(known.host)
            return Verdict.IGNORED
        host = known.host
        self._attempts.end(known, bool(self._over[task]))
        if ok:  # a failure says nothing of how long tasks take
            host.took(duration)
        if host.pool is not self._roster.free:
            self._roster.place(host)
        if self._over[task]:
            return Verdict.IGNORED
        if not ok:
            return self._fail_for_good(known) if final else self._fail(known, now, complaint)
        self._over[task] = 1
        if not self.done:
            self._first_failures.clear()
        self.done += 1
        self._durations.add(duration)
        host.health.succeeded()
        other = self._attempts.alive.get(task)
        if other is not None:
            other.single = False
            other.cancelled = True
            self._orders.append(Cancel(other.host.name, task, other.number))
        for where in self._backlog.succeeded(task):
            self._suspect(where, task)
        return Verdict.DONE

    def spoiled(self, name: Name, task: int, attempt: int, now: float) -> Verdict:
        """Judge an attempt that failed for lack of disk, memory or descriptors on its host.

        The task isn't charged, and runs on another host if there is one. The host rests, and is set aside if its next
        tasks after a rest fail the same way. Attempts that run during a rest don't count against the host, nor does a
        task that another host could not run either. Such a task runs again after a wait. It has failed after
        DEADLY times, once as many hosts, or all that there are, could not run it: it needs more than any host has.
        """
        known = self._known(name, task, attempt)
        if known is None:
            return Verdict.IGNORED
        host = known.host
        unfit = [] if self._over[task] else self._backlog.setbacks_of(task).unfit
        elsewhere = any(other != name for other in unfit)
        unfit.append(name)
        if elsewhere and known.twin is None and len(unfit) >= DEADLY and self._nobody_else(unfit, DEADLY):
            self._attempts.end(known, bool(self._over[task]))
            self._give_up_task(task)
            verdict = Verdict.FAILED
        else:
            wait = retry_wait(len(unfit) - 1, self.retry_sleep) if elsewhere else 0.0
            over = not self._lose(known, False, now + wait if wait else None) and self._over[task]
            verdict = Verdict.IGNORED if over else Verdict.RETRY
        if not elsewhere and not host.health.resting:
            host.health.could_not_run()
            if host.health.is_faulty:
                self._put_aside(host, Cause.CANNOT_RUN)
            else:
                self._roster.rest(host, now + retry_wait(host.health.faults, self.retry_sleep))
        self._roster.place(host)
        return verdict

    def stop(self) -> None:
        """Start no more tasks; running attempts may end, waiting ones are taken back."""
        self.stopped = True
        self._take_waiting(self._attempts.waiting)

    def interrupt(self, name: Name, seconds: float, now: float) -> int:
        """Note that the host will be gone in `seconds`: no task starts there unless the host long outlives this time.

        Tasks that may not end in time get a second attempt elsewhere before any other task starts. Return their number.
        """
        host = self._roster.hosts.get(name)
        if host is None:
            return 0
        trusted = host.health.trusted
        host.health.leaving = host.health.announced = True
        if trusted:
            self._roster.announce(host, now + min(max(0.0, seconds), NOTICE_MOST) + SPARED_AFTER)
            self._withdraw(host)
        median = self._durations.median
        urgent = [
            attempt
            for attempt in host.attempts.values()
            if self.backup and attempt.started is not None and not 0 < median + attempt.started - now < seconds
        ]
        self._attempts.urgent.extend(urgent)
        return len(urgent)

    # Decisions

    def decide(self, now: float) -> list[Decision]:
        """Return the decisions to carry out now, in order."""
        orders = self._orders
        self._orders = []
        roster = self._roster
        if not self.stopped:
            if self._backlog.retries and self._is_lonely():
                self._backlog.hurry(now + LONELY_WAIT)
            self._backlog.wake(now)
            self.spared += roster.wake(now)
            if self._attempts.urgent and roster.free:
                self._relieve(orders)
            for pool in (roster.free, roster.room):
                if pool and self._backlog.near:
                    self._fill(pool, orders, far=False)
                if pool:
                    self._fill(pool, orders)
            if roster.free and not self._backlog.waits():
                self._take_back(orders, now)
                if self.backup:
                    self._back_up(orders, now)
        return orders

    def deal(self, now: float, hosts: Container[Name], most: int) -> list[Decision]:
        """Return decisions that give out waiting tasks, however many, until each host has its share, by its slots.

        Only `hosts` are given tasks this time, each `most` of them: the shares of others stay for the next time.
        """
        orders = self._orders
        self._orders = []
        backlog, roster = self._backlog, self._roster
        if self.stopped:
            return orders
        backlog.wake(now)
        self.spared += roster.wake(now)
        able = [host for name in roster.active if (host := roster.hosts[name]).health.ready]
        waiting = backlog.total - backlog.next - len(backlog.touched) + len(backlog.again) + backlog.ready_count
        share = (waiting + sum(len(host.attempts) for host in able)) / max(1, sum(host.slots for host in able))
        line = [(len(host.attempts) / host.slots, place) for place, host in enumerate(able) if host.name in hosts]
        if len(line) == len(able):
            share = math.inf  # nothing is kept for others, and one that shuns a task leaves it to them
        heapq.heapify(line)
        given = [0] * len(able)
        while line and backlog.waits():
            load, place = line[0]
            host = able[place]
            task = backlog.pick(host.name, roster.active, far=True) if load < share and given[place] < most else None
            if task is None:
                heapq.heappop(line)
                continue
            self._number[task] += 1
            self.attempts += 1
            attempt = self._attempts.begin(host, task, self._number[task])
            if len(host.attempts) > host.slots or host.shared:
                self._attempts.waiting[attempt] = None
            given[place] += 1
            orders.append(Start(host.name, task, attempt.number))
            heapq.heapreplace(line, (len(host.attempts) / host.slots, place))
        for host in able:
            roster.place(host)
        return orders

    def due(self, now: float) -> float | None:
        """Return the time at which `decide` has a decision even without an event; None for never."""
        if self.stopped:
            return None
        times = [*self._backlog.due(), *self._roster.due()]
        if self._roster.free:
            asked = self._attempts.oldest_recall()
            if asked is not None and asked + PAUSE_PATIENCE > now:
                times.append(asked + PAUSE_PATIENCE)
            if not self._backlog.waits() and self._backups_allowed():
                oldest = self._attempts.longest()
                if oldest is not None and oldest.started is not None:
                    at = oldest.started + self._patience()
                    if at > now:
                        times.append(at)
        return min(times, default=None)

    # Where the job stands

    @property
    def finished_all(self) -> bool:
        """Whether every task is over and no more are added, or the job is hopeless, or no task runs after a stop.

        Attempts that lost a race may still run, and in a hopeless job also others.
        """
        return (self.left == 0 and not self.more) or bool(self.hopeless) or (self.stopped and self.idle)

    @property
    def idle(self) -> bool:
        """Whether no attempt is known to wait or run on any host."""
        return not self._attempts.alive

    @property
    def running(self) -> int:
        """The number of tasks that hosts have reported as running, without those sent ahead."""
        return sum(attempt.started is not None for attempt in self._attempts.alive.values())

    @property
    def left(self) -> int:
        """The number of tasks that aren't over."""
        return self.total - self.done - self.failed

    @property
    def unstarted(self) -> bool:
        """Whether tasks wait for a reason other than a retry."""
        return self._backlog.waits()

    @property
    def asks_back(self) -> bool:
        """Whether hosts have been asked for attempts and have not answered."""
        return self._attempts.recalls > 0

    @property
    def retrying(self) -> int:
        """The number of tasks that wait before they are tried again."""
        return len(self._backlog.retries)

    @property
    def next_retry(self) -> float | None:
        """The time of the next retry."""
        return min(self._backlog.due(), default=None)

    @property
    def slowest(self) -> tuple[int, Name, float] | None:
        """The number, host and start of the task that has run longest."""
        attempt = self._attempts.longest()
        if attempt is None or attempt.started is None:
            return None
        return attempt.task, attempt.host.name, attempt.started

    def health(self, name: Name) -> Health:
        """Return the host's health, for the caller to read only; the host need not be present."""
        return self._roster.health(name)

    # Who gets a task

    def _known(self, name: Name, task: int, number: int) -> Attempt | None:
        host = self._roster.hosts.get(name)
        attempt = host.attempts.get(task) if host is not None else None
        return attempt if attempt is not None and attempt.number == number else None

    def _fill(self, pool: OrderedDict[HostState, None], orders: list[Decision], far: bool = True) -> None:
        """Give tasks to the hosts of the pool, one each in turn, until tasks or places run out.

        A host is given tasks that prefer another one only if `far`.
        """
        backlog, roster = self._backlog, self._roster
        unfit: list[HostState] = []
        active = len(roster.active)
        untouched = backlog.total - backlog.next - len(backlog.touched)
        share = (untouched + len(backlog.again)) // (2 * active) if active else 0
        append, new = orders.append, tuple.__new__
        numbers, alive, waiting = self._number, self._attempts.alive, self._attempts.waiting
        free, room, total, near = roster.free, roster.room, backlog.total, backlog.near
        attempts = len(orders)
        while pool and (backlog.next < total or backlog.waits()):
            host = pool.popitem(last=False)[0]
            host.pool = None
            load, slots = len(host.attempts), host.slots
            if load - slots >= share and load > slots:
                continue  # back in the pool when one of its tasks ends
            if backlog.again or backlog.touched or backlog.ready_count or near:
                picked = backlog.pick(host.name, roster.active, far)
                if picked is None:
                    unfit.append(host)
                    continue
                task = picked
            else:
                task = backlog.next
                backlog.next = task + 1
            numbers[task] = number = numbers[task] + 1
            attempt = alive[task] = host.attempts[task] = Attempt(host, task, number)
            if load >= slots or host.shared:
                waiting[attempt] = None
            append(new(Start, (host.name, task, number)))  # half the time of Start(...)
            load += 1
            place = free if load < slots else room if load < slots + host.ahead else None
            if place is not None:
                place[host] = None
                host.pool = place
        self.attempts += len(orders) - attempts
        for host in unfit:
            roster.place(host)

    def _take_back(self, orders: list[Decision], now: float) -> None:
        """Ask other hosts for their waiting tasks, since slots stand free and no task is left to start.

        A host that can't be asked, or doesn't answer, may be back soon; after a while its tasks get a second attempt.
        Tasks that wait for another job's tasks get a second attempt at once: recalled tasks might be sent to the same
        host again.
        """
        held, free = self._attempts, self._roster.free
        while free and (attempt := held.unanswered(now, PAUSE_PATIENCE)):
            if self.backup and attempt in held.waiting and attempt.twin is None:
                held.forget_recall(attempt)
                self._double(attempt, orders)
        wanted = min(len(free), len(held.waiting)) - held.recalls
        for attempt in reversed(held.waiting) if wanted > 0 else ():
            if wanted <= 0:
                break
            if attempt.recalled or attempt.twin is not None or self._over[attempt.task]:
                continue
            if not self._is_welcome(attempt.task):
                continue
            if attempt.host.shared and self.backup:
                wanted -= self._double(attempt, orders)
            elif attempt.host.connected:
                held.recall_for_a_slot(attempt, now)
                orders.append(Recall(attempt.host.name, attempt.task, attempt.number))
                wanted -= 1
            elif self.backup and now - attempt.host.paused >= PAUSE_PATIENCE:
                wanted -= self._double(attempt, orders)

    def _is_welcome(self, task: int) -> bool:
        """Return whether a host with a free slot would take the task."""
        shunned = self._backlog.shunned(task)
        return any(host.name not in shunned for host in islice(self._roster.free, len(shunned) + 1))

    def _back_up(self, orders: list[Decision], now: float) -> None:
        """Start second attempts of the stragglers, since slots stand free and no task is left to start."""
        if not self._backups_allowed():
            return
        limit = self._patience()
        unfit: list[Attempt] = []
        while self._roster.free and len(unfit) < BACKUP_TRIES:
            attempt = self._attempts.longest()
            if attempt is None or attempt.started is None or now - attempt.started < limit:
                break
            if not self._double(attempt, orders):
                unfit.append(self._attempts.pop_longest())
        self._attempts.put_back(unfit)

    def _relieve(self, orders: list[Decision]) -> None:
        """Start second attempts of tasks that their hosts will not live to finish."""
        urgent = self._attempts.urgent
        unfit = []
        while urgent and self._roster.free:
            attempt = urgent.popleft()
            if attempt.single and not self._double(attempt, orders):
                unfit.append(attempt)
        urgent.extend(unfit)

    def _patience(self) -> float:
        return max(BACKUP_LEAST, BACKUP_FACTOR * self._durations.median)

    def _backups_allowed(self) -> bool:
        return self.backup and self.total >= BACKUP_TASKS and self.done >= BACKUP_DONE * self.total

    def _double(self, attempt: Attempt, orders: list[Decision]) -> int:
        """Start a second attempt on another host; return the number started, 0 or 1."""
        if self._number[attempt.task] >= LAST_ATTEMPT:
            return 0
        shunned = self._backlog.shunned(attempt.task)
        for host in islice(self._roster.free, 2 + len(shunned)):
            if host is attempt.host or host.name in shunned or attempt.task in host.attempts:
                continue
            self._number[attempt.task] += 1
            self.attempts += 1
            self.backups += 1
            second = self._attempts.begin(host, attempt.task, self._number[attempt.task])
            self._roster.place(host)
            orders.append(Start(host.name, attempt.task, second.number))
            return 1
        return 0

    def _take_waiting(self, attempts: Iterable[Attempt]) -> None:
        """Recall the attempts that wait on a connected host."""
        for attempt in [*attempts]:
            if attempt in self._attempts.waiting and attempt.host.connected and not attempt.recalled:
                self._attempts.recall(attempt)
                self._orders.append(Recall(attempt.host.name, attempt.task, attempt.number))

    # Who is to blame

    def _fail(self, attempt: Attempt, now: float, complaint: Complaint | None) -> Verdict:
        task, host = attempt.task, attempt.host
        self.failed_attempts += 1
        setbacks = self._backlog.setbacks_of(task)
        failed = setbacks.failed
        failed.append(host.name)
        alike = setbacks.complain(host.name, complaint) if complaint and self.fail_fast else 0
        host.health.failed(task)
        if host.health.fails_all:
            # A host where all tasks fail at once would take them faster than other hosts can prove it wrong.
            others = (self._roster.hosts[other].health for other in self._roster.active)
            if any(not other.fails_all for other in others):
                self._roster.rest(host, now + retry_wait(host.health.failures - SET_ASIDE + 1, self.retry_sleep))
        if task in self._attempts.alive:
            return Verdict.RETRY
        if complaint and self.fail_fast and not self.done and not self.stopped:
            self._give_up_job(self._first_failures.add(complaint, task, host.name, self._roster.ever))
            if self._over[task]:
                return Verdict.FAILED
        if alike >= WITNESSES or len(failed) > self.retries or attempt.number >= LAST_ATTEMPT:
            self._give_up_task(task)
            return Verdict.FAILED
        self.retried += 1
        self._backlog.put_later(task, now + retry_wait(len(failed), self.retry_sleep) * self._random.uniform(0.5, 1.0))
        return Verdict.RETRY

    def _fail_for_good(self, attempt: Attempt) -> Verdict:
        self.failed_attempts += 1
        if attempt.task in self._attempts.alive:
            return Verdict.RETRY
        self._give_up_task(attempt.task)
        return Verdict.FAILED

    def _lose(self, attempt: Attempt, died: bool, when: float | None = None) -> bool:
        """Remove an attempt that was lost through no known fault of its own; return True if the task runs again.

        `died` says that the host died while the attempt ran. The task starts at the time `when`, or at once.
        """
        task = attempt.task
        self._attempts.end(attempt, bool(self._over[task]))
        if self._over[task]:
            return False
        if died and not attempt.host.health.leaving:
            self._backlog.setbacks_of(task).lost.append(attempt.host.name)
        if task in self._attempts.alive:
            return False
        if self._is_deadly(task) or attempt.number >= LAST_ATTEMPT:
            self.deadly.append((task, attempt.number, attempt.host.name))
            self._roster.clear_of(task)
            self._give_up_task(task)
            return False
        if when is None:
            self._backlog.put(task)
        else:
            self._backlog.put_later(task, when)
        return True

    def _is_deadly(self, task: int) -> bool:
        """Return whether the task lost its hosts DEADLY times, and several of them if others are trusted."""
        setbacks = self._backlog.setbacks.get(task)
        return setbacks is not None and len(setbacks.lost) >= DEADLY and self._nobody_else(setbacks.lost, WITNESSES)

    def _nobody_else(self, where: Iterable[Name], enough: int) -> bool:
        """Return whether `where` names `enough` different hosts, or all trusted ones, those included that are away."""
        names = set(where)
        hosts = self._roster.hosts.values()
        return len(names) >= enough or all(not host.health.trusted or host.name in names for host in hosts)

    def _count_death(self, host: HostState, ran: list[Attempt]) -> None:
        """Note a death of the host while the attempts `ran` there; an empty list proves nothing."""
        suspects = frozenset(attempt.task for attempt in ran)
        # If another host has died with one of them, too, the death proves nothing about this host.
        if ran and not any(self._backlog.lost_elsewhere(task, host.name) for task in suspects):
            host.health.died(suspects)

    def _judge(self, host: HostState) -> None:
        """Set the host aside if it dies whatever runs there."""
        if host.health.is_deadly:
            self._put_aside(host, Cause.DIES)

    def _suspect(self, name: Name, task: int) -> None:
        """Charge the host if the task failed there, since the task has now succeeded elsewhere."""
        host = self._roster.hosts.get(name)
        if host is not None and host.health.disproved(task) and self._roster.active - {name}:
            self._put_aside(host, Cause.FAILS)

    def _put_aside(self, host: HostState, cause: Cause) -> None:
        """Start no more tasks on this host; running attempts may end, waiting ones are taken back."""
        if host.health.trusted:
            host.health.set_aside = cause
            self._withdraw(host)
            self.put_aside.append(host.name)

    def _withdraw(self, host: HostState) -> None:
        self._roster.withdraw(host)
        self._take_waiting(host.attempts.values())

    def _give_up_task(self, task: int) -> None:
        self._over[task] = 1
        self.failed += 1
        if self.halt and self.failed >= self.halt:
            self.stop()

    def _give_up_job(self, alike: list[int]) -> None:
        """Stop the job, since all tasks would fail as those in `alike` did; do nothing if `alike` is empty."""
        if alike:
            waiting = {task for _, task in self._backlog.retries}
            self.hopeless = [task for task in alike if not self._over[task] and task not in self._attempts.alive]
            for task in self.hopeless:
                self._give_up_task(task)
                self.retried -= task in waiting
            self.stop()

    def _is_lonely(self) -> bool:
        """Return whether the few tasks that are left all wait to be retried."""
        few = self.left <= max(1, LONELY_SHARE * self.total)
        return few and not self._attempts.alive and not self._backlog.waits()
