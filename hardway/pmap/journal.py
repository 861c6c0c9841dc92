"""What a job keeps on this machine: what was asked, what happened, and every result. It decides nothing.

A job's directory, mode 0700, under the XDG state directory:
    job.json   what was asked
    lock       held (flock) by the living driver
    keys       16 bytes a task, in order of task number: a hash of its argument
    heads      96 bytes a task: how its argument begins and ends, for people to read
    journal    a line for what happened, each ending in its own checksum; a torn last line is dropped
    stdout, stderr   small outputs one after the other; the journal says where each begins
    large/     a file for each longer output
"""

from __future__ import annotations

import contextlib
import fcntl
import fnmatch
import hashlib
import json
import os
import secrets
import shutil
import time
import weakref
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

from platformdirs import user_state_path

from hardway.errors import Failed, UsageError, did_you_mean
from hardway.tables import count

KEY_SIZE = 16
HEAD_SIZE = 96
_PIECE = 1 << 20
_CUT = " … ".encode()


class Result(NamedTuple):
    """The end of an attempt. `offset` -1: the output is in a file of its own; sizes in bytes, times in seconds."""

    attempt: int
    host: str
    ended: float
    code: int
    flags: int
    seconds: float
    offset: int
    size: int
    checksum: int
    err_offset: int
    err_size: int


@dataclass(frozen=True)
class Asked:
    """What a job is. `fingerprint` is a hash of the command and of the content of the files it depends on."""

    name: str
    token: str
    command: str
    fingerprint: str
    selector: str
    region: str
    source: str
    created: float
    cwd: str


@dataclass
class History:
    """What earlier runs of a job left: results, last attempts, failed attempts by task; damaged lines.

    `open` maps (task, attempt) of each attempt that was sent and isn't known to have ended to its host, `sent` has all
    that were ever sent, by host.
    """

    results: dict[int, Result] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)
    failed: dict[int, int] = field(default_factory=dict)
    open: dict[tuple[int, int], str] = field(default_factory=dict)
    sent: dict[str, set[tuple[int, int]]] = field(default_factory=dict)
    damaged: int = 0


def jobs_path() -> Path:
    """The directory of all jobs."""
    return user_state_path("hardway") / "jobs"


def fingerprint(command: str, depends: Sequence[str] = ()) -> str:
    """A hash of the command and of the content of the files it depends on. Raises UsageError for an unreadable one."""
    digest = hashlib.blake2b(os.fsencode(command), digest_size=KEY_SIZE)
    for name in depends:
        try:
            digest.update(hashlib.blake2b(Path(name).read_bytes()).digest())
        except OSError as error:
            raise UsageError(f"--depends {name}: {(error.strerror or str(error)).lower()}") from None
    return digest.hexdigest()


def keys_of(arguments: Sequence[bytes]) -> list[bytes]:
    """A hash for each argument; the second of two equal arguments is another task."""
    seen: dict[bytes, int] = {}
    keys = []
    for argument in arguments:
        key = hashlib.blake2b(argument, digest_size=KEY_SIZE).digest()
        count = seen[key] = seen.get(key, 0) + 1
        if count > 1:
            key = hashlib.blake2b(key + b"%d" % count, digest_size=KEY_SIZE).digest()
        keys.append(key)
    return keys


