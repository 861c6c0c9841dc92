"""Selectors: what each kind of token means, and what is refused."""

from __future__ import annotations

import getpass
from dataclasses import replace
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardway.errors import UsageError
from hardway.instances import Instance, Instances, _glob, from_description, parse, refuse_foreign

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


@pytest.mark.parametrize("selector", ["--bogus", "web -y", "=x", "i-1234", "i-123456789", "vpc-12"])
def test_what_is_refused(selector: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(selector)
    assert "\n" not in str(error.value)


def test_an_address_is_matched_whole() -> None:
    assert parse("203.0.113.1").match([replace(ONE, public_ip="203.0.113.11"), ONE]) == [ONE]


@given(st.text(max_size=20))
def test_a_name_matches_itself(name: str) -> None:
    assert _glob(name).fullmatch(name)
    assert _glob("*").fullmatch(name)


@given(st.text(alphabet="ab*?[]{}()^$.+\\|", max_size=8), st.text(alphabet="ab[]^$.+\\", max_size=8))
def test_globs_are_those_of_ec2(pattern: str, text: str) -> None:
    def matches(p: str, t: str) -> bool:
        if not p:
            return not t
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
