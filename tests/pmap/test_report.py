"""A job looked at afterwards: the page in a real browser, the screen of text, and what a real job leaves to tell."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from invoke import Config, Context

from hardway.errors import Failed, UsageError
from hardway.pmap import job_paths
from hardway.pmap.afterwards import explain, history, report
from hardway.pmap.afterwards.attempt_table import AttemptOutcome, AttemptRecord
from hardway.pmap.afterwards.explain import Record
from hardway.pmap.afterwards.history import DriverRun, HostRecord, Life, Timeline
from hardway.pmap.job import Job, Outputs, keys_of
from hardway.pmap.journal import Result
from tasks import mapreduce
from tests.patience import patience
from tests.pmap import chromium
from tests.pmap.chromium import Browser
from tests.pmap.conftest import Cluster

HOSTILE = b"</script><script>document.title=7</script><img src=x onerror=document.title=7>{{name}}\0\xff\x1b"
READABLE = explain.printable(HOSTILE)
AT = "(() => {const r = document.getElementById('lanes').getBoundingClientRect(); return [r.left, r.top, r.width]})()"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests here."""
    if not chromium.find():
        pytest.skip("no Chromium here (apt-get install chromium)")
    with chromium.browser() as one:
        yield one


@pytest.fixture
def told(home: Path, tmp_path: Path) -> Path:
    """The page about a job of two instances, where all that people write is hostile."""
    arguments = [b"first\n", HOSTILE + b"\n", b"third\n"]
    with Job.create(f"cat; : {HOSTILE.decode(errors='replace')}".replace("\0", ""), name="told") as job:
        job.number(keys_of(arguments), arguments)
        job.event("run", tasks=3, slots=1, timeout=0.0)
        for task, host in enumerate(("i-1", "i-2"), 1):
            about = {"name": HOSTILE.decode(errors="replace"), "type": "m7i.large", "zone": "z", "spot": True}
            job.event("up", host=host, slots=1, seconds=0.0, **about)
            job.started(task, 1, host)
            job.slot(task, 1, 0, time.time() - (60 if task == 1 else 30))
        job.done(1, job.ended(1, 1, "i-1", 0, 0, 60.0, b"x", b""))
        job.ended(2, 1, "i-2", 3, 0, 30.0, b"", b"a line\n" + HOSTILE)
        job.event("gone", host="i-2", reason=HOSTILE.decode(errors="replace"))
        job.event("over", why="failed", prices={"i-1": 0.5})
    return report.write("told", str(tmp_path / "told.html"))


def test_what_people_write_is_shown_and_not_obeyed(told: Path, browser: Browser) -> None:
    browser.open(told)
    assert browser.evaluate("document.title") == "told - pmap"
    assert browser.evaluate("document.images.length + document.scripts.length") == 2, "our data and our script"
    text = browser.evaluate("document.body.innerText")
    assert text.count(READABLE) >= 5, "the straggler's argument, the failure, the instances and their end"
    assert "exit code 3" in text
    assert browser.requests == [told.as_uri()], "it asks the network for nothing"
    assert browser.errors == []
    browser.evaluate(
        "document.body.append(Object.assign(document.createElement('script'), {text: 'document.title = 1'}))"
    )
    assert browser.evaluate("document.title") == "told - pmap", "no other script could run"


def test_hovering_keys_and_the_wheel(told: Path, browser: Browser) -> None:
    browser.open(told)
    left, top, width = browser.evaluate(AT)
    whole = browser.evaluate("view.to - view.from")

    def hover(lane: int, share: float) -> str:
        browser.mouse("mouseMoved", left + 170 + (width - 170) * share, top + 24 + lane * 25 + 10)
        browser.evaluate("new Promise(requestAnimationFrame)")
        return browser.evaluate("getComputedStyle(tip).visibility === 'visible' ? tip.innerText : ''")

    first = hover(0, 0.5)
    assert "task 1, attempt 1: done" in first
    assert "first" in first
    assert "60 s" in first
    failed = hover(1, 0.9)
    assert "task 2, attempt 1: failed" in failed
    assert failed.count(READABLE) == 3, "argument, instance, stderr"
    assert "exit code 3" in failed
    assert hover(1, 0.2) == "", "nothing ran there"
    browser.evaluate("lanesCanvas.focus()")
    browser.key("n")
    assert "task 2" in browser.evaluate("tip.innerText")
    browser.key("Escape")
    browser.key("+")
    assert browser.evaluate("view.to - view.from") == pytest.approx(whole / 1.6)
    browser.key("0")
    browser.mouse("mouseWheel", left + 170, top + 50, deltaX=0, deltaY=-500)
    assert browser.eventually("view.to < job.seconds / 2 && view.from === 0")
    at = {"button": "left", "buttons": 1, "clickCount": 1}
    browser.mouse("mousePressed", left + 700, top + 50, **at)
    browser.mouse("mouseMoved", left + 400, top + 50, buttons=1)
    browser.mouse("mouseReleased", left + 400, top + 50, button="left")
    assert browser.eventually("view.from > 0")
    browser.evaluate("document.querySelector('[data-attempt=\\'0\\']').click()")
    assert "task 1, attempt 1" in browser.evaluate("tip.innerText")


