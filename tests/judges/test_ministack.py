"""Launches, groups, keys, VPCs, images and tags against ministack: an EC2 that shares no code with moto.

`AS_AWS` answers in AWS's way what ministack can't answer. Each other difference is a test of what AWS's reference says,
which fails here: once ministack does the same, the test passes, and so tells that it may go.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from invoke.context import Context

from hardway import config
from hardway.ec2 import images, networks, security_groups
from hardway.ec2.security_groups import Rule
from hardway.errors import HardwayError, UsageError
from hardway.launch.orphans import LAUNCH_TAG
from tasks import ec2 as tasks
from tests.ec2.faulty import Answer, FaultyEC2, Forward, refused
from tests.judges import ministack

pytestmark = pytest.mark.long
C = Context()
NAME = "judged"
# One of those that ministack has, for x86_64.
AMI = "ami-0abcdef1234567890"
FROM = "192.0.2.0/24"
REGION = "us-east-1"
REFERENCE = "https://docs.aws.amazon.com/AWSEC2/latest/APIReference"


def as_aws(action: str, parameters: dict[str, str], forward: Forward) -> Answer | None:
    """Answer what ministack can't answer, in AWS's way; see the tests of differences."""
    if parameters.get("DryRun") == "true":
        return refused("DryRunOperation", 412, "Request would have succeeded, but DryRun flag is set.")
    if action == "DescribeInstanceTypeOfferings":
        return refused("UnauthorizedOperation", 403)
    return forward()


@dataclass(frozen=True)
class Account:
    """A fresh account of ministack's, behind a proxy that can fail calls."""

    endpoint: str
    proxy: FaultyEC2

    def client(self, service: str) -> Any:
        """A client that asks ministack itself."""
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        return boto3.client(service, endpoint_url=self.endpoint, region_name=REGION, **keys)

    def instances(self) -> list[Any]:
        """All that are not ended."""
        found = [i for r in self.client("ec2").describe_instances()["Reservations"] for i in r["Instances"]]
        return [i for i in found if i["State"]["Name"] not in ("shutting-down", "terminated")]

    def left(self) -> dict[str, list[str]]:
        """All that was made in the account, by kind."""
        ec2 = self.client("ec2")
        found = {
            "instances": [i["InstanceId"] for i in self.instances()],
            "groups": [g["GroupId"] for g in ec2.describe_security_groups()["SecurityGroups"]],
            "templates": [t["LaunchTemplateName"] for t in ec2.describe_launch_templates()["LaunchTemplates"]],
            "keys": [k["KeyName"] for k in ec2.describe_key_pairs()["KeyPairs"]],
            "VPCs": [v["VpcId"] for v in ec2.describe_vpcs()["Vpcs"]],
            "subnets": [s["SubnetId"] for s in ec2.describe_subnets()["Subnets"]],
            "gateways": [g["InternetGatewayId"] for g in ec2.describe_internet_gateways()["InternetGateways"]],
            "images": [i["ImageId"] for i in ec2.describe_images(Owners=["self"])["Images"]],
        }
        return {kind: sorted(names) for kind, names in found.items()}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not ministack.is_installed():
        pytest.fail(f"{ministack.REQUIREMENT} is not installed: run .venv/bin/python -m tests.judges.ministack")
    with ministack.running(tmp_path_factory.mktemp("ministack")) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def proxy(server: str) -> Iterator[FaultyEC2]:
    environment = {"AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    made = FaultyEC2(environment)
    yield made
    made.close()


@pytest.fixture
def account(server: str, proxy: FaultyEC2, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    with urllib.request.urlopen(urllib.request.Request(f"{server}/_ministack/reset", method="POST"), timeout=60):
        pass
    for name, value in {
        "AWS_ENDPOINT_URL": proxy.endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": REGION,
        "INVOKE_EC2_SSH_FROM": FROM,
    }.items():
        monkeypatch.setenv(name, value)
    proxy.plan, proxy.calls = as_aws, []
    yield Account(server, proxy)


def launch(**given: Any) -> list[str]:
    return list(tasks.new(C, **{"name": NAME, "num": 2, "ami": AMI, "wait": False, **given}))


def test_a_vpc_has_all_that_a_reachable_instance_needs_and_goes_whole(account: Account) -> None:
    before = account.left()
    [vpc] = tasks.new_vpc(C, NAME)
    assert tasks.new_vpc(C, NAME) == [vpc]
    ec2 = account.client("ec2")
    subnets = [each for each in networks.subnets(config.settings(C)) if each.vpc == vpc]
    zones = {zone["ZoneName"] for zone in ec2.describe_availability_zones()["AvailabilityZones"]}
    assert {each.zone for each in subnets} == zones
    assert len({each.cidr for each in subnets}) == len(subnets) == len(zones)
    assert all(each.public for each in subnets)
    of_vpc = [{"Name": "attachment.vpc-id", "Values": [vpc]}]
    [gateway] = ec2.describe_internet_gateways(Filters=of_vpc)["InternetGateways"]
    tables = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
    routes = {route["DestinationCidrBlock"]: route.get("GatewayId") for table in tables for route in table["Routes"]}
    assert routes["0.0.0.0/0"] == gateway["InternetGatewayId"]
    assert tasks.rm_vpc(C, NAME, yes=True) == [vpc]
    assert account.left() == before


def test_a_group_is_made_once_and_has_the_rules_that_were_asked_for(account: Account) -> None:
    before = account.left()
    [vpc] = tasks.new_vpc(C, NAME)
    [group] = tasks.sg(C, NAME, vpc=NAME)
    assert tasks.sg(C, NAME, vpc=NAME) == [group]
    tasks.authorize(C, NAME, port=8080, source="10.0.0.0/8")
    tasks.authorize(C, NAME, port="9000-9010", source=group)
    tasks.authorize(C, NAME, port=53, source="2001:db8::/32", protocol="udp")
    [found] = [each for each in security_groups.find(config.settings(C), vpc_id=vpc) if each.name == NAME]
    assert set(found.rules) == {
        Rule("tcp", (8080, 8080), "10.0.0.0/8"),
        Rule("tcp", (9000, 9010), group),
        Rule("udp", (53, 53), "2001:db8::/32"),
    }
    tasks.deauthorize(C, NAME, port=8080, source="10.0.0.0/8")
    tasks.deauthorize(C, NAME, port="9000-9010", source=group)
    [found] = [each for each in tasks.sgs(C) if each.name == NAME]
    assert found.rules == (Rule("udp", (53, 53), "2001:db8::/32"),)
    assert group in tasks.cleanup(C, yes=True)
    assert account.left() == before


@pytest.mark.parametrize("spot", [0, 1])
def test_a_launch_is_as_it_was_asked_for_and_leaves_nothing(account: Account, spot: int) -> None:
    before = account.left()
    [vpc] = tasks.new_vpc(C, NAME)
    # It starts one instance in a zone at a call of RunInstances.
    num = 2 if spot else 1
    ids = launch(num=num, vpc=NAME, type="m7i.large", spot=spot, tag=["team=data"], zone=f"{REGION}b")
    assert len(ids) == num
    assert sorted(ids) == sorted(each["InstanceId"] for each in account.instances())
    assert account.left()["templates"] == []
    groups = {each.name: each.id for each in tasks.sgs(C)}
    for each in tasks.ls(C, only=ids):
        assert (each.name, each.type, each.image, each.vpc, each.state) == (NAME, "m7i.large", AMI, vpc, "running")
        assert (each.tags["team"], each.tags["ssh-user"]) == ("data", "ubuntu")
        assert LAUNCH_TAG not in each.tags
        assert each.security_groups == {groups["hardway-ssh"]: "hardway-ssh"}
        assert [each.key_name] == account.left()["keys"]
        assert each.subnet in {subnet.subnet for subnet in tasks.vpcs(C) if subnet.zone == f"{REGION}b"}
    [ssh] = [each for each in tasks.sgs(C) if each.name == "hardway-ssh"]
    assert Rule("tcp", (22, 22), FROM) in ssh.rules
    assert sorted(tasks.rm(C, NAME, yes=True)) == sorted(ids)
    tasks.cleanup(C, yes=True)
    assert account.left() == before


def test_a_second_launch_takes_the_key_and_the_group_of_the_first(account: Account) -> None:
    launch(num=1)
    there = account.left()
    launch(num=1, type="c5.large")
    now = account.left()
    assert (now["keys"], now["groups"]) == (there["keys"], there["groups"])
    assert {each["InstanceType"] for each in account.instances()} == {"m7i.large", "c5.large"}


@pytest.mark.parametrize(("spot", "call"), [(0, "RunInstances"), (1, "CreateFleet")])
def test_a_launch_whose_last_call_is_refused_leaves_nothing(account: Account, spot: int, call: str) -> None:
    launch(num=1, name="other")
    before = account.left()
    account.proxy.calls = []

    def plan(action: str, parameters: dict[str, str], forward: Forward) -> Answer | None:
        answer = as_aws(action, parameters, forward)
        return refused("UnauthorizedOperation", 403) if action == call else answer

    # The call is carried out, and answered as if it had not been.
    account.proxy.plan = plan
    with pytest.raises(HardwayError):
        launch(spot=spot)
    assert call in account.proxy.actions()
    assert account.left() == before


def test_tags_are_put_on_and_taken_off_the_chosen_instances_alone(account: Account) -> None:
    one, other = launch()
    tasks.tag(C, [one], ["a=1", "b=2"], yes=True)
    tasks.untag(C, [one], ["a"], yes=True)
    tags = {each.id: each.tags for each in tasks.ls(C)}
    assert (tags[one].get("a"), tags[one].get("b")) == (None, "2")
    assert not {"a", "b"} & tags[other].keys()
    assert tasks.id(C, "b=2") == [one]


def test_states_change_for_the_chosen_instances_alone(account: Account) -> None:
    one, other = launch()
    tasks.stop(C, [one], yes=True, wait=True)
    assert {each.id: each.state for each in tasks.ls(C)} == {one: "stopped", other: "running"}
    tasks.start(C, [one], yes=True, wait=False)
    assert {each.state for each in tasks.ls(C)} == {"running"}
    assert tasks.rm(C, [one], yes=True) == [one]
    assert [each["InstanceId"] for each in account.instances()] == [other]


def test_images_are_found_by_id_and_own_ones_by_name(account: Account) -> None:
    found = images.resolve(config.settings(C, ec2={"ami": AMI}))
    assert (found.id, found.architecture, found.root_device) == (AMI, "x86_64", "/dev/xvda")
    with pytest.raises(UsageError, match="there is no AMI 'judged'"):
        launch(ami=NAME)
    own = account.client("ec2").register_image(Name=NAME, Architecture="x86_64", RootDeviceName="/dev/sda1")["ImageId"]
    assert [each.id for each in tasks.amis(C)] == [own]
    assert images.resolve(config.settings(C, ec2={"ami": NAME})).id == own
    assert tasks.ami_rm(C, NAME, yes=True) == [own]
    assert list(tasks.amis(C)) == []


# Where ministack differs from AWS's reference. Each test asserts what the reference says.


def differs(page: str) -> pytest.MarkDecorator:
    raises = (AssertionError, ClientError, pytest.fail.Exception)
    return pytest.mark.xfail(raises=raises, strict=True, reason=f"{REFERENCE}/{page}.html")


def run(ec2: Any, num: int = 1, **given: Any) -> list[str]:
    call = {"ImageId": AMI, "InstanceType": "m7i.large", "MinCount": 1, "MaxCount": num, **given}
    return [each["InstanceId"] for each in ec2.run_instances(**call)["Instances"]]


@differs("API_DeleteTags")
def test_a_dry_run_changes_nothing(account: Account) -> None:
    ec2 = account.client("ec2")
    with pytest.raises(ClientError, match="DryRunOperation"):
        run(ec2, DryRun=True)


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(call, marks=differs(f"API_{call}"))
        for call in (
            "CreateImage", "CreateSnapshots", "DeleteFleets", "DescribeFleetInstances",
            "DescribeInstanceTypeOfferings", "DescribeSpotPriceHistory", "GetConsoleOutput",
        )
    ],
)  # fmt: skip
def test_there_is_the_call(account: Account, call: str) -> None:
    # Another error than that of an unknown call is an answer.
    with pytest.raises(urllib.error.HTTPError) as answered:
        urllib.request.urlopen(f"{account.endpoint}/?Action={call}&Version=2016-11-15", timeout=60)
    assert b"InvalidAction" not in answered.value.read()


