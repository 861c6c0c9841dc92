"""What was sent to one host, and whether what its agent says of it can be true. Pure: it does no I/O.

An agent may be replaced, broken or hostile: what it says is data. An attempt is in a host's ledger from when it is sent
there until it has ended, was given back or is known to be lost, and it is in exactly one state there. What doesn't
follow from that state by a step that our agent takes is a lie, and so is silence about what our agent always tells.
What remains possible is a wrong output, and an end that never comes, of a task that the host was given to run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import NamedTuple

from hardway.pmap import agent

CPUS_MOST = 4096
SAID_MOST = 4  # lines for a person, of one attempt
CLOCKS_DIFFER = 86_400.0  # seconds by which an attempt may seem older than its job
# Seconds, without any other progress there, until an agent
ORDER_PATIENCE = 30.0  # has given back what it was asked for, or said that it had started it,
START_PATIENCE = 60.0  # has started something, where nothing runs,
END_PATIENCE = 60.0  # has ended what it was told to end, or whose time is over
_FLAGS = agent.TIMED_OUT | agent.KILLED | agent.NO_START | agent.HOST_FAULT
_SENT, _RUNNING, _ENDED = agent.WAITING, agent.RUNNING, agent.ENDED


class Lie(Exception):
    """What our agent would not have said there and then."""


class Holding(NamedTuple):
    """An attempt that an agent holds; `seconds` since it started, or that it took."""

    task: int
    attempt: int
    state: int
    seconds: float


class End(NamedTuple):
    """What an agent says of an attempt's end; `wanted` is False where that was known already."""

    code: int
    flags: int
    seconds: float
    worker: int
    sizes: list[int]
    checksums: list[int]
    inline: bytes
    wanted: bool


class Entry:
    """One attempt that may be on the host."""

    __slots__ = ("got", "killed", "ordered", "orders", "said", "since", "state", "stranger")

    def __init__(self, state: int, since: float, stranger: bool) -> None:
        self.state = state
        self.since = since  # when it was sent, or started
        self.orders = 0  # to give it back or end it, over the present connection
        self.ordered = 0.0  # when the last of them was given
        self.killed = False
        self.said = 0  # how often there was something to say of it
        self.got = [0, 0]  # bytes of its outputs, over the present connection
        self.stranger = stranger  # an earlier driver sent it, to workers of other numbers


