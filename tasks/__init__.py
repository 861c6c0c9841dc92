"""The tasks a person types, as Invoke namespaces; `ns` is the whole tree.

In a checkout `inv` finds this folder as `tasks`; installed, the same files are `hardway.tasks`.
"""

from __future__ import annotations

from pathlib import Path

from invoke import Collection

from . import cluster, demo, ec2, local, mapreduce, s3
from .overview import status

_in_checkout = (Path(__file__).parent.parent / "examples").is_dir()
# They run this repository's own scripts.
_for_work_on_it = (demo.demo, demo.test, demo.bench) if _in_checkout else ()
ns = Collection(ec2, mapreduce, cluster, s3, local, status, *_for_work_on_it)
