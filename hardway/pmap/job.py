"""A job on this machine's disk: its settings, its events, and every result. This module makes no decisions.

A job's directory, mode 0700, under the XDG state directory:
    job.json   the job's description, and the description's digest: the seal
    lock       held (flock) by the living driver
    keys       16 bytes a task, in order of task number: a hash of its argument
    heads      96 bytes a task: how its argument begins and ends, for people to read
    long       the arguments that are longer than a head, each with the number of its task and a checksum
    journal    a line for each event
    stdout, stderr   small outputs one after the other; the journal says where each begins
    large/     a file for each longer output
    resume     the command line that resumes the job, for people to read
    arguments-DIGEST   the arguments, if the resume line has no other way to name them
    failed/    the logs of tasks that failed, for people to read
    summary    the job in short, for lists of jobs; made again if it is missing or stale

The whole job is sealed. Each line of the journal ends in a checksum of itself and of the line before it: a line that is
changed, missing, doubled or moved breaks the chain. The journal's first line names the seal of job.json. The journal
also has checksums of keys, heads and each output. A damaged file is never used: the job is refused, with the name of
the file. If only a result is damaged, its task runs again.

A journal with a torn last line counts as undamaged, since `kill -9` leaves it so. An attempt that isn't in the journal
never happened, and its task runs again. Keys and heads that are longer than the journal says are cut.

Data is given to the operating system at once, outputs before their journal lines, and so survives any end of this
process. Data is put on the disk (fsync) when a job is made, when its tasks are numbered, and before results are
returned. A power cut in between loses the data that the system had not yet written: the tasks concerned run again.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import stat
import struct
import time
import weakref
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from io import FileIO
from pathlib import Path
from typing import Any, Protocol, overload

from hardway import files
from hardway.errors import NO_ROOM, Failed, UsageError, reason_of
from hardway.pmap import journal, summary
from hardway.pmap.job_paths import check_name, jobs_path, no_such
from hardway.pmap.journal import History, Result
from hardway.system.paths import current_directory
from hardway.terminal import printable

VERSION = 2  # the version of a job's directory
KEY_SIZE = 16
HEAD_SIZE = 96
LONG = "long"
_LONG = struct.Struct("!III")  # a task's number, and the length and checksum of its argument
_NEW = ".new-"
_NO_FILE = (errno.ELOOP, errno.EISDIR, errno.EINVAL, errno.ENXIO, errno.ENOTDIR)  # the path is no regular file
TOGETHER_MOST = 4096  # bytes of a failed attempt's stdout in the common file, where they can't be dropped
SUMMARY_EVERY = 2.0  # seconds, while the job runs
_PIECE = 1 << 20
_RECORDS = 8192 * HEAD_SIZE  # bytes of a piece with whole records, both of heads and of keys
_CUT = " … ".encode()


class Damaged(Failed):
    """A job's file differs from what was written. Exit code 1: nothing of the job was used."""

    def __init__(self, file: Path, what: str) -> None:
        """Take a file in the job's directory, and text that describes its damage."""
        super().__init__(
            f"job {printable(file.parent.name)} is damaged: {printable(str(file))} {what}; without --resume a new job "
            "is begun, and mapreduce.rm deletes this one"
        )
        self.what = printable(f"{file.name} {what}")


@dataclass(frozen=True)
class Asked:
    """A job's description. `fingerprint` is a hash of the command and of the content of the files it depends on.

    `label` is a name for people; several jobs may have the same label. `batch` is the number of arguments of a task,
    0 for one argument. `where` is the world in which the job ran: endpoint, account, region, session of the S3 stub;
    unknown parts are left out.
    """

    name: str
    token: str
    command: str
    fingerprint: str
    selector: str
    region: str
    source: str
    created: float
    cwd: str
    where: Mapping[str, str]
    version: int = VERSION
    label: str = ""
    batch: int = 0

    @property
    def seal(self) -> str:
        """A digest of the whole description."""
        about = asdict(self)
        for name in ("label", "batch"):
            if not about[name]:
                del about[name]  # older jobs have a seal without these fields
        text = json.dumps(about, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=KEY_SIZE).hexdigest()


