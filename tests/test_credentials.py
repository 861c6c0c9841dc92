"""Where credentials come from: one session for all clients of a command, kept as the AWS CLI keeps it; one line if not.

moto answers, over HTTP, as the Security Token Service and as EC2.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Result, run_inv
from tests.local.test_moto_patches import SERVER
from tests.patience import patience

ROLE = "arn:aws:iam::123456789012:role/admin"
MFA = "arn:aws:iam::123456789012:mfa/me"
# A launch that waits for nobody: it uses EC2, IAM, prices and Systems Manager.
LAUNCH = ("ec2.new", "--no-wait", "--name", "mine", "--sg", "default", "--ami", "ami-03cf127a", "--role", "norole")
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin and process.stdout
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()
            process.wait(patience(30))


@pytest.fixture
def run(home: Path, endpoint: str) -> Run:
    """Run a task as a person with this ~/.aws/config, who has no terminal, and types `typed`."""
    (home / ".aws").mkdir()

    def run(*arguments: str, config: str, typed: str = "") -> Result:
        (home / ".aws/config").write_text(textwrap.dedent(config))
        env = {"AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1", "AWS_PROFILE": "work"}
        return run_inv(*arguments, env=env, stdin=typed, start_new_session=True)

    return run


WITH_MFA = f"""
    [profile base]
    aws_access_key_id = x
    aws_secret_access_key = x
    [profile work]
    role_arn = {ROLE}
    mfa_serial = {MFA}
    source_profile = base
"""


def test_a_code_is_asked_for_once_and_not_again(run: Run, home: Path) -> None:
    first = run(*LAUNCH, config=WITH_MFA, typed="123456\n")
    assert (first.code, first.stderr.count("Enter MFA code")) == (2, 1), first.stderr
    assert "norole" in first.stderr  # it has come as far as EC2's answer
    second = run("ec2.ls", config=WITH_MFA)
    assert (second.code, second.stderr) == (0, "no instances\n")
    [kept] = (home / ".aws/cli/cache").glob("*.json")  # where the AWS CLI looks
    assert kept.stat().st_mode & 0o777 == 0o600
    assert json.loads(kept.read_text())["Credentials"]["SessionToken"]


@pytest.mark.parametrize("damage", ["{", ""])
def test_a_damaged_cache_is_asked_for_anew(run: Run, home: Path, damage: str) -> None:
    run("ec2.ls", config=WITH_MFA, typed="123456\n")
    [kept] = (home / ".aws/cli/cache").glob("*.json")
    kept.write_text(damage)
    assert run("ec2.ls", config=WITH_MFA, typed="123456\n").code == 0
    assert run("ec2.ls", config=WITH_MFA).code == 0


def test_a_home_that_cannot_be_written_to_is_no_obstacle(run: Run, home: Path) -> None:
    (home / ".aws/cli").write_text("in the way")
    assert run("ec2.ls", config=WITH_MFA, typed="123456\n").stderr.endswith("no instances\n")


def test_nobody_to_ask_is_a_line(run: Run) -> None:
    result = run("ec2.ls", config=WITH_MFA)
    assert (result.code, result.stdout) == (2, "")
    assert "no MFA code was given" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_a_process_is_run_once_for_all_clients(run: Run, home: Path) -> None:
    program = home / "credentials"
    known = {"Version": 1, "AccessKeyId": "x", "SecretAccessKey": "x"}
    program.write_text(f"#!/bin/sh\necho run >> {home}/runs\necho '{json.dumps(known)}'\n")
    program.chmod(0o755)
    result = run(*LAUNCH, config=f"[profile work]\ncredential_process = {program}\n")
    assert "norole" in result.stderr
    assert (home / "runs").read_text() == "run\n"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("credential_process = /no/such/program", "/no/such/program"),
        ("credential_process = sh -c 'exit 3'", "credential_process"),
        ("credential_process = sh -c 'echo no; echo Traceback >&2; echo login first >&2; exit 1'", "login first"),
        ("credential_process = echo hello", "has not printed JSON"),
        ("credential_process = printf '\\377'", "has not printed JSON"),
        ("credential_process = echo []", "AWS credentials"),
        ("credential_process = echo '{}'", "credential_process"),
        (f"role_arn = {ROLE}\nweb_identity_token_file = /no/such/token", "/no/such/token: no such file"),
        (f"role_arn = {ROLE}\nweb_identity_token_file = /", "/: is a directory"),
        (f"role_arn = {ROLE}\nsource_profile = nobody", "nobody"),
        (f"role_arn = {ROLE}\ncredential_source = Nowhere", "Nowhere"),
        ("sso_session = nobody\nsso_account_id = 1\nsso_role_name = x", "nobody"),
    ],
)
def test_a_broken_source_is_a_line(run: Run, config: str, said: str) -> None:
    result = run("ec2.ls", config=f"[profile work]\n{config}\n")
    assert (result.code, result.stdout) == (2, ""), result
    [line] = result.stderr.splitlines()
    assert said in line
    assert len(line) < 500
