"""Reports on a job, from its directory alone: `mapreduce.report` and `mapreduce.explain` call this module.

The page is one file that asks the network for nothing. Foreign text gets into the page escaped by `html`, or as
compressed JSON in base64; the page's policy lets only its own script run.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import html
import importlib.resources
import json
import math
import os
import re
import time
import zlib
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, overload

from hardway.errors import NO_ROOM, Failed, UsageError, reason_of
from hardway.pmap import job_list, job_paths, summary
from hardway.pmap.afterwards import explain, history
from hardway.pmap.afterwards.attempt_table import AttemptOutcome, AttemptRecord, AttemptTable
from hardway.pmap.afterwards.explain import BAD, Failure, Figures, HostFigures, Record, SlotTime, printable
from hardway.pmap.afterwards.history import GOOD, HostRecord, Timeline
from hardway.pmap.endings import how_it_ended, last_complaint
from hardway.pmap.job import Asked, Damaged, Heads, Outputs, journal_pieces, read_asked
from hardway.system.paths import expanded, is_systems, put
from hardway.tables import count, duration

TAIL = 300  # bytes of an attempt's stderr that are shown
TEXT_MOST = 1_500_000  # bytes of arguments in the page, compressed; stderr has the same limit
STRAGGLERS = 12
FAILURES = 20
UNIT = 0.0001  # seconds
MANY = 200_000  # attempts, above which times are less exact
BUCKETS = 40
SAID = {
    AttemptOutcome.DONE: "done",
    AttemptOutcome.BACKUP: "done by a backup",
    AttemptOutcome.RETRIED: "failed, retried",
    AttemptOutcome.FAILED: "failed",
    AttemptOutcome.LOST: "lost",
    AttemptOutcome.ENDED: "ended, another was first",
    AttemptOutcome.STOPPED: "stopped with the job",
    AttemptOutcome.RUNNING: "running",
}


def load(name: str) -> Record:
    """Load the job of this name; if a glob matches several, the newest. Raises UsageError if there is none."""
    return _load(job_paths.newest(name))[0]


def text(name: str) -> str:
    """Return a screen of text about the job's time and money, with advice."""
    return explain.text(load(name))


def write(name: str, to: str = "") -> Path:
    """Write the page about a job, by default to JOB.html in the current directory, and return its path."""
    path = job_paths.newest(name)
    record, outputs = _load(path)
    target = expanded(to, f"cannot write {to}") if to else Path(f"{path.name}.html")
    text = page(record, outputs)
    try:
        if is_systems(target.parent) and not os.path.lexists(target):
            raise UsageError(f"cannot write {target}: the directory is the system's")
        put(target, [text.encode()])
    except OSError as error:
        kind = Failed if error.errno in NO_ROOM else UsageError
        raise kind(f"cannot write {target}: {reason_of(error)}") from None
    return target


def _load(path: Path) -> tuple[Record, Outputs]:
    asked = read_asked(path)
    driven = job_list.is_driven(path)
    timeline = _read_timeline(path, asked, driven)
    heads = _Shown(Heads(path, timeline))
    why = timeline.runs[-1].why if timeline.runs else ""
    alone = timeline.alone and bool(timeline.hosts)
    state = summary.RUNNING if driven else summary.ending(timeline.tasks, timeline.done, why, alone)
    outputs = Outputs(path)
    failures = _failures(timeline, outputs)
    return Record(asked.name, printable(asked.command), state, timeline, heads, failures), outputs


