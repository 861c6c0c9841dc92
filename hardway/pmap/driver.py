"""Carries out what the schedule decides, over a connection to each instance, and tells it what happened.

One thread runs the job: it alone touches the schedule, the journal and what the links know. Worker threads do what
may take long (connecting, closing, asking EC2) and answer through the queue that also announces frames. All times
are in seconds of the monotonic clock.
"""

from __future__ import annotations

import contextlib
import math
import queue
import random
import struct
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import SimpleQueue

from hardway.config import Settings
from hardway.ec2.instances import Instance
from hardway.errors import Failed, HardwayError, UsageError
from hardway.pmap import agent, events
from hardway.pmap.connecting import Connections, shortage
from hardway.pmap.endings import Outcome
from hardway.pmap.events import Ended, Event
from hardway.pmap.expect import Expected, Lookout, charged
from hardway.pmap.files import Load
from hardway.pmap.journal import Job, Result
from hardway.pmap.ledger import Ledger, Lie
from hardway.pmap.link import Frame, Hello, Link, Unusable, cut_short, now, text
from hardway.pmap.member import Member, Presence, count_time
from hardway.pmap.polling import Poller
from hardway.pmap.progress import Progress
from hardway.pmap.runlog import RunLog
from hardway.pmap.schedule import Cancel, Decision, Schedule, Start
from hardway.pmap.spool import Spool, whole
from hardway.pmap.stopping import Stop
from hardway.pmap.workers import Workers
from hardway.terminal import printable

CONNECTING_MOST = 32  # connections being opened at the same time
ROUND_TRIPS = 4  # measured on a new connection
PATIENCE = 1.0  # seconds without an event, at most, until the loop looks around
RESEND_AFTER = 0.02  # seconds until what could not be sent is tried again
HANDLE_MOST = 0.2  # seconds of events, until it is decided what follows from them
FIRST_TRIES = 3  # before the job ends, if no instance was ever reached


@dataclass(frozen=True)
class Options:
    """What a person may set; times in seconds, 0 for `timeout` is none, 0 for `slots` one a CPU."""

    slots: int = 1
    retries: int = 10
    retry_sleep: float = 30.0
    timeout: float = 0.0
    keep_going: bool = False
    backup: bool = True
    reconnect: float = 300.0
    linger: float = 3600.0
    workdir: str = "home"


