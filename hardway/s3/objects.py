"""Whole objects in S3: the stub's in a shell with its session, else AWS's or a local cloud's."""

from __future__ import annotations

import re
import subprocess
from typing import IO, Any, NamedTuple, Protocol

from hardway import aws
from hardway.config import Settings
from hardway.errors import Failed, UsageError
from hardway.s3 import stub_sessions
from hardway.terminal import last_line

_URL = re.compile(r"s3://([^/\s]+)/(.*[^/])", re.DOTALL)


class Object(NamedTuple):
    """An object's bucket and key."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


class Store(Protocol):
    """A store of objects; for use from several threads."""

    def read(self, source: Object, target: IO[bytes]) -> None:
        """Write all of an object into the file. Raises Failed if the object can't be read."""

    def write(self, target: Object, source: IO[bytes]) -> None:
        """Make an object of the rest of the file, whole or not at all. Raises Failed if it can't be written."""

    def remove(self, target: Object) -> None:
        """Remove an object. Raises Failed if it can't be removed."""

    def exists(self, which: Object) -> bool:
        """Return whether the object exists. Raises Failed if the store can't be asked."""


def parse(url: str) -> Object:
    """Read a URL, `s3://bucket/key`. Raises UsageError for any other text."""
    found = _URL.fullmatch(url)
    if not found:
        raise UsageError(f"{url!r} is not the URL of an object: write s3://bucket/key")
    return Object(*found.groups())


def store(settings: Settings) -> Store:
    """Return the stub's session if the caller's shell has one, else S3."""
    return _Stub(settings) if settings.stub_session else _S3(settings)


class _S3:
    def __init__(self, settings: Settings) -> None:
        # A shell with the stub keeps every program from S3, unless --real-s3 is given.
        self._client: Any = aws.s3(settings, stub_sessions.endpoint_before())

    def read(self, source: Object, target: IO[bytes]) -> None:
        try:
            body = self._client.get_object(Bucket=source.bucket, Key=source.key)["Body"]
            for piece in body.iter_chunks(1 << 16):
                target.write(piece)
        except Exception as error:
            raise _explained("read", source, error) from error

    def write(self, target: Object, source: IO[bytes]) -> None:
        from s3transfer.manager import TransferManager

        try:
            with TransferManager(self._client) as transfers:
                transfers.upload(source, target.bucket, target.key).result()
        except Exception as error:
            raise _explained("write", target, error) from error

    def remove(self, target: Object) -> None:
        try:
            self._client.delete_object(Bucket=target.bucket, Key=target.key)
        except Exception as error:
            raise _explained("remove", target, error) from error

    def exists(self, which: Object) -> bool:
        try:
            self._client.head_object(Bucket=which.bucket, Key=which.key)
        except Exception as error:
            if aws.error_code(error) in ("404", "NoSuchKey", "NoSuchBucket"):
                return False
            raise _explained("look at", which, error) from error
        return True


def _explained(what: str, which: Object, error: Exception) -> Exception:
    known = aws.translate(error)
    return Failed(f"cannot {what} {which}: {known}") if known else error


class _Stub:
    def __init__(self, settings: Settings) -> None:
        self._environment = stub_sessions.environment(settings.stub_session)

    def read(self, source: Object, target: IO[bytes]) -> None:
        self._run("read", source, ["s3", "cp", str(source), "-", "--only-show-errors"], stdout=target)

    def write(self, target: Object, source: IO[bytes]) -> None:
        self._run("write", target, ["s3", "cp", "-", str(target), "--only-show-errors"], stdin=source)

    def remove(self, target: Object) -> None:
        self._run("remove", target, ["s3", "rm", str(target), "--only-show-errors"])

    def exists(self, which: Object) -> bool:
        named = ["--bucket", which.bucket, f"--key={which.key}"]
        try:
            self._run("look at", which, ["s3api", "head-object", *named])
        except Failed as error:
            if "(404)" in str(error):
                return False
            raise
        return True

    def _run(
        self,
        what: str,
        which: Object,
        command: list[str],
        stdin: IO[bytes] | None = None,
        stdout: IO[bytes] | None = None,
    ) -> None:
        process = subprocess.Popen(
            [str(stub_sessions.directory() / "aws"), *command],
            stdin=stdin or subprocess.DEVNULL,
            stdout=stdout or subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=self._environment,
        )
        try:
            said = process.communicate()[1]
        finally:
            process.kill()
            process.wait()
        if process.returncode:
            raise Failed(f"cannot {what} {which}: {last_line(said) or f'aws ended with {process.returncode}'}")
