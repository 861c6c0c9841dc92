"""Keys on this machine: the key pair we log in with, and the host keys of instances we have met.

The key pair is made once, at first use, and kept in the XDG data directory; host keys are remembered in the XDG
state directory by instance id, since addresses are reused and ids are not.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from platformdirs import user_data_path, user_state_path

from hardway.errors import UsageError


@dataclass(frozen=True)
class KeyPair:
    """Our key pair: `path` of the private key, `public` in OpenSSH's one-line form, `name` for EC2."""

    path: Path
    public: str
    name: str


def own_key_path() -> Path:
    """Where our private key is, or will be."""
    return user_data_path("hardway") / "id_ed25519"


def own_key() -> KeyPair:
    """Our key pair, made now if there is none (mode 0600, safe against two at once).

    Raises UsageError for a private key file that cannot be read.
    """
    path = own_key_path()
    if not path.exists():
        _make(path)
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read our private key {path} ({error}): move it away and a new one is made") from None
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
    return KeyPair(path, public, pair_name(public))


def pair_name(public: str) -> str:
    """What we call a key pair at EC2; holds part of the public key's digest, so that no two keys share a name."""
    return f"hardway-{hashlib.sha256(' '.join(public.split()[:2]).encode()).hexdigest()[:12]}"


def _make(path: Path) -> None:
    private = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(private)
            os.fsync(file.fileno())
        # A link, unlike a rename, leaves the key of whoever was faster.
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.unlink(temporary)


class HostKeys:
    """The host keys met so far, in OpenSSH's known_hosts form with the instance id as the host's name.

    Safe for threads, and for processes at the same time. Each instance has at most one key of each type.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or user_state_path("hardway") / "known_hosts"
        self._lock = threading.Lock()
        self._known = self._read()

    def of(self, host: str) -> dict[str, str]:
        """Key type to base64 key, for each key known of this host; empty for a host never met."""
        return dict(self._known.get(host, {}))

    def remember(self, host: str, kind: str, key: str) -> bool:
        """Note the key of a host met for the first time; False where another one was noted meanwhile."""
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with self.path.open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                self._known = self._read()
                known = self._known.setdefault(host, {})
                if not known:
                    file.write(f"{host} {kind} {key}\n")
                    known[kind] = key
            return known.get(kind) == key

    def _read(self) -> dict[str, dict[str, str]]:
        known: dict[str, dict[str, str]] = {}
        try:
            lines = self.path.read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return known
        for line in lines:
            words = line.split()
            if len(words) >= 3:
                known.setdefault(words[0], {})[words[1]] = words[2]
        return known
