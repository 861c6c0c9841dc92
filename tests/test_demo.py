"""The demo: the tutorial's job on a local cloud gives what counting in one process gives, and leaves nothing."""

from __future__ import annotations

import os
import re
import sysconfig
from collections import Counter
from pathlib import Path

from tests.conftest import Inv


def counted_here() -> list[str]:
    """The ten most frequent words of the standard library, counted directly."""
    library = Path(sysconfig.get_path("stdlib"))
    files = list(library.glob("*.py"))
    for package in library.glob("*/__init__.py"):
        files += package.parent.rglob("*.py")
    counts: Counter[bytes] = Counter()
    for file in files:
        counts.update(re.findall(rb"[A-Za-z_][A-Za-z0-9_]*", file.read_bytes()))
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:10]
    return [f"{count} {word.decode()}" for word, count in most]


def test_the_demo_counts_right_and_leaves_nothing(inv: Inv, home: Path) -> None:
    result = inv("demo", "--num", "3", timeout=180)
    assert result.code == 0, result.stderr
    assert [line.strip() for line in result.stdout.splitlines()][-10:] == counted_here()
    assert result.stderr.count("3 of 3 instances succeeded") == 2
    assert "the local cloud is down" in result.stderr
    left = [path for path in home.rglob("*") if path.name not in ("tmp", ".aws")]
    assert not left, os.linesep.join(map(str, left))
