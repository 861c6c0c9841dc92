"""The values that may stand at the cursor, for the completion of the prompt. No tasks.

A completion waits for AWS for a second at the most, and uses the answer for some seconds. Instance types and regions
come from botocore's own files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from invoke import Context

from hardway import config

from .lazy import job_paths, known

# A word that is itself for every shell, and a selector's token.
_PLAIN = re.compile(r"[A-Za-z0-9_.@%+/][A-Za-z0-9_.@%+/-]*")


def values(c: Context, task: str, parameter: str, given: Mapping[str, str], word: str) -> list[str]:
    """Return the values of a task's parameter, sorted; none for an unknown parameter."""
    found = _all(c, task, parameter, given)
    if parameter == "type":  # a list with commas
        before = word[: word.rfind(",") + 1]
        found = (f"{before}{each}" for each in found)
    return sorted({each for each in found if _PLAIN.fullmatch(each.replace(",", "/"))})


def _all(c: Context, task: str, parameter: str, given: Mapping[str, str]) -> Iterable[str]:
    if parameter == "selector" or (task, parameter) == ("ec2.ls", "only"):
        return known.instances(config.settings(c, given.get("region")))
    if parameter == "ami":
        return known.images(config.settings(c, given.get("region")))
    if parameter == "type":
        return known.types()
    if parameter == "region":
        return known.regions()
    if parameter == "resume" or (parameter == "job" and task != "mapreduce.pmap"):
        return [path.name for path in job_paths.all_jobs()]
    return []
