"""A job looked at afterwards, from its directory alone: what `mapreduce.report` and `mapreduce.explain` call.

The page is one file that asks the network for nothing. What people wrote gets into it as text escaped by `html`, or as
compressed JSON in base64; the page's policy lets no script run but its own.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.resources
import json
import math
import os
import re
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hardway.errors import NO_ROOM, Failed, UsageError, reason_of
from hardway.pmap import job_list, job_paths
from hardway.pmap.afterwards import explain, history
from hardway.pmap.afterwards.explain import Failure, Figures, HostFigures, Record, SlotTime, printable
from hardway.pmap.afterwards.history import GOOD, AttemptOutcome, AttemptRecord, HostRecord, Timeline
from hardway.pmap.endings import how_it_ended, last_complaint
from hardway.pmap.job import Outputs, read_asked, read_heads, read_journal
from hardway.system.paths import expanded, is_systems, put
from hardway.tables import count, duration

TAIL = 300  # bytes of an attempt's stderr that are shown
TEXT_MOST = 1_500_000  # bytes of arguments in the page, compressed, and as many of stderr
STRAGGLERS = 12
FAILURES = 20
UNIT = 0.0001  # seconds
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
    """Load the job of this name; of several that match a glob, the newest. Raises UsageError where there is none."""
    return _load(job_paths.newest(name))[0]


def text(name: str) -> str:
    """Tell where the job's time and money went, and what would have helped: a screen of text."""
    return explain.text(load(name))


def write(name: str, to: str = "") -> Path:
    """Write the page about a job, by default to JOB.html in the current directory; returns its path."""
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
    data, told = read_journal(path, asked)
    heads = [printable(head) for head in read_heads(path, told)]
    timeline = history.read(data, time.time() if driven else None)
    state = job_list.state_of(path, told)
    outputs = Outputs(path)
    failures = _failures(timeline, outputs)
    return Record(asked.name, printable(asked.command), state, timeline, heads, failures), outputs


def _failures(timeline: Timeline, outputs: Outputs) -> list[Failure]:
    """Group failed attempts by how they ended and what they said last, most frequent first."""
    timeout = timeline.runs[-1].timeout if timeline.runs else 0.0
    groups: dict[tuple[str, str], list[AttemptRecord]] = {}
    for attempt in timeline.attempts:
        if attempt.result is not None and attempt.outcome in (AttemptOutcome.RETRIED, AttemptOutcome.FAILED):
            line = printable(last_complaint(outputs, attempt.task, attempt.result))
            groups.setdefault((how_it_ended(attempt.result, timeout), line), []).append(attempt)
    found = [Failure(how, line, attempts) for (how, line), attempts in groups.items()]
    return sorted(found, key=lambda failure: -len(failure.attempts))


# The page


def page(record: Record, outputs: Outputs) -> str:
    """Make the whole page."""
    template = importlib.resources.files("hardway.pmap.afterwards").joinpath("report.html").read_text()
    [script] = re.findall(r"<script>(.*?)</script>", template, re.DOTALL)
    found = explain.figures(record.timeline)
    attempts = sorted(record.timeline.attempts, key=_in_lanes(record.timeline))
    places = {id(attempt): place for place, attempt in enumerate(attempts)}
    values = {
        "policy": "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "name": _text(record.name),
        "state": record.state,
        "command": _text(record.command),
        "began": time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(record.timeline.began)),
        "facts": "".join(f"<dt>{name}</dt><dd>{_text(said)}</dd>" for name, said in explain.facts(record, found)),
        "advice": _advice(record, found),
        "parts": _parts(found),
        "durations": _durations(record.timeline),
        "stragglers": _stragglers(record, found, places),
        "failures": _failure_rows(record, places),
        "hosts": _host_rows(record.timeline, found),
        "data": _packed(_data(record, attempts, outputs)),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], template)


def _text(said: str) -> str:
    return html.escape(printable(said))


def _in_lanes(timeline: Timeline) -> Callable[[AttemptRecord], tuple[int, int, float]]:
    order = {name: place for place, name in enumerate(timeline.hosts)}
    return lambda attempt: (order[attempt.host], max(0, attempt.slot), attempt.began)


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


def _durations(timeline: Timeline) -> str:
    """Draw a histogram of the attempts' seconds, on a logarithmic scale, as SVG."""
    ran = [one for one in timeline.attempts if one.result is not None]
    if not ran:
        return "<p>no attempt has ended</p>"
    least = max(min(one.seconds for one in ran), 0.001)
    low, high = math.log10(least) - 0.02, math.log10(max(max(one.seconds for one in ran), 1.2 * least)) + 0.02
    counts, failed = [0] * BUCKETS, [0] * BUCKETS
    for one in ran:
        place = int((math.log10(max(one.seconds, least)) - low) / (high - low) * BUCKETS)
        counts[place] += 1
        failed[place] += one.outcome in (AttemptOutcome.RETRIED, AttemptOutcome.FAILED)
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
    """Round seconds between these powers of ten, not too many."""
    for steps in ((1, 2, 5), (1,)):
        ticks = [10.0**power * step for power in range(math.floor(low), math.ceil(high) + 1) for step in steps]
        ticks = [tick for tick in ticks if low <= math.log10(tick) <= high]
        if len(ticks) <= 7:
            break
    return ticks


