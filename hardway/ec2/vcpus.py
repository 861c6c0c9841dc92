"""vCPUs: the number of each type, and the number in use of each quota."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from hardway import aws
from hardway.config import Settings
from hardway.ec2 import quotas
from hardway.ec2.images import MOST_TYPES
from hardway.ec2.instances import describe
from hardway.ec2.quotas import Quota

_COUNTED = ("pending", "running")
# A dedicated host has a quota of its own.
_OWN_HOST = "host"


def of(settings: Settings, types: Collection[str]) -> dict[str, int]:
    """Return the number of vCPUs of an instance of each type."""
    names, ec2 = sorted(set(types)), aws.ec2(settings)
    return {
        raw["InstanceType"]: raw["VCpuInfo"]["DefaultVCpus"]
        for start in range(0, len(names), MOST_TYPES)
        for raw in ec2.describe_instance_types(InstanceTypes=names[start : start + MOST_TYPES])["InstanceTypes"]
    }


def in_use(settings: Settings) -> Counter[Quota]:
    """Return the number of vCPUs that run in the region, by their quota."""
    counted = [one for one in describe(settings) if one.state in _COUNTED and one.tenancy != _OWN_HOST]
    each = of(settings, {one.type for one in counted})
    used: Counter[Quota] = Counter()
    for one in counted:
        quota = quotas.of(one.type, one.spot)
        if quota:
            used[quota] += each.get(one.type, 0)
    return used
