"""Make data again that went with instances, and go on with the jobs that need it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from invoke import Context

from hardway import config
from hardway.cli.task import Lines, act, say, task
from hardway.errors import HardwayError

from .flags import SELECTOR, read
from .lazy import again as planning
from .lazy import instances, job_paths
from .mapreduce_pmap import pmap

if TYPE_CHECKING:
    from hardway.pmap.again import Step
    from hardway.pmap.results import Results


@task(
    changes=Lines,
    autoprint=True,
    positional=["job"],
    help={
        "job": "the job's name, or a glob for the newest job that it matches",
        "selector": f"{SELECTOR}; without it those of each job that are left",
    },
)
def again(c: Context, job: str, selector: str | Iterable[str] = "", region: str | None = None) -> Results:
    """Make the data again that a job lacks, and go on with it.

    Objects of the store are on the instance that made them, and go with it. The tasks that made what the job needs run
    again, of earlier jobs, too, and no others. Then the job goes on, and its results are printed.

    Examples:
      inv mapreduce.again sizes
      inv mapreduce.again sizes --selector 'web batch'
    """
    path = job_paths.newest(job)
    settings = config.settings(c, region or planning.region_of(path))
    *makers, last = planning.plan(settings, path, instances.text_of(selector))
    plan = [f"make again {step.described}" for step in makers]
    act(f"go on with {last.described}", plan)
    try:
        for step in makers:
            say(f"making again {step.described}")
            _run_step(c, step)
    except HardwayError as error:
        error.result = None  # it is of another job
        raise
    return _run_step(c, last)


def _run_step(c: Context, step: Step) -> Results:
    found: Results = pmap(
        c, step.selector, step.arguments, step.command, resume=step.job, **{"region": step.region, **read(step.flags)}
    )
    return found
