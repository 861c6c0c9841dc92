"""Has Dask's scheduler run a job's tasks, in place of our own driver: `pmap --engine dask://HOST:PORT`.

An attempt is a future. The scheduler decides which worker runs it, and runs it again if the worker dies. Failed tasks
are tried again from here, so that every attempt is in the journal. Dask itself is imported only when it is used.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import heapq
import logging
import queue
import random
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hardway.config import Settings
from hardway.errors import NO_ROOM, Failed, HardwayError, Interrupted, UsageError
from hardway.pmap import dask_task
from hardway.pmap.clock import RemoteClock
from hardway.pmap.endings import MISSING, WORKERS_DIED, Outcome, end_and_complaint
from hardway.pmap.expect import Expected, message
from hardway.pmap.job import Job
from hardway.pmap.journal import Result
from hardway.pmap.progress import Progress
from hardway.pmap.schedule import retry_wait

HOST = "dask"  # the host in the journal when an attempt is sent, since the worker is not known yet
WINDOW = 1000  # attempts that the scheduler has at the same time, at least
WINDOW_OF_THREADS = 4  # attempts for each thread of a worker, at least
LOOK_EVERY = 2.0  # seconds between looks at the workers
FAREWELL = 5.0


def read_address(engine: str) -> str:
    """Return the address that Dask connects to. Raises UsageError if `engine` is no address of a scheduler."""
    found = re.fullmatch(r"(dask|tcp|tls)://([^/\s]+:\d+)/?", engine)
    if not found:
        raise UsageError(f"--engine {engine!r}: write dask://HOST:PORT, or tcp:// or tls://, of a Dask scheduler")
    return f"{'tcp' if found[1] == 'dask' else found[1]}://{found[2]}"


class Tally:
    """Counts of the job's tasks, for the progress display."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.more = False
        self.done = self.failed = self.running = self.failed_attempts = self.retrying = 0
        self.unstarted = False
        self.next_retry: float | None = None
        self.slowest: None = None

    @property
    def left(self) -> int:
        """The number of tasks that are not over."""
        return self.total - self.done - self.failed


