"""The meaning of `ARGS` on the command line and in Python: text, a file, our stdin, or any iterable."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from hardway.errors import UsageError, reason_of
from hardway.system.paths import expanded
from hardway.terminal import printable

ARGUMENTS = "arguments-"
"""The beginning of the name of the file with a job's arguments; their digest follows."""
MOST = 256 << 20  # bytes of one argument: it is held in memory here and there
_KEPT = re.compile(ARGUMENTS + "([0-9a-f]{32})")


@dataclass(frozen=True)
class Arguments:
    """The tasks' stdin, one item a task. `skipped` counts empty lines left out; `source` is what a person gave."""

    items: list[bytes]
    skipped: int = 0
    source: str = "ARGS"

    def kept(self, null: bool) -> tuple[bytes, bool]:
        """Return a file's content from which `read` makes these arguments, and whether `null` is needed.

        The content is empty if no file can express them.
        """
        if not null and all(item.find(b"\n") == len(item) - 1 > 0 for item in self.items):
            return b"".join(self.items), False
        if all(item and b"\0" not in item for item in self.items):
            return b"".join(item + b"\0" for item in self.items), True
        return b"", False


def read(args: str | Iterable[str | bytes], null: bool = False) -> Arguments:
    """Return one argument for each line of a text, a file (`@name`) or stdin (`-`), or each item of an iterable.

    A task reads its argument and a newline; with `null`, arguments end in NUL in place of a newline, may contain
    newlines, and are read exactly as they are. Empty lines of a text or file are no arguments. Raises UsageError.
    """
    if isinstance(args, bytes):
        args = args.decode("utf-8", "surrogateescape")
    if not isinstance(args, str):
        return Arguments(_bounded([_item(item, null) for item in _items(args)]))
    if args == "-":
        data = _stdin().read()
    elif args.startswith("@") and "\n" not in args:
        path = _path(args)
        try:
            data = path.read_bytes()
            again = path.is_file()  # what came through a pipe can't be read a second time
        except OSError as error:
            raise _unreadable(args, error) from None
        if not again:
            args = "-"
        kept = _KEPT.fullmatch(path.name)
        if kept and hashlib.blake2b(data, digest_size=16).hexdigest() != kept[1]:
            raise UsageError(f"the arguments in {printable(str(path))} are damaged: give them as you did before")
    else:
        data = args.encode("utf-8", "surrogateescape")
    parts = data.split(b"\0" if null else b"\n")
    if not parts[-1]:
        parts.pop()
    items = [part if null else part + b"\n" for part in parts if part]
    return Arguments(_bounded(items), len(parts) - len(items), args if len(args) < 200 and "\n" not in args else "ARGS")


def _bounded(items: list[bytes]) -> list[bytes]:
    for number, item in enumerate(items, 1):
        if len(item) > MOST:
            raise UsageError(
                f"argument {number} has {len(item) >> 20} MiB, and the most is {MOST >> 20}: put it into S3 or a file "
                "there, and let the argument name that"
            )
    return items


def _items(args: Any) -> Iterator[Any]:
    """Yield the items of an iterable. Raises UsageError if it is none, or is a text file that isn't UTF-8."""
    try:
        yield from args
    except TypeError:
        if hasattr(args, "__iter__"):
            raise
        raise UsageError(f"arguments are a text or an iterable of texts, not {type(args).__name__}") from None
    except UnicodeDecodeError as error:
        name = printable(str(getattr(args, "name", "the arguments")))
        raise UsageError(f"{name}: {error.reason}; open it with errors='surrogateescape' or mode 'rb'") from None


def _stdin() -> BinaryIO:
    if sys.stdin is None:
        raise UsageError("the arguments are to come from stdin (-), which is closed")
    return sys.stdin.buffer


def _path(args: str) -> Path:
    """Return the path in `@name`. Raises UsageError if no file can have this name."""
    return expanded(args[1:], f"cannot read the arguments in {printable(args[1:])}")


def _item(item: Any, null: bool) -> bytes:
    if isinstance(item, str):
        item = item.encode("utf-8", "surrogateescape")
    if not isinstance(item, bytes | bytearray | memoryview):
        raise UsageError(f"an argument is text or bytes, not {type(item).__name__} ({item!r})")
    data = bytes(item)
    return data if null or data.endswith(b"\n") else data + b"\n"


def lines(args: str | Iterable[str | bytes]) -> Iterator[bytes]:
    """Yield lines with their newline, one at a time, for more than fits in memory; leave out empty lines.

    An item of an iterable may be many lines, as results of pmap are.
    """
    if isinstance(args, bytes):
        args = args.decode("utf-8", "surrogateescape")
    if args == "-":
        yield from _not_empty(_stdin())
    elif isinstance(args, str) and args.startswith("@") and "\n" not in args:
        path = _path(args)
        try:
            file = path.open("rb")
        except OSError as error:
            raise _unreadable(args, error) from None
        with file:
            yield from _not_empty(file)
    else:
        for text in [args] if isinstance(args, str) else _items(args):
            yield from _not_empty(_item(text, null=False).split(b"\n"))


def _not_empty(items: Iterable[str | bytes]) -> Iterator[bytes]:
    return (line for item in items if (line := _item(item, null=False)) != b"\n")


def _unreadable(args: str, error: OSError) -> UsageError:
    return UsageError(f"cannot read the arguments in {printable(args[1:])}: {reason_of(error)}")
