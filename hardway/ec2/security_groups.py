"""Security groups and the rules that let traffic in: list, make, open and close them, each safe to repeat."""

from __future__ import annotations

import ipaddress
import re
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hardway import aws
from hardway.config import Settings
from hardway.ec2 import tags
from hardway.ec2.instances import Instance
from hardway.errors import Failed, UsageError, did_you_mean

OURS = "hardway-ssh"
"""The group that launches make if no other group is set."""
PROTOCOLS = ("tcp", "udp", "icmp", "icmpv6", "all")
"""EC2 also takes icmp for IPv6 networks, but lets no traffic in: the protocol of ICMP over IPv6 is icmpv6.

Source: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_IpPermission.html
"""
_ALL_PORTS = (0, 65535)
_SSH = 22
_LATE_SECONDS = (0, 0.5, 1, 2, 4, 8)  # before each look for things that EC2 may show late
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateSecurityGroup.html
_NAME = re.compile(r"[a-zA-Z0-9 ._\-:/()#,@\[\]+=&;{}!$*]{1,255}")
# AWS tells a caller its public address here: https://docs.aws.amazon.com/vpc/latest/userguide/
_ADDRESS_URL = "https://checkip.amazonaws.com"


@dataclass(frozen=True)
class Rule:
    """Traffic to let in: a protocol of PROTOCOLS, the first and last port, and a source (CIDR form or a group's id)."""

    protocol: str
    ports: tuple[int, int]
    source: str

    def __str__(self) -> str:
        first, last = self.ports
        ports = f"/{first}" if first == last else "" if self.ports == _ALL_PORTS else f"/{first}-{last}"
        return f"{self.protocol}{ports}:{self.source}"

    @property
    def permission(self) -> dict[str, Any]:
        """The rule in the form that EC2 takes."""
        wanted: dict[str, Any] = {"IpProtocol": "-1" if self.protocol == "all" else self.protocol}
        if self.protocol in ("icmp", "icmpv6"):
            wanted |= {"FromPort": -1, "ToPort": -1}
        elif self.protocol != "all":
            wanted |= {"FromPort": self.ports[0], "ToPort": self.ports[1]}
        if self.source.startswith("sg-"):
            return wanted | {"UserIdGroupPairs": [{"GroupId": self.source}]}
        if ":" in self.source:
            return wanted | {"Ipv6Ranges": [{"CidrIpv6": self.source}]}
        return wanted | {"IpRanges": [{"CidrIp": self.source}]}

    def covers(self, other: Rule) -> bool:
        """Return whether this rule lets in all that the other lets in."""
        ports = self.ports[0] <= other.ports[0] and other.ports[1] <= self.ports[1]
        return self.protocol in ("all", other.protocol) and ports and _contains(self.source, other.source)

    def overlaps(self, other: Rule) -> bool:
        """Return whether both rules let in some of the same traffic."""
        same = "all" in (self.protocol, other.protocol) or self.protocol == other.protocol
        ports = self.ports[0] <= other.ports[1] and other.ports[0] <= self.ports[1]
        return same and ports and _overlap(self.source, other.source)


@dataclass(frozen=True)
class SecurityGroup:
    """A security group and its rules for traffic that comes in."""

    name: str
    id: str
    vpc: str
    rules: tuple[Rule, ...]
    description: str
    tags: Mapping[str, str] = field(hash=False)


