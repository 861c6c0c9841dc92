"""Text for a terminal: what is shown there, and the command lines that a person can paste.

`printable` is the one function that makes text from outside safe. Names, tags, file names, hosts' messages and commands
of jobs are shown through it. A task's own output is not: a person who runs a command gets the command's bytes as they
are.
"""

from __future__ import annotations

import os
import shlex
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

# Control, format, surrogate and private-use characters, and the separators of lines and paragraphs. A terminal obeys
# them, shows nothing, or changes the place of other text. A byte that is no UTF-8 is a surrogate here (PEP 383).
_UNSAFE = frozenset(("Cc", "Cf", "Cs", "Co", "Zl", "Zp"))
# Format characters that join letters in Persian, Hindi and emoji, and move nothing.
_JOINERS = "\u200c\u200d"
_PROGRAMS = ("inv", "invoke", "hardway")
# Invoke's own flags, before a task, that choose settings or tasks; all others change what is shown.
_KEPT_FLAGS = ("-c", "--collection", "-f", "--config", "-r", "--search-root")
_FLAGS_WITH_VALUE = (*_KEPT_FLAGS, "-D", "--list-depth", "-F", "--list-format", "-T", "--command-timeout")


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


class Cell:
    """A bar and a line below it in a notebook's output, redrawn in their place."""

    def __init__(self, display: Any) -> None:
        """Take the module `IPython.display`."""
        self._display = display
        self._place: Any = None

    def show(self, done: float, total: float, line: str) -> None:
        """Draw the bar with this part of it done, and the line."""
        import html  # at its first use: every command starts with this module, and few draw in a notebook

        bar = f'<progress max="{max(total, 1):g}" value="{done:g}" style="width: 40em"></progress>'
        self._draw(f"<div>{bar}<br>{html.escape(printable(line))}</div>")

    def end(self) -> None:
        """Leave nothing of what was drawn."""
        if self._place is not None:
            self._draw("")

    def _draw(self, text: str) -> None:
        content = self._display.HTML(text)
        if self._place is None:
            self._place = self._display.display(content, display_id=True)
        else:
            self._place.update(content)


def notebook_cell() -> Cell | None:
    """Return a place in the output of the notebook that runs this code; None if none does."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return Cell(import_module("IPython.display")) if getattr(shell, "kernel", None) else None


def command_line(*words: str) -> str:
    """Return the command line that runs this program with these words, quoted for a shell."""
    return shlex.join([*_program(), *words])


def _unsafe(character: str) -> bool:
    return unicodedata.category(character) in _UNSAFE


def _written_out(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a surrogate stands for a byte
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def _program() -> list[str]:
    """Return the words that run this program: as they were typed, where the same words find it again.

    A program that only uses the library, such as a notebook, gets `hardway`.
    """
    called = Path(sys.argv[0] if sys.argv else "")
    if called.name == "__main__.py" and called.parent.name in _PROGRAMS:
        return [sys.executable, "-m", called.parent.name, *_core_flags(sys.argv[1:])]
    if called.name not in _PROGRAMS:
        return ["hardway"]
    return [_found_again(called), *_core_flags(sys.argv[1:])]


def _found_again(called: Path) -> str:
    import shutil  # at its first use: --list and --help do without

    found = shutil.which(called.name)
    if found is not None and os.path.realpath(found) == os.path.realpath(called):
        return called.name
    absolute = os.path.abspath(called)
    return f"./{called.name}" if os.path.dirname(absolute) == os.getcwd() else absolute


def _core_flags(words: Sequence[str]) -> Iterator[str]:
    """Yield the flags, with their values, that stand before the first task and decide what it does."""
    left = iter(words)
    for word in left:
        if not word.startswith("-"):
            return
        flag, has_value, _ = word.partition("=")
        value = [next(left, "")] if flag in _FLAGS_WITH_VALUE and not has_value else []
        if flag in _KEPT_FLAGS:
            yield from (word, *value)
