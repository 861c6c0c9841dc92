"""The meaning of `ARGS` on the command line and in Python: text, a file, our stdin, or any iterable."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from hardway.errors import UsageError, reason_of
from hardway.pmap.stream import Stream, from_items, from_pipe
from hardway.system.paths import expanded
from hardway.tables import count
from hardway.terminal import printable

ARGUMENTS = "arguments-"
"""The beginning of the name of the file with a job's arguments; their digest follows."""
MOST = 256 << 20  # bytes of one argument, which is held in memory here and on an instance
_KEPT = re.compile(ARGUMENTS + "([0-9a-f]{32})")
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# `{}` as in GNU parallel and xargs; not an empty dict or function, and not where another program replaces the braces.
_BRACES = re.compile(r"(?<![=(),:$])(?<![=(),:]\s)\{\}")
_OWN_BRACES = re.compile(r"\b(find|fd|parallel|xargs)\b")


@dataclass(frozen=True)
class Arguments:
    """The tasks' stdin, one item a task. `skipped` counts empty lines left out; `source` is what a person gave.

    `hint` is a line about what looks wrong in the items; it may be empty. An item has `batch` arguments.
    `goes_on` is the line that goes on with their job, if they come from a plan for it; the job keeps its own line.
    """

    items: list[bytes]
    skipped: int = 0
    source: str = "ARGS"
    hint: str = ""
    batch: int = 0
    goes_on: str = ""

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.items)

    @property
    def described(self) -> str:
        """The number of arguments, in words."""
        if self.batch:
            return f"{count(len(self.items), 'task')} of {count(self.batch, 'argument')} each"
        return count(len(self.items), "argument")

    def batched(self, size: int, null: bool) -> Arguments:
        """Return tasks of `size` arguments each; the last one may have fewer. For `null` see `joined`."""
        joined_items = [joined(self.items[at : at + size], null) for at in range(0, len(self.items), size)]
        return replace(self, items=joined_items, batch=size)

    def warn(self, say: Callable[[str], None]) -> None:
        """Have `say` told what looks wrong in the arguments, if anything does."""
        if self.hint:
            say(self.hint)

    def kept(self, null: bool) -> tuple[bytes, bool]:
        """Return a file's content from which `read` makes these arguments, and whether `null` is needed.

        The content is empty if no file can express them.
        """
        if self.batch:
            return b"".join(self.items), null
        if not null and all(item.find(b"\n") == len(item) - 1 > 0 for item in self.items):
            return b"".join(self.items), False
        if all(item and b"\0" not in item for item in self.items):
            return b"".join(item + b"\0" for item in self.items), True
        return b"", False


def joined(items: Sequence[bytes], null: bool) -> bytes:
    """Return the stdin of a task that has several arguments: each ends in a newline, with `null` in NUL.

    Raises UsageError if it is too long.
    """
    return _bounded([b"".join(item + b"\0" for item in items) if null else b"".join(items)])[0]


class Cutter:
    """Cuts arguments out of a text that comes in pieces. `skipped` counts empty lines left out.

    With `crlf` the text is from Windows: its byte order mark and each CR at the end of a line are left out, and UTF-16
    becomes UTF-8.
    """

    def __init__(self, null: bool = False, crlf: bool = False) -> None:
        """Raises UsageError for `null` and `crlf` together."""
        if null and crlf:
            raise UsageError("--crlf is for lines, and with --null arguments are read exactly as they are")
        self.skipped = 0
        self._null = null
        self._crlf = crlf
        self._separator = b"\0" if null else b"\n"
        self._rest = bytearray()  # of an argument whose end has not come
        self._decoder: codecs.IncrementalDecoder | None = None
        self._begins = True
        self._marked = False
        self._lines = self._returns = 0

    def feed(self, data: bytes, last: bool = False) -> list[bytes]:
        """Take the next piece, the `last` one or not; return the arguments that end in it. Raises UsageError."""
        if self._begins and not self._null:
            data = bytes(self._rest) + data
            self._rest.clear()
            if len(data) < len(codecs.BOM_UTF8) and not last and b"\n" not in data:
                self._rest += data
                return []
            data = self._unmarked(data)
        self._begins = False
        if self._decoder:
            try:
                data = self._decoder.decode(data, last).encode()
            except UnicodeDecodeError as error:
                raise UsageError(f"the arguments begin as UTF-16, but are not: {error.reason}") from None
        parts: list[bytes] = []
        if self._separator in data:
            first, *parts, rest = data.split(self._separator)
            parts.insert(0, bytes(self._rest + first))
            self._rest = bytearray(rest)
        else:
            self._rest += data
        if last and self._rest:
            parts.append(bytes(self._rest))
        if len(self._rest) > MOST:
            _bounded([bytes(self._rest)])
        empty = b"" if self._null else b"\n"
        items = [item for part in parts if (item := self._item_of(part)) != empty]
        self.skipped += len(parts) - len(items)
        return items

    def item(self, item: Any) -> bytes:
        """Make an argument of an item of an iterable. Raises UsageError."""
        data = _item(item, self._null)
        if self._null:
            return data
        if self._begins:
            data = self._unmarked(data)
            self._begins = False
        if self._decoder:
            raise UsageError("the arguments are UTF-16: open their file with encoding='utf-16'")
        return self._item_of(data.removesuffix(b"\n"))

    @property
    def hint(self) -> str:
        """A line about signs of Windows in the arguments so far; empty if there are none."""
        signs = ["a byte order mark"] if self._marked else []
        signs += [f"CR at the end of {self._returns} of {count(self._lines, 'line')}"] if self._returns else []
        return f"the arguments have {' and '.join(signs)}, and tasks read that: --crlf leaves it out" if signs else ""

    def _unmarked(self, data: bytes) -> bytes:
        """Look at the first data, and return it without a mark that is to be left out."""
        if data.startswith(_UTF16_MARKS):
            if not self._crlf:
                raise UsageError("the arguments are UTF-16, which commands can't read as lines: --crlf makes it UTF-8")
            self._decoder = codecs.getincrementaldecoder("utf-16")()
        if data.startswith(codecs.BOM_UTF8):
            self._marked = not self._crlf
            return data.removeprefix(codecs.BOM_UTF8) if self._crlf else data
        return data

    def _item_of(self, part: bytes) -> bytes:
        if self._null:
            return part
        self._lines += 1
        if part.endswith(b"\r"):
            if self._crlf:
                return part[:-1] + b"\n"
            self._returns += 1
        return part + b"\n"


