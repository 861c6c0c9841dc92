"""Keys on this machine: the key pair we log in with, and the host keys of instances we have met.

The key pair is made once, at first use, and kept in the XDG data directory; host keys are kept in the XDG state
directory by instance id, since addresses are reused and ids are not.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from platformdirs import user_data_path, user_state_path

from hardway import files
from hardway.errors import UsageError, reason_of

CONSOLES = 50
"""How many instances' consoles one command asks for: EC2 answers 100 such calls at once, and then 20 a second.

Source: https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html
"""
# The comment of a key in known_hosts that the host's console showed.
_CONFIRMED = "console"


@dataclass(frozen=True)
class OwnKey:
    """Our key pair: `path` of the private key, `public` in OpenSSH's one-line form, `name` for EC2."""

    path: Path
    public: str
    name: str


def own_key_path() -> Path:
    """Where our private key is, or will be."""
    return user_data_path("hardway") / "id_ed25519"


def own_key() -> OwnKey:
    """Our key pair, made now if there is none (mode 0600, safe against two at once).

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
    """What we call a key pair at EC2; holds part of the public key's digest, so that no two keys share a name."""
    return f"hardway-{hashlib.sha256(' '.join(public.split()[:2]).encode()).hexdigest()[:12]}"


def _make(path: Path) -> None:
    secret = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    files.private(path.parent)
    files.write(path, [secret], synced=True, replace=False)


class HostKeys:
    """The host keys known so far, in OpenSSH's known_hosts form with the instance id as the host's name.

    Of a host these are the keys that its console showed, marked by a comment, else the one met at first use. Safe for
    threads, and for processes at the same time. At most `consoles` hosts may be asked for their keys through it.
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
        """Key type to base64 key, for each key known of this host; empty for a host never met."""
        return dict(self._known.get(host, {}))

    def confirmed(self, host: str) -> bool:
        """Whether these are the keys that the host's console showed."""
        return host in self._confirmed

    def may_ask(self, host: str) -> bool:
        """Whether the host's console may be asked for its keys: once each, of at most `consoles` hosts."""
        with self._lock:
            if host in self._asked or len(self._asked) >= self._consoles:
                return False
            self._asked.add(host)
            return True

    def remember(self, host: str, kind: str, key: str) -> bool:
        """Note the key of a host met for the first time; False where another one was noted meanwhile."""
        with self._locked() as file:
            if host not in self._known:
                file.write(f"{host} {kind} {key}\n")
                self._known[host] = {kind: key}
            return self._known[host].get(kind) == key

    def confirm(self, host: str, keys: Mapping[str, str]) -> None:
        """Note the keys that a host's console showed, from now on the only ones; nothing, for none."""
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
        """The file, to append to, after what others have appended was read."""
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
