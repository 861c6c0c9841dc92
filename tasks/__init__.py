"""The tasks a person types, as Invoke namespaces: `ns` is the whole tree, `main` the program `hardway`.

In a checkout `inv` finds this folder as `tasks`; installed, the same files are `hardway.tasks`.
"""

from __future__ import annotations

from pathlib import Path

from invoke import Collection

from . import demo, ec2, local, mapreduce, s3

ns = Collection(ec2, mapreduce, s3, local)
if (Path(__file__).parent.parent / "examples").is_dir():
    # In a checkout only: they run this repository's own scripts.
    for each in (demo.demo, demo.test, demo.bench):
        ns.add_task(each)


def main() -> None:
    """The command `hardway`: these tasks from any directory, without a tasks.py."""
    from hardway.program import Program

    Program(name="hardway", binary="hardway", binary_names=["hardway"], namespace=ns).run()
