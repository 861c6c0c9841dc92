"""The server of a store: gives an instance's objects to the other instances, and changes nothing.

It runs on each instance, as one file, by `python3 -I -S` (3.6 or later). It is Python's own http.server and not nginx
or Caddy: pmap needs Python anyway, so nothing is installed, and nobody needs to be root. The kernel copies an object
from the page cache to the connection (sendfile). On 2 cores over loopback, with the clients on the same cores:

    64 MiB objects    1.1 GB/s; `cat` of the same file into a pipe has 2.9 GB/s
    4 KiB objects     5,600 a second on a kept connection, 3,200 with a connection for each, 5,500 from four clients
    memory            25 MB with 120 connections

A fixed number of threads take connections, and more connections wait in the kernel. A connection that says nothing for
a few seconds is closed. A request, and the taking of an object, must be over in a time. A request names the instance,
as another instance may have got the address. Then it must have the store's token. A name is one that `aws` gives to a
file of the store. It has no slash and no dot at its start, so no request leads out of the folder.

A line of a list is NAME SIZE TIME.
"""

import contextlib
import errno
import hashlib
import hmac
import os
import re
import select
import socket
import stat
import sys
import threading
import time
import urllib.parse
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler

THREADS = 128
BACKLOG = 1024
IDLE_SECONDS = 5.0
"""The time that a connection may be without a byte."""
REQUEST_SECONDS = 10.0
"""The time from a request's first wait to the end of its answer, but for an object's bytes."""
SEND_SECONDS, LEAST_RATE = 60.0, 1 << 20
"""The time for an object: so much, and a second for each MiB."""
AT_ONCE = 1 << 16  # bytes of an object that are sent with the head
PIECE = 8 << 20
DIGEST_BYTES = 32
NAME = re.compile(r"[A-Za-z0-9_~%-][A-Za-z0-9_.~%-]*")
DIGEST = re.compile(r"[0-9a-f]{64}")
DEADLINES = {}  # type: dict[socket.socket, float]
"""When each open connection must be done with what it does."""


