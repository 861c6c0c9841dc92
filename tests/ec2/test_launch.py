"""A launch as EC2 sees it: what it asks for, that it ends with as many as asked for or with nothing, whatever fails.

The instances of `quiet` never boot: what is asked of EC2 costs little there.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context

from hardway.errors import HardwayError, UsageError
from tasks import ec2 as tasks
from tests.ec2.faulty import Answer, Forward, Plan, refused
from tests.ec2.launching import Launcher
from tests.local.conftest import eventually
from tests.patience import patience

SPOT = pytest.mark.parametrize("spot", [0, 1], ids=["ondemand", "spot"])
A, B = "m7i.large", "c7i.large"
LAUNCHES = ("RunInstances", "CreateFleet")
CHANGES = re.compile(r"Run|Create|Delete")


_calls: dict[int, list[str]] = {}


def _calls_of(launcher: Launcher, spot: int) -> list[str]:
    """The calls of a launch that goes well, in their order; not the first one in the region."""
    while spot not in _calls or "CreateSecurityGroup" in _calls[spot]:
        with launcher.plan(lambda action, parameters, forward: forward()):
            launcher.end(launcher(spot=spot))
        _calls[spot] = launcher.ec2.actions()
    return _calls[spot]


def _steps(launcher: Launcher, spot: int) -> Iterator[tuple[int, str, bool]]:
    """Each call of a launch by its action and its number among those, to fail before or, of a change, after it is made.

    What comes before the launch itself is the same on demand and for spot.
    """
    calls = _calls_of(launcher, spot=spot)
    for number in range(calls.index("CreateLaunchTemplate") if spot else 0, len(calls)):
        action = calls[number]
        for carried_out in (False, True) if CHANGES.match(action) else (False,):
            yield calls[:number].count(action), action, carried_out


def _at(number: int, action: str, fail: Callable[[Forward], Answer | None]) -> Plan:
    """A plan that fails the call of this number among those of the action, and no other."""
    calls = iter(range(10**6))
    return lambda called, _, forward: fail(forward) if called == action and next(calls) == number else forward()


@SPOT
def test_whichever_call_fails_nothing_is_left(launcher: Launcher, spot: int) -> None:
    for number, action, carried_out in _steps(launcher, spot):

        def fail(forward: Forward, carried_out: bool = carried_out) -> Answer:
            if carried_out:
                forward()
            return refused("UnauthorizedOperation", 403)

        started: list[str] = []
        with launcher.plan(_at(number, action, fail)):
            # The one is done again at the end, without the other every zone is tried.
            if action in ("DeleteLaunchTemplate", "DescribeInstanceTypeOfferings"):
                started = launcher(spot=spot)
            else:
                with pytest.raises(HardwayError, match="UnauthorizedOperation"):
                    launcher(spot=spot)
        assert launcher.ec2.actions().count(action) > number
        assert len(launcher.left()) == (len(started) + bool(spot) if started else 0), (action, carried_out)
        launcher.end(started)


@pytest.mark.parametrize(
    ("action", "region"),
    [
        ("CreateSecurityGroup", "eu-west-1"),
        ("AuthorizeSecurityGroupIngress", "eu-west-2"),
        ("ImportKeyPair", "eu-central-1"),
    ],
)
def test_what_failed_the_first_time_in_a_region_is_made_up_for(launcher: Launcher, action: str, region: str) -> None:
    def fail(called: str, parameters: dict[str, str], forward: Forward) -> Answer:
        return refused("UnauthorizedOperation", 403) if called == action else forward()

    with launcher.plan(fail), pytest.raises(HardwayError, match=f"denies {action}"):
        launcher(region=region)
    assert "RunInstances" not in launcher.ec2.actions()
    with launcher.plan(lambda called, parameters, forward: forward()):
        ids = launcher(region=region)
    assert action in launcher.ec2.actions()
    launcher.cloud.client("ec2", region).terminate_instances(InstanceIds=ids)


@SPOT
def test_ctrl_c_at_whichever_call_leaves_nothing(launcher: Launcher, spot: int) -> None:
    assert threading.current_thread() is threading.main_thread()
    for number, action, carried_out in _steps(launcher, spot):
        sent = signal.SIGTERM if action in LAUNCHES and carried_out else signal.SIGINT

        def interrupt(forward: Forward, carried_out: bool = carried_out, sent: int = sent) -> Answer | None:
            answer = forward() if carried_out else None
            os.kill(os.getpid(), sent)
            time.sleep(0.1)  # the one who waits for the answer goes first
            return answer

        with launcher.plan(_at(number, action, interrupt)), pytest.raises(HardwayError) as error:
            launcher(spot=spot)
        assert error.value.code == (143 if sent == signal.SIGTERM else 130)
        assert launcher.ec2.actions().count(action) > number
        assert launcher.left() == [], (action, carried_out)


@SPOT
def test_a_call_whose_answer_is_lost_is_carried_out_once(launcher: Launcher, spot: int) -> None:
    lost: set[str] = set()

    def lose(action: str, parameters: dict[str, str], forward: Forward) -> Answer | None:
        answer = forward()
        if CHANGES.match(action) and action not in lost:
            lost.add(action)
            return None
        return answer

    with launcher.plan(lose):
        ids = launcher(spot=spot)
    assert lost >= ({"CreateLaunchTemplate", "CreateFleet"} if spot else {"RunInstances"})
    assert {left for left in launcher.left() if not left.startswith("fleet-")} == set(ids)
    launcher.end(ids)


@SPOT
def test_throttling_is_waited_out(launcher: Launcher, spot: int) -> None:
    def throttle(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        first = CHANGES.match(action) and launcher.ec2.actions().count(action) == 1
        return refused("RequestLimitExceeded", 503) if first else forward()

    launcher.fault("throttle", seconds=1.0)
    with launcher.plan(throttle):
        ids = launcher(spot=spot)
    assert len(ids) == 2
    assert len(launcher.ec2.calls) > len(set(launcher.ec2.actions())) + 3
    launcher.end(ids)


@SPOT
def test_what_ec2_does_not_know_yet_is_waited_for(launcher: Launcher, spot: int) -> None:
    unknown = {"DeleteTags": "InvalidInstanceID.NotFound", "CreateFleet": "InvalidLaunchTemplateId.NotFound"}

    def forget(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        if launcher.ec2.actions().count(action) <= 2:
            if action in unknown:
                return refused(unknown[action])
            if action == "DescribeInstances":
                return 200, EMPTY
        return forward()

    with launcher.plan(forget):
        ids = launcher(spot=spot)
    assert len(ids) == 2
    launcher.end(ids)


def test_what_ec2_does_not_know_yet_is_terminated_all_the_same(launcher: Launcher) -> None:
    """One id that it doesn't know, and EC2 terminates none of them."""
    began = False

    def forget(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        nonlocal began
        began = began or action == "RunInstances"
        if action == "DescribeInstances" and began and launcher.ec2.actions().count(action) <= 4:
            return 200, EMPTY
        if action == "DeleteTags":
            return refused("UnauthorizedOperation", 403)
        if action == "TerminateInstances" and launcher.ec2.actions().count(action) <= 2:
            return refused("InvalidInstanceID.NotFound")
        return forward()

    with launcher.plan(forget), pytest.raises(HardwayError, match="the 2 instances started were terminated"):
        launcher()
    assert launcher.ec2.actions().count("TerminateInstances") >= 3
    assert launcher.left() == []


def test_who_may_not_end_a_launch_well_is_told_before_it_is_waited_for(launcher: Launcher) -> None:
    def deny(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        return refused("UnauthorizedOperation", 403) if action == "DeleteTags" else forward()

    begun = time.monotonic()
    with launcher.plan(deny), pytest.raises(HardwayError, match="AWS denies DeleteTags"):
        launcher(wait=True, seconds_timeout=120)
    assert time.monotonic() - begun < patience(60)
    assert launcher.left() == []


EMPTY = (
    b'<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
    b"<requestId>x</requestId><reservationSet/></DescribeInstancesResponse>"
)


def _asked(launcher: Launcher, action: str) -> dict[str, str]:
    [parameters] = [parameters for called, parameters in launcher.ec2.calls if called == action]
    return parameters


def _tags(parameters: dict[str, str], prefix: str) -> dict[str, dict[str, str]]:
    """The tags in a call's TagSpecifications, by the kind of what they are for."""
    found: dict[str, dict[str, str]] = {}
    for name, value in parameters.items():
        if match := re.fullmatch(rf"{prefix}TagSpecification\.(\d+)\.Tag\.(\d+)\.Key", name):
            kind = parameters[f"{prefix}TagSpecification.{match[1]}.ResourceType"]
            found.setdefault(kind, {})[value] = parameters[name.removesuffix("Key") + "Value"]
    return found


OPTIONS: dict[str, Any] = {"role": "reader", "gigs": 50, "init": "echo hello", "tag": ["team=data"]}


@pytest.fixture
def role(launcher: Launcher) -> Iterator[None]:
    iam = launcher.cloud.client("iam")
    iam.create_instance_profile(InstanceProfileName="reader")
    yield
    iam.delete_instance_profile(InstanceProfileName="reader")


@pytest.mark.usefixtures("role")
def test_what_is_asked_of_ec2_on_demand_and_for_spot(launcher: Launcher) -> None:
    """The parameters are checked against the service's model by botocore itself; these moto does not care about."""
    with launcher.plan(lambda action, parameters, forward: forward()):
        launcher(spot=0, **OPTIONS)
        launcher(spot=1, type="m7i.large,c7i.large", **OPTIONS)
    run = _asked(launcher, "RunInstances")
    template, fleet = _asked(launcher, "CreateLaunchTemplate"), _asked(launcher, "CreateFleet")
    for asked, prefix in ((run, ""), (template, "LaunchTemplateData.")):
        assert asked[prefix + "MetadataOptions.HttpTokens"] == "required"
        assert asked[prefix + "InstanceInitiatedShutdownBehavior"] == "terminate"
        assert asked[prefix + "IamInstanceProfile.Name"] == "reader"
        assert asked[prefix + "BlockDeviceMapping.1.DeviceName"] == "/dev/sda1"
        assert asked[prefix + "BlockDeviceMapping.1.Ebs.VolumeType"] == "gp3"
        assert b"\n#!/bin/bash\necho hello\n" in b64decode(asked[prefix + "UserData"])
        tags = _tags(asked, prefix)
        assert tags["instance"].pop("hardway-launch")
        assert tags["instance"].pop("hardway-ends")
        assert tags["instance"] == tags["volume"]
        assert (tags["volume"]["Name"], tags["volume"]["team"]) == ("launched", "data")
    token = _tags(template, "LaunchTemplateData.")["instance"]["hardway-launch"]
    assert _tags(template, "")["launch-template"]["hardway-launch"] == token
    assert _tags(fleet, "")["fleet"]["hardway-launch"] == token
    assert not any("InstanceMarketOptions" in name for name in template)  # a fleet says so itself
    assert fleet["Type"] == "instant"
    assert fleet["SpotOptions.AllocationStrategy"] == "price-capacity-optimized"
    assert fleet["TargetCapacitySpecification.DefaultTargetCapacityType"] == "spot"
    tokens = [asked["ClientToken"] for asked in (run, template, fleet)]
    assert len(set(tokens)) == 3
    assert all(len(token) <= 64 for token in tokens)
    assert not any("MaxPrice" in name for name in fleet)

    overrides = [
        (value, fleet[name.replace("InstanceType", "SubnetId")])
        for name, value in fleet.items()
        if re.fullmatch(r"LaunchTemplateConfigs\.1\.Overrides\.\d+\.InstanceType", name)
    ]
    ec2 = launcher.cloud.client("ec2")
    zones = {s["SubnetId"]: s["AvailabilityZone"] for s in ec2.describe_subnets()["Subnets"]}
    offers = ec2.get_paginator("describe_instance_type_offerings").paginate(
        LocationType="availability-zone", Filters=[{"Name": "instance-type", "Values": ["m7i.large", "c7i.large"]}]
    )
    offered = {(o["InstanceType"], o["Location"]) for page in offers for o in page["InstanceTypeOfferings"]}
    assert {(type, zones[subnet]) for type, subnet in overrides} == offered
    assert len(overrides) == len(offered) > 6


@pytest.mark.usefixtures("role")
@SPOT
def test_the_instances_are_as_asked_for(launcher: Launcher, spot: int) -> None:
    ids = launcher(spot=spot, **OPTIONS)
    ec2 = launcher.cloud.client("ec2")
    for instance in [i for r in ec2.describe_instances(InstanceIds=ids)["Reservations"] for i in r["Instances"]]:
        assert instance.get("InstanceLifecycle") == ("spot" if spot else None)
        assert instance["MetadataOptions"]["HttpTokens"] == "required"
        assert [group["GroupName"] for group in instance["SecurityGroups"]] == ["hardway-ssh"]
        tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
        assert tags["team"] == "data"
        assert "hardway-launch" not in tags
        [volume] = ec2.describe_volumes(VolumeIds=[instance["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]])["Volumes"]
        assert volume["Size"] == 50
        assert {"Key": "team", "Value": "data"} in volume["Tags"]
    associated = ec2.describe_iam_instance_profile_associations()["IamInstanceProfileAssociations"]
    assert set(ids) & {one["InstanceId"] for one in associated}
    for group, made in ((ec2.describe_security_groups, "SecurityGroups"), (ec2.describe_key_pairs, "KeyPairs")):
        assert group(Filters=[{"Name": "tag-key", "Values": ["hardway-made"]}])[made]


@SPOT
def test_many_take_no_call_each(launcher: Launcher, spot: int) -> None:
    few = _calls_of(launcher, spot=spot)
    with launcher.plan(lambda action, parameters, forward: forward()):
        ids = launcher(num=50, spot=spot)
    assert len(set(ids)) == 50
    assert sorted(launcher.ec2.actions()) == sorted(few)


def test_half_of_the_on_demand_price(launcher: Launcher, price_cache: Path) -> None:
    with launcher.plan(_prices({A: 0.1008, B: 0.08925})):
        launcher(spot=0.5, type=f"{A},{B}", zone="us-east-1a")
        fleet = _asked(launcher, "CreateFleet")
        with pytest.raises(UsageError, match=r"the price of m7a\.large is not known: use --spot 1\.0"):
            launcher(spot=0.5, type=f"{A},m7a.large")
    assert launcher.ec2.actions().count("CreateFleet") == 1
    assert {
        value: float(fleet[name.replace("InstanceType", "MaxPrice")])
        for name, value in fleet.items()
        if name.endswith(".InstanceType")
    } == {A: 0.0504, B: 0.044625}


def _prices(usd: dict[str, float]) -> Plan:
    """A Price List service beside EC2, that knows these types."""

    def answer(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        if action != "GetProducts":
            return forward()
        filters = json.loads(parameters[""])["Filters"]
        types = next(f["Value"] for f in filters if f["Field"] == "instanceType").split(",")
        products = [
            {
                "product": {"attributes": {"instanceType": type, "marketoption": "OnDemand"}},
                "terms": {"OnDemand": {"t": {"priceDimensions": {"d": {"pricePerUnit": {"USD": str(usd[type])}}}}}},
            }
            for type in types
            if type in usd
        ]
        return 200, json.dumps({"PriceList": [json.dumps(product) for product in products]}).encode()

    return answer


Said = pytest.CaptureFixture[str]


def _types(launcher: Launcher, ids: Sequence[str]) -> list[str]:
    found = launcher.cloud.client("ec2").describe_instances(InstanceIds=list(ids))["Reservations"]
    return sorted(instance["InstanceType"] for reservation in found for instance in reservation["Instances"])


@SPOT
def test_what_one_pool_lacks_another_gives(launcher: Launcher, spot: int) -> None:
    launcher.fault("capacity", type=A, left=1)
    assert _types(launcher, launcher(num=3, spot=spot, type=f"{A},{B}")) == [B, B, A]
    launcher.fault("clear")
    for zone in "abcde":
        launcher.fault("capacity", zone=f"us-east-1{zone}")
    ids = launcher(spot=spot)
    found = launcher.cloud.client("ec2").describe_instances(InstanceIds=ids)["Reservations"]
    assert {i["Placement"]["AvailabilityZone"] for r in found for i in r["Instances"]} == {"us-east-1f"}


@SPOT
def test_too_little_capacity_says_what_was_missing_where_and_leaves_nothing(launcher: Launcher, spot: int) -> None:
    launcher.fault("capacity", type=A, left=2)
    with launcher.plan(lambda action, parameters, forward: forward()), pytest.raises(HardwayError) as error:
        launcher(num=3, spot=spot, zone="us-east-1b")
    said = str(error.value)
    assert "only 2 of 3 instances could be started: EC2 has no capacity for 1 of 3" in said
    assert "m7i.large in us-east-1b (InsufficientInstanceCapacity)" in said
    assert len([action for action in launcher.ec2.actions() if action in LAUNCHES]) == 1
    assert "the 2 instances started were terminated" in said
    assert (error.value.code, launcher.left()) == (1, [])


@SPOT
def test_more_than_can_start_in_time(launcher: Launcher, spot: int) -> None:
    said = r"--num 1603 is more than EC2 starts in .* needs 302 seconds for 1,603"
    with launcher.plan(lambda action, parameters, forward: forward()), pytest.raises(UsageError, match=said):
        launcher(num=1603, spot=spot, seconds_timeout=300)
    assert launcher.ec2.calls == []


@SPOT
def test_with_min_fewer_will_do(launcher: Launcher, spot: int, capsys: Said) -> None:
    launcher.fault("capacity", type=A, left=2)
    assert len(launcher(num=3, spot=spot, min=2)) == 2
    assert "2 of 3 instances are ready: going on with them" in capsys.readouterr().err
    launcher.fault("clear")
    launcher.fault("capacity", type=A, left=2)
    with pytest.raises(HardwayError, match="only 2 of 4"):
        launcher(num=4, spot=spot, min=3)


def test_a_fleet_that_may_not_launch_says_why(launcher: Launcher) -> None:
    """CreateFleet succeeds even then: what went wrong is in its answer."""

    def deny(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        error = b"<item><errorCode>UnauthorizedOperation</errorCode><errorMessage>no</errorMessage></item>"
        answer = b'<CreateFleetResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><fleetId>fleet-1</fleetId>'
        answer += b"<errorSet>" + error + b"</errorSet></CreateFleetResponse>"
        return (200, answer) if action == "CreateFleet" else forward()

    with launcher.plan(deny), pytest.raises(HardwayError, match="AWS denies CreateFleet"):
        launcher(spot=1)
    assert launcher.left() == []


def test_a_zone_that_does_not_support_the_type_is_passed_over(launcher: Launcher) -> None:
    def refuse(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        return refused("Unsupported") if parameters.get("InstanceType") == A else forward()

    with launcher.plan(refuse):
        assert _types(launcher, launcher(type=f"{A},{B}")) == [B, B]
        with pytest.raises(HardwayError, match=rf"{A} in us-east-1b \(Unsupported\)") as error:
            launcher(zone="us-east-1b")
    assert error.value.code == 1


def test_one_pool_that_can_not_be_spot_is_no_wrong_request(launcher: Launcher) -> None:
    """EC2 calls the configuration invalid, which it may be elsewhere, too; not where another pool is but empty."""

    def lack(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        if action != "CreateFleet":
            return forward()
        errors = "".join(
            f"<item><errorCode>{code}</errorCode><errorMessage>no</errorMessage></item>"
            for code in ("InvalidFleetConfiguration", "UnfulfillableCapacity")
        )
        answer = '<CreateFleetResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><fleetId>fleet-1</fleetId>'
        return 200, f"{answer}<errorSet>{errors}</errorSet></CreateFleetResponse>".encode()

    with launcher.plan(lack), pytest.raises(HardwayError, match="EC2 has no capacity for 2 of 2") as error:
        launcher(spot=1)
    assert error.value.code == 1
    assert launcher.left() == []


def test_what_turns_up_after_a_launch_has_given_up_is_told(launcher: Launcher, capsys: Said) -> None:
    """Its launch call was never answered, and EC2 showed it late."""

    def lose(action: str, parameters: dict[str, str], forward: Forward) -> Answer | None:
        if action == "RunInstances":
            forward()
            return None
        return (200, EMPTY) if action == "DescribeInstances" else forward()

    with launcher.plan(lose), pytest.raises(HardwayError):
        launcher()
    assert len(launcher.left()) == 2
    tasks.ls(Context())
    line = re.search(r"2 instances .* that never ended: hardway ec2\.rm (\S+)", capsys.readouterr().err)
    assert line
    assert len(tasks.rm(Context(), line[1], yes=True)) == 2


def test_offers_that_may_not_be_looked_up_are_tried(launcher: Launcher) -> None:
    def deny(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        return refused("UnauthorizedOperation", 403) if action == "DescribeInstanceTypeOfferings" else forward()

    with launcher.plan(deny):
        assert len(launcher()) == 2


def test_without_default_subnets_those_of_the_default_vpc_are_named(launcher: Launcher) -> None:
    def own(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        status, content = forward()
        return status, content.replace(b"<defaultForAz>true", b"<defaultForAz>false")

    with launcher.plan(own):
        assert len(launcher()) == 2
    assert _asked(launcher, "RunInstances")["SubnetId"].startswith("subnet-")


def test_disks_of_an_image_go_with_the_instance(launcher: Launcher) -> None:
    """Also one that the instance, which the image was made of, would have left behind."""

    def own(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        status, content = forward()
        made = "<snapshotId>snap-1</snapshotId><volumeType>gp3</volumeType><throughput>250</throughput>"
        empty = "<volumeSize>100</volumeSize><volumeType>gp2</volumeType>"
        disks = "".join(
            f"<item><deviceName>/dev/sd{letter}</deviceName><ebs>{volume}<encrypted>true</encrypted>"
            f"<deleteOnTermination>{ends}</deleteOnTermination></ebs></item>"
            for letter, volume, ends in (("f", made, "false"), ("g", made, "true"), ("h", empty, "false"))
        )
        if action == "DescribeImages":
            content = content.replace(b"<blockDeviceMapping>", b"<blockDeviceMapping>" + disks.encode())
        if action == "RunInstances":
            asked.append({name: value for name, value in parameters.items() if name.startswith("BlockDevice")})
            return refused("Stop")
        return status, content

    asked: list[dict[str, str]] = []
    with launcher.plan(own), pytest.raises(HardwayError, match="Stop"):
        launcher()
    [mapping] = asked
    assert mapping == {
        "BlockDeviceMapping.1.DeviceName": "/dev/sdf",
        "BlockDeviceMapping.1.Ebs.SnapshotId": "snap-1",
        "BlockDeviceMapping.1.Ebs.VolumeType": "gp3",
        "BlockDeviceMapping.1.Ebs.Throughput": "250",
        "BlockDeviceMapping.1.Ebs.DeleteOnTermination": "true",
        "BlockDeviceMapping.2.DeviceName": "/dev/sdg",
        "BlockDeviceMapping.2.Ebs.SnapshotId": "snap-1",
        "BlockDeviceMapping.2.Ebs.VolumeType": "gp3",
        "BlockDeviceMapping.2.Ebs.Throughput": "250",
        "BlockDeviceMapping.2.Ebs.DeleteOnTermination": "true",
        "BlockDeviceMapping.3.DeviceName": "/dev/sdh",
        "BlockDeviceMapping.3.Ebs.VolumeSize": "100",
        "BlockDeviceMapping.3.Ebs.VolumeType": "gp2",
        "BlockDeviceMapping.3.Ebs.Encrypted": "true",
        "BlockDeviceMapping.3.Ebs.DeleteOnTermination": "true",
        "BlockDeviceMapping.4.DeviceName": "/dev/sda1",
        "BlockDeviceMapping.4.Ebs.VolumeSize": "8",
        "BlockDeviceMapping.4.Ebs.VolumeType": "gp3",
        "BlockDeviceMapping.4.Ebs.DeleteOnTermination": "true",
    }


def test_a_license_has_no_price(launcher: Launcher, capsys: Said) -> None:
    def red_hat(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        status, content = forward()
        own = b"<platformDetails>Red Hat Enterprise Linux</platformDetails><blockDeviceMapping>"
        return status, content.replace(b"<blockDeviceMapping>", own) if action == "DescribeImages" else content

    with launcher.plan(red_hat):
        assert len(launcher(spot=1)) == 2
        assert f"2 x {A} spot: price not known (with Red Hat Enterprise Linux)\n" in capsys.readouterr().err
        with pytest.raises(UsageError, match=r"the price of m7i\.large with Red Hat Enterprise Linux is not known"):
            launcher(max_cost=1000)
        with pytest.raises(UsageError, match=r"the price of m7i\.large is not known: use --spot 1\.0"):
            launcher(spot=0.5)


def test_cleanup_goes_on_beside_what_it_may_not_look_at(launcher: Launcher, capsys: Said) -> None:
    def deny(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        return refused("UnauthorizedOperation", 403) if action == "DescribeLaunchTemplates" else forward()

    pair = launcher.cloud.client("ec2", "sa-east-1").create_key_pair(KeyName="hardway-0123456789ab")["KeyPairId"]
    with launcher.plan(deny):
        assert tasks.cleanup(Context(), yes=True, region="sa-east-1") == [pair]
    assert "denies DescribeLaunchTemplates" in capsys.readouterr().err


@pytest.mark.parametrize("tag", ["owner=team", "Name=x", "ssh-user=me", "hardway-launch=x", "hardway-ends=never"])
def test_tags_that_hardway_sets_itself_are_not_taken_and_dropped(launcher: Launcher, tag: str) -> None:
    with pytest.raises(UsageError, match=f"--tag {tag.partition('=')[0]}"):
        launcher(tag=[tag])


def test_whoever_has_no_login_name_is_known_by_number(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs as any user."""

    def unknown(uid: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    ids = launcher(num=1)
    [tags] = [instance.tags for instance in tasks.ls(Context()) if instance.id in ids]
    assert tags["owner"] == str(os.getuid())


@SPOT
def test_capacity_that_comes_back_is_taken(booting: Launcher, spot: int, capsys: Said) -> None:
    def clear(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        if action == "DescribeInstances" and set(LAUNCHES) & set(booting.ec2.actions()):
            booting.fault("clear")
        return forward()

    booting.fault("capacity", type=A, left=1)
    with booting.plan(clear):
        assert len(booting(num=2, wait=True, spot=spot)) == 2
    assert f"EC2 has no capacity for 1 of 2: {A} in " in capsys.readouterr().err


def test_one_that_dies_while_it_starts_is_replaced(booting: Launcher, capsys: Said) -> None:
    def kill(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        if action == "DescribeInstances" and "RunInstances" in booting.ec2.actions() and len(victims) < 1:
            victims.append(booting.left()[0])
            booting.fault("kill", instances=(victims[0],))
        return forward()

    victims: list[str] = []
    with booting.plan(kill):
        ids = booting(num=2, wait=True)
    assert len(set(ids) - set(victims)) == 2
    said = capsys.readouterr().err
    assert f"{victims[0]} went terminated while it started (Server.InternalError: Internal error); replacing 1" in said


def test_of_a_mix_so_many_are_on_demand_the_replaced_ones_too(booting: Launcher, capsys: Said) -> None:
    def lifecycles(ids: Sequence[str]) -> dict[str, str]:
        found = booting.cloud.client("ec2").describe_instances(InstanceIds=list(ids))["Reservations"]
        return {i["InstanceId"]: i.get("InstanceLifecycle", "on demand") for r in found for i in r["Instances"]}

    def kill(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        if action == "DescribeInstances" and "CreateFleet" in booting.ec2.actions() and not victims:
            victims.append(next(id for id in booting.left() if lifecycles([id])[id] == "on demand"))
            booting.fault("kill", instances=(victims[0],))
        return forward()

    victims: list[str] = []
    with booting.plan(kill):
        ids = booting(num=5, wait=True, spot=1, on_demand=2, type=f"{B},{A}")
    assert sorted(lifecycles(ids).values()) == ["on demand"] * 2 + ["spot"] * 3
    first, second = (parameters for action, parameters in booting.ec2.calls if action == "CreateFleet")
    for asked, (on_demand, spot) in ((first, ("2", "3")), (second, ("1", "0"))):
        assert asked["TargetCapacitySpecification.OnDemandTargetCapacity"] == on_demand
        assert asked["TargetCapacitySpecification.SpotTargetCapacity"] == spot
        assert asked["OnDemandOptions.AllocationStrategy"] == "prioritized"
        priorities = {
            (asked[name.replace("InstanceType", "Priority")], value)
            for name, value in asked.items()
            if name.endswith(".InstanceType")
        }
        assert priorities == {("0", B), ("1", A)}
    assert f"3 x {B} or {A} spot and 2 x {B} or {A} on demand: $" in capsys.readouterr().err


def test_fewer_will_do_only_with_those_on_demand(launcher: Launcher) -> None:
    def kill(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        answer = forward()
        if action == "CreateFleet":
            alive = [{"Name": "instance-state-name", "Values": ["pending"]}]
            found = launcher.cloud.client("ec2").describe_instances(Filters=alive)["Reservations"]
            victims = [i["InstanceId"] for r in found for i in r["Instances"] if i.get("InstanceLifecycle") != kept]
            launcher.fault("kill", instances=(victims[0],))
        return answer

    with launcher.plan(kill):
        kept = None  # on demand
        ids = launcher(num=4, spot=1, on_demand=1, min=2)
        assert len(ids) == 3
        launcher.end(ids)
        kept = "spot"
        with pytest.raises(HardwayError, match="1 instance on demand is missing"):
            launcher(num=4, spot=1, on_demand=1, min=2)


def test_replacements_have_an_end(launcher: Launcher) -> None:
    def kill(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        answer = forward()
        if action == "RunInstances":
            started.append(answer[1].count(b"<instanceId>"))
            for id in [left for left in launcher.left() if left.startswith("i-")]:
                launcher.fault("kill", instances=(id,))
        return answer

    started: list[int] = []
    with launcher.plan(kill), pytest.raises(HardwayError, match="no more than 2 are replaced"):
        launcher(num=4, wait=True)
    assert sum(started) == 6
    assert launcher.left() == []


@pytest.mark.parametrize("given", [{"seconds_timeout": 5}, {"seconds_wait": 1}], ids=["replaced", "settled for"])
def test_one_that_never_answers(
    booting: Launcher, given: dict[str, int], capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INVOKE_EC2_CONNECT_TIMEOUT", "1")

    def hang(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        if action == "DescribeInstances" and "RunInstances" in booting.ec2.actions() and not hung:
            hung.append(booting.left()[0])
            ec2 = booting.cloud.client("ec2")
            running = [{"Name": "instance-state-name", "Values": ["running"]}]
            eventually(lambda: ec2.describe_instances(InstanceIds=hung, Filters=running)["Reservations"])
            booting.fault("hang", instances=tuple(hung))
        return forward()

    hung: list[str] = []
    with booting.plan(hang):
        ids = booting(num=2, wait=True, **given)
    said = capsys.readouterr().err
    if "seconds_wait" in given:
        assert len(ids) == 1
        assert "1 of 2 instances are ready: going on with them, 1 terminated" in said
    else:
        assert len(ids) == 2
        assert "given up; replacing 1" in said
    assert hung[0] not in ids
    alive = [left for left in booting.left() if left.startswith("i-")]
    assert set(alive) == set(ids)


def test_an_end_that_was_moved_is_told_though_the_tag_may_not_be(booting: Launcher) -> None:
    def deny(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        return refused("UnauthorizedOperation", 403) if action == "CreateTags" else forward()

    ids = booting(num=1, wait=True)
    with booting.plan(deny), pytest.raises(HardwayError) as error:
        tasks.extend(Context(), ids, hours=2, yes=True)
    assert "1 instance will end" in str(error.value)
    assert "2 hours from now, but could not be tagged with the time: AWS denies CreateTags" in str(error.value)
    assert error.value.code == 1
