"""Asks EC2, in worker threads, for the instances that have died or may join, and for prices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue

from hardway.config import Settings
from hardway.ec2 import instances as ec2
from hardway.ec2.instances import Instance
from hardway.money.prices import hourly
from hardway.pmap.events import Described, Event, Found, Priced
from hardway.pmap.link import now
from hardway.pmap.member import Member
from hardway.system.workers import Workers

ASK_EVERY = 5.0  # seconds between questions about instances that can't be reached
LOOK_EVERY = 3.0  # seconds between looks for instances that may join


class Poller:
    """Questions to EC2. Answers come as events; there is no answer if EC2 can't be asked."""

    def __init__(
        self,
        settings: Settings,
        workers: Workers,
        events: SimpleQueue[Event],
        find: Callable[[], Sequence[Instance]] | None,
    ) -> None:
        """Take `find`, which returns the instances that match now; without it none joins."""
        self._settings = settings
        self._workers = workers
        self._events = events
        self._find = find
        self._asking = False
        self._asked = 0.0
        self._looked = now()

    def poll(self, away: Sequence[Member], time: float) -> None:
        """Ask about members that are `away`, and for instances that may join, if it is time."""
        if away and not self._asking and time - self._asked > ASK_EVERY:
            self._asking = True
            self._asked = time
            self._ask([member.name for member in away])
        if self._find and time - self._looked > LOOK_EVERY:
            self._looked = time
            self._look(self._find)

    def price(self, members: Sequence[Member]) -> None:
        """Set each member's price once it is known."""

        def work() -> None:
            prices: Mapping[str, float] = hourly(self._settings, [member.instance for member in members])
            for member in members:
                member.price = prices.get(member.name, member.price)
            self._events.put(Priced())

        self._workers.do(work)

    def _ask(self, ids: Sequence[str]) -> None:
        def work() -> None:
            try:
                states = {found.id: found.state for found in ec2.described(self._settings, ids)}
                self._events.put(Described(ids, states))
            finally:
                self._asking = False

        self._workers.do(work)

    def _look(self, find: Callable[[], Sequence[Instance]]) -> None:
        def work() -> None:
            self._events.put(Found(find()))

        self._workers.do(work)
