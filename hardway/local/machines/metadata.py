"""The instance metadata service, version 2: facts about an instance, over HTTP, for its own processes.

Each instance has a listener of its own. It takes a few kilobytes, sleeps until it is asked, and looks up the answer
anew at each request. EC2 shows tags only where MetadataOptions allow them; this service always does. Instances that are
processes of the host ask at their address. Other users of the host reach loopback, too: so the endpoint is a secret
path, in the environment of the instance's processes. Virtual machines ask at EC2's address, which leads to a socket
that no other user reaches. The service answers to its own address only, and to no web page.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import re
import secrets
import socket
import struct
import time
import urllib.parse
from collections.abc import Callable, Mapping
from http import HTTPStatus
from pathlib import Path

from hardway.local import beneath

EC2_ADDRESS = "169.254.169.254"
SOCKET = "metadata"
"""The socket in the directory of a virtual machine."""
TOKEN_PATH = "/latest/api/token"
TTL_HEADER = "x-aws-ec2-metadata-token-ttl-seconds"
TOKEN_HEADER = "x-aws-ec2-metadata-token"
MAX_TTL = 21600
MAX_REQUEST = 1 << 14
CONNECTION_SECONDS = 60.0
"""How long a connection may last."""

Headers = Mapping[str, str]
_VERSION = re.compile(r"latest|\d{4}-\d\d-\d\d")


class MetadataService:
    """One instance's service. `describe` returns the text at each path below /latest/."""

    def __init__(self, describe: Callable[[], Mapping[str, str]]) -> None:
        self._describe = describe
        self._secret = secrets.token_bytes(16)
        self._path = ""
        self._hosts: tuple[str, ...] = ()
        self._server: asyncio.Server | None = None

    async def listen(self, ip: str) -> str:
        """Listen there, on any free port; returns the endpoint. Raises OSError."""
        self._path = "/" + secrets.token_urlsafe(24)
        self._server = await asyncio.get_running_loop().create_server(self._connection, ip, 0, family=socket.AF_INET)
        host = f"{ip}:{self._server.sockets[0].getsockname()[1]}"
        self._hosts = (ip, host)
        return f"http://{host}{self._path}"

    async def listen_in(self, directory: Path) -> None:
        """Listen at SOCKET in a directory, for a guest that asks at EC2's address. Raises OSError."""
        self._hosts = (EC2_ADDRESS,)
        with beneath.directory(directory) as place:  # a socket's name may have 107 bytes
            listener = f"/proc/self/fd/{place}/{SOCKET}"
            self._server = await asyncio.get_running_loop().create_unix_server(self._connection, listener)

    def _connection(self) -> _HTTPConnection:
        return _HTTPConnection(self._answer)

    def close(self) -> None:
        """Listen no more."""
        if self._server:
            self._server.close()
            self._server = None

    def _answer(self, method: str, path: str, headers: Headers) -> tuple[HTTPStatus, str, Headers]:
        ours = hmac.compare_digest(path[: len(self._path)].encode(), self._path.encode())
        path = path[len(self._path) :]
        if not ours or not path.startswith("/") or headers.get("host") not in self._hosts or "origin" in headers:
            return HTTPStatus.FORBIDDEN, "", {}
        if path == TOKEN_PATH:
            return self._token(method, headers)
        if method != "GET":
            return HTTPStatus.METHOD_NOT_ALLOWED, "", {"Allow": "GET"}
        if not self._valid(headers.get(TOKEN_HEADER, "")):
            return HTTPStatus.UNAUTHORIZED, "", {}
        text = _look_up(self._describe(), path)
        return (HTTPStatus.NOT_FOUND, "", {}) if text is None else (HTTPStatus.OK, text, {})

    def _token(self, method: str, headers: Headers) -> tuple[HTTPStatus, str, Headers]:
        if method != "PUT":
            return HTTPStatus.METHOD_NOT_ALLOWED, "", {"Allow": "PUT"}
        if "x-forwarded-for" in headers:  # from a proxy: EC2 refuses it as well
            return HTTPStatus.FORBIDDEN, "", {}
        ttl = headers.get(TTL_HEADER, "")
        if not (ttl.isascii() and ttl.isdigit() and 1 <= int(ttl[:9]) <= MAX_TTL):
            return HTTPStatus.BAD_REQUEST, "", {}
        body = struct.pack(">d", time.monotonic() + int(ttl))
        token = base64.urlsafe_b64encode(body + self._signature(body)).decode()
        return HTTPStatus.OK, token, {TTL_HEADER: ttl}

    def _valid(self, token: str) -> bool:
        try:
            raw = base64.urlsafe_b64decode(token.encode("ascii"))
        except ValueError:
            return False
        body, signature = raw[:8], raw[8:]
        return hmac.compare_digest(signature, self._signature(body)) and struct.unpack(">d", body)[0] > time.monotonic()

    def _signature(self, body: bytes) -> bytes:
        return hmac.digest(self._secret, body, "sha256")


def _look_up(known: Mapping[str, str], path: str) -> str | None:
    """The text at a path, or the names below it, one a line; None where nothing is."""
    version, _, wanted = path.lstrip("/").partition("/")
    if not _VERSION.fullmatch(version):
        return None
    wanted = wanted.rstrip("/")
    if wanted in known:
        return known[wanted]
    top = wanted + "/" if wanted else ""
    below: dict[str, None] = {}
    for entry in known:
        if entry.startswith(top):
            name, more, _ = entry.removeprefix(top).partition("/")
            below[name + more] = None
    # A text that has others below it is the list of these, as EC2 writes it.
    return "\n".join(name for name in below if name + "/" not in below) or None


class _HTTPConnection(asyncio.Protocol):
    """The part of HTTP/1.1 that clients of such a service speak."""

    def __init__(self, answer: Callable[[str, str, Headers], tuple[HTTPStatus, str, Headers]]) -> None:
        self._answer = answer
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._end = asyncio.get_running_loop().call_later(CONNECTION_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            while not self._transport.is_closing() and self._take():
                pass
        except ValueError:
            self._respond(HTTPStatus.BAD_REQUEST, "", {}, last=True)

    def _take(self) -> bool:
        """Answer the first request, if it is complete. Raises ValueError for something else."""
        head, complete, rest = self._received.partition(b"\r\n\r\n")
        if not complete:
            if len(self._received) > MAX_REQUEST:
                raise ValueError
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, version = first.split(" ")
        headers = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon:
                raise ValueError
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", 0))
        if not 0 <= length <= MAX_REQUEST or "transfer-encoding" in headers:
            raise ValueError
        if len(rest) < length:
            return False
        self._received = rest[length:]
        path = urllib.parse.unquote(urllib.parse.urlsplit(target).path)
        last = version != "HTTP/1.1" or headers.get("connection", "").lower() == "close"
        self._respond(*self._answer(method, path, headers), last)
        return True

    def _respond(self, status: HTTPStatus, text: str, headers: Headers, last: bool) -> None:
        body = text.encode(errors="surrogateescape")  # user data is any bytes
        sent = {"Content-Type": "text/plain", "Content-Length": str(len(body)), **headers}
        if last:
            sent["Connection"] = "close"
        lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in sent.items())]
        self._transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        if last:
            self._transport.close()
