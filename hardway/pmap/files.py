"""Files that a job brings to an instance (`--files`), or must find there (`--depends`).

Files are packed here once, as one tar stream that is the same wherever and whenever it is made. The digest of names,
modes and contents is a part of the job's fingerprint. An instance gets the files with its first connection, into the
directory of the job's agent, in a directory named by their digest. They count as complete once their digest there is
the same. Files that must be there already (`--depends`) are compared, by digest, before an instance's first task.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
import stat
import tarfile
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

import paramiko

from hardway.errors import Failed, UsageError, reason_of
from hardway.pmap import agent
from hardway.pmap.job import digest_of
from hardway.system.paths import expanded
from hardway.tables import count
from hardway.terminal import cut_short, printable

_PIECE = 1 << 18
_ANSWER_MOST = 1 << 16
_STALL = 120.0  # seconds without any data, after which the host counts as hanging
_MTIME = 946684800  # of all files, the same everywhere; zip takes none before 1980
_WORDS = re.compile(r"""[^\s'"`=;|&<>(){}]+""")


class Files:
    """Files packed to be sent with a job. Use as a context manager, since the stream is in a temporary file."""

    def __init__(self, archive: IO[bytes], digest: str, size: int) -> None:
        self.digest = digest
        self.size = size
        self._archive = archive

    def __enter__(self) -> Files:
        return self

    def __exit__(self, *error: object) -> None:
        self._archive.close()

    def pieces(self) -> Iterator[bytes]:
        """Yield the tar stream from its start; for use from several threads."""
        at = 0
        while piece := os.pread(self._archive.fileno(), _PIECE, at):
            at += len(piece)
            yield piece


def pack(given: Sequence[str]) -> Files | None:
    """Pack the files and directories named by comma-separated paths and globs; return None if none is given.

    A relative path keeps its name, so that a command that works here works there. An absolute path, and one that leads
    out of the current directory, lands under its last part. Links are followed. Raises UsageError for a file that can't
    be sent, and Failed if there is no room to pack.
    """
    found: dict[str, Path | None] = {}
    for path in _named(given):
        for name, file in _below(path, _name(path), ()):
            if found.setdefault(name, file) != file and (file is not None or found[name] is not None):
                both = f"{printable(str(file))} and {printable(str(found[name]))}"
                raise UsageError(f"--files: {both} would both be {printable(name)}")
            for parent in list(PurePosixPath(name).parents)[:-1]:
                if found.setdefault(str(parent), None) is not None:
                    raise UsageError(f"--files: {printable(str(parent))} would be a file and a directory")
    if not given:
        return None
    if not found:
        raise UsageError(f"--files {printable(','.join(given))!r}: it matches no file")
    try:
        archive = tempfile.TemporaryFile()  # noqa: SIM115 (it is Files' to close)
    except OSError as error:
        raise _no_room(error) from None
    try:
        digest = _write(archive, found)
        archive.flush()
        return Files(archive, digest, archive.tell())
    except OSError as error:
        archive.close()
        raise _no_room(error) from None
    except BaseException:
        archive.close()
        raise


def _named(given: Iterable[str]) -> Iterator[Path]:
    """Yield the paths that are named; an existing path is taken literally, even if it looks like a glob."""
    for text in given:
        whole = expanded(text, f"--files {printable(text)}")
        for part in [text] if os.path.lexists(whole) else text.split(","):
            if not part.strip():
                continue
            path = expanded(part, f"--files {printable(part)}")
            matching = [path] if os.path.lexists(path) else [Path(match) for match in sorted(glob.glob(str(path)))]
            if not matching:
                raise UsageError(f"--files {printable(part)}: there is no such file")
            yield from matching


def _name(path: Path) -> str:
    """Return the name under which a path's file lands; empty for the current directory itself."""
    inside = os.path.normpath(path)
    if not path.is_absolute() and inside.split("/", 1)[0] != "..":
        return "" if inside == "." else inside
    return Path(os.path.realpath(path) if path.name in ("", "..") else path).name


def _below(path: Path, name: str, above: Sequence[tuple[int, int]]) -> Iterator[tuple[str, Path | None]]:
    """Yield the name and file of a path and of everything below it; the file is None for a directory."""
    try:
        about = path.stat()
        if stat.S_ISREG(about.st_mode):
            yield name, path
            return
        if not stat.S_ISDIR(about.st_mode):
            raise UsageError(f"--files {printable(str(path))}: it is neither a file nor a directory")
        own = (about.st_dev, about.st_ino)
        if own in above:
            raise UsageError(f"--files {printable(str(path))}: a link leads back to a directory that it is in")
        if name:
            yield name, None
        for each in sorted(os.listdir(path)):
            yield from _below(path / each, f"{name}/{each}" if name else each, (*above, own))
    except OSError as error:
        raise UsageError(f"--files {printable(str(error.filename or path))}: {reason_of(error)}") from None


def _write(archive: IO[bytes], found: Mapping[str, Path | None]) -> str:
    """Write the tar stream and return its digest."""
    entries: list[tuple[bytes, bool, bytes]] = []
    with tarfile.open(fileobj=archive, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_PIECE) as tar:
        for name in sorted(found):
            file = found[name]
            member = tarfile.TarInfo(name)
            member.mtime = _MTIME
            if file is None:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(member)
                entries.append((os.fsencode(name), True, b""))
                continue
            try:
                fd = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                raise UsageError(f"--files {printable(str(file))}: {reason_of(error)}") from None
            with open(fd, "rb") as source:
                about = os.fstat(source.fileno())
                executable = bool(about.st_mode & stat.S_IXUSR)
                member.size, member.mode = about.st_size, 0o755 if executable else 0o644
                reader = _HashingReader(source, file)
                tar.addfile(member, reader)  # type: ignore[arg-type]
            entries.append((os.fsencode(name), executable, reader.digest.digest()))
    return agent.digest_of(entries)


class _HashingReader:
    """A file that is hashed as it is read."""

    def __init__(self, source: IO[bytes], path: Path) -> None:
        self.digest = hashlib.blake2b()
        self._source = source
        self._path = path

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (piece := self._source.read(size - len(data))):
            data += piece
        if len(data) < size:
            raise UsageError(f"--files {printable(str(self._path))}: it became shorter while it was read")
        self.digest.update(data)
        return data


def _no_room(error: OSError) -> Failed:
    where = error.filename or tempfile.gettempdir()
    return Failed(f"cannot write to {where}, to pack what --files names: {reason_of(error)}")


class Load:
    """The files that each instance gets, and must have, before its first task. For use from several threads."""

    def __init__(self, files: Files | None, depends: Sequence[str], command: str) -> None:
        """Take files of this machine as `depends`. Raises UsageError for one that can't be read."""
        self.digest = files.digest if files else ""
        self._files = files
        self.depends = [digest_of(name) for name in depends]
        named = zip(depends, self.depends, strict=True)
        self._wanted = [(name, digest.hex(), _places(name, command)) for name, digest in named]
        self._absent: dict[str, set[str]] = {}
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._files or self._wanted)

    def notes(self) -> list[str]:
        """Return a line about each file that could not be compared."""
        return [
            f"{printable(name)} was not found on {count(len(hosts), 'instance')}, so that it could not be compared "
            "with the one here: --files sends it"
            for name, hosts in self._absent.items()
        ]

    def call(self, folder: str, start: str) -> str:
        """Return the agent's last lines of source, which receive the files of this folder's job and then `start`."""
        # The last place, the home directory with the file's last name, is searched if no other place has the file.
        wanted = [(places, len(places) - 1, digest) for _, digest, places in self._wanted]
        size = self._files.size if self._files else 0
        return f"\nif entrust({folder!a}, {self.digest!r}, {size}, {wanted!a}):\n    {start}\n"

    def deliver(self, channel: paramiko.Channel, name: str) -> None:
        """Talk to `entrust` on the instance of this name until all files are there and the agent speaks next.

        If the connection ends earlier, the code that waits for the agent finds the reason. Raises UsageError if a file
        there differs, and Failed if files can't be put there.
        """
        channel.settimeout(_STALL)
        try:
            self._deliver(channel, name)
        except EOFError:
            return

    def _deliver(self, channel: paramiko.Channel, name: str) -> None:
        _skip_preface(channel)
        told = self._told(_line(channel))
        for number, place in told["differ"]:
            file, _, places = self._wanted[number]
            there, here = printable(places[place]), printable(file)
            raise UsageError(
                f"{there} on {name} differs from {here} here: copy it again (ec2.scp), or name it with --files"
            )
        for number in told["absent"]:
            with self._lock:
                self._absent.setdefault(self._wanted[number][0], set()).add(name)
        if self._files is None or told["have"]:
            return
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):  # the agent's own reason is better
            for piece in self._files.pieces():
                channel.sendall(piece)
        if error := _answer(_line(channel)).get("error"):
            raise Failed(f"the job's files can't be put there: {cut_short(str(error))}")

    def _told(self, line: bytes) -> dict[str, Any]:
        """Return the instance's report on its files. Raises Failed if it is malformed."""
        said = {"differ": [], "absent": [], "have": False, **_answer(line)}
        try:
            for number in said["absent"]:
                _check(number, self._wanted)
            for number, place in said["differ"]:
                _check(number, self._wanted)
                _check(place, self._wanted[number][2])
        except (TypeError, ValueError):
            raise _senseless() from None
        return said


