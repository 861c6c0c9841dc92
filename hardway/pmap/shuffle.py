"""The steps between two jobs, and after the last: group lines by partition, join many small objects into one.

Both take more data than fits in memory. The program `sort` sorts the lines on disk. Objects are joined in a temporary
file (TMPDIR), which is complete before anything is written to S3.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO

from hardway.clusters import store as stores
from hardway.config import Settings, child_environment
from hardway.errors import Failed, UsageError
from hardway.pmap.results import Results
from hardway.s3 import objects
from hardway.s3.store_urls import instance_of
from hardway.terminal import last_line

READERS = 16  # objects read at the same time
AHEAD = 64  # objects read, or being read, before their turn
_PIECE = 1 << 20
_IN_MEMORY = 1 << 20  # bytes of an object; a longer object waits on disk


def group(lines: Iterable[bytes]) -> Results:
    """Return one line a partition, `partition<TAB>value<TAB>value...`, from lines `partition<TAB>value`.

    Partitions are in the order of their bytes, values in the order of the lines. Raises UsageError for a line without
    a tab, and Failed if the temporary files do not fit.
    """
    out = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the results)
    ends = array("Q")
    partition: bytes | None = None
    for line in _sorted(lines):
        key, _, value = line.rstrip(b"\n").partition(b"\t")
        if key != partition:
            if partition is not None:
                out.write(b"\n")
                ends.append(out.tell())
            out.write(key)
            partition = key
        out.write(b"\t" + value)
    if partition is not None:
        out.write(b"\n")
        ends.append(out.tell())
    out.flush()

    def pieces(position: int) -> Iterator[bytes]:
        start = ends[position - 1] if position else 0
        for at in range(start, ends[position], _PIECE):
            yield os.pread(out.fileno(), min(_PIECE, ends[position] - at), at)

    return Results(len(ends), pieces)


def _sorted(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines sorted by the text before the first tab; lines with the same text keep their order."""
    command = ["sort", "-s", "-t", "\t", "-k", "1,1"]
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=complaints,
            env=child_environment({"LC_ALL": "C"}),
        )
        try:
            assert process.stdin and process.stdout
            try:
                for number, line in enumerate(lines, 1):
                    if b"\t" not in line or line.count(b"\n") != 1:
                        text = line[:80].decode(errors="replace").rstrip("\n")
                        raise UsageError(f"line {number} is not a partition, a tab and a value: {text!r}")
                    process.stdin.write(line)
                process.stdin.close()
            except BrokenPipeError:
                pass  # sort says why
            yield from process.stdout
            if process.wait():
                complaints.seek(0)
                said = last_line(complaints.read(2000)) or f"sort ended with {process.returncode}"
                raise Failed(f"cannot sort the lines: {said}")
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()


def concatenate(settings: Settings, urls: Iterable[bytes], destination: str) -> str:
    """Write the objects of these S3 URLs, one after the other, to the object `destination`, and return its URL.

    Objects of a store come from their instances. Raises UsageError for a text that is not the URL of an object, and
    Failed if an object can't be read or written. The destination is unchanged then.
    """
    target = objects.parse(destination)
    sources = [objects.parse(url.decode("utf-8", "surrogateescape").rstrip("\n")) for url in urls]
    store = objects.store(settings)
    owners = [None if settings.stub_session else instance_of(str(source)) for source in sources]
    kept = [str(source) for source, owner in zip(sources, owners, strict=True) if owner]
    answers = stores.fetch(settings, kept) if kept else {}
    waiting: deque[Future[IO[bytes]] | str] = deque()
    with tempfile.TemporaryFile() as whole, ThreadPoolExecutor(READERS, "s3-read") as pool:
        try:
            for position in range(len(sources) + AHEAD):
                if position < len(sources):
                    waiting.append(owners[position] or pool.submit(_read, store, sources[position]))
                if position >= AHEAD - 1 and waiting:
                    first = waiting.popleft()
                    if isinstance(first, str):
                        whole.writelines(answers[first].object())
                        continue
                    with first.result() as part:
                        shutil.copyfileobj(part, whole)
        finally:
            for left in waiting:
                if isinstance(left, Future):
                    left.cancel()
        whole.seek(0)
        store.write(target, whole)
    return destination


def _read(store: objects.Store, source: objects.Object) -> IO[bytes]:
    spool: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115  (the caller closes it)
    store.read(source, spool)
    spool.seek(0)
    return spool
