"""hardway for a script or a notebook without Invoke: `with hardway.cluster(num=10) as c: c.map("bash step.sh", urls)`.

Each method is the task of its name or purpose, with the ids of the cluster's instances; further arguments are those of
the task. Settings come from the environment and from invoke.yaml in the current directory, as for the program
`hardway`. All errors are `hardway.errors.HardwayError`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke import Config, Context

from hardway.cli import project

from . import ec2, mapreduce

if TYPE_CHECKING:
    from hardway.fanout.group import CommandResult
    from hardway.pmap.results import Results


class RunningCluster:
    """Running instances, until the end of the block of `cluster`; `ids` are theirs."""

    def __init__(self, context: Context, ids: Sequence[str], region: str | None) -> None:
        self.ids = list(ids)
        self._context = context
        self._region = region

    def map(self, command: str, arguments: str | Iterable[str | bytes], **flags: Any) -> Results:
        """Run a bash command once for each argument, and return what each wrote to stdout, in the arguments' order.

        `arguments` are a list, or text with one a line. `flags` are those of `mapreduce.pmap`, such as `files`,
        `slots`, `retries`, `timeout`, `keep_going` and `resume`. Raises TasksFailed, a HardwayError with the results
        there are, if tasks fail for good.
        """
        results: Results = mapreduce.pmap(
            self._context, self.ids, arguments, command, **{"region": self._region, **flags}
        )
        return results

    def run(self, command: str, **flags: Any) -> list[CommandResult]:
        """Run a command on each instance, print its output, and return how each ended; `flags` are of `ec2.ssh`."""
        ended: list[CommandResult] = ec2.ssh(
            self._context, self.ids, command, yes=True, **{"region": self._region, **flags}
        )
        return ended

    def push(self, source: str, destination: str, **flags: Any) -> None:
        """Send a tree to each instance; `destination` begins with a colon. `flags` are of `ec2.push`."""
        ec2.push(self._context, source, destination, self.ids, yes=True, **{"region": self._region, **flags})

    def pull(self, source: str, destination: str, **flags: Any) -> None:
        """Fetch a tree, `source`, from each instance, into a directory for each. `flags` are as for `ec2.pull`."""
        ec2.pull(self._context, source, destination, self.ids, yes=True, **{"region": self._region, **flags})

    def __repr__(self) -> str:
        return f"<{len(self.ids)} instances: {' '.join(self.ids)}>"


@contextlib.contextmanager
def cluster(
    *,
    name: str | None = None,
    num: int | None = None,
    type: str | Sequence[str] | None = None,
    spot: float | None = None,
    region: str | None = None,
    **flags: Any,
) -> Iterator[RunningCluster]:
    """Start instances for the time of the block, however it ends: by an error or Ctrl-C, too.

    `spot` is the highest price as a part of the on-demand price. `flags` are those of `ec2.new`, such as `ami`, `init`,
    `max_hours` and `yes`.
    """
    with project.reading("the settings of this machine or user (invoke.yaml, .invoke.yaml)"):
        config = Config()
    project.load(config, Path.cwd())
    context = project.context(config)
    given = {"name": name, "num": num, "type": type, "spot": spot, "region": region}
    with ec2.cluster(context, **{key: value for key, value in given.items() if value is not None}, **flags) as ids:
        yield RunningCluster(context, ids, region)
