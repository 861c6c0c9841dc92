"""Grouping and joining a job's results for the next job, or after the last; part of `mapreduce`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from invoke import Context

from hardway import config
from hardway.cli.task import act, task

from .lazy import arguments, shuffle

if TYPE_CHECKING:
    from hardway.pmap.results import Results

_LINES = "text, @file, or - for stdin"


@task(autoprint=True, help={"lines": f"partition, a tab and a URL (or anything), one a line: {_LINES}"})
def group(c: Context, lines: str | Iterable[str | bytes]) -> Results:
    """Group lines by partition, between two jobs.

    Print a line for each partition: the partition and its URLs, with tabs between.

    Partitions come in the order of their bytes, URLs in the order of the lines. The lines need not fit in memory.

    Examples:
      inv mapreduce.group @lines.txt
      sort lines.txt | inv mapreduce.group -
    """
    return shuffle.group(arguments.lines(lines))


@task(
    changes=str,
    autoprint=True,
    help={
        "urls": f"S3 URLs of objects, one a line: {_LINES}",
        "destination": "S3 URL of the new object",
    },
)
def gather(c: Context, urls: str | Iterable[str | bytes], destination: str, region: str | None = None) -> str:
    """Join many small objects in S3 into one.

    Join them in the order of the given URLs, and print the new object's URL. URLs of a store will do.

    Examples:
      inv mapreduce.gather @urls.txt s3://bucket/all
      sort urls.txt | inv mapreduce.gather - s3://bucket/sorted
    """
    act(f"put objects together as {destination}")
    return shuffle.concatenate(config.settings(c, region), arguments.lines(urls), destination)
