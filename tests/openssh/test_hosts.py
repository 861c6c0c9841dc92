"""Every verb runs on hosts as people have them, or says what is wrong there: a real sshd at instances' addresses."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from invoke import Context

from hardway.config import Settings, settings
from hardway.ec2.instances import described
from hardway.errors import Failed, HardwayError
from hardway.launch import user_data
from hardway.ssh.keys import HostKeys
from tasks import ec2, mapreduce
from tests.conftest import LocalCloud
from tests.openssh.conftest import instance
from tests.openssh.test_group import run
from tests.openssh.test_shells import NOISE
from tests.openssh.test_transfer import contents
from tests.patience import patience

C = Context()
# Of the host's own: sudo, and what a launch's user data leaves.
PROGRAMS = r"""
mount -t tmpfs none /mnt
mkdir /mnt/bin
printf '#!/bin/sh\n[ "$1" != -n ] || shift\nexec "$@"\n' >/mnt/bin/sudo
mkdir -p /mnt/root/etc/hardway /mnt/root/run/hardway /mnt/root/run/systemd/system /mnt/root/sbin
ln -s /bin/true /mnt/root/sbin/systemctl
ln -s /bin/true /mnt/root/sbin/sync
cp "{tmp}/watch" /mnt/root/etc/hardway/watch
chmod +x /mnt/bin/sudo
"""
NO_PYTHON = r"""
for program in /usr/bin/* /bin/*; do
  case $program in */python*) ;; *) ln -sf "$program" /mnt/bin/ ;; esac
done
"""
NO_EXEC = 'mount --bind "{tmp}" "{tmp}"\nmount -o remount,bind,noexec "{tmp}"\n'
REFUSAL = (
    """ForceCommand echo 'Please login as the user "ubuntu" rather than the user "root".'; echo; sleep .2; exit 142"""
)


@dataclass(frozen=True)
class Kind:
    """A kind of host: its login shell, lines of its sshd's configuration, what is done before it starts."""

    shell: str = "bash"
    lines: tuple[str, ...] = ()
    setup: str = ""
    path: str = "/mnt/bin:/usr/local/bin:/usr/bin:/bin"


KINDS = {
    "fish, MaxSessions 1": Kind("fish", lines=("MaxSessions 1",)),
    "csh, MaxStartups 3": Kind("tcsh", lines=("MaxStartups 3",)),
    "zsh, nothing can be executed in /tmp and at home": Kind("zsh", setup=NO_EXEC),
    "a .bashrc that prints": Kind(),
    "no python3": Kind(setup=NO_PYTHON, path="/mnt/bin"),
    "root is told to log in as another": Kind(lines=(REFUSAL,)),
}
"""A shell and what an sshd restricts have nothing to do with each other, so one host has both."""


@dataclass(frozen=True)
class Hosts:
    """Instances that are such hosts, and the directory that is the home of each."""

    ids: list[str]
    home: Path


@pytest.fixture
def hosts_of(
    cloud: LocalCloud, start_sshd: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Hosts]]:
    """Starts three instances, with one host of a kind at their addresses."""
    if os.getuid():
        pytest.skip("to mount takes root")
    for name, value in cloud.env.items():
        monkeypatch.setenv(name, value)
    started: list[str] = []

    def start(name: str) -> Hosts:
        kind = KINDS[name]
        shell = shutil.which(kind.shell)
        if not shell:
            pytest.skip(f"no {kind.shell} here")
        started.extend(ec2.new(C, name=f"hosts-{os.urandom(4).hex()}", num=3))
        found = described(settings(C), started)
        home = tmp_path / "sshd0"
        (tmp_path / "watch").write_text("\n".join(user_data._boot_script()))
        port = start_sshd(
            0,
            *kind.lines,
            shell=shell,
            setup=(PROGRAMS + kind.setup).replace("{tmp}", str(tmp_path)),
            addresses=[each.address for each in found],
            environment={"PATH": kind.path, "HARDWAY_ROOT": "/mnt/root"},
        )
        ec2.tag(C, started, tag=[f"ssh-port={port}", f"ssh-user={getpass.getuser()}"], yes=True)
        known = HostKeys()
        kind_of_key, key, *_ = (home / "host_key.pub").read_text().split()
        with known.path.open("a") as file:  # no instance has two: what we saw of its own one is gone
            file.truncate(0)
        for each in started:
            HostKeys().confirm(each, {kind_of_key: key})
        (home / ".config" / "fish").mkdir(parents=True)
        (home / ".config" / "fish" / "config.fish").write_text("echo hello\n")
        (home / ".cshrc").write_text("echo hello\n")
        (home / ".zshenv").write_text("echo hello\n")
        (home / ".bashrc").write_text(NOISE if "prints" in name else "")
        return Hosts(started, home)

    yield start
    if started:
        ec2.rm(C, started, yes=True)


