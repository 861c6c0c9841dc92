"""Any legal key: what hypothesis makes up, on both sides where moto can, and on the stub alone where it can't."""

from __future__ import annotations

import json
import os
import uuid

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from tests.s3.conftest import RealSide, StubSide, transfer_lines

FIXTURES = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
# what is special to a shell, to a file system, to a glob, to the stub's own names, and to UTF-8
SPECIAL = st.sampled_from(
    [*"/.%^ '\"\\*?[]~$`!&;|<>(){}#=+-_,:@\t", "..", "//", "é", "\u4e00", "\U0001f600", "^5E", "%2F"]
)
ANY = st.characters(codec="utf-8", exclude_characters="\0")
# the XML of a listing has no control characters, and moto's routes end at a line's end
PRINTABLE = st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp"), exclude_characters="\ufffe\uffff")


def keys(characters: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    text = st.lists(st.one_of(SPECIAL, characters, st.sampled_from("ab")), min_size=1, max_size=12).map("".join)
    return text.filter(lambda key: len(key.encode()) <= 1024)


@settings(max_examples=8, deadline=None, suppress_health_check=FIXTURES)
@given(st.lists(keys(PRINTABLE), min_size=1, max_size=5, unique=True))
@example(["a", "a/b", "a//b", "/a", "a/", "../a", "a/../b", "./a", "..", "."])
def test_odd_keys_as_the_cli(real: RealSide, stub: StubSide, names: list[str]) -> None:
    bucket = f"bkt-{uuid.uuid4()}"
    real.client.create_bucket(Bucket=bucket)
    for name in names:
        real.put(bucket, name, name.encode())
        stub.put(bucket, name, name.encode())
    for command in (
        ["s3", "ls", f"s3://{bucket}", "--recursive"],
        ["s3", "ls", f"s3://{bucket}"],
        ["s3", "ls", f"s3://{bucket}/{names[0]}"],
        ["s3", "rm", f"s3://{bucket}/", "--recursive", "--dryrun"],
        ["s3", "cp", f"s3://{bucket}/", ".", "--recursive", "--dryrun"],
        ["s3api", "list-objects-v2", "--bucket", bucket, "--query", "Contents[].Key"],
    ):
        theirs, ours = real.run(command), stub.run(command)
        assert ours.code == theirs.code, command
        # the CLI ends its progress, which the stub does not show, with an empty line
        here, there = (list(filter(None, transfer_lines(text))) for text in (ours.stdout, theirs.stdout))
        assert here == there, command
        assert ours.stderr.replace(str(stub.root), "") == theirs.stderr.replace(str(real.root), ""), command


@settings(max_examples=25, deadline=None, suppress_health_check=FIXTURES)
@given(st.dictionaries(keys(ANY), st.binary(max_size=64), min_size=1, max_size=4))
@example({"line\nbreak": b"1", "line": b"2", "\n": b"3", "\x01": b"4", "\x7f\x1f": b"5", "a\tb": b"6"})
@example({"x" * 1024: b"long", "x" * 255: b"1", "x" * 256: b"2", "y" * 240 + ".": b"3", "y" * 480 + "..": b"4"})
@example({"é" * 512: b"many bytes", "/" * 1024: b"nothing but slashes", "../" * 341: b"up and away"})
def test_any_key_comes_back(stub: StubSide, objects: dict[str, bytes]) -> None:
    bucket = f"bkt-{uuid.uuid4()}"
    before = {path for path in stub.root.parent.parent.rglob("*")}
    for number, (key, body) in enumerate(objects.items()):
        if number % 2 and not key.endswith("/"):
            assert stub.run(["s3", "cp", "-", f"s3://{bucket}/{key}"], body).code == 0
        else:
            stub.put(bucket, key, body)
    listed = json.loads(stub.run(["s3api", "list-objects-v2", "--bucket", bucket]).stdout)["Contents"]
    assert [entry["Key"] for entry in listed] == sorted(objects, key=str.encode)
    assert [entry["Size"] for entry in listed] == [len(objects[entry["Key"]]) for entry in listed]
    assert {path for path in stub.root.parent.parent.rglob("*")} == before
    for key, body in objects.items():
        done = stub.run(["s3", "cp", f"s3://{bucket}/{key}", "-"])
        assert (done.code, done.stdout.encode("utf-8", "surrogateescape")) == (0, body)
    assert stub.run(["s3", "rm", f"s3://{bucket}", "--recursive"]).code == 0
    assert stub.run(["s3", "ls", f"s3://{bucket}", "--recursive"]).stdout == ""


@pytest.mark.parametrize("many", [3, 9], ids=["one by one", "many at a time"])
def test_names_of_files_survive_a_round_trip(stub: StubSide, many: int) -> None:
    names = [
        "a b",
        "-n",
        "new\nline",
        "tab\t",
        "%",
        "^41",
        "ctrl\x01\x03",
        "*?[x]",
        "é\udcff".encode("utf-8", "replace").decode(),
    ]
    files = {f"in/d {i % 2}/{name}": bytes([i, 0, 255]) for i, name in enumerate(names[:many])}
    for name, body in files.items():
        path = stub.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        os.utime(path, (1_500_000_000, 1_500_000_000))
    assert stub.run(["s3", "cp", "in", "s3://bkt/x", "--recursive"]).code == 0
    assert stub.run(["s3", "cp", "s3://bkt/x", "out", "--recursive"]).code == 0
    for name, body in files.items():
        assert (stub.root / "out" / name.removeprefix("in/")).read_bytes() == body
    assert stub.run(["s3", "sync", "s3://bkt/x", "in"]).stdout == ""


@pytest.mark.parametrize(("name", "at"), [("x\udcff", "character '\\udcff' in position 1"), ("é\udce2\udc82/y", "1-2")])
def test_a_key_that_is_no_utf8_is_refused(stub: StubSide, name: str, at: str) -> None:
    """The CLI transfers the others, and says what it can't encode; nothing is stored under such a key."""
    for file in (name, "fine", "2", "3", "4"):
        path = stub.root / "in" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    for code, command in (
        (1, ["s3", "cp", "in/fine", f"s3://bkt/{name}"]),
        (1, ["s3", "cp", f"s3://bkt/{name}", "-"]),
        (1, ["s3", "rm", f"s3://bkt/{name}"]),
        (255, ["s3", "ls", f"s3://bkt/{name}"]),
        (255, ["s3api", "put-object", "--bucket", "bkt", "--key", name, "--body", "in/fine"]),
        (1, ["s3", "sync", "in", "s3://bkt"]),
    ):
        done = stub.run(command)
        assert (done.code, at in done.stderr, "surrogates not allowed" in done.stderr) == (code, True, True), command
    assert sorted(stub.objects()) == ["bkt/2", "bkt/3", "bkt/4", "bkt/fine"]


@settings(max_examples=30, deadline=None, suppress_health_check=FIXTURES)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["--include", "--exclude"]),
            st.lists(st.sampled_from(list("ab*?[]!^-/.\\(|)+@é")), min_size=1, max_size=6).map("".join),
        ),
        min_size=1,
        max_size=3,
    )
)
def test_filters_as_fnmatch(stub: StubSide, filters: list[tuple[str, str]]) -> None:
    import fnmatch

    assume(not any(pattern.startswith("/") for _, pattern in filters))
    names = ["a", "b", "ab", "a/b", "b.a", "[a]", "a-b", "^", "!", "]", "\\", "(a|b)", "é", "a/é/b"]
    bucket = "filtered"
    if not stub.objects():
        for name in names:
            stub.put(bucket, name, b"")
    flags = [word for kind, pattern in filters for word in (f"{kind}={pattern}",)]
    done = stub.run(["s3", "rm", f"s3://{bucket}", "--recursive", "--dryrun", *flags])
    kept = []
    for name in names:
        included = True
        for kind, pattern in filters:
            if fnmatch.fnmatchcase(f"{bucket}/{name}", f"{bucket}/{pattern}"):
                included = kind == "--include"
        if included:
            kept.append(f"(dryrun) delete: s3://{bucket}/{name}")
    assert (done.code, sorted(done.stdout.splitlines())) == (0, sorted(kept))
