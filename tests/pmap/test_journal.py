"""A job's files on this machine: a crash loses nothing, and nothing damaged is believed."""

from __future__ import annotations

import json
import os
import re
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardway.errors import Failed, UsageError
from hardway.pmap import job_list, job_paths, journal
from hardway.pmap.job import (
    VERSION,
    Damaged,
    Heads,
    Job,
    digest_of,
    fingerprint,
    keys_of,
    read_asked,
    read_journal,
)
from hardway.pmap.run import longest_first


@pytest.fixture
def job(home: Path) -> Job:
    return Job.create("cat", name="j", selector="all", source="ARGS")


def heads_of(job: Job) -> list[bytes]:
    return list(Heads(job.path, read_journal(job.path, job.asked)[1]))


def finish(job: Job, task: int, stdout: bytes, code: int = 0) -> None:
    job.started(task, 1, "i-1")
    result = job.ended(task, 1, "i-1", code, 0, 0.5, stdout, b"said")
    if not code:
        job.done(task, result)


def test_what_was_written_is_read_back(job: Job, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(b"x" * 3_000_000)
    numbers = job.number(keys_of([b"a", b"b", b"a"]))
    assert numbers == [1, 2, 3]
    finish(job, 1, b"one\n")
    finish(job, 2, b"")
    job.started(3, 1, "i-1")
    job.done(3, job.ended(3, 1, "i-1", 0, 0, 1.0, large, b""))
    job.close()
    with Job(job.path) as again:
        assert again.number(keys_of([b"b", b"new", b"a", b"a"])) == [2, 4, 1, 3]
        results = again.history.results
        assert [b"".join(again.pieces(task, results[task])) for task in (1, 2)] == [b"one\n", b""]
        assert b"".join(again.pieces(3, results[3])) == b"x" * 3_000_000
        assert b"".join(again.pieces(1, results[1], "stderr")) == b"said"
        assert all(again.intact(task, result) for task, result in results.items())
        assert again.history.open == {}


def test_how_arguments_begin_is_kept_for_people(job: Job) -> None:
    long = b"s3://bucket/" + b"x" * 200 + b"/part-7"
    first, then = [b"a\n", b"", b"\0\xff\n"], [long, b"a\n", b"b" * 95]
    job.number(keys_of(first), first)
    (job.path / "heads").write_bytes((job.path / "heads").read_bytes() + b"what a crash left")
    job.number(keys_of(then), then)
    heads = heads_of(job)
    assert heads[:3] == [b"a", b"", b"\0\xff"]
    assert heads[3].startswith(b"s3://bucket/x")
    assert heads[3].endswith(b"x/part-7")
    assert heads[4:] == [b"b" * 95]
    job.number(keys_of([b"unknown"]))
    assert heads_of(job)[5:] == [b""], "a job of before, or that asked for none"
    job.close()


def test_directories_are_private(job: Job) -> None:
    assert job.path.stat().st_mode & 0o777 == 0o700
    job.close()


def test_a_second_driver_is_refused_while_the_first_lives(job: Job) -> None:
    with pytest.raises(Failed, match=f"pid {os.getpid()}"):
        Job(job.path)
    job.close()
    Job(job.path).close()


def test_a_torn_last_line_is_dropped_and_a_damaged_one_is_refused(job: Job) -> None:
    for task in (1, 2, 3):
        finish(job, task, b"x")
    job.close()
    file = job.path / "journal"
    file.write_bytes(file.read_bytes()[:-5])
    with Job(job.path) as again:
        assert set(again.history.results) == {1, 2}
        finish(again, 9, b"y")
    with Job(job.path) as again:
        assert set(again.history.results) == {1, 2, 9}
    good = file.read_bytes()
    lines = good.splitlines(keepends=True)
    ways = {
        "changed": [*lines[:2], lines[2].replace(b"end 1", b"end 7"), *lines[3:]],
        "missing": [*lines[:2], *lines[3:]],
        "doubled": [*lines[:3], *lines[2:]],
        "moved": [lines[0], lines[2], lines[1], *lines[3:]],
        "the first gone": lines[1:],
        "empty": [],
    }
    for way, damaged in ways.items():
        file.write_bytes(b"".join(damaged))
        with pytest.raises(Damaged, match=f"job j is damaged: {file} is not"):
            Job(job.path)
        assert job_list.describe(job.path)["state"] == "damaged", way
    file.write_bytes(good)
    Job(job.path).close()


def test_a_result_that_changed_on_disk_is_not_believed(job: Job) -> None:
    finish(job, 1, b"good")
    job.close()
    (job.path / "stdout").write_bytes(b"evil")
    with Job(job.path) as again:
        result = again.history.results[1]
        assert not again.intact(1, result)
        with pytest.raises(Failed, match="damaged"):
            list(again.pieces(1, result))


def test_names(home: Path) -> None:
    Job.create("cat", name="x").close()
    with pytest.raises(UsageError, match="--resume x"):
        Job.create("cat", name="x")
    for name in ("../x", "a b", "-x", ".x"):
        with pytest.raises(UsageError, match="a job's name"):
            Job.create("cat", name=name)
    with pytest.raises(UsageError, match="did you mean abc"):
        Job.create("cat", name="abc").close()
        read_asked(job_paths.jobs_path() / "abd")


def test_a_job_whose_description_is_damaged_is_listed_and_can_be_removed(job: Job) -> None:
    job.close()
    (job.path / "job.json").write_text("{")
    assert job_list.describe(job.path)["state"] == "damaged"
    job_list.remove(job.path)
    assert job_paths.all_jobs() == []


def test_the_files_a_job_depends_on_are_part_of_what_it_is(tmp_path: Path) -> None:
    file = tmp_path / "step.sh"
    file.write_text("1")
    before = fingerprint("cat", [digest_of(str(file))])
    assert before != fingerprint("cat")
    file.write_text("2")
    assert fingerprint("cat", [digest_of(str(file))]) != before
    assert fingerprint("cat", [], "a digest") != fingerprint("cat")
    with pytest.raises(UsageError, match="no such file"):
        digest_of(str(tmp_path / "none"))


def test_a_job_that_ran_elsewhere_is_another_job(home: Path) -> None:
    here = {"endpoint": "http://127.0.0.1:1", "account": "1", "region": "us-east-1"}
    made_of = fingerprint("cat")
    Job.create("cat", name="here", where=here).close()
    Job.create("cat", name="unknown", where={"endpoint": here["endpoint"]}).close()
    for what, unlike in {
        "endpoint": {**here, "endpoint": "http://127.0.0.1:2"},
        "account": {**here, "account": "2"},
        "region": {**here, "region": "eu-west-1"},
        "session of the S3 stub": {**here, "session of the S3 stub": "a"},
    }.items():
        said = job_list.elsewhere(here, unlike)
        assert said == f"{what} {here.get(what, 'none')}, here {unlike[what]}"
        assert job_list.elsewhere(unlike, unlike) == ""
    assert job_list.latest(made_of, here) == (job_paths.jobs_path() / "unknown", [])
    found, told = job_list.latest(made_of, {**here, "endpoint": ""})
    assert found is None
    expected = [f"job {name} can't be resumed here" for name in ("unknown", "here")]
    assert [line.split(":")[0] for line in told] == expected


KINDS = ("start", "end", "done", "tasks", "event", "job")
ASCII = st.characters(max_codepoint=127, exclude_characters="\n")
TEXTS = st.one_of(st.text(ASCII, max_size=60), st.just("1 1 i-1 0.000"))


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(KINDS), TEXTS)), st.lists(st.binary(max_size=60)))
def test_the_reader_takes_anything(said: list[tuple[str, str]], lines: list[bytes]) -> None:
    chain, sealed = 0, b""
    for kind, text in said:
        chain = zlib.crc32(f"{kind} {text}".encode(), chain)
        sealed += b"%b %b %08x\n" % (kind.encode(), text.encode(), chain)
    for data in (sealed, sealed + b"\n".join([*lines, b""])):
        try:
            history = journal.read_history(data)
        except ValueError as error:
            assert re.fullmatch(r"line \d+", str(error))
        else:
            assert history.chain == chain


