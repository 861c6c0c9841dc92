"""The settings of a host in ~/.ssh/config, read by OpenSSH itself (`ssh -G`), or by Paramiko if ssh isn't installed.

One `ssh -G` takes some milliseconds, and a hundred instances ask at once. Usually only the patterns behind Host and
Match tell hosts apart. Then one answer holds for all hosts that match the same patterns. Each host is asked for
separately if the configuration may tell hosts apart in other ways: by a command (`Match exec`), a HostName, or quotes.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import paramiko

from hardway import config
from hardway.errors import UsageError, reason_of
from hardway.terminal import printable

# A change of network (`Match localnetwork`), or a new file for an Include, is noticed after these seconds.
_FRESH_SECONDS = 60.0
# A command of `Match exec` may ask a server.
_ANSWER_SECONDS = 20.0
_AT_ONCE = 8
_SYSTEM = Path("/etc/ssh/ssh_config")
_READ = re.compile(r"^debug\d: Reading configuration data (.+?)\r?$", re.MULTILINE)
# The start of lines that -v adds to the complaints.
_NOT_SAID = ("debug", "OpenSSH_")
_DEFAULT_KEY = re.compile(r"~/\.ssh/id_(rsa|dsa|ecdsa|ecdsa_sk|ed25519|ed25519_sk|xmss)")
# Not a user's name. As the last User in a configuration it shows that nothing before has named a user.
_NOBODY = "-nobody-"
_USED = ("user", "hostname", "port", "identityfile", "proxycommand", "proxyjump")
_TOKEN = re.compile(r"%(.)|\$\{(\w+)\}")


@dataclass(frozen=True)
class Question:
    """A host by its name, with the user and the port if they are known."""

    host: str
    user: str = ""
    port: int = 0


@dataclass(frozen=True)
class Answer:
    """The settings of a host; `user` is empty if no setting names one, the proxies if there are none."""

    hostname: str
    user: str
    port: int
    identity_files: tuple[str, ...]
    proxy_command: str
    proxy_jump: str


# ssh's output by keyword, before tokens are replaced.
_Raw = Mapping[str, Sequence[str]]


class _Sources:
    """The files behind one answer, and the patterns in them that tell hosts apart."""

    def __init__(self, files: Iterable[str]) -> None:
        self._files = [Path(file) for file in files]
        self._stamps = self._look()
        self._until = time.monotonic() + _FRESH_SECONDS
        self._patterns = _patterns([_text(file) for file in self._files])

    def fresh(self) -> bool:
        """Return whether the answer still holds: the files are unchanged, and it isn't too old."""
        return time.monotonic() < self._until and self._look() == self._stamps

    def group(self, question: Question) -> tuple[object, ...]:
        """Return a key that is equal for hosts with the same answer."""
        if self._patterns is None:
            return (question,)
        fits = tuple(pattern.fullmatch(question.host) is not None for pattern in self._patterns)
        return fits, question.user, question.port

    def _look(self) -> list[tuple[int, int] | None]:
        return [_stamp(file) for file in (*self._files, _own(), _SYSTEM)]


_lock = threading.Lock()
_sources: _Sources | None = None
_answers: dict[tuple[object, ...], Future[_Raw]] = {}


def lookup(question: Question) -> Answer:
    """Return a host's settings, from the user's and the system's configuration. Raises UsageError for a bad one."""
    if not shutil.which("ssh"):
        return _by_paramiko(question)
    try:
        return _finished(_ask(question), question)
    except _NoAccount:
        return _by_paramiko(question)


def ask_ahead(questions: Iterable[Question]) -> None:
    """Look up hosts in advance, the different answers at the same time. Raises UsageError."""
    different = list(dict.fromkeys(questions))
    if len(different) < 2:
        return
    lookup(different[0])
    with _lock:
        sources = _sources
    groups = {sources.group(question): question for question in different} if sources else {}
    if len(groups) < 2:
        return
    with ThreadPoolExecutor(min(_AT_ONCE, len(groups)), "ssh-config") as pool:
        list(pool.map(lookup, groups.values()))


