"""The costs of instances, as `new` announces, `ls` lists and `rm` sums them up; and EC2's offers."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from invoke.context import Context

from hardway import config
from hardway.ec2.instances import from_description
from hardway.errors import NothingMatched, UsageError
from hardway.money import costs
from hardway.tables import money
from tasks import ec2
from tests.ec2.conftest import Shell
from tests.local.conftest import eventually
from tests.patience import patience

C = Context()


@pytest.fixture
def no_price_list(shell: Shell, price_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is known yet, and nobody answers."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_PRICING", "http://127.0.0.1:9")


@pytest.fixture
def three(shell: Shell, name: str) -> Iterator[list[str]]:
    """Ids of one on demand, a spot instance, and one on demand that is terminated."""
    ids = [ec2.new(C, name=name, wait=False, spot=spot)[0] for spot in (0, 1, 0)]
    ec2.rm(C, ids[2], yes=True)
    eventually(lambda: shell.states(name)[ids[2]] == "terminated")
    yield ids
    ec2.rm(C, ids[:2], yes=True)


def test_ls_tells_what_each_costs_and_all(three: list[str], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    listed = {one["id"]: one for one in json.loads(ec2.ls(C, only=name, json=True))}
    assert [listed[id_]["usd_per_hour"] for id_ in (three[0], three[2])] == [0.1, 0.1]
    assert 0.028 < listed[three[1]]["usd_per_hour"] < 0.04
    for one in listed.values():
        assert 0 <= one["hours"] < 0.1
        assert one["usd"] == one["usd_per_hour"] * one["hours"]
    gone = listed[three[2]]
    lived = datetime.fromisoformat(gone["ended"]) - datetime.fromisoformat(gone["launched"])
    time.sleep(0.1)
    capsys.readouterr()
    again = ec2.ls(C, only=name)
    said = capsys.readouterr().err.splitlines()
    rows = [line for id_ in three for line in str(again).splitlines() if id_ in line]
    assert all(re.search(r" \$[\d.]+/hour +[\d.]+ (s|min) +<?\$[\d.]+$", row) for row in rows)
    assert [" $0.10/hour " in row for row in rows] == [True, False, True]
    assert len(said) == 1
    total = f"total per hour now: {money(0.1 + listed[three[1]]['usd_per_hour'])}"
    assert re.fullmatch(rf"{re.escape(total)}, so far: <?\$0\.0\d*[1-9]\d*", said[0])
    later = {one["id"]: one for one in json.loads(ec2.ls(C, only=name, json=True))}
    assert later[three[2]]["hours"] == gone["hours"] == lived.total_seconds() / 3600
    assert later[three[0]]["hours"] > listed[three[0]]["hours"]


def test_a_price_not_known_ends_nothing_and_is_not_0(
    three: list[str], no_price_list: None, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    line = next(line for line in str(ec2.ls(C, only=name)).splitlines() if three[0] in line)
    assert re.search(r" - +[\d.]+ (s|min) +-$", line)
    reason, total = capsys.readouterr().err.splitlines()
    assert reason.startswith("on-demand prices are not known: cannot reach AWS")
    assert total.count(" cost unknown)") == 2
    begun = time.monotonic()
    listed = {one["id"]: one for one in json.loads(ec2.ls(C, only=name, json=True))}
    assert time.monotonic() - begun < patience(1)
    assert [listed[three[0]][key] for key in ("usd_per_hour", "usd")] == [None, None]
    assert listed[three[1]]["usd"] >= 0
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_rm_tells_what_it_cost(shell: Shell, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    ids = ec2.new(C, name=name, num=2, wait=False)
    capsys.readouterr()
    assert sorted(ec2.rm(C, ids, yes=True)) == sorted(ids)
    said = capsys.readouterr().err
    assert re.fullmatch(r"terminated 2 instances, cost so far: <?\$0\.0\d*[1-9]\d*\n", said)


def test_ls_marks_what_should_have_ended(shell: Shell, price_cache: Path) -> None:
    past = datetime.now(timezone.utc) - timedelta(hours=1)
    described = {"InstanceType": "m7i.large", "State": {"Name": "running"}, "LaunchTime": past}
    tagged = {"Tags": [{"Key": "hardway-ends", "Value": past.isoformat()}]}
    late, other = ({**described, "InstanceId": f"i-0000000{n}", **more} for n, more in enumerate((tagged, {})))
    bill = costs.Bill([from_description(one, "us-east-1") for one in (late, other)], {})
    lines = bill.on_terminal(200).splitlines()[1:]
    assert ["overdue" in line for line in lines] == [True, False]
    # Output for programs keeps EC2's words.
    assert str(bill).count("  running  ") == 2
    assert [one["overdue"] for one in json.loads(bill.json())] == [True, False]


@pytest.mark.parametrize(
    ("state", "reason", "hours"),
    [
        ("terminated", "User initiated (2026-01-01 01:30:00 GMT)", 1.5),
        ("stopped", "User initiated (2026-01-01 02:00:00 GMT)", 2),
        ("terminated", "Server.SpotInstanceTermination", None),
        ("terminated", "", None),
        ("stopped", "User initiated (2025-12-31 23:00:00 GMT)", 0),
        ("running", "User initiated (2026-01-01 01:30:00 GMT)", 5),
        ("stopping", "", 5),
    ],
)
def test_how_long_it_cost(shell: Shell, price_cache: Path, state: str, reason: str, hours: float | None) -> None:
    launched = datetime(2026, 1, 1, tzinfo=timezone.utc)
    if hours == 5:
        launched = datetime.now(timezone.utc) - timedelta(hours=5)
    described = {"InstanceId": "i-00000001", "InstanceType": "m7i.large", "State": {"Name": state}}
    instance = from_description({**described, "StateTransitionReason": reason, "LaunchTime": launched}, "us-east-1")
    bill = costs.bill(config.settings(C), [instance], lambda line: None)
    [listed] = json.loads(bill.json())
    if hours is None:
        assert (listed["hours"], listed["usd"]) == (None, None)
    else:
        assert listed["hours"] == pytest.approx(hours, rel=1e-3)
        assert listed["usd"] == pytest.approx(hours * 0.1, rel=1e-3)
    assert (bill.usd == "not known") == (hours is None)
    assert bill.usd_per_hour == ("$0.10" if state == "running" else "$0.00")


@pytest.mark.parametrize(
    "own",
    [{"PlatformDetails": "Red Hat Enterprise Linux"}, {"Placement": {"Tenancy": "dedicated"}}],
    ids=["license", "hardware"],
)
def test_what_costs_more_than_a_plain_linux_has_no_price(shell: Shell, price_cache: Path, own: dict[str, Any]) -> None:
    described = {"InstanceId": "i-00000001", "InstanceType": "m7i.large", "State": {"Name": "running"}}
    instance = from_description({**described, **own, "LaunchTime": datetime.now(timezone.utc)}, "us-east-1")
    assert costs.bill(config.settings(C), [instance], lambda line: None).usd == "not known"


def test_new_tells_the_price(shell: Shell, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, said in (
        ({"num": 3}, "3 x m7i.large on demand: $0.30/hour\n"),
        ({"type": "m7i.large,c7i.large"}, "1 x m7i.large or c7i.large on demand: $0.084 to $0.10/hour\n"),
        ({"num": 2, "spot": 1, "zone": "us-east-1b"}, "/hour now\n"),
        ({"num": 3, "spot": 1, "on_demand": 3}, "3 x m7i.large on demand: $0.30/hour\n"),
        ({"num": 2, "type": "t3.xlarge"}, "/hour, and up to $0.40/hour for CPU credits\n"),
        ({"num": 2, "type": "t2.xlarge"}, "/hour\n"),
    ):
        ec2.new(C, name=name, wait=False, max_cost=10, **flags)
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"num": 2, "max_cost": 2.39}, "2 x m7i.large on demand: $0.20/hour, in the 12 hours of"),
        ({"max_hours": 24.1, "max_cost": 2.4}, "up to $2.41, and --max-cost is $2.40"),
        ({"type": "c7i.large,m7i.large", "max_cost": 1.1}, "up to $1.20"),
        ({"spot": 1, "max_cost": 0.1}, "1 x m7i.large spot: $0.0"),
        ({"num": 3, "spot": 1, "on_demand": 2, "max_cost": 2.45}, "spot and 2 x m7i.large on demand: $0.2"),
        ({"num": 2, "spot": 1, "max_cost": 2.39}, "up to $2.40 (spot at its highest price), and --max-cost is $2.39"),
        ({"num": 2, "spot": 0.5, "max_cost": 1.19}, "up to $1.20 (spot at its highest price)"),
        ({"type": "t3.xlarge", "max_cost": 2.39}, "for CPU credits, in the 12 hours of --max-hours up to $"),
        ({"max_hours": 0, "max_cost": 1}, "--max-cost needs an end: --max-hours is 0"),
        ({"max_cost": "cheap"}, "--max-cost is 'cheap'"),
        ({"max_cost": -1}, "--max-cost is '-1'"),
    ],
)
def test_too_dear_is_not_started(shell: Shell, name: str, flags: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as error:
        ec2.new(C, name=name, **flags)
    assert said in str(error.value)
    assert not shell.states(name)


def test_what_costs_just_so_much_is_started(shell: Shell, name: str) -> None:
    assert ec2.new(C, name=name, num=2, max_cost=2.4, wait=False)
    assert ec2.new(C, name=name, max_cost=0, max_hours=0, wait=False)


def test_a_price_not_known_is_above_any_limit(shell: Shell, no_price_list: None, name: str) -> None:
    with pytest.raises(UsageError, match="the price of m7i"):
        ec2.new(C, name=name, max_cost=1000)
    assert not shell.states(name)
    assert ec2.new(C, name=name, wait=False)


def test_types_are_listed_by_price_with_what_they_have(shell: Shell, capsys: pytest.CaptureFixture[str]) -> None:
    lines = str(ec2.types(C, only="m7i.*,m7g.large,t3.nano", vcpus=2, memory=8)).splitlines()
    assert lines[0].split()[:6] == ["m7g.large", "2", "8GiB", "-", "arm64", "$0.10/hour"]
    spot, zone = lines[0].split()[6:]
    assert spot.startswith("$0.03")
    assert zone.startswith("us-east-1")
    assert [line.split()[0] for line in lines[1:3]] == ["m7i.large", "m7i.xlarge"]
    assert not [line for line in lines if line.startswith("t3.nano")]
    listed = json.loads(ec2.types(C, only="i4*", nvme=900, arch="arm64", json=True))
    assert [one["on_demand"] for one in listed] == sorted(one["on_demand"] for one in listed)
    assert all(one["nvme_gb"] >= 900 and one["architectures"] == ["arm64"] and len(one["spot"]) > 1 for one in listed)
    assert capsys.readouterr().err == ""
    with pytest.raises(UsageError, match=r"--arch is 'X86_64'.*did you mean x86_64\?"):
        ec2.types(C, arch="X86_64")
    impossible: tuple[dict[str, Any], ...] = (
        {"only": "m7x.*"},
        {"only": "m7i.*", "arch": "arm64"},
        {"only": "m7i.large,nosuch.large"},
        {"vcpus": 9999},
    )
    for nothing in impossible:
        with pytest.raises(NothingMatched):
            ec2.types(C, **nothing)
    with pytest.raises(NothingMatched, match=r"did you mean m7i\.large\?"):
        ec2.types(C, only="m7i.lrage")
    with pytest.raises(UsageError, match="--memory"):
        ec2.types(C, memory="much")


def test_types_without_prices(shell: Shell, no_price_list: None) -> None:
    [line] = str(ec2.types(C, only="m7i.large")).splitlines()
    assert line.split()[5:6] == ["-"]
    [listed] = json.loads(ec2.types(C, only="m7i.large", json=True))
    assert listed["on_demand"] is None
    assert listed["spot"]


def test_spot_prices_name_the_cheapest_zone_first(shell: Shell) -> None:
    listed = json.loads(ec2.spot_prices(C, "m7i.large", json=True))
    assert len(listed) > 2
    assert [one["now"] for one in listed] == sorted(one["now"] for one in listed)
    assert all(one["min"] <= one["mean"] <= one["max"] for one in listed)
    assert any(one["min"] < one["now"] for one in listed)
    first = str(ec2.spot_prices(C, "m7i.large", days=90)).split()
    assert first[0] == listed[0]["zone"]
    for wrong in ("", "m7i.*", "--help"):
        with pytest.raises(UsageError, match="is not an instance type"):
            ec2.spot_prices(C, wrong)
    for days in ("0", "90.5", "many"):
        with pytest.raises(UsageError, match="--days"):
            ec2.spot_prices(C, "m7i.large", days=days)
    with pytest.raises(NothingMatched, match=r"no spot prices of 'm7i.lrage'; did you mean m7i\.large\?"):
        ec2.spot_prices(C, "m7i.lrage")


def test_regions_and_zones(shell: Shell) -> None:
    regions = str(ec2.regions(C)).splitlines()
    assert "eu-west-1" in regions
    assert [one["name"] for one in json.loads(ec2.regions(C, json=True))] == regions == sorted(regions)
    zones = json.loads(ec2.zones(C, json=True, region="eu-west-1"))
    assert [one["name"] for one in zones] == ["eu-west-1a", "eu-west-1b", "eu-west-1c"]
    lines = str(ec2.zones(C, region="eu-west-1")).splitlines()
    assert [line.split() for line in lines] == [list(one.values()) for one in zones]
