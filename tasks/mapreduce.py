"""MapReduce the hard way: map a command over arguments on instances, group the results, and chain such jobs."""

from __future__ import annotations

from invoke import Collection

from hardway import config

from .mapreduce_again import again
from .mapreduce_between import gather, group
from .mapreduce_jobs import explain, jobs, logs, report, results, rm
from .mapreduce_pmap import pmap, stream
from .mapreduce_wait import wait

__all__ = [
    "again", "explain", "gather", "group", "jobs", "logs", "pmap", "report", "results", "rm", "stream", "wait",
]  # fmt: skip

ns = Collection(pmap, wait, again, group, gather, jobs, logs, results, rm, report, explain)
ns.configure(config.defaults("mapreduce", "aws", "ec2"))
