"""How long a test waits for an event: as long as the event may take on a machine that is as busy as this one is now.

A limit here is no part of what is tested: it ends a test whose event never comes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TypeVar

SECONDS = 30.0
Value = TypeVar("Value")


def patience(seconds: float = SECONDS) -> float:
    """The limit of a wait that takes no longer than `seconds` where nobody else uses the CPUs."""
    return seconds * max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


def eventually(what: Callable[[], Value], seconds: float = SECONDS) -> Value:
    """Call until it gives something true, and return that; the last answer is in the failure."""
    limit = patience(seconds)
    deadline = time.monotonic() + limit
    while not (value := what()):
        assert time.monotonic() < deadline, f"still {value!r} after {limit:g} s"
        time.sleep(0.02)
    return value
