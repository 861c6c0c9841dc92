"""A virtual machine as the machine behind one instance: a guest with a kernel, systemd and cloud-init of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hardway.local import beneath
from hardway.local.machines import qemu
from hardway.local.machines.guest_image import Guest, search_path
from hardway.local.machines.metadata import MetadataService
from hardway.local.machines.pacer import Pacer
from hardway.local.machines.processes import SandboxError, SpawnerClient
from hardway.local.machines.qemu import Disk, Emulator, Hardware

ROOT_GIB = 8
STORE_MIB = 1024
"""The size of a disk of instance storage, whatever its type: sparse, and formatted fast."""
SHUT_DOWN_SECONDS = 120.0
"""How long a guest has to shut down when its power button is pressed. EC2 gives some minutes."""
MOST_CONSOLE = 1 << 16
"""The most bytes of a console that EC2 shows: its newest."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Host:
    """The things of this machine that its virtual machines run by. `accelerator` is kvm or tcg."""

    spawner: SpawnerClient
    accelerator: str


class VirtualMachine:
    """The machine of one instance: a process of QEMU, and files in a directory.

    `power` is called with "poweroff" when the guest has powered off. `stores` is the number of disks of instance
    storage.
    """

    def __init__(
        self,
        host: Host,
        hardware: Hardware,
        guest: Guest,
        directory: Path,
        stores: int,
        metadata: MetadataService,
        power: Callable[[str], None],
    ) -> None:
        self._host = host
        self._hardware = hardware
        self._guest = guest
        self._directory = directory
        self._stores = stores
        self._metadata = metadata
        self._power = power
        self._emulator = Emulator(host.spawner, directory)
        self._watch: asyncio.Task[None] | None = None
        self._pacer = Pacer(self._freeze, self._unfreeze)

    @property
    def console(self) -> str:
        """The newest text on the serial console, of all boots."""
        try:
            with open(self._directory / "console", "rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - MOST_CONSOLE))
                return file.read(MOST_CONSOLE).decode(errors="replace")
        except OSError:
            return ""

    async def create(self) -> None:
        """Make its directory and its root disk, a layer on the guest's. Raises SandboxError, OSError."""
        self._directory.mkdir(parents=True, mode=0o700)
        await self._metadata.listen_in(self._directory)
        create = [shutil.which("qemu-img", path=search_path()) or "qemu-img", "create", "-q", "-f", "qcow2"]
        base = ["-b", str(self._guest.disk), "-F", "qcow2"]
        with open(os.devnull, "rb") as null, open(self._directory / "qemu.log", "ab") as said:
            process = qemu.start(
                self._host.spawner,
                [*create, *base, "root.qcow2", f"{ROOT_GIB}G"],
                [null.fileno(), said.fileno(), said.fileno()],
                self._directory,
            )
            status = await asyncio.wait_for(asyncio.shield(process.exited), qemu.ANSWER_SECONDS)
        if status:
            raise SandboxError(f"qemu-img: {(self._directory / 'qemu.log').read_text(errors='replace').strip()}")

    async def boot(self) -> None:
        """Switch it on. Raises SandboxError, OSError."""
        id = self._hardware.id.removeprefix("i-")
        disks = [Disk("root.qcow2", "qcow2", f"vol{id:0<17.17}", qemu.EBS)]
        for number in range(self._stores):
            path = self._directory / f"store{number}.raw"
            if not path.exists():
                with open(path, "wb") as file:
                    file.truncate(STORE_MIB << 20)
            disks.append(Disk(path.name, "raw", f"AWS{number:02X}{id:0<15.15}", qemu.STORE))
        command = qemu.command(self._hardware, self._guest, disks, self._host.accelerator)
        exited = await self._emulator.start(command, disks)
        self._watch = asyncio.get_running_loop().create_task(self._tell_of_the_end(exited))

    async def _tell_of_the_end(self, exited: asyncio.Future[int]) -> None:
        """Wait for an end that the guest has chosen: a machine that is switched off by us forgets this task."""
        status = -1
        with contextlib.suppress(SandboxError):
            status = await asyncio.shield(exited)
        if status:
            log.error("%s: QEMU ended with %d", self._hardware.id, status)
        self._power("poweroff")

    async def shut_down(self) -> None:
        """Press the power button, and pull the plug of a guest that does not go."""
        self._forget_the_end()
        with contextlib.suppress(OSError, ValueError, asyncio.TimeoutError):
            await self._emulator.ask("system_powerdown")
            await self._emulator.ended(SHUT_DOWN_SECONDS)
        await self.halt()

    async def stop(self) -> None:
        """Shut down, and lose the instance storage."""
        await self.shut_down()
        for path in self._directory.glob("store*.raw"):
            path.unlink()

    async def halt(self) -> None:
        """Pull the plug."""
        self._forget_the_end()
        self._pacer.forget()
        await self._emulator.kill()

    def _forget_the_end(self) -> None:
        if self._watch:
            self._watch.cancel()
            self._watch = None

    def remove(self) -> None:
        """Delete its files. Raises OSError."""
        beneath.remove(self._directory)

    def start_user_data(self) -> None:
        """Leave the user data to the guest's cloud-init."""

    def drop(self) -> None:
        """Cut every connection to its SSH server, as a network does: no goodbye, a reset."""
        self._emulator.cut(self._hardware.address)

    def hang(self) -> None:
        """Stop the machine: connections stay open."""
        self._pacer.hang()

    def thaw(self) -> None:
        """Undo `hang`."""
        self._pacer.thaw()

    def slow(self, factor: float) -> None:
        """Let it run 1/factor of the time; 1 undoes it."""
        self._pacer.slow(factor)

    def _freeze(self) -> None:
        self._emulator.signal(signal.SIGSTOP)

    def _unfreeze(self) -> None:
        self._emulator.signal(signal.SIGCONT)
