"""docs/tasks.md is made of the tasks' help: `python -m tests.tasks_page` writes it, and a test compares."""

from __future__ import annotations

import contextlib
import io
import textwrap
from pathlib import Path

from hardway.cli import flags
from hardway.cli.program import Program

PAGE = Path(__file__).parents[1] / "docs" / "tasks.md"
GROUPS = {
    "ec2": "Instances, copies, images, networks and prices",
    "mapreduce": "Jobs",
    "cluster": "Clusters of Spark and Dask",
    "s3": "The S3 stub",
    "local": "The local cloud",
    "": "The whole, and this repository",
}
HEAD = """# Tasks

Each task is a command (`inv ec2.ls`, or `hardway ec2.ls` where hardway is installed) and a function
(`hardway.tasks.ec2.ls`). `inv --list` lists them, and `inv --help ec2.new` shows one of the texts below.

## What all tasks have in common

A **selector** says which instances, in one argument of tokens with white space or commas between them:

- Ids, addresses, DNS names and Name tags (with `*` and `?`) add instances.
- `key=value` tags and `vpc-`, `subnet-`, `sg-` ids narrow the choice: an instance must match them, too.
- Quotes or a backslash make a name literal: `Name="gpu box"`, `gpu\\ box`. An item of a Python list is one name.

An instance that doesn't exist, or isn't in the wanted state, is an error that names its id. A task that acts on
instances lists them and asks, unless `--yes` is given. `--dry` shows what a task would do, and does nothing.

**stdout** carries only results, one a line. Tasks that list take `--json`, too. stderr is for people. The **exit code**
is 0 when all is done, 1 when an instance or a task failed or nothing matched, 2 for bad input or configuration (nothing
was started), and 130 when interrupted.

**Settings** have their defaults in [invoke.yaml](../invoke.yaml). Your own `invoke.yaml`, the environment
(`INVOKE_EC2_TYPE=c7i.large inv ec2.new`) and flags change them.

{letters}

The **region** is `--region`, else `INVOKE_AWS_REGION`, `AWS_REGION`, `AWS_DEFAULT_REGION` or plain `region` in the
environment, else `aws.region` in invoke.yaml, else the AWS profile's. In Python, tasks called with `c` inside
`with ec2.region(c, "eu-west-1"):` act in that region.
`with ec2.cluster(c, num=3) as ids:` starts instances as `ec2.new` does, and terminates them at the end of the block.

The prompt completes tasks, flags, Names and ids of instances, jobs, instance types, AMIs and regions, in fish and zsh
as well: `source <(hardway --print-completion-script bash)`. A completion waits for AWS for a second at most, and uses
its answer for ten seconds.
"""


def help_of(task: str) -> str:
    """The output of `inv --help TASK`."""
    from tasks import ns

    inv = Program(name="inv", binary="inv", binary_names=["inv"], namespace=ns)
    with contextlib.redirect_stdout(io.StringIO()) as said:
        inv.run(["inv", "--help", task], exit=False)
    return said.getvalue()


def block(task: str) -> str:
    """A task's part of the page."""
    return f"### {task}\n\n```text\n{help_of(task).strip()}\n```\n"


def page() -> str:
    """The whole page."""
    from tasks import ns

    letters = ", ".join(f"`-{letter}` for `--{name.replace('_', '-')}`" for name, letter in flags.LETTERS.items())
    text = f"**One-letter flags** are the same for every task: {letters}."
    parts = [HEAD.format(letters=textwrap.fill(text, 120, break_on_hyphens=False))]
    for group, title in GROUPS.items():
        parts.append(f"## {title}\n")
        parts += [block(task) for task in sorted(ns.task_names) if task.rpartition(".")[0] == group]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
