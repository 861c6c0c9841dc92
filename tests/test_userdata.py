"""User data: what goes in comes out as cloud-init, and the local cloud, take it apart."""

from __future__ import annotations

import email
import gzip
import random
from datetime import datetime, timezone
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from invoke import Context

from hardway import config
from hardway.config import Ec2, Settings
from hardway.errors import UsageError
from hardway.launch import user_data as userdata
from hardway.local.machines import cloudinit

NEVER = Ec2(max_hours=0)
HEADS = [b"", b"#!/bin/sh\n", b"#!/usr/bin/env python3\n", b"#cloud-config\n", b"#cloud-config-archive\n", b"#include"]
# https://docs.cloud-init.io/en/latest/explanation/format.html
KINDS = {
    b"#!": "x-shellscript",
    b"#cloud-boothook": "cloud-boothook",
    b"#cloud-config-archive": "cloud-config-archive",
    b"#cloud-config": "cloud-config",
    b"#include": "x-include-url",
    b"#part-handler": "part-handler",
    b"## template:": "jinja2",
}


def taken_apart(data: bytes) -> list[tuple[str, bytes]]:
    """As cloud-init does: uncompressed, read as a text, each part decoded."""
    whole = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    assert b"mime-version:" in whole[:4096].lower()
    message = email.message_from_string(whole.decode())
    leaves = [part for part in message.walk() if not part.is_multipart()]
    return [(leaf.get_content_type(), bytes(leaf.get_payload(decode=True))) for leaf in leaves]


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(HEADS), st.text(st.characters(exclude_categories=["Cs"])).map(str.encode))
@example(b"", b"From me\n--\n.\n")
@example(b"#!/bin/sh\n", b"a\r\nb\rc\x00\x0b\xc2\x85")
@example(b"#!/bin/sh\n", b"no newline at the end")
@example(b"", b"#cloud-config")
def test_what_goes_in_comes_out_after_ours(head: bytes, body: bytes) -> None:
    init = head + body
    assume(init.strip() and not init.startswith(b"\x1f\x8b") and b"mime-version:" not in init.lower())
    data = userdata.compose(NEVER, init, "ubuntu")
    (kind, ours), (their_kind, theirs) = taken_apart(data)
    assert kind == "text/cloud-boothook"
    assert ours.startswith(b"#!/bin/sh\nlimit=0 idle=0 user=ubuntu port=22\n")
    known = next((name for start, name in KINDS.items() if init.startswith(start)), "")
    assert their_kind == f"text/{known or 'x-shellscript'}"
    assert theirs == (init if known else b"#!/bin/bash\n" + init)
    assert [part.content for part in cloudinit.parts(data)] == [ours, theirs]
    assert data == userdata.compose(NEVER, init, "ubuntu")


def test_without_any_it_is_ours_and_short() -> None:
    data = userdata.compose(Ec2(max_hours=0.5, idle_minutes=1.5, ssh_port=2222), b" \n", "x y")
    [(_, ours)] = taken_apart(data)
    assert b"\nlimit=1800 idle=90 user='x y' port=2222\n" in ours
    assert len(data) < 8000


def test_a_multipart_of_ones_own_stays_one() -> None:
    parts = [MIMEText("#cloud-config\n", "cloud-config"), MIMEText("#!/bin/sh\n", "x-shellscript")]
    own = MIMEMultipart(_subparts=parts)
    for init in (own.as_bytes(), gzip.compress(own.as_bytes())):
        data = userdata.compose(NEVER, init, "ubuntu")
        kinds = [kind for kind, _ in taken_apart(data)]
        assert kinds == ["text/cloud-boothook", "text/cloud-config", "text/x-shellscript"]
        assert [part.kind for part in cloudinit.parts(data)] == kinds


def test_what_cloud_init_could_not_write_is_refused() -> None:
    """It decodes texts as UTF-8, whatever they say; on real guests such a script never ran."""
    latin = "#!/bin/sh\n# caf\u00e9\n".encode("latin-1")
    own = MIMEMultipart(_subparts=[MIMEText(latin.decode("latin-1"), "x-shellscript", "latin-1")]).as_bytes()
    for init, line in (
        (latin, 2),
        (gzip.compress(latin), 2),
        (b"echo \xff", 1),
        ("echo".encode("utf-16"), 1),
        (own, 2),
    ):
        with pytest.raises(UsageError, match=f"in line {line}, which is no UTF-8"):
            userdata.compose(NEVER, init, "ubuntu")
    binary = MIMEMultipart(_subparts=[MIMEApplication(b"\xff")]).as_bytes()
    assert taken_apart(userdata.compose(NEVER, binary, "ubuntu"))[1] == ("application/octet-stream", b"\xff")
    marked = userdata.compose(NEVER, b"\xef\xbb\xbf#!/bin/sh\necho\n", "ubuntu")
    assert taken_apart(marked)[1] == ("text/x-shellscript", b"#!/bin/sh\necho\n")


def test_what_is_too_long_is_compressed_and_else_refused() -> None:
    long = b"#!/bin/sh\n" + b"echo again\n" * 5000
    data = userdata.compose(NEVER, long, "ubuntu")
    assert len(data) <= userdata.MOST_BYTES
    assert taken_apart(data)[1][1] == long
    assert userdata.text(data).count("echo again") == 5000
    with pytest.raises(UsageError, match="16 KiB"):
        userdata.compose(NEVER, b"#!/bin/sh\n" + random.Random(0).randbytes(17_000).hex().encode(), "ubuntu")
    with pytest.raises(UsageError, match="gzip"):
        userdata.compose(NEVER, b"\x1f\x8bno", "ubuntu")


def test_limits_are_said_and_tagged() -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    assert userdata.limits_tags(Ec2(max_hours=12), now) == {"hardway-ends": "2026-01-02T15:04:05+00:00"}
    assert userdata.limits_tags(Ec2(max_hours=0, idle_minutes=30), now) == {}
    said = userdata.limits_said(Settings(ec2=Ec2(max_hours=12, idle_minutes=30)), now)
    assert said.startswith("instances terminate themselves at 15:04 UTC (in 12 h) or after 30 minutes without use; ")
    assert "at 2026-01-05 03:04 UTC (in 3 days)" in userdata.limits_said(Settings(ec2=Ec2(max_hours=72)), now)
    assert "until somebody ends them" in userdata.limits_said(Settings(ec2=NEVER), now)
    with pytest.raises(UsageError, match="--max-hours is 'inf': it must be a number of hours, at least 0 and at most"):
        config.settings(Context(), ec2={"max_hours": float("inf")})
