"""The command lines in messages work when they are pasted: they name the program that said them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, LocalCloud, Result
from tests.patience import patience

NAME = "pasting"
BIN = Path(sys.executable).parent
PROGRAMS = {
    "hardway": ["hardway"],
    "./inv": ["./inv"],
    "python -m hardway": [sys.executable, "-m", "hardway"],
}


@pytest.fixture(scope="module")
def environment(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a shell that has `hardway` on its path, and two instances."""
    found = {
        **os.environ,
        **cloud.env,
        "XDG_STATE_HOME": str(cloud.state),
        "HOME": str(tmp_path_factory.mktemp("home")),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    assert paste(f"hardway ec2.new --name {NAME} --num 2", found).code == 0
    yield found
    assert paste(f"hardway ec2.rm {NAME} --yes", found).code == 0


def paste(line: str, env: Mapping[str, str]) -> Result:
    """Run a line in a shell that stands in the repository."""
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=REPOSITORY,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=patience(120),
    )
    return Result(done.returncode, done.stdout, done.stderr)


def line_in(said: str, before: str, after: str = "") -> str:
    """Find the line to paste between two texts."""
    found = re.search(rf"{before}(.*?){after}$", said, re.MULTILINE)
    assert found, said
    return found[1]


@pytest.fixture
def program(request: pytest.FixtureRequest) -> str:
    """The words that a person types to run it."""
    return shlex.join(PROGRAMS[request.param])


def typed(*programs: str) -> pytest.MarkDecorator:
    """A test with these programs. `hardway.system.argv` makes all lines: one test has all of the programs."""
    return pytest.mark.parametrize("program", programs, indirect=True)


@pytest.fixture
def run(program: str, environment: Mapping[str, str]) -> Callable[..., Result]:
    return lambda arguments, **env: paste(f"{program} {arguments}", {**environment, **env})


@typed(*PROGRAMS)
def test_where_to_look(program: str, run: Callable[..., Result], environment: Mapping[str, str]) -> None:
    line = line_in(run("s3.clear no-uuid").stderr, "`", "` lists them")
    assert line == f"{program} s3.sessions"
    assert paste(line, environment).code == 0
    line = line_in(run("ec2.id nobody-is-named-so --region us-east-1").stderr, "`", "` shows them all")
    assert line == f"{program} ec2.ls --region us-east-1"
    assert NAME in paste(line, {**environment, "AWS_REGION": "", "AWS_DEFAULT_REGION": ""}).stdout


@typed("hardway")
def test_a_longer_life(program: str, run: Callable[..., Result], environment: Mapping[str, str]) -> None:
    started = run("ec2.new --name to-be-extended")
    line = line_in(started.stderr, "`", "` moves the end")
    assert line == f"{program} ec2.extend SELECTOR HOURS"
    line = line.replace("SELECTOR", "to-be-extended").replace("HOURS", "2")
    assert paste(f"{line} --yes", environment).code == 0
    assert paste(f"{program} ec2.rm to-be-extended --yes", environment).code == 0


@typed("python -m hardway")
def test_an_end(program: str, run: Callable[..., Result], environment: Mapping[str, str]) -> None:
    assert run("ec2.new-vpc lab").code == 0
    assert run("ec2.new --name in-lab --vpc lab").code == 0
    line = line_in(run("ec2.rm-vpc lab --yes --region us-east-1").stderr, "`", "` terminates them")
    assert re.fullmatch(rf"{re.escape(program)} ec2\.rm vpc-[0-9a-f]+ --region us-east-1", line)
    assert paste(f"{line} --yes", environment).code == 0
    assert run("ec2.rm-vpc lab --yes").code == 0


@typed("./inv")
def test_a_fault(program: str, run: Callable[..., Result], environment: Mapping[str, str]) -> None:
    line = line_in(run("local.fault slow ''").stderr, "needs a selector: ")
    assert line == f"{program} local.fault slow SELECTOR"
    assert paste(f"{line.replace('SELECTOR', NAME)} --factor 1", environment).code == 0


@typed("./inv")
def test_a_job_that_failed(program: str, run: Callable[..., Result], environment: Mapping[str, str]) -> None:
    command = 'read word; echo "it\'s $word"; [ -e ~/may-go-on ]'
    flags = "--retries 0 --slots 2 --region us-east-1"
    failed = run(f"mapreduce.pmap {NAME} word {shlex.quote(command)} {flags}")
    assert failed.code == 1
    by_hand = line_in(failed.stderr, "  by hand: ")
    assert by_hand.startswith(f"{program} ec2.ssh i-")
    elsewhere = {**environment, "AWS_REGION": "", "AWS_DEFAULT_REGION": ""}
    again = paste(by_hand, elsewhere)
    assert (again.code, "it's word" in again.stdout) == (1, True)
    resume = line_in(failed.stderr, "Fix it, then: ")
    assert resume.startswith(f"{program} mapreduce.pmap {NAME} ")
    assert "--slots=2" in resume
    assert paste(f"{program} ec2.ssh {NAME} --yes --command 'touch may-go-on'", environment).code == 0
    done = paste(resume, elsewhere)
    assert paste(f"{program} ec2.ssh {NAME} --yes --command 'rm may-go-on'", environment).code == 0
    assert (done.code, done.stdout) == (0, "it's word\n"), done.stderr


def test_the_settings_that_were_named_are_named_again(tmp_path: Path, environment: Mapping[str, str]) -> None:
    (tmp_path / "other settings.yaml").write_text("ec2: {num: 1}\n")
    config = f"--config {shlex.quote(str(tmp_path / 'other settings.yaml'))}"
    said = paste(f"hardway {config} s3.clear no-uuid", environment).stderr
    line = line_in(said, "`", "` lists them")
    assert line == f"hardway {config} s3.sessions"
    assert paste(line, environment).code == 0
