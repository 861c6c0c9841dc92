"""The result of `mapreduce.pmap`: the outputs of tasks as a sequence, read from the disk at their use."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, overload

from hardway.errors import HardwayError


class Results(Sequence[str]):
    """The stdout of each task, in argument order, bytes that are no UTF-8 as surrogate escapes.

    Nothing is kept in memory: it is read from the job's directory each time, for as long as that is there. Equal to
    any list of the same texts. Prints as one text: results follow each other, with a newline where one lacks it, and
    the last newline left to `print`.
    """

    def __init__(
        self, count: int, pieces: Callable[[int], Iterable[bytes]], lines: bool = False, again: str = ""
    ) -> None:
        """`pieces` gives the output at a position, from 0, piece by piece; it raises HardwayError where it can't.

        The last one is printed as it is, too: it may be what `tar` wrote. With `lines` it gets a newline.
        `again` is added to the error where they can't be written: how to have them printed once more.
        """
        self._positions = range(count)
        self._pieces = pieces
        self._lines = lines
        self._again = again

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Results: ...

    def __getitem__(self, index: int | slice) -> str | Results:
        if isinstance(index, slice):
            chosen = self._positions[index]
            return Results(len(chosen), lambda position: self._pieces(chosen[position]), self._lines)
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

    def write_to(self, stream: BinaryIO) -> None:
        """Write all results, exact, a piece at a time; a newline between two where the first lacks it."""
        try:
            self._write_to(stream)
        except HardwayError as error:
            if self._again and str(error) and "--resume" not in str(error):
                error.message = f"{error.message}; {self._again}"
            raise

    def _write_to(self, stream: BinaryIO) -> None:
        last = b"\n"
        for position in self._positions:
            begins = True
            for piece in self._pieces(position):
                if begins and last != b"\n":
                    stream.write(b"\n")
                begins = False
                stream.write(piece)
                last = piece[-1:]
        if self._lines and last != b"\n":
            stream.write(b"\n")
        stream.flush()
