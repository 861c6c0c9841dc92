"""The way from a fleet to as many ready instances as were asked for; or to the reason for fewer.

Instances for which EC2 has no capacity are asked for again. An instance that dies while it starts, or doesn't answer
within half of the time limit, is replaced. Ready instances are kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from hardway.config import Ec2
from hardway.ec2.instances import ALIVE, Instance
from hardway.errors import Failed
from hardway.launch.fleet import Fleet
from hardway.launch.readiness import TICK_SECONDS, Pace, Probes, some, why_late
from hardway.launch.refusals import Refusal, told
from hardway.tables import count
from hardway.terminal import printable

_ASK_AGAIN_SECONDS = (2.0, 30.0)  # after EC2 had no capacity: at first, and at most
_THROTTLED_SECONDS = (0.3, 5.0)  # after it took no more requests, or started no more instances
# Reasons for an end that the image, the disks and their key don't cause:
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_StateReason.html
_ENDED_BY_SOMEBODY = ("Client.UserInitiatedShutdown", "Client.InstanceInitiatedShutdown", "Client.InstanceTerminated")


def most_replacements(num: int) -> int:
    """Return the most instances that a launch of `num` may replace: more losses have a common cause."""
    return max(2, num // 4)


def lowest_enough(ec2: Ec2) -> int:
    """Return the fewest instances with which a launch may end well."""
    return ec2.min or (1 if ec2.seconds_wait else ec2.num)


class LaunchVerdict(Enum):
    """The verdict on a launch: it has enough instances, may yet get them, or can't any more."""

    ENOUGH = auto()
    WAIT = auto()
    TOO_FEW = auto()


@dataclass(frozen=True)
class Standing:
    """The state of a launch after `elapsed` seconds, in numbers of instances.

    Some of the `started` instances are `ready`, some `waiting`, the rest is lost. User data that `failed` would also
    fail on other instances. The last request to EC2 got `short` too few; `soon` tells whether EC2 may have more soon.
    `lacking` of the ready instances should have been on demand. `asks` is False once no more instances are asked for,
    however many are missing.
    """

    elapsed: float
    ready: int = 0
    waiting: int = 0
    started: int = 0
    failed: int = 0
    short: int = 0
    soon: bool = True
    lacking: int = 0
    asks: bool = True


def startable(ec2: Ec2, at: Standing) -> int:
    """Return how many instances may still be started, replacements included."""
    return ec2.num + most_replacements(ec2.num) - at.started


def missing(ec2: Ec2, at: Standing) -> int:
    """Return how many more instances to ask for; 0 once hope, time or replacements are used up."""
    if not at.asks or at.elapsed >= ec2.seconds_timeout or (at.short and not at.soon):
        return 0
    return max(0, min(ec2.num - at.ready - at.waiting - at.failed, startable(ec2, at)))


def verdict(ec2: Ec2, at: Standing) -> LaunchVerdict:
    """Judge whether the ready instances are enough: all of them always are.

    Fewer are enough only if no on-demand instance is missing: `min` instances once EC2 has no more, any number after
    `seconds_wait`.
    """
    lowest = lowest_enough(ec2)
    more = missing(ec2, at) > 0

    def will_do(least: int) -> bool:
        return at.ready >= least and not at.lacking

    if at.ready == ec2.num or (ec2.seconds_wait and at.elapsed >= ec2.seconds_wait and will_do(lowest)):
        return LaunchVerdict.ENOUGH
    if at.elapsed >= ec2.seconds_timeout:
        return LaunchVerdict.ENOUGH if will_do(ec2.min or ec2.num) else LaunchVerdict.TOO_FEW
    if at.waiting:
        return LaunchVerdict.WAIT if more or at.ready + at.waiting >= lowest else LaunchVerdict.TOO_FEW
    if more:
        return LaunchVerdict.ENOUGH if at.short and ec2.min and will_do(ec2.min) else LaunchVerdict.WAIT
    return LaunchVerdict.ENOUGH if will_do(lowest) else LaunchVerdict.TOO_FEW


