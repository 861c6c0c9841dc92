"""Help texts of flags that several tasks share, and flags as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

SELECTOR = "which instances: ids, addresses, Name tags (globs allowed), key=value, vpc-/subnet-/sg- ids"
YES = "do not ask"
DIRECT = "send to each instance from this machine; else instances pass large files on to each other"
S3 = "s3://bucket/prefix: send it there once, and have every instance fetch it (instances need aws)"
ANY_OWNER = "allow instances, AMIs and VPCs whose owner tag names another user"
JSON = "print JSON, with more fields than the table"


def written(given: Mapping[str, Any]) -> list[str]:
    """Return flags as a person would type them, one for each item of a list, and none for None or False."""
    found = []
    for name, value in given.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            found.append(flag)
        elif value is not None and value is not False:
            found += [f"{flag}={each}" for each in (value if isinstance(value, list) else [value])]
    return found


def read(flags: Iterable[str]) -> dict[str, Any]:
    """Return what `written` was given, without None and False."""
    found: dict[str, Any] = {}
    for flag in flags:
        name, has_value, value = flag.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        if name in ("files", "depends"):
            found.setdefault(name, []).append(value)
        elif has_value:
            found[name] = value
        else:
            found[name.removeprefix("no_")] = not name.startswith("no_")
    return found
