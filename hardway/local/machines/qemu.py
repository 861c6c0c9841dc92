"""QEMU: the command line of a machine on Amazon's Nitro, and a process that runs one.

The guest's network is QEMU's own (slirp), so it needs no root. The guest reaches its metadata service and nothing else.
A port of its address on the host leads to its SSH server.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import platform
import shlex
import shutil
import signal
import socket
import stat
import struct
import sys
import urllib.parse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardway.errors import HardwayError
from hardway.local.addresses import Address
from hardway.local.machines import metadata_relay
from hardway.local.machines.guest_image import Guest, search_path
from hardway.local.machines.metadata import EC2_ADDRESS, SOCKET
from hardway.local.machines.processes import SandboxError, SandboxProcess, SpawnerClient, read_until
from hardway.local.machines.spawner import MARK
from hardway.terminal import last_line

PROGRAM = "qemu-system-x86_64"
MEMORY_MIB = 512
CPUS = 2
TRANSLATED_MIB = 256
"""The memory for code that TCG has translated: it would take 1 GiB."""
# One network holds the metadata service's address and an address as in a default VPC. slirp has one network only.
NETWORK = "160.0.0.0/4"
ROUTER, GUEST_ADDRESS = "172.31.0.1", "172.31.0.10"
STORE, EBS = "Amazon EC2 NVMe Instance Storage", "Amazon Elastic Block Store"
PROBE_SECONDS = 5
ANSWER_SECONDS = 30
# In a controller's identity the serial number (20 bytes) comes before the model (40): NVMe, "Identify Controller".
_SERIAL_BYTES, _MODEL_BYTES = 20, 40
_MODEL = b"QEMU NVMe Ctrl".ljust(_MODEL_BYTES)
SYS_PIDFD_GETFD = 438
_libc = ctypes.CDLL(None, use_errno=True)
_MOST_REGION = 64 << 20
"""The most bytes of a part of QEMU's memory that is looked through: the guest's own memory is larger."""


@dataclass(frozen=True)
class Disk:
    """A file that is an NVMe disk of a machine. Its serial number has 20 letters."""

    path: str
    form: str
    serial: str
    model: str


@dataclass(frozen=True)
class Hardware:
    """The things that a guest sees of its machine, and the place where it is reached. `user` is who logs in."""

    id: str
    type: str
    mac: str
    address: Address
    user: str


def find_program() -> str:
    """Return the path of QEMU. Raises HardwayError where there is none."""
    if platform.machine() != "x86_64":
        raise HardwayError(f"virtual machines need x86_64, and this machine is {platform.machine()}")
    if not (found := shutil.which(PROGRAM, path=search_path())):
        raise HardwayError("virtual machines need QEMU: apt-get install qemu-system-x86 qemu-utils")
    return found


def accelerator(name: str) -> list[str]:
    """Return the arguments for an accelerator: kvm, or tcg, which works everywhere."""
    if name == "kvm":
        return ["-accel", "kvm", "-cpu", "host"]
    return ["-accel", f"tcg,thread=multi,tb-size={TRANSLATED_MIB}", "-cpu", "max"]


async def why_not_kvm(spawner: SpawnerClient, guest: Guest, directory: Path) -> str:
    """Boot a guest's kernel by KVM for a moment; return why that fails, "" if its first word comes.

    A /dev/kvm that opens need not run anything: the host may be a virtual machine itself.
    """
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"/dev/kvm: {(error.strerror or '').lower()}"
    read, write = os.pipe()
    with open(read, "rb") as output, open(os.devnull, "r+b") as null:
        command = [find_program(), *_BARE, *accelerator("kvm"), "-m", "128", "-no-reboot", "-serial", "stdio",
                   "-kernel", str(guest.kernel), "-append", "console=ttyS0 panic=-1"]  # fmt: skip
        try:
            process = start(spawner, command, [null.fileno(), write, write], directory)
        finally:
            os.close(write)
        try:
            said = await asyncio.wait_for(read_until(output.fileno(), b"Linux version"), PROBE_SECONDS)
        except asyncio.TimeoutError:
            said = b""
        finally:
            process.signal(signal.SIGKILL)
            with contextlib.suppress(SandboxError):
                await asyncio.shield(process.exited)
    return "" if b"Linux version" in said else "KVM runs no guest here"


def start(spawner: SpawnerClient, command: Sequence[str], stdio: Sequence[int], directory: Path) -> SandboxProcess:
    """Start a program of the host in an instance's directory; it ends with the daemon, however that ends."""
    return spawner.spawn(
        {
            "argv": list(command),
            "name": command[0],
            "env": {"PATH": search_path(), MARK: str(directory)},
            "cwd": [str(directory)],
            "holder": 0,
            "root": False,
            "binds": [],
            "spare": False,
            "terminal": None,
        },
        stdio,
    )