@pytest.mark.long
def test_200_lanes_and_100_000_attempts(browser: Browser, tmp_path: Path) -> None:
    rng = random.Random(1)
    timeline = Timeline(runs=[DriverRun(0, 700, 99_000, 0, "done")], done=99_000)
    for _ in range(50):
        name = f"i-{rng.getrandbits(68):017x}"
        timeline.hosts[name] = HostRecord(name, "wide", "c7i.large", "eu-west-1a", True, 0.07, 4)
        timeline.lives.append(Life(name, 0, rng.uniform(1, 3), 700))
    for task in range(1, 100_001):
        lane, turn = task % 200, task // 200
        began = 3 + turn * 1.3 + rng.random() * 0.3
        outcome = AttemptOutcome.RETRIED if task % 100 == 0 else AttemptOutcome.DONE
        result = Result(1, "", 0.0, int(outcome is AttemptOutcome.RETRIED), 0, 1.0, 0, 0, 0, 0, 0, 0)
        host_name = list(timeline.hosts)[lane // 4]
        ended = began + rng.random()
        one = AttemptRecord(task, 1, host_name, began, began, ended, outcome, result.code, 0, False, lane % 4, result)
        timeline.attempts.append(one)
    heads = [f"s3://a-bucket/events/{task:06}-{rng.getrandbits(64):016x}" for task in range(1, 100_001)]
    page = tmp_path / "wide.html"
    page.write_text(report.page(Record("wide", "cat", "done", timeline, heads, []), Outputs(tmp_path)))
    assert page.stat().st_size < 5_000_000
    browser.open(page)
    first = browser.eventually("performance.getEntriesByName('first-contentful-paint')[0]?.startTime")
    drawn = float(browser.evaluate("document.documentElement.dataset.drawn"))
    print(f"{page.stat().st_size / 1e6:.1f} MB, first paint {first:.0f} ms, timeline drawn {drawn:.0f} ms")
    assert first < patience(2000)
    assert browser.evaluate("[job.count, job.lanes]") == [100_000, 200]


@pytest.fixture
def c(cluster: Cluster, home: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    return Context(Config(defaults=mapreduce.ns.configuration()))


def test_a_real_job(c: Context, cluster: Cluster, tmp_path: Path) -> None:
    command = 'read x; [ "$x$HARDWAY_ATTEMPT" != b1 ] || { echo bad luck >&2; exit 3; }; sleep 0.1; echo $x'
    flags: dict[str, Any] = {"slots": 2, "job": "looked-at", "backup": False, "progress": False}
    mapreduce.pmap(c, cluster.ids, ["a", "b", "c", "d", "e"], command, **flags)
    timeline = report.load("looked-*").timeline
    assert (timeline.done, timeline.damaged, len(timeline.attempts)) == (5, 0, 6)
    assert {life.host for life in timeline.lives} == set(cluster.ids)
    assert {host.slots for host in timeline.hosts.values()} == {2}
    assert sorted(one.task for one in timeline.attempts if one.outcome is AttemptOutcome.RETRIED) == [2]
    assert 0 < explain.figures(timeline).busy <= 1
    text = mapreduce.explain(c, "looked-at")
    assert "5 of 5 done" in text
    assert "1 x exit code 3: bad luck" in text
    to = tmp_path / "page.html"
    assert mapreduce.report(c, "looked-at", to=str(to)) == str(to)
    assert "bad luck" in to.read_text()


def test_an_attempt_is_shown_in_the_slot_that_it_had(
    c: Context, cluster: Cluster, browser: Browser, tmp_path: Path
) -> None:
    """As the journal tells: one at a time in each."""
    command = "read x; sleep 0.0$((x % 7)); echo $HARDWAY_WORKER"
    items = [str(x) for x in range(40)]
    workers = mapreduce.pmap(c, cluster.ids, items, command, slots=2, job="slotted", progress=False)
    timeline = report.load("slotted").timeline
    told = {(one.task, one.number): one.slot for one in timeline.attempts}
    lines = [line.split() for line in (cluster.jobs / "slotted" / "journal").read_text().splitlines()]
    assert {(int(words[1]), int(words[2])): int(words[3]) for words in lines if words[0] == "slot"} == told
    assert set(told.values()) == {0, 1}
    ran: dict[tuple[str, int], list[AttemptRecord]] = {}
    for one in timeline.attempts:
        ran.setdefault((one.host, one.slot), []).append(one)
    assert len(ran) == 2 * len(cluster.ids)
    numbers = [{workers[one.task - 1] for one in slot if one.result and not one.result.code} for slot in ran.values()]
    assert sorted(map(len, numbers)) == [1] * len(ran), "HARDWAY_WORKER is a slot's"
    assert len(set().union(*numbers)) == len(ran)
    for slot in ran.values():
        assert all(one.ended <= following.began for one, following in pairwise(slot))
        lasted = [one.ended - one.began for one in slot if one.result]
        assert lasted == pytest.approx([one.result.seconds for one in slot if one.result], abs=1e-4), "none cut short"
    browser.open(Path(mapreduce.report(c, "slotted", to=str(tmp_path / "page.html"))))
    places = {name: place for place, name in enumerate(timeline.hosts)}
    shown = browser.evaluate("job.columns.task.map((task, i) => [task, job.columns.number[i], job.columns.lane[i]])")
    assert {(task, number): lane for task, number, lane in shown} == {
        (one.task, one.number): 2 * places[one.host] + one.slot for one in timeline.attempts
    }


def test_which_job(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    c = Context()
    with pytest.raises(UsageError, match="there is no job on this machine yet"):
        mapreduce.explain(c)
    for name in ("one", "two"):
        Job.create("cat", name=name).close()
    monkeypatch.chdir(tmp_path)
    assert mapreduce.report(c, "one") == "one.html"
    assert (tmp_path / "one.html").exists()
    assert mapreduce.explain(c, "*").startswith("job two: cat")
    assert mapreduce.explain(c).startswith("job two: cat")
    assert mapreduce.report(c) == "two.html"
    assert mapreduce.results(c) == []
    assert capsys.readouterr().err == "the newest job: two\n" * 3
    with pytest.raises(UsageError, match="did you mean one"):
        mapreduce.explain(c, "onee")
    with pytest.raises(UsageError, match="which job"):
        mapreduce.explain(c, " ")
    with pytest.raises(UsageError, match=r"cannot write .*/none/x\.html: no such file"):
        mapreduce.report(c, "one", to=str(tmp_path / "none" / "x.html"))
    (job_paths.jobs_path() / "one" / "keys").unlink()
    with pytest.raises(Failed, match="keys can't be read"):
        mapreduce.explain(c, "one")


def test_a_job_that_is_running_is_told_up_to_now(home: Path) -> None:
    with Job.create("cat", name="now") as job:
        job.number(keys_of([b"a\n"]), [b"a\n"])
        job.started(1, 1, "i-1")
        job.flush()
        assert "running" in explain.text(report.load("now"))
    assert "stopped" in explain.text(report.load("now"))


def test_events_say_nothing_to_a_job_that_is_resumed(home: Path) -> None:
    with Job.create("cat", name="old") as job:
        job.event("run", tasks=1, slots=1, timeout=0.0)
        job.started(1, 1, "i-1")
        job.event("lost", task=1, attempt=1, host="i-1")
    with Job(job_paths.jobs_path() / "old") as again:
        assert again.history.open == {(1, 1): "i-1"}
        assert history.read((again.path / "journal").read_bytes()).damaged == 0
