"""Copies to and from hosts behind Debian's sshd: exact, whole or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fabric.group import GroupResult
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from hardway.config import Settings
from hardway.ec2.instances import Instance
from hardway.errors import UsageError
from hardway.fanout import rsync, transfer
from hardway.fanout.group import InstanceGroup
from hardway.fanout.transfer import Remote
from tests.local.conftest import eventually
from tests.patience import patience

ODD_NAMES = ["plain", "-dash", "a b", "new\nline", "quote's", 'double"', "$HOME", "*", "ümlaut", "back\\slash", ".dot"]


def succeeded(outcomes: GroupResult) -> None:
    assert not outcomes.failed, outcomes.failed


def contents(tree: Path) -> dict[str, tuple[str, bytes]]:
    """Each path below a tree with its kind and mode, and its content or link target."""
    found = {}
    for path in sorted(tree.rglob("*")):
        mode = f"{path.lstat().st_mode:o}"
        if path.is_symlink():
            found[str(path.relative_to(tree))] = ("link", os.readlink(path).encode())
        else:
            found[str(path.relative_to(tree))] = (mode, path.read_bytes() if path.is_file() else b"")
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A directory with everything that makes a copy go wrong."""
    root = tmp_path / "a tree"
    (root / "empty directory").mkdir(parents=True)
    (root / "deep" / "er").mkdir(parents=True)
    for number, name in enumerate(ODD_NAMES):
        (root / "deep" / name).write_bytes(os.urandom(number * 1000))
        (root / "deep" / name).chmod(0o600 | number)
    (root / "link").symlink_to("deep/plain")
    (root / "dangling").symlink_to("/nowhere/at all")
    (root / "deep" / "er" / ("x" * 200)).write_text("long name")
    (root / "executable").write_text("#!/bin/sh\n")
    (root / "executable").chmod(0o751)
    (root / "read-only").mkdir()
    (root / "read-only" / "inside").write_text("inside")
    (root / "read-only").chmod(0o555)
    yield root
    (root / "read-only").chmod(0o755)


def test_files_land_exact_under_their_names(
    hosts: list[Instance], settings: Settings, tree: Path, tmp_path: Path
) -> None:
    files = [tree / "deep" / name for name in ODD_NAMES] + [tree / "executable", tree / "link"]
    group = InstanceGroup(hosts[:2], settings)
    for number, connection in enumerate(group):
        target = tmp_path / f"to {number}"
        succeeded(transfer.send_files(InstanceGroup([connection.instance], settings), files, Remote(f"{target}/")))
        assert sorted(os.listdir(target)) == sorted(file.name for file in files)
        for file in files:
            copy = target / file.name
            assert copy.read_bytes() == file.read_bytes()
            assert stat.S_IMODE(copy.lstat().st_mode) == stat.S_IMODE(file.stat().st_mode)


def test_one_file_takes_the_destinations_name(hosts: list[Instance], settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "from").write_text("new")
    (tmp_path / "to").write_text("old")
    succeeded(transfer.send_files(InstanceGroup(hosts[:1], settings), [tmp_path / "from"], Remote(f"{tmp_path}/to")))
    assert (tmp_path / "to").read_text() == "new"
    assert not [name for name in os.listdir(tmp_path) if "hardway-" in name]


def test_a_failed_copy_leaves_what_was_there(hosts: list[Instance], settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "from").write_text("new")
    outcomes = transfer.send_files(
        InstanceGroup(hosts[:1], settings), [tmp_path / "from"], Remote(f"{tmp_path}/no/such/file")
    )
    [error] = outcomes.failed.values()
    assert isinstance(error, transfer.TransferError)
    assert "no/such" in str(error)
    target = tmp_path / "directory"
    (target / "from").mkdir(parents=True)
    [error] = transfer.send_files(
        InstanceGroup(hosts[:1], settings), [tmp_path / "from"], Remote(f"{target}/")
    ).failed.values()
    assert "is a directory" in str(error)
    assert os.listdir(target) == ["from"]


