"""The daemon of the local cloud itself, as `python -m`: it serves until it is told to end, or its owner ends.

`daemon` starts the process, and reads its one report: the record of a running daemon, or the reason for a failure.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import logging
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TextIO

from hardway import files
from hardway.config import Local
from hardway.errors import HardwayError
from hardway.local import beneath
from hardway.local.machines import isolation
from hardway.local.machines.processes import SpawnerClient
from hardway.local.machines.toolbox import Toolbox
from hardway.local.running import ALIVE, RECORD, Running


def main() -> None:
    """Serve until SIGTERM, or the owner's end.

    Arguments: state directory, descriptor to report on, settings as JSON, pid of the owner or 0.
    """
    directory, ready, settings = Path(sys.argv[1]), int(sys.argv[2]), Local(**json.loads(sys.argv[3]))
    owner = int(sys.argv[4])
    os.set_inheritable(ready, False)
    # Before the fork: an interrupted `daemon` either still has a child to kill or sees this file locked.
    os.umask(0o022)
    alive = os.open(directory / ALIVE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    files.lock(alive, wait=True)
    if os.fork():
        os._exit(0)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("asyncssh").setLevel(logging.CRITICAL)
    gc.disable()  # until all is loaded: this saves a second of the start
    with open(ready, "w") as report:
        try:
            if asyncio.run(_serve(directory, settings, owner, report)):
                beneath.remove(directory)
        except HardwayError as error:
            print(json.dumps({"error": str(error)}), file=report)
        except BaseException:
            logging.exception("the daemon failed")
    os._exit(0)  # all is closed; the lock ends with the process


async def _serve(directory: Path, settings: Local, owner: int, report: TextIO) -> bool:
    """Serve to the end. Return whether the owner has gone: then nobody else is there to clear up."""
    stop, orphaned, broken = asyncio.Event(), asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def ended_by(number: signal.Signals) -> None:
        logging.warning("ended by %s", number.name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended_by, number)
    with contextlib.closing(SpawnerClient(directory)) as spawner:
        async with _cloud(directory, spawner, settings) as running:
            files.write(directory / RECORD, [running.text.encode()])
            print(running.text, file=report, flush=True)
            report.close()
            _settle_memory()
            with _at_end_of(spawner.pid, stop, broken), _at_end_of(owner, stop, orphaned):
                await stop.wait()
            if broken.is_set():
                logging.error("the process that starts instances' processes (%d) was killed", spawner.pid)
    return orphaned.is_set()


@contextlib.asynccontextmanager
async def _cloud(directory: Path, spawner: SpawnerClient, settings: Local) -> AsyncIterator[Running]:
    """Serve a cloud for the time of the block. Raises HardwayError if the isolation asked for does not work."""
    (directory / "instances").mkdir()
    toolbox = Toolbox.create(directory)
    chosen = await isolation.choose(settings.isolation, spawner, toolbox, directory / "probe")
    from hardway.local.api.launch_buckets import LaunchBuckets  # imports take a second: a refusal comes first
    from hardway.local.cloud import Cloud
    from hardway.local.fault_injector import FaultInjector
    from hardway.local.server import Server

    secret = secrets.token_urlsafe(30)
    server = Server()
    cloud = Cloud(directory, spawner, toolbox, chosen, settings.boot_delay, secret, server.endpoint)
    faults = FaultInjector(cloud)
    server.start(cloud, faults, LaunchBuckets(settings.launch_bucket, settings.launch_refill))
    try:
        yield Running(os.getpid(), server.endpoint, cloud.addresses.port, str(chosen), chosen.level, settings, secret)
    finally:
        await server.stop()
        await faults.close()
        await cloud.stop()


@contextlib.contextmanager
def _at_end_of(pid: int, *events: asyncio.Event) -> Iterator[None]:
    """In this block, set the events when a process (0: none) ends."""

    def ended() -> None:
        for event in events:
            event.set()

    if not pid:
        yield
        return
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        ended()
        yield
        return
    loop = asyncio.get_running_loop()
    loop.add_reader(process, ended)
    try:
        yield
    finally:
        loop.remove_reader(process)
        os.close(process)


def _settle_memory() -> None:
    """Give back the memory that the imports left. Garbage collections need not look through the rest."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    gc.freeze()
    gc.enable()


if __name__ == "__main__":
    main()
