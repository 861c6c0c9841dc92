"""Stands in for Cassandra, which Debian doesn't have: nodes that find each other by their seeds, and say whom they see.

Without an argument, a node of the cassandra.yaml here, in the background; with one, what `nodetool status` prints.
"""

import contextlib
import json
import os
import re
import socket
import sys
import threading
import time
from pathlib import Path

PORT = 7000
yaml = Path("cassandra.yaml").read_text()
[own] = re.findall(r"^listen_address: (\S+)", yaml, re.MULTILINE)
[seeds] = re.findall(r'- seeds: "(.*)"', yaml)
known = {own, *seeds.split(",")}
alive = {own}


def exchange(address: str) -> list[str]:
    """Tell a node who is known here, and hear whom it sees."""
    with socket.create_connection((address, PORT), 2) as peer:
        peer.sendall(json.dumps(sorted(known)).encode() + b"\n")
        return json.loads(peer.makefile().readline())


def answer(server: socket.socket) -> None:
    while True:
        with contextlib.suppress(OSError, ValueError), server.accept()[0] as peer:
            known.update(json.loads(peer.makefile().readline()))
            peer.sendall(json.dumps(sorted(alive)).encode() + b"\n")


if len(sys.argv) > 1:
    for address in exchange(own):
        print(f"UN  {address}  100 KiB")
elif os.fork() == 0:
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    server = socket.create_server((own, PORT))
    threading.Thread(target=answer, args=(server,), daemon=True).start()
    while True:
        for address in known - {own}:
            with contextlib.suppress(OSError, ValueError):
                known.update(exchange(address))
                alive.add(address)
        time.sleep(0.2)