_BARE = ("-machine", "q35", "-nodefaults", "-no-user-config", "-display", "none", "-vga", "none")


def command(hardware: Hardware, guest: Guest, disks: Sequence[Disk], accelerated_by: str) -> list[str]:
    """Return the command line of a machine. It has QMP on stdin and stdout, and waits for "cont"."""
    id = hardware.id.removeprefix("i-")
    uuid = f"ec2{id[:5]}-{id[5:9]}-{id[9:13]}-{id[13:17]:0<4}-{id[-12:]}"
    address = hardware.address
    # The port on which EC2's API says that instances listen is that of their sshd, too.
    ssh = f"hostfwd=tcp:{address.ip}:{address.port}-{GUEST_ADDRESS}:{address.port}"
    relay = shlex.join([sys.executable, "-I", "-S", metadata_relay.__file__, SOCKET])
    metadata = f"guestfwd=tcp:{EC2_ADDRESS}:80-cmd:{_quoted(relay)}"
    network = f"user,id=net,restrict=on,ipv6=off,net={NETWORK},host={ROUTER},dhcpstart={GUEST_ADDRESS},{ssh},{metadata}"
    words = [
        find_program(), "-S", *_BARE, *accelerator(accelerated_by), "-name", hardware.id,
        "-smp", str(CPUS), "-m", str(MEMORY_MIB), "-rtc", "base=utc", "-uuid", uuid,
        "-smbios", "type=0,vendor=Amazon EC2,version=1.0",
        "-smbios", f"type=1,manufacturer=Amazon EC2,product={_quoted(hardware.type)},uuid={uuid},serial={uuid}",
        "-smbios", f"type=2,manufacturer=Amazon EC2,asset={hardware.id}",
        "-smbios", "type=3,manufacturer=Amazon EC2,asset=Amazon EC2",
        "-kernel", str(guest.kernel), "-initrd", str(guest.initrd), "-append", _kernel_line(hardware.user),
        "-netdev", network, "-device", f"virtio-net-pci,netdev=net,romfile=,mac={hardware.mac}",
        "-device", "virtio-rng-pci",
        "-chardev", "file,id=console,path=console,append=on", "-serial", "chardev:console",
        "-chardev", "stdio,id=qmp,signal=off", "-mon", "chardev=qmp,mode=control",
    ]  # fmt: skip
    for number, disk in enumerate(disks):
        words += ["-drive", f"file={disk.path},if=none,id=disk{number},format={disk.form},discard=unmap,cache=unsafe"]
        words += ["-device", f"nvme,drive=disk{number},serial={disk.serial}"]
    return words


def _quoted(text: str) -> str:
    """Return a text as a value among others in an option of QEMU."""
    return text.replace(",", ",,")


def _kernel_line(user: str) -> str:
    # An image of EC2 has its user in its own configuration of cloud-init; a guest stands in for several images.
    config = urllib.parse.quote(f"system_info: {{default_user: {{name: {user}}}}}", safe="")
    return (
        "root=LABEL=root ro net.ifnames=0 nvme_core.io_timeout=4294967295 console=tty0 console=ttyS0,115200 "
        f"cc:{config} end_cc"
    )


