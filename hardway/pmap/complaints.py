"""Failures that are alike on different hosts: evidence that no further try will help. Pure.

The word of one host proves nothing, however often it is given: the host may be sick, or lie.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

from hardway.pmap.hosts import Name

WITNESSES = 3  # different hosts on which failures are alike
ALIKE_TASKS = 3  # different tasks whose failures are alike: then the command is to blame
NOT_RUN = (126, 127)  # exit codes of a shell that can't run a command, or finds none of the name


class Complaint(NamedTuple):
    """How an attempt failed: its exit code, and a digest of the end of its stderr; empty where it said nothing."""

    code: int
    said: bytes

    @property
    def of_command(self) -> Hashable | None:
        """Return what failures of different tasks share if the command is to blame; None where nothing says so."""
        if self.code in NOT_RUN:
            return self.code
        return self if self.said else None


class FirstFailures:
    """The failures of a job in which nothing has succeeded yet."""

    def __init__(self) -> None:
        self._where: dict[Hashable, set[Name]] = {}
        self._tasks: dict[Hashable, dict[int, None]] = {}

    def add(self, complaint: Complaint, task: int, host: Name, hosts: int) -> list[int]:
        """Note a failure; return the tasks that failed alike if these are enough to blame the command, else none.

        `hosts` is the number of hosts that the job has had. Where there are fewer than WITNESSES, all are to agree.
        """
        kind = complaint.of_command
        if kind is None:
            return []
        where, tasks = self._where.setdefault(kind, set()), self._tasks.setdefault(kind, {})
        where.add(host)
        tasks[task] = None
        return [*tasks] if len(tasks) >= ALIKE_TASKS and len(where) >= min(WITNESSES, hosts) else []

    def clear(self) -> None:
        """Forget all: something has succeeded."""
        self._where.clear()
        self._tasks.clear()
