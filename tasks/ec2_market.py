"""Regions, zones, instance types and prices; part of `ec2`."""

from __future__ import annotations

from typing import Any

from invoke import Context

from hardway import config
from hardway.cli.task import say, task

from .flags import JSON
from .lazy import market


@task(autoprint=True, help={"json": JSON})
def regions(c: Context, json: bool = False, region: str | None = None) -> Any:
    """List the regions that the account can use.

    Examples:
      inv ec2.regions
      inv ec2.regions --json
    """
    found = market.regions(config.settings(c, region))
    return found.json() if json else found


@task(autoprint=True, help={"json": JSON})
def zones(c: Context, json: bool = False, region: str | None = None) -> Any:
    """List the region's zones.

    Columns: name, id (the same place for every account), state, kind.

    Examples:
      inv ec2.zones
      inv ec2.zones --region eu-west-1
    """
    found = market.zones(config.settings(c, region))
    return found.json() if json else found


@task(
    autoprint=True,
    help={
        "only": "names with commas, globs allowed, such as 'm7i.*,c7?.large'",
        "vcpus": "at least this number of vCPUs",
        "memory": "at least this number of GiB",
        "nvme": "at least this number of GB of NVMe instance storage",
        "arch": "architecture: x86_64 or arm64",
        "json": JSON,
    },
)
def types(
    c: Context,
    only: str = "",
    vcpus: int | str = 0,
    memory: float | str = 0,
    nvme: int | str = 0,
    arch: str = "",
    json: bool = False,
    region: str | None = None,
) -> Any:
    """List instance types and their prices.

    The cheapest comes first. Columns: name, vCPUs, memory, NVMe, architectures, on-demand price, spot price, its zone.

    The spot price is the current one in the cheapest zone; --json has all zones.

    Examples:
      inv ec2.types --only 'm7i.*,c7i.*' --vcpus 4
      inv ec2.types --only 'm7gd.*' --arch arm64 --memory 64 --nvme 500
    """
    least = {
        "vcpus": config.number(vcpus, int, "--vcpus"),
        "memory": config.number(memory, float, "--memory"),
        "nvme": config.number(nvme, int, "--nvme"),
    }
    found = market.types(config.settings(c, region), only, say, arch=arch, **least)
    return found.json() if json else found


@task(
    autoprint=True,
    help={"type": "instance type", "days": "number of days to look back, at most 90", "json": JSON},
)
def spot_prices(c: Context, type: str, days: float | str = 7, json: bool = False, region: str | None = None) -> Any:
    """Sum up a type's spot prices by zone.

    The cheapest zone comes first. Columns: zone, current price, minimum, mean, maximum, in USD/hour.

    Examples:
      inv ec2.spot-prices m7i.large
      inv ec2.spot-prices m7i.large --days 30 --json
    """
    found = market.spot_prices(config.settings(c, region), type, config.number(days, float, "--days"))
    return found.json() if json else found
