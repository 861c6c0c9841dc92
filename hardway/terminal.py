"""Text for a terminal. `printable` is the one function that makes text from outside safe.

Names, tags, file names, hosts' messages and commands of jobs are shown through it. A task's own output is not: a person
who runs a command gets the command's bytes as they are.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console

# Control, format, surrogate and private-use characters, and the separators of lines and paragraphs. A terminal obeys
# them, shows nothing, or changes the place of other text. A byte that is no UTF-8 is a surrogate here (PEP 383).
_UNSAFE = frozenset(("Cc", "Cf", "Cs", "Co", "Zl", "Zp"))
# Format characters that join letters in Persian, Hindi and emoji, and move nothing.
_JOINERS = "\u200c\u200d"


def printable(text: str, keep: str = "") -> str:
    """Return text as one line, with each character that a terminal would obey written out: `\\x1b`, `\\n`.

    `keep` has characters that stay as they are: "\\n" for a text of several lines, "\\n\\t" for a host's output.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in keep or c in _JOINERS or not _unsafe(c) else _written_out(c) for c in text)


def last_line(said: bytes | str) -> str:
    """Return the last line that isn't blank, where a failed program tells its reason; safe to show. Empty for none."""
    text = said.decode(errors="replace") if isinstance(said, bytes) else said
    return next((printable(line.strip()) for line in reversed(text.splitlines()) if line.strip()), "")


def cut_short(text: str, most: int = 300) -> str:
    """Return a text from outside, safe to show; a longer one is cut to the number of characters, and ends in `...`."""
    return printable(text[:most]) + ("..." if len(text) > most else "")


def redrawn(stream: TextIO) -> Console | None:
    """Return rich's console for a terminal that can be redrawn; None for one that only takes lines."""
    if not stream.isatty():
        return None
    from rich.console import Console

    console = Console(file=stream)
    return console if console.is_interactive else None


def _unsafe(character: str) -> bool:
    return unicodedata.category(character) in _UNSAFE


def _written_out(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a surrogate stands for a byte
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
