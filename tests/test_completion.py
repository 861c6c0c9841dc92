"""Tab offers tasks, flags and the values of arguments, in the shells themselves."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from invoke import Context

from hardway.cli.program import Program
from hardway.pmap.job import Job
from tasks import completion, ec2, ns
from tests.conftest import INV, REPOSITORY, LocalCloud
from tests.patience import patience

PROGRAMS = {"inv": INV, "hardway": [sys.executable, "-m", "hardway"]}
SHELLS = {"bash": ["bash", "--norc", "-i"], "zsh": ["zsh", "-f", "-i"], "zsh with compinit": ["zsh", "-f", "-i"]}
PROMPT = "READY"


def offered(line: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The program's output for a line up to the cursor; it says nothing else."""
    words = shlex.split(line) + ([""] if line.endswith(" ") else [])
    Program(binary="hardway", name="hardway", namespace=ns, values=completion.values).run(
        ["hardway", "--complete", "--", *words], exit=False
    )
    output = capsys.readouterr()
    assert output.err == ""
    return output.out.splitlines()


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("hardway ec2.n", ["ec2.new", "ec2.new-vpc"]),
        ("hardway ec2.ls ec2.n", ["ec2.new", "ec2.new-vpc"]),
        ("hardway ec2.new --name web --n", ["--name", "--no-wait-init", "--num", "--no-wait"]),
        ("hardway --l", ["--list", "--list-depth", "--list-format"]),
        ("hardway ec2.new --type m7i.l", ["m7i.large"]),
        ("hardway ec2.new -t m7i.l", ["m7i.large"]),
        ("hardway ec2.new --type=c7i.large,m7i.l", ["--type=c7i.large,m7i.large"]),
        ("hardway ec2.ls --region eu-west-", ["eu-west-1", "eu-west-2", "eu-west-3"]),
        ("hardway mapreduce.explain ", ["one", "two"]),
        ("hardway mapreduce.rm t", ["two"]),
        ("hardway mapreduce.pmap web @urls cat --resume t", ["two"]),
        ("hardway mapreduce.pmap web @urls cat --job ", []),
        ("hardway mapreduce.pmap web ", []),
        ("hardway ec2.new --name ", []),
        ("hardway ec2.new --num 2 --no-wait --a", ["--ami"]),
        ("hardway ec2.new --ami n", ["noble"]),
        ("hardway ec2.ssh ", []),
    ],
)
def test_what_may_stand_at_the_cursor(
    line: str, some: list[str], home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        Job.create("cat", name=name).close()
    assert sorted(offered(line, capsys)) == sorted(some)


def test_a_silent_aws_holds_nobody_up(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("AWS_REGION", "eu-west-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        began = time.monotonic()
        assert offered("hardway ec2.ssh ", capsys) == []
        assert time.monotonic() - began < patience(15)  # botocore alone would take five minutes
        silent.settimeout(patience(10))
        connection, _ = silent.accept()
        with connection:
            while connection.recv(1 << 16):  # until the process that asked has ended
                pass


@pytest.fixture
def named(cloud: LocalCloud, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The id of an instance named tab-one; in this process's environment is its cloud."""
    for name, value in cloud.env.items():
        monkeypatch.setenv(name, value)
    [started] = ec2.new(Context(), name="tab-one", wait=False)
    yield started
    ec2.rm(Context(), started, yes=True)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH with both programs of this interpreter."""
    for name, command in PROGRAMS.items():
        script = tmp_path / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        script.chmod(0o755)
    return f"{tmp_path / 'bin'}:{os.environ['PATH']}"


class Terminal:
    """A shell on a terminal, as a person has it."""

    def __init__(self, command: list[str], path: str) -> None:
        environment = {**os.environ, "PATH": path, "TERM": "dumb", "PS1": f"{PROMPT}> "}
        self._pid, self._descriptor = pty.fork()
        if not self._pid:
            os.chdir(REPOSITORY)
            os.execvpe(command[0], command, environment)

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def says(self, expected: str, seconds: float) -> bool:
        """Whether this comes within the time; what came before is forgotten."""
        said, end = "", time.monotonic() + seconds
        while expected not in said:
            if not select.select([self._descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
                return False
            said += os.read(self._descriptor, 1 << 16).decode(errors="replace")
        return True

    def completes(self, line: str, expected: str) -> bool:
        """Whether Tab adds this to the line; again if AWS was late, which it may be on a busy machine."""
        self.type(f"\x15{line}")
        for _ in range(20):
            self.type("\t")
            if self.says(expected, 6):
                return True
        return False

    def close(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._descriptor)


@pytest.mark.parametrize(("shell", "program"), [("bash", "hardway"), ("zsh", "inv"), ("zsh with compinit", "hardway")])
def test_tab_in_a_shell(shell: str, program: str, path: str, named: str) -> None:
    if not shutil.which(shell.split()[0]):
        pytest.skip(f"there is no {shell} here")
    with contextlib.closing(Terminal(SHELLS[shell], path)) as terminal:
        if shell.endswith("compinit"):
            terminal.type("autoload -Uz compinit && compinit -D\n")
        kind = shell.split()[0]
        terminal.type(f"source <({program} --print-completion-script {kind}); echo LOA''DED\n")
        assert terminal.says("LOADED", 60)
        assert terminal.completes(f"{program} ec2.ssh t", "ab-one")
        assert terminal.completes(f"{program} ec2.new --type=m7i.metal-2", "4xl")
        assert terminal.completes(f"{program} ec2.scp CHANGEL", "OG.md")


def test_tab_in_fish(path: str, named: str) -> None:
    if not shutil.which("fish"):
        pytest.skip("there is no fish here")

    def completed(line: str) -> list[str]:
        script = f"source (inv --print-completion-script fish | psub); complete --do-complete '{line}'"
        environment = {**os.environ, "PATH": path}
        done = subprocess.run(
            ["fish", "--no-config", "-c", script],
            cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=patience(60),
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.split()

    assert any(completed("inv ec2.ssh t") == ["tab-one"] for _ in range(20))
    assert completed("inv ec2.new --type=m7i.metal-2") == ["--type=m7i.metal-24xl"]
    assert completed("inv ec2.scp CHANGEL") == ["CHANGELOG.md"]
