"""The `aws` that tasks and commands find on an instance, by the setting `ec2.aws`."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from hardway.config import Ec2, Settings
from hardway.fanout import commands
from hardway.pmap import agent
from hardway.s3 import fast_aws
from hardway.ssh.script import Script
from tests.conftest import LocalCloud, run_inv
from tests.pmap.conftest import Cluster

TABLE = [("auto", False, True), ("auto", True, False), ("fast", True, True), ("real", False, False)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An instance's home: HOME, and `bin` in it on PATH."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return tmp_path


def install(place: Path) -> None:
    (place / "bin" / "aws").write_text("#!/bin/sh\necho the real one\n")
    (place / "bin" / "aws").chmod(0o755)


def which_aws() -> str:
    done = subprocess.run(["sh", "-c", "aws --version 2>&1"], capture_output=True, text=True, check=False)
    return "fast" if "fast aws" in done.stdout else "real" if "the real one" in done.stdout else "none"


@pytest.mark.parametrize(("when", "there", "fast"), TABLE)
def test_the_agent_brings_it_where_it_is_wanted(place: Path, when: str, there: bool, fast: bool) -> None:
    if there:
        install(place)
    brought = fast_aws.brought(Settings(ec2=Ec2(aws=when)))
    for _ in range(2):
        if brought:
            agent.bring_aws(str(place), *brought)
        assert which_aws() == ("fast" if fast else "real" if there else "none")
    files = [path for path in place.glob(".hardway/*/*")]
    assert [path.stat().st_mode & 0o777 for path in files] == [0o700] * fast


@pytest.mark.parametrize(("when", "there", "fast"), TABLE)
@pytest.mark.parametrize("text", ["aws --version", "#!/bin/sh\naws --version\n" + "# long\n" * 20_000])
def test_a_command_that_names_it_has_it(place: Path, when: str, there: bool, fast: bool, text: str) -> None:
    if there:
        install(place)
    settings = Settings(ec2=Ec2(aws=when))
    command = commands.with_aws(commands.read(text), settings)
    line = command.line.command if isinstance(command.line, Script) else command.line
    stdin = b"".join(command.stdin()) if command.stdin else b""
    done = subprocess.run(["sh", "-c", line], input=stdin, capture_output=True, env={**os.environ, "SHELL": "/bin/sh"})
    said = "aws-cli/1" if fast else "the real one" if there else ""
    assert (done.stdout.startswith(said.encode()), bool(done.stdout)) == (True, fast or there), done.stderr


@pytest.mark.parametrize("text", ["echo flaws", "/usr/bin/aws s3 ls", "cat aws.txt", "my-aws x", "ls ~/.aws"])
def test_another_command_is_left_alone(text: str) -> None:
    command = commands.read(text)
    assert commands.with_aws(command, Settings(ec2=Ec2(aws="fast"))) == command


def test_a_session_of_the_stub_has_its_own() -> None:
    assert fast_aws.brought(Settings(ec2=Ec2(aws="fast"), stub_session={"s3_stubbed_session": "u"})) is None


def test_tasks_and_commands_on_instances_run_it(cluster: Cluster, cloud: LocalCloud) -> None:
    cloud.client("s3").create_bucket(Bucket="brought")
    environment = {**cluster.env, "INVOKE_EC2_AWS": "fast"}
    step = "aws s3 cp - s3://brought/k >/dev/null; aws s3 cp s3://brought/k -; aws --version"
    done = run_inv("mapreduce.pmap", cluster.ids[0], "kept", f"cat >in; {{ {step}; }} <in", env=environment)
    assert (done.code, re.sub("/.*", "", done.stdout)) == (0, "kept\naws-cli\n"), done.stderr
    done = run_inv("ec2.ssh", cluster.ids[0], "--yes", "--quiet", "--command", "aws --version", env=environment)
    assert (done.code, "fast aws of hardway" in done.stdout) == (0, True), done.stderr