class Job:
    """A job's directory, open for this process alone. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        """Open an existing job. Raises UsageError where there is none, Failed while another process drives it."""
        self.path = path
        self.asked = read_asked(path)
        self._lock = _lock(path, self.asked.name)
        self.keys = self._read_keys()
        self.history = self._read_journal()
        # Unbuffered: what could not be written is not tried again when the file is closed.
        self._files: dict[str, FileIO] = {
            name: (path / name).open("ab", buffering=0) for name in ("journal", "stdout", "stderr")
        }
        self._ends = {name: file.seek(0, os.SEEK_END) for name, file in self._files.items()}
        self._pending: dict[str, list[bytes]] = {name: [] for name in self._files}
        self.outputs = Outputs(path)

    @classmethod
    def create(cls, command: str, *, name: str = "", depends: Sequence[str] = (), **about: str) -> Job:
        """A new job. Raises UsageError for a name that is taken or can't be the name of a directory."""
        token = secrets.token_hex(4)
        name = name or time.strftime("%Y%m%d-%H%M%S-") + token
        if not name.replace("-", "").replace("_", "").replace(".", "").isalnum() or name.startswith(("-", ".")):
            raise UsageError(f"a job's name has letters, digits and - _ . only, not {name!r}")
        path = jobs_path() / name
        asked = Asked(
            name=name,
            token=token,
            command=command,
            fingerprint=fingerprint(command, depends),
            selector=about.get("selector", ""),
            region=about.get("region", ""),
            source=about.get("source", ""),
            created=time.time(),
            cwd=os.getcwd(),
        )
        made = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.mkdir(mode=0o700)
            made = True
            (path / "keys").touch()
            (path / "large").mkdir()
            new = path / "job.json.new"
            new.write_text(json.dumps(asdict(asked), indent=1))
            new.replace(path / "job.json")
        except FileExistsError:
            raise UsageError(f"there is a job {name!r} already: --resume {name} goes on with it") from None
        except OSError as error:
            if made:
                shutil.rmtree(path, ignore_errors=True)
            raise Failed(f"cannot write to {path}: {(error.strerror or str(error)).lower()}") from None
        return cls(path)

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is pending and let another process have the job."""
        try:
            self.flush()
        finally:
            for file in self._files.values():
                file.close()
            self.outputs.close()
            os.close(self._lock)

    # What happens

    def number(self, keys: Sequence[bytes], arguments: Sequence[bytes] = ()) -> list[int]:
        """The task number of each key, from 1; keys never seen before get the next numbers.

        `arguments` are what the keys are of, in the same order; how those of new tasks begin is kept.
        """
        known = {key: number for number, key in enumerate(self.keys, 1)}
        new = [key for key in keys if key not in known]
        if arguments:
            heads = [_head(argument) for key, argument in zip(keys, arguments, strict=True) if key not in known]
            with (self.path / "heads").open("ab") as file:
                # What a crash left too much or too little of is of no harm: a head's place is its task's number.
                file.truncate(len(self.keys) * HEAD_SIZE)
                file.write(b"".join(heads))
        for key in new:
            self.keys.append(key)
            known[key] = len(self.keys)
        with (self.path / "keys").open("ab") as file:
            file.write(b"".join(new))
        return [known[key] for key in keys]

    def started(self, task: int, attempt: int, host: str) -> None:
        """An attempt is about to be sent."""
        self._line(f"start {task} {attempt} {host} {time.time():.3f}")

    def event(self, kind: str, **about: Any) -> None:
        """Something happened that tells where the time went, and decides nothing; `history` reads it."""
        self._line(f"event {time.time():.3f} {kind} {json.dumps(about)}")

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
        worker: int = -1,
    ) -> Result:
        """An attempt ended with these outputs; a file is moved into the job. `worker` is its slot's number, or -1."""
        offset, size, checksum = self._keep("stdout", task, attempt, stdout)
        err_offset, err_size, _ = self._keep("stderr", task, attempt, stderr)
        result = Result(
            attempt, host, time.time(), code, flags, seconds, offset, size, checksum, err_offset, err_size
        )
        self._line(
            f"end {task} {attempt} {host} {result.ended:.3f} {code} {flags} {seconds:.6f} "
            f"{offset} {size} {checksum} {err_offset} {err_size} {worker}"
        )
        return result

    def done(self, task: int, result: Result) -> None:
        """This result counts."""
        self.history.results[task] = result
        self._line(f"done {task} {result.attempt}")

    def flush(self) -> None:
        """Give everything to the operating system, outputs first: it survives the end of this process."""
        for name in ("stdout", "stderr", "journal"):
            if self._pending[name]:
                data = memoryview(b"".join(self._pending[name]))
                self._pending[name].clear()
                try:
                    while data:
                        data = data[self._files[name].write(data) :]
                except OSError as error:
                    for pending in self._pending.values():
                        pending.clear()  # the journal must not tell of outputs that aren't there
                    raise self.unwritable(error) from None

    def unwritable(self, error: OSError) -> Failed:
        """What to say where the job's directory takes no more."""
        return Failed(
            f"cannot write to {self.path}: {(error.strerror or str(error)).lower()}; "
            f"once it can be written to, --resume {self.asked.name} goes on"
        )

    # Results

    def pieces(self, task: int, result: Result, which: str = "stdout") -> Iterator[bytes]:
        """See `Outputs.pieces`."""
        return self.outputs.pieces(task, result, which)

    def intact(self, task: int, result: Result) -> bool:
        """Whether the stdout that counts can be read back as it was written."""
        try:
            checksum = size = 0
            for piece in self.pieces(task, result):
                checksum = zlib.crc32(piece, checksum)
                size += len(piece)
            return size == result.size and checksum == result.checksum
        except (OSError, Failed):
            return False

    # How it is done

    def _keep(self, which: str, task: int, attempt: int, data: bytes | Path) -> tuple[int, int, int]:
        if isinstance(data, Path):
            checksum = size = 0
            with data.open("rb") as file:
                while piece := file.read(_PIECE):
                    checksum = zlib.crc32(piece, checksum)
                    size += len(piece)
            data.replace(self.outputs.large(task, attempt, which))
            return -1, size, checksum
        offset = self._ends[which]
        self._ends[which] += len(data)
        self._pending[which].append(data)
        return offset, len(data), zlib.crc32(data)

    def _line(self, text: str) -> None:
        data = text.encode()
        self._pending["journal"].append(b"%b %08x\n" % (data, zlib.crc32(data)))

    def _read_keys(self) -> list[bytes]:
        data = (self.path / "keys").read_bytes()
        whole = len(data) // KEY_SIZE * KEY_SIZE
        if whole != len(data):
            os.truncate(self.path / "keys", whole)
        return [data[at : at + KEY_SIZE] for at in range(0, whole, KEY_SIZE)]

    def _read_journal(self) -> History:
        path = self.path / "journal"
        if not path.exists():
            return History()
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            os.truncate(path, whole)
        return read_history(data[:whole])


