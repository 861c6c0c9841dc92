"""Paths on this machine, as a person writes them."""

from __future__ import annotations

from pathlib import Path

from hardway.errors import UsageError
from hardway.terminal import printable


def here(path: str) -> Path:
    """The path, with `~` and `~user` for a home. Raises UsageError for the home of nobody."""
    try:
        if "\0" in path:
            raise RuntimeError
        return Path(path).expanduser()
    except RuntimeError:
        raise UsageError(f"{printable(path)}: there is no such user, or no such path") from None
