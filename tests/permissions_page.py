"""docs/permissions.md has a policy made of the calls in the source: `python -m tests.permissions_page` writes it."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from botocore import xform_name
from botocore.loaders import Loader

from hardway.launch import permissions

REPOSITORY = Path(__file__).parents[1]
PAGE = REPOSITORY / "docs" / "permissions.md"
SERVICES = {
    "ec2": "ec2", "iam": "iam", "pricing": "pricing", "s3": "s3", "service-quotas": "servicequotas", "ssm": "ssm",
    "sts": "sts",
}  # fmt: skip
"""The names of a service in botocore and in IAM."""
NEEDS_NONE = {"sts:GetCallerIdentity"}
"""Source: https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html"""
OTHER_NAMES = {"s3:HeadObject": "s3:GetObject"}
"""Calls permitted under another name: https://docs.aws.amazon.com/AmazonS3/latest/API/API_HeadObject.html"""
BESIDES = {
    "TagSpecifications": {"ec2:CreateTags"},
    "IamInstanceProfile": {"iam:PassRole"},
    "SpotOptions": {"iam:CreateServiceLinkedRole"},
    "start-session": {"ssm:StartSession"},
    "TransferManager": {"s3:PutObject", "s3:AbortMultipartUpload"},
}
"""The permissions that a word in the source needs: a call's parameter, a command of the AWS CLI, uploads in parts."""
CONDITIONS = {
    "iam:CreateServiceLinkedRole": {"StringEquals": {"iam:AWSServiceName": "spot.amazonaws.com"}},
    "iam:PassRole": {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
}
_POLICY = re.compile(r"(?<=```json\n).*?(?=```)", re.DOTALL)


def sources() -> Iterator[Path]:
    """The files that may call AWS; the local cloud only answers."""
    for folder in ("hardway", "tasks"):
        for file in sorted((REPOSITORY / folder).rglob("*.py")):
            if (REPOSITORY / "hardway" / "local") not in file.parents:
                yield file


@cache
def model(service: str) -> Any:
    """botocore's model of a service."""
    return Loader().load_service_model(service, "service-2")


@cache
def operations(service: str) -> Mapping[str, str]:
    """By the name of botocore's method, the operations of a service."""
    return {xform_name(name): name for name in model(service)["operations"]}


def has_dry_run(operation: str) -> bool:
    """Whether EC2 takes DryRun in this call, as botocore's model says."""
    shape = model("ec2")["operations"][operation]["input"]["shape"]
    return "DryRun" in model("ec2")["shapes"][shape]["members"]


@cache
def called() -> frozenset[str]:
    """The permissions for all calls that the source can make, such as `ec2:RunInstances`."""
    words: set[str] = set()
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute):
                words.add(node.attr)
            elif isinstance(node, ast.Name):
                words.add(node.id)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                words.add(node.value)
    found = {
        f"{prefix}:{operations(service)[word]}"
        for service, prefix in SERVICES.items()
        for word in words & operations(service).keys()
    }
    found = {OTHER_NAMES.get(each, each) for each in found} - NEEDS_NONE
    return frozenset(found).union(*(needed for word, needed in BESIDES.items() if word in words))


def policy() -> dict[str, Any]:
    """An IAM policy with these permissions, in statements by what they are for."""
    parts = {
        "Launch": {*_of_ec2(permissions.LAUNCH), "ssm:GetParameter"},
        "LaunchSpot": _of_ec2(permissions.SPOT),
        "FirstSpotOfTheAccount": {"iam:CreateServiceLinkedRole"},
        "LaunchWithRole": {"iam:PassRole"},
        "PricesAndQuotas": {*_of_ec2(permissions.PRICES), "pricing:GetProducts", "servicequotas:GetServiceQuota"},
        "ThroughSystemsManager": {"ssm:StartSession"},
        "ThroughS3": {each for each in called() if each.startswith("s3:")},
    }
    parts["OtherTasks"] = {*called()}.difference(*parts.values())
    return {
        "Version": "2012-10-17",
        "Statement": [_statement(name, actions & called()) for name, actions in parts.items()],
    }


def _of_ec2(calls: frozenset[str]) -> set[str]:
    return {f"ec2:{call}" for call in calls}


def _statement(name: str, actions: set[str]) -> dict[str, Any]:
    statement: dict[str, Any] = {"Sid": name, "Effect": "Allow", "Action": sorted(actions), "Resource": "*"}
    [condition] = {json.dumps(CONDITIONS.get(action)) for action in actions}
    return statement | ({"Condition": json.loads(condition)} if condition != "null" else {})


def page() -> str:
    """The page, with the policy of now."""
    return _POLICY.sub(lambda _: json.dumps(policy(), indent=2) + "\n", PAGE.read_text())


if __name__ == "__main__":
    PAGE.write_text(page())
