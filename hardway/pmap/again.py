"""Makes data of the store again that went with instances, and goes on with the job that needs it.

An object of the store has no copy: it is on the instance that made it. When this instance is gone, the task that made
the object runs again elsewhere, and nothing else does.

**The name of an object stays.** The new object has the old key, on another instance. The URL in an argument of the next
job therefore names an object that is no longer there. It remains the object's name: arguments are never rewritten, so
that a task keeps its number, its key in the job's directory, and its result. At the start of each run pmap looks for
the objects that its unfinished tasks read and whose instance is gone. It finds the task that made an object (see
`origins`), takes the same key from the present result of this task, and sends the argument with the instance where the
object is now. Nothing about this is stored: the journals of the jobs are the only truth, so that a driver may be
killed at any time. The key of an object must depend on the task alone, on its argument or its number. If the present
result lacks the key, the plan fails.

**A result that names a gone instance is void.** `pmap --resume` writes so into the journal, before the task starts
again. The old result is kept there, and in the outputs: it says which objects the task made. From then on the job is
unfinished until the task has a new result.

**The plan** begins with the unfinished tasks of one job. A task needs the objects in its argument. An object whose
instance is gone needs the task that made it, in an earlier job, and so on, down to arguments that name nothing gone.
Jobs are then run in order, each with the tasks that are needed of it and no others. A task is planned once, and the
number of tasks is limited, so planning ends. Jobs that need each other are refused. Each job runs once. An instance
that lies may make results that name gone instances anew. The next job then fails for them, and nothing repeats.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from hardway.config import Settings
from hardway.errors import Failed, UsageError
from hardway.pmap import origins
from hardway.pmap.arguments import Arguments
from hardway.pmap.intake import known_arguments
from hardway.pmap.job import Asked, content_of, read_asked, read_journal, read_keys
from hardway.pmap.journal import History
from hardway.pmap.locality import StoreUrl, urls_in
from hardway.pmap.losses import data_gone_with, gone_among
from hardway.system.paths import current_directory
from hardway.tables import count
from hardway.terminal import printable

_ID = re.compile(r"(?<![^\s,])i-[0-9a-f]{8}(?:[0-9a-f]{9})?(?![^\s,])")
_NEVER = ("detach",)  # flags for a run whose end nobody waits for
_ASIDE = (*_NEVER, "notify", "results", "verify")  # flags for the job as a whole, not for some of its tasks
_PATHS = ("--files=", "--depends=", "--results=")


@dataclass
class _NeededJob:
    """A job, and the tasks that are needed of it."""

    path: Path
    asked: Asked
    history: History
    arguments: Sequence[bytes]
    tasks: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Step:
    """A job that is to be run again, with these arguments; the flags are those that a person gave it."""

    job: str
    command: str
    selector: str
    region: str
    arguments: Arguments
    flags: Sequence[str]
    tasks: int

    @property
    def described(self) -> str:
        """The step in words."""
        return f"{count(self.tasks, 'task')} of job {printable(self.job)}"


def region_of(path: Path) -> str:
    """Return the region in which a job ran; empty if it isn't known."""
    return read_asked(path).region


def plan(settings: Settings, path: Path, selector: str) -> list[Step]:
    """Return the steps that complete a job, the job itself last; earlier ones make again what its tasks read.

    They run on the instances of `selector`, or, if it is empty, on those of each job that are left. Raises Failed if
    data can't be made again, and UsageError if a job can't be run from here.
    """
    target = _read(path)
    target.tasks |= _unfinished(settings, target)
    jobs = {path: target}
    edges: dict[Path, set[Path]] = {path: set()}
    todo = [(target, {*target.tasks})]
    while todo:
        job, tasks = todo.pop()
        needed: dict[Path, set[int]] = {}
        for origin in _gone_origins(settings, job, tasks):
            needed.setdefault(origin.job, set()).add(origin.task)
        edges[job.path] |= needed.keys()
        for maker_path, wanted in needed.items():
            maker = jobs[maker_path] = jobs.get(maker_path) or _read(maker_path)
            edges.setdefault(maker_path, set())
            if new := wanted - maker.tasks:
                maker.tasks |= new
                todo.append((maker, new))
    try:
        order = [*TopologicalSorter(edges).static_order()]
    except CycleError as error:
        names = " -> ".join(printable(each.name) for each in reversed(error.args[1]))
        raise Failed(f"jobs need each other's data, which is gone: {names}; begin a new job with the first") from None
    line = settings.command("mapreduce.again", path.name, *(["--selector", selector] if selector else []))
    return [_step(settings, jobs[each], selector, each == path, line) for each in order]


