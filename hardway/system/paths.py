"""Paths on this machine: as a person writes them, and files put there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from hardway import files
from hardway.errors import UsageError
from hardway.terminal import printable

_SYSTEMS = tuple(map(Path, ("/dev", "/proc", "/sys")))
_SHARED_MEMORY = Path("/dev/shm")  # a plain file system


def is_systems(folder: str | os.PathLike[str]) -> bool:
    """Whether a directory is one of the machine's devices or processes: nothing new is put there."""
    real = Path(os.path.realpath(folder))
    within = {real, *real.parents}
    return not within.isdisjoint(_SYSTEMS) and _SHARED_MEMORY not in within


def expanded(path: str | os.PathLike[str], what: str = "") -> Path:
    """The path, with `~` and `~user` for a home. Raises UsageError, which begins with `what`, for what is no path."""
    text = os.fspath(path)
    what = what or printable(text)
    if "\0" in text:
        raise UsageError(f"{what}: a path has no NUL character")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UsageError(f"{what}: there is no user {printable(text[1:].partition('/')[0])} here") from None


def current_directory() -> str:
    """The current directory; empty where it has been removed."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def put(path: Path, pieces: Iterable[bytes]) -> None:
    """Put a person's file there, whole or not at all. Raises OSError.

    An existing target that is no regular file, such as a device or a pipe, or a link to one, is written through.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            # A pipe that nobody reads is an error here: without O_NONBLOCK this would wait for ever.
            fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC)
            os.set_blocking(fd, True)
            files.write_all(fd, pieces)
            return
    files.write(path, pieces, private=False)
