"""Carries out the schedule's decisions over a connection to each instance, and reports events to the schedule.

One thread runs the job: it alone touches the schedule, the journal and the links' state. Worker threads do the slow
work (connecting, closing, asking EC2) and answer through the queue that also announces frames. All times are in seconds
of the monotonic clock.
"""

from __future__ import annotations

import contextlib
import queue
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import Any

from hardway.config import Settings
from hardway.ec2.instances import Instance
from hardway.errors import Failed, HardwayError, UsageError
from hardway.pmap import agent, events
from hardway.pmap.connecting import Connections, shortage
from hardway.pmap.conversation import Conversation
from hardway.pmap.detach import Dealer, Detach
from hardway.pmap.endings import Outcome
from hardway.pmap.events import Event
from hardway.pmap.expect import Expected, Lookout
from hardway.pmap.files import Load
from hardway.pmap.intake import Intake
from hardway.pmap.job import Job
from hardway.pmap.journal import DETACHED, Result
from hardway.pmap.ledger import Ledger, Lie
from hardway.pmap.link import Link, Unusable, now
from hardway.pmap.locality import Moves, Placement
from hardway.pmap.losses import Losses
from hardway.pmap.member import Member, Presence
from hardway.pmap.polling import Poller
from hardway.pmap.progress import Progress
from hardway.pmap.runlog import RunLog
from hardway.pmap.schedule import Cancel, Decision, Schedule, Start
from hardway.pmap.spool import Spool
from hardway.pmap.stopping import Stop
from hardway.system.workers import Workers
from hardway.tables import count
from hardway.terminal import cut_short, printable

CONNECTING_MOST = 32  # connections being opened at the same time
PATIENCE = 1.0  # seconds without an event, at most, until the loop looks around
RESEND_AFTER = 0.02  # seconds until what could not be sent is tried again
HANDLE_MOST = 0.2  # seconds of handling events, at most, before the next decisions
FIRST_TRIES = 3  # before the job ends, if no instance was ever reached


