"""Prices of instances, in USD/hour, from AWS.

An unknown price is left out, never 0, and raises nothing: no work should end because of a price. `say` gets the reason.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

from botocore.exceptions import BotoCoreError, ClientError

from hardway import aws, files
from hardway.config import Settings
from hardway.ec2.instances import Instance
from hardway.errors import HardwayError
from hardway.files import cache_directory
from hardway.system.look_ups import LookUps

Say = Callable[[str], None]
Known = dict[str, tuple[float, float | None]]

# The only platforms whose prices are looked up; empty if EC2 does not tell the platform.
PLAIN = ("", "Linux/UNIX")
KEPT_SECONDS = 24 * 3600
REFUSED_SECONDS = 600
_UNANSWERED = (BotoCoreError, ClientError, HardwayError, OSError)
_REFUSED = ""  # a key in place of a type: the time at which the price list last answered nothing
_VALUE_LETTERS = 1024
# Accounts with the old EC2-Classic get the product without a VPC's name; the two cost the same for Linux in a VPC.
_PRODUCTS = ["Linux/UNIX", "Linux/UNIX (Amazon VPC)"]
_MANY_TYPES = 100


def _nothing(line: str) -> None:
    """Say nothing."""


def on_demand(
    settings: Settings, types: Iterable[str], say: Say = _nothing, *, persist: bool = True
) -> dict[str, float]:
    """Return the price of an on-demand Linux instance in the settings' region by its type, in USD/hour; kept for a day.

    Without `persist`, a price list that gave no answer is not asked again for ten minutes. See
    https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-price-list-query-api.html
    """
    wanted = dict.fromkeys(types)
    if not wanted:
        return {}
    try:
        # Another cloud, such as the local one, has other prices.
        where = f"{aws.ec2(settings).meta.endpoint_url} {aws.region_of(settings)}"
    except _UNANSWERED as error:
        _unknown("on-demand", error, say)
        return {}
    known = _read_cache().get(where, {})
    missing = [name for name in wanted if name not in known]
    if missing and (persist or _REFUSED not in known):
        asked: Known = {}
        try:
            asked = _ask_price_list(settings, missing)
        except _UNANSWERED as error:
            _unknown("on-demand", error, say)
            asked = {_REFUSED: (time.time(), None)}
        _add_to_cache(where, asked)
        known = known | asked
    return {name: usd for name in wanted if (usd := known.get(name, (0, None))[1]) is not None}


def _unknown(which: str, error: Exception, say: Say) -> None:
    say(f"{which} prices are not known: {aws.translate(error) or error}")


def _ask_price_list(settings: Settings, types: Sequence[str]) -> Known:
    """Look up the price of every type; None for a type that the list doesn't have."""
    client = aws.pricing(settings)
    region = aws.region_of(settings)

    def ask(some: str) -> list[str]:
        filters = [
            {"Type": "ANY_OF", "Field": "instanceType", "Value": some},
            {"Type": "TERM_MATCH", "Field": "regionCode", "Value": region},
            {"Type": "TERM_MATCH", "Field": "operatingSystem", "Value": "Linux"},
            {"Type": "TERM_MATCH", "Field": "tenancy", "Value": "Shared"},
            {"Type": "TERM_MATCH", "Field": "capacitystatus", "Value": "Used"},
            {"Type": "TERM_MATCH", "Field": "preInstalledSw", "Value": "NA"},
        ]
        pages = client.get_paginator("get_products").paginate(ServiceCode="AmazonEC2", Filters=filters)
        return [product for page in pages for product in page["PriceList"]]

    now = time.time()
    known: Known = dict.fromkeys(types, (now, None))
    with LookUps(4) as pool:
        # A type is EC2's word, and may be missing in a cut answer.
        answers = [pool.submit(ask, some) for some in _joined([type for type in types if type])]
        for answer in answers:
            for name, usd in filter(None, map(_read_product, answer.result())):
                known[name] = (now, max(usd, known.get(name, (now, None))[1] or 0))
    return known


