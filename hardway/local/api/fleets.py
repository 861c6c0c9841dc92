"""CreateFleet of type instant as EC2 does it: all that the launch template says holds for the instances.

moto launches a fleet's instances without their security groups, disks, profile and shutdown behaviour. Here the
overrides are tried in their order until there are enough instances. An override without capacity is in the errors of
the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import moto.ec2.models.fleets
import moto.ec2.responses.fleets
from moto.ec2.utils import convert_tag_spec

from hardway.local.api import capacity, disks
from hardway.local.api.ec2_error import EC2Error

_moto_create_fleet: Any = moto.ec2.models.fleets.FleetsBackend.create_fleet
_moto_answer: Any = moto.ec2.responses.fleets.Fleets.create_fleet
_moto_terminate_instances: Any = moto.ec2.models.fleets.Fleet.terminate_instances


def create_fleet(backend: Any, **kwargs: Any) -> Any:
    """Launch an instant fleet of what there is capacity for. Raises EC2Error."""
    if kwargs["fleet_type"] != "instant":
        return _moto_create_fleet(backend, **kwargs)
    capacities = kwargs["target_capacity_specification"]
    nothing = {name: value if name.endswith("Type") else 0 for name, value in capacities.items()}
    fleet: Any = _moto_create_fleet(backend, **{**kwargs, "target_capacity_specification": nothing})
    fleet.errors = []
    tags = convert_tag_spec(kwargs["tag_specifications"]).get("instance", {})
    for lifecycle, count in _counts(capacities).items():
        _launch(backend, fleet, lifecycle, count, tags)
    fleet.fulfilled_capacity = float(len(fleet.spot_requests) + len(fleet.on_demand_instances))
    return fleet


def _counts(capacities: Mapping[str, Any]) -> dict[str, int]:
    """The number of instances of each lifecycle."""
    counts = {
        "spot": int(capacities.get("SpotTargetCapacity") or 0),
        "on-demand": int(capacities.get("OnDemandTargetCapacity") or 0),
    }
    default = capacities.get("DefaultTargetCapacityType") or "on-demand"
    counts[default] += max(0, int(capacities["TotalTargetCapacity"]) - sum(counts.values()))
    return counts


def _launch(backend: Any, fleet: Any, lifecycle: str, count: int, tags: Mapping[str, str]) -> None:
    for spec in fleet.launch_specs:
        if not count:
            return
        template = backend._get_template_from_args(spec.launch_template_spec).data
        data = {**template, **(spec.overrides or {})}
        placed = data.get("AvailabilityZone") or (data.get("Placement") or {}).get("AvailabilityZone")
        zone = capacity.zone_of(backend, data.get("SubnetId"), placed)
        launched, code, said = _granted(backend, zone, data, lifecycle, count)
        if launched < count:
            fleet.errors.append(
                {
                    "LaunchTemplateAndOverrides": {
                        "LaunchTemplateSpecification": spec.launch_template_spec,
                        "Overrides": spec.overrides or {},
                    },
                    "Lifecycle": lifecycle,
                    "ErrorCode": code,
                    "ErrorMessage": said,
                }
            )
        if not launched:
            continue
        count -= launched
        for instance in _run(backend, fleet, data, zone, lifecycle, launched, tags):
            if lifecycle == "spot":
                fleet.spot_requests.append(SimpleNamespace(id=None, instance=instance, launch_spec=spec))
            else:
                fleet.on_demand_instances.append({"id": None, "instance": instance, "launch_spec": spec})


def _granted(backend: Any, zone: str, data: Mapping[str, Any], lifecycle: str, count: int) -> tuple[int, str, str]:
    """Return the number of instances, and EC2's code and words where these are too few."""
    type = data["InstanceType"]
    if lifecycle == "spot" and (said := capacity.too_cheap(zone, type, data.get("MaxPrice"))):
        return 0, capacity.CHEAP_CODE, said
    try:
        capacity.take_tokens(backend.region_name, count)
    except EC2Error as error:
        return 0, error.error_code, error.said
    launched = capacity.granted(zone, type, 1, count)
    capacity.buckets.give_back(backend.region_name, count - launched)
    return launched, capacity.CODE, capacity.message(zone, type)


def _run(
    backend: Any, fleet: Any, data: Mapping[str, Any], zone: str, lifecycle: str, count: int, tags: Mapping[str, str]
) -> list[Any]:
    tagged = convert_tag_spec(data.get("TagSpecifications") or [])
    tagged["instance"] = {**tagged.get("instance", {}), **tags, "aws:ec2:fleet-id": fleet.id}
    reservation = capacity.moto_run_instances(
        backend,
        data["ImageId"],
        count,
        data.get("UserData"),
        data.get("SecurityGroups") or [],
        instance_type=data["InstanceType"],
        is_instance_type_default=False,
        placement=zone or None,
        region_name=backend.region_name,
        subnet_id=data.get("SubnetId"),
        key_name=data.get("KeyName"),
        security_group_ids=data.get("SecurityGroupIds") or [],
        nics=[],
        associate_public_ip=None,
        tags=tagged,
        lifecycle="spot" if lifecycle == "spot" else None,
        fleet_id=fleet.id,
        instance_initiated_shutdown_behavior=data.get("InstanceInitiatedShutdownBehavior"),
        metadata_options=data.get("MetadataOptions") or {},
        block_device_mappings=disks.of_launch(backend, data["ImageId"], data.get("BlockDeviceMappings") or []),
    )
    profile = data.get("IamInstanceProfile") or {}
    for instance in reservation.instances:
        if profile:
            backend.associate_iam_instance_profile(instance.id, profile.get("Name"), profile.get("Arn"))
    return list(reservation.instances)


def terminate_instances(fleet: Any) -> None:
    """Terminate a fleet's instances: moto refuses to delete a fleet whose instances are terminated already."""
    if fleet.type != "instant":
        _moto_terminate_instances(fleet)
        return
    started = [*(r.instance for r in fleet.spot_requests), *(i["instance"] for i in fleet.on_demand_instances)]
    for instance in started:
        instance.terminate()


def answer_create_fleet(response: Any) -> Any:
    """Answer CreateFleet with the errors of the overrides that had no capacity."""
    answer: Any = _moto_answer(response)
    fleet = response.ec2_backend.get_fleet(answer.result["FleetId"])
    if fleet.type == "instant":
        answer.result["Errors"] = fleet.errors
    return answer
