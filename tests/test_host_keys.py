"""Host keys on a console: read from whatever else stands there, asked for sparingly, and then the only ones."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from botocore.stub import Stubber
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from hardway import aws
from hardway.config import Aws, Settings
from hardway.ssh import host_keys
from hardway.ssh.keys import HostKeys
from tests.test_instances import ONE, instance

SETTINGS = Settings(aws=Aws(region="us-east-1"))
NEW = replace(ONE, launched=datetime.now(timezone.utc))
OLD = replace(ONE, launched=datetime.now(timezone.utc) - timedelta(days=1))


def public(key: Any) -> tuple[str, str]:
    kind, data = key.public_key().public_bytes(*_OPENSSH).decode().split()
    return kind, data


_OPENSSH = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
KEYS = dict(
    public(key)
    for key in (
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256R1()),
        rsa.generate_private_key(65537, 2048),
    )
)
KIND, KEY = next(iter(KEYS.items()))
BEGIN, END = "-----BEGIN SSH HOST KEY KEYS-----", "-----END SSH HOST KEY KEYS-----"
NOISE = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="-")))


def shown(keys: dict[str, str], before: str = "", newline: str = "\r\n") -> str:
    lines = [BEGIN, *(f"{kind} {key} root@ip-10-0-0-1" for kind, key in keys.items()), END]
    return "".join(f"{before}{line}{newline}" for line in lines)


@given(
    NOISE,
    NOISE,
    st.sets(st.sampled_from(list(KEYS))),
    st.sampled_from(["", "[   12.345678] cloud-init[1234]: ", "<14>Nov 24 08:00:00 cloud-init: "]),
    st.sampled_from(["\n", "\r\n", "\r\r\n"]),
)
def test_keys_are_found_between_all_that_a_console_shows(
    before: list[str], after: list[str], kinds: set[str], prefix: str, newline: str
) -> None:
    keys = {kind: KEYS[kind] for kind in kinds}
    other = dict([public(ed25519.Ed25519PrivateKey.generate())])
    blocks = ["\n".join(before), shown(other), shown(keys, prefix, newline), "\n".join(after), f"{BEGIN}\ncut off"]
    assert host_keys.host_keys("\n".join(blocks)) == keys


NOT_BASE64 = st.characters(codec="ascii", exclude_categories=["L", "N"], exclude_characters="+/=")


@given(st.integers(0, len(KEY) - 1), st.text(NOT_BASE64, min_size=1))
def test_a_torn_key_is_none(at: int, noise: str) -> None:
    """The kernel writes where it likes; what then stands there must not pass for another key."""
    torn = {KIND: f"{KEY[:at]}{noise}{KEY[at:]}"}
    assert host_keys.host_keys(shown(torn, newline="\n")) == {}


@given(st.text(), st.text())
def test_nothing_else_is_a_key(inside: str, outside: str) -> None:
    assert host_keys.host_keys(f"{BEGIN}\n{inside}\n{END}\n{outside}\n{KIND} {KEY}\n") == {}


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch, home: Path) -> Iterator[Stubber]:
    """EC2 as its service model has it; what is asked for must be what the test says, to the last."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "stubbed")
    with Stubber(aws.ec2(SETTINGS)) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def answer(ec2: Stubber, output: str, **asked: object) -> None:
    ec2.add_response("get_console_output", {"Output": output}, {"InstanceId": ONE.id, **asked})


def test_one_call_until_it_is_confirmed_and_none_then(ec2: Stubber) -> None:
    known = HostKeys()
    answer(ec2, "booting", Latest=True)
    host_keys.confirm(SETTINGS, NEW, known)
    assert known.remember(ONE.id, KIND, KEY)
    host_keys.confirm(SETTINGS, NEW, known)
    assert not known.confirmed(ONE.id)

    later = HostKeys()
    nitro_only = {"InstanceId": ONE.id, "Latest": True}
    ec2.add_client_error("get_console_output", "UnsupportedOperation", expected_params=nitro_only)
    answer(ec2, f"booted\n{shown(KEYS)}")
    host_keys.confirm(SETTINGS, NEW, later)
    assert later.of(ONE.id) == KEYS
    for again in (later, HostKeys()):
        host_keys.confirm(SETTINGS, NEW, again)
        assert again.confirmed(ONE.id)


def test_no_call_for_what_is_known_for_long_or_at_a_launch(ec2: Stubber) -> None:
    assert HostKeys().remember(ONE.id, KIND, KEY)
    host_keys.confirm(SETTINGS, OLD, HostKeys())
    host_keys.confirm(SETTINGS, replace(NEW, id="i-0000000000000beef"), HostKeys(consoles=0))


def test_not_more_calls_than_ec2_answers_at_once(ec2: Stubber) -> None:
    known = HostKeys(consoles=2)
    for _ in range(2):
        ec2.add_client_error("get_console_output", "RequestLimitExceeded")
    for number in range(5):
        host_keys.confirm(SETTINGS, instance(number), known)
    assert not known.confirmed(instance(0).id)


def test_what_the_console_shows_replaces_what_was_met(home: Path) -> None:
    """For OpenSSH, which reads the same file, too."""
    met = dict([public(ed25519.Ed25519PrivateKey.generate())])
    known = HostKeys()
    assert known.remember(ONE.id, *next(iter(met.items())))
    known.confirm(ONE.id, KEYS)
    assert known.of(ONE.id) == HostKeys().of(ONE.id) == KEYS
    assert not HostKeys().remember(ONE.id, *next(iter(met.items())))
    lines = subprocess.run(["ssh-keygen", "-F", ONE.id, "-f", known.path], capture_output=True, text=True).stdout
    for kind, key in met.items():
        assert f"@revoked {ONE.id} {kind} {key}" in lines
    assert all(f"{ONE.id} {kind} {key}" in lines for kind, key in KEYS.items())
