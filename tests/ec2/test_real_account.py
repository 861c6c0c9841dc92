"""A launch in an account with limits: of requests, of quotas, of what EC2 knows a second after it was made.

The local cloud has the bucket of launches, the spot price and the volumes; the codes that it has no cause for are said
by the proxy before it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from invoke.context import Context

from hardway.errors import HardwayError
from tasks import ec2 as tasks
from tests.conftest import LocalCloud, run_local_cloud
from tests.ec2.faulty import Answer, FaultyEC2, Forward, Plan, refused, refused_fleet
from tests.ec2.launching import TYPE, Launcher, launcher_of, proxied
from tests.patience import patience

SPOT = pytest.mark.parametrize("spot", [0, 1], ids=["ondemand", "spot"])
LAUNCH = {0: "RunInstances", 1: "CreateFleet"}
GPU = "g5.xlarge"
Said = pytest.CaptureFixture[str]


def refuse(spot: int, code: str, said: str = "", times: int = 10**6, within: bool = True) -> Plan:
    """A plan that refuses the first launches: RunInstances, or CreateFleet in its errors (else as a whole)."""
    left = iter(range(times))

    def plan(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        if action != LAUNCH[spot] or next(left, None) is None:
            return forward()
        return refused_fleet(code, said=said) if spot and within else refused(code, said=said)

    return plan


def fail(launcher: Launcher, plan: Plan, **given: Any) -> HardwayError:
    """A launch that fails, and leaves nothing."""
    with launcher.plan(plan), pytest.raises(HardwayError) as error:
        launcher(wait=True, **given)
    assert launcher.left() == []
    return error.value


# more than EC2 starts at once


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A local cloud that launches ten instances at once, then twenty a second; they stay pending."""
    state = tmp_path_factory.mktemp("small") / "state"
    with run_local_cloud(state, boot_delay=3600.0, launch_bucket=10, launch_refill=20.0) as running:
        yield running


@pytest.fixture(scope="module")
def small_proxy(small: LocalCloud) -> Iterator[FaultyEC2]:
    yield from proxied(small)


@pytest.fixture
def limited(
    small: LocalCloud,
    small_proxy: FaultyEC2,
    home: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Launcher]:
    """A launcher of instances that are pending, in `small`."""
    yield from launcher_of(small, small_proxy, monkeypatch, tmp_path_factory)


@SPOT
def test_more_than_the_bucket_has_are_started_as_it_fills(limited: Launcher, spot: int, capsys: Said) -> None:
    ids = limited(num=25, spot=spot)
    assert len(set(ids)) == 25
    assert "of 25, and starts no more for now; asking again" in capsys.readouterr().err
    limited.end(ids)
    assert [left for left in limited.left() if not left.startswith("fleet-")] == []


@SPOT
def test_a_bucket_that_stays_empty_ends_the_launch_in_time(limited: Launcher, spot: int) -> None:
    error = fail(limited, refuse(spot, "RequestLimitExceeded", within=False), spot=spot, seconds_timeout=3)
    assert "EC2 has started 0 of 2, and starts no more for now" in str(error)
    assert error.code == 1


@SPOT
def test_no_call_asks_for_more_than_a_bucket_holds(launcher: Launcher, spot: int) -> None:
    fail(launcher, refuse(spot, "Stop"), num=1200, spot=spot)
    [asked] = [parameters for action, parameters in launcher.ec2.calls if action == LAUNCH[spot]]
    assert asked["TargetCapacitySpecification.TotalTargetCapacity" if spot else "MaxCount"] == "1000"


# made a second ago


@SPOT
@pytest.mark.parametrize("code", ["InvalidGroup.NotFound", "InvalidKeyPair.NotFound", "InvalidSubnetID.NotFound"])
def test_what_was_made_a_second_ago_is_waited_for(launcher: Launcher, spot: int, code: str) -> None:
    with launcher.plan(refuse(spot, code, times=2)):
        ids = launcher(spot=spot)
    assert len(ids) == 2
    assert launcher.ec2.actions().count(LAUNCH[spot]) == 3
    launcher.end(ids)


UNKNOWN_ROLE = "Value (reader) for parameter iamInstanceProfile.name is invalid. Invalid IAM Instance Profile name"


@SPOT
def test_a_role_that_iam_has_is_waited_for_and_another_is_not(launcher: Launcher, spot: int) -> None:
    iam = launcher.cloud.client("iam")
    begun = time.monotonic()
    error = fail(launcher, refuse(spot, "InvalidParameterValue", UNKNOWN_ROLE), spot=spot, role="reader")
    assert UNKNOWN_ROLE in str(error)
    assert time.monotonic() - begun < patience(20)
    iam.create_instance_profile(InstanceProfileName="reader")
    try:
        with launcher.plan(refuse(spot, "InvalidParameterValue", UNKNOWN_ROLE, times=2)):
            launcher.end(launcher(spot=spot, role="reader"))
    finally:
        iam.delete_instance_profile(InstanceProfileName="reader")


