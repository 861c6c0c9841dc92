"""stdout and stderr that are closed, full, or read by nobody: real ones, of real processes."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hardway.cli.program import Program
from hardway.system import signals
from tasks import ns
from tests import conftest
from tests.conftest import REPOSITORY
from tests.ec2.conftest import Shell
from tests.patience import patience

HARDWAY = f"'{sys.executable}' -m hardway"
PLAIN = f"'{sys.executable}' -m invoke"
"""Invoke's own `inv`, where an invoke.yaml names our executor."""
INV = shlex.join(conftest.INV)


def run(line: str) -> tuple[int, str, str]:
    """A line of bash; the exit code is that of the first program of its pipeline."""
    done = subprocess.run(
        ["bash", "-c", f"{line}\nexit ${{PIPESTATUS[0]}}"],
        cwd=REPOSITORY, env=os.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=patience(120),
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


FULL, CLOSED, UNREAD = "no space left on device", "it is closed", "nobody reads it"


@pytest.mark.parametrize(
    ("program", "to", "why"),
    [
        (INV, ">/dev/full", FULL),
        (HARDWAY, ">&-", CLOSED),
        (INV, "| true", UNREAD),
        (PLAIN, ">/dev/full", FULL),
        (PLAIN, ">&-", CLOSED),
        (PLAIN, "| true", UNREAD),
    ],
)
def test_instances_whose_ids_are_lost_are_terminated(program: str, to: str, why: str, shell: Shell, name: str) -> None:
    code, out, err = run(f"{program} ec2.new --name {name} --num 2 {to}")
    assert (code, out) == (1, "")
    assert err.splitlines()[-1] == f"cannot write to stdout: {why}; the 2 instances started were terminated"
    assert [*shell.states(name).values()] == ["terminated"] * 2


def test_nobody_hears_of_it_and_still_nothing_runs(shell: Shell, name: str) -> None:
    code, out, err = run(f"{HARDWAY} ec2.new --name {name} >&- 2>&- <&-")
    assert (code, out, err) == (1, "", "")
    assert [*shell.states(name).values()] == ["terminated"]


def test_a_stderr_that_nobody_reads_keeps_no_launch_from_its_end(shell: Shell, name: str) -> None:
    for to in ("2>/dev/full", "2>&-"):
        code, out, err = run(f"{HARDWAY} ec2.new --name {name} {to}")
        assert (code, err) == (0, "")
        assert shell.states(name)[out.strip()] == "running"


@pytest.mark.parametrize("program", [INV, HARDWAY], ids=["inv", "hardway"])
@pytest.mark.parametrize("task", ["--list", "ec2.regions"])
def test_a_stdout_that_takes_nothing_is_told_in_a_line(task: str, program: str, shell: Shell) -> None:
    assert run(f"{program} {task} >/dev/full") == (1, "", f"cannot write to stdout: {FULL}\n")
    assert run(f"{program} {task} >&-") == (1, "", f"cannot write to stdout: {CLOSED}\n")
    assert run(f"{program} {task} >/dev/full 2>/dev/full") == (1, "", "")


def test_what_was_changed_is_told_where_it_could_not_be_printed(
    shell: Shell, name: str, start: Callable[..., list[str]]
) -> None:
    [id_] = start()
    for to, why in ((">/dev/full", f"cannot write to stdout: {FULL}"), ("| true", "nobody reads stdout")):
        code, _, err = run(f"{HARDWAY} ec2.tag {id_} --tag a=b --yes {to}")
        assert (code, err) == (1, f"{why}; the task is done, but its result could not be printed: {id_}\n")
    # On an instance it ran, and its output is lost: that is no failure of the instance.
    code, _, err = run(f"{HARDWAY} ec2.ssh {id_} -yqc 'echo out' >/dev/full")
    assert (code, err) == (1, f"cannot write to stdout: {FULL}\n")
    for to in ("2>/dev/full", "2>&-"):
        assert run(f"{HARDWAY} ec2.ssh {id_} -yqc 'echo talk >&2; echo out' {to}") == (0, "out\n", "")
    code, out, err = run(f"{HARDWAY} ec2.ssh {id_} -yqc - <&-")
    assert (code, out, err) == (2, "", "our stdin is closed: there is nothing to be read\n")
    assert run(f"{HARDWAY} ec2.rm {id_} <&-")[0] == 2


def test_who_reads_stderr_does_not_decide_about_a_job(shell: Shell, name: str, start: Callable[..., list[str]]) -> None:
    [id_] = start()
    job = f"{HARDWAY} mapreduce.pmap {id_} \"$(seq 30)\" 'read x; sleep 0.01; echo $x'"
    results = "".join(f"{number}\n" for number in range(1, 31))
    for to in ("2>/dev/full", "2>&-", "2> >(true)"):
        assert run(f"{job} {to}") == (0, results, "")
    code, out, err = run(f"{job} 2>&1 >/dev/full")
    assert (code, err) == (1, "")
    assert out.splitlines()[-1].startswith(f"cannot write to stdout: {FULL}; all tasks are done; to print this again")
    code, out, err = run(f"{job} | head -n 1")
    assert (code in (0, 141), out) == (True, "1\n")
    assert "30 of 30 tasks done" in err


def test_under_nohup_the_end_of_the_terminal_ends_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.raised():
            os.kill(os.getpid(), signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with pytest.raises(signals.Signal), signals.raised():
            os.kill(os.getpid(), signal.SIGHUP)
            time.sleep(5)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    "arguments",
    [
        ["ec2.rm", "\udcff", "-y"],
        ["ec2.new", "--name", "a\udcff"],
        ["ec2.new", "--tag", "a=\udcff"],
        ["ec2.new", "--ami", "\udcff"],
        ["ec2.new", "--vpc", "\udcff"],
        ["ec2.new", "--sg", "\udcff"],
        ["ec2.new", "--key", "/\udcff"],
        ["ec2.new", "--key", "~nobody-here/x"],
        ["ec2.new", "--init", "~nobody-here/x"],
        ["ec2.sg", "\udcff"],
        ["ec2.new-vpc", "\udcff"],
        ["ec2.push", "\udcff", ":x", "i-00000000", "-y"],
        ["ec2.push", "~nobody-here/x", ":x", "i-00000000", "-y"],
        ["ec2.ssh", "i-00000000", "-yc", "x", "--stdin", "~nobody-here/x"],
        ["mapreduce.pmap", "i-00000000", "@~nobody-here/x", "true"],
    ],
)
def test_what_cannot_be_text_or_a_path_is_told_in_a_line(
    arguments: list[str], shell: Shell, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        Program(name="hardway", binary="hardway", namespace=ns).run(["hardway", *arguments])
    said = capsys.readouterr()
    assert (exit.value.code, said.out, "a bug" in said.err) == (2, "", False), said.err
    assert said.err.splitlines()[-1].isprintable()
    assert not list(home.rglob("errors.log"))
