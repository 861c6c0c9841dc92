"""How attempts end, in a person's words, and the totals of a run."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field

from hardway.pmap import agent
from hardway.pmap.job import Outputs
from hardway.pmap.journal import Result
from hardway.pmap.schedule import DEADLY
from hardway.terminal import cut_short, last_line

LOST, WORKERS_DIED, MISSING = 8, 16, 512  # an attempt's flags, beside the agent's


@dataclass
class Outcome:
    """The totals of a run. `failed` maps positions of arguments to the last attempt's end.

    `busy` are the seconds that attempts ran, `slot_seconds` those that slots were there to run them; `cost` is in USD,
    of those instances whose price is known, `unpriced` is the number of the others.
    """

    failed: dict[int, Result] = field(default_factory=dict)
    done: int = 0
    left: int = 0
    attempts: int = 0
    retries: int = 0
    backups: int = 0
    lost: int = 0
    seconds: float = 0.0
    busy: float = 0.0
    slot_seconds: float = 0.0
    cost: float = 0.0
    unpriced: int = 0


def how_it_ended(result: Result, timeout: float = 0.0) -> str:
    """Describe the end of an attempt in a person's words."""
    if result.flags & agent.TIMED_OUT:
        return f"timed out after {timeout or result.seconds:g} s"
    if result.flags & LOST:
        return f"{DEADLY} times the instance or its agent died while the task ran"
    if result.flags & WORKERS_DIED:
        return "one Dask worker after the other died while the task ran"
    if result.flags & agent.HOST_FAULT:
        return "the instance could not run it"
    if result.flags & agent.NO_START:
        return "it could not be started"
    if result.flags & MISSING:
        return "what is expected of it is not there"
    if result.code < 0:
        try:
            return f"killed by {signal.Signals(-result.code).name}"
        except ValueError:
            return f"killed by signal {-result.code}"
    return f"exit code {result.code}"


def last_complaint(outputs: Outputs, number: int, result: Result) -> str:
    """Return the last line that an attempt wrote to stderr, shortened and safe to show."""
    return cut_short(last_line(outputs.tail(number, result, 2000)))