def _read_timeline(path: Path, asked: Asked, driven: bool) -> Timeline:
    """Read a job's journal. Raises Damaged if it isn't what was written.

    If the summary has the journal's checksum, the checksums of single lines are not compared.
    """
    wanted = summary.journal_checksum(path)
    checksum, rest = 0, b""

    def pieces() -> Iterator[bytes]:
        nonlocal checksum, rest
        for piece in journal_pieces(path, asked):
            # A killed driver may leave the beginning of a line, which the journal's checksum leaves out.
            rest, end = rest + piece, piece.rfind(b"\n") + 1
            if end:
                end += len(rest) - len(piece)
                checksum, rest = zlib.crc32(rest[:end], checksum), rest[end:]
            yield piece

    timeline = history.read(pieces(), time.time() if driven else None, checked=wanted is not None)
    if timeline.torn:
        raise Damaged(path / "journal", f"is not what was written, from line {timeline.torn} on")
    if wanted not in (None, checksum):
        raise Damaged(path / "journal", "is not what was written")
    return timeline


class _Shown(Sequence[str]):
    """The beginnings of arguments as text that is safe to show."""

    def __init__(self, heads: Sequence[bytes]) -> None:
        self._heads = heads

    def __len__(self) -> int:
        return len(self._heads)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        found = self._heads[place]
        return printable(found) if isinstance(found, bytes) else [printable(each) for each in found]

    def __iter__(self) -> Iterator[str]:
        return map(printable, self._heads)


def _failures(timeline: Timeline, outputs: Outputs) -> list[Failure]:
    """Group failed attempts by their end and last line of stderr, most frequent first."""
    timeout = timeline.runs[-1].timeout if timeline.runs else 0.0
    groups: dict[tuple[str, str], list[AttemptRecord]] = {}
    table = timeline.table
    for row in table.order:
        if table.outcome[row] in BAD and (result := table.results.get(row)) is not None:
            line = printable(last_complaint(outputs, table.task[row], result))
            groups.setdefault((how_it_ended(result, timeout), line), []).append(table.record(row))
    found = [Failure(how, line, attempts) for (how, line), attempts in groups.items()]
    return sorted(found, key=lambda failure: -len(failure.attempts))


# The page


def page(record: Record, outputs: Outputs) -> str:
    """Make the whole page."""
    template = importlib.resources.files("hardway.pmap.afterwards").joinpath("report.html").read_text()
    [script] = re.findall(r"<script>(.*?)</script>", template, re.DOTALL)
    found = explain.figures(record.timeline)
    table = record.timeline.table
    rows = _in_lanes(record.timeline, table)
    places = array("I", bytes(4 * len(table.task)))  # of a row on the page
    for place, row in enumerate(rows):
        places[row] = place
    values = {
        "policy": "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "name": _text(record.name),
        "state": record.state,
        "command": _text(record.command),
        "began": time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(record.timeline.began)),
        "facts": "".join(f"<dt>{name}</dt><dd>{_text(said)}</dd>" for name, said in explain.facts(record, found)),
        "advice": _advice(record, found),
        "parts": _parts(found),
        "durations": _durations(table),
        "stragglers": _stragglers(record, found, table, places),
        "failures": _failure_rows(record, places),
        "hosts": _host_rows(record.timeline, found),
        "data": _packed(_data(record, table, rows, outputs)),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], template)


def _text(said: str) -> str:
    return html.escape(printable(said))


def _in_lanes(timeline: Timeline, table: AttemptTable) -> array[int]:
    """Return the rows of all attempts, slot by slot; an attempt that never began stands in the first."""
    order = {name: place for place, name in enumerate(timeline.hosts)}
    lanes: dict[tuple[int, int], array[int]] = {}
    for (host, slot), rows in table.by_lane().items():
        lanes.setdefault((order[table.hosts[host]], max(0, slot)), array("I")).extend(rows)
    found = array("I")
    for lane in sorted(lanes):
        found.extend(sorted(lanes[lane], key=table.began.__getitem__))
    return found


def _advice(record: Record, found: Figures) -> str:
    told = [
        f"<li><b>{_text(one.what)}</b>{': ' if one.help else ''}{_text(one.help)}</li>"
        for one in explain.advice(found, record.timeline, record.heads)
    ]
    return "".join(told) or "<li>nothing stands out that took time without need</li>"


