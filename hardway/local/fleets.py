"""CreateFleet of type instant as EC2 does it: all that the launch template says holds for the instances.

moto launches a fleet's instances without their security groups, disks, profile and shutdown behaviour. Here each
override with capacity gives what it can, in the order they have, until there are enough; those without are in the
answer's errors. Also: a call that is repeated with the same client token does nothing, and is answered as before.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import moto.ec2.models.fleets
import moto.ec2.responses.fleets
import moto.ec2.responses.instances
import moto.ec2.responses.launch_templates
from moto.ec2.utils import convert_tag_spec

from hardway.local import capacity

_create_fleet: Any = moto.ec2.models.fleets.FleetsBackend.create_fleet
_answer_create_fleet: Any = moto.ec2.responses.fleets.Fleets.create_fleet
_end: Any = moto.ec2.models.fleets.Fleet.terminate_instances
_answers: dict[Any, tuple[Any, Any]] = {}
_lock = threading.RLock()


def install() -> None:
    """Have moto do so. After `capacity.install`."""
    fleets: Any = moto.ec2.models.fleets.FleetsBackend
    answers: Any = moto.ec2.responses.fleets.Fleets
    templates: Any = moto.ec2.responses.launch_templates.LaunchTemplates
    instances: Any = moto.ec2.responses.instances.InstanceResponse
    fleets.create_fleet = _create_fleet_of_what_there_is
    fleet: Any = moto.ec2.models.fleets.Fleet
    fleet.terminate_instances = _terminate_instances
    answers.create_fleet = _once(_answer_with_errors)
    templates.create_launch_template = _once(templates.create_launch_template)
    instances.run_instances = _once(instances.run_instances)


def _once(answer: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def answered(response: Any) -> Any:
        token = response._get_param("ClientToken")
        if not token:
            return answer(response)
        key = response.current_account, response.region, answer.__name__, token
        asked = copy.deepcopy(dict(response.params))  # moto writes into it
        with _lock:
            if key not in _answers:
                _answers[key] = asked, answer(response)
            before, given = _answers[key]
        if before != asked:
            raise capacity.Refusal(400, "IdempotentParameterMismatch", "The client token was used for another request.")
        return given

    return answered


def _create_fleet_of_what_there_is(backend: Any, **kwargs: Any) -> Any:
    if kwargs["fleet_type"] != "instant":
        return _create_fleet(backend, **kwargs)
    capacities = kwargs["target_capacity_specification"]
    nothing = {name: value if name.endswith("Type") else 0 for name, value in capacities.items()}
    fleet: Any = _create_fleet(backend, **{**kwargs, "target_capacity_specification": nothing})
    fleet.errors = []
    tags = convert_tag_spec(kwargs["tag_specifications"]).get("instance", {})
    for lifecycle, count in _counts(capacities).items():
        _launch(backend, fleet, lifecycle, count, tags)
    fleet.fulfilled_capacity = float(len(fleet.spot_requests) + len(fleet.on_demand_instances))
    return fleet


def _counts(capacities: Mapping[str, Any]) -> dict[str, int]:
    """How many instances of each lifecycle."""
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
        zone = capacity.zone_of(backend, data.get("SubnetId"), (data.get("Placement") or {}).get("AvailabilityZone"))
        launched = capacity.granted(zone, data["InstanceType"], 1, count)
        if launched < count:
            fleet.errors.append(
                {
                    "LaunchTemplateAndOverrides": {
                        "LaunchTemplateSpecification": spec.launch_template_spec,
                        "Overrides": spec.overrides or {},
                    },
                    "Lifecycle": lifecycle,
                    "ErrorCode": capacity.CODE,
                    "ErrorMessage": capacity.message(zone, data["InstanceType"]),
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


def _run(
    backend: Any, fleet: Any, data: Mapping[str, Any], zone: str, lifecycle: str, count: int, tags: Mapping[str, str]
) -> list[Any]:
    tagged = convert_tag_spec(data.get("TagSpecifications") or [])
    tagged["instance"] = {**tagged.get("instance", {}), **tags, "aws:ec2:fleet-id": fleet.id}
    options = {}
    if data.get("BlockDeviceMappings"):
        options["block_device_mappings"] = data["BlockDeviceMappings"]
    reservation = capacity.run_instances(
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
        **options,
    )
    profile = data.get("IamInstanceProfile") or {}
    for instance in reservation.instances:
        if profile:
            backend.associate_iam_instance_profile(instance.id, profile.get("Name"), profile.get("Arn"))
    return list(reservation.instances)


def _terminate_instances(fleet: Any) -> None:
    """moto refuses to delete a fleet whose instances are terminated already."""
    if fleet.type != "instant":
        _end(fleet)
        return
    started = [*(r.instance for r in fleet.spot_requests), *(i["instance"] for i in fleet.on_demand_instances)]
    for instance in started:
        instance.terminate()


def _answer_with_errors(response: Any) -> Any:
    answer: Any = _answer_create_fleet(response)
    fleet = response.ec2_backend.get_fleet(answer.result["FleetId"])
    if fleet.type == "instant":
        answer.result["Errors"] = fleet.errors
    return answer
