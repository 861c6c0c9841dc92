"""Loopback addresses for instances. Each address belongs to one instance alone."""

from __future__ import annotations

import random
import socket
import threading
from dataclasses import dataclass

PORTS = (2222, 2022, 22222, 42222)
"""The ports that machines may listen at: the first free one is taken."""


@dataclass(frozen=True)
class Address:
    """The address and port at which an instance listens."""

    ip: str
    port: int


class AddressPool:
    """Loopback addresses that no other instance has, of this or any other local cloud on the machine.

    A UDP socket bound to an address holds it. A TCP socket would be disturbed by connections that have just closed.
    """

    def __init__(self) -> None:
        self._next = random.randrange(1, 1 << 16)
        self._lock = threading.Lock()
        self._held: dict[str, socket.socket] = {}
        self.port = next((port for port in PORTS if _free("127.77.0.0", port)), 0)

    def take(self) -> Address:
        """Take an address that is free on the host. Raises OSError if none is."""
        with self._lock:
            for _ in range(1 << 16):
                self._next = self._next % 65533 + 1
                ip = f"127.77.{self._next >> 8}.{self._next & 255}"
                if self._next & 255 in (0, 255) or ip in self._held:
                    continue
                holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                try:
                    holder.bind((ip, self.port))
                except OSError:
                    holder.close()
                    continue
                if not _free(ip, self.port):
                    holder.close()
                    continue
                self._held[ip] = holder
                return Address(ip, self.port)
        raise OSError("no loopback address is free")

    def free(self, address: Address) -> None:
        """Give an address back."""
        with self._lock:
            if holder := self._held.pop(address.ip, None):
                holder.close()


def _free(ip: str, port: int) -> bool:
    """Return whether an SSH server can listen at an address."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ip, port))
            probe.listen(1)
        except OSError:
            return False
    return True
