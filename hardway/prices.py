"""What instances cost, in USD/hour, as far as EC2 can be asked for it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from datetime import datetime, timezone

from botocore.exceptions import BotoCoreError, ClientError

from hardway import aws
from hardway.config import Settings
from hardway.errors import HardwayError
from hardway.instances import Instance

# Accounts that still had EC2-Classic get the one without a VPC's name; for Linux in a VPC the two cost the same.
_PRODUCTS = ["Linux/UNIX", "Linux/UNIX (Amazon VPC)"]


def on_demand(settings: Settings, types: Iterable[str]) -> dict[str, float]:
    """The price of an on-demand Linux instance in the settings' region, in USD/hour, by type; those not known left out.

    See https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/using-price-list-query-api.html
    """
    known = {}
    for name in types:
        wanted = {
            "instanceType": name,
            "regionCode": aws.region_of(settings),
            "operatingSystem": "Linux",
            "tenancy": "Shared",
            "capacitystatus": "Used",
            "preInstalledSw": "NA",
        }
        filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
        with contextlib.suppress(BotoCoreError, ClientError, OSError, ValueError, LookupError):
            [product] = aws.pricing(settings).get_products(ServiceCode="AmazonEC2", Filters=filters)["PriceList"]
            [term] = json.loads(product)["terms"]["OnDemand"].values()
            [dimension] = term["priceDimensions"].values()
            known[name] = float(dimension["pricePerUnit"]["USD"])
    return known


def spot_prices(settings: Settings, instances: Iterable[Instance]) -> dict[str, float]:
    """The price now, in USD/hour, by the id of the instance, of those that are spot instances.

    One whose price EC2 doesn't tell is not in it; nothing is raised, as nobody's work should end over a price. See
    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeSpotPriceHistory.html
    """
    spot = [instance for instance in instances if instance.spot]
    if not spot:
        return {}
    found: dict[tuple[str, str], tuple[datetime, float]] = {}
    try:
        pages = aws.ec2(settings).get_paginator("describe_spot_price_history")
        for page in pages.paginate(
            InstanceTypes=sorted({instance.type for instance in spot}),
            ProductDescriptions=_PRODUCTS,
            StartTime=datetime.now(timezone.utc),
        ):
            for row in page["SpotPriceHistory"]:
                where = row["InstanceType"], row["AvailabilityZone"]
                entry = row["Timestamp"], float(row["SpotPrice"])
                found[where] = max(found.get(where, entry), entry)
    except (BotoCoreError, ClientError, HardwayError, OSError):
        return {}
    return {one.id: found[one.type, one.zone][1] for one in spot if (one.type, one.zone) in found}
