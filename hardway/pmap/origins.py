"""The task that made an object of the store, found in the results of the jobs on this machine.

An object is named by its instance and its key. The task that made it ran on this instance, and printed its URL. A task
that only passes the URL on ran elsewhere, or later, so the first such result counts. An instance can't claim another
one's objects.

A task that runs again makes the same objects, on another instance: the key is the same, only the instance differs.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hardway.config import Settings
from hardway.errors import Failed, HardwayError
from hardway.pmap.job import Outputs, open_file, read_asked, read_journal
from hardway.pmap.job_paths import all_jobs
from hardway.pmap.journal import History, Result
from hardway.pmap.locality import PREFIX, Moves, StoreUrl, urls_in
from hardway.pmap.losses import data_gone_with


@dataclass(frozen=True)
class Origin:
    """The task that made an object.

    After the task's present result the object is at `now`, if the result has it, and `names` are all instances that the
    result names; None without a result.
    """

    job: Path
    task: int
    made: float
    now: StoreUrl | None
    names: frozenset[str] | None


def find(urls: Collection[StoreUrl]) -> dict[StoreUrl, Origin]:
    """Return the origins of these objects, as far as jobs on this machine have made them."""
    found: dict[StoreUrl, Origin] = {}
    wanted = frozenset(urls)
    texts = {PREFIX + url.instance.encode() + b"/" for url in wanted}
    for path in all_jobs() if wanted else ():
        if not _mentions(path, texts):
            continue
        with contextlib.suppress(HardwayError):  # a damaged job is no evidence
            _, history = read_journal(path, read_asked(path))
            for url, origin in _made_in(path, history, wanted):
                if url not in found or origin.made < found[url].made:
                    found[url] = origin
    return found


def moves(settings: Settings, wanted: Collection[StoreUrl], here: Collection[str]) -> Moves:
    """Return where those of these objects are now whose instance is gone; instances `here` are not.

    Raises HardwayError if EC2 can't be asked.
    """
    gone = data_gone_with(settings, {url.instance for url in wanted}.difference(here))
    origins = find([url for url in wanted if url.instance in gone]) if gone else {}
    found = {url: origin.now.instance for url, origin in origins.items() if origin.now}
    gone |= data_gone_with(settings, {*found.values()}.difference(here, gone))
    return {url: instance for url, instance in found.items() if instance not in gone}


def gone_results(
    settings: Settings, path: Path, history: History, tasks: Iterable[int], here: Collection[str]
) -> dict[int, set[str]]:
    """Return those of a job's tasks whose results name objects on instances that are gone, with these instances.

    Instances `here` are not. Raises HardwayError if EC2 can't be asked.
    """
    if not _mentions(path, [PREFIX]):
        return {}
    named = {}
    with contextlib.closing(Outputs(path)) as outputs:
        for task in tasks:
            result = history.results.get(task)
            urls = _urls(outputs, task, result) if result else None
            if others := {url.instance for url in urls or ()}.difference(here):
                named[task] = others
    gone = data_gone_with(settings, {instance for instances in named.values() for instance in instances})
    return {task: instances & gone for task, instances in named.items() if instances & gone}


def _made_in(path: Path, history: History, wanted: frozenset[StoreUrl]) -> Iterator[tuple[StoreUrl, Origin]]:
    instances = {url.instance for url in wanted}
    with contextlib.closing(Outputs(path)) as outputs:
        for task in {*history.results, *history.former}:
            present = history.results.get(task)
            results = [*history.former.get(task, ()), *([present] if present else ())]
            if not any(result.host in instances for result in results):
                continue
            present_urls = _urls(outputs, task, present) if present else None
            names = None if present_urls is None else frozenset(url.instance for url in present_urls)
            now = {url.key: url for url in present_urls or () if present and url.instance == present.host}
            for result in results:
                if result.host not in instances:
                    continue
                made = {url for url in _urls(outputs, task, result) or () if url.instance == result.host}
                for url in wanted & made:
                    yield url, Origin(path, task, result.ended, now.get(url.key), names)


def _urls(outputs: Outputs, task: int, result: Result) -> list[StoreUrl] | None:
    """Return the URLs in a result; None if it can't be read."""
    urls: list[StoreUrl] = []
    rest = b""
    try:
        for piece in outputs.pieces(task, result):
            lines, _, rest = (rest + piece).rpartition(b"\n")
            urls += urls_in(lines)
    except Failed:
        return None
    return urls + urls_in(rest)


def _mentions(path: Path, texts: Collection[bytes]) -> bool:
    """Return whether a job's results have one of these texts."""
    return any(_has(file, texts) for file in _stdouts(path))


def _stdouts(path: Path) -> Iterator[Path]:
    yield path / "stdout"
    with contextlib.suppress(OSError):
        yield from (path / "large").glob("*.stdout")


def _has(file: Path, texts: Collection[bytes]) -> bool:
    try:
        fd = open_file(file, os.O_RDONLY)
    except OSError:
        return False
    try:
        if not os.fstat(fd).st_size:
            return False
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as data:
            return any(data.find(text) >= 0 for text in texts)
    finally:
        os.close(fd)
