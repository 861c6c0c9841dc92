"""A job from its arguments to its results: what `mapreduce.pmap` calls.

This module reads arguments, finds or makes the job's directory, has the driver run the job, and reports.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import secrets
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from hardway import aws
from hardway.config import Settings, aws_variables, mebibytes
from hardway.ec2 import instances
from hardway.errors import Failed, HardwayError, UsageError
from hardway.pmap import engine_dask, files, folder, job_list, job_paths, origins
from hardway.pmap.arguments import ARGUMENTS, Arguments
from hardway.pmap.detach import Detach, Options, check_sizes, refuse, still_there, warning
from hardway.pmap.driver import Driver
from hardway.pmap.endings import DATA_GONE, Outcome, end_and_complaint, paid
from hardway.pmap.expect import Expected
from hardway.pmap.files import Load
from hardway.pmap.folder import Folder
from hardway.pmap.intake import Intake, known_arguments
from hardway.pmap.job import Job, Outputs, fingerprint, keys_of, read_asked
from hardway.pmap.job_results import failed_task
from hardway.pmap.journal import Result
from hardway.pmap.locality import Moves, urls_in
from hardway.pmap.notify import Notifier
from hardway.pmap.progress import Progress
from hardway.pmap.results import FailedTask, Results, TasksFailed
from hardway.pmap.stream import Stream
from hardway.system.paths import current_directory
from hardway.tables import count, duration
from hardway.terminal import command_line, printable

GROUPS_TOLD = 5  # kinds of failures shown
KEPT_MOST, KEPT_BYTES = 100_000, 16 << 20  # of a stream's arguments, kept for the line that resumes its job
Value = TypeVar("Value")
_OF_AWS = re.compile(r"\.(amazonaws\.com(\.cn)?|api\.aws)(:\d+)?/?$")


def pmap(
    settings: Settings,
    selector: str | Iterable[str],
    arguments: Arguments | Stream,
    command: str,
    *,
    keep_going: bool = False,
    halt: str = "",
    fail_fast: bool = True,
    backup: bool = True,
    workdir: str = "",
    job: str = "",
    label: str = "",
    resume: str | bool = False,
    depends: Sequence[str] = (),
    verify: int = 0,
    join: bool = False,
    results: str | os.PathLike[str] | None = None,
    progress: bool = True,
    engine: str = "",
    send: Sequence[str] = (),
    expect: str = "",
    notify: str = "",
    locality: bool = True,
    flags: Sequence[str] = (),
    detach: Detach = Detach.NO,
    before: Callable[[Sequence[instances.Instance]], None] = lambda selected: None,
    publish: Callable[[Any], None] = lambda results: None,
) -> Results:
    """Run the command once for each argument on the instances, and return the results in argument order.

    No task starts once `halt` tasks (`3`, or `5%` of them; by default one) have failed for good. With `keep_going` all
    other tasks are finished first. With `fail_fast` a job ends if its first tasks fail alike on different instances,
    and a task that fails alike on them is not tried again. With `backup` the slowest tasks run a second time. `label`
    is a name for people; several jobs may have the same label. Tasks run in `workdir`: home or scratch; empty means
    scratch for tasks with files to send.

    `resume` names an earlier job, or is True for the newest. The job must have the same command, the same contents of
    files in `depends` and `send`, and the same world (endpoint, account, region, session of the S3 stub). Tasks with a
    result in this job are not run again. Files in `depends` must be on the instances as they are here; files in `send`
    are sent there. A random sample of `verify` tasks runs twice before the others start, on different instances; Failed
    is raised if the results differ. With `join`, instances that match the selector later take part. With a directory as
    `results`, each task's stdout, stderr, exit code and times are files there, and the paths are returned. `engine` is
    the address of a Dask scheduler that runs the tasks on its workers: no instance is selected then. The objects to
    `expect` of a task (see `Expected`) must exist before its result counts. `notify` is a command for this machine that
    runs when the job is done or has failed. With `locality` a task prefers the instance that has most of its data.
    `flags` are the person's flags, used in the line that resumes the job. `publish` is given an object that writes a
    stream's results while the job runs. With `verify`, `results` or `engine` a stream is read to its end first.

    `detach` is the part that this run has in a detached job. With DEAL all arguments are read first, and the result is
    the job's name, once the instances have all tasks. With WAIT the `selector` are ids of instances that may have gone.

    Raises UsageError for bad input, TasksFailed if tasks failed, Failed if no instance is left, Interrupted after
    Ctrl-C, and HardwayError for SIGTERM and SIGHUP.
    """
    if not command.strip():
        raise UsageError("the command is empty: say what each task runs")
    if "\0" in notify:
        raise UsageError("--notify contains a NUL character: no shell can run that")
    if "\0" in command:
        raise UsageError("the command contains a NUL character: no shell can run that")
    if job:
        job_paths.check_name(job)
    if workdir not in ("", "home", "scratch"):
        raise UsageError(f"--workdir {printable(workdir)!r}: it must be home or scratch")
    if detach is Detach.DEAL:
        given = {"notify": notify, "verify": verify, "join": join, "engine": engine, "results": results is not None}
        refuse(given)
    most_failed = read_halt(halt, keep_going)
    address = _read_engine(settings, engine, selector, verify, join, send, workdir) if engine else ""
    expected = Expected(settings, expect) if expect else None
    if arguments.batch and "{}" in expect:
        raise UsageError("--expect with {} is for tasks of one argument, and with --batch a task has several")
    mebibytes(settings.mapreduce.memory, settings.source("mapreduce.memory"))
    notifier = Notifier(notify)
    with contextlib.ExitStack() as stack:
        stack.enter_context(notifier.at_end())
        unused = stack.enter_context(contextlib.ExitStack())  # removes a job of which nothing was started
        if isinstance(arguments, Stream):
            stack.callback(arguments.close)
        packed = files.pack(send)
        if packed:
            stack.enter_context(packed)
        load = Load(packed, depends, command)
        select = still_there if detach is Detach.WAIT else instances.select
        selected = [] if engine else select(settings, selector)
        before(selected)
        where = _where(settings, selected)
        if isinstance(arguments, Stream) and (verify or engine or results is not None or detach is Detach.DEAL):
            items = list(arguments)
            arguments = Arguments(items, arguments.cutter.skipped, arguments.source, batch=arguments.batch)
        # Results on the same terminal would tear a line that is redrawn.
        redrawn = not (isinstance(arguments, Stream) and sys.stdout is not None and sys.stdout.isatty())
        shown = stack.enter_context(Progress(progress, redrawn=redrawn))
        if isinstance(arguments, Arguments) and arguments.skipped:
            shown.say(f"{count(arguments.skipped, 'empty line')} left out: no arguments")
        if address and depends:
            shown.say("--depends: these files are not compared with those of Dask's workers")
        if not (arguments.first() if isinstance(arguments, Stream) else arguments.items):
            shown.say("no arguments: nothing to do")
            return Results(0, lambda position: [])
        if detach is Detach.DEAL and isinstance(arguments, Arguments):
            check_sizes(arguments.items, len(selected))
        if ends := [instance.ends for instance in selected if instance.ends]:
            left = (min(ends) - datetime.now(timezone.utc)).total_seconds()
            shown.expect_end(time.monotonic() + left)
            if detach is Detach.DEAL:
                shown.say(warning(left))
        wanted = fingerprint(command, load.depends, load.digest, arguments.batch)
        found = _earlier(wanted, command, arguments.batch, where, resume, shown) if resume else None
        target = folder.check(results, read_asked(found) if found else None) if results is not None else None
        text = "-" if engine else instances.text_of(selector)
        about = {"selector": text, "region": where.get("region", ""), "source": arguments.source, "label": label}
        opened = stack.enter_context(
            Job(found)
            if found
            else Job.create(command, name=job, made_of=wanted, where=where, batch=arguments.batch, **about)
        )
        if settings.mapreduce.keep_days:
            shown.say(*job_list.prune(settings.mapreduce.keep_days, opened.path))
        notifier.watch(opened, shown.say)
        job_run: _Run | None = None
        try:
            job_run = _Run(
                opened,
                command,
                settings,
                selected,
                arguments,
                target,
                shown,
                halt=most_failed,
                fail_fast=fail_fast,
                backup=backup,
                workdir=workdir or ("scratch" if load.digest else "home"),
                engine=address,
                load=load,
                expect=expected,
                locality=locality,
                flags=flags,
                detach=detach,
                options=Options(
                    settings.mapreduce,
                    keep_going=keep_going,
                    halt=halt,
                    fail_fast=fail_fast,
                    backup=backup,
                    locality=locality,
                    workdir=workdir,
                    depends=depends,
                    send=send,
                    expect=expect,
                    real_s3=not settings.stub_session,
                ),
            )
            if join:
                job_run.find = partial(instances.select, settings, selector)
            if verify:
                job_run.verify(min(verify, len(job_run.items)))
            if isinstance(arguments, Stream):
                with arguments.published(publish):
                    outcome = job_run.drive_all()
            else:
                outcome = job_run.drive_all()
            return job_run.finish(outcome)
        except UsageError as error:
            if job_run and job_run.has_started:
                raise Failed(str(error)) from None
            if not found:
                unused.callback(job_list.remove, opened.path)
            raise


def read_halt(text: str, keep_going: bool) -> Callable[[int], int]:
    """Return a function from the number of tasks to the number of failed ones at which no more start; 0 for no limit.

    Raises UsageError.
    """
    if not text:
        return lambda tasks: 0 if keep_going else 1
    if keep_going:
        raise UsageError("--halt says when to stop, and --keep-going never stops: give one of them")
    number, percent = text.removesuffix("%"), text.endswith("%")
    if not re.fullmatch(r"\d{1,9}", number) or int(number) < 1 or (percent and int(number) > 100):
        raise UsageError(f"--halt {printable(text)!r}: it must be a number of failed tasks, or a share such as 5%")
    return lambda tasks: max(1, -(-int(number) * tasks // 100)) if percent else int(number)


def _where(settings: Settings, selected: Sequence[instances.Instance]) -> dict[str, str]:
    """Return the world in which a job runs; another world lacks its objects. Unknown parts are left out."""
    stub, known = settings.stub_session.get("s3_stubbed_session", ""), aws_variables()
    region, endpoints = settings.aws.region, [known.get("AWS_ENDPOINT_URL", "")]
    with contextlib.suppress(UsageError):  # with another engine than ours no region is needed
        region, endpoints = aws.region_of(settings), [str(aws.ec2(settings).meta.endpoint_url)]
    # In a session of the stub, the S3 endpoint is only the stub's closed port.
    endpoints += [] if stub else [known.get("AWS_ENDPOINT_URL_S3", "")]
    other_clouds = [url for url in endpoints if not _OF_AWS.search(url)]
    found = {
        "endpoint": " ".join(dict.fromkeys(filter(None, other_clouds))),
        "account": next((instance.account for instance in selected), ""),
        "region": region,
        "session of the S3 stub": stub,
    }
    return {what: value for what, value in found.items() if value}


def _read_engine(
    settings: Settings,
    engine: str,
    selector: str | Iterable[str],
    verify: int,
    join: bool,
    send: Sequence[str],
    workdir: str,
) -> str:
    """Return the scheduler's address. Raises UsageError for flags without a meaning there."""
    sources = [settings.source(f"mapreduce.{name}") for name in ("slots", "memory", "reconnect", "linger")]
    if ours := [source for source in (*sources, "--workdir" if workdir else "") if source.startswith("--")]:
        raise UsageError(f"{ours[0]} can't be used with --engine: the engine decides about it")
    if (selector if isinstance(selector, str) else " ".join(selector)).strip() not in ("", "-"):
        raise UsageError("with --engine the tasks run wherever the engine has workers: write - in place of SELECTOR")
    if verify or join or send:
        which = "--verify" if verify else "--join" if join else "--files"
        raise UsageError(f"{which} can't be used with --engine: the engine chooses the worker of a task")
    return engine_dask.read_address(engine)


