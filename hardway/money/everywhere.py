"""Instances and their costs in all regions that the account can use, asked at the same time."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any

from hardway import aws
from hardway.config import Settings
from hardway.ec2.instances import Instance, Selector, describe, parse
from hardway.errors import Failed, HardwayError
from hardway.money import market, prices
from hardway.money.costs import Bill
from hardway.money.prices import Say
from hardway.system import look_ups
from hardway.tables import count, duration
from hardway.terminal import printable


@dataclass(frozen=True)
class Everywhere:
    """The instances, newest first, the regions asked, and why a region has not answered, by its name."""

    bill: Bill
    asked: Sequence[str]
    silent: Mapping[str, str]

    def missing(self) -> list[str]:
        """Return a line for each reason for which regions have not answered."""
        lines = []
        for why in dict.fromkeys(self.silent.values()):
            names = [name for name, each in self.silent.items() if each == why]
            which = ", ".join(names) if len(names) < len(self.asked) else f"any of {count(len(names), 'region')}"
            lines.append(printable(f"no answer from {which}: {why}"))
        return lines


def look(
    settings: Settings,
    only: str | Iterable[str] | Selector,
    states: Sequence[str],
    seconds: float,
    say: Say,
    wide: bool = False,
) -> Everywhere:
    """Return the instances that match the selector `only` (all, for an empty one) in every enabled region.

    Waits for `seconds` at the most. A region that has not answered by then is named, and a price counts as unknown.
    Raises HardwayError if not even the regions are known.
    """
    end = time.monotonic() + seconds
    parsed = only if isinstance(only, Selector) else parse(only)
    known = look_ups.within(seconds, {"regions": partial(market.regions, settings)})["regions"]
    if not known.done():
        raise Failed(f"AWS has not answered within {duration(seconds)}")
    if error := known.exception():
        raise _known(error) or error
    # Clients are made one after the other: the region that matters most comes first.
    here = aws.region_of(settings)
    names = sorted((region.name for region in known.result()), key=lambda name: (name != here, name))
    places = {name: settings.in_region(name) for name in names}
    found: dict[str, list[Instance]] = {}
    hourly: dict[str, float] = {}
    said: dict[str, None] = {}

    def ask(name: str) -> None:
        there = parsed.match(describe(places[name], parsed))
        found[name] = [one for one in there if one.state in states]
        hourly.update(prices.hourly(places[name], found[name], lambda line: said.update({line: None})))

    answers = look_ups.within(end - time.monotonic(), {name: partial(ask, name) for name in names})
    # An abandoned call may still add to these.
    found, hourly = found.copy(), hourly.copy()
    for line in said.copy():
        say(line)
    newest = sorted((one for some in found.values() for one in some), key=lambda one: (one.launched, one.id))[::-1]
    silent = {name: _why(answer, seconds) for name, answer in answers.items() if name not in found}
    return Everywhere(Bill(newest, hourly, wide), names, silent)


def _why(answer: Future[Any], seconds: float) -> str:
    if not answer.done():
        return f"none within {duration(seconds)}"
    error = answer.exception()
    return str(_known(error) or error).splitlines()[0]


def _known(error: BaseException | None) -> HardwayError | None:
    return aws.translate(error) if isinstance(error, Exception) else None
