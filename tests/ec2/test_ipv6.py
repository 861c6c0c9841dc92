"""Subnets of IPv6: none is paid for in which nobody could log in, and they are listed as others are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from invoke.context import Context

from hardway import config
from hardway.ec2.instances import from_description
from hardway.ssh import connection
from tests.ec2.conftest import Shell
from tests.test_instances import instance


@dataclass(frozen=True)
class Vpc:
    """With a subnet of IPv6 alone, and one of both without public addresses of IPv4."""

    id: str
    native: str
    dual: str


@pytest.fixture
def vpc(shell: Shell) -> Iterator[Vpc]:
    ec2 = shell.cloud.client("ec2")
    made = ec2.create_vpc(CidrBlock="10.9.0.0/16", AmazonProvidedIpv6CidrBlock=True)["Vpc"]["VpcId"]
    [described] = ec2.describe_vpcs(VpcIds=[made])["Vpcs"]
    block = described["Ipv6CidrBlockAssociationSet"][0]["Ipv6CidrBlock"].removesuffix("00::/56")
    native = ec2.create_subnet(
        VpcId=made, Ipv6Native=True, Ipv6CidrBlock=f"{block}01::/64", AvailabilityZone="us-east-1a"
    )["Subnet"]["SubnetId"]
    dual = ec2.create_subnet(
        VpcId=made, CidrBlock="10.9.1.0/24", Ipv6CidrBlock=f"{block}02::/64", AvailabilityZone="us-east-1b"
    )["Subnet"]["SubnetId"]
    ec2.modify_subnet_attribute(SubnetId=dual, AssignIpv6AddressOnCreation={"Value": True})
    yield Vpc(made, native, dual)
    for subnet in (native, dual):
        ec2.delete_subnet(SubnetId=subnet)
    for group in ec2.describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [made]}])["SecurityGroups"]:
        if group["GroupName"] != "default":
            ec2.delete_security_group(GroupId=group["GroupId"])
    ec2.delete_vpc(VpcId=made)


def test_what_only_ipv6_leads_to_is_refused(shell: Shell, name: str, vpc: Vpc) -> None:
    for flags, said in (
        (["--subnet", vpc.native], f"{vpc.native} has IPv6 alone"),
        (["--vpc", vpc.id, "--zone", "us-east-1a"], f"{vpc.native} has IPv6 alone"),
        (["--subnet", vpc.dual], "add --private-ip"),
        (["--vpc", vpc.id, "--zone", "us-east-1b"], "add --private-ip"),
    ):
        result = shell("ec2.new", "--name", name, *flags)
        assert (result.code, result.stdout) == (2, "")
        [line] = result.stderr.splitlines()
        assert said in line
    assert not shell.states(name)


def test_a_way_to_private_addresses_leads_to_both(shell: Shell, name: str, vpc: Vpc) -> None:
    [id_] = shell.succeed("ec2.new", "--name", name, "--vpc", vpc.id, "--private-ip", "--no-wait").stdout.split()
    [described] = shell.cloud.client("ec2").describe_instances(InstanceIds=[id_])["Reservations"][0]["Instances"]
    assert described["SubnetId"] == vpc.dual
    shell.succeed("ec2.rm", id_, "--yes")
    shell.succeed("ec2.wait", id_, "--state", "terminated")


def test_networks_of_ipv6_are_listed(shell: Shell, vpc: Vpc) -> None:
    lines = shell.succeed("ec2.vpcs").stdout.splitlines()
    [native] = [line for line in lines if vpc.native in line]
    assert "::/64" in native


def test_an_instance_of_ipv6_alone_is_reached_there(shell: Shell) -> None:
    one = replace(instance(1, "six"), public_ip="", private_ip="", ipv6="2001:db8::7")
    assert connection.address(one, config.settings(Context())) == "2001:db8::7"
    described = {
        "InstanceId": "i-1",
        "State": {"Name": "running"},
        "LaunchTime": one.launched,
        "Ipv6Address": "2001:db8::7",
    }
    assert from_description(described, "us-east-1").address == "2001:db8::7"
