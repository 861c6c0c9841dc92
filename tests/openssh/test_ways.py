"""Ways to a host behind Debian's sshd: bastions, private addresses, Systems Manager; by Fabric and by ssh."""

from __future__ import annotations

import contextlib
import getpass
import http.server
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from invoke import Context

from hardway import config
from hardway.config import Settings
from hardway.ec2.instances import Instance
from hardway.errors import UsageError
from hardway.fanout import rsync, transfer
from hardway.fanout.group import CommandResult, InstanceGroup, report
from hardway.pmap.link import Link
from hardway.ssh import connection as ssh
from hardway.ssh import proxy
from hardway.ssh.keys import HostKeys, own_key_path
from tests.openssh.conftest import instance
from tests.openssh.systems_manager import AWS, ended, stand_ins, write
from tests.openssh.test_group import run
from tests.patience import eventually, patience


@pytest.fixture
def bastions(start_sshd: Callable[..., int], home: Path) -> Iterator[tuple[int, int]]:
    """The ports of two bastions, through both of which alone ~/.ssh/config leads to 127.78.0.*."""
    ports = start_sshd(0, "LogLevel DEBUG1"), start_sshd(0, "LogLevel DEBUG1")
    (home / ".ssh").mkdir(exist_ok=True)
    first, second = (f"{getpass.getuser()}@127.78.0.{n + 1}:{port}" for n, port in enumerate(ports))
    (home / ".ssh" / "config").write_text(
        f'Host 127.78.0.5\n  ProxyJump {first},{second}\nHost 127.78.0.*\n  IdentityFile "{own_key_path()}"\n'
    )
    yield ports


def asked_for(tmp_path: Path, sshd: int) -> list[str]:
    """Where the sshd was asked to connect to, as host:port."""
    lines = (tmp_path / f"sshd{sshd}" / "log").read_text().splitlines()
    words = [line.split("target ")[1].split() for line in lines if "server_request_direct_tcpip: " in line]
    return [f"{host}:{port.rstrip(',')}" for host, _, port, *_ in words]


def test_bastions_are_passed_in_the_order_listed(
    bastions: tuple[int, int], start_sshd: Callable[..., int], settings: Settings, tmp_path: Path, home: Path
) -> None:
    port = start_sshd(0)
    host = instance(4, port)
    ways = [f"127.78.0.2:{bastions[1]}"], [f"127.78.0.5:{port}"]

    [result] = run([host], settings, "echo in")
    assert (result.stdout, asked_for(tmp_path, 0), asked_for(tmp_path, 1)) == (b"in\n", *ways)

    command = [*ssh.login_command(host, settings), "echo in"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=patience(60))
    assert (done.returncode, done.stdout, done.stderr) == (0, "in\n", "")
    assert (asked_for(tmp_path, 0), asked_for(tmp_path, 1)) == (ways[0] * 2, ways[1] * 2)

    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("content")
    group = InstanceGroup([host], settings)
    report(rsync.sync(group, tmp_path / "tree", transfer.Remote(str(tmp_path / "copy"))), lambda line: None)
    assert (tmp_path / "copy" / "file").read_text() == "content"
    assert set(asked_for(tmp_path, 1)) == set(ways[1])
    assert not (home / ".ssh" / "known_hosts").exists()


@pytest.mark.parametrize("by_ssh", [False, True], ids=["fabric", "ssh"])
def test_a_bastion_with_another_host_key_is_refused(
    bastions: tuple[int, int], start_sshd: Callable[..., int], settings: Settings, tmp_path: Path, by_ssh: bool
) -> None:
    host = instance(4, start_sshd(0))
    kind, other_key, *_ = (tmp_path / "sshd0" / "host_key.pub").read_text().split()
    HostKeys().remember(f"[127.78.0.2]:{bastions[1]}", kind, other_key)
    if by_ssh:
        command = [*ssh.login_command(host, settings), "echo in"]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=patience(60))
        assert (done.returncode, done.stdout) == (255, "")
    else:
        [outcome] = run([host], settings, "echo in")
        assert "the bastion 127.78.0.2 has another host key" in str(outcome)
    assert asked_for(tmp_path, 1) == []


