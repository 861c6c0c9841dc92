"""Takes in and answers the agents' messages, once the ledger has found that they may be true."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping

from hardway.config import Settings, mebibytes
from hardway.pmap import agent
from hardway.pmap.connecting import Connections
from hardway.pmap.endings import DATA_GONE, complaint_of
from hardway.pmap.events import Ended
from hardway.pmap.expect import Lookout, charged
from hardway.pmap.job import Job
from hardway.pmap.ledger import Lie
from hardway.pmap.link import Frame, Hello, now, text
from hardway.pmap.losses import Losses
from hardway.pmap.member import Member, Presence
from hardway.pmap.runlog import RunLog
from hardway.pmap.schedule import Schedule
from hardway.pmap.spool import whole

ROUND_TRIPS = 4  # measured on a new connection


class Conversation:
    """The conversation with the agents of all members."""

    def __init__(
        self,
        job: Job,
        command: str,
        positions: Mapping[int, int],
        settings: Settings,
        workdir: str,
        digest: str,
        schedule: Schedule,
        connections: Connections,
        log: RunLog,
        lookout: Lookout | None,
        losses: Losses,
        detached: bool,
    ) -> None:
        """Take the tasks' `positions`, by number, and the `digest` of the files that instances got before.

        Agents of a job that is `detached` go on without a driver.
        """
        self._job = job
        self._command = command
        self._positions = positions
        self._settings = settings
        self._workdir = workdir
        self._digest = digest
        self._schedule = schedule
        self._connections = connections
        self._log = log
        self._lookout = lookout
        self._losses = losses
        self._detached = detached
        self._acks: list[tuple[Member, int, int]] = []
        self._next_worker = 0

    def hear(self, member: Member) -> None:
        """Take in all frames that have arrived. Raises EOFError at the end of the connection, Unusable and Lie."""
        for frame in member.link.receive(now()):
            if isinstance(frame, Hello):
                self._greet(member, frame)
            else:
                self._take_in(member, frame)

    def acknowledge(self) -> None:
        """Tell agents which results are in the journal, and begin to look for expected objects of other results."""
        if self._lookout:
            self._lookout.begin()
        for member, task, attempt in self._acks:
            self._connections.send(member, agent.ACK, task, attempt)
        self._acks.clear()

    def checked(self, instance: str, gone: bool) -> None:
        """Record the ends of attempts that say that their data went with this instance."""
        for ended in self._losses.answered(instance, gone):
            flags = ended.end.flags | DATA_GONE if gone else ended.end.flags
            self.settle(ended._replace(end=ended.end._replace(flags=flags)))

    def settle(self, ended: Ended, missing: str = "") -> None:
        """Record the end of an attempt; `missing` is the URL of an expected object that isn't there."""
        member, position, task, attempt, end = ended[:5]
        member.looked_for.discard((task, attempt))
        self._acks.append((member, task, attempt))
        if missing:
            with self._job.writing():
                ended = charged(ended, missing)
        if end.flags & agent.HOST_FAULT:
            member.fault = text(end.inline[end.sizes[0] :]).removeprefix("the instance's fault: ")
            verdict = self._schedule.spoiled(member.name, position, attempt, now())
        else:
            good = ended.is_good
            with self._job.writing():  # it reads files of the job's directory
                said = None if good else complaint_of(ended.end.code, ended.end.flags, ended.stderr, member.name)
            final = bool(end.flags & DATA_GONE)
            verdict = self._schedule.finished(member.name, position, attempt, good, end.seconds, now(), said, final)
        self._log.ended(ended, verdict)

    def _greet(self, member: Member, hello: Hello) -> None:
        """Take in an agent's greeting; the agent may be new, or known to us or an earlier driver. Raises Lie."""
        time = now()
        gone, begun = member.ledger.hello(hello.holdings, time)
        anew = bool(member.identity) and member.identity != hello.identity
        if not anew and any(runs for _, _, runs in gone):
            raise Lie("it has forgotten what runs there")
        if member.presence is Presence.GIVEN_UP:
            self._log.back(member)
        member.is_back(time)
        self._give_slots(member, self._settings.mapreduce.slots or hello.cpus, hello.cpus)
        for start in begun:
            self._job.slot(*start)
        if anew:
            self._log.agent_died(member)
        member.identity = hello.identity
        member.entrusted = True
        self._schedule.join(member.name, member.slots)
        self._reconcile(member, hello, anew)
        member.round_trips.clear()
        self._connections.ping(member)

    def _give_slots(self, member: Member, slots: int, cpus: int) -> None:
        """Number the slots, and send the agent the settings of the job."""
        member.slots = slots
        if member.first_up is None:
            member.first_up = now()
        if member.worker < 0:
            member.worker = self._next_worker
            self._next_worker += slots
        member.ledger.slots = slots
        self._connections.send(member, agent.JOB, payload=self._settings_of(member))
        self._log.up(member, now() - member.made, cpus)

    def _settings_of(self, member: Member) -> bytes:
        pairs = {
            "slots": member.slots,
            "timeout": self._settings.mapreduce.timeout,
            "memory": mebibytes(self._settings.mapreduce.memory, "mapreduce.memory") << 20,
            "linger": self._settings.mapreduce.linger,
            "worker": member.worker,
            "HARDWAY_INSTANCE_ID": member.name,
            "workdir": self._workdir,
            "files": self._digest,
            "detached": int(self._detached),
        }
        items = [f"{key}={value}".encode() for key, value in pairs.items()]
        return b"\0".join([*items, b"command=" + self._command.encode("utf-8", "surrogateescape")])

    def _reconcile(self, member: Member, hello: Hello, anew: bool) -> None:
        """Agree with the agent on the attempts that it holds; an agent that came `anew` replaces one that died."""
        time = now()
        known = self._schedule.held(member.name)
        found = set()
        for holding in hello.holdings:
            position = self._positions.get(holding.task, -1)
            began = None if holding.state == agent.WAITING else time - holding.seconds
            if (position, holding.attempt) in known:
                found.add((position, holding.attempt))
                if began is None:
                    self._schedule.waits(member.name, position, holding.attempt)
                else:
                    self._schedule.started(member.name, position, holding.attempt, began)
                if holding.state == agent.ENDED:
                    self._schedule.sends(member.name, position, holding.attempt)
            elif position < 0 or not self._schedule.adopt(member.name, position, holding.attempt, began):
                if holding.state == agent.ENDED:
                    member.ledger.settled(holding.task, holding.attempt)
                    self._connections.send(member, agent.ACK, holding.task, holding.attempt)
                else:
                    self._connections.order(member, True, holding.task, holding.attempt)
        lost = [key for key in known if key not in found]
        for position, attempt in lost:
            self._log.lost(member, position, attempt)
        if anew:
            self._schedule.died(member.name, lost)
        else:
            for position, attempt in lost:
                self._schedule.lost(member.name, position, attempt)

    # Frames

    def _take_in(self, member: Member, frame: Frame) -> None:
        """Take in one frame. Raises Lie."""
        if member.link.left:
            raise Lie("it speaks after its goodbye")
        kind, task, attempt, payload = frame
        if kind == agent.DONE:
            self._on_done(member, frame)
        elif kind == agent.STARTED:
            self._job.slot(*member.ledger.started(task, attempt, payload, now()))
            self._schedule.started(member.name, self._positions.get(task, -1), attempt, now())
        elif kind == agent.CHUNK:
            self._on_chunk(member, frame)
        elif kind == agent.FINISHED:
            member.ledger.finished(task, attempt, now())
            self._schedule.sends(member.name, self._positions.get(task, -1), attempt)
        elif kind == agent.RETURNED:
            if member.ledger.returned(task, attempt, now()):
                self._schedule.returned(member.name, self._positions.get(task, -1), attempt)
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
        """Note that another job runs on the instance."""
        member.ledger.shares = True
        self._schedule.share(member.name)
        if not member.shares:
            member.shares = True
            self._log.shared(member)

    def _on_notice(self, member: Member, payload: bytes) -> None:
        """Note a coming interruption; the agent announces it again after each reconnection. Raises Lie."""
        if len(payload) != 8 or not math.isfinite(seconds := struct.unpack("!d", payload)[0]):
            raise Lie("a notice of an interruption at no time")
        if member.health.announced:
            return
        self._log.notice(member, seconds, self._schedule.interrupt(member.name, seconds, now()))

    def _on_pong(self, member: Member, payload: bytes) -> None:
        round_trip = member.link.pong(payload, now())
        if round_trip is not None:
            self._schedule.distance(member.name, member.measured(round_trip, ROUND_TRIPS))
            if len(member.round_trips) < ROUND_TRIPS:
                self._connections.ping(member)

    def _on_chunk(self, member: Member, frame: Frame) -> None:
        which, wanted = member.ledger.chunk(frame.task, frame.attempt, frame.payload, now())
        if not wanted or frame.task not in self._positions:
            return  # the task has ended, or its argument was dropped from the job
        with self._job.writing():
            member.spool.write(frame.task, frame.attempt, which, memoryview(frame.payload)[1:])

    def _on_done(self, member: Member, frame: Frame) -> None:
        task, attempt = frame.task, frame.attempt
        end = member.ledger.ended(task, attempt, frame.payload, now())
        with self._job.writing():
            spooled = member.spool.take(task, attempt)
        position = self._positions.get(task, -1)
        if (task, attempt) in member.looked_for:
            return  # the end came before, over another connection, and will be acknowledged
        if position < 0 or not end.wanted:
            self._acks.append((member, task, attempt))
            return
        ended = Ended(member, position, task, attempt, *whole(end, spooled))
        if self._lookout and ended.is_good:
            member.looked_for.add((task, attempt))
            self._lookout.add(ended)
            return
        with self._job.writing():  # what it reads lies in the job's directory
            gone = self._losses.claimed(ended)
        if gone:
            member.looked_for.add((task, attempt))
            self._losses.check(ended, gone)
        else:
            self.settle(ended)
