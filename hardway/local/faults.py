"""Faults of the local cloud on demand: their list, and the request to the daemon to cause one.

`fault_injector` carries them out in the daemon. The help of `local.fault` needs this module: it imports little.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from hardway.config import Settings, number, variables_set
from hardway.errors import UsageError, did_you_mean
from hardway.terminal import command_line

if TYPE_CHECKING:
    from hardway.ec2.instances import Instance
    from hardway.local.running import Running

ON_INSTANCES = ("interrupt", "kill", "hang", "thaw", "drop", "slow")
ON_EC2 = ("capacity", "throttle", "clear")
KINDS = (*ON_INSTANCES, *ON_EC2)
TAKEN_BY = {
    "notice": ("interrupt",),
    "factor": ("slow",),
    "zone": ("capacity",),
    "type": ("capacity",),
    "seconds": ("capacity", "throttle"),
    "left": ("capacity",),
}
"""The kinds of fault for each further value."""
NOTICE_SECONDS = 120.0
THROTTLE_SECONDS = 10.0
CLIENT = "hardway-local-fault"
"""The application in the User-Agent of our own requests, which are not throttled."""
ANSWER_SECONDS = 60


class Fault(NamedTuple):
    """A fault to cause, `after` seconds from now. All times are in seconds.

    `instances` are ids, for the kinds in ON_INSTANCES. `notice` is for interrupt, `factor` for slow, `seconds` (0:
    until cleared) for capacity and throttle. `zone` and `type` (empty: any) are for capacity, with the number that is
    `left`.
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
    """Make a fault of a person's words, with None for each missing one; the instances are chosen later.

    Raises UsageError for words that make no sense.
    """
    _check_selector(kind, selector)
    given = {"notice": notice, "factor": factor, "zone": zone, "type": type, "seconds": seconds, "left": left}
    for name, value in given.items():
        if value is not None and kind not in TAKEN_BY[name]:
            raise UsageError(f"--{name} is not for {kind}")
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
        raise UsageError("capacity needs --zone, --type or both")
    return fault


def _check_selector(kind: str, selector: str | Iterable[str]) -> None:
    if kind not in KINDS:
        raise UsageError(f"there is no fault {kind!r} ({', '.join(KINDS)}){did_you_mean(kind, KINDS)}")
    if kind in ON_INSTANCES and not selector:
        raise UsageError(f"{kind} needs a selector: {command_line('local.fault', kind, 'SELECTOR')}")
    if kind in ON_EC2 and selector:
        raise UsageError(f"{kind} takes no selector: {command_line('local.fault', kind)}")


def _finite(value: Any, what: str) -> float:
    result = float(number(value, float, what))
    if math.isinf(result):
        raise UsageError(f"{what} is {str(value)!r}: it must be finite")
    return result


def choose(settings: Settings, running: Running, fault: Fault, selector: str | Iterable[str]) -> list[Instance]:
    """Select instances of the local cloud, wherever the environment points. Raises HardwayError."""
    from hardway.ec2 import instances

    states = ("pending", "running") if fault.kind in ("interrupt", "kill") else ("running",)
    with variables_set({**running.environment, "AWS_SDK_UA_APP_ID": CLIENT}):
        return instances.select(settings, selector, states=states)


def cause(settings: Settings, running: Running, fault: Fault, selector: str | Iterable[str]) -> None:
    """Have a daemon carry out a fault on selected instances. Raises HardwayError."""
    chosen = choose(settings, running, fault, selector) if selector else []
    send(running, fault._replace(instances=tuple(instance.id for instance in chosen)))


def send(running: Running, fault: Fault) -> None:
    """Have a daemon carry out a fault; return once it is done or, with `after`, arranged.

    Raises UsageError for a fault that the daemon does not know, Failed for one that it could not cause.
    """
    running.cause(json.dumps(fault._asdict()).encode(), ANSWER_SECONDS)
