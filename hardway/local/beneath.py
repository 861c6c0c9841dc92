"""Files in a tree that somebody hostile may change at any moment, opened by a process with more rights.

An instance may put anything into its directories: a link to a file of ours, a pipe without a writer, a thousand nested
directories. It may exchange one for the other between two calls. So nothing there is opened by its path alone. Each
name is looked up beneath the top of the tree by descriptor, no link is followed, no open waits, and only regular files
of bounded size are read.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import os
import platform
import secrets
import stat
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SYS_OPENAT2 = 437
"""The number of the call on every architecture, since Linux 5.6."""
RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH = 0x02, 0x04, 0x08
ALWAYS = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | ALWAYS
DEEPEST = 64
"""The most nested directories that are open at once. A deeper one is moved up before it is removed."""
NAMES_AT_ONCE = 10_000
REMOVE_SECONDS = 600.0
NOT_THE_FILE = (errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.EINVAL, errno.EACCES)
"""The errors of opening something that is no file."""

_libc = ctypes.CDLL(None, use_errno=True)
_without_openat2 = platform.system() != "Linux"


def open_at(top: int, path: str | bytes, flags: int, mode: int = 0o600) -> int:
    """Open a path, without "..", beneath an open directory; return its descriptor. Raises OSError, ELOOP for a link."""
    names = [name for name in os.fsencode(path).split(b"/") if name not in (b"", b".")]
    if b".." in names:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
    if not names:
        return os.open(".", flags | ALWAYS, dir_fd=top)
    if len(names) > 1 and not _without_openat2:
        with contextlib.suppress(NotImplementedError):
            return _openat2(top, b"/".join(names), flags | ALWAYS, mode)
    return _open_name_by_name(top, names, flags | ALWAYS, mode)


def _openat2(top: int, path: bytes, flags: int, mode: int) -> int:
    """Call openat2. Raises NotImplementedError if the kernel, or a filter before it, knows no such call."""
    global _without_openat2
    if flags & os.O_PATH:  # openat2 refuses all but these flags with it
        flags &= os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    how = struct.pack(
        "QQQ", flags, mode if flags & os.O_CREAT else 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
    )
    while (descriptor := int(_libc.syscall(SYS_OPENAT2, top, path, how, len(how)))) < 0:
        number = ctypes.get_errno()
        if number == errno.ENOSYS:
            _without_openat2 = True
        if number in (errno.ENOSYS, errno.EPERM):  # EPERM may be the filter's or the file's: the other way tells
            raise NotImplementedError
        if number not in (errno.EINTR, errno.EAGAIN):
            raise OSError(number, os.strerror(number))
    return descriptor


def _open_name_by_name(top: int, names: list[bytes], flags: int, mode: int) -> int:
    parent = top
    try:
        for name in names[:-1]:
            below = os.open(name, os.O_PATH | os.O_DIRECTORY | ALWAYS, dir_fd=parent)
            if parent != top:
                os.close(parent)
            parent = below
        return os.open(names[-1], flags, mode, dir_fd=parent)
    except NotADirectoryError:
        # with O_PATH and O_DIRECTORY a link is not a directory
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
    finally:
        if parent != top:
            os.close(parent)


@contextlib.contextmanager
def directory(top: Path | bytes, path: str | bytes = b"") -> Iterator[int]:
    """Open a directory beneath `top`, which is trusted, for the time of the block. Raises OSError."""
    above = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        below = open_at(above, path, os.O_PATH | os.O_DIRECTORY)
    finally:
        os.close(above)
    try:
        yield below
    finally:
        os.close(below)


def read(top: Path, path: str, most: int) -> bytes:
    """Read a regular file of at most `most` bytes. Raises OSError, EFBIG for a larger one."""
    with directory(top) as above, open(_of_kind(open_at(above, path, os.O_RDONLY), stat.S_IFREG), "rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return content


def write(top: Path, path: str, content: bytes, mode: int) -> None:
    """Make a file and the directories above it; anything else that has its name gives way. Raises OSError."""
    above, _, name = path.rpartition("/")
    make_directories(top, above)
    with directory(top, above) as parent:
        _remove(parent, os.fsencode(name))
        with open(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | ALWAYS, mode, dir_fd=parent), "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)


def append(top: Path, path: str) -> int:
    """Open a regular file for appending; anything else that has its name gives way to a new file. Raises OSError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    above, _, name = path.rpartition("/")
    with directory(top, above) as parent:
        try:
            return _of_kind(open_at(parent, name, flags, 0o644), stat.S_IFREG)
        except OSError as error:
            if error.errno not in NOT_THE_FILE:
                raise
        _remove(parent, os.fsencode(name))
        return open_at(parent, name, flags | os.O_EXCL, 0o644)


