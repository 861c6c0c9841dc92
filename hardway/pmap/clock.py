"""Translate times of another machine's clock to this one's. Pure."""

from __future__ import annotations


class RemoteClock:
    """The clock of another machine, at an unknown distance from this machine's clock.

    An event there happens between two moments here, such as the sending of an order and the arrival of its answer.
    The distance between the clocks changes only when an event would fall outside these two moments. So the times
    between events are the other clock's.
    """

    def __init__(self) -> None:
        self._behind: float | None = None  # seconds to add to what it shows

    def here(self, there: float, earliest: float, latest: float) -> float:
        """Return an event's time here, in seconds, from its time `there` and its `earliest` and `latest` time here."""
        behind = self._behind
        if behind is None or there + behind < earliest:
            behind = earliest - there
        if there + behind > latest:
            behind = latest - there
        self._behind = behind
        return there + behind
