"""Volumes that hardway's instances have left behind: nothing uses them, and they cost money.

A launch tags volumes like instances, and has EC2 delete them with the instance. A volume stays nevertheless if somebody
has changed `DeleteOnTermination`, or if an earlier version of hardway launched its instance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hardway import aws
from hardway.config import Settings
from hardway.ec2 import tags
from hardway.tables import count

# Tags that every launch gives its volumes; nobody else will have set all three.
_OUR_TAGS = ("creation-date", "owner", "ssh-user")


@dataclass(frozen=True)
class Volume:
    """A volume that nothing uses; `name` is its former instance's, `gib` its size."""

    id: str
    name: str
    gib: int
    tags: Mapping[str, str] = field(hash=False)


def left(settings: Settings) -> list[Volume]:
    """Return the volumes of hardway's instances that no instance uses any more."""
    ours: list[Any] = [{"Name": "tag-key", "Values": [key]} for key in _OUR_TAGS]
    unused = [{"Name": "status", "Values": ["available"]}]
    found = []
    for page in aws.ec2(settings).get_paginator("describe_volumes").paginate(Filters=ours + unused):
        for raw in page["Volumes"]:
            own = tags.of(raw)
            found.append(Volume(raw["VolumeId"], own.get("Name", ""), raw["Size"], own))
    return found


def report(settings: Settings, say: Callable[[str], None]) -> None:
    """Tell `say` the number of left volumes and the command that removes them; tell nothing if AWS doesn't answer."""
    try:
        found = left(settings)
    except Exception as error:
        if aws.translate(error) is None:
            raise
        return
    if found:
        gib = sum(volume.gib for volume in found)
        what = f"{count(len(found), 'volume')} ({gib} GiB) that instances left, and that nothing uses"
        say(f"{what}: `{settings.command('ec2.cleanup')}` lists and removes them")
