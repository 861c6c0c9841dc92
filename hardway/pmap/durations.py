"""The median duration of attempts, from a sample, and how many tasks of a duration to send ahead. Pure."""

from __future__ import annotations

import math
import random
from bisect import insort

SAMPLE = 1001  # durations kept to estimate the median
AHEAD_SECONDS = 0.2  # seconds, beyond two round trips, for which tasks sent ahead keep a host busy
AHEAD_WORTH = 0.02  # below this share of a task's duration a round trip isn't worth sending ahead for
AHEAD_MOST = 64


def ahead(slots: int, round_trip: float, duration: float) -> int:
    """Return how many tasks to send ahead to a host whose tasks take `duration` seconds each."""
    window = 2 * round_trip + AHEAD_SECONDS
    if duration <= 0:
        return AHEAD_MOST
    if window < AHEAD_WORTH * duration:
        return 0
    return min(AHEAD_MOST, int(slots * window / duration) + 1)


class Durations:
    """A random sample of all durations, each equally likely (algorithm L: Li, ACM TOMS 20, 1994)."""

    def __init__(self, rng: random.Random) -> None:
        self._random = rng
        self._sample: list[float] = []  # sorted
        self._count = 0
        self._settled = 0  # the number of durations for which the sample is complete
        self._weight = 1.0

    def add(self, duration: float) -> None:
        """Add the duration of an attempt, in seconds."""
        self._count += 1
        if self._count > self._settled:
            self._keep(duration)

    @property
    def median(self) -> float:
        """The median, in seconds; 0 before the first."""
        return self._sample[len(self._sample) // 2] if self._sample else 0.0

    def _keep(self, duration: float) -> None:
        if len(self._sample) == SAMPLE:
            del self._sample[self._random.randrange(SAMPLE)]
        insort(self._sample, duration)
        if len(self._sample) == SAMPLE:
            self._weight *= (1 - self._random.random()) ** (1 / SAMPLE)
            self._settled = self._count + int(math.log(1 - self._random.random()) / math.log1p(-self._weight))
