"""Selectors: what each kind of token means, and what is refused."""

from __future__ import annotations

import getpass
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardway.ec2.instances import (
    Instance,
    Instances,
    Selector,
    _glob,
    _refuse_ambiguous,
    _refuse_everything,
    _without_namesakes,
    check_name,
    from_description,
    is_plain,
    parse,
    quoted,
    refuse_foreign,
    text_of,
)
from hardway.errors import UsageError
from hardway.terminal import printable

NOW = datetime(2026, 1, 1, tzinfo=timezone.utc)


def instance(number: int = 1, name: str = "", **tags: str) -> Instance:
    return from_description(
        {
            "InstanceId": f"i-{number:017x}",
            "InstanceType": "m7i.large",
            "State": {"Name": "running"},
            "PublicIpAddress": f"203.0.113.{number}",
            "PrivateIpAddress": f"10.0.0.{number}",
            "PublicDnsName": f"ec2-203-0-113-{number}.compute-1.amazonaws.com",
            "PrivateDnsName": f"ip-10-0-0-{number}.ec2.internal",
            "VpcId": "vpc-0000000a",
            "SubnetId": f"subnet-0000000{number}",
            "SecurityGroups": [{"GroupId": "sg-0000000a", "GroupName": "ssh"}],
            "LaunchTime": NOW,
            "Tags": [{"Key": key, "Value": value} for key, value in ({"Name": name} | tags).items() if value],
        },
        "us-east-1",
    )


ONE, TWO, THREE = instance(1, "web-1", role="web"), instance(2, "web-2", role="db"), instance(3, "db")


@pytest.mark.parametrize(
    ("selector", "meant"),
    [
        (ONE.id, [ONE]),
        (f"{ONE.id} {THREE.id}", [ONE, THREE]),
        (f"{ONE.id},{THREE.id}", [ONE, THREE]),
        (f" {ONE.id}\n{THREE.id}\n", [ONE, THREE]),
        ("203.0.113.2", [TWO]),
        ("10.0.0.2 db", [TWO, THREE]),
        ("ec2-203-0-113-3.compute-1.amazonaws.com", [THREE]),
        ("ip-10-0-0-1.ec2.internal", [ONE]),
        ("web-*", [ONE, TWO]),
        ("web-?", [ONE, TWO]),
        ("web-[12]", []),
        ("web", []),
        ("role=web", [ONE]),
        ("role=web role=db", [ONE, TWO]),
        ("role=*", [ONE, TWO]),
        ("web-* role=db", [TWO]),
        ("Name=db", [THREE]),
        ("vpc-0000000a", [ONE, TWO, THREE]),
        ("subnet-00000001 subnet-00000002", [ONE, TWO]),
        ("web-* subnet-00000002", [TWO]),
        ("sg-0000000a role=web", [ONE]),
        ("vpc-0000000b", []),
        ("", [ONE, TWO, THREE]),
    ],
)
def test_what_a_selector_means(selector: str, meant: list[Instance]) -> None:
    assert parse(selector).match([ONE, TWO, THREE]) == meant
    assert parse(selector.replace(",", " ").split()).match([ONE, TWO, THREE]) == meant


@pytest.mark.parametrize(
    "selector",
    [
        *("--bogus", "web -y", "=x", "i-1234", "i-123456789", "vpc-12", '"', "'web", 'Name="gpu box', '""', "\udcff"),
        [3],
        3,
        None,
    ],
)
def test_what_is_refused(selector: Any) -> None:
    with pytest.raises(UsageError) as error:
        parse(selector)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("between", [" ", "\n", ",", "\t"])
def test_a_name_that_is_not_quoted_is_seen_among_many(between: str) -> None:
    names = [f"web{number}" for number in range(300)]
    assert "gpu box" in parse(between.join([*names, "gpu box", *names])).runs


def test_an_address_is_matched_whole() -> None:
    assert parse("203.0.113.1").match([replace(ONE, public_ip="203.0.113.11"), ONE]) == [ONE]


@given(st.text(max_size=20))
def test_everything_matches_any_name(name: str) -> None:
    assert _glob("*").fullmatch(name)


LEGAL = st.text(
    alphabet=st.one_of(st.sampled_from(" ,=*?\"'\\-ab[]i0123456789."), st.characters(exclude_categories=["Cs", "Cc"])),
    min_size=1,
    max_size=20,
)


@settings(deadline=None)
@given(LEGAL, LEGAL, st.sampled_from(["", " ", ",", " web-2 ", " role=db "]))
def test_any_name_and_no_other_is_selected_in_quotes(name: str, other: str, around: str) -> None:
    own, others = instance(4, name), instance(5, other)
    chosen = parse(around.replace(" role=db ", "") + quoted(name)).match([ONE, TWO, own, others])
    assert own in chosen
    assert (others in chosen) == (other == name)
    assert (TWO in chosen) == (name == TWO.name or "web-2" in around)
    assert parse(f"Name={quoted(name)}").match([own, others]) == [own, others][: 2 if other == name else 1]