def _earlier(
    wanted: str, command: str, batch: int, where: Mapping[str, str], resume: str | bool, shown: Progress
) -> Path | None:
    """Return the directory of the job to resume; None for a new job."""
    if resume is True:
        found, said = job_list.latest(wanted, where)
        shown.say(*said)
        if found is None:
            shown.say("no earlier job ran this command here, with its files as they are now: this is a new job")
        return found
    path = job_paths.named(str(resume))
    asked = read_asked(path)
    if asked.fingerprint != wanted:
        what = "another command" if asked.command != command else "with other content of the files it depends on"
        if asked.command == command and asked.batch != batch:
            what = f"with --batch {asked.batch}" if asked.batch else "without --batch"
        raise UsageError(f"job {resume} ran {what}, so this is another job: leave out --resume {resume}")
    if other := job_list.elsewhere(asked.where, where):
        raise UsageError(
            f"job {resume} ran elsewhere ({other}), and its results are there, so this is another job: leave out "
            f"--resume {resume}"
        )
    return path


class _Run:
    """One run of a job, from its directory to its results."""

    def __init__(
        self,
        job: Job,
        command: str,
        settings: Settings,
        selected: Sequence[instances.Instance],
        arguments: Arguments | Stream,
        target: Path | None,
        shown: Progress,
        *,
        halt: Callable[[int], int],
        fail_fast: bool,
        backup: bool,
        workdir: str,
        engine: str,
        load: Load,
        expect: Expected | None,
        locality: bool,
        flags: Sequence[str],
        detach: Detach,
        options: Options,
    ) -> None:
        self.job = job
        self.command = command
        self.settings = settings
        self.selected = selected
        self.fail_fast = fail_fast
        self.has_started = False
        self.backup = backup
        self.workdir = workdir
        self.shown = shown
        self.engine = engine
        self.load = load
        self.expect = expect
        self.locality = locality
        self.find: Callable[[], Sequence[instances.Instance]] | None = None
        self.flags = flags
        self.detach = detach
        self.options = options
        self.intake: Intake | None = None
        self.numbers: Sequence[int]
        self.order: Sequence[int] = ()
        if isinstance(arguments, Stream):
            arguments.read = lambda position, result: self._streamed.pieces(position + 1, result)
            self._streamed = Outputs(job.path)  # for the thread that takes results
            self.intake = Intake(arguments, job, shown.say, halt, self._all_read)
            self.items, self.numbers = self.intake.items, self.intake.numbers
        else:
            self.items = arguments.items
            keys = keys_of(self.items)
            self.numbers = job.number(keys, self.items)
            self.order = longest_first(keys, job_list.latest_durations(command, job.path))
        self.halt = halt(len(self.items))
        self.resuming = _Waiting(job) if detach is Detach.WAIT else _Resuming(job, command, arguments, engine, flags)
        self._look_back()
        self.moves = self._find_moves()
        self.writer = self._resumable(partial(Folder, job, self.numbers, target)) if target else None

    def _all_read(self) -> None:
        """Keep the arguments of a stream that has been read to its end, for the line that resumes the job."""
        if len(self.numbers) > KEPT_MOST or self.job.history.long > KEPT_BYTES:
            return
        items = known_arguments(self.job.path, self.job.keys, self.job.history)
        if len(items) == len(self.numbers):
            arguments = Arguments(items, source="-", batch=self.job.asked.batch)
            self.resuming = _Resuming(self.job, self.command, arguments, self.engine, self.flags)

    def drive_all(self) -> Outcome:
        """Run the tasks without a result."""
        if self.intake:
            return self._drive(self._driver(self.job, self.items, self.numbers, find=self.find, intake=self.intake))
        order, writer = self.order, self.writer
        items = [self.items[position] for position in order]
        numbers = [self.numbers[position] for position in order]

        def write(place: int, result: Result | None) -> None:
            if writer and result:
                writer.write(order[place], result)
            elif writer:
                writer.remove(order[place])

        on_result = write if writer else None
        driver: Driver | engine_dask.DaskDriver
        if self.engine:
            driver = engine_dask.DaskDriver(
                self.job,
                self.command,
                items,
                numbers,
                self.engine,
                self.settings,
                self.shown,
                on_result,
                halt=self.halt,
                expect=self.expect,
            )
        else:
            driver = self._driver(self.job, items, numbers, on_result, find=self.find)
        return self._drive(driver)

    def finish(self, outcome: Outcome) -> Results:
        """Return the results of all tasks. Raises TasksFailed if tasks failed."""
        self._resumable(self.job.sync)
        if self.detach is Detach.DEAL and (outcome.detached or not outcome.failed):
            return Results(1, lambda position: [self.job.asked.name.encode()], lines=True)
        results = self._results()
        if outcome.failed:
            order = self.order  # a stream's tasks are in the order of its arguments
            places = ((order[place] if order else place, result) for place, result in outcome.failed.items())
            failed = dict(sorted(places))
            self._say_failures(self.job, self.items, self.numbers, failed)
            printed = outcome.done > 0 and not outcome.left
            raise TasksFailed(self._why(outcome, self.numbers, failed), results, partial(self._failed, failed), printed)
        return results

    def _results(self) -> Results:
        """Return the results; a missing one is empty."""
        again = self.resuming.line("all tasks are done; to print this again")
        outputs, tasks, results = self.job.outputs, self.numbers, self.job.history.results
        missing = {position for position, task in enumerate(tasks) if task not in results}
        if self.writer:
            path = self.writer.path
            files = lambda position: [os.fsencode(path(position))]  # noqa: E731
            return Results(len(tasks), files, lines=True, again=again, missing=missing)
        pieces = lambda place: outputs.pieces(tasks[place], results[tasks[place]])  # noqa: E731
        return Results(len(tasks), pieces, again=again, missing=missing)

    def _failed(self, failed: Mapping[int, Result]) -> list[FailedTask]:
        """Describe failed tasks, given by the positions of their arguments."""
        outputs, timeout = self.job.outputs, self.settings.mapreduce.timeout
        return [
            failed_task(outputs, self.numbers[position], self.items[position].removesuffix(b"\n"), result, timeout)
            for position, result in failed.items()
        ]

    def verify(self, count: int) -> None:
        """Run a sample of `count` tasks twice, on different instances. Raises Failed if results differ."""
        if len(self.selected) < 2:
            raise UsageError("--verify compares results of different instances: it needs two or more")
        sample = sorted(random.sample(range(len(self.items)), count))
        items = [self.items[position] for position in sample]
        numbers = [self.numbers[position] for position in sample]
        self._check(self._drive(self._driver(self.job, items, numbers)), items, numbers, self.job)
        first = [self.job.history.results[number] for number in numbers]
        again = Job.create(self.command, name=f"{self.job.asked.name[:80]}-verify-{secrets.token_hex(3)}")
        with again:
            again_numbers = again.number(keys_of(items))
            avoid = {position: result.host for position, result in enumerate(first)}
            driver = self._driver(again, items, again_numbers, avoid=avoid)
            self._check(self._drive(driver), items, again_numbers, again)
            second = [again.history.results[number] for number in again_numbers]
            differ = [
                f"task {number} gave different results on {one.host} and {other.host}"
                for number, one, other in zip(numbers, first, second, strict=True)
                if (one.size, one.checksum) != (other.size, other.checksum)
            ]
        job_list.remove(again.path)
        if any(one.host == other.host for one, other in zip(first, second, strict=True)):
            raise Failed(
                "--verify compares results of different instances, and only one could be used; "
                f"{self.resuming.line('to go on without it')}"
            )
        if differ:
            self.shown.say(*differ[:GROUPS_TOLD])
            raise Failed(
                f"{len(differ)} of {count} tasks that were run twice gave different results: the command is not "
                f"idempotent; {self.resuming.line('to go on all the same')}"
            )
        self.shown.say(f"{count} tasks were run twice, on different instances, with the same results")

    def _driver(
        self,
        job: Job,
        items: Sequence[bytes],
        numbers: Sequence[int],
        on_result: Callable[[int, Result | None], None] | None = None,
        avoid: Mapping[int, str] | None = None,
        find: Callable[[], Sequence[instances.Instance]] | None = None,
        intake: Intake | None = None,
    ) -> Driver:
        return Driver(
            job,
            self.command,
            items,
            numbers,
            self.selected,
            self.settings,
            self.shown,
            on_result,
            halt=self.halt,
            fail_fast=self.fail_fast,
            backup=self.backup,
            workdir=self.workdir,
            avoid=avoid,
            find=find,
            load=self.load,
            expect=self.expect,
            intake=intake,
            locality=self.locality,
            moves=self.moves,
            detach=self.detach,
            options=None if self.detach is Detach.NO else self.options.kept(self.numbers, self.selected),
        )

    def _drive(self, driver: Driver | engine_dask.DaskDriver) -> Outcome:
        def run() -> Outcome:
            try:
                return driver.run()
            finally:
                self.has_started |= driver.outcome.attempts > 0

        try:
            return self._resumable(run)
        finally:
            totals = [] if driver.outcome.detached else [summary(driver.outcome, len(driver.arguments))]
            self.shown.say(*self.load.notes(), *totals)

    def _resumable(self, work: Callable[[], Value]) -> Value:
        """Call `work`; add the line that resumes the job to an error, if the job can be resumed."""
        try:
            return work()
        except HardwayError as error:
            goes_on = not isinstance(error, UsageError) or self.has_started
            told = "--resume" in str(error) or "mapreduce.wait" in str(error)
            if str(error) and not told and goes_on:  # nothing for a reader who has gone
                error.message = f"{error.message}; {self.resuming.line()}"
            raise

    def _look_back(self) -> None:
        """Report an earlier run's results, and forget those that can't be read back or whose objects are gone."""
        job, history, say = self.job, self.job.history, self.shown.say
        if not history.attempts:
            return
        broken = [task for task, result in history.results.items() if not job.intact(task, result)]
        for task in broken:
            del history.results[task]
        if broken:
            say(f"{count(len(broken), 'result')} of job {job.asked.name} damaged on disk: run again")
        if self.expect:
            tasks = zip(self.items, self.numbers, strict=True)
            done = [(item, task) for item, task in tasks if task in history.results]
            looked = [(item, job.pieces(task, history.results[task])) for item, task in done]
            missing = self.expect.missing_of(looked)
            gone = [task for (_, task), url in zip(done, missing, strict=True) if url]
            for task in gone:
                del history.results[task]
            if gone:
                url = printable(next(filter(None, missing)))
                say(f"{count(len(gone), 'result')} run again: an object is missing, such as {url}")
        # A person who waits for a job wants its results, and no others.
        resumes = not self.engine and self.detach is not Detach.WAIT
        lost = origins.gone_results(self.settings, job.path, history, self.numbers, self._here) if resumes else {}
        for task in lost:
            job.void(task)
        if lost:
            ids = _in_short(sorted({*chain.from_iterable(lost.values())}))
            say(f"{count(len(lost), 'result')} to be made again: the data went with {ids}, gone according to EC2")
        say(f"resuming job {job.asked.name}: {count(len(history.results), 'result')} there")

    @property
    def _here(self) -> set[str]:
        return {instance.id for instance in self.selected}

    def _find_moves(self) -> Moves:
        """Find the objects that tasks read and that aren't where the arguments say, since they were made again."""
        done = self.job.history.results
        left = (item for item, task in zip(self.items, self.numbers, strict=True) if task not in done)
        wanted = {url for item in left for url in urls_in(item)}
        moves = {} if self.engine else origins.moves(self.settings, wanted, self._here)
        if moves:
            self.shown.say(f"{count(len(moves), 'object')} made again elsewhere: tasks read from there")
        return moves

    def _check(self, outcome: Outcome, items: list[bytes], numbers: list[int], job: Job) -> None:
        """Raise Failed, with the failures explained, if a task of a sample failed."""
        if outcome.failed:
            self._say_failures(job, items, numbers, outcome.failed)
            raise Failed(self._why(outcome, numbers, outcome.failed))

    def _say_failures(
        self, job: Job, items: Sequence[bytes], numbers: Sequence[int], failed: Mapping[int, Result]
    ) -> None:
        self.shown.say(*failures(self.settings, job, self.command, items, numbers, failed))

    def _why(self, outcome: Outcome, numbers: Sequence[int], failed: Mapping[int, Result]) -> str:
        """Return text with the reason that results are missing, and the next step."""
        left = f"; {outcome.left} not finished" if outcome.left else ""
        what = f"task {numbers[next(iter(failed))]}" if len(failed) == 1 else f"{len(failed)} tasks"
        line = self.resuming.line("Fix it, then", where=False)
        if any(result.flags & DATA_GONE for result in failed.values()):
            return f"{what} failed, as data is gone{left}. To make it again and go on: {self.resuming.again}"
        if outcome.hopeless:
            hosts = len({failed[position].host for position in failed})
            return (
                f"stopped, as {len(failed)} tasks failed alike on {count(hosts, 'instance')} and none has "
                f"succeeded{left}; --no-fail-fast tries all. {line}"
            )
        if outcome.left:
            return f"stopped after {what} failed{left}. {line}"
        told = f"mapreduce.results {self.job.asked.name} --failed prints the failed arguments"
        return f"{what} failed, {outcome.done} of {len(numbers)} are done; {told}. {line}"