class Outputs:
    """Reads the outputs in a job's directory, for as long as that is there; whoever drives the job."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[str, int] = {}
        weakref.finalize(self, _close, self._files)

    def close(self) -> None:
        """Close the files; reading opens them again."""
        _close(self._files)

    def large(self, task: int, attempt: int, which: str) -> Path:
        """The file for a long output."""
        return self.path / "large" / f"{task}.{attempt}.{which}"

    def pieces(self, task: int, result: Result, which: str = "stdout") -> Iterator[bytes]:
        """An output, piece by piece. Raises Failed where it isn't what was written, for stdout, or can't be read."""
        out = which == "stdout"
        offset, size = (result.offset, result.size) if out else (result.err_offset, result.err_size)
        checksum = 0
        try:
            for piece in self._read(task, result.attempt, which, offset, size):
                checksum = zlib.crc32(piece, checksum)
                size -= len(piece)
                yield piece
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise Failed(f"the result of task {task} in {self.path} can't be read: {reason}") from None
        if size or (out and checksum != result.checksum):
            raise Failed(
                f"the result of task {task} in {self.path} is damaged; --resume {self.path.name} runs it again"
            )

    def tail(self, task: int, result: Result, most: int) -> bytes:
        """The last bytes of a stderr; nothing where it can't be read."""
        size = min(most, result.err_size)
        try:
            if result.err_offset >= 0:
                return os.pread(self._file("stderr"), size, result.err_offset + result.err_size - size) if size else b""
            with self.large(task, result.attempt, "stderr").open("rb") as file:
                file.seek(-size, os.SEEK_END)
                return file.read()
        except OSError:
            return b""

    def _read(self, task: int, attempt: int, which: str, offset: int, size: int) -> Iterator[bytes]:
        if offset < 0:
            with self.large(task, attempt, which).open("rb") as file:
                while piece := file.read(_PIECE):
                    yield piece
        elif size:
            yield os.pread(self._file(which), size, offset)

    def _file(self, which: str) -> int:
        if which not in self._files:
            self._files[which] = os.open(self.path / which, os.O_RDONLY)
        return self._files[which]


