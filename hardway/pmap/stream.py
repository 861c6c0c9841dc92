"""Arguments that start as they come, and results that come out as soon as they are ready.

Three threads meet in a `Stream`. A reader takes arguments from a pipe or an iterator. The driver's loop makes tasks of
them, and reports results. A consumer takes results: it writes them to stdout, or is a caller's `for` loop. The number
of arguments whose results the consumer has not taken is limited. So a slow consumer holds the driver back, the driver
the reader, and the reader the producer.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from hardway.errors import Failed, HardwayError, Interrupted
from hardway.pmap.journal import Result
from hardway.pmap.results import ResultWriter

OPEN_MOST = 10_000  # arguments whose results nobody has taken
BYTES_MOST = 64 << 20  # of arguments of tasks that aren't over, but at least one argument
PENDING_MOST = 1000  # arguments read and not yet taken by the driver
PENDING_BYTES = 1 << 20  # bytes of these arguments
LOOK_EVERY = 0.2  # seconds between a wait's checks that it is still wanted
_PIECE = 1 << 16
_END_SECONDS = 1.0  # for the reader to end: an iterator may not come back


class Cutting(Protocol):
    """Makes arguments of data: see `arguments.Cutter`."""

    @property
    def hint(self) -> str: ...
    @property
    def skipped(self) -> int: ...
    def feed(self, data: bytes, last: bool = False) -> list[bytes]: ...
    def item(self, item: Any) -> bytes: ...


class TaskResult(str):
    """A task's stdout; bytes that are no UTF-8 are surrogate escapes. `task` is its number, `argument` its stdin."""

    task: int
    argument: str


