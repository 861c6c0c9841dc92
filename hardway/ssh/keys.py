"""Keys on this machine: the key pair we log in with, and the host keys of instances we have met.

The key pair is made once, at first use, and kept in the XDG data directory; host keys are kept in the XDG state
directory by instance id, since addresses are reused and ids are not.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import shlex
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from platformdirs import user_data_path, user_state_path

from hardway import files
from hardway.errors import UsageError, reason_of
from hardway.system.paths import expanded

CONSOLES = 50
"""The most instances whose consoles one command asks for: EC2 answers 100 such calls at once, then 20 a second.

Source: https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html
"""
# The comment of a key in known_hosts that the host's console has confirmed.
_CONFIRMED = "console"
# Keywords that may give ssh keys that we can't find.
_FINDS_MORE = re.compile(r"^\s*(?:Include|Match|IdentityAgent|PKCS11Provider|SecurityKeyProvider)\b", re.I | re.M)
_IDENTITY_FILE = re.compile(r"^\s*IdentityFile[ \t=]+\"?([^\"\n]+?)\"?\s*$", re.I | re.M)
_DEFAULTS = ("id_rsa", "id_ecdsa", "id_ed25519")
_PKCS8, _ENCRYPTED = b"-----BEGIN PRIVATE KEY-----", b"-----BEGIN ENCRYPTED PRIVATE KEY-----"


@dataclass(frozen=True)
class OwnKey:
    """Our key pair: `path` of the private key, `public` in OpenSSH's one-line form, `name` for EC2."""

    path: Path
    public: str
    name: str


def own_key_path() -> Path:
    """Return the path of our private key, existing or not."""
    return user_data_path("hardway") / "id_ed25519"


def own_key() -> OwnKey:
    """Return our key pair; make it if there is none (mode 0600, safe if two processes do it at once).

    Raises UsageError for a private key file that cannot be read.
    """
    path = own_key_path()
    if not path.exists():
        _make(path)
    try:
        with path.open("rb") as file:
            files.mend_file(file.fileno())
            key = serialization.load_ssh_private_key(file.read(), password=None)
    except (OSError, ValueError) as error:
        said = f"cannot read our private key {path} ({reason_of(error)})"
        raise UsageError(f"{said}: move it away and a new one is made") from None
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    return OwnKey(path, public, pair_name(public))


def pair_name(public: str) -> str:
    """Return our name for a key pair at EC2; part of the public key's digest in it makes it unique to the key."""
    return f"hardway-{hashlib.sha256(' '.join(public.split()[:2]).encode()).hexdigest()[:12]}"


def _make(path: Path) -> None:
    secret = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    files.private(path.parent)
    files.write(path, [secret], synced=True, replace=False)


class HostKeys:
    """The host keys known so far, in OpenSSH's known_hosts form, with the instance id as the host's name.

    A host has the keys that its console showed, marked by a comment, or else the key of the first use. Safe for threads
    and for concurrent processes. At most `consoles` hosts may be asked for their keys.
    """

    def __init__(self, path: Path | None = None, consoles: int = CONSOLES) -> None:
        self.path = path or user_state_path("hardway") / "known_hosts"
        if path is None and self.path.parent.is_dir():
            files.state_directory()
        self._consoles = consoles
        self._lock = threading.Lock()
        self._asked: set[str] = set()
        self._known, self._confirmed = self._read()

    def of(self, host: str) -> dict[str, str]:
        """Return the known base64 keys of a host by key type; empty for a host never met."""
        return dict(self._known.get(host, {}))

    def confirmed(self, host: str) -> bool:
        """Return whether the host's console has shown the known keys."""
        return host in self._confirmed

    def may_ask(self, host: str) -> bool:
        """Return whether the host's console may be asked for its keys: once each, for at most `consoles` hosts."""
        with self._lock:
            if host in self._asked or len(self._asked) >= self._consoles:
                return False
            self._asked.add(host)
            return True

    def remember(self, host: str, kind: str, key: str) -> bool:
        """Note the key of a host met for the first time; return False if another key was noted meanwhile."""
        with self._locked() as file:
            if host not in self._known:
                file.write(f"{host} {kind} {key}\n")
                self._known[host] = {kind: key}
            return self._known[host].get(kind) == key

    def confirm(self, host: str, keys: Mapping[str, str]) -> None:
        """Note the keys that a host's console showed; they replace all others. Do nothing for no keys."""
        if not keys:
            return
        with self._locked() as file:
            if host in self._confirmed:
                return
            for kind, key in self._known.get(host, {}).items():
                if keys.get(kind) != key:
                    file.write(f"@revoked {host} {kind} {key}\n")
            file.writelines(f"{host} {kind} {key} {_CONFIRMED}\n" for kind, key in keys.items())
            self._known[host] = dict(keys)
            self._confirmed.add(host)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[IO[str]]:
        """Give the file, open for appending, after the lines that others have appended were read."""
        with self._lock:
            files.private(self.path.parent)
            with open(self.path, "a", opener=files.private_file) as file:
                files.mend_file(file.fileno())
                files.lock(file, wait=True)
                self._known, self._confirmed = self._read()
                yield file

    def _read(self) -> tuple[dict[str, dict[str, str]], set[str]]:
        known: dict[str, dict[str, str]] = {}
        confirmed: set[str] = set()
        try:
            with self.path.open(errors="replace") as file:
                files.mend_file(file.fileno())
                lines = file.read().splitlines()
        except FileNotFoundError:
            return known, confirmed
        for line in lines:
            host, kind, key, *comment = [*line.split(), "", "", ""]
            if not key or host.startswith("@") or (host in confirmed and comment[0] != _CONFIRMED):
                continue
            if comment[0] == _CONFIRMED and host not in confirmed:
                confirmed.add(host)
                known[host] = {}
            known.setdefault(host, {})[kind] = key
        return known, confirmed


