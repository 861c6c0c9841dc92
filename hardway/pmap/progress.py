"""The display of a running job on stderr: a line for each event, and the progress."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Protocol, TextIO

from hardway.system import streams
from hardway.tables import count, duration
from hardway.terminal import Cell, command_line, notebook_cell, printable, redrawn

LINE_EVERY = 10.0  # seconds between lines, where nothing can be redrawn
LIVE_EVERY = 0.2
_RATE_AFTER = 10.0  # seconds of a run before its rate means much
_SOON = 600.0
_SLOW_FROM = 0.1  # seconds of a task before its time means anything
RETRIES_TOLD = 5  # lines about retries; further retries are only counted


class JobStanding(Protocol):
    """Numbers of tasks, and of failed attempts; times are monotonic.

    `total` is the number so far if there may be `more`. `retrying` tasks wait before they are tried again, the first of
    them until `next_retry`. `unstarted` says whether other tasks wait for a slot. `slowest` is the position, host and
    start of the task that has run longest.
    """

    @property
    def total(self) -> int: ...
    @property
    def more(self) -> bool: ...
    @property
    def done(self) -> int: ...
    @property
    def failed(self) -> int: ...
    @property
    def running(self) -> int: ...
    @property
    def left(self) -> int: ...
    @property
    def failed_attempts(self) -> int: ...
    @property
    def retrying(self) -> int: ...
    @property
    def next_retry(self) -> float | None: ...
    @property
    def unstarted(self) -> bool: ...
    @property
    def slowest(self) -> tuple[int, Any, float] | None: ...


class Progress:
    """The display; silent if not `shown`, live on a terminal that can redraw. Use as a context manager.

    It is not `redrawn` if something else writes to the same terminal.
    """

    def __init__(self, shown: bool = True, stream: TextIO | None = None, redrawn: bool = True) -> None:
        self.shown = shown
        self._redrawn = redrawn
        self._stream = stream or streams.talk()
        self._live: Any = None
        self._cell: Cell | None = None
        self._began = self._said = self._drawn = time.monotonic()
        self._done_at_start = 0
        self._numbers: Sequence[int] = ()
        self._retries = 0
        self._ends = math.inf

    def __enter__(self) -> Progress:
        console = redrawn(self._stream) if self.shown and self._redrawn else None
        if console:
            from rich.live import Live

            self._live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False)
            self._live.start()
        elif self.shown:
            self._cell = notebook_cell()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()
        if self._cell:
            self._cell.end()

    def say(self, *lines: str) -> None:
        """Print lines about an event."""
        for line in map(printable, lines) if self.shown else ():
            if self._live:
                self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)
            else:
                print(line, file=self._stream, flush=True)

    def retry(self, line: str) -> None:
        """Print a line about a task that failed and will be retried; after a few such lines only count them."""
        self._retries += 1
        if self._retries <= RETRIES_TOLD:
            self.say(line)
        elif self._retries == RETRIES_TOLD + 1:
            self.say("(further retries not shown)")

    def expect_end(self, when: float) -> None:
        """Set when the first instances end themselves, by the monotonic clock; warn if the job needs longer."""
        self._ends = when

    def begin(self, numbers: Sequence[int], done: int) -> None:
        """Begin a run with `done` tasks finished; `numbers` are the task numbers, by position."""
        self._began = self._said = time.monotonic()
        self._done_at_start = done
        self._numbers = numbers

    def update(self, standing: JobStanding, instances: int, now: float) -> None:
        """Show the job's progress, if it is time; `now` is the monotonic clock."""
        if not self.shown:
            return
        if self._live:
            if now - self._drawn >= LIVE_EVERY:
                self._drawn = now
                self._tell_of_end(standing, now)
                self._live.update(self._block(standing, instances, now), refresh=True)
        elif self._cell:
            if now - self._drawn >= LIVE_EVERY:
                self._drawn = now
                self._tell_of_end(standing, now)
                self._cell.show(standing.done, standing.total, self.line(standing, instances, now))
        elif now - self._said >= LINE_EVERY:
            self._said = now
            self._tell_of_end(standing, now)
            print(self.line(standing, instances, now), file=self._stream, flush=True)

    def _tell_of_end(self, standing: JobStanding, now: float) -> None:
        if self._outlasts(standing, now):
            extend = command_line("ec2.extend", "SELECTOR", "--hours", "N")
            self.say(
                f"the first instances end themselves in {duration(max(0.0, self._ends - now), 2)}, and the job may "
                f"need longer: `{extend}` gives them more time"
            )
            self._ends = math.inf

    def _outlasts(self, standing: JobStanding, now: float) -> bool:
        """Return whether the job outlasts the instances; before any task is done, whether their end is near."""
        ran, done = now - self._began, standing.done - self._done_at_start
        if done >= max(standing.running, 1) and ran >= _RATE_AFTER:
            return now + standing.left / done * ran > self._ends
        return done == 0 and now > self._ends - _SOON

    def line(self, standing: JobStanding, instances: int, now: float) -> str:
        """Return one line with the job's progress, and the tasks it waits for."""
        rate = (standing.done - self._done_at_start) / max(now - self._began, 0.001)
        so_far = f"{standing.done:,} of {standing.total:,} so far done"
        parts = [so_far if standing.more else f"{standing.done}/{standing.total} done"]
        if standing.failed:
            parts.append(f"{standing.failed} failed")
        if standing.running:
            parts.append(f"{standing.running} running")
        attempts = count(standing.failed_attempts, "failed attempt")
        if standing.retrying:
            parts.append(f"{standing.retrying} waiting to retry ({attempts})")
            if standing.next_retry is not None and not standing.running:
                parts[-1] += f", next in {duration(max(0, round(standing.next_retry - now)), 2)}"
        elif standing.failed_attempts:
            parts.append(attempts)
        if rate > 0:
            parts.append(f"{rate:.3g} tasks/s")
        parts.append(count(instances, "instance"))
        if rate > 0 and standing.unstarted and not standing.more:  # the rate doesn't predict when the last tasks end
            parts.append(f"{duration(standing.left / rate, 2)} left")
        if slowest := standing.slowest:
            task, host, since = slowest
            if now - since >= _SLOW_FROM:
                ran = duration(now - since, 2)
                parts.append(f"slowest: task {self._numbers[task]} on {printable(str(host))} for {ran}")
        return ", ".join(parts)

    def _block(self, standing: JobStanding, instances: int, now: float) -> object:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        # A bar ends no line of its own.
        block = Table.grid()
        block.add_row(ProgressBar(total=max(standing.total, 1), completed=standing.done, width=60))
        block.add_row(Text(self.line(standing, instances, now)))
        return block
