"""Files and directories that are hardway's own on this machine: private, whole, locked.

State and caches are for this user's eyes alone. The mode of a directory is set, whatever the umask is, and
corrected where it was inherited. A file is there whole or not at all, even if two processes write it at a time. A lock
on a file shows that a process is at work. The kernel releases the lock however the process ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

SUFFIX = r"\.[0-9a-f]{8}\.new"
"""The end of the name of a file that is not whole yet, as a regular expression; its later name comes before."""
_PRIVATE = 0o700


def state_directory(*below: str) -> Path:
    """Make and return the directory of lasting files (jobs, known hosts, launches), or one below it."""
    from platformdirs import user_state_path

    return _own(user_state_path, *below)


def cache_directory(*below: str) -> Path:
    """Make and return the directory of caches, or one below it."""
    from platformdirs import user_cache_path

    return _own(user_cache_path, *below)


def private(directory: Path) -> Path:
    """Make a directory and its missing parents, for this user alone; make an existing one private.

    Raises OSError if this fails, or an existing one is another user's: root could make it private, but its owner could
    still exchange its content.
    """
    missing = []
    for each in (directory, *directory.parents):
        if each.exists():
            break
        missing.append(each)
    for each in reversed(missing):
        # `Path.mkdir(parents=True)` gives missing parents the mode of the umask.
        each.mkdir(_PRIVATE, exist_ok=True)
    status = directory.stat()
    if not is_ours(status):
        raise PermissionError(errno.EACCES, "it is another user's, and hardway needs one of its own", str(directory))
    if stat.S_IMODE(status.st_mode) & ~_PRIVATE:
        directory.chmod(_PRIVATE)
    return directory


def _own(place: Callable[[str], Path], *below: str) -> Path:
    path = private(place("hardway"))
    for name in below:
        path = private(path / name)
    return path


def private_file(path: str, flags: int) -> int:
    """Open a file of ours for `open(opener=)`: a new file is for this user alone."""
    return os.open(path, flags, 0o600)


def mend_file(descriptor: int) -> None:
    """Let only us read and write an open file of ours. Raises OSError."""
    status = os.fstat(descriptor)
    if stat.S_IMODE(status.st_mode) & 0o177 and is_ours(status):
        os.fchmod(descriptor, 0o600)


def is_ours(status: os.stat_result) -> bool:
    """Return whether a file or directory is this user's."""
    return status.st_uid == os.geteuid()


def lock(file: IO[Any] | int, *, wait: bool = False, shared: bool = False) -> bool:
    """Lock an open file or directory for as long as it is open; return False if another holds it, without `wait`.

    A `shared` lock excludes other locks that are not shared. Raises OSError if the file system has no locks.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def write(
    path: Path, pieces: Iterable[bytes], *, private: bool = True, synced: bool = False, replace: bool = True
) -> None:
    """Put a file there. Raises OSError, which names the file.

    A `private` file is for this user alone, whatever the umask; another has the mode of the umask. A `synced` file is
    on the disk when this returns. Without `replace` a file that is there already stays: the first writer wins.
    """
    new = path.with_name(f"{path.name}.{os.urandom(4).hex()}.new")
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600 if private else 0o666)
        try:
            write_all(fd, pieces, mode=0o600 if private else None, synced=synced)
            if replace:
                new.replace(path)
            else:
                with contextlib.suppress(FileExistsError):
                    os.link(new, path)
        finally:
            with contextlib.suppress(OSError):
                new.unlink()
    except OSError as error:
        if error.filename in (None, new, str(new)):  # another name is about the source of the pieces
            error.filename, error.filename2 = str(path), None
        raise


def write_all(fd: int, pieces: Iterable[bytes], *, mode: int | None = None, synced: bool = False) -> None:
    """Write the pieces to an open file, and close it. Raises OSError."""
    with open(fd, "wb") as file:
        if mode is not None:
            os.fchmod(fd, mode)
        for piece in pieces:
            file.write(piece)
        if synced:
            file.flush()
            os.fsync(fd)
