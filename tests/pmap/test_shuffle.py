"""Between two jobs: lines grouped by partition, whatever is in them; objects put together, all of them or none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from invoke.context import Context

from hardway.errors import Failed, UsageError
from hardway.pmap import arguments, shuffle
from hardway.s3 import stub_sessions
from tasks import mapreduce
from tests.conftest import REPOSITORY, LocalCloud
from tests.patience import patience

FIELD = st.binary(max_size=8).filter(lambda field: b"\n" not in field and b"\t" not in field)


@given(st.lists(st.tuples(FIELD, FIELD)))
def test_a_line_for_each_partition_with_its_values_in_order(pairs: list[tuple[bytes, bytes]]) -> None:
    expected: dict[bytes, list[bytes]] = {}
    for partition, value in sorted(pairs, key=lambda pair: pair[0]):
        expected.setdefault(partition, []).append(value)
    grouped = shuffle.group(partition + b"\t" + value + b"\n" for partition, value in pairs)
    lines = [line.encode("utf-8", "surrogateescape") for line in grouped]
    assert lines == [b"\t".join([key, *values]) + b"\n" for key, values in expected.items()]


def test_a_value_may_hold_tabs_and_a_partition_blanks(home: Path) -> None:
    assert mapreduce.group(Context(), "a b\tx\ty\nb\t\n\na b\tz") == ["a b\tx\ty\tz\n", "b\t\n"]
    assert mapreduce.group(Context(), ["b\t1", "a\t2\n\nb\t3\n"]) == ["a\t2\n", "b\t1\t3\n"]
    assert mapreduce.group(Context(), "") == []


def test_the_partitions_of_one_job_are_the_arguments_of_the_next(home: Path) -> None:
    grouped = mapreduce.group(Context(), "b\t1\na\t2\nb\t3")
    assert arguments.read(grouped).items == [b"a\t2\n", b"b\t1\t3\n"]


@pytest.mark.parametrize("lines", ["a\t1\nno partition", ["a\t1", "two\nlines\t1"]])
def test_what_has_no_partition_is_named(home: Path, lines: str | list[str]) -> None:
    with pytest.raises(UsageError, match="line 2 is not a partition, a tab and a value"):
        mapreduce.group(Context(), lines)


def test_a_file_that_is_not_there(home: Path) -> None:
    with pytest.raises(UsageError, match="cannot read the arguments in nowhere: no such file"):
        mapreduce.group(Context(), "@nowhere")


def test_no_room_to_sort_in_is_one_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(home / "tmp"))
    (home / "sort").write_text('#!/bin/sh\nexec /usr/bin/sort -S 1M -T /nowhere "$@"\n')
    (home / "sort").chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}:/usr/bin:/bin")
    with pytest.raises(Failed, match=r"cannot sort the lines: .*nowhere"):
        shuffle.group(b"%d\t%s\n" % (n, b"x" * 1000) for n in range(5000))


def test_many_lines_from_stdin_need_little_memory(home: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from tasks import mapreduce; from invoke import Context\n"
        "mapreduce.group(Context(), '-').write_to(sys.stdout.buffer)\n"
        "print(open('/proc/self/status').read().partition('VmHWM:')[2].split()[0], file=sys.stderr)"
    )
    sent = b"".join(b"%d\ts3://bucket/%032d\n" % (n % 3, n) for n in range(400_000))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, input=sent, capture_output=True, timeout=patience(60)
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line[:2] for line in lines] == [b"0\t", b"1\t", b"2\t"]
    assert lines[1].split(b"\t")[1:] == [b"s3://bucket/%032d" % n for n in range(1, 400_000, 3)]
    assert int(done.stderr) * 1024 < 60_000_000


@pytest.fixture(params=["stub", "s3"])
def bucket(
    request: pytest.FixtureRequest, cloud: LocalCloud, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A bucket with the objects 0 to 99, in the stub or behind an endpoint."""
    if request.param == "stub":
        with stub_sessions.session() as session:
            for name, value in session.environment.items():
                monkeypatch.setenv(name, value)
            source = home / "objects"
            source.mkdir()
            for n in range(100):
                (source / str(n)).write_text(f"object {n}\n")
            subprocess.run(["aws", "s3", "cp", "--quiet", "--recursive", source, "s3://small"], check=True)
            yield "s3://small"
    else:
        for name, value in cloud.env.items():
            monkeypatch.setenv(name, value)
        client = cloud.client("s3")
        client.create_bucket(Bucket="small")
        for n in range(100):
            client.put_object(Bucket="small", Key=str(n), Body=f"object {n}\n".encode())
        yield "s3://small"
        for found in client.list_objects_v2(Bucket="small")["Contents"]:
            client.delete_object(Bucket="small", Key=found["Key"])
        client.delete_bucket(Bucket="small")


def test_objects_come_together_in_the_order_of_their_urls(bucket: str, cloud: LocalCloud, home: Path) -> None:
    order = [*range(99, -1, -1), 5]
    urls = [f"{bucket}/{n}" for n in order]
    assert mapreduce.gather(Context(), urls, f"{bucket}/all") == f"{bucket}/all"
    again = mapreduce.gather(Context(), f"{bucket}/all\n{bucket}/7", f"{bucket}/all")
    mapreduce.gather(Context(), again, f"{bucket}/copy")
    expected = "".join(f"object {n}\n" for n in [*order, 7])
    with pytest.raises(Failed, match=f"cannot read {bucket}/nowhere"):
        mapreduce.gather(Context(), f"{bucket}/1\n{bucket}/nowhere", f"{bucket}/copy")
    assert content(f"{bucket}/copy") == expected
    mapreduce.gather(Context(), "", f"{bucket}/empty")
    assert content(f"{bucket}/empty") == ""


def content(url: str) -> str:
    """The object's content, read by the real CLI, or by the stub where the shell is stubbed."""
    path = f"{Path(sys.executable).parent}"
    aws = subprocess.run(
        ["bash", "-c", f'PATH=$PATH:"{path}" && exec aws s3 cp {url} -'],
        capture_output=True,
        text=True,
        timeout=patience(60),
    )
    assert aws.returncode == 0, aws.stderr
    return aws.stdout


@pytest.mark.parametrize(
    ("urls", "destination", "said"),
    [
        ("s3://b/k\nhttp://b/k", "s3://b/all", "'http://b/k' is not the URL of an object"),
        ("s3://b/k", "s3://b", "'s3://b' is not the URL of an object: write s3://bucket/key"),
        ("s3://b/k", "s3://b/all/", "'s3://b/all/' is not the URL"),
    ],
)
def test_what_is_no_object_is_named_before_anything_is_read(home: Path, urls: str, destination: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        mapreduce.gather(Context(), urls, destination)