class Shelf:
    """The folder with one instance's objects, and the file with the token."""

    def __init__(self, instance: str, folder: str, token_file: str) -> None:
        self.instance = instance
        self.folder = folder
        self.token_file = token_file

    def lets_in(self, said: str) -> bool:
        """Return whether a request's Authorization has the token."""
        with open(self.token_file) as file:
            token = file.read().strip()
        return bool(token) and hmac.compare_digest(said.encode("latin-1"), ("Bearer " + token).encode())

    def open(self, name: str) -> int:
        """Return a descriptor of an object. Raises OSError."""
        if not NAME.fullmatch(name):
            raise FileNotFoundError(errno.ENOENT, name)
        return self._regular(name)

    def _regular(self, name: str) -> int:
        """Return a descriptor of a file that is no link, and nothing that blocks. Raises OSError."""
        descriptor = os.open(os.path.join(self.folder, name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise FileNotFoundError(errno.ENOENT, name)
        return descriptor

    def digest(self, name: str, descriptor: int) -> str:
        """Return the object's BLAKE2b as it was when the object was written, or, if this is not there, as it is now."""
        try:
            with open(self._regular(name + "@"), encoding="ascii", errors="replace") as file:
                found = file.read(DIGEST_BYTES * 2 + 1).strip()
            if DIGEST.fullmatch(found):
                return found
        except OSError:
            pass
        made = hashlib.blake2b(digest_size=DIGEST_BYTES)
        offset = 0
        while True:
            piece = os.pread(descriptor, PIECE, offset)
            if not piece:
                return made.hexdigest()
            made.update(piece)
            offset += len(piece)

    def listed(self, prefix: str) -> "list[str]":
        """Return a line for each object whose name starts so, in the order of the keys' bytes."""
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if not entry.name.startswith(prefix) or not NAME.fullmatch(entry.name):
                    continue
                try:
                    about = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.S_ISREG(about.st_mode):
                    line = f"{entry.name} {about.st_size} {int(about.st_mtime)}\n"
                    found.append((urllib.parse.unquote_to_bytes(entry.name), line))
        return [line for _, line in sorted(found)]


class Request(BaseHTTPRequestHandler):
    """One connection, and the requests on it."""

    shelf = Shelf("", "", "")
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True
    wbufsize = -1

    def handle(self) -> None:
        """Answer requests, each in its time."""
        self.close_connection = False
        while not self.close_connection:
            DEADLINES[self.connection] = time.monotonic() + REQUEST_SECONDS
            self.handle_one_request()

    def do_HEAD(self) -> None:
        """Tell an object's size and digest."""
        self.answer(False)

    def do_GET(self) -> None:
        """Send an object, or a list of objects."""
        self.answer(True)

    def answer(self, wanted: bool) -> None:
        """Answer, with a body if it is wanted."""
        path, _, query = self.path.partition("?")
        instance, _, name = path[1:].partition("/")
        if instance != self.shelf.instance:
            self.refuse(421)
        elif not self.shelf.lets_in(self.headers.get("Authorization", "")):
            self.refuse(401)
        elif name:
            self.send_object(name, wanted)
        else:
            body = "".join(self.shelf.listed(query.partition("prefix=")[2])).encode()
            self.begin(200, len(body))
            if wanted:
                self.wfile.write(body)

    def begin(self, status: int, length: int, *fields: "tuple[str, str]") -> None:
        """Write the head of an answer."""
        self.send_response_only(status)
        for name, text in (*fields, ("Content-Length", str(length))):
            self.send_header(name, text)
        self.end_headers()

    def refuse(self, status: int) -> None:
        """Send an error without a body, and close the connection."""
        self.close_connection = True
        self.begin(status, 0, ("Connection", "close"))

    def send_object(self, name: str, wanted: bool) -> None:
        """Send an object with its digest, by sendfile if it is large."""
        try:
            descriptor = self.shelf.open(name)
        except OSError as error:
            self.refuse(404 if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG) else 500)
            return
        try:
            about = os.fstat(descriptor)
            DEADLINES[self.connection] = time.monotonic() + SEND_SECONDS + about.st_size / LEAST_RATE
            self.begin(
                200,
                about.st_size,
                ("Last-Modified", formatdate(about.st_mtime, usegmt=True)),
                ("X-Hardway-Digest", self.shelf.digest(name, descriptor)),
            )
            if not wanted:
                return
            if about.st_size <= AT_ONCE:
                body = os.read(descriptor, AT_ONCE)
                self.close_connection = self.close_connection or len(body) != about.st_size
                self.wfile.write(body)
            else:
                self.wfile.flush()
                self.send_file(descriptor, about.st_size)
        finally:
            os.close(descriptor)

    def send_file(self, descriptor: int, size: int) -> None:
        """Have the kernel copy a file to the connection; close the connection if nothing is taken for a while."""
        writable = select.poll()
        writable.register(self.connection, select.POLLOUT)
        sent = 0
        while sent < size:
            try:
                count = os.sendfile(self.connection.fileno(), descriptor, sent, min(PIECE, size - sent))
            except BlockingIOError:
                count = -1
            if count == 0 or (count < 0 and not writable.poll(IDLE_SECONDS * 1000)):
                self.close_connection = True
                return
            sent += max(0, count)

    def send_error(self, code: int, message: "str | None" = None, explain: "str | None" = None) -> None:
        """Refuse what is no request of aws."""
        self.refuse(code)

    def log_message(self, format: str, *arguments: object) -> None:
        """Keep no log: it would grow for ever."""


def serve(listening: socket.socket) -> None:
    """Take one connection after the other."""
    while True:
        try:
            connection, peer = listening.accept()
        except OSError:  # too few descriptors, or a client that has gone
            time.sleep(0.1)
            continue
        # whatever a client has done, the thread takes the next one
        with contextlib.suppress(Exception), connection:
            Request(connection, peer, None)  # type: ignore[arg-type]  # it asks its server nothing
        DEADLINES.pop(connection, None)


def cut_late() -> None:
    """Cut connections whose time is over; their threads close them."""
    while True:
        time.sleep(1)
        now = time.monotonic()
        for connection, over in list(DEADLINES.items()):
            if now > over:
                with contextlib.suppress(OSError):  # the client may have gone
                    connection.shutdown(socket.SHUT_RDWR)


def main(instance: str, address: str, port: str, folder: str, token_file: str) -> None:
    """Serve the folder at this address until the process is ended."""
    Request.shelf = Shelf(instance, folder, token_file)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((address, int(port)))
    listening.listen(BACKLOG)
    threading.stack_size(256 << 10)
    for _ in range(THREADS):
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
    cut_late()


if __name__ == "__main__":
    main(*sys.argv[1:])
