"""moto as it comes is still wrong where the local cloud changes it.

A failure here is good news: moto has learned something. The change of the failing test's name in `moto_patches` can go.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any
from xml.etree import ElementTree

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.parsers import ResponseParserError

from tests.conftest import REPOSITORY
from tests.patience import patience

pytestmark = pytest.mark.starts

TYPE = "m7i.large"
SERVER = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server._server.server_port, flush=True)
sys.stdin.read()
server.stop()
"""
CHANGED = """
import inspect, json, pkgutil
from hardway.local.api import moto_patches
from hardway.local.machines import asyncssh_internals
missing = []
for page in (moto_patches, asyncssh_internals):
    for name in page.PRIVATE_NAMES:
        try:
            pkgutil.resolve_name(name)
        except AttributeError:
            missing.append(name)
    for name in page.PRIVATE_ATTRIBUTES:
        place, _, attribute = name.rpartition(".")
        if not any(f"self.{attribute}" in inspect.getsource(each) for each in pkgutil.resolve_name(place).__mro__[:-1]):
            missing.append(name)
print(json.dumps({"changes": [[each.name, each.test] for each in moto_patches.CHANGES], "missing": missing}))
"""
PLAIN = """
import boto3, json
sessions, Session = [], boto3.Session
boto3.Session = lambda *given, **named: sessions.append(1) or Session(*given, **named)
from moto.ec2.models import ec2_backends
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS
images = ec2_backends["123456789012"]["us-east-1"].amis.values()
regions = len(INSTANCE_TYPE_OFFERINGS["availability-zone"])
backend = ec2_backends["123456789012"]["us-east-1"]
one, other = backend.create_volume(1, "us-east-1a"), backend.create_volume(1, "us-east-1a")
class Looked(dict):
    def items(self):
        looked.append(self)
        return super().items()
looked = []
backend.tags[other.id] = Looked(a="b")
one.get_tags()
print(json.dumps({
    "sessions": len(sessions), "owners": [each.owner_id for each in images], "regions": regions, "looked": len(looked)
}))
"""
IMAGE = "ami-12345678"
Clients = Callable[..., Any]


def run(script: str) -> Any:
    """The JSON that a separate Python prints: moto is changed when it is imported."""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, timeout=patience(60)
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def changed() -> Any:
    """The local cloud's claim about moto."""
    return run(CHANGED)