def read_rule(settings: Settings, port: int | str | None, source: str | None, protocol: str) -> Rule:
    """Make a rule of a port or a range of ports (`8000-8100`), a source (an address, network or group id), a protocol.

    Only tcp and udp have ports; None means the port of SSH. No source means `ec2.ssh_from`, else this machine. Raises
    UsageError for an impossible rule.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(
            f"--protocol is {protocol!r}: it must be one of {', '.join(PROTOCOLS)}{did_you_mean(protocol, PROTOCOLS)}"
        )
    ports = _ALL_PORTS
    if protocol in ("tcp", "udp"):
        found = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", str(_SSH if port is None else port).strip())
        ports = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
        if not 0 <= ports[0] <= ports[1] <= 65535:
            raise UsageError(f"--port is {str(port)!r}: it must be a port, or a range such as 8000-8100")
    elif port is not None:
        raise UsageError(f"--port is for tcp and udp: leave it out, and all of {protocol} is let in")
    if source is not None and not source.strip():
        raise UsageError("--source is empty: leave it out for this machine's address")
    source = source.strip() if source else settings.ec2.ssh_from or own_address()
    if re.fullmatch(r"sg-[0-9a-f]+", source):
        return Rule(protocol, ports, source)
    try:
        network = ipaddress.ip_network(source)
    except ValueError as error:
        raise UsageError(
            f"{source!r} can't be let in: it must be an address, a network such as 203.0.113.0/24, or a security "
            f"group's id ({error})"
        ) from None
    if protocol == "icmpv6" and network.version == 4:
        raise UsageError(f"--protocol icmpv6 is for IPv6, and {network} is a network of IPv4: use icmp")
    return Rule("icmpv6" if protocol == "icmp" and network.version == 6 else protocol, ports, str(network))


def own_address() -> str:
    """Return this machine's public address as a /32, as AWS sees it. Raises UsageError if it can't be found out."""
    try:
        with urllib.request.urlopen(_ADDRESS_URL, timeout=10) as answer:
            return f"{ipaddress.IPv4Address(answer.read(64).decode().strip())}/32"
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot find out this machine's public address ({_ADDRESS_URL}: {error}): set ec2.ssh_from to the "
            "network that may use SSH, such as 203.0.113.7/32"
        ) from None


def find(settings: Settings, **filters: str) -> list[SecurityGroup]:
    """Return the security groups of the region, by name; `filters` are EC2's, with _ for -: `vpc_id`, `group_name`."""
    pages = aws.ec2(settings).get_paginator("describe_security_groups")
    asked = [{"Name": name.replace("_", "-"), "Values": [value]} for name, value in filters.items()]
    found = [
        SecurityGroup(
            raw["GroupName"],
            raw["GroupId"],
            raw.get("VpcId", ""),
            tuple(rule for permission in raw.get("IpPermissions", []) for rule in _rules(permission)),
            raw.get("Description", ""),
            tags.of(raw),
        )
        for page in pages.paginate(Filters=asked)
        for raw in page["SecurityGroups"]
    ]
    return sorted(found, key=lambda group: (group.name, group.vpc))


def one(settings: Settings, name: str) -> SecurityGroup:
    """Return the security group of this name or id. Raises UsageError for none, or for one name in several VPCs."""
    groups = find(settings)
    found = [group for group in groups if name in (group.id, group.name)]
    if not found:
        hint = did_you_mean(name, [group.name for group in groups]) or f"; see `{settings.command('ec2.sgs')}`"
        raise UsageError(f"there is no security group {name!r} in {aws.region_of(settings)}{hint}")
    if len(found) > 1:
        each = ", ".join(f"{group.id} in {group.vpc}" for group in found)
        raise UsageError(f"{len(found)} security groups are named {name!r}: give an id ({each})")
    return found[0]


def make(settings: Settings, name: str, vpc: str, description: str) -> tuple[SecurityGroup, bool]:
    """Return the group of this name in a VPC, and whether this call made it. Raises UsageError for a bad name."""
    if found := _named(settings, name, vpc):
        return found[0], False
    if name.startswith("sg-") or not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} can't be the name of a security group: a name has up to 255 letters, digits, blanks and "
            "._-:/()#,@[]+=&;{}!$*, and does not begin with sg-"
        )
    own = {"Name": name}
    try:
        made = aws.ec2(settings).create_security_group(
            GroupName=name,
            Description=description,
            VpcId=vpc,
            TagSpecifications=aws.made("security-group", own),
        )
    except Exception as error:
        if aws.error_code(error) != "InvalidGroup.Duplicate":
            raise
        return _just_made(settings, name, vpc), False
    return SecurityGroup(name, made["GroupId"], vpc, (), description, own), True


def _named(settings: Settings, name: str, vpc: str) -> list[SecurityGroup]:
    """Return the groups of exactly this name.

    EC2 takes a name in a filter as a glob. Two names that differ only in case are one name to EC2.

    Source: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateSecurityGroup.html
    """
    known = find(settings, vpc_id=vpc)
    return sorted(
        (group for group in known if group.name.lower() == name.lower()), key=lambda group: group.name != name
    )