def _parts(found: Figures) -> str:
    """Draw the slots' time as a bar and its legend."""
    bar, legend = [], []
    for part, said in explain.PARTS.items():
        share = found.time.share(part)
        if share:
            title = f"{share:.1%} {said}" if share >= 0.001 else f"under 0.1% {said}"
            bar.append(f'<i class="p-{part}" style="flex-grow:{share:.5f}" title="{title}"></i>')
            legend.append(f'<li><i class="p-{part}"></i>{title}</li>')
    return f'<div class="parts" aria-hidden="true">{"".join(bar)}</div><ul class="legend">{"".join(legend)}</ul>'


def _durations(table: AttemptTable) -> str:
    """Draw a histogram of the attempts' seconds, on a logarithmic scale, as SVG."""
    ran = array("I", [row for row in table.order if table.ran[row] >= 0])
    if not ran:
        return "<p>no attempt has ended</p>"
    seconds = array("d", [table.ended[row] - table.began[row] for row in ran])
    least = max(min(seconds), 0.001)
    low, high = math.log10(least) - 0.02, math.log10(max(max(seconds), 1.2 * least)) + 0.02
    counts, failed = [0] * BUCKETS, [0] * BUCKETS
    for row, lasted in zip(ran, seconds, strict=True):
        place = int((math.log10(lasted if lasted > least else least) - low) / (high - low) * BUCKETS)
        counts[place] += 1
        failed[place] += table.outcome[row] in BAD
    width, height = 640, 150
    step = width / BUCKETS

    def bar(kind: str, place: int, tall: float) -> str:
        at, wide = place * step + 0.5, step - 1
        return f'<rect class="{kind}" x="{at:.1f}" y="{height - tall:.1f}" width="{wide:.1f}" height="{tall:.1f}"/>'

    drawn = [f'<path d="M0 {height}h{width}"/>']
    for place in filter(counts.__getitem__, range(BUCKETS)):
        since, until = (10 ** (low + edge * (high - low) / BUCKETS) for edge in (place, place + 1))
        title = f"{duration(since)} to {duration(until)}: {count(counts[place], 'attempt')}, {failed[place]} failed"
        tall = [max(2.0, height * number / max(counts)) if number else 0.0 for number in (counts[place], failed[place])]
        bars = bar("hit", place, height) + bar("o-done", place, tall[0]) + bar("o-retried", place, tall[1])
        drawn.append(f"<g><title>{title}</title>{bars}</g>")
    for tick in _ticks(low, high):
        at = (math.log10(tick) - low) / (high - low) * width
        drawn.append(f'<path d="M{at:.1f} {height}v4"/><text x="{at:.1f}" y="{height + 17}">{duration(tick)}</text>')
    box = f'viewBox="-8 -4 {width + 16} {height + 26}"'
    return f'<svg {box} role="img" aria-label="how long attempts took">{"".join(drawn)}</svg>'


