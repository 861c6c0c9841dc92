"""How to test a job of your own: its steps alone, with the S3 stub; then the whole job on instances, one of them lost.

The fixtures come with hardway: `pip install 'hardway[local]' pytest`, and nothing to configure.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from invoke import Context

from hardway.s3.stub_sessions import Session
from hardway.tasks import ec2, mapreduce

HERE = Path(__file__).parent
TEXTS = {"hamlet": "to be, or not to be", "macbeth": "tomorrow and tomorrow", "empty": "", "numbers": "1 2 3"}


def aws(*command: str, stdin: str = "") -> str:
    return subprocess.run(["aws", "s3", *command], input=stdin, capture_output=True, text=True, check=True).stdout


def step(name: str, line: str) -> list[str]:
    """Run a step as pmap does: its argument on stdin, its result on stdout."""
    command = ["bash", str(HERE / name)]
    return subprocess.run(command, input=line + "\n", capture_output=True, text=True, check=True).stdout.splitlines()


def contents(urls: list[str]) -> list[str]:
    return "".join(aws("cp", url, "-") for url in urls).splitlines()


@pytest.fixture
def inputs(s3_stub: Session) -> list[str]:
    """URLs of the input."""
    for name, text in TEXTS.items():
        aws("cp", "-", f"s3://books/input/{name}", stdin=text)
    return [f"s3://books/input/{name}" for name in TEXTS]


def test_the_first_step_counts(inputs: list[str]) -> None:
    urls = [line.split("\t")[1] for line in step("step1.sh", inputs[0])]
    assert sorted(line.split() for line in contents(urls)) == [["1", "not"], ["1", "or"], ["2", "be"], ["2", "to"]]


@pytest.mark.parametrize("name", ["empty", "numbers"])
def test_a_text_without_words_has_no_counts(inputs: list[str], name: str) -> None:
    assert step("step1.sh", f"s3://books/input/{name}") == []


def test_the_second_step_sums(s3_stub: Session) -> None:
    aws("cp", "-", "s3://books/counts/0/hamlet", stdin="2 to\n1 be\n")
    aws("cp", "-", "s3://books/counts/0/macbeth", stdin="3 be\n")
    merged = step("step2.sh", "0\ts3://books/counts/0/hamlet\ts3://books/counts/0/macbeth")
    assert merged == ["s3://books/merged/0"]
    assert contents(merged) == ["4 be", "2 to"]


@pytest.mark.instances(3)
def test_the_job_survives_the_loss_of_an_instance(
    inputs: list[str], instances: list[str], local_faults: Callable[..., None]
) -> None:
    c = Context()
    step1, step2 = f"{HERE}/step1.sh", f"{HERE}/step2.sh"
    counts = mapreduce.pmap(c, instances, inputs, "bash step1.sh", files=step1, progress=False)
    parts = mapreduce.group(c, counts)
    merged: list[str] = []
    for result in mapreduce.stream(c, instances, parts, "bash step2.sh; sleep 0.3", files=step2, progress=False):
        if not merged:
            local_faults("kill", instances[0])
        merged += result.split()
    assert sorted(contents(merged)) == ["1 and", "1 not", "1 or", "2 be", "2 to", "2 tomorrow"]
    assert ec2.ls(c, only=instances[0])[0].state in ("shutting-down", "terminated")
