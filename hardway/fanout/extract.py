"""Unpack a tar stream from an instance, which may be hostile: nothing outside of the new directory changes.

Every member is made beneath that directory by descriptor, one name at a time, and no link is followed on the way. No
existing file is written to: a repeated name is refused. Files, directories, symlinks and hard links are made; any other
kind (device, FIFO, sparse file) is refused. Symlinks keep any text, as with tar and rsync: a person who mirrors a tree
wants them, and they are harmless until somebody follows one. The mode keeps its bits for reading, writing and running,
but no set-id bits. All members belong to the user who unpacks them.

The stream is not read by `tarfile`, which keeps every member and takes headers of any size into memory. POSIX.1-2017
(pax) and "Basic Tar Format" in GNU tar's manual describe the format.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from hardway.errors import reason_of
from hardway.ssh.channel import CHUNK, TransferError
from hardway.terminal import cut_short, printable

BLOCK = 512
# The limit for a member's description (names, times), apart from its content.
HEADER_BYTES = 1 << 16
# Linux takes no longer path, and no tool can remove a deeper tree at once.
NAME_BYTES = 3500
DEPTH = 200
# Each takes memory until the modes are set at the end.
DIRECTORIES = 1_000_000
_SIZE_BITS = 63


class NotWholeError(TransferError):
    """The stream is no tar stream, or is cut short."""


Read = Callable[[int], bytes]


@dataclass
class ArchiveMember:
    """One member's header. `name` and `link` are as the stream has them."""

    name: str
    kind: bytes
    mode: int
    size: int
    mtime: float
    link: str = ""


@dataclass
class _Header:
    """The blocks before a member that describe this member alone."""

    name: bytes | None = None
    link: bytes | None = None
    size: int | None = None
    mtime: float | None = None
    any: bool = False


def members(read: Read) -> Iterator[ArchiveMember]:
    """Yield the members of a stream; the caller must read each member's content before the next.

    Raises TransferError if the stream is no tar stream, or is cut short.
    """
    while True:
        header = _Header()
        while True:
            block = _exactly(read, BLOCK)
            if not block.strip(b"\0"):
                if header.any:
                    raise _broken()
                return
            kind, size = _check(block), _number(block[124:136])
            if kind in (b"L", b"K", b"x", b"g"):
                if not 0 <= size <= HEADER_BYTES:
                    raise TransferError(f"refused: a header of {size} bytes")
                data = _exactly(read, size)
                _skip(read, -size % BLOCK)
                _more(header, kind, data)
                continue
            break
        yield _member(block, kind, size, header)


def _member(block: bytes, kind: bytes, size: int, header: _Header) -> ArchiveMember:
    name, link = _text(block[:100]), _text(block[157:257])
    if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
        name = prefix + b"/" + name
    name = name if header.name is None else header.name
    link = link if header.link is None else header.link
    size = size if header.size is None else header.size
    mtime = float(_number(block[136:148])) if header.mtime is None else header.mtime
    if kind in (b"\0", b"7"):
        kind = b"5" if kind == b"\0" and name.endswith(b"/") else b"0"
    if not 0 <= size < 1 << _SIZE_BITS:
        raise TransferError(f"refused: {_shown(os.fsdecode(name))} says that it has {size} bytes")
    if size and kind in (b"1", b"2", b"5"):
        raise _broken()
    return ArchiveMember(os.fsdecode(name), kind, _number(block[100:108]) & 0o7777, size, mtime, os.fsdecode(link))


def _check(block: bytes) -> bytes:
    """Return the kind of a header. Raises TransferError if the block is no header."""
    wanted = _number(block[148:156])
    rest = block[:148] + b" " * 8 + block[156:]
    if wanted not in (sum(rest), sum(byte - 256 if byte > 127 else byte for byte in rest)):
        raise _broken()
    return block[156:157]


def _number(data: bytes) -> int:
    """Return the number in a field: octal, or base 256 if the first bit is set."""
    if data[0] & 0x80:
        number = int.from_bytes(data, "big") & ((1 << (8 * len(data) - 1)) - 1)
        return number - (1 << (8 * len(data) - 1)) if data[0] & 0x40 else number
    text = data.split(b"\0")[0].strip()
    if text.strip(b"01234567"):
        raise _broken()
    return int(text or b"0", 8)