class Driver:
    """One run of a job, on these instances."""

    def __init__(
        self,
        job: Job,
        arguments: Sequence[bytes],
        numbers: Sequence[int],
        instances: Sequence[Instance],
        settings: Settings,
        options: Options,
        progress: Progress,
        on_result: Callable[[int, Result], None] | None = None,
        avoid: Mapping[int, str] | None = None,
        find: Callable[[], Sequence[Instance]] | None = None,
        load: Load | None = None,
        expect: Expected | None = None,
    ) -> None:
        """`arguments` are what tasks read on stdin; `numbers` are their task numbers in the job, in the same order.

        `on_result` is called with the position and the result of each task that is over. `avoid` maps positions to
        the instance where the task is not to run if there is another. `find` is asked now and then, in a worker
        thread, for instances that may join. Each instance gets `load` before its first task. A result counts once
        what is to `expect` of it is there.
        """
        self.job = job
        self.arguments = arguments
        self.numbers = numbers
        self.settings = settings
        self.options = options
        self.progress = progress
        self.positions = {number: position for position, number in enumerate(numbers)}
        self.schedule = Schedule(
            len(arguments),
            retries=options.retries,
            retry_sleep=options.retry_sleep,
            keep_going=options.keep_going,
            backup=options.backup,
            seed=random.randrange(1 << 30),
        )
        self._avoids = bool(avoid)
        for position, host in (avoid or {}).items():
            self.schedule.avoid(position, host)
        self._log = RunLog(job, numbers, options.timeout, progress, on_result)
        self.outcome = self._log.outcome
        self._digest = load.digest if load else ""
        self._stop = Stop()
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._workers = Workers()
        self._poller = Poller(settings, self._workers, self._events, find)
        self._lookout = Lookout(expect, arguments, self._workers, self._events) if expect else None
        self._connections = Connections(
            settings, job.asked, self._workers, self._events, load, options.timeout, options.reconnect
        )
        self._members = self._connections.members
        for instance in instances:
            self._admit(instance)
        self._acks: list[tuple[Member, int, int]] = []
        self._next_worker = 0

    def run(self) -> Outcome:
        """Run until every task is over, or none can be.

        Raises Interrupted after Ctrl-C, with the tasks on the instances ended; Failed where no instance is left.
        """
        began = ended = now()
        self._log.begins(self.options.slots)
        self._take_over()
        self.progress.begin(self.numbers, self.schedule.done)
        self._workers.start(min(CONNECTING_MOST, len(self._members) + 2))
        try:
            with self._stop.on_signals(lambda: self._events.put(events.Woken())):
                self._poller.price([*self._members.values()])
                try:
                    self._loop()
                    if not self._stop.signal:
                        self._farewell()
                finally:
                    ended = now()
                    for member in self._connections.present():
                        self.job.history.sent[member.name] = member.ledger.known()
                    self._connections.close_all()
                    self._log.over(self._why(), self._prices())
        finally:
            # One that is connecting ends by its own timeout; nobody waits for it after an interruption.
            self._workers.end(1.0 if self._stop else self.settings.ec2.connect_timeout)
            self._connections.close_late()
            self._count(began, ended)
        self._stop.check(self._unfinished())
        return self.outcome

    # The loop

    def _loop(self) -> None:
        for member in self._members.values():
            self._connections.open(member)
        while not (self.schedule.finished_all or self._stop):
            self._handle_all(self._patience())
            time = now()
            for event in self._connections.watch(time):
                self._handle(event)
            self._poller.poll(self._connections.away(), time)
            self._decide(time)
            self._flush()
            self._end_if_none_was_reached()
            self._end_if_none_is_left()
            self.progress.update(self.schedule, sum(member.is_up for member in self._members.values()), time)

    def _patience(self) -> float:
        """How long nothing needs to be done if nothing happens."""
        time = now()
        unsent = time + RESEND_AFTER if self._connections.has_unsent else None
        times = [self.schedule.due(time), self._connections.next_try(), unsent]
        return max(0.0, min([PATIENCE, *(due - time for due in times if due is not None)]))

    def _handle_all(self, timeout: float) -> None:
        """Wait for an event, then handle all there are; no host can keep us from the rest by saying more and more."""
        with contextlib.suppress(queue.Empty):
            event = self._events.get(timeout=timeout)
            end = now() + HANDLE_MOST
            while True:
                self._handle(event)
                if now() > end:
                    break
                event = self._events.get_nowait()

    def _handle(self, event: Event) -> None:
        match event:
            case events.Ready(link):
                self._receive(self._members[link.name])
            case events.Opened(member):
                self._connections.opened(member)
            case events.Refused(member, error):
                self._refused(member, error)
            case events.Hung(member, reason):
                self._lost(member, reason)
            case events.Lied(member, lie):
                self._distrust(member, lie)
            case events.Unreachable(member):
                self._give_up(member, member.reason or "it could not be reached any more", Presence.GIVEN_UP)
            case events.Described(ids, states):
                self._described(ids, states)
            case events.Found(instances):
                self._join(instances)
            case events.Priced():
                self._log.priced(self._prices())
            case events.Looked(ended, missing):
                self._settle(ended, missing)
            case events.Unseen(error):
                unknown = Failed(f"what is expected can't be seen: {error!r}")
                self._stop.error = error if isinstance(error, HardwayError) else unknown
            case events.Woken():
                pass

    def _decide(self, time: float) -> None:
        if self._avoids and any(member.presence is Presence.AWAITED for member in self._members.values()):
            return  # the one that is to be avoided may be the first that is there
        for decision in self.schedule.decide(time):
            member = self._members[str(decision.host)]
            if not member.is_gone:
                self._carry_out(member, decision, time)
        self._note_deadly()
        while self.schedule.spared:
            self._log.spared(self._members[str(self.schedule.spared.pop())])

    def _carry_out(self, member: Member, decision: Decision, time: float) -> None:
        number = self.numbers[decision.task]
        if isinstance(decision, Start):
            self.job.started(number, decision.attempt, member.name)
            member.ledger.sent(number, decision.attempt, time)
            self._connections.send(member, agent.RUN, number, decision.attempt, self.arguments[decision.task])
        else:
            self._order(member, isinstance(decision, Cancel), number, decision.attempt)

    def _order(self, member: Member, kill: bool, number: int, attempt: int) -> None:
        """Ask for an attempt back, or for its end."""
        member.ledger.ordered(number, attempt, kill, now())
        self._connections.send(member, agent.KILL if kill else agent.TAKE, number, attempt)

    def _flush(self) -> None:
        """The journal first: what it doesn't know of was never sent, and nothing is acknowledged that it can lose."""
        self.job.flush()
        if self._lookout:
            self._lookout.begin()
        for member, number, attempt in self._acks:
            self._connections.send(member, agent.ACK, number, attempt)
        self._acks.clear()
        self._connections.flush()

    # Members that come and go

    def _admit(self, instance: Instance) -> Member:
        ledger = Ledger(self.job.history.sent.get(instance.id, ()), self.job.asked.created)
        member = self._members[instance.id] = Member(
            instance,
            Link(instance, self._events, ledger),
            self.schedule.health(instance.id),
            Spool(self.job.path / "large", instance.id),
        )
        return member

    def _join(self, found: Sequence[Instance]) -> None:
        """Instances that are there now; those that are new take part."""
        joining = [self._admit(instance) for instance in found if instance.id not in self._members]
        if joining:
            self._poller.price(joining)
        for member in joining:
            self._log.joins(member)
            self._connections.open(member)

    def _refused(self, member: Member, error: Exception) -> None:
        member.tries.open = False
        if lacking := shortage(error):
            self._stop.error = Failed(f"this machine can't go on: {lacking}; {self._unfinished()}")
        elif isinstance(error, UsageError):
            self._stop.error = error
        elif isinstance(error, HardwayError | OSError | EOFError):
            self._lost(member, str(error))
        else:
            self._stop.error = Failed(f"{member.instance}: {error!r}")

    def _lost(self, member: Member, reason: str) -> None:
        """The connection is gone or could not be made: try again later."""
        if member.is_gone:
            return
        time = now()
        member.is_lost(time)
        self._connections.close(member)
        if member.tries.in_vain:
            self._give_up(member, "its agent goes as soon as it has come", Presence.GONE)
            return
        member.reason = printable(reason)
        member.tries.failure(time)
        if member.is_away:
            return
        if member.is_up:
            self.schedule.pause(member.name, time)
        member.presence = Presence.AWAY
        member.away_since = time
        self._log.away(member)

    def _give_up(self, member: Member, reason: str, presence: Presence) -> None:
        """What the instance held runs elsewhere.

        One that is not known to be gone may come back: then what it still runs is ended, and it takes tasks again.
        """
        self._connections.close(member)
        before, member.presence = member.presence, presence
        if before in (Presence.GIVEN_UP, Presence.GONE):
            return
        reason = printable(reason)
        time = member.given_up = now()
        for (position, attempt), started in self.schedule.held(member.name).items():
            self._log.lost(member, position, attempt, None if started is None else time - started)
        again = self.schedule.leave(member.name)
        self._log.gone(member, reason, len(again))
        self._note_deadly()

    def _distrust(self, member: Member, lie: str) -> None:
        """Its agent says what can't be, or nothing where it has to: nothing more is sent there or taken from there."""
        if member.link.channel is not None:
            self._connections.tell_to_stop(member)
        kept = f"; {member.results} of its results are kept" if member.results else ""
        reason = f"set aside, what arrives is not from our agent ({cut_short(lie)}){kept}"
        if member.presence is Presence.GIVEN_UP:
            self._log.distrusted(member, reason)
        self._give_up(member, reason, Presence.GONE)

    def _described(self, ids: Sequence[str], states: Mapping[str, str]) -> None:
        """EC2 has told what became of members that can't be reached."""
        for member in (self._members[name] for name in ids):
            state = states.get(member.name, "terminated")
            if member.is_away and state not in ("pending", "running"):
                self._give_up(member, f"it is {state}", Presence.GONE)

    def _note_aside(self, detail: str = "") -> None:
        """Hosts that the schedule gives no more tasks, since what happened last."""
        while self.schedule.put_aside:
            bad = self._members[str(self.schedule.put_aside.pop())]
            cause = bad.health.set_aside
            if bad.is_gone or cause is None:
                continue
            self._log.aside(bad, f"{cause.value}{': ' if detail else ''}{detail}")

    def _note_deadly(self) -> None:
        """Tasks that the schedule gives up since they seem to kill what they run on have failed."""
        while self.schedule.deadly:
            position, attempt, host = self.schedule.deadly.pop()
            self._log.deadly(position, attempt, str(host))

    def _end_if_none_was_reached(self) -> None:
        """All were tried a few times, and none has ever answered."""
        if self._stop or any(member.slots for member in self._members.values()):
            return
        present = [*self._connections.present()]
        if present and all(member.is_away and member.tries.failed >= FIRST_TRIES for member in present):
            reasons = Counter(member.reason for member in present).most_common(3)
            self._stop.error = Failed(f"no instance could be used: {'; '.join(reason for reason, _ in reasons)}")

    def _end_if_none_is_left(self) -> None:
        """Nothing runs, and nobody is there or may come to whom anything could be sent."""
        if self._stop.error or self.schedule.finished_all or not self.schedule.idle:
            return
        if not any(member.is_usable for member in self._members.values()):
            self._stop.error = Failed(f"no instance is left: {self._log.reasons()}; {self._unfinished()}")

    # Greetings

    def _receive(self, member: Member) -> None:
        if member.is_gone or member.link.channel is None:
            return
        try:
            for frame in member.link.receive(now()):
                if isinstance(frame, Hello):
                    self._greet(member, frame)
                else:
                    self._take_in(member, frame)
        except EOFError:
            self._lost(member, "")
        except Unusable as error:
            self._give_up(member, str(error), Presence.GONE)
        except Lie as error:
            self._distrust(member, str(error))

    def _greet(self, member: Member, hello: Hello) -> None:
        """An agent is there: a new one, or one that we or an earlier driver knew. Raises Lie."""
        time = now()
        gone = member.ledger.hello(hello.holdings, time)
        anew = bool(member.identity) and member.identity != hello.identity
        if not anew and any(runs for _, _, runs in gone):
            raise Lie("it has forgotten what runs there")
        if member.presence is Presence.GIVEN_UP:
            self._log.back(member)
        member.is_back(time)
        self._give_slots(member, self.options.slots or hello.cpus)
        if anew:
            self._log.agent_died(member)
        member.identity = hello.identity
        member.entrusted = True
        self.schedule.join(member.name, member.slots)
        self._reconcile(member, hello, anew)
        self._note_aside()
        member.round_trips.clear()
        self._connections.ping(member)

    def _give_slots(self, member: Member, slots: int) -> None:
        """Tell the agent how many tasks may run there at the same time, and all else that it is to know of the job."""
        member.slots = slots
        if member.first_up is None:
            member.first_up = now()
        if member.worker < 0:
            member.worker = self._next_worker
            self._next_worker += slots
        member.ledger.workers = range(member.worker, member.worker + slots)
        self._connections.send(member, agent.JOB, payload=self._settings_of(member))
        self._log.up(member, now() - member.made)

    def _settings_of(self, member: Member) -> bytes:
        pairs = {
            "slots": member.slots,
            "timeout": self.options.timeout,
            "linger": self.options.linger,
            "worker": member.worker,
            "HARDWAY_INSTANCE_ID": member.name,
            "workdir": self.options.workdir,
            "files": self._digest,
        }
        items = [f"{key}={value}".encode() for key, value in pairs.items()]
        return b"\0".join([*items, b"command=" + self.job.asked.command.encode("utf-8", "surrogateescape")])

    def _reconcile(self, member: Member, hello: Hello, anew: bool) -> None:
        """Agree with the agent on what it holds; an agent that came `anew` took the place of one that died."""
        time = now()
        known = self.schedule.held(member.name)
        found = set()
        for holding in hello.holdings:
            position = self.positions.get(holding.task, -1)
            began = None if holding.state == agent.WAITING else time - holding.seconds
            if (position, holding.attempt) in known:
                found.add((position, holding.attempt))
                if began is not None:
                    self.schedule.started(member.name, position, holding.attempt, began)
            elif position < 0 or not self.schedule.adopt(member.name, position, holding.attempt, began):
                if holding.state == agent.ENDED:
                    member.ledger.settled(holding.task, holding.attempt)
                    self._connections.send(member, agent.ACK, holding.task, holding.attempt)
                else:
                    self._order(member, True, holding.task, holding.attempt)
        lost = [key for key in known if key not in found]
        for position, attempt in lost:
            started = known[position, attempt]
            self._log.lost(member, position, attempt, None if started is None else time - started)
        if anew:
            self.schedule.died(member.name, lost)
        else:
            for position, attempt in lost:
                self.schedule.lost(member.name, position, attempt)
        self._note_deadly()

    # What agents say

    def _take_in(self, member: Member, frame: Frame) -> None:
        """Take in what the agent says, once the ledger has found that it may be true. Raises Lie."""
        if member.link.left:
            raise Lie("it speaks after its goodbye")
        kind, task, attempt, payload = frame
        if kind == agent.DONE:
            self._on_done(member, frame)
        elif kind == agent.STARTED:
            member.ledger.started(task, attempt, payload, now())
            self.schedule.started(member.name, self.positions.get(task, -1), attempt, now())
        elif kind == agent.CHUNK:
            self._on_chunk(member, frame)
        elif kind == agent.RETURNED:
            if member.ledger.returned(task, attempt, now()):
                self.schedule.returned(member.name, self.positions.get(task, -1), attempt)
                self._log.returned(member, task, attempt)
        elif kind == agent.ERROR:
            self._log.complained(member, member.link.complaint(payload))
        elif kind == agent.BYE:
            member.link.left = True
        elif kind == agent.NOTICE:
            self._on_notice(member, payload)
        elif kind == agent.PONG:
            self._on_pong(member, payload)
        elif kind == agent.SAID:
            member.ledger.said(task, attempt)
            self._log.said(member, task, payload)
        elif kind == agent.SHARED:
            self._on_shared(member)
        else:
            raise Lie(f"a frame of kind {kind} in the middle")

    def _on_shared(self, member: Member) -> None:
        """Another job runs there."""
        member.ledger.shares = True
        self.schedule.share(member.name)
        if not member.shares:
            member.shares = True
            self._log.shared(member)

    def _on_notice(self, member: Member, payload: bytes) -> None:
        """The instance is about to be interrupted; told again after each reconnection. Raises Lie."""
        if len(payload) != 8 or not math.isfinite(seconds := struct.unpack("!d", payload)[0]):
            raise Lie("a notice of an interruption at no time")
        if member.health.announced:
            return
        self._log.notice(member, seconds, self.schedule.interrupt(member.name, seconds, now()))

    def _on_pong(self, member: Member, payload: bytes) -> None:
        round_trip = member.link.pong(payload, now())
        if round_trip is not None:
            self.schedule.distance(member.name, member.measured(round_trip, ROUND_TRIPS))
            if len(member.round_trips) < ROUND_TRIPS:
                self._connections.ping(member)

    def _on_chunk(self, member: Member, frame: Frame) -> None:
        which, wanted = member.ledger.chunk(frame.task, frame.attempt, frame.payload, now())
        if not wanted or frame.task not in self.positions:
            return  # it has ended already, or its argument has been dropped from the job since
        with self.job.writing():
            member.spool.write(frame.task, frame.attempt, which, memoryview(frame.payload)[1:])

    def _on_done(self, member: Member, frame: Frame) -> None:
        task, attempt = frame.task, frame.attempt
        end = member.ledger.ended(task, attempt, frame.payload, now())
        with self.job.writing():
            spooled = member.spool.take(task, attempt)
        position = self.positions.get(task, -1)
        if (task, attempt) in member.looked_for:
            return  # it came before, over another connection, and is acknowledged when it has been looked at
        if position < 0 or not end.wanted:
            self._acks.append((member, task, attempt))
            return
        ended = Ended(member, position, task, attempt, *whole(end, spooled))
        if self._lookout and ended.is_good:
            member.looked_for.add((task, attempt))
            self._lookout.add(ended)
        else:
            self._settle(ended)

    def _settle(self, ended: Ended, missing: str = "") -> None:
        """An attempt has ended; of what is expected of it, this is missing."""
        member, position, task, attempt, end = ended[:5]
        member.looked_for.discard((task, attempt))
        self._acks.append((member, task, attempt))
        if missing:
            with self.job.writing():
                ended = charged(ended, missing)
        if end.flags & agent.HOST_FAULT:
            verdict = self.schedule.spoiled(member.name, position, attempt, now())
            self._note_aside(text(end.inline[end.sizes[0] :]).removeprefix("the instance's fault: "))
        else:
            verdict = self.schedule.finished(member.name, position, attempt, ended.is_good, end.seconds, now())
            self._note_aside()
        self._log.ended(ended, verdict)

    # Beginning and end

    def _take_over(self) -> None:
        """What earlier runs of the job have done is done."""
        history = self.job.history
        for position, number in enumerate(self.numbers):
            if number in history.attempts:
                self.schedule.used(position, history.attempts[number])
            if number in history.results:
                self.schedule.skip(position)
        # What was sent and hasn't ended may still run: it is waited for until its instance has been asked.
        for (number, attempt), host in history.open.items():
            position = self.positions.get(number, -1)
            if host not in self._members:
                continue
            self._members[host].entrusted = True
            if position >= 0 and attempt == history.attempts[number]:
                self.schedule.join(host, 1)
                self.schedule.adopt(host, position, attempt, now())
                self.schedule.pause(host, now())

    def _farewell(self) -> None:
        """Have the agents go, and tell a person of those that did not confirm it."""
        self._flush()
        if owing := self._connections.farewell(lambda: self._stop.interrupts >= 2):
            self._log.unconfirmed(owing, self.options.linger)

    def _why(self) -> str:
        """Why the run is over."""
        over = "failed" if self.schedule.failed else "stopped" if self.schedule.left else "done"
        return self._stop.why or over

    def _prices(self) -> dict[str, float]:
        return {member.name: member.price for member in self._members.values() if member.price is not None}

    def _count(self, began: float, ended: float) -> None:
        """What the run came to."""
        schedule, outcome = self.schedule, self.outcome
        outcome.done, outcome.left = schedule.done, schedule.left
        outcome.attempts, outcome.retries = schedule.attempts, schedule.retried
        outcome.backups = schedule.backups
        outcome.seconds = ended - began
        count_time(self._members.values(), ended, outcome)

    def _unfinished(self) -> str:
        return f"{self.schedule.done} of {self.schedule.total} tasks are done"