def _close(files: dict[str, int]) -> None:
    while files:
        os.close(files.popitem()[1])


def words_of(line: bytes) -> list[str]:
    """The words of a journal's line. Raises ValueError where it isn't what was written."""
    text, _, checksum = line.rpartition(b" ")
    if len(checksum) != 8 or int(checksum, 16) != zlib.crc32(text):
        raise ValueError("damaged")
    return text.decode("ascii").split(" ")


def result_of(words: Sequence[str]) -> Result:
    """What follows the task's number in the line of an attempt's end. Raises ValueError, IndexError or TypeError."""
    return Result(
        int(words[0]),
        words[1],
        float(words[2]),
        int(words[3]),
        int(words[4]),
        float(words[5]),
        *(int(word) for word in words[6:11]),
    )


def read_history(data: bytes) -> History:
    """What the lines of a journal say; damaged ones are counted and otherwise ignored."""
    history = History()
    ended: dict[tuple[int, int], Result] = {}
    for line in data.split(b"\n")[:-1]:
        try:
            kind, *words = words_of(line)
            if kind == "event":
                continue
            task, attempt = int(words[0]), int(words[1])
            history.attempts[task] = max(history.attempts.get(task, 0), attempt)
            if kind == "end":
                result = ended[task, attempt] = result_of(words[1:])
                history.open.pop((task, attempt), None)
                if result.code or result.flags:
                    history.failed[task] = history.failed.get(task, 0) + 1
            elif kind == "done":
                history.results[task] = ended[task, attempt]
            elif kind == "start":
                history.open[task, attempt] = words[2]
                history.sent.setdefault(words[2], set()).add((task, attempt))
            else:
                raise ValueError
        except (ValueError, IndexError, KeyError, TypeError):
            history.damaged += 1
    return history


def read_asked(path: Path) -> Asked:
    """What a job was asked. Raises UsageError where there is no such job, or its description can't be read."""
    try:
        return Asked(**json.loads((path / "job.json").read_text()))
    except FileNotFoundError:
        raise UsageError(_no_job(path.name)) from None
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path / 'job.json'} can't be read: {error}") from None


def read_heads(path: Path) -> list[bytes]:
    """How the argument of each task begins, and ends where it is longer; empty where that isn't known."""
    tasks = (path / "keys").stat().st_size // KEY_SIZE
    try:
        data = (path / "heads").read_bytes()
    except FileNotFoundError:
        data = b""
    records = (data[at : at + HEAD_SIZE] for at in range(0, HEAD_SIZE * tasks, HEAD_SIZE))
    return [_read_head(record) for record in records]


def _head(argument: bytes) -> bytes:
    """A length and so many bytes, or 255 and 47 bytes of the beginning and 48 of the end."""
    text = argument.removesuffix(b"\n")
    if len(text) < HEAD_SIZE:
        return bytes([len(text)]) + text.ljust(HEAD_SIZE - 1, b"\0")
    return b"\xff" + text[:47] + text[-48:]


def _read_head(record: bytes) -> bytes:
    if record[:1] == b"\xff":
        return record[1:48] + _CUT + record[48:]
    return record[1 : 1 + record[0]] if record else b""


def _lock(path: Path, name: str) -> int:
    fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(fd, 32).decode(errors="replace").strip()
        os.close(fd)
        raise Failed(f"job {name} is being run by another process here (pid {holder or 'unknown'})") from None
    os.ftruncate(fd, 0)
    os.write(fd, b"%d\n" % os.getpid())
    return fd


def latest(fingerprint: str) -> Path | None:
    """The directory of the newest job with this fingerprint."""
    for path in reversed(all_jobs()):
        with contextlib.suppress(UsageError):
            if read_asked(path).fingerprint == fingerprint:
                return path
    return None