@differs("API_RunInstances")
def test_as_many_instances_are_started_as_there_is_room_for(account: Account) -> None:
    assert len(run(account.client("ec2"), num=3)) == 3


@differs("API_RunInstances")
def test_a_client_token_is_good_for_one_launch(account: Account) -> None:
    ec2 = account.client("ec2")
    assert run(ec2, ClientToken="1") == run(ec2, ClientToken="1")


@differs("API_RunInstances")
def test_volumes_get_the_tags_that_are_meant_for_them(account: Account) -> None:
    ec2 = account.client("ec2")
    run(ec2, TagSpecifications=[{"ResourceType": "volume", "Tags": [{"Key": "a", "Value": "b"}]}])
    [volume] = ec2.describe_volumes()["Volumes"]
    assert volume.get("Tags") == [{"Key": "a", "Value": "b"}]


@differs("API_RunInstances")
def test_an_instance_is_in_the_zone_of_its_subnet(account: Account) -> None:
    ec2 = account.client("ec2")
    zone = {"Name": "availability-zone", "Values": [f"{REGION}b"]}
    [subnet] = ec2.describe_subnets(Filters=[zone])["Subnets"]
    run(ec2, SubnetId=subnet["SubnetId"])
    [instance] = account.instances()
    assert instance["Placement"]["AvailabilityZone"] == subnet["AvailabilityZone"]


