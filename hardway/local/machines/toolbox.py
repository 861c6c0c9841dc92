"""The things of the host that instances get beyond its system directories, and the things that they don't see."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from hardway.local.machines import shims
from hardway.local.running import own_directories

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TOOLS = "/run/hardway/bin"
"""The directory in which an isolated instance sees `shims`."""
COVERED = {"/home": "home", "/root": "root", "/tmp": "tmp", "/var/tmp": "vartmp", "/var/log": "log", "/run": "run"}
"""The directories that an instance has of its own, besides /etc/hardway, with their names in its directory on the host.
All else is the host's, read only."""
OWN_ETC = ("passwd", "group", "hostname", "hosts")
"""Files in an instance's /etc that are not the host's."""
HOST_ETC = "/run/hardway/etc"
"""Where the links in an isolated instance's /etc lead."""


@dataclass(frozen=True)
class Toolbox:
    """The things of the host that all instances of a daemon get, or don't see.

    tools: the directory of shims, first on PATH.
    hidden: the paths that instances must not see, such as this user's home with its secrets, each with the empty
        directory that covers it.
    kept: directories to show at their own paths although an instance covers their parents: Python, the real `aws`.
    hosts: the file that is /etc/hosts in every instance.
    etc: a directory of links to all in the host's /etc, with room for what an instance has of its own.
    nothing: an empty directory.
    """

    tools: Path
    kept: tuple[Path, ...]
    hosts: Path
    etc: Path
    nothing: Path
    hidden: tuple[tuple[Path, Path], ...]

    @classmethod
    def create(cls, directory: Path) -> Toolbox:
        """Write shims and hosts into `directory`."""
        tools = directory / "bin"
        tools.mkdir()
        needed = [Path(sys.prefix), Path(sys.base_prefix), *shims.install(tools, PATH)]
        hidden = _hidden(directory)
        covers = [*map(Path, COVERED), *hidden]
        covered = [path for path in needed if any(path.is_relative_to(top) for top in covers)]
        kept = {path for path in covered if not any(path != other and path.is_relative_to(other) for other in covered)}
        hosts = directory / "hosts"
        try:
            text = Path("/etc/hosts").read_text(errors="replace")
        except OSError:
            text = "127.0.0.1 localhost\n"
        hosts.write_text(text.rstrip("\n") + "\n")
        nothing = directory / "nothing"
        nothing.mkdir()
        mounts = []
        for number, top in enumerate(hidden):
            cover = directory / f"hidden-{number}"
            cover.mkdir()
            for path in kept:  # a mount needs something to lie over
                if path.is_relative_to(top):
                    (cover / path.relative_to(top)).mkdir(parents=True, exist_ok=True)
            mounts.append((top, cover))
        return cls(tools, tuple(sorted(kept)), hosts, _links_to_etc(directory), nothing, tuple(mounts))


def _hidden(directory: Path) -> list[Path]:
    """This user's home and the cloud's own directory, where instances don't cover them anyway."""
    found = {Path(os.path.realpath(path)) for path in (Path.home(), *own_directories(directory))}
    outside = [path for path in found if not any(path.is_relative_to(top) for top in ("/proc", "/sys", *COVERED))]
    return sorted(path for path in outside if path != Path("/") and not set(path.parents) & set(outside))


def _links_to_etc(directory: Path) -> Path:
    """Make the directory that instances have for /etc: a mount needs a name to lie over, and the host's may lack it."""
    etc = directory / "etc"
    (etc / "hardway").mkdir(parents=True)
    for entry in os.scandir("/etc"):
        if entry.name in (*OWN_ETC, "hardway"):
            continue
        if entry.is_symlink():
            (etc / entry.name).symlink_to(os.readlink(entry.path))
        elif entry.name == "resolv.conf":
            (etc / entry.name).touch()
        else:
            (etc / entry.name).symlink_to(f"{HOST_ETC}/{entry.name}")
    for name in OWN_ETC:
        (etc / name).touch()
    return etc
