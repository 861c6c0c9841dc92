"""Matches file names against globs, as a POSIX shell expands them."""

from __future__ import annotations

import os
import re

# Of POSIX: in the C locale.
_CLASSES = {
    "alpha": "A-Za-z",
    "digit": "0-9",
    "alnum": "A-Za-z0-9",
    "upper": "A-Z",
    "lower": "a-z",
    "space": r"\s",
    "blank": r" \t",
    "punct": r"!-/:-@\[-`{-~",
    "print": " -~",
    "graph": "!-~",
    "cntrl": r"\x00-\x1f\x7f",
    "xdigit": "A-Fa-f0-9",
}
_BRACKET = re.compile(r"\[([!^]?)(\]?(?:\[:[a-z]+:\]|[^\]])*)\]", re.DOTALL)


def matches(name: str, pattern: str) -> bool:
    """Return whether the name equals the pattern's text, or matches the pattern.

    A leading dot must be in the pattern. A match by bytes counts, too, as in shells that know no multibyte characters.
    """
    if name == pattern:
        return True
    if name.startswith(".") and not pattern.startswith((".", "\\.")):
        return False
    as_bytes = (os.fsencode(text).decode("latin-1") for text in (pattern, name))
    return _match(pattern, name) or _match(*as_bytes)


def _match(pattern: str, name: str) -> bool:
    """Match in time proportional to both lengths: a hostile name could make one regular expression take for ever."""
    wanted = _parts(pattern)
    at = position = 0
    star, after = -1, 0
    while position < len(name):
        if at < len(wanted) and wanted[at] is None:
            star, after, at = at, position, at + 1
        elif at < len(wanted) and _is(wanted[at], name[position]):
            at, position = at + 1, position + 1
        elif star >= 0:
            after += 1
            at, position = star + 1, after
        else:
            return False
    return all(part is None for part in wanted[at:])


def _is(part: re.Pattern[str] | None, char: str) -> bool:
    return part is not None and part.fullmatch(char) is not None


def _parts(pattern: str) -> list[re.Pattern[str] | None]:
    """Return a regular expression for each character of a name; None for a star."""
    parts: list[re.Pattern[str] | None] = []
    position = 0
    while position < len(pattern):
        bracket = _BRACKET.match(pattern, position)
        if bracket:
            parts.append(_set(bracket[1], bracket[2]))
            position = bracket.end()
            continue
        char = pattern[position]
        if char == "\\" and position + 1 < len(pattern):
            position += 1
            parts.append(re.compile(re.escape(pattern[position])))
        else:
            parts.append(None if char == "*" else re.compile("." if char == "?" else re.escape(char), re.DOTALL))
        position += 1
    return parts


def _set(negated: str, content: str) -> re.Pattern[str]:
    inner = re.sub(r"\[:([a-z]+):\]|(\\?.)", _element, content, flags=re.DOTALL)
    try:
        return re.compile(f"[{'^' if negated else ''}{inner}]", re.DOTALL)
    except re.error:  # a range that runs backwards matches nothing
        return re.compile(r"(?!)")


def _element(found: re.Match[str]) -> str:
    if found[1]:
        return _CLASSES.get(found[1], "")
    char = found[2][-1]
    return char if char == "-" and len(found[2]) == 1 else re.escape(char)
