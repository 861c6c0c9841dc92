"""A month's budget for this user's instances, by their tag `owner`: a launch that may exceed it is asked about.

EC2 forgets an instance an hour after its end. A file for each month keeps the cost of each instance that was seen, so
that ended ones still count. An instance that another machine started and ended is missing there. Months are in UTC.
"""

from __future__ import annotations

import calendar
import contextlib
import math
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path

from hardway import aws
from hardway.config import Settings
from hardway.ec2.instances import STATES, tagged
from hardway.files import private_file, state_directory
from hardway.money import everywhere
from hardway.money.costs import Bill, Quote
from hardway.money.prices import Say
from hardway.tables import count, money

_LOOK_SECONDS = 5.0


def why_to_ask(settings: Settings, quote: Quote, say: Say) -> str:
    """Return how this month's cost may exceed `aws.budget` with a launch; empty if it doesn't, or there is no budget.

    Instances count until they end themselves; those that never do, until the month's end. `say` is told what is not
    known. Raises HardwayError if AWS does not tell its regions.
    """
    budget = settings.aws.budget
    if not budget:
        return ""
    now = datetime.now(timezone.utc)
    begin, end = _month(now)
    world = everywhere.look(settings, tagged("owner", aws.user()), STATES, _LOOK_SECONDS, say)
    note(settings, world.bill)
    kept = _kept(now)
    spent = math.fsum(kept.values())
    ahead, unknown = 0.0, 0
    for one in world.bill:
        if world.bill.usd_within(one, begin, now) is None:
            unknown += one.id not in kept
        elif one.state in ("pending", "running"):
            ahead += world.bill.usd_within(one, now, one.ends or end) or 0.0
    hours = settings.ec2.max_hours or (end - now).total_seconds() / 3600
    new = (quote.highest or 0.0) * hours
    not_counted = [count(unknown, "instance") + " without a known cost"] if unknown else []
    not_counted += ["the new instances, whose price is not known"] if quote.highest is None else []
    not_counted += world.missing()
    if not_counted:
        say(f"aws.budget: not counted: {'; '.join(not_counted)}")
    total = spent + ahead + new
    if total <= budget:
        return ""
    return (
        f"{now:%B} may come to {money(total)} ({money(spent)} so far, {money(ahead)} until what runs ends, "
        f"{money(new)} for {quote}), and {settings.source('aws.budget')} is {money(budget)}"
    )


def note(settings: Settings, bill: Bill) -> None:
    """Keep what this user's instances have cost this month, if there is a budget; a full disk is no error."""
    now = datetime.now(timezone.utc)
    begin, _ = _month(now)
    costs = {one.id: bill.usd_within(one, begin, now) for one in bill if one.tags.get("owner") == aws.user()}
    lines = [f"{id} {usd:.6f}\n" for id, usd in costs.items() if usd]
    if settings.aws.budget and lines:
        with contextlib.suppress(OSError), open(_path(now), "a", opener=private_file) as file:
            file.write("".join(lines))  # two processes may write at a time: each line counts by itself


def _kept(now: datetime) -> Mapping[str, float]:
    """Return the highest cost seen of each instance this month, by its id."""
    found: dict[str, float] = {}
    with contextlib.suppress(OSError):
        for line in _path(now).read_text(errors="replace").splitlines():
            id, _, usd = line.partition(" ")
            with contextlib.suppress(ValueError):
                if 0 < float(usd) < math.inf:
                    found[id] = max(float(usd), found.get(id, 0.0))
    return found


def _month(now: datetime) -> tuple[datetime, datetime]:
    begin = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return begin, begin + timedelta(days=calendar.monthrange(now.year, now.month)[1])


def _path(now: datetime) -> Path:
    """Return this month's file; those of other months are deleted."""
    path = state_directory("costs") / f"{now:%Y-%m}"
    for other in path.parent.iterdir():
        if other != path:
            with contextlib.suppress(OSError):
                other.unlink()
    return path
