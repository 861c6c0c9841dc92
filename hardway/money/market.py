"""EC2's offers: regions, zones, instance types with their prices, and the history of spot prices."""

from __future__ import annotations

import fnmatch
import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from hardway import aws
from hardway.config import Settings
from hardway.ec2 import images
from hardway.errors import NothingMatched, UsageError, did_you_mean
from hardway.money import prices
from hardway.money.prices import Say
from hardway.tables import Table, money, per_hour

HISTORY_DAYS = 90  # the days that EC2 remembers
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_ProcessorInfo.html
ARCHITECTURES = ("x86_64", "arm64", "i386", "x86_64_mac", "arm64_mac")


@dataclass(frozen=True)
class Region:
    """A region that the account can use."""

    name: str
    endpoint: str


def regions(settings: Settings) -> Table[Region]:
    """Return the regions enabled for the account, by name."""
    known = aws.ec2(settings).describe_regions()["Regions"]
    enabled = (one for one in known if one.get("OptInStatus") != "not-opted-in")
    found = (Region(one["RegionName"], one["Endpoint"]) for one in enabled)
    return Table(sorted(found, key=lambda region: region.name), "name")


@dataclass(frozen=True)
class Zone:
    """A zone; `id` names the same place in every account, the name does not."""

    name: str
    id: str
    state: str
    kind: str


def zones(settings: Settings) -> Table[Zone]:
    """Return the zones of the region that the account can use, by name."""
    found = aws.ec2(settings).describe_availability_zones()["AvailabilityZones"]
    all_ = (Zone(one["ZoneName"], one["ZoneId"], one["State"], one["ZoneType"]) for one in found)
    return Table(sorted(all_, key=lambda zone: zone.name), "name", "id", "state", "kind")


@dataclass(frozen=True)
class Type:
    """An instance type with its prices in USD/hour; an unknown one is None, without a zone. `nvme_gb` is storage."""

    name: str
    vcpus: int
    memory_gib: float
    nvme_gb: int
    architectures: Sequence[str]
    on_demand: float | None = None
    spot: Mapping[str, float] = field(default_factory=dict)

    @property
    def cheapest_zone(self) -> str:
        """The zone with the lowest spot price; empty if none is known."""
        return min(self.spot, key=lambda zone: self.spot[zone], default="")


def types(
    settings: Settings, only: str, say: Say, *, vcpus: int = 0, memory: float = 0, nvme: int = 0, arch: str = ""
) -> Table[Type]:
    """Return types that match one of the globs `only` and have these minimums, cheapest first, unknown prices last.

    Raises NothingMatched, also if one of `only` is no glob and no type of the region.
    """
    if arch not in ("", *ARCHITECTURES):
        known = ", ".join(ARCHITECTURES)
        raise UsageError(f"--arch is {arch!r}: it must be one of {known}{did_you_mean(arch, ARCHITECTURES)}")
    wanted = list(filter(None, re.split(r"[\s,]+", only)))
    filters = [{"Name": "instance-type", "Values": wanted}] if wanted else []
    pages = aws.ec2(settings).get_paginator("describe_instance_types").paginate(Filters=filters)
    all_ = [_type(raw) for page in pages for raw in page["InstanceTypes"]]
    for name in wanted:
        if not any(fnmatch.fnmatchcase(one.name, name) for one in all_):
            hint = images.near_type(settings, name)
            raise NothingMatched(f"{aws.region_of(settings)} has no instance type {name!r}{hint}")
    found = [
        one
        for one in all_
        if (one.vcpus >= vcpus and one.memory_gib >= memory and one.nvme_gb >= nvme)
        and (not arch or arch in one.architectures)
    ]
    if not found:
        raise NothingMatched(f"no instance type in {aws.region_of(settings)} fits all of these flags: ask for less")
    names = [one.name for one in found]
    on_demand = prices.on_demand(settings, names, say)
    spot: dict[str, dict[str, float]] = {}
    for (name, zone), usd in prices.spot(settings, names, say).items():
        spot.setdefault(name, {})[zone] = usd
    priced = (replace(one, on_demand=on_demand.get(one.name), spot=spot.get(one.name, {})) for one in found)
    return Table(
        sorted(priced, key=lambda one: (one.on_demand or math.inf, one.name)),
        *("name", "vcpus"),
        lambda one: f"{one.memory_gib:g}GiB",
        lambda one: f"{one.nvme_gb}GB" if one.nvme_gb else "",
        "architectures",
        lambda one: per_hour(one.on_demand),
        lambda one: per_hour(one.spot.get(one.cheapest_zone)),
        "cheapest_zone",
    )


def _type(raw: Mapping[str, Any]) -> Type:
    storage = raw.get("InstanceStorageInfo", {})
    return Type(
        name=raw["InstanceType"],
        vcpus=raw["VCpuInfo"]["DefaultVCpus"],
        memory_gib=raw["MemoryInfo"]["SizeInMiB"] / 1024,
        nvme_gb=storage["TotalSizeInGB"] if storage.get("NvmeSupport") in ("supported", "required") else 0,
        architectures=raw["ProcessorInfo"]["SupportedArchitectures"],
    )


@dataclass(frozen=True)
class SpotPrices:
    """The history of a type's spot price in a zone, in USD/hour; `mean` is over time."""

    zone: str
    now: float
    min: float
    mean: float
    max: float


def spot_prices(settings: Settings, type: str, days: float) -> Table[SpotPrices]:
    """Return the history of a type's spot price in each zone, the currently cheapest zone first.

    Raises UsageError for days that EC2 doesn't remember, NothingMatched for a type without spot prices.
    """
    if not 0 < days <= HISTORY_DAYS:
        raise UsageError(
            f"--days is {days:g}: it must be above 0, and at most {HISTORY_DAYS}, since EC2 keeps no older prices"
        )
    if not re.fullmatch(r"[a-z0-9-]+\.[a-z0-9-]+", type):
        types = settings.command("ec2.types")
        raise UsageError(f"{type!r} is not an instance type: name one, such as m7i.large (`{types}` lists them)")
    end = datetime.now(timezone.utc)
    start = end - timedelta(days=days)
    changes: dict[str, dict[datetime, float]] = {}
    for _, zone, since, usd in sorted(prices.spot_history(settings, [type], start), key=lambda change: change[2]):
        changes.setdefault(zone, {})[max(since, start)] = usd
    if not changes:
        hint = images.near_type(settings, type) or f"; `{settings.command('ec2.types')}` lists types"
        raise NothingMatched(f"{aws.region_of(settings)} has no spot prices of {type!r}{hint}")
    rows = (_summary(zone, sorted(of_zone.items()), end) for zone, of_zone in changes.items())
    return Table(
        sorted(rows, key=lambda row: (row.now, row.zone)),
        "zone",
        lambda row: money(row.now),
        lambda row: money(row.min),
        lambda row: money(row.mean),
        lambda row: money(row.max),
    )


def _summary(zone: str, changes: Sequence[tuple[datetime, float]], end: datetime) -> SpotPrices:
    """Sum up the price changes of one zone, oldest first; each price holds until the next."""
    usds = [usd for _, usd in changes]
    begun = [since for since, _ in changes]
    lasted = [(until - since).total_seconds() for since, until in zip(begun, [*begun[1:], end], strict=True)]
    mean = sum(map(operator.mul, usds, lasted)) / sum(lasted) if sum(lasted) > 0 else usds[-1]
    return SpotPrices(zone, usds[-1], min(usds), mean, max(usds))
