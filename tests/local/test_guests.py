"""Virtual machines before any boots: guests that can't be built, or are not there. `tests/vm` boots some."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs
import pytest
from invoke.context import Context

from hardway.errors import Failed, HardwayError, UsageError
from tasks import local
from tests.conftest import Inv

BUILDERS = ("mmdebstrap", "qemu-img", "sfdisk", "mkfs.ext4")


def programs(directory: Path, body: str) -> str:
    """Play the programs that build a guest; returns a PATH with them in front."""
    for name in BUILDERS:
        (directory / name).write_text(f"#!/bin/sh\n{body}\n")
        (directory / name).chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


def guests() -> list[str]:
    """All that is kept of guests, but for the lock."""
    directory = platformdirs.user_cache_path("hardway") / "guests"
    return [path.name for path in directory.iterdir() if path.name != "lock"] if directory.exists() else []


def test_an_unknown_release_is_refused() -> None:
    with pytest.raises(UsageError, match=r"there is no guest 'bokworm'.*; did you mean bookworm\?"):
        local.image(Context(), "bokworm")


def test_missing_programs_are_named_by_their_packages(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))
    with pytest.raises(HardwayError, match=r"apt-get install mmdebstrap qemu-utils"):
        local.image(Context(), "bookworm")


def test_a_failed_build_says_why_and_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "printf '%s\\n' 'I: at work' 'W: odd' 'E: no mirror' 'I: cleaning up'; exit 25"
    monkeypatch.setenv("PATH", programs(home, said))
    with pytest.raises(Failed, match=r"^mmdebstrap failed: E: no mirror$"):
        local.image(Context(), "trixie")
    assert guests() == []


def test_virtual_machines_without_a_guest_are_refused(inv: Inv, home: Path) -> None:
    up = inv("local.up", "--isolation", "vm")
    assert (up.code, up.stdout) == (2, "")
    assert "local.image bookworm" in up.stderr or "virtual machines need" in up.stderr
    assert inv("local.down").code == 0
