"""The directories of one instance on the host, as the instance, SFTP and scp see them."""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from hardway.local import beneath
from hardway.local.machines.namespaces import POWER, UID, View
from hardway.local.machines.toolbox import COVERED, HOST_ETC, TOOLS, Toolbox

LOG = "log/cloud-init-output.log"
VOLATILE = ("tmp", "run")
"""The directories that a stop or a reboot empties."""
NOLOGIN = "run/nologin"
"""The file with which PAM keeps out all but root; users are shown its text."""
MOST_WORDS = 1 << 12
"""The most bytes of that text."""
MOST_KEYS = 1 << 16
"""The most bytes that a user's authorized_keys may have."""


@dataclass(frozen=True)
class RootDisk:
    """An instance's directory on the host. The first of `users` owns the home directories.

    `level` is how the instance's processes are kept apart.
    """

    directory: Path
    toolbox: Toolbox
    hostname: str
    users: tuple[str, ...]
    level: str

    @property
    def isolated(self) -> bool:
        """Whether the instance's processes see its tree in place of the host's."""
        return self.level != "none"

    @property
    def tools(self) -> str:
        """The directory in which the instance sees `shims`."""
        return TOOLS if self.isolated else str(self.toolbox.tools)

    def home(self, user: str) -> str:
        """The home directory of a user, or root, as processes of the instance see it."""
        path = "/root" if user == "root" else f"/home/{user}"
        return path if self.isolated else str(self.host_path(path))

    def host_path(self, path: str) -> Path:
        """The place on the host of a path below one of COVERED."""
        for top, name in COVERED.items():
            if path == top or path.startswith(top + "/"):
                return self.directory / name / path[len(top) :].lstrip("/")
        return Path(path)

    def open_log(self) -> int:
        """Open the log of user data, /var/log/cloud-init-output.log, for appending. Raises OSError."""
        return beneath.append(self.directory, LOG)

    def open_power(self) -> int:
        """Open the pipe on which processes of the instance ask for `poweroff` or `reboot`. Raises OSError."""
        return beneath.open_pipe(self.directory, POWER)

    def read_authorized_keys(self, user: str) -> bytes | None:
        """Read the authorized_keys of a user who may log in; None for anybody else. Raises OSError."""
        if user not in (*self.users, "root"):
            return None
        home = "root" if user == "root" else f"home/{user}"
        return beneath.read(self.directory, f"{home}/.ssh/authorized_keys", MOST_KEYS)

    def forbid_logins(self, text: str) -> None:
        """Have nobody but root log in; the others are shown the text. Raises OSError."""
        self.write(f"/{NOLOGIN}", text.encode(), 0o644)

    def allow_logins(self) -> None:
        """Let users log in again. Raises OSError."""
        beneath.remove(self.directory / NOLOGIN)

    def read_nologin(self) -> str | None:
        """Read the text for users who are not let in; None if they are."""
        try:
            return beneath.read(self.directory, NOLOGIN, MOST_WORDS).decode(errors="replace")
        except FileNotFoundError:
            return None
        except OSError:
            return ""

    def write(self, path: str, content: bytes, mode: int) -> None:
        """Make a file of the instance, in place of anything that has its name. Raises OSError."""
        beneath.write(self.directory, path.lstrip("/"), content, mode)

    def create(self) -> None:
        """Make the directories, as on a fresh disk. Raises OSError."""
        self.directory.mkdir(parents=True, mode=0o700)
        for name in (*COVERED.values(), "etc", "etc/hardway", "sbin", "new"):
            (self.directory / name).mkdir()
        (self.directory / "vartmp").chmod(0o1777)
        if not self.isolated:  # where its processes find the log below HARDWAY_ROOT
            (self.directory / "var").mkdir()
            (self.directory / "var" / "log").symlink_to("../log")
        for name in ("poweroff", "shutdown"):
            (self.directory / "sbin" / name).symlink_to(self.toolbox.tools / name)
        self.empty_volatile()
        for user in (*self.users, "root"):
            self._make_home(user)
        (self.directory / "etc" / "hostname").write_text(self.hostname + "\n")
        self._write_accounts("passwd", "{user}:x:{id}:{id}::/home/{user}:/bin/bash")
        self._write_accounts("group", "{user}:x:{id}:")

    def _make_home(self, user: str) -> None:
        home = self.host_path("/root" if user == "root" else f"/home/{user}")
        home.mkdir(mode=0o750, exist_ok=True)
        if os.path.isdir("/etc/skel"):
            for entry in os.scandir("/etc/skel"):
                if entry.is_file(follow_symlinks=False):
                    shutil.copyfile(entry.path, home / entry.name)
        # /etc/profile sets PATH anew
        with open(home / ".profile", "a") as profile:
            profile.write(f'\nPATH="{self.tools}:$PATH"\n')

    def _write_accounts(self, name: str, account: str) -> None:
        """Write a file of /etc: our users, then the host's other users."""
        lines = [account.format(id=UID, user=user) for user in self.users]
        with contextlib.suppress(OSError):
            for line in Path("/etc", name).read_text(errors="replace").splitlines():
                fields = line.split(":")
                if len(fields) > 2 and fields[0] not in self.users and fields[2] != str(UID):
                    lines.append(line)
        (self.directory / "etc" / name).write_text("\n".join(lines) + "\n")

    def make_mount_points(self) -> None:
        """Have a directory wherever one of `Toolbox.kept` is shown. Raises OSError."""
        for path in self.toolbox.kept:
            # the programs that make mounts would follow links that the instance may have left there
            for top, name in COVERED.items():
                if path.is_relative_to(top):
                    beneath.make_directories(self.directory, f"{name}/{path.relative_to(top)}")

    def remove(self) -> None:
        """Delete the directory. Raises OSError."""
        beneath.remove(self.directory)

    def empty_volatile(self) -> None:
        """Make the directories anew that a stop or a reboot empties. Raises OSError."""
        for name in VOLATILE:
            beneath.remove(self.directory / name)
            (self.directory / name).mkdir()
        (self.directory / "tmp").chmod(0o1777)
        power = self.directory / POWER
        power.parent.mkdir()
        os.mkfifo(power)

    def view(self) -> View:
        """The mounts over the host's tree.

        Without isolation only SFTP and scp see them; processes of the instance see the host.
        """
        own = [("rw", str(self.directory / name), top) for top, name in COVERED.items()]
        hardway = ("rw", str(self.directory / "etc" / "hardway"), "/etc/hardway")
        if not self.isolated:
            return [*own, hardway, ("rw", str(self.directory), str(self.directory))]
        own += [("ro", str(cover), str(path)) for path, cover in self.toolbox.hidden]
        own.append(("ro", str(self.toolbox.tools), TOOLS))
        own += [("ro", str(path), str(path)) for path in self.toolbox.kept]
        own += [("ro", "/etc", HOST_ETC), ("ro", str(self.toolbox.etc), "/etc"), hardway]
        own += [("ro", str(self.directory / "etc" / name), f"/etc/{name}") for name in ("passwd", "group", "hostname")]
        own.append(("ro", str(self.toolbox.hosts), "/etc/hosts"))
        # It may be a mount of its own, and a copy of /etc would lack that.
        resolver = os.path.realpath("/etc/resolv.conf")
        if os.path.exists(resolver):
            own.append(("ro", resolver, resolver))
        if os.path.exists("/sys/block"):  # an instance doesn't see the host's disks
            own.append(("ro", str(self.toolbox.nothing), "/sys/block"))
        return own
