"""The attempts sent to one host, and whether its agent's messages about them can be true. Pure: it does no I/O.

An agent may be replaced, broken or hostile, so its messages are only data. An attempt enters a host's ledger when it is
sent there, and stays until it has ended, is given back or is known to be lost; it is in exactly one state at a time. A
message that our agent would not send in this state is a lie. Silence is a lie if our agent would send a message.
A slot runs one attempt at a time, by the agent's own clock: a new start in a slot means that the attempt before has
ended. A hostile agent can still give a wrong output, or no end, for a task that its host was given to run.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Iterable
from typing import NamedTuple

from hardway.pmap import agent
from hardway.pmap.clock import RemoteClock

CPUS_MOST = 4096
SLOTS_MOST = 4096  # of a host, whatever an earlier driver allowed
OVERLAP_MOST = 1e-6  # seconds by which, after rounding, a start may lie before the end that it follows
SAID_MOST = 4  # lines for a person about one attempt
CLOCKS_DIFFER = 86_400.0  # seconds by which an attempt may seem older than its job
# Seconds that an agent may take, without any other progress on its host:
ORDER_PATIENCE = 30.0  # to give back an attempt as ordered, or to say that the attempt has started
START_PATIENCE = 60.0  # to start an attempt, while none runs
END_PATIENCE = 60.0  # to end an attempt as ordered or by its time limit, or to send an end that is known
_FLAGS = agent.TIMED_OUT | agent.KILLED | agent.NO_START | agent.HOST_FAULT | agent.NO_MEMORY
_unpack_start, _unpack_result = agent.START.unpack, agent.RESULT.unpack_from
_SENT, _RUNNING, _ENDED = agent.WAITING, agent.RUNNING, agent.ENDED


class Lie(Exception):
    """A message that our agent would not have sent at this point."""


class Holding(NamedTuple):
    """An attempt that an agent holds. If it runs, it `began` then by the agent's clock, `seconds` ago."""

    task: int
    attempt: int
    state: int
    slot: int
    began: float
    seconds: float


class Begun(NamedTuple):
    """An attempt has started in a slot of its host; `began` in seconds of Unix."""

    task: int
    attempt: int
    slot: int
    began: float


class End(NamedTuple):
    """An agent's report of an attempt's end; `wanted` is False if the end was known already."""

    code: int
    flags: int
    seconds: float
    sizes: list[int]
    checksums: list[int]
    inline: bytes
    wanted: bool


class Entry:
    """One attempt that may be on the host."""

    __slots__ = (
        *("began", "got", "killed", "ordered", "orders", "said", "sent", "since", "slot", "state", "stranger", "until"),
    )

    def __init__(self, state: int, since: float, stranger: bool) -> None:
        self.state = state
        self.since = since  # when it was sent, or started
        self.sent = time.time()
        self.slot = -1
        self.began = 0.0  # by the agent's clock
        self.until = math.inf  # its latest possible end, by the agent's clock
        self.orders = 0  # to give it back or end it, over the present connection
        self.ordered = 0.0  # when the last order was given
        self.killed = False
        self.said = 0  # lines for a person about it
        self.got = [0, 0]  # bytes of its outputs, over the present connection
        self.stranger = stranger  # an earlier driver sent it, and may have allowed more slots


