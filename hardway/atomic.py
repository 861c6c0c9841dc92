"""Files that are there whole or not at all, whoever else writes the same one now."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write(file: Path, text: str) -> None:
    """Put the text there, in a directory made if need be. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=f".{file.name}.", delete=False) as new:
        try:
            new.write(text)
            new.flush()
            os.replace(new.name, file)
        except BaseException:
            os.unlink(new.name)
            raise