def _just_made(settings: Settings, name: str, vpc: str) -> SecurityGroup:
    """Return the group that somebody else has just made; EC2 may show it late. Raises Failed if it doesn't show up."""
    for pause in _LATE_SECONDS:
        time.sleep(pause)
        if found := _named(settings, name, vpc):
            return found[0]
    raise Failed(f"EC2 has a security group {name!r} in {vpc}, but doesn't show it yet: try again in a minute")


def authorize(settings: Settings, group: SecurityGroup, rule: Rule) -> bool:
    """Add a rule to a group; return False if the group has exactly this rule already."""
    call = aws.ec2(settings).authorize_security_group_ingress
    permission = rule.permission
    for kind in ("IpRanges", "Ipv6Ranges"):
        for each in permission.get(kind, ()):
            each["Description"] = "by hardway"
    try:
        aws.persistently(lambda: call(GroupId=group.id, IpPermissions=[permission]), ["InvalidGroup.NotFound"])
    except Exception as error:
        if aws.error_code(error) == "RulesPerSecurityGroupLimitExceeded":
            remove = settings.command("ec2.deauthorize", group.id, "--port", "22", "--source", "...")
            raise UsageError(
                f"the security group {group.name} has as many rules as EC2 takes: `{settings.command('ec2.sgs')}` "
                f"shows them, `{remove}` removes one"
            ) from None
        if aws.error_code(error) != "InvalidPermission.Duplicate":
            raise
        return False
    return True


def deauthorize(settings: Settings, group: SecurityGroup, rule: Rule) -> tuple[bool, list[Rule]]:
    """Remove a rule; return whether it was there, and the other rules that still let in some of the same traffic."""
    try:
        answer = aws.ec2(settings).revoke_security_group_ingress(GroupId=group.id, IpPermissions=[rule.permission])
        # In a default VPC this is EC2's only sign of a missing rule:
        # https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_RevokeSecurityGroupIngress.html
        removed = not answer.get("UnknownIpPermissions")
    except Exception as error:
        if aws.error_code(error) != "InvalidPermission.NotFound":
            raise
        removed = False
    return removed, [other for other in group.rules if other != rule and other.overlaps(rule)]


def _rules(permission: Mapping[str, Any]) -> Iterator[Rule]:
    protocol = {"-1": "all"}.get(permission["IpProtocol"], permission["IpProtocol"])
    ports = (permission.get("FromPort", 0), permission.get("ToPort", 65535))
    sources = [
        *(each["CidrIp"] for each in permission.get("IpRanges", [])),
        *(each["CidrIpv6"] for each in permission.get("Ipv6Ranges", [])),
        *(each["GroupId"] for each in permission.get("UserIdGroupPairs", [])),
        *(each["PrefixListId"] for each in permission.get("PrefixListIds", [])),
    ]
    for source in sources:
        yield Rule(protocol, _ALL_PORTS if protocol not in ("tcp", "udp") else ports, source)


def _networks(*sources: str) -> list[Any] | None:
    """Return the sources as networks; None unless all are networks of one version of IP."""
    try:
        found = [ipaddress.ip_network(source) for source in sources]
    except ValueError:
        return None
    return found if len({network.version for network in found}) == 1 else None


def _contains(outer: str, inner: str) -> bool:
    networks = _networks(outer, inner)
    return networks[1].subnet_of(networks[0]) if networks else outer == inner


def _overlap(one: str, other: str) -> bool:
    networks = _networks(one, other)
    return networks[0].overlaps(networks[1]) if networks else one == other


def open_between(settings: Settings, instances: Sequence[Instance], say: Callable[[str], None]) -> None:
    """Let instances with our own group reach each other by TCP; other groups are left alone."""
    shared = set.intersection(*({*instance.security_groups.items()} for instance in instances))
    for group in [group for group, name in shared if name == OURS]:
        if authorize(settings, one(settings, group), read_rule(settings, "0-65535", group, "tcp")):
            say(f"{OURS}: allowed TCP (all ports) between its instances")
