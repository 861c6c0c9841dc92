"""Something done to many instances, of which EC2 refuses some: the others have it, and it is told which are which.

The instances never answer: what is asked of EC2 is what this is about.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from invoke.context import Context

from hardway import config
from hardway.ec2 import images
from hardway.errors import Failed, HardwayError, Interrupted, UsageError
from tasks import ec2
from tests.conftest import LocalCloud
from tests.ec2.conftest import Shell
from tests.ec2.faulty import Answer, FaultyEC2, Forward, refused
from tests.local.conftest import eventually

C = Context()


@pytest.fixture(scope="module")
def proxy(cloud: LocalCloud) -> Iterator[FaultyEC2]:
    made = FaultyEC2(cloud.env)
    yield made
    made.close()


@pytest.fixture
def faulty(shell: Shell, proxy: FaultyEC2, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyEC2]:
    """In front of EC2, for the tasks of this process."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
    proxy.calls = []
    yield proxy
    proxy.plan = None


@pytest.fixture
def run(shell: Shell, name: str) -> Iterator[Callable[..., list[str]]]:
    """Start instances that nobody logs in to, under the test's name: `run(3, "web", PrivateIpAddress=...)`."""

    def run(num: int, own: str = "", **given: Any) -> list[str]:
        client = shell.cloud.client("ec2")
        image = images.resolve(config.settings(C)).id
        tags = [{"Key": "Name", "Value": own or name}, {"Key": "test", "Value": name}]
        answer = client.run_instances(
            ImageId=image, InstanceType="m7i.large", MinCount=num, MaxCount=num,
            TagSpecifications=[{"ResourceType": "instance", "Tags": tags}], **given,
        )  # fmt: skip
        return [each["InstanceId"] for each in answer["Instances"]]

    yield run
    client = shell.cloud.client("ec2")
    filters = [
        {"Name": "tag:test", "Values": [name]},
        {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]},
    ]
    pages = client.describe_instances(Filters=filters)["Reservations"]
    ids = [each["InstanceId"] for page in pages for each in page["Instances"]]
    for each in ids:
        client.modify_instance_attribute(InstanceId=each, DisableApiTermination={"Value": False})
    if ids:
        client.terminate_instances(InstanceIds=ids)


def alive(shell: Shell, name: str) -> set[str]:
    return {id_ for id_, state in shell.states(name).items() if state not in ("terminated", "shutting-down")}


def test_one_protected_instance_does_not_save_the_others(
    shell: Shell, name: str, run: Callable[..., list[str]]
) -> None:
    ids = run(4)
    shell.cloud.client("ec2").modify_instance_attribute(InstanceId=ids[1], DisableApiTermination={"Value": True})
    result = shell("ec2.rm", name, "--yes")
    assert result.code == 1
    assert {*result.stdout.split()} == {*ids} - {ids[1]}
    assert alive(shell, name) == {ids[1]}
    lines = result.stderr.splitlines()
    assert "terminated 3 of 4 instances" in lines
    [failed] = [line for line in lines if line.startswith("failed: ")]
    assert failed.startswith(f"failed: {name} {ids[1]}: AWS refused TerminateInstances: ")
    assert lines[-1] == "failed on 1 of 4 instances"
    alone = shell("ec2.rm", name, "--yes")
    assert (alone.code, alone.stdout) == (2, "")
    assert f"nothing was terminated: {name} {ids[1]}: " in alone.stderr