def read(args: str | Iterable[str | bytes], null: bool = False, crlf: bool = False) -> Arguments:
    """Return one argument for each line of a text, a file (`@name`) or stdin (`-`), or each item of an iterable.

    A task reads its argument and a newline; with `null`, arguments end in NUL in place of a newline, may contain
    newlines, and are read exactly as they are. Empty lines of a text or file are no arguments. For `crlf` see `Cutter`.
    Raises UsageError.
    """
    cutter = Cutter(null, crlf)
    if isinstance(args, bytes):
        args = args.decode("utf-8", "surrogateescape")
    if not isinstance(args, str):
        items = _bounded([cutter.item(item) for item in _items(args)])
        return Arguments(items, hint=cutter.hint)
    hint = ""
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
        if "\n" not in args and os.path.isfile(args):
            hint = f"{args} is taken for the argument itself, and there is a file of that name: @{args} reads its lines"
    items = _bounded(cutter.feed(data, last=True))
    source = args if len(args) < 200 and "\n" not in args else "ARGS"
    return Arguments(items, cutter.skipped, source, cutter.hint or hint)


def given(args: str | Iterable[str | bytes], null: bool = False, crlf: bool = False) -> Arguments | Stream:
    """Return the same arguments as `read`; as a stream if they come through a pipe or from a terminal, or are one."""
    if isinstance(args, Stream | Arguments):
        return args
    cutter = Cutter(null, crlf)
    if args == "-" and _is_piped(stdin := _stdin()):
        return Stream(partial(from_pipe, stdin.fileno(), cutter), cutter, "-")
    if isinstance(args, str) and args.startswith("@") and "\n" not in args:
        with contextlib.suppress(OSError), _path(args).open("rb", buffering=0) as file:
            if _is_piped(file):
                return Stream(partial(from_pipe, os.dup(file.fileno()), cutter), cutter, "-")
    return read(args, null, crlf)


def batched(given: Arguments | Stream, size: int, null: bool) -> Arguments | Stream:
    """Return the same arguments, where a task has `size` of them. Raises UsageError."""
    if size == 1 or given.batch:
        return given
    if isinstance(given, Stream):
        return given.batched(size, lambda items: joined(items, null))
    return given.batched(size, null)


def stream(args: str | Iterable[str | bytes], null: bool, crlf: bool, ordered: bool) -> Stream:
    """Return the same arguments as a stream whose results somebody will take; see `Stream`. Raises UsageError."""
    found = given(args, null, crlf) if isinstance(args, str | bytes) else args
    if isinstance(found, Stream):
        return found.with_results(ordered)
    if isinstance(found, Arguments):
        return stream(found.items, null, False, ordered)
    cutter = Cutter(null, crlf)
    return Stream(lambda is_wanted: from_items(_items(found), cutter), cutter, "ARGS", ordered, consumed=True)


def hint_of_command(command: str) -> str:
    """Return a line about `{}` in a command, where a person expects the argument; empty without `{}`."""
    if _BRACES.search(command) and not _OWN_BRACES.search(command):
        return "{} in the command is not replaced: the argument comes on stdin, as for 'read -r x; echo \"$x\"'"
    return ""


def _bounded(items: list[bytes]) -> list[bytes]:
    for number, item in enumerate(items, 1):
        if len(item) > MOST:
            raise UsageError(
                f"argument {number} has {len(item) >> 20} MiB, and the most is {MOST >> 20}: put it into S3 or a file "
                "there, and give its name as the argument"
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


def _is_piped(file: Any) -> bool:
    """Return whether a file is a pipe, socket or terminal; it may be an object that a Python caller put there."""
    try:
        mode = os.fstat(file.fileno()).st_mode
        return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or bool(file.isatty())
    except (OSError, ValueError, AttributeError):
        return False


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
