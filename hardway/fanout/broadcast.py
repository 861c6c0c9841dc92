"""One file to many instances, uploaded once: the first instance gets it from here, the others from each other.

Every instance runs `broadcast.sh` on one channel, and gets orders from here: take the file, pull it from an instance
that has it, install it. An instance offers its file to others. They use a key that is made for this transfer and opens
nothing but the file. The instance forgets key and offer when its channel closes. The digest is checked after each hop.
If an instance gives nothing, or dies, the instances that were waiting for it try the next one. `Board` decides which
instance serves each other one; it does no I/O.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import IO, Any

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fabric.group import GroupResult

from hardway.ec2.instances import Instance
from hardway.errors import UsageError
from hardway.fanout import transfer
from hardway.fanout.group import InstanceGroup
from hardway.fanout.transfer import Remote, temporary_name
from hardway.s3 import objects
from hardway.ssh import connection as ssh
from hardway.ssh.channel import Channel, Progress, TransferError
from hardway.ssh.keys import HostKeys
from hardway.ssh.script import Script
from hardway.terminal import printable

CHILDREN = 2  # instances that one instance serves at the same time
OTHERS = 3  # instances from which an instance tries to get the file, before it gets the file from here
HOPELESS = 4  # failed tries without a success, after which all instances get the file from here at the same time
KEY_DAYS = 2  # days after which a key that could not be removed opens nothing, in any time zone
LEAST_INSTANCES = 4  # with fewer instances, sending to each from here is as fast
LEAST_BYTES = 32 << 20  # the same with fewer bytes in all
_LOOK_SECONDS = 0.5
_CHUNK = 1 << 18
_LINE_BYTES = 1 << 14
_OTHER_LINES = 1000  # lines, at most, of programs that start-up files have left running
HERE = ""
"""The source that is this machine."""


@dataclass(frozen=True)
class Payload:
    """The file: its size in bytes, its SHA-256 in hexadecimal."""

    file: IO[bytes]
    size: int
    digest: str

    @classmethod
    def of(cls, file: IO[bytes]) -> Payload:
        """Make a payload of a file, which is read once for its digest."""
        digest, size = hashlib.sha256(), 0
        file.seek(0)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
        return cls(file, size, digest.hexdigest())

    def chunks(self) -> Iterator[bytes]:
        """Yield the whole file; for use from several threads at the same time."""
        position = 0
        while chunk := os.pread(self.file.fileno(), _CHUNK, position):
            position += len(chunk)
            yield chunk


@dataclass
class _Seat:
    """The board's record of an instance."""

    has: bool = False
    serving: int = 0
    failed: set[str] = field(default_factory=set)
    blamed: int = 0
    over: bool = False


class Board:
    """Decides from which source each instance gets the file; for use from one thread an instance."""

    def __init__(self, names: Sequence[str], at_once: int, stopped: Callable[[], bool]) -> None:
        """Take the number `at_once` of possible connections; `stopped` returns whether waits must end."""
        self._seats = {name: _Seat() for name in names}
        self._at_once = at_once
        self._stopped = stopped
        self._here = 0
        self._pulled = 0
        self._failures = 0
        self._begun: set[str] = set()
        self._changed = threading.Condition()

    def begin(self, name: str) -> None:
        """Note that the instance is connected."""
        with self._changed:
            self._begun.add(name)

    def source(self, name: str) -> str:
        """Wait for a source of the file, and return it: an instance, or HERE.

        Raises TransferError if the transfer is stopped.
        """
        with self._changed:
            while (found := self._best(name)) is None:
                self._changed.wait(_LOOK_SECONDS)
                if self._stopped():
                    raise TransferError("given up")
            if found == HERE:
                self._here += 1
            else:
                self._seats[found].serving += 1
            return found

    def _best(self, name: str) -> str | None:
        failed = self._seats[name].failed
        having = [
            (seat.serving, other)
            for other, seat in self._seats.items()
            if seat.has and not seat.over and other not in failed and seat.blamed < OTHERS
        ]
        hopeless = not self._pulled and self._failures >= HOPELESS
        if hopeless or len(failed) >= OTHERS or not having:
            return HERE if hopeless or not self._here else None
        serving, best = min(having)
        return best if serving < CHILDREN else None

    def got(self, name: str, source: str) -> None:
        """Note that the instance has got the file from this source."""
        with self._changed:
            self._release(source)
            self._pulled += source != HERE
            self._seats[name].has = True
            self._changed.notify_all()

    def failed(self, name: str, source: str) -> None:
        """Note that the instance did not get the file from this source."""
        with self._changed:
            self._release(source)
            if source != HERE:
                self._failures += 1
                self._seats[source].blamed += 1
                self._seats[name].failed.add(source)
            self._changed.notify_all()

    def _release(self, source: str) -> None:
        if source == HERE:
            self._here -= 1
        else:
            self._seats[source].serving -= 1

    def leave(self, name: str) -> None:
        """Take an instance off the board: it serves nobody, and needs the file no more."""
        with self._changed:
            self._begun.add(name)
            self._seats[name].over = True
            self._changed.notify_all()

    def serve(self, name: str, busy: Callable[[], None]) -> None:
        """Wait until nobody needs this instance any more, and call `busy` now and then.

        The wait ends when all have the file. If not all can be connected to at the same time, it ends when enough
        others serve the rest.
        """
        with self._changed:
            while not self._stopped():
                seats = self._seats.values()
                if all(seat.has or seat.over for seat in seats) and not self._seats[name].serving:
                    return
                serving = sum(seat.has and not seat.over for seat in seats)
                if len(self._begun) < len(seats) and serving > self._at_once // 2 and not self._seats[name].serving:
                    self._seats[name].over = True
                    return
                self._changed.wait(_LOOK_SECONDS)
                busy()


