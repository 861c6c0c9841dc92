"""The result of `mapreduce.pmap`: the outputs of tasks as a sequence, read from the disk at their use."""

from __future__ import annotations

import io
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from functools import cached_property
from typing import BinaryIO, NamedTuple, Protocol, overload

from hardway.errors import Failed, HardwayError
from hardway.tables import html_table
from hardway.terminal import cut_short

# In a notebook: results, and characters of each.
_FIRST = 50
_SHOWN = 500


class Results(Sequence[str]):
    """The stdout of each task, in argument order; bytes that are no UTF-8 become surrogate escapes.

    Nothing is kept in memory: each use reads from the job's directory, as long as the directory exists. Results equal
    any list of the same texts. They print as one text: each result is followed by a newline if it lacks one, except
    that the last newline is left to `print`.
    """

    def __init__(
        self,
        count: int,
        pieces: Callable[[int], Iterable[bytes]],
        lines: bool = False,
        again: str = "",
        missing: Container[int] = (),
    ) -> None:
        """Take `pieces`: it yields the output at a position, from 0, in pieces, and raises HardwayError on failure.

        The last result is printed unchanged, since it may be an archive; with `lines` it also gets a newline. `again`
        tells how to print the results once more; it is added to the error if they can't be written. `missing` are the
        positions of tasks without a result: an empty text, printed as an empty line, so that others keep their place.
        """
        self._positions = range(count)
        self._pieces = pieces
        self._lines = lines
        self._again = again
        self._missing = missing

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Results: ...

    def __getitem__(self, index: int | slice) -> str | Results:
        if isinstance(index, slice):
            chosen = self._positions[index]
            missing = {place for place, position in enumerate(chosen) if position in self._missing}
            return Results(len(chosen), lambda place: self._pieces(chosen[place]), self._lines, missing=missing)
        if self._positions[index] in self._missing:
            return ""
        return b"".join(self._pieces(self._positions[index])).decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, self._positions)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Results | list | tuple):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        text = io.BytesIO()
        self.write_to(text)
        return text.getvalue().decode("utf-8", "surrogateescape").removesuffix("\n")

    def __repr__(self) -> str:
        return f"<{len(self)} results>"

    def _repr_html_(self) -> str:
        """Return the first results as a table for a notebook, which calls this."""
        shown = [[str(place), self._beginning(position)] for place, position in enumerate(self._positions[:_FIRST], 1)]
        more = len(self) - len(shown)
        return html_table([["", "result"], *shown]) + (f"<p>and {more:,} more</p>" if more else "")

    def _beginning(self, position: int) -> str:
        if position in self._missing:
            return "(no result)"
        begun = b""
        for piece in self._pieces(position):
            begun += piece
            if len(begun) > 4 * _SHOWN:
                break
        return cut_short(begun.decode(errors="replace").removesuffix("\n"), _SHOWN)

    def write_to(self, stream: BinaryIO) -> None:
        """Write all results unchanged, a piece at a time, with a newline after each that lacks one, but the last."""
        try:
            self._write_to(stream)
        except HardwayError as error:
            if self._again and str(error) and "--resume" not in str(error):
                error.message = f"{error.message}; {self._again}"
            raise

    def _write_to(self, stream: BinaryIO) -> None:
        writer = ResultWriter(stream)
        for position in self._positions:
            writer.add(None if position in self._missing else self._pieces(position))
        if self._lines and writer.is_open:
            writer.close_line()
        stream.flush()


class ByteSink(Protocol):
    """A place for bytes."""

    def write(self, data: bytes, /) -> int: ...


class ResultWriter:
    """Writes results one after the other, unchanged, with a newline before the next one where it is lacking."""

    def __init__(self, stream: ByteSink) -> None:
        self._stream = stream
        self._last = b"\n"

    @property
    def is_open(self) -> bool:
        """Whether the last result lacks a newline at its end."""
        return self._last != b"\n"

    def add(self, pieces: Iterable[bytes] | None) -> None:
        """Write a result; None for a missing one, an empty line."""
        if pieces is None:
            self._stream.write(b"\n\n" if self.is_open else b"\n")
            self._last = b"\n"
            return
        begins = True
        for piece in pieces:
            if begins and self.is_open:
                self._stream.write(b"\n")
            begins = False
            self._stream.write(piece)
            self._last = piece[-1:]

    def close_line(self) -> None:
        """Write the newline that the last result lacks."""
        self._stream.write(b"\n")
        self._last = b"\n"


class FailedTask(NamedTuple):
    """A task that has failed for good: `how` its last attempt ended, on which instance, and the end of its stderr.

    `argument` has bytes that are no UTF-8 as surrogate escapes. `exit_code` is negative for a signal.
    """

    task: int
    argument: str
    exit_code: int
    how: str
    stderr: str
    attempts: int
    instance: str


class TasksFailed(Failed):
    """Tasks of a job failed. Exit code 1.

    `results` has an empty text for each task without a result. The results are printed if all other tasks are done,
    and there are any.
    """

    def __init__(self, message: str, results: Results, failed: Callable[[], list[FailedTask]], printed: bool) -> None:
        """Take `failed`, a function that is called only when the failed tasks are asked for."""
        super().__init__(message)
        self.results = results
        self.result = results if printed else None
        self._failed = failed

    @cached_property
    def failed(self) -> list[FailedTask]:
        """The tasks that failed, in argument order."""
        return self._failed()