def test_a_copy_cut_off_half_way_is_not_there(hosts: list[Instance], settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(os.urandom(1 << 20) * 64)
    target = tmp_path / "target"
    target.mkdir()
    group = InstanceGroup(hosts[:1], settings)
    begun = threading.Event()

    def cut(_sent: int) -> None:
        if not begun.is_set():
            begun.set()
            group[0].transport.sock.close()

    outcomes = transfer.send_files(group, [tmp_path / "big"], Remote(f"{target}/"), cut)
    assert outcomes.failed
    deadline = time.monotonic() + patience(30)
    while os.listdir(target) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert os.listdir(target) == []


def test_files_from_several_hosts_land_under_their_ids(
    hosts: list[Instance], settings: Settings, tmp_path: Path
) -> None:
    source = tmp_path / "source dir"
    source.mkdir()
    for name in ("one.log", "two two.log", "other"):
        (source / name).write_text(name)
    (source / "one.log").chmod(0o640)
    into = tmp_path / "into"
    succeeded(transfer.fetch_files(InstanceGroup(hosts[:3], settings), Remote(f"{source}/*.log"), str(into)))
    assert sorted(os.listdir(into)) == sorted(host.id for host in hosts[:3])
    for host in hosts[:3]:
        assert {p.name: p.read_text() for p in (into / host.id).iterdir()} == {
            "one.log": "one.log",
            "two two.log": "two two.log",
        }
        assert stat.S_IMODE((into / host.id / "one.log").stat().st_mode) == 0o640


def test_a_missing_remote_file_is_named(hosts: list[Instance], settings: Settings, tmp_path: Path) -> None:
    [error] = transfer.fetch_files(
        InstanceGroup(hosts[:1], settings), Remote(f"{tmp_path}/none*"), str(tmp_path / "x")
    ).failed.values()
    assert f"{tmp_path}/none*" in str(error)
    assert not (tmp_path / "x").exists()


def test_a_tree_arrives_exact_and_comes_back(
    hosts: list[Instance], settings: Settings, tree: Path, tmp_path: Path
) -> None:
    there = tmp_path / "there" / "new"
    succeeded(transfer.push(InstanceGroup(hosts[:1], settings), tree, Remote(str(there))))
    assert contents(there) == contents(tree)
    assert (there / "executable").stat().st_mtime == pytest.approx((tree / "executable").stat().st_mtime, abs=1)
    succeeded(transfer.pull(InstanceGroup(hosts[:1], settings), Remote(str(there)), str(tmp_path / "back")))
    assert contents(tmp_path / "back") == contents(tree)
    succeeded(transfer.pull(InstanceGroup(hosts[:2], settings), Remote(str(there)), str(tmp_path / "all")))
    for host in hosts[:2]:
        assert contents(tmp_path / "all" / host.id) == contents(tree)
    for read_only in tmp_path.rglob("read-only"):
        read_only.chmod(0o755)


def test_a_slash_puts_the_tree_into_the_directory(
    hosts: list[Instance], settings: Settings, tree: Path, tmp_path: Path
) -> None:
    succeeded(transfer.push(InstanceGroup(hosts[:1], settings), tree, Remote(f"{tmp_path}/into/")))
    assert contents(tmp_path / "into" / tree.name) == contents(tree)
    (tmp_path / "into" / tree.name / "read-only").chmod(0o755)


@pytest.mark.parametrize("way", ["push", "sync", "pull"])
def test_a_tree_that_is_there_is_merged(hosts: list[Instance], settings: Settings, tmp_path: Path, way: str) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "sub").mkdir(parents=True)
    (target / "sub").mkdir(parents=True)
    (source / "sub" / "same").write_text("newer")
    (source / "sub" / "added").write_text("added")
    (target / "sub" / "same").write_text("old")
    (target / "sub" / "kept").write_text("kept")
    group = InstanceGroup(hosts[:1], settings)
    if way == "push":
        succeeded(transfer.push(group, source, Remote(str(target))))
    elif way == "sync":
        succeeded(rsync.sync(group, source, Remote(str(target))))
    else:
        succeeded(transfer.pull(group, Remote(str(source)), str(target)))
    assert {p.name: p.read_text() for p in (target / "sub").iterdir()} == {
        "same": "newer",
        "added": "added",
        "kept": "kept",
    }
    assert sorted(os.listdir(target)) == ["sub"]


def test_sync_takes_odd_names_and_sends_only_what_changed(
    hosts: list[Instance], settings: Settings, tree: Path, tmp_path: Path
) -> None:
    there = tmp_path / "it's there" / "a b"
    succeeded(rsync.sync(InstanceGroup(hosts[:1], settings), tree, Remote(str(there))))
    assert contents(there) == contents(tree)
    before = {p: p.lstat().st_ino for p in there.rglob("*")}
    (tree / "executable").write_text("changed")
    succeeded(rsync.sync(InstanceGroup(hosts[:1], settings), tree, Remote(str(there))))
    assert contents(there) == contents(tree)
    assert [p.name for p in there.rglob("*") if p.lstat().st_ino != before[p]] == ["executable"]
    (there / "read-only").chmod(0o755)


