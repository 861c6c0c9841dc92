"""Instances for the length of a block, or of a command: nothing runs after its end, however it ends."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from invoke import Context

from hardway.errors import UsageError
from tasks import ec2
from tests.ec2.conftest import Shell
from tests.ec2.faulty import Answer, FaultyEC2, Forward, refused
from tests.local.conftest import eventually
from tests.patience import patience


def test_a_command_has_the_ids_and_its_end_is_theirs(shell: Shell, name: str) -> None:
    done = shell("ec2.new", "--name", name, "--num", "2", "--for", 'echo "<$ids>"; echo said >&2; exit 7')
    states = shell.states(name)
    assert done.code == 7 and {*states.values()} <= {"shutting-down", "terminated"} and len(states) == 2
    assert {*done.stdout.strip("<>\n").split("\n")} == {*states}
    assert "\nsaid\n" in done.stderr and "terminated 2 instances, cost so far: " in done.stderr


def test_a_signal_ends_the_command_and_all_it_started(shell: Shell, name: str, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    command = f"bash -c 'echo $$ >{note}.new; mv {note}.new {note}; sleep 600'; echo over"
    with shell.running("ec2.new", "--name", name, "--for", command) as process:
        eventually(note.exists, seconds=60)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=patience(60))
    assert (process.returncode, stdout) == (143, ""), stderr
    assert {*shell.states(name).values()} <= {"shutting-down", "terminated"}
    # Its parent is dead, too: the system collects it a moment later.
    eventually(lambda: not Path("/proc", note.read_text().strip()).exists(), seconds=10)


def test_an_error_in_a_block_ends_them_even_if_ec2_hesitates(
    shell: Shell, name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    faulty = FaultyEC2(shell.cloud.env)
    asked = []

    def plan(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        if action == "TerminateInstances":
            asked.append(parameters)
            if len(asked) == 1:
                return refused("UnauthorizedOperation")
        return forward()

    faulty.plan = plan
    monkeypatch.setenv("AWS_ENDPOINT_URL", faulty.endpoint)
    try:
        with pytest.raises(ZeroDivisionError), ec2.cluster(Context(), name=name, wait=False) as ids:
            assert [*shell.states(name)] == ids
            raise ZeroDivisionError
    finally:
        faulty.close()
    assert len(asked) == 2 and {*shell.states(name).values()} <= {"shutting-down", "terminated"}
    assert "terminated 1 instance" in capfd.readouterr().err


def test_a_cluster_of_unknown_flags_is_none(shell: Shell) -> None:
    with pytest.raises(UsageError, match=r"nmu.*did you mean num"), ec2.cluster(Context(), nmu=3):
        pass
    for flags in (["--for", ""], ["--for", "ls", "--login"]):
        done = shell("ec2.new", *flags)
        assert (done.code, done.stdout, done.stderr.count("\n")) == (2, "", 1) and "--for" in done.stderr