class _NoAccount(Exception):
    """This user has no name on this machine, so that ssh refuses to work."""


def _ask(question: Question) -> _Raw:
    global _sources
    with _lock:
        if not (_sources and _sources.fresh()):
            raw, files = _run(question)
            _sources = _Sources(files)
            _answers.clear()
            first: Future[_Raw] = Future()
            _answers[_sources.group(question)] = first
            first.set_result(raw)
            return raw
        group = _sources.group(question)
        future = _answers.get(group)
        is_ours = future is None
        future = _answers.setdefault(group, Future())
    if is_ours:
        try:
            future.set_result(_run(question)[0])
        except BaseException as error:
            future.set_exception(error)
    return future.result(2 * _ANSWER_SECONDS)


def _run(question: Question) -> tuple[_Raw, list[str]]:
    """Return ssh's answer, and the files that it has read."""
    with _composed() if _account_home() != Path.home() else contextlib.nullcontext() as file:
        raw, files = _ssh(question, file)
    if not question.user and raw["user"] == [_local_user()]:
        # Is the user from the configuration, or only the one who is logged in here?
        with _composed(f"User {_NOBODY}\n") as file:
            whose, _ = _ssh(question, file)
        raw = {**raw, "user": [] if whose["user"] == [_NOBODY] else raw["user"]}
    return raw, files


def _ssh(question: Question, file: str | None) -> tuple[_Raw, list[str]]:
    command = ["ssh", "-G", "-v", "-T", "-oCanonicalizeHostname=no"]
    command += ["-F", file] if file else []
    command += ["-l", question.user] if question.user else []
    command += ["-p", str(question.port)] if question.port else []
    try:
        done = subprocess.run(
            [*command, "--", question.host], stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWER_SECONDS
        )
    except subprocess.TimeoutExpired:
        said = f"ssh has not read its configuration within {_ANSWER_SECONDS:g} s: a command of `Match exec` may hang"
        raise UsageError(said) from None
    except OSError as error:
        raise UsageError(f"cannot start ssh: {reason_of(error)}") from None
    # A comment may be in any encoding.
    talk, out = done.stderr.decode("latin-1"), done.stdout.decode(errors="surrogateescape")
    if done.returncode:
        own = [line.strip() for line in talk.splitlines() if line.strip() and not line.startswith(_NOT_SAID)]
        if own and own[0].startswith("No user exists"):
            raise _NoAccount
        why = [line for line in own if ": terminating, " not in line] or [f"it ends with {done.returncode}"]
        said = printable("; ".join(why[:2]))
        raise UsageError(f"ssh refuses its configuration: {said}")
    raw: dict[str, list[str]] = {keyword: [] for keyword in _USED}
    for line in out.splitlines():
        keyword, _, value = line.partition(" ")
        if keyword in raw:
            raw[keyword].append(value)
    if raw["hostname"] == [question.host.lower()]:
        raw["hostname"] = []  # the host's own name, which differs among the hosts that share the answer
    return raw, [name for name in dict.fromkeys(_READ.findall(talk)) if name != file]


@contextlib.contextmanager
def _composed(end: str = "") -> Iterator[str]:
    """Yield the name of a file with the configuration in this user's HOME, the system's, and `end`.

    ssh itself ignores HOME and looks in the home of the account.
    """
    included = "".join(f'Match all\nInclude "{path}"\n' for path in (_own(), _SYSTEM))
    with tempfile.NamedTemporaryFile("w", prefix="hardway-ssh-") as file:
        file.write(f"{included}Match all\n{end}")
        file.flush()
        yield file.name


