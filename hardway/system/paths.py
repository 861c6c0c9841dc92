"""Paths on this machine: expands paths as a person writes them, and puts files whole or not at all."""

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
    """Return whether a directory holds the machine's devices or processes: no new file is put there."""
    real = Path(os.path.realpath(folder))
    within = {real, *real.parents}
    return not within.isdisjoint(_SYSTEMS) and _SHARED_MEMORY not in within


def expanded(path: str | os.PathLike[str], what: str = "") -> Path:
    """Return the path with `~` and `~user` expanded. Raises UsageError, beginning with `what`, for an invalid path."""
    text = os.fspath(path)
    what = what or printable(text)
    if "\0" in text:
        raise UsageError(f"{what}: a path has no NUL character")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UsageError(f"{what}: there is no user {printable(text[1:].partition('/')[0])} here") from None


def current_directory() -> str:
    """Return the current directory; empty if it has been removed."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def put(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a person's file at this path, whole or not at all. Raises OSError.

    An existing target that is not a regular file, such as a device or a pipe, or a link to one, is written through.
    """
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            # O_NONBLOCK makes a pipe without a reader an error: else opening it would wait for ever.
            fd = os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NONBLOCK | os.O_CLOEXEC)
            os.set_blocking(fd, True)
            files.write_all(fd, pieces)
            return
    files.write(path, pieces, private=False)
