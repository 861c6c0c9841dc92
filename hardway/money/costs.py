"""Costs of instances, running or about to be started.

They are estimates. A spot instance counts at the current price for all its time. Volumes, public addresses, CPU
credits, traffic and taxes are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from hardway import aws
from hardway.config import Settings
from hardway.ec2.instances import Instance, Instances
from hardway.errors import UsageError
from hardway.money import prices
from hardway.money.prices import Say
from hardway.tables import Column, age, aligned, cents, duration, fitted, html_table, money, per_hour

_UNLIMITED = re.compile(r"t(3a?|4g)\.")
_USD_PER_CPU_HOUR = 0.05
_WIDE_TITLES = (
    *("NAME", "TYPE", "STATE", "ID", "AMI", "MARKET", "ADDRESS", "ZONE", "GROUPS", "TAGS"),
    *("PRICE", "AGE", "COST"),
)
# The columns that a narrow terminal does without, the first one first.
_SPARE = ("ZONE", "AGE", "TYPE")


@dataclass(frozen=True)
class Cost:
    """An instance's price in USD/hour, and the hours since its last start; None for an unknown one."""

    usd_per_hour: float | None
    hours: float | None

    @property
    def usd(self) -> float | None:
        """The cost so far."""
        return None if self.usd_per_hour is None or self.hours is None else self.usd_per_hour * self.hours


class Bill(Instances):
    """Instances with their costs, as additional columns and keys; `wide` shows all columns on a terminal, too.

    `hourly` is the price of an hour of each instance by its id, without the unknown ones.
    """

    def __init__(self, instances: Iterable[Instance], hourly: Mapping[str, float], wide: bool = False) -> None:
        super().__init__(instances)
        self._wide = wide
        now = self._now = datetime.now(timezone.utc)
        costs = {one.id: Cost(hourly.get(one.id), _hours(one, now)) for one in self}
        self._costs = costs
        self.columns = (
            *self.columns,
            lambda one: per_hour(costs[one.id].usd_per_hour),
            lambda one: None if (hours := costs[one.id].hours) is None else duration(hours * 3600),
            lambda one: None if (usd := costs[one.id].usd) is None else money(usd),
        )

    def usd_within(self, instance: Instance, begin: datetime, end: datetime) -> float | None:
        """Return what an instance costs between two times, since its last start; None if that is unknown."""
        cost = self._costs[instance.id]
        if cost.usd_per_hour is None or cost.hours is None:
            return None
        begin = max(begin, instance.launched)
        return cost.usd_per_hour * max(0.0, (min(end, instance.ended or end) - begin).total_seconds()) / 3600

    def facts(self, row: Instance) -> dict[str, Any]:
        """Return all facts about an instance, and its cost."""
        cost = self._costs[row.id]
        more = {"overdue": row.is_overdue(self._now)}
        return {**super().facts(row), **more, "usd_per_hour": cost.usd_per_hour, "hours": cost.hours, "usd": cost.usd}

    @property
    def overdue(self) -> list[Instance]:
        """The instances that run, but should have ended themselves."""
        return [one for one in self if one.is_overdue(self._now)]

    def _state(self, one: Instance) -> str:
        """Return the state for a person; an instance that should have ended itself is `overdue`."""
        return "overdue" if one.is_overdue(self._now) else one.state

    def on_terminal(self, width: int) -> str:
        """Return a table with titles, which fits the terminal unless it is wide."""
        if not self:
            return ""
        if self._wide:
            return "\n".join(aligned(self._all_titled()))
        columns: dict[str, Column] = {
            **{title: title.lower() for title in ("NAME", "TYPE", "STATE", "ID", "ADDRESS", "ZONE")},
            "STATE": self._state,
            "AGE": lambda one: None if (hours := self._costs[one.id].hours) is None else age(hours * 3600),
            "COST": lambda one: None if (usd := self._costs[one.id].usd) is None else cents(usd),
        }
        several = len({one.region for one in self}) > 1
        return "\n".join(fitted(self.titled(columns), width, _SPARE[several:]))

    def _repr_html_(self) -> str:
        return html_table(self._all_titled())

    def _all_titled(self) -> list[list[str]]:
        titles = zip(_WIDE_TITLES, self.columns, strict=True)
        return self.titled({**dict(titles), "STATE": self._state, "TAGS": lambda one: one.own_tags})

    @property
    def usd(self) -> str:
        """The cost of all so far, as text."""
        known = [cost.usd for cost in self._costs.values() if cost.usd is not None]
        return _sum(known, len(self) - len(known))

    @property
    def usd_per_hour(self) -> str:
        """The price of an hour of all that haven't ended, as text."""
        running = [self._costs[one.id].usd_per_hour for one in self if one.state in ("pending", "running")]
        known = [usd for usd in running if usd is not None]
        return _sum(known, len(running) - len(known))


def bill(settings: Settings, instances: Iterable[Instance], say: Say, wide: bool = False) -> Bill:
    """Return the bill of instances in the settings' region."""
    all_ = list(instances)
    return Bill(all_, prices.hourly(settings, all_, say), wide)