class Emulator:
    """A QEMU process that runs a machine. Raises SandboxError, or OSError, where that fails."""

    def __init__(self, spawner: SpawnerClient, directory: Path) -> None:
        self._spawner = spawner
        self._directory = directory
        self._process: SandboxProcess | None = None
        self._lines: asyncio.StreamReader
        self._writer: asyncio.StreamWriter | None = None

    async def start(self, command: Sequence[str], disks: Sequence[Disk]) -> asyncio.Future[int]:
        """Start a machine; returns its exit code, to come."""
        ours, theirs = socket.socketpair()
        with theirs, open(self._directory / "qemu.log", "ab") as log:
            process = start(self._spawner, command, [theirs.fileno(), theirs.fileno(), log.fileno()], self._directory)
        self._process = process
        self._lines, self._writer = await asyncio.open_connection(sock=ours)
        try:
            await asyncio.wait_for(self._answer(), ANSWER_SECONDS)  # its greeting
            await self.ask("qmp_capabilities")
            pid = await asyncio.shield(process.started)
            await asyncio.get_running_loop().run_in_executor(None, _name_disks, pid, disks)
            await self.ask("cont")
        except (OSError, ValueError, asyncio.TimeoutError) as error:
            await self.kill()
            said = last_line((self._directory / "qemu.log").read_bytes())
            raise SandboxError(f"QEMU: {said or error or type(error).__name__}") from None
        except SandboxError:
            await self.kill()
            raise
        return process.exited

    async def ask(self, what: str) -> None:
        """Have QEMU carry out a command of QMP. Raises OSError, ValueError, asyncio.TimeoutError."""
        if self._writer is None:
            raise OSError("it does not run")
        self._writer.write(json.dumps({"execute": what}).encode() + b"\n")
        await asyncio.wait_for(self._writer.drain(), ANSWER_SECONDS)
        while "return" not in (answer := await asyncio.wait_for(self._answer(), ANSWER_SECONDS)):
            if "error" in answer:
                raise OSError(str(answer["error"]))

    async def _answer(self) -> dict[str, Any]:
        line = await self._lines.readline()
        if not line:
            raise OSError("it has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def signal(self, number: int) -> None:
        """Send the process a signal, if it is there."""
        if self._process:
            self._process.signal(number)

    def cut(self, address: Address) -> None:
        """Reset every connection to an address at which it listens."""
        if self._process is None or not self._process.started.done() or self._process.started.exception():
            return
        for descriptor in _connections(self._process.started.result(), address):
            # A connection to no family of addresses ends the one that is there, with a reset.
            _libc.connect(descriptor, struct.pack("H14x", socket.AF_UNSPEC), 16)
            os.close(descriptor)

    async def ended(self, seconds: float) -> bool:
        """Wait until it has ended, for so long; return whether it has."""
        if self._process is None:
            return True
        with contextlib.suppress(asyncio.TimeoutError, SandboxError):
            await asyncio.wait_for(asyncio.shield(self._process.exited), seconds)
        return self._process.exited.done()

    async def kill(self) -> None:
        """Pull the plug."""
        self.signal(signal.SIGKILL)
        await self.ended(ANSWER_SECONDS)
        self._process = None
        if self._writer:
            self._writer.close()
            self._writer = None


def _name_disks(pid: int, disks: Sequence[Disk]) -> None:
    """Give the disks of a machine that has not begun Amazon's models, by which udev and boot.sh know them.

    QEMU knows one model only, in each controller's identity. Raises SandboxError.
    """
    models = {disk.serial.encode(): disk.model.encode().ljust(_MODEL_BYTES) for disk in disks}
    named = set()
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        for line in maps:
            span, rights, *_ = line.split()
            start, end = (int(number, 16) for number in span.split("-"))
            if not rights.startswith("rw") or end - start > _MOST_REGION:
                continue
            with contextlib.suppress(OSError):  # a part that can't be read
                memory.seek(start)
                content = memory.read(end - start)
                at = content.find(_MODEL)
                while at >= 0:
                    serial = content[max(0, at - _SERIAL_BYTES) : at]
                    if serial in models:
                        memory.seek(start + at)
                        memory.write(models[serial])
                        named.add(serial)
                    at = content.find(_MODEL, at + 1)
    if named != {*models}:
        raise SandboxError("the models of its disks are not where NVMe has them in this QEMU")


def _connections(pid: int, address: Address) -> Iterator[int]:
    """Yield copies of a process's sockets that are connections to an address of its own."""
    with contextlib.suppress(OSError):
        process = os.pidfd_open(pid)
        try:
            for name in os.listdir(f"/proc/{pid}/fd"):
                descriptor = _libc.syscall(SYS_PIDFD_GETFD, process, int(name), 0)
                if descriptor >= 0 and _is_connection(descriptor, address):
                    yield descriptor
                elif descriptor >= 0:
                    os.close(descriptor)
        finally:
            os.close(process)


def _is_connection(descriptor: int, address: Address) -> bool:
    if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
        return False
    end = socket.socket(fileno=descriptor)
    try:
        return (
            end.family == socket.AF_INET and bool(end.getpeername()) and end.getsockname() == (address.ip, address.port)
        )
    except OSError:  # it listens
        return False
    finally:
        end.detach()
