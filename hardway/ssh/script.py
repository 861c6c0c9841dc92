"""A script of ours on an instance, with any login shell: how it is started, and how we know that it ran to its end.

The login shell is only trusted to start `sh -c`. fish and csh quote in ways of their own, so the line for the login
shell has no character that a shell treats specially. The script comes over stdin, between two words that nobody else
can know. A script does not run if it is cut short, or if a start-up file has read a part of it or added to it. On
stdout the script says one word when it begins, behind all output of start-up files. At its end it says another word,
with its exit code.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from hardway.terminal import last_line

NOISE_BYTES = 1 << 20
"""The most output of a login shell before the script begins."""
_LAST_BYTES = 500
# cloud-init's message for a login as root, on an image where another user logs in; then it ends the session.
_OTHER_USER = re.compile(rb'lease login as the user "?([A-Za-z0-9_][A-Za-z0-9_.@+-]{0,127})"? rather than')
_CODE = re.compile(rb"[ 0-9]{2}[0-9]")


@dataclass(frozen=True)
class Script:
    """A script of the POSIX shell, and its arguments."""

    text: str
    arguments: Sequence[str] = ()

    @property
    def command(self) -> str:
        """The script as a line of the POSIX shell."""
        return shlex.join(["sh", "-c", self.text, "hardway", *self.arguments])


class Launch:
    """One start of a line of the POSIX shell: `line` is for the login shell, `head` comes first on its stdin.

    The script says `begin` and `end` on stdout; with `both` it says `begin` on stderr, too.
    """

    def __init__(self, command: str, both: bool = False) -> None:
        guard, begin, end = (secrets.token_hex(16) for _ in range(3))
        self.begin, self.end = begin.encode(), end.encode()
        first, last = f"g{guard}=", f"g{guard}="
        says = [f"printf %s {begin}", *([f"printf %s {begin} >&2"] if both else [])]
        ends = ["code=$?", f'printf %s%3d {end} "$code"', 'exit "$code"']
        self.head = "\n".join([first, *says, command, *ends, last]).encode(errors="surrogateescape")
        complaint = "the script did not arrive whole"
        self.line = (
            f'sh -c \'s=$(head -c {len(self.head)}; echo x); case $s in {first}*{last}x) eval "$s" ;; '
            f'*) echo "{complaint}" >&2; exit 1 ;; esac\''
        )


class Words:
    """A filter that takes the two words out of a stream; `code` comes with the last word, and is None until then."""

    def __init__(self, begin: bytes, end: bytes = b"", keep_noise: bool = False) -> None:
        """Drop all that comes before `begin`, unless `keep_noise`."""
        self.begun = False
        self.code: int | None = None
        self.too_much = False
        self._begin, self._end, self._keep_noise = begin, end, keep_noise
        self._held = b""
        self._noise = 0
        self._last = b""

    def feed(self, data: bytes) -> bytes:
        """Return the script's own bytes in all data so far, each once, as soon as they are certain."""
        if self.code is not None:
            return data
        data, self._held = self._held + data, b""
        own = b""
        if not self.begun:
            noise, begin, rest = data.partition(self._begin)
            if not begin:
                noise, self._held = _cut(data, self._begin)
            self._noise += len(noise)
            self._last = (self._last + noise)[-_LAST_BYTES:]
            self.too_much = self._noise > NOISE_BYTES and not self._keep_noise
            own = noise if self._keep_noise else b""
            if not begin:
                return own
            self.begun, data = True, rest
        if not self._end:
            return own + data
        before, end, rest = data.partition(self._end)
        if not end:
            before, self._held = _cut(data, self._end)
        elif len(rest) < 3:
            self._held = end + rest
        else:
            self.code, rest = int(rest[:3]) if _CODE.fullmatch(rest[:3]) else 255, rest[3:]
            return own + before + rest
        return own + before

    def noise(self) -> str:
        """Return the last line before `begin`."""
        return last_line(self._last + self._held)

    def rest(self) -> bytes:
        """Return the bytes still held, once nothing more comes."""
        held, self._held = self._held, b""
        return held if self.begun or self._keep_noise else b""


def not_run(code: int, *streams: Words) -> str:
    """Return why nothing ran, for a person: the login shell's exit code, and its last line on these streams."""
    for stream in streams:
        if other := other_user(stream.noise().encode()):
            return other
    said = next((line for stream in streams if (line := stream.noise())), "")
    return f"its login shell did not run the script, and ended with {code}{f' ({said})' if said else ''}"


def other_user(said: bytes) -> str:
    """Return advice if a host's words name another user for the login; empty for other words."""
    match = _OTHER_USER.search(said)
    if not match:
        return ""
    user = match[1].decode()
    return f"log in as {user}: launch with --ssh-user {user}, or tag a running instance ssh-user={user}"


def _cut(data: bytes, word: bytes) -> tuple[bytes, bytes]:
    """Split off the end of the data that may be the first part of the word; return both pieces."""
    for length in range(min(len(word) - 1, len(data)), 0, -1):
        if data.endswith(word[:length]):
            return data[:-length], data[-length:]
    return data, b""
