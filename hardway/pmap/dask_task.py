"""One attempt of a task on a Dask worker. `engine_dask` sends this whole module: the worker needs nothing else of ours.

The module uses Python's standard library only, and every global of it can be pickled. A task runs as under our own
agent: the same environment, pipes read to their end, a time limit, a directory of its own, and an end for all processes
that the command left. Such processes are found by their session, their ancestors and the attempt's mark in their
environment. A process that has lost all three is not found: the worker isn't ours, and can't be made a subreaper.
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
) -> tuple[str, int, float, int, int, float, bytes, bytes]:
    """Run the attempt and return its end.

    The values are the worker's name, the slot, the worker's clock at the start, the exit code (negative for a signal),
    flags, seconds, stdout and stderr.

    `stub` is the session of the S3 stub that the worker must be in. Setting the session here would not help: a local
    instance shows the objects only to processes that were started in the session.
    """
    from distributed import get_worker

    worker = get_worker()
    name = word(worker.name)
    if any(os.environ.get(key) != value for key, value in stub.items()):
        return name, -1, 0.0, 126, NOT_STUBBED, 0.0, b"", b""
    with (
        slot(worker) as (place, unique),
        tempfile.TemporaryDirectory(prefix="hardway-", ignore_cleanup_errors=True) as scratch,
    ):
        mark = {"HARDWAY_JOB": job, "HARDWAY_TASK": str(number), "HARDWAY_ATTEMPT": str(attempt)}
        about = {"HARDWAY_WORKER": str(unique), "HARDWAY_INSTANCE_ID": name}
        environment = {**os.environ, **mark, **about, "HARDWAY_SCRATCH": scratch, "TMPDIR": scratch}
        since, began = time.clock_gettime(time.CLOCK_BOOTTIME), time.monotonic()
        try:
            process = subprocess.Popen(
                ["bash", "-c", command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=os.path.expanduser("~"),
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            return name, place, began, 126, NO_START, 0.0, b"", f"the worker could not start it: {error}".encode()
        marks = {os.fsencode(f"{key}={value}") for key, value in mark.items()}
        flags, out, err = wait(process, stdin, timeout, marks, since)
        return name, place, began, process.returncode, flags, time.monotonic() - began, out, err


def word(name: object) -> str:
    """Return a worker's name, of any type, as one word."""
    return "".join(c if c.isascii() and c.isprintable() and c != " " else "_" for c in str(name)) or "worker"


def threads(dask_scheduler: Any) -> dict[str, int]:
    """Return the number of threads of each worker that the scheduler knows, by the worker's name."""
    return {word(worker.name): worker.nthreads for worker in dask_scheduler.workers.values()}


def wait(
    process: subprocess.Popen[bytes], stdin: bytes, timeout: float, marks: set[bytes], since: float
) -> tuple[int, bytes, bytes]:
    """Wait until the command and its outputs have ended, then return flags, stdout and stderr.

    After `timeout` seconds (0 is no limit) the command is ended. Processes that it left are ended in any case.
    """
    flags, outputs = 0, (b"", b"")
    try:
        outputs = process.communicate(stdin, timeout or None)
    except subprocess.TimeoutExpired:
        flags = TIMED_OUT
    signals, give_up = itertools.chain([signal.SIGTERM], itertools.repeat(signal.SIGKILL)), time.monotonic() + 3 * GRACE
    while (left := family(process.pid, marks, since)) and time.monotonic() < give_up:
        number = next(signals)
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        until = time.monotonic() + GRACE
        while time.monotonic() < until and family(process.pid, marks, since) & left:
            time.sleep(0.02)
    if flags:
        try:
            outputs = process.communicate(timeout=GRACE)
        except subprocess.TimeoutExpired as error:  # a process that holds an output now isn't the task's
            outputs = (error.stdout or b"", error.stderr or b"")
            for stream in (process.stdout, process.stderr):
                if stream:
                    stream.close()
            process.wait()
    return flags, *outputs


def family(leader: int, marks: set[bytes], since: float = 0.0) -> set[int]:
    """Return the ids of an attempt's living processes: of its session or group, with its mark, or their descendants.

    Processes that began before `since`, in seconds since the machine started, are left out.
    """
    tick = os.sysconf("SC_CLK_TCK")
    parents: dict[int, int] = {}
    found = set()
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(OSError, ValueError, IndexError):
            with open(f"/proc/{pid}/stat", "rb") as file:
                words = file.read().rpartition(b")")[2].split()
            parent, group, session = map(int, words[1:4])
            if words[0] in (b"Z", b"X") or (int(words[19]) + 1) / tick < since:
                continue
            parents[pid] = parent
            ours = leader in (group, session)
            if not ours:
                with open(f"/proc/{pid}/environ", "rb") as file:
                    ours = marks <= set(file.read().split(b"\0"))
            if ours:
                found.add(pid)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


@contextlib.contextmanager
def slot(worker: Any) -> Any:
    """Take a slot: a number that no other command running on this worker has, unique with the worker's address."""
    taken = worker.__dict__.setdefault("_hardway_slots", {})
    me = object()
    place = next(place for place in itertools.count() if taken.setdefault(place, me) is me)
    host, _, port = worker.address.rpartition("://")[2].rpartition(":")
    try:
        yield place, ((int(ipaddress.ip_address(host.strip("[]"))) << 16) + int(port)) * 1000 + place
    finally:
        del taken[place]


def end(job: str) -> None:
    """End all processes of a job on this machine, whichever process started them."""
    mark = {os.fsencode(f"HARDWAY_JOB={job}")}
    until = time.monotonic() + GRACE
    while (left := family(-1, mark)) and time.monotonic() < until:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
