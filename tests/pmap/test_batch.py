"""Tasks of several arguments each: what a command reads, and what is told of a batch afterwards."""

from __future__ import annotations

import pytest
from invoke import Config, Context

from hardway.errors import UsageError
from hardway.pmap import arguments
from hardway.pmap.results import TasksFailed
from hardway.pmap.stream import Stream
from tasks import mapreduce
from tests.pmap.conftest import Cluster


@pytest.fixture
def c(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Context:
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    return Context(Config(defaults=mapreduce.ns.configuration()))


def test_each_argument_is_a_line_or_ends_in_nul() -> None:
    given = arguments.read("a\nb\nc\n")
    batches = arguments.batched(given, 2, null=False)
    assert isinstance(batches, arguments.Arguments)
    assert batches.items == [b"a\nb\n", b"c\n"]
    assert batches.kept(null=False) == (b"a\nb\nc\n", False), "the line that resumes the job batches them again"
    batches = arguments.batched(arguments.read("a b\0c\nd\0e\0", null=True), 2, null=True)
    assert isinstance(batches, arguments.Arguments)
    assert batches.items == [b"a b\0c\nd\0", b"e\0"]
    assert batches.kept(null=True) == (b"a b\0c\nd\0e\0", True)


def test_a_stream_comes_in_batches_and_the_last_may_be_smaller() -> None:
    stream = arguments.stream((str(number) for number in range(5)), null=False, crlf=False, ordered=True)
    batches = arguments.batched(stream, 2, null=False)
    assert isinstance(batches, Stream)
    assert list(batches) == [b"0\n1\n", b"2\n3\n", b"4\n"]
    stream.close()


def test_a_result_is_a_batchs_and_so_is_a_failure(
    c: Context, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "grep -v bad >lines || exit 3; wc -l <lines"
    given = ["1", "2", "bad", "bad", "5"]
    with pytest.raises(TasksFailed) as failure:
        mapreduce.pmap(c, cluster.ids, given, command, batch=2, retries=0, keep_going=True, job="batched")
    assert [result.strip() for result in failure.value.results] == ["2", "", "1"]
    assert [failed.argument for failed in failure.value.failed] == ["bad\nbad"]
    assert str(mapreduce.results(c, "batched", failed=True)).split() == ["bad", "bad"]
    assert "--batch=2" in (cluster.jobs / "batched" / "resume").read_text()
    with pytest.raises(UsageError, match="job batched ran with --batch 2, so this is another job"):
        mapreduce.pmap(c, cluster.ids, given, command, resume="batched")
    with pytest.raises(UsageError, match="is for tasks of one argument"):
        mapreduce.pmap(c, cluster.ids, given, command, batch=2, expect="s3://b/{}")
    with pytest.raises(UsageError, match="--batch is '0'"):
        mapreduce.pmap(c, cluster.ids, given, command, batch=0)