def longest_first(keys: Sequence[bytes], durations: Mapping[bytes, float]) -> Sequence[int]:
    """Return the positions of the keys, longest earlier duration first; a key without one counts as average.

    The longest task last would leave all slots but one idle (Graham, Bounds on Multiprocessing Timing Anomalies, 1969).
    """
    known = [durations[key] for key in keys if key in durations]
    if not known:
        return range(len(keys))
    average = sum(known) / len(known)
    return sorted(range(len(keys)), key=lambda position: -durations.get(keys[position], average))


class _Resuming:
    """The command that resumes a job on the same engine; it is kept in the job's directory, too."""

    def __init__(
        self, job: Job, command: str, arguments: Arguments | Stream, engine: str, flags: Sequence[str]
    ) -> None:
        asked = job.asked
        self.again = command_line("mapreduce.again", asked.name)
        if isinstance(arguments, Arguments) and arguments.goes_on:
            self._line, self._where_to, self.again = arguments.goes_on, "", arguments.goes_on
            return
        source, needs = arguments.source, ""
        if isinstance(arguments, Stream):
            needs = f", with the same arguments {'on stdin' if source == '-' else 'for ARGS'}"
        elif source in ("-", "ARGS"):
            # A flag can name neither a pipe's data nor a long text.
            data, null = arguments.kept("--null" in flags)
            if data:
                source = f"@{job.leave(ARGUMENTS + hashlib.blake2b(data, digest_size=16).hexdigest(), data)}"
                flags = [flag for flag in flags if flag != "--crlf"]  # the stored arguments are without CR
                flags = [*flags, "--null"] if null and "--null" not in flags else flags
            else:
                needs = ", with the same arguments for ARGS"
        where = ["--engine", engine] if engine else []
        selector = "-" if engine else asked.selector
        words = ["mapreduce.pmap", selector, source, command, *where, *flags, "--resume", asked.name]
        self._line = command_line(*words)
        self._where_to = ("" if engine else ", on these or other instances") + needs
        text = f"cd {shlex.quote(current_directory())} && {self._line}\n" if current_directory() else f"{self._line}\n"
        job.leave("resume", text.encode("utf-8", "surrogateescape"))

    def line(self, what: str = "to go on", where: bool = True) -> str:
        """Return the command line after its purpose, `what`; with `where`, also name the instances it may run on."""
        return f"{what}{self._where_to if where else ''}: {self._line}"


