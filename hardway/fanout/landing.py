"""Put complete files in their place on this machine, and replace nothing but regular files.

A copy is kept in a hidden directory beside its place until it is whole. A lock on the directory shows that its process
lives. The next copy to the same place removes directories with a free lock, whose process was killed.

An existing target that is not a regular file (a device, a FIFO, a socket) is written through, as scp and cp do. Files
in /dev and /proc, also links to descriptors, are written through, too: a file renamed over /dev/null would break the
machine. No hidden directory is made there. If a person names a symlink as the target, the symlink stays, and the file
that it leads to is replaced. A symlink under a name that came from an instance is replaced: it may be the instance's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hardway import files
from hardway.fanout import extract
from hardway.ssh.channel import CHUNK, STALL_SECONDS, TransferError
from hardway.system.paths import is_systems
from hardway.terminal import printable

PREFIX = ".hardway-copy-"
_LINKS = 40  # as the kernel follows


def place(target: Path) -> tuple[Path, bool]:
    """Follow a target's symlinks; return the file they lead to, and whether it is written through.

    A file in a directory of the machine's is written through under the first such name. Raises TransferError.
    """
    for _ in range(_LINKS):
        parent = os.path.realpath(target.parent)
        target = Path(parent, target.name)
        if is_systems(target.parent):
            return target, True
        with extract.told(str(target)):
            _refuse_anothers(target)
            if not target.is_symlink():
                return target, target.exists() and not target.is_file() and not target.is_dir()
            target = Path(parent, os.readlink(target))
    raise TransferError(f"cannot write {printable(str(target))}: too many symlinks lead from one to the next")


def _refuse_anothers(path: Path) -> None:
    """Refuse another user's link or FIFO in a directory for all, since its owner may be waiting for our copy.

    Linux does the same if `fs.protected_symlinks` and similar settings are on. Raises TransferError, or OSError.
    """
    directory = path.parent.stat()
    if not directory.st_mode & stat.S_ISVTX or not os.path.lexists(path):
        return
    found = path.lstat()
    if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode) or stat.S_ISCHR(found.st_mode):
        return
    if not files.is_ours(found) and found.st_uid != directory.st_uid:
        raise TransferError(f"refused: another user has put {printable(str(path))} there")


def _is_special(path: Path) -> bool:
    """Return whether the path exists and is no file, directory or symlink."""
    try:
        kind = path.lstat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(kind) or stat.S_ISDIR(kind) or stat.S_ISLNK(kind))


@contextlib.contextmanager
def workspace(parent: Path) -> Iterator[Path]:
    """Make a hidden directory in the file system of the target, for this block.

    For a target in /dev or /proc the directory is elsewhere, since nothing is renamed there. Raises TransferError.
    """
    if is_systems(parent):
        parent = Path(tempfile.gettempdir())
    with extract.told(str(parent)):
        parent.mkdir(parents=True, exist_ok=True)
        _remove_the_dead(parent)
        work, lock = _locked(parent)
    try:
        yield work
    finally:
        remove(work)
        os.close(lock)


def _locked(parent: Path) -> tuple[Path, int]:
    while True:
        work = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        try:
            lock = extract.beneath(None, work)
        except FileNotFoundError:
            continue
        try:
            alive = files.lock(lock) and work.exists()
        except OSError:  # no locks in this file system
            alive = True
        if alive:
            return work, lock
        os.close(lock)  # somebody took it for dead before it had its lock


def _remove_the_dead(parent: Path) -> None:
    """Remove the directories of killed copies; those in use, or another user's, stay."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(parent)):
            if not entry.name.startswith(PREFIX) or not entry.is_dir(follow_symlinks=False):
                continue
            with contextlib.suppress(OSError):
                lock = extract.beneath(None, entry.path)
                try:
                    if files.is_ours(os.fstat(lock)) and files.lock(lock):
                        remove(Path(entry.path))
                finally:
                    os.close(lock)


def remove(tree: Path) -> None:
    """Remove a directory of ours, even one with read-only directories in it. Never raises OSError."""
    for directory, names, _files in os.walk(tree):
        for name in [".", *names]:
            path = os.path.join(directory, name)
            with contextlib.suppress(OSError):
                status = os.lstat(path)
                if stat.S_ISDIR(status.st_mode) and status.st_mode & 0o700 != 0o700:
                    os.chmod(path, 0o700)
    for directory, names, leaves in os.walk(tree, topdown=False):
        for name in [*leaves, *names]:
            path = os.path.join(directory, name)
            with contextlib.suppress(OSError):
                if stat.S_ISDIR(os.lstat(path).st_mode):
                    os.rmdir(path)
                else:
                    os.unlink(path)
    with contextlib.suppress(OSError):
        tree.rmdir()


