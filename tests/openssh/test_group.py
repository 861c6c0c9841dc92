"""Commands on a group of hosts behind Debian's sshd: output, exit codes, time limits, host keys, ways in."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import paramiko
import pytest

from hardway.config import Settings
from hardway.ec2.instances import Instance
from hardway.errors import UsageError
from hardway.fanout import commands
from hardway.fanout.group import CommandError, CommandResult, InstanceGroup, Printer, report
from hardway.ssh import connection as ssh
from hardway.ssh.script import Script
from tests.patience import patience


def run(hosts: list[Instance], settings: Settings, command: str | Script, **options: Any) -> list[Any]:
    group = InstanceGroup(hosts, settings)
    outcomes = group.execute(command, **options)
    return [outcomes[connection] for connection in group]


def test_output_and_exit_codes_come_back_apart(hosts: list[Instance], settings: Settings) -> None:
    results = run(hosts, settings, "echo out; echo err >&2; exit 3")
    assert len(results) == len(hosts)
    for host, result in zip(hosts, results, strict=True):
        assert (result.instance, result.stdout, result.stderr, result.exit_code) == (host, b"out\n", b"err\n", 3)


def test_every_byte_survives(hosts: list[Instance], settings: Settings) -> None:
    data = bytes(range(256)) * 5000

    def chunks() -> Iterator[bytes]:
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    for result in run(hosts[:2], settings, "cat; cat /dev/null >&2", stdin=chunks):
        assert result.stdout == data


def test_lines_are_whole_and_named(
    hosts: list[Instance], settings: Settings, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    command = "for i in 1 2 3 4 5; do printf 'begin-%s-' $i; sleep 0.02; printf 'end\\n'; done; printf '\\377last'"
    run(hosts, settings, command, printer=Printer(prefix=True, sole=False))
    lines = capfdbinary.readouterr().out.splitlines()
    expected = [
        f"{host}: ".encode() + line
        for host in hosts
        for line in [*(f"begin-{i}-end".encode() for i in range(1, 6)), b"\xfflast"]
    ]
    assert sorted(lines) == sorted(expected)


def test_a_sole_host_without_names_is_verbatim(
    hosts: list[Instance], settings: Settings, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    run(hosts[:1], settings, "printf 'no newline\\000'; printf oops >&2", printer=Printer(prefix=False, sole=True))
    captured = capfdbinary.readouterr()
    assert (captured.out, captured.err) == (b"no newline\x00", b"oops")


def test_output_comes_while_the_command_runs(hosts: list[Instance], settings: Settings, tmp_path: Path) -> None:
    flag = tmp_path / "seen"
    seen: list[bytes] = []

    class Recorder(Printer):
        def write(self, instance: Instance, data: bytes, error: bool) -> None:
            seen.append(data)
            flag.touch()

    command = f"echo first; for i in $(seq 500); do [ -e '{flag}' ] && exit 0; sleep 0.02; done; exit 9"
    [result] = run(hosts[:1], settings, command, printer=Recorder(prefix=False, sole=True))
    assert result.exit_code == 0
    assert seen[0] == b"first\n"


def test_a_command_past_its_time_is_ended_there(hosts: list[Instance], settings: Settings, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    limit = round(patience(1))
    outcomes = run(hosts[:1], settings, f"echo $$ > '{pid_file}'; echo kept; exec sleep 1000", timeout=limit)
    assert isinstance(outcomes[0], CommandError)
    assert f"still running after {limit} s" in str(outcomes[0])
    assert not _alive(int(pid_file.read_text()))


def test_something_left_behind_holds_nothing_up(hosts: list[Instance], settings: Settings, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    begun = time.monotonic()
    [result] = run(hosts[:1], settings, f"sleep 60 & echo $! > '{pid_file}'; echo started")
    try:
        assert (result.stdout, result.exit_code) == (b"started\n", 0)
        assert time.monotonic() - begun < patience(30)
    finally:
        os.kill(int(pid_file.read_text()), 9)


def test_a_failing_host_leaves_the_others_results(hosts: list[Instance], settings: Settings) -> None:
    gone = replace(hosts[0], id="i-0000000000000dead", tags={**hosts[0].tags, "ssh-port": "1"})
    results = run([hosts[1], gone, hosts[2]], settings, "echo here")
    assert [getattr(result, "stdout", None) for result in results] == [b"here\n", None, b"here\n"]
    assert isinstance(results[1], ssh.ConnectError)
    assert "connection refused" in str(results[1])


def test_a_silent_host_is_given_up(hosts: list[Instance], settings: Settings) -> None:
    import socket

    with socket.create_server(("127.78.0.200", 0)) as silent:
        port = str(silent.getsockname()[1])
        host = replace(hosts[0], public_ip="127.78.0.200", tags={**hosts[0].tags, "ssh-port": port})
        quick = replace(settings, ec2=replace(settings.ec2, connect_timeout=1))
        [outcome] = run([host], quick, "true")
    assert isinstance(outcome, ssh.ConnectError)
    assert "No existing session" not in str(outcome)


def test_what_paramiko_logs_is_for_nobody() -> None:
    """It would be a traceback on stderr, of an error that is told in a line."""
    code = "import hardway.ssh.connection, logging; logging.getLogger('paramiko.transport').error('Traceback')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stderr == ""


def test_at_most_so_many_connections(hosts: list[Instance], settings: Settings) -> None:
    capped = replace(settings, ec2=replace(settings.ec2, max_connections=2))
    live, most, lock = 0, 0, threading.Lock()

    def action(connection: ssh.InstanceConnection) -> None:
        nonlocal live, most
        with lock:
            live += 1
            most = max(most, live)
        time.sleep(0.05)
        with lock:
            live -= 1

    assert not InstanceGroup(hosts, capped).fanout(action).failed
    assert most == 2


def test_connections_are_made_and_used_by_many_threads(
    home: Path, settings: Settings, request: pytest.FixtureRequest
) -> None:
    from tests.openssh.conftest import instance

    # Threads change after nearly every step, as they may at any.
    interval = sys.getswitchinterval()
    request.addfinalizer(lambda: sys.setswitchinterval(interval))
    sys.setswitchinterval(1e-6)

    failures: list[BaseException] = []

    def make(number: int) -> None:
        try:
            for _ in range(50):
                connection = ssh.InstanceConnection(instance(number, 1), settings)
                assert connection.authentication.strategy_class is None
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(patience(60))
    assert not failures


def test_a_changed_host_key_is_refused(start_sshd: Callable[[int], int], settings: Settings, home: Path) -> None:
    from tests.openssh.conftest import instance

    port, other_port = start_sshd(0), start_sshd(0)
    [first] = run([instance(0, port)], settings, "true")
    assert isinstance(first, CommandResult)
    [second] = run([instance(0, other_port)], settings, "echo reached")
    assert isinstance(second, ssh.ConnectError)
    assert "host key" in str(second)
    # The address means nothing, the id does: another instance at the same place is met for the first time.
    [third] = run([replace(instance(0, other_port), id="i-00000000000000abc")], settings, "true")
    assert isinstance(third, CommandResult)


def test_agent_key_file_and_ssh_config_let_us_in(
    hosts: list[Instance], settings: Settings, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hardway.ssh.keys import own_key_path

    elsewhere = tmp_path / "a key"
    shutil.move(own_key_path(), elsewhere)
    foreign = replace(hosts[0], key_name="somebody-elses")
    [outcome] = run([foreign], settings, "true")
    assert "accepts none of our keys" in str(outcome)

    by_name = replace(settings, ec2=replace(settings.ec2, key=str(elsewhere)))
    assert run([foreign], by_name, "echo in")[0].stdout == b"in\n"

    (home / ".ssh").mkdir(exist_ok=True)
    (home / ".ssh" / "config").write_text(f'Host 127.78.*\n  IdentityFile "{elsewhere}"\n')
    assert run([foreign], settings, "echo in")[0].stdout == b"in\n"
    (home / ".ssh" / "config").unlink()

    agent = subprocess.Popen(["ssh-agent", "-D", "-a", tmp_path / "agent"], stdout=subprocess.DEVNULL)
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        deadline = time.monotonic() + patience(10)
        while subprocess.run(["ssh-add", "-q", elsewhere], stderr=subprocess.DEVNULL).returncode:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert run([foreign], settings, "echo in")[0].stdout == b"in\n"

        # A login offers the right key first, though the agent has more than sshd lets anybody try.
        subprocess.run(["ssh-add", "-q", "-D"], check=True, stderr=subprocess.DEVNULL)
        for number in range(7):
            key = tmp_path / f"other{number}"
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
            subprocess.run(["ssh-add", "-q", key], check=True, stderr=subprocess.DEVNULL)
        shutil.move(elsewhere, own_key_path())
        command = [*ssh.login_command(hosts[0], settings), "echo in"]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=patience(60))
        assert (done.returncode, done.stdout, done.stderr) == (0, "in\n", "")
    finally:
        agent.terminate()
        agent.wait(patience(10))


def test_a_public_key_nobody_can_read_is_passed_over(hosts: list[Instance], settings: Settings, home: Path) -> None:
    (home / ".ssh" / "a-directory.pub").mkdir(parents=True)
    (home / ".ssh" / "dangling.pub").symlink_to(home / "nowhere")
    assert run(hosts[:1], settings, "echo in")[0].stdout == b"in\n"


def test_proxy_jump(hosts: list[Instance], settings: Settings, home: Path) -> None:
    import getpass

    from hardway.ssh.keys import own_key_path

    port = hosts[0].tags["ssh-port"]
    (home / ".ssh").mkdir(exist_ok=True)
    (home / ".ssh" / "config").write_text(
        f"Host 127.78.0.2\n  ProxyJump {getpass.getuser()}@127.78.0.1:{port}\n"
        f'Host 127.78.0.*\n  IdentityFile "{own_key_path()}"\n'
    )
    try:
        [result] = run([hosts[1]], settings, "echo $SSH_CONNECTION")
    finally:
        assert result.exit_code == 0
    # The address that reached the second host's sshd is not the one this machine would have used directly.
    client, _, server, _ = result.stdout.decode().split()
    assert server == "127.78.0.2"
    assert client == "127.0.0.1"


def test_a_server_that_takes_no_stub_session_is_refused(hosts: list[Instance], settings: Settings) -> None:
    stubbed = replace(settings, stub_session={"s3_stubbed_session": "0-0", "s3_stubbed_tmp": "/tmp"})
    group = InstanceGroup(hosts[:2], stubbed)
    outcomes = group.execute("echo reached the real S3")
    with pytest.raises(UsageError, match="--real-s3"):
        report(outcomes, lambda line: None)


class _Dying(paramiko.ServerInterface):
    """A host that is gone in the moment in which it is asked to take a variable."""

    def __init__(self, transport: paramiko.Transport) -> None:
        self.transport = transport

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_env_request(self, channel: paramiko.Channel, name: bytes, value: bytes) -> bool:
        self.transport.sock.close()
        return False


def test_a_host_that_dies_is_not_taken_for_one_that_refuses(
    hosts: list[Instance], settings: Settings, tmp_path: Path
) -> None:
    stubbed = replace(settings, stub_session={"s3_stubbed_session": "0-0", "s3_stubbed_tmp": "/tmp"})
    key = paramiko.RSAKey.generate(2048)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            transport = paramiko.Transport(listener.accept()[0])
            transport.add_server_key(key)
            transport.start_server(server=_Dying(transport))
            transport.join(patience(30))

        thread = threading.Thread(target=serve)
        thread.start()
        tags = {**hosts[0].tags, "ssh-port": str(listener.getsockname()[1])}
        dying = replace(hosts[0], id="i-0000000000000dead", public_ip="127.0.0.1", tags=tags)
        [outcome] = run([dying], stubbed, "true")
        thread.join(patience(30))
    assert isinstance(outcome, ssh.ConnectError), outcome


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("#!/usr/bin/env python3\nimport sys; print('python', sys.stdin.read())", b"python data\n"),
        ("read -r word; [[ $word == data ]] && echo bash", b"bash\n"),
        ("# " + "x" * 300_000 + "\ncat", b"data"),
    ],
    ids=["interpreter", "bash", "long"],
)
def test_a_command_from_a_file(
    hosts: list[Instance], settings: Settings, tmp_path: Path, content: str, expected: bytes
) -> None:
    (tmp_path / "script").write_text(content)
    (tmp_path / "in").write_text("data")
    command = commands.read(str(tmp_path / "script"), str(tmp_path / "in"))
    for result in run(hosts[:2], settings, command.line, stdin=command.stdin):
        assert (result.stdout, result.exit_code) == (expected, 0)


def _alive(pid: int) -> bool:
    deadline = time.monotonic() + patience(5)
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.02)
    return True
