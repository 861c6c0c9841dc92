"""The door of the daemon's HTTP server: it decides on each request, and bounds its time.

A request from the host proves nothing: the host's other users, and every web page, can send one. The gate lets in a
request that is addressed to our own name, comes from no page, and is signed by a key of this cloud. The owner's key may
do everything. The key of an instance may use S3, but may not start, end or look into another instance.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import socket
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import IO, Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

from moto.moto_server.werkzeug_app import MotoRequestHandler
from werkzeug.serving import ThreadedWSGIServer

from hardway.local import signing
from hardway.local.signing import Refused, Signed

HEAD_SECONDS = 20.0
"""The longest time of a request until its signature is known to be right."""
IDLE_SECONDS = 300.0
"""The longest time that the body of a request may stand still once the request is let in."""
MOST_UNKNOWN = 16 << 20
"""The most bytes of a body read before its sender is known: for services other than S3 the body's digest is signed."""
IN_MEMORY = 8 << 20
CALLER_IDENTITY = {"Action": "GetCallerIdentity", "Version": "2011-06-15"}
_STATUS = dict.fromkeys(("InvalidRequest", "IncompleteBody", "EntityTooLarge"), "400 Bad Request")

App = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Gate:
    """A WSGI application before others.

    `secret_of` returns the secret of a key and whether the key is an instance's; None for an unknown key. The owner's
    requests go to `app`. An instance's go to `s3`, or to `sts` if the instance asks for its identity.
    """

    def __init__(
        self, host: str, secret_of: Callable[[str], tuple[str, bool] | None], app: App, s3: App, sts: App
    ) -> None:
        self._host = host
        self._secret_of = secret_of
        self._app = app
        self._s3 = s3
        self._sts = sts

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        request = signing.HTTPRequest(
            environ["REQUEST_METHOD"],
            environ["RAW_URI"],
            [(name.lower(), value) for name, value in environ["hardway.headers"].items()],
        )
        with contextlib.ExitStack() as opened:
            try:
                app = self._let_in(request, environ, opened)
            except Refused as refused:
                return _refuse(request, refused, start_response)
            answer = app(environ, _WithoutCORS(start_response))
            opened.pop_all()  # keep the body open: moto may read it while it answers, and it ends with the request
            return answer

    def _let_in(self, request: signing.HTTPRequest, environ: dict[str, Any], opened: contextlib.ExitStack) -> App:
        """Choose the application for a request, and read its body. Raises Refused."""
        hosts = [value for name, value in request.headers if name == "host"]
        if hosts != [self._host] or not request.target.startswith("/"):
            raise Refused("AccessDenied", "The Host header is not the address of the local cloud.")
        if any(name == "origin" for name, _ in request.headers) or request.method == "OPTIONS":
            raise Refused("AccessDenied", "The local cloud does not answer web pages.")
        reader = _Body(environ, opened)
        secret = self._secret_of
        signed = signing.verify(request, lambda id: (secret(id) or (None,))[0], reader.digest, time.time())
        environ["hardway.deadline"](None)
        reader.read()
        signing.verify_body(signed, reader.file)
        reader.file.seek(0)
        known = secret(signed.key_id)
        if known is None:
            raise Refused("InvalidAccessKeyId", "The key has just been deleted.")
        return self._of_instance(signed, request, reader.file) if known[1] else self._app

    def _of_instance(self, signed: Signed, request: signing.HTTPRequest, body: IO[bytes]) -> App:
        # moto's dispatcher is left out, since it looks at many parts of a request to find the service.
        if signed.service == "s3":
            return self._s3
        if signed.service == "sts" and "?" not in request.target:
            asked = body.read(1000)
            body.seek(0)
            pairs = parse_qsl(asked.decode("latin-1"))
            if len(pairs) == len(CALLER_IDENTITY) and dict(pairs) == CALLER_IDENTITY:
                return self._sts
        raise Refused("AccessDenied", "The key of an instance of the local cloud is for S3 only.")


