"""What lets us in: the key pair at EC2, the security group, and the subnet an instance starts in.

The key pair and the group `hardway-ssh` are made, and tagged as ours, at their first use in a region; making them twice
at once is safe.
"""

from __future__ import annotations

import ipaddress
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko

from hardway import aws, ssh
from hardway.config import Settings
from hardway.errors import UsageError, did_you_mean
from hardway.keys import own_key, pair_name

SECURITY_GROUP = "hardway-ssh"
# Says which public address a request came from: https://docs.aws.amazon.com/vpc/latest/userguide/
_ADDRESS_URL = "https://checkip.amazonaws.com"


@dataclass(frozen=True)
class Network:
    """Where instances may start: subnets, one a zone, of one VPC. `any_zone`: EC2 may as well choose by itself."""

    vpc: str
    subnets: dict[str, str]
    """Zone to subnet, those with the most free addresses first."""
    any_zone: bool


def network(settings: Settings, subnet: str, vpc: str, zone: str) -> Network:
    """The subnets that `--subnet`, `--vpc` and `--zone` leave, by default those of the default VPC.

    Where some of them give public addresses the others are left out: we want to log in. Raises UsageError for none.
    """
    ec2 = aws.ec2(settings)
    if subnet:
        found = ec2.describe_subnets(Filters=[{"Name": "subnet-id", "Values": [subnet]}])["Subnets"]
        if not found:
            raise UsageError(f"there is no subnet {subnet} in {aws.region_of(settings)}")
        return Network(found[0]["VpcId"], {found[0]["AvailabilityZone"]: subnet}, False)
    if vpc:
        chosen = vpc
    else:
        vpcs = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
        if not vpcs:
            raise UsageError(f"{aws.region_of(settings)} has no default VPC: add --vpc or --subnet")
        chosen = vpcs[0]["VpcId"]
    filters: list[Any] = [{"Name": "vpc-id", "Values": [chosen]}]
    if zone:
        filters.append({"Name": "availability-zone", "Values": [zone]})
    subnets = ec2.describe_subnets(Filters=filters)["Subnets"]
    if not subnets:
        where = " in ".join(filter(None, [zone, vpc or "the default VPC"]))
        raise UsageError(f"there is no subnet in {where}: check --zone and --vpc, or add --subnet")
    public = [s for s in subnets if s.get("MapPublicIpOnLaunch")] or subnets
    by_zone: dict[str, str] = {}
    # A fleet takes no two subnets of one zone: it calls them duplicate instance pools.
    for one in sorted(public, key=lambda s: -s.get("AvailableIpAddressCount", 0)):
        by_zone.setdefault(one["AvailabilityZone"], one["SubnetId"])
    return Network(chosen, by_zone, not (zone or vpc))


def key_pair(settings: Settings, key: str, say: Callable[[str], None]) -> str:
    """The name of the key pair at EC2; ours is imported there at its first use."""
    ec2 = aws.ec2(settings)
    if key and not ssh.is_key_file(key):
        if not _key_exists(ec2, key):
            raise UsageError(
                f"there is no key pair {key!r} in {aws.region_of(settings)}: leave --key out and one is made, "
                "or give a private key's file"
            )
        return key
    if key:
        name, public = _from_key_file(Path(key).expanduser())
    else:
        own = own_key()
        name, public = own.name, own.public
    if not _key_exists(ec2, name):
        try:
            ec2.import_key_pair(
                KeyName=name, PublicKeyMaterial=public.encode(), TagSpecifications=aws.made("key-pair")
            )
        except Exception as error:
            if aws.error_code(error) != "InvalidKeyPair.Duplicate":
                raise
        else:
            say(f"imported the key pair {name}")
    return name


def _key_exists(ec2: Any, name: str) -> bool:
    return bool(ec2.describe_key_pairs(Filters=[{"Name": "key-name", "Values": [name]}])["KeyPairs"])


def _from_key_file(path: Path) -> tuple[str, str]:
    """The name and public half of a private key's file, from the `.pub` beside it where there is one."""
    public_file = path.with_name(path.name + ".pub")
    try:
        if public_file.is_file():
            kind, key = public_file.read_text().split()[:2]
        else:
            private = paramiko.PKey.from_path(path)
            kind, key = private.get_name(), private.get_base64()
    except (OSError, ValueError, paramiko.SSHException) as error:
        raise UsageError(f"--key {path} is no private key that can be read: {error}") from None
    public = f"{kind} {key}"
    return pair_name(public), public


def security_groups(
    settings: Settings, names: Sequence[str], vpc: str, port: int, source: str, say: Callable[[str], None]
) -> list[str]:
    """Ids of the groups named, else of our own, made and opened to SSH on `port` where that is missing.

    `source` is the network it lets in, in CIDR form; empty for this machine's public address.
    """
    ec2 = aws.ec2(settings)
    groups = ec2.describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["SecurityGroups"]
    if names:
        ids = {name: g["GroupId"] for g in groups for name in (g["GroupId"], g["GroupName"])}
        for name in names:
            if name not in ids:
                raise UsageError(f"there is no security group {name!r} in {vpc}{did_you_mean(name, ids)}")
        return [ids[name] for name in names]
    own = next((g for g in groups if g["GroupName"] == SECURITY_GROUP), None)
    if own:
        group, rules = own["GroupId"], own.get("IpPermissions", [])
    else:
        group, rules = _make_security_group(ec2, vpc), []
        say(f"made the security group {SECURITY_GROUP} ({group}) in {vpc}")
    source = source or _own_address()
    if not _lets_in(rules, port, source):
        rule = {
            "IpProtocol": "tcp",
            "FromPort": port,
            "ToPort": port,
            "IpRanges": [{"CidrIp": source, "Description": "SSH, by hardway"}],
        }
        try:
            ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
        except Exception as error:
            if aws.error_code(error) != "InvalidPermission.Duplicate":
                raise
        else:
            say(f"{SECURITY_GROUP} now lets SSH (port {port}) in from {source}")
    return [group]


def _make_security_group(ec2: Any, vpc: str) -> str:
    try:
        made = ec2.create_security_group(
            GroupName=SECURITY_GROUP,
            Description="SSH to instances that hardway launches",
            VpcId=vpc,
            TagSpecifications=aws.made("security-group"),
        )
        return str(made["GroupId"])
    except Exception as error:
        if aws.error_code(error) != "InvalidGroup.Duplicate":
            raise
    filters = [{"Name": "vpc-id", "Values": [vpc]}, {"Name": "group-name", "Values": [SECURITY_GROUP]}]
    return str(ec2.describe_security_groups(Filters=filters)["SecurityGroups"][0]["GroupId"])


def _lets_in(rules: Sequence[Any], port: int, source: str) -> bool:
    return any(
        rule.get("IpProtocol") in ("tcp", "-1")
        and rule.get("FromPort", 0) <= port <= rule.get("ToPort", 65535)
        and any(r.get("CidrIp") in (source, "0.0.0.0/0") for r in rule.get("IpRanges", []))
        for rule in rules
    )


def _own_address() -> str:
    """This machine's public address as a /32, as AWS sees it."""
    try:
        with urllib.request.urlopen(_ADDRESS_URL, timeout=10) as answer:
            return f"{ipaddress.IPv4Address(answer.read(64).decode().strip())}/32"
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot find out this machine's public address ({_ADDRESS_URL}: {error}): set ec2.ssh_from to the "
            "network that may use SSH, such as 203.0.113.7/32, or name a security group with --sg"
        ) from None
