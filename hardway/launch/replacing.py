"""From a fleet to as many ready instances as were asked for; or to why there are fewer.

What EC2 has no capacity for is asked for again; an instance that dies while it starts, or doesn't answer in half of the
time there is, is replaced, and those that are ready are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from hardway import aws
from hardway.ec2.instances import ALIVE, Instance
from hardway.errors import Failed
from hardway.launch.fleet import Fleet, Refusal
from hardway.launch.readiness import TICK_SECONDS, Pace, Probes, some, why_late
from hardway.tables import count

_ASK_AGAIN_SECONDS = (2.0, 30.0)  # after EC2 had no capacity: at first, and at most


def most_replacements(num: int) -> int:
    """How many instances a launch of `num` may replace: what is wrong with more is wrong with all of them."""
    return max(2, num // 4)


@dataclass(frozen=True)
class Wanted:
    """How many instances, and when fewer will do.

    `least` is enough once EC2 has no more (0: only `num` is); after `seconds_wait` (0: never) those that are ready are,
    if they are at least one. Without `wait` an instance counts as ready once EC2 shows it.
    """

    num: int
    least: int
    wait: bool
    seconds_timeout: float
    seconds_wait: float

    @property
    def lowest(self) -> int:
        """With fewer there is no way to succeed."""
        return self.least or (1 if self.seconds_wait else self.num)


class Gathering:
    """One launch, from the first call to enough instances. `on_ready` is told how many more, or fewer, are ready."""

    def __init__(
        self, wanted: Wanted, fleet: Fleet, probes: Probes, say: Callable[[str], None], on_ready: Callable[[int], None]
    ) -> None:
        self._wanted = wanted
        self._fleet = fleet
        self._probes = probes
        self._say = say
        self._on_ready = on_ready
        self._begun = time.monotonic()
        self._asked = False
        self._started = 0
        self._waiting: dict[str, float] = {}
        """Ids to when they were started."""
        self._ready: dict[str, Instance] = {}
        self._shown: dict[str, Instance] = {}
        self._lost: list[str] = []
        self._refusals: list[Refusal] = []
        self._short = 0
        self._ask_at = 0.0
        self._ask_pause = _ASK_AGAIN_SECONDS[0]

    def run(self) -> list[Instance]:
        """The instances that are ready, when they are enough; whatever else was started is terminated by then.

        Raises Failed, with all that was started still running.
        """
        pace = Pace()
        told = 0
        while True:
            if self._may_ask() and self._elapsed() >= self._ask_at:
                self._ask()
            if pace.is_due():
                self._look()
            self._probe()
            self._on_ready(len(self._ready) - told)
            told = len(self._ready)
            if self._is_enough():
                return self._settle()
            time.sleep(TICK_SECONDS)

    def _elapsed(self) -> float:
        return time.monotonic() - self._begun

    def _missing(self) -> int:
        return self._wanted.num - len(self._ready) - len(self._waiting)

    def _may_ask(self) -> bool:
        """Whether more may be started: some are missing, and neither hope, time nor replacements are used up."""
        if self._elapsed() >= self._wanted.seconds_timeout or (self._asked and not self._wanted.wait):
            return False
        if self._short and self._refusals and not any(aws.lacks_capacity_now(r.code) for r in self._refusals):
            return False
        return min(self._missing(), self._startable()) > 0

    def _startable(self) -> int:
        return self._wanted.num + most_replacements(self._wanted.num) - self._started

    def _ask(self) -> None:
        wanted = min(self._missing(), self._startable())
        ids, self._refusals = self._fleet.start(wanted)
        if ids and not self._asked:
            self._fleet.check_keep(ids[0])
        self._asked = True
        self._started += len(ids)
        self._waiting.update(dict.fromkeys(ids, self._elapsed()))
        was_short, self._short = self._short, wanted - len(ids)
        if not self._short:
            return
        self._ask_at = self._elapsed() + self._ask_pause
        self._ask_pause = min(self._ask_pause * 2, _ASK_AGAIN_SECONDS[1])
        if not was_short and self._may_ask():
            self._say(f"{self._lacking()}; asking again")

    def _look(self) -> None:
        self._shown = self._fleet.look()
        lost = {}
        for id, instance in self._shown.items():
            if instance.state not in ALIVE and (id in self._waiting or id in self._ready):
                reason = f" ({instance.state_reason})" if instance.state_reason else ""
                lost[id] = f"{instance} went {instance.state} while it started{reason}"
            elif id in self._ready:
                self._ready[id] = instance
        unreachable = self._unreachable()[: max(0, self._startable() - len(lost))]
        if unreachable:
            self._fleet.terminate(unreachable)
        lost |= {id: f"{self._late(id)}: given up" for id in unreachable}
        for id in lost:
            self._waiting.pop(id, None)
            self._ready.pop(id, None)
        self._lost += lost.values()
        if lost and self._may_ask():
            self._say(f"{some(list(lost.values()))}; replacing {min(len(lost), self._startable())}")

    def _unreachable(self) -> list[str]:
        """Those that had half of the time there is; but if none of several answers, others would not answer either."""
        if not self._wanted.wait or not (self._ready or self._wanted.num == 1):
            return []
        patience = self._wanted.seconds_timeout / 2
        return [id for id, since in self._waiting.items() if self._elapsed() - since > patience]

    def _late(self, id: str) -> str:
        instance = self._shown.get(id)
        if instance is None:
            return f"{id} is not to be seen yet"
        return why_late(instance, self._probes.refusals)

    def _probe(self) -> None:
        waiting = [self._shown[id] for id in self._waiting if id in self._shown]
        done = self._probes.ready(waiting) if self._wanted.wait else [instance.id for instance in waiting]
        for id in done:
            del self._waiting[id]
            self._ready[id] = self._shown[id]

    def _is_enough(self) -> bool:
        """Raises Failed once it can't be any more."""
        wanted, ready, elapsed = self._wanted, len(self._ready), self._elapsed()
        # Fewer will do only if those on demand are among them.
        mixed = not self._fleet.lacks_on_demand(self._ready)
        settled = bool(wanted.seconds_wait) and elapsed >= wanted.seconds_wait and ready >= wanted.lowest and mixed
        if ready == wanted.num or settled:
            return True
        if elapsed >= wanted.seconds_timeout:
            enough = ready >= (wanted.least or wanted.num) and mixed
        elif self._waiting:
            enough = False
            if self._may_ask() or ready + len(self._waiting) >= wanted.lowest:
                return False
        elif self._may_ask():
            return bool(self._short and wanted.least and ready >= wanted.least and mixed)
        else:
            enough = ready >= wanted.lowest and mixed
        if not enough:
            raise Failed(self._why_not())
        return True

    def _settle(self) -> list[Instance]:
        if self._waiting:
            self._fleet.terminate(list(self._waiting))
        ready, num = len(self._ready), self._wanted.num
        if ready < num:
            ended = f", {len(self._waiting)} terminated" if self._waiting else ""
            reasons = f" ({self._reasons()})" if self._reasons() else ""
            self._say(f"{ready} of {num} instances are ready: going on with them{ended}{reasons}")
        return sorted(self._ready.values(), key=lambda i: (i.launched, i.id))

    def _why_not(self) -> str:
        reasons = self._reasons()
        if self._waiting and self._elapsed() >= self._wanted.seconds_timeout:
            waiting = some([self._late(id) for id in self._waiting])
            after = f"after {self._elapsed():.0f} s"
            said = f"{len(self._waiting)} of {self._wanted.num} instances not ready {after}: {waiting}"
            return f"{said}; {reasons}" if reasons else said
        return f"only {len(self._ready) + len(self._waiting)} of {self._wanted.num} instances were to be had: {reasons}"

    def _reasons(self) -> str:
        parts = []
        if self._short:
            parts.append(self._lacking())
        if lacking := self._fleet.lacks_on_demand(self._ready):
            parts.append(f"{count(lacking, 'instance')} on demand {'is' if lacking == 1 else 'are'} missing")
        if self._lost:
            parts.append(some(self._lost))
        if self._lost and self._startable() <= 0:
            parts.append(f"no more than {most_replacements(self._wanted.num)} are replaced")
        return "; ".join(parts)

    def _lacking(self) -> str:
        where = some([str(refusal) for refusal in self._refusals], 6) or "it does not say why"
        return f"EC2 has no capacity for {self._short} of {self._wanted.num}: {where}"
