"""Files that hardway keeps on this machine are for its user's eyes alone, whatever the umask is."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hardway import files
from hardway.ssh import keys
from tests.patience import patience


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def open_umask() -> object:
    before = os.umask(0)
    yield
    os.umask(before)


def test_all_that_is_made_is_private(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    for place in (files.state_directory("launches"), files.cache_directory(), keys.own_key().path.parent):
        for path in [place, *place.parents]:
            if path == home:
                break
            assert mode(path) == 0o700, path
    with open(home / "file", "w", opener=files.private_file):
        assert mode(home / "file") == 0o600


def test_what_was_open_to_all_is_mended(home: Path) -> None:
    directory = home / ".local/state/hardway"
    directory.mkdir(parents=True)
    assert mode(directory) == 0o777
    assert files.state_directory() == directory
    assert (mode(directory), mode(directory.parent)) == (0o700, 0o777)  # the other is not ours


def test_a_tasks_own_files_are_private(home: Path) -> None:
    script = (
        "from invoke import Context; from hardway.cli.task import task\n"
        "@task\ndef broken(c):\n    '''A bug.'''\n    raise ZeroDivisionError\n"
        "broken(Context())"
    )
    subprocess.run([sys.executable, "-c", script], timeout=patience(60), capture_output=True)
    log = home / ".local/state/hardway/errors.log"
    assert (mode(log), mode(log.parent)) == (0o600, 0o700)


def test_where_nothing_can_be_kept_it_is_told(home: Path) -> None:
    (home / ".local").write_text("a file")
    with pytest.raises(OSError, match="Not a directory"):
        files.state_directory()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory another user's, and write there")
def test_nothing_is_kept_where_another_user_could_exchange_it(home: Path) -> None:
    for kind in ("state", "share"):
        directory = home / ".local" / kind / "hardway"
        directory.mkdir(parents=True)
        os.chown(directory, 65534, 65534)
    with pytest.raises(PermissionError, match="another user's"):
        files.state_directory()
    with pytest.raises(PermissionError, match="another user's"):
        keys.own_key()
    assert [path for path in home.rglob("*") if path.is_file()] == []