@differs("API_EbsBlockDevice")
def test_a_volume_goes_with_its_instance(account: Account) -> None:
    ec2 = account.client("ec2")
    ec2.terminate_instances(InstanceIds=run(ec2))
    assert ec2.describe_volumes()["Volumes"] == []


@differs("API_Instance")
def test_an_instance_of_a_spot_fleet_is_spot(account: Account) -> None:
    launch(spot=1)
    assert {each.get("InstanceLifecycle") for each in account.instances()} == {"spot"}


@differs("API_DescribeInstances")
@pytest.mark.parametrize("filter", ["instance-id", "vpc-id", "subnet-id", "ip-address"])
def test_instances_are_filtered(account: Account, filter: str) -> None:
    ec2 = account.client("ec2")
    run(ec2)
    none = {"Name": filter, "Values": ["none"]}
    assert ec2.describe_instances(Filters=[none])["Reservations"] == []


@differs("API_DescribeInstanceAttribute")
def test_user_data_can_be_read(account: Account) -> None:
    ec2 = account.client("ec2")
    [id_] = run(ec2, UserData="#!/bin/sh")
    answer = ec2.describe_instance_attribute(InstanceId=id_, Attribute="userData")
    assert answer["UserData"].get("Value")


@differs("errors-overview")
def test_a_rule_is_refused_the_second_time(account: Account) -> None:
    ec2 = account.client("ec2")
    [group] = ec2.describe_security_groups()["SecurityGroups"]
    rule = {"IpProtocol": "tcp", "FromPort": 1, "ToPort": 1, "IpRanges": [{"CidrIp": FROM}]}
    ec2.authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=[rule])
    with pytest.raises(ClientError, match=r"InvalidPermission\.Duplicate"):
        ec2.authorize_security_group_ingress(GroupId=group["GroupId"], IpPermissions=[rule])


@differs("errors-overview")
@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"ImageId": "ami-00000000000000001"}, "InvalidAMIID.NotFound"),
        ({"KeyName": "none"}, "InvalidKeyPair.NotFound"),
        ({"SecurityGroupIds": ["sg-00000000000000002"]}, "InvalidGroup.NotFound"),
        ({"SubnetId": "subnet-00000000000000002"}, "InvalidSubnetID.NotFound"),
    ],
)
def test_what_is_not_there_is_refused(account: Account, given: dict[str, Any], code: str) -> None:
    with pytest.raises(ClientError, match=code):
        run(account.client("ec2"), **given)


@differs("errors-overview")
def test_a_group_in_use_can_not_be_deleted(account: Account) -> None:
    ec2 = account.client("ec2")
    group = ec2.create_security_group(GroupName="used", Description="used")["GroupId"]
    run(ec2, SecurityGroupIds=[group])
    with pytest.raises(ClientError, match="DependencyViolation"):
        ec2.delete_security_group(GroupId=group)
