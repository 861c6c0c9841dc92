"""Images and snapshots: the public ones, and CreateImage and DescribeSnapshots as EC2 does them."""

from __future__ import annotations

from typing import Any

import moto.core.responses
import moto.ec2.models.amis
import moto.ec2.responses.elastic_block_store

from hardway.local.api import disks
from hardway.local.api.ec2_error import EC2Error
from hardway.local.api.public_images import PUBLIC_IMAGES

_moto_create_image = moto.ec2.models.amis.AmiBackend.create_image


def create_image(
    backend: Any, instance_id: str, name: str, description: str, tag_specifications: list[dict[str, Any]]
) -> Any:
    """Make an image, and tag its snapshot, too. Raises EC2Error for a name that is in use."""
    for other in backend.amis.values():
        if other.name == name and other.owner_id == backend.account_id:
            raise EC2Error(400, "InvalidAMIName.Duplicate", f"AMI name {name} is already in use by AMI {other.id}")
    others = [each for each in tag_specifications if each["ResourceType"] != "snapshot"]
    image: Any = _moto_create_image(backend, instance_id, name, description, others)
    disks.keep(image, backend.get_instance(instance_id))
    for each in tag_specifications:
        if each["ResourceType"] == "snapshot":
            image.ebs_snapshot.add_tags({tag["Key"]: tag["Value"] for tag in each["Tags"]})
    return image


def describe_snapshots(response: Any) -> Any:
    """Answer DescribeSnapshots with the snapshots of the owners in the request."""
    backend = response.ec2_backend
    owners = [backend.account_id if owner == "self" else owner for owner in response._get_param("OwnerIds", [])]
    found = backend.describe_snapshots(
        snapshot_ids=response._get_param("SnapshotIds", []), filters=response._filters_from_querystring()
    )
    shown = [snapshot for snapshot in found if not owners or snapshot.owner_id in owners]
    return moto.core.responses.ActionResult({"Snapshots": shown})


def load_public_images(backend: Any) -> None:
    """Fill a region's backend with our public images, in place of moto's."""
    for image in PUBLIC_IMAGES:
        ami_id = image.id_in(backend.region_name)
        backend.amis[ami_id] = moto.ec2.models.amis.Ami(
            backend,
            ami_id,
            name=image.name,
            description=f"{image.name}: stands in for the real one",
            owner_id=image.owner,
            public=True,
            virtualization_type="hvm",
            architecture=image.architecture,
            hypervisor="xen",
            root_device_type="ebs",
            root_device_name=image.root_device,
            region_name=backend.region_name,
            image_location=f"{image.owner}/{image.name}",
        )
