"""Which instance has the data of a task: the URLs of the store in its argument say so."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from hardway.pmap.locality import Placement, StoreUrl, moved, urls_in
from hardway.pmap.schedule import Schedule, Start

ONE, TWO, THREE = "i-00000001", "i-0123456789abcdef0", "i-00000003"


def url(instance: str, key: str) -> str:
    return f"s3://hardway_{instance}/{key}"


def test_urls_are_found_in_a_line_a_partition_and_json() -> None:
    first, second = StoreUrl(ONE, b"counts/1"), StoreUrl(TWO, b"a=b&c/2.gz")
    texts = [f"{first} {second}\n", f"7\t{first}\t{second}\n", json.dumps({"of": [str(first), str(second)]})]
    texts += [f"{first}\0{second}\0", f"<{first}>, ({second})", f"'{first}';\"{second}\"|"]
    assert [urls_in(text.encode()) for text in texts] == [[first, second]] * len(texts)


def test_what_is_no_object_of_the_store_is_left_alone() -> None:
    texts = [
        "s3://bucket/key",
        "s3://hardway_i-xyz/key",
        "s3://hardway_i-0000/key",
        url(ONE, ""),
        "hardway_i-00000001/k",
    ]
    assert [urls_in(text.encode()) for text in texts] == [[]] * len(texts)


@given(st.binary())
def test_a_text_stays_but_for_the_objects_that_were_moved(noise: bytes) -> None:
    moves = {StoreUrl(ONE, b"k"): TWO}
    text = b"%b %b\t%b %b" % (noise, url(ONE, "k").encode(), url(ONE, "kk").encode(), url(THREE, "k").encode())
    assert moved(text, moves) == text.replace(url(ONE, "k\t").encode(), url(TWO, "k\t").encode())
    assert moved(text, {}) is text


def placed(
    *arguments: str, present: str = f"{ONE} {TWO} {THREE}", moves: dict[StoreUrl, str] | None = None
) -> list[str]:
    """Where tasks with these arguments run, each instance having a slot for all."""
    schedule = Schedule(len(arguments))
    Placement(schedule, [argument.encode() for argument in arguments], moves or {}).prefer(present.split())
    for name in present.split():
        schedule.join(name, len(arguments))
    found = {start.task: str(start.host) for start in schedule.decide(0) if isinstance(start, Start)}
    return [found[task] for task in range(len(arguments))]


def test_a_task_runs_where_most_of_its_objects_are() -> None:
    mixed = " ".join([url(ONE, "a"), url(TWO, "b"), url(TWO, "c")])
    assert placed(mixed, url(THREE, "d"), url(ONE, "e")) == [TWO, THREE, ONE]
    assert placed(f"{mixed} {mixed}", present=f"{ONE} {THREE}") == [ONE]
    assert placed(url(ONE, "a"), moves={StoreUrl(ONE, b"a"): THREE}) == [THREE]


def test_partitions_with_as_many_objects_everywhere_are_spread() -> None:
    everywhere = "\t".join(url(instance, "part") for instance in (TWO, ONE, THREE))
    assert sorted(placed(*[everywhere] * 6)) == sorted([ONE, TWO, THREE] * 2)


def test_one_object_named_often_is_one_object() -> None:
    assert placed(" ".join([url(ONE, "a")] * 9 + [url(TWO, "b"), url(TWO, "c")])) == [TWO]
