"""The account's quotas of vCPUs in each region: by kind of instance type, separate for spot and on demand.

Sources: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-on-demand-instances.html (on demand),
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/using-spot-limits.html (spot); the codes are Service Quotas'.
"""

from __future__ import annotations

from dataclasses import dataclass

from hardway import aws
from hardway.config import Settings

_STANDARD = "Standard (A, C, D, H, I, M, R, T, Z)"
# The start of a type's name, its kind, and the codes of the kind's quotas on demand and for spot, if any.
_KINDS = {
    **dict.fromkeys("acdhimrtz", (_STANDARD, "L-1216C47A", "L-34B43A08")),
    "dl": ("DL", "L-6E869C2A", "L-85EED4F7"),
    "f": ("F", "L-74FC7D96", "L-88CF9481"),
    "g": ("G and VT", "L-DB2E81BA", "L-3819A6DF"),
    "hpc": ("HPC", "L-F7808C92", ""),
    "inf": ("Inf", "L-1945791B", "L-B5D1601B"),
    "mac": ("", "", ""),
    "p": ("P", "L-417A185B", "L-7212CCBC"),
    "trn": ("Trn", "L-2C3B7624", "L-6B0D517C"),
    "u": ("High Memory", "L-43DA4232", ""),
    "vt": ("G and VT", "L-DB2E81BA", "L-3819A6DF"),
    "x": ("X", "L-7295265B", "L-E3A00192"),
}


@dataclass(frozen=True)
class Quota:
    """The most vCPUs of one kind of instance types; `code` is the quota's in Service Quotas."""

    code: str
    name: str

    def page(self, region: str) -> str:
        """Return the address of the page that shows the quota and takes requests to raise it."""
        return f"https://{region}.console.aws.amazon.com/servicequotas/home/services/ec2/quotas/{self.code}"


def of(type: str, spot: bool) -> Quota | None:
    """Return the quota that instances of a type count towards; None for a type without a quota, or an unknown one."""
    starts = [start for start in _KINDS if type.startswith(start)]
    if not starts:
        return None
    kind, on_demand_code, spot_code = _KINDS[max(starts, key=len)]
    code = spot_code if spot else on_demand_code
    name = f"All {kind} Spot Instance Requests" if spot else f"Running On-Demand {kind} instances"
    return Quota(code, name) if code else None


def value(settings: Settings, quota: Quota) -> float | None:
    """Return the quota in vCPUs; None if it can't be looked up: a failed look-up must end no work."""
    try:
        answer = aws.service_quotas(settings).get_service_quota(ServiceCode="ec2", QuotaCode=quota.code)
        return float(answer["Quota"]["Value"])
    except Exception:
        return None
