"""A running job as a person sees it: on a terminal of any width, without unwanted colours, in a pipe."""

from __future__ import annotations

import io
import re
import sys
import time
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace

import pytest

from hardway.pmap.progress import LINE_EVERY, LIVE_EVERY, Progress


@dataclass
class Job:
    """Where a job stands."""

    total: int = 60
    more: bool = False
    done: int = 12
    failed: int = 0
    running: int = 6
    left: int = 48
    failed_attempts: int = 0
    retrying: int = 0
    next_retry: float | None = None
    unstarted: bool = True
    slowest: tuple[int, str, float] | None = None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(stream: io.StringIO, after: float) -> str:
    with Progress(stream=stream) as progress:
        progress.begin(range(1, 61), 0)
        job = Job(slowest=(13, "i-101d04288908f0cbf", time.monotonic()))
        progress.update(job, 3, time.monotonic() + after)
        progress.say("something happened")
        return stream.getvalue()


@pytest.mark.parametrize(
    ("done", "ran", "ends", "told"),
    [
        (12, 60, 100, True),  # 48 more at a fifth of a task a second: 240 s
        (12, 60, 400, False),
        (12, 5, 20, False),  # a rate of 5 s says little
        (0, 60, 500, True),
        (0, 60, 4000, False),
    ],
)
def test_a_job_that_outlasts_its_instances_is_told_of_once(done: int, ran: float, ends: float, told: bool) -> None:
    stream = io.StringIO()
    with Progress(stream=stream) as progress:
        progress.begin(range(1, 61), 0)
        now = time.monotonic() + ran
        progress.expect_end(now + ends)
        for _ in range(2):
            progress.update(Job(done=done, left=60 - done), 3, now)
    assert stream.getvalue().count("and the job may need longer: `hardway ec2.extend") == told


@pytest.mark.parametrize("columns", [40, 60, 61, 120])
def test_the_numbers_stand_below_the_bar_at_any_width(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm-256color")
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown(Terminal(), LIVE_EVERY)).replace("\r", "\n").split("\n")
    assert any(re.fullmatch(r"[━╸╺ ]+", line) for line in lines)
    assert any(line.startswith("12/60 done, 6 running, ") for line in lines)
    assert all(len(line.rstrip()) <= columns for line in lines)
    assert "something happened" in [line.rstrip() for line in lines]


def test_colours_are_left_out_where_they_are_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    colour = re.compile(r"\x1b\[[0-9;]*m")
    assert colour.search(shown(Terminal(), LIVE_EVERY))
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[34]\d", shown(Terminal(), LIVE_EVERY))


@pytest.mark.parametrize("stream", [io.StringIO, Terminal], ids=["pipe", "dumb terminal"])
def test_what_only_takes_lines_gets_a_plain_one_now_and_then(
    stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    text = shown(stream(), LINE_EVERY)
    assert text.splitlines()[0].startswith("12/60 done, 6 running, ")
    assert "slowest: task 14 on i-101d04288908f0cbf" in text
    assert "\x1b" not in text


class Place:
    """The result of IPython's `display`: a part of the output whose content can be exchanged."""

    def __init__(self, shown: list[str]) -> None:
        self._shown = shown

    def update(self, content: str) -> None:
        self._shown.append(content)


def test_a_notebook_gets_a_bar_that_is_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    ipython, display = ModuleType("IPython"), ModuleType("IPython.display")

    def show(content: str, display_id: bool) -> Place:
        drawn.append(content)
        return Place(drawn)

    vars(display).update(HTML=str, display=show)
    vars(ipython).update(get_ipython=lambda: SimpleNamespace(kernel="a kernel"))
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    stream = io.StringIO()
    with Progress(stream=stream) as progress:
        progress.begin(range(1, 61), 0)
        progress.update(Job(slowest=(13, "<i>", time.monotonic())), 3, time.monotonic() + LIVE_EVERY)
        progress.update(Job(done=13), 3, time.monotonic() + 3 * LIVE_EVERY)
    assert [re.findall(r'max="60" value="(\d+)"', each) for each in drawn] == [["12"], ["13"], []]
    assert "12/60 done, 6 running, " in drawn[0] and "slowest: task 14 on &lt;i&gt; for " in drawn[0]
    assert (drawn[-1], stream.getvalue()) == ("", "")


def line_of(job: Job, ran: float = 60.0) -> str:
    progress = Progress(stream=io.StringIO())
    progress.begin(range(1, 61), 0)
    return progress.line(job, 3, time.monotonic() + ran)


def test_what_is_waited_for_is_told() -> None:
    now = time.monotonic()
    stuck = Job(
        total=5, done=0, running=0, left=5, failed_attempts=25, retrying=5, next_retry=now + 72, unstarted=False
    )
    assert line_of(stuck) == "0/5 done, 5 waiting to retry (25 failed attempts), next in 12 s, 3 instances"
    last = Job(total=200, done=199, running=0, left=1, failed_attempts=2, retrying=1, next_retry=now + 62)
    last.unstarted = False
    assert line_of(last).startswith("199/200 done, 1 waiting to retry (2 failed attempts), next in 2 s, 3.3")
    assert " left" not in line_of(last)
    assert "4 min left" in line_of(Job())
    assert line_of(Job(failed=2, failed_attempts=8)).startswith("12/60 done, 2 failed, 6 running, 8 failed attempts, ")


def test_retries_are_told_a_few_times() -> None:
    stream = io.StringIO()
    progress = Progress(stream=stream)
    for number in range(9):
        progress.retry(f"task {number}")
    assert stream.getvalue().splitlines()[4:] == ["task 4", "(further retries not shown)"]


def test_results_stay_on_stdout_while_a_terminal_shows_how_it_goes(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    with Progress(stream=terminal):
        print("a result")
    assert capsys.readouterr().out == "a result\n"
    assert "a result" not in terminal.getvalue()


def test_beside_results_on_the_same_terminal_nothing_is_redrawn() -> None:
    stream = Terminal()
    with Progress(stream=stream, redrawn=False) as progress:
        progress.begin(range(1, 61), 0)
        progress.update(Job(total=1200, more=True), 3, time.monotonic() + LINE_EVERY)
    [line] = stream.getvalue().splitlines()
    assert line.startswith("12 of 1,200 so far done, 6 running, ") and "left" not in line and "\x1b" not in line