class DaskDriver:
    """One run of a job, on a Dask cluster; stands in for `driver.Driver`."""

    def __init__(
        self,
        job: Job,
        command: str,
        arguments: Sequence[bytes],
        numbers: Sequence[int],
        address: str,
        settings: Settings,
        progress: Progress,
        on_result: Callable[[int, Result], None] | None = None,
        halt: int = 1,
        expect: Expected | None = None,
    ) -> None:
        self.job = job
        self.command = command
        self.arguments = arguments
        self.numbers = numbers
        self.address = address
        self.settings = settings
        self.halt = halt
        self.progress = progress
        self.on_result = on_result
        self.expect = expect
        self.outcome = Outcome()
        self.standing = Tally(len(arguments))
        self._nonce = f"{job.asked.name}-{secrets.token_hex(4)}"
        self._attempts = {p: job.history.attempts.get(number, 0) for p, number in enumerate(numbers)}
        self._failures = dict.fromkeys(range(len(numbers)), 0)
        self._ready = [p for p, number in enumerate(numbers) if number not in job.history.results][::-1]
        self._waiting: list[tuple[float, int]] = []  # a heap of retries: when, and of which position
        # To the position, the attempt, and the time of sending in seconds of Unix.
        self._futures: dict[Any, tuple[int, int, float]] = {}
        self._ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._workers: dict[str, int] = {}  # names to threads
        self._clocks: dict[str, RemoteClock] = {}
        self._looked = 0.0
        self._client: Any = None
        self._stop = False

    def run(self) -> Outcome:
        """Run until every task is over.

        Raises Interrupted after Ctrl-C, with the tasks on the workers ended; Failed where the scheduler can't be
        reached or goes away; UsageError where Dask is not installed here.
        """
        began = time.monotonic()
        self.standing.done = len(self.numbers) - len(self._ready)
        self.job.event("run", tasks=len(self.numbers), timeout=self.settings.mapreduce.timeout)
        self.progress.begin(self.numbers, self.standing.done)
        why = "failed"
        try:
            with self._connected():
                try:
                    self._loop_or_gone()
                    why = "done" if not self.standing.left else "stopped" if not self.standing.failed else "failed"
                finally:
                    self._end_the_rest()
        except KeyboardInterrupt:
            why = "interrupted"
            raise Interrupted(f"interrupted; {self._unfinished()}") from None
        except HardwayError as error:
            why = str(error)
            raise
        finally:
            outcome = self.outcome
            outcome.done, outcome.left = self.standing.done, self.standing.left
            outcome.seconds = time.monotonic() - began
            outcome.slot_seconds = sum(self._workers.values()) * outcome.seconds
            about = {"seconds": round(outcome.seconds, 3), "instances": len(self._workers)}
            self.job.event("over", why=why, prices={}, **about)
            self.job.flush()
        return outcome

    def _loop_or_gone(self) -> None:
        """Run the loop. Raises Failed if a call to the scheduler shows that it has gone."""
        try:
            self._loop()
        except (OSError, asyncio.TimeoutError, asyncio.CancelledError, concurrent.futures.CancelledError) as error:
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                raise
            raise self._gone() from error

    def _loop(self) -> None:
        while self.standing.left and not self._stop:
            self._look()
            self._submit()
            self._take(self._patience())
            self.standing.retrying, self.standing.unstarted = len(self._waiting), bool(self._ready)
            self.standing.next_retry = self._waiting[0][0] if self._waiting else None
            self.progress.update(self.standing, len(self._workers), time.monotonic())

    def _patience(self) -> float:
        """Return the seconds to wait if nothing happens."""
        return max(0.0, min(1.0, self._waiting[0][0] - time.monotonic())) if self._waiting else 1.0

    def _look(self) -> None:
        """Update the workers that exist now, for the progress display and the number of tasks sent ahead."""
        if time.monotonic() - self._looked < LOOK_EVERY:
            return
        self._looked = time.monotonic()
        with contextlib.suppress(OSError, ValueError):
            now: dict[str, int] = self._client.run_on_scheduler(_sent("threads"))
            for name in now.keys() - self._workers.keys():
                about = {"name": "", "type": "", "zone": "", "spot": False}
                self.job.event("up", host=name, slots=now[name], seconds=0.0, **about)
            for name in self._workers.keys() - now.keys():
                self.outcome.lost += 1
                self.job.event("gone", host=name, reason="its worker has left the scheduler")
                self.progress.say(f"{name}: its worker has left the scheduler")
            self._workers = now

    def _submit(self) -> None:
        """Send all tasks that are ready, in one call, up to the size of the window."""
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            self._ready.append(heapq.heappop(self._waiting)[1])
        room = max(WINDOW, WINDOW_OF_THREADS * sum(self._workers.values())) - len(self._futures)
        chosen = [self._ready.pop() for _ in range(min(room, len(self._ready)))]
        if not chosen:
            return
        for position in chosen:
            self._attempts[position] += 1
            self.job.started(self.numbers[position], self._attempts[position], HOST)
        self.job.flush()
        numbers, attempts = [self.numbers[p] for p in chosen], [self._attempts[p] for p in chosen]
        sent = time.time()
        futures = self._client.map(
            self._task,
            numbers,
            attempts,
            [self.arguments[p] for p in chosen],
            key=[f"{self._nonce}-{number}-{attempt}" for number, attempt in zip(numbers, attempts, strict=True)],
            pure=False,
            batch_size=len(chosen),
        )
        for future, position, attempt in zip(futures, chosen, attempts, strict=True):
            self._futures[future] = (position, attempt, sent)
            future.add_done_callback(self._ended.put)
        self.standing.running = len(self._futures)

    def _take(self, timeout: float) -> None:
        """Wait until an attempt ends, then take in all that have ended."""
        ended = []
        with contextlib.suppress(queue.Empty):
            ended.append(self._ended.get(timeout=timeout))
            while True:
                ended.append(self._ended.get_nowait())
        good = [future for future in ended if future.status == "finished"]
        # An attempt whose worker has died since runs again, and is waited for.
        values = dict(zip(good, self._client.gather(good) if good else [], strict=True))
        for future in ended:
            position, attempt, sent = self._futures.pop(future)
            end = values[future] if future in values else self._without_result(future)
            self._on_end(position, attempt, sent, end)
        self.job.flush()
        self.standing.running = len(self._futures)

    def _without_result(self, future: Any) -> tuple[str, int, float, int, int, float, bytes, bytes]:
        """Return the end to record for an attempt without a result. Raises Failed if the scheduler has gone."""
        from distributed import KilledWorker

        if future.status != "error":
            raise self._gone()
        error = future.exception()
        flags = WORKERS_DIED if isinstance(error, KilledWorker) else dask_task.NO_START
        return HOST, -1, 0.0, 126, flags, 0.0, b"", str(error).encode(errors="replace")

    def _on_end(
        self, position: int, attempt: int, sent: float, end: tuple[str, int, float, int, int, float, bytes, bytes]
    ) -> None:
        name, slot, began, code, flags, seconds, stdout, stderr = end
        if flags & dask_task.NOT_STUBBED:
            raise UsageError(
                f"the worker {name} is not in this shell's session of the S3 stub: its `aws` would reach the real S3; "
                "start the cluster from this shell, run clear-s3-stubbed first, or add --real-s3"
            )
        self.outcome.attempts += 1  # what is sent ahead has not started, and may be refused
        number = self.numbers[position]
        if self.expect and code == 0 and not flags:
            missing = self.expect.missing(self.arguments[position], [stdout])
            if missing:
                flags, stderr = MISSING, stderr + message(missing)
        if slot >= 0:
            clock = self._clocks.setdefault(name, RemoteClock())
            self.job.slot(number, attempt, slot, clock.here(began, sent, time.time() - seconds))
        result = self.job.ended(number, attempt, name, code, flags, seconds, stdout, stderr)
        self.outcome.busy += seconds
        if code == 0 and not flags:
            self.job.done(number, result)
            self.standing.done += 1
        elif self._failures[position] < self.settings.mapreduce.retries and not flags & WORKERS_DIED:
            self._retry(position, result)
            return
        else:
            self.outcome.failed[position] = result
            self.job.failed(number, result)
            self.standing.failed += 1
            self.standing.failed_attempts += 1
            self._stop = self._stop or 0 < self.halt <= self.standing.failed
        if self.on_result:
            self.job.flush()
            self.on_result(position, result)

    def _retry(self, position: int, result: Result) -> None:
        self._failures[position] += 1
        self.standing.failed_attempts += 1
        self.outcome.retries += 1
        longest = retry_wait(self._failures[position], self.settings.mapreduce.retry_sleep)
        heapq.heappush(self._waiting, (time.monotonic() + longest * random.uniform(0.5, 1.0), position))
        self.job.flush()
        number = self.numbers[position]
        reason = end_and_complaint(self.job.outputs, number, result, self.settings.mapreduce.timeout)
        self.progress.retry(f"task {number} failed on {result.host}: {reason}; it will be tried again")

    # Beginning and end

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            from distributed import Client
        except ImportError:
            raise UsageError("--engine needs Dask here: pip install 'hardway[engines]'") from None
        # A loss is told by its consequence.
        for name in [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "distributed"]:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            client = Client(self.address, timeout=self.settings.ec2.connect_timeout, set_as_default=False)
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise Failed(f"there is no Dask scheduler that answers at {self.address}: {reason}") from None
        self._client = client
        stub = dict(self.settings.stub_session)
        common = (self.command, self.settings.mapreduce.timeout, self._nonce, stub)
        self._task = functools.partial(_sent("run"), *common)
        try:
            yield
        finally:
            with contextlib.suppress(Exception):  # the run is over, so its errors don't matter
                client.close(timeout=FAREWELL)

    def _end_the_rest(self) -> None:
        """Cancel attempts that have not ended, and end their processes, within a few seconds."""
        if not self._futures:
            return
        client, end = self._client, _sent("end")

        async def farewell() -> None:
            await client.cancel(list(self._futures), force=True)
            await client.run(end, self._nonce, on_error="ignore")

        with contextlib.suppress(Exception):  # the scheduler may be what has gone
            client.sync(farewell, callback_timeout=FAREWELL)

    def _gone(self) -> Failed:
        return Failed(f"the scheduler at {self.address} has gone; {self._unfinished()}")

    def _unfinished(self) -> str:
        return f"{self.standing.done} of {self.standing.total} tasks are done"


@functools.cache
def _sent(name: str) -> Any:
    """Return a function of `dask_task` that is pickled by value, as if it were a function of `__main__`."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(Path(dask_task.__file__).read_text(), "dask_task.py", "exec"), namespace)
    return namespace[name]
