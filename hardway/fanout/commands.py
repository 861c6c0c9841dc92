"""The meaning of `--command` and `--stdin`: a line for the login shell of each instance, and its stdin.

A short text is the line itself, as for ssh. A file's content travels over stdin in front of the command's own stdin. So
it may have any length, and be in any language that its first line names.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from hardway.config import Settings
from hardway.errors import UsageError, reason_of
from hardway.s3 import fast_aws
from hardway.ssh.script import Script
from hardway.system.paths import expanded

# Linux takes no single argument of 128 KiB or more.
_LINE_BYTES = 100_000
_CHUNK = 1 << 16
_AWS = re.compile(rb"(?<![\w./-])aws(?![\w./-])")

# $1: the script's size. A script without an interpreter line is run by bash, as for execvp. The interpreter of another
# script is started by hand, since some hosts execute nothing in /tmp. Not all shells remove the file after a signal.
_RUN_SCRIPT = r"""
trap 'exit 143' HUP INT TERM
f=$(mktemp) && trap 'rm -f "$f"' EXIT && head -c "$1" >"$f" || exit
[ "$(wc -c <"$f")" -eq "$1" ] || { echo "the command did not arrive whole" >&2; exit 1; }
case $(head -c 2 "$f") in "#!") ;; *) bash "$f"; exit ;; esac
{ IFS= read -r line || :; } <"$f"
trim() { a=${1#"${1%%[![:blank:]]*}"}; a=${a%"${a##*[![:blank:]]}"}; }
trim "${line#"#!"}"; by=${a%%[[:blank:]]*}
trim "${a#"$by"}"
"$by" ${a:+"$a"} "$f"
"""


@dataclass(frozen=True)
class Command:
    """A line for the login shell, or a script; and the chunks of bytes that each command reads (None: nothing)."""

    line: str | Script
    stdin: Callable[[], Iterator[bytes]] | None
    names_aws: bool


def read(command: str, stdin: str | None = None) -> Command:
    """Read `--command` (text, a file, or `-` for our stdin) and `--stdin` (a file, or `-`).

    Raises UsageError for no command, a file that cannot be read, and for `-` twice.
    """
    if command == "-" and stdin == "-":
        raise UsageError("--command - and --stdin - cannot both read our stdin")
    script = sys.stdin.buffer.read() if command == "-" else _script(command)
    source = _source(stdin) if stdin else None
    if not command.strip() or not (script is None or script.strip()):
        raise UsageError("there is no command: --command takes text, a file, or - for stdin")
    if script is None:
        return Command(command, source, bool(_AWS.search(command.encode(errors="surrogateescape"))))

    def both() -> Iterator[bytes]:
        yield script
        if source:
            yield from source()

    return Command(Script(_RUN_SCRIPT, [str(len(script))]), both, bool(_AWS.search(script)))


def with_aws(command: Command, settings: Settings) -> Command:
    """Return the command with hardway's `aws` first on its PATH, if the command's text names it and it is wanted."""
    brought = fast_aws.brought(settings)
    if brought is None or not command.names_aws:
        return command
    if isinstance(command.line, Script):
        text, arguments = command.line.text, command.line.arguments
    else:
        # bash reads its start-up file where it is the first one
        text, arguments = 'SHLVL=0 exec "${SHELL:-sh}" -c "$1"', [command.line]
    return replace(command, line=Script(fast_aws.BRING + text, [*brought, *arguments]))


def lines(each: str, command: str, stdin: str | None) -> list[bytes]:
    """Read `--each` (a file, or `-` for our stdin) and return its lines, each with its newline.

    Raises UsageError for a file that cannot be read, and for another flag that also sets or reads stdin.
    """
    if stdin:
        raise UsageError("--each and --stdin both say what the command reads: leave one of them out")
    if not each.strip():
        raise UsageError("--each is empty: it takes a file, or - for stdin")
    if command == each == "-":
        raise UsageError("--command - and --each - cannot both read our stdin")
    try:
        data = sys.stdin.buffer.read() if each == "-" else expanded(each).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read --each {each}: {reason_of(error)}") from None
    return [line + b"\n" for line in data.removesuffix(b"\n").split(b"\n")] if data else []


def _script(command: str) -> bytes | None:
    """Return the content of the named file, or a text that is too long for a line; None for a line."""
    content = file_content(command, "--command")
    if content is not None:
        return content
    encoded = command.encode(errors="surrogateescape")
    return encoded if len(encoded) > _LINE_BYTES else None


def file_content(text: str, flag: str) -> bytes | None:
    """Return the content of the file that a flag's text names; None if it names no file.

    Raises UsageError for a file that cannot be read.
    """
    if not text.strip() or "\n" in text or len(text) >= 4096:
        return None
    try:
        path = Path(text).expanduser()
    except RuntimeError:  # `~user` without such a user
        return None
    try:
        return path.read_bytes() if path.is_file() else None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return None
        raise UsageError(f"cannot read {flag} {text}: {reason_of(error)}") from None


def _source(stdin: str) -> Callable[[], Iterator[bytes]]:
    try:
        file: IO[bytes] = _all_of_stdin() if stdin == "-" else expanded(stdin).open("rb")
    except OSError as error:
        raise UsageError(f"cannot read --stdin {stdin}: {reason_of(error)}") from None
    return lambda: _chunks(file)


def _all_of_stdin() -> IO[bytes]:
    """Return our stdin, copied to a file, so that every instance can read all of it at its own pace."""
    spool = tempfile.TemporaryFile()  # noqa: SIM115
    while chunk := sys.stdin.buffer.read(_CHUNK):
        spool.write(chunk)
    spool.flush()
    return spool


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the file from its start, without moving its shared position."""
    position = 0
    while chunk := os.pread(file.fileno(), _CHUNK, position):
        position += len(chunk)
        yield chunk
