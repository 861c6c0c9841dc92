"""Copies between here and many instances: files (scp), and trees as one tar stream (push, pull).

Every copy lands under a temporary name in the place it is meant for and is renamed when it is whole. On the instance
a POSIX shell, coreutils and tar are enough. Names travel quoted as arguments of a constant script, never as its text.
"""

from __future__ import annotations

import contextlib
import glob
import os
import shlex
import stat
import tarfile
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from fabric.group import GroupResult

from hardway.ec2.instances import Instance
from hardway.errors import UsageError, reason_of
from hardway.fanout import extract, globs, landing
from hardway.fanout.group import InstanceGroup
from hardway.ssh import connection as ssh
from hardway.ssh.channel import CHUNK, Channel, Progress, TransferError, no_progress
from hardway.ssh.script import Script
from hardway.system import signals
from hardway.system.paths import expanded
from hardway.terminal import printable

# Well below the limit of a command line: many files go in several batches.
_COMMAND_BYTES = 60_000
_GREW = "file changed as we read it"

# The common part of all scripts that put files in place. A person's settings for tar are not meant for us. A shell must
# not die of writing an error to a connection that is gone: it has a file to remove.
#
# `place` follows the links of $to, but not beyond a directory of the machine's (/dev, /proc). It sets $through if the
# target is written through, that is, it is not a regular file, or is in such a directory, where nothing may be renamed.
# `anothers` refuses another user's link or FIFO in a directory for all, as Linux does if told to. `claim` locks the
# directory $1, and removes the leftovers of killed copies. A lock, taken by `keep`, marks a file in use. A new file is
# locked before `claimed` lets others look.
PLACE = r"""
trap 'exit 1' HUP INT TERM; trap '' PIPE
unset TAR_OPTIONS POSIXLY_CORRECT
machine() { case $1/ in /dev/shm/*) return 1 ;; /dev/*|/proc/*|/sys/*) ;; *) return 1 ;; esac; }
place() {
  hops=0 through=
  while :; do
    case $to in */*) up=${to%/*}/ ;; *) up=./ ;; esac
    up=$(CDPATH='' cd -P -- "$up" && pwd -P && echo x) || exit 1
    up=${up%??}; to=${up%/}/${to##*/}
    if machine "$up"; then through=1; return; fi
    anothers
    [ -L "$to" ] || break
    hops=$((hops + 1))
    if [ "$hops" -gt 40 ]; then echo "$to: too many symlinks lead from one to the next" >&2; exit 1; fi
    link=$(readlink -n -- "$to" && echo x) || exit 1
    link=${link%x}
    case $link in /*) to=$link ;; *) to=$up/$link ;; esac
  done
  [ ! -e "$to" ] || [ -f "$to" ] || [ -d "$to" ] || through=1
}
anothers() {
  if [ ! -k "$up" ]; then return; fi
  if [ ! -L "$to" ] && { [ ! -e "$to" ] || [ -f "$to" ] || [ -d "$to" ] || [ -c "$to" ]; }; then return; fi
  owner=$(stat -c %u -- "$to") && above=$(stat -c %u -- "$up") && me=$(id -u) || exit 1
  case $owner in "$me"|"$above") ;; *) echo "refused: another user has put $to there" >&2; exit 1 ;; esac
}
claim() {
  if ! command -v flock >/dev/null || [ ! -r "$1" ]; then return 0; fi
  exec 8<"$1"; flock 8
  for old in "${1%/}"/.hardway-copy-*; do
    if [ -O "$old" ] && [ ! -L "$old" ]; then flock -n "$old" rm -rf -- "$old"; fi
  done
}
keep() { if command -v flock >/dev/null; then flock 7; fi; }
claimed() { exec 8<&-; }
"""

