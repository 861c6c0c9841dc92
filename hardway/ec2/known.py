"""Names that AWS knows, for the completion of the prompt: never for long, and from a cache of some seconds."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterable
from importlib import import_module

from hardway import files
from hardway.aws import models
from hardway.config import Settings, aws_variables
from hardway.ec2 import images as imaging
from hardway.ec2.instances import ALIVE, describe, is_plain
from hardway.system import brief

KEPT_SECONDS = 10
MOST_SECONDS = 1.0


def instances(settings: Settings) -> list[str]:
    """Return the Names and ids of instances that are not terminated."""

    def ask() -> Iterable[str]:
        for one in describe(settings):
            if one.state in ALIVE:
                yield from (one.id, one.name) if one.name and is_plain(one.name) else (one.id,)

    return _asked(settings, "instances", ask)


def images(settings: Settings) -> list[str]:
    """Return what `--ami` takes: the names of known images, and the names and ids of one's own."""

    def ask() -> Iterable[str]:
        for one in imaging.own(settings):
            yield from (one.id, one.name)

    return [*imaging.IMAGES, *_asked(settings, "images", ask)]


def types() -> list[str]:
    """Return all instance types that botocore knows, wherever they are offered."""
    return list(models.loader("ec2").load_service_model("ec2", "service-2")["shapes"]["InstanceType"]["enum"])


def regions() -> list[str]:
    """Return all regions that botocore knows."""
    return [name for each in models.loader("ec2").load_data("endpoints")["partitions"] for name in each["regions"]]


def _asked(settings: Settings, kind: str, ask: Callable[[], Iterable[str]]) -> list[str]:
    """Return AWS's answer, if it comes in time, or the one that was kept a few seconds ago."""
    where = json.dumps([settings.aws.region, settings.aws.profile, sorted(aws_variables().items())])
    key = hashlib.blake2b(where.encode(), digest_size=16).hexdigest()
    path = files.cache_directory() / f"completion-{kind}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        kept = json.loads(path.read_bytes())
        if kept["key"] == key and 0 <= time.time() - kept["at"] < KEPT_SECONDS:
            return [str(name) for name in kept["names"]]
    import_module("botocore.session")  # the second is for AWS
    answer = brief.within(MOST_SECONDS, lambda: json.dumps(list(dict.fromkeys(ask()))).encode())
    if answer is None:
        return []
    names: list[str] = json.loads(answer)
    with contextlib.suppress(OSError):
        files.write(path, [json.dumps({"key": key, "at": time.time(), "names": names}).encode()])
    return names