@pytest.mark.parametrize("name", [name for name in KINDS if "root" not in name])
def test_every_verb_runs_there(hosts_of: Callable[[str], Hosts], tmp_path: Path, name: str) -> None:
    there = hosts_of(name)
    ids, home = there.ids, there.home
    assert ec2.wait(C, ids) == ids

    results = ec2.ssh(C, ids, command="echo out; echo err >&2", yes=True)
    assert all(result.stdout.endswith(b"out\n") for result in results)
    (tmp_path / "script").write_text("#!/usr/bin/env -S sh -u\nread -r word\necho got-$word $0\n")
    (tmp_path / "stdin").write_text("data\n")
    script, stdin = str(tmp_path / "script"), str(tmp_path / "stdin")
    for seconds in (0, 60):
        results = ec2.ssh(C, ids, command=script, stdin=stdin, timeout=seconds, yes=True)
        assert all(b"got-data /" in result.stdout for result in results)

    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "it's a file").write_bytes(os.urandom(300_000))
    (tree / "empty").touch()
    ec2.scp(C, f"{tree}/*", ":copied/", ids, yes=True)
    ec2.push(C, str(tree), ":pushed", ids, yes=True)
    (home / "synced").mkdir()  # the three share one home: only here can two rsyncs try to make the same folder at once
    ec2.push(C, str(tree), ":synced", ids, yes=True, sync=True)
    assert contents(home / "copied") == contents(home / "pushed") == contents(home / "synced") == contents(tree)
    ec2.scp(C, ":copied/*", f"{tmp_path}/fetched/", ids[:1], yes=True)
    ec2.pull(C, ":pushed", str(tmp_path / "pulled"), ids, yes=True)
    assert contents(tmp_path / "fetched") == contents(tree)
    assert [contents(tmp_path / "pulled" / id) for id in ids] == [contents(tree)] * 3

    arguments = [f"{number}" for number in range(9)]
    if name == "no python3":
        with pytest.raises(Failed, match="it has no python3: install it there"):
            mapreduce.pmap(C, ids, arguments, "cat", progress=False)
    else:
        came = mapreduce.pmap(C, ids, arguments, "echo $(cat)", progress=False)
        assert [str(each).strip() for each in came] == arguments
        assert list(mapreduce.pmap(C, ids, "x", "sh script <stdin", files=[script, stdin], progress=False))

    # One of them: what would be a root directory for each is the same for all.
    assert ec2.extend(C, ids[:1], hours=3, yes=True) == ids[:1]
    [result] = ec2.ssh(C, ids[:1], command="cat /mnt/root/etc/hardway/ends", yes=True)
    assert int(result.stdout.split()[-1].decode().removeprefix("\0\0ustar")) > time.time() + 2 * 3600


def test_a_user_who_may_not_log_in_is_told_who_may(
    hosts_of: Callable[[str], Hosts], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ids = hosts_of("root is told to log in as another").ids[:1]
    (tmp_path / "file").write_text("content")
    for verb in (
        lambda: ec2.wait(C, ids, seconds_timeout=round(patience(4))),
        lambda: ec2.ssh(C, ids, command="id", yes=True),
        lambda: ec2.ssh(C, ids, command=str(tmp_path / "file"), yes=True),
        lambda: ec2.scp(C, str(tmp_path / "file"), ":", ids, yes=True),
        lambda: ec2.scp(C, ":file", f"{tmp_path}/", ids, yes=True),
        lambda: ec2.push(C, str(tmp_path / "home"), ":", ids, yes=True),
        lambda: ec2.push(C, str(tmp_path / "home"), ":", ids, yes=True, sync=True),
        lambda: ec2.pull(C, ":x", f"{tmp_path}/y", ids, yes=True),
        lambda: ec2.extend(C, ids, hours=1, yes=True),
        lambda: mapreduce.pmap(C, ids, "a", "cat", progress=False),
    ):
        with pytest.raises(HardwayError) as failed:
            verb()
        assert "--ssh-user ubuntu" in capfd.readouterr().err + str(failed.value)


def test_a_wrong_user_is_suspected_as_well_as_the_key(
    hosts_of: Callable[[str], Hosts], capfd: pytest.CaptureFixture[str]
) -> None:
    ids = hosts_of("a .bashrc that prints").ids[:1]
    ec2.tag(C, ids, tag="ssh-user=nobody-here", yes=True)
    with pytest.raises(Failed):
        ec2.ssh(C, ids, command="id", yes=True)
    said = capfd.readouterr().err
    assert "it accepts none of our keys for the user nobody-here" in said
    assert "--ssh-user" in said


def test_a_server_that_lets_few_in_at_a_time_is_asked_again(start_sshd: Callable[..., int], tmp_path: Path) -> None:
    """As a bastion is, through which all come; others who dawdle at its door leave no room at first."""
    port = start_sshd(0, "MaxStartups 3", "LogLevel DEBUG1")
    many = [replace(instance(0, port), id=f"i-{number:017x}") for number in range(20)]
    with contextlib.ExitStack() as others:
        for _ in range(3):
            others.enter_context(socket.create_connection((many[0].address, port)))
        leave = threading.Timer(1.0, others.close)
        leave.start()
        results = run(many, Settings(), "echo in")
        leave.join()
    assert [getattr(result, "stdout", result) for result in results] == [b"in\n"] * 20
    assert "past MaxStartups" in (tmp_path / "sshd0" / "log").read_text()
