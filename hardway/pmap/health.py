"""A host's health: whether the host is trusted with tasks, judged by the ends of its earlier tasks. Pure.

A failed attempt is charged to its host once the task has succeeded elsewhere. An attempt that the host could not run,
or that died with the host, is charged to the host. A success on the host clears its record.
"""

from __future__ import annotations

from enum import Enum

SET_ASIDE = 3  # failures disproved elsewhere, tasks that it could not run, or deaths, without a success in between


class Cause(Enum):
    """The reason that a host is set aside."""

    FAILS = "tasks that fail there succeed elsewhere"
    CANNOT_RUN = "it can't run what it is sent"
    DIES = "it died time after time, whatever ran there"


class Health:
    """The record of one host in a job. It is kept while the host is away."""

    __slots__ = ("_deaths", "_disproved", "_failing", "_faults", "announced", "leaving", "resting", "set_aside")

    def __init__(self) -> None:
        self.set_aside: Cause | None = None  # why it gets no more tasks
        self.leaving = False  # it will be interrupted: nothing new starts there
        self.announced = False  # it has announced the interruption, and does so again after each reconnection
        self.resting = False  # it gets no task for a while
        self._failing: set[int] = set()  # tasks that failed there
        self._disproved = 0  # the number of these that succeeded elsewhere
        self._faults = 0  # tasks that it could not run
        self._deaths: list[frozenset[int]] = []  # what ran each time it died or was lost

    @property
    def trusted(self) -> bool:
        """Whether the host gets tasks, now or after a rest period."""
        return self.set_aside is None and not self.leaving

    @property
    def ready(self) -> bool:
        """Whether the host gets tasks now."""
        return self.set_aside is None and not self.leaving and not self.resting

    @property
    def failures(self) -> int:
        """The number of different tasks that failed there."""
        return len(self._failing)

    @property
    def fails_all(self) -> bool:
        """Whether task after task fails there."""
        return len(self._failing) >= SET_ASIDE

    @property
    def faults(self) -> int:
        """The number of tasks that it could not run."""
        return self._faults

    @property
    def is_faulty(self) -> bool:
        """Whether it could not run task after task."""
        return self._faults >= SET_ASIDE

    @property
    def is_deadly(self) -> bool:
        """Whether it died time after time, and no task was always there."""
        return len(self._deaths) >= SET_ASIDE and not frozenset.intersection(*self._deaths)

    def succeeded(self) -> None:
        """Note a success: it clears the record."""
        if self._failing or self._faults or self._deaths:
            self._failing.clear()
            self._deaths.clear()
            self._disproved = self._faults = 0

    def failed(self, task: int) -> None:
        """Note that the task failed there."""
        self._failing.add(task)

    def disproved(self, task: int) -> bool:
        """Note a success elsewhere of a task that may have failed there; return whether the host is now to blame."""
        if task in self._failing:
            self._disproved += 1
            return self._disproved >= SET_ASIDE
        return False

    def could_not_run(self) -> None:
        """Note a task that this host, and as far as is known no other, could not run."""
        self._faults += 1

    def died(self, tasks: frozenset[int]) -> None:
        """Note that the host died while these tasks ran there."""
        self._deaths.append(tasks)

    def cleared_of(self, task: int) -> None:
        """Forget the deaths that happened with this task, since the task kills its hosts."""
        self._deaths = [ran for ran in self._deaths if task not in ran]

    def left(self) -> None:
        """Note that the host is gone. If it comes back it gets tasks again, and its deaths still count."""
        self.set_aside = None
        self.leaving = self.resting = False
        self._failing.clear()
        self._disproved = self._faults = 0