def latest_durations(command: str, besides: Path) -> dict[bytes, float]:
    """What tasks took, in seconds, by key, in the newest other job that ran the command; empty where none did.

    The files a job depended on may have changed since: this is for estimates.
    """
    for path in reversed(all_jobs()):
        with contextlib.suppress(UsageError, OSError):
            if path != besides and read_asked(path).command == command:
                return _durations(path)
    return {}


def _durations(path: Path) -> dict[bytes, float]:
    keys = (path / "keys").read_bytes()
    found = {}
    with (path / "journal").open("rb") as journal:
        for line in journal:
            # end TASK ATTEMPT HOST ENDED CODE FLAGS SECONDS ...
            words = line.split(b" ", 8)
            if len(words) == 9 and words[0] == b"end" and words[5:7] == [b"0", b"0"]:
                with contextlib.suppress(ValueError):
                    at = (int(words[1]) - 1) * KEY_SIZE
                    found[keys[at : at + KEY_SIZE]] = float(words[7])
    return found


def is_driven(path: Path) -> bool:
    """Whether a living process drives the job."""
    try:
        fd = os.open(path / "lock", os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(fd)


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} days"


def all_jobs() -> list[Path]:
    """The directories of all jobs, oldest first."""
    if not jobs_path().is_dir():
        return []
    found = [path for path in jobs_path().iterdir() if (path / "job.json").exists()]
    return sorted(found, key=lambda path: (path / "job.json").stat().st_mtime)


def remove(path: Path) -> None:
    """Delete a job, one that can't be read too. Raises Failed while it is driven."""
    os.close(_lock(path, path.name))
    shutil.rmtree(path)


class Jobs(list[dict[str, Any]]):
    """Jobs as `describe` gives them; prints as a table, one a line."""

    def json(self) -> str:
        """The same as a JSON array of objects."""
        return json.dumps(self, indent=2)

    def __str__(self) -> str:
        rows = [
            (
                job["name"],
                job["state"],
                f"{job['done']}/{job['tasks']}",
                count(job["failed"], "failed attempt") if job["failed"] else "-",
                f"{duration(time.time() - job['created'])} ago",
                job["command"].replace("\n", " ")[:60],
            )
            for job in self
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def find(names: str | Iterable[str]) -> list[Path]:
    """The jobs of these names (of a text, with white space between them), globs allowed.

    Raises UsageError for one that isn't there.
    """
    known = {path.name: path for path in all_jobs()}
    found: dict[Path, None] = {}
    for name in names.split() if isinstance(names, str) else names:
        matching = fnmatch.filter(known, name)
        if not matching:
            raise UsageError(_no_job(name))
        found.update((known[match], None) for match in matching)
    return list(found)


def _no_job(name: str) -> str:
    known = [path.name for path in all_jobs()]
    hint = did_you_mean(name, known) or ("; `inv mapreduce.jobs` lists them" if known else "; nor any other yet")
    return f"there is no job {name!r}{hint}"


def describe(path: Path) -> dict[str, Any]:
    """A job: name, state (running, done, stopped), tasks, done, failed attempts, created (seconds of Unix), command."""
    try:
        asked = read_asked(path)
    except UsageError:
        created = (path / "job.json").stat().st_mtime
        unknown = {"tasks": 0, "done": 0, "failed": 0, "created": created, "command": ""}
        return {"name": path.name, "state": "damaged", **unknown}
    try:
        journal = (path / "journal").read_bytes()
    except FileNotFoundError:
        journal = b""
    history = read_history(journal[: journal.rfind(b"\n") + 1])
    tasks = (path / "keys").stat().st_size // KEY_SIZE
    done = len(history.results)
    state = "running" if is_driven(path) else "done" if done == tasks else "stopped"
    return {
        "name": asked.name,
        "state": state,
        "tasks": tasks,
        "done": done,
        "failed": sum(history.failed.values()),
        "created": asked.created,
        "command": asked.command,
    }