def open_pipe(top: Path, path: str) -> int:
    """Open a named pipe for reading and writing. Raises OSError."""
    with directory(top) as above:
        return _of_kind(open_at(above, path, os.O_RDWR), stat.S_IFIFO)


def make_directories(top: Path, path: str) -> None:
    """Make a directory, and those above it, beneath `top`; anything else that has one of their names gives way."""
    with contextlib.ExitStack() as opened:
        parent = opened.enter_context(directory(top))
        for name in filter(None, path.split("/")):
            for _ in range(2):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o755, dir_fd=parent)
                try:
                    below = open_at(parent, name, os.O_PATH | os.O_DIRECTORY)
                    break
                except OSError as error:
                    if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                        raise
                    _remove(parent, os.fsencode(name))
            else:
                raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
            opened.callback(os.close, below)
            parent = below


def _of_kind(descriptor: int, kind: int) -> int:
    """Return the descriptor if its file is of this kind; close it and raise OSError otherwise."""
    if stat.S_IFMT(os.fstat(descriptor).st_mode) != kind:
        os.close(descriptor)
        raise OSError(errno.EINVAL, "a file of another kind than expected")
    return descriptor


def remove(path: Path) -> None:
    """Delete a file, or a directory and all in it, whatever the modes of its files and however deep they lie.

    A missing one is no error. Raises OSError if anything is left after REMOVE_SECONDS.
    """
    with contextlib.suppress(FileNotFoundError), directory(path.parent) as parent:
        _remove(parent, os.fsencode(path.name))


@dataclass
class _Level:
    """A directory to empty: its descriptor, its name in the one above, and the names that are still to be deleted."""

    descriptor: int
    name: bytes
    names: list[bytes]


def _remove(parent: int, name: bytes) -> None:
    deadline = time.monotonic() + REMOVE_SECONDS
    levels: list[_Level] = []
    try:
        while levels or not _unlinked(parent, name):
            if time.monotonic() > deadline:
                raise OSError(errno.ENOTEMPTY, "its content never stops changing")
            if levels:
                _go_on_emptying(levels, parent)
            elif top := _level(parent, name):
                levels.append(top)
    finally:
        for level in levels:
            os.close(level.descriptor)


def _go_on_emptying(levels: list[_Level], parent: int) -> None:
    """Delete the contents of the last of these directories, up to the next directory, which becomes the last. Delete an
    empty last directory itself.
    """
    here = levels[-1]
    if not here.names:
        with os.scandir(here.descriptor) as entries:
            here.names = [os.fsencode(entry.name) for entry in itertools.islice(entries, NAMES_AT_ONCE)]
        if not here.names:
            levels.pop()
            os.close(here.descriptor)
            with contextlib.suppress(OSError):  # something new is in the directory: a later look finds it
                os.rmdir(here.name, dir_fd=levels[-1].descriptor if levels else parent)
            return
    while here.names:
        name = here.names.pop()
        if _unlinked(here.descriptor, name):
            continue
        below = _level(here.descriptor, name)
        if below is None:
            time.sleep(0.001)  # it has become something else, or we may not delete it
        elif len(levels) < DEEPEST:
            levels.append(below)
            return
        else:
            os.close(below.descriptor)
            top = levels[0].descriptor
            os.rename(name, secrets.token_hex(16), src_dir_fd=here.descriptor, dst_dir_fd=top)


def _unlinked(parent: int, name: bytes) -> bool:
    """Delete a name, unless it is a directory's; return whether it is gone."""
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError):
        return False
    return True


def _level(parent: int, name: bytes) -> _Level | None:
    """Open a directory to empty it; None for anything else."""
    try:
        place = os.open(name, os.O_PATH | os.O_DIRECTORY | ALWAYS, dir_fd=parent)
    except OSError:
        return None
    try:
        os.chmod(f"/proc/self/fd/{place}", 0o700)
        return _Level(os.open(".", DIRECTORY, dir_fd=place), name, [])
    finally:
        os.close(place)