@pytest.fixture(scope="module")
def plain() -> Any:
    """moto's content when it has been imported as it comes."""
    return run(PLAIN)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """moto's server as it comes, but for its images: to load and search them takes a second at each launch."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "MOTO_EC2_LOAD_DEFAULT_AMIS": "false"},
    ) as process:
        assert process.stdin and process.stdout
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()
            process.wait(patience(30))


@pytest.fixture(scope="module")
def client(endpoint: str) -> Clients:
    def make(service: str) -> Any:
        session = boto3.Session("key", "secret", region_name="us-east-1")
        once = Config(retries={"total_max_attempts": 1})
        return session.client(service, endpoint_url=endpoint, config=once)

    return make


@pytest.fixture(scope="module")
def ec2(client: Clients) -> Any:
    return client("ec2")


def launch(ec2: Any, **more: Any) -> Mapping[str, Any]:
    given = {"ImageId": IMAGE, "InstanceType": TYPE, "MinCount": 1, "MaxCount": 1, **more}
    answer: Mapping[str, Any] = ec2.run_instances(**given)
    return answer


def launch_one(ec2: Any, **more: Any) -> str:
    return str(launch(ec2, **more)["Instances"][0]["InstanceId"])


def describe(ec2: Any, id: str) -> Mapping[str, Any]:
    answer = ec2.describe_instances(InstanceIds=[id])
    found: Mapping[str, Any] = answer["Reservations"][0]["Instances"][0]
    return found


def template(ec2: Any, name: str, **data: Any) -> None:
    data = {"ImageId": IMAGE, "InstanceType": TYPE, **data}
    ec2.create_launch_template(LaunchTemplateName=name, LaunchTemplateData=data)


def create_fleet(ec2: Any, template: str, **more: Any) -> Mapping[str, Any]:
    answer: Mapping[str, Any] = ec2.create_fleet(
        Type="instant",
        LaunchTemplateConfigs=[{"LaunchTemplateSpecification": {"LaunchTemplateName": template, "Version": "1"}}],
        TargetCapacitySpecification={"TotalTargetCapacity": 1, "DefaultTargetCapacityType": "on-demand"},
        **more,
    )
    return answer


def test_each_change_has_its_test_here(changed: Any) -> None:
    changes = changed["changes"]
    tests = {name for name in globals() if name.startswith("test_")}
    assert {test for _, test in changes} == tests - {
        "test_each_change_has_its_test_here",
        "test_private_names_are_still_there",
        "test_versions_are_below_their_ceilings",
    }
    assert len({name for name, _ in changes}) == len(changes)


def test_private_names_are_still_there(changed: Any) -> None:
    assert changed["missing"] == []


@pytest.mark.parametrize("package", ["moto", "asyncssh"])
def test_versions_are_below_their_ceilings(package: str) -> None:
    settings = (REPOSITORY / "pyproject.toml").read_text()
    [(floor, ceiling)] = re.findall(rf'"{package}(?:\[.*\])?>=([\d.]+),<([\d.]+)"', settings)
    assert number(floor) <= number(metadata.version(package)) < number(ceiling)


def number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:3])


def test_an_instance_runs_at_once_and_nowhere(ec2: Any) -> None:
    found = describe(ec2, launch_one(ec2))
    assert found["State"]["Name"] == "running"
    assert not found["PrivateIpAddress"].startswith("127.")


def test_a_spot_instance_can_be_stopped(ec2: Any) -> None:
    id = launch_one(ec2, InstanceMarketOptions={"MarketType": "spot"})
    ec2.stop_instances(InstanceIds=[id])
    assert describe(ec2, id)["State"]["Name"] == "stopped"


def test_a_terminated_instance_leaves_its_network_interface(ec2: Any) -> None:
    id = launch_one(ec2)
    nic = describe(ec2, id)["NetworkInterfaces"][0]["NetworkInterfaceId"]
    ec2.terminate_instances(InstanceIds=[id])
    assert ec2.describe_network_interfaces(NetworkInterfaceIds=[nic])["NetworkInterfaces"]


def test_a_terminated_instance_keeps_its_address(ec2: Any) -> None:
    id = launch_one(ec2)
    ec2.terminate_instances(InstanceIds=[id])
    assert describe(ec2, id)["PrivateIpAddress"]


def test_a_launch_is_of_the_least(ec2: Any) -> None:
    assert len(launch(ec2, MinCount=1, MaxCount=3)["Instances"]) == 1


def test_a_launch_is_repeated_with_its_client_token(ec2: Any) -> None:
    assert launch_one(ec2, ClientToken="launch") != launch_one(ec2, ClientToken="launch")


def test_a_fleet_has_not_the_security_groups_of_its_template(ec2: Any) -> None:
    group = ec2.create_security_group(GroupName="theirs", Description="theirs")["GroupId"]
    template(ec2, "groups", SecurityGroupIds=[group])
    id = create_fleet(ec2, "groups")["Instances"][0]["InstanceIds"][0]
    assert group not in [each["GroupId"] for each in describe(ec2, id)["SecurityGroups"]]


def test_a_fleet_is_repeated_with_its_client_token(ec2: Any) -> None:
    template(ec2, "tokens")
    first, second = (create_fleet(ec2, "tokens", ClientToken="fleet") for _ in range(2))
    assert first["FleetId"] != second["FleetId"]


def test_a_fleet_of_terminated_instances_is_not_deleted(ec2: Any) -> None:
    template(ec2, "deleted")
    fleet = create_fleet(ec2, "deleted")
    ec2.terminate_instances(InstanceIds=fleet["Instances"][0]["InstanceIds"])
    with pytest.raises(ClientError):
        ec2.delete_fleets(FleetIds=[fleet["FleetId"]], TerminateInstances=True)


def test_a_launch_template_is_refused_with_its_client_token(ec2: Any) -> None:
    given = {"LaunchTemplateName": "again", "LaunchTemplateData": {"InstanceType": TYPE}, "ClientToken": "template"}
    ec2.create_launch_template(**given)
    with pytest.raises(ClientError, match="AlreadyExists"):
        ec2.create_launch_template(**given)


def test_there_is_no_public_image_of_debian(plain: Any) -> None:
    assert plain["owners"] and "136693071363" not in plain["owners"]


def test_there_is_no_parameter_of_ubuntu(client: Clients) -> None:
    name = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"
    with pytest.raises(ClientError, match="ParameterNotFound"):
        client("ssm").get_parameter(Name=name)


def test_an_image_has_no_tagged_snapshot_and_a_name_twice(ec2: Any) -> None:
    id = launch_one(ec2)
    ids = {ec2.create_image(InstanceId=id, Name="twice")["ImageId"] for _ in range(2)}
    assert len(ids) == 2
    tags = [{"ResourceType": "snapshot", "Tags": [{"Key": "a", "Value": "b"}]}]
    with pytest.raises(ResponseParserError):  # moto has failed, in HTML
        ec2.create_image(InstanceId=id, Name="tagged", TagSpecifications=tags)


def test_an_image_has_one_disk_that_stays(ec2: Any) -> None:
    gone = [
        {"DeviceName": name, "Ebs": {"VolumeSize": 9, "DeleteOnTermination": True}}
        for name in ("/dev/sda1", "/dev/sdf")
    ]
    id = launch_one(ec2, BlockDeviceMappings=gone)
    image = ec2.create_image(InstanceId=id, Name="of two disks")["ImageId"]
    [disk] = ec2.describe_images(ImageIds=[image])["Images"][0]["BlockDeviceMappings"]
    assert disk["Ebs"]["DeleteOnTermination"] is False


def test_a_launch_has_no_disk_of_its_image(ec2: Any) -> None:
    more = [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 9}}]
    [disk] = describe(ec2, launch_one(ec2, BlockDeviceMappings=more))["BlockDeviceMappings"]
    assert disk["DeviceName"] == "/dev/sdf"


def test_snapshots_are_everybodys(ec2: Any) -> None:
    ec2.create_snapshot(VolumeId=ec2.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"])
    nobodys = ec2.describe_snapshots(OwnerIds=["000000000001"])["Snapshots"]
    assert nobodys and nobodys == ec2.describe_snapshots()["Snapshots"]


def test_a_console_has_no_host_key(ec2: Any) -> None:
    assert "HOST KEY" not in ec2.get_console_output(InstanceId=launch_one(ec2))["Output"]


def test_spot_prices_are_all_the_same(ec2: Any) -> None:
    history = ec2.describe_spot_price_history(InstanceTypes=[TYPE, "i3.xlarge"])["SpotPriceHistory"]
    assert len({(each["SpotPrice"], each["Timestamp"]) for each in history}) == 1


def test_all_offerings_are_read_at_the_import(plain: Any) -> None:
    assert plain["regions"] > 10
    assert plain["sessions"] > 1


def test_there_is_no_price_list(client: Clients) -> None:
    with pytest.raises(ClientError):
        client("pricing").get_products(ServiceCode="AmazonEC2")


def test_a_tag_has_any_length(ec2: Any) -> None:
    tags = [{"Key": "k" * 200, "Value": "v" * 300}]
    [instance] = launch(ec2, TagSpecifications=[{"ResourceType": "instance", "Tags": tags}])["Instances"]
    assert instance["Tags"] == tags


def test_the_tags_of_one_are_looked_for_among_all(plain: Any) -> None:
    assert plain["looked"]


def test_an_answer_may_be_no_xml(ec2: Any, endpoint: str) -> None:
    id = launch_one(ec2)
    body = f"Action=CreateTags&Version=2016-11-15&ResourceId.1={id}&Tag.1.Key=a&Tag.1.Value=%01"
    headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=a/20200101/us-east-1/ec2/aws4_request"}
    for asked in (body, "Action=DescribeTags&Version=2016-11-15"):
        request = urllib.request.Request(endpoint, asked.encode(), headers)
        with urllib.request.urlopen(request, timeout=patience(30)) as answer:
            text = answer.read()
    with pytest.raises(ElementTree.ParseError):
        ElementTree.fromstring(text)
