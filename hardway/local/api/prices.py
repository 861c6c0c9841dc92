"""Prices of the local cloud: the price list, which moto has none of, and spot prices that differ by zone and time.

All are stand-ins, made up from a type's CPUs and memory: the order of magnitude is right, the price is not. Spot is
about a third of on demand, and changes every six hours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS, INSTANCE_TYPES

TARGET = "AWSPriceListService.GetProducts"
USD_PER_VCPU, USD_PER_GIB = 0.034, 0.004
SPOT_SHARE = 1 / 3
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
PERIOD = timedelta(hours=6)
OLDEST = timedelta(days=90)
PAGE = 100


def on_demand(type: str) -> float:
    """The stand-in for a type's on-demand price, in USD/hour."""
    described = INSTANCE_TYPES[type]
    vcpus, mib = described["VCpuInfo"]["DefaultVCpus"], described["MemoryInfo"]["SizeInMiB"]
    return float(round(USD_PER_VCPU * vcpus + USD_PER_GIB * mib / 1024, 4))


def spot(type: str, zone: str, period: int) -> float:
    """The stand-in for a type's spot price in a zone, in USD/hour; periods are numbered from 1970."""
    by_zone, by_time = _chance(type, zone), _chance(type, zone, str(period))
    return round(on_demand(type) * SPOT_SHARE * (0.85 + 0.3 * by_zone) * (0.95 + 0.1 * by_time), 6)


def spot_now(type: str, zone: str) -> float:
    """The stand-in for a type's spot price in a zone at this moment, in USD/hour."""
    return spot(type, zone, (datetime.now(timezone.utc) - EPOCH) // PERIOD)


def _chance(*words: str) -> float:
    """A number from 0 to 1, always the same for the same words."""
    return int.from_bytes(hashlib.sha256(" ".join(words).encode()).digest()[:4], "big") / 2**32


def describe_spot_price_history(response: Any) -> ActionResult:
    """Answer DescribeSpotPriceHistory with our spot prices."""
    now = datetime.now(timezone.utc)
    end = min(_time(response._get_param("EndTime")) or now, now)
    start = max(_time(response._get_param("StartTime")) or now - OLDEST, now - OLDEST)
    zone = response._get_param("AvailabilityZone")
    # The first one began before the start, and still holds at the start.
    periods = range((start - EPOCH) // PERIOD, (end - EPOCH) // PERIOD + 1)
    offered = response.ec2_backend.describe_spot_price_history(
        response._get_param("InstanceTypes", []), response._filters_from_querystring()
    )
    rows = [
        {
            "InstanceType": one["InstanceType"],
            "ProductDescription": "Linux/UNIX",
            "SpotPrice": f"{spot(one['InstanceType'], one['Location'], period):f}",
            "AvailabilityZone": one["Location"],
            "Timestamp": EPOCH + period * PERIOD,
        }
        for one in offered
        if one["InstanceType"] in INSTANCE_TYPES and zone in (None, one["Location"])
        for period in reversed(periods)
    ]
    first, size = int(response._get_param("NextToken") or 0), int(response._get_param("MaxResults") or 1000)
    page = {"SpotPriceHistory": rows[first : first + size]}
    return ActionResult(page | ({"NextToken": str(first + size)} if len(rows) > first + size else {}))


def _time(given: Any) -> datetime | None:
    if isinstance(given, str):
        given = datetime.fromisoformat(given.replace("Z", "+00:00"))
    return given.replace(tzinfo=given.tzinfo or timezone.utc) if given else None


def get_products(body: bytes) -> dict[str, Any]:
    """The answer to a GetProducts call: products are a region's offers of Linux on demand."""
    asked = json.loads(body)
    wanted = {one["Field"]: one["Value"].split(",") for one in asked.get("Filters", [])}
    found = [product for product in _products(wanted.get("regionCode", [])) if _matches(product, wanted)]
    first, size = int(asked.get("NextToken") or 0), int(asked.get("MaxResults") or PAGE)
    page = [json.dumps(_listed(product)) for product in found[first : first + size]]
    answer: dict[str, Any] = {"FormatVersion": "aws_v1", "PriceList": page}
    return answer | ({"NextToken": str(first + size)} if len(found) > first + size else {})


def _products(regions: list[str]) -> Iterator[dict[str, str]]:
    """The attributes of each product."""
    for region in regions:
        for offering in INSTANCE_TYPE_OFFERINGS["region"].get(region, []):
            yield {
                "servicecode": "AmazonEC2",
                "instanceType": offering["InstanceType"],
                "regionCode": region,
                "locationType": "AWS Region",
                "operatingSystem": "Linux",
                "tenancy": "Shared",
                "capacitystatus": "Used",
                "preInstalledSw": "NA",
                "marketoption": "OnDemand",
            }


def _matches(product: Mapping[str, str], wanted: Mapping[str, list[str]]) -> bool:
    known = product["instanceType"] in INSTANCE_TYPES
    return known and all(product.get(key) in any_of for key, any_of in wanted.items())


def _listed(attributes: Mapping[str, str]) -> dict[str, Any]:
    sku = hashlib.sha256(f"{attributes['regionCode']} {attributes['instanceType']}".encode()).hexdigest()[:16].upper()
    usd = on_demand(attributes["instanceType"])
    described = f"${usd:.4f} per On Demand Linux {attributes['instanceType']} Instance Hour"
    term, rate = f"{sku}.JRTCKXETXF", f"{sku}.JRTCKXETXF.6YS6EN2CT7"
    dimension = {
        "unit": "Hrs",
        "beginRange": "0",
        "endRange": "Inf",
        "description": described,
        "appliesTo": [],
        "rateCode": rate,
        "pricePerUnit": {"USD": f"{usd:.10f}"},
    }
    terms = {"sku": sku, "offerTermCode": "JRTCKXETXF", "termAttributes": {}, "priceDimensions": {rate: dimension}}
    return {
        "product": {"productFamily": "Compute Instance", "sku": sku, "attributes": attributes},
        "serviceCode": "AmazonEC2",
        "terms": {"OnDemand": {term: terms}},
    }
