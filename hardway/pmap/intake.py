"""Makes tasks of a stream's arguments while the job runs: the driver's side of `stream`.

Task N is the stream's argument N. A job that goes on knows the arguments it has read before: they start at once, and
the producer, which runs again, must give the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import overload

from hardway.errors import Failed
from hardway.pmap.job import Job, Keys, read_arguments
from hardway.pmap.journal import History, Result
from hardway.pmap.link import now
from hardway.pmap.schedule import Schedule
from hardway.pmap.stream import BYTES_MOST, OPEN_MOST, Stream
from hardway.tables import count
from hardway.terminal import cut_short, printable

_SHARE = 10  # at most a tenth of the time goes into putting arguments on the disk


class Counted(Sequence[int]):
    """The task numbers 1, 2, 3, ... by position."""

    def __init__(self, size: int = 0) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    @overload
    def __getitem__(self, index: int) -> int: ...

    @overload
    def __getitem__(self, index: slice) -> range: ...

    def __getitem__(self, index: int | slice) -> int | range:
        return range(1, self.size + 1)[index]


class Positions(Mapping[int, int]):
    """The positions of counted task numbers."""

    def __init__(self, numbers: Counted) -> None:
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[int]:
        return iter(range(1, len(self._numbers) + 1))

    def __getitem__(self, number: int) -> int:
        if not 0 < number <= len(self._numbers):
            raise KeyError(number)
        return number - 1


def known_arguments(path: Path, known: Sequence[bytes], history: History) -> list[bytes]:
    """Return the arguments with the `known` keys in a job's folder, up to the first that is missing or damaged."""
    keys, found = Keys(), []
    for key, text in zip(known, read_arguments(path, history), strict=True):
        item = (
            next((each for each in (text + b"\n", text) if keys.peek(each) == key), None) if text is not None else None
        )
        if item is None:
            break
        keys.of(item)
        found.append(item)
    return found


class Intake:
    """The tasks of a stream. `items` has each task's argument until the task is done, `numbers` counts them."""

    def __init__(
        self,
        stream: Stream,
        job: Job,
        say: Callable[[str], None],
        halt: Callable[[int], int],
        at_end: Callable[[], None],
    ) -> None:
        """Take `halt`: the number of failures that stop a job of this many tasks. `at_end` is called when all arguments
        have been read. Arguments that the job's folder has are tasks from the beginning.
        """
        self.stream = stream
        self.items = known_arguments(job.path, job.keys, job.history) if job.keys else []
        self.numbers = Counted(len(self.items))
        self.positions = Positions(self.numbers)
        self.next_look = 0.0  # the time at which arguments are taken in again
        self._job = job
        self._say = say
        self._halt = halt
        self._at_end = at_end
        self._confirmed = 0
        self._held = 0  # bytes of arguments of tasks that aren't over
        self._keys = Keys()
        self._earlier: frozenset[int] = frozenset()

    def begin(self, schedule: Schedule) -> None:
        """Begin a run, after the record of earlier runs has been taken over."""
        schedule.more = True
        self._earlier = frozenset(self._job.history.results)
        for position, number in enumerate(self.numbers):
            if number in self._earlier:
                self.items[position] = b""
        self._held = sum(map(len, self.items))
        schedule.halt = self._halt(schedule.total)

    def look(self, schedule: Schedule, time: float) -> None:
        """Make tasks of arguments that have come, as far as the window allows. Raises HardwayError to end the run."""
        stream = self.stream
        if stream.gave_up:
            raise stream.gave_up
        if not schedule.more or time < self.next_look:
            return
        waiting = self._confirmed - stream.taken if stream.is_consumed else schedule.left
        taken = stream.take(OPEN_MOST - waiting, BYTES_MOST - self._held)
        if taken:
            self._add(taken, schedule)
            self.next_look = time + _SHARE * (now() - time)
        if stream.is_read:
            self._end(schedule)

    def over(self, position: int, result: Result | None) -> None:
        """Note that a task is done; None if it has failed for good, and the job goes on.

        The argument of a failed task is kept for the end of the job.
        """
        self.stream.over(position, result, self.items[position])
        self._held -= len(self.items[position])
        if result:
            self.items[position] = b""

    def _add(self, taken: Sequence[bytes], schedule: Schedule) -> None:
        job, known, new = self._job, len(self._job.keys), []
        for item in taken:
            key = self._keys.of(item)
            if self._confirmed < known and job.keys[self._confirmed] != key:
                given = printable(cut_short(item.decode(errors="replace").strip()))
                raise Failed(
                    f"argument {self._confirmed + 1} is {given}, and job {job.asked.name} has read another one there: "
                    "arguments from a pipe must be the same again; those of a file (@FILE) may change"
                )
            if self._confirmed >= known:
                new.append(key)
            if self._confirmed >= len(self.items):
                self.items.append(item)
                self._held += len(item)
            if (number := self._confirmed + 1) in self._earlier:
                self._held -= len(self.items[self._confirmed])
                self.items[self._confirmed] = b""
                self.stream.over(self._confirmed, job.history.results[number], item)
            self._confirmed += 1
        if new:
            job.append(new, taken[-len(new) :])
        before = len(self.numbers)
        added = len(self.items) - before
        if added:
            self.numbers.size += added
            schedule.extend(added)
            schedule.halt = self._halt(schedule.total)
        self.stream.confirm(self._confirmed)
        for position in range(before, min(known, len(self.items))):
            schedule.used(position, job.history.attempts.get(position + 1, 0))
            if position + 1 in self._earlier:
                schedule.skip(position)

    def _end(self, schedule: Schedule) -> None:
        """Note that all arguments have been read. Raises HardwayError if they broke off."""
        if self.stream.failure:
            raise self.stream.broken_off()
        if self._confirmed < len(self._job.keys):
            raise Failed(
                f"the arguments ended after {self._confirmed}, and job {self._job.asked.name} has read "
                f"{len(self._job.keys)} before: arguments from a pipe must be the same again"
            )
        schedule.more = False
        schedule.halt = self._halt(schedule.total)
        if skipped := self.stream.cutter.skipped:
            self._say(f"{count(skipped, 'empty line')} left out: no arguments")
        self._at_end()
