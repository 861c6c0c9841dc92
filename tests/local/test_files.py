"""Copies to and from an instance by the programs people use: scp in both its modes, sftp, rsync, tar."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.local.conftest import Machine
from tests.patience import patience

NAMES = ["plain", "with space", "käse\n", "'quoted\"", "-dash", "*", b"latin \xe9".decode("utf-8", "surrogateescape")]
MODES = {"scp": (), "scp -O": ("-O",)}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with odd names, modes, links, an empty file and a big one."""
    top = tmp_path / "tree"
    (top / "below").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        (top / name).write_bytes(name.encode(errors="surrogateescape") * number)
    (top / "below" / "run.sh").write_text("#!/bin/sh\n")
    (top / "below" / "run.sh").chmod(0o755)
    (top / "below" / "secret").write_text("s")
    (top / "below" / "secret").chmod(0o600)
    (top / "big").write_bytes(os.urandom(3_000_001))
    os.utime(top / "plain", (1_000_000_000, 1_000_000_000))
    return top


def listing(top: Path) -> dict[str, tuple[int, bytes | str]]:
    """Every file below: its mode, and its content or where it points."""
    found: dict[str, tuple[int, bytes | str]] = {}
    for path in sorted(top.rglob("*")):
        mode = path.lstat().st_mode & 0o777
        name = os.fsencode(path.relative_to(top)).hex()
        if path.is_symlink():
            found[name] = (0, os.readlink(path))
        elif path.is_file():
            found[name] = (mode, path.read_bytes())
    return found


def run(*command: str) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(command, capture_output=True, timeout=patience())
    assert done.returncode == 0, done.stderr.decode()
    return done


@contextlib.contextmanager
def sftp_of(machine: Machine) -> Iterator[Any]:
    with machine.transport() as transport, contextlib.closing(transport.open_sftp_client()) as sftp:
        yield sftp


@pytest.mark.parametrize("mode", MODES)
def test_scp_of_a_tree_there_and_back(machine: Machine, tree: Path, tmp_path: Path, mode: str) -> None:
    if mode == "scp -O":  # the old protocol can't have a line end in a name
        next(path for path in tree.iterdir() if path.name.endswith("\n")).unlink()
    machine.output("rm -rf tree")
    scp = ("scp", "-rp", *MODES[mode], *machine.options())
    run(*scp, str(tree), f"{machine.login}:")
    run(*scp, f"{machine.login}:tree", str(tmp_path / "back"))
    assert listing(tmp_path / "back") == listing(tree)
    assert (tmp_path / "back" / "plain").stat().st_mtime == 1_000_000_000
    machine.output("test -x tree/below/run.sh; rm -r tree")


@pytest.mark.parametrize("mode", MODES)
def test_scp_to_the_home_and_tmp_by_their_full_names(machine: Machine, tmp_path: Path, mode: str) -> None:
    (tmp_path / "file").write_text("content")
    for target, shell in ((f"/home/{machine.user}/a", "~/a"), ("/tmp/a", "${TMPDIR:-/tmp}/a"), ("a", "~/a")):
        run("scp", *MODES[mode], *machine.options(), str(tmp_path / "file"), f"{machine.login}:{target}")
        assert machine.output(f"cat {shell}; rm {shell}") == "content"


@pytest.mark.parametrize("mode", MODES)
def test_scp_cannot_write_beyond(machine: Machine, tmp_path: Path, mode: str) -> None:
    (tmp_path / "file").write_text("content")
    target = tmp_path / "evil"  # a directory of this machine, not of the instance
    target.mkdir()
    for place in ("/etc/hardway-test", "/usr/hardway-test", "/nonexistent/file"):
        command = ["scp", *MODES[mode], *machine.options(), str(tmp_path / "file"), f"{machine.login}:{place}"]
        done = subprocess.run(command, capture_output=True, timeout=patience())
        assert done.returncode != 0
        assert not Path(place).exists()


