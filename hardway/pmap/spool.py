"""Long outputs of one host's attempts, on their way into the job."""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from hardway.pmap import agent
from hardway.pmap.ledger import End


class Spool:
    """Files in a folder, two for each attempt. One file is open at a time."""

    def __init__(self, folder: Path, host: str) -> None:
        self._folder = folder
        self._host = host
        self._kept: dict[tuple[int, int], tuple[list[Path], list[int]]] = {}
        self._open: tuple[Path, BinaryIO] | None = None

    def write(self, task: int, attempt: int, which: int, data: memoryview) -> None:
        """Append data to an output; `which` is 0 for stdout. Raises OSError."""
        if (task, attempt) not in self._kept:
            stem = self._folder / f"{task}.{attempt}.{self._host}"
            self._kept[task, attempt] = [Path(f"{stem}.part{index}") for index in (0, 1)], [0, 0]
            for path in self._kept[task, attempt][0]:
                path.write_bytes(b"")
        paths, checksums = self._kept[task, attempt]
        path = paths[which]
        if self._open is None or self._open[0] != path:
            self.close()
            self._open = path, path.open("ab", buffering=0)
        checksums[which] = zlib.crc32(data, checksums[which])
        while data:
            data = data[self._open[1].write(data) :]

    def take(self, task: int, attempt: int) -> tuple[list[Path], list[int]] | None:
        """Return and forget the files of both outputs and their checksums; None if there are none. Raises OSError."""
        found = self._kept.pop((task, attempt), None)
        if found:
            self.close()
        return found

    def drop(self) -> None:
        """Remove all files; the agent sends the outputs again."""
        with contextlib.suppress(OSError):  # a full disk doesn't matter, as the data is thrown away
            self.close()
        for paths, _ in self._kept.values():
            discard(paths)
        self._kept.clear()

    def close(self) -> None:
        """Close the open file. Raises OSError."""
        if self._open is not None:
            file, self._open = self._open[1], None
            file.close()


def discard(paths: Sequence[Path]) -> None:
    """Remove files that nobody needs."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


def whole(end: End, spooled: tuple[Sequence[Path], Sequence[int]] | None) -> tuple[End, bytes | Path, bytes | Path]:
    """Return an attempt's end with its outputs, which were spooled before or came with the end.

    Outputs that differ from the agent's checksums are the host's fault.
    """
    stdout, stderr = end.inline[: end.sizes[0]], end.inline[end.sizes[0] :]
    if spooled and end.flags & agent.HOST_FAULT:  # the fault was found while the output was sent
        discard(spooled[0])
        return end, stdout, stderr
    if spooled:
        (out, err), checksums = spooled
        return _checked(end, checksums), out, err
    return _checked(end, [zlib.crc32(stdout), zlib.crc32(stderr)]), stdout, stderr


def _checked(end: End, checksums: Sequence[int]) -> End:
    return end if checksums == end.checksums else end._replace(flags=end.flags | agent.HOST_FAULT)
