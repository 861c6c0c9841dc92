"""Trust, and the additions of fan-out, on a running cluster: host keys, owners, ways there, --fold and --each."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from invoke.config import Config
from invoke.context import Context

from hardway import config
from hardway.ec2.instances import Instance, select
from hardway.errors import UsageError
from hardway.fanout.group import GroupFailed, InstanceGroup
from hardway.ssh import connection as ssh
from hardway.ssh.keys import HostKeys
from tasks import ec2, mapreduce, s3
from tests.conftest import LocalCloud
from tests.ec2.conftest import Shell
from tests.openssh.systems_manager import ended, stand_ins
from tests.patience import patience

NAME = "trust"
C = Context()


@pytest.fixture(scope="module")
def started(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Ids of three instances that the tests of this module leave as they found them, in the order of ec2.id."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as monkeypatch:
        environment = {"HOME": str(tmp_path_factory.mktemp("home")), "XDG_DATA_HOME": str(base / "hardway-data")}
        for name, value in {**cloud.env, **environment}.items():
            monkeypatch.setenv(name, value)
        ec2.new(C, name=NAME, num=3)
        yield list(ec2.id(C, NAME))
        ec2.rm(C, NAME, yes=True, any_owner=True)


@pytest.fixture
def ids(started: list[str], shell: Shell) -> list[str]:
    return started


@pytest.fixture
def settings(ids: list[str]) -> config.Settings:
    return config.settings(C)


@pytest.fixture
def chosen(settings: config.Settings) -> list[Instance]:
    return select(settings, NAME)


def trusted(id_: str) -> list[str]:
    """The comments of an instance's keys in our known_hosts."""
    lines = [line.split() for line in HostKeys().path.read_text().splitlines()]
    return [words[-1] if len(words) > 3 else "first use" for words in lines if words[0] == id_]


def test_the_first_command_after_a_launch_confirms_host_keys(
    ids: list[str], chosen: list[Instance], settings: config.Settings, home: Path
) -> None:
    """`wait` connects as a launch does: it asks for no console, and remembers what it meets."""
    ec2.wait(C, NAME)
    assert [trusted(id_) for id_ in ids] == [["first use"]] * 3
    ec2.ssh(C, ids[0], command="true", yes=True)
    assert [trusted(id_) for id_ in ids] == [["first use", "console"], ["first use"], ["first use"]]
    command = [*ssh.login_command(chosen[1], settings), "echo in"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=patience(60))
    assert (done.stdout, trusted(ids[1])) == ("in\n", ["first use", "console"])
    assert not (home / ".ssh").exists()


@pytest.mark.parametrize("met", [False, True], ids=["never met", "met at the wrong place"])
@pytest.mark.parametrize("by_ssh", [False, True], ids=["fabric", "ssh"])
def test_who_is_not_the_one_on_the_console_gets_nothing(
    chosen: list[Instance], settings: config.Settings, by_ssh: bool, met: bool
) -> None:
    one, other = chosen[:2]
    impostor = replace(one, public_ip=other.public_ip, private_ip=other.private_ip)
    if met:
        ssh.connect(impostor, settings, HostKeys(consoles=0)).close()
        assert trusted(one.id) == ["first use"]
    if by_ssh:
        command = [*ssh.login_command(impostor, settings), "echo in"]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=patience(60))
        assert (done.returncode, done.stdout) == (255, "")
    else:
        [outcome] = InstanceGroup([impostor], settings).execute("echo in").values()
        assert f"not one that the console of {one.id} shows" in str(outcome)
    # The real one is the one that is trusted.
    ssh.connect(one, settings).close()


def test_somebody_elses_instances_are_left_alone(ids: list[str], shell: Shell) -> None:
    shell.cloud.client("ec2").create_tags(Resources=ids[:1], Tags=[{"Key": "owner", "Value": "somebody"}])
    with pytest.raises(UsageError) as refusal:
        ec2.rm(C, NAME, yes=True)
    assert f"{ids[0]} (somebody's)" in str(refusal.value)
    assert set(shell.states(NAME).values()) == {"running"}


def test_private_addresses_are_a_flag_or_a_setting(ids: list[str]) -> None:
    """Here both addresses are the same; that the private one is taken is shown in tests/openssh."""
    private = Context(Config(overrides={"ec2": {"private_ip": True}}))
    for context, flag in ((C, True), (private, False)):
        [result] = ec2.ssh(context, ids[0], command="echo in", yes=True, private_ip=flag)
        assert result.stdout == b"in\n"
    assert mapreduce.pmap(private, ids[0], "1", "cat", progress=False) == ["1\n"]


