"""What `ARGS` means on the command line and in Python: text, a file, our stdin, or any iterable."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardway.errors import UsageError


@dataclass(frozen=True)
class Arguments:
    """What tasks read on stdin, one each; `skipped` empty lines were left out. `source` is how a person gave them."""

    items: list[bytes]
    skipped: int = 0
    source: str = "ARGS"


def read(args: str | Iterable[str | bytes], null: bool = False) -> Arguments:
    """One argument for each line of a text, a file (`@name`) or stdin (`-`), or for each item of an iterable.

    A task reads its argument and a newline; with `null`, arguments end in NUL in place of a newline, may contain
    newlines, and are read exactly as they are. Empty lines of a text or file are no arguments. Raises UsageError.
    """
    if isinstance(args, bytes):
        args = args.decode("utf-8", "surrogateescape")
    if not isinstance(args, str):
        return Arguments([_item(item, null) for item in args])
    if args == "-":
        data = sys.stdin.buffer.read()
    elif args.startswith("@") and "\n" not in args:
        try:
            data = Path(args[1:]).expanduser().read_bytes()
        except OSError as error:
            raise _unreadable(args, error) from None
    else:
        data = args.encode("utf-8", "surrogateescape")
    parts = data.split(b"\0" if null else b"\n")
    if not parts[-1]:
        parts.pop()
    items = [part if null else part + b"\n" for part in parts if part]
    return Arguments(items, len(parts) - len(items), args if len(args) < 200 and "\n" not in args else "ARGS")


def _item(item: Any, null: bool) -> bytes:
    if isinstance(item, str):
        item = item.encode("utf-8", "surrogateescape")
    if not isinstance(item, bytes | bytearray | memoryview):
        raise UsageError(f"an argument is text or bytes, not {type(item).__name__} ({item!r})")
    data = bytes(item)
    return data if null or data.endswith(b"\n") else data + b"\n"


def lines(args: str | Iterable[str | bytes]) -> Iterator[bytes]:
    """The same, one at a time, for more than fits in memory: lines with their newline; empty ones are left out.

    An item of an iterable may be many lines, as results of pmap are.
    """
    if isinstance(args, bytes):
        args = args.decode("utf-8", "surrogateescape")
    if args == "-":
        yield from _not_empty(sys.stdin.buffer)
    elif isinstance(args, str) and args.startswith("@") and "\n" not in args:
        try:
            file = Path(args[1:]).expanduser().open("rb")
        except OSError as error:
            raise _unreadable(args, error) from None
        with file:
            yield from _not_empty(file)
    else:
        for text in [args] if isinstance(args, str) else args:
            yield from _not_empty(_item(text, null=False).split(b"\n"))


def _not_empty(items: Iterable[str | bytes]) -> Iterator[bytes]:
    return (line for item in items if (line := _item(item, null=False)) != b"\n")


def _unreadable(args: str, error: OSError) -> UsageError:
    return UsageError(f"cannot read the arguments in {args[1:]}: {(error.strerror or str(error)).lower()}")
