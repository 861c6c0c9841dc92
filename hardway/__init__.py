"""Script EC2: launch instances, run on them, copy to and from them, map commands over them.

The library works without Invoke's command line; the tasks that a person types are in `hardway.tasks`. `cluster` is for
scripts and notebooks: see `hardway.tasks.api`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["RunningCluster", "cluster"]


def __getattr__(name: str) -> Any:
    """Import the API at its first use: all else of hardway does without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("hardway.tasks.api"), name)