# $1: the destination, $2: a unique suffix; then a name, a mode and a size for each file. The sizes' bytes follow on
# stdin, one file after the other. $whole, if set, is a file that has all of them: a single one is linked.
RECEIVE = (
    PLACE
    + r"""
dst=$1 part=$2-$$; shift 2
[ -n "$whole" ] && [ "$#" -eq 3 ] && alone=1
case $dst in */) mkdir -p -- "$dst" && dir=1 ;; esac || exit 1
[ -d "$dst" ] && dir=1
if [ "$#" -gt 3 ] && [ -z "$dir" ]; then echo "$dst is not a directory" >&2; exit 1; fi
while [ "$#" -gt 0 ]; do
  if [ -n "$dir" ]; then to=${dst%/}/$1; else to=$dst; fi
  place
  if [ -d "$to" ]; then echo "$to is a directory" >&2; exit 1; fi
  if [ "$through" ] && [ ! -e "$to" ]; then echo "$to does not exist, and can't be made there" >&2; exit 1; fi
  if [ "$through" ]; then at=${TMPDIR:-/tmp}; else at=$up; fi
  tmp=${at%/}/.hardway-copy-$part
  trap 'rm -f -- "$tmp"' EXIT
  claim "$at"
  if [ "$alone" ] && [ -z "$through" ] && exec 7<"$whole" && keep && ln -- "$whole" "$tmp" 2>/dev/null; then
    claimed
  else
    umask 077
    exec 7>"$tmp"; keep; claimed
    head -c "$3" >&7 || exit 1
  fi
  if [ "$(wc -c <"$tmp")" -ne "$3" ]; then echo "$to: only a part of it arrived" >&2; exit 1; fi
  if [ "$through" ]; then
    # The reader of a FIFO may never come, and a shell that waits for one would stay.
    limit=
    if [ -p "$to" ]; then limit='timeout 100'; fi
    $limit sh -c 'cat <"$1" >"$2"' hardway "$tmp" "$to" && rm -f -- "$tmp"
    case $? in 0) ;; 124) echo "nobody reads from $to" >&2; exit 1 ;; *) exit 1 ;; esac
  else
    chmod "$2" -- "$tmp" && mv -f -- "$tmp" "$to" || exit 1
  fi
  exec 7>&-
  shift 3
done
"""
)

# $1: the pattern. Only file names are expanded in it: with an empty IFS nothing else is.
_SEND_FILES = r"""
IFS=; pattern=$1; set --
for file in $pattern; do
  if [ -d "$file" ]; then echo "$file is a directory: use ec2.pull" >&2; exit 3; fi
  if [ ! -r "$file" ]; then echo "$file: there is no such file, or it can't be read" >&2; exit 3; fi
  if [ ! -f "$file" ]; then echo "$file is not a regular file" >&2; exit 3; fi
  set -- "$@" "$file"
done
unset TAR_OPTIONS POSIXLY_CORRECT
LC_ALL=C exec tar -chf - -- "$@"
"""

# $1: the destination, $2: a unique suffix, $3: the tree's name, for a destination that ends with a slash.
RECEIVE_TREE = (
    PLACE
    + r"""
dst=$1
case $dst in */) mkdir -p -- "$dst" && dst=$dst$3 ;; esac || exit 1
case $dst in */*) up=${dst%/*}; mkdir -p -- "${up:-/}" ;; esac || exit 1
to=$dst; place
if [ "$through" ] || machine "$to"; then echo "$to is the machine's own: no tree is put there" >&2; exit 1; fi
if [ -e "$to" ] && [ ! -d "$to" ]; then echo "$to exists and is not a directory" >&2; exit 1; fi
if [ -d "$to" ]; then at=$to; else at=$up; fi
tmp=${at%/}/.hardway-copy-$2-$$
trap 'rm -rf -- "$tmp"' EXIT
claim "$at"
mkdir -m 700 -- "$tmp" || exit 1
exec 7<"$tmp"; keep; claimed
# tar does not say of a disk that it is full.
LC_ALL=C tar -xpof - -C "$tmp" || { head -c 65536 /dev/zero >"$tmp/full"; exit 1; }
if [ ! -d "$tmp/tree" ]; then echo "only a part of it arrived" >&2; exit 1; fi
# The move fails if the target is there by now and not empty. Two merges into the target at once would collide.
if [ "$at" = "$up" ] && mv -T -- "$tmp/tree" "$to" 2>/dev/null; then exit 0; fi
exec 9<"$to" && { flock 9 2>/dev/null; } || exit 1
# A target that is no file is written through, as cp does it.
(cd -- "$tmp/tree" && find . -type f -exec sh -c '
  to=$1; shift
  for file; do
    if [ -e "$to/$file" ] && [ ! -f "$to/$file" ] && [ ! -d "$to/$file" ] && [ ! -L "$to/$file" ]; then
      cat <"$file" >"$to/$file" && rm -f -- "$file" || exit 1
    fi
  done' hardway "$to" {} +) && cp -a --link --remove-destination -- "$tmp/tree/." "$to/"
"""
)

# $1: the tree.
_SEND_TREE = r"""
if [ ! -d "$1" ]; then echo "$1 is not a directory: use ec2.scp" >&2; exit 3; fi
unset TAR_OPTIONS POSIXLY_CORRECT
LC_ALL=C exec tar -cf - -C "$1" .
"""


@dataclass(frozen=True)
class Remote:
    """A path on the instances, as `:path` says it; relative to the login user's home."""

    path: str


def sides(source: str, destination: str) -> tuple[str | Remote, str | Remote]:
    """Return source and destination, the one that starts with `:` as a Remote.

    Raises UsageError if none or both start with `:`.
    """
    both = [_remote(text[1:]) if text.startswith(":") else text for text in (source, destination)]
    if sum(isinstance(side, Remote) for side in both) != 1:
        raise UsageError(f"one of {source!r} and {destination!r} must start with ':', the side on the instances")
    return both[0], both[1]