def public_half(path: Path, source: str) -> str:
    """Return the public half, as type and base64, of a private key's file that can be used. Raises UsageError.

    A file can be used if Paramiko reads it, or if ssh-agent has its key: a connection tries the same.
    """
    beside = _public_beside(path)
    try:
        content = path.read_bytes()
        key = _loaded(path)
    except paramiko.PasswordRequiredException:
        add = f"`ssh-add {_quoted(path)}`"
        public = beside or _public_within(content)
        return _of_agent(public, source, path, f"is encrypted, and ssh-agent does not have its key: {add}")
    except (OSError, ValueError, paramiko.SSHException) as error:
        refused = f"is not a private key that can be read: {reason_of(error)}"
        if isinstance(error, paramiko.SSHException) and content.startswith(_PKCS8):
            refused = f"is in the PKCS#8 format, which can't be read: `ssh-keygen -p -f {_quoted(path)}` converts it"
        return _of_agent("" if isinstance(error, OSError) else beside, source, path, refused)
    public = f"{key.get_name()} {key.get_base64()}"
    if beside not in ("", public):
        raise UsageError(f"{source} {path}.pub is not the public half of {path}: make it with `ssh-keygen -y`")
    return public


def public_of(path: Path, source: str) -> str:
    """Return the public half, as type and base64, of a private key's file, usable or not. Raises UsageError."""
    try:
        if found := _public_beside(path) or _public_within(path.read_bytes()):
            return found
    except OSError:
        pass
    return public_half(path, source)


def lacks_private_half(public: str, named: Iterable[Path]) -> bool:
    """Return whether a connection surely finds no private half of a public key (type and base64) on this machine.

    `named` are further files that may hold it. An empty `public` is unknown: any private key may fit it.
    """
    directory = Path.home() / ".ssh"
    try:
        config = (directory / "config").read_text(errors="replace")
    except OSError:
        config = ""
    if _FINDS_MORE.search(config):
        return False
    configured = [expanded(found) for found in _IDENTITY_FILE.findall(config)]
    known = agent_keys()
    for path in (*named, *configured, *(directory / name for name in _DEFAULTS)):
        try:
            known.add(public_half(path, "key"))
        except UsageError:
            continue
    return public not in known if public else not known


def agent_keys() -> set[str]:
    """Return the public halves, as type and base64, of the keys in ssh-agent."""
    with contextlib.suppress(OSError, paramiko.SSHException):
        agent = paramiko.Agent()
        try:
            return {f"{key.get_name()} {key.get_base64()}" for key in agent.get_keys()}
        finally:
            agent.close()
    return set()


def type_and_base64(public: str) -> str:
    """Return a public key without its comment; empty for a text that isn't in OpenSSH's form."""
    words = public.split()[:2]
    return " ".join(words) if len(words) == 2 and words[0].startswith(("ssh-", "ecdsa-", "sk-")) else ""


def _loaded(path: Path) -> paramiko.PKey:
    """Return the key in a file, as a connection reads it. Raises Paramiko's error, OSError or ValueError."""
    if path.read_bytes().startswith(_ENCRYPTED):
        raise paramiko.PasswordRequiredException("it is encrypted")
    error: Exception = ValueError("it is empty")
    for kind in (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey):
        try:
            return kind.from_private_key_file(str(path))
        except paramiko.PasswordRequiredException:
            raise
        except (ValueError, paramiko.SSHException) as failure:
            error = failure
    raise error


def _of_agent(public: str, source: str, path: Path, refused: str) -> str:
    if public and public in agent_keys():
        return public
    raise UsageError(f"{source} {path} {refused}")


def _public_beside(path: Path) -> str:
    try:
        return type_and_base64(path.with_name(f"{path.name}.pub").read_text(errors="replace"))
    except OSError:
        return ""


def _public_within(content: bytes) -> str:
    """Return the readable public half in an encrypted file of OpenSSH's own format; empty for other formats.

    Source: https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.key
    """
    try:
        data = base64.b64decode(b"".join(content.strip().splitlines()[1:-1]), validate=True)
        message = paramiko.Message(data)
        if message.get_bytes(15) != b"openssh-key-v1\0":
            return ""
        for _ in range(3):  # the cipher, how its key is derived, and from what
            message.get_string()
        message.get_int()
        public = message.get_string()
        return f"{paramiko.Message(public).get_text()} {base64.b64encode(public).decode()}"
    except (ValueError, struct.error, paramiko.SSHException):
        return ""


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
