"""An instance over SSH, by OpenSSH's own client: who gets in, and that sessions behave as sshd's."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pty
import re
import socket
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardway.ssh import connection as ssh
from tests.local.conftest import Key, Machine, Machines, eventually
from tests.patience import patience

MEGABYTE = 1 << 20


# who gets in


@pytest.mark.parametrize("kind", ["ed25519", "rsa", "ecdsa"])
def test_no_other_key_opens_it(machine: Machine, tmp_path: Path, kind: str) -> None:
    stranger = Machine(machine.cloud, machine.id, Key.create(tmp_path, "stranger", kind))
    done = stranger.ssh("echo let in")
    assert (done.returncode, done.stdout) == (255, b"")
    assert b"Permission denied (publickey)" in done.stderr


@pytest.mark.parametrize("user", ["root", "admin", "ec2-user", "nobody", ""])
def test_no_other_user_is_let_in(machine: Machine, user: str) -> None:
    done = machine.ssh("echo let in", options=("-l", user or "a b"))
    assert (done.returncode, done.stdout) == (255, b"")


def test_neither_a_password_nor_nothing_opens_it(machine: Machine) -> None:
    with socket.create_connection((machine.address, int(machine.cloud.env["INVOKE_EC2_SSH_PORT"]))) as connection:
        transport = paramiko.Transport(connection)
        try:
            transport.start_client(timeout=patience())
            with pytest.raises(paramiko.BadAuthenticationType) as refused:
                transport.auth_none("ubuntu")
            assert refused.value.allowed_types == ["publickey"]
            with pytest.raises(paramiko.AuthenticationException):
                transport.auth_password("ubuntu", "ubuntu")
            assert not transport.is_authenticated()
        finally:
            transport.close()


def test_without_a_key_pair_nobody_gets_in(machines: Machines) -> None:
    ec2 = machines.cloud.client("ec2")
    id = ec2.run_instances(ImageId="ami-12345678", MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
    machine = Machine(machines.cloud, id, machines.key)
    machines.started.append(machine)
    assert machine.wait("running").ssh("true").returncode == 255


def test_each_has_a_host_key_of_its_own(machines: Machines) -> None:
    port = machines.cloud.env["INVOKE_EC2_SSH_PORT"]
    keys = {
        subprocess.run(
            ["ssh-keyscan", "-p", port, machine.address], capture_output=True, timeout=patience()
        ).stdout.split()[-1]
        for machine in machines(3)
    }
    assert len(keys) == 3


# sessions


def test_streams_are_apart_and_exit_codes_exact(machine: Machine) -> None:
    done = machine.ssh("cat; echo out; echo err >&2; exit 7", stdin=b"in\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"in\nout\n", b"err\n")


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(code=st.integers(0, 254), data=st.binary(max_size=5000))
def test_any_bytes_and_any_code_come_back(machine: Machine, code: int, data: bytes) -> None:
    done = machine.ssh(f"cat; exit {code}", stdin=data)
    assert (done.returncode, done.stdout, done.stderr) == (code, data, b"")


def test_a_command_is_any_bytes(machine: Machine) -> None:
    done = subprocess.run(
        [os.fsencode(word) for word in machine.ssh_command()] + [b"printf %s 'caf\xe9 \xc3\xa9'"],
        capture_output=True,
        timeout=patience(),
    )
    assert done.stdout == b"caf\xe9 \xc3\xa9"


def test_a_command_that_does_not_exist(machine: Machine) -> None:
    done = machine.ssh("no-such-command")
    assert done.returncode == 127
    assert b"no-such-command" in done.stderr


@pytest.mark.parametrize("name", ["KILL", "TERM", "SEGV", "USR1"])
def test_death_by_a_signal_is_told_as_such(machine: Machine, name: str) -> None:
    done = machine.ssh(f"kill -{name} $$", options=("-v", "-o", "LogLevel=DEBUG1"))
    assert done.returncode == 255
    assert "exit-signal" in done.stderr.decode()
    done = machine.ssh(f"bash -c 'kill -{name} $$'; echo $?")
    assert int(done.stdout) > 128


def test_the_exit_status_comes_before_children_let_go_of_the_output(machine: Machine) -> None:
    with machine.transport() as transport:
        channel = transport.open_session()
        channel.exec_command("sleep 30 & echo started")
        began = time.monotonic()
        assert channel.recv_exit_status() == 0
        assert channel.recv(100) == b"started\n"
        assert time.monotonic() - began < patience(20)
        assert not channel.eof_received
        channel.close()


def test_closing_stdin_does_not_close_the_rest(machine: Machine) -> None:
    done = machine.ssh("cat >/dev/null; sleep 0.2; echo after the end", stdin=b"x" * MEGABYTE)
    assert done.stdout == b"after the end\n"


def test_a_command_need_not_read_its_stdin(machine: Machine) -> None:
    done = machine.ssh("exec <&-; echo done", stdin=b"x" * 8 * MEGABYTE)
    assert (done.returncode, done.stdout) == (0, b"done\n")


def test_big_streams_both_ways_without_growing(machine: Machine) -> None:
    size = 128
    pid = machine.cloud.pid
    before = resident(pid)
    process = subprocess.Popen(machine.ssh_command("cat"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin and process.stdout
    block = os.urandom(MEGABYTE)
    sent, received = hashlib.sha256(), hashlib.sha256()

    def send() -> None:
        assert process.stdin
        for _ in range(size):
            process.stdin.write(block)
            sent.update(block)
        process.stdin.close()

    sender = threading.Thread(target=send)
    sender.start()
    count = 0
    while data := process.stdout.read(MEGABYTE):
        received.update(data)
        count += len(data)
    sender.join(patience())
    assert process.wait(patience()) == 0
    assert (count, received.digest()) == (size * MEGABYTE, sent.digest())
    assert resident(pid) - before < 64 * MEGABYTE


def test_a_reader_that_stalls_holds_up_the_writer_not_the_daemon(machine: Machine) -> None:
    pid = machine.cloud.pid
    with machine.transport() as transport:
        channel = transport.open_session(window_size=MEGABYTE)
        before = resident(pid)
        channel.exec_command("head -c 100000000 /dev/zero; echo end >&2")
        time.sleep(0.5)  # long enough for what isn't held up to fill memory
        assert resident(pid) - before < 32 * MEGABYTE
        assert machine.output("echo others go on") == "others go on\n"
        count = 0
        while data := channel.recv(MEGABYTE):
            count += len(data)
        assert (count, channel.recv_exit_status()) == (100_000_000, 0)


def test_a_process_that_reads_nothing_holds_up_the_client_not_the_daemon(machine: Machine) -> None:
    pid = machine.cloud.pid
    before = resident(pid)
    process = subprocess.Popen(machine.ssh_command("sleep 1.5; wc -c"), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    out, _ = process.communicate(b"x" * 64 * MEGABYTE, timeout=patience())
    assert int(out) == 64 * MEGABYTE
    assert resident(pid) - before < 32 * MEGABYTE


def test_the_environment_of_a_session(machine: Machine) -> None:
    def ask(**variables: str) -> dict[str, str]:
        options = tuple(part for name, value in variables.items() for part in ("-o", f"SetEnv={name}={value}"))
        lines = machine.output("env -0", options=options).split("\0")
        return dict(line.split("=", 1) for line in lines if line)

    plain = ask()
    assert plain["USER"] == plain["LOGNAME"] == "ubuntu"
    assert plain["SHELL"] == "/bin/bash"
    assert plain["AWS_ENDPOINT_URL"] == machine.cloud.env["AWS_ENDPOINT_URL"]
    assert plain["SSH_CONNECTION"].split()[2:] == [machine.address, machine.cloud.env["INVOKE_EC2_SSH_PORT"]]
    assert "TERM" not in plain and "SSH_TTY" not in plain
    assert ask(LC_ALL="C")["LC_ALL"] == "C"
    assert ask(LANG="POSIX")["LANG"] == "POSIX"
    assert not {"EVIL", "LD_PRELOAD", "BASH_ENV"} & set(ask(EVIL="1"))
    assert ask(PATH="/evil")["PATH"] == plain["PATH"]


def test_what_is_refused_is_answered_so(machine: Machine) -> None:
    with machine.transport() as transport:
        channel = transport.open_session()
        channel.set_environment_variable("LC_ALL", "C")

        def ask(name: str) -> None:
            message = paramiko.Message()
            message.add_byte(paramiko.common.cMSG_CHANNEL_REQUEST)
            message.add_int(channel.remote_chanid)
            message.add_string("env")
            message.add_boolean(True)
            message.add_string(name)
            message.add_string("value")
            channel._event_pending()
            transport._send_user_message(message)
            channel._wait_for_event()

        ask("LC_TIME")
        with pytest.raises(paramiko.SSHException):
            ask("LD_PRELOAD")


def test_a_signal_that_comes_before_the_process_has_started_reaches_it(machine: Machine) -> None:
    with machine.transport() as transport:
        channels = [transport.open_session() for _ in range(5)]
        for channel in channels:
            channel.exec_command("sleep 321")
            ssh.signal(channel, "TERM")
            channel.close()
    eventually(lambda: machine.output("ps -A -o args= | grep '[s]leep 321' || echo none") == "none\n")


def test_a_signal_request_reaches_the_process_group(machine: Machine) -> None:
    with machine.transport() as transport:
        channel = transport.open_session()
        channel.exec_command("trap 'echo caught; exit 5' USR1; echo ready; while :; do sleep 0.05; done")
        assert channel.recv(100) == b"ready\n"
        message = paramiko.Message()
        message.add_byte(paramiko.common.cMSG_CHANNEL_REQUEST)
        message.add_int(channel.remote_chanid)
        message.add_string("signal")
        message.add_boolean(False)
        message.add_string("USR1")
        transport._send_user_message(message)
        assert channel.recv(100) == b"caught\n"
        assert channel.recv_exit_status() == 5


@pytest.mark.parametrize("terminal", [False, True])
def test_when_the_client_goes_its_process_learns_of_it_and_others_stay(machine: Machine, terminal: bool) -> None:
    machine.output("rm -f ~/heard; setsid nohup sleep 1234 >/dev/null 2>&1 </dev/null &")
    trap = "trap 'echo SIGHUP >~/heard; exit' HUP; " if terminal else ""
    command = trap + "echo ready; cat >/dev/null; echo EOF >~/heard"
    login = subprocess.Popen(
        machine.ssh_command(command, options=("-tt",) if terminal else ()),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert login.stdout
    assert login.stdout.readline().strip() == b"ready"
    login.kill()
    login.wait(patience())
    heard = eventually(lambda: machine.output("cat ~/heard 2>/dev/null || :"))
    assert heard == ("SIGHUP\n" if terminal else "EOF\n")
    assert machine.ssh("pkill -f 'sleep [1]234'").returncode == 0


def test_a_writer_whose_client_has_gone_gets_a_broken_pipe(machine: Machine) -> None:
    machine.output("rm -f ~/ended")
    login = subprocess.Popen(
        machine.ssh_command("(yes; echo ${PIPESTATUS[0]} $? >~/ended) 2>/dev/null"), stdout=subprocess.PIPE
    )
    assert login.stdout
    login.stdout.read(1000)
    login.kill()
    login.wait(patience())
    assert eventually(lambda: machine.output("cat ~/ended 2>/dev/null || :")).startswith("141")


# terminals


def test_a_terminal_has_the_size_asked_for_and_follows_it(machine: Machine) -> None:
    with machine.transport() as transport:
        channel = transport.open_session()
        channel.get_pty("vt220", width=91, height=31)
        channel.exec_command("trap 'stty size' WINCH; tty; stty size; echo $TERM $SSH_TTY; read a; read b; exit 3")
        expect(channel, r"^/dev/pts/\d+\r\n31 91\r\nvt220 /dev/pts/\d+\r\n")
        channel.resize_pty(width=120, height=50)
        channel.send(b"one\n")
        expect(channel, r"50 120\r\n")
        channel.send(b"two\n")
        assert channel.recv_exit_status() == 3


def test_a_terminal_is_one(machine: Machine) -> None:
    with machine.transport() as transport:
        channel = transport.open_session()
        channel.get_pty()
        channel.exec_command("cat; echo ended")
        channel.send(b"a line\r")
        expect(channel, r"a line\r\na line\r\n")  # the echo, then cat
        channel.send(b"\x03")
        assert channel.recv_exit_status() == -1  # ended by SIGINT, told as a signal


def test_terminal_modes_are_taken_over(machine: Machine) -> None:
    master, slave = pty.openpty()
    try:
        attributes = termios.tcgetattr(slave)
        attributes[6][termios.VERASE] = b"\x08"
        attributes[6][termios.VINTR] = b"\x07"
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 44, 133, 0, 0))
        done = subprocess.run(
            machine.ssh_command("stty -a", options=("-t",)), stdin=slave, capture_output=True, timeout=patience()
        )
    finally:
        os.close(master)
        os.close(slave)
    told = done.stdout.decode()
    assert "rows 44; columns 133" in told
    assert "intr = ^G" in told and "erase = ^H" in told


def test_a_login_shell(machine: Machine) -> None:
    with machine.transport() as transport:
        channel = transport.open_session()
        channel.get_pty(width=200)
        channel.invoke_shell()
        channel.send(b"shopt -q login_shell && echo log''in; echo $0; type -p sudo; kill -9 $$\n")
        expect(channel, r"login\r\n-bash\r\n\S+bin/sudo\r\n")
        assert channel.recv_exit_status() == -1
    done = machine.ssh(stdin=b"echo $0; exit 4\n")
    assert (done.returncode, done.stdout) == (4, b"-bash\n")


def test_a_pasted_flood_is_not_lost(machine: Machine) -> None:
    lines = [f"{number:08}" for number in range(4000)]
    with machine.transport() as transport:
        channel = transport.open_session()
        channel.get_pty()
        channel.exec_command("stty raw -echo; echo ready; head -c 36000 | sha256sum")
        expect(channel, r"ready")
        data = "".join(f"{line}\n" for line in lines).encode()
        channel.sendall(data)
        expect(channel, hashlib.sha256(data).hexdigest())


# forwarding


@pytest.fixture
def echo_server() -> Iterator[int]:
    """A port on loopback whose connections get back what they send, in capitals."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(65536):
                    connection.sendall(data.upper())

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(patience())


