"""Sessions of the S3 stub: finds the stub's files, and starts, lists and removes sessions.

stubs/stub_s3.sh makes sessions for shells, and this module makes them for Python. stubs/aws decides the content of a
session, and implements `aws`. In a session every other client of S3 finds a closed port, for any PATH: stubs/closed.sh
lists the variables.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import re
import stat
import subprocess
import time
import uuid as uuids
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from hardway.config import aws_variables, child_environment, search_path, temporary_directory
from hardway.errors import HardwayError, NothingMatched, UsageError, reason_of
from hardway.files import is_ours
from hardway.tables import Table, count, duration
from hardway.terminal import command_line

PREFIX = "s3_stubbed_session_"
SESSION_VARIABLE = "s3_stubbed_session"
TMP_VARIABLE = "s3_stubbed_tmp"
CLI_VARIABLE = "s3_stubbed_cli"
JMESPATH_VARIABLE = "s3_stubbed_jmespath"
_WAS = "s3_stubbed_was_"
_WORK = "^tmp"
_STARTED = "^started"
_ABANDONED = 600
"""The seconds without a write after which a temporary file is a leftover if its process is gone. A missing process
alone proves nothing: a process of a local instance has another number here."""
_ATTEMPTS = 5
"""The tries to remove a session: a command that still runs may add files meanwhile, but only once."""
_UUID = re.compile(r"[0-9A-Za-z-]+")


@dataclass(frozen=True)
class Session:
    """One session of the stub: its uuid, and the directory that holds its objects."""

    uuid: str
    path: Path

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables that name the session."""
        return {SESSION_VARIABLE: self.uuid, TMP_VARIABLE: str(self.path.parent)}

    @property
    def environment(self) -> dict[str, str]:
        """A copy of this process's environment in which `aws` is the stub, on this session."""
        return environment(self.variables)

    @property
    def age(self) -> float:
        """The seconds since the session was started."""
        started = self.path / _STARTED
        return time.time() - (started if started.exists() else self.path).stat().st_mtime

    def usage(self) -> tuple[int, int]:
        """Return the session's keys and bytes, with unfinished ones; remove leftovers of killed commands."""
        keys, size = 0, sum(_unfinished(entry) for entry in _scan(self.path / _WORK))
        for bucket in _scan(self.path):
            if bucket.name.startswith("^") or not bucket.is_dir(follow_symlinks=False):
                continue
            for parent, _, names in os.walk(bucket.path, onerror=_unreadable):
                for name in names:
                    with contextlib.suppress(FileNotFoundError):
                        size += os.stat(os.path.join(parent, name)).st_size
                        keys += 1
        return keys, size

    def describe(self) -> dict[str, str | int | float]:
        """Return all facts about the session; `age` is in seconds."""
        keys, size = self.usage()
        return {"uuid": self.uuid, "age": self.age, "keys": keys, "bytes": size, "path": str(self.path)}


def directory() -> Path:
    """Return the directory with `aws` and stub_s3.sh, in a checkout or an installed package.

    Raises HardwayError if they are missing or `aws` may not be executed.
    """
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "stubs", package.parent / "stubs"):
        if (candidate / "stub_s3.sh").is_file():
            if not os.access(candidate / "aws", os.X_OK):
                raise HardwayError(f"the S3 stub is not executable: chmod +x {candidate / 'aws'}")
            return candidate
    raise HardwayError(f"the S3 stub is not installed with hardway, in {package}: reinstall hardway")


def environment(session: Mapping[str, str]) -> dict[str, str]:
    """Return this process's environment, changed so that `aws` is the stub on the session named by the variables."""
    return child_environment(variables(session))


