"""Isolation of instances: find the best level that really works here."""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from hardway.config import LEVELS, VM
from hardway.errors import HardwayError
from hardway.local.machines import guest_image, qemu
from hardway.local.machines.processes import SandboxError, SpawnerClient
from hardway.local.machines.root_disk import RootDisk
from hardway.local.machines.sandbox import BOOT_SECONDS, Sandbox
from hardway.local.machines.toolbox import Toolbox
from hardway.terminal import last_line


@dataclass(frozen=True)
class Isolation:
    """A level that works here, and the reason why no better one does ("" for the best).

    Virtual machines run by KVM, or, where there is a reason against that, by TCG.
    """

    level: str
    why: str = ""

    @property
    def accelerator(self) -> str:
        """The way in which virtual machines run: kvm or tcg."""
        return "tcg" if self.why else "kvm"

    def __str__(self) -> str:
        if self.level == VM:
            return f"virtual machines, by TCG, which is slow ({self.why})" if self.why else "virtual machines, by KVM"
        said = {
            "bwrap": "bubblewrap",
            "unshare": "unshare (namespaces)",
            "none": "none: instances have an own HOME and TMPDIR, all else is the host's, /home/ubuntu too",
        }[self.level]
        return f"{said} ({self.why})" if self.why else said


async def choose(wanted: str, spawner: SpawnerClient, toolbox: Toolbox, scratch: Path) -> Isolation:
    """Find the best level that works, by running a command in each; `wanted` other than "auto" is the only one tried.

    Raises HardwayError where none works.
    """
    if wanted == VM:
        qemu.find_program()
        guest = guest_image.find(guest_image.USUAL)
        return Isolation(VM, await qemu.why_not_kvm(spawner, guest, scratch.parent))
    reasons: list[str] = []
    for level in LEVELS if wanted == "auto" else (wanted,):
        disk = RootDisk(scratch / level, toolbox, "probe", ("probe",), level)
        sandbox = Sandbox(spawner, disk)
        try:
            disk.create()
            await sandbox.boot()
            await _probe(sandbox)
            return Isolation(level, "; ".join(reasons))
        except SandboxError as error:
            missing = level != "none" and not shutil.which(level)
            reasons.append(f"{level}: {'not installed' if missing else last_line(str(error)) or 'failed'}")
        finally:
            await sandbox.halt()
            disk.remove()
    raise HardwayError(f"local.isolation={wanted} does not work here: {'; '.join(reasons)}")


async def _probe(sandbox: Sandbox) -> None:
    with open(os.devnull, "r+b") as null:
        process = sandbox.spawn(
            ["/bin/sh", "-c", ': >"${TMPDIR:-/tmp}/probe" && : >~/probe'], [null.fileno()] * 3, user="probe"
        )
        status = await asyncio.wait_for(asyncio.shield(process.exited), BOOT_SECONDS)
    if status:
        raise SandboxError(f"a command in it ended with {status}")
