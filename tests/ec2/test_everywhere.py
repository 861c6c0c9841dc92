"""All regions at once: `ec2.ls --all-regions`, and the page of `status`."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from invoke import Context

from hardway.errors import NothingMatched, PartlyFailed, UsageError
from hardway.launch import orphans
from hardway.pmap.job import Job, keys_of
from tasks import ec2, ec2_list, overview
from tests.conftest import LocalCloud
from tests.ec2.conftest import Shell
from tests.ec2.faulty import Answer, FaultyEC2, Forward

C = Context()
REGIONS = """<DescribeRegionsResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><regionInfo>{}</regionInfo>
</DescribeRegionsResponse>"""
REGION = "<item><regionName>{0}</regionName><regionEndpoint>ec2.{0}.amazonaws.com</regionEndpoint></item>"


@pytest.fixture
def two(shell: Shell, name: str, cloud: LocalCloud) -> Iterator[list[str]]:
    """Ids of an instance in the shell's region, and of one in eu-west-1, where a launch has died."""
    with ec2.region(C, "eu-west-1"):
        other = ec2.new(C, name=name, wait=False)
    yield [*ec2.new(C, name=name, wait=False), *other]
    with ec2.region(C, "eu-west-1"):
        ec2.rm(C, other, yes=True)


def test_ls_lists_the_instances_of_every_region(two: list[str], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    listed = json.loads(ec2.ls(C, only=name, all_regions=True, json=True))
    assert {one["id"]: one["region"] for one in listed} == {two[0]: "us-east-1", two[1]: "eu-west-1"}
    assert all(one["usd"] > 0 for one in listed)
    assert re.fullmatch(r"total per hour now: \$0\.20, so far: <?\$0\.\d+\n", capsys.readouterr().err)
    with pytest.raises(NothingMatched):
        ec2.ls(C, only=f"{name}-none", all_regions=True)
    with pytest.raises(UsageError, match="--region and --all-regions exclude each other"):
        ec2.ls(C, all_regions=True, region="eu-west-1")


def test_status_tells_what_there_is(two: list[str], cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> None:
    token = f"{'0' * 16}-{int(time.time()) - 1}"
    tags = [{"Key": orphans.LAUNCH_TAG, "Value": token}]
    cloud.client("ec2", "eu-west-1").create_tags(Resources=[two[1]], Tags=tags)
    for name, done in (("all", 2), ("some", 1), ("more", 0)):
        with Job.create("cat", name=name) as job:
            job.number(keys_of([b"a", b"b"]), [b"a", b"b"])
            for task in range(1, done + 1):
                job.done(task, job.ended(task, 1, "i-1", 0, 0, 0.1, b"", b""))
            job.leave("resume", f"cd /tmp && inv mapreduce.pmap web @urls cat --resume {name}\n".encode())
    monkeypatch.setattr(overview, "_AWS_SECONDS", 30)
    page = str(overview.status(C))
    about = json.loads(str(overview.status(C, json=True)))
    assert {two[0], two[1]} <= {one["id"] for one in about["instances"]}
    assert [(one["name"], one["resume"]) for one in about["jobs"]] == [
        (name, f"cd /tmp && inv mapreduce.pmap web @urls cat --resume {name}") for name in ("more", "some")
    ]
    for row in ("some  stopped  1/2 done", "more  stopped  0/2 done"):
        assert re.search(rf"\n  {row} .*\n    cd /tmp && inv mapreduce.pmap web @urls cat --resume {row[:4]}\n", page)
    line = f"1 instance ({two[1]}) of a launch that never ended: hardway ec2.rm {orphans.LAUNCH_TAG}={token} --yes"
    assert f"  {line} --region eu-west-1\n" in page
    assert "local cloud: not running" in page  # this one is kept elsewhere


def test_a_region_without_an_answer_is_named(
    shell: Shell, real_proxy: FaultyEC2, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, over = [], threading.Event()

    def plan(action: str, parameters: dict[str, str], forward: Forward) -> Answer | None:
        if action == "DescribeRegions":
            regions = "".join(map(REGION.format, ("us-east-1", "eu-west-1", "eu-nowhere-1")))
            return 200, REGIONS.format(regions).encode()
        asked.append(action)
        if len(asked) == 2:
            over.wait(60)
        return forward()

    monkeypatch.setenv("AWS_ENDPOINT_URL", real_proxy.endpoint)
    monkeypatch.setattr(real_proxy, "plan", plan)
    monkeypatch.setattr(ec2_list, "_REGIONS_SECONDS", 3.0)
    try:
        with pytest.raises(PartlyFailed, match="2 of 3 regions have not answered") as error:
            ec2.ls(C, all_regions=True, json=True)
    finally:
        over.set()
    said = capsys.readouterr().err
    assert error.value.code == 1
    assert json.loads(error.value.result) is not None
    assert re.search("no answer from (us-east-1|eu-west-1): none within 3 s", said)
    assert "no answer from eu-nowhere-1: there is no AWS region 'eu-nowhere-1'" in said


def test_status_without_an_aws_tells_the_rest(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}", "AWS_REGION": "eu-west-1",
            "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        page = str(overview.status(C))
    assert page.startswith("no answer from AWS: AWS has not answered within 1.2 s\njobs: all finished\nlocal cloud: ")
