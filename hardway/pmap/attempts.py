"""The attempts on hosts: running, waiting, recalled, and the longest. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from hardway.pmap.hosts import Attempt, HostState

ENDED_MOST = 1000  # attempts kept among the stragglers though they have ended, at least


class Attempts:
    """All attempts that have not ended."""

    def __init__(self) -> None:
        self.alive: dict[int, Attempt] = {}  # by task; a second one is its twin
        self.waiting: dict[Attempt, None] = {}  # sent ahead, not known to have started
        self.recalls = 0  # asked for, not answered
        self.urgent: deque[Attempt] = deque()  # need a second attempt before anything else starts
        self._recalled: deque[tuple[float, Attempt]] = deque()  # recalled for a free slot, with the time of the recall
        self._stragglers: deque[Attempt] = deque()  # single attempts, the longest first; some have ended meanwhile

    def begin(self, host: HostState, task: int, number: int) -> Attempt:
        """Add an attempt that the host has, or is sent."""
        attempt = Attempt(host, task, number)
        host.attempts[task] = attempt
        other = self.alive.setdefault(task, attempt)
        if other is not attempt:
            other.single = False
            other.twin, attempt.twin = attempt, other
        return attempt

    def start(self, attempt: Attempt, now: float) -> None:
        """Note that the attempt runs."""
        self.waiting.pop(attempt, None)
        if attempt.recalled:
            self.forget_recall(attempt)
        attempt.started = now
        if attempt.twin is None:
            self._leave_alone(attempt)

    def unstart(self, attempt: Attempt) -> None:
        """Note that the attempt, which was taken to run, waits."""
        attempt.started = None
        attempt.single = False
        self.waiting[attempt] = None

    def end(self, attempt: Attempt, over: bool) -> None:
        """Remove an attempt that has ended or is lost; `over` if its task is."""
        task = attempt.task
        del attempt.host.attempts[task]
        attempt.single = False
        if attempt.started is None:
            self.waiting.pop(attempt, None)
            self.forget_recall(attempt)
        twin = attempt.twin
        if twin is None:
            del self.alive[task]
            return
        self.alive[task] = twin
        attempt.twin = twin.twin = None
        if twin.started is not None and not over:
            self._leave_alone(twin)

    def recall(self, attempt: Attempt) -> None:
        """Note that the host is asked to give the attempt back."""
        attempt.recalled = True
        self.recalls += 1

    def recall_for_a_slot(self, attempt: Attempt, now: float) -> None:
        """Note that the host is asked to give the attempt back, for a slot that stands free."""
        self.recall(attempt)
        self._recalled.append((now, attempt))

    def forget_recall(self, attempt: Attempt) -> None:
        """Stop waiting for the answer to a recall."""
        if attempt.recalled:
            attempt.recalled = False
            self.recalls -= 1

    def oldest_recall(self) -> float | None:
        """Return when the oldest recall for a free slot was made."""
        return self._recalled[0][0] if self._recalled else None

    def unanswered(self, now: float, patience: float) -> Attempt | None:
        """Return, once each, the next attempt whose recall for a free slot is older than `patience` seconds."""
        if self._recalled and now - self._recalled[0][0] >= patience:
            return self._recalled.popleft()[1]
        return None

    def longest(self) -> Attempt | None:
        """Return the running attempt that began first, among those that are their task's only attempt."""
        stragglers = self._stragglers
        while stragglers and not (stragglers[0].single and not stragglers[0].sends):
            stragglers.popleft()
        return stragglers[0] if stragglers else None

    def pop_longest(self) -> Attempt:
        """Remove and return the longest attempt; `put_back` adds it again."""
        return self._stragglers.popleft()

    def put_back(self, passed_over: Iterable[Attempt]) -> None:
        """Put back attempts that were taken out, longest first."""
        self._stragglers.extendleft(reversed([*passed_over]))

    def _leave_alone(self, attempt: Attempt) -> None:
        attempt.single = True
        self._stragglers.append(attempt)
        if len(self._stragglers) > 2 * len(self.alive) + ENDED_MOST:
            self._stragglers = deque(attempt for attempt in self._stragglers if attempt.single)