class Gathering:
    """One launch, from the first call to enough instances.

    `on_ready` is called with the change of the number of ready instances. Without `wait` an instance counts as ready
    once EC2 shows it.
    """

    def __init__(
        self,
        ec2: Ec2,
        wait: bool,
        fleet: Fleet,
        probes: Probes,
        say: Callable[[str], None],
        on_ready: Callable[[int], None],
    ) -> None:
        self._ec2 = ec2
        self._wait = wait
        self._fleet = fleet
        self._probes = probes
        self._say = say
        self._on_ready = on_ready
        self._begun = time.monotonic()
        self._asked = False
        self._started = 0
        self._waiting: dict[str, float] = {}
        """The start time of each waiting instance, by its id."""
        self._ready: dict[str, Instance] = {}
        self._shown: dict[str, Instance] = {}
        self._lost: list[str] = []
        self._failed: list[str] = []
        self._refusals: list[Refusal] = []
        self._short = 0
        self._throttled = False
        """Whether EC2 has refused the last request for its rate: missing instances are no lack of capacity yet."""
        self._in_vain = False
        """Whether another instance would end for the same reason as an earlier one."""
        self._ask_at = 0.0
        self._ask_pause = 0.0

    def run(self) -> list[Instance]:
        """Return the ready instances once they are enough; all other started instances have been terminated before.

        Raises Failed; then all started instances are still running.
        """
        pace = Pace()
        told = 0
        while True:
            if self._elapsed() >= self._ask_at and (num := self._missing()):
                self._ask(num)
            if pace.is_due():
                self._look()
            self._probe()
            self._on_ready(len(self._ready) - told)
            told = len(self._ready)
            found = verdict(self._ec2, self._standing())
            if found is LaunchVerdict.TOO_FEW:
                raise Failed(self._why_not())
            if found is LaunchVerdict.ENOUGH:
                return self._settle()
            time.sleep(TICK_SECONDS)

    def _elapsed(self) -> float:
        return time.monotonic() - self._begun

    def _standing(self) -> Standing:
        return Standing(
            elapsed=self._elapsed(),
            ready=len(self._ready),
            waiting=len(self._waiting),
            started=self._started,
            failed=len(self._failed),
            short=self._short,
            soon=not self._refusals or any(refusal.is_passing for refusal in self._refusals),
            lacking=self._fleet.lacks_on_demand(self._ready),
            # Without waiting, nothing is replaced.
            asks=not self._in_vain and (self._wait or self._throttled or not self._asked),
        )

    def _startable(self) -> int:
        return startable(self._ec2, self._standing())

    def _missing(self) -> int:
        return missing(self._ec2, self._standing())

    def _ask(self, num: int) -> None:
        ids, self._refusals = self._fleet.start(num)
        if ids and not self._asked:
            self._fleet.check_keep(ids[0])
        self._asked = True
        self._started += len(ids)
        self._waiting.update(dict.fromkeys(ids, self._elapsed()))
        missing = num - len(ids)
        was, self._throttled = self._short or self._throttled, any(refusal.is_throttled for refusal in self._refusals)
        self._short = 0 if self._throttled else missing
        if not missing:
            return
        first, longest = _THROTTLED_SECONDS if self._throttled else _ASK_AGAIN_SECONDS
        self._ask_pause = first if ids or not was else min(self._ask_pause * 2, longest)
        self._ask_at = self._elapsed() + self._ask_pause
        if not was and self._missing():
            self._say(f"{self._lacking(missing)}; asking again")

    def _look(self) -> None:
        self._shown = self._fleet.look()
        lost = {}
        for id, instance in self._shown.items():
            if instance.state not in ALIVE and (id in self._waiting or id in self._ready):
                reason = f" ({instance.why_ended})" if instance.why_ended else ""
                lost[id] = f"{instance} went {instance.state} while it started{reason}"
                self._in_vain |= _is_in_vain(instance.state_reason)
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
        if lost and self._missing():
            self._say(f"{some(list(lost.values()))}; replacing {min(len(lost), self._startable())}")

    def _unreachable(self) -> list[str]:
        """Return the ids that had half of the time limit; none while no instance is ready, as a new one won't be."""
        if not self._wait or not (self._ready or self._ec2.num == 1):
            return []
        patience = self._ec2.seconds_timeout / 2
        waiting = {id: since for id, since in self._waiting.items() if id not in self._probes.busy}
        return [id for id, since in waiting.items() if self._elapsed() - since > patience]

    def _late(self, id: str) -> str:
        instance = self._shown.get(id)
        if instance is None:
            return f"{id} is not shown by EC2 yet"
        return why_late(instance, self._probes.refusals)

    def _probe(self) -> None:
        waiting = [self._shown[id] for id in self._waiting if id in self._shown]
        done = self._probes.ready(waiting) if self._wait else [instance.id for instance in waiting]
        for id in done:
            del self._waiting[id]
            self._ready[id] = self._shown[id]
        for id in [id for id in self._probes.failed if id in self._waiting]:
            del self._waiting[id]
            self._failed.append(id)
            self._lost.append(f"{printable(str(self._shown[id]))}: {self._probes.failed[id]}")

    def _settle(self) -> list[Instance]:
        left = [*self._waiting, *self._failed]
        if left:
            self._fleet.terminate(left)
        ready, num = len(self._ready), self._ec2.num
        if ready < num:
            ended = f", {len(left)} terminated" if left else ""
            reasons = f" ({self._reasons()})" if self._reasons() else ""
            self._say(f"{ready} of {num} instances are ready: going on with them{ended}{reasons}")
        return sorted(self._ready.values(), key=lambda i: (i.launched, i.id))

    def _why_not(self) -> str:
        reasons = self._reasons()
        if self._waiting and self._elapsed() >= self._ec2.seconds_timeout:
            waiting = some([self._late(id) for id in self._waiting])
            after = f"after {self._elapsed():.0f} s"
            said = f"{len(self._waiting)} of {self._ec2.num} instances not ready {after}: {waiting}"
            return f"{said}; {reasons}" if reasons else said
        if self._failed:
            return f"{count(self._ec2.num - len(self._ready), 'instance')} of {self._ec2.num} not ready: {reasons}"
        return f"only {len(self._ready) + len(self._waiting)} of {self._ec2.num} instances could be started: {reasons}"

    def _reasons(self) -> str:
        parts = []
        missing = self._ec2.num - len(self._ready) - len(self._waiting)
        if self._short or (self._throttled and missing > 0):
            parts.append(self._lacking(self._short or missing))
        if lacking := self._fleet.lacks_on_demand(self._ready):
            parts.append(f"{count(lacking, 'instance')} on demand {'is' if lacking == 1 else 'are'} missing")
        if self._lost:
            parts.append(some(self._lost))
        if self._in_vain:
            parts.append("another one would end in the same way")
        elif self._lost and self._startable() <= 0:
            parts.append(f"no more than {most_replacements(self._ec2.num)} are replaced")
        return "; ".join(parts)

    def _lacking(self, missing: int) -> str:
        return told(self._refusals, missing, self._ec2.num, self._fleet.ask_for_more)


def _is_in_vain(reason: str) -> bool:
    """Return whether the cause is the image, the disks or their key: then every other instance would end as well."""
    return reason.startswith("Client.") and reason not in _ENDED_BY_SOMEBODY