def test_scp_expands_patterns_there(machine: Machine, tmp_path: Path) -> None:
    machine.output("mkdir -p many; touch many/a1 many/a2 many/b1")
    for mode in MODES.values():
        shutil.rmtree(tmp_path / "got", ignore_errors=True)
        (tmp_path / "got").mkdir()
        run("scp", *mode, *machine.options(), f"{machine.login}:many/a*", str(tmp_path / "got"))
        assert sorted(os.listdir(tmp_path / "got")) == ["a1", "a2"]
    machine.output("rm -r many")


def test_sftp_by_hand(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    batch = "\n".join(
        [
            f'put -p "{tmp_path}/file" renamed',
            "mkdir d",
            "rename renamed d/there",
            "chmod 640 d/there",
            "ln -s there d/link",
            "ls -la d",
            f'get d/link "{tmp_path}/back"',
            "rm d/link",
            "rm d/there",
            "rmdir d",
            "pwd",
        ]
    )
    command = ["sftp", "-b", "-", *machine.options(), machine.login]
    done = subprocess.run(command, input=batch.encode(), capture_output=True, timeout=patience())
    assert done.returncode == 0, done.stderr.decode()
    out = done.stdout.decode()
    assert "-rw-r-----" in out and f" {machine.user} " in out
    assert out.rstrip().endswith(f"/home/{machine.user}")
    assert (tmp_path / "back").read_text() == "content"


def test_links_are_followed_as_inside(machine: Machine) -> None:
    machine.output("mkdir -p real; echo inside >real/file; cd; ln -sfn ~/real absolute; ln -sfn real/../real relative")
    machine.output("ln -sfn loop loop; ln -sfn /etc outside")
    with sftp_of(machine) as sftp:
        for path in ("absolute/file", "relative/file", "relative/../real/./file"):
            with sftp.open(path) as file:
                assert file.read() == b"inside\n"
        assert sftp.normalize("relative").endswith("/real")
        assert sftp.readlink("relative") == "real/../real"
        assert sftp.lstat("absolute").st_mode != sftp.stat("absolute").st_mode
        with pytest.raises(OSError):
            sftp.stat("loop")
        with pytest.raises(PermissionError):
            sftp.open("outside/hardway-test", "w")
        with pytest.raises(PermissionError):
            sftp.remove("outside/passwd")
        with pytest.raises(PermissionError):
            sftp.chmod("/etc/passwd", 0o777)
        with pytest.raises(FileNotFoundError):
            sftp.stat("absent")
        with pytest.raises(OSError):
            sftp.rename("real", "absolute")
        sftp.posix_rename("absolute", "renamed")
        sftp.remove("renamed")
        assert sftp.stat("real/file").st_size == 7
    machine.output("rm -r real relative loop outside")


def test_a_pipe_does_not_stop_the_cloud(machine: Machine) -> None:
    machine.output("mkfifo pipe")
    with sftp_of(machine) as sftp, sftp.open("pipe") as pipe, pytest.raises(OSError):
        pipe.read(10)
    assert machine.output("rm pipe; echo alive") == "alive\n"


@pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed")
def test_rsync_there_and_back(machine: Machine, tree: Path, tmp_path: Path) -> None:
    (tree / "link").symlink_to("plain")
    shell = "ssh " + " ".join(f"'{option}'" for option in machine.options())
    run("rsync", "-a", "--delete", "-e", shell, f"{tree}/", f"{machine.login}:synced/")
    run("rsync", "-a", "-e", shell, f"{machine.login}:synced/", f"{tmp_path}/back/")
    assert listing(tmp_path / "back") == listing(tree)
    again = run("rsync", "-ai", "-e", shell, f"{tree}/", f"{machine.login}:synced/")
    assert again.stdout == b""
    machine.output("rm -r synced")


def test_tar_through_exec(machine: Machine, tree: Path, tmp_path: Path) -> None:
    archive = run("tar", "-C", str(tree), "-c", ".").stdout
    done = machine.ssh(
        "mkdir -p untarred && tar -x -C untarred && tar -c -C untarred . && rm -r untarred", stdin=archive
    )
    assert done.returncode == 0, done.stderr.decode()
    (tmp_path / "back").mkdir()
    subprocess.run(["tar", "-x", "-C", str(tmp_path / "back")], input=done.stdout, check=True, timeout=patience())
    assert listing(tmp_path / "back") == listing(tree)
