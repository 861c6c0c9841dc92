"""A launch's requests to EC2, and when it has enough: functions of settings and numbers alone."""

from __future__ import annotations

import base64
import gzip
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardway.config import Ec2
from hardway.ec2 import quotas
from hardway.ec2.images import Image
from hardway.launch import requests
from hardway.launch.replacing import LaunchVerdict, Standing, missing, most_replacements, verdict
from hardway.launch.requests import Pool, Prerequisites

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
IMAGE = Image("ami-1", "x86_64", "/dev/sda1", "ubuntu", "Linux/UNIX", {"/dev/sdb": {"VolumeSize": 9}})
FOUND = Prerequisites(IMAGE, "pair", ("sg-1", "sg-2"), b"echo hi")
POOLS = [Pool("c7i.large", "a", "subnet-a"), Pool("m7i.large", "a", "subnet-a"), Pool("c7i.large", "b", "subnet-b")]
ENOUGH, WAIT, TOO_FEW = LaunchVerdict.ENOUGH, LaunchVerdict.WAIT, LaunchVerdict.TOO_FEW


def instance(**settings: Any) -> dict[str, Any]:
    return requests.instance(Ec2(**settings), FOUND, {"team": "data"}, "anna", "token", NOW)


def tags(call: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {of["ResourceType"]: {tag["Key"]: tag["Value"] for tag in of["Tags"]} for of in call["TagSpecifications"]}


def test_an_instance_is_what_the_settings_say() -> None:
    call = instance(name="web", ssh_port=2222, role="reader", gigs=50, max_hours=1.0)
    lasting = {
        "team": "data",
        "Name": "web",
        "owner": "anna",
        "creation-date": "2026-01-02T03:04:05+00:00",
        "ssh-user": "ubuntu",
        "ssh-port": "2222",
    }
    ends = {"hardway-ends": "2026-01-02T04:04:05+00:00", "hardway-launch": "token"}
    assert tags(call) == {"instance": {**lasting, **ends}, "volume": lasting}
    assert (call["ImageId"], call["KeyName"], call["SecurityGroupIds"]) == ("ami-1", "pair", ["sg-1", "sg-2"])
    assert call["IamInstanceProfile"] == {"Name": "reader"}
    assert call["MetadataOptions"] == {"HttpTokens": "required"}
    assert call["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert {disk["DeviceName"]: disk["Ebs"] for disk in call["BlockDeviceMappings"]} == {
        "/dev/sdb": {"VolumeSize": 9, "DeleteOnTermination": True},
        "/dev/sda1": {"VolumeSize": 50, "VolumeType": "gp3", "DeleteOnTermination": True},
    }
    assert b"limit=3600 idle=0 user=ubuntu port=2222" in call["UserData"]


def test_what_is_not_set_is_not_asked_for() -> None:
    call = requests.instance(Ec2(max_hours=0), replace(FOUND, image=replace(IMAGE, disks={})), {}, "anna", "token", NOW)
    assert "IamInstanceProfile" not in call and "BlockDeviceMappings" not in call
    assert tags(call)["instance"].keys() - tags(call)["volume"].keys() == {"hardway-launch"}
    assert "ssh-port" not in tags(call)["instance"]


def test_run_instances_takes_as_many_as_there_are() -> None:
    call = requests.run_instances({"ImageId": "ami-1"}, POOLS[0], 7)
    pool = {"InstanceType": "c7i.large", "SubnetId": "subnet-a"}
    assert call == {"ImageId": "ami-1", "MinCount": 1, "MaxCount": 7, **pool}
    assert "SubnetId" not in requests.run_instances({}, Pool("c7i.large", "", ""), 1)


def test_a_launch_template_holds_the_user_data_as_text() -> None:
    call = requests.create_launch_template(instance(), "name", {"owner": "anna"})
    data = base64.b64decode(call["LaunchTemplateData"]["UserData"])
    assert (gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data) == instance()["UserData"]
    assert (call["LaunchTemplateName"], tags(call)) == ("name", {"launch-template": {"owner": "anna"}})


def test_a_fleet_of_spot() -> None:
    call = requests.create_fleet("lt-1", POOLS, {"c7i.large": 0.1, "m7i.large": 0.25}, 5, 0, {"owner": "anna"})
    [config] = call["LaunchTemplateConfigs"]
    assert config["LaunchTemplateSpecification"]["LaunchTemplateId"] == "lt-1"
    assert [override["MaxPrice"] for override in config["Overrides"]] == ["0.100000", "0.250000", "0.100000"]
    assert call["TargetCapacitySpecification"] == {"TotalTargetCapacity": 5, "DefaultTargetCapacityType": "spot"}
    assert "OnDemandOptions" not in call and call["Type"] == "instant"


def test_a_fleet_with_some_on_demand() -> None:
    call = requests.create_fleet("lt-1", POOLS, None, 5, 2, {})
    wanted = call["TargetCapacitySpecification"]
    assert (wanted["OnDemandTargetCapacity"], wanted["SpotTargetCapacity"]) == (2, 3)
    overrides = call["LaunchTemplateConfigs"][0]["Overrides"]
    assert [override["Priority"] for override in overrides] == [0, 1, 0]
    assert not any("MaxPrice" in override for override in overrides)


def at(elapsed: float = 1, **numbers: Any) -> Standing:
    return Standing(elapsed, **{"started": numbers.get("ready", 0) + numbers.get("waiting", 0), **numbers})


@pytest.mark.parametrize(
    ("standing", "expected"),
    [
        (at(), WAIT),
        (at(ready=3, waiting=1), WAIT),
        (at(ready=4), ENOUGH),
        (at(ready=4, elapsed=11), ENOUGH),
        (at(ready=3, waiting=1, elapsed=11), TOO_FEW),
        (at(ready=3, short=1), WAIT),  # EC2 may have more later
        (at(ready=3, short=1, soon=False), TOO_FEW),  # and here it won't
        (at(ready=2, waiting=1, short=1, soon=False), TOO_FEW),  # so that those that start are no use
        (at(ready=3, started=6), TOO_FEW),  # all replacements are used up
        (at(ready=2, waiting=2, started=6), WAIT),
        (at(waiting=4, asks=False), WAIT),
        (at(ready=3, asks=False), TOO_FEW),
        (at(ready=2, waiting=1, started=4, failed=1), TOO_FEW),  # another's user data would fail as well
    ],
)
def test_all_are_wanted(standing: Standing, expected: LaunchVerdict) -> None:
    assert verdict(Ec2(num=4, seconds_timeout=10), standing) is expected


@pytest.mark.parametrize(
    ("standing", "expected"),
    [
        (at(ready=2, waiting=2), WAIT),
        (at(ready=2), WAIT),  # more have yet to be asked for
        (at(ready=2, short=2), ENOUGH),  # EC2 has no more
        (at(ready=2, waiting=1, started=4, failed=1), WAIT),
        (at(ready=3, started=4, failed=1), ENOUGH),
        (at(ready=1, short=3), WAIT),
        (at(ready=2, waiting=1, short=1, soon=False), WAIT),
        (at(ready=2, short=2, soon=False), ENOUGH),
        (at(ready=2, short=2, soon=False, lacking=1), TOO_FEW),  # but of those on demand one is missing
        (at(ready=1, short=3, soon=False), TOO_FEW),
        (at(ready=2, waiting=2, elapsed=10), ENOUGH),
        (at(ready=1, waiting=3, elapsed=10), TOO_FEW),
    ],
)
def test_fewer_are_enough_where_there_are_no_more(standing: Standing, expected: LaunchVerdict) -> None:
    assert verdict(Ec2(num=4, min=2, seconds_timeout=10), standing) is expected


@pytest.mark.parametrize(
    ("standing", "expected"),
    [
        (at(ready=1, waiting=3), WAIT),
        (at(ready=1, waiting=3, elapsed=5), ENOUGH),
        (at(ready=1, waiting=3, elapsed=5, lacking=1), WAIT),
        (at(waiting=4, elapsed=5), WAIT),
        (at(waiting=4, elapsed=10), TOO_FEW),
        (at(ready=1, started=6), ENOUGH),
    ],
)
def test_those_ready_are_enough_after_a_time(standing: Standing, expected: LaunchVerdict) -> None:
    assert verdict(Ec2(num=4, seconds_wait=5, seconds_timeout=10), standing) is expected


def test_what_is_missing_is_asked_for_while_there_is_hope() -> None:
    ec2 = Ec2(num=8, seconds_timeout=10)
    assert missing(ec2, at()) == 8
    assert missing(ec2, at(ready=3, waiting=3)) == 2
    assert missing(ec2, at(ready=5, started=8 + most_replacements(8) - 1)) == 1
    assert missing(ec2, at(ready=5, started=8 + most_replacements(8))) == 0
    assert missing(ec2, at(ready=5, elapsed=10)) == 0
    assert missing(ec2, at(ready=5, short=3)) == 3
    assert missing(ec2, at(ready=5, short=3, soon=False)) == 0
    assert missing(ec2, at(ready=5, asks=False)) == 0


numbers = st.integers(0, 6)


@given(
    ec2=st.builds(
        Ec2, num=st.integers(1, 6), min=numbers, seconds_wait=numbers, seconds_timeout=numbers, on_demand=numbers
    ),
    standing=st.builds(
        Standing,
        elapsed=st.floats(0, 7),
        ready=numbers,
        waiting=numbers,
        started=st.integers(0, 9),
        short=numbers,
        lacking=numbers,
    ),
)
def test_a_verdict_comes_in_time_and_is_never_for_too_few(ec2: Ec2, standing: Standing) -> None:
    found = verdict(ec2, standing)
    if standing.elapsed >= ec2.seconds_timeout:
        assert found is not WAIT
    if found is ENOUGH and standing.ready != ec2.num:
        assert not standing.lacking
        assert standing.ready >= (ec2.min or (1 if ec2.seconds_wait else ec2.num))
    if found is WAIT:
        assert standing.waiting or missing(ec2, standing)


@pytest.mark.parametrize(
    ("types", "on_demand", "spot"),
    [
        (
            "a1.large c7i.large d3.xlarge h1.2xlarge i4i.large im4gn.large m7i.large r8g.large t3.micro z1d.large",
            "L-1216C47A",
            "L-34B43A08",
        ),
        ("g5.xlarge gr6.4xlarge vt1.3xlarge", "L-DB2E81BA", "L-3819A6DF"),
        ("p3.2xlarge p5en.48xlarge", "L-417A185B", "L-7212CCBC"),
        ("inf2.xlarge", "L-1945791B", "L-B5D1601B"),
        ("trn1.2xlarge", "L-2C3B7624", "L-6B0D517C"),
        ("x2idn.16xlarge", "L-7295265B", "L-E3A00192"),
        ("dl1.24xlarge", "L-6E869C2A", "L-85EED4F7"),
        ("hpc7a.12xlarge", "L-F7808C92", ""),
        ("u-6tb1.56xlarge u7i-12tb.224xlarge", "L-43DA4232", ""),
        ("mac2.metal", "", ""),
    ],
)
def test_the_quota_that_a_type_counts_towards(types: str, on_demand: str, spot: str) -> None:
    for type in types.split():
        for code, is_spot in ((on_demand, False), (spot, True)):
            quota = quotas.of(type, spot=is_spot)
            assert (quota.code if quota else "") == code
