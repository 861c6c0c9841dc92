"""Lists as a person reads them, one thing a line in aligned columns, or as JSON; numbers of things, sums of money."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypeVar

from hardway.terminal import printable

Row = TypeVar("Row")

_LEAST = 0.0001  # USD that are told exactly


class Table(list[Row]):
    """A list of dataclasses that prints these of their fields, `-` for what is not there."""

    def __init__(self, rows: Iterable[Row], *columns: str) -> None:
        super().__init__(rows)
        self.columns = columns

    def __str__(self) -> str:
        return "\n".join(aligned([[_cell(name, getattr(row, name)) for name in self.columns] for row in self]))

    def json(self) -> str:
        """All fields of each, as a JSON array of objects; times in ISO form."""
        rows: list[Any] = list(self)
        return json.dumps([asdict(row) for row in rows], indent=2, default=datetime.isoformat)


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row, its cells padded to the width of their column; nothing in a cell ends it, or is obeyed."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _cell(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else "-"
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, Mapping):
        value = [f"{key}={text}" for key, text in sorted(value.items())]
    if isinstance(value, list | tuple):
        value = ",".join(map(str, value))
    return "-" if value in ("", None) else str(value)


def money(usd: float) -> str:
    """USD for a person: cents, or three digits of what is less than one dollar."""
    if usd >= 1 or usd <= 0:
        return f"${usd:,.2f}"
    if usd < _LEAST:
        return f"<${_LEAST}"
    text = f"{usd:.{2 - math.floor(math.log10(usd))}f}".rstrip("0")
    return "$" + text.ljust(text.index(".") + 3, "0")


def count(number: float, what: str) -> str:
    """`1 task`, `2 tasks`, `1.5 hours`."""
    text = f"{number:g}" if isinstance(number, float) else str(number)
    return f"{text} {what}{'' if number == 1 else 's'}"