def _group(launcher: Launcher, region: str, name: str) -> str:
    ec2 = launcher.cloud.client("ec2", region)
    [vpc] = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    return str(ec2.create_security_group(GroupName=name, Description="x", VpcId=vpc["VpcId"])["GroupId"])


def _groups_of(launcher: Launcher, region: str, ids: list[str]) -> set[str]:
    ec2 = launcher.cloud.client("ec2", region)
    found = ec2.describe_instances(InstanceIds=ids)["Reservations"]
    groups = {group["GroupId"] for r in found for i in r["Instances"] for group in i["SecurityGroups"]}
    ec2.terminate_instances(InstanceIds=ids)
    return groups


def test_a_group_that_another_launch_has_just_made_is_found(launcher: Launcher) -> None:
    region = "eu-north-1"
    made = _group(launcher, region, "hardway-ssh")

    def late(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        if action == "DescribeSecurityGroups" and launcher.ec2.actions().count(action) <= 2:
            empty = '<DescribeSecurityGroupsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
            return 200, f"{empty}<securityGroupInfo/></DescribeSecurityGroupsResponse>".encode()
        return forward()

    with launcher.plan(late):
        ids = launcher(region=region)
    assert "CreateSecurityGroup" in launcher.ec2.actions()
    assert _groups_of(launcher, region, ids) == {made}


def test_a_group_of_the_name_in_other_letters_is_the_same(launcher: Launcher) -> None:
    """As at EC2, which would call ours a duplicate."""
    made = _group(launcher, "eu-west-3", "Hardway-SSH")
    assert _groups_of(launcher, "eu-west-3", launcher(region="eu-west-3")) == {made}


# what is no lack of capacity


def with_quota(vcpus: float, plan: Plan) -> Plan:
    """A plan that has Service Quotas answer, too."""

    def answer(action: str, parameters: dict[str, str], forward: Forward) -> Answer | None:
        if action == "GetServiceQuota":
            return 200, json.dumps({"Quota": {"Value": vcpus}}).encode()
        return plan(action, parameters, forward)

    return answer


@pytest.mark.parametrize(
    ("spot", "code", "said", "quota"),
    [
        (0, "VcpuLimitExceeded", "You have requested more vCPU capacity than your current limit", "L-1216C47A"),
        (1, "MaxSpotInstanceCountExceeded", "Max spot instance count exceeded", "L-34B43A08"),
        (1, "VcpuLimitExceeded", "You have requested more vCPU capacity than your current limit", "L-1216C47A"),
    ],
)
def test_a_quota_ends_the_launch_at_once(launcher: Launcher, spot: int, code: str, said: str, quota: str) -> None:
    error = fail(launcher, with_quota(32, refuse(spot, code, said)), spot=spot)
    assert launcher.ec2.actions().count(LAUNCH[spot]) == 1
    assert f"{said} ({code}); ask for more of" in str(error)
    page = f"https://us-east-1.console.aws.amazon.com/servicequotas/home/services/ec2/quotas/{quota}"
    assert f"({quota}, 32 vCPUs now): {page}" in str(error)
    assert "no capacity" not in str(error)
    assert error.code == 1


def test_types_of_another_quota_are_tried(launcher: Launcher) -> None:
    def full(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        return refused("VcpuLimitExceeded") if parameters.get("InstanceType", "")[:1] in ("m", "c") else forward()

    with launcher.plan(full):
        ids = launcher(type=f"{TYPE},c7i.large,{GPU}")
    tried = [parameters["InstanceType"] for action, parameters in launcher.ec2.calls if action == "RunInstances"]
    assert tried == [TYPE, GPU]
    launcher.end(ids)


def test_with_min_a_quota_is_the_end_of_the_launch_and_no_failure(launcher: Launcher, capsys: Said) -> None:
    def full(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        again = action == "RunInstances" and launcher.ec2.actions().count(action) > 1
        return refused("VcpuLimitExceeded") if again else forward()

    launcher.fault("capacity", type=TYPE, left=2)
    with launcher.plan(full):
        ids = launcher(num=3, min=2, type=f"{TYPE},c7i.large")
    assert len(ids) == 2
    assert "2 of 3 instances are ready: going on with them" in capsys.readouterr().err
    launcher.end(ids)


@SPOT
@pytest.mark.parametrize("code", ["PendingVerification", "Blocked", "OptInRequired"])
def test_what_is_wrong_with_the_account_is_said_in_the_words_of_ec2(launcher: Launcher, spot: int, code: str) -> None:
    said = "Your request for accessing resources in this region is being validated."
    error = fail(launcher, refuse(spot, code, said), spot=spot)
    assert launcher.ec2.actions().count(LAUNCH[spot]) == 1
    assert f"{said} ({code})" in str(error)


@pytest.mark.parametrize("within", [False, True], ids=["refused", "in its errors"])
def test_the_first_spot_of_an_account_names_the_line_that_mends_it(launcher: Launcher, within: bool) -> None:
    code = "AuthFailure.ServiceLinkedRoleCreationNotPermitted"
    error = fail(launcher, refuse(1, code, within=within), spot=1)
    assert "`aws iam create-service-linked-role --aws-service-name spot.amazonaws.com`" in str(error)


def test_a_spot_price_below_the_market_gets_nothing(launcher: Launcher) -> None:
    error = fail(launcher, lambda action, parameters, forward: forward(), spot=0.1)
    said = "Your Spot request price of 0.01 is lower than the minimum required Spot request fulfillment price"
    assert launcher.ec2.actions().count("CreateFleet") == 1
    assert f"spot costs more than was offered: {TYPE} in us-east-1" in str(error)
    assert said in str(error)
    assert error.code == 1


# an instance that ends while it starts


def _kill(launcher: Launcher, code: bytes) -> Plan:
    """A plan under which the first instance ends as it starts, for a reason of this code."""
    victims: list[str] = []

    def plan(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        if action == "DescribeInstances" and "RunInstances" in launcher.ec2.actions() and not victims:
            victims.append(launcher.left()[0])
            launcher.fault("kill", instances=(victims[0],))
        status, content = forward()
        return status, content.replace(b"Server.InternalError", code)

    return plan


@pytest.mark.parametrize("code", ["Client.InternalError", "Client.InvalidKMSKey.InvalidState"])
def test_what_is_wrong_with_the_image_or_its_key_is_not_replaced(launcher: Launcher, code: str) -> None:
    error = fail(launcher, _kill(launcher, code.encode()))
    assert launcher.ec2.actions().count("RunInstances") == 1
    assert f"went terminated while it started ({code}: Internal error)" in str(error)
    assert "another one would end in the same way" in str(error)


# volumes


def _image(launcher: Launcher) -> str:
    """An image whose volumes stay after their instance, by its name."""
    ec2 = launcher.cloud.client("ec2")
    stays = {"VolumeSize": 9, "DeleteOnTermination": False}
    asked = [{"DeviceName": device, "Ebs": stays} for device in ("/dev/sda1", "/dev/sdf")]
    key = ec2.create_key_pair(KeyName=f"key-{time.monotonic_ns()}")["KeyName"]
    started = ec2.run_instances(
        ImageId="ami-12345678", KeyName=key, MinCount=1, MaxCount=1, BlockDeviceMappings=asked, InstanceType=TYPE
    )
    id = started["Instances"][0]["InstanceId"]
    name = f"stays-{time.monotonic_ns()}"
    ec2.create_image(InstanceId=id, Name=name)
    launcher.end([id])
    return name


def _volumes(launcher: Launcher) -> dict[str, str]:
    return {v["VolumeId"]: v["State"] for v in launcher.cloud.client("ec2").describe_volumes()["Volumes"]}


@SPOT
def test_no_volume_of_the_image_stays_after_its_instance(launcher: Launcher, spot: int) -> None:
    image = _image(launcher)
    before = _volumes(launcher)
    assert list(before.values()).count("available") >= 2
    ids = launcher(spot=spot, ami=image)
    assert len(_volumes(launcher)) == len(before) + 4
    launcher.end(ids)
    assert _volumes(launcher) == before


def test_volumes_that_instances_left_are_told_and_removed(launcher: Launcher, capsys: Said) -> None:
    ids = launcher(num=2)
    ec2 = launcher.cloud.client("ec2")
    for id in ids:
        stays = [{"DeviceName": "/dev/sda1", "Ebs": {"DeleteOnTermination": False}}]
        ec2.modify_instance_attribute(InstanceId=id, BlockDeviceMappings=stays)
    others = set(_volumes(launcher))
    mine = {
        disk["Ebs"]["VolumeId"]
        for r in ec2.describe_instances(InstanceIds=ids)["Reservations"]
        for i in r["Instances"]
        for disk in i["BlockDeviceMappings"]
    }
    tasks.ls(Context())
    assert "that instances left" not in capsys.readouterr().err
    launcher.end(ids)
    tasks.ls(Context())
    said = capsys.readouterr().err
    assert "2 volumes (16 GiB) that instances left, and that nothing uses: `hardway ec2.cleanup`" in said
    assert mine <= set(tasks.cleanup(Context(), yes=True))
    assert set(_volumes(launcher)) == others - mine


# how long it takes to start


def test_look_ups_are_made_at_the_same_time(launcher: Launcher) -> None:
    counting = threading.Lock()
    now = most = 0
    late = patience(0.3)

    def slowly(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        nonlocal now, most
        with counting:
            now += 1
            most = max(most, now)
        time.sleep(late)
        answer = forward()
        with counting:
            now -= 1
        return answer

    launcher.end(launcher())
    with launcher.plan(slowly):
        begun = time.monotonic()
        ids = launcher()
        elapsed = time.monotonic() - begun
    assert most >= 4
    assert elapsed < late * len(launcher.ec2.calls)
    launcher.end(ids)
