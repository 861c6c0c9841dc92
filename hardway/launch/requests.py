"""The parameters of a launch's calls to EC2, made from the settings and the prerequisites. Pure."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hardway.config import Ec2
from hardway.ec2.images import Image
from hardway.launch import user_data as userdata
from hardway.launch.orphans import LAUNCH_TAG


@dataclass(frozen=True)
class Pool:
    """An instance type in a zone, with one of the zone's subnets; without a subnet EC2 chooses the zone."""

    type: str
    zone: str
    subnet: str


@dataclass(frozen=True)
class Prerequisites:
    """The things that the settings name, as EC2 knows them, and the content of the user data."""

    image: Image
    key_name: str
    security_groups: Sequence[str]
    init: bytes


def instance(
    ec2: Ec2, found: Prerequisites, tags: Mapping[str, str], owner: str, token: str, now: datetime
) -> dict[str, Any]:
    """Return the parameters that RunInstances and a launch template share: no type, subnet or numbers.

    `tags` are a person's own; `token` is the launch's.
    """
    image = found.image
    lasting = lasting_tags(ec2, image.user, tags, owner, now)
    of_instances = {**lasting, **passing_tags(ec2, token, now)}
    call: dict[str, Any] = {
        "ImageId": image.id,
        "KeyName": found.key_name,
        "SecurityGroupIds": [*found.security_groups],
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpTokens": "required"},
        "TagSpecifications": [tagged("instance", of_instances), tagged("volume", lasting)],
        "UserData": userdata.compose(ec2, found.init, image.user),
    }
    if ec2.role:
        call["IamInstanceProfile"] = {"Name": ec2.role}
    disks: dict[str, dict[str, Any]] = {
        device: {**volume, "DeleteOnTermination": True} for device, volume in image.disks.items()
    }
    if ec2.gigs:
        disks[image.root_device] = {"VolumeSize": ec2.gigs, "VolumeType": "gp3", "DeleteOnTermination": True}
    if disks:
        call["BlockDeviceMappings"] = [{"DeviceName": device, "Ebs": disk} for device, disk in disks.items()]
    return call


def lasting_tags(ec2: Ec2, user: str, tags: Mapping[str, str], owner: str, now: datetime) -> dict[str, str]:
    """Return the tags that instances and their volumes keep for as long as they exist."""
    lasting = {
        **tags,
        "Name": ec2.name,
        "owner": owner,
        "creation-date": now.isoformat(timespec="seconds"),
        "ssh-user": user,
    }
    if ec2.ssh_port != 22:
        lasting["ssh-port"] = str(ec2.ssh_port)
    return lasting


def passing_tags(ec2: Ec2, token: str, now: datetime) -> dict[str, str]:
    """Return the tags of instances alone: the time of their end, and the launch's token until the launch has ended."""
    return {**userdata.limits_tags(ec2, now), LAUNCH_TAG: token}


def run_instances(instance: Mapping[str, Any], pool: Pool, num: int) -> dict[str, Any]:
    """Return the parameters of RunInstances, for at most `num` instances of one pool."""
    call = {**instance, "InstanceType": pool.type, "MinCount": 1, "MaxCount": num}
    return {**call, "SubnetId": pool.subnet} if pool.subnet else call


def create_launch_template(instance: Mapping[str, Any], name: str, tags: Mapping[str, str]) -> dict[str, Any]:
    """Return the parameters of CreateLaunchTemplate, for the instances of a fleet."""
    # botocore encodes user data for RunInstances, but not for CreateLaunchTemplate.
    data = {**instance, "UserData": base64.b64encode(instance["UserData"]).decode()}
    return {
        "LaunchTemplateName": name,
        "LaunchTemplateData": data,
        "TagSpecifications": [tagged("launch-template", tags)],
    }


def create_fleet(
    template: str,
    pools: Iterable[Pool],
    bids: Mapping[str, float] | None,
    num: int,
    on_demand: int,
    tags: Mapping[str, str],
) -> dict[str, Any]:
    """Return the parameters of CreateFleet of type `instant`, for `num` instances, `on_demand` of them not spot.

    `bids` maps types to the highest price of a spot instance in USD/hour; None means EC2's own limit.
    """
    overrides: list[dict[str, Any]] = [{"InstanceType": pool.type, "SubnetId": pool.subnet} for pool in pools]
    if bids:
        for override in overrides:
            override["MaxPrice"] = f"{bids[override['InstanceType']]:.6f}"
    capacity: dict[str, Any] = {"TotalTargetCapacity": num, "DefaultTargetCapacityType": "spot"}
    call: dict[str, Any] = {
        "Type": "instant",
        "LaunchTemplateConfigs": [
            {
                "LaunchTemplateSpecification": {"LaunchTemplateId": template, "Version": "$Latest"},
                "Overrides": overrides,
            }
        ],
        "TargetCapacitySpecification": capacity,
        "SpotOptions": {
            "AllocationStrategy": "price-capacity-optimized",
            "InstanceInterruptionBehavior": "terminate",
        },
        "TagSpecifications": [tagged("fleet", tags)],
    }
    if on_demand:
        capacity |= {"OnDemandTargetCapacity": on_demand, "SpotTargetCapacity": num - on_demand}
        types = list(dict.fromkeys(override["InstanceType"] for override in overrides))
        for override in overrides:
            override["Priority"] = types.index(override["InstanceType"])
        call["OnDemandOptions"] = {"AllocationStrategy": "prioritized"}
    return call


def tagged(kind: str, tags: Mapping[str, str]) -> dict[str, Any]:
    """Return a TagSpecification for a resource of this kind."""
    return {"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