def fingerprint(command: str, depends: Sequence[bytes] = (), files: str = "", batch: int = 0) -> str:
    """Hash the command, the digests of the files it depends on (`depends`), the digest of the sent `files`, `batch`."""
    digest = hashlib.blake2b(os.fsencode(command), digest_size=KEY_SIZE)
    for each in depends:
        digest.update(each)
    if files:
        digest.update(b"files " + files.encode())
    if batch:
        digest.update(b"batch %d" % batch)
    return digest.hexdigest()


def digest_of(name: str) -> bytes:
    """Hash the content of a file that a job depends on. Raises UsageError."""
    digest = hashlib.blake2b()
    try:
        with Path(name).open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
    except (OSError, ValueError) as error:
        raise UsageError(f"--depends {printable(name)}: {reason_of(error)}") from None
    return digest.digest()


def summarize(path: Path, asked: Asked, history: History, state: str) -> dict[str, Any]:
    """Keep and return the description of a job in this state; see `job_list.describe`."""
    about: dict[str, Any] = {"name": asked.name, "label": asked.label, "state": state, "command": asked.command}
    about |= {"created": asked.created, "damage": "", "ended": None, "bytes": 0, **summary.of_history(history)}
    if state != summary.RUNNING:
        with contextlib.suppress(OSError):
            about["ended"] = (path / "journal").stat().st_mtime
        about["bytes"] = summary.size_of(path)
    summary.write(path, about, history.whole)
    return about


class Keys:
    """Hashes arguments, one after the other; the second of two equal arguments is another task."""

    def __init__(self) -> None:
        self._seen: dict[bytes, int] = {}

    def of(self, argument: bytes) -> bytes:
        """Return the key of the next argument."""
        key = hashlib.blake2b(argument, digest_size=KEY_SIZE).digest()
        count = self._seen[key] = self._seen.get(key, 0) + 1
        return _key_again(key, count)

    def peek(self, argument: bytes) -> bytes:
        """Return the key that the argument would have as the next one."""
        key = hashlib.blake2b(argument, digest_size=KEY_SIZE).digest()
        return _key_again(key, self._seen.get(key, 0) + 1)


def _key_again(key: bytes, count: int) -> bytes:
    """Return the key of an argument's occurrence number `count`."""
    return key if count == 1 else hashlib.blake2b(key + b"%d" % count, digest_size=KEY_SIZE).digest()


def keys_of(arguments: Sequence[bytes]) -> list[bytes]:
    """Hash each argument; see `Keys`."""
    return [*map(Keys().of, arguments)]


