"""`aws.budget`: a launch that may exceed it is asked about, and nothing is started without an answer."""

from __future__ import annotations

import re
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from invoke import Context

from hardway.errors import UsageError
from hardway.files import state_directory
from tasks import ec2
from tests.ec2.conftest import Shell

C = Context()


def kept() -> Path:
    """The file of what this month's instances have cost."""
    return state_directory("costs") / f"{datetime.now(timezone.utc):%Y-%m}"


@pytest.fixture(autouse=True)
def alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner without other instances: those of other tests run in the same cloud."""
    monkeypatch.setenv("LOGNAME", name)


def test_a_launch_that_may_exceed_the_budget_is_asked_about(
    shell: Shell, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INVOKE_AWS_BUDGET", "2.5")
    assert ec2.new(C, name=name, max_hours=1, wait=False)
    new: dict[str, Any] = {"name": name, "num": 3, "max_hours": 10, "wait": False}
    with pytest.raises(UsageError, match="add --yes") as error:
        ec2.new(C, **new)
    total, spent, ahead = re.findall(r"\$([\d.]+)", str(error.value))[:3]
    assert 3 < float(total) < 3.2
    assert float(spent) < 0.01 < 0.09 < float(ahead) <= 0.1
    assert "$3.00 for 3 x m7i.large on demand: $0.30/hour), and INVOKE_AWS_BUDGET is $2.50. Start them?" in str(error)
    assert len(shell.states(name)) == 1
    assert len(ec2.new(C, **new, yes=True)) == 3


def test_what_has_ended_still_counts(shell: Shell, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVOKE_AWS_BUDGET", "50")
    (kept().parent / "2020-01").write_text("i-1 1000\n")
    kept().write_text("i-1 49\ni-1 48\nnonsense\ni-2 nan\ni-3 0.5\n\xff")
    with pytest.raises(UsageError, match=r"\(\$49\.50 so far, "):
        ec2.new(C, name=name, max_hours=10, wait=False)
    assert not (kept().parent / "2020-01").exists()
    kept().write_text("i-1 40\n")
    ids = ec2.new(C, name=name, max_hours=10, wait=False)
    ec2.rm(C, ids, yes=True)
    assert re.search(rf"^{ids[0]} 0\.\d+$", kept().read_text(), re.MULTILINE)


def test_what_is_not_known_is_said_and_asks_nothing(
    shell: Shell, price_cache: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("INVOKE_AWS_BUDGET", "0.01")
    monkeypatch.setenv("AWS_ENDPOINT_URL_PRICING", "http://127.0.0.1:9")
    assert ec2.new(C, name=name, wait=False)
    said = capsys.readouterr().err
    [line] = [line for line in said.splitlines() if line.startswith("aws.budget: not counted: ")]
    assert "the new instances, whose price is not known" in line