def _finished(raw: _Raw, question: Question) -> Answer:
    """Return the answer for one of the hosts that share `raw`."""

    def first(keyword: str) -> str:
        value = next(iter(raw[keyword]), "")
        return "" if value.lower() == "none" else value

    hostname = first("hostname") or question.host
    user, port = question.user or first("user"), question.port or int(first("port") or 22)
    where = {
        "%": "%",
        "h": hostname,
        "n": question.host,
        "p": str(port),
        "r": user or _local_user(),
        "u": _local_user(),
        "d": str(Path.home()),
        "i": str(os.getuid()),
        "l": socket.gethostname(),
        "L": socket.gethostname().partition(".")[0],
    }
    identities = [_replaced(name.strip('"'), where) for name in raw["identityfile"] if not _DEFAULT_KEY.fullmatch(name)]
    return Answer(
        hostname=hostname,
        user=user,
        port=port,
        identity_files=tuple(_in_home(name) for name in identities if name.lower() != "none"),
        proxy_command=_replaced(first("proxycommand"), where),
        proxy_jump=_replaced(first("proxyjump"), where),
    )


def _replaced(text: str, where: Mapping[str, str]) -> str:
    environment = config.child_environment()

    def value(match: re.Match[str]) -> str:
        token, variable = match.groups()
        return where.get(token, match[0]) if token else environment.get(variable, match[0])

    return _TOKEN.sub(value, text)


def _in_home(name: str) -> str:
    return str(Path.home() / name[2:]) if name.startswith("~/") else name


def _patterns(texts: Iterable[str]) -> list[re.Pattern[str]] | None:
    """Return the patterns for hosts; None if more than patterns may tell hosts apart."""
    found: dict[str, None] = {}
    for line in (line.strip() for text in texts for line in text.splitlines()):
        keyword, _, rest = re.sub(r"[\s=]+", " ", line, count=1).partition(" ")
        keyword = keyword.lower()
        if not keyword or keyword.startswith("#"):
            continue
        is_odd = keyword.startswith('"') or (keyword in ("host", "match") and re.search(r"[\"'\\]", rest))
        by_command = keyword == "match" and "exec" in rest.lower()
        if is_odd or by_command or keyword == "hostname":
            return None
        if keyword in ("include", "user", "proxyjump", "tag") and re.search(r"[%$]", rest):
            return None
        if keyword in ("host", "match"):
            found.update(dict.fromkeys(re.split(r"[\s,=]+", rest)))
    words = (word.lstrip("!") for word in found)
    return [re.compile(_expression(word), case) for word in words for case in (0, re.IGNORECASE)]


def _expression(pattern: str) -> str:
    """Return a pattern of OpenSSH, with `*` and `?`, as a regular expression."""
    return "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in pattern)


def _by_paramiko(question: Question) -> Answer:
    known = paramiko.SSHConfig()
    # In front of the file, since the first value counts, also in a ProxyCommand's %p.
    given = {"User": question.user, "Port": question.port}
    known.parse(["Host *\n", *(f"{keyword} {value}\n" for keyword, value in given.items() if value)])
    for path in (_own(), _SYSTEM):
        try:
            known.parse(_text(path).splitlines(keepends=True))
            found = known.lookup(question.host)
        except (paramiko.ConfigParseError, paramiko.CouldNotCanonicalize, ImportError, ValueError) as error:
            said = f"{path} can't be read without OpenSSH's ssh ({printable(str(error))}): install openssh-client"
            raise UsageError(said) from None
    return Answer(
        hostname=found.get("hostname", question.host),
        user=found.get("user", ""),
        port=int(found.get("port", 22)),
        identity_files=tuple(found.get("identityfile", ())),
        proxy_command=found.get("proxycommand") or "",
        proxy_jump="" if found.get("proxyjump", "").lower() == "none" else found.get("proxyjump", ""),
    )


def _own() -> Path:
    return Path.home() / ".ssh" / "config"


def _account_home() -> Path:
    import pwd

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return Path.home()


def _local_user() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # there is no such entry, or no descriptor to read it with
        with contextlib.suppress(KeyError, OSError):
            return getpass.getuser()
        return str(os.getuid())


def _text(path: Path) -> str:
    """Return a file's text, in whatever encoding; empty if it can't be read."""
    try:
        return path.read_text("latin-1")
    except OSError:
        return ""


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size