def variables(session: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that turn the stub on in an environment, on the session that these variables name."""
    return {
        **session,
        **closed(),
        JMESPATH_VARIABLE: str(jmespath()),
        "PATH": os.pathsep.join([str(directory()), *search_path()]),
    }


def jmespath() -> Path:
    """Return the directory from which Python imports jmespath; --query needs it."""
    spec = importlib.util.find_spec("jmespath")
    if spec is None or spec.origin is None:
        raise HardwayError("jmespath is not installed, and boto3 needs it: reinstall hardway")
    return Path(spec.origin).parents[1]


@functools.cache
def closed() -> Mapping[str, str]:
    """Return the variables that lead every client of S3 but the stub to a closed port."""
    lines = (directory() / "closed.sh").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def endpoint_before() -> str | None:
    """Return S3's endpoint before the stub: a URL, or empty for AWS's own; None in an environment without the stub."""
    name, known = "AWS_ENDPOINT_URL_S3", aws_variables()
    if known.get(name) != closed()[name]:
        return None
    before = known.get(f"{_WAS}{name}", "").removeprefix("e")
    ignored = known.get(f"{_WAS}AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "etrue"
    return "" if ignored else before or known.get("AWS_ENDPOINT_URL", "")


def script() -> Path:
    """Return the file that a shell sources to start a session."""
    return directory() / "stub_s3.sh"


@contextlib.contextmanager
def session(parent: Path | None = None) -> Iterator[Session]:
    """Start a session for this block, and remove it with its objects after. Give sub-processes its `environment`."""
    started = start(parent)
    try:
        yield started
    finally:
        remove(started)


def start(parent: Path | None = None) -> Session:
    """Start an empty session below `parent`, TMPDIR or /tmp, readable by this user only. The caller removes it."""
    uuid = str(uuids.uuid4())
    path = (parent or temporary_directory()) / f"{PREFIX}{uuid}"
    path.mkdir(mode=0o700)
    path.chmod(0o700)  # whatever the umask
    try:
        (path / _STARTED).touch()
    except OSError:
        path.rmdir()
        raise
    return Session(uuid, path)


def sessions() -> list[Session]:
    """Return this user's sessions, oldest first: those below TMPDIR or /tmp, and next to the current session."""
    found = {}
    for tmp in {temporary_directory(), Path(aws_variables().get(TMP_VARIABLE) or temporary_directory())}:
        for entry in _scan(tmp):
            if entry.name.startswith(PREFIX) and _is_own_directory(entry):
                path = Path(entry.path)
                found[path.resolve()] = Session(entry.name.removeprefix(PREFIX), path)
    return sorted(found.values(), key=lambda session: session.age, reverse=True)


def table(found: Iterable[Session]) -> Table[dict[str, str | int | float]]:
    """Return a table of sessions, each from `Session.describe`, with columns uuid, age, keys, bytes."""
    return Table(
        [session.describe() for session in found],
        "uuid",
        lambda about: duration(max(0, int(about["age"])), 2),
        lambda about: count(about["keys"], "key"),
        lambda about: count(about["bytes"], "byte"),
    )


def find(uuid: str) -> Session:
    """Return the session of this uuid. Raises UsageError for a text that is no uuid, NothingMatched for no session."""
    if not _UUID.fullmatch(uuid):
        raise UsageError(f"not the uuid of a session: {uuid!r}; `{command_line('s3.sessions')}` lists them")
    for candidate in sessions():
        if candidate.uuid == uuid:
            return candidate
    raise NothingMatched(f"there is no session {uuid} of the S3 stub; `{command_line('s3.sessions')}` lists them")


def remove(session: Session) -> None:
    """Remove a session and its objects, if it still exists. Raises HardwayError if some objects can't be removed."""
    # the mark goes first: a command that still runs sees that the session has ended, and not just that objects are gone
    with contextlib.suppress(OSError):
        (session.path / _STARTED).unlink()
    for _ in range(_ATTEMPTS):
        # keys may nest directories deeper than shutil.rmtree recurses
        subprocess.run(["rm", "-rf", "--", session.path], stderr=subprocess.DEVNULL, check=False)
        if not os.path.lexists(session.path):
            break
    else:
        raise HardwayError(f"could not remove all of {session.path}: is another process writing to it?", 1)


def _unfinished(entry: os.DirEntry[str]) -> int:
    """Return the bytes of a temporary file, or of a directory of them; remove a leftover, and return 0."""
    pid = entry.name.partition(".")[0]
    try:
        paths = [Path(entry.path)]
        if entry.is_dir(follow_symlinks=False):
            paths += [Path(parent, name) for parent, _, names in os.walk(entry.path) for name in names]
        statuses = [path.lstat() for path in paths]
    except FileNotFoundError:
        return 0
    idle = time.time() - max(status.st_mtime for status in statuses)
    if idle < _ABANDONED or (pid.isdigit() and os.path.exists(f"/proc/{pid}")):
        return sum(status.st_size for status in statuses if stat.S_ISREG(status.st_mode))
    subprocess.run(["rm", "-rf", "--", entry.path], stderr=subprocess.DEVNULL, check=False)
    return 0


def _scan(path: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except OSError as error:
        _unreadable(error)
        return []


def _unreadable(error: OSError) -> None:
    """Ignore a directory that is gone. Raises HardwayError for one that can't be read."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise HardwayError(f"cannot read {error.filename}: {reason_of(error)}", 1) from error


def _is_own_directory(entry: os.DirEntry[str]) -> bool:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(status.st_mode) and is_ours(status)
