"""The attempts of a job in columns of a few bytes an attempt, as a job may have millions of them."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import overload

from hardway.pmap.journal import Result


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


@dataclass(slots=True, eq=False)
class AttemptRecord:
    """One attempt. `slot` is its slot on the host, from 0, or -1 if it is not known to have started.

    `result` is None if no end was recorded. `row` is the attempt's row in an `AttemptTable`, or -1.
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
    row: int = -1

    @property
    def seconds(self) -> float:
        """The attempt's known duration, in seconds."""
        return self.ended - self.began


class AttemptTable(Sequence[AttemptRecord]):
    """Attempts in the order in which they began; a record is made when it is asked for.

    A row of the columns is one attempt. `order` has the rows that count. `ran` is the attempt's duration by the agent,
    -1 if no end was recorded. `results` has the whole results of rows that didn't go well at once. The result of any
    other record has no place of the stdout.
    """

    def __init__(self, records: Iterable[AttemptRecord] = ()) -> None:
        self.hosts: list[str] = []
        self._places: dict[str, int] = {}
        self.task = array("I")
        self.number = array("I")
        self.host = array("I")
        self.slot = array("i")
        self.sent = array("d")
        self.began = array("d")
        self.ended = array("d")
        self.ran = array("d")
        self.outcome = array("B")
        self.code = array("i")
        self.backup = array("B")
        self.err_offset = array("q")
        self.err_size = array("Q")
        self.err_checksum = array("I")
        self.results: dict[int, Result] = {}
        self.flags: dict[int, int] = {}  # of rows that have any
        self.order = array("I")
        for record in records:
            self.append(record)

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, place: int) -> AttemptRecord: ...
    @overload
    def __getitem__(self, place: slice) -> list[AttemptRecord]: ...
    def __getitem__(self, place: int | slice) -> AttemptRecord | list[AttemptRecord]:
        if isinstance(place, slice):
            return [self.record(row) for row in self.order[place]]
        return self.record(self.order[place])

    def __iter__(self) -> Iterator[AttemptRecord]:
        return map(self.record, self.order)

    def host_place(self, host: str) -> int:
        """Return the number that stands for a host."""
        place = self._places.get(host)
        if place is None:
            place = self._places[host] = len(self.hosts)
            self.hosts.append(host)
        return place

    def grow(self, rows: int) -> None:
        """Make room for this number of rows; new rows don't count yet."""
        more = rows - len(self.task)
        if more > 0:
            for column in self._columns():
                column.frombytes(bytes(more * column.itemsize))

    def append(self, record: AttemptRecord) -> None:
        """Add an attempt, behind all others."""
        row, result = len(self.task), record.result
        values = (
            *(record.task, record.number, self.host_place(record.host), record.slot),
            *(record.sent, record.began, record.ended, -1.0 if result is None else result.seconds),
            *(int(record.outcome), record.code, record.backup),
            *((result.err_offset, result.err_size, result.err_checksum) if result else (0, 0, 0)),
        )
        for column, value in zip(self._columns(), values, strict=True):
            column.append(value)  # type: ignore[arg-type]
        if result is not None:
            self.results[row] = result
        if record.flags:
            self.flags[row] = record.flags
        self.order.append(row)

    def sort(self) -> None:
        """Put the attempts into the order in which they began."""
        self.order = array("I", sorted(self.order, key=self.began.__getitem__))

    def record(self, row: int) -> AttemptRecord:
        """Return the attempt in a row."""
        host, number, ran, code = self.hosts[self.host[row]], self.number[row], self.ran[row], self.code[row]
        result = self.results.get(row)
        if result is None and ran >= 0:
            stderr = self.err_offset[row], self.err_size[row], self.err_checksum[row]
            result = Result(number, host, self.ended[row], code, 0, ran, 0, 0, 0, *stderr)
        return AttemptRecord(
            *(self.task[row], number, host, self.sent[row], self.began[row], self.ended[row]),
            *(AttemptOutcome(self.outcome[row]), code, self.flags.get(row, 0), bool(self.backup[row])),
            *(self.slot[row], result, row),
        )

    def by_lane(self) -> dict[tuple[int, int], array[int]]:
        """Return the rows of each slot of a host, in order; a host is told by its number."""
        lanes: dict[tuple[int, int], array[int]] = {}
        host, slot = self.host, self.slot
        for row in self.order:
            key = host[row], slot[row]
            if (lane := lanes.get(key)) is None:
                lane = lanes[key] = array("I")
            lane.append(row)
        return lanes

    def _columns(self) -> tuple[array[int] | array[float], ...]:
        return (
            *(self.task, self.number, self.host, self.slot, self.sent, self.began, self.ended, self.ran),
            *(self.outcome, self.code, self.backup, self.err_offset, self.err_size, self.err_checksum),
        )
