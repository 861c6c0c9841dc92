"""Find and remove unused things that hardway made in a region.

These things are key pairs, security groups, VPCs, volumes of instances that are gone, and the instances and launch
templates of launches that never ended.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hardway import aws
from hardway.config import Settings
from hardway.ec2 import networks, security_groups, tags
from hardway.ec2.instances import ALIVE, Instance, describe
from hardway.errors import PartlyFailed, UsageError
from hardway.launch import orphans, volumes
from hardway.launch.orphans import LAUNCH_TAG

_PAIR_NAME = re.compile(r"hardway-[0-9a-f]{12}")
_IN_USE = ("DependencyViolation", "VolumeInUse")
_UNDER_WAY = "a launch is under way"


@dataclass(frozen=True)
class Thing:
    """Something that hardway made; `kept` is the reason why it has to stay, empty if it may go."""

    kind: str
    id: str
    name: str
    kept: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name} {self.id}" if self.name else f"{self.kind} {self.id}"


def find(settings: Settings, say: Callable[[str], None]) -> list[Thing]:
    """Return all that hardway made, also things in use and things of other owners, in an order fit for removal.

    `say` is told about the kinds that these credentials may not look at.
    """
    instances = describe(settings)
    alive = [instance for instance in instances if instance.state in ALIVE]
    found = list(_instances(alive))
    for looked_for in (
        _templates(settings),
        _volumes(settings),
        _security_groups(settings, alive),
        _key_pairs(settings, alive),
        _vpcs(settings, alive),
    ):
        try:
            found += looked_for
        except Exception as error:
            if not aws.is_denied(error):
                raise
            say(str(aws.translate(error)))
    return found


def remove(settings: Settings, things: Sequence[Thing], say: Callable[[str], None]) -> list[str]:
    """Remove things; return the ids of those that are gone. `say` is told about a thing that turns out to be in use.

    Raises PartlyFailed at the end if a thing can't be removed for another reason.
    """
    ec2 = aws.ec2(settings)
    calls: dict[str, Callable[[Thing], Any]] = {
        "instance": lambda thing: ec2.terminate_instances(InstanceIds=[thing.id]),
        "launch template": lambda thing: ec2.delete_launch_template(LaunchTemplateId=thing.id),
        "volume": lambda thing: ec2.delete_volume(VolumeId=thing.id),
        "security group": lambda thing: ec2.delete_security_group(GroupId=thing.id),
        "key pair": lambda thing: ec2.delete_key_pair(KeyName=thing.name),
        "VPC": lambda thing: networks.remove_vpc(settings, thing.id),
    }
    removed, failed = [], []
    for thing in things:
        try:
            calls[thing.kind](thing)
        except Exception as error:
            if aws.error_code(error) in _IN_USE:
                say(f"kept: {thing}: something still uses it")
            elif isinstance(error, UsageError):
                say(f"kept: {thing}: {error}")
            elif reason := aws.translate(error):
                failed.append(f"{thing}: {reason}")
            else:
                raise
        else:
            removed.append(thing.id)
    if failed:
        raise PartlyFailed(f"{len(removed)} removed, {len(failed)} not: {'; '.join(failed)}", removed)
    return removed


def _instances(alive: Iterable[Instance]) -> Iterator[Thing]:
    for left in orphans.of_dead_launches(alive).values():
        for instance in left:
            yield Thing("instance", instance.id, instance.name, _foreign(instance.tags))


def _templates(settings: Settings) -> Iterator[Thing]:
    ours: list[Any] = [{"Name": "tag-key", "Values": [LAUNCH_TAG]}]
    for page in aws.ec2(settings).get_paginator("describe_launch_templates").paginate(Filters=ours):
        for raw in page["LaunchTemplates"]:
            own = tags.of(raw)
            under_way = "" if orphans.is_dead(own[LAUNCH_TAG]) else _UNDER_WAY
            yield Thing(
                "launch template", raw["LaunchTemplateId"], raw["LaunchTemplateName"], _foreign(own) or under_way
            )


def _volumes(settings: Settings) -> Iterator[Thing]:
    for volume in volumes.left(settings):
        yield Thing("volume", volume.id, f"of {volume.name} ({volume.gib} GiB)", _foreign(volume.tags))


def _security_groups(settings: Settings, alive: Collection[Instance]) -> Iterator[Thing]:
    for group in security_groups.find(settings):
        if group.name == security_groups.OURS or aws.MADE_TAG in group.tags:
            users = [i for i in alive if group.id in i.security_groups]
            kept = _foreign(group.tags) or _used_by(users) or _under_way()
            yield Thing("security group", group.id, f"{group.name} ({group.vpc})", kept)


def _key_pairs(settings: Settings, alive: Collection[Instance]) -> Iterator[Thing]:
    for raw in aws.ec2(settings).describe_key_pairs()["KeyPairs"]:
        own = tags.of(raw)
        if aws.MADE_TAG in own or _PAIR_NAME.fullmatch(raw["KeyName"]):
            users = [i for i in alive if i.key_name == raw["KeyName"]]
            kept = _foreign(own) or _used_by(users) or _under_way()
            yield Thing("key pair", raw["KeyPairId"], raw["KeyName"], kept)


def _vpcs(settings: Settings, alive: Collection[Instance]) -> Iterator[Thing]:
    ours: list[Any] = [{"Name": "tag-key", "Values": [aws.MADE_TAG]}]
    for page in aws.ec2(settings).get_paginator("describe_vpcs").paginate(Filters=ours):
        for raw in page["Vpcs"]:
            own = tags.of(raw)
            users = [i for i in alive if i.vpc == raw["VpcId"]]
            kept = _foreign(own) or _used_by(users) or _under_way()
            yield Thing("VPC", raw["VpcId"], own.get("Name", ""), kept)


def _foreign(own: Mapping[str, str]) -> str:
    owner = aws.other_owner(own)
    return f"it is {owner}'s" if owner else ""


def _under_way() -> str:
    """Return a reason to keep unused things while a launch is under way: its instances may be about to use them."""
    return _UNDER_WAY if orphans.is_any_under_way() else ""


def _used_by(users: Collection[Instance]) -> str:
    if not users:
        return ""
    more = f" and {len(users) - 1} more" if len(users) > 1 else ""
    return f"{next(iter(users))}{more} use{'' if more else 's'} it"
