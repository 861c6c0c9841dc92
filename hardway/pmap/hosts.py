"""The hosts as the schedule knows them, and which of them may be given a task. Pure."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Hashable
from itertools import count

from hardway.pmap.durations import ahead
from hardway.pmap.health import Health

Name = Hashable  # a host's name


class Attempt:
    """One try to run a task on a host."""

    __slots__ = ("cancelled", "host", "number", "recalled", "sends", "single", "started", "task", "twin")

    def __init__(self, host: HostState, task: int, number: int) -> None:
        self.host = host
        self.task = task
        self.number = number
        self.started: float | None = None
        self.recalled = False
        self.cancelled = False  # its end was ordered, since the task's other attempt had succeeded
        self.sends = False  # it has ended, and its result is on its way
        self.single = False  # it runs, and is the only attempt of its task
        self.twin: Attempt | None = None  # the task's other attempt


class HostState:
    """One host, from its arrival until it is given up."""

    __slots__ = (
        "_duration", "_high", "_low", "_round_trip", "ahead", "attempts", "connected", "health", "name", "paused",
        "pool", "shared", "slots",
    )  # fmt: skip

    def __init__(self, name: Name, slots: int, health: Health) -> None:
        self.name = name
        self.slots = slots
        self.health = health
        self.attempts: dict[int, Attempt] = {}  # by task
        self.ahead = 0  # places where tasks wait for a slot
        self.connected = True
        self.paused = 0.0  # when its connection was lost
        self.shared = False  # another job runs there
        self.pool: OrderedDict[HostState, None] | None = None  # where the roster keeps it
        self._round_trip = 0.0
        self._duration = 0.0  # moving mean of its attempts' durations
        self._low = self._high = 0.0  # the durations between which `ahead` is right

    def took(self, duration: float) -> None:
        """Note the duration of a success, in seconds, and compute the number of tasks to send ahead."""
        usual = self._duration
        self._duration = usual = 0.8 * usual + 0.2 * duration if usual else duration
        if not self._low < usual < self._high:
            self.ahead = ahead(self.slots, self._round_trip, usual)
            self._low, self._high = 0.75 * usual, 1.33 * usual

    def is_as_far_as(self, round_trip: float) -> None:
        """Note the length of a round trip, in seconds, and compute anew the number of tasks to send ahead."""
        self._round_trip = round_trip
        self._high = 0.0


class Roster:
    """All present hosts. A host that may be given a task is in one of two pools."""

    def __init__(self) -> None:
        self.hosts: dict[Name, HostState] = {}
        self.active: set[Name] = set()  # connected and trusted
        self.free: OrderedDict[HostState, None] = OrderedDict()  # with a free slot, longest first
        self.room: OrderedDict[HostState, None] = OrderedDict()  # with full slots and a place ahead
        self._healths: dict[Name, Health] = {}  # of all hosts that were ever present
        self._rests: list[tuple[float, int, HostState]] = []  # a heap: when a host's rest is over
        self._announced: list[tuple[float, int, HostState]] = []  # a heap: when one outlives its announced end
        self._order = count()

    def health(self, name: Name) -> Health:
        """Return the host's health, even if the host is not present."""
        return self._healths.setdefault(name, Health())

    @property
    def ever(self) -> int:
        """The number of hosts that were ever present, or whose health was asked for."""
        return len(self._healths)

    def join(self, name: Name, slots: int) -> HostState:
        """Add a host, or note that it can be reached again."""
        host = self.hosts.get(name)
        if host is None:
            host = self.hosts[name] = HostState(name, slots, self.health(name))
        host.slots = slots
        host.connected = True
        self.welcome(host)
        return host

    def pause(self, host: HostState, now: float) -> None:
        """Note that the host can't be reached."""
        host.connected = False
        host.paused = now
        self.withdraw(host)

    def leave(self, name: Name) -> HostState | None:
        """Remove and return the host; None if it is not present."""
        host = self.hosts.pop(name, None)
        if host is not None:
            host.connected = False
            self.withdraw(host)
        return host

    def welcome(self, host: HostState) -> None:
        """Make the host active if it is connected and trusted."""
        if host.connected and host.health.trusted:
            self.active.add(host.name)
        self.place(host)

    def withdraw(self, host: HostState) -> None:
        """Give the host no task, for good or for the moment."""
        self.active.discard(host.name)
        self.place(host)

    def place(self, host: HostState) -> None:
        """Put the host into its pool: free, with room ahead, or neither."""
        load = len(host.attempts)
        pool: OrderedDict[HostState, None] | None = None
        if host.connected and load < host.slots + host.ahead and host.health.ready:
            pool = self.free if load < host.slots else self.room
        before = host.pool
        if pool is not before:
            if before is not None:
                del before[host]
            if pool is not None:
                pool[host] = None
            host.pool = pool

    def rest(self, host: HostState, until: float) -> None:
        """Give the host no task until then, unless it rests already."""
        if not host.health.resting:
            host.health.resting = True
            heapq.heappush(self._rests, (until, next(self._order), host))
            self.place(host)

    def announce(self, host: HostState, outlived: float) -> None:
        """Note a coming interruption; a host that still lives at the time `outlived` is trusted again."""
        heapq.heappush(self._announced, (outlived, next(self._order), host))

    def wake(self, now: float) -> list[Name]:
        """End the rests that are over; return the hosts that have outlived their interruption."""
        while self._rests and self._rests[0][0] <= now:
            host = heapq.heappop(self._rests)[2]
            if self.hosts.get(host.name) is host:
                host.health.resting = False
                self.place(host)
        spared = []
        while self._announced and self._announced[0][0] <= now:
            host = heapq.heappop(self._announced)[2]
            if self.hosts.get(host.name) is host:
                host.health.leaving = False
                self.welcome(host)
                spared.append(host.name)
        return spared

    def due(self) -> list[float]:
        """Return the times at which `wake` has something to do."""
        return [heap[0][0] for heap in (self._rests, self._announced) if heap]

    def clear_of(self, task: int) -> None:
        """Forget all hosts' deaths with this task, since the task kills its hosts."""
        for health in self._healths.values():
            health.cleared_of(task)