def _text(data: bytes) -> bytes:
    return data.split(b"\0")[0]


def _more(header: _Header, kind: bytes, data: bytes) -> None:
    header.any = True
    if kind == b"L":
        header.name = _text(data)
    elif kind == b"K":
        header.link = _text(data)
    elif kind == b"x":
        for key, value in _records(data):
            if key == b"path":
                header.name = value
            elif key == b"linkpath":
                header.link = value
            elif key == b"size":
                header.size = int(value) if value.isdigit() and len(value) < 20 else -1
            elif key == b"mtime":
                header.mtime = _time(value)
            elif key.startswith(b"GNU.sparse"):
                raise TransferError("refused: a sparse file, which nobody asked for")


def _records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the key and value of each record: `LENGTH KEY=VALUE` and a newline."""
    while data:
        digits, blank, _ = data.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        record = data[len(digits) + 1 : length]
        key, equals, value = record.partition(b"=")
        if not (blank and equals and value.endswith(b"\n")) or length > len(data):
            raise _broken()
        yield key, value[:-1]
        data = data[length:]


def _time(value: bytes) -> float:
    try:
        return float(value)
    except ValueError:
        raise _broken() from None


def _exactly(read: Read, size: int) -> bytes:
    data = read(size)
    if len(data) != size:
        raise NotWholeError("the tar stream is not whole: it ends too early")
    return data


def _skip(read: Read, size: int) -> None:
    while size:
        size -= len(_exactly(read, min(size, CHUNK)))


def _broken() -> NotWholeError:
    return NotWholeError("the tar stream is not whole: it has a broken header")


def _shown(name: str) -> str:
    return cut_short(name, 200)


@dataclass
class Tree:
    """A directory that a stream is unpacked into, by its descriptor; it must be empty at first.

    `finish` gives directories their modes and times: until then we can write to them.
    """

    root: int
    directories: dict[tuple[str, ...], tuple[int, float]] = field(default_factory=dict)
    """The mode and time of each directory, by its names below the root."""
    _last: tuple[tuple[str, ...], int] | None = None

    def add(self, member: ArchiveMember, read: Read, progress: Callable[[int], None]) -> None:
        """Make one member, and read its content. Raises TransferError if it is refused, or can't be written."""
        names = _names(member.name)
        with told(member.name, member=True):
            if member.kind == b"5":
                self._directory(member, names)
                return
            if not names:
                raise TransferError(f"refused: {_shown(member.name)!r} is not a file name")
            if member.kind not in (b"0", b"1", b"2"):
                raise TransferError(f"refused: {_shown(member.name)} is {_kind(member.kind)}, which is not copied")
            parent = self._parent(names[:-1])
            if member.kind == b"0":
                _file(member, parent, names[-1], read, progress)
            elif member.kind == b"2":
                os.symlink(member.link, names[-1], dir_fd=parent)
                _set_time(names[-1], parent, member.mtime)
            else:
                self._link(member, parent, names[-1])

    def _directory(self, member: ArchiveMember, names: tuple[str, ...]) -> None:
        if names in self.directories:
            raise TransferError(f"refused: {_shown(member.name)} comes twice")
        if len(self.directories) >= DIRECTORIES:
            raise TransferError(f"refused: it has more than {DIRECTORIES} directories")
        self._parent(names)
        self.directories[names] = member.mode & 0o777, member.mtime

    def _parent(self, names: tuple[str, ...]) -> int:
        """Return the descriptor of a directory below the root; keep it, as the next member mostly has the same one."""
        if self._last is None or self._last[0] != names:
            with self._opened(names) as descriptor:
                self.close()
                self._last = names, os.dup(descriptor)
        return self._last[1]

    def close(self) -> None:
        """Close all descriptors but the root's."""
        last, self._last = self._last, None
        if last:
            os.close(last[1])

    def _link(self, member: ArchiveMember, parent: int, name: str) -> None:
        """Make a hard link to a file that has come before."""
        names = _names(member.link)
        with self._opened(names[:-1]) as source:
            status = os.stat(names[-1] if names else ".", dir_fd=source, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                raise TransferError(
                    f"refused: {_shown(member.name)} is a link to {_shown(member.link)}, which is not a file"
                )
            os.link(names[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)

    @contextlib.contextmanager
    def _opened(self, names: tuple[str, ...]) -> Iterator[int]:
        """Open a directory below the root for this block; make it if no member has made it."""
        descriptor = os.dup(self.root)
        try:
            for name in names:
                try:
                    found = beneath(descriptor, name)
                except FileNotFoundError:
                    os.mkdir(name, 0o700, dir_fd=descriptor)
                    found = beneath(descriptor, name)
                os.close(descriptor)
                descriptor = found
            yield descriptor
        finally:
            os.close(descriptor)

    def finish(self) -> None:
        """Give all directories but the root their modes and times, the deepest first. Raises TransferError."""
        for names in sorted(self.directories, key=len, reverse=True):
            if names:
                with told("/".join(names)), self._opened(names) as descriptor:
                    self.set_mode(names, descriptor)

    def set_mode(self, names: tuple[str, ...], descriptor: int) -> None:
        """Give an open directory the mode and time that the stream had for these names, if any."""
        if names in self.directories:
            mode, mtime = self.directories[names]
            _set_time(None, descriptor, mtime)
            os.fchmod(descriptor, mode)


def beneath(directory: int | None, name: str | os.PathLike[str], follow: bool = False) -> int:
    """Open a directory in an open one, or by its path; refuse a symlink unless `follow`. Raises OSError."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    return os.open(name, flags, dir_fd=directory)


@contextlib.contextmanager
def told(name: str, member: bool = False) -> Iterator[None]:
    """Raise a TransferError that names the file for an OSError of this machine; `member` says it is a stream's."""
    try:
        yield
    except (OSError, ValueError) as error:
        if member and isinstance(error, FileExistsError):
            why = "comes twice"
        elif getattr(error, "errno", 0) in (errno.ELOOP, errno.ENOTDIR):
            why = "would go through a symlink, or a file"
        else:
            raise TransferError(f"cannot write {_shown(name)}: {reason_of(error)}") from error
        raise TransferError(f"refused: {_shown(name)} {why}") from error


def _names(path: str) -> tuple[str, ...]:
    """Return the names on a member's path. Raises TransferError for a path that may lead out of the tree."""
    if path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise TransferError(f"refused: {_shown(path)!r} would land outside of the target")
    names = tuple(name for name in path.split("/") if name not in ("", "."))
    if len(names) > DEPTH or len(os.fsencode(path)) > NAME_BYTES:
        raise TransferError(f"refused: {_shown(path)!r} is too deep, or has too long a name")
    return names


def _file(member: ArchiveMember, parent: int, name: str, read: Read, progress: Callable[[int], None]) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(name, flags, 0o600, dir_fd=parent)
    try:
        left = member.size
        while left:
            view = memoryview(_exactly(read, min(left, CHUNK)))
            left -= len(view)
            progress(len(view))
            while view:
                view = view[os.write(descriptor, view) :]
        _set_time(None, descriptor, member.mtime)
        os.fchmod(descriptor, member.mode & 0o777)
    finally:
        # A network file system reports only now that there was no room.
        os.close(descriptor)
    _skip(read, -member.size % BLOCK)


def _set_time(name: str | None, descriptor: int, mtime: float) -> None:
    """Set the time of an open file, or of a name in an open directory; ignore a time that no file can have."""
    with contextlib.suppress(OverflowError, ValueError, NotImplementedError):
        when = max(0.0, mtime)
        if name is None:
            os.utime(descriptor, (when, when))
        else:
            os.utime(name, (when, when), dir_fd=descriptor, follow_symlinks=False)


def _kind(kind: bytes) -> str:
    names = {b"3": "a device", b"4": "a device", b"6": "a FIFO", b"S": "a sparse file"}
    return names.get(kind, f"of the kind {printable(os.fsdecode(kind))!r}")
