"""The meaning of ARGS: lines from Windows, names of files, and text that comes in pieces."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardway.errors import UsageError
from hardway.pmap.arguments import Cutter, hint_of_command, read


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\r\n", ""])
def test_lines_from_windows_become_ours(tmp_path: Path, encoding: str, end: str) -> None:
    (tmp_path / "args.txt").write_bytes(f"caf\u00e9\r\n\r\nb{end}".encode(encoding))
    given = read(f"@{tmp_path / 'args.txt'}", crlf=True)
    assert (given.items, given.skipped, given.hint) == (["caf\u00e9\n".encode(), b"b\n"], 1, "")


def test_lines_from_windows_are_not_passed_on_silently(tmp_path: Path) -> None:
    (tmp_path / "args.txt").write_bytes("a\r\nb\nc\r\n".encode("utf-8-sig"))
    hint = read(f"@{tmp_path / 'args.txt'}").hint
    assert (
        hint.startswith("the arguments have a byte order mark and CR at the end of 2 of 3 lines") and "--crlf" in hint
    )
    (tmp_path / "args.txt").write_bytes("a\r\n".encode("utf-16"))
    with pytest.raises(UsageError, match=r"UTF-16.*--crlf"):
        read(f"@{tmp_path / 'args.txt'}")
    with pytest.raises(UsageError, match="--null"):
        read("a", null=True, crlf=True)
    assert read([b"a\r\n", b"b\r\n"]).hint.startswith("the arguments have CR at the end of 2 of 2 lines")
    assert read([b"\xef\xbb\xbfa\r\n", "b"], crlf=True).items == [b"a\n", b"b\n"]
    assert read("a\r\nb", null=True).hint == ""


def test_a_name_of_a_file_is_the_argument_and_there_is_a_hint(tmp_path: Path) -> None:
    (tmp_path / "args.txt").write_text("a\nb\n")
    given = read(str(tmp_path / "args.txt"))
    assert given.items == [f"{tmp_path / 'args.txt'}\n".encode()]
    assert f"@{tmp_path / 'args.txt'} reads its lines" in given.hint
    assert read(f"@{tmp_path / 'args.txt'}").hint == read(str(tmp_path)).hint == ""


@pytest.mark.parametrize("command", ["wc -c {}", "bash step.sh '{}'", "aws s3 cp s3://b/{} - | wc", "{}"])
def test_braces_get_a_hint(command: str) -> None:
    assert "stdin" in hint_of_command(command)


@pytest.mark.parametrize(
    "command",
    ["xargs -I{} cat {}", "find . -exec wc {} +", "python3 -c 'd = {}'", "f() {}; f", "echo ${x}", "awk '{print}'"],
)
def test_other_braces_get_none(command: str) -> None:
    assert hint_of_command(command) == ""


@settings(max_examples=50, deadline=None)
@given(st.text("a\u00e9\r\n\0", max_size=30), st.lists(st.integers(0, 90)), st.sampled_from(["utf-8", "utf-16"]))
def test_where_a_text_is_cut_makes_no_difference(text: str, places: list[int], encoding: str) -> None:
    data = text.encode(encoding)
    whole, cut = Cutter(crlf=True), Cutter(crlf=True)
    places = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    pieces = [data[begin:end] for begin, end in pairwise(places)]
    items = [item for piece in pieces for item in cut.feed(piece)] + cut.feed(b"", last=True)
    assert items == whole.feed(data, last=True)
    assert cut.skipped == whole.skipped
