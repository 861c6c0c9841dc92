"""Volumes that instances of hardway's have left behind: nothing uses them, and they are paid for.

A launch tags volumes as it tags instances, and has EC2 delete them with the instance. One may stay all the same: of an
instance whose `DeleteOnTermination` somebody has changed, or that an earlier version has launched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hardway import aws
from hardway.config import Settings
from hardway.ec2 import tags
from hardway.tables import count

# Of the tags that every launch gives its volumes, those that nobody else will have given all of.
_OUR_TAGS = ("creation-date", "owner", "ssh-user")


@dataclass(frozen=True)
class Volume:
    """A volume that nothing uses; `name` is that of the instance it was of, `gib` its size."""

    id: str
    name: str
    gib: int
    tags: Mapping[str, str] = field(hash=False)


def left(settings: Settings) -> list[Volume]:
    """The volumes of hardway's instances that no instance uses any more."""
    ours: list[Any] = [{"Name": "tag-key", "Values": [key]} for key in _OUR_TAGS]
    unused = [{"Name": "status", "Values": ["available"]}]
    found = []
    for page in aws.ec2(settings).get_paginator("describe_volumes").paginate(Filters=ours + unused):
        for raw in page["Volumes"]:
            own = tags.of(raw)
            found.append(Volume(raw["VolumeId"], own.get("Name", ""), raw["Size"], own))
    return found


def report(settings: Settings, say: Callable[[str], None]) -> None:
    """Say how many there are, and how they are removed; nothing where AWS doesn't tell: no list should fail over it."""
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
