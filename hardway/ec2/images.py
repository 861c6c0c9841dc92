"""Find the AMI that a name means: an owner's newest image, an id, or one's own image, fit for the instance types.

Also list and remove one's own AMIs and snapshots, and make them of instances.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from hardway import aws
from hardway.config import Settings
from hardway.ec2 import tags as tagging
from hardway.ec2.instances import Instance
from hardway.errors import Failed, HardwayError, Interrupted, NothingMatched, UsageError, did_you_mean

_CANONICAL = "/aws/service/canonical/ubuntu/server"
# The parameters in which the owners of images publish the newest image's id, and the user who logs in. Sources:
# https://documentation.ubuntu.com/aws/aws-how-to/instances/find-ubuntu-images/,
# https://wiki.debian.org/Cloud/AmazonEC2Image
IMAGES: dict[str, tuple[str, str, dict[str, str]]] = {
    "resolute": (f"{_CANONICAL}/26.04/stable/current/{{arch}}/hvm/ebs-gp3/ami-id", "ubuntu", {}),
    "noble": (f"{_CANONICAL}/24.04/stable/current/{{arch}}/hvm/ebs-gp3/ami-id", "ubuntu", {}),
    "jammy": (f"{_CANONICAL}/22.04/stable/current/{{arch}}/hvm/ebs-gp2/ami-id", "ubuntu", {}),
    "trixie": ("/aws/service/debian/release/13/latest/{arch}", "admin", {}),
    "bookworm": ("/aws/service/debian/release/12/latest/{arch}", "admin", {}),
    "al2023": (
        "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{arch}",
        "ec2-user",
        {"amd64": "x86_64"},
    ),
}

MOST_TYPES = 100
"""The most instance types that EC2 describes by name in one call.

Source: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceTypes.html
"""
# An instance's name, which the description contains, may be longer:
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateImage.html
_MOST_DESCRIPTION = 255
# On the snapshots of one call. The value is new for each call, to find snapshots of an unanswered call.
_SNAPSHOTS_TAG = "hardway-snapshots"


@dataclass(frozen=True)
class Image:
    """An AMI: `architecture` in EC2's words (x86_64, arm64), `user` the one who logs in over SSH.

    `platform` is the product paid for besides the hardware, in EC2's words. `disks` maps each device with a volume to
    the parameters with which RunInstances makes the same volume. Without these parameters some volumes would outlast
    their instance, and cost money.
    """

    id: str
    architecture: str
    root_device: str
    user: str
    platform: str
    disks: Mapping[str, Mapping[str, Any]] = field(hash=False)


def resolve(settings: Settings) -> Image:
    """Return the AMI that `ec2.ami` (noble, ami-..., an own image) means for the instance types.

    The image's user is `ec2.ssh_user`, if set. Raises UsageError for an unknown name or type, or types of several
    architectures.
    """
    name, types = settings.ec2.ami, settings.ec2.types
    architecture = _architecture(settings, types)
    ec2 = aws.ec2(settings)
    known_user = ""
    if name.startswith("ami-"):
        images = _by_id(settings, name)
    elif name in IMAGES:
        parameter, known_user, names = IMAGES[name]
        short = {"x86_64": "amd64"}.get(architecture, architecture)
        value = _parameter(settings, parameter.format(arch=names.get(short, short)))
        images = _images(lambda: ec2.describe_images(ImageIds=[value]))
    else:
        named = [{"Name": "name", "Values": [name]}, {"Name": "architecture", "Values": [architecture]}]
        # EC2 takes a name in a filter as a glob.
        images = [i for i in _images(lambda: ec2.describe_images(Owners=["self"], Filters=named)) if i["Name"] == name]
    if not images:
        raise UsageError(
            f"there is no AMI {name!r} in {aws.region_of(settings)} (--ami takes {', '.join(IMAGES)}, an id (ami-...), "
            f"or the name of an image of your own){did_you_mean(name, [*IMAGES, *(i.name for i in own(settings))])}"
        )
    newest = max(images, key=lambda image: image.get("CreationDate", ""))
    if newest["Architecture"] != architecture:
        raise UsageError(f"the AMI {name} is for {newest['Architecture']}, but {'/'.join(types)} is {architecture}")
    root = newest.get("RootDeviceName", "/dev/sda1")
    return Image(
        newest["ImageId"],
        architecture,
        root,
        settings.ec2.ssh_user or known_user or tagging.of(newest).get("ssh-user", "") or "ubuntu",
        newest.get("PlatformDetails", ""),
        {
            disk["DeviceName"]: _same_volume(disk["Ebs"], disk["DeviceName"] == root)
            for disk in newest.get("BlockDeviceMappings", [])
            if "Ebs" in disk
        },
    )


def _same_volume(ebs: Mapping[str, Any], is_root: bool) -> dict[str, Any]:
    """Return the parameters for a volume like this one.

    A snapshot determines whether its volume is encrypted, and by which key: EC2 refuses both parameters beside a
    snapshot. The root's snapshot is the image's, and can't be replaced.
    Source: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_EbsBlockDevice.html
    """
    keys = ["VolumeSize", "VolumeType"]
    if not is_root:
        keys.append("SnapshotId" if "SnapshotId" in ebs else "Encrypted")
    if ebs.get("VolumeType") in ("io1", "io2", "gp3"):
        keys += ["Iops", "Throughput"]
    return {key: ebs[key] for key in keys if key in ebs}


def _by_id(settings: Settings, id_: str) -> list[Any]:
    """Return EC2's description of an AMI. Raises UsageError with EC2's reason, such as a lost or unshared image."""
    try:
        return list(aws.ec2(settings).describe_images(ImageIds=[id_])["Images"])
    except Exception as error:
        code = aws.error_code(error)
        if not code.startswith("InvalidAMIID"):
            raise
        raise UsageError(
            f"there is no AMI {id_!r} for this account in {aws.region_of(settings)}: "
            f"{aws.error_message(error)} ({code})"
        ) from None


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
            raise UsageError(f"{aws.region_of(settings)} has no instance type {name!r}{near_type(settings, name)}")
    architectures = {next((a for a in ("x86_64", "arm64") if a in known[t]), str(known[t][0])) for t in types}
    if len(architectures) > 1:
        raise UsageError(
            f"--type {','.join(types)} mixes architectures ({', '.join(sorted(architectures))}): name types of one"
        )
    return architectures.pop()


def near_type(settings: Settings, name: str) -> str:
    """Return the hint of `did_you_mean` among the instance types of the region."""
    pages = aws.ec2(settings).get_paginator("describe_instance_type_offerings").paginate()
    return did_you_mean(name, [o["InstanceType"] for page in pages for o in page["InstanceTypeOfferings"]])


@dataclass(frozen=True)
class OwnImage:
    """An AMI of the account's own; `user` is the one who logs in, by the `ssh-user` tag."""

    name: str
    id: str
    state: str
    architecture: str
    created: str
    user: str
    snapshots: tuple[str, ...]
    tags: Mapping[str, str] = field(hash=False)


