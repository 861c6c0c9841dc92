"""`examples/aws_smoke.sh` on a local cloud: what works is told, what can't be tried here is not, and nothing stays."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, LocalCloud
from tests.patience import patience

pytestmark = pytest.mark.long
SCRIPT = REPOSITORY / "examples" / "aws_smoke.sh"
STEPS = """check|VPC|on demand|spot|ssh|scp|push|pmap|extend|NVMe|host keys from the console|stop and start|AMI|
an instance ends itself|AMI removed|instances terminated|VPC removed|cleanup|nothing is left""".replace("\n", "")
ID_OR_ADDRESS = re.compile(r"\b(?:i|vpc|sg|ami|snap|subnet)-[0-9a-f]{8,}|127\.77\.|\b123456789012\b|\bhardway-smoke-")
SECONDS = 400


@pytest.fixture
def cloud(start_cloud: Callable[..., LocalCloud], home: Path) -> LocalCloud:
    """One of the test's own, where nothing was made before."""
    return start_cloud()


def start(cloud: LocalCloud, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(SCRIPT), "--type", "m7i.large", *arguments],
        env={**os.environ, **cloud.env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def left(cloud: LocalCloud) -> list[object]:
    """All things that cost money, or were not there before."""
    client = cloud.client("ec2")
    alive = [{"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}]
    return [
        *client.describe_instances(Filters=alive)["Reservations"],
        *client.describe_images(Owners=["self"])["Images"],
        *client.describe_snapshots(OwnerIds=["self"])["Snapshots"],
        *client.describe_key_pairs()["KeyPairs"],
        *client.describe_launch_templates()["LaunchTemplates"],
        *client.describe_volumes()["Volumes"],
        *[vpc for vpc in client.describe_vpcs()["Vpcs"] if not vpc["IsDefault"]],
        *[group for group in client.describe_security_groups()["SecurityGroups"] if group["GroupName"] != "default"],
    ]


def told(report: str) -> dict[str, str]:
    """By step, how it went."""
    rows = re.findall(r"^(ok|FAILED|not here) +(.+?) +\d+ s$", report, re.MULTILINE)
    return {title: status for status, title in rows}


def test_all_is_tried_and_nothing_stays(cloud: LocalCloud) -> None:
    with start(cloud, "--max-cost", "1", "--timer-minutes", "0.7") as script:
        report, said = script.communicate(timeout=patience(SECONDS))
    assert script.returncode == 0, report + said
    # The local cloud has no disks.
    assert told(report) == {step: "not here" if step == "NVMe" else "ok" for step in STEPS.split("|")}
    assert "which says nothing about AWS" in report.splitlines()[0]
    assert ID_OR_ADDRESS.findall(report) == []
    assert left(cloud) == []


def test_what_would_cost_more_is_not_started(cloud: LocalCloud) -> None:
    with start(cloud, "--max-cost", "0.001") as script:
        report, said = script.communicate(timeout=patience(SECONDS))
    assert script.returncode == 1, said
    assert (told(report)["on demand"], "--max-cost is" in report) == ("FAILED", True)
    assert "spot" not in told(report)
    assert ID_OR_ADDRESS.findall(report) == []
    assert left(cloud) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_nothing_stays_where_it_is_interrupted(cloud: LocalCloud, number: int) -> None:
    with start(cloud, "--max-cost", "1") as script:
        assert script.stderr and script.stdout
        for line in script.stderr:
            if line == "ssh ...\n":
                break
        script.send_signal(number)
        for line in script.stderr:
            assert "look for" not in line
        report = script.stdout.read()
    assert script.returncode == 128 + number
    assert told(report)["nothing is left"] == "ok"
    assert left(cloud) == []


@pytest.mark.parametrize("arguments", [["--cost", "1"], ["--max-cost"], ["--max-cost", "five"], ["now"]])
def test_bad_input_starts_nothing(arguments: list[str], home: Path) -> None:
    done = subprocess.run([str(SCRIPT), *arguments], capture_output=True, text=True, timeout=patience(20))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
