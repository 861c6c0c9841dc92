"""RunInstances as EC2 does it: as many instances as there is capacity for, from MinCount to MaxCount.

A spot instance gets nothing for less than the spot price, and any instance takes a token from the region's bucket.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

import moto.ec2.models.instances
import moto.ec2.responses.instances

from hardway.local.api import disks, prices
from hardway.local.api.ec2_error import EC2Error
from hardway.local.api.launch_buckets import LaunchBuckets

MOST = 5000
"""Instances that one launch may have: moto makes them all before it answers."""
CODE = "InsufficientInstanceCapacity"
CHEAP_CODE = "SpotMaxPriceTooLow"

moto_run_instances: Any = moto.ec2.models.instances.InstanceBackend.run_instances
"""moto's own, which asks nobody."""
_moto_answer: Any = moto.ec2.responses.instances.InstanceResponse.run_instances
_asked: ContextVar[Mapping[str, Any]] = ContextVar("asked")
"""The part of the RunInstances being answered that moto does not pass on: it launches MinCount itself."""
Grant = Callable[[str, str, int, int], int]
"""Takes zone, type, least and most; returns how many instances may be launched, 0 for less than the least."""
_grant: Grant
buckets: LaunchBuckets


def ask(grant: Grant, region_buckets: LaunchBuckets) -> None:
    """Have launches ask these. To be called before the first launch."""
    global _grant, buckets
    _grant, buckets = grant, region_buckets


def granted(zone: str, type: str, least: int, most: int) -> int:
    """Ask how many instances of a type a launch gets in a zone, from `least` to `most`; 0 for none."""
    return _grant(zone, type, least, most)


def take_tokens(region: str, count: int) -> None:
    """Take a number of launches from the bucket of a region; `buckets.give_back` those not needed. Raises EC2Error."""
    if count > MOST:
        raise EC2Error(400, "InstanceLimitExceeded", f"The local cloud takes no more than {MOST} instances at once.")
    buckets.take(region, count)


def too_cheap(zone: str, type: str, max_price: Any) -> str:
    """The words of EC2 for a spot price that is below the market's; empty where it isn't, or none was said."""
    if max_price is None or float(max_price) >= (price := prices.spot_now(type, zone)):
        return ""
    return (
        f"Your Spot request price of {float(max_price):g} is lower than the minimum required Spot request fulfillment "
        f"price of {price:g}."
    )


def answer_run_instances(response: Any) -> Any:
    """Answer RunInstances, and remember meanwhile what moto forgets."""
    token = _asked.set(
        {
            "most": response._get_int_param("MaxCount"),
            "disks": response._get_param("BlockDeviceMappings", []),
            "max_price": response._get_param("InstanceMarketOptions.SpotOptions.MaxPrice"),
        }
    )
    try:
        return _moto_answer(response)
    finally:
        _asked.reset(token)


def run_instances(backend: Any, image_id: str, count: int, *args: Any, **kwargs: Any) -> Any:
    """Launch up to the most in the first zone with enough capacity. Raises EC2Error."""
    asked = _asked.get({})
    template = kwargs.get("launch_template")
    data = backend._get_template_from_args(template).data if template else {}
    type = data.get("InstanceType") if kwargs.get("is_instance_type_default") else ""
    type = type or kwargs.get("instance_type") or ""
    subnets = [kwargs.get("subnet_id"), *(nic.get("SubnetId") for nic in kwargs.get("nics") or ())]
    wanted = zone_of(backend, next(filter(None, subnets), ""), kwargs.get("placement"))
    most = asked.get("most") or count
    kwargs["block_device_mappings"] = disks.of_launch(
        backend, image_id or data.get("ImageId", ""), [*data.get("BlockDeviceMappings", []), *asked.get("disks", [])]
    )
    refused = EC2Error(500, CODE, message(wanted, type))
    take_tokens(backend.region_name, most)
    launched = 0
    try:
        for zone in [wanted] if wanted else _zones(backend):
            if said := too_cheap(zone, type, asked.get("max_price")):
                refused = EC2Error(400, CHEAP_CODE, said)
            elif launched := granted(zone, type, count, most):
                if not wanted and zone != _zones(backend)[0]:
                    kwargs["placement"] = zone
                return moto_run_instances(backend, image_id, launched, *args, **kwargs)
    finally:
        buckets.give_back(backend.region_name, most - launched)
    raise refused


def _zones(backend: Any) -> list[str]:
    """The zones of a launch that names none, the usual one first."""
    return [backend.region_name + "a", *sorted(backend.get_default_subnets())]


def zone_of(backend: Any, subnet: str | None, placed: str | None) -> str:
    """The zone that a launch names by its subnet or its placement; empty for none."""
    return str(backend.get_subnet(subnet).availability_zone) if subnet else placed or ""


def message(zone: str, type: str) -> str:
    """The words of EC2 for a lack of capacity."""
    where = f"in the Availability Zone you requested ({zone})" if zone else "in any of the Availability Zones"
    return f"We currently do not have sufficient {type} capacity {where}. Try another zone or instance type."
