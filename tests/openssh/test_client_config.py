"""~/.ssh/config means here what it means to ssh, and costs one `ssh -G` for all hosts that it does not tell apart."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from hardway.config import Settings
from hardway.ec2.instances import Instance
from hardway.errors import UsageError
from hardway.fanout.group import InstanceGroup
from hardway.ssh import client_config
from hardway.ssh import connection as ssh
from hardway.ssh.client_config import Question
from tests.openssh.conftest import instance
from tests.openssh.test_group import run

HOSTS = ["127.0.0.1", "127.0.0.12", "127.0.1.1", "10.0.0.1", "2001:db8::1", "bastion", "Bastion.example"]
pytestmark = pytest.mark.skipif(not shutil.which("ssh"), reason="no ssh here: install openssh-client")


@pytest.fixture
def write(home: Path) -> Callable[[bytes | str], Path]:
    """Writes ~/.ssh/config."""

    def write(text: bytes | str) -> Path:
        (home / ".ssh").mkdir(exist_ok=True)
        file = home / ".ssh" / "config"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    return write


@pytest.fixture
def forks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often ssh was started since this was last called."""
    log, program = tmp_path / "forks", tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho x >>"{log}"\nexec {shutil.which("ssh")} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    def count() -> int:
        found = len(log.read_text().splitlines()) if log.exists() else 0
        log.unlink(missing_ok=True)
        return found

    return count


def of_ssh(file: Path, question: Question) -> dict[str, list[str]] | None:
    """The output of ssh itself for one host; None where ssh refuses the file."""
    user = ["-l", question.user] if question.user else []
    port = ["-p", str(question.port)] if question.port else []
    done = subprocess.run(["ssh", "-G", "-F", file, *user, *port, "--", question.host], capture_output=True, text=True)
    if done.returncode:
        return None
    found: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        keyword, _, value = line.partition(" ")
        found.setdefault(keyword, []).append(value)
    return found


def check(file: Path, question: Question) -> None:
    expected = of_ssh(file, question)
    if expected is None:  # an ssh that is too old for it
        with pytest.raises(UsageError, match="ssh refuses its configuration: "):
            client_config.lookup(question)
        return
    answer = client_config.lookup(question)
    assert answer.hostname.lower() == expected["hostname"][0], question
    assert (answer.user or getpass.getuser()) == expected["user"][0], question
    assert str(answer.port) == expected["port"][0], question
    assert answer.proxy_jump == expected.get("proxyjump", [""])[0], question
    command = expected.get("proxycommand", [""])[0]
    assert answer.proxy_command == command.replace("%h", answer.hostname).replace("%p", str(answer.port)), question
    own = [name for name in expected["identityfile"] if "/id_" not in name]
    assert list(answer.identity_files) == own, question


TABLE = {
    "nothing": "",
    "a latin-1 comment": "# caf\xe9 \xff\nHost 127.*\n  User bob\n".encode("latin-1"),
    "match final": "Match final host 127.0.0.*\n  ProxyJump b\nHost 127.*\n  User bob\n",
    "match host": "Match host=127.0.0.1,10.*\n  ProxyJump b\n",
    "match host and user": "Match host 127.* user bob\n  Port 44\nMatch user anna\n  Port 45\n",
    "match localnetwork": "Match localnetwork 127.0.0.0/8\n  ProxyJump b\n",
    "match localuser": f"Match localuser {getpass.getuser()}\n  Port 9\n",
    "match exec": "Match exec \"test %h = 127.0.0.12\"\n  Port 12\n",
    "match all": "Match all\n  Port 12\n",
    "include": "Include ~/.ssh/no-such-file\nHost *\n  IdentityFile /keys/%h-%p-%r\n",
    "hostname": "Host b*\n  HostName %h.example\nHost 10.*\n  HostName 127.0.0.9\nMatch host *.example\n  User e\n",
    "negated": "Host 127.* !127.0.0.1?\n  Port 5\n  ProxyCommand nc %h %p\n",
    "quoted": 'Host "127.0.0.1" 10.?.0.1\n  Port 5\n',
    "equals": "Host = 127.0.0.1\nPort=5\n",
    "keywords in any case": "HOST 127.0.0.1\nPROXYJUMP a@b:3,c\nHost *\nuser x\n",
    "patterns in another case": "Host B* 2001:DB8::*\n  Port 5\nMatch host BASTION\n  Port 6\n",
    "none": "Host 127.0.0.1\n  ProxyJump none\nHost 10.*\n  ProxyCommand none\nHost *\n  ProxyJump b\n",
}  # fmt: skip


@pytest.mark.parametrize("text", TABLE.values(), ids=TABLE.keys())
def test_what_ssh_reads_is_what_we_read(write: Callable[[bytes | str], Path], text: bytes | str) -> None:
    file = write(text)
    for user, port in (("", 0), ("bob", 2222)):
        for host in HOSTS:
            question = Question(host, user, port)
            if text == TABLE["include"]:
                where = f"/keys/{host}-{port or 22}-{user or getpass.getuser()}"
                assert client_config.lookup(question).identity_files == (where,)
            else:
                check(file, question)


names = st.sampled_from(["127.*", "127.0.0.?", "!127.0.0.1", "*", "10.0.0.1", "2001:*", "B*", "b*", "*.example", "x"])
several = st.lists(names, min_size=1, max_size=3)
starts = st.one_of(
    several.map(lambda found: f"Host {' '.join(found)}"),
    several.map(lambda found: f"Match host {','.join(found)}"),
    several.map(lambda found: f"Match originalhost {','.join(found)}"),
    several.map(lambda found: f"Match final host {','.join(found)}"),
    several.map(lambda found: f"Match user bob,!x host={','.join(found)}"),
    st.sampled_from(["Match all", "Match final all", "Match user bob", "Host *"]),
)
lines = st.sampled_from(
    ["User bob", "User anna", "Port 44", "Port 45", "ProxyJump a", "ProxyJump a,u@b:3", "ProxyCommand nc %h %p",
     "HostName 127.0.0.1", "HostName %h.example", "IdentityFile /keys/a", "IdentityFile /keys/b"]
)  # fmt: skip
configurations = st.lists(st.tuples(starts, st.lists(lines, min_size=1, max_size=2)), max_size=4)


