"""When something happened on another machine, by the clock of this one. Pure."""

from __future__ import annotations


class RemoteClock:
    """The clock of another machine, of which is known what it shows, but not when it did.

    An event there lies between two moments here, such as the sending of an order and the arrival of its answer. How
    far the two clocks are apart is corrected by no more than these say: so the distances between events stay as they
    were there.
    """

    def __init__(self) -> None:
        self._behind: float | None = None  # seconds to add to what it shows

    def here(self, there: float, earliest: float, latest: float) -> float:
        """When an event was that the clock showed at `there`, and that was between these moments."""
        behind = self._behind
        if behind is None or there + behind < earliest:
            behind = earliest - there
        if there + behind > latest:
            behind = latest - there
        self._behind = behind
        return there + behind
