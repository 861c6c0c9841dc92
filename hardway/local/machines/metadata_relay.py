"""One connection of a guest to its metadata service: QEMU starts this for each, with the guest's end as stdin.

The argument is the service's socket. Standard library only, one file: it starts fast.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys

MOST_SECONDS = 60
"""How long a connection may be silent."""


def main() -> None:
    """Carry bytes both ways until both ends have said all."""
    guest = socket.socket(fileno=0)
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as service:
        service.connect(sys.argv[1])
        others = {guest: service, service: guest}
        while others:
            readable = select.select(list(others), [], [], MOST_SECONDS)[0]
            if not readable:
                return
            for end in readable:
                if data := end.recv(65536):
                    others[end].sendall(data)
                else:
                    others.pop(end).shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main()
