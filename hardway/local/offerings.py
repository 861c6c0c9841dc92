"""moto's table of which instance type is offered where, read a region at a time, when it is asked for.

At its import moto reads all of it, 150,000 rows: a third of the daemon's memory and a tenth of its start. It also reads
botocore's model of EC2 three times over, to list the regions: a third of the start. So this must be imported before
anything else of moto's EC2.
"""

from __future__ import annotations

from typing import Any

import boto3
from moto.utilities import utils

_read = utils.load_resource


class _Regions(dict[str, Any]):
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
        try:
            return self[region]
        except FileNotFoundError:
            return default


_TABLE = "resources/instance_type_offerings"

utils.load_resource = lambda resource: [] if _TABLE in resource else _read(resource)
_session, _Session = boto3.Session(), boto3.Session
boto3.Session = lambda: _session
try:
    from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS
finally:
    utils.load_resource = _read
    boto3.Session = _Session

for _location_type in INSTANCE_TYPE_OFFERINGS:
    INSTANCE_TYPE_OFFERINGS[_location_type] = _Regions(_location_type)
