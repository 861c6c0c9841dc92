"""The ground floor: files written whole, locks, tables, durations, a program's last line."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import pytest

from hardway import files
from hardway.errors import Failed, reason_of
from hardway.tables import Table, duration
from hardway.terminal import cut_short, last_line


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0o377)
    yield
    os.umask(before)


def test_a_file_is_whole_and_replaced_at_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write(path, [b"one"])
    with path.open("rb") as reader:
        files.write(path, [b"t", b"wo"], synced=True)
        assert (reader.read(), path.read_bytes()) == (b"one", b"two")

    def broken() -> Iterator[bytes]:
        yield b"half"
        raise Failed("no more")

    with pytest.raises(Failed):
        files.write(path, broken())
    files.write(path, [b"three"], replace=False)
    assert (path.read_bytes(), os.listdir(tmp_path)) == (b"two", ["file"])


def test_a_private_file_is_so_whatever_the_umask(tmp_path: Path, no_umask: None) -> None:
    files.write(tmp_path / "ours", [b""])
    files.write(tmp_path / "theirs", [b""], private=False)
    assert (mode(tmp_path / "ours"), mode(tmp_path / "theirs")) == (0o600, 0o400)


def test_a_file_that_can_not_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none" / "file"
    with pytest.raises(FileNotFoundError) as error:
        files.write(path, [b""])
    assert (error.value.filename, reason_of(error.value)) == (str(path), "no such file or directory")


def test_a_lock_is_held_until_the_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with path.open("w") as one, path.open() as two:
        assert files.lock(one)
        assert not files.lock(two)
        assert not files.lock(two, shared=True)
    with path.open() as one, path.open() as two, path.open() as three:
        assert files.lock(one, shared=True)
        assert files.lock(two, shared=True)
        assert not files.lock(three)
    with path.open() as one:
        assert files.lock(one)


@dataclass(frozen=True)
class Thing:
    name: str
    made: datetime | None = None
    default: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    zones: tuple[str, ...] = ()


def test_a_table_has_a_line_a_row_and_json_has_all() -> None:
    made = datetime(2026, 1, 5, tzinfo=timezone.utc)
    rows = [Thing("one", made, True, {"b": "2", "a": "1"}, ("x", "y")), Thing("two\x1b")]
    table = Table(rows, "name", "made", "default", "tags", "zones", lambda thing: len(thing.zones))
    assert str(table).splitlines() == [
        r"one      2026-01-05T00:00:00+00:00  default  a=1,b=2  x,y  2",
        r"two\x1b  -                          -        -        -    0",
    ]
    assert table.lines("name") == ["one", r"two\x1b"]
    assert json.loads(table.json())[0]["made"] == "2026-01-05T00:00:00+00:00"
    assert (str(Table([], "name")), Table([{"a": 1}]).json()) == ("", '[\n  {\n    "a": 1\n  }\n]')


@pytest.mark.parametrize(
    ("seconds", "exact", "rough"),
    [
        (0, "0 s", "0 s"),
        (0.1234, "0.123 s", "0.12 s"),
        (12.5, "12.5 s", "12 s"),
        (99.7, "99.7 s", "100 s"),
        (100, "1.67 min", "1.7 min"),
        (5999, "100 min", "100 min"),
        (3 * 3600, "3 h", "3 h"),
        (1000 * 86400, "1000 days", "1000 days"),
    ],
)
def test_a_duration_as_a_person_says_it(seconds: float, exact: str, rough: str) -> None:
    assert (duration(seconds), duration(seconds, 2)) == (exact, rough)


def test_the_last_line_has_the_reason() -> None:
    assert last_line(b"first\n  why: \x1b[31m\xff \n\n") == r"why: \x1b[31m" + "\ufffd"
    assert (last_line(""), last_line(b" \n"), last_line("why")) == ("", "", "why")
    assert (cut_short("a" * 5, 5), cut_short("a\nb" * 5, 4)) == ("aaaaa", r"a\nba...")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/x"), "no space left on device"),
        (OSError("Odd"), "odd"),
        (ValueError("embedded null byte"), "embedded null byte"),
    ],
)
def test_an_error_of_the_system_in_a_sentence(error: Exception, said: str) -> None:
    assert reason_of(error) == said
