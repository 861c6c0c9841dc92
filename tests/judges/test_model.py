"""The judge of requests itself: what is outside of botocore's model is told, in this process and in others."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from botocore.session import get_session

from tests.judges.every_process import sitecustomize as model_judge
from tests.patience import patience

DESCRIBE = """
import boto3, botocore
client = boto3.client("ec2", "us-east-1", endpoint_url="http://127.0.0.1:1")
client.meta.events.register("before-send", lambda **_: 1 / 0)
try:
    client.create_placement_group(GroupName="x", Strategy="anywhere")
except ZeroDivisionError:
    pass
"""


def told(service: str, operation: str, **parameters: Any) -> list[str]:
    shape = get_session().get_service_model(service).operation_model(operation).input_shape
    return list(model_judge.outside(parameters, shape))


@pytest.mark.parametrize(
    ("service", "operation", "parameters", "what"),
    [
        ("ec2", "CreateFleet", {"Type": "soon"}, ".Type: 'soon' is none"),
        ("ec2", "DescribeVolumes", {"Filters": [], "MaxResults": 5}, ""),
        ("ec2", "CreateImage", {"Name": "ab"}, ".Name: 2 characters, and ImageNameRequest has from 3 to 128"),
        ("ec2", "DescribeSubnets", {"MaxResults": 1001}, ".MaxResults: 1001 as a value"),
        ("ec2", "DescribeInstanceTypes", {"InstanceTypes": ["m5.large"] * 101}, ".InstanceTypes: 101 elements"),
        ("ec2", "DescribeInstanceTypes", {"InstanceTypes": ["made.tomorrow"]}, ""),
        ("iam", "GetInstanceProfile", {"InstanceProfileName": "a b"}, ".InstanceProfileName: 'a b' does not match"),
        ("iam", "TagRole", {"RoleName": "r", "Tags": [{"Key": "ключ 1", "Value": ""}]}, ""),
        ("iam", "TagRole", {"RoleName": "r", "Tags": [{"Key": "a!", "Value": ""}]}, ".Tags[0].Key: 'a!' does not"),
        ("ssm", "GetParameters", {"Names": ["n"] * 11}, ".Names: 11 elements"),
    ],
)
def test_lengths_patterns_and_words(service: str, operation: str, parameters: dict[str, Any], what: str) -> None:
    found = told(service, operation, **parameters)
    assert [each[: len(what)] for each in found] == ([what] if what else [])


@pytest.mark.outside_the_model
def test_a_process_that_a_test_starts_is_judged(home: Path) -> None:
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}
    subprocess.run([sys.executable, "-c", DESCRIBE], env=environment, check=True, timeout=patience(60))
    record = Path(os.environ[model_judge.RECORD]).read_text()
    assert json.loads(record).startswith("ec2.CreatePlacementGroup.Strategy: 'anywhere' is none of the words")