def _remote(path: str) -> Remote:
    """Return the path after `:`; empty and `~` are the home directory. Raises UsageError for another user's home."""
    if path in ("", "~"):
        return Remote("./")
    if "\0" in path:
        raise UsageError(f"{printable(path)!r} is not a path")
    if path.startswith("~") and not path.startswith("~/"):
        raise UsageError(
            f":{printable(path)}: only ~/ is known there as a home: write the whole path, or :./{path} for a name "
            "that begins with ~"
        )
    return Remote(path[2:] or "./" if path.startswith("~/") else path)


def local_files(pattern: str) -> list[Path]:
    """Return the files that a path or a quoted glob names, sorted. Raises UsageError for none, and for a directory."""
    exact = expanded(pattern)
    found = [exact] if exact.exists() else [Path(p) for p in sorted(glob.glob(str(exact)))]
    if not found:
        raise UsageError(f"there is no file {pattern}")
    for path in found:
        if path.is_dir():
            raise UsageError(f"{path} is a directory: use ec2.push")
        if not path.is_file() or not os.access(path, os.R_OK):
            raise UsageError(f"{path} is not a file that can be read")
    return found


def local_tree(path: str) -> Path:
    """Return the directory at a path. Raises UsageError if there is none."""
    tree = expanded(path)
    if not tree.is_dir():
        raise UsageError(f"{path} is not a directory{': use ec2.scp' if tree.is_file() else ''}")
    return tree