class Job:
    """A job's directory, open for this process alone. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        """Open an existing job.

        Raises UsageError if there is no such job, Damaged if a file differs from what was written, and Failed while
        another process drives the job.
        """
        self.path = path
        self.asked = read_asked(path)
        self._lock = lock(path, self.asked.name)
        self._files: dict[str, FileIO] = {}
        self._failed: Failed | None = None
        try:
            lines, self.history = read_journal(path, self.asked)
            self.keys = read_keys(path, self.history)
            # Unbuffered, so that a failed write is not tried again when the file is closed.
            for name in ("journal", "keys", "heads", LONG, "stdout", "stderr"):
                # A lost result only makes its task run again; a lost long argument is reported when it is asked for.
                made = os.O_CREAT if name in ("stdout", "stderr", LONG) else 0
                self._files[name] = FileIO(open_file(path / name, os.O_WRONLY | os.O_APPEND | made), "ab")
            tasks = len(self.keys)
            sizes = {
                "journal": len(lines),
                "keys": KEY_SIZE * tasks,
                "heads": HEAD_SIZE * tasks,
                LONG: self.history.long,
            }
            for name, size in sizes.items():
                if self._files[name].seek(0, os.SEEK_END) != size:
                    self._files[name].truncate(size)
            with contextlib.suppress(FileExistsError):
                (path / "large").mkdir(mode=0o700)
            superseded, failures = _failed_outputs(path / "large", self.history)
            for left in [*(path / "large").glob("*.part?"), *superseded]:
                left.unlink()  # by a driver that was killed
        except OSError as error:
            self._close_files()
            if error.errno in _NO_FILE and isinstance(error.filename, str | Path):
                raise Damaged(Path(error.filename), f"can't be used: {reason_of(error)}") from None
            raise self.unwritable(error) from None
        except BaseException:
            self._close_files()
            raise
        self._ends = {name: file.seek(0, os.SEEK_END) for name, file in self._files.items()}
        self._pending: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        self._lines: list[str] = []  # of the journal, pending
        self._large: list[Path] = []
        self._failures = failures  # stdout of each task's last failed attempt, if it can be dropped
        self._dropped: list[Path] = []  # once the journal has the attempt that came after
        self._kept_at = -math.inf  # when the summary was kept, once the tasks were known
        self._summarize(summary.RUNNING)
        self.outputs = Outputs(path)

    @classmethod
    def create(
        cls,
        command: str,
        *,
        name: str = "",
        made_of: str = "",
        where: Mapping[str, str] | None = None,
        batch: int = 0,
        **about: str,
    ) -> Job:
        """Make a new job; see `Asked`. `made_of` is its fingerprint, by default the fingerprint of the command alone.

        Raises UsageError for a name that is taken or can't name a directory, and Failed if the directory can't be
        made.
        """
        token = secrets.token_hex(4)
        name = name or time.strftime("%Y%m%d-%H%M%S-") + token
        check_name(name)
        path = jobs_path() / name
        asked = Asked(
            name=name,
            token=token,
            command=command,
            fingerprint=made_of or fingerprint(command),
            selector=about.get("selector", ""),
            region=about.get("region", ""),
            source=about.get("source", ""),
            created=time.time(),
            cwd=current_directory(),
            where=dict(where or {}),
            label=about.get("label", ""),
            batch=batch,
        )
        _make(path, asked)
        return cls(path)

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Write pending data and release the job's lock."""
        try:
            self.flush()
            self._summarize(summary.ending_of(self.history))
        finally:
            self._close_files()
            self.outputs.close()

    def _summarize(self, state: str) -> None:
        summarize(self.path, self.asked, self.history, state)

    def _close_files(self) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):  # each write was checked
                file.close()
        os.close(self._lock)

    # Events

    def number(self, keys: Sequence[bytes], arguments: Sequence[bytes] = ()) -> list[int]:
        """Return the task number of each key, from 1; keys never seen before get the next numbers.

        `arguments` are the hashed arguments in the same order. The beginnings of new tasks' arguments are stored.
        """
        known = {key: number for number, key in enumerate(self.keys, 1)}
        new = [place for place, key in enumerate(keys) if key not in known]
        if new:
            known |= {keys[place]: number for number, place in enumerate(new, len(self.keys) + 1)}
            self.append([keys[place] for place in new], [arguments[place] if arguments else b"" for place in new])
        return [known[key] for key in keys]

    def append(self, keys: Sequence[bytes], arguments: Sequence[bytes]) -> None:
        """Give the next numbers to new tasks with these keys, and store the beginnings of their arguments."""
        numbers, heads = b"".join(keys), b"".join(map(_head, arguments))
        history = self.history
        history.keys, history.heads = zlib.crc32(numbers, history.keys), zlib.crc32(heads, history.heads)
        whole = enumerate(arguments, len(self.keys) + 1)
        long = b"".join(_long(number, argument) for number, argument in whole if len(_text(argument)) >= HEAD_SIZE)
        kept = (("keys", len(self.keys) * KEY_SIZE, numbers), ("heads", len(self.keys) * HEAD_SIZE, heads))
        with self.writing():
            for name, size, data in (*kept, (LONG, history.long, long)):
                self._files[name].truncate(size)  # drops what a crash left behind
                _write(self._files[name], data)
                os.fsync(self._files[name].fileno())
        history.tasks += len(keys)
        history.long += len(long)
        self._lines.append(journal.tasks_line(history))
        self.sync("journal")
        self.keys.extend(keys)

    def started(self, task: int, attempt: int, host: str) -> None:
        """Note that an attempt is about to be sent."""
        self.history.failed.pop(task, None)  # the task is tried again
        self._lines.append(journal.start_line(task, attempt, host, time.time()))

    def slot(self, task: int, attempt: int, number: int, began: float) -> None:
        """Note the slot in which an attempt runs on its host, and when it `began`, in seconds of Unix."""
        self._lines.append(journal.slot_line(task, attempt, number, began))

    def event(self, kind: str, **about: Any) -> None:
        """Note an event that shows where time went and has no effect on the job; `history` reads it."""
        now = time.time()
        self.history.ran(kind, about, now)
        self._lines.append(journal.event_line(now, kind, about))

    def ended(
        self,
        task: int,
        attempt: int,
        host: str,
        code: int,
        flags: int,
        seconds: float,
        stdout: bytes | Path,
        stderr: bytes | Path,
    ) -> Result:
        """Note that an attempt ended with these outputs; a file is moved into the job.

        The stdout of the task's previous failed attempt is dropped, if it has a file of its own.
        """
        if (code or flags) and isinstance(stdout, bytes) and len(stdout) > TOGETHER_MOST:
            stdout = self._alone(task, attempt, stdout)
        offset, size, checksum = self._keep("stdout", task, attempt, stdout)
        err_offset, err_size, err_checksum = self._keep("stderr", task, attempt, stderr)
        sizes = (offset, size, checksum, err_offset, err_size, err_checksum)
        result = Result(attempt, host, time.time(), code, flags, seconds, *sizes)
        self._lines.append(journal.end_line(task, result))
        if (dropped := self._failures.pop(task, None)) is not None:
            self._dropped.append(dropped)
        if (code or flags) and offset < 0:
            self._failures[task] = self.outputs.large(task, attempt, "stdout")
        return result

    def done(self, task: int, result: Result) -> None:
        """Note that this result counts."""
        self.history.results[task] = result
        self._lines.append(journal.done_line(task, result.attempt))

    def void(self, task: int) -> None:
        """Note that the task's result counts no longer. It is kept: data that it names is looked for."""
        self._lines.append(journal.void_line(task, self.history.void(task).attempt))

    def failed(self, task: int, result: Result) -> None:
        """Note that the task has failed for good, with this attempt."""
        self.history.failed[task] = result
        self._lines.append(journal.failed_line(task, result.attempt))

    def flush(self) -> None:
        """Give everything to the operating system, outputs first: it survives the end of this process."""
        if self._failed:
            raise self._failed
        for name, pending in self._pending.items():
            if pending:
                data = b"".join(pending)
                pending.clear()
                with self.writing():
                    _write(self._files[name], data)
        if self._lines:
            data = self.history.sealed(self._lines)
            self._lines.clear()
            with self.writing():
                _write(self._files["journal"], data)
        while self._dropped:
            with contextlib.suppress(OSError):
                self._dropped.pop().unlink()
        if time.monotonic() - self._kept_at > SUMMARY_EVERY:
            self._kept_at = time.monotonic()
            self._summarize(summary.RUNNING)

    def sync(self, *names: str) -> None:
        """Force these files, or all, onto the disk (fsync), so that they survive a power cut."""
        self.flush()
        with self.writing():
            large, self._large = self._large, []
            for path in large:
                fd = open_file(path, os.O_RDONLY)
                try:
                    os.fsync(fd)
                finally:
                    os.close(fd)
            for name in names or ("stdout", "stderr", "journal"):
                os.fsync(self._files[name].fileno())

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Guard writes into the job's directory: raise Failed for an OSError.

        After a failure nothing more is written: the journal must not name outputs that are missing, and a line after a
        torn line would count as damage.
        """
        try:
            yield
        except OSError as error:
            self._failed = self.unwritable(error)
            raise self._failed from None

    def unwritable(self, error: OSError) -> Failed:
        """Return the exception for a job's directory that takes no more."""
        file = error.filename if isinstance(error.filename, str | Path) else self.path
        return Failed(
            f"cannot write to {printable(str(file))}: {reason_of(error)}; "
            f"once it can be written to, --resume {self.asked.name} goes on"
        )

    def leave(self, name: str, content: bytes) -> Path:
        """Put a file for people to read into the directory, and return its path. Raises Failed."""
        path = self.path / name
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            files.write(path, [content])
        except OSError as error:
            raise self.unwritable(error) from None
        return path

    # Results

    def pieces(self, task: int, result: Result, which: str = "stdout") -> Iterator[bytes]:
        """See `Outputs.pieces`."""
        return self.outputs.pieces(task, result, which)

    def intact(self, task: int, result: Result) -> bool:
        """Return whether the stdout of the result that counts can be read back as it was written."""
        try:
            return _checksum(self.pieces(task, result)) == (result.checksum, result.size)
        except (OSError, Failed):
            return False

    # The files

    def _alone(self, task: int, attempt: int, data: bytes) -> Path:
        """Write an output to a file of its own, which can be dropped."""
        path = self.path / "large" / f"{task}.{attempt}.part0"
        with self.writing():
            path.write_bytes(data)
        return path

    def _keep(self, which: str, task: int, attempt: int, data: bytes | Path) -> tuple[int, int, int]:
        if isinstance(data, Path):
            with self.writing():
                os.chmod(data, 0o600)
                with data.open("rb") as file:
                    checksum, size = _checksum(iter(partial(file.read, _PIECE), b""))
                target = self.outputs.large(task, attempt, which)
                data.replace(target)
                self._large.append(target)
            return -1, size, checksum
        offset = self._ends[which]
        if not data:
            return offset, 0, 0
        self._ends[which] += len(data)
        self._pending[which].append(data)
        return offset, len(data), zlib.crc32(data)


