"""Trust in a connection: tags are text, an open one is no proof, our files are ours, silence is told."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fabric.group import GroupResult

from hardway.config import Settings
from hardway.ec2.instances import Instance
from hardway.errors import UsageError
from hardway.fanout import group as groups
from hardway.fanout import rsync, transfer
from hardway.fanout.group import CommandResult, ConnectionLost, InstanceGroup, Printer, report
from hardway.fanout.transfer import Remote
from hardway.ssh import connection as ssh
from hardway.ssh.keys import HostKeys, own_key
from tests.openssh.conftest import instance
from tests.openssh.test_group import run
from tests.openssh.test_hostile import failure
from tests.openssh.test_places import holders, wait_for
from tests.patience import patience


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        *(("ssh-user", text) for text in ("x;touch {evil};#", "-oProxyCommand=touch {evil}", "a b", "$(touch {evil})")),
        *(("ssh-user", text) for text in ("x\nProxyCommand touch {evil}", "`touch {evil}`", "a'b", "x\x1b[2J", "ü")),
        *(("ssh-port", text) for text in ("22;touch {evil}", "0", "65536", "-1", "٢٢", "22 -oPort=1", "1e3")),
    ],
)
def test_a_tag_that_is_none_is_refused_and_named(
    settings: Settings, tmp_path: Path, home: Path, tag: str, value: str
) -> None:
    value = value.replace("{evil}", str(tmp_path / "evil"))
    host = instance(0, 1)
    host = replace(host, tags={**host.tags, tag: value})
    (tmp_path / "tree").mkdir()
    acts: list[Callable[[], object]] = [
        lambda: run([host], settings, "true"),
        lambda: rsync.sync(InstanceGroup([host], settings), tmp_path / "tree", Remote("x")),
        lambda: ssh.login_command(host, settings),
    ]
    for act in acts:
        with pytest.raises(UsageError, match=f"the tag {tag} of {host} is") as refused:
            act()
        assert str(refused.value).isprintable()
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("address", ["-oProxyCommand=touch evil", "host name", "$(touch evil)", "1.2.3", "::1%eth0;x"])
def test_an_address_that_is_none_is_refused(settings: Settings, home: Path, address: str) -> None:
    with pytest.raises(UsageError, match="which is invalid"):
        run([replace(instance(0, 22), public_ip=address)], settings, "true")


@pytest.mark.parametrize("user", ["ubuntu", "ec2-user", "anna@corp.example", "svc_1", "a.b"])
def test_users_there_are(settings: Settings, home: Path, user: str) -> None:
    host = replace(instance(0, 22), tags={"ssh-user": user})
    assert ssh.login_command(host, settings)[-1] == f"{user}@127.78.0.1"


def test_our_own_user_and_port_are_looked_at(settings: Settings, home: Path) -> None:
    host = replace(instance(0, 22), tags={})
    for changed, word in (({"ssh_user": "a b"}, "ssh_user"), ({"ssh_port": 70000}, "ssh_port")):
        with pytest.raises(UsageError, match=f"the setting ec2.{word}"):
            ssh.login_command(host, replace(settings, ec2=replace(settings.ec2, **changed)))


def test_a_persons_configuration_gets_nobody_past_the_host_key(
    start_sshd: Callable[..., int], settings: Settings, home: Path, tmp_path: Path
) -> None:
    """One login's open connection would carry the next, to another instance at the same address."""
    first, other = start_sshd(0), start_sshd(0)
    (home / ".ssh").mkdir(exist_ok=True)
    (home / ".ssh" / "config").write_text(
        f"""Host *
  ControlMaster auto
  ControlPath {tmp_path}/control
  ControlPersist 30
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  PermitLocalCommand yes
  LocalCommand touch {tmp_path}/evil
  ForwardAgent yes
  RemoteCommand touch {tmp_path}/evil
"""
    )
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", tmp_path / "agent"], stdout=subprocess.DEVNULL)
    environment = {**os.environ, "SSH_AUTH_SOCK": str(tmp_path / "agent")}

    def login(host: Instance) -> subprocess.CompletedProcess[str]:
        # ssh looks for its configuration in the home of the user's account, whatever HOME is.
        program, *rest = ssh.login_command(host, settings)
        command = [program, "-F", str(home / ".ssh" / "config"), *rest, "echo in $SSH_AUTH_SOCK"]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=patience(60)
        )

    try:
        wait_for((tmp_path / "agent").exists)
        host = instance(0, first)
        assert login(host).stdout == "in\n"
        # A master that is there already, as from a login of the person's own.
        master = ["ssh", "-F", str(home / ".ssh" / "config"), "-oControlPersist=no", "-oRemoteCommand=none"]
        own_key_file = ["-i", str(own_key().path), "-p", str(first)]
        running = subprocess.Popen([*master, *own_key_file, "-N", "-M", ssh.login_command(host, settings)[-1]])
        wait_for((tmp_path / "control").exists)
        impostor = replace(instance(0, other), id=host.id)
        done = login(impostor)
        assert (done.returncode, done.stdout) == (255, "")
        (tmp_path / "tree").mkdir()
        failure(rsync.sync(InstanceGroup([impostor], settings), tmp_path / "tree", Remote(str(tmp_path / "copy"))))
        assert not (tmp_path / "copy").exists()
        (tmp_path / "evil").unlink(missing_ok=True)  # of the person's own login
        assert login(host).stdout == "in\n"
        assert not (tmp_path / "evil").exists()
        running.terminate()
        running.wait(patience(10))
    finally:
        agent.terminate()
        agent.wait(patience(10))


