"""A command runs whatever the login shell is and prints, or hardway says that it did not run."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from hardway.config import Settings
from hardway.ec2.instances import Instance
from hardway.fanout import broadcast, commands, globs, transfer
from hardway.fanout.group import CommandError, CommandResult, InstanceGroup, Printer
from hardway.fanout.transfer import Remote
from hardway.launch import lifetime, readiness
from hardway.launch.init import Look
from hardway.ssh import channel
from hardway.ssh.keys import HostKeys
from hardway.ssh.script import Words
from tests.openssh.conftest import instance
from tests.openssh.test_group import run
from tests.openssh.test_transfer import contents
from tests.patience import patience

ODD = 'it\'s "odd" \\ $HOME `x` !! ümlaut\nand a newline'
SHELLS = ("fish", "tcsh", "zsh", "dash", "noisy")
# What start-up files do that a protocol must bear: print, also what looks like an answer, read, and end with any code.
NOISE = """
echo ok; printf 'no newline '; echo 'a complaint' >&2; printf '\\0\\0ustar'
trap 'exit 0' EXIT
"""


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, start_sshd: Callable[..., int], tmp_path: Path) -> list[Instance]:
    """Hosts with this login shell, each of which greets whoever comes."""
    program = shutil.which("bash" if request.param == "noisy" else request.param)
    if not program:
        pytest.skip(f"no {request.param} here")
    port = start_sshd(0, shell=program)
    home = tmp_path / "sshd0"
    (home / ".config" / "fish").mkdir(parents=True)
    (home / ".config" / "fish" / "config.fish").write_text("echo ok\n")
    (home / ".cshrc").write_text("echo ok\n")
    (home / ".zshenv").write_text("echo ok\n")
    (home / ".bashrc").write_text(NOISE if request.param == "noisy" else "")
    return [instance(number, port) for number in range(5)]


def test_all_that_runs_there_runs_or_fails(
    shell: list[Instance], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sshd for all of it: they take half a second each."""
    one, home = shell[:1], tmp_path / "sshd0"
    # A file, and a time limit
    (tmp_path / "script").write_text("read -r word\n[[ $word == data ]] && echo got-$word >there\nexit 3\n")
    (tmp_path / "in").write_text("data")
    command = commands.read(str(tmp_path / "script"), str(tmp_path / "in"))
    for seconds in (0, round(patience(20))):
        [result] = run(one, settings, command.line, stdin=command.stdin, timeout=seconds)
        assert (result.exit_code, (home / "there").read_text()) == (3, "got-data\n")
        (home / "there").unlink()
    [result] = run(one, settings, "echo in time; exit 4", timeout=patience(20))
    assert result.stdout.endswith(b"in time\n")
    # As for ssh: here a start-up file says how the login shell ends.
    assert result.exit_code == (0 if "trap" in (home / ".bashrc").read_text() else 4)
    [outcome] = run(one, settings, "sleep 60", timeout=0.5)
    assert isinstance(outcome, CommandError)
    assert "still running after 0.5 s" in str(outcome)

    # What ec2.extend and readiness run
    [outcome] = lifetime.extend(settings, one, 1).values()
    assert "it has no end to move" in str(outcome)
    assert readiness._try(one[0], settings, HostKeys(consoles=0), threading.Event()) == Look(watched=False)

    # Copies there and back
    source = tmp_path / "source"
    source.mkdir()
    (source / ODD).write_bytes(os.urandom(600_000))
    (source / "plain").write_text("plain")
    group = InstanceGroup(one, settings)
    assert not transfer.send_files(group, sorted(source.iterdir()), Remote(f"{ODD}/")).failed
    assert contents(home / ODD) == contents(source)
    shutil.copytree(source, home / "it's $HOME !!")
    assert not transfer.fetch_files(group, Remote("it's $HOME !!/*"), f"{tmp_path}/back/").failed
    assert contents(tmp_path / "back") == contents(source)
    assert not transfer.push(group, source, Remote(f"pushed/{ODD}")).failed
    assert contents(home / "pushed" / ODD) == contents(source)
    assert not transfer.pull(group, Remote(f"pushed/{ODD}"), str(tmp_path / "pulled")).failed
    assert contents(tmp_path / "pulled") == contents(source)
    assert transfer.fetch_files(group, Remote("nothing*"), str(tmp_path / "x")).failed

    # From one to the other
    monkeypatch.setattr(broadcast, "LEAST_BYTES", 1)
    came: list[int] = []
    outcomes = broadcast.send_files(InstanceGroup(shell, settings), [source / ODD], Remote("spread/"), came.append)
    assert not outcomes.failed, outcomes.failed
    assert 600_000 in came  # in one go: from another host, past what its login shell prints
    assert (home / "spread" / ODD).read_bytes() == (source / ODD).read_bytes()
    assert not [name for name in os.listdir(home) if name.startswith(".hardway")]