class Outputs:
    """Reads the outputs in a job's directory while the directory exists, even if another process drives the job."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[str, int] = {}
        weakref.finalize(self, _close, self._files)

    def close(self) -> None:
        """Close the files; reading opens them again."""
        _close(self._files)

    def large(self, task: int, attempt: int, which: str) -> Path:
        """Return the path of the file for a long output."""
        return self.path / "large" / f"{task}.{attempt}.{which}"

    def pieces(self, task: int, result: Result, which: str = "stdout") -> Iterator[bytes]:
        """Read an output, piece by piece. Raises Failed if it is damaged or can't be read.

        The output is checked before the first piece is yielded, so a file is read twice.
        """
        out = which == "stdout"
        offset, size = (result.offset, result.size) if out else (result.err_offset, result.err_size)
        written = result.checksum if out else result.err_checksum
        try:
            pieces: Iterable[bytes] = self._read(task, result.attempt, which, offset, size)
            if offset >= 0:
                pieces = list(pieces)
            checksum, length = _checksum(pieces)
            if offset < 0 and (checksum, length) == (written, size):
                pieces = self._read(task, result.attempt, which, offset, size)
        except OSError as error:
            raise Failed(f"the {which} of task {task} in {self.path} can't be read: {reason_of(error)}") from None
        if (checksum, length) != (written, size):
            what = f"--resume {self.path.name} runs it again" if out else "it differs from the task's output"
            raise Failed(f"the {which} of task {task} in {self.path} is damaged: {what}")
        yield from pieces

    def tail(self, task: int, result: Result, most: int) -> bytes:
        """Return at most `most` last bytes of stderr, or a note that stderr is damaged."""
        last = b""
        try:
            for piece in self.pieces(task, result, "stderr"):
                last = (last + piece)[-most:] if most else b""
        except Failed:
            return b"(what it wrote to stderr is damaged)"
        return last

    def _read(self, task: int, attempt: int, which: str, offset: int, size: int) -> Iterator[bytes]:
        if offset >= 0:
            if size:
                yield os.pread(self._file(which), size, offset)
            return
        fd = open_file(self.large(task, attempt, which), os.O_RDONLY)
        try:
            while piece := os.read(fd, _PIECE):
                yield piece
        finally:
            os.close(fd)

    def _file(self, which: str) -> int:
        if which not in self._files:
            self._files[which] = open_file(self.path / which, os.O_RDONLY)
        return self._files[which]


def _failed_outputs(large: Path, history: History) -> tuple[list[Path], dict[int, Path]]:
    """Return the files with stdout that a later attempt made needless, and the file of each last failed attempt."""
    found: dict[int, dict[int, Path]] = {}
    for path in large.glob("*.stdout"):
        task, _, attempt = path.stem.partition(".")
        if task.isdigit() and attempt.isdigit():
            found.setdefault(int(task), {})[int(attempt)] = path
    superseded: list[Path] = []
    failures: dict[int, Path] = {}
    for number, attempts in found.items():
        for former in history.former.get(number, ()):
            attempts.pop(former.attempt, None)  # it is kept
        result = history.results.get(number)
        last = result.attempt if result else max(attempts, default=0)
        superseded += [path for attempt, path in attempts.items() if attempt != last]
        if not result and last:
            failures[number] = attempts[last]
    return superseded, failures


def _checksum(pieces: Iterable[bytes]) -> tuple[int, int]:
    """Return the checksum and the length of these pieces together."""
    checksum = length = 0
    for piece in pieces:
        checksum = zlib.crc32(piece, checksum)
        length += len(piece)
    return checksum, length


def _close(files: dict[str, int]) -> None:
    while files:
        os.close(files.popitem()[1])


def read_journal(path: Path, asked: Asked) -> tuple[bytes, History]:
    """Read a job's journal; return its whole lines, and the history in them. Raises Damaged.

    Another process may drive the job.
    """
    file = path / "journal"
    data = content_of(file)
    data = data[: data.rfind(b"\n") + 1]
    if not data.startswith(History().sealed([journal.first_line(asked.seal)])):
        raise Damaged(file, "is not of this job.json")
    try:
        return data, journal.read_history(data)
    except ValueError as error:
        raise Damaged(file, f"is not what was written, from {error} on") from None


def journal_pieces(path: Path, asked: Asked) -> Iterator[bytes]:
    """Read a job's journal piece by piece, up to its end as it is now. Raises Damaged if it isn't the job's."""
    file, first = path / "journal", History().sealed([journal.first_line(asked.seal)])
    pieces = _pieces_of(file)
    piece = next(pieces, b"")
    if not piece.startswith(first):
        raise Damaged(file, "is not of this job.json")
    yield piece
    yield from pieces


