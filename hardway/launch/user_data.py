"""User data, which instances run at boot: our part first, then a person's `--init`. Pure.

Our part is `boot.sh`, as a boothook. cloud-init runs it at every boot, before the SSH server and all else, so that no
part of a person's own can keep the limits from holding. The formats are cloud-init's:
https://docs.cloud-init.io/en/latest/explanation/format/index.html
"""

from __future__ import annotations

import codecs
import email
import email.encoders
import gzip
import hashlib
import importlib.resources
import math
import re
import shlex
import zlib
from datetime import datetime, timedelta
from email.message import Message
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart
from functools import cache

from hardway.config import Ec2, Settings
from hardway.ec2.instances import ENDS_TAG
from hardway.errors import UsageError
from hardway.tables import count, duration

# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/user-data.html
MOST_BYTES = 16 * 1024
_GZIP = b"\x1f\x8b"
# The kinds by their first line; the longer of two matching ones comes first.
_KINDS = {
    b"#!": "text/x-shellscript",
    b"#cloud-boothook": "text/cloud-boothook",
    b"#cloud-config-archive": "text/cloud-config-archive",
    b"#cloud-config": "text/cloud-config",
    b"#include": "text/x-include-url",
    b"#part-handler": "text/part-handler",
    b"## template:": "text/jinja2",
}


def limits_tags(ec2: Ec2, now: datetime) -> dict[str, str]:
    """Return the tags that tell people, and `ec2.ls`, the end of instances launched now."""
    return ends_tag(now, ec2.max_hours) if ec2.max_hours else {}


def limits_said(settings: Settings, now: datetime) -> str:
    """Return a line for a person about the end of instances launched now."""
    ec2, ends = settings.ec2, []
    if ec2.max_hours:
        at = f"{_ends(now, ec2.max_hours):{'%H:%M' if ec2.max_hours < 24 else '%Y-%m-%d %H:%M'}}"
        ends.append(f"at {at} UTC (in {duration(ec2.max_hours * 3600)})")
    if ec2.idle_minutes:
        ends.append(f"after {count(ec2.idle_minutes, 'minute')} without use")
    if not ends:
        return "no limit: these instances run, and cost, until somebody ends them"
    extend = settings.command("ec2.extend", "SELECTOR", "HOURS")
    return f"instances terminate themselves {' or '.join(ends)}; `{extend}` moves the end"


def ends_tag(now: datetime, hours: float) -> dict[str, str]:
    """Return the tag of instances that end `hours` after `now`, which is in UTC."""
    return {ENDS_TAG: _ends(now, hours).isoformat(timespec="seconds")}


def _ends(now: datetime, hours: float) -> datetime:
    return now + timedelta(seconds=seconds(hours))


def seconds(hours: float) -> int:
    """Return hours as whole seconds, as the instance counts them; at least one."""
    return max(1, math.ceil(hours * 3600))


def compose(ec2: Ec2, init: bytes, user: str) -> bytes:
    """Return the user data of an instance where `user` logs in, compressed if it would not fit otherwise.

    `init` is the content that `ec2.init` means. Raises UsageError if the result is too long even when compressed.
    """
    values = {
        "limit": seconds(ec2.max_hours) if ec2.max_hours else 0,
        "idle": seconds(ec2.idle_minutes / 60) if ec2.idle_minutes else 0,
        "user": shlex.quote(user),
        "port": ec2.ssh_port,
    }
    settings = " ".join(f"{name}={value}" for name, value in values.items())
    first, *rest = _boot_script()
    if init.strip():
        settings += "\ninit=1"
    parts: list[Message] = [_part("\n".join([first, settings, *rest, ""]).encode(), "text/cloud-boothook")]
    if init.startswith(_GZIP):
        init = _uncompressed(init)
    # Editors of Windows put it before the first line, which then is none of the known ones.
    init = init.removeprefix(codecs.BOM_UTF8)
    if init.strip():
        parts.append(_whole(init))
    # The same launch gives the same bytes: EC2 takes a client token twice only with the same parameters.
    boundary = hashlib.sha256(init).hexdigest()[:32]
    whole = MIMEMultipart(boundary=boundary, _subparts=parts).as_bytes()
    if len(whole) > MOST_BYTES:
        whole = gzip.compress(whole, mtime=0)
    if len(whole) > MOST_BYTES:
        raise UsageError("--init is over the 16 KiB that EC2 takes, even compressed: let it fetch the rest from S3")
    return whole


def _uncompressed(init: bytes) -> bytes:
    try:
        return gzip.decompress(init)
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"--init looks compressed by gzip and is not: {error}") from None


def _refuse_unreadable(content: bytes) -> None:
    """Raise UsageError for a text that is not UTF-8, which cloud-init could not write to a file."""
    try:
        content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UsageError(
            f"--init has the byte 0x{content[error.start]:02x} in line {line}, which is no UTF-8: cloud-init would not "
            "run it; convert a text by iconv, and send other data as base64"
        ) from None


def text(data: bytes) -> str:
    """Return user data for a person to look at: uncompressed, any bytes kept."""
    return (gzip.decompress(data) if data.startswith(_GZIP) else data).decode(errors="surrogateescape")


def _whole(init: bytes) -> Message:
    """Return a person's user data as cloud-init is to take it; a text of no known kind is a bash script."""
    kind = next((kind for start, kind in _KINDS.items() if init.startswith(start)), "")
    if not kind and b"mime-version:" in init[:4096].lower():
        message = email.message_from_bytes(init)
        for leaf in message.walk():
            content = leaf.get_payload(decode=True)
            if leaf.get_content_maintype() == "text" and isinstance(content, bytes):
                _refuse_unreadable(content)
        return message
    _refuse_unreadable(init)
    if kind:
        return _part(init, kind)
    return _part(b"#!/bin/bash\n" + init, "text/x-shellscript")


def _part(content: bytes, kind: str) -> Message:
    part = MIMEBase(*kind.split("/"))
    if content.isascii() and not re.search(rb"[\r\0]", content):
        part.set_payload(content.decode())
    else:
        part.set_payload(content)
        email.encoders.encode_base64(part)
    return part


@cache
def _boot_script() -> list[str]:
    """Return the lines of `boot.sh` without comments and indentation, since room is scarce."""
    text = importlib.resources.files("hardway.launch").joinpath("boot.sh").read_text()
    first, *rest = (line.strip() for line in text.splitlines())
    return [first, *(line for line in rest if line and not line.startswith("#"))]
