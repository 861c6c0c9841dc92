"""The nightly job in a local cloud: called as a function with settings of the test's own, and run as cron does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from invoke import Config, Context

from hardway.pytest_plugin import LocalCloud
from hardway.s3.stub_sessions import Session
from hardway.tasks import ec2
from tasks import nightly

HERE = Path(__file__).parent
LOGS = {
    "1": '::1 - - [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.0" 200 2326\n' * 3,
    "2": '::1 - ann [10/Oct/2000:13:55:36 -0700] "GET /no such HTTP/1.0" 404 0\n::1 - - [] "GET / HTTP/1.0" 200 1\n',
    "3": "",
}


@pytest.fixture
def logs(s3_stub: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The file with the logs' URLs."""
    monkeypatch.chdir(HERE)
    for name, text in LOGS.items():
        subprocess.run(["aws", "s3", "cp", "--quiet", "-", f"s3://logs/{name}"], input=text, text=True, check=True)
    urls = tmp_path / "urls.txt"
    urls.write_text("".join(f"s3://logs/{name}\n" for name in LOGS))
    return str(urls)


def test_it_counts_and_ends_its_cluster(local_cloud: LocalCloud, logs: str) -> None:
    c = Context(Config(overrides={"ec2": {"num": 2, "name": "test"}}))
    assert nightly(c, logs) == {"200": 4, "404": 1}
    assert [one.state for one in ec2.ls(c, only="test")].count("running") == 0


def test_it_ends_its_cluster_when_a_step_fails(
    local_cloud: LocalCloud, logs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(logs).write_text("s3://logs/nowhere\n")
    monkeypatch.setenv("INVOKE_EC2_NUM", "2")
    monkeypatch.setenv("INVOKE_MAPREDUCE_RETRIES", "0")
    run = subprocess.run([sys.executable, "-m", "invoke", "nightly", "--logs", logs], capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (1, "")
    assert [(one.spot, one.type) for one in ec2.ls(Context(), only="nightly")] == [(True, "c7i.large")] * 2
    with pytest.raises(Exception, match="no running instance"):
        ec2.id(Context(), "nightly")
