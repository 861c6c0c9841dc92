"""`push --sync`: a tree by rsync, through patchwork, whose one working function this adapts.

patchwork 1.0.1 (its newest) requires a Fabric that can't be imported any more, so it cannot be a dependency. It also
needs `invoke.vendor.six`, which Invoke has dropped. It pastes its arguments into a shell line, so they are quoted here.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fabric.group import GroupResult

from hardway.errors import UsageError
from hardway.fanout import clean_shell
from hardway.fanout.group import InstanceGroup
from hardway.fanout.transfer import PLACE, Remote
from hardway.ssh import channel
from hardway.ssh import connection as ssh
from hardway.ssh.channel import TransferError
from hardway.ssh.script import Script
from hardway.terminal import printable

# $1: the tree. rsync would replace a target that is no directory.
_MAKE_PARENT = (
    PLACE
    + r"""
case $1 in */*) mkdir -p -- "${1%/*}/" || exit 1 ;; esac
to=$1; place
if [ "$through" ] || machine "$to"; then echo "$to is the machine's own: no tree is put there" >&2; exit 1; fi
if [ -e "$to" ] && [ ! -d "$to" ]; then echo "$to exists and is not a directory" >&2; exit 1; fi
"""
)


def sync(group: InstanceGroup, source: Path, destination: Remote) -> GroupResult:
    """Send what changed in a tree to each instance, with the meaning of source and destination that `push` has.

    Nothing is deleted there. Raises UsageError if rsync or patchwork is missing here.
    """
    rsync = _patchwork_rsync()
    if not shutil.which("rsync"):
        raise UsageError("--sync needs rsync: install the package rsync, here and on the instances")
    path = destination.path + (source.resolve().name if destination.path.endswith("/") else "")

    def copy(connection: ssh.InstanceConnection) -> None:
        channel.run(connection, Script(_MAKE_PARENT, [path]))
        with _ssh_config(connection) as options:
            rsync(
                _Target(shlex.quote(connection.user), connection.host, connection.port, group),
                shlex.quote(f"{source.resolve()}/"),
                shlex.quote(path),
                # -s: names are not parsed by the shell there; -l: symlinks stay symlinks.
                rsync_opts="-s -l -q",
                ssh_opts=options,
            )

    return group.fanout(copy)


def _patchwork_rsync() -> Callable[..., Any]:
    try:
        import invoke.vendor
        import six  # type: ignore[import-untyped]

        invoke.vendor.six = six  # type: ignore[attr-defined]
        from patchwork.transfers import rsync
    except ImportError:
        python = shlex.quote(sys.executable)
        # The environment of a tool of uv or pipx may have no pip, and `pip` on PATH installs into another one.
        pip = f"{python} -m pip install" if find_spec("pip") else f"uv pip install --python {python}"
        raise UsageError(f"--sync needs patchwork: {pip} --no-deps patchwork==1.0.1 six") from None
    return rsync


@dataclass
class _Target:
    """Stands in for a Fabric connection in patchwork: an address, and a way to run the rsync command line here."""

    user: str
    host: str
    port: int
    group: InstanceGroup
    connect_kwargs: dict[str, Any] = field(default_factory=dict)

    def local(self, command: str) -> None:
        """Run rsync; end it on Ctrl-C. Raises TransferError with rsync's error message."""
        # patchwork's shell line consists of quoted words only, so no shell is needed.
        words = [
            f"--rsh={shlex.quote(sys.executable)} -m {clean_shell.__name__} {word.removeprefix('--rsh=')}"
            if word.startswith("--rsh=")
            else word
            for word in shlex.split(command)
        ]
        # The root directory has no module of a user's.
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/")
        try:
            while True:
                try:
                    _, complaint = process.communicate(timeout=0.5)
                    break
                except subprocess.TimeoutExpired:
                    if self.group.interrupted.is_set():
                        raise TransferError("interrupted") from None
        finally:
            if process.poll() is None:
                process.terminate()
                process.communicate()
        if process.returncode:
            # rsync's first line has the reason: the last one says only that the transfer failed.
            said = complaint.decode(errors="replace").strip().splitlines()
            raise TransferError(printable(said[0]) if said else f"rsync ended with {process.returncode}")


@contextlib.contextmanager
def _ssh_config(connection: ssh.InstanceConnection) -> Iterator[str]:
    """Make a configuration file of our ssh options, since patchwork's own quoting takes no path with a blank."""
    descriptor, name = tempfile.mkstemp(prefix="hardway-ssh-")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(ssh.config_file(connection))
        yield f'-F "{name}"'
    finally:
        os.unlink(name)
