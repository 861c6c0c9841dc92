"""User data as cloud-init reads it: the parts of a multipart message, or one part."""

from __future__ import annotations

import email
import gzip
from dataclasses import dataclass
from functools import lru_cache

BOOTHOOK, SCRIPT = "text/cloud-boothook", "text/x-shellscript"
_GZIP = b"\x1f\x8b"
_HOOK_LINE = b"#cloud-boothook"
# Content types that say too little: the first line of the part decides.
_UNKNOWN = ("text/plain", "text/x-not-multipart", SCRIPT)


@dataclass(frozen=True)
class Part:
    """A part with its content type and the name of its file."""

    kind: str
    name: str
    content: bytes


@lru_cache(maxsize=8)
def parts(data: bytes) -> tuple[Part, ...]:
    """Return the parts in their order; none where there is no user data."""
    if data.startswith(_GZIP):
        data = gzip.decompress(data)
    if not data:
        return ()
    if b"mime-version:" not in data[:4096].lower():
        return (_part("text/plain", "", data, 1),)
    leaves = [part for part in email.message_from_bytes(data).walk() if part.get_content_maintype() != "multipart"]
    return tuple(
        _part(leaf.get_content_type(), leaf.get_filename() or "", leaf.get_payload(decode=True) or b"", number)
        for number, leaf in enumerate(leaves, 1)
    )


def _without_returns(content: bytes) -> bytes:
    """Return a script with the line ends of Unix if its first line has that of Windows."""
    return content.replace(b"\r\n", b"\n") if content.partition(b"\n")[0].endswith(b"\r") else content


def _part(kind: str, name: str, content: object, number: int) -> Part:
    assert isinstance(content, bytes)
    if kind in _UNKNOWN:
        kind = SCRIPT if content.startswith(b"#!") else BOOTHOOK if content.startswith(_HOOK_LINE) else "text/plain"
    if kind in (BOOTHOOK, SCRIPT):
        content = _without_returns(content)
    if kind == BOOTHOOK:
        content = content.removeprefix(_HOOK_LINE).lstrip()
    return Part(kind, name.replace("/", "_") or f"part-{number:03}", content)
