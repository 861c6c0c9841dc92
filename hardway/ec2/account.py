"""An account's key pairs, roles for instances, and scheduled events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from hardway import aws
from hardway.config import Settings
from hardway.ec2 import tags
from hardway.ec2.instances import described

# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceStatusEvent.html: shown for a week afterwards
_OVER = ("[Completed]", "[Canceled]")


@dataclass(frozen=True)
class KeyPair:
    """A key pair at EC2; `ours` tells whether new instances get it."""

    name: str
    id: str
    type: str
    created: datetime | None
    ours: bool
    fingerprint: str
    tags: Mapping[str, str] = field(hash=False)


@dataclass(frozen=True)
class InstanceProfile:
    """An instance profile, as `ec2.new --role` takes it, and the IAM roles in it."""

    name: str
    roles: tuple[str, ...]
    created: datetime
    arn: str


@dataclass(frozen=True)
class Event:
    """A scheduled event of an instance: its earliest start, its latest end, and the deadline for moving it."""

    name: str
    id: str
    code: str
    not_before: datetime | None
    not_after: datetime | None
    deadline: datetime | None
    description: str


def key_pairs(settings: Settings, ours: str) -> list[KeyPair]:
    """Return the key pairs in the region, by name; `ours` is the name of the one that new instances get."""
    found = [
        KeyPair(
            raw["KeyName"],
            raw["KeyPairId"],
            raw.get("KeyType", ""),
            raw.get("CreateTime"),
            raw["KeyName"] == ours,
            raw.get("KeyFingerprint", ""),
            tags.of(raw),
        )
        for raw in aws.ec2(settings).describe_key_pairs()["KeyPairs"]
    ]
    return sorted(found, key=lambda pair: pair.name)


def lacks_instance_profile(settings: Settings, name: str) -> bool:
    """Return whether IAM has no instance profile of this name; False if the credentials may not look that up."""
    try:
        aws.iam(settings).get_instance_profile(InstanceProfileName=name)
    except Exception as error:
        return aws.error_code(error) == "NoSuchEntity"
    return False


def instance_profiles(settings: Settings) -> list[InstanceProfile]:
    """Return the instance profiles of the account, by name."""
    found = [
        InstanceProfile(
            raw["InstanceProfileName"],
            tuple(role["RoleName"] for role in raw["Roles"]),
            raw["CreateDate"],
            raw["Arn"],
        )
        for page in aws.iam(settings).get_paginator("list_instance_profiles").paginate()
        for raw in page["InstanceProfiles"]
    ]
    return sorted(found, key=lambda profile: profile.name)


def events(settings: Settings) -> list[Event]:
    """Return the events ahead for the region's instances, the next one first."""
    pages = aws.ec2(settings).get_paginator("describe_instance_status").paginate(IncludeAllInstances=True)
    found = [
        (raw["InstanceId"], event)
        for page in pages
        for raw in page["InstanceStatuses"]
        for event in raw.get("Events", [])
        if not event.get("Description", "").startswith(_OVER)
    ]
    names = {i.id: i.name for i in described(settings, sorted({id_ for id_, _ in found}))}
    result = [
        Event(
            names.get(id_, ""),
            id_,
            event["Code"],
            event.get("NotBefore"),
            event.get("NotAfter"),
            event.get("NotBeforeDeadline"),
            event.get("Description", ""),
        )
        for id_, event in found
    ]
    return sorted(result, key=lambda event: (event.not_before is None, event.not_before, event.id))