def shout(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=patience()) as connection:
        connection.sendall(b"hello")
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(100), b""))


def refused(port: int) -> bool:
    """Whether nobody listens. A connection of the last moment may be taken, and never answered."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("direction", ["-L", "-R"])
def test_ports_are_forwarded(machine: Machine, echo_server: int, direction: str) -> None:
    port = free_port()
    forward = (direction, f"{port}:127.0.0.1:{echo_server}", "-o", "ExitOnForwardFailure=yes")
    login = subprocess.Popen(
        machine.ssh_command("echo ready; cat", options=forward), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert login.stdout and login.stdin
    assert login.stdout.readline() == b"ready\n"
    assert shout(port) == b"HELLO"
    login.stdin.close()
    assert login.wait(patience()) == 0
    eventually(lambda: refused(port))


def test_a_remote_forward_listens_on_loopback_only(machine: Machine, echo_server: int) -> None:
    port = free_port()
    forward = ("-R", f"0.0.0.0:{port}:127.0.0.1:{echo_server}", "-o", "ExitOnForwardFailure=yes")
    login = subprocess.Popen(
        machine.ssh_command("echo ready; cat", options=forward), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert login.stdout and login.stdin
    assert login.stdout.readline() == b"ready\n"
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:] if " 0A " in line]
    # Others may listen at this port of other loopback addresses; the bytes stand in reverse.
    here = {address for address in listening if address.endswith(f":{port:04X}")}
    assert f"0100007F:{port:04X}" in here
    assert all(address[6:8] == "7F" for address in here)
    assert shout(port) == b"HELLO"
    login.stdin.close()
    assert login.wait(patience()) == 0


def test_a_dynamic_forward_is_a_proxy(machine: Machine, echo_server: int) -> None:
    port = free_port()
    login = subprocess.Popen(
        machine.ssh_command("echo ready; cat", options=("-D", f"127.0.0.1:{port}")),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert login.stdout and login.stdin
    assert login.stdout.readline() == b"ready\n"
    with socket.create_connection(("127.0.0.1", port), timeout=patience()) as proxy:
        proxy.sendall(b"\x05\x01\x00")
        assert proxy.recv(2) == b"\x05\x00"
        proxy.sendall(b"\x05\x01\x00\x01" + socket.inet_aton("127.0.0.1") + struct.pack("!H", echo_server))
        assert proxy.recv(10)[1] == 0
        proxy.sendall(b"hello")
        assert proxy.recv(5) == b"HELLO"
    login.stdin.close()
    assert login.wait(patience()) == 0


def test_one_instance_is_reached_through_another(machine: Machine, machines: Machines) -> None:
    beyond = machines()[0]
    jump = " ".join(["ssh", *(f"'{option}'" for option in machine.options()), "-W", "[%h]:%p", machine.login])
    command = beyond.ssh_command("echo $SSH_CONNECTION", options=("-o", f"ProxyCommand={jump}"))
    done = subprocess.run(command, capture_output=True, timeout=patience())
    assert done.stdout.split()[2].decode() == beyond.address


# helpers


def expect(channel: paramiko.Channel, pattern: str) -> str:
    """Read until what has come matches."""
    channel.settimeout(patience())
    seen = ""
    while not re.search(pattern, seen, re.MULTILINE):
        data = channel.recv(4096)
        assert data, f"{pattern!r} is not in {seen!r}"
        seen += data.decode(errors="replace")
    return seen


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
