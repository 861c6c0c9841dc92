"""The README does what it says: its blocks run, and show what it shows; its tables have every task.

The `sh` blocks of a section run in one shell, in their order, in a copy of what the README takes from a checkout; a
`text` block after them is what they print, with `...` for anything. A `python` block that begins with its file's name
is that file; the others are in the tests of an example, or run by tests/test_plugin.py. What is `console` can't run
here: it needs AWS, a package index, or an engine (tests/engines runs those).
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.conftest import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
SECTIONS = re.findall(r"^##? (.*)\n", re.sub(r"^```.*?^```$", "", README, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
CHANGES = [
    (r"\bi-[0-9a-f]{17}\b", "i-ID"),
    (r"\b(ami|sg|vpc)-[0-9a-f]{8,17}\b", r"\1-ID"),
    (r"\bip-127-77-\d+-\d+\b", "ip-ADDRESS"),
    (r"\b127\.77\.\d+\.\d+\b", "ADDRESS"),
    (r"http://127\.0\.0\.1:\d+", "URL"),
    (r"isolation of instances: .*", "isolation of instances: KIND"),
    (r"\bhardway-[0-9a-f]{12}\b", "KEY"),
    (r"\b\d{4}-\d\d-\d\d \d\d:\d\d UTC", "TIME"),
    (r"\b\d{8}-\d{6}-[0-9a-f]{8}\b", "JOB"),
    (r"/\S*/s3_stubbed_session_[0-9a-f-]{36}", "SESSION"),
    (r"(so far: |busy, |cost +)<?\$[0-9.]+", r"\1$COST"),
    (r"\b\d+ s ago", "AGO"),
    (r"\b[0-9.]+ ?(s|ms)\b", "SECONDS"),
    (r"\b\d+%", "PERCENT"),
    # On a busy machine a task may be run a second time.
    (r"\b\d+ (attempts|backups)\b", r"N \1"),
    (r"\battempts +\d+", "attempts N"),
    # What took the time depends on the machine; tests/pmap/test_history.py has journals of which it is known.
    (r"(?s)(slot time ).*?\n(what took [^\n]*:\n)(?:[- ] [^\n]*\n)+", r"\1...\n\2"),
    (r" +", " "),
]
"""What differs from run to run, and what is compared in its place."""


def blocks(section: str, language: str = "") -> list[str]:
    """The code blocks of a section, in a language."""
    return [text for kind, text in _blocks(section) if kind == language]


def run(command: list[str], directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=180,
        stdin=subprocess.DEVNULL,
    )


def test_every_block_runs_and_prints_what_is_shown(home: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("LICENSE", "examples", "invoke.yaml", "tasks"):
        (checkout / name).symlink_to(REPOSITORY / name)
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    # In place of the demo, which tests/test_demo.py runs, and of this run of the tests: that there are such tasks.
    (checkout / "inv").write_text('#!/bin/sh\nexec .venv/bin/inv --help "$1" >/dev/null\n')
    (checkout / "inv").chmod(0o755)
    project = tmp_path / "a project"
    project.mkdir()
    wrong = []
    for section in SECTIONS:
        if blocks(section, "sh"):
            wrong += _differences(section, project if section == "A job of your own" else checkout)
    assert not wrong, "\n".join(wrong)


def test_every_python_block_is_run() -> None:
    tests = (REPOSITORY / "examples/wordcount/test_wordcount.py").read_text()
    for section in SECTIONS:
        for text in blocks(section, "python"):
            shared = section == "Test your own job" and text == blocks(section, "python")[2]
            assert _file(text) or text in tests or shared, text


def test_few_blocks_are_not_run() -> None:
    kinds = [kind for section in SECTIONS for kind, _ in _blocks(section)]
    assert set(kinds) == {"console", "python", "sh", "text"}
    assert kinds.count("console") == 3


def test_every_task_is_in_a_table() -> None:
    from tasks import ns

    tables = "\n".join(re.findall(r"^\|.*\|$", _text("Tasks"), re.MULTILINE))
    spaces = "cluster|ec2|local|mapreduce|s3"
    own = {name for name in ns.task_names if "." in name}
    assert {name for name in re.findall(r"`([a-z0-9]+\.[a-z-]+)`", tables) if re.match(spaces, name)} == own
    assert {name for name in re.findall(rf"`((?:{spaces})\.[a-z-]+)\b", README) if name != "invoke.yaml"} <= own


def test_what_it_links_to_is_there() -> None:
    titles = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    for link in re.findall(r"\]\((?!https?://)(.*?)\)", README):
        assert link in anchors or (REPOSITORY / link).exists(), link


def _text(section: str) -> str:
    [text] = re.findall(rf"^##? {re.escape(section)}\n(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)
    return str(text)


def _blocks(section: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w*)\n(.*?)^```$", _text(section), re.DOTALL | re.MULTILINE)


def _file(text: str) -> str:
    """The name of the file that a block is; empty where it is none."""
    named = re.match(r"# (\w+\.py)\n", text)
    return named[1] if named else ""


def _differences(section: str, directory: Path) -> list[str]:
    """Run a section's blocks in one shell; what they print and the README does not show, or the other way round."""
    script, shown = ["trap 'code=$?; inv local.down >/dev/null 2>&1 || true; exit $code' EXIT"], []
    for kind, text in _blocks(section):
        if kind == "python" and _file(text):
            script.append(f"printf %s {shlex.quote(text)} >{_file(text)}")
        elif kind == "sh":
            script.append(text)
        elif kind == "text":
            shown.append(text)
            script.append(r"printf '\036'")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(script)],
        cwd=directory,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTEST_ADDOPTS": "-p no:randomly -p no:cacheprovider -p no:xdist",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    *printed, rest = done.stdout.split("\036")
    if done.returncode:
        return [f"{section} ends with {done.returncode}:", done.stdout]
    wrong = [f"{section} prints what is not shown: {rest}"] if rest else []
    for expected, actual in zip(shown, printed, strict=True):
        want, got = _same(expected), _same(actual)
        pattern = re.escape("\n".join(want)).replace(r"\.\.\.", ".*")
        if not re.fullmatch(pattern, "\n".join(got)):
            wrong += [f"{section}:", *difflib.unified_diff(want, got, "README", "printed", lineterm=""), actual]
    return wrong


def _same(text: str) -> list[str]:
    for pattern, replacement in CHANGES:
        text = re.sub(pattern, replacement, text)
    return text.rstrip("\n").split("\n")
