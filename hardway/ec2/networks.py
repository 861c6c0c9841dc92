"""VPCs: find them, make them with all that a reachable instance needs, and remove them with their contents."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hardway import aws
from hardway.config import Settings
from hardway.ec2 import security_groups, tags
from hardway.ec2.instances import ALIVE, Selector, check_name, describe
from hardway.errors import Failed, UsageError, did_you_mean
from hardway.system import signals

VPC_TAG = "hardway-vpc"
"""A tag on all that `make` makes. The value is new for each VPC, to find a VPC whose creation went unanswered."""
_CIDR = "10.0.0.0/16"
_SUBNET_PREFIX = 20
_UNKNOWN_YET = ("InvalidVpcID.NotFound", "InvalidInternetGatewayID.NotFound", "InvalidSubnetID.NotFound")
_BUSY_SECONDS = 30


@dataclass(frozen=True)
class Subnet:
    """A subnet and its VPC; `subnet` is empty for a VPC without subnets. `free` counts addresses."""

    name: str
    vpc: str
    default: bool
    subnet: str
    zone: str
    cidr: str
    public: bool
    free: int
    tags: Mapping[str, str] = field(hash=False)


def subnets(settings: Settings) -> list[Subnet]:
    """Return the subnets of the region, by VPC and zone; `name` and `tags` are the VPC's."""
    ec2 = aws.ec2(settings)
    found: dict[str, list[Any]] = {}
    for page in ec2.get_paginator("describe_subnets").paginate():
        for raw in page["Subnets"]:
            found.setdefault(raw["VpcId"], []).append(raw)
    result = []
    for vpc in sorted(_vpcs(settings), key=lambda raw: (not raw["IsDefault"], tags.of(raw).get("Name", ""))):
        none = {"SubnetId": "", "AvailabilityZone": "", "CidrBlock": vpc["CidrBlock"]}
        for raw in sorted(found.get(vpc["VpcId"], [none]), key=lambda raw: raw["AvailabilityZone"]):
            result.append(
                Subnet(
                    tags.of(vpc).get("Name", ""),
                    vpc["VpcId"],
                    vpc["IsDefault"],
                    raw["SubnetId"],
                    raw["AvailabilityZone"],
                    _cidr(raw),
                    raw.get("MapPublicIpOnLaunch", False),
                    raw.get("AvailableIpAddressCount", 0),
                    tags.of(vpc),
                )
            )
    return result


def _cidr(subnet: Mapping[str, Any]) -> str:
    """Return the network of a subnet in CIDR form; for a subnet without IPv4, its IPv6 networks, with commas."""
    if "CidrBlock" in subnet:
        return str(subnet["CidrBlock"])
    return ",".join(each["Ipv6CidrBlock"] for each in subnet.get("Ipv6CidrBlockAssociationSet", []))


def find(settings: Settings, name: str) -> str:
    """Return the id of the VPC of this name or id, or of the default VPC for an empty name. Raises UsageError."""
    region = aws.region_of(settings)
    vpcs = _vpcs(settings)
    if not name:
        default = [vpc["VpcId"] for vpc in vpcs if vpc["IsDefault"]]
        if not default:
            make = settings.command("ec2.new-vpc", "NAME")
            raise UsageError(f"{region} has no default VPC: `{make}` makes a VPC; --vpc NAME starts instances in it")
        return str(default[0])
    found = [vpc["VpcId"] for vpc in vpcs if name in (vpc["VpcId"], tags.of(vpc).get("Name"))]
    if not found:
        known = filter(None, (tags.of(vpc).get("Name", "") for vpc in vpcs))
        hint = did_you_mean(name, known) or f"; see `{settings.command('ec2.vpcs')}`"
        raise UsageError(f"there is no VPC {name!r} in {region}{hint}")
    if len(found) > 1:
        raise UsageError(f"{len(found)} VPCs are named {name!r}: give an id ({', '.join(found)})")
    return str(found[0])


def seen_from(settings: Settings, vpc: str) -> list[str]:
    """Return the networks, in CIDR form, from which private addresses of a VPC may see this machine.

    An instance in the VPC is seen by its own address. Any other machine may also come through a bastion or a VPN,
    from anywhere in the VPC. A private address of such a machine proves nothing, even one of the VPC's range: many
    homes and offices use the same private addresses.
    """
    [raw] = aws.ec2(settings).describe_vpcs(VpcIds=[vpc])["Vpcs"]
    associated = [each["CidrBlock"] for each in raw.get("CidrBlockAssociationSet", [])] or [raw["CidrBlock"]]
    inside = [ipaddress.ip_network(each) for each in associated]
    own = _local_address(inside[0])
    if any(own in network for network in inside) and _is_instance():
        return [f"{own}/32"]
    reached = own.is_private and not own.is_unspecified
    return [*map(str, inside), *([f"{own}/32"] if reached else [])]