@pytest.mark.parametrize("program", ["true", "false", "nologin"])
def test_a_login_shell_that_runs_nothing_is_no_success(
    start_sshd: Callable[..., int], settings: Settings, tmp_path: Path, program: str
) -> None:
    path = shutil.which(program, path="/bin:/usr/bin:/sbin:/usr/sbin")
    host = instance(0, start_sshd(0, shell=path))
    group = InstanceGroup([host], settings)
    (tmp_path / "file").write_text("content")
    (tmp_path / "tree").mkdir()
    outcomes = [
        *run([host], settings, commands.read(str(tmp_path / "file")).line, stdin=lambda: iter([b"content"])),
        *run([host], settings, "true", timeout=20),
        *transfer.send_files(group, [tmp_path / "file"], Remote("file")).values(),
        *transfer.push(group, tmp_path / "tree", Remote("tree")).values(),
        *transfer.fetch_files(group, Remote("file"), str(tmp_path / "x")).values(),
        *transfer.pull(group, Remote("tree"), str(tmp_path / "y")).values(),
    ]
    for outcome in outcomes:
        assert isinstance(outcome, BaseException) or outcome.exit_code, outcome
    assert isinstance(readiness._try(host, settings, HostKeys(consoles=0), group.interrupted), str)


def test_what_a_login_shell_prints_stays_in_a_commands_output(
    start_sshd: Callable[..., int], settings: Settings, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    host = instance(0, start_sshd(0, shell=shutil.which("bash")))
    (tmp_path / "sshd0" / ".bashrc").write_text("echo hello\n")
    (tmp_path / "script").write_text("printf 'no newline\\0'")
    script = commands.read(str(tmp_path / "script"))
    text, limit = "printf 'no newline\\0'", patience(9)
    for line, stdin, timeout in ((text, None, 0), (text, None, limit), (script.line, script.stdin, limit)):
        printer = Printer(prefix=False, sole=True)
        [result] = run([host], settings, line, stdin=stdin, timeout=timeout, printer=printer)
        assert result.stdout == capfdbinary.readouterr().out == b"hello\nno newline\0"


def test_a_script_that_comes_short_or_mixed_does_not_run(
    start_sshd: Callable[..., int], settings: Settings, tmp_path: Path
) -> None:
    """A start-up file has read some of what was for us."""
    host = instance(0, start_sshd(0, shell=shutil.which("bash")))
    (tmp_path / "sshd0" / ".bashrc").write_text("head -c 5 >/dev/null\n")
    (tmp_path / "file").write_text("touch evil\n" * 10_000)
    group = InstanceGroup([host], settings)
    [error] = transfer.send_files(group, [tmp_path / "file"], Remote("file")).failed.values()
    assert "did not arrive whole" in str(error)
    [outcome] = run([host], settings, "touch evil", timeout=9)
    assert not isinstance(outcome, CommandResult) or outcome.exit_code
    assert sorted(set(os.listdir(tmp_path / "sshd0")) & {"file", "evil"}) == []


def test_a_login_shell_that_never_stops_printing(
    start_sshd: Callable[..., int], settings: Settings, tmp_path: Path
) -> None:
    group = InstanceGroup([instance(0, start_sshd(0, shell=shutil.which("bash")))], settings)
    (tmp_path / "sshd0" / ".bashrc").write_text("yes\n")
    (tmp_path / "file").write_text("content")
    [error] = transfer.send_files(group, [tmp_path / "file"], Remote("file")).failed.values()
    assert "prints without end" in str(error)
    [error] = transfer.fetch_files(group, Remote("file"), str(tmp_path / "x")).failed.values()
    assert "prints without end" in str(error)


def test_what_a_person_has_set_for_tar_is_not_for_us(
    start_sshd: Callable[..., int], settings: Settings, tmp_path: Path
) -> None:
    host = instance(0, start_sshd(0, shell=shutil.which("bash")))
    (tmp_path / "sshd0" / ".bashrc").write_text("export TAR_OPTIONS='--exclude=a*' POSIXLY_CORRECT=1\n")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("a", "b"):
        (source / name).write_text(name)
    group = InstanceGroup([host], settings)
    assert not transfer.push(group, source, Remote("there")).failed
    assert contents(tmp_path / "sshd0" / "there") == contents(source)
    assert not transfer.pull(group, Remote("there"), str(tmp_path / "pulled")).failed
    assert not transfer.fetch_files(group, Remote("there/*"), f"{tmp_path}/fetched/").failed
    assert contents(tmp_path / "pulled") == contents(tmp_path / "fetched") == contents(source)


def test_hosts_that_never_begin_keep_nobody_waiting(
    start_sshd: Callable[..., int], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start-up file takes what was for us: each waits for its own script, not one after the other for the file."""
    port = start_sshd(0, shell=shutil.which("bash"))
    (tmp_path / "sshd0" / ".bashrc").write_text("cat >/dev/null\n")
    (tmp_path / "file").write_text("content")
    monkeypatch.setattr(broadcast, "LEAST_BYTES", 1)
    monkeypatch.setattr(channel, "STALL_SECONDS", 2.0)
    sources: list[str] = []
    monkeypatch.setattr(broadcast.Board, "source", lambda _board, name: sources.append(name))
    group = InstanceGroup([instance(number, port) for number in range(4)], settings)
    outcomes = broadcast.send_files(group, [tmp_path / "file"], Remote("there"), transfer.no_progress)
    assert len(outcomes.failed) == 4
    assert sources == []


def test_keys_that_are_linked_to_stay_so(
    start_sshd: Callable[..., int], settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = start_sshd(0, shell=shutil.which("bash"))
    home = tmp_path / "sshd0"
    (home / ".ssh").mkdir()
    (home / "keys").write_text("# mine\n")
    (home / ".ssh" / "authorized_keys").symlink_to("../keys")
    (tmp_path / "file").write_text("content")
    monkeypatch.setattr(broadcast, "LEAST_BYTES", 1)
    group = InstanceGroup([instance(number, port) for number in range(4)], settings)
    assert not broadcast.send_files(group, [tmp_path / "file"], Remote("there"), transfer.no_progress).failed
    assert (home / ".ssh" / "authorized_keys").is_symlink()
    assert (home / "keys").read_text() == "# mine\n"


def test_words_are_found_however_they_come() -> None:
    begin, end = b"begin" * 6, b"endend" * 6
    stream = b"noise beg" + begin + b"data end" + b"endend" * 2 + b"x" + end + b"  0" + b"more"
    for size in range(1, len(stream)):
        for keep, expected in ((True, b"noise beg"), (False, b"")):
            words = Words(begin, end, keep)
            own = b"".join(words.feed(stream[at : at + size]) for at in range(0, len(stream), size)) + words.rest()
            assert (own, words.code) == (expected + b"data end" + b"endend" * 2 + b"x" + b"more", 0)


def test_output_without_words_loses_nothing() -> None:
    words = Words(b"word", b"end", keep_noise=True)
    assert words.feed(b"abc wor") + words.rest() == b"abc wor"
    assert (words.begun, words.code) == (False, None)


@pytest.mark.parametrize(
    ("name", "pattern", "expected"),
    [
        ("data.txt", "data.txt", True),
        (".bashrc", "data.txt", False),
        (".bashrc", "*", False),
        (".bashrc", ".*", True),
        ("a1", "a[0-9]", True),
        ("a[1]", "a[1]", True),
        ("ab", "a[!b]", False),
        ("ac", "a[^b]", True),
        ("a]", "a[]]", True),
        ("a-", "a[x-]", True),
        ("aZ", "a[[:upper:]]", True),
        ("az", "a[[:upper:]]", False),
        ("a*", "a\\*", True),
        ("ab", "a\\*", False),
        ("ü", "?", True),
        ("ü", "??", True),
        ("new\nline", "new*", True),
        ("x" * 250, "*a" * 20, False),
        ("[", "[", True),
        ("ab", "[", False),
    ],
)
def test_a_name_that_was_asked_for(name: str, pattern: str, expected: bool) -> None:
    assert globs.matches(name, pattern) is expected
