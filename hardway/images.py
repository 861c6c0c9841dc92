"""AMIs by name: the newest image of an owner, an id, or an image of one's own; fit for the instance types asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hardway import aws
from hardway.config import Settings
from hardway.errors import UsageError, did_you_mean

_CANONICAL = "/aws/service/canonical/ubuntu/server"
# Where the owners of images publish the newest one's id, and the user their images let in.
IMAGES: dict[str, tuple[str, str, dict[str, str]]] = {
    "noble": (f"{_CANONICAL}/24.04/stable/current/{{arch}}/hvm/ebs-gp3/ami-id", "ubuntu", {}),
    "jammy": (f"{_CANONICAL}/22.04/stable/current/{{arch}}/hvm/ebs-gp2/ami-id", "ubuntu", {}),
    "bookworm": ("/aws/service/debian/release/12/latest/{arch}", "admin", {}),
    "al2023": (
        "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{arch}",
        "ec2-user",
        {"amd64": "x86_64"},
    ),
}


@dataclass(frozen=True)
class Image:
    """An AMI: `architecture` as EC2 says it (x86_64, arm64), `user` the one it lets in over SSH."""

    id: str
    architecture: str
    root_device: str
    user: str


def resolve(settings: Settings, name: str, types: Sequence[str], user: str = "") -> Image:
    """The AMI that `name` (noble, ami-..., one's own) means for the instance types; `user` overrides its login user.

    Raises UsageError for an unknown name or type, or types of several architectures.
    """
    architecture = _architecture(settings, types)
    ec2 = aws.ec2(settings)
    known_user = ""
    if name.startswith("ami-"):
        images = _images(lambda: ec2.describe_images(ImageIds=[name]))
    elif name in IMAGES:
        parameter, known_user, names = IMAGES[name]
        short = {"x86_64": "amd64"}.get(architecture, architecture)
        value = _parameter(settings, parameter.format(arch=names.get(short, short)))
        images = _images(lambda: ec2.describe_images(ImageIds=[value]))
    else:
        own = [{"Name": "name", "Values": [name]}, {"Name": "architecture", "Values": [architecture]}]
        images = _images(lambda: ec2.describe_images(Owners=["self"], Filters=own))
    if not images:
        raise UsageError(
            f"there is no AMI {name!r} in {aws.region_of(settings)}{did_you_mean(name, IMAGES)} "
            f"(--ami takes {', '.join(IMAGES)}, an id (ami-...), or the name of an image of your own)"
        )
    newest = max(images, key=lambda image: image.get("CreationDate", ""))
    if newest["Architecture"] != architecture:
        raise UsageError(f"the AMI {name} is for {newest['Architecture']}, but {'/'.join(types)} is {architecture}")
    tags = {tag["Key"]: tag["Value"] for tag in newest.get("Tags", [])}
    return Image(
        newest["ImageId"],
        architecture,
        newest.get("RootDeviceName", "/dev/sda1"),
        user or known_user or tags.get("ssh-user", "") or "ubuntu",
    )


def _images(describe: Callable[[], Any]) -> list[Any]:
    try:
        return list(describe()["Images"])
    except Exception as error:
        if aws.error_code(error).startswith("InvalidAMIID"):
            return []
        raise


def _parameter(settings: Settings, name: str) -> str:
    ssm = aws.ssm(settings)
    try:
        return str(ssm.get_parameter(Name=name)["Parameter"]["Value"])
    except ssm.exceptions.ParameterNotFound:
        raise UsageError(
            f"{aws.region_of(settings)} has no public parameter {name}: name an AMI by its id (--ami ami-...)"
        ) from None


def _architecture(settings: Settings, types: Sequence[str]) -> str:
    ec2 = aws.ec2(settings)
    try:
        described = ec2.describe_instance_types(InstanceTypes=list(types))["InstanceTypes"]
    except Exception as error:
        if aws.error_code(error) not in ("InvalidInstanceType", "InvalidParameterValue"):
            raise
        described = []
    known = {t["InstanceType"]: t["ProcessorInfo"]["SupportedArchitectures"] for t in described}
    for name in types:
        if name not in known:
            pages = ec2.get_paginator("describe_instance_type_offerings").paginate()
            offered = [o["InstanceType"] for page in pages for o in page["InstanceTypeOfferings"]]
            raise UsageError(f"{aws.region_of(settings)} has no instance type {name!r}{did_you_mean(name, offered)}")
    architectures = {next((a for a in ("x86_64", "arm64") if a in known[t]), str(known[t][0])) for t in types}
    if len(architectures) > 1:
        raise UsageError(f"--type {','.join(types)} mixes architectures ({', '.join(sorted(architectures))})")
    return architectures.pop()
