"""The lines of a job's journal: makes them, and reads them again. Pure: it does no I/O.

A line is words, and a checksum of itself and of the line before it: a line that is changed, missing, doubled or moved
breaks the chain. `history` in afterwards/ reads from the same lines when and where attempts ran.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

DETACHED = "detached"
"""The reason that a run is over whose driver has left the agents at work."""


class Result(NamedTuple):
    """The end of an attempt; sizes in bytes, times in seconds. An output in a file of its own has `offset` -1."""

    attempt: int
    host: str
    ended: float
    code: int
    flags: int
    seconds: float
    offset: int
    size: int
    checksum: int
    err_offset: int
    err_size: int
    err_checksum: int


@dataclass
class History:
    """The record of a job's earlier runs: results, last attempts, and the ends of tasks that failed for good.

    `former` has the results that counted once. `failures` counts a task's failed attempts. `runs` has the notes from
    the end of each run, empty if the driver was killed or still runs. `open` maps each attempt (task, attempt) that was
    sent and isn't known to have ended to its host. `sent` has all attempts ever sent, by host. `tasks` is the number of
    numbered tasks. `keys` and `heads` are the checksums of these files up to the last numbered task, and `long` is the
    size of the file of long arguments. `chain` is the last line's checksum, and `whole` the checksum of all lines
    together. `detach` are the options of a job that was detached, None for another one. Its agents are `alone` while
    they go on without a driver. `driven` is when the last run began or ended, in seconds of Unix.
    """

    results: dict[int, Result] = field(default_factory=dict)
    former: dict[int, list[Result]] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    failed: dict[int, Result] = field(default_factory=dict)
    failures: dict[int, int] = field(default_factory=dict)
    runs: list[dict[str, Any]] = field(default_factory=list)
    open: dict[tuple[int, int], str] = field(default_factory=dict)
    sent: dict[str, set[tuple[int, int]]] = field(default_factory=dict)
    tasks: int = 0
    keys: int = 0
    heads: int = 0
    long: int = 0
    chain: int = 0
    whole: int = 0
    detach: dict[str, Any] | None = None
    alone: bool = False
    driven: float = 0.0

    def ran(self, kind: str, about: Mapping[str, Any], time: float) -> None:
        """Take in an event of the job: the beginning or the end of a run."""
        if kind in ("run", "over"):
            self.driven = time
        if kind == "run":
            self.runs.append({})
            self.detach = about.get("detach", self.detach)
            self.alone = "detach" in about
        elif kind == "over":
            self.runs[-1] = dict(about)
            self.alone &= is_left_alone(str(about.get("why", "")))

    def void(self, task: int) -> Result:
        """Take in that the task's result counts no longer, and return the result."""
        result = self.results.pop(task)
        self.former.setdefault(task, []).append(result)
        return result

    def sealed(self, texts: Iterable[str]) -> bytes:
        """Return the next lines: each ends in a checksum of itself and of the line before."""
        chain, lines = self.chain, []
        for text in texts:
            data = text.encode()
            chain = zlib.crc32(data, chain)
            lines.append(b"%b %08x\n" % (data, chain))
        self.chain = chain
        data = b"".join(lines)
        self.whole = zlib.crc32(data, self.whole)
        return data


def is_left_alone(why: str) -> bool:
    """Return whether the agents of a detached job go on after a run that is over for this reason."""
    return why == DETACHED or why.startswith("SIG")


def first_line(seal: str) -> str:
    """Return the journal's first line, with the seal of its job."""
    return f"job {seal}"


def tasks_line(history: History) -> str:
    """Return a line with the number of tasks, the checksums of keys and heads, and the size of long arguments."""
    return f"tasks {history.tasks} {history.keys:08x} {history.heads:08x} {history.long}"


def start_line(task: int, attempt: int, host: str, time: float) -> str:
    """Return the line for an attempt that is about to be sent."""
    return f"start {task} {attempt} {host} {time:.3f}"


