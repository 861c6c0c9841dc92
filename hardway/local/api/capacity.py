"""RunInstances as EC2 does it: as many instances as there is capacity for, from MinCount to MaxCount."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import moto.ec2.models.instances
import moto.ec2.responses.instances

from hardway.local.api.ec2_error import EC2Error

MOST = 5000
"""Instances that one launch may have: moto makes them all before it answers."""
CODE = "InsufficientInstanceCapacity"

moto_run_instances: Any = moto.ec2.models.instances.InstanceBackend.run_instances
"""moto's own, which asks nobody."""
_moto_answer: Any = moto.ec2.responses.instances.InstanceResponse.run_instances
_most: ContextVar[int | None] = ContextVar("most", default=None)
"""MaxCount of the RunInstances that is being answered: moto itself launches MinCount."""
Grant = Callable[[str, str, int, int], int]
"""Takes zone, type, least and most; returns how many instances may be launched, 0 for less than the least."""
_grant: Grant


def ask(grant: Grant) -> None:
    """Have launches ask this one. To be called before the first launch."""
    global _grant
    _grant = grant


def granted(zone: str, type: str, least: int, most: int) -> int:
    """Ask how many instances of a type a launch gets in a zone, from `least` to `most`; 0 for none. Raises EC2Error."""
    if most > MOST:
        raise EC2Error(400, "InstanceLimitExceeded", f"The local cloud takes no more than {MOST} instances at once.")
    return _grant(zone, type, least, most)


def answer_run_instances(response: Any) -> Any:
    """Answer RunInstances, and remember its MaxCount meanwhile."""
    most = _most.set(response._get_int_param("MaxCount"))
    try:
        return _moto_answer(response)
    finally:
        _most.reset(most)


def run_instances(backend: Any, image_id: str, count: int, *args: Any, **kwargs: Any) -> Any:
    """Launch up to the most in the first zone with enough capacity. Raises EC2Error."""
    template = kwargs.get("launch_template")
    data = backend._get_template_from_args(template).data if template else {}
    type = data.get("InstanceType") if kwargs.get("is_instance_type_default") else ""
    type = type or kwargs.get("instance_type") or ""
    subnets = [kwargs.get("subnet_id"), *(nic.get("SubnetId") for nic in kwargs.get("nics") or ())]
    wanted = zone_of(backend, next(filter(None, subnets), ""), kwargs.get("placement"))
    for zone in [wanted] if wanted else _zones(backend):
        launched = granted(zone, type, count, _most.get() or count)
        if launched:
            if not wanted and zone != _zones(backend)[0]:
                kwargs["placement"] = zone
            return moto_run_instances(backend, image_id, launched, *args, **kwargs)
    raise EC2Error(500, CODE, message(wanted, type))


def _zones(backend: Any) -> list[str]:
    """The zones of a launch that names none, the usual one first."""
    return [backend.region_name + "a", *sorted(backend.get_default_subnets())]


def zone_of(backend: Any, subnet: str | None, placed: str | None) -> str:
    """The zone that a launch names by its subnet or its placement; empty for none."""
    return str(backend.get_subnet(subnet).availability_zone) if subnet else placed or ""


def message(zone: str, type: str) -> str:
    """The words of EC2 for a lack of capacity."""
    where = f"in the Availability Zone you requested ({zone})" if zone else "in any of the Availability Zones"
    return f"We currently do not have sufficient {type} capacity {where}. Try another zone or instance type."
