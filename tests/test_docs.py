"""The README and docs/ do what they say: their blocks run and print what they show; what they link to is there.

The `sh` blocks of a chapter (a section of the README, a page of docs/) run in one shell, in their order, in a copy of
what a checkout has. A `text` block after them is what they print, with `...` for anything;
a chapter without any shows none of it. A `python` block that begins
with its file's name is that file; the others are in the tests of an example, or run by tests/test_plugin.py. A
`console` block can't run here: it needs AWS, a package index, or an engine (tests/engines runs those).
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import INV, REPOSITORY
from tests.patience import patience

README = (REPOSITORY / "README.md").read_text()
CONTRIBUTING = (REPOSITORY / "CONTRIBUTING.md").read_text()
PAGES = {path: path.read_text() for path in (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))}


def chapters() -> dict[str, str]:
    """By name, what is read in one go: the sections of the README, and each page of docs/."""
    found = {path.stem: text for path, text in PAGES.items() if path.name != "README.md"}
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.DOTALL | re.MULTILINE)
    for title in re.findall(r"^##? (.*)\n", prose, re.MULTILINE):
        [text] = re.findall(rf"^##? {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)
        found[title] = text
    return found


CHAPTERS = chapters()
CHANGES = [
    (r"\bi-[0-9a-f]{17}\b", "i-ID"),
    (r"\b(ami|sg|vpc)-[0-9a-f]{8,17}\b", r"\1-ID"),
    (r"\bip-127-77-\d+-\d+\b", "ip-ADDRESS"),
    (r"\b127\.77\.\d+\.\d+\b", "ADDRESS"),
    (r"http://127\.0\.0\.1:\d+", "URL"),
    (r"isolation of instances: .*", "isolation of instances: KIND"),
    (r"\bhardway-[0-9a-f]{12}\b", "KEY"),
    (r"\b\d\d:\d\d UTC", "TIME"),
    (r"`\S*\binv ", "`inv "),
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
"""Texts that differ from run to run, and the texts that are compared in their place."""


def blocks(chapter: str, language: str = "") -> list[str]:
    """The code blocks of a chapter, in a language."""
    return [text for kind, text in _blocks(chapter) if kind == language]


def run(command: list[str], directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=patience(180),
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.starts
@pytest.mark.parametrize("chapter", [name for name in CHAPTERS if "```sh\n" in CHAPTERS[name]])
def test_every_block_runs_and_prints_what_is_shown(chapter: str, home: Path, tmp_path: Path) -> None:
    directory = tmp_path / "a directory"
    directory.mkdir()
    if chapter != "A job of your own":
        for name in ("LICENSE", "examples", "invoke.yaml", "tasks"):
            (directory / name).symlink_to(REPOSITORY / name)
        (directory / ".venv").mkdir()
        (directory / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
        # In place of the demo, which tests/test_demo.py runs, and of this run of the tests: there are such tasks.
        only_help = 'case $1 in demo | test) set -- --help "$1"; exec >/dev/null;; esac\n'
        (directory / "inv").write_text(f'#!/bin/sh\n{only_help}exec {shlex.join(INV)} "$@"\n')
        (directory / "inv").chmod(0o755)
    wrong = _differences(chapter, directory)
    assert not wrong, "\n".join(wrong)


def test_every_python_block_is_run() -> None:
    tests = (REPOSITORY / "examples/wordcount/test_wordcount.py").read_text()
    for chapter in CHAPTERS:
        for text in blocks(chapter, "python"):
            shared = chapter == "testing" and text == blocks(chapter, "python")[2]
            assert _file(text) or text in tests or shared, text


def test_few_blocks_are_not_run() -> None:
    kinds = [kind for chapter in CHAPTERS for kind, _ in _blocks(chapter)]
    # The policy of docs/permissions.md is `json`: tests/ec2/test_check.py compares it with the calls in the source.
    assert set(kinds) == {"console", "json", "python", "sh", "text"}
    # The job on AWS in five lines, pip, an AWS account, an engine on instances, and virtual machines, for tests/vm.
    assert kinds.count("console") == 5


def test_every_task_that_is_named_is_there() -> None:
    from tasks import ns

    own = {name for name in ns.task_names if "." in name}
    for text in PAGES.values():
        named = set(re.findall(r"`(?:inv )?((?:cluster|ec2|local|mapreduce|s3)\.[a-z-]+)\b", text))
        assert named - {"invoke.yaml"} <= own


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_is_there(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?://)(.*?)\)", PAGES[page]):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(PAGES[target]), link


def anchors(text: str) -> Iterator[str]:
    """The anchors of a page: its titles, as GitHub and mkdocs write them."""
    for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        yield re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def test_contributing_names_what_is_there() -> None:
    for part in re.split(r"^(?=- |\d+\. )|\n\n", CONTRIBUTING, flags=re.MULTILINE):
        # A file or folder stands in one that is named before, or in the repository's.
        folders = ["", *re.findall(r"`([\w/]+/)`", part)]
        for name in re.findall(r"`(\w+/[\w./-]*|\w+\.(?:py|sh))`", part):
            assert any((REPOSITORY / folder / name).exists() for folder in folders), name


@pytest.mark.parametrize("row", re.findall(r"^\| (?!to change)(\w.*) \|$", CONTRIBUTING, re.MULTILINE))
def test_what_to_change_is_in_the_file_named_after_it(row: str) -> None:
    names: list[str] = []
    for code in re.findall(r"`([\w./]+)`", row):
        if "/" in code:
            text = (REPOSITORY / code).read_text()
            assert [name for name in names if not re.search(rf"\b{name}\b", text)] == [], code
            names = []
        else:
            names.append(code)
    assert not names


def test_the_readme_is_short() -> None:
    assert len(README.split()) <= 1300


def _blocks(chapter: str) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w*)\n(.*?)^```$", CHAPTERS[chapter], re.DOTALL | re.MULTILINE)


def _file(text: str) -> str:
    """The name of the file that a block is; empty where it is none."""
    named = re.match(r"# (\w+\.py)\n", text)
    return named[1] if named else ""


def _differences(chapter: str, directory: Path) -> list[str]:
    """Run a chapter's blocks in one shell; what they print and the README does not show, or the other way round."""
    script, shown = ["trap 'code=$?; inv local.down >/dev/null 2>&1 || true; exit $code' EXIT"], []
    for kind, text in _blocks(chapter):
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
        timeout=patience(120),
    )
    *printed, rest = done.stdout.split("\036")
    if done.returncode:
        return [f"{chapter} ends with {done.returncode}:", done.stdout]
    wrong = [f"{chapter} prints what is not shown: {rest}"] if rest and shown else []
    for expected, actual in zip(shown, printed, strict=True):
        want, got = _same(expected), _same(actual)
        pattern = re.escape("\n".join(want)).replace(r"\.\.\.", ".*")
        if not re.fullmatch(pattern, "\n".join(got)):
            wrong += [f"{chapter}:", *difflib.unified_diff(want, got, "README", "printed", lineterm=""), actual]
    return wrong


def _same(text: str) -> list[str]:
    for pattern, replacement in CHANGES:
        text = re.sub(pattern, replacement, text)
    return text.rstrip("\n").split("\n")