class Ledger:
    """All attempts that one host may know of, by task and attempt; times are of the driver's clock."""

    def __init__(self, earlier: Iterable[tuple[int, int]] = (), created: float = 0.0, complete: bool = True) -> None:
        """`earlier` are the attempts that earlier drivers sent there; not all of them unless `complete`.

        `created` is when the job was, in seconds of Unix: nothing of it is much older.
        """
        self.open: dict[tuple[int, int], Entry] = {}
        self.over: set[tuple[int, int]] = set()  # ended, as far as it concerns us; the agent may not know that yet
        self.shares = False  # another job runs there: what is free may be that one's
        self.workers = range(0)
        self._earlier = set(earlier)
        self._complete = complete
        self._created = created
        self._twice: set[tuple[int, int]] = set()  # of `over`, what this connection tells of once more
        self._echoes: dict[tuple[int, int], int] = {}  # orders for what was given back before they came
        self.progress = 0.0  # when the last attempt got on there, or a connection began

    @property
    def most(self) -> int:
        """How many attempts the agent can hold."""
        return len(self.open) + len(self.over) + len(self._earlier) if self._complete else 1 << 16

    # What the driver does

    def sent(self, task: int, attempt: int, now: float) -> None:
        """The attempt goes out."""
        self.open[task, attempt] = Entry(_SENT, now, False)

    def ordered(self, task: int, attempt: int, kill: bool, now: float) -> None:
        """The agent is asked for the attempt back, or to end it."""
        entry = self.open.get((task, attempt))
        if entry is not None:
            entry.orders += 1
            entry.ordered = now
            entry.killed |= kill

    # What the agent says

    def hello(self, holdings: Iterable[Holding], now: float) -> list[tuple[int, int, bool]]:
        """A connection begins: what it holds is all it has. Raises Lie.

        Returns the task and attempt of what was sent there and is gone, and whether it had started.
        """
        found: dict[tuple[int, int], Entry] = {}
        twice = set()
        for task, attempt, state, seconds in holdings:
            key = task, attempt
            if key in found or key in twice or state not in (_SENT, _RUNNING, _ENDED):
                raise Lie(f"it holds task {task} twice, or in no state")
            self._check_seconds(task, seconds)
            entry = self.open.get(key)
            if key in self.over:
                if state != _ENDED:
                    raise Lie(f"task {task} has ended there before, and runs")
                twice.add(key)
                continue
            if entry is None:
                if self._complete and key not in self._earlier:
                    raise Lie(f"it holds attempt {attempt} of task {task}, which was not sent there")
                entry = Entry(state, now, True)
            elif entry.state > state:
                raise Lie(f"task {task} had started there before, and waits")
            if state == _RUNNING:
                entry.since = now - seconds
            entry.state = state
            entry.orders, entry.killed, entry.got = 0, False, [0, 0]
            found[key] = entry
        gone = [(*key, entry.state != _SENT) for key, entry in self.open.items() if key not in found]
        self.open = found
        self._earlier.clear()  # what is left of it is in `open` now
        self._complete = True
        self._twice = twice
        self._echoes = {}
        self.shares = False
        self.progress = now
        return gone

    def settled(self, task: int, attempt: int) -> None:
        """An attempt that has ended there is not wanted: the agent is told to forget it, and may not send all of it."""
        if self.open.pop((task, attempt), None):
            self.over.add((task, attempt))
            self._twice.add((task, attempt))

    def said(self, task: int, attempt: int) -> None:
        """There is something to say of an attempt that runs. Raises Lie."""
        entry = self.open.get((task, attempt))
        if entry is None or entry.state == _SENT or entry.said >= SAID_MOST:
            raise Lie(f"it has something to say of task {task}, which does not run there, or too much")
        entry.said += 1

    def started(self, task: int, attempt: int, payload: bytes, now: float) -> None:
        """It runs. Raises Lie."""
        entry = self.open.get((task, attempt))
        if entry is None or entry.state != _SENT:
            raise Lie(f"it starts attempt {attempt} of task {task}, which does not wait there")
        if len(payload) != 4 or not (entry.stranger or int.from_bytes(payload, "big") in self.workers):
            raise Lie(f"it starts task {task} in a slot that is not there")
        entry.state = _RUNNING
        self.progress = entry.since = now

    def chunk(self, task: int, attempt: int, payload: bytes, now: float) -> tuple[int, bool]:
        """Output arrives: which (0 is stdout), and whether it is wanted. Raises Lie."""
        key = task, attempt
        if not 1 < len(payload) <= 1 + agent.CHUNK_SIZE or payload[0] > 1:
            raise Lie(f"output of task {task} that is none")
        entry = self.open.get(key)
        if entry is None:
            if key not in self._twice:
                raise Lie(f"output of attempt {attempt} of task {task}, which is not there")
            return payload[0], False
        if entry.state == _SENT:
            raise Lie(f"output of task {task}, which has not started")
        entry.got[payload[0]] += len(payload) - 1
        self.progress = now
        return payload[0], True

    def ended(self, task: int, attempt: int, payload: bytes, now: float) -> End:
        """It has ended. Raises Lie."""
        key = task, attempt
        if len(payload) < agent.RESULT.size:
            raise Lie(f"an end of task {task} that is cut short")
        code, flags, seconds, worker, *counts = agent.RESULT.unpack_from(payload)
        sizes, checksums = counts[:2], counts[2:]
        inline = payload[agent.RESULT.size :]
        if flags & ~_FLAGS or not -65 < code < 256:
            raise Lie(f"task {task} ended in no way that there is: {code}, {flags}")
        self._check_seconds(task, seconds)
        entry = self.open.get(key)
        if entry is None:
            if key not in self._twice:
                raise Lie(f"the end of attempt {attempt} of task {task}, which is not there")
            self._twice.discard(key)
            return End(code, flags, seconds, worker, sizes, checksums, inline, False)
        if entry.state == _SENT and not flags & (agent.NO_START | agent.HOST_FAULT | agent.KILLED):
            raise Lie(f"task {task} ended before it had started")
        if not entry.stranger and worker not in self.workers:
            raise Lie(f"task {task} ended in a slot that is not there")
        # What the agent can't read back it has sent in part, and says so in place of the rest.
        # And of what it ended when it was about to go it has kept nothing.
        pieces = any(entry.got) and not flags & (agent.HOST_FAULT | agent.KILLED)
        if pieces and (sizes != entry.got or inline):
            raise Lie(f"output of task {task} of another size than it says")
        if not pieces and not flags & agent.KILLED and not sum(sizes) == len(inline) <= agent.INLINE:
            raise Lie(f"output of task {task} of another size than it says")
        del self.open[key]
        self.over.add(key)
        self.progress = now
        return End(code, flags, seconds, worker, sizes, checksums, inline, True)

    def returned(self, task: int, attempt: int, now: float) -> bool:
        """It gives the attempt back, as asked; False where it had done so. Raises Lie."""
        key = task, attempt
        if self._echoes.get(key):
            self._echoes[key] -= 1
            return False
        entry = self.open.get(key)
        if entry is None:
            raise Lie(f"it gives back attempt {attempt} of task {task}, which is not there")
        if entry.state != _SENT or not entry.orders:
            raise Lie(f"it gives back task {task}, which {'waits' if entry.state == _SENT else 'runs'} there")
        if entry.orders > 1:
            self._echoes[key] = entry.orders - 1
        del self.open[key]
        self.progress = now
        return True

    def known(self) -> set[tuple[int, int]]:
        """Task and attempt of all that the agent may hold."""
        return self._earlier.union(self.open, self.over)

    def overdue(self, now: float, since: float, timeout: float) -> str:
        """What an agent should have said by `now`, having answered all the time since then; empty: nothing.

        `now` is when the last ping that it has answered was sent: all that was sent before has got there.
        """
        since = max(since, self.progress)
        if now < since:
            return ""
        running = sum(entry.state == _RUNNING for entry in self.open.values())
        for (task, _), entry in self.open.items():
            waited = now - max(since, entry.ordered if entry.orders else entry.since)
            if entry.state == _SENT:
                if entry.orders and waited > ORDER_PATIENCE:
                    return f"it neither starts task {task} nor gives it back"
                if not running and waited > START_PATIENCE and not self.shares:
                    return f"it does not start task {task}, though nothing runs there"
            elif entry.state == _RUNNING:
                if entry.killed and waited > END_PATIENCE:
                    return f"it does not end task {task}, as it was told to"
                if timeout and now - max(since, entry.since + timeout) > END_PATIENCE:
                    return f"it does not end task {task}, whose time is over"
        return ""

    def _check_seconds(self, task: int, seconds: float) -> None:
        most = time.time() - self._created + CLOCKS_DIFFER
        if not 0 <= seconds <= most or not math.isfinite(seconds):
            raise Lie(f"task {task} ran for {seconds} s")
