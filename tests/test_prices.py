"""Prices: what is asked of AWS, by its service model; what is kept; and that one not known is never 0 nor an error."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from botocore.stub import ANY, Stubber
from hypothesis import given
from hypothesis import strategies as st
from invoke.context import Context

from hardway import aws, config
from hardway.config import Settings
from hardway.errors import NothingMatched
from hardway.money import market, prices
from hardway.tables import money
from tests.conftest import LocalCloud

FILTERS = {
    "regionCode": "eu-west-1",
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "capacitystatus": "Used",
    "preInstalledSw": "NA",
}


@pytest.fixture
def settings(price_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings for AWS, which nothing here may reach: a test stubs the client it needs."""
    for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x"), ("ENDPOINT_URL", "http://127.0.0.1:9")):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr(aws, "_clients", {})
    return config.settings(Context(), "eu-west-1")


@pytest.fixture
def price_list(settings: Settings) -> Iterator[Stubber]:
    """Answers only what it is given, each once; an answer that AWS could not give is an error."""
    with Stubber(aws.pricing(settings)) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


@pytest.fixture
def local(price_cache: Path, cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings for the local cloud."""
    for name, value in cloud.env.items():
        monkeypatch.setenv(name, value)
    return config.settings(Context(), "us-east-1")


def asked(*types: str, **more: str) -> dict[str, Any]:
    filters = [{"Type": "ANY_OF", "Field": "instanceType", "Value": ",".join(types)}]
    filters += [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in FILTERS.items()]
    return {"ServiceCode": "AmazonEC2", "Filters": filters, **more}


def product(type: str, usd: str, **attributes: str) -> str:
    """A product as the price list has it, short of what we don't read."""
    sku = "ABCDEFGHIJKLMNOP"
    dimension = {"unit": "Hrs", "rateCode": f"{sku}.J.6", "pricePerUnit": {"USD": usd}, "beginRange": "0"}
    return json.dumps(
        {
            "product": {"sku": sku, "attributes": {"instanceType": type, "regionCode": "eu-west-1", **attributes}},
            "terms": {
                "OnDemand": {f"{sku}.J": {"sku": sku, "priceDimensions": {f"{sku}.J.6": dimension}}},
                "Reserved": {},
            },
        }
    )


def test_the_price_list_is_asked_once_a_day_for_all_types_at_once(settings: Settings, price_list: Stubber) -> None:
    first = [product("m7i.large", "0.1070000000"), product("p5.48xlarge", "0.0000000000", marketoption="CapacityBlock")]
    price_list.add_response(
        "get_products",
        {"PriceList": first, "NextToken": "more", "FormatVersion": "aws_v1"},
        asked("m7i.large", "p5.48xlarge", "no.such"),
    )
    price_list.add_response(
        "get_products",
        {"PriceList": [product("p5.48xlarge", "113.5680000000"), "{}", "no JSON"]},
        asked("m7i.large", "p5.48xlarge", "no.such", NextToken="more"),
    )
    said: list[str] = []
    for types in (["m7i.large", "p5.48xlarge", "no.such"], ["no.such", "p5.48xlarge"], ["m7i.large"], []):
        known = {"m7i.large": 0.107, "p5.48xlarge": 113.568}
        assert prices.on_demand(settings, types, said.append) == {t: known[t] for t in types if t in known}
    assert said == []


def test_no_permission_is_a_price_not_known_and_said(settings: Settings, price_list: Stubber) -> None:
    said: list[str] = []
    for _ in range(2):
        price_list.add_client_error("get_products", "AccessDeniedException", "no pricing:GetProducts", 400)
    assert prices.on_demand(settings, ["m7i.large"], said.append) == {}
    assert len(said) == 1
    assert "on-demand prices are not known: AWS denies GetProducts" in said[0]
    # Who only shows prices doesn't ask, wait and complain each time; who needs one does.
    assert prices.on_demand(settings, ["m7i.large"], said.append, persist=False) == {}
    assert len(said) == 1
    assert prices.on_demand(settings, ["m7i.large"], said.append) == {}
    assert len(said) == 2


def test_a_price_is_kept_for_a_day(local: Settings, price_cache: Path) -> None:
    assert prices.on_demand(local, ["m7i.large"]) == {"m7i.large": 0.1}
    [where] = json.loads(price_cache.read_bytes())
    for age, price in ((23.9, 7.0), (24.1, 0.1), (-1, 0.1)):
        price_cache.write_text(json.dumps({where: {"m7i.large": [time.time() - age * 3600, 7.0]}}))
        assert prices.on_demand(local, ["m7i.large"]) == {"m7i.large": price}


def test_a_damaged_file_is_as_good_as_none(local: Settings, price_cache: Path) -> None:
    assert prices.on_demand(local, ["m7i.large"]) == {"m7i.large": 0.1}
    [where] = json.loads(price_cache.read_bytes())
    damaged: list[Any] = [None, 3, [], "x", {where: None}, {where: [1]}, {where: {"m7i.large": None}}]
    now = time.time()
    entries = ([now], [now, "x"], [None, 1], [now, -1], [now, 0], [now, {}], [now, float("nan")])
    damaged += [{where: {"m7i.large": entry}} for entry in entries]
    for text in [json.dumps(each).encode() for each in damaged] + [b"", b"\xff\xfe", price_cache.read_bytes()[:-9]]:
        price_cache.write_bytes(text)
        assert prices.on_demand(local, ["m7i.large"]) == {"m7i.large": 0.1}, text
    price_cache.unlink()
    price_cache.mkdir()
    assert prices.on_demand(local, ["m7i.large"]) == {"m7i.large": 0.1}
    price_cache.rmdir()


def test_many_at_once_leave_a_whole_file(local: Settings, price_cache: Path) -> None:
    types = ["m7i.large", "c7i.large", "r7i.large", "t3.nano", "m7g.large", "c7g.large", "i3.large", "i4i.large"]
    found: dict[str, float] = {}
    threads = [threading.Thread(target=lambda one=one: found.update(prices.on_demand(local, [one]))) for one in types]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == set(types)
    assert list(price_cache.parent.glob("*demand*")) == [price_cache]
    [known] = json.loads(price_cache.read_bytes()).values()
    assert known
    assert all(known[one][1] == found[one] for one in known)


def test_as_many_types_as_there_are(local: Settings) -> None:
    """More than one filter's value holds, and more than a page of prices."""
    pages = aws.ec2(local).get_paginator("describe_instance_type_offerings").paginate()
    types = {offer["InstanceType"] for page in pages for offer in page["InstanceTypeOfferings"]}
    assert len(types) > 500
    assert set(prices.on_demand(local, types)) == types
    assert {name for name, _ in prices.spot(local, types)} == types


@given(st.lists(st.text("abz0123456789.-", min_size=1, max_size=40), min_size=1, max_size=200))
def test_a_filter_takes_no_more_than_so_many_letters(types: list[str]) -> None:
    pieces = list(prices._joined(types))
    assert ",".join(pieces) == ",".join(types)
    assert all(len(piece) <= 1024 for piece in pieces)


@given(st.floats(1e-4, 1e6))
def test_money_is_never_nothing(usd: float) -> None:
    text = money(usd)
    assert text.startswith("$")
    assert float(text[1:].replace(",", "")) == pytest.approx(usd, rel=0.0051)
    assert len(text.partition(".")[2]) >= 2


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (0, "$0.00"),
        (1e-9, "<$0.0001"),
        (4.032, "$4.03"),
        (1234.5, "$1,234.50"),
        (0.1008, "$0.101"),
        (0.5, "$0.50"),
        (0.00034, "$0.00034"),
    ],
)
def test_money(usd: float, text: str) -> None:
    assert money(usd) == text


