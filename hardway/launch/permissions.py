"""The permissions that hardway's calls need, and whether the credentials have them.

EC2 tells whether a call with `DryRun` is permitted, and does not carry the call out. The calls name things
that do not exist, so that a cloud that ignores `DryRun` does nothing either. Source:
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/CommonParameters.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from botocore import xform_name

from hardway import aws
from hardway.config import Settings
from hardway.system.look_ups import LookUps

LAUNCH = frozenset((
    "AuthorizeSecurityGroupIngress", "CreateSecurityGroup", "CreateTags", "DeleteTags", "DescribeImages",
    "DescribeInstanceTypeOfferings", "DescribeInstanceTypes", "DescribeInstances", "DescribeKeyPairs",
    "DescribeSecurityGroups", "DescribeSubnets", "DescribeVpcs", "ImportKeyPair", "RunInstances", "TerminateInstances",
))  # fmt: skip
"""The calls of a launch to EC2. A launch also works without `GetConsoleOutput` and `DescribeVolumes`."""
SPOT = frozenset(("CreateFleet", "CreateLaunchTemplate", "DeleteFleets", "DeleteLaunchTemplate"))
"""The additional calls of a launch with spot instances."""
PRICES = frozenset(("DescribeSpotPriceHistory",))
"""The calls that look up a spot price; without them no price is told."""

_NONE = "0" * 17
_NAME = "hardway-check"
_NETWORK = "192.0.2.0/24"  # for examples: https://www.rfc-editor.org/rfc/rfc5737
_PUBLIC_KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
_INSTANCES = {"InstanceIds": [f"i-{_NONE}"]}
_TAGS = {"Resources": [f"i-{_NONE}"], "Tags": [{"Key": _NAME, "Value": ""}]}
_RULE = {
    "GroupId": f"sg-{_NONE}",
    "IpPermissions": [{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": _NETWORK}]}],
}
_GATEWAY = {"InternetGatewayId": f"igw-{_NONE}", "VpcId": f"vpc-{_NONE}"}
TRIED: dict[str, dict[str, Any]] = {
    "AttachInternetGateway": _GATEWAY,
    "AuthorizeSecurityGroupIngress": _RULE,
    "CreateFleet": {
        "Type": "instant",
        "LaunchTemplateConfigs": [
            {"LaunchTemplateSpecification": {"LaunchTemplateId": f"lt-{_NONE}", "Version": "$Latest"}}
        ],
        "TargetCapacitySpecification": {"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "spot"},
    },
    "CreateImage": {"InstanceId": f"i-{_NONE}", "Name": _NAME},
    "CreateInternetGateway": {},
    "CreateLaunchTemplate": {"LaunchTemplateName": _NAME, "LaunchTemplateData": {"InstanceType": "m7i.large"}},
    "CreateRoute": {
        "RouteTableId": f"rtb-{_NONE}", "DestinationCidrBlock": _NETWORK, "GatewayId": f"igw-{_NONE}"
    },
    "CreateSecurityGroup": {"GroupName": _NAME, "Description": _NAME, "VpcId": f"vpc-{_NONE}"},
    "CreateSnapshots": {"InstanceSpecification": {"InstanceId": f"i-{_NONE}"}},
    "CreateSubnet": {"VpcId": f"vpc-{_NONE}", "CidrBlock": _NETWORK},
    "CreateTags": _TAGS,
    # Smaller than a VPC can be: a cloud that ignores `DryRun` refuses it.
    "CreateVpc": {"CidrBlock": "192.0.2.0/29"},
    "DeleteFleets": {"FleetIds": [f"fleet-{_NONE}"], "TerminateInstances": True},
    "DeleteInternetGateway": {"InternetGatewayId": f"igw-{_NONE}"},
    "DeleteKeyPair": {"KeyPairId": f"key-{_NONE}"},
    "DeleteLaunchTemplate": {"LaunchTemplateId": f"lt-{_NONE}"},
    "DeleteNetworkAcl": {"NetworkAclId": f"acl-{_NONE}"},
    "DeleteRouteTable": {"RouteTableId": f"rtb-{_NONE}"},
    "DeleteSecurityGroup": {"GroupId": f"sg-{_NONE}"},
    "DeleteSnapshot": {"SnapshotId": f"snap-{_NONE}"},
    "DeleteSubnet": {"SubnetId": f"subnet-{_NONE}"},
    "DeleteTags": _TAGS,
    "DeleteVolume": {"VolumeId": f"vol-{_NONE}"},
    "DeleteVpc": {"VpcId": f"vpc-{_NONE}"},
    "DeregisterImage": {"ImageId": f"ami-{_NONE}"},
    "DescribeAvailabilityZones": {},
    "DescribeImages": {"Owners": ["self"]},
    "DescribeInstanceAttribute": {"InstanceId": f"i-{_NONE}", "Attribute": "userData"},
    "DescribeInstanceStatus": {},
    "DescribeInstanceTypeOfferings": {},
    "DescribeInstanceTypes": {},
    "DescribeInstances": {},
    "DescribeInternetGateways": {},
    "DescribeKeyPairs": {},
    "DescribeLaunchTemplates": {},
    "DescribeNetworkAcls": {},
    "DescribeNetworkInterfaces": {},
    "DescribeRegions": {},
    "DescribeRouteTables": {},
    "DescribeSecurityGroups": {},
    "DescribeSnapshots": {"OwnerIds": ["self"]},
    "DescribeSpotPriceHistory": {},
    "DescribeSubnets": {},
    "DescribeVolumes": {},
    "DescribeVpcs": {},
    "DetachInternetGateway": _GATEWAY,
    "GetConsoleOutput": {"InstanceId": f"i-{_NONE}"},
    "ImportKeyPair": {"KeyName": _NAME, "PublicKeyMaterial": _PUBLIC_KEY},
    "RebootInstances": _INSTANCES,
    "RevokeSecurityGroupEgress": _RULE,
    "RevokeSecurityGroupIngress": _RULE,
    "RunInstances": {"ImageId": f"ami-{_NONE}", "InstanceType": "m7i.large", "MinCount": 1, "MaxCount": 1},
    "StartInstances": _INSTANCES,
    "StopInstances": _INSTANCES,
    "TerminateInstances": _INSTANCES,
}  # fmt: skip
"""Every call of ours to EC2 that has a dry run, by its name in IAM, with parameters for the trial."""
NOT_TRIED = ("ModifySubnetAttribute", "ModifyVpcAttribute")
"""The calls without a dry run."""
_AT_ONCE = 8


def find(settings: Settings) -> dict[str, bool]:
    """Try each call; return whether it is permitted. A call is left out if EC2 first looks for the things in it.

    Raises the error of a call without an answer.
    """
    with LookUps(_AT_ONCE) as pool:
        answers = {call: pool.submit(dry_run, settings, call, given) for call, given in TRIED.items()}
        said = {call: answer.result() for call, answer in answers.items()}
    return {call: answer == "allowed" for call, answer in said.items() if answer in ("allowed", "denied")}


def dry_run(settings: Settings, call: str, parameters: Mapping[str, Any]) -> str:
    """Return `allowed`, `denied`, or EC2's reason for telling neither; empty if this cloud has no dry run.

    Raises the error if there is no answer, or if it is about the credentials.
    """
    try:
        getattr(aws.ec2(settings), xform_name(call))(DryRun=True, **parameters)
    except Exception as error:
        if aws.error_code(error) == "DryRunOperation":
            return "allowed"
        if aws.is_denied(error):
            return "denied"
        if not aws.is_about_one(error):
            raise
        return str(aws.translate(error))
    return ""