def test_a_host_silent_behind_a_bastion_is_given_up(bastions: tuple[int, int], settings: Settings) -> None:
    """Nor does the bastion's connection stay."""
    threads = threading.active_count()
    with socket.create_server(("127.78.0.5", 0)) as silent:
        quick = replace(settings, ec2=replace(settings.ec2, connect_timeout=1))
        [outcome] = run([instance(4, silent.getsockname()[1])], quick, "true")
    assert isinstance(outcome, ssh.ConnectError)
    deadline = time.monotonic() + patience(5)
    while threading.active_count() > threads:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_private_addresses(hosts: list[Instance], settings: Settings) -> None:
    inside = [replace(host, public_ip="127.78.0.250") for host in hosts[:2]]
    private = replace(settings, ec2=replace(settings.ec2, private_ip=True))
    assert [result.stdout for result in run(inside, private, "echo in")] == [b"in\n"] * 2
    assert ssh.login_command(inside[0], private)[-1].endswith("@127.78.0.1")
    assert all(isinstance(outcome, ssh.ConnectError) for outcome in run(inside, settings, "echo in"))


@pytest.fixture
def programs(hosts: list[Instance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in front of PATH with a session-manager-plugin."""
    directory = stand_ins(tmp_path, {host.id: host.public_ip for host in hosts})
    (directory / "aws").unlink()
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    return directory


@pytest.fixture
def stand_in(programs: Path) -> Path:
    """The same, with an `aws` there that knows this one command."""
    write(programs / "aws", AWS)
    return programs


@pytest.fixture
def by_ssm(settings: Settings, hosts: list[Instance], programs: Path) -> Settings:
    return replace(settings, ec2=replace(settings.ec2, via="ssm"))


def behind(hosts: list[Instance]) -> list[Instance]:
    """The same hosts, at addresses where nobody answers."""
    return [replace(host, public_ip="", private_ip="127.78.0.250") for host in hosts]


def test_systems_manager_carries_commands_logins_and_rsync(
    hosts: list[Instance], by_ssm: Settings, stand_in: Path, tmp_path: Path
) -> None:
    data = os.urandom(3_000_000)
    results = run(behind(hosts), by_ssm, "cat; echo err >&2; exit 3", stdin=lambda: iter([data]))
    assert [(r.stdout == data, r.stderr, r.exit_code) for r in results] == [(True, b"err\n", 3)] * len(hosts)
    assert ended(stand_in)

    [host] = behind(hosts[:1])
    command = [*ssh.login_command(host, by_ssm), "echo in"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=patience(60))
    assert (done.returncode, done.stdout, done.stderr) == (0, "in\n", "")

    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("content")
    group = InstanceGroup([host], by_ssm)
    report(rsync.sync(group, tmp_path / "tree", transfer.Remote(str(tmp_path / "copy"))), lambda line: None)
    assert (tmp_path / "copy" / "file").read_text() == "content"
    assert ended(stand_in)


def test_what_systems_manager_refuses_is_said(hosts: list[Instance], by_ssm: Settings, stand_in: Path) -> None:
    (stand_in / "refusal").write_text("\nAn error occurred (TargetNotConnected): i-0 is not connected.\n")
    begun = time.monotonic()
    outcomes = run(behind(hosts), by_ssm, "true")
    assert all("(TargetNotConnected): i-0 is not connected." in str(outcome) for outcome in outcomes)
    assert time.monotonic() - begun < by_ssm.ec2.connect_timeout


def many(host: Instance, programs: Path, count: int) -> list[Instance]:
    """So many instances which all are this host."""
    found = [replace(host, id=f"i-{number:017x}", public_ip="127.78.0.250") for number in range(count)]
    (programs / "addresses").write_text(json.dumps({one.id: host.public_ip for one in found}))
    return found


def test_few_programs_start_at_a_time(hosts: list[Instance], by_ssm: Settings, stand_in: Path) -> None:
    """Each takes half a CPU second until it carries anything: of a hundred at once none would be in time."""
    (stand_in / "aws").rename(stand_in / "aws.py")
    note = 'echo {} >>"${{0%/*}}/starting"'
    start = "\n".join(["#!/bin/sh", note.format("+"), "sleep 0.3", note.format("-"), 'exec "${0%/*}/aws.py" "$@"', ""])
    write(stand_in / "aws", start)
    results = run(many(hosts[0], stand_in, 20), by_ssm, "echo in")
    assert [result.stdout for result in results] == [b"in\n"] * 20
    steps = [{"+": 1, "-": -1}[line] for line in (stand_in / "starting").read_text().split()]
    assert 1 < max(itertools.accumulate(steps)) <= 8


@contextlib.contextmanager
def ctrl_c_beside(programs: Path, count: int) -> Iterator[None]:
    """Interrupt the block when so many programs run."""
    running = programs / "running"

    def interrupt() -> None:
        eventually(lambda: running.exists() and len(running.read_text().splitlines()) >= count)
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    try:
        yield
    finally:
        interrupting.join()


def test_whose_turn_has_not_come_when_ctrl_c_does_is_not_connected_to(
    hosts: list[Instance], by_ssm: Settings, programs: Path
) -> None:
    write(programs / "aws", '#!/bin/sh\necho $$ x >>"${0%/*}/running"\nexec sleep 60\n')
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt), ctrl_c_beside(programs, 8):
        run(many(hosts[0], programs, 40), by_ssm, "true")
    assert time.monotonic() - begun < patience(2) * by_ssm.ec2.connect_timeout
    assert len((programs / "running").read_text().splitlines()) <= 8
    assert ended(programs)


def test_a_job_that_is_over_connects_to_nobody_any_more(
    hosts: list[Instance], by_ssm: Settings, stand_in: Path
) -> None:
    """A worker whose turn comes only now would start a program that nobody ends."""
    over = threading.Event()
    refused: list[BaseException] = []

    def connect() -> None:
        try:
            Link(hosts[0], SimpleQueue()).connect(by_ssm, {}, "job", over=over)
        except ssh.ConnectError as error:
            refused.append(error)

    with contextlib.ExitStack() as turns:
        for _ in range(8):
            turns.enter_context(ssh._turns)
        waiting = threading.Thread(target=connect)
        waiting.start()
        over.set()
        waiting.join(patience(10))
    assert len(refused) == 1
    assert not (stand_in / "running").exists()


def test_ctrl_c_ends_the_programs_too(hosts: list[Instance], by_ssm: Settings, stand_in: Path) -> None:
    with pytest.raises(KeyboardInterrupt), ctrl_c_beside(stand_in, 3):
        run(behind(hosts[:3]), by_ssm, "sleep 20")
    assert ended(stand_in)


def test_a_program_that_does_not_end_is_ended(hosts: list[Instance], by_ssm: Settings, programs: Path) -> None:
    write(programs / "aws", "#!/bin/sh\ntrap '' TERM\necho $$ x >>\"${0%/*}/running\"\nwhile :; do sleep 1; done\n")
    quick = replace(by_ssm, ec2=replace(by_ssm.ec2, connect_timeout=1))
    [outcome] = run(behind(hosts[:1]), quick, "true")
    assert isinstance(outcome, ssh.ConnectError)
    assert ended(programs)


def test_the_real_aws_takes_our_command(
    hosts: list[Instance], by_ssm: Settings, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """awscli itself, which checks the command against the service's model; only the service is a stand-in."""
    asked: list[Any] = []

    class StartSession(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.headers["X-Amz-Target"], json.loads(body)))
            answer = json.dumps({"SessionId": "s", "TokenValue": "t", "StreamUrl": "wss://localhost"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None: ...

    # Not the script of that name: its first line can't name a Python whose path has a blank.
    write(programs / "aws", f'#!/bin/sh\nexec "{sys.executable}" -m awscli "$@"\n')
    server = http.server.HTTPServer(("127.0.0.1", 0), StartSession)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
        }.items():
            monkeypatch.setenv(name, value)
        [host] = behind(hosts[:1])
        [result] = run([host], replace(by_ssm, aws=replace(by_ssm.aws, region="")), "echo in")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert isinstance(result, CommandResult), result
    assert result.stdout == b"in\n"
    parameters = {"portNumber": [host.tags["ssh-port"]]}
    expected = {"Target": host.id, "DocumentName": "AWS-StartSSHSession", "Parameters": parameters}
    assert asked == [("AmazonSSM.StartSession", expected)]
    assert (programs / "running").read_text().split()[1] == "us-east-1"
    assert ended(programs)


def test_missing_programs_are_named(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--via is 'sms': it must be one of ssm, empty"):
        config.settings(Context(), ec2={"via": "sms"})
    by_ssm = config.settings(Context(), ec2={"via": "ssm"})
    monkeypatch.setenv("PATH", str(programs))
    with pytest.raises(UsageError, match="--via ssm needs the AWS CLI"):
        proxy.check(by_ssm)
    (programs / "stub_s3.sh").touch()
    write(programs / "aws", "the stub of aws s3, which is not it")
    with pytest.raises(UsageError, match="--via ssm needs the AWS CLI"):
        proxy.check(by_ssm)
    (programs / "stub_s3.sh").unlink()
    (programs / "session-manager-plugin").unlink()
    with pytest.raises(UsageError, match="--via ssm needs the session-manager-plugin"):
        proxy.check(by_ssm)