@dataclass(frozen=True)
class Snapshot:
    """A snapshot of the account's own; `gigs` is the volume's size in GiB, `progress` a percentage."""

    name: str
    id: str
    state: str
    progress: str
    gigs: int
    started: datetime
    volume: str
    description: str
    tags: Mapping[str, str] = field(hash=False)


def own(settings: Settings) -> list[OwnImage]:
    """Return the account's own AMIs in the region, newest first."""
    pages = aws.ec2(settings).get_paginator("describe_images").paginate(Owners=["self"])
    found = [_own_image(raw) for page in pages for raw in page["Images"]]
    return sorted(found, key=lambda image: image.created, reverse=True)


def _own_image(raw: Mapping[str, Any]) -> OwnImage:
    tags = tagging.of(raw)
    disks = [mapping.get("Ebs", {}).get("SnapshotId", "") for mapping in raw.get("BlockDeviceMappings", [])]
    return OwnImage(
        raw.get("Name", ""),
        raw["ImageId"],
        raw["State"],
        raw.get("Architecture", ""),
        raw.get("CreationDate", ""),
        tags.get("ssh-user", ""),
        tuple(filter(None, disks)),
        tags,
    )


def find_own(settings: Settings, name: str) -> OwnImage:
    """Return the own AMI of this name or id. Raises UsageError for an unknown id, NothingMatched for another name."""
    images = own(settings)
    found = [image for image in images if name == image.id] or [image for image in images if name == image.name]
    if found:
        return found[0]
    kind = UsageError if name.startswith("ami-") else NothingMatched
    hint = did_you_mean(name, [image.name for image in images]) or f"; see `{settings.command('ec2.amis')}`"
    raise kind(f"{aws.region_of(settings)} has no AMI of your own called {name!r}{hint}")


def check_name(name: str) -> None:
    """Raise UsageError for a name that `--ami` would not take for an own image, or that EC2 refuses for an AMI.

    Source: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateImage.html
    """
    if name in IMAGES or name.startswith("ami-"):
        raise UsageError(f"{name!r} means another AMI to `ec2.new --ami`: choose another name")
    if name.startswith("-") or not re.fullmatch(r"[a-zA-Z0-9()\[\] ./\-'@_]{3,128}", name):
        raise UsageError(
            f"{name!r} can't be the name of an AMI: a name has 3 to 128 letters, digits, blanks and "
            "()[]./-'@_, and does not begin with -"
        )


