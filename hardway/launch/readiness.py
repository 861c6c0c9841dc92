"""Readiness: an instance is running, a command runs on it over SSH, and its user data has ended well.

The end of user data doesn't count for an instance launched without `--init`, or with `ec2.no_wait_init`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import paramiko

from hardway.config import Settings
from hardway.ec2.instances import ALIVE, Instance, described
from hardway.errors import Failed
from hardway.launch import init
from hardway.ssh import channel
from hardway.ssh import connection as ssh
from hardway.ssh.keys import HostKeys
from hardway.terminal import printable

TICK_SECONDS = 0.05
_DESCRIBE_SECONDS = 2.0
_PROBE_SECONDS = 5.0
_BUSY = "its user data has not ended (--seconds-timeout waits longer, --no-wait-init does not wait for it)"


class Pace:
    """The pace of questions to EC2: often at first, then every two seconds."""

    def __init__(self) -> None:
        self._pause = 0.1
        self._next = 0.0

    def is_due(self) -> bool:
        """Return whether the next question is due; if it is, set the time of the one after it."""
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._pause
        self._pause = min(self._pause * 1.3, _DESCRIBE_SECONDS)
        return True


class Probes:
    """Attempts to run a command over SSH on each of many instances, until one succeeds. A context manager.

    `refusals` has the newest error of each instance, by id. `unwatched` are the instances that answer, but have nothing
    that could end them. `busy` are ids of instances that answer while their user data runs. `failed` has the failure of
    user data, by id; these instances are not tried again.
    """

    def __init__(self, settings: Settings, most: int, init_given: bool = False) -> None:
        """With `init_given`, an instance that answers but has seen no user data counts as failed."""
        self.refusals: dict[str, str] = {}
        self.unwatched: set[str] = set()
        self.busy: set[str] = set()
        self.failed: dict[str, str] = {}
        self._settings = settings
        self._init_given = init_given and not settings.ec2.no_wait_init
        # The console is never asked: it does not show the keys of a new instance yet.
        self._known = HostKeys(consoles=0)
        self._pool = ThreadPoolExecutor(max(1, min(settings.ec2.max_connections, most)), "ssh-ready")
        self._over = threading.Event()
        self._under_way: dict[str, Future[str | init.Look]] = {}
        self._due: dict[str, tuple[float, float]] = {}

    def __enter__(self) -> Probes:
        return self

    def __exit__(self, *_error: Any) -> None:
        self._over.set()
        self._pool.shutdown(cancel_futures=True)

    def ready(self, instances: Iterable[Instance]) -> list[str]:
        """Return the ids of the instances that newly answer; try each other instance again when its time has come."""
        answered = []
        now = time.monotonic()
        for instance in instances:
            probe = self._under_way.get(instance.id)
            when, pause = self._due.get(instance.id, (now, 0.1))
            if probe and probe.done():
                del self._under_way[instance.id]
                found = probe.result()
                self.busy.discard(instance.id)
                if isinstance(found, str):
                    self.refusals[instance.id] = found
                    self._due[instance.id] = now + pause, min(pause * 1.5, _PROBE_SECONDS)
                elif found.busy:
                    self.busy.add(instance.id)
                    self.refusals[instance.id] = _BUSY
                elif found.failure:
                    self.failed[instance.id] = found.failure
                elif self._init_given and not found.init:
                    self.failed[instance.id] = "its image has not run its user data, and so no --init"
                else:
                    answered.append(instance.id)
                    if not found.watched:
                        self.unwatched.add(instance.id)
            elif not probe and now >= when and instance.state == "running" and instance.address:
                if instance.id in self.failed:
                    continue
                self._under_way[instance.id] = self._pool.submit(
                    _try, instance, self._settings, self._known, self._over
                )
        return answered


def _try(instance: Instance, settings: Settings, known: HostKeys, given_up: threading.Event) -> str | init.Look:
    """Return a look at an instance, or why no command runs: sshd, the key and the user may come late in a boot."""
    try:
        connection = ssh.connect(instance, settings, known, given_up)
        try:
            return init.look(connection, wait=not settings.ec2.no_wait_init)
        finally:
            connection.close()
    except (ssh.ConnectError, channel.TransferError, paramiko.SSHException, EOFError, OSError) as error:
        return printable(str(error)) or type(error).__name__


def wait(settings: Settings, chosen: Sequence[Instance], state: str, on_ready: Callable[[int], None]) -> list[Instance]:
    """Wait until all instances are in a state; in `running`, also until they answer over SSH.

    `on_ready` is called with the number of instances that are newly there. Return the running instances that nothing
    ends, though their tag names an end. Raises Failed after `ec2.seconds_timeout`, and at once if an instance can no
    longer reach the state.
    """
    seconds = settings.ec2.seconds_timeout
    deadline = time.monotonic() + seconds
    waiting = {instance.id: instance for instance in chosen}
    pace = Pace()
    with Probes(settings, len(waiting)) as probes:
        while True:
            if pace.is_due():
                for instance in described(settings, list(waiting)):
                    if instance.state not in ALIVE and state != "terminated":
                        why = f" ({instance.why_ended})" if instance.why_ended else ""
                        raise Failed(f"{instance} is {instance.state}{why}: it will not be {state}")
                    waiting[instance.id] = instance
            if state == "running":
                done = probes.ready(waiting.values())
                if probes.failed:
                    failed = [f"{printable(str(waiting[id]))}: {why}" for id, why in probes.failed.items()]
                    raise Failed(f"{len(failed)} of {len(chosen)} instances not {state}: {some(failed)}")
            else:
                done = [i.id for i in waiting.values() if i.state == state]
            for id in done:
                del waiting[id]
            on_ready(len(done))
            left = list(waiting.values())
            if not left:
                return [i for i in chosen if i.ends and i.id in probes.unwatched]
            if time.monotonic() >= deadline:
                late = [why_late(i, probes.refusals) if state == "running" else f"{i} is {i.state}" for i in left]
                raise Failed(f"{len(late)} of {len(chosen)} instances not {state} after {seconds} s: {some(late)}")
            time.sleep(TICK_SECONDS)


def why_late(instance: Instance, refusals: dict[str, str]) -> str:
    """Return why an instance is not ready yet."""
    reason = f" ({instance.why_ended})" if instance.why_ended and instance.state not in ("pending", "running") else ""
    return f"{printable(str(instance))} is {instance.state}{reason}, {refusals.get(instance.id, 'not reached yet')}"


def some(items: Sequence[str], most: int = 3) -> str:
    """Return the first `most` items, and the number of the others, as text."""
    more = f"; and {len(items) - most} more" if len(items) > most else ""
    return "; ".join(items[:most]) + more