@dataclass(frozen=True)
class Quote:
    """The price of a cluster before its start, in USD/hour: `lowest` to `highest`, by the type and zone it gets.

    Both are None if no price is known, and leave out the types in `unknown`. `spot`, at the current price, and
    `on_demand` are numbers of instances. `platform` is a license paid for with them, without a known price. `credits`
    is the highest possible cost of CPU credits.
    """

    spot: int
    on_demand: int
    types: Sequence[str]
    platform: str
    lowest: float | None
    highest: float | None
    unknown: Sequence[str]
    credits: float

    def __str__(self) -> str:
        types = " or ".join(self.types)
        kinds = ((self.spot, "spot"), (self.on_demand, "on demand"))
        what = " and ".join(f"{count} x {types} {kind}" for count, kind in kinds if count) + ": "
        if self.lowest is None or self.highest is None:
            return f"{what}price not known" + (f" (with {self.platform})" if self.platform else "")
        low, high = money(self.lowest), money(self.highest)
        missing = f" (the price of {', '.join(self.unknown)} is not known)" if self.unknown else ""
        credits = f", and up to {money(self.credits)}/hour for CPU credits" if self.credits else ""
        return f"{what}{low if low == high else f'{low} to {high}'}/hour{' now' if self.spot else ''}{missing}{credits}"


def quote(settings: Settings, platform: str, say: Say) -> Quote:
    """Return the price of `ec2.num` instances of any of `ec2.types`, in `ec2.zone` or anywhere in the region."""
    ec2 = settings.ec2
    on_demand = ec2.on_demand if ec2.spot else ec2.num
    spot = ec2.num - on_demand
    if platform not in prices.PLAIN:
        return Quote(spot, on_demand, ec2.types, platform, None, None, ec2.types, 0)
    parts: list[tuple[int, list[tuple[str, float]]]] = []
    if spot:
        now = prices.spot(settings, ec2.types, say)
        parts.append((spot, [(name, usd) for (name, zone), usd in now.items() if ec2.zone in ("", zone)]))
    if on_demand:
        parts.append((on_demand, list(prices.on_demand(settings, ec2.types, say).items())))
    unknown = [name for name in ec2.types if any(name not in dict(known) for _, known in parts)]
    credits = ec2.num * _most_credits(settings, ec2.types)
    if not all(known for _, known in parts):
        return Quote(spot, on_demand, ec2.types, "", None, None, unknown, credits)
    lowest, highest = (sum(num * end(usd for _, usd in known) for num, known in parts) for end in (min, max))
    return Quote(spot, on_demand, ec2.types, "", lowest, highest, unknown, credits)


def refuse_above(settings: Settings, quote: Quote, say: Say) -> None:
    """Raise UsageError if the cost within `ec2.max_hours` could exceed `ec2.max_cost`, or is unknown.

    A spot instance can cost up to `ec2.spot` times the on-demand price, whatever its current price is.
    """
    max_cost, max_hours = settings.ec2.max_cost, settings.ec2.max_hours
    if not max_hours:
        raise UsageError("--max-cost needs an end: --max-hours is 0, which is never")
    known = {} if quote.platform else prices.on_demand(settings, quote.types, say)
    unknown = [name for name in quote.types if name not in known]
    if unknown:
        license = f" with {quote.platform}" if quote.platform else ""
        raise UsageError(f"--max-cost: the price of {', '.join(unknown)}{license} is not known; leave it out to go on")
    dearest = max(known.values())
    usd = round((dearest * (quote.spot * settings.ec2.spot + quote.on_demand) + quote.credits) * max_hours, 6)
    if usd > max_cost:
        risen = " (spot at its highest price)" if quote.spot else ""
        raise UsageError(
            f"{quote}, in the {max_hours:g} hours of --max-hours up to {money(usd)}{risen}, and --max-cost is "
            f"{money(max_cost)}: take fewer, other types (`{settings.command('ec2.types')}`) or a shorter --max-hours"
        )


def _most_credits(settings: Settings, types: Sequence[str]) -> float:
    """Return the highest cost of CPU credits of an instance, in USD/hour: all its CPUs in use, all the time.

    Sources: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/burstable-performance-instances-unlimited-mode.html
    (which types have no limit unless they are told to), https://aws.amazon.com/ec2/pricing/on-demand/ (the price).
    """
    unlimited = [name for name in types if _UNLIMITED.match(name)]
    if not unlimited:
        return 0.0
    described = aws.ec2(settings).describe_instance_types(InstanceTypes=unlimited)["InstanceTypes"]
    return _USD_PER_CPU_HOUR * max(each["VCpuInfo"]["DefaultVCpus"] for each in described)


def _sum(known: Sequence[float], unknown: int) -> str:
    if unknown and not known:
        return "not known"
    whose = "1 instance's" if unknown == 1 else f"{unknown} instances'"
    return money(sum(known)) + (f" ({whose} cost unknown)" if unknown else "")


def _hours(instance: Instance, now: datetime) -> float | None:
    end = instance.ended or (None if instance.state in ("stopped", "terminated") else now)
    return max(0.0, (end - instance.launched).total_seconds() / 3600) if end else None
