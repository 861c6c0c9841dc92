"""Launches that EC2 has no capacity for: how moto is made to refuse them, in a fleet override by override.

What there is no capacity for is asked of the function given to `install`. Also the form of EC2's own errors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from xml.sax.saxutils import escape

import moto.ec2.models.fleets
import moto.ec2.models.instances
import moto.ec2.responses.fleets
from werkzeug.exceptions import HTTPException

CODE = "InsufficientInstanceCapacity"

_run_instances = moto.ec2.models.instances.InstanceBackend.run_instances
_create_fleet = moto.ec2.models.fleets.FleetsBackend.create_fleet
_answer_create_fleet = moto.ec2.responses.fleets.Fleets.create_fleet
_lacks: Callable[[str, str], bool]


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


def install(lacks: Callable[[str, str], bool]) -> None:
    """Have moto ask `lacks(zone, type)` before it launches anything."""
    global _lacks
    _lacks = lacks
    instances: Any = moto.ec2.models.instances.InstanceBackend
    fleets: Any = moto.ec2.models.fleets.FleetsBackend
    answers: Any = moto.ec2.responses.fleets.Fleets
    instances.run_instances = _run_where_there_is_room
    fleets.create_fleet = _create_fleet_of_what_there_is
    answers.create_fleet = _answer_with_errors


def _run_where_there_is_room(backend: Any, *args: Any, **kwargs: Any) -> Any:
    template = kwargs.get("launch_template")
    data = backend._get_template_from_args(template).data if template else {}
    type = data.get("InstanceType") if kwargs.get("is_instance_type_default") else ""
    type = type or kwargs.get("instance_type") or ""
    subnets = [kwargs.get("subnet_id"), *(nic.get("SubnetId") for nic in kwargs.get("nics") or ())]
    wanted = _wanted_zone(backend, next(filter(None, subnets), ""), kwargs.get("placement"))
    zone = _zone_with_room(backend, wanted, type)
    if not zone:
        raise Refusal(500, CODE, _message(wanted, type))
    if not wanted and zone != _zones(backend)[0]:
        kwargs["placement"] = zone
    return _run_instances(backend, *args, **kwargs)


def _create_fleet_of_what_there_is(backend: Any, *args: Any, **kwargs: Any) -> Any:
    """Leave out what there is no capacity for, and note it in the fleet's `errors`."""
    errors: list[dict[str, Any]] = []
    configs = []
    capacity = dict(kwargs["target_capacity_specification"])
    lifecycle = capacity.get("DefaultTargetCapacityType") or "on-demand"
    for config in kwargs["launch_template_configs"]:
        named = config["LaunchTemplateSpecification"]
        data = backend._get_template_from_args(named).data
        overrides = config.get("Overrides") or [{}]
        left = []
        for override in overrides:
            spec = {**data, **override}
            placed = override.get("AvailabilityZone") or (spec.get("Placement") or {}).get("AvailabilityZone")
            zone = _wanted_zone(backend, spec.get("SubnetId"), placed)
            type = spec.get("InstanceType") or ""
            if _zone_with_room(backend, zone, type):
                left.append(override)
                continue
            errors.append(
                {
                    "LaunchTemplateAndOverrides": {"LaunchTemplateSpecification": named, "Overrides": override},
                    "Lifecycle": lifecycle,
                    "ErrorCode": CODE,
                    "ErrorMessage": _message(zone, type),
                }
            )
        if left:
            configs.append({**config, "Overrides": left if config.get("Overrides") else []})
    if not configs:
        capacity = {name: value if name.endswith("Type") else 0 for name, value in capacity.items()}
    fleet: Any = _create_fleet(
        backend,
        *args,
        **{**kwargs, "launch_template_configs": configs, "target_capacity_specification": capacity},
    )
    fleet.errors = errors
    return fleet


def _answer_with_errors(response: Any) -> Any:
    answer: Any = _answer_create_fleet(response)
    fleet = response.ec2_backend.get_fleet(answer.result["FleetId"])
    if fleet.type == "instant":
        answer.result["Errors"] = fleet.errors
    return answer


def _zones(backend: Any) -> list[str]:
    """Where a launch that names no zone may go, the usual one first."""
    return [backend.region_name + "a", *sorted(backend.get_default_subnets())]


def _wanted_zone(backend: Any, subnet: str | None, placed: str | None) -> str:
    return str(backend.get_subnet(subnet).availability_zone) if subnet else placed or ""


def _zone_with_room(backend: Any, wanted: str, type: str) -> str:
    return next((zone for zone in ([wanted] if wanted else _zones(backend)) if not _lacks(zone, type)), "")


def _message(zone: str, type: str) -> str:
    where = f"in the Availability Zone you requested ({zone})" if zone else "in any of the Availability Zones"
    return f"We currently do not have sufficient {type} capacity {where}. Try another zone or instance type."