def from_pipe(descriptor: int, cutter: Cutting, is_wanted: Callable[[], bool]) -> Iterator[list[bytes]]:
    """Yield the arguments in a pipe or terminal, as many as there are, until its end or until nobody wants more."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while is_wanted():
        if not poll.poll(LOOK_EVERY * 1000):
            continue
        try:
            data = os.read(descriptor, _PIECE)
        except BlockingIOError:  # another program has made it non-blocking, and was faster
            continue
        yield cutter.feed(data, last=not data)
        if not data:
            return


def from_items(items: Iterable[Any], cutter: Cutting) -> Iterator[list[bytes]]:
    """Yield the arguments in an iterable, one at a time."""
    for item in items:
        yield [cutter.item(item)]


class Stream:
    """The arguments and the results of one run of a job. `source` is what a person gave for the arguments.

    As an iterable it has the arguments that are left, for jobs that must know all of them first.
    """

    def __init__(
        self,
        pieces: Callable[[Callable[[], bool]], Iterator[list[bytes]]],
        cutter: Cutting,
        source: str = "ARGS",
        ordered: bool = True,
        consumed: bool = False,
    ) -> None:
        """Take `pieces`: given a function that says whether more is wanted, it yields arguments.

        Results are taken in the order of the arguments if `ordered`, else as they come. `consumed` says that somebody
        will take them; else it is known when `write_to` or `results` is called.
        """
        self.source = source
        self.batch = 0  # arguments of a task; 0: one
        self.cutter = cutter
        self.failure: BaseException | None = None  # of the producer
        self.gave_up: HardwayError | None = None  # why the consumer takes no more
        self.wake: Callable[[], None] = lambda: None  # has the driver look again
        self._say: Callable[[str], None] = lambda line: None
        self.read: Callable[[int, Result], Iterable[bytes]] = lambda position, result: ()
        self.taken = 0  # results that the consumer has taken
        self._pieces = pieces
        self._ordered = ordered
        self._consumed = consumed
        self._changed = threading.Condition()
        self._pending: deque[bytes] = deque()
        self._pending_bytes = 0
        self._read_all = False
        self._closed = False  # nobody wants more arguments
        self._confirmed = 0  # arguments that the driver has taken
        self._ready: dict[int, tuple[Result | None, bytes]] = {}
        self._coming: deque[int] = deque()  # positions of confirmed ready results, unless in order
        self._finished = False  # there will be no more results
        self._reader: threading.Thread | None = None

    def with_results(self, ordered: bool) -> Stream:
        """Return the same stream, whose results somebody will take."""
        self._ordered, self._consumed = ordered, True
        return self

    def batched(self, size: int, join: Callable[[list[bytes]], bytes]) -> Stream:
        """Return the same stream, where a task has `size` arguments, which `join` joins; the last may have fewer."""
        pieces = self._pieces

        def whole(is_wanted: Callable[[], bool]) -> Iterator[list[bytes]]:
            rest: list[bytes] = []
            for items in pieces(is_wanted):
                rest += items
                until = len(rest) // size * size
                yield [join(rest[at : at + size]) for at in range(0, until, size)]
                del rest[:until]
            if rest:
                yield [join(rest)]

        self._pieces, self.batch = whole, size
        return self

    @property
    def described(self) -> str:
        """The arguments, for a sentence."""
        return "the arguments as they come"

    def warn(self, say: Callable[[str], None]) -> None:
        """Have `say` told, once, when something looks wrong in the arguments."""
        self._say = say

    # Reading

    def first(self) -> bool:
        """Wait for the first argument; return False if there is none. Raises the producer's error."""
        self._begin()
        with self._changed:
            while not (self._pending or self._read_all):
                self._changed.wait(LOOK_EVERY)
            if self.failure and not self._pending:
                raise self.broken_off()
            return bool(self._pending)

    def broken_off(self) -> HardwayError:
        """Return the producer's error for a person."""
        failure = self.failure
        return failure if isinstance(failure, HardwayError) else Failed(f"the arguments broke off: {failure!r}")

    def take(self, count: int, size: int) -> list[bytes]:
        """Return the next arguments without waiting: `count` at most, and no more after `size` bytes."""
        found: list[bytes] = []
        if self.cutter.hint:
            self._say(self.cutter.hint)
            self._say = lambda line: None
        with self._changed:
            while self._pending and len(found) < count and size > 0:
                item = self._pending.popleft()
                self._pending_bytes -= len(item)
                size -= len(item)
                found.append(item)
            self._changed.notify_all()
        return found

    @property
    def is_read(self) -> bool:
        """Whether all arguments have been taken."""
        with self._changed:
            return self._read_all and not self._pending

    def __iter__(self) -> Iterator[bytes]:
        while self.first():
            yield from self.take(PENDING_MOST, PENDING_BYTES)

    def close(self) -> None:
        """End the reader."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._reader:
            self._reader.join(_END_SECONDS)

    def _begin(self) -> None:
        if not self._reader:
            self._reader = threading.Thread(target=self._read_on, name="arguments", daemon=True)
            self._reader.start()

    def _read_on(self) -> None:
        try:
            for items in self._pieces(lambda: not self._closed):
                with self._changed:
                    while self._is_full() and not self._closed:
                        self._changed.wait(LOOK_EVERY)
                    if self._closed:
                        return
                    self._pending.extend(items)
                    self._pending_bytes += sum(map(len, items))
                    self._changed.notify_all()
                self.wake()
        except BaseException as error:  # a caller's iterator may raise anything, and gets it back
            self.failure = error
        finally:
            with self._changed:
                self._read_all = True
                self._changed.notify_all()
            self.wake()

    def _is_full(self) -> bool:
        return len(self._pending) >= PENDING_MOST or self._pending_bytes >= PENDING_BYTES

    # Results, for the driver

    @property
    def is_consumed(self) -> bool:
        """Whether somebody takes the results."""
        return self._consumed

    def confirm(self, count: int) -> None:
        """Note that the producer has given this number of arguments: results of others are held back."""
        with self._changed:
            before, self._confirmed = self._confirmed, count
            if not self._ordered:
                self._coming.extend(position for position in range(before, count) if position in self._ready)
            self._changed.notify_all()

    def over(self, position: int, result: Result | None, argument: bytes) -> None:
        """Note a task's result; None for a task that has failed for good, in a job that goes on."""
        if not self._consumed:
            return
        with self._changed:
            self._ready[position] = result, argument
            if not self._ordered and position < self._confirmed:
                self._coming.append(position)
            self._changed.notify_all()

    def finish(self) -> None:
        """Note that no more results come; those that are ready can still be taken."""
        with self._changed:
            self._finished = True
            self._changed.notify_all()

    def give_up(self, error: HardwayError) -> None:
        """Take no more results, for the reason in the error: the driver stops."""
        with self._changed:
            self.gave_up = self.gave_up or error
            self._changed.notify_all()
        self.wake()

    # Results, for the consumer

    def results(self) -> Iterator[TaskResult]:
        """Yield results. A task that has failed for good, in a job that goes on, has an empty one."""
        self._consumed = True
        while taken := self._next():
            position, result, argument = taken
            pieces = self.read(position, result) if result else ()
            text = TaskResult(b"".join(pieces).decode("utf-8", "surrogateescape"))
            text.task, text.argument = position + 1, argument.removesuffix(b"\n").decode("utf-8", "surrogateescape")
            yield text

    def write_to(self, out: Any) -> None:
        """Write results in order, each as soon as it is ready; see `ResultWriter`. `out.room` says what can be written
        without waiting. Raises HardwayError if nothing more can be written, or if a result can't be read.
        """
        self._consumed = True
        writer = ResultWriter(_Patient(out, lambda: self.gave_up is not None))
        while taken := self._next():
            position, result, _ = taken
            writer.add(self.read(position, result) if result else None)
            if writer.is_open and self._has_after(position):
                writer.close_line()

    def _next(self) -> tuple[int, Result | None, bytes] | None:
        """Wait for the next result; return None if there is none, or nobody wants it."""
        with self._changed:
            while not self.gave_up:
                position = self.taken if self._ordered else self._coming[0] if self._coming else -1
                if position in self._ready and position < self._confirmed:
                    result, argument = self._ready.pop(position)
                    if not self._ordered:
                        self._coming.popleft()
                    self.taken += 1
                    break
                if self._finished:
                    return None
                self._changed.wait(1.0)
            else:
                return None
        if self.taken % 100 == 0:
            self.wake()  # the driver may wait for room
        return position, result, argument

    def _has_after(self, position: int) -> bool:
        """Wait for the next argument or the end of the arguments; return whether there is one."""
        with self._changed:
            while not (self._finished or self.gave_up or self._confirmed > position + 1):
                if self._read_all and not self._pending:
                    return False
                self._changed.wait(1.0)
            return self._confirmed > position + 1

    @contextlib.contextmanager
    def published(self, publish: Callable[[Any], None]) -> Iterator[None]:
        """Have `publish` write the results in a thread of its own, for this block and until all are written.

        `publish` is given this stream, and need not use it. Raises the error of the writing.
        """
        import contextvars

        context = contextvars.copy_context()
        failures: list[BaseException] = []

        def write() -> None:
            try:
                context.run(publish, self)
            except BaseException as error:
                failures.append(error)
                self.give_up(error if isinstance(error, HardwayError) else Failed(repr(error)))

        thread = threading.Thread(target=write, name="results", daemon=True)
        thread.start()
        while thread.is_alive() and not self._consumed:
            thread.join(0.01)
        try:
            yield
            self.finish()
            while thread.is_alive():
                thread.join(LOOK_EVERY)
        finally:
            self.finish()
            thread.join(_END_SECONDS)  # after an error: for the ready results, if the reader takes them
            if thread.is_alive():
                self.give_up(Interrupted())
                thread.join(_END_SECONDS)
        if failures:
            raise failures[0]


