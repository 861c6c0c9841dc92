"""Volumes of images and launches: which there are, and whether they go with their instance.

Source: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/block-device-mapping-concepts.html
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

ROOT_GIB = 8
Disk = dict[str, Any]


def of_image(image: Any) -> list[Disk]:
    """The volumes of an image: those of the instance that it was made of, else a root that ends with its instance."""
    return [
        {
            "DeviceName": device,
            "Ebs": {
                "SnapshotId": image.ebs_snapshot.id,
                "VolumeSize": size,
                "DeleteOnTermination": goes,
                "VolumeType": "gp3",
            },
        }
        for device, (size, goes) in getattr(image, "local_disks", {image.root_device_name: (ROOT_GIB, True)}).items()
    ]


def keep(image: Any, instance: Any) -> None:
    """Note the volumes of the instance that an image is made of."""
    attached = dict(instance.block_device_mapping)
    image.local_disks = {device: (disk.size, disk.delete_on_termination) for device, disk in attached.items()}
    image.root_device_name = next(iter(attached), image.root_device_name)


def of_launch(backend: Any, image_id: str, asked: Iterable[Mapping[str, Any]]) -> list[Disk]:
    """Return the volumes of an instance: its image's, changed as the launch asks, and further ones."""
    image = backend.amis.get(image_id)
    root = getattr(image, "root_device_name", "/dev/sda1")
    plain: list[Disk] = [{"DeviceName": root, "Ebs": {"VolumeSize": ROOT_GIB, "DeleteOnTermination": True}}]
    disks: dict[str, Disk] = {disk["DeviceName"]: disk for disk in (of_image(image) if image else plain)}
    for each in asked:
        device = each["DeviceName"]
        if each.get("NoDevice") is not None:
            disks.pop(device, None)
            continue
        said = {key: value for key, value in each.get("Ebs", {}).items() if value is not None}
        before = disks.get(device, {}).get("Ebs", {"DeleteOnTermination": False})
        disks[device] = {"DeviceName": device, "Ebs": {**before, **said}}
    return list(disks.values())
