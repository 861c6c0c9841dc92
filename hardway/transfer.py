"""Copies between here and many instances: files (scp), and trees as one tar stream (push, pull).

Every copy lands under a temporary name in the place it is meant for and is renamed when it is whole. On the instance
a POSIX shell, coreutils and tar are enough. Names travel quoted as arguments of a constant script, never as its text.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shlex
import shutil
import stat
import tarfile
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import paramiko
from fabric.group import GroupResult

from hardway import ssh
from hardway.errors import Failed, UsageError
from hardway.group import InstanceGroup
from hardway.instances import Instance

# Nothing moved for so long: the host hangs.
STALL_SECONDS = 120.0
# A command line ends at 128 KiB: many files go in several commands.
_COMMAND_BYTES = 60_000
_CHUNK = 1 << 18
_GREW = "file changed as we read it"

# $1: the destination, $2: a unique suffix; then a name, a mode and a size for each file. The sizes' bytes follow on
# stdin, one file after the other. $whole, where it is set, is a file that has them all: one alone is linked.
# A shell that complains to a connection that is gone must not die of that: it has a file to remove.
RECEIVE = r"""
trap 'exit 1' HUP INT TERM; trap '' PIPE
dst=$1 part=$2; shift 2
[ -n "$whole" ] && [ "$#" -eq 3 ] && alone=1
case $dst in */) mkdir -p -- "$dst" && dir=1 ;; esac || exit 1
[ -d "$dst" ] && dir=1
if [ "$#" -gt 3 ] && [ -z "$dir" ]; then echo "$dst is no directory" >&2; exit 1; fi
while [ "$#" -gt 0 ]; do
  if [ -n "$dir" ]; then to=${dst%/}/$1; else to=$dst; fi
  case $to in */*) tmp=${to%/*}/.$part ;; *) tmp=.$part ;; esac
  trap 'rm -f -- "$tmp"' EXIT
  if [ -d "$to" ]; then echo "$to is a directory" >&2; exit 1; fi
  if [ "$alone" ] && ln -- "$whole" "$tmp" 2>/dev/null; then :; else (umask 077; head -c "$3" >"$tmp") || exit 1; fi
  if [ "$(wc -c <"$tmp")" -ne "$3" ]; then echo "$to: only a part of it came" >&2; exit 1; fi
  chmod "$2" -- "$tmp" && mv -f -- "$tmp" "$to" || exit 1
  shift 3
done
"""

# $1: the pattern. Only file names are expanded in it: with an empty IFS nothing else is.
_SEND_FILES = r"""
IFS=; pattern=$1; set --
for file in $pattern; do
  if [ -d "$file" ]; then echo "$file is a directory: use ec2.pull" >&2; exit 3; fi
  if [ ! -r "$file" ]; then echo "$file: no such file that can be read" >&2; exit 3; fi
  set -- "$@" "$file"
done
LC_ALL=C exec tar -chf - -- "$@"
"""

# $1: the destination, $2: a unique suffix, $3: the tree's name, for a destination that ends with a slash.
RECEIVE_TREE = r"""
trap 'exit 1' HUP INT TERM; trap '' PIPE
dst=$1
case $dst in */) mkdir -p -- "$dst" && dst=$dst$3 ;; esac || exit 1
case $dst in */*) up=${dst%/*}; mkdir -p -- "${up:-/}" && tmp=$up/.$2 ;; *) tmp=.$2 ;; esac || exit 1
if [ -e "$dst" ] && [ ! -d "$dst" ]; then echo "$dst is there and is no directory" >&2; exit 1; fi
trap 'rm -rf -- "$tmp"' EXIT
mkdir -m 700 -- "$tmp" && tar -xpof - -C "$tmp" || exit 1
# Fails where the destination is there and not empty; two that merge into it at once would trip over each other.
mv -T -- "$tmp/tree" "$dst" 2>/dev/null && exit 0
exec 9<"$dst" && { flock 9 2>/dev/null; cp -a --link --remove-destination -- "$tmp/tree/." "$dst/"; }
"""

# $1: the tree.
_SEND_TREE = r"""
if [ ! -d "$1" ]; then echo "$1 is no directory: use ec2.scp" >&2; exit 3; fi
LC_ALL=C exec tar -cf - -C "$1" .
"""


class TransferError(Failed):
    """A copy to or from one instance that did not land; what was there before is still there."""


Progress = Callable[[int], None]


def _no_progress(_sent: int) -> None:
    return


@dataclass(frozen=True)
class Remote:
    """A path on the instances, as `:path` says it; relative to the login user's home."""

    path: str


def sides(source: str, destination: str) -> tuple[str | Remote, str | Remote]:
    """Which of two paths is on the instances: the one that starts with `:`.

    Raises UsageError for none and for both.
    """
    both = [_remote(text[1:]) if text.startswith(":") else text for text in (source, destination)]
    if sum(isinstance(side, Remote) for side in both) != 1:
        raise UsageError(f"one of {source!r} and {destination!r} must start with ':', the side on the instances")
    return both[0], both[1]


def _remote(path: str) -> Remote:
    """`:` alone is the home directory; `~` is not left to a shell there."""
    if path in ("", "~"):
        return Remote("./")
    return Remote(path[2:] or "./" if path.startswith("~/") else path)


def local_files(pattern: str) -> list[Path]:
    """The files a path or quoted glob means, sorted. Raises UsageError for none, and for a directory."""
    exact = Path(pattern).expanduser()
    found = [exact] if exact.exists() else [Path(p) for p in sorted(glob.glob(str(exact)))]
    if not found:
        raise UsageError(f"there is no file {pattern}")
    for path in found:
        if path.is_dir():
            raise UsageError(f"{path} is a directory: use ec2.push")
        if not path.is_file() or not os.access(path, os.R_OK):
            raise UsageError(f"{path} is no file that can be read")
    return found


def local_tree(path: str) -> Path:
    """The directory that a path means. Raises UsageError for what is none."""
    tree = Path(path).expanduser()
    if not tree.is_dir():
        raise UsageError(f"{path} is no directory{': use ec2.scp' if tree.is_file() else ''}")
    return tree


def send_files(
    group: InstanceGroup, files: Sequence[Path], destination: Remote, progress: Progress = _no_progress
) -> GroupResult:
    """Copy files to each instance: content, mode and name; a symlink's target is copied, as scp does.

    A destination that ends with `/` or is a directory takes them under their names. `progress` is called, from several
    threads, with bytes as they are sent.
    """

    def send(connection: ssh.InstanceConnection) -> None:
        for batch in batches(files):
            _send_batch(connection, batch, destination, progress)

    return group.fanout(send)


def batches(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Split files so that the names of each part fit a command line."""
    batch: list[Path] = []
    length = 0
    for file in files:
        size = len(shlex.quote(file.name).encode(errors="surrogateescape")) + 40
        if batch and length + size > _COMMAND_BYTES:
            yield batch
            batch, length = [], 0
        batch.append(file)
        length += size
    yield batch


def _send_batch(
    connection: ssh.InstanceConnection, files: Sequence[Path], destination: Remote, progress: Progress
) -> None:
    with reading(files, destination) as (arguments, chunks), Channel(connection, RECEIVE, arguments) as channel:
        channel.send(chunks, progress)
        channel.finish()


@contextlib.contextmanager
def reading(files: Sequence[Path], destination: Remote) -> Iterator[tuple[list[str], Iterator[bytes]]]:
    """RECEIVE's arguments for a batch of files, and what it reads. Raises TransferError where one becomes shorter."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(file.open("rb")) for file in files]
        arguments = [destination.path, temporary_name()]
        sizes = []
        for file, handle in zip(files, opened, strict=True):
            status = os.fstat(handle.fileno())
            sizes.append(status.st_size)
            arguments += [file.name, f"{stat.S_IMODE(status.st_mode):o}", str(status.st_size)]
        yield arguments, (c for handle, size in zip(opened, sizes, strict=True) for c in _exactly(handle, size))


def temporary_name() -> str:
    """A name that no other copy has, for what is not whole yet."""
    return f"hardway-{uuid.uuid4().hex}"


def _exactly(file: BinaryIO, size: int) -> Iterator[bytes]:
    """A file's first `size` bytes. Raises TransferError where it has become shorter."""
    while size:
        chunk = file.read(min(_CHUNK, size))
        if not chunk:
            raise TransferError(f"{file.name} became shorter while it was copied")
        size -= len(chunk)
        yield chunk


class Channel:
    """A script on one instance with bytes to or from it; ended with the block, whatever happens."""

    def __init__(
        self,
        connection: ssh.InstanceConnection,
        script: str,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.timeout: float = connection.connect_timeout or 15
        self.channel = ssh.open_session(connection, environment)
        command = shlex.join(["sh", "-c", script, "hardway", *arguments])
        try:
            ssh.execute(self.channel, command, self.timeout)
            self.channel.settimeout(STALL_SECONDS)
        except BaseException:
            self.channel.close()
            raise

    def __enter__(self) -> Channel:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.channel.close()

    def send(self, chunks: Iterable[bytes], progress: Progress = _no_progress) -> None:
        """Send bytes; `progress` is called with how many. Raises what the script complained of where it has ended."""
        try:
            for chunk in chunks:
                self.channel.sendall(chunk)
                progress(len(chunk))
        except (OSError, EOFError, paramiko.SSHException) as error:
            # Where the script ended early, what it said is the better reason.
            if not isinstance(error, TimeoutError):
                self.finish()
            raise

    def finish(self) -> None:
        """Say that all is sent and wait for the script's end. Raises TransferError with what it complained of."""
        with contextlib.suppress(OSError):
            self.channel.shutdown_write()
        complaint = b""
        while chunk := self.channel.recv_stderr(_CHUNK):
            complaint += chunk
        self.channel.status_event.wait(self.timeout)
        said = complaint.decode(errors="replace").strip().splitlines()
        code = self.channel.exit_status
        # GNU tar's 1: a file grew as it was read; what came is what it was when tar looked.
        if code != 0 and not (code == 1 and said and all(line.endswith(_GREW) for line in said)):
            raise TransferError(said[-1] if said else "the connection was lost before the copy was whole")

    def leave(self) -> None:
        """Say that all is sent, and wait a little for the script's end, whatever that is."""
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self.channel.shutdown_write()
        self.channel.status_event.wait(self.timeout)

    def reader(self, progress: Progress) -> IO[bytes]:
        return _ChannelReader(self.channel, progress)  # type: ignore[return-value]


class _ChannelReader:
    """What tarfile reads from: a channel's stdout."""

    def __init__(self, channel: paramiko.Channel, progress: Progress) -> None:
        self.channel = channel
        self.progress = progress

    def read(self, size: int) -> bytes:
        parts = []
        while size:
            part = self.channel.recv(min(size, _CHUNK))
            if not part:
                break
            self.progress(len(part))
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def run_script(connection: ssh.InstanceConnection, script: str, arguments: Sequence[str]) -> None:
    """Run a constant script of the POSIX shell to its end. Raises TransferError with what it complained of."""
    with Channel(connection, script, arguments) as channel:
        channel.finish()


def fetch_files(
    group: InstanceGroup, source: Remote, destination: str, progress: Progress = _no_progress
) -> GroupResult:
    """Copy the files a remote path or glob means here; from several instances each under its instance id."""

    def fetch(connection: ssh.InstanceConnection) -> None:
        target, into = _landing(destination, connection.instance, len(group))
        with Channel(connection, _SEND_FILES, [source.path]) as channel, _workspace(target.parent) as work:
            _extract(channel, work, progress, flat=True)
            names = sorted(os.listdir(work))
            if len(names) > 1 and not into:
                raise TransferError(f"{source.path} is {len(names)} files, but {target} is no directory")
            if into:
                target.mkdir(parents=True, exist_ok=True)
            for name in names:
                os.replace(work / name, target / name if into else target)

    return group.fanout(fetch)


def _landing(destination: str, instance: Instance, instances: int) -> tuple[Path, bool]:
    """Where an instance's files go, and whether that is a directory to put them into."""
    path = Path(destination).expanduser()
    if instances > 1:
        return path / instance.id, True
    return path, destination.endswith("/") or path.is_dir()


@contextlib.contextmanager
def _workspace(parent: Path) -> Iterator[Path]:
    """A temporary directory in the same file system as what it will be renamed to."""
    parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".hardway-", dir=parent))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _extract(channel: Channel, into: Path, progress: Progress, flat: bool) -> None:
    """Unpack the tar stream that the script sends; `flat` keeps only the last part of each name."""
    trusted: Any = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
    try:
        with tarfile.open(fileobj=channel.reader(progress), mode="r|", errorlevel=1) as archive:
            archive.extractall(into, members=_members(archive, into, flat), **trusted)
        # The padding behind the archive: unread, it would hold the sender up.
        while channel.channel.recv(_CHUNK):
            pass
    except tarfile.TarError as error:
        channel.finish()
        raise TransferError(f"what came is no whole tar stream: {error}") from error
    channel.finish()


def _members(archive: tarfile.TarFile, into: Path, flat: bool) -> Iterator[tarfile.TarInfo]:
    """The archive's members as they come, none of which leads out of `into`: an instance is not trusted with that.

    tarfile's own filters would change modes, or refuse symlinks that are there on purpose.
    """
    root = os.path.realpath(into)
    seen = set()
    for member in archive:
        if flat:
            member.name = os.path.basename(member.name)
            if member.name in seen:
                raise TransferError(f"two of the files are named {member.name}: fetch them apart")
            seen.add(member.name)
        names = [member.name, member.linkname] if member.islnk() else [member.name]
        for name in names:
            parent = os.path.realpath(os.path.join(root, os.path.dirname(name.rstrip("/"))))
            if ".." in name.split("/") or name.startswith("/") or os.path.commonpath([parent, root]) != root:
                raise TransferError(f"refused: {name!r} would land outside of {into.parent}")
        # Files belong to whoever fetches them, as with scp.
        member.uid, member.gid, member.uname, member.gname = os.getuid(), os.getgid(), "", ""
        yield member


def push(
    group: InstanceGroup, source: Path, destination: Remote, progress: Progress = _no_progress
) -> GroupResult:
    """Send a tree to each instance as one tar stream, made once, to all at the same time.

    The destination is the tree's path there (with a final `/`: the directory to put it into). Where it exists, the
    tree's files replace those of the same names and others stay.
    """
    with tempfile.TemporaryFile() as file:
        archive = _GrowingFile(file)
        maker = threading.Thread(target=_make_archive, args=(source, archive), name="push-tar", daemon=True)

        def send(connection: ssh.InstanceConnection) -> None:
            with Channel(connection, RECEIVE_TREE, tree_arguments(source, destination)) as channel:
                channel.send(archive.chunks(), progress)
                channel.finish()

        maker.start()
        try:
            return group.fanout(send)
        finally:
            archive.abandon()
            maker.join()


def tree_arguments(source: Path, destination: Remote) -> list[str]:
    """RECEIVE_TREE's arguments for a tree."""
    return [destination.path, temporary_name(), source.resolve().name]


class _GrowingFile:
    """A file that one thread writes while others read it from the start, each at its own pace."""

    def __init__(self, file: IO[bytes]) -> None:
        self._descriptor = file.fileno()
        self._size = 0
        self._whole = False
        self._error: BaseException | None = None
        self._grown = threading.Condition()

    def write(self, data: bytes) -> int:
        """Append; what tarfile writes to. Raises TransferError once nobody will read any more."""
        with self._grown:
            if self._error:
                raise self._error
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]
        with self._grown:
            self._size += len(data)
            self._grown.notify_all()
        return len(data)

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more will be written; with an error, what was written is not whole."""
        with self._grown:
            self._whole = error is None
            self._error = self._error or error
            self._grown.notify_all()

    def abandon(self) -> None:
        """Make the writer stop, if it is still writing."""
        with self._grown:
            if not self._whole:
                self._error = self._error or TransferError("given up")
            self._grown.notify_all()

    def chunks(self) -> Iterator[bytes]:
        """All of it from the start, waiting for what is not written yet. Raises what the writer ended with."""
        position = 0
        while True:
            with self._grown:
                while position == self._size and not self._whole and not self._error:
                    self._grown.wait(1)
                if self._error:
                    raise self._error
                if position == self._size:
                    return
                available = self._size - position
            chunk = os.pread(self._descriptor, min(_CHUNK, available), position)
            position += len(chunk)
            yield chunk


def _make_archive(source: Path, archive: _GrowingFile) -> None:
    try:
        write_archive(source, archive)
    except BaseException as error:
        archive.end(error)
    else:
        archive.end()


def write_archive(source: Path, target: Any) -> None:
    """Write the tree to a file as the tar stream that RECEIVE_TREE reads. Raises TransferError."""
    try:
        with tarfile.open(fileobj=target, mode="w|", format=tarfile.GNU_FORMAT, bufsize=_CHUNK) as tar:
            tar.add(source.resolve(), arcname="tree")
    except TransferError:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or error
        raise TransferError(f"cannot read {getattr(error, 'filename', None) or source}: {reason}") from error


def pull(group: InstanceGroup, source: Remote, destination: str, progress: Progress = _no_progress) -> GroupResult:
    """Fetch a tree from each instance as one tar stream; from several instances each under its instance id."""
    name = os.path.basename(source.path.rstrip("/"))

    def fetch(connection: ssh.InstanceConnection) -> None:
        target = Path(destination).expanduser()
        if len(group) > 1:
            target = target / connection.instance.id
        elif destination.endswith("/") and name not in ("", ".", ".."):
            target = target / name
        if target.exists() and not target.is_dir():
            raise TransferError(f"{target} is there and is no directory")
        with Channel(connection, _SEND_TREE, [source.path]) as channel, _workspace(target.parent) as work:
            _extract(channel, work / "tree", progress, flat=False)
            _merge(work / "tree", target)

    return group.fanout(fetch)


def _merge(tree: Path, target: Path) -> None:
    """Move a tree to its place; into a tree that is there, file by file, each replaced at once."""
    if not target.exists():
        os.rename(tree, target)
        return
    for directory, names, files in os.walk(tree):
        here = target / os.path.relpath(directory, tree)
        here.mkdir(exist_ok=True)
        shutil.copystat(directory, here)
        for link in [n for n in names if os.path.islink(os.path.join(directory, n))]:
            names.remove(link)
            files.append(link)
        for name in files:
            os.replace(os.path.join(directory, name), here / name)