def test_sync_without_patchwork_says_how_to_get_it(
    hosts: list[Instance], settings: Settings, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "patchwork.transfers", None)
    with pytest.raises(UsageError, match="--no-deps patchwork"):
        rsync.sync(InstanceGroup(hosts[:1], settings), tree, Remote("x"))


def test_a_large_tree_goes_to_all_at_the_same_time(hosts: list[Instance], settings: Settings, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "big").write_bytes(os.urandom(1 << 20) * 20)
    for number in range(500):
        (source / f"small-{number}").write_text(str(number))
    barrier = threading.Barrier(len(hosts), timeout=patience(30))
    waited = threading.local()

    def together(_sent: int) -> None:
        # Passes only if a stream to each host is under way at once.
        if not getattr(waited, "done", False):
            waited.done = True
            barrier.wait()

    # The hosts share their files here, so that all push into one place at once, too.
    succeeded(transfer.push(InstanceGroup(hosts, settings), source, Remote(str(tmp_path / "target")), together))
    assert contents(tmp_path / "target") == contents(source)


def test_a_source_that_cannot_be_read_whole_leaves_nothing(
    hosts: list[Instance], settings: Settings, tmp_path: Path
) -> None:
    # Files here are shorter than they say they are, as one is that shrinks while it is read.
    source = Path("/sys/class/net/lo/statistics")
    outcomes = transfer.push(InstanceGroup(hosts[:2], settings), source, Remote(str(tmp_path / "target")))
    assert len(outcomes.failed) == 2
    assert all(str(source) in str(error) for error in outcomes.failed.values())
    for _ in range(500):
        if not [name for name in os.listdir(tmp_path) if "hardway" in name]:
            break
        threading.Event().wait(0.02)
    assert not [name for name in os.listdir(tmp_path) if "hardway" in name or name == "target"]


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=40).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)


@hypothesis_settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(names, st.binary(max_size=2000), min_size=1, max_size=5))
def test_any_name_and_content(
    hosts: list[Instance], settings: Settings, tmp_path: Path, files: dict[str, bytes]
) -> None:
    source, target = tmp_path / "s", tmp_path / "t"
    for directory in (source, target):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
    for name, content in files.items():
        (source / name).write_bytes(content)
    paths = [source / name for name in files]
    succeeded(transfer.send_files(InstanceGroup(hosts[:1], settings), paths, Remote(f"{target}/")))
    assert contents(target) == contents(source)


def test_sides() -> None:
    assert transfer.sides("a", ":") == ("a", Remote("./"))
    assert transfer.sides("a", ":~/b") == ("a", Remote("b"))
    assert transfer.sides(":/x", "y") == (Remote("/x"), "y")
    for pair in (("a", "b"), (":a", ":b")):
        with pytest.raises(UsageError, match="must start with"):
            transfer.sides(*pair)


def test_local_files(tmp_path: Path) -> None:
    (tmp_path / "a[1]").write_text("")
    (tmp_path / "a1").write_text("")
    assert transfer.local_files(f"{tmp_path}/a[1]") == [tmp_path / "a[1]"]
    assert transfer.local_files(f"{tmp_path}/a*") == [tmp_path / "a1", tmp_path / "a[1]"]
    with pytest.raises(UsageError, match="no file"):
        transfer.local_files(f"{tmp_path}/b*")
    with pytest.raises(UsageError, match=r"ec2\.push"):
        transfer.local_files(str(tmp_path))


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_ssh_ends_with_the_remote_shell_of_rsync(tmp_path: Path, number: signal.Signals) -> None:
    """The host hangs, and rsync, which is ended, ends its remote shell."""
    silent = tmp_path / "ssh"
    silent.write_text('#!/bin/sh\necho $$ >"${0%/*}/pid"\nexec sleep 300\n')
    silent.chmod(0o755)
    command = [sys.executable, "-m", "hardway.fanout.clean_shell", str(silent), "host", "rsync", "--server", "."]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as shell:
        try:
            eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
            shell.send_signal(number)
            assert b"Traceback" not in shell.communicate(timeout=patience(20))[1]
        finally:
            shell.kill()
    pid = (tmp_path / "pid").read_text().strip()
    assert shell.returncode != 0
    assert not Path("/proc", pid).exists()
