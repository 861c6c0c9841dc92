"""Launches that were killed are found again, and what hardway made in an account is removable."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from invoke.context import Context

from hardway.launch import orphans
from tasks import ec2 as tasks
from tests.conftest import LocalCloud
from tests.ec2.conftest import Shell
from tests.local.conftest import eventually, image

Said = pytest.CaptureFixture[str]


def _ls(capsys: Said) -> str:
    """The messages of `ec2.ls` beside its list."""
    capsys.readouterr()
    tasks.ls(Context())
    return capsys.readouterr().err


def test_a_killed_launch_is_reported_with_the_line_that_removes_it(shell: Shell, name: str, capsys: Said) -> None:
    with shell.running("ec2.new", "--name", name, "--num", "2", "--ssh-port", "2223") as process:
        eventually(lambda: len(shell.states(name)) == 2)
        assert "never ended" not in _ls(capsys)
        process.kill()
        process.communicate()
    said = _ls(capsys)
    ids = sorted(shell.states(name))
    line = re.search(r"2 instances \((.*)\) of a launch that never ended: \S+ ec2\.rm (\S+) --yes$", said, re.MULTILINE)
    assert line
    assert sorted(line[1].split()) == ids
    other = tasks.new(Context(), name=f"{name}-2", wait=False)
    assert line[0] in capsys.readouterr().err
    assert sorted(tasks.rm(Context(), line[2], yes=True)) == ids
    tasks.rm(Context(), other, yes=True)
    assert "never ended" not in _ls(capsys)


@pytest.fixture
def elsewhere(cloud: LocalCloud, shell: Shell) -> Iterator[list[str]]:
    """Launch tokens of other machines: of a launch whose time is over, of one under way, and no token of ours."""
    ec2 = cloud.client("ec2")
    tokens = [f"{os.urandom(8).hex()}-{int(time.time()) + seconds}" for seconds in (-1, 600)] + [os.urandom(16).hex()]
    pair = f"key-{os.urandom(4).hex()}"
    ec2.create_key_pair(KeyName=pair)
    ids = []
    for token in tokens:
        own = {orphans.LAUNCH_TAG: token, "owner": "somebody"}
        tags = [{"ResourceType": "instance", "Tags": [{"Key": key, "Value": value} for key, value in own.items()]}]
        launch = {"ImageId": image(cloud), "KeyName": pair, "MinCount": 1, "MaxCount": 1, "TagSpecifications": tags}
        ids.append(ec2.run_instances(**launch)["Instances"][0]["InstanceId"])
    yield tokens
    ec2.terminate_instances(InstanceIds=ids)
    ec2.delete_key_pair(KeyName=pair)


def test_of_launches_elsewhere_only_those_whose_time_is_over_are_dead(elsewhere: list[str], capsys: Said) -> None:
    said = _ls(capsys)
    assert f"of somebody that never ended: hardway ec2.rm hardway-launch={elsewhere[0]} --yes --any-owner" in said
    assert said.count("never ended") == 1


def test_a_launch_under_way_lives_until_its_process_ends(home: Path) -> None:
    token = orphans.new_token(-3600)
    with orphans.under_way(token) as mark:
        assert not orphans.is_dead(token)
        with orphans.under_way(orphans.new_token(60)) as other:  # it removes marks whose time is over
            other.stays = True
        mark.stays = True
    assert orphans.is_dead(token)
    with orphans.under_way(orphans.new_token(60)):
        assert len(list((home / ".local/state/hardway/launches").iterdir())) == 2


def test_cleanup_removes_what_nothing_uses(
    shell: Shell, name: str, capsys: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    region = "eu-north-1"
    monkeypatch.setenv("AWS_REGION", region)
    ec2 = shell.cloud.client("ec2", region)
    [running] = tasks.new(Context(), name=name, wait=False)
    made = capsys.readouterr().err
    [group] = re.findall(r"made the security group hardway-ssh \((sg-\w+)\)", made)
    assert "hardway-ssh: allowed SSH (2222) from 127.0.0.0/8" in made
    assert "hardway-ssh: allowed SSH (2222) between its instances" in made
    [vpc] = tasks.new_vpc(Context(), name)
    [pair] = re.findall(r"imported the key pair (\S+)", made)
    [web] = tasks.sg(Context(), "web")
    owned = [{"ResourceType": "launch-template", "Tags": [{"Key": "hardway-launch", "Value": f"{'0' * 16}-1"}]}]
    data = {"InstanceType": "m7i.large"}
    ec2.create_launch_template(LaunchTemplateName="old", LaunchTemplateData=data, TagSpecifications=owned)
    ec2.create_launch_template(LaunchTemplateName="not ours", LaunchTemplateData=data)

    [template, made_group, unused] = tasks.cleanup(Context(), yes=True)
    said = capsys.readouterr().err
    assert template.startswith("lt-")
    assert (made_group, unused) == (web, vpc)
    assert vpc not in [found["VpcId"] for found in ec2.describe_vpcs()["Vpcs"]]
    assert re.search(rf"kept: security group hardway-ssh .*{group}: {name} {running} uses it", said)
    assert re.search(rf"kept: key pair {pair} key-\w+: {name} {running} uses it", said)

    ec2.terminate_instances(InstanceIds=[running])
    tasks.wait(Context(), running, "terminated")
    [later] = tasks.new_vpc(Context(), name)
    with orphans.under_way(orphans.new_token(60)):
        assert not tasks.cleanup(Context(), yes=True)
    assert capsys.readouterr().err.count("a launch is under way") == 3
    tasks.rm_vpc(Context(), later, yes=True)
    ec2.create_tags(Resources=[group], Tags=[{"Key": "owner", "Value": "somebody"}])
    assert group not in tasks.cleanup(Context(), yes=True)
    assert re.search(rf"kept: security group hardway-ssh .*{group}: it is somebody's", capsys.readouterr().err)
    ec2.delete_tags(Resources=[group], Tags=[{"Key": "owner"}])
    removed = tasks.cleanup(Context(), yes=True)
    assert group in removed
    assert not ec2.describe_key_pairs()["KeyPairs"]
    assert [t["LaunchTemplateName"] for t in ec2.describe_launch_templates()["LaunchTemplates"]] == ["not ours"]
    assert not tasks.cleanup(Context())
    assert "nothing to remove" in capsys.readouterr().err
