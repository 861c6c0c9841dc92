"""Launches that EC2 has no capacity for, or not enough: how moto is made to refuse them, or to launch fewer.

What there is capacity for is asked of the function given to `install`. Also the form of EC2's own errors.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any
from xml.sax.saxutils import escape

import moto.ec2.models.instances
import moto.ec2.responses.instances
from werkzeug.exceptions import HTTPException

MOST = 5000
"""Instances that one launch may have: moto makes them all before it answers."""
CODE = "InsufficientInstanceCapacity"

run_instances: Any = moto.ec2.models.instances.InstanceBackend.run_instances
"""moto's own, which asks nobody."""
_answer_run_instances: Any = moto.ec2.responses.instances.InstanceResponse.run_instances
_most: ContextVar[int | None] = ContextVar("most", default=None)
"""MaxCount of the RunInstances that is being answered: moto itself launches MinCount."""
_grant: Callable[[str, str, int, int], int]


class Refusal(HTTPException):
    """An error as EC2 answers it. moto's own would all have status 400, and clients retry by the status."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.code = status
        self.description = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Response><Errors><Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error></Errors>"
            "<RequestID>00000000-0000-0000-0000-000000000000</RequestID></Response>"
        )

    def get_body(self, *args: Any, **kwargs: Any) -> str:
        return self.description or ""

    def get_headers(self, *args: Any, **kwargs: Any) -> list[tuple[str, str]]:
        return [("Content-Type", "text/xml;charset=UTF-8")]


def install(grant: Callable[[str, str, int, int], int]) -> None:
    """Have moto ask `grant(zone, type, least, most)` how many it may launch, before it launches any."""
    global _grant
    _grant = grant
    instances: Any = moto.ec2.models.instances.InstanceBackend
    answers: Any = moto.ec2.responses.instances.InstanceResponse
    instances.run_instances = _run_where_there_is_room
    answers.run_instances = _answer_up_to_the_most


def granted(zone: str, type: str, least: int, most: int) -> int:
    """How many of a type there are in a zone for a launch of at least and at most so many. Raises Refusal."""
    if most > MOST:
        raise Refusal(400, "InstanceLimitExceeded", f"The local cloud takes no more than {MOST} instances at once.")
    return _grant(zone, type, least, most)


def _answer_up_to_the_most(response: Any) -> Any:
    most = _most.set(response._get_int_param("MaxCount"))
    try:
        return _answer_run_instances(response)
    finally:
        _most.reset(most)


def _run_where_there_is_room(backend: Any, image_id: str, count: int, *args: Any, **kwargs: Any) -> Any:
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
            return run_instances(backend, image_id, launched, *args, **kwargs)
    raise Refusal(500, CODE, message(wanted, type))


def _zones(backend: Any) -> list[str]:
    """Where a launch that names no zone may go, the usual one first."""
    return [backend.region_name + "a", *sorted(backend.get_default_subnets())]


def zone_of(backend: Any, subnet: str | None, placed: str | None) -> str:
    """The zone that a launch names by its subnet or its placement; empty for none."""
    return str(backend.get_subnet(subnet).availability_zone) if subnet else placed or ""


def message(zone: str, type: str) -> str:
    """What EC2 says of a lack of capacity."""
    where = f"in the Availability Zone you requested ({zone})" if zone else "in any of the Availability Zones"
    return f"We currently do not have sufficient {type} capacity {where}. Try another zone or instance type."
