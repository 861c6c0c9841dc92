"""The examples at the end of each task's help do what they say, on one local cloud, in the order of a person's day."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hardway.cli.program import Program
from hardway.s3 import stub_sessions
from tasks import ns
from tests.conftest import REPOSITORY, LocalCloud
from tests.patience import patience

RUN = """
    local.up local.env local.status ec2.new ec2.ls status ec2.id ec2.ip ec2.dns ec2.user-data ec2.log ec2.tag ec2.untag
    ec2.extend
    ec2.check ec2.keys ec2.roles ec2.events ec2.regions ec2.zones ec2.types ec2.spot-prices
    ec2.new-vpc ec2.vpcs ec2.sg ec2.sgs ec2.authorize ec2.deauthorize
    ec2.ssh ec2.scp ec2.push ec2.pull s3.stub s3.sessions s3.clear
    mapreduce.pmap mapreduce.wait mapreduce.group mapreduce.gather mapreduce.jobs mapreduce.results mapreduce.again
    mapreduce.report mapreduce.explain mapreduce.rm
    cluster.store cluster.ls cluster.stop ec2.ami-new ec2.amis ec2.ami-rm ec2.snapshot ec2.snapshots
    ec2.stop ec2.start ec2.reboot local.fault ec2.rm ec2.wait ec2.rm-vpc ec2.cleanup local.down
"""
READ = ["cluster.spark", "cluster.dask", "cluster.tunnel", "local.image", "mapreduce.logs", "demo", "test", "bench"]
"""Tasks that need an engine, a mirror or a job of many tasks, or take a minute."""


def examples(task: str) -> list[str]:
    """Return the last lines of a task's help."""
    _, _, found = (inspect.getdoc(ns[task]) or "").partition("\nExamples:\n")
    return [line.strip() for line in found.strip().splitlines()]


@pytest.mark.parametrize("task", sorted(ns.task_names))
def test_every_task_has_two_or_three_examples(task: str) -> None:
    flags = len(ns[task].get_arguments())
    assert (2 if flags else 1) <= len(examples(task)) <= 3
    assert all(re.search(rf"\binv (--dry )?{task}\b", line) for line in examples(task))


def test_every_example_is_tried() -> None:
    assert sorted([*RUN.split(), *READ]) == sorted(ns.task_names)


@pytest.mark.parametrize("line", [line for task in READ for line in examples(task)])
def test_an_example_can_be_read(line: str, home: Path) -> None:
    program = Program(name="inv", binary="inv", namespace=ns)
    program.create_config()
    program.parse_core(shlex.split(line))
    program.parse_collection()
    program.parse_tasks()


def test_the_examples_run(
    start_cloud: Callable[..., LocalCloud], home: Path, tmp_path: Path,
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    cloud = start_cloud()
    for name, value in {**cloud.env, "XDG_STATE_HOME": str(cloud.state)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    directory = tmp_path / "project"
    fill(directory)
    monkeypatch.chdir(directory)
    objects = cloud.client("s3")
    objects.create_bucket(Bucket="bucket")
    for key in ("1", "2"):
        objects.put_object(Bucket="bucket", Key=key, Body=b"text\n")
    failed = []
    for line in [line for task in RUN.split() for line in examples(task)]:
        code = in_shell(line) if re.search(r"[$|<>]", line) else in_process(line)
        said = capfd.readouterr()
        failed += [f"{line}\nends with {code}: {said.out}{said.err}"] if code else []
    assert not failed, "\n".join(failed)


def fill(directory: Path) -> None:
    """Make the files that the examples name."""
    (directory / "site").mkdir(parents=True)
    (directory / "site" / "index.html").touch()
    for name in ("invoke.yaml", "tasks"):
        (directory / name).symlink_to(REPOSITORY / name)
    (directory / "setup.sh").write_text("#!/bin/bash\necho ready\n")
    (directory / "step1.sh").write_text('read -r url\necho "${#url}"\n')
    (directory / "large.bin").write_bytes(bytes(1 << 20))
    (directory / "urls.txt").write_text("s3://bucket/1\ns3://bucket/2\n")
    (directory / "lines.txt").write_text("0\ts3://bucket/1\n1\ts3://bucket/2\n")


def in_process(line: str) -> int:
    """Run one task, as the program does, and return its exit code."""
    try:
        Program(name="inv", binary="inv", namespace=ns).run(shlex.split(line))
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def in_shell(line: str) -> int:
    """Run a line of shell, and return its exit code. A session of the S3 stub is there to be cleared."""
    with stub_sessions.session() as session:
        environment = {**os.environ, **(session.environment if "s3.clear" in line else {})}
        return subprocess.run(
            ["bash", "-euc", line], env=environment, stdin=subprocess.DEVNULL, timeout=patience(60)
        ).returncode