@given(st.lists(st.binary(max_size=20)))
def test_equal_arguments_are_tasks_of_their_own(arguments: list[bytes]) -> None:
    keys = keys_of(arguments)
    assert len(set(keys)) == len(arguments)
    assert keys_of(arguments[:-1]) == keys[:-1]


def test_what_was_asked_is_kept(job: Job) -> None:
    job.close()
    asked = json.loads((job.path / "job.json").read_text())
    assert (asked["command"], asked["selector"], asked["cwd"]) == ("cat", "all", os.getcwd())


KEYS = st.binary(min_size=1, max_size=2)


@given(st.lists(KEYS, unique=True), st.dictionaries(KEYS, st.floats(0, 9)))
def test_longest_first_leaves_nobody_out_and_sorts_the_known(keys: list[bytes], durations: dict[bytes, float]) -> None:
    order = longest_first(keys, durations)
    assert sorted(order) == list(range(len(keys)))
    known = [durations[keys[position]] for position in order if keys[position] in durations]
    assert known == sorted(known, reverse=True)
    unknown = [position for position in order if keys[position] not in durations]
    assert unknown == sorted(unknown)


@pytest.mark.parametrize("version", [VERSION - 1, VERSION + 1, None])
def test_a_job_of_another_version_is_refused_in_one_line(job: Job, version: int | None) -> None:
    job.close()
    file = job.path / "job.json"
    about = json.loads(file.read_text())
    del about["version"]
    file.write_text(json.dumps(about if version is None else {**about, "version": version}))
    for look in (Job, read_asked):
        said = f"^job j is of another version of hardway, or damaged: {file} is not of[^\n]*$"
        with pytest.raises(Failed, match=said):
            look(job.path)
    assert job_list.describe(job.path)["state"] == "damaged"
    assert job_list.latest(job.asked.fingerprint, {})[0] is None
    job_list.remove(job.path)