class _Patient:
    """Writes to stdout only what it takes at once, so that the thread can always be ended."""

    def __init__(self, out: Any, is_over: Callable[[], bool]) -> None:
        self._out = out
        self._is_over = is_over

    def write(self, data: bytes) -> int:
        left = memoryview(data)
        while left and not self._is_over():
            if room := self._out.room(LOOK_EVERY):
                self._out.write(bytes(left[:room]))
                self._out.flush()
                left = left[room:]
        return len(data)

    def flush(self) -> None:
        self._out.flush()


def in_background(work: Callable[[], object], stream: Stream) -> Iterator[TaskResult]:
    """Yield the stream's results while `work` runs the job in a thread; at an early end, end the job.

    Raises the error of `work`, or the producer's own.
    """
    import contextvars

    context = contextvars.copy_context()
    failures: list[BaseException] = []

    def run() -> None:
        try:
            context.run(work)
        except BaseException as error:
            failures.append(error)
        finally:
            stream.finish()

    thread = threading.Thread(target=run, name="job", daemon=True)
    thread.start()
    try:
        yield from stream.results()
    finally:
        stream.give_up(Interrupted())  # no effect at the end
        stream.close()
        while thread.is_alive():
            thread.join(LOOK_EVERY)
    if failures:
        raise stream.failure or failures[0]
