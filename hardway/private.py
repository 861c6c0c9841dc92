"""Directories and files of ours that are for nobody else on this machine: their modes are set, not inherited."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from platformdirs import user_state_path


def state() -> Path:
    """Where host keys, jobs and the log of errors are kept; made, or mended, if need be. Raises OSError."""
    return directory(user_state_path("hardway"))


def directory(path: Path) -> Path:
    """Have a directory that only we can look into; what is above it is made as the umask says. Raises OSError."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    _mend(path, 0o700)
    return path


def mend_file(descriptor: int) -> None:
    """Have an open file that only we can read and write. Raises OSError."""
    _mend(descriptor, 0o600)


def _mend(what: Path | int, most: int) -> None:
    status = os.stat(what)
    # Another user's is not ours to mend: then what is done in it fails, or is as it is meant to be.
    if stat.S_IMODE(status.st_mode) & ~most and status.st_uid == os.geteuid():
        os.chmod(what, stat.S_IMODE(status.st_mode) & most)
