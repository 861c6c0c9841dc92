"""Map a command over arguments on instances."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from invoke import Context

from hardway import config
from hardway.cli.task import Lines, act, print_as_it_comes, say, task
from hardway.errors import UsageError

from .flags import SELECTOR, written
from .lazy import arguments, instances, proxy, run
from .lazy import detach as detached
from .lazy import stream as streams

if TYPE_CHECKING:
    from hardway.ec2.instances import Instance
    from hardway.pmap.results import Results
    from hardway.pmap.stream import TaskResult


@task(
    changes=Lines,
    autoprint=True,
    optional=["resume"],
    iterable=["depends", "files"],
    help={
        "selector": SELECTOR,
        "args": "text with one argument a line, @file, or - for stdin; empty lines are left out",
        "command": "a bash command; it reads its argument, a line, on stdin, and its stdout is the result",
        "files": "files, directories and globs to send into each task's directory, with commas; repeatable",
        "batch": "arguments for one run of the command, each a line on its stdin, for a command whose start takes long",
        "keep-going": "when a task has failed for good, finish the others, and print their results",
        "halt": "start nothing more after this many failed tasks, or this share of all: 3, 5% (default: 1)",
        "fail-fast": "stop when the first tasks all fail alike; retry no task that does so on three instances",
        "backup": "run the slowest tasks a second time when instances stand idle",
        "locality": "run a task where most of the store's objects are that it reads, if a slot is free there",
        "results": "write stdout, stderr, exit code and times to this directory of the job's own; print stdouts' paths",
        "job": "a name for the job, unlike all others; else one is made from the time",
        "name": "a label for the job in mapreduce.jobs; several jobs may have the same",
        "resume": "run only tasks without a result in this job, or in the newest one of this command",
        "null": "arguments end in NUL, not newline, and are read exactly as they are",
        "crlf": "arguments are from Windows: leave out CR at line ends and a byte order mark, make UTF-16 UTF-8",
        "progress": "show the progress on stderr",
        "expect": "the object a task leaves, s3://bucket/key with {} for its argument; or results: the URLs it prints",
        "notify": "a bash command to run here when the job is done or has failed; HARDWAY_STATE tells which",
        "depends": "a file that the instances have, too; theirs must be the same, and a change makes another job",
        "workdir": "where a task runs: home, or scratch, a directory of its own (the default with --files)",
        "verify": "first run this number of tasks twice, on different instances, and compare the results",
        "join": "let new instances take part that match the selector later",
        "engine": "address of a Dask scheduler, dask://HOST:PORT, whose workers run the tasks; SELECTOR is then -",
        "detach": "leave when the instances have all tasks, and print the job's name, for mapreduce.wait",
        "real-s3": "from a shell with the S3 stub, let `aws` on the instances reach the real S3",
    },
)
def pmap(
    c: Context,
    selector: str | Iterable[str],
    args: str | Iterable[str | bytes],
    command: str,
    files: str | Iterable[str] | None = None,
    batch: int | str | None = None,
    slots: int | str | None = None,
    retries: int | str | None = None,
    retry_sleep: float | str | None = None,
    timeout: float | str | None = None,
    memory: str | None = None,
    keep_going: bool = False,
    halt: str | int | None = None,
    fail_fast: bool = True,
    backup: bool = True,
    locality: bool = True,
    results: str | None = None,
    job: str | None = None,
    name: str | None = None,
    resume: str | bool | None = None,
    null: bool = False,
    crlf: bool = False,
    progress: bool = True,
    expect: str = "",
    notify: str = "",
    depends: str | Iterable[str] | None = None,
    workdir: str = "",
    verify: int | str = 0,
    join: bool = False,
    engine: str = "",
    reconnect: float | str | None = None,
    linger: float | str | None = None,
    detach: bool = False,
    real_s3: bool = False,
    region: str | None = None,
) -> Results:
    """Run a command for each argument, on instances.

    Print each command's stdout, in the order of the arguments.

    A task runs in the login user's home, with HARDWAY_TASK, HARDWAY_ATTEMPT, HARDWAY_WORKER and HARDWAY_INSTANCE_ID
    in its environment. It may run more than once, so the command must be idempotent.

    With --detach the instances work on by themselves, and mapreduce.wait comes back for the results. The job's name is
    printed in place of results.

    With --files a task runs in a directory of its own, HARDWAY_FILES, that holds the files and is emptied afterwards.
    A file below the current directory keeps its relative path. Any other file lands under its last name.

    Examples:
      inv mapreduce.pmap web @urls.txt 'bash step1.sh' --files step1.sh
      printf 'a b\\0c\\0' | inv mapreduce.pmap web - 'wc -w' -0
      inv mapreduce.pmap 'web batch' @urls.txt 'wc -c' --slots 2 --retries 3 -k --job sizes
    """
    mapreduce = {
        "slots": slots,
        "retries": retries,
        "retry_sleep": retry_sleep,
        "timeout": timeout,
        "memory": memory,
        "reconnect": reconnect,
        "linger": linger,
    }
    wanted, sent = _several(depends), _several(files)
    typed = {
        **mapreduce,
        "batch": batch,
        "keep_going": keep_going,
        "halt": halt,
        "no_fail_fast": not fail_fast,
        "no_backup": not backup,
        "no_locality": not locality,
        "depends": wanted,
        "verify": verify or None,
        "join": join,
        "name": name,
        "results": results,
        "no_progress": not progress,
        "null": null,
        "crlf": crlf,
        "region": region,
        "real_s3": real_s3,
        "files": sent,
        "workdir": workdir or None,
        "expect": expect or None,
        "notify": notify or None,
        "detach": detach,
    }
    if detach and linger is None:
        mapreduce["linger"] = detached.LINGER
    settings = config.settings(c, region, mapreduce=mapreduce, real_s3=real_s3)
    proxy.check(settings)
    given = arguments.given(args, null, crlf)
    if batch is not None:
        given = arguments.batched(given, config.number(batch, int, "--batch", least=1), null)
    given.warn(say)
    if hint := arguments.hint_of_command(command):
        say(hint)

    def before(chosen: Sequence[Instance]) -> None:
        what = f"run {command!r} for {given.described} on {engine or 'these'}"
        act(what, instances.Instances(chosen).brief())

    found = run.pmap(
        settings,
        selector,
        given,
        command,
        keep_going=keep_going,
        halt="" if halt is None else str(halt),
        fail_fast=fail_fast,
        backup=backup,
        locality=locality,
        workdir=workdir,
        job=job or "",
        label=name or "",
        resume=resume or False,
        depends=wanted,
        verify=config.number(verify, int, "--verify"),
        join=join,
        results=results,
        progress=progress,
        engine=engine,
        send=sent,
        expect=expect,
        notify=notify,
        flags=written(typed),
        detach=detached.Detach.DEAL if detach else detached.Detach.NO,
        before=before,
        publish=print_as_it_comes,
    )
    if detach and len(found):
        say(detached.farewell(str(found), settings.mapreduce.linger))
    return found


def stream(
    c: Context,
    selector: str | Iterable[str],
    args: str | Iterable[str | bytes],
    command: str,
    ordered: bool = True,
    null: bool = False,
    crlf: bool = False,
    **flags: Any,
) -> Iterator[TaskResult]:
    """Run a command for each argument as `pmap` does; yield each result as soon as it is there.

    `args` may be an iterator without an end: tasks start with its first item, and it is read only as fast as results
    are taken. Results come in the order of the arguments, or as they come without `ordered`; each is a text with its
    `task` and `argument`. `flags` are those of `pmap`. An early end of the loop ends the job.

    Raises what `pmap` raises, after the last result, and errors of the iterator.
    """
    if whole := [name for name in ("results", "verify", "engine", "detach") if flags.get(name)]:
        raise UsageError(f"stream takes no {whole[0]}: it is for jobs that know all their arguments; use pmap")
    given = arguments.stream(args, null, crlf, ordered)
    return streams.in_background(lambda: pmap(c, selector, given, command, null=null, crlf=crlf, **flags), given)


def _several(given: str | Iterable[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else [str(each) for each in given or ()]