def _in_short(ids: Sequence[str]) -> str:
    return ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")


class _Waiting:
    """The command that comes back to a detached job."""

    def __init__(self, job: Job) -> None:
        self._line = command_line("mapreduce.wait", job.asked.name)
        self.again = command_line("mapreduce.again", job.asked.name)

    def line(self, what: str = "to go on", where: bool = True) -> str:
        """Return the command line after its purpose, `what`; see `_Resuming.line`."""
        return f"{what}: {self._line}"


def summary(outcome: Outcome, tasks: int) -> str:
    """Return the totals of a run in one line, without those that are zero."""
    share = outcome.busy / outcome.slot_seconds if outcome.slot_seconds else 0.0
    parts = [
        f"{outcome.done} of {count(tasks, 'task')} done",
        outcome.failed and f"{len(outcome.failed)} failed",
        outcome.attempts and count(outcome.attempts, "attempt"),
        outcome.retries and (f"{outcome.retries} retries" if outcome.retries > 1 else "1 retry"),
        outcome.backups and count(outcome.backups, "backup"),
        outcome.lost and f"{count(outcome.lost, 'instance')} lost",
        duration(outcome.seconds, 2),
        share and f"{min(share, 1):.0%} busy",
        paid(outcome.cost, outcome.unpriced),
    ]
    return ", ".join(str(part) for part in parts if part)


