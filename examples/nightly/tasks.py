"""A job of one's own, for every night: which statuses a web server's logs hold, and how often each.

Its defaults are in invoke.yaml, next to this file. `inv nightly` runs it; `inv ec2.ls` and the like are there, too.
"""

from __future__ import annotations

from collections import Counter

from invoke import Collection, Context, task

from hardway.tasks import ec2, mapreduce


@task(help={"logs": "a file with the S3 URLs of the logs"})
def nightly(c: Context, logs: str = "s3_inputs.txt") -> dict[str, int]:
    """Count the requests of each status in all logs, on a cluster that lives no longer than that takes."""
    with open(logs) as urls:
        ids = ec2.new(c)
        try:
            counts = mapreduce.pmap(c, ids, urls, "bash step1.sh", files=["step1.sh"])
            total: Counter[str] = Counter()
            for line in str(counts).splitlines():
                status, count = line.split("\t")
                total[status] += int(count)
        finally:
            ec2.rm(c, ids, yes=True)
    print(*(f"{status} {total[status]}" for status in sorted(total)), sep="\n")
    return dict(total)


ns = Collection(nightly, ec2, mapreduce)