class Numbered(Protocol):
    """The number of a job's tasks, and the checksums of what is kept of each."""

    tasks: int
    keys: int
    heads: int


def read_keys(path: Path, history: Numbered) -> list[bytes]:
    """Read the tasks' keys. Raises Damaged if the keys or the heads are damaged."""
    keys, _ = _keys_and_heads(path, history)
    return _records(keys, KEY_SIZE)


def _keys_and_heads(path: Path, history: Numbered) -> tuple[bytes, bytes]:
    """Read the tasks' keys and heads. Raises Damaged if either are damaged."""
    sizes = {"keys": KEY_SIZE * history.tasks, "heads": HEAD_SIZE * history.tasks}
    contents = {name: content_of(path / name)[:size] for name, size in sizes.items()}
    for name, checksum in (("keys", history.keys), ("heads", history.heads)):
        if len(contents[name]) != sizes[name]:
            raise Damaged(path / name, f"has {len(contents[name])} of its {sizes[name]} bytes")
        if zlib.crc32(contents[name]) != checksum:
            raise Damaged(path / name, "is not what was written")
    return contents["keys"], contents["heads"]


def _records(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def read_asked(path: Path) -> Asked:
    """Read a job's description.

    Raises UsageError if there is no such job, Damaged if the description differs from what was written, and Failed if
    other users can get at the directory.
    """
    try:
        about = os.stat(path)
        if not files.is_ours(about) or about.st_mode & 0o022 or not stat.S_ISDIR(about.st_mode):
            raise Failed(
                f"job {path.name} can't be trusted: {path} is not this user's alone to write to; "
                "mapreduce.rm deletes it, chmod 700 trusts it"
            )
    except FileNotFoundError:
        raise UsageError(no_such(path.name)) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"there is no job {printable(path.name)!r}: {reason_of(error)}") from None
    file = path / "job.json"
    try:
        about_it = json.loads(content_of(file))
        seal = about_it.pop("seal", "")
        version = about_it.get("version", 1)
        if version == VERSION:
            asked = Asked(**about_it)
            sealed = seal == asked.seal
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise Damaged(file, "is not what was written") from None
    if version != VERSION:
        raise Failed(
            f"job {printable(path.name)} is of another version of hardway, or damaged: {printable(str(file))} "
            f"is not of version {VERSION}; without --resume a new job is begun, and mapreduce.rm deletes this one"
        )
    if not sealed:
        raise Damaged(file, "is not what was written")
    if asked.name != path.name:
        raise Damaged(file, f"is of a job named {asked.name}")
    return asked


