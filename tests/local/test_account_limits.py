"""The local cloud has limits as EC2 does: of launches at once, and of the spot price; and volumes as an image says."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.conftest import LocalCloud, run_local_cloud

pytestmark = pytest.mark.starts

TYPE = "m7i.large"
IMAGE = "ami-12345678"


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A local cloud that launches five instances of a region at once, then one in two seconds."""
    state = tmp_path_factory.mktemp("limited") / "state"
    with run_local_cloud(state, boot_delay=3600.0, launch_bucket=5, launch_refill=0.5) as running:
        yield running


_regions = iter(["us-east-1", "us-east-2", "us-west-1", "us-west-2", "eu-west-1", "eu-west-2", "eu-west-3"])


@pytest.fixture
def ec2(limited: LocalCloud) -> Iterator[Any]:
    """The client of a region with a full bucket."""
    client = limited.client("ec2", next(_regions))
    yield client
    found = client.describe_instances(Filters=[{"Name": "instance-state-name", "Values": ["pending"]}])["Reservations"]
    ids = [each["InstanceId"] for reservation in found for each in reservation["Instances"]]
    client.terminate_instances(InstanceIds=ids)


def launch(ec2: Any, least: int = 1, most: int = 1, **more: Any) -> list[str]:
    given = {"ImageId": IMAGE, "InstanceType": TYPE, "MinCount": least, "MaxCount": most, **more}
    return [instance["InstanceId"] for instance in ec2.run_instances(**given)["Instances"]]


def zone(ec2: Any) -> str:
    return str(ec2.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"])


def fleet(ec2: Any, count: int, **override: Any) -> Mapping[str, Any]:
    name = f"template-{time.monotonic_ns()}"
    ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData={"ImageId": IMAGE, "InstanceType": TYPE})
    answer: Mapping[str, Any] = ec2.create_fleet(
        Type="instant",
        LaunchTemplateConfigs=[
            {
                "LaunchTemplateSpecification": {"LaunchTemplateName": name, "Version": "$Latest"},
                "Overrides": [{"InstanceType": TYPE, "AvailabilityZone": zone(ec2), **override}],
            }
        ],
        TargetCapacitySpecification={"TotalTargetCapacity": count, "DefaultTargetCapacityType": "spot"},
    )
    return answer


def test_the_bucket_gives_all_or_nothing_and_fills_up(ec2: Any) -> None:
    with pytest.raises(ClientError, match="RequestLimitExceeded"):
        launch(ec2, most=6)
    assert len(launch(ec2, most=5)) == 5
    with pytest.raises(ClientError, match="RequestLimitExceeded"):
        launch(ec2, most=5)
    time.sleep(2.1)
    assert len(launch(ec2, most=1)) == 1


def test_a_fleet_has_the_bucket_in_its_errors(ec2: Any) -> None:
    [error] = fleet(ec2, 6)["Errors"]
    assert error["ErrorCode"] == "RequestLimitExceeded"
    started = fleet(ec2, 5)["Instances"]
    assert sum(len(each["InstanceIds"]) for each in started) == 5


def test_what_is_not_launched_takes_no_token(ec2: Any) -> None:
    for _ in range(2):
        with pytest.raises(ClientError, match="SpotMaxPriceTooLow"):
            launch(ec2, most=5, InstanceMarketOptions={"MarketType": "spot", "SpotOptions": {"MaxPrice": "0.001"}})
    assert len(launch(ec2, most=5)) == 5


def test_spot_below_the_market_gets_nothing(ec2: Any) -> None:
    [price, *_] = ec2.describe_spot_price_history(InstanceTypes=[TYPE], AvailabilityZone=zone(ec2))["SpotPriceHistory"]
    below, above = (f"{float(price['SpotPrice']) * part:.6f}" for part in (0.99, 1.01))
    [error] = fleet(ec2, 1, MaxPrice=below)["Errors"]
    assert error["ErrorCode"] == "SpotMaxPriceTooLow"
    assert "lower than the minimum required Spot request fulfillment price" in error["ErrorMessage"]
    assert fleet(ec2, 1, MaxPrice=above)["Instances"]


def disks(ec2: Any, id: str) -> dict[str, tuple[str, bool]]:
    [reservation] = ec2.describe_instances(InstanceIds=[id])["Reservations"]
    found = reservation["Instances"][0]["BlockDeviceMappings"]
    return {disk["DeviceName"]: (disk["Ebs"]["VolumeId"], disk["Ebs"]["DeleteOnTermination"]) for disk in found}


def test_an_instance_has_the_volumes_of_its_image_and_they_go_as_it_says(ec2: Any) -> None:
    stays = {"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 9, "DeleteOnTermination": False}}
    [first] = launch(ec2, BlockDeviceMappings=[stays])
    assert [(device, goes) for device, (_, goes) in disks(ec2, first).items()] == [
        ("/dev/sda1", True),
        ("/dev/sdf", False),
    ]
    image = ec2.create_image(InstanceId=first, Name="of two disks")["ImageId"]
    told = ec2.describe_images(ImageIds=[image])["Images"][0]["BlockDeviceMappings"]
    assert [(d["DeviceName"], d["Ebs"]["VolumeSize"], d["Ebs"]["DeleteOnTermination"]) for d in told] == [
        ("/dev/sda1", 8, True),
        ("/dev/sdf", 9, False),
    ]
    [other] = launch(ec2, ImageId=image)
    [without] = launch(ec2, ImageId=image, BlockDeviceMappings=[{"DeviceName": "/dev/sdf", "NoDevice": ""}])
    assert list(disks(ec2, without)) == ["/dev/sda1"]
    volumes = disks(ec2, other)
    ec2.terminate_instances(InstanceIds=[other])
    left = {volume["VolumeId"]: volume["State"] for volume in ec2.describe_volumes()["Volumes"]}
    assert volumes["/dev/sda1"][0] not in left
    assert left[volumes["/dev/sdf"][0]] == "available"