@settings(deadline=None)
@given(LEGAL, LEGAL)
def test_any_value_and_no_other_is_selected_in_quotes(value: str, other: str) -> None:
    own, others = instance(4, "x", key=value), instance(5, "x", key=other)
    assert parse(f"key={quoted(value)}").match([own, others]) == [own, others][: 2 if other == value else 1]


@settings(deadline=None)
@given(st.text(alphabet=" ,=*?\"'\\-ab\n", max_size=20))
def test_a_text_in_one_line_means_the_same(text: str) -> None:
    try:
        parsed = parse(text)
    except UsageError:
        return
    again = parse(text_of(text))
    assert (again.hosts, again.networks, again.tags) == (parsed.hosts, parsed.networks, parsed.tags)


@settings(deadline=None)
@given(st.lists(st.text(alphabet=" ,=*?\"'\\-ab", min_size=1, max_size=8), max_size=4))
def test_a_list_as_a_text_means_the_same(items: list[str]) -> None:
    try:
        parsed = parse(items)
    except UsageError:
        return
    again = parse(text_of(items))
    assert (again.hosts, again.networks, again.tags) == (parsed.hosts, parsed.networks, parsed.tags)


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ('"gpu box"', ["gpu box"]),
        ("'gpu box'", ["gpu box"]),
        (r"gpu\ box", ["gpu box"]),
        (r"gpu\ *", ["gpu box", "gpu rack"]),
        ('"gpu "*', ["gpu box", "gpu rack"]),
        ('Name="gpu box"', ["gpu box"]),
        ("Name='gpu box' role=x", []),
        ("gpu box", ["gpu", "box"]),
        ("gpu,box", ["gpu", "box"]),
        ('gpu,"gpu box"', ["gpu", "gpu box"]),
        (["gpu box"], ["gpu box"]),
        (["gpu box\n", "gpu"], ["gpu", "gpu box"]),
        (["gpu*"], ["gpu", "gpu box", "gpu rack"]),
        (["Name=gpu box"], ["gpu box"]),
        (["bob's"], ["bob's"]),
        ("bob's", ["bob's"]),
        ("web*", ["web*", "web1"]),
        ('"web*"', ["web*"]),
        (r"web\*", ["web*"]),
        ([r"web\*"], ["web*"]),
        ('"i-1234abcd"', ["i-1234abcd"]),
        (r"i\-1234abcd", ["i-1234abcd"]),
        ("Name=i-1234abcd", ["i-1234abcd"]),
        ('"x=y"', ["x=y"]),
        (["Name=x=y"], ["x=y"]),
        ('"10.0.0.1"', ["10.0.0.1"]),
        (r"a\b", [r"a\b"]),
        ([r"a\b"], [r"a\b"]),
    ],
)
def test_what_is_quoted_means_itself(selector: str | list[str], names: list[str]) -> None:
    known = [
        "gpu", "box", "gpu box", "gpu rack", "bob's", "web*", "web1", "i-1234abcd", "x=y", "10.0.0.1", "a\\b"
    ]  # fmt: skip
    there = [instance(number, name) for number, name in enumerate(known, 1)]
    assert [i.name for i in parse(selector).match(there)] == names


@pytest.mark.parametrize(
    "name",
    ["", " ", "-x", "i-1234abcd", "i-0", "vpc-1234abcd", "10.0.0.5", "ip-10-0-0-1.ec2.internal", "a\nb", "a\x1b[2Jb",
     "\u202egpu", "x" * 257, " gpu", "gpu\t", "\udcff"],
)  # fmt: skip
def test_what_nobody_should_be_named_is_refused(name: str) -> None:
    with pytest.raises(UsageError) as error:
        check_name(name, "--name")
    assert printable(str(error.value)) == str(error.value)


@pytest.mark.parametrize("name", ["web", "gpu box", "a,b", "x=y", "web*", "bob's", "é", "x" * 256])
def test_other_names_are_taken(name: str) -> None:
    check_name(name, "--name")
    assert parse(quoted(name)).match([instance(1, name)])
    assert is_plain(name) == (name in ("web", "bob's", "é", "x" * 256))


@given(st.text(alphabet="ab*?[]{}()^$.+\\|", max_size=8), st.text(alphabet="ab*[]^$.+\\", max_size=8))
def test_globs_are_those_of_ec2(pattern: str, text: str) -> None:
    def matches(p: str, t: str) -> bool:
        if not p:
            return not t
        if p[0] == "\\" and len(p) > 1:
            return bool(t) and p[1] == t[0] and matches(p[2:], t[1:])
        if p[0] == "*":
            return matches(p[1:], t) or bool(t and matches(p, t[1:]))
        return bool(t) and p[0] in ("?", t[0]) and matches(p[1:], t[1:])

    assert bool(_glob(pattern).fullmatch(text)) == matches(pattern, text)


