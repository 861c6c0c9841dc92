"""Looking at pmap's jobs on this machine, and deleting them; part of `mapreduce`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from invoke import Context

from hardway.cli.task import Lines, act, confirm, nothing, say, task
from hardway.errors import Failed, HardwayError, UsageError
from hardway.tables import count
from hardway.terminal import printable

from .ec2_shared import connection_settings
from .flags import JSON, YES
from .lazy import job_list, job_logs, job_paths, job_results
from .lazy import report as reports

if TYPE_CHECKING:
    from hardway.pmap.job_list import Jobs
    from hardway.pmap.results import Results

JOB = "the job's name, or a glob for the newest job that it matches; the newest of all if it is left out"


@task(autoprint=True, help={"json": JSON})
def jobs(c: Context, json: bool = False) -> Jobs | str:
    """List pmap's jobs.

    The oldest comes first. Columns: name, --name, state, tasks done and failed, age, duration, instances, cost, size on
    this machine's disk, command.

    Examples:
      inv mapreduce.jobs
      inv mapreduce.jobs --json
    """
    found = job_list.Jobs(map(job_list.describe, job_paths.each_job()))
    say(*(f"job {printable(one['name'])} is damaged: {one['damage']}" for one in found if one["damage"]))
    if not found:
        say("no jobs on this machine yet")
    return found.json() if json else found


@task(
    autoprint=True,
    positional=["job"],
    help={
        "job": JOB,
        "failed": "the arguments of the tasks that failed, in place of results: the next job's arguments",
        "arguments": "the arguments of all tasks, in place of results",
        "json": JSON,
    },
)
def results(
    c: Context, job: str = "", failed: bool = False, arguments: bool = False, json: bool = False
) -> Results | str:
    """Print a job's results again, in the arguments' order.

    A task without a result has an empty line, and the exit code is 1 then.

    Examples:
      inv mapreduce.results sizes
      inv mapreduce.results sizes --failed
      inv mapreduce.results --json
    """
    if failed + arguments + json > 1:
        raise UsageError("--failed, --arguments and --json exclude each other")
    found = job_results.JobResults(job_paths.newest(chosen(job)))
    if json:
        return found.as_json()
    return found.arguments(failed) if failed or arguments else found.results()


@task(
    autoprint=True,
    positional=["job", "task"],
    help={
        "job": JOB,
        "task": "the task's number; all tasks that run if it is left out",
        "follow": "go on until the job has left the instances",
    },
)
def logs(
    c: Context,
    job: str = "",
    task: str = "",
    follow: bool = False,
    region: str | None = None,
) -> Results | Lines:
    """Print what tasks write to stderr, also while they run.

    Read the stderr of running tasks from their instances, at most the first MiB of each. Begin each line with the
    instance and the task. With a task's number, print this task's stderr alone, also after its end.

    Examples:
      inv mapreduce.logs
      inv mapreduce.logs sizes 7
      inv mapreduce.logs sizes --follow
    """
    found = job_logs.JobLogs(job_paths.newest(chosen(job)), task)
    if ended := found.ended():
        return ended
    settings = connection_settings(c, region or found.asked.region, real_s3=True)
    if not found.show(settings, follow):
        say(f"no task of job {printable(found.asked.name)} runs; with a task's number its stderr is printed")
    return Lines()


@task(
    changes=nothing,
    positional=["job"],
    help={
        "job": "names with white space between them, globs allowed; with --older-than all jobs if left out",
        "older-than": "of these, only finished jobs without any work for this long: 7d, 12h",
        "yes": YES,
    },
)
def rm(c: Context, job: str | Iterable[str] = "", older_than: str | None = None, yes: bool = False) -> None:
    """Delete jobs with all their results from this machine.

    With --older-than, running and unfinished jobs stay: to delete one, name it. The setting mapreduce.keep_days does
    the same whenever a job begins.

    Examples:
      inv mapreduce.rm sizes --yes
      inv mapreduce.rm --older-than 7d
    """
    if not job and older_than is None:
        raise UsageError("which jobs? Give their names, or --older-than")
    found = job_paths.find(job) if job else job_paths.all_jobs()
    if older_than is not None:
        found, unfinished = job_list.prunable(found, job_list.parse_age(older_than))
        if unfinished:
            say(f"{count(len(unfinished), 'unfinished job')} kept, name them to delete them: {' '.join(unfinished)}")
        if not found:
            say(f"no finished job is older than {older_than}")
            return
    confirm(f"delete {count(len(found), 'job')}?", str(job_list.Jobs(map(job_list.describe, found))).splitlines(), yes)
    kept = []
    for path in found:
        try:
            job_list.remove(path)
        except HardwayError as error:
            kept.append(str(error))
    if kept:
        raise Failed(f"{len(kept)} of {count(len(found), 'job')} are still there: {'; '.join(kept)}")


@task(
    changes=str,
    autoprint=True,
    positional=["job"],
    help={"job": JOB, "to": "the file to write; else JOB.html in the current directory"},
)
def report(c: Context, job: str = "", to: str | None = None) -> str:
    """Write an HTML page about a job.

    Print the path of the page, one file for a browser.

    It has a timeline with a lane for each slot, durations, stragglers, failures, instances, and advice.

    Examples:
      inv mapreduce.report
      inv mapreduce.report sizes --to sizes.html
    """
    job = chosen(job)
    act(f"write a page about {job}")
    return str(reports.write(job, to or ""))


@task(autoprint=True, positional=["job"], help={"job": JOB})
def explain(c: Context, job: str = "") -> str:
    """Print where a job's time and money went.

    Print a screen of text, which also says what would have helped.

    Examples:
      inv mapreduce.explain
      inv mapreduce.explain sizes
    """
    return reports.text(chosen(job))


def chosen(job: str) -> str:
    """Return the job's name; if none is given, say which job is the newest, and return its name."""
    if job:
        return job
    newest = job_paths.last().name
    say(f"the newest job: {newest}")
    return newest
