"""Opens, watches and closes the connections to a job's members. The driver decides how to act on a loss.

Worker threads open and close connections. The driver's thread calls everything else. These calls never wait, except
the farewell, which waits a few seconds at the end.
"""

from __future__ import annotations

import contextlib
import errno
import queue
from collections.abc import Callable, Iterator
from queue import SimpleQueue

from hardway.config import Settings
from hardway.errors import HardwayError, reason_of
from hardway.pmap import agent
from hardway.pmap.events import Event, Hung, Lied, NotOpened, Opened, Ready, Unreachable
from hardway.pmap.files import Load
from hardway.pmap.job import Asked
from hardway.pmap.ledger import Lie
from hardway.pmap.link import Frame, cut, now
from hardway.pmap.member import Member, Presence
from hardway.ssh.keys import HostKeys
from hardway.system.workers import Workers

PING_AFTER = 10.0  # of silence
DEAD_AFTER = 40.0  # of silence, though pinged
CHECK_EVERY = 5.0  # seconds between checks that agents send their messages in time
FAREWELL = 3.0  # seconds for the agents to end their tasks and go
FAREWELL_UNTOLD = 4.0  # the same where some agents must be connected to first
FAREWELL_RETRY = 0.5
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)  # no host's fault when a connection fails so


def shortage(error: BaseException) -> str:
    """Return the resource whose lack on this machine kept a connection from opening; empty for another reason."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in _OURS:
            return reason_of(cause)
        cause = cause.__cause__ or cause.__context__
    return ""


class Connections:
    """The connections to all members. A member that has gone stays in `members`."""

    def __init__(
        self,
        settings: Settings,
        asked: Asked,
        workers: Workers,
        events: SimpleQueue[Event],
        load: Load | None,
    ) -> None:
        """Take the `load` that each instance gets before its first task."""
        self.members: dict[str, Member] = {}
        self._settings = settings
        self._asked = asked
        self._workers = workers
        self._events = events
        self._load = load
        self._known = HostKeys()
        self._unsent: dict[Member, None] = {}  # with frames in line
        self._checked = now()
        self._ending = False

    def present(self) -> Iterator[Member]:
        """Return the members that have not gone."""
        return (member for member in self.members.values() if not member.is_gone)

    def away(self) -> list[Member]:
        """Return the members that can't be reached and may come back."""
        return [member for member in self.members.values() if member.is_away]

    def next_try(self) -> float | None:
        """Return the time of the next try to connect."""
        tries = (member.tries for member in self.present())
        return min((each.next for each in tries if each.next and not each.open), default=None)

    # Opening and closing

    def open(self, member: Member) -> None:
        """Have a worker thread connect."""
        member.tries.begin()
        # Instances may share a home directory, and two people may give jobs the same name.
        folder = f"{self._asked.name}-{self._asked.token}-{member.name}"

        def work() -> None:
            try:
                if self._ending and not member.entrusted:
                    raise EOFError
                session = self._settings.stub_session
                member.link.connect(self._settings, session, folder, self._known, self._workers.over, self._load)
            except Exception as error:  # the driver's thread handles every error
                self._events.put(NotOpened(member, error))
            else:
                self._events.put(Opened(member))

        self._workers.do(work)

    def opened(self, member: Member) -> bool:
        """Take over a connection that a worker has opened; False if the member has gone meanwhile."""
        member.tries.open = False
        if member.is_gone:
            self.close(member)
            return False
        member.link.opened(now())
        return True

    def close(self, member: Member) -> None:
        """End the connection, if there is one, and drop all that is half sent."""
        self._unsent.pop(member, None)
        member.spool.drop()
        connection = member.link.detach()
        if connection is not None:

            def work() -> None:
                cut(connection)
                connection.close()

            self._workers.do(work)

    def close_all(self) -> None:
        """End all connections, at the same time."""
        connections = [connection for member in self.members.values() if (connection := member.link.detach())]
        for member in self.members.values():
            member.spool.drop()
        for connection in connections:
            cut(connection)
        for connection in connections:
            self._workers.do(connection.close)

    def close_late(self) -> None:
        """End connections that were opened too late. No worker runs any more."""
        with contextlib.suppress(queue.Empty):
            while True:
                event = self._events.get_nowait()
                connection = event.member.link.detach() if isinstance(event, Opened) else None
                if connection is not None:
                    cut(connection)
                    connection.close()

    # Sending

    def send(self, member: Member, kind: int, task: int = 0, attempt: int = 0, payload: bytes = b"") -> None:
        """Put a frame in line for `flush`."""
        member.link.send(kind, task, attempt, payload)
        self._unsent[member] = None

    def order(self, member: Member, kill: bool, task: int, attempt: int) -> None:
        """Ask for an attempt back, or for its end."""
        member.ledger.ordered(task, attempt, kill, now())
        self.send(member, agent.KILL if kill else agent.TAKE, task, attempt)

    def ping(self, member: Member) -> None:
        """Ask for a sign of life."""
        member.link.ping(now())
        self._unsent[member] = None

    def flush(self) -> None:
        """Send all that can be sent without waiting."""
        for member in list(self._unsent):
            if not member.is_up or member.link.flush():
                del self._unsent[member]

    @property
    def has_unsent(self) -> bool:
        """Whether frames wait to be sent."""
        return bool(self._unsent)

    # Watching

    def watch(self, time: float) -> Iterator[Event]:
        """Connect again to members that are away, ping silent ones, and yield an event for each fault found."""
        for member in self.away():
            if member.tries.is_due(time):
                self.open(member)
            elif self._is_lost_for_good(member, time):
                yield Unreachable(member)
        thoroughly = time - self._checked > CHECK_EVERY
        if thoroughly:
            self._checked = time
        for member in self.present():
            if member.link.channel is not None and not member.tries.open:
                yield from self._examine(member, time, thoroughly)

    def _is_lost_for_good(self, member: Member, time: float) -> bool:
        is_over = time - member.away_since > self._settings.mapreduce.reconnect
        return member.presence is Presence.AWAY and member.link.channel is None and is_over

    def _examine(self, member: Member, time: float, thoroughly: bool) -> Iterator[Event]:
        """Yield an event if the other end is dead, or doesn't act as our agent would."""
        link, ledger = member.link, member.ledger
        if time - link.heard > DEAD_AFTER:
            yield Hung(member, "it does not answer")
        elif thoroughly and (stalled := link.stalled(time)):
            yield Hung(member, stalled)
        elif member.is_up and time - link.heard > PING_AFTER:
            self.ping(member)
        elif thoroughly and member.is_up:
            if late := ledger.overdue(link.reached, link.answers_since, self._settings.mapreduce.timeout):
                yield Lied(member, late)
            elif ledger.open and not link.pinged:
                self.ping(member)

    # The end

    def tell_to_stop(self, member: Member) -> None:
        """Tell the agent to end its tasks, clean up and go."""
        member.link.send(agent.STOP)
        member.link.flush()

    def farewell(self, is_hurried: Callable[[], bool]) -> list[Member]:
        """Tell all agents to stop, and wait a few seconds for their goodbyes.

        A member that may hold tasks and can't be reached is connected to again. Returns the members whose agents have
        not said goodbye.
        """
        self._ending = True
        for member in self.present():
            if member.link.channel is not None:
                self.tell_to_stop(member)
        began = now()
        while (owing := self._owing()) and not is_hurried():
            told = all(member.link.channel is not None for member in owing)
            if now() - began > (FAREWELL if told else FAREWELL_UNTOLD):
                break
            for member in owing:
                if member.link.channel is not None:
                    member.link.flush()
                elif not member.tries.open and now() >= member.tries.next:
                    self.open(member)
            with contextlib.suppress(queue.Empty):
                self._last_words(self._events.get(timeout=0.05))
        return self._owing()

    def _owing(self) -> list[Member]:
        return [member for member in self.members.values() if member.owes_goodbye]

    def _last_words(self, event: Event) -> None:
        match event:
            case Opened(member):
                if self.opened(member):
                    self.tell_to_stop(member)
            case NotOpened(member):
                self._retry_farewell(member)
            case Ready(link):
                try:
                    frames = link.receive(now())
                except (EOFError, HardwayError, Lie):
                    self.close(self.members[link.name])
                    self._retry_farewell(self.members[link.name])
                else:
                    link.left |= any(isinstance(frame, Frame) and frame.kind == agent.BYE for frame in frames)

    @staticmethod
    def _retry_farewell(member: Member) -> None:
        member.tries.open = False
        member.tries.next = now() + FAREWELL_RETRY
