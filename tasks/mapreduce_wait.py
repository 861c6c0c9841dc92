"""Coming back to a job of pmap that was detached; part of `mapreduce`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from invoke import Context

from hardway import config
from hardway.cli.task import Lines, act, say, task
from hardway.errors import Failed
from hardway.tables import count

from .lazy import detach, instances, job_list, job_paths, proxy, run
from .mapreduce_jobs import JOB, chosen

if TYPE_CHECKING:
    from hardway.ec2.instances import Instance
    from hardway.pmap.results import Results


@task(
    changes=Lines,
    autoprint=True,
    positional=["job"],
    help={"job": JOB, "progress": "show the progress on stderr"},
)
def wait(c: Context, job: str = "", progress: bool = True, region: str | None = None) -> Results:
    """Wait for a detached job, and print its results.

    Tasks that failed, or whose instance is gone, run on the job's other instances. The results and the exit code are
    those of mapreduce.pmap. After Ctrl-C the instances work on, and the job can be waited for again.

    Examples:
      inv mapreduce.wait "$(inv mapreduce.pmap web @urls.txt 'wc -c' --job counts --detach)"
      inv mapreduce.wait counts
    """
    left = detach.read_left(job_paths.newest(chosen(job)))
    region = region or left.asked.region or None
    read = config.settings(c, region, real_s3=left.flags.pop("real_s3"))
    settings = dataclasses.replace(read, mapreduce=left.settings)
    proxy.check(settings)

    def before(there: Sequence[Instance]) -> None:
        if left.hosts and not there:
            line = job_list.resume_line(left.asked.name)
            raise Failed(f"none of the job's instances runs any more; to go on, on other instances: {line}")
        act(f"wait for job {left.asked.name} on these", instances.Instances(there).brief())
        if gone := len(left.hosts) - len(there):
            say(f"{count(gone, 'instance')} of the job {'is' if gone == 1 else 'are'} gone: the tasks there run again")

    return run.pmap(
        settings,
        left.hosts,
        left.arguments,
        left.asked.command,
        resume=left.asked.name,
        progress=progress,
        detach=detach.Detach.WAIT,
        before=before,
        **left.flags,
    )
