"""The page of `status`: all that runs and all that is left over, here and at AWS."""

from __future__ import annotations

import json as json_module
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from invoke import Context

from hardway import config
from hardway.cli.task import say, task
from hardway.errors import HardwayError, NothingMatched
from hardway.tables import count, duration
from hardway.terminal import command_line

from .flags import JSON
from .lazy import costs, daemon, everywhere, instances, job_list, orphans, stub_sessions

if TYPE_CHECKING:
    from hardway.money.costs import Bill

_AWS_SECONDS = 1.2  # the whole command is to take less than two
_MOST = 10  # jobs, and sessions, that are shown


@dataclass
class Status:
    """The page. `unanswered` has a line for each reason for which AWS has told nothing about `silent` regions."""

    bill: Bill
    regions: int = 0
    silent: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    launches: list[str] = field(default_factory=list)
    jobs: list[dict[str, Any]] = field(default_factory=list)
    older_jobs: int = 0
    local_cloud: dict[str, Any] = field(default_factory=dict)
    stub_sessions: list[dict[str, Any]] = field(default_factory=list)

    def __str__(self) -> str:
        return "\n".join([*self._instances(), *self._jobs(), *self._others()])

    def _instances(self) -> Iterator[str]:
        bill, asked = self.bill, count(self.regions, "region")
        where = asked if not self.silent else f"{self.regions - len(self.silent)} of {asked}"
        if bill:
            yield f"instances: {len(bill)} in {where}, {bill.usd_per_hour} per hour now, {bill.usd} so far"
            import shutil  # at its first use: --list and --help do without

            yield from _indented(bill.on_terminal(shutil.get_terminal_size().columns - 2).splitlines())
        elif self.regions > len(self.silent):
            yield f"instances: none in {where}"
        yield from self.unanswered
        if self.launches:
            yield "launches that never ended:"
            yield from _indented(self.launches)

    def _jobs(self) -> Iterator[str]:
        if not self.jobs:
            yield "jobs: all finished"
            return
        yield "jobs that are not finished:"
        jobs = job_list.Jobs(self.jobs)
        rows = jobs.lines(
            *("name", "state"),
            lambda job: f"{job['done']}/{job['tasks']} done",
            lambda job: f"{job['failed']} failed" if job["failed"] else "",
            lambda job: f"{duration(max(0, int(time.time() - job['created'])), 2)} ago",
        )
        for job, row in zip(jobs, rows, strict=True):
            yield f"  {row}"
            if job["resume"] and job["state"] != "running":
                yield f"    {job['resume']}"
        if self.older_jobs:
            yield f"  and {count(self.older_jobs, 'older one')}: {command_line('mapreduce.jobs')}"

    def _others(self) -> Iterator[str]:
        if cloud := self.local_cloud:
            states = ", ".join(f"{number} {state}" for state, number in sorted(cloud["instances"].items()))
            yield f"local cloud: {states or 'no instances'}; {command_line('local.down')} ends it"
        else:
            yield "local cloud: not running"
        if not self.stub_sessions:
            yield "sessions of the S3 stub: none"
            return
        yield f"sessions of the S3 stub: {len(self.stub_sessions)}; {command_line('s3.clear', 'UUID')} removes one"
        shown = self.stub_sessions[-_MOST:]
        yield from _indented(f"{each['uuid']}  {duration(max(0, each['age']), 2)} old" for each in shown)
        if older := len(self.stub_sessions) - len(shown):
            yield f"  and {count(older, 'older one')}: {command_line('s3.sessions')}"

    def json(self) -> str:
        """Return all as a JSON object."""
        about = {"instances": json_module.loads(self.bill.json()), **vars(self)}
        del about["bill"]
        return json_module.dumps(about, indent=2)


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"  {line}" for line in lines)


@task(autoprint=True, help={"json": JSON})
def status(c: Context, json: bool = False) -> Status | str:
    """Print what runs, what it has cost, and what is left over.

    Show the instances of every region that the account can use, launches that never ended, unfinished jobs with the
    line that resumes each, the local cloud, and sessions of the S3 stub. Name the regions that don't answer within a
    second.

    Examples:
      inv status
      inv status --json
    """
    settings = config.settings(c)
    found = Status(costs.Bill([], {}))
    try:
        world = everywhere.look(settings, "", instances.ALIVE, _AWS_SECONDS, say)
    except HardwayError as error:
        found.unanswered = [f"no answer from AWS: {error}"]
    else:
        found.bill, found.regions = world.bill, len(world.asked)
        found.silent, found.unanswered = sorted(world.silent), world.missing()
        for region in sorted({one.region for one in world.bill}):
            there = [one for one in world.bill if one.region == region]
            orphans.report(settings.in_region(region), there, found.launches.append)
    found.jobs, found.older_jobs = job_list.unfinished(_MOST)
    found.stub_sessions = [
        {"uuid": session.uuid, "path": str(session.path), "age": int(session.age)}
        for session in stub_sessions.sessions()
    ]
    found.local_cloud = _local_cloud()
    return found.json() if json else found


def _local_cloud() -> dict[str, Any]:
    """Describe the local cloud; nothing if none is running."""
    try:
        running = daemon.find()
    except NothingMatched:
        return {}
    return {"endpoint": running.endpoint, "pid": running.pid, "instances": running.instances()}
