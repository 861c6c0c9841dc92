"""Nothing is left that costs money or is in the way, whatever EC2 answers to a change and wherever the answer is cut.

microburst makes the faults: errors in AWS's own words, no answer, and answers that are cut after EC2 has carried out
the call. A seed chooses which call of each task fails, and how.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from invoke.context import Context

from hardway.errors import HardwayError
from tasks import ec2 as tasks
from tests.conftest import LocalCloud
from tests.judges.conftest import Microburst

pytestmark = pytest.mark.long
SEEDS = range(4)
NAME = "judged"
FAULTS: dict[str, dict[str, Any]] = {
    # https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
    "throttled": {"error": {"code": "RequestLimitExceeded", "status": 503}},
    "an error within EC2": {"error": {"code": "InternalError", "status": 500}},
    "an outage": {"error": {"code": "Unavailable", "status": 503}},
    "refused": {"error": {"code": "UnauthorizedOperation", "status": 403}},
    "no answer, nothing carried out": {"reset": True},
    "carried out, no answer": {"response": {"abort_bytes": 0}},
    "carried out, and the answer cut off": {"response": {"abort_frac": 0.5}},
    "carried out, and the answer too short": {"response": {"truncate_frac": 0.5}},
}


class Story:
    """Tasks one after another, with a fault in each; whoever meets an error types the task again."""

    def __init__(self, microburst: Microburst, seed: int) -> None:
        self._microburst = microburst
        self._random = random.Random(seed)
        self.told: list[str] = []
        self.fired: list[str] = []

    def faulty(self, calls: str, task: Callable[..., Any], *given: Any, **flags: Any) -> Any:
        """`fail`, as the seed says."""
        call, fault = self._random.choice(calls.split()), self._random.choice(sorted(FAULTS))
        return self.fail(call, fault, task, *given, **flags)

    def fail(self, call: str, fault: str, task: Callable[..., Any], *given: Any, **flags: Any) -> Any:
        """Run a task while this call fails in this way, once; None where the task ends in an error."""
        self._microburst.rules({"service": "ec2", "operation": call, "times": 1, **FAULTS[fault]})
        self.told.append(f"{call}: {fault}")
        try:
            return task(Context(), *given, **flags)
        except HardwayError as error:
            self.told.append(str(error))
            return None
        finally:
            self.fired += self._microburst.fired()
            self._microburst.rules()

    def again(self, calls: str, task: Callable[..., Any], *given: Any, **flags: Any) -> Any:
        """`faulty`, and after an error once more without a fault, which succeeds."""
        done = self.faulty(calls, task, *given, **flags)
        return task(Context(), *given, **flags) if done is None else done


def left(cloud: LocalCloud) -> dict[str, list[str]]:
    """Return all in the account, by kind, but for the things that every account has."""
    ec2 = cloud.client("ec2")
    instances = [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]
    found = {
        "instances": [i["InstanceId"] for i in instances if i["State"]["Name"] not in ("shutting-down", "terminated")],
        "volumes": [v["VolumeId"] for v in ec2.describe_volumes()["Volumes"]],
        "groups": [g["GroupName"] for g in ec2.describe_security_groups()["SecurityGroups"]],
        "templates": [t["LaunchTemplateName"] for t in ec2.describe_launch_templates()["LaunchTemplates"]],
        "keys": [k["KeyName"] for k in ec2.describe_key_pairs()["KeyPairs"]],
        "VPCs": [v["VpcId"] for v in ec2.describe_vpcs()["Vpcs"] if not v["IsDefault"]],
        "gateways": [g["InternetGatewayId"] for g in ec2.describe_internet_gateways()["InternetGateways"]],
        "images": [i["ImageId"] for i in ec2.describe_images(Owners=["self"])["Images"]],
        "snapshots": [s["SnapshotId"] for s in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"]],
    }
    return {kind: names for kind, names in found.items() if names and names != ["default"]}


@pytest.fixture
def pointed(microburst: Microburst, home: Any, monkeypatch: pytest.MonkeyPatch, price_cache: Any) -> Microburst:
    for name, value in {**microburst.cloud.env, "AWS_ENDPOINT_URL": microburst.endpoint}.items():
        monkeypatch.setenv(name, value)
    return microburst


@pytest.mark.parametrize("seed", SEEDS)
def test_what_fails_leaves_nothing_and_is_done_by_doing_it_again(pointed: Microburst, seed: int) -> None:
    story, cloud = Story(pointed, seed), pointed.cloud
    before = left(cloud)
    assert not {"instances", "volumes", "templates", "keys", "VPCs"} & before.keys()

    made = story.faulty(
        "CreateVpc CreateInternetGateway AttachInternetGateway CreateSubnet CreateRoute", tasks.new_vpc, NAME
    )
    if made is None:
        assert left(cloud) == before, story.told
        tasks.new_vpc(Context(), NAME)

    for spot, calls in (
        (0, "CreateSecurityGroup AuthorizeSecurityGroupIngress ImportKeyPair RunInstances DeleteTags"),
        (1, "CreateLaunchTemplate CreateFleet DeleteLaunchTemplate DeleteTags"),
    ):
        launch: dict[str, Any] = {"num": 2, "name": NAME, "type": "m7i.large", "vpc": NAME, "spot": spot, "wait": False}
        ids = story.faulty(calls, tasks.new, **launch)
        there = left(cloud)
        assert len(there.get("instances", [])) == (2 if ids else 0), story.told
        assert len(there.get("volumes", [])) == (2 if ids else 0), story.told
        assert "templates" not in there, story.told
        ids = ids or tasks.new(Context(), **launch)
        story.again("CreateTags", tasks.tag, ids, ["judged=yes"], yes=True)
        if not spot:
            story.again("StopInstances", tasks.stop, ids, yes=True, wait=True)
            story.again("StartInstances", tasks.start, ids, yes=True, wait=False)
        story.again("TerminateInstances", tasks.rm, ids, yes=True)
        assert not {"instances", "volumes", "templates"} & left(cloud).keys(), story.told

    story.again("DetachInternetGateway DeleteInternetGateway DeleteSubnet DeleteVpc", tasks.rm_vpc, NAME, yes=True)
    story.faulty("DeleteSecurityGroup DeleteKeyPair", tasks.cleanup, yes=True)
    tasks.cleanup(Context(), yes=True)
    assert left(cloud) == before, story.told
    # A call that is not made, since what it makes is there already, can't fail.
    assert len(story.fired) >= 7, story.told


@pytest.mark.parametrize("call", ["CreateVpc", "CreateInternetGateway"])
@pytest.mark.parametrize("fault", [name for name in FAULTS if name.startswith("carried out")])
def test_no_second_vpc_or_gateway_where_the_answer_is_lost(pointed: Microburst, call: str, fault: str) -> None:
    story = Story(pointed, 0)
    before = left(pointed.cloud)
    made = story.fail(call, fault, tasks.new_vpc, NAME)
    assert len(story.fired) == 1
    now = left(pointed.cloud)
    assert [len(now.get(kind, [])) for kind in ("VPCs", "gateways")] == ([1, 1] if made else [0, 0]), story.told
    if made:
        tasks.rm_vpc(Context(), NAME, yes=True)
    assert left(pointed.cloud) == before


@pytest.mark.parametrize("seed", SEEDS)
def test_an_image_that_fails_is_removed_by_its_name(pointed: Microburst, seed: int) -> None:
    story, cloud = Story(pointed, seed), pointed.cloud
    before = left(cloud)
    ids = tasks.new(Context(), num=1, name=NAME, type="m7i.large", wait=False)
    tasks.wait(Context(), ids, state="running")
    made = story.faulty("CreateImage", tasks.ami_new, ids, f"{NAME}-image", yes=True)
    images = left(cloud).get("images", [])
    assert len(images) == len(set(images) - set(before.get("images", []))) <= 1, story.told
    assert made is None or list(made) == images, story.told
    if images:
        story.again("DeregisterImage DeleteSnapshot", tasks.ami_rm, f"{NAME}-image", yes=True)
    story.again("TerminateInstances", tasks.rm, ids, yes=True)
    tasks.cleanup(Context(), yes=True)
    assert left(cloud) == before, story.told