class Heads(Sequence[bytes]):
    """The beginning of each task's argument, and the end of a longer one; empty if it isn't known. Read when asked."""

    def __init__(self, path: Path, numbered: Numbered) -> None:
        """Check the files of a job. Raises Damaged."""
        self._file = path / "heads"
        self._tasks = numbered.tasks
        sizes = (("keys", KEY_SIZE, numbered.keys), ("heads", HEAD_SIZE, numbered.heads))
        for name, size, wanted in sizes:
            checksum, length = _checksum(_pieces_of(path / name, size * numbered.tasks))
            if length != size * numbered.tasks:
                raise Damaged(path / name, f"has {length} of its {size * numbered.tasks} bytes")
            if checksum != wanted:
                raise Damaged(path / name, "is not what was written")

    def __len__(self) -> int:
        return self._tasks

    @overload
    def __getitem__(self, place: int) -> bytes: ...
    @overload
    def __getitem__(self, place: slice) -> list[bytes]: ...
    def __getitem__(self, place: int | slice) -> bytes | list[bytes]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(self._tasks))]
        place = range(self._tasks)[place]
        return next(map(_read_head, _pieces_of(self._file, HEAD_SIZE, place * HEAD_SIZE)))

    def __iter__(self) -> Iterator[bytes]:
        for piece in _pieces_of(self._file, HEAD_SIZE * self._tasks):
            yield from map(_read_head, _records(piece, HEAD_SIZE))