def slot_line(task: int, attempt: int, slot: int, began: float) -> str:
    """Return the line with the slot in which an attempt runs, and when it began."""
    return f"slot {task} {attempt} {slot} {began:.6f}"


def end_line(task: int, result: Result) -> str:
    """Return the line for the end of an attempt."""
    attempt, host, ended, code, flags, seconds, offset, size, checksum, err_offset, err_size, err_checksum = result
    return (
        f"end {task} {attempt} {host} {ended:.3f} {code} {flags} {seconds:.6f} "
        f"{offset} {size} {checksum} {err_offset} {err_size} {err_checksum}"
    )


def done_line(task: int, attempt: int) -> str:
    """Return the line for an attempt whose result counts."""
    return f"done {task} {attempt}"


def void_line(task: int, attempt: int) -> str:
    """Return the line for an attempt whose result counts no longer."""
    return f"void {task} {attempt}"


def failed_line(task: int, attempt: int) -> str:
    """Return the line for a task that has failed for good in this run, with this attempt."""
    return f"failed {task} {attempt}"


def event_line(time: float, kind: str, about: Mapping[str, Any]) -> str:
    """Return the line for an event that shows where time went and has no effect on the job."""
    return f"event {time:.3f} {kind} {json.dumps(about)}"


def words_of(line: bytes, chain: int) -> tuple[list[str], int]:
    """Return the words of a line and its checksum; `chain` is the checksum of the line before.

    Raises ValueError if the line isn't the one that was written after that line.
    """
    chain = check(line, chain)
    return line[:-9].decode("ascii").split(" "), chain


def check(line: bytes, chain: int) -> int:
    """Return the checksum of a line; `chain` is that of the line before. Raises ValueError as `words_of` does."""
    chain = zlib.crc32(line[:-9], chain)
    if line[-9:] != b" %08x" % chain:
        raise ValueError("not what was written")
    return chain


def result_of(words: Sequence[str]) -> Result:
    """Read the words after the task's number in an end's line. Raises ValueError, IndexError or TypeError."""
    return Result(
        int(words[0]),
        words[1],
        float(words[2]),
        int(words[3]),
        int(words[4]),
        float(words[5]),
        *map(int, words[6:]),
    )


def read_history(data: bytes) -> History:
    """Read a journal. Raises ValueError with the number of the first invalid line."""
    history = History(whole=zlib.crc32(data))
    ended: dict[tuple[int, int], Result] = {}
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            (kind, *words), history.chain = words_of(line, history.chain)
            if kind in ("event", "slot") or (kind == "job" and number == 1):
                if kind == "event" and words[1] in ("run", "over"):
                    history.ran(words[1], json.loads(" ".join(words[2:])), float(words[0]))
                continue
            if kind == "tasks":
                history.tasks, history.keys, history.heads = int(words[0]), int(words[1], 16), int(words[2], 16)
                history.long = int(words[3]) if len(words) > 3 else 0
                continue
            task, attempt = int(words[0]), int(words[1])
            history.attempts[task] = max(history.attempts.get(task, 0), attempt)
            if kind == "end":
                result = ended[task, attempt] = result_of(words[1:])
                history.open.pop((task, attempt), None)
                if result.code or result.flags:
                    history.failures[task] = history.failures.get(task, 0) + 1
            elif kind == "done":
                history.results[task] = ended[task, attempt]
            elif kind == "void":
                history.void(task)
            elif kind == "failed":
                history.failed[task] = ended[task, attempt]
            elif kind == "start":
                history.failed.pop(task, None)  # the task is tried again
                history.open[task, attempt] = words[2]
                history.sent.setdefault(words[2], set()).add((task, attempt))
            else:
                raise ValueError
        except (ValueError, IndexError, KeyError, TypeError):
            raise ValueError(f"line {number}") from None
    return history