def _stragglers(record: Record, found: Figures, places: dict[int, int]) -> str:
    """Make rows of the attempts that took longest."""
    usual = found.median
    longest = sorted(record.timeline.attempts, key=lambda one: -one.seconds)[:STRAGGLERS]
    rows = []
    for one in longest:
        times = f"{one.seconds / usual:.2g}" if usual else ""
        rows.append(
            f"<tr><td>{_button(one, places)}<td class=n>{duration(one.seconds)}<td class=n>{times}"
            f"<td><i class='o-{one.outcome.name.lower()}'></i>{SAID[one.outcome]}"
            f"<td>{_text(one.host)}<td class=w>{_text(_head(record.heads, one.task))}"
        )
    return "".join(rows)


def _failure_rows(record: Record, places: dict[int, int]) -> str:
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


def _button(attempt: AttemptRecord, places: dict[int, int]) -> str:
    """Make a button that shows the attempt in the timeline."""
    return f"<button type=button data-attempt={places[id(attempt)]}>{attempt.task}.{attempt.number}</button>"


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


def _data(record: Record, attempts: Sequence[AttemptRecord], outputs: Outputs) -> dict[str, Any]:
    """Collect what the page's script draws; `attempts` are in the order of their lanes."""
    timeline = record.timeline
    order = {name: place for place, name in enumerate(timeline.hosts)}
    columns = _columns(timeline, attempts)
    how = {id(attempt): str(failure.how) for failure in record.failures for attempt in failure.attempts}
    hows, columns["how"] = _interned([how.get(id(one), "") for one in attempts])
    tails, columns["tail"] = _interned(_tails(attempts, outputs))
    return {
        "unit": UNIT,
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


def _columns(timeline: Timeline, attempts: Sequence[AttemptRecord]) -> dict[str, list[int]]:
    """Make columns with an item for each attempt; times are in units of UNIT.

    An attempt's `gap` is the time since the one before it in its lane ended.
    """
    lanes, first = {}, 0
    for name, host in timeline.hosts.items():
        lanes[name] = first
        first += host.slots
    columns: dict[str, list[int]] = {name: [] for name in ("gap", "time", "lane", "task", "number", "outcome", "code")}
    before = -1
    at = 0
    for one in attempts:
        lane = lanes[one.host] + max(0, one.slot)
        began, ended = round(one.began / UNIT), round(one.ended / UNIT)
        at = at if lane == before else 0
        for name, value in zip(
            columns, (began - at, ended - began, lane, one.task, one.number, int(one.outcome), one.code), strict=True
        ):
            columns[name].append(value)
        at, before = ended, lane
    return columns


def _interned(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Return the different texts, and the place of each among them."""
    known: dict[str, int] = {}
    places = [known.setdefault(text, len(known)) for text in texts]
    return list(known), places


def _tails(attempts: Sequence[AttemptRecord], outputs: Outputs) -> list[str]:
    """Read the ends of stderr, as room allows; of attempts that failed, and of the longest, first."""
    tails = [""] * len(attempts)
    order = sorted(range(len(attempts)), key=lambda at: (attempts[at].outcome in GOOD, -attempts[at].seconds))
    room = TEXT_MOST
    seen: set[str] = set()
    for at in order:
        result = attempts[at].result
        if result is None or not result.err_size:
            continue
        lines = outputs.tail(attempts[at].task, result, TAIL).decode(errors="replace").rstrip("\n").split("\n")
        tail = "\n".join(printable(line) for line in lines)
        if tail not in seen:
            room -= len(tail.encode())
            if room < 0:
                break
            seen.add(tail)
        tails[at] = tail
    return tails


def _within(texts: Sequence[str], most: int) -> list[str]:
    """Shorten the texts until they take so many bytes at most when compressed."""
    shortened = list(texts)
    for length in (120, 60, 30, 15):
        shortened = [text if len(text) <= length else f"{text[: length // 2]}…{text[-length // 2 :]}" for text in texts]
        if len(zlib.compress(json.dumps(shortened).encode(), 1)) <= most:
            return shortened
    return []


def _packed(data: dict[str, Any]) -> str:
    return base64.b64encode(zlib.compress(json.dumps(data, separators=(",", ":")).encode(), 9)).decode()