def _is_instance() -> bool:
    """Return whether this machine is an EC2 instance; instances on Xen don't tell.

    Source: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/identify_ec2_instances.html
    """
    with contextlib.suppress(OSError):
        return Path("/sys/class/dmi/id/sys_vendor").read_text().strip() == "Amazon EC2"
    return False


def _local_address(towards: ipaddress.IPv4Network | ipaddress.IPv6Network) -> ipaddress.IPv4Address:
    """Return this machine's address on the way to a network, 0.0.0.0 if there is no way. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        with contextlib.suppress(OSError):
            probe.connect((str(towards[1]), 22))
        return ipaddress.IPv4Address(probe.getsockname()[0])


def make(settings: Settings, name: str, say: Callable[[str], None]) -> str:
    """Make a VPC of this name with a public subnet in every zone, or add its missing parts; return its id.

    Instances in the VPC have public addresses and DNS names. After a failure, Ctrl-C included, a new VPC is removed
    again. Raises UsageError if a VPC that hardway didn't make has the name.
    """
    if name.startswith("vpc-"):
        raise UsageError(f"{name!r} looks like an id: choose another name")
    check_name(name, "the VPC's name")
    # EC2 takes a name in a filter as a glob.
    named = [vpc for vpc in _vpcs(settings, {"tag:Name": name}) if tags.of(vpc)["Name"] == name]
    if len(named) > 1 or (named and VPC_TAG not in tags.of(named[0])):
        ids = ", ".join(vpc["VpcId"] for vpc in named)
        many = "several VPCs have" if len(named) > 1 else "a VPC that hardway did not make has"
        raise UsageError(f"{many} the name {name!r} ({ids}): choose another name")
    if named:
        _complete(settings, named[0], say)
        return str(named[0]["VpcId"])
    token = uuid.uuid4().hex
    vpc: dict[str, Any] = {}
    with signals.raised():
        try:
            own = aws.made("vpc", {"Name": name, VPC_TAG: token})
            once = aws.ec2_once(settings)
            vpc = aws.made_once(
                lambda: once.create_vpc(CidrBlock=_CIDR, TagSpecifications=own)["Vpc"],
                lambda: next(iter(_vpcs(settings, {f"tag:{VPC_TAG}": token})), None),
            )
            say(f"made the VPC {name} ({vpc['VpcId']})")
            _complete(settings, {**vpc, "Tags": own[0]["Tags"]}, say)
        except BaseException as error:
            if vpc or not aws.is_answered(error):
                _undo(settings, token, say)
            raise signals.as_error(error) if isinstance(error, KeyboardInterrupt) else error from error
    return str(vpc["VpcId"])


def _undo(settings: Settings, token: str, say: Callable[[str], None]) -> None:
    vpc = f"the VPC with the tag {VPC_TAG}={token}"
    with signals.ignored():
        try:
            for pause in aws.LATE_PAUSES:
                time.sleep(pause)
                if found := _vpcs(settings, {f"tag:{VPC_TAG}": token}):
                    vpc = found[0]["VpcId"]
                    remove_vpc(settings, vpc)
                    say(f"removed {vpc}, which was only half made")
                    return
        except Exception as failure:
            reason = aws.translate(failure) or failure
            see = settings.command("ec2.vpcs")
            say(f"{vpc} may be half made, and could not be removed ({reason}): see `{see}`, ec2.rm-vpc")


def _complete(settings: Settings, vpc: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Add the VPC's missing parts: DNS names, an internet gateway and the route to it, a subnet in every zone."""
    ec2, id_ = aws.ec2(settings), vpc["VpcId"]
    own = {key: value for key, value in tags.of(vpc).items() if key in ("Name", VPC_TAG)}
    for attribute in ("EnableDnsSupport", "EnableDnsHostnames"):
        _known(ec2.modify_vpc_attribute, VpcId=id_, **{attribute: {"Value": True}})
    gateway = _gateway(settings, id_, own, say)
    main = _main_table(ec2, id_)
    if not any(route.get("DestinationCidrBlock") == "0.0.0.0/0" for route in main["Routes"]):
        route = {"DestinationCidrBlock": "0.0.0.0/0", "GatewayId": gateway}
        _known(ec2.create_route, RouteTableId=main["RouteTableId"], **route)
    there = ec2.describe_subnets(Filters=_filters({"vpc-id": id_}))["Subnets"]
    free = _free_networks(vpc["CidrBlock"], [subnet["CidrBlock"] for subnet in there if "CidrBlock" in subnet])
    for zone in _zones(ec2):
        subnet = next((s for s in there if s["AvailabilityZone"] == zone), None)
        if subnet is None:
            subnet = _known(
                ec2.create_subnet,
                VpcId=id_,
                AvailabilityZone=zone,
                CidrBlock=str(next(free)),
                TagSpecifications=aws.made("subnet", own),
            )["Subnet"]
            say(f"made {subnet['SubnetId']} in {zone} ({id_})")
        if not subnet["MapPublicIpOnLaunch"]:
            change = {"MapPublicIpOnLaunch": {"Value": True}}
            _known(ec2.modify_subnet_attribute, SubnetId=subnet["SubnetId"], **change)