def make(settings: Settings, instance: Instance, name: str, reboot: bool) -> str:
    """Have EC2 make an AMI of an instance; return its id at once, before the AMI is available.

    With `reboot` EC2 reboots the instance first, so that its file systems are at rest. The AMI keeps the login user.
    """
    keep = {"ssh-user": instance.tags["ssh-user"]} if "ssh-user" in instance.tags else {}
    answer = aws.ec2(settings).create_image(
        InstanceId=instance.id,
        Name=name,
        Description=_description(instance),
        NoReboot=not reboot,
        TagSpecifications=tagging.specifications({"Name": name, **keep}, "image", "snapshot"),
    )
    return str(answer["ImageId"])


def _description(instance: Instance) -> str:
    return f"of {instance}"[:_MOST_DESCRIPTION]


def wait(settings: Settings, image: str, seconds: int) -> None:
    """Wait until an AMI is available. Raises Failed if it can't be made, or isn't available after `seconds`."""
    deadline = time.monotonic() + seconds
    pause, state = 0.2, "pending"
    while True:
        # EC2 may not know the image yet.
        for raw in _images(lambda: aws.ec2(settings).describe_images(ImageIds=[image])):
            state = raw["State"]
            if state == "available":
                return
            if state in ("failed", "error", "invalid", "deregistered"):
                raise Failed(f"{image} is {state}: {raw.get('StateReason', {}).get('Message', 'EC2 gives no reason')}")
        if time.monotonic() >= deadline:
            amis = settings.command("ec2.amis")
            raise Failed(f"{image} is {state} after {seconds} s; EC2 goes on making it: `{amis}` shows the state")
        time.sleep(pause)
        pause = min(pause * 1.5, 10.0)


def remove(settings: Settings, image: OwnImage) -> list[str]:
    """Deregister an AMI and delete its snapshots; return the ids of those kept because another AMI uses them."""
    ec2 = aws.ec2(settings)
    ec2.deregister_image(ImageId=image.id)
    left = []
    for snapshot in image.snapshots:
        try:
            ec2.delete_snapshot(SnapshotId=snapshot)
        except Exception as error:
            if aws.error_code(error) == "InvalidSnapshot.InUse":
                left.append(snapshot)
            elif aws.error_code(error) != "InvalidSnapshot.NotFound":
                raise
    return left


def snapshots(settings: Settings) -> list[Snapshot]:
    """Return the account's own snapshots in the region, newest first."""
    pages = aws.ec2(settings).get_paginator("describe_snapshots").paginate(OwnerIds=["self"])
    found = [_snapshot(raw) for page in pages for raw in page["Snapshots"]]
    return sorted(found, key=lambda snapshot: snapshot.started, reverse=True)


def _snapshot(raw: Mapping[str, Any]) -> Snapshot:
    tags = tagging.of(raw)
    return Snapshot(
        tags.get("Name", ""),
        raw["SnapshotId"],
        raw.get("State", ""),
        raw.get("Progress", ""),
        raw["VolumeSize"],
        raw["StartTime"],
        raw.get("VolumeId", ""),
        raw.get("Description", ""),
        tags,
    )


def take_snapshots(settings: Settings, instances: Iterable[Instance]) -> tuple[list[str], dict[Instance, HardwayError]]:
    """Take snapshots of all volumes of each instance, as they are at one moment; the instances keep running.

    Return the ids of the snapshots, and the error of each instance that failed. EC2 goes on copying afterwards. Raises
    Interrupted with the ids of the snapshots taken so far.
    """
    taken: list[str] = []
    failed = {}
    for instance in instances:
        try:
            taken += _take_snapshots(settings, instance)
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; snapshots taken before: {' '.join(taken) or 'none'}") from None
        except Exception as error:
            why = aws.translate(error)
            if not why:
                raise
            failed[instance] = why
    return taken, failed


def _take_snapshots(settings: Settings, instance: Instance) -> list[str]:
    token = uuid.uuid4().hex
    tags = tagging.specifications({"Name": instance.name, _SNAPSHOTS_TAG: token}, "snapshot")
    ours = [{"Name": f"tag:{_SNAPSHOTS_TAG}", "Values": [token]}]
    found = aws.made_once(
        lambda: aws.ec2_once(settings).create_snapshots(
            InstanceSpecification={"InstanceId": instance.id},
            Description=_description(instance),
            TagSpecifications=tags,
        )["Snapshots"],
        lambda: aws.ec2(settings).describe_snapshots(OwnerIds=["self"], Filters=ours)["Snapshots"],
    )
    return [snapshot["SnapshotId"] for snapshot in found]
