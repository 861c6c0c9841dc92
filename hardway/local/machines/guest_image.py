"""Guests: the disks and kernels that virtual machines boot, built of Debian's packages, and kept in the cache."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hardway import config, files
from hardway.errors import Failed, HardwayError, UsageError, did_you_mean, reason_of
from hardway.local import beneath
from hardway.terminal import last_line

RELEASES = {"bookworm": 12, "trixie": 13}
"""The releases of Debian that can be built, with the numbers in the names of their images at EC2."""
USUAL = "bookworm"
"""The release that stands in for images of other distributions."""
BUILD_SECONDS = 3600
END_SECONDS = 30
PACKAGES = (
    "ca-certificates", "cloud-guest-utils", "cloud-init", "curl", "dbus", "e2fsprogs", "fdisk", "initramfs-tools",
    "iproute2", "isc-dhcp-client", "kmod", "less", "libpam-systemd", "linux-image-cloud-amd64", "netplan.io",
    "openssh-server", "openssl", "polkitd", "procps", "python3", "rsync", "sudo", "systemd-resolved", "systemd-sysv",
    "systemd-timesyncd", "udev", "util-linux", "zstd",
)  # fmt: skip
"""The packages of Debian's image for EC2 that an instance of hardway meets."""
MODULES = ("ext4", "nvme", "virtio_net", "virtio_pci")
"""The kernel's modules for the first seconds. All modules would take half a minute to unpack without KVM."""
BUILDERS = {"mmdebstrap": "mmdebstrap", "qemu-img": "qemu-utils", "sfdisk": "fdisk", "mkfs.ext4": "e2fsprogs"}
"""The programs that build a guest, with Debian's packages for them."""


@dataclass(frozen=True)
class Guest:
    """A guest that is built, by its release."""

    release: str
    directory: Path

    @property
    def disk(self) -> Path:
        """The disk, which stays as it is: machines write to layers on top of it."""
        return self.directory / "disk.qcow2"

    @property
    def kernel(self) -> Path:
        """The kernel that boots it."""
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        """The first file system of the kernel."""
        return self.directory / "initrd.img"


def search_path() -> str:
    """Return PATH with the system's own programs, which a user's may lack."""
    return os.pathsep.join(dict.fromkeys([*config.search_path(), "/usr/sbin", "/sbin"]))


def release_of(image_name: str) -> str:
    """Return the release that stands in for an image of EC2: Debian's by its number, the usual one for others."""
    numbers = {f"debian-{number}-": release for release, number in RELEASES.items()}
    return next((release for start, release in numbers.items() if image_name.startswith(start)), USUAL)


def find(release: str) -> Guest:
    """Return a guest that is built. Raises HardwayError for none."""
    guest = Guest(release, _directory() / release)
    if not guest.disk.exists():
        raise HardwayError(f"there is no guest {release}: the task `local.image {release}` builds it")
    return guest


def build(release: str) -> tuple[Guest, bool]:
    """Build a guest, unless it is there; return it, and True for a new one.

    Raises UsageError for a release that is not known, HardwayError for missing programs, Failed for a failed build.
    """
    if release not in RELEASES:
        known = did_you_mean(release, RELEASES)
        raise UsageError(f"there is no guest {release!r} (there are {', '.join(RELEASES)}){known}")
    guest = Guest(release, _directory() / release)
    if guest.disk.exists():
        return guest, False
    needed = BUILDERS if os.geteuid() == 0 else {**BUILDERS, "newuidmap": "uidmap"}
    missing = [package for program, package in needed.items() if not shutil.which(program, path=search_path())]
    if missing:
        raise HardwayError(f"a guest is built by programs that are not here: apt-get install {' '.join(missing)}")
    with _alone() as lock:
        if guest.disk.exists():  # another build has just ended
            return guest, False
        new = guest.directory.with_name(f"{release}.new")
        try:
            beneath.remove(new)
            new.mkdir()
            _run(_command(release, new), new / "log", lock)
            new.rename(guest.directory)
        except OSError as error:
            raise Failed(f"the guest {release} can't be built in {new.parent}: {reason_of(error)}") from None
        finally:
            with contextlib.suppress(OSError):
                beneath.remove(new)
    return guest, True


def _directory() -> Path:
    """Return the directory of all guests. Raises HardwayError."""
    try:
        return files.cache_directory("guests")
    except OSError as error:
        raise HardwayError(f"guests are kept in the cache: {error.filename}: {reason_of(error)}") from None


@contextlib.contextmanager
def _alone() -> Iterator[int]:
    """Be the only build in this block; the programs that have the descriptor hold the lock, too. Raises Failed."""
    with open(_directory() / "lock", "w", opener=files.private_file) as lock:
        if not files.lock(lock):
            raise Failed("another local.image is at work")
        yield lock.fileno()


def _command(release: str, new: Path) -> list[str]:
    """The command that builds a guest, in a directory.

    Its hooks run in the namespaces in which the packages are installed, so no part of it needs root.
    """
    modules = (
        'cd "$1/etc" && mkdir -p initramfs-tools/conf.d && echo MODULES=list >initramfs-tools/conf.d/hardway && '
        f'printf "%s\\n" {" ".join(MODULES)} >initramfs-tools/modules'
    )
    return [
        "mmdebstrap",
        "--variant=minbase",
        f"--mode={'root' if os.geteuid() == 0 else 'unshare'}",
        "--format=null",
        "--architectures=amd64",
        f"--include={','.join(PACKAGES)}",
        '--aptopt=Acquire::Languages "none"',
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "locale", "man")),
        f"--essential-hook={modules}",
        f"--customize-hook={(Path(__file__).parent / 'guest.sh').read_text()}",
        *(
            f"--customize-hook=download /guest/{name} {shlex.quote(str(new / name))}"
            for name in ("vmlinuz", "initrd.img", "disk.qcow2")
        ),
        release,
        "-",
        *_mirror(),
    ]


def _mirror() -> list[str]:
    """This machine's own mirror of Debian; none leaves the choice to mmdebstrap."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian"]
    try:
        found = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=END_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return found.stdout.split()[:1]


def _run(command: list[str], log: Path, lock: int) -> None:
    """Run a build to its end. Raises Failed, with the reason in its log."""
    with open(log, "wb") as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            cwd="/",
            env=config.child_environment({"PATH": search_path()}),
            pass_fds=[lock],
        )
        try:
            process.wait(BUILD_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failed(f"mmdebstrap has not ended after {BUILD_SECONDS} s") from None
        finally:
            _end(process)
    if process.returncode:
        lines = log.read_text(errors="replace").splitlines()
        reasons = [line for line in lines if line.startswith("E: ")]
        raise Failed(f"mmdebstrap failed: {last_line(chr(10).join(reasons[:1] or lines)) or 'without a word'}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a build that has not ended by itself: at first so that it removes its own files."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