def _check(place: object, among: Sequence[object]) -> None:
    if type(place) is not int or not 0 <= place < len(among):
        raise ValueError


def _senseless() -> Failed:
    return Failed("its list of the job's files is malformed")


def _places(name: str, command: str) -> list[str]:
    """Return the paths of a file on an instance: as here, in the home directory, and where the command names it."""
    last = os.path.basename(name)
    words = [word for word in _WORDS.findall(command) if os.path.basename(word) == last]
    return [*dict.fromkeys([name, *words]), last]


def _skip_preface(channel: paramiko.Channel) -> None:
    """Read and drop the login shell's output up to our first line. Raises EOFError, Failed."""
    said = b""
    while not said.endswith(agent.MARK):
        if len(said) > _ANSWER_MOST:
            raise Failed("its login shell prints without end before the agent can speak")
        said += _byte(channel)


def _line(channel: paramiko.Channel) -> bytes:
    """Return the next line, and read no byte after it: the rest is for the agent. Raises EOFError, Failed."""
    said = bytearray()
    while not said.endswith(b"\n"):
        if len(said) > _ANSWER_MOST:
            raise Failed("its list of the job's files has no end")
        said += _byte(channel)
    return bytes(said)


def _byte(channel: paramiko.Channel) -> bytes:
    try:
        said = channel.recv(1)
    except TimeoutError:
        raise Failed(f"it has not answered for {_STALL:.0f} s, asked for the job's files") from None
    if not said:
        raise EOFError
    return said


def _answer(line: bytes) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        raise _senseless() from None
    if not isinstance(said, dict):
        raise _senseless()
    return said