def test_what_is_ours_is_for_us_alone_whatever_the_umask_is(
    start_sshd: Callable[..., int], settings: Settings, home: Path, request: pytest.FixtureRequest
) -> None:
    before = os.umask(0)
    request.addfinalizer(lambda: os.umask(before))
    host = instance(0, start_sshd(0))
    known = HostKeys().path

    def modes() -> tuple[int, ...]:
        return tuple(stat.S_IMODE(path.stat().st_mode) for path in (known, known.parent, own_key().path))

    for _ in range(2):
        [result] = run([host], settings, "true")
        assert isinstance(result, CommandResult)
        assert modes() == (0o600, 0o700, 0o600)
        # As an earlier version left them
        known.chmod(0o666)
        known.parent.chmod(0o777)
        own_key().path.chmod(0o644)
    ssh.login_command(host, settings)
    assert modes() == (0o600, 0o700, 0o600)


def server_of(port: int) -> int:
    """The process that serves the one connection to this port, once one before it is gone."""
    wanted = f":{port:04X}"
    inodes: set[str] = set()

    def only_one() -> bool:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        inodes.clear()
        inodes.update(f"socket:[{row[9]}]" for row in rows if row[1].endswith(wanted) and row[3] == "01")
        return len(inodes) == 1

    wait_for(only_one)
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) in inodes:
                return int(link.parts[2])
        except OSError:
            continue
    raise AssertionError("nobody serves it")


