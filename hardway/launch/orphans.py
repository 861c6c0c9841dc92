"""Launches that never ended: killed, or cut off, before they could keep or terminate their instances.

The instances of a launch carry its token as a tag until it has ended well. Meanwhile its process holds a lock on a
file named after the token. The kernel releases the lock however the process ends. So an instance with the tag belongs
to a dead launch if the file is there and not locked. The instances of a launch from another machine belong to a dead
one after the deadline in the token.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hardway import aws
from hardway.config import Settings
from hardway.ec2.instances import ALIVE, Instance, Selector, describe
from hardway.files import lock, state_directory
from hardway.tables import count

LAUNCH_TAG = "hardway-launch"
_TOKEN = re.compile(r"[0-9a-f]{16}-(\d{1,12})")
# Allows for different clocks, and for the termination of instances.
_SLACK_SECONDS = 900


def new_token(seconds: float) -> str:
    """Return a token for a launch of at most `seconds`; with a suffix it still is a valid client token of EC2."""
    return f"{secrets.token_hex(8)}-{int(time.time() + seconds + _SLACK_SECONDS)}"


@dataclass
class Mark:
    """The mark of a launch that is under way; `stays` is set if the launch leaves something behind."""

    stays: bool = False


@contextlib.contextmanager
def under_way(token: str) -> Iterator[Mark]:
    """In this block the launch counts as alive. It counts as dead if its mark stays, or if the process is killed."""
    directory = _directory()
    _forget_old_files(directory)
    path = directory / token
    with path.open("w") as file:
        lock(file, wait=True)
        mark = Mark()
        try:
            yield mark
        finally:
            if not mark.stays:
                path.unlink(missing_ok=True)


def is_any_under_way() -> bool:
    """Return whether a launch is under way from this machine."""
    for path in _directory().glob("*"):
        # A launch that ended just now has deleted its file.
        with contextlib.suppress(FileNotFoundError):
            if _TOKEN.fullmatch(path.name) and not _is_free(path):
                return True
    return False


def find(settings: Settings) -> list[Instance]:
    """Return the instances of launches that are under way, or dead."""
    return list(describe(settings, Selector("", (), (), ((LAUNCH_TAG, "*"),))))


def report(settings: Settings, instances: Iterable[Instance], say: Callable[[str], None]) -> None:
    """Tell `say` which instances belong to dead launches, and the command that removes them."""
    for token, left in of_dead_launches(instances).items():
        ids = " ".join(sorted(i.id for i in left)[:3]) + (" ..." if len(left) > 3 else "")
        owners = {i.tags.get("owner", "") for i in left} - {aws.user(), ""}
        whose = f" of {', '.join(sorted(owners))}" if owners else ""
        flags = ["--yes", "--any-owner"] if owners else ["--yes"]
        what = f"{count(len(left), 'instance')} ({ids}) of a launch{whose} that never ended"
        say(f"{what}: {settings.command('ec2.rm', f'{LAUNCH_TAG}={token}', *flags)}")


def of_dead_launches(instances: Iterable[Instance]) -> dict[str, list[Instance]]:
    """Return the living instances of dead launches, by the launch's token."""
    found: dict[str, list[Instance]] = {}
    for instance in instances:
        if LAUNCH_TAG in instance.tags and instance.state in ALIVE:
            found.setdefault(instance.tags[LAUNCH_TAG], []).append(instance)
    return {token: left for token, left in found.items() if is_dead(token)}


def is_dead(token: str) -> bool:
    """Return whether a launch is neither under way nor ended well. False for a text that is no token of ours."""
    match = _TOKEN.fullmatch(token)
    if not match:
        return False
    try:
        return _is_free(_directory() / token)
    except FileNotFoundError:
        return int(match[1]) < time.time()


def _is_free(path: Path) -> bool:
    with path.open() as file:
        return lock(file, shared=True)


def _forget_old_files(directory: Path) -> None:
    """Delete the files of launches past their time: their token tells enough."""
    for path in directory.iterdir():
        match = _TOKEN.fullmatch(path.name)
        with contextlib.suppress(FileNotFoundError):
            if match and int(match[1]) < time.time() and _is_free(path):
                path.unlink()


def _directory() -> Path:
    return state_directory("launches")
