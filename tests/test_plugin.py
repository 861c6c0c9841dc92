"""The pytest plugin: what its fixtures give, what they keep away, and that nothing stays, however pytest ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from invoke import Context

from hardway.errors import HardwayError
from hardway.pytest_plugin import LocalCloud, start_local_cloud
from hardway.s3.stub_sessions import Session
from tasks import ec2
from tests.conftest import exports, run_inv
from tests.patience import patience
from tests.test_docs import blocks

pytestmark = pytest.mark.starts

SECONDS = 30
OF_A_PERSON = {
    "AWS_PROFILE": "production",
    "AWS_ACCESS_KEY_ID": "REAL",
    "AWS_SECRET_ACCESS_KEY": "REAL",
    "AWS_SESSION_TOKEN": "REAL",
    "AWS_ENDPOINT_URL_EC2": "http://127.0.0.1:1",
    "INVOKE_AWS_REGION": "eu-west-1",
    "INVOKE_EC2_VPC": "vpc-12345678",
    "INVOKE_MAPREDUCE_SLOTS": "7",
    "region": "eu-west-1",
    "s3_stubbed_session": "of-a-person",
    "s3_stubbed_tmp": "/nowhere",
}


@pytest.fixture
def person(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tests are run by somebody with an AWS account, whose environment is as it was when all is over."""
    monkeypatch.setattr("boto3.DEFAULT_SESSION", boto3.Session("REAL", "REAL", "REAL", "us-west-2"))
    for name, value in OF_A_PERSON.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTEST_CURRENT_TEST")
    before, session = dict(os.environ), boto3.DEFAULT_SESSION
    yield
    del os.environ["PYTEST_CURRENT_TEST"]
    assert (dict(os.environ), boto3.DEFAULT_SESSION) == (before, session)


@pytest.mark.instances(2, name="own")
def test_a_person_has_none_of_their_aws_in_it(
    person: None,
    s3_stub: Session,
    local_cloud: LocalCloud,
    instances: list[str],
    local_faults: Callable[..., None],
) -> None:
    c = Context()
    assert not [name for name, value in OF_A_PERSON.items() if os.environ.get(name) == value]
    assert exports(run_inv("local.env").stdout) == local_cloud.environment
    assert [(one.name, one.state) for one in ec2.ls(c, only=instances)] == [("own", "running")] * 2
    credentials = boto3.client("s3")._request_signer._credentials
    assert (credentials.access_key, credentials.token) == ("local", None)

    subprocess.run(["bash", "-c", "echo kept | aws s3 cp --quiet - s3://b/k"], check=True)
    ec2.ssh(c, instances[0], "aws s3 cp --quiet s3://b/k s3://b/copy", yes=True)
    got = subprocess.run(["aws", "s3", "cp", "s3://b/copy", "-"], capture_output=True, text=True, check=True)
    assert got.stdout == "kept\n"

    with pytest.raises(HardwayError, match="did you mean kill"):
        local_faults("kil", instances)
    local_faults("kill", instances)
    with pytest.raises(HardwayError, match="is terminated"):
        ec2.id(c, instances)


def test_two_clouds_and_two_regions_in_a_process(
    person: None, local_cloud: LocalCloud, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    c = Context()
    [here] = ec2.new(c, wait=False)
    with ec2.region(c, "eu-west-1"):
        [abroad] = ec2.new(c, wait=False)
        assert [one.id for one in ec2.ls(c)] == [abroad]
    with start_local_cloud(tmp_path) as other:
        assert other.running.endpoint != local_cloud.running.endpoint
        assert ec2.ls(c) == []
        [there] = ec2.new(c, name="other")
        ec2.ssh(c, there, "hostname", yes=True)
        assert capsys.readouterr().out.startswith(f"other {there}: ip-127-77-")
        assert [one.id for one in ec2.ls(c)] == [there]
    assert [one.id for one in ec2.ls(c)] == [here]
    assert ec2.id(c, abroad, region="eu-west-1") == [abroad]


def test_a_run_of_pytest_without_our_fixtures_imports_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import sys\n"
        "def test_it(pytestconfig):\n"
        "    assert 'hardway.pytest_plugin' in sys.modules\n"
        "    ours = [name for name in sys.modules if name.startswith('hardway.') and not name.endswith('_plugin')]\n"
        "    assert not {'boto3', 'invoke', 'fabric', 'moto', 'asyncssh', *ours}.intersection(sys.modules)\n"
        "    assert any(line.startswith('instances(') for line in pytestconfig.getini('markers'))\n"
    )
    done = subprocess.run(pytest_command("--strict-markers"), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("begun", "boot_delay"), [("jobs/*/journal", 0), ("launches/*", 60)], ids=["in a task", "in a launch"]
)
def test_ctrl_c_in_what_is_ours_ends_the_run(home: Path, tmp_path: Path, begun: str, boot_delay: int) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pathlib, pytest\n"
        "from invoke import Context\n"
        "from hardway.tasks import ec2, mapreduce\n"
        "def test_before(): pass\n"
        "def test_it(instances):\n"
        "    mapreduce.pmap(Context(), instances, ['1'], 'sleep 60')\n"
        "def test_after(): pathlib.Path('after').touch()\n"
    )
    directory = tmp_path / "tmp"
    command = [*pytest_command("-p", "no:randomly"), f"--basetemp={directory}"]
    environment = {**os.environ, "INVOKE_LOCAL_BOOT_DELAY": str(boot_delay)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as running:
        try:
            eventually(lambda: any(directory.glob(f"hardway0/state/hardway/{begun}")))
            os.killpg(running.pid, signal.SIGINT)
            output, _ = running.communicate(timeout=patience(SECONDS))
        finally:
            running.kill()
    assert running.returncode == pytest.ExitCode.INTERRUPTED, output
    assert "1 passed" in output
    assert not (tmp_path / "after").exists()


@pytest.mark.parametrize(
    ("how", "options", "conftest"),
    [(signal.SIGINT, ["-n2"], ""), (signal.SIGKILL, [], blocks("testing", "python")[2])],
)
def test_nothing_stays_however_pytest_ends(
    home: Path, tmp_path: Path, how: signal.Signals, options: list[str], conftest: str
) -> None:
    """Two workers of xdist have a cloud each; Ctrl-C at a terminal is for all of its processes."""
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_it.py").write_text(
        "import os, pathlib, time, pytest\n"
        "@pytest.mark.parametrize('number', range(2))\n"
        "def test_it(local_cloud, s3_stub, number):\n"
        "    assert local_cloud.environment.items() <= os.environ.items()\n"
        "    pathlib.Path(f'up{number}').write_text(f'{local_cloud.running.pid} {local_cloud.directory}')\n"
        "    time.sleep(60)\n"
    )
    expected = [tmp_path / f"up{number}" for number in range(2 if options else 1)]
    command = [*pytest_command(*options), f"--basetemp={tmp_path / 'tmp'}"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, start_new_session=True) as running:
        try:
            eventually(lambda: all(file.exists() and file.read_text() for file in expected))
            daemons = [file.read_text().split() for file in expected]
            assert all(Path("/proc", pid).exists() for pid, _ in daemons)
            assert len({directory for _, directory in daemons}) == len(expected)
            os.killpg(running.pid, how)
            running.wait(patience(SECONDS))
        finally:
            running.kill()
    eventually(lambda: not any(Path(path).exists() for pid, state in daemons for path in (f"/proc/{pid}", state)))


def pytest_command(*options: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", *options]


def eventually(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + patience(SECONDS)
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)