class _Body:
    """The body of a request. It is read when its size is bounded or its sender known."""

    def __init__(self, environ: dict[str, Any], opened: contextlib.ExitStack) -> None:
        self._environ = environ
        self._opened = opened
        self._is_read = False
        self.file: IO[bytes] = io.BytesIO()

    def digest(self) -> str:
        """Return the SHA-256 of a body that fits in memory. Raises Refused."""
        self.read(MOST_UNKNOWN)
        digest = hashlib.sha256()
        while data := self.file.read(1 << 20):
            digest.update(data)
        self.file.seek(0)
        return digest.hexdigest()

    def read(self, most: int | None = None) -> None:
        """Read the body into `file`, where moto reads it, too. Raises Refused."""
        if self._is_read:
            return
        self._is_read = True
        environ = self._environ
        length = environ.get("CONTENT_LENGTH", "") or "0"
        if not (length.isascii() and length.isdigit()):
            raise Refused("InvalidRequest", "Content-Length is not a number.")
        chunked = bool(environ.get("wsgi.input_terminated"))
        left = int(length[:15])
        if not chunked and most is not None and left > most:
            raise Refused("EntityTooLarge", "The request is too big.")
        if left > IN_MEMORY or chunked:
            spooled = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 (moto reads it after this)
            self.file = self._opened.enter_context(spooled)
        size = 0
        while chunked or left:
            data = environ["wsgi.input"].read(1 << 20 if chunked else min(left, 1 << 20))
            if not data:
                break
            size += len(data)
            left -= len(data)
            if most is not None and size > most:
                raise Refused("EntityTooLarge", "The request is too big.")
            self.file.write(data)
        if not chunked and left:
            raise Refused("IncompleteBody", "The body is shorter than Content-Length says.")
        self.file.seek(0)
        environ["wsgi.input"], environ["CONTENT_LENGTH"] = self.file, str(size)
        environ.pop("wsgi.input_terminated", None)
        environ.pop("HTTP_TRANSFER_ENCODING", None)


class _WithoutCORS:
    """start_response without the headers that let web pages read an answer."""

    def __init__(self, start_response: Any) -> None:
        self._start_response = start_response

    def __call__(self, status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
        kept = [(name, value) for name, value in headers if not name.lower().startswith("access-control-")]
        return self._start_response(status, kept, *more)


def _refuse(request: signing.HTTPRequest, refused: Refused, start_response: Any) -> list[bytes]:
    """Answer with an error in the form of the service, if the request says which service it is for."""
    code, message = refused.code, str(refused)
    status = _STATUS.get(code, "403 Forbidden")
    error = f"<Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error>"
    authorization = request.header("authorization")
    kind = "text/xml; charset=utf-8"
    if request.header("x-amz-target"):
        text, kind = json.dumps({"__type": code, "message": message}), "application/x-amz-json-1.1"
    elif "/ec2/" in authorization:
        code = "AuthFailure" if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch") else code
        code = "UnauthorizedOperation" if code == "AccessDenied" else code
        error = f"<Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error>"
        text = f"<Response><Errors>{error}</Errors><RequestID>local</RequestID></Response>"
    elif "/s3/" in authorization or not authorization:
        text = error
    else:
        text = f"<ErrorResponse>{error}<RequestId>local</RequestId></ErrorResponse>"
    body = text.encode()
    start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [] if request.method == "HEAD" else [body]


class _TimedReader(io.RawIOBase):
    """The bytes from a connection, until a deadline; for None, until the connection stands still for IDLE_SECONDS."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.deadline: float | None = time.monotonic() + HEAD_SECONDS

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = IDLE_SECONDS if self.deadline is None else self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        self._connection.settimeout(left)
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(None)


class Handler(MotoRequestHandler):
    """One connection, bounded in time. Nonsense on it leaves no line in the log."""

    def setup(self) -> None:
        super().setup()
        self._reader = _TimedReader(self.connection)
        self.rfile.close()
        self.rfile = io.BufferedReader(self._reader, 1 << 16)

    def make_environ(self) -> dict[str, Any]:
        environ = super().make_environ()
        environ["hardway.headers"] = self.headers
        environ["hardway.deadline"] = self._extend
        return environ

    def _extend(self, deadline: float | None) -> None:
        self._reader.deadline = deadline

    def log_request(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_error(self, *args: Any, **kwargs: Any) -> None:
        pass


class HTTPServer(ThreadedWSGIServer):
    """moto's server behind the gate. `application` is set before it serves."""

    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__("127.0.0.1", 0, _closed, handler=Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: anybody may open a connection and send no request."""


def _closed(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("503 Service Unavailable", [("Content-Length", "0")])
    return []