def failures(
    settings: Settings,
    job: Job,
    command: str,
    items: Sequence[bytes],
    numbers: Sequence[int],
    failed: Mapping[int, Result],
) -> Iterable[str]:
    """Return lines on failed tasks, grouped by their end and last line of stderr, most frequent first."""
    said = {
        position: end_and_complaint(job.outputs, numbers[position], result, settings.mapreduce.timeout)
        for position, result in failed.items()
    }
    groups = Counter(said.values())
    for how, times in groups.most_common(GROUPS_TOLD):
        position = next(position for position, group in said.items() if group == how)
        yield f"{count(times, 'task')} failed, {printable(how)}"
        yield from _by_hand(settings, job, command, items[position], numbers[position], failed[position])
    if len(groups) > GROUPS_TOLD:
        yield f"and in {len(groups) - GROUPS_TOLD} other ways"


def _by_hand(settings: Settings, job: Job, command: str, item: bytes, number: int, result: Result) -> Iterable[str]:
    """Yield the place of one failed task's whole log, and the line that runs the task again."""
    try:
        said = b"".join(job.pieces(number, result, "stderr"))
    except Failed as error:
        said = f"{error}\n".encode()
    log, stdin = job.leave(f"failed/{number}.stderr", said), job.leave(f"failed/{number}.stdin", item)
    yield f"  such as task {number} on {printable(result.host)}: {log}"
    if not result.host.startswith("i-"):
        return  # a worker of Dask's that is no instance we know
    by_hand = ["ec2.ssh", result.host, "--yes", "--command", command, "--stdin", str(stdin)]
    yield f"  by hand: {settings.command(*by_hand)}"
