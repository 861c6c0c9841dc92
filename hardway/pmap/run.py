"""A job from its arguments to its results: what `mapreduce.pmap` calls.

It reads arguments, finds or makes the job's directory, has the driver run it, and reports; how tasks are run is the
driver's.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

from hardway import config, instances
from hardway.config import Settings
from hardway.errors import NO_ROOM, Failed, HardwayError, UsageError
from hardway.pmap import engine_dask, journal
from hardway.pmap.arguments import Arguments
from hardway.pmap.driver import Driver, Options, Outcome, how_it_ended, last_line
from hardway.pmap.journal import Job, Result, duration
from hardway.pmap.progress import Progress
from hardway.pmap.results import Results
from hardway.tables import money

GROUPS_TOLD = 5  # kinds of failures shown


def options(settings: Settings, keep_going: bool, backup: bool, engine: str = "", **given: Any) -> Options:
    """What was given, else what is configured; None is not given.

    Raises UsageError for what is no number, and for what another engine than ours doesn't have.
    """
    if not_ours := [name for name in ("slots", "reconnect", "linger") if engine and given.get(name) is not None]:
        raise UsageError(f"--{not_ours[0]} is for our own driver: with --engine that is up to the engine")
    kinds = {"slots": int, "retries": int, "retry_sleep": float, "timeout": float, "reconnect": float, "linger": float}
    values = {}
    for name, kind in kinds.items():
        value = given.get(name)
        configured = getattr(settings.mapreduce, name)
        values[name] = configured if value is None else config.number(value, kind, f"--{name.replace('_', '-')}")
    return Options(keep_going=keep_going, backup=backup, **values)


def pmap(
    settings: Settings,
    selector: str | Iterable[str],
    arguments: Arguments,
    command: str,
    options: Options,
    *,
    job: str = "",
    resume: str | bool = False,
    depends: Sequence[str] = (),
    verify: int = 0,
    join: bool = False,
    results: str | os.PathLike[str] | None = None,
    progress: bool = True,
    engine: str = "",
) -> Results:
    """Run the command once for each argument on the instances; returns the results in argument order.

    `resume` names a job of the same command and the same content of the files in `depends`, True is the newest: what
    has its result there is not run again. `verify` of the tasks, a random sample, run twice before the rest starts, on
    different instances: where the results differ it is Failed. With `join`, instances that come to match the selector
    meanwhile take part. With `results`, a directory, each task's stdout,
    stderr, exit code and times are files there and their paths are returned. `engine`, the address of a Dask scheduler,
    has that run the tasks, wherever its workers are: then no instance is selected.

    Raises UsageError for bad input, Failed where tasks failed or no instance is left, Interrupted, and HardwayError for
    SIGTERM and SIGHUP.
    """
    if not command.strip():
        raise UsageError("an empty command: say what each task runs")
    if "\0" in command:
        raise UsageError("the command contains a NUL character: no shell can run that")
    address = _read_engine(engine, selector, verify, join) if engine else ""
    folder = _results_folder(results)
    selected = [] if engine else instances.select(settings, selector)
    with Progress(progress) as shown:
        if arguments.skipped:
            shown.say(f"{arguments.skipped} empty lines are no arguments")
        if not arguments.items:
            shown.say("no arguments: nothing to do")
            return Results(0, lambda position: [])
        if ends := [instance.ends for instance in selected if instance.ends]:
            shown.expect_end(time.monotonic() + (min(ends) - datetime.now(timezone.utc)).total_seconds())
        found = _earlier(command, depends, resume, shown) if resume else None
        text = "-" if engine else instances.text_of(selector)
        about = {"selector": text, "region": settings.aws.region, "source": arguments.source}
        opened = Job(found) if found else Job.create(command, name=job, depends=depends, **about)
        with opened:
            try:
                job_run = _Run(opened, settings, selected, arguments.items, options, folder, shown, address)
                if join:
                    job_run.find = partial(instances.select, settings, selector)
                if verify:
                    job_run.verify(min(verify, len(arguments.items)))
                return job_run.all()
            except OSError as error:
                if error.errno not in NO_ROOM:
                    raise
                raise opened.unwritable(error) from None


def _read_engine(engine: str, selector: str | Iterable[str], verify: int, join: bool) -> str:
    """The scheduler's address. Raises UsageError for what has no meaning there."""
    if (selector if isinstance(selector, str) else " ".join(selector)).strip() not in ("", "-"):
        raise UsageError("with --engine the tasks run wherever the engine has workers: write - in place of SELECTOR")
    if verify or join:
        which = "--verify" if verify else "--join"
        raise UsageError(f"{which} is for our own driver: with --engine, which worker runs a task is up to the engine")
    return engine_dask.read_address(engine)


