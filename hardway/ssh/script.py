"""A script of ours on an instance, whatever its login shell: how it is started, and how we know that it ran to its end.

A login shell may start `sh -c` and is believed in nothing else. fish and csh quote in ways of their own, so the line it
is given has no character that any shell reads in its own way. The script comes over stdin, between two words that
nobody else can know: what came short, or mixed with what a start-up file read or added, does not run. On stdout it says
a word when it begins, behind whatever start-up files print, and one with its exit code at its end.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from hardway.terminal import last_line

NOISE_BYTES = 1 << 20
"""What a login shell may print before the script begins."""
_LAST_BYTES = 500
# What cloud-init has root's keys say on an image where somebody else is to log in; then it ends the session.
_OTHER_USER = re.compile(rb'lease login as the user "?([A-Za-z0-9_][A-Za-z0-9_.@+-]{0,127})"? rather than')
_CODE = re.compile(rb"[ 0-9]{2}[0-9]")


@dataclass(frozen=True)
class Script:
    """A script of the POSIX shell, and its arguments."""

    text: str
    arguments: Sequence[str] = ()

    @property
    def command(self) -> str:
        """As a line of the POSIX shell."""
        return shlex.join(["sh", "-c", self.text, "hardway", *self.arguments])


class Launch:
    """One start of a line of the POSIX shell: `line` is for the login shell, `head` comes first on its stdin.

    `begin` and `end` are what it says on stdout; with `both` it says `begin` on stderr, too.
    """

    def __init__(self, command: str, both: bool = False) -> None:
        guard, begin, end = (secrets.token_hex(16) for _ in range(3))
        self.begin, self.end = begin.encode(), end.encode()
        first, last = f"g{guard}=", f"g{guard}="
        says = [f"printf %s {begin}", *([f"printf %s {begin} >&2"] if both else [])]
        ends = ["code=$?", f'printf %s%3d {end} "$code"', 'exit "$code"']
        self.head = "\n".join([first, *says, command, *ends, last]).encode(errors="surrogateescape")
        complaint = "what was to run did not come whole"
        self.line = (
            f"sh -c 's=$(head -c {len(self.head)}; echo x); case $s in {first}*{last}x) eval \"$s\" ;; "
            f"*) echo \"{complaint}\" >&2; exit 1 ;; esac'"
        )


class Words:
    """Takes the two words out of a stream as it comes; `code` is what came with the last one, None until then."""

    def __init__(self, begin: bytes, end: bytes = b"", keep_noise: bool = False) -> None:
        """What comes before `begin` is dropped, unless `keep_noise`."""
        self.begun = False
        self.code: int | None = None
        self.too_much = False
        self._begin, self._end, self._keep_noise = begin, end, keep_noise
        self._held = b""
        self._noise = 0
        self._last = b""

    def feed(self, data: bytes) -> bytes:
        """What of it, and of what came before, is the script's own, as soon as that is certain."""
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
        """The last line of what came before `begin`."""
        return last_line(self._last + self._held)

    def rest(self) -> bytes:
        """What is still held, once nothing more comes."""
        held, self._held = self._held, b""
        return held if self.begun or self._keep_noise else b""


def not_run(code: int, *streams: Words) -> str:
    """Why nothing ran, in a person's words: how the login shell ended, and the last that it said on these streams."""
    for stream in streams:
        if other := other_user(stream.noise().encode()):
            return other
    said = next((line for stream in streams if (line := stream.noise())), "")
    return f"its login shell did not run it: it ended with {code}{f' ({said})' if said else ''}"


def other_user(said: bytes) -> str:
    """What a host's words mean that name another user, who is to log in there; empty for any other words."""
    match = _OTHER_USER.search(said)
    if not match:
        return ""
    user = match[1].decode()
    return f"the user to log in as is {user}: start with --ssh-user {user}; if it runs, tag it ssh-user={user}"


def _cut(data: bytes, word: bytes) -> tuple[bytes, bytes]:
    """The data without what may be the word's first part at its end, and that."""
    for length in range(min(len(word) - 1, len(data)), 0, -1):
        if data.endswith(word[:length]):
            return data[:-length], data[-length:]
    return data, b""