@hypothesis_settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(configurations)
def test_an_answer_for_many_is_that_for_each(
    write: Callable[[bytes | str], Path], blocks: list[tuple[str, list[str]]]
) -> None:
    text = "\n".join("\n".join([start, *(f"  {line}" for line in own)]) for start, own in blocks)
    file = write(f"{text}\n# {os.urandom(9).hex()}\n")
    client_config.ask_ahead(Question(host) for host in HOSTS)
    for host in HOSTS:
        check(file, Question(host))


def test_a_hundred_instances_cost_one_start(
    write: Callable[[bytes | str], Path], forks: Callable[[], int], settings: Settings, home: Path
) -> None:
    many = [replace(instance(0, 22), id=f"i-{n:017x}", public_ip=f"10.0.{n % 4}.{n}") for n in range(100)]

    def gateways() -> list[object]:
        return [str(getattr(each.gateway, "name", each.gateway)) for each in InstanceGroup(many, settings)]

    assert gateways() == ["False"] * 100
    assert forks() == 1
    write("Host 10.0.1.* 10.0.3.*\n  ProxyCommand nc %h %p\n")
    assert gateways()[:4] == ["False", "nc 10.0.1.1 22", "False", "nc 10.0.3.3 22"]
    assert forks() == 3  # neither of the two, the first, and the second
    assert gateways()[97] == "nc 10.0.1.97 22"
    assert forks() == 0
    # What an included file says counts from when it changes.
    write("Include more\nInclude ~/.ssh/more\n")
    (home / ".ssh" / "more").write_text("Host 10.*\n  ProxyJump a\n")
    write(f"Include {home}/.ssh/more\n")
    assert gateways() == ["a"] * 100
    (home / ".ssh" / "more").write_text("Host *\n  ProxyJump none\n")
    assert gateways() == ["False"] * 100
    forks()
    # Only ssh can say whom a command picks.
    write('Match exec "test %h = 10.0.3.7"\n  ProxyCommand nc %h %p\n')
    assert [one for one in gateways() if one != "False"] == ["nc 10.0.3.7 22"]
    assert forks() == 100


def test_a_user_whom_nobody_names_is_not_the_one_logged_in_here(
    write: Callable[[bytes | str], Path], settings: Settings
) -> None:
    host = replace(instance(0, 22), tags={})
    assert ssh.InstanceConnection(host, settings).user == "ubuntu"
    write(f"User {getpass.getuser()}\n")
    assert ssh.InstanceConnection(host, settings).user == getpass.getuser()
    write("Host 10.*\n  User bob\n")
    assert ssh.InstanceConnection(host, settings).user == "ubuntu"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Host *\n  Foo bar\n", "line 2: Bad configuration option: foo"),
        ("Match nonsense x\n  Port 3\n", "line 1: Bad Match condition"),
        ("Port\n", "line 1: "),
        ("Match all host x\n", "cannot be combined|mixed"),
    ],
)
def test_a_configuration_that_ssh_refuses_is_one_line(
    write: Callable[[bytes | str], Path], settings: Settings, monkeypatch: pytest.MonkeyPatch, text: str, why: str
) -> None:
    file = write(text)
    for path in (os.environ["PATH"], "/nowhere") if "all" in text else (os.environ["PATH"],):
        monkeypatch.setenv("PATH", path)
        with pytest.raises(UsageError, match=why) as refused:
            InstanceGroup([instance(0, 22), instance(1, 22)], settings)
        assert refused.value.code == 2
        assert str(file) in str(refused.value)
        assert "\n" not in str(refused.value)


def test_without_ssh_paramiko_reads_it(
    write: Callable[[bytes | str], Path], settings: Settings, monkeypatch: pytest.MonkeyPatch, hosts: list[Instance]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    write(
        "# caf\xe9\nHost 127.78.0.1\n  User nobody-here\n  ProxyCommand nc %h %p\nHost *\n  Port 3\n".encode("latin-1")
    )
    answer = client_config.lookup(Question("127.78.0.1", "", 99))
    assert (answer.user, answer.port, answer.proxy_command) == ("nobody-here", 99, "nc 127.78.0.1 99")
    assert client_config.lookup(Question("127.78.0.2")).port == 3
    assert [result.stdout for result in run(hosts[1:2], settings, "echo in")] == [b"in\n"]


def test_an_account_that_has_its_home_where_home_says(tmp_path: Path, home: Path) -> None:
    """As most have it; then nothing at all stands between ssh and its files."""
    if os.getuid():
        pytest.skip("to mount takes root")
    own = tmp_path / "own"
    (own / ".ssh").mkdir(parents=True)
    (own / ".ssh" / "config").write_text("Include more\n")
    (own / ".ssh" / "more").write_text("Host 10.*\n  User bob\n")
    (tmp_path / "passwd").write_text(f"root:x:0:0::{own}:/bin/sh\n")
    ask = (
        "from hardway.ssh.client_config import *; print(lookup(Question('10.0.0.1')).user, lookup(Question('x')).user)"
    )
    script = f'mount --bind "{tmp_path}/passwd" /etc/passwd && HOME="{own}" exec "$@"'
    import sys

    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, "sh", sys.executable, "-c", ask],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "bob \n"
