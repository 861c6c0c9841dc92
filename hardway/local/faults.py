"""Faults of the local cloud on demand: what may be asked for, how the daemon is told, and who carries it out there.

`read` and `send` are the asking side; `Faults` lives in the daemon, on its event loop. What a fault does to an instance
is its `Host`'s and its `Instance`'s; those of EC2 itself (no capacity, throttling) are kept here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import threading
import time
import urllib.error
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from hardway.config import Settings, number, variables_set
from hardway.ec2 import instances
from hardway.errors import Failed, UsageError, did_you_mean
from hardway.local.daemon import FAULT_PATH, Running
from hardway.local.fault_kinds import KINDS, NOTICE_SECONDS, ON_EC2, ON_INSTANCES, THROTTLE_SECONDS

if TYPE_CHECKING:
    from hardway.local.cloud import Cloud, Instance

CLIENT = "hardway-local-fault"
"""The application that our own requests name themselves after in their User-Agent, not to be throttled."""
ANSWER_SECONDS = 60

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fault:
    """What is to go wrong. Times are in seconds; `after` is when, from now.

    `instances` are ids, for the kinds in ON_INSTANCES. `notice` is for interrupt, `factor` for slow, `zone` and `type`
    (empty: any) for capacity, of which so many are `left`, `seconds` (0: until cleared) for capacity and throttle.
    """

    kind: str
    instances: tuple[str, ...] = ()
    after: float = 0.0
    notice: float = NOTICE_SECONDS
    factor: float = 1.0
    zone: str = ""
    type: str = ""
    seconds: float = 0.0
    left: int = 0


def read(
    kind: str,
    selector: str | Iterable[str],
    after: str | float = 0,
    notice: str | float | None = None,
    factor: str | float | None = None,
    zone: str | None = None,
    type: str | None = None,
    seconds: str | float | None = None,
    left: str | int | None = None,
) -> Fault:
    """A fault from what a person gave, None for what wasn't; its instances are still to be chosen.

    Raises UsageError for what makes no sense.
    """
    if kind not in KINDS:
        raise UsageError(f"there is no fault {kind!r} ({', '.join(KINDS)}){did_you_mean(kind, KINDS)}")
    if kind in ON_INSTANCES and not selector:
        raise UsageError(f"{kind} of which instances? Say so: inv local.fault {kind} SELECTOR")
    if kind in ON_EC2 and selector:
        raise UsageError(f"{kind} is about no instance: inv local.fault {kind}, without {selector!r}")
    for flag, value, kinds in (
        ("--notice", notice, ("interrupt",)),
        ("--factor", factor, ("slow",)),
        ("--zone", zone, ("capacity",)),
        ("--type", type, ("capacity",)),
        ("--seconds", seconds, ("capacity", "throttle")),
        ("--left", left, ("capacity",)),
    ):
        if value is not None and kind not in kinds:
            raise UsageError(f"{flag} is not for {kind}")
    fault = Fault(
        kind,
        after=_finite(after, "--after"),
        notice=NOTICE_SECONDS if notice is None else _finite(notice, "--notice"),
        factor=1.0 if factor is None else _finite(factor, "--factor"),
        zone=str(zone or ""),
        type=str(type or ""),
        seconds=(THROTTLE_SECONDS if kind == "throttle" else 0.0) if seconds is None else _finite(seconds, "--seconds"),
        left=0 if left is None else number(left, int, "--left"),
    )
    if kind == "slow" and (factor is None or fault.factor < 1):
        raise UsageError("slow needs --factor N: how many times slower, 1 or more (1 is as fast as before)")
    if kind == "capacity" and not (fault.zone or fault.type):
        raise UsageError("no capacity for what? Say --zone, --type or both")
    return fault


def _finite(value: Any, what: str) -> float:
    result = float(number(value, float, what))
    if math.isinf(result):
        raise UsageError(f"{what} is {str(value)!r}: it must be finite")
    return result


def choose(
    settings: Settings, running: Running, fault: Fault, selector: str | Iterable[str]
) -> list[instances.Instance]:
    """The instances of the local cloud that a selector means, wherever the environment points. Raises HardwayError."""
    states = ("pending", "running") if fault.kind in ("interrupt", "kill") else ("running",)
    with variables_set({**running.environment, "AWS_SDK_UA_APP_ID": CLIENT}):
        return instances.select(settings, selector, states=states)


def cause(settings: Settings, running: Running, fault: Fault, selector: str | Iterable[str]) -> None:
    """Have a daemon carry out a fault on what a selector means. Raises HardwayError; see `choose` and `send`."""
    chosen = choose(settings, running, fault, selector) if selector else []
    send(running, replace(fault, instances=tuple(instance.id for instance in chosen)))


def send(running: Running, fault: Fault) -> None:
    """Have a daemon carry out a fault; returns when that is done, or, with `after`, arranged.

    Raises UsageError for what the daemon does not know, Failed for what it could not do.
    """
    try:
        running.ask("POST", FAULT_PATH, json.dumps(asdict(fault)).encode(), ANSWER_SECONDS).close()
    except urllib.error.HTTPError as error:
        with error:
            said = error.read().decode(errors="replace")
        raise (UsageError if error.code == 400 else Failed)(said) from None
    except OSError as error:
        raise Failed(f"the local cloud does not answer: {error}") from None


@dataclass
class _Shortage:
    """Of a type in a zone (empty: any) so many are left, `until` then of the monotonic clock."""

    zone: str
    type: str
    left: int
    until: float


class Faults:
    """Carries out faults in a daemon; on the event loop, where nothing else is said."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._loop = asyncio.get_running_loop()
        self._coming: set[asyncio.Task[None]] = set()
        self._planned: set[asyncio.Task[None]] = set()
        self._throttled_until = 0.0
        self._shortages: list[_Shortage] = []
        self._granting = threading.Lock()

    # for other threads

    def grant(self, zone: str, type: str, least: int, most: int) -> int:
        """How many instances of a type can be launched in a zone now, of at most `most`; 0 for less than `least`."""
        now = time.monotonic()
        with self._granting:
            short = [
                shortage
                for shortage in self._shortages
                if shortage.until > now and shortage.zone in ("", zone) and shortage.type in ("", type)
            ]
            count = min([most, *(shortage.left for shortage in short)])
            if count < least:
                return 0
            for shortage in short:
                shortage.left -= count
            return count

    def throttles(self, environ: Mapping[str, Any]) -> bool:
        """Whether a request, by its WSGI environment, is one of EC2's API and there are too many of them now."""
        return (
            time.monotonic() < self._throttled_until
            and "/ec2/" in environ.get("HTTP_AUTHORIZATION", "")
            and f"app/{CLIENT}" not in environ.get("HTTP_USER_AGENT", "")
        )

    def answer(self, body: bytes) -> tuple[str, str]:
        """Take a fault as `send` sends it; returns an HTTP status and what to say."""
        try:
            given = json.loads(body)
            fault = Fault(**{**given, "instances": tuple(given["instances"])})
        except (ValueError, TypeError, KeyError) as error:
            return "400 Bad Request", f"no fault: {error}"
        try:
            asyncio.run_coroutine_threadsafe(self._take(fault), self._loop).result(ANSWER_SECONDS)
        except UsageError as error:
            return "400 Bad Request", str(error)
        except Exception as error:
            log.exception("%s", fault)
            return "500 Internal Server Error", f"{fault.kind} failed: {type(error).__name__}: {error}"
        return "200 OK", ""

    # on the event loop

    async def close(self) -> None:
        """Forget what was still to come."""
        for task in self._coming:
            task.cancel()
        await asyncio.gather(*self._coming, return_exceptions=True)

    async def _take(self, fault: Fault) -> None:
        self._check(fault)
        if fault.after:
            task = self._later(fault.after, self._carry_out(fault))
            self._planned.add(task)
            task.add_done_callback(self._planned.discard)
        else:
            await self._carry_out(fault)

    def _check(self, fault: Fault) -> None:
        """Refuse what can't be and would quietly do nothing."""
        zones, types = self._cloud.zones_and_types()
        if fault.zone and fault.zone not in zones:
            raise UsageError(f"there is no zone {fault.zone!r}{did_you_mean(fault.zone, zones)}")
        if fault.type and fault.type not in types:
            raise UsageError(f"there is no instance type {fault.type!r}{did_you_mean(fault.type, types)}")

    def _later(self, seconds: float, work: Any) -> asyncio.Task[None]:
        async def wait() -> None:
            try:
                await asyncio.sleep(seconds)
            except asyncio.CancelledError:
                work.close()
                raise
            try:
                await work
            except Exception:
                log.exception("a fault failed")

        task = self._loop.create_task(wait())
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)
        return task

    async def _carry_out(self, fault: Fault) -> None:
        if fault.kind in ON_INSTANCES:
            act: Callable[[Instance, Fault], Any] = getattr(self, f"_{fault.kind}")
            found = [self._cloud.instances[id] for id in fault.instances if id in self._cloud.instances]
            await asyncio.gather(*(act(instance, fault) for instance in found if instance.alive))
        elif fault.kind == "capacity":
            now = time.monotonic()
            left = [shortage for shortage in self._shortages if shortage.until > now]
            self._shortages = [*left, _Shortage(fault.zone, fault.type, fault.left, _end(fault.seconds))]
        elif fault.kind == "throttle":
            self._throttled_until = _end(fault.seconds)
        elif fault.kind == "clear":
            self._clear()

    def _clear(self) -> None:
        for task in self._planned:
            task.cancel()
        self._shortages = []
        self._throttled_until = 0.0
        for host in self._cloud.hosts.values():
            host.thaw()
            host.slow(1)

    async def _interrupt(self, instance: Instance, fault: Fault) -> None:
        at = datetime.now(timezone.utc) + timedelta(seconds=fault.notice)
        instance.interruption = min(at, instance.interruption or at)
        if fault.notice:
            self._later(fault.notice, self._take_back(instance))
        else:
            await self._take_back(instance)

    async def _take_back(self, instance: Instance) -> None:
        if instance.alive:
            await self._cloud.lose(instance, "Server.SpotInstanceTermination", "Spot instance termination")

    async def _kill(self, instance: Instance, fault: Fault) -> None:
        await self._cloud.lose(instance, "Server.InternalError", "Internal error")

    async def _hang(self, instance: Instance, fault: Fault) -> None:
        if host := self._cloud.hosts.get(instance.id):
            host.hang()

    async def _thaw(self, instance: Instance, fault: Fault) -> None:
        if host := self._cloud.hosts.get(instance.id):
            host.thaw()

    async def _drop(self, instance: Instance, fault: Fault) -> None:
        if host := self._cloud.hosts.get(instance.id):
            host.drop()

    async def _slow(self, instance: Instance, fault: Fault) -> None:
        if host := self._cloud.hosts.get(instance.id):
            host.slow(fault.factor)


def _end(seconds: float) -> float:
    """When something ends that lasts so long from now; 0 is forever."""
    return time.monotonic() + seconds if seconds else math.inf
