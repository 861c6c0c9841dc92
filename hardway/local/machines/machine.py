"""The machine behind one instance, as the cloud and its faults know it: of processes here, or a virtual one."""

from __future__ import annotations

from typing import Protocol


class Machine(Protocol):
    """A machine: it boots, runs user data, listens, and suffers faults, until it is halted."""

    @property
    def console(self) -> str:
        """The text on its console."""

    async def create(self) -> None:
        """Make its files. Raises SandboxError, OSError."""

    async def boot(self) -> None:
        """Switch it on. Raises SandboxError, OSError."""

    def start_user_data(self) -> None:
        """Run the scripts of its user data in the background, after its first boot, unless it does so itself."""

    async def shut_down(self) -> None:
        """Have its system end, then switch it off."""

    async def stop(self) -> None:
        """Shut it down as EC2 stops an instance: instance storage is lost."""

    async def halt(self) -> None:
        """Switch it off at once."""

    def remove(self) -> None:
        """Delete its files. Raises OSError."""

    def drop(self) -> None:
        """Cut every connection, as a network does: no goodbye, a reset."""

    def hang(self) -> None:
        """Answer no more, on old or new connections, which stay open; stop every process."""

    def thaw(self) -> None:
        """Undo `hang`."""

    def slow(self, factor: float) -> None:
        """Let it run 1/factor of the time; 1 undoes it."""