def _read(path: Path) -> _NeededJob:
    asked = read_asked(path)
    _, history = read_journal(path, asked)
    known = known_arguments(path, read_keys(path, history), history)
    if len(known) < history.tasks:
        raise Failed(
            f"argument {len(known) + 1} of job {printable(path.name)} is not in its directory, so its tasks can't be "
            "run from there: give the arguments to mapreduce.pmap --resume"
        )
    return _NeededJob(path, asked, history, known)


def _unfinished(settings: Settings, job: _NeededJob) -> set[int]:
    """Return the tasks of a job that have no result, or one that names a gone instance."""
    with_result = job.history.results
    gone = origins.gone_results(settings, job.path, job.history, with_result, ())
    return {task for task in range(1, job.history.tasks + 1) if task not in with_result or task in gone}


def _gone_origins(settings: Settings, job: _NeededJob, tasks: Iterable[int]) -> list[origins.Origin]:
    """Return the origins of the objects that these tasks read and that are nowhere now. Raises Failed."""
    wanted = {url: task for task in tasks for url in urls_in(job.arguments[task - 1])}
    gone = data_gone_with(settings, {url.instance for url in wanted})
    lost = {url: task for url, task in wanted.items() if url.instance in gone}
    found = origins.find(lost)
    now_gone = data_gone_with(settings, {instance for origin in found.values() for instance in origin.names or ()})
    for url, task in lost.items():
        _check(job, task, url, found.get(url), now_gone)
    return [origin for origin in found.values() if not origin.now or origin.now.instance in now_gone]


def _check(job: _NeededJob, task: int, url: StoreUrl, origin: origins.Origin | None, gone: frozenset[str]) -> None:
    """Raise Failed if an object can't be made again."""
    needs = f"task {task} of job {printable(job.path.name)} needs {printable(str(url))}"
    if origin is None:
        raise Failed(f"{needs}, whose instance is gone, and no job on this machine made it: nothing was started")
    if origin.names is not None and not origin.now and not origin.names & gone:
        raise Failed(
            f"{needs}, and task {origin.task} of job {printable(origin.job.name)}, which made it, has written other "
            "names since: a key must depend on the task alone"
        )


def _step(settings: Settings, job: _NeededJob, selector: str, is_last: bool, goes_on: str) -> Step:
    """Return the step for a job: all of its tasks if it is the last, else those that are needed. Raises UsageError."""
    asked = job.asked
    source, flags = _flags(job.path)
    if is_last and source in ("-", "ARGS"):
        raise UsageError(
            f"job {printable(asked.name)} had not read all its arguments, which came from a pipe: --resume it with its "
            "producer, after mapreduce.again for the job that made its data"
        )
    aside = _NEVER if is_last else _ASIDE
    flags = [flag for flag in flags if flag[2:].partition("=")[0] not in aside]
    if asked.cwd != current_directory() and any(flag.startswith(_PATHS) for flag in flags):
        raise UsageError(f"job {printable(asked.name)} has files: run this in {printable(asked.cwd)}")
    wanted = {job.arguments[task - 1] for task in job.tasks}
    # Each of several equal arguments is a task: the first before it tells the second.
    items = [item for item in job.arguments if is_last or item in wanted]
    given = Arguments(items, source=source, batch=asked.batch, goes_on=goes_on)
    on = selector or _left(settings, asked)
    return Step(asked.name, asked.command, on, asked.region, given, flags, len(job.tasks))


def _flags(path: Path) -> tuple[str, list[str]]:
    """Return ARGS and the flags in the line that resumes a job. Raises Failed."""
    line = content_of(path / "resume").decode(errors="surrogateescape")
    try:
        words = shlex.split(line)
        _, source, _, *flags = words[words.index("mapreduce.pmap") + 1 :]
        end = flags.index("--resume")
    except ValueError:
        raise Failed(f"{printable(str(path / 'resume'))} is not what was written: --resume the job by hand") from None
    if "--engine" in flags[:end]:
        raise UsageError(f"job {printable(path.name)} ran on another engine: --resume it by hand")
    return source, flags[:end]


def _left(settings: Settings, asked: Asked) -> str:
    """Return a job's selector without the instances that are gone. Raises UsageError if none is left."""
    gone = gone_among(settings, _ID.findall(asked.selector))
    left = _ID.sub(lambda found: "" if found[0] in gone else found[0], asked.selector).strip(" ,\n\t")
    if not left:
        raise UsageError(f"no instance of job {printable(asked.name)} is left: name others by --selector")
    return left