def _ticks(low: float, high: float) -> list[float]:
    """Return a few round numbers of seconds between these powers of ten."""
    for steps in ((1, 2, 5), (1,)):
        ticks = [10.0**power * step for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
        ticks = [tick for tick in ticks if low <= math.log10(tick) <= high]
        if len(ticks) <= 7:
            break
    return ticks


def _stragglers(record: Record, found: Figures, table: AttemptTable, places: Sequence[int]) -> str:
    """Make rows of the attempts that took longest."""
    usual = found.median
    longest = heapq.nsmallest(STRAGGLERS, table.order, key=lambda row: table.began[row] - table.ended[row])
    rows = []
    for one in map(table.record, longest):
        times = f"{one.seconds / usual:.2g}" if usual else ""
        rows.append(
            f"<tr><td>{_button(one, places)}<td class=n>{duration(one.seconds)}<td class=n>{times}"
            f"<td><i class='o-{one.outcome.name.lower()}'></i>{SAID[one.outcome]}"
            f"<td>{_text(one.host)}<td class=w>{_text(_head(record.heads, one.task))}"
        )
    return "".join(rows)


def _failure_rows(record: Record, places: Sequence[int]) -> str:
    rows = []
    for failure in record.failures[:FAILURES]:
        hosts = len({attempt.host for attempt in failure.attempts})
        such = ", ".join(_button(attempt, places) for attempt in failure.attempts[:3])
        rows.append(
            f"<tr><td class=n>{len(failure.attempts)}<td>{_text(failure.how)}<td class=w>{_text(failure.line)}"
            f"<td class=n>{hosts}<td>{such}"
        )
    if len(record.failures) > FAILURES:
        rows.append(f"<tr><td><td colspan=4>and in {len(record.failures) - FAILURES} other ways")
    return "".join(rows) or "<tr><td colspan=5>no attempt failed"


def _button(attempt: AttemptRecord, places: Sequence[int]) -> str:
    """Make a button that shows the attempt in the timeline."""
    return f"<button type=button data-attempt={places[attempt.row]}>{attempt.task}.{attempt.number}</button>"


def _head(heads: Sequence[str], task: int) -> str:
    return heads[task - 1] if 0 < task <= len(heads) else ""


def _named(host: HostRecord) -> str:
    return printable(f"{host.label} {host.name}".strip())


def _host_rows(timeline: Timeline, found: Figures) -> str:
    rows = []
    for place, (name, host) in enumerate(timeline.hosts.items()):
        own = found.hosts.get(name) or HostFigures(SlotTime())
        there = own.time.total - own.time.connecting
        ends = [mark.text for mark in timeline.events if mark.host == name and mark.kind in ("gone", "aside")]
        rows.append(
            f"<tr><td><button type=button data-host={place}>{_text(_named(host))}</button>"
            f"<td>{_text(host.type)}{' spot' if host.spot else ''}<td>{_text(host.zone)}<td class=n>{host.slots}"
            f"<td class=n>{own.done}<td class=n>{own.failed}<td class=n>{own.lost}"
            f"<td class=n>{duration(own.median) if own.done else ''}"
            f"<td class=n>{f'{own.time.busy / there:.0%}' if there else ''}<td class=n>{duration(own.there)}"
            f"<td class=n>{f'{own.cost:.4f}' if own.cost is not None else ''}<td>{_text('; '.join(ends))}"
        )
    return "".join(rows)


# The data of the timeline


def _data(record: Record, table: AttemptTable, rows: Sequence[int], outputs: Outputs) -> dict[str, Any]:
    """Collect what the page's script draws; `rows` are the attempts in the order of their lanes."""
    timeline = record.timeline
    order = {name: place for place, name in enumerate(timeline.hosts)}
    columns = _columns(timeline, table, rows, unit := _unit(timeline))
    how = {attempt.row: str(failure.how) for failure in record.failures for attempt in failure.attempts}
    hows, columns["how"] = _interned(map(how.get, rows))
    tails, columns["tail"] = _interned(map(_tails(table, rows, outputs).get, rows))
    return {
        "unit": unit,
        "seconds": timeline.seconds,
        "said": [SAID[outcome] for outcome in AttemptOutcome],
        "kinds": [outcome.name.lower() for outcome in AttemptOutcome],
        "hosts": [[_named(host), host.slots] for host in timeline.hosts.values()],
        "lives": [[order[life.host], life.began, life.up, life.until] for life in timeline.lives],
        "away": [[order[host], since, until] for host, since, until in timeline.away],
        "marks": [[mark.time, order.get(mark.host, -1), mark.kind, printable(mark.text)] for mark in timeline.events],
        "columns": columns,
        "hows": hows,
        "tails": tails,
        "heads": _within(record.heads, TEXT_MOST),
    }


def _unit(timeline: Timeline) -> float:
    """Return the unit of times in seconds: a part of a pixel that nobody can see."""
    return UNIT if len(timeline.attempts) < MANY else UNIT * 10


def _columns(timeline: Timeline, table: AttemptTable, rows: Sequence[int], unit: float) -> dict[str, array[int]]:
    """Make columns with an item for each attempt; times are in units of `unit`.

    An attempt's `gap` is the time since the one before it in its lane ended, and its `step` the difference between its
    task's number and the one before in the list.
    """
    lanes, first = {}, 0
    for name, host in timeline.hosts.items():
        lanes[name] = first
        first += host.slots
    hosts = [lanes.get(name, 0) for name in table.hosts]
    gaps, times, places, steps = array("q"), array("q"), array("I"), array("q")
    before, at, last = -1, 0, 0
    for row in rows:
        lane = hosts[table.host[row]] + max(0, table.slot[row])
        began, ended = round(table.began[row] / unit), round(table.ended[row] / unit)
        at = at if lane == before else 0
        gaps.append(began - at)
        times.append(ended - began)
        places.append(lane)
        steps.append(table.task[row] - last)
        at, before, last = ended, lane, table.task[row]
    columns: dict[str, array[int]] = {"gap": gaps, "time": times, "lane": places, "step": steps}
    for name in ("number", "outcome", "code"):
        column = getattr(table, name)
        columns[name] = array(column.typecode, map(column.__getitem__, rows))
    return columns


def _interned(texts: Iterable[str | None]) -> tuple[list[str], array[int]]:
    """Return the distinct texts, and for each given text its index among them; None is an empty one."""
    known: dict[str, int] = {}
    places = array("I", [known.setdefault(text or "", len(known)) for text in texts])
    return list(known), places


def _tails(table: AttemptTable, rows: Sequence[int], outputs: Outputs) -> dict[int, str]:
    """Read the ends of stderr by row, as far as there is room: first of failed attempts, then of the longest."""
    tails: dict[int, str] = {}
    said = [row for row in rows if table.err_size[row]]
    room = TEXT_MOST
    seen: set[str] = set()
    for row in sorted(said, key=lambda row: (table.outcome[row] in GOOD, table.began[row] - table.ended[row])):
        attempt = table.record(row)
        if attempt.result is None:
            continue
        lines = outputs.tail(attempt.task, attempt.result, TAIL).decode(errors="replace").rstrip("\n").split("\n")
        tail = "\n".join(printable(line) for line in lines)
        if tail not in seen:
            room -= len(tail.encode())
            if room < 0:
                break
            seen.add(tail)
        tails[row] = tail
    return tails


def _within(texts: Sequence[str], most: int) -> list[str]:
    """Shorten the texts until they take at most `most` bytes when compressed."""
    for length in (120, 60, 30, 15):
        shortened = []
        packer, size = zlib.compressobj(1), 0
        for text in texts:
            shortened.append(text if len(text) <= length else f"{text[: length // 2]}…{text[-length // 2 :]}")
            if len(shortened) % 1000 == 0:
                size += len(packer.compress(json.dumps(shortened[-1000:]).encode()))
                if size > most or size * len(texts) > 2 * most * len(shortened) > 20_000 * most:
                    break  # the texts are too long, or will be by far
        else:
            size += len(packer.compress(json.dumps(shortened[len(shortened) // 1000 * 1000 :]).encode()))
            if size + len(packer.flush()) <= most:
                return shortened
    return []


def _packed(data: Mapping[str, Any]) -> str:
    """Compress the data, piece by piece, as its text is many times as large."""
    packer = zlib.compressobj(9)
    packed = [packer.compress(piece.encode()) for piece in _json_pieces(data)]
    return base64.b64encode(b"".join([*packed, packer.flush()])).decode()


def _json_pieces(data: Mapping[str, Any]) -> Iterator[str]:
    yield '{"columns":{'
    for place, (name, column) in enumerate(data["columns"].items()):
        yield f'{"," if place else ""}"{name}":['
        for at in range(0, len(column), MANY):
            yield ("," if at else "") + json.dumps(column[at : at + MANY].tolist(), separators=(",", ":"))[1:-1]
        yield "]"
    yield "}," + json.dumps({name: data[name] for name in data if name != "columns"}, separators=(",", ":"))[1:]
