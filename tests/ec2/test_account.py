"""The rest of the account: states and tags of instances, AMIs and snapshots, networks, keys, roles, events.

In process, as somebody's own tasks.py calls them; the cluster is a person's, started once.
"""

from __future__ import annotations

import getpass
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError
from botocore.stub import Stubber
from hypothesis import given, settings
from hypothesis import strategies as st
from invoke.context import Context

from hardway import aws, config
from hardway.ec2 import images, networks, security_groups
from hardway.ec2.images import OwnImage
from hardway.ec2.security_groups import Rule
from hardway.errors import Failed, HardwayError, Interrupted, NothingMatched, UsageError
from hardway.launch import prerequisites
from tasks import ec2
from tests.conftest import LocalCloud, run_inv
from tests.ec2.conftest import Shell
from tests.local.conftest import eventually

NAME = "account"
C = Context()


@pytest.fixture(scope="module")
def started(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Two instances whose image lets in ec2-user; tests leave them running, and ours."""
    environment = {
        **cloud.env,
        "HOME": str(tmp_path_factory.mktemp("home")),
        "XDG_DATA_HOME": str(tmp_path_factory.getbasetemp() / "hardway-data"),
    }
    result = run_inv("ec2.new", "--name", NAME, "--num", "2", "--ami", "al2023", env=environment)
    assert result.code == 0, result.stderr
    yield result.stdout.split()
    assert run_inv("ec2.rm", NAME, "--yes", "--any-owner", env=environment).code == 0


@pytest.fixture
def ids(started: list[str], shell: Shell) -> list[str]:
    return sorted(started)


def api(region: str | None = None) -> Any:
    """The EC2 client that the tasks use."""
    return aws.ec2(config.settings(C, region))


def state(ids: list[str]) -> set[str]:
    return {i.state for i in ec2.ls(C, only=ids)}


def refused(task: Callable[..., Any], *arguments: Any, **options: Any) -> HardwayError:
    """The error of a task that must end with one, in one line."""
    with pytest.raises(HardwayError) as error:
        task(C, *arguments, **options)
    assert "\n" not in str(error.value)
    return error.value


# states and tags of instances


def test_stop_keeps_what_start_brings_back(ids: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    ec2.ssh(C, NAME, command="echo kept > kept", yes=True, quiet=True)
    assert sorted(ec2.stop(C, NAME, yes=True, wait=True)) == ids
    assert state(ids) == {"stopped"}
    assert sorted(ec2.stop(C, NAME, yes=True)) == ids
    assert isinstance(refused(ec2.id, NAME), NothingMatched)
    assert sorted(ec2.start(C, NAME, yes=True)) == ids
    capfd.readouterr()
    ec2.ssh(C, NAME, command="cat kept", yes=True, quiet=True)
    assert capfd.readouterr().out == "kept\n" * 2
    assert sorted(ec2.start(C, NAME, yes=True)) == ids


def test_start_need_not_wait(ids: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    ec2.stop(C, ids[0], yes=True, wait=True)
    capfd.readouterr()
    assert ec2.start(C, ids[0], yes=True, wait=False) == ids[:1]
    assert "had passed" not in capfd.readouterr().err
    assert ec2.wait(C, ids[0]) == ids[:1]


def test_start_tells_of_a_time_that_is_over(ids: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    ends = {i.id: i.tags["hardway-ends"] for i in ec2.ls(C, ids)}
    ec2.tag(C, ids[0], tag=["hardway-ends=2020-01-01T00:00:00+00:00"], yes=True)
    ec2.tag(C, ids[1], tag=["hardway-ends=soon"], yes=True)
    ec2.stop(C, ids, yes=True, wait=True)
    capfd.readouterr()
    assert sorted(ec2.start(C, ids, yes=True)) == ids
    assert "the end time of 1 instance had passed: each ends itself in ten minutes" in capfd.readouterr().err
    for id_, end in ends.items():
        ec2.tag(C, id_, tag=[f"hardway-ends={end}"], yes=True)


def test_reboot_ends_what_runs(ids: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    count = "ps -A -o args= | grep -c '[s]leep 4321' || true"
    ec2.ssh(C, ids[0], command="nohup sleep 4321 >/dev/null 2>&1 </dev/null & " + count, yes=True, quiet=True)
    assert ec2.reboot(C, ids[0], yes=True) == ids[:1]

    def left() -> str:
        ec2.wait(C, ids[0])
        capfd.readouterr()
        try:
            ec2.ssh(C, ids[0], command=count, yes=True, quiet=True)
        except Failed:
            return "in between"
        return capfd.readouterr().out

    eventually(lambda: left() == "0\n")


def test_what_is_somebody_elses_stays_as_it_is(ids: list[str]) -> None:
    ec2.tag(C, ids[0], tag=["owner=somebody-else"], yes=True)
    for task, arguments in ((ec2.stop, [NAME]), (ec2.reboot, [NAME]), (ec2.ami_new, [ids[0], "image-of-theirs"])):
        error = refused(task, *arguments, yes=True)
        assert (error.code, "--any-owner" in str(error), ids[0] in str(error)) == (2, True, True)
    assert state(ids) == {"running"}
    assert ec2.reboot(C, ids[0], yes=True, any_owner=True) == ids[:1]
    ec2.tag(C, ids[0], tag=[f"owner={getpass.getuser()}"], yes=True)
    eventually(lambda: ec2.wait(C, ids[0]))


def test_a_spot_instance_cannot_be_stopped(shell: Shell, name: str) -> None:
    api().run_instances(
        ImageId=images.resolve(config.settings(C)).id,
        MinCount=1,
        MaxCount=1,
        InstanceMarketOptions={"MarketType": "spot", "SpotOptions": {"SpotInstanceType": "one-time"}},
        TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": name}]}],
    )
    eventually(lambda: set(shell.states(name).values()) == {"running"})
    error = refused(ec2.stop, name, yes=True)
    assert (error.code, "nothing was stopped" in str(error), "hardway ec2.rm" in str(error)) == (2, True, True)
    assert set(shell.states(name).values()) == {"running"}


def test_tags_are_set_and_taken_off(ids: list[str]) -> None:
    assert sorted(ec2.tag(C, NAME, tag=["note=two words, and = more", "empty="], yes=True)) == ids
    for instance in ec2.ls(C, only=NAME, state="running"):
        assert (instance.tags["note"], instance.tags["empty"]) == ("two words, and = more", "")
    assert sorted(ec2.untag(C, NAME, tag=["note", "empty", "never-there"], yes=True)) == ids
    for instance in ec2.ls(C, only=NAME, state="running"):
        assert not {"note", "empty"} & set(instance.tags)
        assert instance.tags["ssh-user"] == "ec2-user"


@pytest.mark.parametrize(
    ("task", "given", "said"),
    [
        (ec2.tag, [], "add --tag"),
        (ec2.tag, ["novalue"], "write key=value"),
        (ec2.tag, ["=x"], "write key=value"),
        (ec2.tag, ["aws:x=y"], "aws:"),
        (ec2.tag, ["a=1", "a=2"], "--tag a is given twice"),
        (ec2.untag, None, "add --tag"),
        (ec2.untag, ["key=value"], "a key alone"),
        (ec2.untag, [""], "a key alone"),
    ],
)
def test_tags_that_are_none_are_refused(ids: list[str], task: Any, given: list[str], said: str) -> None:
    error = refused(task, NAME, tag=given, yes=True)
    assert (error.code, said in str(error)) == (2, True)


def test_addresses_and_names(ids: list[str]) -> None:
    assert set(ec2.ip(C, NAME, private=True)) == {i.private_ip for i in ec2.ls(C, only=NAME)}
    assert sorted(ec2.id(C, ec2.dns(C, NAME))) == ids
    assert all(name.endswith("amazonaws.com") for name in ec2.dns(C, NAME))


@pytest.mark.parametrize("task", [ec2.start, ec2.stop, ec2.reboot, ec2.tag, ec2.untag, ec2.snapshot])
def test_nobody_is_asked_without_a_terminal(ids: list[str], task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    if task is ec2.start:
        ec2.stop(C, ids[0], yes=True, wait=True)
    options = {ec2.tag: {"tag": ["a=b"]}, ec2.untag: {"tag": ["a"]}}.get(task, {})
    try:
        assert "add --yes" in str(refused(task, NAME, **options))
        assert state(ids) == ({"stopped", "running"} if task is ec2.start else {"running"})
        assert "a" not in ec2.ls(C, only=ids)[0].tags
    finally:
        ec2.start(C, NAME, yes=True)


# AMIs and snapshots


@pytest.fixture
def image(ids: list[str], name: str) -> Iterator[str]:
    """The name of an AMI made of an instance of ours."""
    [id_] = ec2.ami_new(C, ids[0], name, yes=True)
    assert id_.startswith("ami-")
    yield name
    for left in images.own(config.settings(C)):
        if left.name == name:
            ec2.ami_rm(C, left.id, yes=True)


def test_what_is_launched_of_an_ami_lets_the_same_user_log_in(
    image: str, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    [made] = [each for each in ec2.amis(C) if each.name == image]
    assert (made.state, made.user, made.tags["owner"]) == ("available", "ec2-user", getpass.getuser())
    launched = ec2.new(C, name=name, ami=image)
    capfd.readouterr()
    ec2.ssh(C, launched, command="id -un", yes=True, quiet=True)
    assert capfd.readouterr().out == "ec2-user\n"
    assert ec2.ami_rm(C, image, yes=True) == [made.id]
    assert state(launched) == {"running"}


def test_an_ami_goes_with_its_snapshots_and_no_others(image: str, ids: list[str]) -> None:
    [made] = [each for each in ec2.amis(C) if each.name == image]
    taken = ec2.snapshot(C, ids, yes=True)
    assert len(taken) == 2
    listed = {each.id: each for each in ec2.snapshots(C)}
    assert set(made.snapshots) | set(taken) <= set(listed)
    assert {listed[each].name for each in taken} == {NAME}
    assert {listed[each].tags["owner"] for each in [*taken, *made.snapshots]} == {getpass.getuser()}
    assert ec2.ami_rm(C, made.id, yes=True) == [made.id]
    left = {each.id for each in ec2.snapshots(C)}
    assert set(taken) <= left
    assert not set(made.snapshots) & left
    for each in taken:
        api().delete_snapshot(SnapshotId=each)


def test_images_that_are_not_there_or_not_to_be_made(image: str, ids: list[str]) -> None:
    assert isinstance(refused(ec2.ami_rm, "no-such-image", yes=True), NothingMatched)
    assert "did you mean" in str(refused(ec2.ami_rm, image[:-1], yes=True))
    assert f"did you mean {image}?" in str(refused(ec2.new, ami=image[:-1]))
    assert refused(ec2.ami_rm, "ami-00000000000000000", yes=True).code == 2
    assert "already in use" in str(refused(ec2.ami_new, ids[0], image, yes=True))
    assert "made of one" in str(refused(ec2.ami_new, NAME, "two", yes=True))
    for name in ("--bogus", "noble", "ami-a95eee98633040143", "ab", "a*b", "x" * 129):
        assert refused(ec2.ami_new, ids[0], name, yes=True).code == 2
    assert "there is no AMI" in str(refused(ec2.new, ami=f"{image[:-1]}*"))
    [made] = [each for each in ec2.amis(C) if each.name == image]
    api().create_tags(Resources=[made.id], Tags=[{"Key": "owner", "Value": "somebody"}])
    assert "add --any-owner" in str(refused(ec2.ami_rm, image, yes=True))
    assert ec2.ami_rm(C, image, yes=True, any_owner=True) == [made.id]


def test_snapshots_that_were_taken_before_one_failed_are_told(
    ids: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    client = aws.ec2_once(config.settings(C))
    real, asked = client.create_snapshots, list[str]()

    def fails(**given: Any) -> Any:
        asked.append(given["InstanceSpecification"]["InstanceId"])
        return real(**given) if len(asked) == 1 else client.describe_instances(InstanceIds=["i-00000000"])

    monkeypatch.setattr(client, "create_snapshots", fails)
    before = {each.id for each in ec2.snapshots(C)}
    refused(ec2.snapshot, ids, yes=True)
    [taken] = {each.id for each in ec2.snapshots(C)} - before
    assert f"snapshots taken: {taken}\n" in capfd.readouterr().err
    client.delete_snapshot(SnapshotId=taken)


def test_no_second_snapshot_where_the_answer_is_lost(ids: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    client = aws.ec2_once(config.settings(C))
    real, asked = client.create_snapshots, list[str]()

    def lost(**given: Any) -> Any:
        asked.append(given["InstanceSpecification"]["InstanceId"])
        real(**given)
        raise EndpointConnectionError(endpoint_url="http://127.0.0.1")

    monkeypatch.setattr(client, "create_snapshots", lost)
    before = {each.id for each in ec2.snapshots(C)}
    taken = ec2.snapshot(C, ids[0], yes=True)
    assert asked == [ids[0]]
    assert set(taken) == {each.id for each in ec2.snapshots(C)} - before
    for each in taken:
        client.delete_snapshot(SnapshotId=each)


def test_an_ami_is_waited_for_as_long_as_it_can_come(shell: Shell) -> None:
    asked = {"ImageIds": ["ami-1"]}
    with Stubber(api()) as ec2_:
        ec2_.add_client_error("describe_images", "InvalidAMIID.NotFound", expected_params=asked)
        ec2_.add_response("describe_images", {"Images": [{"State": "pending"}]}, asked)
        failed = {"State": "failed", "StateReason": {"Message": "a disk was lost"}}
        ec2_.add_response("describe_images", {"Images": [failed]}, asked)
        with pytest.raises(Failed, match="ami-1 is failed: a disk was lost"):
            images.wait(config.settings(C), "ami-1", 60)
        ec2_.add_response("describe_images", {"Images": [{"State": "pending"}]}, asked)
        with pytest.raises(Failed, match="pending after 0 s"):
            images.wait(config.settings(C), "ami-1", 0)


def test_a_snapshot_that_another_ami_uses_stays(shell: Shell) -> None:
    image = OwnImage("x", "ami-1", "available", "x86_64", "", "", ("snap-1", "snap-2", "snap-3"), {})
    with Stubber(api()) as ec2_:
        ec2_.add_response("deregister_image", {}, {"ImageId": "ami-1"})
        ec2_.add_response("delete_snapshot", {}, {"SnapshotId": "snap-1"})
        ec2_.add_client_error("delete_snapshot", "InvalidSnapshot.InUse", expected_params={"SnapshotId": "snap-2"})
        ec2_.add_client_error("delete_snapshot", "InvalidSnapshot.NotFound", expected_params={"SnapshotId": "snap-3"})
        assert images.remove(config.settings(C), image) == ["snap-2"]


# security groups


@pytest.fixture
def group(shell: Shell, name: str) -> Iterator[str]:
    [id_] = ec2.sg(C, name)
    yield id_
    api().delete_security_group(GroupId=id_)


def rules(id_: str) -> set[str]:
    [found] = [group for group in ec2.sgs(C) if group.id == id_]
    return set(map(str, found.rules))


def test_a_group_is_made_once(group: str, name: str) -> None:
    assert ec2.sg(C, name) == [group]
    assert rules(group) == set()
    [other] = ec2.sg(C, f"{name[:-1]}*")  # which EC2 itself would take for a glob
    assert other != group
    api().delete_security_group(GroupId=other)
    for wrong in ("sg-web", "a\tb", "-web", "x" * 256):
        assert refused(ec2.sg, wrong).code == 2


def test_what_is_authorized_can_come_in_until_it_is_not(
    group: str, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for rule in (
        {},
        {"port": "8000-8100", "source": "203.0.113.7"},
        {"port": 53, "source": "2001:db8::/32", "protocol": "udp"},
        {"source": group, "protocol": "all"},
        {"source": "0.0.0.0/0", "protocol": "icmp"},
        {"source": "2001:db8::/32", "protocol": "icmp"},
    ):
        ec2.authorize(C, name, **rule)
        before = rules(group)
        ec2.authorize(C, group, **rule)
        assert rules(group) == before
    assert capfd.readouterr().err.count("already lets in") == 6
    assert rules(group) == {
        "tcp/22:127.0.0.0/8",
        "tcp/8000-8100:203.0.113.7/32",
        "udp/53:2001:db8::/32",
        f"all:{group}",
        "icmp:0.0.0.0/0",
        "icmpv6:2001:db8::/32",
    }
    ec2.deauthorize(C, name, port="8050", source="203.0.113.7")
    said = capfd.readouterr().err
    assert "did not have the rule tcp/8050:203.0.113.7/32" in said
    assert "still lets in tcp/8000-8100:203.0.113.7/32" in said
    ec2.deauthorize(C, name, port="8000-8100", source="203.0.113.7")
    ec2.deauthorize(C, name)
    assert "still" not in capfd.readouterr().err
    ec2.deauthorize(C, name, source=group, protocol="all")
    ec2.deauthorize(C, name, source="2001:db8::/32", protocol="icmp")
    assert rules(group) == {"udp/53:2001:db8::/32", "icmp:0.0.0.0/0"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"port": "x"}, "--port is 'x'"),
        ({"port": "80", "protocol": "all"}, "--port is for tcp and udp"),
        ({"source": ""}, "--source is empty"),
        ({"port": "90-80"}, "--port is '90-80'"),
        ({"port": "65536"}, "--port is '65536'"),
        ({"source": "10.0.0.1/8"}, "host bits set"),
        ({"source": "here"}, "'here' can't be let in"),
        ({"protocol": "tpc"}, "did you mean tcp?"),
        ({"protocol": "icmpv6", "source": "10.0.0.0/8"}, "icmpv6 is for IPv6"),
    ],
)
def test_rules_that_cannot_be_are_refused(group: str, name: str, given: dict[str, str], said: str) -> None:
    for task in (ec2.authorize, ec2.deauthorize):
        error = refused(task, name, **given)
        assert (error.code, said in str(error)) == (2, True)
    assert rules(group) == set()


def test_a_default_vpc_answers_otherwise_for_a_rule_that_is_not_there(shell: Shell) -> None:
    group, rule = security_groups.SecurityGroup("web", "sg-1", "vpc-1", (), "", {}), Rule("tcp", (22, 22), "10.0.0.0/8")
    with Stubber(api()) as ec2_:
        answer = {"Return": True, "UnknownIpPermissions": [rule.permission]}
        asked = {"GroupId": "sg-1", "IpPermissions": [rule.permission]}
        ec2_.add_response("revoke_security_group_ingress", answer, asked)
        assert security_groups.deauthorize(config.settings(C), group, rule) == (False, [])


def test_a_group_that_is_not_there_or_there_twice(group: str, name: str) -> None:
    assert "did you mean" in str(refused(ec2.authorize, name[:-1]))
    vpc = api().create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
    [other] = ec2.sg(C, name, vpc=vpc)
    assert group in str(refused(ec2.authorize, name)) and other in str(refused(ec2.authorize, name))
    ec2.authorize(C, other)
    assert (rules(group), rules(other)) == (set(), {"tcp/22:127.0.0.0/8"})
    ec2.rm_vpc(C, vpc, yes=True)


_SOURCES = st.one_of(
    st.ip_addresses(v=4).map(lambda address: f"{address}/32"),
    st.sampled_from(["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "::/0", "2001:db8::/32", "sg-0000000a", "sg-0000000b"]),
)
_PORTS = st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(lambda ports: (min(ports), max(ports)))
_RULES = st.one_of(
    st.builds(Rule, st.sampled_from(["tcp", "udp"]), _PORTS, _SOURCES),
    st.builds(Rule, st.sampled_from(["icmp", "icmpv6", "all"]), st.just((0, 65535)), _SOURCES),
)


@settings(max_examples=50)
@given(_RULES, _RULES)
def test_rules_compare(one: Rule, other: Rule) -> None:
    assert list(security_groups._rules(one.permission)) == [one]
    assert one.covers(one) and one.overlaps(one)
    assert one.overlaps(other) == other.overlaps(one)
    if one.covers(other):
        assert one.overlaps(other)
        assert one == other or not other.covers(one)


@settings(max_examples=50)
@given(st.text(max_size=12), st.text(max_size=20), st.text(max_size=6) | st.sampled_from(security_groups.PROTOCOLS))
def test_any_rule_is_read_or_refused_in_a_line(port: str, source: str, protocol: str) -> None:
    here = config.Settings(ec2=config.Ec2(ssh_from="127.0.0.0/8"))
    try:
        rule = security_groups.read_rule(here, port, source, protocol)
    except UsageError as error:
        assert "\n" not in str(error)
    else:
        assert 0 <= rule.ports[0] <= rule.ports[1] <= 65535


def test_who_connects_to_private_addresses_is_let_in_as_they_see_it(
    shell: Shell, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_REGION", "ap-south-1")
    monkeypatch.setenv("INVOKE_EC2_SSH_FROM", "")
    ec2.new(C, name=name, wait=False, private_ip=True)
    assert "hardway-ssh: allowed SSH (2222) from 172.31.0.0/16\n" in capsys.readouterr().err
    inside = {"VpcId": "vpc-1", "CidrBlock": "127.0.0.0/8"}
    with Stubber(api()) as stub:
        stub.add_response("describe_vpcs", {"Vpcs": [inside]}, {"VpcIds": ["vpc-1"]})
        # The same private addresses are given out elsewhere: it is not in that VPC, though it has one of them.
        assert networks.seen_from(config.settings(C), "vpc-1") == ["127.0.0.0/8", "127.0.0.1/32"]


def test_systems_manager_needs_no_open_port(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_REGION", "ap-northeast-3")
    plain = config.settings(C)
    network = prerequisites.Network(networks.find(plain, ""), {}, any_zone=False, public=True)
    by_ssm = replace(plain, ec2=replace(plain.ec2, via="ssm", ssh_from="", ssh_port=22))
    [own] = prerequisites.security_groups(by_ssm, network, print)
    assert rules(own) == {f"tcp/22:{own}"}


def test_a_group_that_is_full_says_so(group: str) -> None:
    full = security_groups.one(config.settings(C), group)
    with Stubber(api()) as stub:
        stub.add_client_error("authorize_security_group_ingress", "RulesPerSecurityGroupLimitExceeded")
        with pytest.raises(UsageError, match=f"hardway ec2.deauthorize {group}"):
            security_groups.authorize(config.settings(C), full, Rule("tcp", (22, 22), "10.0.0.0/8"))


# VPCs


@pytest.fixture
def empty(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A region without any VPC, with two zones."""
    region = "us-west-1"
    monkeypatch.setenv("AWS_REGION", region)
    for vpc in _everything(region)["vpcs"]:
        for subnet in _everything(region)["subnets"]:
            api(region).delete_subnet(SubnetId=subnet)
        api(region).delete_vpc(VpcId=vpc)
    yield region
    for vpc in _everything(region)["vpcs"]:
        networks.remove_vpc(config.settings(C), vpc)


def _everything(region: str) -> dict[str, list[str]]:
    client = api(region)
    return {
        "vpcs": [raw["VpcId"] for raw in client.describe_vpcs()["Vpcs"]],
        "subnets": [raw["SubnetId"] for raw in client.describe_subnets()["Subnets"]],
        "gateways": [raw["InternetGatewayId"] for raw in client.describe_internet_gateways()["InternetGateways"]],
        "groups": [raw["GroupId"] for raw in client.describe_security_groups()["SecurityGroups"]],
    }


NOTHING: dict[str, list[str]] = {"vpcs": [], "subnets": [], "gateways": [], "groups": []}


def test_from_an_account_without_a_network_to_a_cluster_and_back(
    empty: str, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    for task in (ec2.new, lambda c: ec2.sg(c, "web")):
        error = refused(task)
        assert (error.code, "hardway ec2.new-vpc" in str(error)) == (2, True)
    [vpc] = ec2.new_vpc(C, "net")
    assert ec2.new_vpc(C, "net") == [vpc]
    zones = {zone["ZoneName"] for zone in api().describe_availability_zones()["AvailabilityZones"]}
    assert {subnet.zone for subnet in ec2.vpcs(C)} == zones
    assert all((subnet.vpc, subnet.name, subnet.public) == (vpc, "net", True) for subnet in ec2.vpcs(C))
    assert f"made the VPC net ({vpc})\n" in capfd.readouterr().err
    [another] = ec2.new_vpc(C, "ne?")  # which EC2 itself would take for a glob
    assert another != vpc
    assert any(line.startswith("igw-") for line in networks.contents(config.settings(C), another))
    ec2.rm_vpc(C, another, yes=True)
    launched = ec2.new(C, name=name, vpc="net", num=2)
    [kept, other] = ec2.sg(C, "one", vpc="net") + ec2.sg(C, "two", vpc="net")
    ec2.authorize(C, kept, source=other)
    ec2.authorize(C, other, source=kept)
    error = refused(ec2.rm_vpc, "net", yes=True)
    assert (error.code, f"hardway ec2.rm {vpc}" in str(error)) == (2, True)
    capfd.readouterr()
    ec2.ssh(C, vpc, command="echo reached", yes=True, quiet=True)
    assert capfd.readouterr().out == "reached\n" * 2
    assert sorted(ec2.rm(C, vpc, yes=True)) == sorted(launched)
    assert ec2.rm_vpc(C, "net", yes=True) == [vpc]
    assert _everything(empty) == NOTHING


def test_what_a_vpc_of_ours_lacks_is_added(empty: str) -> None:
    [vpc] = ec2.new_vpc(C, "net")
    first, second = ec2.vpcs(C)
    api().delete_subnet(SubnetId=first.subnet)
    api().modify_subnet_attribute(SubnetId=second.subnet, MapPublicIpOnLaunch={"Value": False})
    api().modify_vpc_attribute(VpcId=vpc, EnableDnsHostnames={"Value": False})
    [table] = api().describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
    api().delete_route(RouteTableId=table["RouteTableId"], DestinationCidrBlock="0.0.0.0/0")
    [gateway] = _everything(empty)["gateways"]
    api().detach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
    assert ec2.new_vpc(C, "net") == [vpc]
    again = ec2.vpcs(C)
    assert [(s.zone, s.cidr, s.public) for s in again] == [(s.zone, s.cidr, True) for s in (first, second)]
    assert again[1].subnet == second.subnet
    assert api().describe_vpc_attribute(VpcId=vpc, Attribute="enableDnsHostnames")["EnableDnsHostnames"]["Value"]
    [table] = api().describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
    routes = {route["DestinationCidrBlock"]: route["GatewayId"] for route in table["Routes"]}
    assert routes["0.0.0.0/0"] == gateway
    assert _everything(empty)["gateways"] == [gateway]


@pytest.mark.parametrize("interrupted", [False, True])
def test_whichever_call_fails_nothing_is_left_half_made(
    empty: str, interrupted: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each answer in turn is lost: what was asked for has happened, and nobody was told."""
    seen: list[str] = []
    fatal = 0

    def lose(model: Any, **_: Any) -> None:
        seen.append(model.name)
        if len(seen) == fatal:
            raise KeyboardInterrupt if interrupted else RuntimeError(model.name)

    events = api().meta.events
    # Half of the steps for each kind of end: both kinds take the same way.
    for fatal in range(2 if interrupted else 1, 100, 2):
        seen.clear()
        events.register("after-call.ec2", lose)
        try:
            [vpc] = ec2.new_vpc(C, "net")
        except Interrupted:
            assert interrupted
        except Failed as error:
            assert not interrupted and seen[fatal - 1] in str(error)
        else:
            break
        finally:
            events.unregister("after-call.ec2", lose)
        assert _everything(empty) == NOTHING, seen[fatal - 1]
    assert fatal > 10
    assert "could not be removed" not in capfd.readouterr().err
    ec2.rm_vpc(C, vpc, yes=True)


def test_a_vpc_in_use_stays_whole(empty: str) -> None:
    [vpc] = ec2.new_vpc(C, "net")
    subnet = ec2.vpcs(C)[0]
    made = api().create_network_interface(SubnetId=subnet.subnet, Description="of a database")["NetworkInterface"]
    before = _everything(empty)
    error = refused(ec2.rm_vpc, vpc, yes=True)
    assert (error.code, "of a database" in str(error)) == (1, True)
    assert _everything(empty) == before
    api().delete_network_interface(NetworkInterfaceId=made["NetworkInterfaceId"])


def test_vpcs_that_are_not_ours_to_make_or_remove(shell: Shell) -> None:
    [default] = {subnet.vpc for subnet in ec2.vpcs(C) if subnet.default}
    assert "default VPC" in str(refused(ec2.rm_vpc, default, yes=True))
    assert "there is no VPC 'nowhere'" in str(refused(ec2.rm_vpc, "nowhere", yes=True))
    assert "--bogus" in str(refused(ec2.new_vpc, "--bogus"))
    tags = [{"ResourceType": "vpc", "Tags": [{"Key": "Name", "Value": "taken"}]}]
    vpc = api().create_vpc(CidrBlock="10.1.0.0/16", TagSpecifications=tags)["Vpc"]["VpcId"]
    assert vpc in str(refused(ec2.new_vpc, "taken"))
    [shown] = [each for each in ec2.vpcs(C) if each.vpc == vpc]
    assert (shown.name, shown.subnet, shown.cidr) == ("taken", "", "10.1.0.0/16")
    assert refused(ec2.rm_vpc, "--yse").code == 2
    api().create_tags(Resources=[vpc], Tags=[{"Key": "owner", "Value": "somebody"}])
    assert "add --any-owner" in str(refused(ec2.rm_vpc, "taken", yes=True))
    api().delete_tags(Resources=[vpc], Tags=[{"Key": "owner"}])
    assert ec2.rm_vpc(C, "taken", yes=True) == [vpc]


# keys, roles, events


def test_keys_say_which_is_ours_and_make_none(ids: list[str], monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    key_name = ec2.ls(C, only=ids[0])[0].key_name
    api().create_key_pair(KeyName="another")
    assert {pair.name: pair.ours for pair in ec2.keys(C) if pair.name in (key_name, "another")} == {
        key_name: True,
        "another": False,
    }
    monkeypatch.setenv("INVOKE_EC2_KEY", "another")
    assert [pair.name for pair in ec2.keys(C) if pair.ours] == ["another"]
    monkeypatch.delenv("INVOKE_EC2_KEY")
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "fresh"))
    assert not [pair for pair in ec2.keys(C) if pair.ours]
    assert not (home / "fresh").exists()
    api().delete_key_pair(KeyName="another")


@pytest.fixture
def profile(shell: Shell, name: str) -> Iterator[str]:
    """An instance profile with one role."""
    iam = shell.cloud.client("iam")
    iam.create_role(RoleName=f"{name}-role", AssumeRolePolicyDocument="{}")
    iam.create_instance_profile(InstanceProfileName=name)
    iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=f"{name}-role")
    yield name
    iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=f"{name}-role")
    iam.delete_instance_profile(InstanceProfileName=name)
    iam.delete_role(RoleName=f"{name}-role")


def test_roles_are_what_new_takes(profile: str) -> None:
    [found] = [each for each in ec2.roles(C) if each.name == profile]
    assert found.roles == (f"{profile}-role",)
    error = refused(ec2.new, role=profile[:-1], num=1)
    assert error.code == 2
    assert str(error).endswith(f"nothing was started; did you mean {profile}?")


def test_events_that_are_still_to_come(shell: Shell) -> None:
    def event(day: int, code: str, description: str) -> dict[str, Any]:
        return {"Code": code, "Description": description, "NotBefore": datetime(2026, 1, day, tzinfo=timezone.utc)}

    ids = [f"i-{number:017x}" for number in (1, 2)]
    statuses = [
        {"InstanceId": ids[0], "Events": [event(9, "instance-retirement", "degraded hardware")]},
        {"InstanceId": "i-3", "Events": [event(1, "system-reboot", "[Completed] power"), event(2, "x", "[Canceled]")]},
        {"InstanceId": "i-4"},
    ]
    described = {"InstanceId": ids[1], "State": {"Name": "running"}, "LaunchTime": datetime.now(timezone.utc)}
    described["Tags"] = [{"Key": "Name", "Value": "web"}]
    with Stubber(api()) as ec2_:
        asked = {"IncludeAllInstances": True}
        ec2_.add_response("describe_instance_status", {"InstanceStatuses": statuses, "NextToken": "more"}, asked)
        more = [{"InstanceId": ids[1], "Events": [event(5, "system-maintenance", "network")]}]
        ec2_.add_response("describe_instance_status", {"InstanceStatuses": more}, {**asked, "NextToken": "more"})
        ec2_.add_response("describe_instances", {"Reservations": [{"Instances": [described]}]})
        found = ec2.events(C)
    assert str(found).splitlines() == [
        f"web  {ids[1]}  system-maintenance   2026-01-05T00:00:00+00:00  -  network",
        f"-    {ids[0]}  instance-retirement  2026-01-09T00:00:00+00:00  -  degraded hardware",
    ]
    assert json.loads(found.json())[0]["not_before"] == "2026-01-05T00:00:00+00:00"


@pytest.mark.parametrize("task", [ec2.amis, ec2.snapshots, ec2.sgs, ec2.vpcs, ec2.keys, ec2.roles, ec2.events])
def test_whatever_lists_has_json_and_a_line_each(
    image: str, profile: str, task: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    table = task(C)
    assert [set(row) for row in json.loads(task(C, json=True))] == [set(vars(row)) for row in table]
    assert len(str(table).splitlines()) == len(table)
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "" if table else "no events\n" * 2)
