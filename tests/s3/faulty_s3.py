"""A small S3 over HTTP that fails where a test says: it refuses, cuts off, gives other bytes, names another region."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class Fault:
    """A fault of the next requests that match, in place of an answer.

    `what` is a status, or "cut" (the body ends too early), "other" (its first byte is another), or a region that the
    bucket is in.
    """

    match: str
    what: int | str
    times: int = 1


@dataclass
class FaultyS3:
    """The server's objects, uploads and faults, and the requests that it got: method, target and headers."""

    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    endpoint: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def asked(self, pattern: str) -> list[dict[str, str]]:
        """The headers of all requests whose method and target match."""
        with self.lock:
            return [headers for line, headers in self.requests if re.search(pattern, line)]

    def fault(self, line: str) -> int | str:
        with self.lock:
            for each in self.faults:
                if each.times and re.search(each.match, line):
                    each.times -= 1
                    return each.what
        return ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    s3: FaultyS3

    def log_message(self, *args: object) -> None:
        pass

    def handle_one(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        line = f"{self.command} {self.path}"
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.s3.lock:
            self.s3.requests.append((line, headers))
        what = self.s3.fault(line)
        if isinstance(what, int):
            error = b"<Error><Code>Oops</Code><Message>a &amp; b</Message></Error>"
            return self.answer(what, b"" if what == 200 else error)
        if what not in ("", "cut", "other"):
            return self.answer(301, b"<Error><Code>PermanentRedirect</Code></Error>", {"x-amz-bucket-region": what})
        claimed = headers.get("x-amz-content-sha256", "")
        if self.command in ("PUT", "POST") and claimed != hashlib.sha256(body).hexdigest():
            return self.answer(400, b"<Error><Code>XAmzContentSHA256Mismatch</Code></Error>")
        target = urlsplit(self.path)
        return getattr(self, self.command.lower())(unquote(target.path), target.query, body, headers, what)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one

    def get(self, key: str, query: str, body: bytes, headers: dict[str, str], what: str) -> None:
        data = self.s3.objects.get(key)
        if data is None:
            return self.answer(404, b"<Error><Code>NoSuchKey</Code><Message>no</Message></Error>")
        etag = {"ETag": f'"{hashlib.md5(data).hexdigest()}"', "Last-Modified": "Tue, 02 Jan 2024 03:04:05 GMT"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("range", ""))
        if not wanted or not data:
            return self.answer(416 if wanted else 200, data, etag, what)
        if headers.get("if-match", etag["ETag"]) != etag["ETag"]:
            return self.answer(412, b"<Error><Code>PreconditionFailed</Code><Message>no</Message></Error>")
        first, last = int(wanted[1]), min(int(wanted[2]), len(data) - 1)
        etag["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
        return self.answer(206, data[first : last + 1], etag, what)

    head = get

    def put(self, key: str, query: str, body: bytes, headers: dict[str, str], what: str) -> None:
        part = re.fullmatch(r"partNumber=(\d+)&uploadId=(.+)", query)
        with self.s3.lock:
            if part:
                self.s3.uploads[part[2]][int(part[1])] = body
            else:
                self.s3.objects[key] = body
        self.answer(200, b"", {"ETag": '"0123"'})

    def post(self, key: str, query: str, body: bytes, headers: dict[str, str], what: str) -> None:
        with self.s3.lock:
            if query == "uploads=":
                name = f"u{len(self.s3.uploads)}"
                self.s3.uploads[name] = {}
                xml = f"<X><UploadId>{name}</UploadId></X>"
            else:
                parts = self.s3.uploads.pop(query.removeprefix("uploadId="))
                self.s3.objects[key] = b"".join(parts[number] for number in sorted(parts))
                xml = "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>"
        self.answer(200, xml.encode())

    def delete(self, key: str, query: str, body: bytes, headers: dict[str, str], what: str) -> None:
        with self.s3.lock:
            if query:
                self.s3.uploads.pop(query.removeprefix("uploadId="))
            else:
                self.s3.objects.pop(key, None)
        self.answer(204, b"")

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, what: str = "") -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if what == "other":
            body = bytes([body[0] ^ 1]) + body[1:]
        if what == "cut":
            self.close_connection = True
            body = body[: len(body) // 2]
        self.wfile.write(body)


@contextmanager
def faulty_s3() -> Iterator[FaultyS3]:
    """Serve on a port of this machine for this block."""
    s3 = FaultyS3()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"s3": s3}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    s3.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield s3
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
