"""Translate times of another machine's clock to this one's. Pure."""

from __future__ import annotations


class RemoteClock:
    """The clock of another machine: its time is known, but not when it was that time there.

    An event there lies between two moments here, such as the sending of an order and the arrival of its answer. The
    distance of the two clocks is kept, and corrected only where an event would lie outside of these. So events are as
    far apart as they were there.
    """

    def __init__(self) -> None:
        self._behind: float | None = None  # seconds to add to what it shows

    def here(self, there: float, earliest: float, latest: float) -> float:
        """Return when an event was, from its time `there` and the moments here between which it was."""
        behind = self._behind
        if behind is None or there + behind < earliest:
            behind = earliest - there
        if there + behind > latest:
            behind = latest - there
        self._behind = behind
        return there + behind
