"""The limit of EC2 on launches: each instance is a token from a bucket, which fills up with time.

Source: https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html#throttling-limits-cost-based
"""

from __future__ import annotations

import threading
import time

from hardway.local.api.ec2_error import EC2Error


class LaunchBuckets:
    """A bucket in each region, of `size` tokens at most, with `refill` new ones a second. For many threads."""

    def __init__(self, size: int, refill: float) -> None:
        self._size = size
        self._refill = refill
        self._left: dict[str, tuple[float, float]] = {}
        """The tokens that were left in a region, and the time of the monotonic clock then."""
        self._lock = threading.Lock()

    def take(self, region: str, count: int) -> None:
        """Take a token for each instance. Raises EC2Error where there are fewer."""
        with self._lock:
            left = self._now(region)
            if count > left:
                raise EC2Error(503, "RequestLimitExceeded", "Request limit exceeded.")
            self._left[region] = left - count, time.monotonic()

    def give_back(self, region: str, count: int) -> None:
        """Put back the tokens of instances that were not launched."""
        with self._lock:
            self._left[region] = self._now(region) + count, time.monotonic()

    def _now(self, region: str) -> float:
        left, since = self._left.get(region, (self._size, 0.0))
        return min(self._size, left + (time.monotonic() - since) * self._refill)