def row(zone: str, usd: str, since: datetime, product: str = "Linux/UNIX") -> dict[str, Any]:
    where = {"AvailabilityZone": zone, "InstanceType": "m7i.large", "ProductDescription": product}
    return {**where, "SpotPrice": usd, "Timestamp": since}


def test_spot_prices_are_summed_up_by_the_time_they_held(settings: Settings) -> None:
    now = datetime.now(timezone.utc)
    rows = [
        row("eu-west-1a", "0.060000", now - timedelta(days=1)),
        row("eu-west-1b", "0.050000", now - timedelta(days=50), "Linux/UNIX (Amazon VPC)"),
        row("eu-west-1a", "0.020000", now - timedelta(days=5)),
        row("eu-west-1a", "0.090000", now - timedelta(days=30)),
    ]
    expected = {
        "InstanceTypes": ["m7i.large"],
        "ProductDescriptions": ["Linux/UNIX", "Linux/UNIX (Amazon VPC)"],
        "StartTime": ANY,
    }
    with Stubber(aws.ec2(settings)) as ec2:
        ec2.add_response(
            "describe_spot_price_history",
            {"SpotPriceHistory": rows[:2], "NextToken": "more"},
            {**expected, "MaxResults": 1000},
        )
        ec2.add_response(
            "describe_spot_price_history",
            {"SpotPriceHistory": rows[2:], "NextToken": ""},
            {**expected, "MaxResults": 1000, "NextToken": "more"},
        )
        cheapest, other = market.spot_prices(settings, "m7i.large", 10)
        ec2.add_response("describe_spot_price_history", {"SpotPriceHistory": []}, {**expected, "MaxResults": 1000})
        offerings = [{"InstanceType": "m7i.large"}]
        ec2.add_response("describe_instance_type_offerings", {"InstanceTypeOfferings": offerings}, {})
        said = r"no spot prices of 'm7i\.large'; `hardway ec2.types --region eu-west-1` lists types"
        with pytest.raises(NothingMatched, match=said):
            market.spot_prices(settings, "m7i.large", 10)
    assert (cheapest.zone, cheapest.now, cheapest.min, cheapest.max) == ("eu-west-1b", 0.05, 0.05, 0.05)
    assert cheapest.mean == pytest.approx(0.05)
    # of 10 days: 5 at 0.09, 4 at 0.02, 1 at 0.06
    assert (other.zone, other.now, other.min, other.max) == ("eu-west-1a", 0.06, 0.02, 0.09)
    assert other.mean == pytest.approx((5 * 0.09 + 4 * 0.02 + 0.06) / 10, rel=1e-4)