def send_files(
    group: InstanceGroup,
    files: Sequence[Path],
    destination: Remote,
    progress: Progress,
    *,
    direct: bool = False,
    bucket: str = "",
) -> GroupResult:
    """Send files as `transfer.send_files` does, spread from instance to instance if this is faster.

    With `direct`, each instance gets the files from here. With `bucket`, a URL, the files travel through a temporary
    object below it. Raises UsageError for a `bucket` and more files than one command line can name; without a `bucket`
    such files are sent to each instance from here.
    """
    pays = _pays(group, sum(file.stat().st_size for file in files), direct, bucket)
    several = len(list(transfer.batches(files))) > 1
    if bucket and several:
        raise UsageError(f"--s3 can't take {len(files)} files at once: put them into a directory and use ec2.push")
    if not pays or several:
        return transfer.send_files(group, files, destination, progress)
    with tempfile.TemporaryFile() as file, transfer.reading(files, destination) as (arguments, chunks):
        for chunk in chunks:
            file.write(chunk)
        payload = Payload.of(file)
        return _spread(group, payload, transfer.RECEIVE, arguments, progress, bucket)


def push(
    group: InstanceGroup,
    tree: Path,
    destination: Remote,
    progress: Progress,
    *,
    direct: bool = False,
    bucket: str = "",
) -> GroupResult:
    """Send a tree as `transfer.push` does, spread if this is faster; `direct` and `bucket` as for `send_files`."""
    size = sum(os.lstat(os.path.join(where, name)).st_size for where, _, names in os.walk(tree) for name in names)
    if not _pays(group, size, direct, bucket):
        return transfer.push(group, tree, destination, progress)
    with tempfile.TemporaryFile() as file:
        transfer.write_archive(tree, file)
        payload = Payload.of(file)
        return _spread(
            group, payload, transfer.RECEIVE_TREE, transfer.tree_arguments(tree, destination), progress, bucket
        )


def _pays(group: InstanceGroup, size: int, direct: bool, bucket: str) -> bool:
    """Return whether spreading is faster. Raises UsageError for contradicting flags, or an invalid bucket."""
    if bucket and direct:
        raise UsageError("--direct and --s3 contradict each other: take one of them")
    if bucket:
        objects.parse(f"{bucket.rstrip('/')}/x")
        if any(char.isspace() for char in bucket):
            raise UsageError(f"--s3 {bucket!r} has white space in it")
        return True
    return not direct and len(group) >= LEAST_INSTANCES and size * len(group) >= LEAST_BYTES


def _spread(
    group: InstanceGroup,
    payload: Payload,
    installer: str,
    arguments: Sequence[str],
    progress: Progress,
    bucket: str,
) -> GroupResult:
    if not bucket:
        return spread(group, payload, installer, arguments, progress)
    target = objects.parse(f"{bucket.rstrip('/')}/{temporary_name()}")
    store = objects.store(group.settings)
    payload.file.seek(0)
    store.write(target, payload.file)
    try:
        return spread(group, payload, installer, arguments, progress, str(target))
    finally:
        store.remove(target)