def test_ways_there_are_a_flag_or_a_setting(ids: list[str], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "tree").mkdir()
    tunnel = Context(Config(overrides={"ec2": {"via": "tunnel"}}))
    for reach in (
        lambda: ec2.new(C, name=NAME, via="tunnel"),
        lambda: ec2.ssh(C, ids[0], command="true", yes=True, via="tunnel"),
        lambda: ec2.scp(tunnel, __file__, ":", ids[0], yes=True),
        lambda: ec2.push(tunnel, str(home / "tree"), ":", ids[0], yes=True, s3="s3://bucket/prefix"),
        lambda: ec2.pull(C, ":", str(home), ids[0], yes=True, via="tunnel"),
        lambda: ec2.wait(C, ids[0], via="tunnel"),
        lambda: ec2.wait(tunnel, ids[0]),
        lambda: mapreduce.pmap(tunnel, ids[0], "1", "cat", progress=False),
    ):
        with pytest.raises(UsageError, match="via is 'tunnel': it must be one of ssm, empty"):
            reach()
    assert not list(mapreduce.jobs(C))
    monkeypatch.setenv("PATH", str(home))
    for send, what in ((ec2.scp, __file__), (ec2.push, str(home / "tree"))):
        with pytest.raises(UsageError, match="--via ssm needs the AWS CLI"):
            send(C, what, ":", ids[0], yes=True, via="ssm")


def test_pmap_goes_through_systems_manager(
    ids: list[str], chosen: list[Instance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = stand_ins(tmp_path, {instance.id: instance.address for instance in chosen})
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    through = Context(Config(overrides={"ec2": {"via": "ssm"}}))
    assert mapreduce.pmap(through, NAME, "1\n2\n3", "cat", progress=False) == ["1\n", "2\n", "3\n"]
    assert len((programs / "running").read_text().splitlines()) == 3
    assert ended(programs)


def test_the_same_output_is_shown_once(ids: list[str], capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    last = ec2.ssh(C, ids[2], command="hostname", yes=True)[0].stdout.decode().strip()
    capfdbinary.readouterr()
    command = f"[ $(hostname) = {last} ] && printf '\\377other' && exit 3; echo same; echo same; echo err >&2"
    with pytest.raises(GroupFailed, match="failed on 1 of 3"):
        ec2.ssh(C, NAME, command=command, yes=True, fold=True)
    out, err = capfdbinary.readouterr()
    assert out.decode(errors="surrogateescape").splitlines() == [
        f"--- 2 instances: {NAME} {ids[0]} {ids[1]}",
        "same",
        "same",
        f"--- 1 instance, exit code 3: {NAME} {ids[2]}",
        "\udcffother",
    ]
    assert sorted(err.decode().splitlines()[:2]) == sorted(f"{NAME} {i}: err" for i in ids[:2])


def test_what_a_command_wrote_until_its_time_was_up_is_folded_too(
    ids: list[str], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    limit = round(patience(1))
    with pytest.raises(GroupFailed, match="failed on 3 of 3"):
        ec2.ssh(C, NAME, command="echo partial; sleep 1000", timeout=limit, yes=True, fold=True)
    heading, line = capfdbinary.readouterr().out.decode().splitlines()
    assert heading.startswith(f"--- 3 instances, still running after {limit} s, ended: {NAME} ")
    assert line == "partial"


def test_each_instance_reads_its_own_line(
    ids: list[str], home: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    def read(**options: Any) -> list[bytes]:
        return [result.stdout for result in ec2.ssh(C, NAME, yes=True, **options)]

    lines = home / "lines"
    lines.write_bytes(b"one\n\n\xffthree\n")
    assert read(command="cat", each=str(lines)) == [b"one\n", b"\n", b"\xffthree\n"]
    (home / "script").write_text("echo read; cat")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"1\n2\n3"), isatty=lambda: False))
    assert read(command=str(home / "script"), each="-") == [b"read\n1\n", b"read\n2\n", b"read\n3\n"]
    capfdbinary.readouterr()
    lines.write_text("one\ntwo\n")
    for options, said in (
        ({"each": str(lines)}, "has 2 lines and 3 instances match"),
        ({"each": str(home / "none")}, "cannot read --each"),
        ({"each": ""}, "--each is empty"),
        ({"max_connections": 0}, "--max-connections is '0'"),
        ({"each": str(lines), "stdin": str(lines)}, "leave one of them out"),
        ({"each": "-", "command": "-"}, "cannot both read our stdin"),
        ({"fold": True, "quiet": True}, "leave one of them out"),
        ({"each": str(lines), "command": None}, "there is no command"),
    ):
        with pytest.raises(UsageError, match=said):
            read(**{"command": "echo ran", **options})
    assert capfdbinary.readouterr().out == b""


def test_lists_are_json_too(shell: Shell, ids: list[str], home: Path) -> None:
    assert json.loads(str(s3.sessions(C, json=True))) == []
    mapreduce.pmap(C, NAME, "1\n2", "cat", job="of-two", progress=False)
    [job] = json.loads(str(mapreduce.jobs(C, json=True)))
    assert (job["name"], job["state"], job["tasks"], job["done"]) == ("of-two", "done", 2, 2)
    status = json.loads(shell.cloud.inv("local.status", "--json").stdout)
    assert (status["endpoint"], status["pid"]) == (shell.cloud.env["AWS_ENDPOINT_URL"], shell.cloud.pid)
    assert status["instances"]["running"] >= 3