def read_arguments(path: Path, history: History) -> list[bytes | None]:
    """Read the arguments of all tasks, without the newline at the end; None for one that was not kept whole.

    Raises Damaged for the heads.
    """
    _, heads = _keys_and_heads(path, history)
    records = _records(heads, HEAD_SIZE)
    found = [None if record[:1] == b"\xff" else _read_head(record) for record in records]
    try:
        data = content_of(path / LONG)[: history.long]
    except Damaged:
        return found
    at = 0
    while at + _LONG.size <= len(data):
        number, length, checksum = _LONG.unpack_from(data, at)
        text = data[at + _LONG.size : at + _LONG.size + length]
        if 0 < number <= len(found) and zlib.crc32(text) == checksum:
            found[number - 1] = text
        at += _LONG.size + length
    return found


def _long(number: int, argument: bytes) -> bytes:
    text = _text(argument)
    return _LONG.pack(number, len(text), zlib.crc32(text)) + text


def _text(argument: bytes) -> bytes:
    return argument.removesuffix(b"\n")


def _head(argument: bytes) -> bytes:
    """Pack an argument: its length and all of it, or 255 and 47 bytes of its beginning and 48 of its end."""
    text = _text(argument)
    if len(text) < HEAD_SIZE:
        return bytes([len(text)]) + text.ljust(HEAD_SIZE - 1, b"\0")
    return b"\xff" + text[:47] + text[-48:]