def _joined(types: Sequence[str]) -> Iterator[str]:
    """Join the types with commas, in as few pieces as the longest value of a filter allows.

    Source: https://docs.aws.amazon.com/aws-cost-management/latest/APIReference/API_pricing_Filter.html
    """
    piece = ""
    for name in types:
        if piece and len(piece) + 1 + len(name) > _VALUE_LETTERS:
            yield piece
            piece = ""
        piece = f"{piece},{name}" if piece else name
    if piece:
        yield piece


def _read_product(text: str) -> tuple[str, float] | None:
    """Return type and USD/hour of a product of the price list; None if it is no instance with a price of its own."""
    try:
        product = json.loads(text)
        attributes = product["product"]["attributes"]
        [term] = product["terms"]["OnDemand"].values()
        [dimension] = term["priceDimensions"].values()
        usd = float(dimension["pricePerUnit"]["USD"])
        # Capacity blocks, paid in advance, are listed at 0.
        if 0 < usd < math.inf and attributes.get("marketoption", "OnDemand") == "OnDemand":
            return str(attributes["instanceType"]), usd
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


def _read_cache() -> dict[str, Known]:
    """Return known prices that are not too old, by their region; nothing for a file in another form than ours."""
    now = time.time()
    try:
        return {
            where: {
                name: (at, usd)
                for name, (at, usd) in known.items()
                if 0 <= now - at < (REFUSED_SECONDS if usd is None else KEPT_SECONDS) and (usd is None or usd > 0)
            }
            for where, known in json.loads(_cache_path().read_bytes()).items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _add_to_cache(where: str, asked: Known) -> None:
    """Add prices to the file. If two processes write at a time, one may lose its prices; the file stays whole."""
    cache = _read_cache()
    known = cache.pop(where, {})
    known.pop(_REFUSED, None)
    cache = {name: entries for name, entries in cache.items() if entries} | {where: known | asked}
    with contextlib.suppress(OSError):  # without a cache, the price list is asked every time
        files.write(_cache_path(), [json.dumps(cache).encode()])


def _cache_path() -> Path:
    return cache_directory() / "on-demand.json"


def spot(settings: Settings, types: Iterable[str], say: Say = _nothing) -> dict[tuple[str, str], float]:
    """Return the current spot price of Linux instances, by type and zone, in USD/hour."""
    wanted = set(types)
    newest: dict[tuple[str, str], tuple[datetime, float]] = {}
    try:
        for name, zone, since, usd in spot_history(settings, wanted, datetime.now(timezone.utc)):
            newest[name, zone] = max(newest.get((name, zone), (since, usd)), (since, usd))
    except _UNANSWERED as error:
        _unknown("spot", error, say)
    return {where: usd for where, (_, usd) in newest.items()}


def spot_history(
    settings: Settings, types: Iterable[str], start: datetime
) -> Iterator[tuple[str, str, datetime, float]]:
    """Yield every change of spot prices since `start`, and the last one before it: type, zone, time, USD/hour.

    Raises botocore's errors. See
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeSpotPriceHistory.html
    """
    wanted = set(types)
    if not wanted:
        return
    paginator = aws.ec2(settings).get_paginator("describe_spot_price_history")
    pages = paginator.paginate(
        InstanceTypes=sorted(wanted) if len(wanted) <= _MANY_TYPES else [],
        ProductDescriptions=_PRODUCTS,
        StartTime=start,
        PaginationConfig={"PageSize": 1000},
    )
    for page in pages:
        for row in page["SpotPriceHistory"]:
            if row["InstanceType"] in wanted:
                yield row["InstanceType"], row["AvailabilityZone"], row["Timestamp"], float(row["SpotPrice"])


def hourly(settings: Settings, instances: Iterable[Instance], say: Say = _nothing) -> dict[str, float]:
    """Return the price of an hour of each instance by its id: the current spot price, or the on-demand price.

    Leave out an instance with a paid license, and one on dedicated hardware.
    """
    all_ = [one for one in instances if one.platform in PLAIN and one.tenancy in ("", "default")]
    now = spot(settings, (one.type for one in all_ if one.spot), say)
    listed = on_demand(settings, (one.type for one in all_ if not one.spot), say, persist=False)
    prices = {one.id: now.get((one.type, one.zone)) if one.spot else listed.get(one.type) for one in all_}
    return {name: usd for name, usd in prices.items() if usd is not None}