def _earlier(command: str, depends: Sequence[str], resume: str | bool, shown: Progress) -> Path | None:
    """The directory of the job to go on with; None for a new one."""
    wanted = journal.fingerprint(command, depends)
    if resume is True:
        found = journal.latest(wanted)
        if found is None:
            shown.say("no earlier job ran this command with the files it depends on as they are: this is a new job")
        return found
    path = journal.jobs_path() / str(resume)
    asked = journal.read_asked(path)
    if asked.fingerprint != wanted:
        what = "another command" if asked.command != command else "with other content of the files it depends on"
        raise UsageError(f"job {resume} ran {what}; that makes this another job: leave out --resume {resume}")
    return path


class _Run:
    """One run of a job, from its directory to its results."""

    def __init__(
        self,
        job: Job,
        settings: Settings,
        selected: Sequence[instances.Instance],
        items: list[bytes],
        options: Options,
        folder: Path | None,
        shown: Progress,
        engine: str = "",
    ) -> None:
        self.job = job
        self.settings = settings
        self.selected = selected
        self.items = items
        self.options = options
        self.shown = shown
        self.engine = engine
        self.find: Callable[[], Sequence[instances.Instance]] | None = None
        _look_back(job, shown)
        keys = journal.keys_of(items)
        self.numbers = job.number(keys, items)
        self.order = longest_first(keys, journal.latest_durations(job.asked.command, job.path))
        self.writer = _Writer(job, self.numbers, folder) if folder else None

    def all(self) -> Results:
        """Run what has no result yet; the results of all tasks."""
        order, writer = self.order, self.writer
        items = [self.items[position] for position in order]
        numbers = [self.numbers[position] for position in order]
        on_result = (lambda place, result: writer.write(order[place], result)) if writer else None
        rest = (self.settings, self.options, self.shown, on_result)
        outcome = self._drive(
            engine_dask.DaskDriver(self.job, items, numbers, self.engine, *rest)
            if self.engine
            else Driver(self.job, items, numbers, self.selected, *rest, find=self.find)
        )
        self._check(outcome, items, numbers)
        if writer:
            path = writer.path
            return Results(len(self.items), lambda position: [os.fsencode(path(position))])
        outputs, tasks, results = self.job.outputs, self.numbers, self.job.history.results
        return Results(len(tasks), lambda position: outputs.pieces(tasks[position], results[tasks[position]]))

    def verify(self, count: int) -> None:
        """Run a sample of the tasks twice, on different instances. Raises Failed where results differ."""
        if len(self.selected) < 2:
            raise UsageError("--verify compares results of different instances: it needs two or more")
        sample = sorted(random.sample(range(len(self.items)), count))
        items = [self.items[position] for position in sample]
        numbers = [self.numbers[position] for position in sample]
        common = (self.selected, self.settings, self.options, self.shown)
        self._check(self._drive(Driver(self.job, items, numbers, *common)), items, numbers)
        first = [self.job.history.results[number] for number in numbers]
        again = Job.create(self.job.asked.command, name=f"{self.job.asked.name}-verify-{secrets.token_hex(3)}")
        with again:
            again_numbers = again.number(journal.keys_of(items))
            avoid = {position: result.host for position, result in enumerate(first)}
            driver = Driver(again, items, again_numbers, *common, avoid=avoid)
            self._check(self._drive(driver), items, again_numbers, again)
            second = [again.history.results[number] for number in again_numbers]
            differ = [
                f"task {number} gave different results on {one.host} and {other.host}"
                for number, one, other in zip(numbers, first, second, strict=True)
                if (one.size, one.checksum) != (other.size, other.checksum)
            ]
        journal.remove(again.path)
        if any(one.host == other.host for one, other in zip(first, second, strict=True)):
            raise Failed(
                "--verify compares results of different instances, and only one could be used; "
                f"{_resuming(self.job, self.engine, 'to go on without it')}"
            )
        if differ:
            self.shown.say(*differ[:GROUPS_TOLD])
            raise Failed(
                f"{len(differ)} of {count} tasks that were run twice gave different results: the command is not "
                f"idempotent; {_resuming(self.job, self.engine, 'to go on all the same')}"
            )
        self.shown.say(f"{count} tasks were run twice, on different instances, with the same results")

    def _drive(self, driver: Driver | engine_dask.DaskDriver) -> Outcome:
        try:
            return driver.run()
        except HardwayError as error:
            if "--resume" not in str(error):
                error.message = f"{error.message}; {_resuming(self.job, self.engine)}"
            raise
        finally:
            self.shown.say(_summary(driver.outcome, len(driver.arguments)))

    def _check(self, outcome: Outcome, items: list[bytes], numbers: list[int], job: Job | None = None) -> None:
        """Raises Failed, with the failures explained, if a task failed."""
        if outcome.failed:
            self.shown.say(*failures(job or self.job, items, numbers, outcome, self.options))
            raise Failed(
                f"{len(outcome.failed)} of {len(items)} tasks failed, {outcome.done} are done, {outcome.left} are "
                f"left; {_resuming(self.job, self.engine)}"
            )


