"""The local cloud refuses, as EC2 does, calls that are too long or name too much.

Sources: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html#tag-restrictions,
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceTypes.html
"""

from __future__ import annotations

from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conftest import LocalCloud

LAUNCH = {"ImageId": "ami-1", "InstanceType": "m7i.large", "MinCount": 1, "MaxCount": 1}


def tags(*pairs: tuple[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in pairs]


def tagged(kind: str, *pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": tags(*pairs)}]


TOO_LONG = [("k" * 129, "v"), ("k", "v" * 257), ("Name", "n" * 257)]
TOO_MANY = [(f"k{number}", "v") for number in range(51)]


@pytest.mark.parametrize("pair", TOO_LONG, ids=["key", "value", "name"])
@pytest.mark.parametrize("call", ["run_instances", "create_tags", "create_launch_template", "create_vpc"])
def test_long_tags(cloud: LocalCloud, call: str, pair: tuple[str, str]) -> None:
    ec2 = cloud.client("ec2")
    calls: dict[str, dict[str, Any]] = {
        "run_instances": {**LAUNCH, "TagSpecifications": tagged("instance", pair)},
        "create_tags": {"Resources": ["vpc-1"], "Tags": tags(pair)},
        "create_launch_template": {
            "LaunchTemplateName": "t",
            "LaunchTemplateData": {"TagSpecifications": tagged("instance", pair)},
        },
        "create_vpc": {"CidrBlock": "10.0.0.0/16", "TagSpecifications": tagged("vpc", pair)},
    }
    with pytest.raises(ClientError, match=r"exceeds the maximum length of (128|256) characters") as raised:
        getattr(ec2, call)(**calls[call])
    assert raised.value.response["Error"]["Code"] == "InvalidParameterValue"


def test_the_longest_tags_are_taken(cloud: LocalCloud) -> None:
    ec2 = cloud.client("ec2")
    longest = [("k\u00e9" * 64, "v\u00e9" * 128), *((f"k{number}", "v") for number in range(49))]
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16", TagSpecifications=tagged("vpc", *longest))["Vpc"]["VpcId"]
    ec2.delete_vpc(VpcId=vpc)


def test_many_tags(cloud: LocalCloud) -> None:
    ec2 = cloud.client("ec2")
    with pytest.raises(ClientError) as raised:
        ec2.run_instances(**LAUNCH, TagSpecifications=tagged("instance", *TOO_MANY))
    assert raised.value.response["Error"]["Code"] == "TagLimitExceeded"
    before = ec2.describe_instances()
    with pytest.raises(ClientError) as raised:
        ec2.create_launch_template(
            LaunchTemplateName="t", LaunchTemplateData={"TagSpecifications": tagged("instance", *TOO_MANY)}
        )
    assert raised.value.response["Error"]["Code"] == "TagLimitExceeded"
    assert len(before["Reservations"]) == len(ec2.describe_instances()["Reservations"])


@pytest.mark.outside_the_model
def test_many_types(cloud: LocalCloud) -> None:
    ec2 = cloud.client("ec2")
    with pytest.raises(ClientError) as raised:
        ec2.describe_instance_types(InstanceTypes=["m7i.large"] * 101)
    assert raised.value.response["Error"]["Code"] == "InvalidParameterValue"
    assert len(ec2.describe_instance_types(InstanceTypes=["m7i.large", "c7i.large"])["InstanceTypes"]) == 2