def _gateway(settings: Settings, vpc: str, own: Mapping[str, str], say: Callable[[str], None]) -> str:
    """Return the internet gateway of a VPC; make and attach one if there is none."""
    ec2, once = aws.ec2(settings), aws.ec2_once(settings)
    if attached := _gateways(ec2, vpc):
        return str(attached[0]["InternetGatewayId"])

    def unattached() -> Any:
        of_vpc = _filters({f"tag:{VPC_TAG}": own[VPC_TAG]})
        return next(iter(ec2.describe_internet_gateways(Filters=of_vpc)["InternetGateways"]), None)

    # An earlier call may have made a gateway, and ended before it was attached.
    gateway = unattached()
    if gateway is None:
        kind = aws.made("internet-gateway", own)
        gateway = aws.made_once(
            lambda: once.create_internet_gateway(TagSpecifications=kind)["InternetGateway"], unattached
        )
        say(f"made {gateway['InternetGatewayId']} ({vpc})")
    _known(ec2.attach_internet_gateway, VpcId=vpc, InternetGatewayId=gateway["InternetGatewayId"])
    return str(gateway["InternetGatewayId"])


def _gateways(ec2: Any, vpc: str) -> list[Any]:
    attached = _filters({"attachment.vpc-id": vpc})
    return list(ec2.describe_internet_gateways(Filters=attached)["InternetGateways"])


def _main_table(ec2: Any, vpc: str) -> Any:
    for pause in aws.LATE_PAUSES:
        time.sleep(pause)
        answer = ec2.describe_route_tables(Filters=_filters({"vpc-id": vpc, "association.main": "true"}))
        if answer["RouteTables"]:
            return answer["RouteTables"][0]
    raise Failed(f"{vpc} has no main route table")


def _free_networks(cidr: str, taken: Sequence[str]) -> Any:
    used = [ipaddress.ip_network(text) for text in taken]
    every = ipaddress.ip_network(cidr).subnets(new_prefix=_SUBNET_PREFIX)
    return (network for network in every if not any(network.overlaps(other) for other in used))


def _zones(ec2: Any) -> list[str]:
    """Return the zones that every account has: no Local Zones, no Wavelength."""
    filters = _filters({"zone-type": "availability-zone", "state": "available"})
    return sorted(z["ZoneName"] for z in ec2.describe_availability_zones(Filters=filters)["AvailabilityZones"])


def refuse_foreign(settings: Settings, vpc: str, any_owner: bool) -> None:
    """Raise UsageError if a VPC has another user's `owner` tag, unless `any_owner`."""
    for raw in _vpcs(settings, {"vpc-id": vpc}):
        tags.refuse_foreign(vpc, tags.of(raw), any_owner)


def contents(settings: Settings, vpc: str) -> list[str]:
    """Return lines about the contents to remove with a VPC. Raises UsageError for one in use, or the default VPC."""
    [raw] = _vpcs(settings, {"vpc-id": vpc}) or [None]
    if raw is None:
        raise UsageError(f"there is no VPC {vpc} in {aws.region_of(settings)}; see `{settings.command('ec2.vpcs')}`")
    if raw["IsDefault"]:
        raise UsageError(f"{vpc} is the default VPC of {aws.region_of(settings)}: hardway does not remove it")
    alive = [i for i in describe(settings, Selector("", (), (vpc,), ())) if i.state in ALIVE]
    if alive:
        more = f" and {len(alive) - 1} more" if len(alive) > 1 else ""
        rm = settings.command("ec2.rm", vpc)
        raise UsageError(f"{vpc} still has instances ({alive[0]}{more}): `{rm}` terminates them")
    lines = [" ".join(filter(None, [vpc, tags.of(raw).get("Name", ""), raw["CidrBlock"]]))]
    lines += [f"{s.subnet} {s.zone} {s.cidr}" for s in subnets(settings) if s.vpc == vpc and s.subnet]
    lines += [gateway["InternetGatewayId"] for gateway in _gateways(aws.ec2(settings), vpc)]
    groups = security_groups.find(settings, vpc_id=vpc)
    return lines + [f"{group.id} {group.name}" for group in groups if group.name != "default"]


