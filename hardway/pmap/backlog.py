"""Tasks that wait to be started, and the hosts where each has had setbacks. Pure."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Set

from hardway.pmap.complaints import Complaint
from hardway.pmap.hosts import Name


class Setbacks:
    """The names of the hosts where attempts of a task came to nothing."""

    __slots__ = ("_complaints", "failed", "lost", "unfit")

    def __init__(self) -> None:
        self.failed: list[Name] = []  # it ended with a failure
        self.lost: list[Name] = []  # it ran when the host was lost without notice
        self.unfit: list[Name] = []  # the host could not run it
        self._complaints: dict[Complaint, set[Name]] = {}

    def complain(self, host: Name, complaint: Complaint) -> int:
        """Note how the task failed on this host; return the number of hosts where it has failed alike."""
        where = self._complaints.setdefault(complaint, set())
        where.add(host)
        return len(where)

    @property
    def hosts(self) -> frozenset[Name]:
        """All hosts with a setback: the task goes to another host, if there is one."""
        return frozenset((*self.failed, *self.lost, *self.unfit))

    @property
    def unlucky(self) -> bool:
        """Whether, at least once, the host was lost or could not run the task."""
        return bool(self.lost or self.unfit)


class Backlog:
    """Waiting tasks in the order in which they start. Tasks that are on a host are not included."""

    def __init__(self, tasks: int) -> None:
        self.total = tasks
        self.next = 0  # tasks from here on wait and were never touched, unless in `touched`
        self.touched: set[int] = set()
        self.again: deque[int] = deque()  # lost with their host or taken back: no failures, run first
        self.ready_count = 0
        # Tasks with setbacks that may run again now, by the hosts of these, and by whether they were unlucky.
        self.ready: dict[tuple[frozenset[Name], bool], deque[int]] = {}
        self.retries: list[tuple[float, int]] = []  # a heap: when a task that failed may run again
        self.setbacks: dict[int, Setbacks] = {}
        # Untouched tasks that prefer a host, by host and in order, among some that have been taken since.
        self.near: dict[Name, deque[int]] = {}
        self._prefers = bytearray()  # 1: the task prefers a host; empty if no task does
        self._plain = 0  # tasks before this one are touched, or prefer a host

    def take(self, task: int) -> None:
        """Take the task out: it has its result, or a host has it."""
        if task in self.again:
            self.again.remove(task)
        else:
            self.touched.add(task)

    def put(self, task: int) -> None:
        """Have the task start at once."""
        setbacks = self.setbacks.get(task)
        if setbacks is None:
            self.again.append(task)
        else:
            self.ready.setdefault((setbacks.hosts, setbacks.unlucky), deque()).append(task)
            self.ready_count += 1

    def prefer(self, task: int, host: Name) -> None:
        """Note that the task had better run on this host. Call this in the order of tasks, before the task starts."""
        self.near.setdefault(host, deque()).append(task)
        self._prefers.extend(bytes(task + 1 - len(self._prefers)))
        self._prefers[task] = 1

    def put_later(self, task: int, when: float) -> None:
        """Have the task start at this time."""
        heapq.heappush(self.retries, (when, task))

    def hurry(self, when: float) -> None:
        """Move all delayed tasks forward by the same time, so that the first starts at `when`."""
        if (early := self.retries[0][0] - when) > 0:
            self.retries = [(at - early, task) for at, task in self.retries]

    def wake(self, now: float) -> None:
        """Make ready all delayed tasks whose time has come."""
        while self.retries and self.retries[0][0] <= now:
            self.put(heapq.heappop(self.retries)[1])

    def due(self) -> list[float]:
        """Return the times at which `wake` has something to do."""
        return [self.retries[0][0]] if self.retries else []

    def waits(self) -> bool:
        """Return whether any task may start at once."""
        self._advance()
        return bool(self.again or self.ready_count or self.next < self.total)

    def pick(self, host: Name, active: Set[Name], far: bool) -> int | None:
        """Remove and return the next task for this host; None if no task suits it. `active` hosts get tasks.

        A task that prefers another host suits it only if `far`.
        """
        if self.again:
            return self.again.popleft()
        if self.ready_count:
            self._advance()
            for key, tasks in self.ready.items():
                where, unlucky = key
                if host in where:
                    if not (len(where) >= len(active) and active <= where):
                        continue
                    # Tasks that died or couldn't run here come last: other tasks show whether the host is to blame.
                    if unlucky and self.next < self.total:
                        continue
                task = tasks.popleft()
                self.ready_count -= 1
                if not tasks:
                    del self.ready[key]
                return task
        if self._prefers:
            picked = self._pick_near(host)
            picked = self._pick_plain() if picked is None else picked
            if picked is not None:
                self.touched.add(picked)
                return picked
        self._advance()
        if self.next < self.total and (far or not self._prefers):
            self.next += 1
            return self.next - 1
        return None

    def _pick_near(self, host: Name) -> int | None:
        """Remove and return the next task that prefers this host."""
        tasks = self.near.get(host)
        if tasks is None:
            return None
        while tasks:
            task = tasks.popleft()
            if task >= self.next and task not in self.touched:
                return task
        del self.near[host]
        return None

    def _pick_plain(self) -> int | None:
        """Return the next task that prefers no host."""
        self._plain = max(self._plain, self.next)
        for task in range(self._plain, self.total):
            self._plain = task + 1
            if task not in self.touched and not (task < len(self._prefers) and self._prefers[task]):
                return task
        return None

    def setbacks_of(self, task: int) -> Setbacks:
        """Return the task's setbacks, to add to."""
        return self.setbacks.setdefault(task, Setbacks())

    def shunned(self, task: int) -> frozenset[Name]:
        """Return the hosts where the task came to nothing."""
        setbacks = self.setbacks.get(task)
        return setbacks.hosts if setbacks else frozenset()

    def lost_elsewhere(self, task: int, host: Name) -> bool:
        """Return whether a host other than this one was lost while the task ran there."""
        setbacks = self.setbacks.get(task)
        return setbacks is not None and any(where != host for where in setbacks.lost)

    def succeeded(self, task: int) -> set[Name]:
        """Note a success; return the hosts where the task failed before."""
        setbacks = self.setbacks.get(task)
        if setbacks is None:
            return set()
        failed, setbacks.failed = set(setbacks.failed), []
        return failed

    def _advance(self) -> None:
        while self.touched and self.next in self.touched:
            self.touched.discard(self.next)
            self.next += 1
