"""Carries out faults in the daemon, on its event loop.

The `Machine` and the `LocalInstance` know the effect of a fault on an instance. Faults of EC2 itself (no capacity,
throttling) are kept here.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from hardway.errors import UsageError, did_you_mean
from hardway.local.api import moto_import
from hardway.local.api.local_instance import LocalInstance
from hardway.local.cloud import Cloud
from hardway.local.faults import ANSWER_SECONDS, CLIENT, Fault
from hardway.local.machines.machine import Machine

ON_MACHINES: Mapping[str, Callable[[Machine, Fault], None]] = {
    "hang": lambda machine, fault: machine.hang(),
    "thaw": lambda machine, fault: machine.thaw(),
    "drop": lambda machine, fault: machine.drop(),
    "slow": lambda machine, fault: machine.slow(fault.factor),
}

log = logging.getLogger(__name__)


@dataclass
class _Shortage:
    """The remaining instances of a type in a zone (empty: any), `until` a time of the monotonic clock."""

    zone: str
    type: str
    left: int
    until: float


class FaultInjector:
    """Carries out faults. Its methods belong to the event loop, unless they say that other threads call them."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._loop = asyncio.get_running_loop()
        self._coming: set[asyncio.Task[None]] = set()
        self._planned: set[asyncio.Task[None]] = set()
        self._throttled_until = 0.0
        self._shortages: list[_Shortage] = []
        self._granting = threading.Lock()
        self._on_instances = {"interrupt": self._interrupt, "kill": self._kill}
        self._on_ec2 = {"capacity": self._shorten, "throttle": self._throttle, "clear": self._clear}

    # for other threads

    def grant(self, zone: str, type: str, least: int, most: int) -> int:
        """Return the number of instances that may be launched, at most `most`, and count them; 0 below `least`."""
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
        """Return whether a request, by its WSGI environment, is a call of EC2 to be throttled now."""
        return (
            time.monotonic() < self._throttled_until
            and "/ec2/" in environ.get("HTTP_AUTHORIZATION", "")
            and f"app/{CLIENT}" not in environ.get("HTTP_USER_AGENT", "")
        )

    def answer(self, body: bytes) -> tuple[str, str]:
        """Take a fault in the form of `faults.send`; return an HTTP status and a message."""
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
        """Forget the faults that are still to come."""
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
        """Raise UsageError for a fault that would quietly do nothing."""
        zones, types = moto_import.zones(), moto_import.instance_types()
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
        if fault.kind in self._on_ec2:
            self._on_ec2[fault.kind](fault)
            return
        instances = [self._cloud.instances[id] for id in fault.instances if id in self._cloud.instances]
        alive = [instance for instance in instances if instance.alive]
        if fault.kind in self._on_instances:
            await asyncio.gather(*(self._on_instances[fault.kind](instance, fault) for instance in alive))
        elif fault.kind in ON_MACHINES:
            for instance in alive:
                if machine := self._cloud.machines.get(instance.id):
                    ON_MACHINES[fault.kind](machine, fault)

    # of instances

    async def _interrupt(self, instance: LocalInstance, fault: Fault) -> None:
        at = datetime.now(timezone.utc) + timedelta(seconds=fault.notice)
        instance.interruption = min(at, instance.interruption or at)
        if fault.notice:
            self._later(fault.notice, self._take_back(instance))
        else:
            await self._take_back(instance)

    async def _take_back(self, instance: LocalInstance) -> None:
        if instance.alive:
            await self._cloud.lose(instance, "Server.SpotInstanceTermination", "Spot instance termination")

    async def _kill(self, instance: LocalInstance, fault: Fault) -> None:
        await self._cloud.lose(instance, "Server.InternalError", "Internal error")

    # of EC2

    def _shorten(self, fault: Fault) -> None:
        now = time.monotonic()
        left = [shortage for shortage in self._shortages if shortage.until > now]
        self._shortages = [*left, _Shortage(fault.zone, fault.type, fault.left, _end(fault.seconds))]

    def _throttle(self, fault: Fault) -> None:
        self._throttled_until = _end(fault.seconds)

    def _clear(self, _fault: Fault) -> None:
        for task in self._planned:
            task.cancel()
        self._shortages = []
        self._throttled_until = 0.0
        for machine in self._cloud.machines.values():
            machine.thaw()
            machine.slow(1)


def _end(seconds: float) -> float:
    """Return the time of the monotonic clock `seconds` from now; 0 means never."""
    return time.monotonic() + seconds if seconds else math.inf
