"""Lists as aligned columns or as JSON; counts, money and durations as text."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypeAlias, TypeVar

from hardway.terminal import cut_short, printable

Row = TypeVar("Row")
Column: TypeAlias = "str | Callable[[Any], object]"
"""The name of a field or a key, or a function of the row."""

_MOST_ROWS = 500
_LEAST = 0.0001  # smaller amounts of USD are not told exactly
# Below this number of seconds a duration is told in units of this length.
_UNITS = ((100, 1, "s"), (100 * 60, 60, "min"), (48 * 3600, 3600, "h"), (math.inf, 86400, "days"))


class Table(list[Row]):
    """A list that prints a line for each row, in these columns, with `-` for a missing value."""

    def __init__(self, rows: Iterable[Row], *columns: Column) -> None:
        super().__init__(rows)
        self.columns = columns

    def __str__(self) -> str:
        return "\n".join(self.lines(*self.columns))

    def lines(self, *columns: Column) -> list[str]:
        """Return a line for each row, in other columns."""
        return aligned(self._cells(columns))

    def on_terminal(self, width: int) -> str:
        """Return the text for a terminal of `width` columns."""
        return str(self)

    def titled(self, columns: Mapping[str, Column]) -> list[list[str]]:
        """Return the titles of other columns, and below them the cells of each row."""
        return [list(columns), *self._cells(columns.values())]

    def _repr_html_(self) -> str:
        """Return the table for a notebook, which calls this."""
        cells = self._cells(self.columns)
        return html_table([[column if isinstance(column, str) else "" for column in self.columns], *cells])

    def _cells(self, columns: Iterable[Column]) -> list[list[str]]:
        columns = list(columns)
        return [[_cell(row, column) for column in columns] for row in self]

    def facts(self, row: Row) -> Mapping[str, Any]:
        """Return all facts of a row: the fields of a dataclass, or a mapping's items."""
        return row if isinstance(row, Mapping) else asdict(row)  # type: ignore[call-overload]

    def json(self) -> str:
        """Return all facts of each row as a JSON array of objects; times in ISO form."""
        return json.dumps([self.facts(row) for row in self], indent=2, default=datetime.isoformat)


def aligned(rows: Sequence[Sequence[str]], gap: str = "  ") -> list[str]:
    """Lay out a line for each row, cells padded to their column's width; no character of a cell ends or controls it."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [gap.join(map(str.ljust, row, widths)).rstrip() for row in rows]


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows, the titles first, as a table of HTML; count the rows that are too many for a person."""
    import html  # at its first use: every command starts with this module, and few are in a notebook

    titles, *others = [[html.escape(printable(cell)) for cell in row] for row in rows[: _MOST_ROWS + 1]]
    lines = [f"<tr><th>{'</th><th>'.join(titles)}</th></tr>"]
    lines += [f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in others]
    more = len(rows) - 1 - len(others)
    return f"<table>{''.join(lines)}</table>" + (f"<p>and {more:,} more</p>" if more else "")


def fitted(rows: Sequence[Sequence[str]], width: int, spare: Sequence[str]) -> list[str]:
    """Lay out rows, the titles first, in lines of at most `width` characters.

    Where they are too wide, the columns stand closer, then those titled `spare` are left out one by one, and at last
    the cells of the first column are cut. Lines are still longer where this is not enough.
    """
    lines = aligned(rows)
    for left_out in ("", *spare):
        if max(map(len, lines)) <= width:
            return lines
        kept = [place for place, title in enumerate(rows[0]) if title != left_out]
        rows = [[printable(row[place]) for place in kept] for row in rows]
        lines = aligned(rows, " ")
    excess = max(map(len, lines)) - width
    most = max(len(rows[0][0]), max(len(row[0]) for row in rows) - excess)
    return aligned([[_cut_to(row[0], most), *row[1:]] for row in rows], " ")


def _cut_to(text: str, most: int) -> str:
    return text if len(text) <= most else cut_short(text, most - 3)


def _cell(row: Any, column: Column) -> str:
    if not isinstance(column, str):
        value = column(row)
    else:
        value = row[column] if isinstance(row, Mapping) else getattr(row, column)
    if isinstance(value, bool):
        return str(column) if value else "-"
    if isinstance(value, datetime):
        return value.isoformat(timespec="seconds")
    if isinstance(value, Mapping):
        value = [f"{key}={text}" for key, text in sorted(value.items())]
    if isinstance(value, list | tuple):
        value = ",".join(map(str, value))
    return "-" if value in ("", None) else str(value)


def money(usd: float) -> str:
    """Write USD for a person: cents, or three digits of less than one dollar."""
    if usd >= 1 or usd <= 0:
        return f"${usd:,.2f}"
    if usd < _LEAST:
        return f"<${_LEAST}"
    text = f"{usd:.{2 - math.floor(math.log10(usd))}f}".rstrip("0")
    return "$" + text.ljust(text.index(".") + 3, "0")


def cents(usd: float) -> str:
    """Write USD in cents, for a narrow column."""
    return "<$0.01" if 0 < usd < 0.01 else money(round(usd, 2))


def count(number: float, what: str) -> str:
    """Return a number with its unit: `1 task`, `2 tasks`, `1.5 hours`."""
    text = f"{number:g}" if isinstance(number, float) else str(number)
    return f"{text} {what}{'' if number == 1 else 's'}"


def size(number: float) -> str:
    """Write a number of bytes for a person, as `ls -h` does: `0 B`, `1.5 KB`, `23 MB`; a KB is 1,024 bytes."""
    units = iter(("B", "KB", "MB", "GB", "TB", "PB"))
    unit = next(units)
    while number >= 999.5 and unit != "PB":
        number, unit = number / 1024, next(units)
    return f"{float(f'{number:.{3 if number >= 99.5 else 2}g}'):g} {unit}"


def per_hour(usd: float | None) -> str | None:
    """Write the price of an hour for a person; None for an unknown price."""
    return None if usd is None else f"{money(usd)}/hour"


def duration(seconds: float, digits: int = 3) -> str:
    """Write a duration: `12.5 s`, `3 min`, `2 days`. Two digits are enough for an estimate or live display."""
    size, unit = next((size, unit) for below, size, unit in _UNITS if seconds < below)
    return f"{float(f'{seconds / size:.{digits}g}'):g} {unit}"


def age(seconds: float) -> str:
    """Write a duration in whole units, for a narrow column: `12s`, `3m`, `5h`, `2d`."""
    size, unit = next((size, unit[0]) for below, size, unit in _UNITS if seconds < below)
    return f"{int(seconds // size)}{unit}"
