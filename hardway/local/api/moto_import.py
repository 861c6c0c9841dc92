"""The import of moto's EC2: its settings, and its table of offerings, read a region at a time when it is asked for.

At its import moto reads all of the table, 150,000 rows: a third of the daemon's memory and a tenth of its start. boto3
reads its model of EC2 for each list of the regions: a third of the start. So this comes before anything else of moto's
EC2: the package imports it first.
"""

from __future__ import annotations

import os
from typing import Any

# Read by moto at its import. Each of its hundreds of images would cost time and memory in every region.
os.environ.update(
    MOTO_EC2_LOAD_DEFAULT_AMIS="false", MOTO_ENABLE_KEYPAIR_VALIDATION="true", MOTO_DISABLE_GLOBAL_CORS="true"
)

import boto3
from botocore.loaders import Loader
from botocore.regions import EndpointResolver
from moto.utilities import utils

_TABLE = "resources/instance_type_offerings"
_read = utils.load_resource


class Offerings(dict[str, Any]):
    """The rows of each region, for one type of location."""

    def __init__(self, location_type: str) -> None:
        super().__init__()
        self._location_type = location_type

    def __missing__(self, region: str) -> list[dict[str, str]]:
        rows: list[dict[str, str]] = _read(f"ec2/{_TABLE}/{self._location_type}/{region}.json")
        for row in rows:
            row["LocationType"] = self._location_type
        self[region] = rows
        return rows

    def get(self, region: str, default: Any = None) -> Any:
        """The rows of a region; `default` for a region that moto does not know."""
        try:
            return self[region]
        except FileNotFoundError:
            return default


_endpoints = EndpointResolver(Loader().load_data("endpoints"))
_regions = boto3.Session.get_available_regions


def _known_regions(session: Any, service: str, partition_name: str = "aws", *more: Any, **options: Any) -> list[str]:
    """Return the regions of a service, as boto3 does."""
    if service == "ec2":
        return list(_endpoints.get_available_endpoints(service, partition_name))
    return list(_regions(session, service, partition_name, *more, **options))


boto3.Session.get_available_regions = _known_regions
utils.load_resource = lambda resource: [] if _TABLE in resource else _read(resource)
try:
    from moto.ec2.models.availability_zones_and_regions import RegionsAndZonesBackend
    from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS, INSTANCE_TYPES
finally:
    utils.load_resource = _read

for _location_type in INSTANCE_TYPE_OFFERINGS:
    INSTANCE_TYPE_OFFERINGS[_location_type] = Offerings(_location_type)


def zones() -> list[str]:
    """The zones of all regions that moto knows."""
    return [zone.name for zones in RegionsAndZonesBackend.zones.values() for zone in zones]


def instance_types() -> list[str]:
    """The instance types that moto knows."""
    return list(INSTANCE_TYPES)