@pytest.mark.parametrize(
    ("task", "action"), [(ec2.stop, "StopInstances"), (ec2.reboot, "RebootInstances"), (ec2.rm, "TerminateInstances")]
)
@pytest.mark.parametrize("names", [True, False], ids=["named", "unnamed"])
def test_what_ec2_refuses_of_one_it_does_to_the_others(
    task: Callable[..., Any], action: str, names: bool, faulty: FaultyEC2, name: str, run: Callable[..., list[str]],
    shell: Shell, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    ids = run(5)
    eventually(lambda: {*shell.states(name).values()} == {"running"})
    sick = ids[3]
    done: set[str] = set()

    def plan(called: str, parameters: dict[str, str], forward: Forward) -> Answer:
        if called != action:
            return forward()
        asked = {value for key, value in parameters.items() if key.startswith("InstanceId.")}
        if sick in asked:
            status, body = refused("IncorrectInstanceState")
            return status, body.replace(b"said", f"{sick} said".encode()) if names else body
        done.update(asked)
        return forward()

    faulty.plan = plan
    with pytest.raises(Failed) as error:
        task(C, name, yes=True)
    assert {*error.value.result} == done == {*ids} - {sick}
    assert f"failed: {name} {sick}: " in capsys.readouterr().err


def test_tags_are_set_on_those_that_take_them(
    faulty: FaultyEC2, name: str, run: Callable[..., list[str]], shell: Shell
) -> None:
    ids = run(3)

    def plan(called: str, parameters: dict[str, str], forward: Forward) -> Answer:
        full = called == "CreateTags" and ids[0] in parameters.values()
        return refused("TagLimitExceeded") if full else forward()

    faulty.plan = plan
    with pytest.raises(Failed) as error:
        ec2.tag(C, name, tag=["job=x"], yes=True)
    assert sorted(error.value.result) == sorted(ids[1:])
    assert {i.id for i in ec2.ls(C, only="job=x")} >= {*ids[1:]}


def test_who_may_not_is_told_so_once(faulty: FaultyEC2, name: str, run: Callable[..., list[str]]) -> None:
    run(40)
    faulty.plan = lambda action, parameters, forward: (
        refused("UnauthorizedOperation", 403) if action == "TerminateInstances" else forward()
    )
    with pytest.raises(HardwayError):
        ec2.rm(C, name, yes=True)
    assert faulty.actions().count("TerminateInstances") < 20
    faulty.calls = []
    faulty.plan = lambda action, parameters, forward: (
        refused("ExpiredToken") if action == "TerminateInstances" else forward()
    )
    with pytest.raises(UsageError, match="credentials have expired"):
        ec2.rm(C, name, yes=True)
    assert faulty.actions().count("TerminateInstances") == 1


TWIN = (
    "<item><instancesSet><item><instanceId>{id}</instanceId><instanceState><name>running</name></instanceState>"
    "<launchTime>2026-11-28T12:00:00Z</launchTime><privateIpAddress>10.0.0.5</privateIpAddress><vpcId>{vpc}</vpcId>"
    "</item></instancesSet></item>"
)


def test_what_was_done_before_ctrl_c_is_told(faulty: FaultyEC2, name: str, run: Callable[..., list[str]]) -> None:
    ids = run(4)
    done: list[str] = []

    def plan(called: str, parameters: dict[str, str], forward: Forward) -> Answer:
        if called != "TerminateInstances":
            return forward()
        asked = [value for key, value in parameters.items() if key.startswith("InstanceId.")]
        if len(asked) == 4:
            return refused("OperationNotPermitted")
        if done:
            os.kill(os.getpid(), signal.SIGINT)
            return refused("OperationNotPermitted")
        done.extend(asked)
        return forward()

    faulty.plan = plan
    with pytest.raises(Interrupted) as error:
        ec2.rm(C, name, yes=True)
    assert {*str(error.value).partition(": ")[2].split()} == {*done} < {*ids}


def test_an_address_in_two_networks_names_no_instance(faulty: FaultyEC2, home: Any) -> None:
    ids = ("i-0000000000000000a", "i-0000000000000000b")
    items = "".join(TWIN.format(id=id_, vpc=f"vpc-0000000{id_[-1]}") for id_ in ids)
    answer = f"<DescribeInstancesResponse><reservationSet>{items}</reservationSet></DescribeInstancesResponse>"
    faulty.plan = lambda action, parameters, forward: (200, answer.encode())
    with pytest.raises(UsageError) as error:
        ec2.rm(C, "10.0.0.5", yes=True)
    assert all(f"{id_} in vpc-0000000{id_[-1]}" in str(error.value) for id_ in ids)
    assert {*faulty.actions()} == {"DescribeInstances"}
    assert [i.id for i in ec2.ls(C, only="10.0.0.5")] == [*ids][::-1]


def test_a_name_with_a_blank_is_one_name(shell: Shell, name: str, run: Callable[..., list[str]]) -> None:
    one, other = f"{name}-gpu", f"{name}-box"
    [first], [second], [third] = run(1, one), run(1, other), run(1, f"{one} {other}")
    pattern = f"{name}*"
    told = shell("ec2.rm", f"{one} {other}", "--yes")
    assert (told.code, told.stdout, alive(shell, pattern)) == (2, "", {first, second, third})
    assert f'"{one} {other}", with the quotes' in told.stderr
    assert shell.succeed("ec2.rm", f'Name="{one} {other}"', "--yes").stdout.split() == [third]
    assert {*ec2.rm(C, [one, other], yes=True)} == {first, second}
    [forth] = run(1, f"{one} {other}")
    assert ec2.rm(C, [f"{one} {other}"], yes=True) == [forth]


def test_names_that_others_wrote_forge_no_row(shell: Shell, name: str, run: Callable[..., list[str]]) -> None:
    hostile = f"{name}\n\x9d52;c;eA==\x9cprod  i-0\u202e[bold]"  # XML has no ESC
    [id_] = run(1, hostile)
    listed = shell("ec2.ls", "--only", f"test={name}")
    asked = shell("ec2.rm", f"test={name}")
    for text, lines in ((listed.stdout, 1), (asked.stderr, 2)):
        assert len(text.splitlines()) == lines
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
        assert "\\x9d52;c;eA==\\x9cprod" in text
    assert id_ in listed.stdout
    result = shell("ec2.ssh", f"test={name}", "--yes", "--command", "true", env={"INVOKE_EC2_CONNECT_TIMEOUT": "1"})
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", result.stderr)
    assert shell.succeed("ec2.rm", id_, "--yes").stdout.split() == [id_]


PAGE = b"<html><head><title>Please log in</title></head><body>Welcome to our network</body></html>"
CUT = b'<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><reservationSet><item>'
BARE = b"<DescribeInstancesResponse><requestId>x</requestId></DescribeInstancesResponse>"
HOLLOW = (
    b"<DescribeInstancesResponse><requestId>x</requestId><reservationSet><item><instancesSet><item>"
    b"<imageId>ami-1</imageId></item></instancesSet></item></reservationSet></DescribeInstancesResponse>"
)
ODD = HOLLOW.replace(b"<imageId>ami-1</imageId>", b"<instanceId>i-1</instanceId><launchTime>soon</launchTime>")


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("body", [b"", PAGE, CUT, BARE, HOLLOW, ODD, b"\xff\x00", b"null"])
def test_what_is_no_answer_of_ec2_is_told_in_a_line(body: bytes, status: int, faulty: FaultyEC2, home: Any) -> None:
    faulty.plan = lambda action, parameters, forward: (status, body)
    for task, given in ((ec2.ls, {}), (ec2.id, {"selector": "web"}), (ec2.rm, {"selector": "web", "yes": True})):
        with pytest.raises(HardwayError) as error:
            task(C, **given)
        said = str(error.value)
        assert (len(said.splitlines()), "a bug" in said) == (1, False), said
    assert not os.path.exists(home / ".local/state/hardway/errors.log")
    assert {*faulty.actions()} == {"DescribeInstances"}
