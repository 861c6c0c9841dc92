"""The tasks a person types, as Invoke namespaces: `ns` is the whole tree, `main` the program `hardway`.

In a checkout `inv` finds this folder as `tasks`; installed, the same files are `hardway.tasks`.
"""

from __future__ import annotations

from pathlib import Path

from invoke import Collection

from hardway.cli.program import Program

from . import cluster, demo, ec2, local, mapreduce, s3

_in_checkout = (Path(__file__).parent.parent / "examples").is_dir()
# They run this repository's own scripts.
_for_work_on_it = (demo.demo, demo.test, demo.bench) if _in_checkout else ()
ns = Collection(ec2, mapreduce, cluster, s3, local, *_for_work_on_it)


def main(name: str, project: Path | None = None) -> None:
    """Run these tasks as the program `name`, with the settings in the directory `project`, else in the current one."""
    Program(name=name, binary=name, binary_names=[name], namespace=ns, project=project).run()
