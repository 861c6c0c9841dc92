"""The prerequisites of a launch at EC2: the key pair, the security group, and the subnets.

The key pair and the group `hardway-ssh` are made, and tagged as ours, at their first use in a region; making them twice
at once is safe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hardway import aws
from hardway.config import Settings
from hardway.ec2 import networks
from hardway.ec2 import security_groups as groups
from hardway.errors import UsageError, did_you_mean
from hardway.ssh import connection as ssh
from hardway.ssh.keys import (
    lacks_private_half,
    own_key,
    own_key_path,
    pair_name,
    public_half,
    public_of,
    type_and_base64,
)
from hardway.system.paths import expanded

# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_ImportKeyPair.html
_IMPORTED = ("ssh-rsa ", "ssh-ed25519 ")


@dataclass(frozen=True)
class Network:
    """The place of new instances: subnets of one VPC, one for each zone.

    `any_zone`: EC2 may choose the zone by itself. `public`: instances get public addresses.
    """

    vpc: str
    subnets: dict[str, str]
    """The subnet of each zone, those with the most free addresses first."""
    any_zone: bool
    public: bool


def network(settings: Settings) -> Network:
    """Return the subnets that `--subnet`, `--vpc` and `--zone` leave, by default the default VPC's.

    If some of the subnets give public addresses, the others are left out: a login goes over IPv4. Raises UsageError if
    none is left.
    """
    ec2 = aws.ec2(settings)
    subnet, vpc, zone = settings.ec2.subnet, settings.ec2.vpc, settings.ec2.zone
    if subnet:
        found = ec2.describe_subnets(Filters=[{"Name": "subnet-id", "Values": [subnet]}])["Subnets"]
        if not found:
            raise UsageError(f"there is no subnet {subnet} in {aws.region_of(settings)}")
        public = bool(found[0].get("MapPublicIpOnLaunch"))
        _with_ipv4(settings, found)
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
    subnets = _with_ipv4(settings, subnets)
    open_ones = [s for s in subnets if s.get("MapPublicIpOnLaunch")]
    by_zone: dict[str, str] = {}
    # A fleet takes only one subnet of a zone: two are duplicate instance pools to it.
    for one in sorted(open_ones or subnets, key=lambda s: -s.get("AvailableIpAddressCount", 0)):
        by_zone.setdefault(one["AvailabilityZone"], one["SubnetId"])
    # EC2 chooses among default subnets, and somebody may have removed them.
    any_zone = not (zone or vpc) and any(s.get("DefaultForAz") for s in subnets)
    return Network(chosen, by_zone, any_zone, bool(open_ones))


def _with_ipv4(settings: Settings, subnets: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the subnets in which instances have IPv4. Raises UsageError if instances would be reached only by IPv6.

    Source: https://docs.aws.amazon.com/vpc/latest/userguide/configure-subnets.html
    """
    ids = ", ".join(sorted(subnet["SubnetId"] for subnet in subnets))
    found = [subnet for subnet in subnets if not subnet.get("Ipv6Native")]
    if not found:
        raise UsageError(f"instances are reached over IPv4, and {ids} has IPv6 alone: name another --subnet or --vpc")
    reached = settings.ec2.private_ip or settings.ec2.via
    if not reached and all(s.get("AssignIpv6AddressOnCreation") and not s.get("MapPublicIpOnLaunch") for s in found):
        raise UsageError(
            f"instances are reached over IPv4, and {ids} gives them public addresses of IPv6 only: add --private-ip "
            "where this machine is in the VPC or has a VPN or a bastion to it, else --via ssm"
        )
    return found


def check_key(settings: Settings) -> str:
    """Return a sentence why this machine can't log in with the key pair at EC2; empty if it can.

    Raises UsageError for a missing key pair, or a private key file that can't be used.
    """
    key = settings.ec2.key
    if not key:
        return ""
    if ssh.is_key_file(key):
        source = settings.source("ec2.key")
        public = public_half(expanded(key), source)
        if not public.startswith(_IMPORTED):
            raise UsageError(f"{source} {key} is of type {public.partition(' ')[0]}: EC2 takes RSA and ED25519")
        return ""
    found = _described_pair(settings, key)
    if lacks_private_half(type_and_base64(found.get("PublicKey", "")), ssh.named_files(key)):
        return (
            f"the private half of the key pair {key} is not here: give its file with --key, `ssh-add` it, or leave "
            "--key out and a key pair is made"
        )
    return ""


def _described_pair(settings: Settings, name: str) -> Mapping[str, Any]:
    ec2 = aws.ec2(settings)
    named = [{"Name": "key-name", "Values": [name]}]
    found = ec2.describe_key_pairs(Filters=named, IncludePublicKey=True)["KeyPairs"]
    if not found:
        known = [pair["KeyName"] for pair in ec2.describe_key_pairs()["KeyPairs"]]
        raise UsageError(
            f"there is no key pair {name!r} in {aws.region_of(settings)} (leave --key out and one is made, or give "
            f"a private key's file){did_you_mean(name, known)}"
        )
    return dict(found[0])


def key_pair(settings: Settings, say: Callable[[str], None]) -> str:
    """Return the name of the key pair at EC2; our own is imported at its first use.

    A key pair that the settings name is there: `check_key` has looked.
    """
    ec2 = aws.ec2(settings)
    key = settings.ec2.key
    if key and not ssh.is_key_file(key):
        return key
    if key:
        public = public_of(expanded(key), settings.source("ec2.key"))
        name = pair_name(public)
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
    """Return the name at EC2 of the key pair that new instances get; empty if none was made yet."""
    key = settings.ec2.key
    if key:
        return pair_name(public_of(expanded(key), "--key")) if ssh.is_key_file(key) else key
    return own_key().name if own_key_path().exists() else ""


def _key_exists(ec2: Any, name: str) -> bool:
    return bool(ec2.describe_key_pairs(Filters=[{"Name": "key-name", "Values": [name]}])["KeyPairs"])


def security_groups(settings: Settings, network: Network, say: Callable[[str], None]) -> list[str]:
    """Return the ids of the groups in `ec2.groups`, or else of our own group, made and opened to SSH if necessary.

    Our group lets in `ec2.ssh_from`, else this machine: by its public address, or by the address that private addresses
    of the VPC see. Systems Manager needs no address. The group also lets in its own instances, which pass on to each
    other the files that are pushed to many.
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
    for wanted, whom in (*((rule, f"from {rule.source}") for rule in rules), (own_rule, "between its instances")):
        if not any(known.covers(wanted) for known in own.rules) and groups.authorize(settings, own, wanted):
            say(f"{groups.OURS}: allowed SSH ({ec2.ssh_port}) {whom}")
    return [own.id]


def _ssh_sources(settings: Settings, network: Network) -> list[str | None]:
    """Return the networks that SSH is let in from; None stands for the public address of this machine."""
    ec2 = settings.ec2
    if ec2.ssh_from:
        return [ec2.ssh_from]
    if ec2.via:
        return []
    if ec2.private_ip or not network.public:
        return [*networks.seen_from(settings, network.vpc)]
    return [None]
