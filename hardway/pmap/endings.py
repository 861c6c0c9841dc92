"""Plain-language descriptions of how attempts ended, and the totals of a run."""

from __future__ import annotations

import hashlib
import os
import re
import signal
from dataclasses import dataclass, field
from pathlib import Path

from hardway.pmap import agent
from hardway.pmap.complaints import Complaint
from hardway.pmap.job import Outputs
from hardway.pmap.journal import Result
from hardway.pmap.schedule import DEADLY
from hardway.tables import money
from hardway.terminal import cut_short, last_line

LOST, WORKERS_DIED, MISSING, DATA_GONE = 8, 16, 512, 1024  # an attempt's flags, beside the agent's
COMPARED = 4096  # bytes of stderr's end, by which failures are found to be alike
WENT = re.compile(r"its data went with (i-[0-9a-f]{8}(?:[0-9a-f]{9})?)\b")  # in the last line of stderr
_SCRATCH = re.compile(rb"scratch-[0-9a-f]{8}/[^/\s]+")  # its name differs from instance to instance


@dataclass
class Outcome:
    """The totals of a run. `failed` maps positions of arguments to the last attempt's end.

    It is `detached` if it has left agents that go on by themselves.
    `hopeless` are the failed positions whose failures were so alike that the run was stopped. `instances` is the number
    that took part. `driver` is the share of the time in which the driver was busy. `busy` is the time in seconds that
    attempts ran, and `slot_seconds` the time that slots were available. `cost` is in USD, for instances whose price is
    known; `unpriced` is the number of the others.
    """

    failed: dict[int, Result] = field(default_factory=dict)
    done: int = 0
    detached: bool = False
    hopeless: list[int] = field(default_factory=list)
    left: int = 0
    attempts: int = 0
    retries: int = 0
    backups: int = 0
    lost: int = 0
    instances: int = 0
    driver: float = 0.0
    seconds: float = 0.0
    busy: float = 0.0
    slot_seconds: float = 0.0
    cost: float = 0.0
    unpriced: int = 0


def how_it_ended(result: Result, timeout: float = 0.0) -> str:
    """Describe the end of an attempt in plain language; `timeout` is the time limit in seconds, 0 for none."""
    if result.flags & agent.TIMED_OUT:
        return f"timed out after {timeout or result.seconds:g} s"
    if result.flags & agent.NO_MEMORY:
        return f"out of memory, exit code {result.code}"
    if result.flags & LOST:
        return f"{DEADLY} times the instance or its agent died while the task ran"
    if result.flags & WORKERS_DIED:
        return "one Dask worker after the other died while the task ran"
    if result.flags & agent.HOST_FAULT:
        return "the instance could not run it"
    if result.flags & agent.NO_START:
        return "it could not be started"
    if result.flags & DATA_GONE:
        return "its data is gone"
    if result.flags & MISSING:
        return "an object that it should write is missing"
    if result.code < 0:
        try:
            return f"killed by {signal.Signals(-result.code).name}"
        except ValueError:
            return f"killed by signal {-result.code}"
    return f"exit code {result.code}"


def paid(cost: float, unpriced: int) -> str:
    """Return text with the cost of instances, and the number without a known price; empty for no instances."""
    if not cost:
        return unknown_cost(unpriced) if unpriced else ""
    return money(cost) + (f" ({unknown_cost(unpriced)})" if unpriced else "")


def unknown_cost(instances: int) -> str:
    """Return text with the number of instances whose cost is not known."""
    return "1 instance's cost unknown" if instances == 1 else f"{instances} instances' cost unknown"


def complaint_of(code: int, flags: int, stderr: bytes | Path, instance: str) -> Complaint | None:
    """Return the part of a failure that is compared with others; None for a signal or a time limit, which may pass.

    Names that hardway gives, such as the instance's id, are left out of stderr. Raises OSError.
    """
    if code <= 0 or flags:
        return None
    if isinstance(stderr, Path):
        with stderr.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - COMPARED))
            stderr = file.read(COMPARED)
    said = _SCRATCH.sub(b"", stderr[-COMPARED:]).replace(instance.encode(), b"")
    return Complaint(code, hashlib.blake2b(said, digest_size=16).digest() if said else b"")


def last_complaint(outputs: Outputs, number: int, result: Result) -> str:
    """Return the last line that an attempt wrote to stderr, shortened and safe to show."""
    return cut_short(last_line(outputs.tail(number, result, 2000)))


def end_and_complaint(outputs: Outputs, number: int, result: Result, timeout: float) -> str:
    """Describe the end of an attempt, with the last line that the attempt wrote to stderr, if any."""
    how, said = how_it_ended(result, timeout), last_complaint(outputs, number, result)
    if result.flags & DATA_GONE and (went := WENT.search(said)):
        return went[0]  # alike for all that lack data of the instance
    return f"{how}: {said}" if said else how
