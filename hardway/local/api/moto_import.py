"""The import of moto's EC2: its settings, and its table of offerings, read a region at a time when it is asked for.

At its import moto reads all of the table, 150,000 rows: a third of the daemon's memory and a tenth of its start. It
also reads botocore's model of EC2 three times over, to list the regions: a third of the start. So this comes before
anything else of moto's EC2: the package imports it first.
"""

from __future__ import annotations

import os
from typing import Any

# Read by moto at its import. Each of its hundreds of images would cost time and memory in every region.
os.environ.update(
    MOTO_EC2_LOAD_DEFAULT_AMIS="false", MOTO_ENABLE_KEYPAIR_VALIDATION="true", MOTO_DISABLE_GLOBAL_CORS="true"
)

import boto3
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


utils.load_resource = lambda resource: [] if _TABLE in resource else _read(resource)
_session, _Session = boto3.Session(), boto3.Session
boto3.Session = lambda: _session
try:
    from moto.ec2.models.availability_zones_and_regions import RegionsAndZonesBackend
    from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS, INSTANCE_TYPES
finally:
    utils.load_resource = _read
    boto3.Session = _Session

for _location_type in INSTANCE_TYPE_OFFERINGS:
    INSTANCE_TYPE_OFFERINGS[_location_type] = Offerings(_location_type)


def zones() -> list[str]:
    """The zones of all regions that moto knows."""
    return [zone.name for zones in RegionsAndZonesBackend.zones.values() for zone in zones]


def instance_types() -> list[str]:
    """The instance types that moto knows."""
    return list(INSTANCE_TYPES)