def test_a_host_that_hangs_is_told_and_given_up(
    start_sshd: Callable[..., int], settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(groups, "HANGS_SECONDS", 0.6)
    monkeypatch.setattr(groups, "GIVE_UP_SECONDS", 4.0)
    port = start_sshd(0)
    host = instance(0, port)
    said: list[str] = []
    outcomes: list[GroupResult] = []

    def start(command: str) -> threading.Thread:
        (tmp_path / "runs").unlink(missing_ok=True)
        said.clear()
        outcomes.clear()
        line = f"touch '{tmp_path}/runs'; {command}"
        work = lambda: outcomes.append(InstanceGroup([host], settings).execute(line, say=said.append))  # noqa: E731
        thread = threading.Thread(target=work)
        thread.start()
        wait_for((tmp_path / "runs").exists)
        return thread

    # What is silent and lives is left alone, longer than one that hangs.
    start("sleep 5").join(patience(30))
    assert (said, [result.exit_code for result in outcomes[0].values()]) == ([], [0])

    thread = start("sleep 2")
    stopped = server_of(port)
    os.kill(stopped, signal.SIGSTOP)
    wait_for(lambda: said)
    os.kill(stopped, signal.SIGCONT)
    thread.join(patience(30))
    assert [result.exit_code for result in outcomes[0].values()] == [0]
    assert (str(host) in said[0], "it hangs" in said[0]) == (True, True)

    thread = start("sleep 60")
    stopped = server_of(port)
    os.kill(stopped, signal.SIGSTOP)
    thread.join(patience(30))
    os.kill(stopped, signal.SIGKILL)
    [outcome] = outcomes[0].values()
    assert isinstance(outcome, ConnectionLost)
    assert "the host hangs" in str(outcome)
    assert len(said) == 1


@pytest.mark.parametrize("way", ["scp", "push", "fetch", "pull"])
@pytest.mark.parametrize("moment", [0, 1, 3_000_000])
def test_a_connection_lost_at_any_moment_is_no_success(
    start_sshd: Callable[..., int], settings: Settings, tmp_path: Path, way: str, moment: int
) -> None:
    """The process that serves it is killed: there is no word of it."""
    port = start_sshd(0, shell="/bin/bash")
    group = InstanceGroup([instance(0, port)], settings)
    home = tmp_path / "sshd0"
    for place in (tmp_path, home):
        (place / "tree").mkdir()
        with (place / "tree" / "file").open("wb") as file:
            file.truncate(1 << 30)
    target = (home if way in ("scp", "push") else tmp_path) / "target"
    target.mkdir()
    (target / "file").write_text("mine")
    moved, killed = 0, False

    def kill(count: int) -> None:
        nonlocal moved, killed
        moved += count
        if moment and moved >= moment and not killed:
            killed = True
            os.kill(server_of(port), signal.SIGKILL)

    if not moment:  # while the login shell starts
        (home / ".bashrc").write_text('kill -9 "$PPID"\n')
    copies: dict[str, Callable[[], GroupResult]] = {
        "scp": lambda: transfer.send_files(group, [tmp_path / "tree" / "file"], Remote("target/"), kill),
        "push": lambda: transfer.push(group, tmp_path / "tree", Remote("target"), kill),
        "fetch": lambda: transfer.fetch_files(group, Remote("tree/file"), f"{target}/", kill),
        "pull": lambda: transfer.pull(group, Remote("tree"), str(target), kill),
    }
    outcomes = copies[way]()
    said = failure(outcomes)
    assert "lost" in said or "did not run" in said or "closed the connection" in said
    wait_for(lambda: os.listdir(target) == ["file"])
    assert (target / "file").read_text() == "mine"
    wait_for(lambda: not holders(target))


def test_what_a_host_says_is_shown_escaped(
    start_sshd: Callable[..., int], settings: Settings, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    host = replace(instance(0, start_sshd(0, shell="/bin/bash")), name="evil\x1b]52;c;x\x07\nhost9 i-9")
    (tmp_path / "sshd0" / "bin").mkdir()
    (tmp_path / "sshd0" / "tree").mkdir()
    (tmp_path / "sshd0" / "bin" / "tar").write_text("#!/bin/sh\nprintf '\\033[2J\\302\\233gone\\n' >&2; exit 2\n")
    (tmp_path / "sshd0" / "bin" / "tar").chmod(0o755)
    (tmp_path / "sshd0" / ".bashrc").write_text('PATH="$HOME/bin:$PATH"\n')
    group = InstanceGroup([host], settings)
    said = failure(transfer.pull(group, Remote("tree"), str(tmp_path / "t")))
    assert said.isprintable()
    assert "\\x1b[2J\\x9bgone" in said
    printer = Printer(prefix=True, sole=False)
    report(InstanceGroup([host], settings).execute("printf 'raw\\033\\n'", printer=printer), lambda line: None)
    assert capfdbinary.readouterr().out == b"evil\\x1b]52;c;x\\x07\\nhost9 i-9 i-00000000000000000: raw\x1b\n"


def test_homes_and_names(hosts: list[Instance], settings: Settings, tmp_path: Path) -> None:
    for path, said in (("~nosuchuser/x", "there is no user nosuchuser"), ("a\0b", "no NUL character")):
        for act in (transfer.local_files, transfer.local_tree):
            with pytest.raises(UsageError, match=said):
                act(path)
    with pytest.raises(UsageError, match="only ~/ is known there as a home"):
        transfer.sides("a", ":~nobody/x")
    for copy in (transfer.fetch_files, transfer.pull):
        with pytest.raises(UsageError, match="there is no user"):
            copy(InstanceGroup(hosts[:1], settings), Remote("x"), "~nosuchuser/x")
    odd = os.fsdecode(b"\xff\xfe new\nline")
    (tmp_path / odd).write_text("odd")
    group = InstanceGroup(hosts[:1], settings)
    assert not transfer.send_files(group, [tmp_path / odd], Remote(f"{tmp_path}/there/")).failed
    assert not transfer.fetch_files(group, Remote(f"{tmp_path}/there/{odd}"), f"{tmp_path}/back/").failed
    assert not transfer.fetch_files(group, Remote(f"{tmp_path}/there/*"), f"{tmp_path}/again/").failed
    assert [os.listdir(tmp_path / name) for name in ("there", "back", "again")] == [[odd]] * 3
    [result] = run(hosts[:1], settings, f"cat '{tmp_path}/{odd}'")
    assert result.stdout == b"odd"
    failure(transfer.fetch_files(group, Remote(f"{tmp_path}/{odd}?"), str(tmp_path / "x")))