def longest_first(keys: Sequence[bytes], durations: Mapping[bytes, float]) -> Sequence[int]:
    """The positions of the keys, those first that took longest before; one never run is taken for an average one.

    The longest task last would leave all slots but one idle (Graham, Bounds on Multiprocessing Timing Anomalies, 1969).
    """
    known = [durations[key] for key in keys if key in durations]
    if not known:
        return range(len(keys))
    average = sum(known) / len(known)
    return sorted(range(len(keys)), key=lambda position: -durations.get(keys[position], average))


def _look_back(job: Job, shown: Progress) -> None:
    """Say what an earlier run left, and forget results that can't be read back."""
    history = job.history
    if not history.attempts:
        return
    broken = [task for task, result in history.results.items() if not job.intact(task, result)]
    for task in broken:
        del history.results[task]
    if history.damaged:
        shown.say(f"{history.damaged} lines of {job.path / 'journal'} are damaged; what they told is run again")
    if broken:
        shown.say(f"{len(broken)} results are damaged; their tasks run again")
    shown.say(f"resuming job {job.asked.name}: {len(history.results)} results are there")


def _resuming(job: Job, engine: str, what: str = "to go on") -> str:
    """The line that goes on with the job, on the engine that it was on, behind what it is for and what it needs."""
    asked = job.asked
    where = ["--engine", engine] if engine else []
    selector = "-" if engine else asked.selector
    line = shlex.join(["inv", "mapreduce.pmap", selector, asked.source, asked.command, *where, "--resume", asked.name])
    where_to = "" if engine else ", on these or other instances"
    needs = {"-": ", with the same stdin", "ARGS": ", with the same arguments for ARGS"}.get(asked.source, "")
    return f"{what}{where_to}{needs}: {line}"