def spread(
    group: InstanceGroup,
    payload: Payload,
    installer: str,
    arguments: Sequence[str],
    progress: Progress,
    url: str = "",
) -> GroupResult:
    """Bring the file to each instance, and install it there by the script `installer`, which reads the file.

    `arguments` are the script's. `progress` is called, from several threads, with the number of bytes as they reach an
    instance. With `url`, every instance gets the file from this object in S3.
    """
    board = Board([c.instance.id for c in group], group.settings.ec2.max_connections, group.interrupted.is_set)
    token = temporary_name()
    offers = {connection.instance.id: _Offer(connection) for connection in group}

    def bring(connection: ssh.InstanceConnection) -> None:
        name = connection.instance.id
        board.begin(name)
        try:
            with _Receiver(
                connection,
                f"{token}-{name}",
                payload,
                offers[name],
                installer,
                arguments,
                group.settings.stub_session if url else {},
            ) as receiver:
                # One instance at a time gets the file from here; an instance that hangs earlier delays no other.
                receiver.started()
                if url:
                    receiver.fetch(url)
                    progress(payload.size)
                    receiver.install()
                    return
                while True:
                    source = board.source(name)
                    try:
                        if source == HERE:
                            receiver.take(payload, progress)
                        else:
                            receiver.pull(offers[source])
                            progress(payload.size)
                    except _NotGot:
                        board.failed(name, source)
                    except BaseException:
                        board.failed(name, source)
                        raise
                    else:
                        board.got(name, source)
                        break
                receiver.install()
                # The instance has the file, so failing to serve others is no failure of its own.
                with contextlib.suppress(TransferError, OSError, EOFError, paramiko.SSHException):
                    board.serve(name, receiver.look)
        finally:
            board.leave(name)

    def over(connection: ssh.InstanceConnection, _outcome: Any) -> None:
        board.leave(connection.instance.id)

    return group.fanout(bring, over)


class _NotGot(TransferError):
    """The file did not come from this source, but may come from another one."""


class _Offer:
    """The address and the key with which others get the file from an instance."""

    def __init__(self, connection: ssh.InstanceConnection) -> None:
        self.instance: Instance = connection.instance
        self.port = connection.port
        self.user = connection.user
        key = Ed25519PrivateKey.generate()
        self.private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        self.public = (
            key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()
        )

    def entry(self, name: str) -> str:
        """Return the line that admits this key to the file alone; see AUTHORIZED_KEYS FILE FORMAT in sshd(8)."""
        ends = datetime.now(timezone.utc).date() + timedelta(days=KEY_DAYS)
        return f'restrict,expiry-time="{ends:%Y%m%d}",command="cat .{name}/whole" {self.public}'

    def known(self) -> bytes:
        """Return the instance's host keys, known from our connection, in lines for the script."""
        keys = HostKeys().of(self.instance.id)
        return "".join(f"parent {kind} {key}\n" for kind, key in keys.items()).encode()


class _Receiver:
    """The script on one instance, and the conversation with it."""

    def __init__(
        self,
        connection: ssh.InstanceConnection,
        name: str,
        payload: Payload,
        offer: _Offer,
        installer: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
    ) -> None:
        script = Path(__file__).with_name("broadcast.sh").read_text()
        # Precedes each answer, since a program left by a start-up file may print, too.
        self._word = secrets.token_hex(8)
        self._others = 0
        about = [self._word, name, str(payload.size), payload.digest, offer.entry(name), installer, *arguments]
        self._channel = Channel(connection, Script(script, about), environment)

    def __enter__(self) -> _Receiver:
        return self

    def __exit__(self, *error: object) -> None:
        # At the end of its stdin the script forgets the file and the key.
        self._channel.leave()
        self._channel.channel.close()

    def started(self) -> None:
        """Wait until the script runs. Raises TransferError."""
        self._channel.started()

    def take(self, payload: Payload, progress: Progress) -> None:
        """Send the file from here. Raises TransferError."""
        self._say("take")
        self._channel.send(payload.chunks(), progress)
        self._answer(TransferError)

    def pull(self, offer: _Offer) -> None:
        """Have the file pulled from another instance. Raises _NotGot if the pull fails."""
        known = offer.known()
        host = ssh.checked_address(offer.instance, offer.instance.private_ip or offer.instance.address)
        self._say(f"pull {host} {offer.port} {offer.user} {len(offer.private)} {len(known)}")
        self._channel.send([offer.private, known])
        self._answer(_NotGot)

    def fetch(self, url: str) -> None:
        """Have the file fetched from S3. Raises TransferError."""
        self._say(f"fetch {url}")
        self._answer(TransferError)

    def install(self) -> None:
        """Have the file installed. Raises TransferError."""
        self._say("install")
        self._answer(TransferError)

    def look(self) -> None:
        """Take in the script's signs of life. Raises TransferError once the script has ended."""
        while self._channel.lines_waiting():
            self._line()

    def _say(self, line: str) -> None:
        self._channel.send([f"{line}\n".encode()])

    def _line(self) -> str:
        """Return the script's next line; empty for a sign of life. Raises TransferError for too many foreign lines."""
        while self._others < _OTHER_LINES:
            line = self._channel.line(_LINE_BYTES).decode(errors="replace")
            if line.startswith(f"{self._word} "):
                said = line.removeprefix(f"{self._word} ").strip()
                return "" if said == "." else said
            self._others += 1
        raise TransferError("it sent output that nobody asked for")

    def _answer(self, kind: type[TransferError]) -> None:
        while not (said := self._line()):
            pass
        if said != "ok":
            raise kind(printable(said.removeprefix("no").strip()) or "it gave no reason")
