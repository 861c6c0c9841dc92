"""Failures that are alike on different hosts show that no further try will help. Pure.

Failures on one host prove nothing, however many there are: the host may be faulty, or lie.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

from hardway.pmap.hosts import Name

WITNESSES = 3  # different hosts on which failures are alike
ALIKE_TASKS = 3  # different tasks whose failures are alike: then the command is to blame
NOT_RUN = (126, 127)  # exit codes of a shell that can't run a command, or finds none of the name


class Complaint(NamedTuple):
    """A failure's exit code, and a digest of the end of its stderr; the digest of an empty stderr is empty."""

    code: int
    said: bytes

    @property
    def of_command(self) -> Hashable | None:
        """The part that failures of different tasks share if the command is to blame; None if nothing points to it."""
        if self.code in NOT_RUN:
            return self.code
        return self if self.said else None


class FirstFailures:
    """The failures of a job in which nothing has succeeded yet."""

    def __init__(self) -> None:
        self._where: dict[Hashable, set[Name]] = {}
        self._tasks: dict[Hashable, dict[int, None]] = {}

    def add(self, complaint: Complaint, task: int, host: Name, hosts: int) -> list[int]:
        """Note a failure; return the tasks that failed alike if they suffice to blame the command, else no tasks.

        `hosts` is the number of hosts that the job has had. If there are fewer than WITNESSES, all must agree.
        """
        kind = complaint.of_command
        if kind is None:
            return []
        where, tasks = self._where.setdefault(kind, set()), self._tasks.setdefault(kind, {})
        where.add(host)
        tasks[task] = None
        return [*tasks] if len(tasks) >= ALIKE_TASKS and len(where) >= min(WITNESSES, hosts) else []

    def clear(self) -> None:
        """Forget all failures, since an attempt has succeeded."""
        self._where.clear()
        self._tasks.clear()
