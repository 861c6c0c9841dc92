"""What the driver makes of nonsense from an instance: its agent is played here, without SSH."""

from __future__ import annotations

import io
import math
import signal
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hardway.config import Settings
from hardway.instances import Instance
from hardway.pmap import agent, driver, journal
from hardway.pmap.driver import Driver, Options, Outcome
from hardway.pmap.journal import Job
from hardway.pmap.link import Link
from hardway.pmap.progress import Progress
from tests.openssh.conftest import instance

SECONDS = 20
GOOD, BAD = instance(0, 22), instance(1, 22)


class PlayedAgent:
    """An agent that answers each task with its argument, as a channel of Paramiko's.

    After its greeting, and with each task it starts, it sends `nonsense`, which a lost connection uses up.
    """

    def __init__(self, nonsense: list[bytes]) -> None:
        self.in_buffer = self
        self.eof_received = self.closed = False
        self._frames = agent.Frames()
        self._nonsense = nonsense
        self._announcement: Any = None
        self._out = agent.MARK + agent.frame(agent.HELLO, payload=b"%d played 2 0\n" % agent.VERSION) + self._next()

    def _next(self) -> bytes:
        return self._nonsense.pop(0) if self._nonsense else b""

    def set_event(self, announcement: Any) -> None:
        self._announcement = announcement
        if self._out:
            announcement.set()

    def recv_ready(self) -> bool:
        return bool(self._out)

    def recv(self, size: int) -> bytes:
        data, self._out = self._out[:size], self._out[size:]
        self._announcement.clear()
        return data

    def send(self, data: bytes) -> int:
        for kind, task, attempt, payload in self._frames.feed(data):
            if kind == agent.RUN:
                result = agent.RESULT.pack(0, 0, 0.01, 0, len(payload), 0) + payload
                self._out += agent.frame(agent.STARTED, task, attempt) + self._next()
                self._out += agent.frame(agent.DONE, task, attempt, result)
            elif kind == agent.PING:
                self._out += agent.frame(agent.PONG, payload=payload)
            elif kind == agent.STOP:
                self._out += agent.frame(agent.BYE)
        if self._out and self._announcement:
            self._announcement.set()
        return len(data)


class _Connection:
    """What the driver closes."""

    client = property(lambda self: self)

    def get_transport(self) -> None: ...

    def close(self) -> None: ...


@dataclass
class Ran:
    """What came of a job, and what was said."""

    outcome: Outcome
    outputs: list[bytes] = field(default_factory=list)
    said: str = ""


@pytest.fixture
def play(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[list[bytes]], Ran]]:
    """Runs a job of 20 tasks on two instances, one of which sends these pieces of nonsense."""
    nonsense: list[bytes] = []

    def connect(link: Link, settings: Settings, environment: Mapping[str, str], job: str) -> None:
        channel: Any = PlayedAgent(nonsense if link.name == BAD.id else [])
        link.channel = channel
        connection: Any = _Connection()
        setattr(link, "_connection", connection)  # noqa: B010

    def described(settings: Settings, ids: list[str]) -> list[Instance]:
        return [one for one in (GOOD, BAD) if one.id in ids]

    monkeypatch.setattr(Link, "connect", connect)
    monkeypatch.setattr("hardway.instances.described", described)
    monkeypatch.setattr(driver, "BACKOFF_FIRST", 0.001)
    arguments = [b"%d\n" % number for number in range(20)]

    def run(pieces: list[bytes]) -> Ran:
        nonsense[:] = pieces
        stream = io.StringIO()
        # Ctrl-C, as it were, for a job that does not end.
        impatience = threading.Timer(SECONDS, signal.raise_signal, [signal.SIGINT])
        impatience.start()
        try:
            with Job.create("cat") as job:
                numbers = job.number(journal.keys_of(arguments))
                progress = Progress(stream=stream)
                ran = Ran(Driver(job, arguments, numbers, [BAD, GOOD], Settings(), Options(), progress).run())
                results = job.history.results
                ran.outputs = [b"".join(job.outputs.pieces(number, results[number])) for number in numbers]
        finally:
            impatience.cancel()
        ran.said = stream.getvalue()
        assert ran.outputs == arguments, ran.said
        assert (ran.outcome.done, ran.outcome.failed) == (20, {}), ran.said
        assert "Traceback" not in ran.said
        return ran

    yield run


def notice(payload: bytes) -> bytes:
    return agent.frame(agent.NOTICE, payload=payload)


def test_the_agent_played_here_is_taken_for_one(play: Callable[[list[bytes]], Ran]) -> None:
    assert play([]).said == ""


@pytest.mark.parametrize("seconds", [math.nan, math.inf, -math.inf, -1.0, -0.0, 5e-324, 1e308, 90.0])
def test_an_interruption_at_any_time(play: Callable[[list[bytes]], Ran], seconds: float) -> None:
    said = play([notice(struct.pack("!d", seconds))]).said
    assert "spot interruption in " in said or "not from our agent" in said


@pytest.mark.parametrize("size", [0, 1, 7, 9, 16, 70_000])
def test_a_notice_of_another_length_ends_the_connection(play: Callable[[list[bytes]], Ran], size: int) -> None:
    said = play([notice(bytes(size))]).said
    assert "what arrives is not from our agent" in said
    assert "spot interruption" not in said


NOTICES = st.one_of(
    st.binary(max_size=20).map(notice), st.floats().map(lambda seconds: notice(struct.pack("!d", seconds)))
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(NOTICES, max_size=3).map(b"".join), max_size=6))
@example([notice(b"")] * 6)
def test_no_sequence_of_notices_harms_a_job(play: Callable[[list[bytes]], Ran], pieces: list[bytes]) -> None:
    play(pieces)