def file(source: Path, target: Path, given_up: threading.Event, named: bool) -> None:
    """Put a whole file in its place; `named` says that a person, not an instance, chose the target's name.

    Raises TransferError. The existing file is then unchanged, but a file that is written through may have a part of the
    new one.
    """
    if named:
        to, through = place(target)
    else:
        to = Path(os.path.realpath(target.parent), target.name)
        through = is_systems(to.parent) or _is_special(to)
        if through and not is_systems(to.parent):
            with extract.told(str(to)):
                _refuse_anothers(to)
    if to.is_dir() and (named or not to.is_symlink()):
        raise TransferError(f"{printable(str(to))} is a directory")
    with extract.told(str(to)):
        if through:
            _write_through(source, to, given_up)
        else:
            os.replace(source, to)


def _write_through(source: Path, target: Path, given_up: threading.Event) -> None:
    descriptor = _open_written(target, given_up)
    try:
        with source.open("rb") as whole:
            while chunk := whole.read(CHUNK):
                view = memoryview(chunk)
                while view:
                    view = view[os.write(descriptor, view) :]
    finally:
        os.close(descriptor)


def _open_written(target: Path, given_up: threading.Event) -> int:
    """Open an existing file that is written through. Wait, but not for ever, until somebody reads a FIFO."""
    if (number := _own_descriptor(target)) is not None:
        # A file opened anew would be written to from its start.
        return os.dup(number)
    flags = os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOCTTY
    deadline = time.monotonic() + STALL_SECONDS
    while True:
        try:
            descriptor = os.open(target, flags | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO or not stat.S_ISFIFO(os.stat(target).st_mode):
                raise
            if time.monotonic() > deadline or given_up.wait(0.1):
                raise TransferError(f"nobody reads from {printable(str(target))}") from error
        else:
            os.set_blocking(descriptor, True)
            return descriptor


def _own_descriptor(target: Path) -> int | None:
    streams = {"stdin": 0, "stdout": 1, "stderr": 2}
    if target.parent == Path("/dev"):
        return streams.get(target.name)
    if str(target.parent) == f"/proc/{os.getpid()}/fd" and target.name.isdecimal():
        return int(target.name)
    return None


def tree(work: extract.Tree, source: Path, target: Path, given_up: threading.Event, named: bool) -> None:
    """Move a tree to its place; into an existing tree, file by file, each replaced at once.

    No symlink below the target is followed, nor the target itself, unless a person `named` it. Raises TransferError.
    """
    if is_systems(target):
        raise TransferError(f"{printable(str(target))} is the machine's own: no tree is put there")
    with extract.told(str(target)):
        if not os.path.lexists(target):
            work.finish()
            os.rename(source, target)
        else:
            _merge(work, source, target, given_up, named)
        descriptor = extract.beneath(None, target, named)
        try:
            work.set_mode((), descriptor)
        finally:
            os.close(descriptor)


def _merge(work: extract.Tree, source: Path, target: Path, given_up: threading.Event, named: bool) -> None:
    # Obstacles are found before anything is changed.
    for change in (False, True):
        for directory, names, leaves in os.walk(source):
            below = Path(os.path.relpath(directory, source)).parts
            links = [name for name in names if os.path.islink(os.path.join(directory, name))]
            with extract.told(str(target.joinpath(*below))), _below(target, below, named, make=change) as here:
                for name in [*leaves, *links] if here is not None else ():
                    _merge_file(os.path.join(directory, name), here, name, given_up, change)
    for below, _ in sorted(work.directories.items(), key=lambda each: len(each[0]), reverse=True):
        if below:
            with extract.told(str(target.joinpath(*below))), _below(target, below, named, make=True) as here:
                work.set_mode(below, here)


@contextlib.contextmanager
def _below(target: Path, names: Sequence[str], named: bool, make: bool) -> Iterator[Any]:
    """Open a directory below the target for this block, following no symlink; `make` it, or yield None if missing."""
    here = extract.beneath(None, target, named)
    try:
        for name in names:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=here)
            try:
                found = extract.beneath(here, name)
            except FileNotFoundError:
                if make:
                    raise
                yield None
                return
            os.close(here)
            here = found
        yield here
    finally:
        os.close(here)


def _merge_file(source: str, directory: int, name: str, given_up: threading.Event, change: bool) -> None:
    try:
        kind = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        kind = stat.S_IFREG
    if stat.S_ISDIR(kind):
        raise TransferError(f"{printable(name)} is a directory here, but not on the instance")
    plain = stat.S_ISREG(kind) or stat.S_ISLNK(kind)
    if not plain and os.path.islink(source):
        raise TransferError(f"{printable(name)} is not a regular file here, but a symlink on the instance")
    if change and plain:
        os.replace(source, name, dst_dir_fd=directory)
    elif change:
        _write_through(Path(source), Path(f"/proc/self/fd/{directory}", name), given_up)