@given(st.text(max_size=60))
def test_any_selector_is_read_or_refused_in_a_line(text: str) -> None:
    try:
        parsed = parse(text)
    except UsageError as error:
        assert str(error)
    else:
        assert not any(token.startswith("-") for token in parsed.hosts)


def test_a_table_has_a_dash_for_what_is_not_there() -> None:
    bare = replace(ONE, name="", public_ip="", private_ip="", tags={})
    assert str(Instances([TWO, bare])).splitlines() == [
        "web-2  m7i.large  running  i-00000000000000002  -  ondemand  203.0.113.2  -  ssh  role=db",
        "-      m7i.large  running  i-00000000000000001  -  ondemand  -            -  ssh  -",
    ]
    assert str(Instances([])) == ""


def test_only_another_users_tag_makes_an_instance_foreign() -> None:
    own = [ONE, instance(2, "mine", owner=getpass.getuser())]
    theirs = [instance(n, "theirs", owner="somebody-else") for n in range(3, 8)]
    refuse_foreign(own, any_owner=False)
    refuse_foreign(theirs, any_owner=True)
    with pytest.raises(UsageError) as refusal:
        refuse_foreign([*own, *theirs], any_owner=False)
    said = str(refusal.value)
    assert all(f"{i} (somebody-else's)" in said for i in theirs[:3])
    assert ("and 2 more" in said, "--any-owner" in said) == (True, True)
    assert own[0].id not in said and own[1].id not in said


@pytest.mark.parametrize(
    "selector",
    ["*", "**", "?*", "web *", "Name=*", "Name=**", "Name=?*", "owner=*", "Name=* role=?", "Name=web Name=*"],
)
def test_what_would_mean_everything_is_refused_where_something_is_done(selector: str) -> None:
    with pytest.raises(UsageError, match="would select every instance"):
        _refuse_everything(parse(selector))


@pytest.mark.parametrize(
    "selector", ["web*", "?eb", '"*"', r"\*", 'Name="*"', "owner=* web", "owner=* role=db", "vpc-0000000a", "role="]
)
def test_what_means_something_is_not(selector: str) -> None:
    _refuse_everything(parse(selector))


def test_only_what_has_had_time_to_end_is_overdue() -> None:
    ends = NOW + timedelta(hours=1)
    one = replace(ONE, state="running", launched=NOW, tags={"hardway-ends": ends.isoformat()})
    late = ends + timedelta(minutes=6)
    assert [one.is_overdue(when) for when in (ends, ends + timedelta(minutes=4), late)] == [False, False, True]
    # A start gives ten minutes.
    assert not replace(one, launched=late).is_overdue(late + timedelta(minutes=14))
    assert replace(one, launched=late).is_overdue(late + timedelta(minutes=16))
    assert not replace(one, state="stopped").is_overdue(late)
    assert not replace(one, tags={}).is_overdue(late)


def test_an_address_of_two_instances_names_neither() -> None:
    twin = replace(TWO, private_ip=ONE.private_ip, private_dns=ONE.private_dns, vpc="vpc-0000000b")
    for token in (ONE.private_ip, ONE.private_dns):
        selector = parse(token)
        with pytest.raises(UsageError) as error:
            _refuse_ambiguous(selector, selector.match([ONE, twin]))
        assert (ONE.id in str(error.value), twin.id in str(error.value)) == (True, True)
        narrowed = parse(f"{token} vpc-0000000b")
        _refuse_ambiguous(narrowed, narrowed.match([ONE, twin]))
        gone = replace(twin, state="terminated")
        _refuse_ambiguous(selector, selector.match([ONE, gone]))


@pytest.mark.parametrize("selector", [ONE.name, "role=web", f"{ONE.name} role=web", f"{ONE.name[:-1]}*"])
def test_a_dead_namesake_counts_only_where_it_is_asked_for(selector: str) -> None:
    gone = replace(ONE, id="i-0000000000000dead", state="terminated")

    def meant(text: str, *known: Instance) -> list[Instance]:
        parsed = parse(text)
        matching = parsed.match(known)
        return _without_namesakes(parsed, matching, matching)

    assert meant(selector, gone, ONE) == [ONE]
    assert meant(selector, gone) == [gone]
    assert meant(gone.id, gone, ONE) == [gone]
    assert meant(f"{gone.id} {ONE.name}", gone, ONE) == [gone, ONE]


def test_what_others_wrote_forges_no_row() -> None:
    hostile = instance(7, "web\n\x1b[2Jdb  m7i.large", role="a\u202eb")
    shown = Instances([hostile, ONE])
    assert len(str(shown).splitlines()) == len(shown.brief()) == 2
    for text in (*str(shown).splitlines(), *shown.brief(), str(hostile)):
        assert printable(text) == text
    assert str(Selector("", (hostile.id,), (), ()).match([hostile])[0]) == f"web\\n\\x1b[2Jdb  m7i.large {hostile.id}"
