"""What lets us in: the key pair at EC2, the security group, and the subnet an instance starts in.

The key pair and the group `hardway-ssh` are made, and tagged as ours, at their first use in a region; making them twice
at once is safe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko

from hardway import aws
from hardway.config import Settings
from hardway.ec2 import networks
from hardway.ec2 import security_groups as groups
from hardway.errors import UsageError, did_you_mean, reason_of
from hardway.ssh import connection as ssh
from hardway.ssh.keys import own_key, own_key_path, pair_name
from hardway.system.paths import expanded


@dataclass(frozen=True)
class Network:
    """Where instances may start: subnets, one a zone, of one VPC. `any_zone`: EC2 may as well choose by itself.

    `public`: instances get public addresses.
    """

    vpc: str
    subnets: dict[str, str]
    """Zone to subnet, those with the most free addresses first."""
    any_zone: bool
    public: bool


def network(settings: Settings) -> Network:
    """The subnets that `--subnet`, `--vpc` and `--zone` leave, by default those of the default VPC.

    Where some of them give public addresses the others are left out: we want to log in. Raises UsageError for none.
    """
    ec2 = aws.ec2(settings)
    subnet, vpc, zone = settings.ec2.subnet, settings.ec2.vpc, settings.ec2.zone
    if subnet:
        found = ec2.describe_subnets(Filters=[{"Name": "subnet-id", "Values": [subnet]}])["Subnets"]
        if not found:
            raise UsageError(f"there is no subnet {subnet} in {aws.region_of(settings)}")
        public = bool(found[0].get("MapPublicIpOnLaunch"))
        return Network(found[0]["VpcId"], {found[0]["AvailabilityZone"]: subnet}, False, public)
    chosen = networks.find(settings, vpc)
    everywhere = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [chosen]}])["Subnets"]
    subnets = [s for s in everywhere if zone in ("", s["AvailabilityZone"])]
    if not everywhere:
        raise UsageError(f"there is no subnet in {chosen}: check --vpc, or add --subnet")
    if not subnets:
        zones = sorted({s["AvailabilityZone"] for s in everywhere})
        raise UsageError(
            f"there is no subnet in {zone} in {chosen} (but in {', '.join(zones)}){did_you_mean(zone, zones)}"
        )
    open_ones = [s for s in subnets if s.get("MapPublicIpOnLaunch")]
    by_zone: dict[str, str] = {}
    # A fleet takes no two subnets of one zone: it calls them duplicate instance pools.
    for one in sorted(open_ones or subnets, key=lambda s: -s.get("AvailableIpAddressCount", 0)):
        by_zone.setdefault(one["AvailabilityZone"], one["SubnetId"])
    # EC2 chooses among default subnets, which somebody may have removed.
    any_zone = not (zone or vpc) and any(s.get("DefaultForAz") for s in subnets)
    return Network(chosen, by_zone, any_zone, bool(open_ones))


def key_pair(settings: Settings, say: Callable[[str], None]) -> str:
    """The name of the key pair at EC2; ours is imported there at its first use."""
    ec2 = aws.ec2(settings)
    key = settings.ec2.key
    if key and not ssh.is_key_file(key):
        if not _key_exists(ec2, key):
            known = [pair["KeyName"] for pair in ec2.describe_key_pairs()["KeyPairs"]]
            raise UsageError(
                f"there is no key pair {key!r} in {aws.region_of(settings)} (leave --key out and one is made, or give "
                f"a private key's file){did_you_mean(key, known)}"
            )
        return key
    if key:
        name, public = _from_key_file(expanded(key))
    else:
        own = own_key()
        name, public = own.name, own.public
    if not _key_exists(ec2, name):
        try:
            ec2.import_key_pair(KeyName=name, PublicKeyMaterial=public.encode(), TagSpecifications=aws.made("key-pair"))
        except Exception as error:
            if aws.error_code(error) != "InvalidKeyPair.Duplicate":
                raise
        else:
            say(f"imported the key pair {name}")
    return name


def own_key_name(settings: Settings) -> str:
    """The name at EC2 of the key pair that new instances get; empty where none was made yet."""
    key = settings.ec2.key
    if key:
        return _from_key_file(expanded(key))[0] if ssh.is_key_file(key) else key
    return own_key().name if own_key_path().exists() else ""


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
        raise UsageError(f"--key {path} is no private key that can be read: {reason_of(error)}") from None
    public = f"{kind} {key}"
    return pair_name(public), public


def security_groups(settings: Settings, network: Network, say: Callable[[str], None]) -> list[str]:
    """Ids of the groups in `ec2.groups`, else of our own, made and opened to SSH where that is missing.

    It lets in `ec2.ssh_from`, else this machine's address, the public one or the one that private addresses of the VPC
    see; Systems Manager needs none. It lets in its own instances, too: they pass on to each other what is pushed to
    many.
    """
    ec2 = settings.ec2
    if ec2.groups:
        found = groups.find(settings, vpc_id=network.vpc)
        ids = {name: group.id for group in found for name in (group.id, group.name)}
        for name in ec2.groups:
            if name not in ids:
                raise UsageError(f"there is no security group {name!r} in {network.vpc}{did_you_mean(name, ids)}")
        return [ids[name] for name in ec2.groups]
    own, made = groups.make(settings, groups.OURS, network.vpc, "SSH to instances that hardway launches")
    if made:
        say(f"made the security group {groups.OURS} ({own.id}) in {network.vpc}")
    rules = [groups.read_rule(settings, ec2.ssh_port, each, "tcp") for each in _ssh_sources(settings, network)]
    own_rule = groups.read_rule(settings, ec2.ssh_port, own.id, "tcp")
    for wanted, whom in (*((rule, rule.source) for rule in rules), (own_rule, "its own instances")):
        if not any(known.covers(wanted) for known in own.rules) and groups.authorize(settings, own, wanted):
            say(f"{groups.OURS} now lets SSH (port {ec2.ssh_port}) in from {whom}")
    return [own.id]


def _ssh_sources(settings: Settings, network: Network) -> list[str | None]:
    """The networks that SSH is let in from; None is the address of this machine."""
    ec2 = settings.ec2
    if ec2.ssh_from:
        return [ec2.ssh_from]
    if ec2.via:
        return []
    if ec2.private_ip or not network.public:
        return [*networks.seen_from(settings, network.vpc)]
    return [None]
