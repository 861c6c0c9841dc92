"""`--dry`: every task that changes something shows what it would do, and does none of it."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from invoke import Config, Context

from hardway import config
from hardway.cli.program import Program
from hardway.ec2 import images
from hardway.pmap.job import Job
from tasks import ec2, mapreduce, ns
from tests.conftest import LocalCloud, run_inv
from tests.ec2.conftest import Shell
from tests.ec2.faulty import FaultyEC2

NAME = "dry"
READS = re.compile(r"Describe|Get|List")
_watched: list[str] | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    """There is no way to take this off again: it looks at nothing but in `watched`."""
    if _watched is None:
        return
    if event == "socket.connect" and isinstance(arguments[1], tuple) and str(arguments[1][0]).startswith("127.77."):
        _watched.append(f"connected to {arguments[1]}")
    elif event == "subprocess.Popen" and arguments[0] != "sort":  # which reads and writes pipes alone
        program = f"started {arguments[1]}"
        # It reads OpenSSH's configuration, and connects to nobody.
        if "'ssh', '-G'" not in program:
            _watched.append(program)


sys.addaudithook(_audit)


@contextlib.contextmanager
def watched() -> Iterator[list[str]]:
    """Connections to instances, and programs started, in the block."""
    global _watched
    found: list[str] = []
    _watched = found
    try:
        yield found
    finally:
        _watched = None


@pytest.fixture(scope="module")
def things(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """One of each that a task may be about, by what it is."""
    environment = {
        **cloud.env,
        "HOME": str(tmp_path_factory.mktemp("home")),
        "XDG_DATA_HOME": str(tmp_path_factory.getbasetemp() / "hardway-data"),
    }
    started = run_inv("ec2.new", "--name", NAME, env=environment)
    assert started.code == 0, started.stderr
    id_ = started.stdout.strip()
    client = cloud.client("ec2")
    image = client.create_image(InstanceId=id_, Name="dry-image")["ImageId"]
    vpc = client.create_vpc(CidrBlock="10.98.0.0/16")["Vpc"]["VpcId"]
    group = client.create_security_group(GroupName="dry-group", Description="x", VpcId=vpc)["GroupId"]
    yield {"id": id_, "image": image, "vpc": vpc, "group": group}
    assert run_inv("ec2.rm", id_, "--yes", env=environment).code == 0
    client.deregister_image(ImageId=image)
    client.delete_security_group(GroupId=group)
    client.delete_vpc(VpcId=vpc)


@pytest.fixture
def proxy(cloud: LocalCloud, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyEC2]:
    made = FaultyEC2(cloud.env)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.endpoint)
    yield made
    made.close()


ARGUMENTS = {
    "ec2.new": "--num 3 --spot 0.5 --command true",
    "ec2.log": "{id}",
    "ec2.ls": "",
    "ec2.id": "{id}",
    "ec2.ip": "{id}",
    "ec2.dns": "{id}",
    "ec2.ssh": "{id} --yes --command true",
    "ec2.scp": "step.sh :x {id} --yes",
    "ec2.push": "tree :x {id} --yes",
    "ec2.pull": ":x here {id} --yes",
    "ec2.rm": "{id} --yes",
    "ec2.wait": "{id}",
    "ec2.start": "{id} --yes",
    "ec2.stop": "{id} --yes",
    "ec2.reboot": "{id} --yes",
    "ec2.extend": "{id} 3 --yes",
    "ec2.tag": "{id} --tag a=b --yes",
    "ec2.untag": "{id} --tag owner --yes",
    "ec2.user-data": "{id}",
    "ec2.amis": "",
    "ec2.ami-new": "{id} another-image --yes",
    "ec2.ami-rm": "{image} --yes",
    "ec2.snapshots": "",
    "ec2.snapshot": "{id} --yes",
    "ec2.sgs": "",
    "ec2.sg": "another-group",
    "ec2.authorize": "{group} --port 80 --source 10.0.0.0/8",
    "ec2.deauthorize": "{group} --port 80 --source 10.0.0.0/8",
    "ec2.vpcs": "",
    "ec2.new-vpc": "another-vpc",
    "ec2.rm-vpc": "{vpc} --yes --any-owner",
    "ec2.regions": "",
    "ec2.zones": "",
    "ec2.types": "--only m7i.large",
    "ec2.spot-prices": "m7i.large",
    "ec2.keys": "",
    "ec2.roles": "",
    "ec2.events": "",
    "ec2.check": "",
    "ec2.cleanup": "--yes",
    "mapreduce.pmap": "{id} a true",
    "mapreduce.group": "@lines",
    "mapreduce.wait": "dry",
    "mapreduce.again": "dry --selector {id}",
    "mapreduce.gather": "s3://b/k s3://b/all",
    "mapreduce.jobs": "",
    "mapreduce.results": "dry",
    "mapreduce.rm": "dry --yes",
    "mapreduce.report": "dry",
    "mapreduce.explain": "dry",
    "mapreduce.logs": "dry",
    "cluster.spark": "{id} --yes",
    "cluster.dask": "{id} --yes",
    "cluster.store": "{id} --yes",
    "cluster.stop": "{id} --yes",
    "cluster.ls": "",
    "cluster.tunnel": "{id}",
    "s3.stub": "",
    "s3.sessions": "",
    "s3.clear": "--all",
    "local.up": "",
    "local.env": "",
    "local.status": "",
    "local.down": "",
    "local.fault": "kill {id}",
    "local.image": "bookworm",
    "status": "",
    "demo": "",
    "test": "",
    "bench": "--name pmap",
}


def test_every_task_is_tried() -> None:
    assert sorted(ARGUMENTS) == sorted(ns.task_names)


@pytest.mark.parametrize("task", ARGUMENTS)
def test_a_dry_run_changes_nothing(
    task: str, things: Mapping[str, str], cloud: LocalCloud, proxy: FaultyEC2, home: Path, tmp_path: Path,
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "step.sh").write_text("true\n")
    (tmp_path / "lines").write_text("part\ts3://b/k\n")
    (tmp_path / "tree").mkdir()
    if task in ("mapreduce.wait", "mapreduce.again"):  # for jobs that pmap has begun
        pmap = ["mapreduce.pmap", things["id"], "a", "true", "--job", "dry", "--detach"]
        Program(name="hardway", binary="hardway", namespace=ns).run(["hardway", *pmap])
        capfd.readouterr()
    elif task.startswith("mapreduce."):
        with Job.create("true", name="dry"):
            pass
    line = ARGUMENTS[task].format(**things).split()
    before = files(tmp_path)
    if task.startswith("local."):
        monkeypatch.setenv("XDG_STATE_HOME", str(cloud.state))
    with watched() as seen:
        Program(name="hardway", binary="hardway", namespace=ns).run(["hardway", "--dry", task, *line])
    said = capfd.readouterr()
    assert changing(proxy) == []
    assert seen == []
    assert files(tmp_path) == before
    changes = ns[task].changes is not None
    assert ("dry run: would " in said.err or "nothing to remove" in said.err) == changes
    if changes:
        assert said.out == ""


def changing(proxy: FaultyEC2) -> list[str]:
    """The calls that change something: not those that EC2 is asked but to try."""
    return [action for action, given in proxy.calls if not READS.match(action) and given.get("DryRun") != "true"]


def files(directory: Path) -> set[Path]:
    return {path for path in directory.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def test_a_dry_run_from_python_returns_an_empty_result(things: Mapping[str, str], proxy: FaultyEC2) -> None:
    c = Context(Config(overrides={"run": {"dry": True}}))
    assert ec2.rm(c, things["id"], yes=True) == []
    assert ec2.new(c, num=2) == []
    assert ec2.ssh(c, things["id"], command="true") == []
    started = ec2.new(c, num=2)
    assert mapreduce.pmap(c, started, ["a"], "true") == []
    assert ec2.rm(c, started, yes=True) == []
    assert {action for action in proxy.actions() if not READS.match(action)} == set()


def test_what_is_only_asked_for_in_a_dry_run_needs_no_terminal(things: Mapping[str, str], proxy: FaultyEC2) -> None:
    c = Context(Config(overrides={"run": {"dry": True}}))
    with contextlib.redirect_stderr(io.StringIO()) as said:
        ec2.rm(c, things["id"])
    assert things["id"] in said.getvalue()
    assert said.getvalue().endswith("dry run: would terminate 1 instance; nothing was done\n")


def test_the_settings_of_a_dry_run_are_invokes(things: Mapping[str, str], shell: Shell) -> None:
    result = shell.succeed("ec2.rm", things["id"], "--yes", env={"INVOKE_RUN_DRY": "1"})
    assert (result.stdout, "dry run: would terminate" in result.stderr) == ("", True)
    assert shell.succeed("--dry", "ec2.rm", things["id"], "--yes").stdout == ""
    assert images.own(config.settings(Context()))
    assert shell.states(NAME)[things["id"]] == "running"


@pytest.mark.parametrize("flag", ["--pty", "-p", "--echo", "--warn-only", "--hide=both", "-T 3"])
def test_a_flag_that_does_nothing_here_is_not_offered(
    flag: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        Program(binary="hardway", namespace=ns).run(["hardway", *flag.split(), "s3.stub"])
    said = capsys.readouterr()
    assert (exit.value.code, said.out, len(said.err.splitlines())) == (2, "", 1)
