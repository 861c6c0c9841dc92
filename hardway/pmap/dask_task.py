"""One attempt of a task on a worker of Dask: what `engine_dask` sends there, whole, so nothing of ours is needed there.

Python's standard library only, and nothing at the module's level that can't be pickled. What the agent of our own
driver does is done here the same way: environment, standard input, time limit, and an end for all that a command left.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
import signal
import subprocess
import tempfile
import time
from typing import Any

TIMED_OUT, NO_START, NOT_STUBBED = 1, 4, 256  # the first two are the agent's
GRACE = 2.0  # seconds between TERM and KILL


def run(
    command: str, timeout: float, job: str, stub: dict[str, str], number: int, attempt: int, stdin: bytes
) -> tuple[str, int, int, float, bytes, bytes]:
    """The worker's name, exit code (negative: a signal), flags, seconds, stdout and stderr.

    `stub` is the session of the S3 stub that the worker must be in; it is of no use to set it here, as a local instance
    shows the objects only to what was started in the session.
    """
    from distributed import get_worker

    worker = get_worker()
    name = word(worker.name)
    if any(os.environ.get(key) != value for key, value in stub.items()):
        return name, 126, NOT_STUBBED, 0.0, b"", b""
    with slot(worker) as place, contextlib.ExitStack() as files:
        given, out, err = (files.enter_context(tempfile.TemporaryFile()) for _ in range(3))
        given.write(stdin)
        given.seek(0)
        environment = {
            **os.environ,
            "HARDWAY_JOB": job,
            "HARDWAY_TASK": str(number),
            "HARDWAY_ATTEMPT": str(attempt),
            "HARDWAY_WORKER": str(place),
            "HARDWAY_INSTANCE_ID": name,
        }
        began = time.monotonic()
        try:
            process = subprocess.Popen(
                ["bash", "-c", command],
                stdin=given,
                stdout=out,
                stderr=err,
                cwd=os.path.expanduser("~"),
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            return name, 126, NO_START, 0.0, b"", f"the worker could not start it: {error}".encode()
        flags = wait(process, timeout)
        seconds = time.monotonic() - began
        out.seek(0)
        err.seek(0)
        return name, process.returncode, flags, seconds, out.read(), err.read()


def word(name: object) -> str:
    """A worker's name, which may be anything, as one word."""
    return "".join(c if c.isascii() and c.isprintable() and c != " " else "_" for c in str(name)) or "worker"


def threads(dask_scheduler: Any) -> dict[str, int]:
    """The names of the workers that the scheduler knows, and how many threads each has."""
    return {word(worker.name): worker.nthreads for worker in dask_scheduler.workers.values()}


def wait(process: subprocess.Popen[bytes], timeout: float) -> int:
    """Wait for the command, at most `timeout` seconds (0: for ever); what is left of its process group ends with it."""
    flags = 0
    try:
        process.wait(timeout or None)
    except subprocess.TimeoutExpired:
        flags = TIMED_OUT
        end_group(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    end_group(process.pid, signal.SIGKILL)
    process.wait()
    return flags


def end_group(pid: int, number: int) -> None:
    """Send a signal to what is left of a process group, if anything is."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


@contextlib.contextmanager
def slot(worker: Any) -> Any:
    """A number that no other command has which runs now, on whichever worker: of its address and its place there."""
    taken = worker.__dict__.setdefault("_hardway_slots", {})
    me = object()
    place = next(place for place in itertools.count() if taken.setdefault(place, me) is me)
    host, _, port = worker.address.rpartition("://")[2].rpartition(":")
    try:
        yield ((int(ipaddress.ip_address(host.strip("[]"))) << 16) + int(port)) * 1000 + place
    finally:
        del taken[place]


def end(job: str) -> None:
    """End all that runs here of a job, whichever process started it."""
    mark = os.fsencode(f"HARDWAY_JOB={job}")
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{name}/environ", "rb") as file:
                ours = mark in file.read().split(b"\0")
            if ours:
                os.kill(int(name), signal.SIGKILL)