def remove_vpc(settings: Settings, vpc: str) -> None:
    """Remove a VPC with its internet gateways, subnets, route tables, network ACLs and security groups.

    Wait for instances that are being terminated, at most `ec2.seconds_timeout` seconds. Raises UsageError, before
    anything is removed, for a VPC in use or the default one.
    """
    contents(settings, vpc)
    _wait_for_interfaces(settings, vpc)
    ec2 = aws.ec2(settings)
    inside = _filters({"vpc-id": vpc})
    token = tags.of(_vpcs(settings, {"vpc-id": vpc})[0]).get(VPC_TAG)
    for gateway in _gateways(ec2, vpc):
        _removed(ec2.detach_internet_gateway, VpcId=vpc, InternetGatewayId=gateway["InternetGatewayId"])
        _removed(ec2.delete_internet_gateway, InternetGatewayId=gateway["InternetGatewayId"])
    if token:
        # A gateway may have been made, but never attached.
        for gateway in ec2.describe_internet_gateways(Filters=_filters({f"tag:{VPC_TAG}": token}))["InternetGateways"]:
            _removed(ec2.delete_internet_gateway, InternetGatewayId=gateway["InternetGatewayId"])
    for subnet in ec2.describe_subnets(Filters=inside)["Subnets"]:
        _removed(ec2.delete_subnet, SubnetId=subnet["SubnetId"])
    for table in ec2.describe_route_tables(Filters=inside)["RouteTables"]:
        if not any(association.get("Main") for association in table["Associations"]):
            _removed(ec2.delete_route_table, RouteTableId=table["RouteTableId"])
    for acl in ec2.describe_network_acls(Filters=inside)["NetworkAcls"]:
        if not acl["IsDefault"]:
            _removed(ec2.delete_network_acl, NetworkAclId=acl["NetworkAclId"])
    _remove_groups(ec2, inside)
    _removed(ec2.delete_vpc, VpcId=vpc)


def _remove_groups(ec2: Any, inside: Any) -> None:
    answer = ec2.describe_security_groups(Filters=inside)
    groups = [group for group in answer["SecurityGroups"] if group["GroupName"] != "default"]
    for group in groups:
        # Groups that name each other can't be deleted in any order.
        for permissions, revoke in (
            (group.get("IpPermissions"), ec2.revoke_security_group_ingress),
            (group.get("IpPermissionsEgress"), ec2.revoke_security_group_egress),
        ):
            naming = [each for each in permissions or [] if each.get("UserIdGroupPairs")]
            if naming:
                revoke(GroupId=group["GroupId"], IpPermissions=naming)
    for group in groups:
        _removed(ec2.delete_security_group, GroupId=group["GroupId"])


def _wait_for_interfaces(settings: Settings, vpc: str) -> None:
    """Wait until the interfaces of terminating instances are gone. Raises Failed for other interfaces, or a timeout."""
    deadline = time.monotonic() + settings.ec2.seconds_timeout
    pause = 0.2
    while True:
        answer = aws.ec2(settings).describe_network_interfaces(Filters=_filters({"vpc-id": vpc}))
        left = answer["NetworkInterfaces"]
        foreign = [i for i in left if not i.get("Attachment", {}).get("InstanceId")]
        if not left:
            return
        if foreign or time.monotonic() >= deadline:
            one = (foreign or left)[0]
            what = one.get("Description") or "a network interface"
            raise Failed(f"{vpc} is in use by {one['NetworkInterfaceId']} ({what}): nothing was removed")
        time.sleep(pause)
        pause = min(pause * 1.3, 5.0)


def _vpcs(settings: Settings, filters: Mapping[str, str] | None = None) -> list[Any]:
    pages = aws.ec2(settings).get_paginator("describe_vpcs").paginate(Filters=_filters(filters or {}))
    return [vpc for page in pages for vpc in page["Vpcs"]]


def _filters(wanted: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"Name": name, "Values": [value]} for name, value in wanted.items()]


def _known(call: Callable[..., Any], **parameters: Any) -> Any:
    """Make a call, and retry while EC2 doesn't know an id that it has just given out."""
    return aws.persistently(lambda: call(**parameters), _UNKNOWN_YET)


def _removed(call: Callable[..., Any], **parameters: Any) -> None:
    """Make a deleting call, and retry while EC2 still sees dependencies; a missing thing is no error."""
    try:
        aws.persistently(lambda: call(**parameters), ["DependencyViolation"], _BUSY_SECONDS)
    except Exception as error:
        if not aws.error_code(error).endswith(("NotFound", "NotAttached")):
            raise
