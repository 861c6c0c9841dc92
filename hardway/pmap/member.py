"""A member: one instance as one job knows it, with its connection, health, agent, slots and attempts."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import Enum

from hardway.ec2.instances import Instance
from hardway.pmap.health import Health
from hardway.pmap.ledger import Ledger
from hardway.pmap.link import Link, now
from hardway.pmap.spool import Spool

BACKOFF_FIRST, BACKOFF_MOST = 0.5, 15.0  # seconds until the next try to connect
DOUBLED_MOST = 16  # doublings of a wait, after which the longest wait is reached
SOON = 10.0  # seconds below which a connection counts as short
FRUITLESS_MOST = 10  # short connections in a row that bring nothing, until the member is given up


class Presence(Enum):
    """Whether a member can be reached. Its health says whether it is trusted with tasks."""

    AWAITED = "awaited"  # the first try to connect hasn't ended
    UP = "up"  # its agent has said hello over the present connection
    AWAY = "away"  # its connection is lost, or could not be made: it is tried again
    GIVEN_UP = "given up"  # away for so long that its tasks run elsewhere; it may come back
    GONE = "gone"  # it never comes back, or would be refused


class Tries:
    """Tries to connect to one instance: their number, and the time of the next."""

    def __init__(self) -> None:
        self.open = False  # a worker thread connects
        self.failed = 0  # tries in a row
        self.fruitless = 0  # connections in a row that ended soon and brought nothing
        self.next = 0.0  # when to try again; 0: no time is set

    @property
    def in_vain(self) -> bool:
        """Whether one connection after the other ends soon and brings nothing."""
        return self.fruitless > FRUITLESS_MOST

    def begin(self) -> None:
        """Note that a try begins."""
        self.open = True
        self.next = 0.0

    def is_due(self, time: float) -> bool:
        """Return whether it is time for the next try."""
        return not self.open and 0 < self.next <= time

    def failure(self, time: float) -> None:
        """Note a failure, and set the time of the next try: each failure in a row doubles the wait, up to a limit."""
        self.failed += 1
        times = min(max(self.failed, self.fruitless) - 1, DOUBLED_MOST)
        self.next = time + min(BACKOFF_MOST, BACKOFF_FIRST * 2**times) * random.uniform(0.7, 1.0)


@dataclass(eq=False)
class Member:
    """One instance in one job, made when the instance joins, and kept until the job ends."""

    instance: Instance
    link: Link
    health: Health
    spool: Spool
    made: float = field(default_factory=now)
    presence: Presence = Presence.AWAITED
    tries: Tries = field(default_factory=Tries)
    away_since: float = 0.0
    reason: str = ""  # why it is away
    # Its agent
    identity: str = ""
    greeted: float = 0.0  # when the agent last said hello
    entrusted: bool = False  # the agent may hold tasks
    shares: bool = False  # another job runs there
    round_trips: list[float] = field(default_factory=list)
    # Its slots
    slots: int = 0
    worker: int = -1  # the first slot's number
    first_up: float | None = None  # when the slots were first there
    given_up: float | None = None  # when the instance was given up
    price: float | None = None  # USD/hour
    # Its attempts, beside those in its ledger
    looked_for: set[tuple[int, int]] = field(default_factory=set)  # ended well, if the expected objects exist
    fault: str = ""  # why it could not run an attempt, the last time

    @property
    def name(self) -> str:
        """The instance's id, by which the schedule and the journal know it."""
        return self.instance.id

    @property
    def ledger(self) -> Ledger:
        """Attempts that the agent may hold."""
        return self.link.ledger

    @property
    def is_up(self) -> bool:
        """Whether the instance can be reached."""
        return self.presence is Presence.UP

    @property
    def is_away(self) -> bool:
        """Whether the instance can't be reached, but may come back."""
        return self.presence in (Presence.AWAY, Presence.GIVEN_UP)

    @property
    def is_gone(self) -> bool:
        """Whether the instance no longer takes part in the job."""
        return self.presence is Presence.GONE

    @property
    def is_usable(self) -> bool:
        """Whether the instance gets tasks, now or later."""
        return self.presence not in (Presence.GIVEN_UP, Presence.GONE) and self.health.set_aside is None

    @property
    def owes_goodbye(self) -> bool:
        """Whether its agent may hold tasks and has not said goodbye."""
        return self.entrusted and not self.is_gone and not self.link.left

    def is_back(self, time: float) -> None:
        """Note that its agent has said hello."""
        self.presence = Presence.UP
        self.greeted = time
        self.given_up = None
        self.tries.failed = 0

    def is_lost(self, time: float) -> None:
        """Note that the connection has ended, and count it if it was short and brought nothing."""
        if self.is_up:
            soon = time - self.greeted < SOON and self.ledger.progress <= self.greeted
            self.tries.fruitless = self.tries.fruitless + 1 if soon else 0

    def measured(self, round_trip: float, most: int) -> float:
        """Note a round trip, in seconds, and return the shortest so far: a busy machine makes the others longer."""
        self.round_trips = sorted([*self.round_trips, round_trip])[:most]
        return self.round_trips[0]
