"""Command lines of this program for a person to paste: they name the program as it was typed."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

_OURS = ("inv", "invoke", "hardway")
# Invoke's own flags, before a task, that choose settings or tasks; all others change what is shown.
_KEPT = ("-c", "--collection", "-f", "--config", "-r", "--search-root")
_WITH_VALUE = (*_KEPT, "-D", "--list-depth", "-F", "--list-format", "-T", "--command-timeout")


def command(*words: str) -> str:
    """Return the command line that runs this program with these words, quoted for a shell."""
    return shlex.join([*program(), *words])


def program() -> list[str]:
    """Return the words that run this program: as they were typed, where the same words find it again.

    A program that only uses the library, such as a notebook, gets `hardway`.
    """
    called = Path(sys.argv[0] if sys.argv else "")
    if called.name == "__main__.py" and called.parent.name in _OURS:
        return [sys.executable, "-m", called.parent.name, *_core_flags(sys.argv[1:])]
    if called.name not in _OURS:
        return ["hardway"]
    return [_found_again(called), *_core_flags(sys.argv[1:])]


def _found_again(called: Path) -> str:
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
        value = [next(left, "")] if flag in _WITH_VALUE and not has_value else []
        if flag in _KEPT:
            yield from (word, *value)
