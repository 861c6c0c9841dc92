"""The ledger checks an agent's messages: an honest agent is never accused, a liar always is."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hardway.pmap import agent
from hardway.pmap.ledger import END_PATIENCE, ORDER_PATIENCE, SLOTS_MOST, START_PATIENCE, Holding, Ledger, Lie
from hardway.pmap.link import Incoming

SLOTS = 2
CHECKSUMS = [0, 0]  # of outputs: the driver's to look at


def result(code: int = 0, flags: int = 0, seconds: float = 1.0, out: bytes = b"", err: int = 0) -> bytes:
    return agent.RESULT.pack(code, flags, seconds, len(out), err, *CHECKSUMS) + out


def slot(number: int = 0, began: float = 100.0) -> bytes:
    return agent.START.pack(number, began)


def holding(task: int, attempt: int, state: int, seconds: float = 0.0, number: int = 0) -> Holding:
    """An attempt as an agent tells of it whose clock shows 100 s."""
    return Holding(task, attempt, state, number, 100.0 - seconds, seconds)


@pytest.fixture
def ledger() -> Ledger:
    """The ledger of a host that was sent the first attempts of tasks 1 to 3, and runs task 1."""
    made = Ledger(created=time.time())
    assert made.hello([], 0.0) == ([], [])
    made.slots = SLOTS
    for task in (1, 2, 3):
        made.sent(task, 1, 0.0)
    made.started(1, 1, slot(), 0.0)
    return made


def given_back_while_it_runs(one: Ledger) -> None:
    one.ordered(1, 1, False, 0.0)
    one.returned(1, 1, 1.0)


def started_after_its_end(one: Ledger) -> None:
    one.ended(1, 1, result(), 1.0)
    one.started(1, 1, slot(0, 102.0), 1.0)


def said_without_end(one: Ledger) -> None:
    for _ in range(99):
        one.said(1, 1)


def finished(one: Ledger, then: Callable[[], object] = lambda: None) -> None:
    one.finished(1, 1, 1.0)
    then()


LIES: dict[str, Callable[[Ledger], object]] = {
    "a start of what was never sent": lambda one: one.started(9, 1, slot(), 1.0),
    "a start of another attempt": lambda one: one.started(2, 2, slot(), 1.0),
    "a start twice": lambda one: one.started(1, 1, slot(), 1.0),
    "a start in no slot": lambda one: one.started(2, 1, slot(SLOTS), 1.0),
    "a start without a slot": lambda one: one.started(2, 1, b"", 1.0),
    "an end of what was never sent": lambda one: one.ended(9, 1, result(), 1.0),
    "an end of another attempt": lambda one: one.ended(1, 65_535, result(), 1.0),
    "an end before the start": lambda one: one.ended(2, 1, result(), 1.0),
    "an end that is cut short": lambda one: one.ended(1, 1, result()[:-1], 1.0),
    "an end with a flag of ours": lambda one: one.ended(1, 1, result(flags=8), 1.0),
    "an end with an exit code that there isn't": lambda one: one.ended(1, 1, result(code=256), 1.0),
    "an end by a signal that there isn't": lambda one: one.ended(1, 1, result(code=-65), 1.0),
    "an end after less than no time": lambda one: one.ended(1, 1, result(seconds=-1.0), 1.0),
    "an end after no number of seconds": lambda one: one.ended(1, 1, result(seconds=float("nan")), 1.0),
    "an end after ever": lambda one: one.ended(1, 1, result(seconds=float("inf")), 1.0),
    "an end after longer than the job": lambda one: one.ended(1, 1, result(seconds=1e6), 1.0),
    "a start at no time": lambda one: one.started(2, 1, slot(1, float("nan")), 1.0),
    "a start in a slot before what runs there": lambda one: one.started(2, 1, slot(0, 99.0), 1.0),
    "a start in a slot before the end of what ran there": lambda one: (
        one.ended(1, 1, result(), 1.0),
        one.started(2, 1, slot(0, 100.9), 1.0),
    ),
    "an end after another start in its slot": lambda one: (
        one.started(2, 1, slot(0, 100.9), 1.0),
        one.ended(1, 1, result(), 1.0),
    ),
    "an end before the start of what could not be started": lambda one: one.ended(
        2, 1, result(126, agent.HOST_FAULT, 0.0), 1.0
    ),
    "less output than it says": lambda one: one.ended(1, 1, result(err=1), 1.0),
    "more output than it says": lambda one: one.ended(1, 1, result() + b"x", 1.0),
    "an output in pieces and another size": lambda one: (one.chunk(1, 1, b"\0ab", 1.0), one.ended(1, 1, result(), 1.0)),
    "an output both ways": lambda one: (one.chunk(1, 1, b"\0ab", 1.0), one.ended(1, 1, result(out=b"ab"), 1.0)),
    "an output that is cut short with a fault": lambda one: (
        one.chunk(1, 1, b"\0ab", 1.0),
        one.ended(1, 1, result(flags=agent.HOST_FAULT, err=1), 1.0),
    ),
    "a finish of what waits": lambda one: one.finished(2, 1, 1.0),
    "a finish twice": lambda one: finished(one, lambda: one.finished(1, 1, 1.0)),
    "a start after the finish": lambda one: finished(one, lambda: one.started(1, 1, slot(0, 102.0), 1.0)),
    "a holding that runs after the finish": lambda one: finished(one, lambda: one.hello([holding(1, 1, 1)], 1.0)),
    "something to say of what waits": lambda one: one.said(2, 1),
    "something to say without end": said_without_end,
    "output of what waits": lambda one: one.chunk(2, 1, b"\0a", 1.0),
    "output of what was never sent": lambda one: one.chunk(9, 1, b"\0a", 1.0),
    "output of a third kind": lambda one: one.chunk(1, 1, b"\2a", 1.0),
    "output of no bytes": lambda one: one.chunk(1, 1, b"\0", 1.0),
    "output of no kind": lambda one: one.chunk(1, 1, b"", 1.0),
    "a return that nobody asked for": lambda one: one.returned(2, 1, 1.0),
    "a return of what runs": given_back_while_it_runs,
    "a return of what was never sent": lambda one: one.returned(9, 1, 1.0),
    "an end twice": lambda one: (one.ended(1, 1, result(), 1.0), one.ended(1, 1, result(), 1.0)),
    "a start after the end": started_after_its_end,
    "a holding that was never sent": lambda one: one.hello([holding(9, 1, 0)], 1.0),
    "a holding of another attempt": lambda one: one.hello([holding(1, 65_535, 1)], 1.0),
    "a holding in no state": lambda one: one.hello([holding(1, 1, 3)], 1.0),
    "a holding twice": lambda one: one.hello([holding(1, 1, 1)] * 2, 1.0),
    "a holding that ran backwards": lambda one: one.hello([holding(1, 1, 0)], 1.0),
    "a holding that is older than the job": lambda one: one.hello([holding(1, 1, 1, 1e6)], 1.0),
    "a holding in another slot": lambda one: one.hello([holding(1, 1, 1, number=1)], 1.0),
    "a holding that started at another time": lambda one: one.hello([holding(1, 1, 1, 0.5)], 1.0),
    "a holding in a slot beyond all": lambda one: one.hello([holding(2, 1, 1, number=SLOTS_MOST)], 1.0),
    "two that run in one slot": lambda one: one.hello([holding(1, 1, 1), holding(2, 1, 1)], 1.0),
    "one that runs on, though another had its slot": lambda one: (
        one.started(2, 1, slot(0, 100.5), 1.0),
        one.hello([holding(1, 1, 1)], 1.0),
    ),
    "a holding that has ended": lambda one: (one.ended(1, 1, result(), 1.0), one.hello([holding(1, 1, 1)], 1.0)),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_a_lie_is_one(ledger: Ledger, lie: Callable[[Ledger], object]) -> None:
    with pytest.raises(Lie):
        lie(ledger)


def test_an_agent_that_can_not_read_an_output_back_may_say_so_after_a_part_of_it(ledger: Ledger) -> None:
    ledger.chunk(1, 1, b"\0ab", 1.0)
    assert ledger.ended(1, 1, result(flags=agent.HOST_FAULT, out=b"why"), 1.0).wanted


def test_what_was_ended_as_the_agent_went_has_no_output(ledger: Ledger) -> None:
    assert ledger.ended(1, 1, result(code=-15, flags=agent.KILLED, err=70_000), 1.0).wanted


def test_what_ended_and_is_not_wanted_may_be_forgotten_there(ledger: Ledger) -> None:
    ledger.hello([holding(1, 1, agent.ENDED)], 1.0)
    ledger.chunk(1, 1, b"\0ab", 1.0)
    ledger.settled(1, 1)
    assert ledger.chunk(1, 1, b"\0ab", 1.0) == (0, False)
    assert ledger.hello([], 2.0) == ([], [])


def test_an_earlier_drivers_attempts_are_known_and_no_others() -> None:
    now = time.time()
    resumed = Ledger({(1, 3)}, created=now)
    assert resumed.most == 1
    gone, [begun] = resumed.hello([holding(1, 3, agent.RUNNING, 5.0, number=7)], 0.0)
    assert (gone, begun[:3]) == ([], (1, 3, 7)), "that driver allowed more slots"
    assert begun.began == pytest.approx(now - 5, abs=1)
    assert resumed.ended(1, 3, result(seconds=6.0), 1.0).wanted
    with pytest.raises(Lie, match="attempt 2 of task 1, which was not sent there"):
        Ledger({(1, 3)}, created=now).hello([holding(1, 2, agent.RUNNING, 5.0)], 0.0)


def test_what_started_while_nobody_heard_it_is_told_once(ledger: Ledger) -> None:
    gone, begun = ledger.hello([holding(1, 1, agent.RUNNING), holding(3, 1, agent.ENDED, number=1)], 1.0)
    assert gone == [(2, 1, False)]
    assert [one[:3] for one in begun] == [(3, 1, 1)], "that of task 1 was heard"
    assert ledger.hello([holding(1, 1, agent.RUNNING), holding(3, 1, agent.ENDED, number=1)], 2.0) == ([], [])


def test_large_outputs_are_on_their_way_while_the_slot_has_another(ledger: Ledger) -> None:
    ledger.started(2, 1, slot(0, 101.0), 1.0)
    ledger.chunk(1, 1, b"\0ab", 1.0)
    assert ledger.overdue(END_PATIENCE, 0.0, 0.0) == ""
    assert "does not send the end of task 1, in whose slot" in ledger.overdue(END_PATIENCE + 2, 0.0, 0.0)
    assert ledger.ended(1, 1, agent.RESULT.pack(0, 0, 1.0, 2, 0, *CHECKSUMS), 1.0).wanted
    assert ledger.overdue(END_PATIENCE + 2, 0.0, 0.0) == ""


@pytest.mark.parametrize(
    ("what", "patience", "says"),
    [
        (lambda one: one.ordered(2, 1, False, 0.0), ORDER_PATIENCE, "neither starts task 2 nor gives it back"),
        (lambda one: one.ordered(1, 1, True, 0.0), END_PATIENCE, "does not end task 1, as it was told to"),
        (lambda one: one.ended(1, 1, result(), 0.0), START_PATIENCE, "does not start task 2, though nothing runs"),
    ],
    ids=["order", "kill", "start"],
)
def test_silence_is_a_lie_only_in_time(
    ledger: Ledger, what: Callable[[Ledger], object], patience: float, says: str
) -> None:
    what(ledger)
    assert ledger.overdue(patience, 0.0, 0.0) == ""
    assert says in ledger.overdue(patience + 1, 0.0, 0.0)
    assert ledger.overdue(patience + 1, 2.0, 0.0) == "", "a host that was away had no time to say it"


def test_an_attempt_that_has_ended_sends_its_outputs_or_is_overdue(ledger: Ledger) -> None:
    ledger.finished(1, 1, 1.0)
    ledger.chunk(1, 1, b"\0ab", 20.0)
    assert ledger.overdue(20 + END_PATIENCE, 0.0, 0.0) == ""
    assert "does not send the end of task 1, which it says" in ledger.overdue(21 + END_PATIENCE, 0.0, 0.0)
    assert ledger.ended(1, 1, agent.RESULT.pack(0, 0, 1.0, 2, 0, *CHECKSUMS), 21.0).wanted


def test_an_attempt_beyond_its_time_is_overdue(ledger: Ledger) -> None:
    assert ledger.overdue(1000.0, 0.0, 0.0) == "", "nobody said how long it may take"
    assert ledger.overdue(100.0 + END_PATIENCE, 0.0, 100.0) == ""
    assert "does not end task 1, whose time is over" in ledger.overdue(101.0 + END_PATIENCE, 0.0, 100.0)


def test_a_slot_may_be_another_jobs(ledger: Ledger) -> None:
    ledger.ended(1, 1, result(), 0.0)
    ledger.shares = True
    assert ledger.overdue(1000.0, 0.0, 0.0) == ""


class Honest(RuleBasedStateMachine):
    """Our agent as it is, whose connection breaks and which dies, on streams that keep what is in flight, in order."""

    tasks = st.integers(1, 4)

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(created=time.time())
        self.ledger.slots = SLOTS
        self.now = 0.0
        self.clock = 100.0  # the agent's
        self.began: dict[tuple[int, int], tuple[int, float]] = {}  # slot and time
        self.to_agent: list[tuple[int, int, int]] = []
        self.to_driver: list[tuple[int, int, int, bytes]] = []
        self.sending: list[tuple[int, int, int, bytes]] = []  # outputs and ends: a start may overtake them
        self.held: dict[tuple[int, int], int] = {}
        self.last = dict.fromkeys(range(1, 5), 0)
        self.results: set[tuple[int, int]] = set()
        self.connect()

    def connect(self) -> None:
        self.to_agent, self.to_driver, self.sending = [], [], []
        told = []
        for key, state in self.held.items():
            number, began = self.began.get(key, (0, 0.0))
            told.append(Holding(*key, state, number, began, self.clock - began if state != agent.WAITING else 0.0))
        self.ledger.hello(told, self.now)
        for key, state in self.held.items():
            if state == agent.ENDED:
                self.sending.append((agent.DONE, *key, result(seconds=0.5)))

    @rule(task=tasks)
    def send(self, task: int) -> None:
        if all(key[0] != task for key in self.ledger.open):
            self.last[task] += 1
            self.ledger.sent(task, self.last[task], self.now)
            self.to_agent.append((agent.RUN, task, self.last[task]))

    @precondition(lambda self: self.ledger.open)
    @rule(data=st.data(), kill=st.booleans())
    def order(self, data: st.DataObject, kill: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.ledger.open)))
        self.ledger.ordered(*key, kill, self.now)
        self.to_agent.append((agent.KILL if kill else agent.TAKE, *key))

    @precondition(lambda self: self.to_agent)
    @rule()
    def agent_reads(self) -> None:
        kind, *rest = self.to_agent.pop(0)
        key = rest[0], rest[1]
        if kind == agent.RUN:
            self.held[key] = agent.WAITING
        elif kind == agent.ACK:
            self.held.pop(key, None)
        elif key not in self.held:
            self.to_driver.append((agent.RETURNED, *key, b""))
        elif self.held[key] == agent.WAITING:
            del self.held[key]
            self.to_driver.append((agent.RETURNED, *key, b""))

    @rule()
    def agent_starts(self) -> None:
        busy = {self.began[key][0] for key, state in self.held.items() if state == agent.RUNNING}
        free = [number for number in range(SLOTS) if number not in busy]
        for key, state in self.held.items():
            if state == agent.WAITING and free:
                self.clock += 1.0
                self.held[key] = agent.RUNNING
                self.began[key] = free[0], self.clock
                self.to_driver.append((agent.STARTED, *key, slot(*self.began[key])))
                return

    @rule(large=st.booleans())
    def agent_ends(self, large: bool) -> None:
        for key, state in self.held.items():
            if state == agent.RUNNING:
                self.held[key] = agent.ENDED
                if large:
                    self.sending.append((agent.CHUNK, *key, b"\0" + bytes(9)))
                    self.sending.append((agent.CHUNK, *key, b"\1" + bytes(7)))
                done = agent.RESULT.pack(0, 0, 0.5, 9, 7, *CHECKSUMS) if large else result(seconds=0.5)
                self.sending.append((agent.DONE, *key, done))
                return

    @precondition(lambda self: self.sending)
    @rule()
    def agent_sends(self) -> None:
        self.to_driver.append(self.sending.pop(0))

    @precondition(lambda self: self.to_driver)
    @rule()
    def driver_reads(self) -> None:
        kind, task, attempt, payload = self.to_driver.pop(0)
        if kind == agent.RETURNED:
            if self.ledger.returned(task, attempt, self.now):
                self.last[task] -= 1  # the number is given again
        elif kind == agent.STARTED:
            self.ledger.started(task, attempt, payload, self.now)
        elif kind == agent.CHUNK:
            self.ledger.chunk(task, attempt, payload, self.now)
        else:
            if self.ledger.ended(task, attempt, payload, self.now).wanted:
                assert (task, attempt) not in self.results, "a result is taken twice"
                self.results.add((task, attempt))
            self.to_agent.append((agent.ACK, task, attempt))

    @rule()
    def connection_breaks(self) -> None:
        self.connect()

    @rule()
    def agent_dies(self) -> None:
        self.held = {}
        self.connect()

    @invariant()
    def nothing_is_overdue(self) -> None:
        assert not self.ledger.overdue(self.now, self.now, 1.0)


TestHonest = Honest.TestCase
TestHonest.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.integers(1, 60))
def test_what_arrives_is_cut_into_frames_or_refused_before_it_is_kept(noise: bytes, piece: int) -> None:
    good = agent.frame(agent.STARTED, 1, 1, slot()) + agent.frame(agent.DONE, 1, 1, result(out=b"abc"))
    incoming = Incoming()
    found = [frame for at in range(0, len(good), piece) for frame in incoming.feed(good[at : at + piece])]
    assert [(frame.kind, frame.task, frame.attempt) for frame in found] == [(agent.STARTED, 1, 1), (agent.DONE, 1, 1)]
    assert found[1].payload == result(out=b"abc")
    most = max(incoming.longest.values()) + agent.HEAD.size
    try:
        for at in range(0, len(noise), piece):
            incoming.feed(noise[at : at + piece])
            assert len(incoming) <= most
    except Lie:
        pass


@pytest.mark.parametrize("kind", [*range(0, 256, 51), agent.DONE, agent.CHUNK, agent.ERROR, agent.HELLO, agent.PONG])
def test_a_gibibyte_is_refused_by_its_head(kind: int) -> None:
    with pytest.raises(Lie):
        Incoming().feed(agent.HEAD.pack(1 << 30, kind, 1, 1))