def _summary(outcome: Outcome, tasks: int) -> str:
    share = outcome.busy / outcome.slot_seconds if outcome.slot_seconds else 0.0
    parts = [
        f"{outcome.done} of {tasks} tasks done",
        f"{outcome.attempts} attempts",
        f"{outcome.retries} retries",
        f"{outcome.backups} backups",
        f"{outcome.lost} instances lost",
        duration(outcome.seconds),
        f"{min(share, 1):.0%} busy",
    ]
    if outcome.cost:
        parts.append(money(outcome.cost))
        if outcome.unpriced:
            parts[-1] += f" (the price of {outcome.unpriced} more is not known)"
    elif outcome.unpriced:
        parts.append("cost not known")
    return ", ".join(parts)


def failures(
    job: Job, items: Sequence[bytes], numbers: Sequence[int], outcome: Outcome, options: Options
) -> Iterable[str]:
    """The failed tasks grouped by how they ended and what they said last, most frequent first."""
    said: dict[int, tuple[str, str]] = {}
    for position, result in outcome.failed.items():
        said[position] = (how_it_ended(result, options.timeout), last_line(job.outputs, numbers[position], result))
    groups = Counter(said.values())
    for (how, line), count in groups.most_common(GROUPS_TOLD):
        position = next(position for position, group in said.items() if group == (how, line))
        yield f"{count} {'task' if count == 1 else 'tasks'} failed, {how}{': ' if line else ''}{line}"
        yield from _by_hand(job, items[position], numbers[position], outcome.failed[position])
    if len(groups) > GROUPS_TOLD:
        yield f"and in {len(groups) - GROUPS_TOLD} other ways"


def _by_hand(job: Job, item: bytes, number: int, result: Result) -> Iterable[str]:
    """Where the whole log of one failed task is, and the line that runs it again."""
    folder = job.path / "failed"
    folder.mkdir(exist_ok=True)
    log, stdin = folder / f"{number}.stderr", folder / f"{number}.stdin"
    with log.open("wb") as file:
        for piece in job.pieces(number, result, "stderr"):
            file.write(piece)
    stdin.write_bytes(item)
    yield f"  such as task {number} on {result.host}: {log}"
    if not result.host.startswith("i-"):
        return  # a worker of Dask's that is no instance we know
    command = shlex.quote(job.asked.command)
    yield f"  by hand: inv ec2.ssh {result.host} --yes --command {command} --stdin {shlex.quote(str(stdin))}"


def _results_folder(results: str | os.PathLike[str] | None) -> Path | None:
    if results is None:
        return None
    folder = Path(results).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--results {folder}: {(error.strerror or str(error)).lower()}") from None
    return folder


class _Writer:
    """Files for the outcome of each task, named by the place of its argument, from 1."""

    def __init__(self, job: Job, numbers: Sequence[int], folder: Path) -> None:
        self.job = job
        self.numbers = numbers
        self.folder = folder
        self.width = len(str(len(numbers)))
        for position, number in enumerate(numbers):
            if number in job.history.results:
                self.write(position, job.history.results[number])

    def path(self, position: int, ending: str = "stdout") -> Path:
        """The file of this kind for the task at this position."""
        return self.folder / f"{position + 1:0{self.width}}.{ending}"

    def write(self, position: int, result: Result) -> None:
        """Write all of a task's files; stdout, the one whose path is printed, last and in one piece.

        Raises Failed where the folder takes no more.
        """
        try:
            self._write(position, result)
        except OSError as error:
            raise Failed(f"cannot write to {self.folder}: {(error.strerror or str(error)).lower()}") from None

    def _write(self, position: int, result: Result) -> None:
        number = self.numbers[position]
        about = {
            "task": number,
            "attempt": result.attempt,
            "instance": result.host,
            "exit_code": result.code,
            "seconds": round(result.seconds, 6),
            "ended": round(result.ended, 3),
        }
        self.path(position, "json").write_text(json.dumps(about) + "\n")
        for which in ("stderr", "stdout"):
            new = self.path(position, f"{which}.new")
            with new.open("wb") as file:
                for piece in self.job.pieces(number, result, which):
                    file.write(piece)
            new.replace(self.path(position, which))
