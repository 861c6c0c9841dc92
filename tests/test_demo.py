"""The demo: the tutorial's job on a local cloud gives what counting in one process gives, and leaves nothing."""

from __future__ import annotations

import os
import re
import shutil
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import EVERY_PROCESS, Inv

# The demo counts the modules of the standard library that its Python names. It starts no Python without this.
ANOTHER_LIBRARY = """
import importlib.util, sysconfig
sysconfig.get_path = lambda name: {library!r}
found = importlib.util.spec_from_file_location("judge_of_requests", {judge!r})
found.loader.exec_module(importlib.util.module_from_spec(found))
"""


def counted_in(library: Path) -> list[str]:
    """The ten most frequent words of the modules and packages there, counted directly."""
    files = list(library.glob("*.py"))
    for package in library.glob("*/__init__.py"):
        files += package.parent.rglob("*.py")
    counts: Counter[bytes] = Counter()
    for file in files:
        counts.update(re.findall(rb"[A-Za-z_][A-Za-z0-9_]*", file.read_bytes()))
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:10]
    return [f"{count} {word.decode()}" for word, count in most]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A standard library for the demo that is a tenth of ours: each of its 200 objects takes a few processes."""
    own, ours = tmp_path / "library", Path(sysconfig.get_path("stdlib"))
    own.mkdir()
    for module in sorted(ours.glob("[ab]*.py")):
        shutil.copy(module, own)
    for package in ("json", "wsgiref", "xml"):
        shutil.copytree(ours / package, own / package, ignore=shutil.ignore_patterns("__pycache__"))
    site = tmp_path / "site"
    site.mkdir()
    judge = f"{EVERY_PROCESS}/sitecustomize.py"
    (site / "sitecustomize.py").write_text(ANOTHER_LIBRARY.format(library=str(own), judge=judge))
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ['PYTHONPATH']}")
    return own


def test_the_demo_counts_right_and_leaves_nothing(inv: Inv, home: Path, library: Path) -> None:
    result = inv("demo", "--num", "3", timeout=180)
    assert result.code == 0, result.stderr
    assert [line.strip() for line in result.stdout.splitlines()][-10:] == counted_in(library)
    assert result.stderr.count("3 of 3 instances succeeded") == 2
    assert "the local cloud is down" in result.stderr
    left = [path for path in home.rglob("*") if path.name not in ("tmp", ".aws")]
    assert not left, os.linesep.join(map(str, left))
