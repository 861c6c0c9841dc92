"""Files that are there whole or not at all, whoever else writes the same one now."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

SUFFIX = r"\.[0-9a-f]{8}\.new"
"""How the name of a file ends that is not whole yet, as a regular expression; what it will be called comes before."""


def write(
    path: Path, pieces: Iterable[bytes], *, private: bool = True, synced: bool = False, replace: bool = True
) -> None:
    """Put a file there. Raises OSError, which names the file.

    A `private` file is for this user alone, whatever the umask; another has the mode of the umask. A `synced` file is
    on the disk when this returns. Without `replace` a file that is there already stays: the first writer wins.
    """
    new = path.with_name(f"{path.name}.{secrets.token_hex(4)}.new")
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600 if private else 0o666)
        try:
            write_all(fd, pieces, mode=0o600 if private else None, synced=synced)
            if replace:
                new.replace(path)
            else:
                with contextlib.suppress(FileExistsError):
                    os.link(new, path)
        finally:
            with contextlib.suppress(OSError):
                new.unlink()
    except OSError as error:
        if error.filename in (None, new, str(new)):  # else it is about what the pieces come from
            error.filename, error.filename2 = str(path), None
        raise


def write_all(fd: int, pieces: Iterable[bytes], *, mode: int | None = None, synced: bool = False) -> None:
    """Write the pieces to an open file, and close it. Raises OSError."""
    with open(fd, "wb") as file:
        if mode is not None:
            os.fchmod(fd, mode)
        for piece in pieces:
            file.write(piece)
        if synced:
            file.flush()
            os.fsync(fd)
