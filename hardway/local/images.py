"""Images and snapshots of one's own: what moto leaves out of them.

moto takes no tags for the snapshots of an image that is made, nor minds two of one name; and lists everybody's
snapshots, those of the public images too, to whoever asks for their own.
"""

from __future__ import annotations

from typing import Any

import moto.core.responses
import moto.ec2.models.amis
import moto.ec2.responses.elastic_block_store

from hardway.local.capacity import Refusal

_create_image = moto.ec2.models.amis.AmiBackend.create_image


def install() -> None:
    """Have moto do what it leaves out."""
    backend: Any = moto.ec2.models.amis.AmiBackend
    answers: Any = moto.ec2.responses.elastic_block_store.ElasticBlockStore
    backend.create_image = _create_tagged_image
    answers.describe_snapshots = _describe_own_snapshots


def _create_tagged_image(
    backend: Any, instance_id: str, name: str, description: str, tag_specifications: list[dict[str, Any]]
) -> Any:
    for other in backend.amis.values():
        if other.name == name and other.owner_id == backend.account_id:
            raise Refusal(400, "InvalidAMIName.Duplicate", f"AMI name {name} is already in use by AMI {other.id}")
    others = [each for each in tag_specifications if each["ResourceType"] != "snapshot"]
    image: Any = _create_image(backend, instance_id, name, description, others)
    for each in tag_specifications:
        if each["ResourceType"] == "snapshot":
            image.ebs_snapshot.add_tags({tag["Key"]: tag["Value"] for tag in each["Tags"]})
    return image


def _describe_own_snapshots(response: Any) -> Any:
    backend = response.ec2_backend
    owners = [backend.account_id if owner == "self" else owner for owner in response._get_param("OwnerIds", [])]
    found = backend.describe_snapshots(
        snapshot_ids=response._get_param("SnapshotIds", []), filters=response._filters_from_querystring()
    )
    shown = [snapshot for snapshot in found if not owners or snapshot.owner_id in owners]
    return moto.core.responses.ActionResult({"Snapshots": shown})