def _read_head(record: bytes) -> bytes:
    if record[:1] == b"\xff":
        return record[1:48] + _CUT + record[48:]
    return record[1 : 1 + record[0]] if record else b""


def lock(path: Path, name: str) -> int:
    """Take the job's lock, and return its descriptor. Raises Failed if another process has the lock."""
    fd = -1
    try:
        fd = open_file(path / "lock", os.O_RDWR | os.O_CREAT)
        ours = files.lock(fd)
    except OSError as error:
        if fd >= 0:
            os.close(fd)
        if error.errno in NO_ROOM:
            raise Failed(f"cannot write to {path / 'lock'}: {reason_of(error)}") from None
        raise Damaged(path / "lock", f"can't be used: {reason_of(error)}") from None
    if not ours:
        holder = os.read(fd, 32).strip()
        os.close(fd)
        pid = holder.decode() if holder.isdigit() else "unknown"
        raise Failed(f"job {name} is being run by another process here (pid {pid})") from None
    with contextlib.suppress(OSError):  # the process id is for people; writes that matter report a full disk
        os.ftruncate(fd, 0)
        os.write(fd, b"%d\n" % os.getpid())
    return fd


def open_file(path: Path, flags: int) -> int:
    """Open a regular file of this user's, and return its descriptor. Raises OSError."""
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        if os.fstat(fd).st_mode & 0o077:
            os.fchmod(fd, 0o600)
    except BaseException:
        os.close(fd)
        raise
    return fd


def content_of(path: Path) -> bytes:
    """Return the content of a file in a job's directory. Raises Damaged if it can't be read."""
    try:
        with FileIO(open_file(path, os.O_RDONLY)) as file:
            return file.readall() or b""
    except OSError as error:
        raise Damaged(path, f"can't be read: {reason_of(error)}") from None


def _pieces_of(path: Path, size: int | None = None, at: int = 0) -> Iterator[bytes]:
    """Read a file in a job's directory, up to this size, or its end as it is now. Raises Damaged if it can't be read.

    All pieces but the last have whole records.
    """
    try:
        fd = open_file(path, os.O_RDONLY)
        try:
            left = os.fstat(fd).st_size - at if size is None else size
            while left > 0 and (piece := os.pread(fd, min(left, _RECORDS), at)):
                yield piece
                at, left = at + len(piece), left - len(piece)
        finally:
            os.close(fd)
    except OSError as error:
        raise Damaged(path, f"can't be read: {reason_of(error)}") from None


def _write(file: FileIO, content: bytes) -> None:
    data = memoryview(content)
    while data:
        data = data[file.write(data) :]


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _make(path: Path, asked: Asked) -> None:
    """Make a job's directory, whole or not at all. Raises UsageError if the name is taken, and Failed."""
    new = path.parent / f"{_NEW}{asked.token}"
    about = json.dumps({**asdict(asked), "seal": asked.seal}, indent=1).encode()
    contents = {"job.json": about, "journal": History().sealed([journal.first_line(asked.seal)])}
    contents |= dict.fromkeys(("lock", "keys", "heads", LONG, "stdout", "stderr"), b"")
    try:
        files.state_directory("jobs")
        _sweep()
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "", path)
        new.mkdir(mode=0o700)
        (new / "large").mkdir(mode=0o700)
        for file, content in contents.items():
            files.write(new / file, [content], synced=bool(content))
        # If two processes take the same name at once, the second one finds a directory that isn't empty.
        new.rename(path)
        _sync_directory(path.parent)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY) and os.path.lexists(path):
            raise UsageError(f"there is a job {path.name!r} already: --resume {path.name} goes on with it") from None
        raise Failed(f"cannot write to {error.filename or path}: {reason_of(error)}") from None


def _sweep() -> None:
    """Remove unfinished directories of jobs whose process was killed while it made them, at least an hour ago."""
    for left in jobs_path().glob(f"{_NEW}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.lstat().st_mtime > 3600:
                shutil.rmtree(left)