class Ledger:
    """All attempts that one host may hold, by task and attempt; times are in seconds of the driver's clock."""

    def __init__(self, earlier: Iterable[tuple[int, int]] = (), created: float = 0.0) -> None:
        """Take the attempts that `earlier` drivers sent to the host.

        `created` is when the job was made, in seconds of Unix: no attempt of the job is much older.
        """
        self.open: dict[tuple[int, int], Entry] = {}
        self.over: set[tuple[int, int]] = set()  # settled for us; the agent may not know so yet
        self.shares = False  # another job runs there, and may use the free slots
        self.slots = 0
        self._earlier = set(earlier)
        self._created = created
        self._twice: set[tuple[int, int]] = set()  # those of `over` whose end this connection may send again
        self._last: dict[int, Entry] = {}  # by slot, the last attempt that started there
        self._clock = RemoteClock()
        self._echoes: dict[tuple[int, int], int] = {}  # orders that came after their attempt was given back
        self.progress = 0.0  # when an attempt last made progress there, or a connection began

    @property
    def most(self) -> int:
        """The largest number of attempts that the agent can hold."""
        return len(self.open) + len(self.over) + len(self._earlier)

    # The driver's actions

    def sent(self, task: int, attempt: int, now: float) -> None:
        """Note that an attempt goes out."""
        self.open[task, attempt] = Entry(_SENT, now, False)

    def ordered(self, task: int, attempt: int, kill: bool, now: float) -> None:
        """Note that the agent is asked to give the attempt back, or with `kill` to end it."""
        entry = self.open.get((task, attempt))
        if entry is not None:
            entry.orders += 1
            entry.ordered = now
            entry.killed |= kill

    # The agent's messages

    def hello(self, holdings: Iterable[Holding], now: float) -> tuple[list[tuple[int, int, bool]], list[Begun]]:
        """Take in a greeting, with all attempts that the agent holds. Raises Lie.

        Return the attempts that were sent there and are lost, as (task, attempt, whether it had started), and the
        starts that were not known before.
        """
        found: dict[tuple[int, int], Entry] = {}
        twice: set[tuple[int, int]] = set()
        begun = []
        self._last = {}
        for holding in sorted(holdings, key=lambda holding: holding.began):
            key = holding.task, holding.attempt
            if key in found or key in twice or holding.state not in (_SENT, _RUNNING, _ENDED):
                raise Lie(f"it holds task {holding.task} twice, or in an unknown state")
            self._check_seconds(holding.task, holding.seconds)
            if key in self.over:
                if holding.state != _ENDED:
                    raise Lie(f"task {holding.task} has ended there, and now it says that it hasn't")
                twice.add(key)
                continue
            entry = found[key] = self._held(holding, now)
            if holding.state != _SENT and (news := self._take_up(entry, holding)):
                begun.append(news)
        gone = [(*key, entry.state != _SENT) for key, entry in self.open.items() if key not in found]
        self.open = found
        self._earlier.clear()  # the attempts that are left are in `open` now
        self._twice = twice
        self._echoes = {}
        self.shares = False
        self.progress = now
        return gone, begun

    def _held(self, holding: Holding, now: float) -> Entry:
        """Return the entry of an attempt that the agent names in its greeting. Raises Lie."""
        key = holding.task, holding.attempt
        entry = self.open.get(key)
        if entry is None:
            if key not in self._earlier:
                raise Lie(f"it holds attempt {holding.attempt} of task {holding.task}, which was not sent there")
            entry = Entry(holding.state, now, True)
        elif entry.state > holding.state:
            raise Lie(f"task {holding.task} had started or ended there before, and now it has not")
        if holding.state == _RUNNING:
            entry.since = now - holding.seconds
        entry.state = holding.state
        entry.orders, entry.killed, entry.got = 0, False, [0, 0]
        return entry

    def _take_up(self, entry: Entry, holding: Holding) -> Begun | None:
        """Note the slot of an attempt that is held, and return its start; None if it was known. Raises Lie."""
        if entry.slot >= 0 and (entry.slot, entry.began) != (holding.slot, holding.began):
            raise Lie(f"task {holding.task} has moved to another slot, or to another start")
        before = self._last.get(holding.slot)
        if before is not None and before.state == _RUNNING:
            raise Lie(f"it runs task {holding.task} in a slot where another runs")
        news = entry.slot < 0
        self._occupy(holding.task, entry, holding.slot, holding.began, SLOTS_MOST)
        if not news:
            return None
        latest = time.time() - holding.seconds
        began = self._clock.here(holding.began, latest if entry.stranger else entry.sent, latest)
        return Begun(holding.task, holding.attempt, holding.slot, began)

    def _occupy(self, task: int, entry: Entry, slot: int, began: float, slots: int) -> None:
        """Give the slot to the attempt; the slot's attempt before has ended. Raises Lie."""
        if not slot < slots or not math.isfinite(began):
            raise Lie(f"it starts task {task} in a slot that is not there")
        before = self._last.get(slot)
        if before is not None:
            if began < (before.began if before.until == math.inf else before.until) - OVERLAP_MOST:
                raise Lie(f"it starts task {task} in a slot where another runs")
            if before.until > began:
                before.until, before.state = began, _ENDED
        entry.slot, entry.began = slot, began
        self._last[slot] = entry

    def settled(self, task: int, attempt: int) -> None:
        """Note that the result of an ended attempt is not wanted: the agent forgets it, and may send it in part."""
        if self.open.pop((task, attempt), None):
            self.over.add((task, attempt))
            self._twice.add((task, attempt))

    def said(self, task: int, attempt: int) -> None:
        """Take in a line about an attempt that runs. Raises Lie."""
        entry = self.open.get((task, attempt))
        if entry is None or entry.state == _SENT or entry.said >= SAID_MOST:
            raise Lie(f"it tells of task {task}, which does not run there, or tells too much")
        entry.said += 1

    def started(self, task: int, attempt: int, payload: bytes, now: float) -> Begun:
        """Take in an attempt's start. Raises Lie."""
        entry = self.open.get((task, attempt))
        if entry is None or entry.state != _SENT:
            raise Lie(f"it starts attempt {attempt} of task {task}, which does not wait there")
        try:
            slot, began = _unpack_start(payload)
        except struct.error:
            raise Lie(f"it starts task {task} in no slot") from None
        self._occupy(task, entry, slot, began, SLOTS_MOST if entry.stranger else self.slots)
        entry.state = _RUNNING
        self.progress = entry.since = now
        return Begun(task, attempt, slot, self._clock.here(began, entry.sent, time.time()))

    def finished(self, task: int, attempt: int, now: float) -> None:
        """Take in the end of an attempt whose outputs are not sent yet. Raises Lie."""
        entry = self.open.get((task, attempt))
        if entry is None or entry.state != _RUNNING:
            raise Lie(f"it finishes attempt {attempt} of task {task}, which does not run there")
        entry.state = _ENDED
        self.progress = now

    def chunk(self, task: int, attempt: int, payload: bytes, now: float) -> tuple[int, bool]:
        """Take in a chunk of output; return its stream (0 is stdout), and whether it is wanted. Raises Lie."""
        key = task, attempt
        if not 1 < len(payload) <= 1 + agent.CHUNK_SIZE or payload[0] > 1:
            raise Lie(f"malformed output of task {task}")
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
        """Take in an attempt's end. Raises Lie."""
        key = task, attempt
        if len(payload) < agent.RESULT.size:
            raise Lie(f"an end of task {task} that is cut short")
        code, flags, seconds, size, err_size, checksum, err_checksum = _unpack_result(payload)
        sizes, checksums = [size, err_size], [checksum, err_checksum]
        inline = payload[agent.RESULT.size :]
        if flags & ~_FLAGS or not -65 < code < 256:
            raise Lie(f"task {task} ended with an impossible code or flags: {code}, {flags}")
        self._check_seconds(task, seconds)
        entry = self.open.get(key)
        if entry is None:
            if key not in self._twice:
                raise Lie(f"the end of attempt {attempt} of task {task}, which is not there")
            self._twice.discard(key)
            return End(code, flags, seconds, sizes, checksums, inline, False)
        if entry.state == _SENT:
            raise Lie(f"task {task} ended before it had started")
        if entry.began + seconds > entry.until + OVERLAP_MOST:
            raise Lie(f"task {task} ended after another one had begun in its slot")
        # If the agent can't read an output back, it sends a part, and an error in place of the rest.
        # The agent keeps no output of an attempt that it ended just before it leaves.
        pieces = any(entry.got) and not flags & (agent.HOST_FAULT | agent.KILLED)
        if pieces and (sizes != entry.got or inline):
            raise Lie(f"output of task {task} of another size than it says")
        if not pieces and not flags & agent.KILLED and not sum(sizes) == len(inline) <= agent.INLINE:
            raise Lie(f"output of task {task} of another size than it says")
        entry.until = min(entry.until, entry.began + seconds)
        entry.state = _ENDED
        del self.open[key]
        self.over.add(key)
        self.progress = now
        return End(code, flags, seconds, sizes, checksums, inline, True)

    def returned(self, task: int, attempt: int, now: float) -> bool:
        """Take an attempt back, as asked; return False if it was given back before. Raises Lie."""
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
        """Return (task, attempt) of each attempt that the agent may hold."""
        return self._earlier.union(self.open, self.over)

    def overdue(self, now: float, since: float, timeout: float) -> str:
        """Return text about a message that the agent owes at `now`; empty if it owes none.

        The agent has answered all pings since `since`. `now` is when the last answered ping was sent: everything sent
        before has arrived there. `timeout` is the tasks' time limit in seconds, 0 for none.
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
            elif waited > END_PATIENCE:
                why = "in whose slot another one runs" if entry.until < math.inf else "which it says has ended"
                return f"it does not send the end of task {task}, {why}"
        return ""

    def _check_seconds(self, task: int, seconds: float) -> None:
        if not 0 <= seconds <= CLOCKS_DIFFER and not 0 <= seconds <= time.time() - self._created + CLOCKS_DIFFER:
            raise Lie(f"task {task} ran for {seconds} s")