class Driver:
    """One run of a job, on these instances."""

    def __init__(
        self,
        job: Job,
        command: str,
        arguments: Sequence[bytes],
        numbers: Sequence[int],
        instances: Sequence[Instance],
        settings: Settings,
        progress: Progress,
        on_result: Callable[[int, Result | None], None] | None = None,
        halt: int = 1,
        fail_fast: bool = True,
        backup: bool = True,
        workdir: str = "home",
        avoid: Mapping[int, str] | None = None,
        find: Callable[[], Sequence[Instance]] | None = None,
        load: Load | None = None,
        expect: Expected | None = None,
        intake: Intake | None = None,
        locality: bool = True,
        moves: Moves | None = None,
        detach: Detach = Detach.NO,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Take the tasks' stdin as `arguments`, and their `numbers` in the job, in the same order.

        `on_result` is called with the position and the result of each task that is over, and with None for a result
        that counts no longer. For `halt` and `fail_fast` see `Schedule`. With `backup` the slowest tasks run a second
        time. Tasks run in `workdir`: home or scratch. `avoid` maps a task's position to the instance where the task
        runs only if there is no other. A worker thread calls `find` from time to time for instances that may join. Each
        instance gets `load` before its first task. A result counts once the object that `expect` names is there. With
        an `intake` tasks are added while the job runs. `detach` is the driver's part in a detached job, and `options`
        are what the next driver needs to know.
        """
        self.job = job
        self.arguments = arguments
        self.numbers = numbers
        self.settings = settings
        self.progress = progress
        self.positions: Mapping[int, int] = (
            intake.positions if intake else {number: position for position, number in enumerate(numbers)}
        )
        self._intake = intake
        self._detach = detach
        self._options = options
        self.schedule = Schedule(
            len(arguments),
            retries=settings.mapreduce.retries,
            retry_sleep=settings.mapreduce.retry_sleep,
            halt=halt,
            fail_fast=fail_fast,
            backup=backup,
            seed=random.randrange(1 << 30),
        )
        self._avoids = bool(avoid)
        for position, host in (avoid or {}).items():
            self.schedule.avoid(position, host)
        told = self._give if intake else on_result
        self._locality = locality
        self._placement = Placement(self.schedule, arguments, moves or {})
        self._log = RunLog(job, numbers, settings.mapreduce.timeout, progress, told)
        self.outcome = self._log.outcome
        self._waited = 0.0  # seconds spent waiting for events
        self._stop = Stop()
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._workers = Workers()
        self._poller = Poller(settings, self._workers, self._events, find)
        self._connections = Connections(settings, job.asked, self._workers, self._events, load)
        self._conversation = Conversation(
            job,
            command,
            self.positions,
            settings,
            workdir,
            load.digest if load else "",
            self.schedule,
            self._connections,
            self._log,
            Lookout(expect, arguments, self._workers, self._events) if expect else None,
            Losses(self._placement.argument, settings, self._workers, self._events),
            detach is not Detach.NO,
        )
        self._dealer = Dealer(self.schedule, self._connections) if detach is Detach.DEAL else None
        self._members = self._connections.members
        for instance in instances:
            self._admit(instance)
        self._prefer()

    def run(self) -> Outcome:
        """Run until every task is over, or none can be finished.

        A driver that deals the tasks out returns once every agent has confirmed its share, and leaves them at work.

        Raises Interrupted after Ctrl-C, with the tasks on the instances ended unless the driver waits for a detached
        job; Failed where no instance is left.
        """
        began = ended = now()
        if self._detach is Detach.WAIT and self.job.history.alone:  # the instances have worked meanwhile
            began -= max(0.0, time.time() - self.job.history.driven)
        self._log.begins(self._options)
        self._take_over(began)
        if self._intake:
            self._intake.stream.wake = lambda: self._events.put(events.Woken())
            self._intake.begin(self.schedule)
        self.progress.begin(self.numbers, self.schedule.done)
        self._workers.start(min(CONNECTING_MOST, len(self._members) + 2))
        try:
            with self._stop.on_signals(lambda: self._events.put(events.Woken())):
                self._poller.price([*self._members.values()])
                try:
                    self._loop()
                    self.outcome.detached = self._leaves()
                    if not (self._stop.signal or self.outcome.detached):
                        self._farewell()
                finally:
                    ended = now()
                    for member in self._connections.present():
                        self.job.history.sent[member.name] = member.ledger.known()
                    self._connections.close_all()
                    self.outcome.seconds = ended - began
                    self.outcome.driver = max(0.0, 1 - self._waited / max(ended - began, 0.001))
                    self._log.count(self.schedule, self._members.values(), ended)
                    self._log.over(self._why(), self._prices())
        finally:
            # A worker that is connecting ends by its own timeout; nobody waits for it after an interruption.
            self._workers.end(1.0 if self._stop else self.settings.ec2.connect_timeout)
            self._connections.close_late()
        self._stop.check(self._unfinished())
        return self.outcome

    # The loop

    def _loop(self) -> None:
        for member in self._members.values():
            self._connections.open(member)
        while not (self.schedule.finished_all or self._stop or (self._dealer and self._dealer.is_over)):
            self._handle_all(self._patience())
            time = now()
            for event in self._connections.watch(time):
                self._handle(event)
            self._poller.poll(self._connections.away(), time)
            self._take_in(time)
            self._decide(time)
            self._flush()
            self._end_if_none_was_reached()
            self._end_if_none_is_left()
            self.progress.update(self.schedule, sum(member.is_up for member in self._members.values()), time)

    def _take_in(self, time: float) -> None:
        """Make tasks of arguments that have come."""
        if self._intake:
            try:
                self._intake.look(self.schedule, time)
            except HardwayError as error:
                self._stop.error = self._stop.error or error
            self._prefer()

    def _prefer(self) -> None:
        """Have tasks that are new run near their data."""
        if self._locality:
            self._placement.prefer(self._members)

    def _give(self, position: int, result: Result | None) -> None:
        """Give a task's result to the stream that its argument came from, unless the job has stopped."""
        failed = position in self.outcome.failed
        if self._intake and not (failed and self.schedule.stopped):
            self._intake.over(position, None if failed else result)

    def _patience(self) -> float:
        """Return how long the loop may wait for an event."""
        time = now()
        unsent = time + RESEND_AFTER if self._connections.has_unsent else None
        intake = self._intake.next_look if self._intake and self._intake.next_look > time else None
        more = time if self._dealer and self._dealer.has_more else None
        times = [self.schedule.due(time), self._connections.next_try(), unsent, intake, more]
        return max(0.0, min([PATIENCE, *(due - time for due in times if due is not None)]))

    def _handle_all(self, timeout: float) -> None:
        """Wait for an event, then handle all that have come. No host can delay the others by sending without end."""
        began = now()
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            return
        finally:
            self._waited += now() - began
        with contextlib.suppress(queue.Empty):
            end = now() + HANDLE_MOST
            while True:
                self._handle(event)
                if now() > end:
                    break
                event = self._events.get_nowait()

    def _handle(self, event: Event) -> None:
        self._act_on(event)
        while self.schedule.put_aside:
            self._log.aside(self._members[str(self.schedule.put_aside.pop())])
        while self.schedule.deadly:
            self._log.deadly(*self.schedule.deadly.pop())
        if self.schedule.hopeless and not self.outcome.hopeless:
            self._log.hopeless(self.schedule.hopeless)

    def _act_on(self, event: Event) -> None:
        match event:
            case events.Ready(link):
                self._hear(self._members[link.name])
            case events.Opened(member):
                self._connections.opened(member)
            case events.NotOpened(member, error):
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
                self._conversation.settle(ended, missing)
            case events.Unseen(error):
                unknown = Failed(f"what is expected can't be seen: {error!r}")
                self._stop.error = error if isinstance(error, HardwayError) else unknown
            case events.Checked(instance, gone):
                self._conversation.checked(instance, gone)
            case events.Woken():
                pass

    def _decide(self, time: float) -> None:
        if self._avoids and any(member.presence is Presence.AWAITED for member in self._members.values()):
            return  # the host to avoid may be the first to arrive
        for decision in self._dealer.decide(time) if self._dealer else self.schedule.decide(time):
            member = self._members[str(decision.host)]
            if not member.is_gone:
                self._carry_out(member, decision, time)
        while self.schedule.spared:
            self._log.spared(self._members[str(self.schedule.spared.pop())])

    def _carry_out(self, member: Member, decision: Decision, time: float) -> None:
        number = self.numbers[decision.task]
        if isinstance(decision, Start):
            self.job.started(number, decision.attempt, member.name)
            member.ledger.sent(number, decision.attempt, time)
            self._connections.send(member, agent.RUN, number, decision.attempt, self._placement.argument(decision.task))
        else:
            self._connections.order(member, isinstance(decision, Cancel), number, decision.attempt)

    def _flush(self) -> None:
        """Write the journal, then send, so that the journal never lacks what was sent or acknowledged."""
        self.job.flush()
        self._conversation.acknowledge()
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
        """Let the new ones among the found instances take part."""
        joining = [self._admit(instance) for instance in found if instance.id not in self._members]
        if joining:
            self._poller.price(joining)
        for member in joining:
            self._log.joins(member)
            self._connections.open(member)

    def _hear(self, member: Member) -> None:
        """Take in what has arrived, or the end of the connection."""
        if member.is_gone or member.link.channel is None:
            return
        try:
            self._conversation.hear(member)
        except EOFError:
            self._lost(member, "")
        except Unusable as error:
            self._give_up(member, str(error), Presence.GONE)
        except Lie as error:
            self._distrust(member, str(error))

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
        """Note that the member can't be reached, and plan the next try."""
        if member.is_gone:
            return
        time = now()
        member.is_lost(time)
        self._connections.close(member)
        if member.tries.in_vain:
            self._give_up(member, "its agent ends as soon as it has started", Presence.GONE)
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
        """Have the member's tasks run elsewhere.

        A member that isn't known to be gone may come back: its old tasks are then ended, and it takes new ones.
        """
        self._connections.close(member)
        before, member.presence = member.presence, presence
        if before in (Presence.GIVEN_UP, Presence.GONE):
            return
        reason = printable(reason)
        member.given_up = now()
        for position, attempt in self.schedule.held(member.name):
            self._log.lost(member, position, attempt)
        again = self.schedule.leave(member.name)
        self._log.gone(member, reason, len(again))

    def _distrust(self, member: Member, lie: str) -> None:
        """Stop talking to a member that lies. Silence can be a lie.

        Other members make its results again. A stream keeps them, since its reader has them already.
        """
        if member.link.channel is not None:
            self._connections.tell_to_stop(member)
        reason = f"set aside, what arrives is not from our agent ({cut_short(lie)})"
        if results := self._results_of(member):
            if self._intake:
                reason += f"; {count(len(results), 'result')} of its were given out before"
            else:
                reason += f"; {count(len(results), 'result')} of its {'is' if len(results) == 1 else 'are'} made again"
                for position in results:
                    self.schedule.reopen(position)
                    self._log.void(position)
        if member.presence is Presence.GIVEN_UP:
            self._log.distrusted(member, reason)
        self._give_up(member, reason, Presence.GONE)

    def _results_of(self, member: Member) -> list[int]:
        """Return the positions of the tasks whose results are from the member."""
        results = self.job.history.results
        return [
            position
            for position, number in enumerate(self.numbers)
            if number in results and results[number].host == member.name
        ]

    def _described(self, ids: Sequence[str], states: Mapping[str, str]) -> None:
        """Give up members that have ended according to EC2."""
        for member in (self._members[name] for name in ids):
            state = states.get(member.name, "terminated")
            if member.is_away and state not in ("pending", "running"):
                self._give_up(member, f"it is {state.replace('-', ' ')}", Presence.GONE)

    def _end_if_none_was_reached(self) -> None:
        """End the run if all members were tried a few times and none has ever answered."""
        if self._stop or any(member.slots for member in self._members.values()):
            return
        present = [*self._connections.present()]
        if present and all(member.is_away and member.tries.failed >= FIRST_TRIES for member in present):
            reasons = Counter(member.reason for member in present).most_common(3)
            self._stop.error = Failed(f"no instance could be used: {'; '.join(reason for reason, _ in reasons)}")

    def _end_if_none_is_left(self) -> None:
        """End the run if nothing runs, and no member gets tasks, now or later."""
        if self._stop.error or self.schedule.finished_all or not self.schedule.idle:
            return
        if not any(member.is_usable for member in self._members.values()):
            self._stop.error = Failed(f"no instance is left: {self._log.reasons()}; {self._unfinished()}")

    # Beginning and end

    def _take_over(self, began: float) -> None:
        """Take over results and attempts of earlier runs of the job, in a run that `began` then."""
        history = self.job.history
        for position, number in enumerate(self.numbers):
            if number in history.attempts:
                self.schedule.used(position, history.attempts[number])
            if number in history.results:
                self.schedule.skip(position)
        # Attempts that were sent and haven't ended may still run: they are awaited until their instance has been asked.
        awaited: set[str] = set()
        for (number, attempt), host in history.open.items():
            position = self.positions.get(number, -1)
            if host not in self._members:
                continue
            self._members[host].entrusted = True
            if self._detach is Detach.WAIT:
                self._members[host].first_up = began
            if position >= 0 and attempt == history.attempts[number]:
                if host not in awaited:
                    awaited.add(host)
                    self.schedule.join(host, 1)
                self.schedule.adopt(host, position, attempt, now())
        for host in awaited:
            self.schedule.pause(host, now())

    def _leaves(self) -> bool:
        """Return whether the agents go on without a driver."""
        if self._detach is Detach.DEAL:
            return not (self.schedule.finished_all or self._stop)
        return self._detach is Detach.WAIT and not self.schedule.finished_all

    def _farewell(self) -> None:
        """Tell the agents to stop, and report those that did not answer."""
        self._flush()
        if owing := self._connections.farewell(lambda: self._stop.interrupts >= 2):
            self._log.unconfirmed(owing, self.settings.mapreduce.linger)

    def _why(self) -> str:
        """Return the reason that the run is over."""
        if self.outcome.detached and not self._stop.signal:
            return DETACHED
        over = "failed" if self.schedule.failed else "stopped" if self.schedule.left else "done"
        return self._stop.why or over

    def _prices(self) -> dict[str, float]:
        return {member.name: member.price for member in self._members.values() if member.price is not None}

    def _unfinished(self) -> str:
        so_far = ", of those read so far" if self.schedule.more else ""
        done = f"{self.schedule.done} of {self.schedule.total} tasks are done{so_far}"
        return f"the instances go on by themselves; {done}" if self.outcome.detached and not self._stop.signal else done