def send_files(
    group: InstanceGroup, files: Sequence[Path], destination: Remote, progress: Progress = no_progress
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
    with (
        reading(files, destination) as (arguments, chunks),
        Channel(connection, Script(RECEIVE, arguments)) as channel,
    ):
        channel.send(chunks, progress)
        channel.finish()


@contextlib.contextmanager
def reading(files: Sequence[Path], destination: Remote) -> Iterator[tuple[list[str], Iterator[bytes]]]:
    """Yield RECEIVE's arguments and stdin for a batch of files. Raises TransferError if a file becomes shorter."""
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
    """Return a unique name for an incomplete copy."""
    return f"hardway-{uuid.uuid4().hex}"


def _exactly(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield a file's first `size` bytes. Raises TransferError if the file has become shorter."""
    while size:
        chunk = file.read(min(CHUNK, size))
        if not chunk:
            raise TransferError(f"{file.name} became shorter while it was copied")
        size -= len(chunk)
        yield chunk


def fetch_files(
    group: InstanceGroup, source: Remote, destination: str, progress: Progress = no_progress
) -> GroupResult:
    """Copy the files that a remote path or glob names to this machine; from several instances, each under its id.

    Only regular files with requested names are taken. SIGTERM and SIGHUP interrupt it.
    """
    expanded(destination)

    def fetch(connection: ssh.InstanceConnection) -> None:
        target, into = _landing(destination, connection.instance, len(group))
        given_up = connection.given_up
        work_in = target if into and target.is_dir() else target.parent if into else landing.place(target)[0].parent
        with landing.workspace(work_in) as work, _unpacking(connection, _SEND_FILES, source, progress) as stream:
            tree = extract.Tree(extract.beneath(None, work))
            try:
                names = _take_files(stream, tree, source)
            finally:
                tree.close()
                os.close(tree.root)
            if len(names) > 1 and not into:
                raise TransferError(f"{printable(source.path)} is {len(names)} files, but {target} is not a directory")
            if into:
                with extract.told(str(target)):
                    target.mkdir(parents=True, exist_ok=True)
            for name in names:
                landing.file(work / name, target / name if into else target, given_up, named=not into)

    with signals.raised():
        return group.fanout(fetch)


def _take_files(stream: _Unpacking, tree: extract.Tree, source: Remote) -> list[str]:
    """Take the files of a stream, each under the last part of its name, and return these names."""
    asked = source.path.rpartition("/")[2]
    names: set[str] = set()
    for member in stream.members():
        member.name, member.link = os.path.basename(member.name), os.path.basename(member.link)
        shown = printable(member.name)
        # A second name of an earlier file is a link to that file.
        if member.kind not in (b"0", b"1"):
            raise TransferError(f"refused: {shown} is not a regular file")
        if not globs.matches(member.name, asked):
            raise TransferError(f"refused: it sent {shown!r} in place of {printable(asked)!r}")
        if member.name in names:
            raise TransferError(f"two of the files are named {shown}: fetch them one by one")
        names.add(member.name)
        tree.add(member, stream.channel.read, stream.progress)
    stream.finish()
    if not names:
        raise TransferError("it sent no file")
    return sorted(names)


def _landing(destination: str, instance: Instance, instances: int) -> tuple[Path, bool]:
    """Return the target of an instance's files, and whether it is a directory to put them into."""
    path = expanded(destination)
    if instances > 1:
        return path / instance.id, True
    return path, destination.endswith("/") or path.is_dir()


@dataclass
class _Unpacking:
    """A tar stream that a script sends."""

    channel: Channel
    progress: Progress

    def members(self) -> Iterator[extract.ArchiveMember]:
        """Yield the members of the stream."""
        return extract.members(self.channel.read)

    def finish(self) -> None:
        """Read the rest of the stream, and check the script's end. Raises TransferError."""
        # GNU tar's exit code 1: a file grew while tar read it, and was sent with its earlier size.
        if self.channel.finish(good=(0, 1)) and not (
            (said := self.channel.complaints()) and all(line.endswith(_GREW) for line in said)
        ):
            raise TransferError(self.channel.complaint() or "exit code 1")


@contextlib.contextmanager
def _unpacking(
    connection: ssh.InstanceConnection, script: str, source: Remote, progress: Progress
) -> Iterator[_Unpacking]:
    with Channel(connection, Script(script, [source.path])) as channel:
        stream = _Unpacking(channel, progress)
        try:
            yield stream
        except extract.NotWholeError:
            # The script's own error, or its lost connection, is the better reason.
            stream.finish()
            raise


def push(group: InstanceGroup, source: Path, destination: Remote, progress: Progress = no_progress) -> GroupResult:
    """Send a tree to each instance as one tar stream, made once, to all at the same time.

    The destination is the tree's path there (with a final `/`: the directory to put it into). In an existing one the
    tree's files replace files of the same names, and others stay.
    """
    with tempfile.TemporaryFile() as file:
        archive = _GrowingFile(file)
        maker = threading.Thread(target=_make_archive, args=(source, archive), name="push-tar", daemon=True)

        def send(connection: ssh.InstanceConnection) -> None:
            with Channel(connection, Script(RECEIVE_TREE, tree_arguments(source, destination))) as channel:
                channel.send(archive.chunks(), progress)
                channel.finish()

        maker.start()
        try:
            return group.fanout(send)
        finally:
            archive.abandon()
            maker.join()


def tree_arguments(source: Path, destination: Remote) -> list[str]:
    """Return RECEIVE_TREE's arguments for a tree."""
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
        """Append data, for tarfile, and return its length. Raises TransferError once no reader is left."""
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
        """End the writing; an `error` means that the file is incomplete."""
        with self._grown:
            self._whole = error is None
            self._error = self._error or error
            self._grown.notify_all()

    def abandon(self) -> None:
        """Make the writer stop if it is still writing."""
        with self._grown:
            if not self._whole:
                self._error = self._error or TransferError("given up")
            self._grown.notify_all()

    def chunks(self) -> Iterator[bytes]:
        """Yield the file from the start, and wait for parts that are not written yet. Raises the writer's error."""
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
            chunk = os.pread(self._descriptor, min(CHUNK, available), position)
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
        with tarfile.open(fileobj=target, mode="w|", format=tarfile.GNU_FORMAT, bufsize=CHUNK) as tar:
            tar.add(source.resolve(), arcname="tree")
    except TransferError:
        raise
    except Exception as error:
        raise TransferError(f"cannot read {getattr(error, 'filename', None) or source}: {reason_of(error)}") from error


def pull(group: InstanceGroup, source: Remote, destination: str, progress: Progress = no_progress) -> GroupResult:
    """Fetch a tree from each instance as one tar stream; from several instances, each under its instance id.

    See `extract` for refused members. SIGTERM and SIGHUP interrupt the transfer.
    """
    name = os.path.basename(source.path.rstrip("/"))
    expanded(destination)

    def fetch(connection: ssh.InstanceConnection) -> None:
        target = expanded(destination)
        if len(group) > 1:
            target = target / connection.instance.id
        elif destination.endswith("/") and name not in ("", ".", ".."):
            target = target / name
        if os.path.lexists(target) and not target.is_dir():
            raise TransferError(f"{target} exists and is not a directory")
        work_in = target if target.is_dir() else target.parent
        with landing.workspace(work_in) as work, _unpacking(connection, _SEND_TREE, source, progress) as stream:
            with extract.told(str(work)):
                (work / "tree").mkdir(0o700)
                tree = extract.Tree(extract.beneath(None, work / "tree"))
            try:
                for member in stream.members():
                    tree.add(member, stream.channel.read, progress)
                stream.finish()
                if () not in tree.directories:
                    raise TransferError("it sent no tree")
                landing.tree(tree, work / "tree", target, connection.given_up, named=len(group) == 1)
            finally:
                tree.close()
                os.close(tree.root)

    with signals.raised():
        return group.fanout(fetch)
