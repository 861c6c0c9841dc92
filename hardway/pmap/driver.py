"""Carries out what the schedule decides, over a link to each instance, and tells it what happened.

One thread runs the job: it alone touches the schedule, the journal and what the links know. Worker threads do what
may take long (connecting, closing, asking EC2) and answer through the queue that also announces frames. All times
are in seconds of the monotonic clock.
"""

from __future__ import annotations

import contextlib
import errno
import math
import queue
import random
import signal
import struct
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

from hardway.config import Settings
from hardway.ec2 import instances as ec2
from hardway.ec2.instances import Instance
from hardway.errors import Failed, HardwayError, Interrupted, UsageError
from hardway.money.prices import hourly
from hardway.pmap import agent
from hardway.pmap.expect import Expected, message
from hardway.pmap.files import Load
from hardway.pmap.journal import Job, Outputs, Result
from hardway.pmap.ledger import End, Ledger, Lie
from hardway.pmap.link import Frame, Hello, Link, Unusable, cut, cut_short, now, text
from hardway.pmap.progress import Progress
from hardway.pmap.schedule import DEADLY, Cancel, Recall, Schedule, Start, Verdict
from hardway.ssh.keys import HostKeys
from hardway.terminal import printable

CONNECTING_MOST = 32  # connections being opened at the same time
PING_AFTER = 10.0  # of silence
DEAD_AFTER = 40.0  # of silence, though pinged
BACKOFF_FIRST, BACKOFF_MOST = 0.5, 15.0
ROUND_TRIPS = 4  # measured on a new connection
ASK_EC2_EVERY = 5.0
LOOK_EVERY = 3.0  # for instances that may join
HANDLE_MOST = 0.2  # seconds of events, until it is decided what follows from them
SOON, FRUITLESS_MOST = (
    10.0,
    10,
)  # seconds that a connection lasts at least, and shorter ones in a row that bring nothing
CHECK_EVERY = 5.0  # whether agents say in time what they have to
FIRST_TRIES = 3  # before the job ends, if no instance was ever reached
LOST, WORKERS_DIED, MISSING = 8, 16, 512  # an attempt's flags, beside the agent's
LOOKS_MOST = 8  # tasks whose objects one thread looks for in a row
FAREWELL = 3.0  # for the agents to end their tasks and go
FAREWELL_UNTOLD = 4.0  # where some have yet to be reached
SAID_MOST = 5  # of what agents tell of attempts is shown
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)  # no host's fault when a connection fails so


@dataclass
class Outcome:
    """What a run of the job came to. `failed` maps positions of arguments to the last attempt's end.

    `busy` are the seconds that attempts ran, `slot_seconds` those that slots were there to run them; `cost` is in USD,
    of those instances whose price is known, `unpriced` is the number of the others.
    """

    failed: dict[int, Result] = field(default_factory=dict)
    done: int = 0
    left: int = 0
    attempts: int = 0
    retries: int = 0
    backups: int = 0
    lost: int = 0
    seconds: float = 0.0
    busy: float = 0.0
    slot_seconds: float = 0.0
    cost: float = 0.0
    unpriced: int = 0


class _Spool:
    """Long outputs of one host's attempts, on their way into the job. One file is open at a time."""

    def __init__(self, folder: Path, host: str) -> None:
        self._folder = folder
        self._host = host
        self._kept: dict[tuple[int, int], tuple[list[Path], list[int]]] = {}
        self._open: tuple[Path, BinaryIO] | None = None

    def write(self, task: int, attempt: int, which: int, data: memoryview) -> None:
        """Append to an output, 0 is stdout. Raises OSError."""
        if (task, attempt) not in self._kept:
            stem = self._folder / f"{task}.{attempt}.{self._host}"
            self._kept[task, attempt] = [Path(f"{stem}.part{index}") for index in (0, 1)], [0, 0]
            for path in self._kept[task, attempt][0]:
                path.write_bytes(b"")
        paths, checksums = self._kept[task, attempt]
        path = paths[which]
        if self._open is None or self._open[0] != path:
            self.close()
            self._open = path, path.open("ab", buffering=0)
        checksums[which] = zlib.crc32(data, checksums[which])
        while data:
            data = data[self._open[1].write(data) :]

    def take(self, task: int, attempt: int) -> tuple[list[Path], list[int]] | None:
        """The files of both outputs, complete, and their checksums; None where there are none. Raises OSError."""
        found = self._kept.pop((task, attempt), None)
        if found:
            self.close()
        return found

    def drop(self) -> None:
        """Forget all of it; the agent sends it again."""
        with contextlib.suppress(OSError):  # no room for what is thrown away is no matter
            self.close()
        for paths, _ in self._kept.values():
            discard(paths)
        self._kept.clear()

    def close(self) -> None:
        """Close the file that is open. Raises OSError."""
        if self._open is not None:
            file, self._open = self._open[1], None
            file.close()


def discard(paths: Sequence[Path]) -> None:
    """Remove files that nobody needs."""
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


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
        on_result: Callable[[int, Result], None] | None = None,
        keep_going: bool = False,
        backup: bool = True,
        workdir: str = "home",
        avoid: Mapping[int, str] | None = None,
        find: Callable[[], Sequence[Instance]] | None = None,
        load: Load | None = None,
        expect: Expected | None = None,
    ) -> None:
        """`arguments` are what tasks read on stdin; `numbers` are their task numbers in the job, in the same order.

        `on_result` is called with the position and the result of each task that is over. With `keep_going` a task that
        has failed for good ends nothing, with `backup` the slowest run a second time, and `workdir` is where they run:
        home or scratch. `avoid` maps positions to
        the instance where the task is not to run if there is another. `find` is asked now and then, in a worker
        thread, for instances that may join. Each instance gets `load` before its first task. A result counts once
        what is to `expect` of it is there.
        """
        self.job = job
        self.command = command
        self.arguments = arguments
        self.numbers = numbers
        self.settings = settings
        self.workdir = workdir
        self.progress = progress
        self.on_result = on_result
        self.positions = {number: position for position, number in enumerate(numbers)}
        self.schedule = Schedule(
            len(arguments),
            retries=settings.mapreduce.retries,
            retry_sleep=settings.mapreduce.retry_sleep,
            keep_going=keep_going,
            backup=backup,
            seed=random.randrange(1 << 30),
        )
        self._avoids = bool(avoid)
        for position, host in (avoid or {}).items():
            self.schedule.avoid(position, host)
        self.outcome = Outcome()
        self._known = HostKeys()
        self._events: SimpleQueue[Any] = SimpleQueue()
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._workers: list[threading.Thread] = []
        self._links = {instance.id: self._link(instance) for instance in instances}
        self._spools: dict[str, _Spool] = {}
        self._touched: dict[Link, None] = {}  # links with frames to send
        self._acks: list[tuple[Link, int, int]] = []
        self._gone: set[str] = set()
        self._aside: set[str] = set()  # instances that get no more tasks
        self._checked = now()
        self._entrusted: set[str] = set()  # instances whose agents may hold tasks
        self._leaving: set[str] = set()  # instances about to be interrupted
        self._sharing: set[str] = set()  # instances where another job runs
        self._ending = False
        self._find = find
        self._load = load
        self._expect = expect
        # Attempts that have ended well, if what is expected of them is there: what to look at, and whom to tell.
        self._unlooked: list[tuple[int, bytes | Path, Callable[[str], None]]] = []
        self._looking: set[tuple[str, int, int]] = set()  # all of these, looked at or not
        self._looked = now()
        self._next_worker = 0
        self._reasons: Counter[str] = Counter()
        self._told = 0  # lines that agents had to say of attempts
        self._asked_ec2 = 0.0
        self._asking = False
        self._interrupted = 0
        self._left_running = 0
        self._slots: dict[str, int] = {}
        self._since: dict[str, float] = {}  # when an instance's slots were first there,
        self._until: dict[str, float] = {}  # and when it was given up
        self._prices: dict[str, float] = {}  # USD/hour
        self._error: HardwayError | None = None
        self._over = threading.Event()

    def run(self) -> Outcome:
        """Run until every task is over, or none can be.

        Raises Interrupted after Ctrl-C, with the tasks on the instances ended; Failed where no instance is left.
        """
        began = ended = now()
        mapreduce = self.settings.mapreduce
        self.job.event("run", tasks=len(self.numbers), slots=mapreduce.slots, timeout=mapreduce.timeout)
        self._take_over()
        self.progress.begin(self.numbers, self.schedule.done)
        try:
            with self._threads(), self._signals():
                self._ask_prices([link.instance for link in self._links.values()])
                try:
                    self._loop()
                    if not self._left_running:
                        self._farewell()
                finally:
                    ended = now()
                    for link in self._links.values():
                        self.job.history.sent[link.name] = link.ledger.known()
                    self._disconnect()
                    self.job.event("over", why=self._why(), prices=dict(self._prices))
                    self.job.flush()
        finally:
            schedule, outcome = self.schedule, self.outcome
            outcome.done, outcome.left = schedule.done, schedule.left
            outcome.attempts, outcome.retries = schedule.attempts, schedule.retried
            outcome.backups = schedule.backups
            outcome.seconds = ended - began
            self._count_time(ended)
        if self._left_running:
            name = signal.Signals(self._left_running).name
            raise HardwayError(f"ended by {name}; what runs goes on; {self._unfinished()}", 128 + self._left_running)
        if self._interrupted:
            raise Interrupted(f"interrupted; {self._unfinished()}")
        if self._error:
            raise self._error
        return self.outcome

    def _why(self) -> str:
        """Why the run is over."""
        if self._interrupted:
            return "interrupted"
        if self._left_running:
            return signal.Signals(self._left_running).name
        if self._error:
            return str(self._error)
        return "failed" if self.schedule.failed else "stopped" if self.schedule.left else "done"

    # The loop

    def _loop(self) -> None:
        for link in self._links.values():
            self._open(link)
        while not (self.schedule.finished_all or self._interrupted or self._left_running or self._error):
            self._handle_all(self._patience())
            time = now()
            self._keep_links(time)
            self._decide(time)
            self._flush()
            self._end_if_none_is_left()
            self.progress.update(self.schedule, sum(link.up for link in self._links.values()), time)

    def _patience(self) -> float:
        """How long nothing needs to be done if nothing happens."""
        time = now()
        due = self.schedule.due(time)
        times = [time + 1.0] if due is None else [time + 1.0, due]
        times += [link.retry_at for link in self._links.values() if link.retry_at and not link.opening]
        if self._touched:
            times.append(time + 0.02)
        return max(0.0, min(times) - time)

    def _handle_all(self, timeout: float) -> None:
        """Wait for an event, then handle all there are; no host can keep us from the rest by saying more and more."""
        with contextlib.suppress(queue.Empty):
            event = self._events.get(timeout=timeout)
            end = now() + HANDLE_MOST
            while True:
                getattr(self, f"_on_{event[0]}")(*event[1:])
                if now() > end:
                    break
                event = self._events.get_nowait()

    def _decide(self, time: float) -> None:
        untried = (not (link.ever_up or link.failures or link.given_up) for link in self._links.values())
        if self._avoids and any(untried):
            return  # the one that is to be avoided may be the first that is there
        for decision in self.schedule.decide(time):
            link = self._links.get(str(decision.host))
            if link is None:
                continue  # it has gone since that was decided
            number = self.numbers[decision.task]
            if isinstance(decision, Start):
                self.job.started(number, decision.attempt, link.name)
                link.ledger.sent(number, decision.attempt, time)
                link.send(agent.RUN, number, decision.attempt, self.arguments[decision.task])
            elif isinstance(decision, Recall | Cancel):
                self._order(link, isinstance(decision, Cancel), number, decision.attempt)
            self._touched[link] = None
        self._note_deadly()
        while self.schedule.spared:
            spared = self._links.get(str(self.schedule.spared.pop()))
            if spared is not None:
                self.job.event("spared", host=spared.name)
                self.progress.say(f"{spared.instance}: it was not interrupted, it takes tasks again")

    @staticmethod
    def _order(link: Link, kill: bool, number: int, attempt: int) -> None:
        """Ask for an attempt back, or for its end."""
        link.ledger.ordered(number, attempt, kill, now())
        link.send(agent.KILL if kill else agent.TAKE, number, attempt)

    def _flush(self) -> None:
        """The journal first: what it doesn't know of was never sent, and nothing is acknowledged that it can lose."""
        self.job.flush()
        self._look_for_expected()
        for link, number, attempt in self._acks:
            link.send(agent.ACK, number, attempt)
            self._touched[link] = None
        self._acks.clear()
        for link in list(self._touched):
            if not link.up or link.flush():
                del self._touched[link]

    # Links

    def _link(self, instance: Instance) -> Link:
        history = self.job.history
        sent = history.sent.get(instance.id, ())
        return Link(instance, self._events, Ledger(sent, self.job.asked.created))

    def _open(self, link: Link) -> None:
        link.opening = True
        link.retry_at = 0.0

        # Instances may share a home directory, and people the name of a job.
        folder = f"{self.job.asked.name}-{self.job.asked.token}-{link.name}"

        def work() -> None:
            try:
                if self._ending and link.name not in self._entrusted:
                    raise EOFError
                link.connect(self.settings, self.settings.stub_session, folder, self._known, self._over, self._load)
            except Exception as error:  # whatever it is, the driver's thread is told
                self._events.put(("refused", link, error))
            else:
                self._events.put(("opened", link))

        self._work.put(work)

    def _on_opened(self, link: Link) -> None:
        link.opening = False
        if self._links.get(link.name) is not link:
            self._drop(link)  # it was called gone meanwhile
            return
        link.opened(now())

    def _on_refused(self, link: Link, error: Exception) -> None:
        link.opening = False
        if self._is_ours(error):
            return
        if isinstance(error, UsageError) or not isinstance(error, HardwayError | OSError | EOFError):
            self._error = error if isinstance(error, HardwayError) else Failed(f"{link.instance}: {error!r}")
            return
        self._lost(link, str(error))

    def _is_ours(self, error: BaseException) -> bool:
        """Whether it is this machine that can't go on, and no host; then the job ends."""
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, OSError) and cause.errno in _OURS:
                reason = (cause.strerror or str(cause)).lower()
                self._error = Failed(f"this machine can't go on: {reason}; {self._unfinished()}")
                return True
            cause = cause.__cause__ or cause.__context__
        return False

    def _lost(self, link: Link, reason: str) -> None:
        """The connection is gone or could not be made: try again later."""
        time = now()
        if link.up:
            soon = time - link.greeted < SOON and link.ledger.progress <= link.greeted
            link.fruitless = link.fruitless + 1 if soon else 0
        self._drop(link)
        if link.fruitless > FRUITLESS_MOST:
            self._give_up(link, "its agent goes as soon as it has come", gone=True)
            return
        reason = link.reason = printable(reason)
        link.failures += 1
        if not link.lost_at:
            link.lost_at = time
            if link.ever_up:
                self.schedule.pause(link.name, time)
            self.job.event("away", host=link.name, reason=reason)
            self.progress.say(f"{link.instance}: {reason or 'the connection was lost'}; trying again")
        wait = min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** (max(link.failures, link.fruitless) - 1))
        link.retry_at = time + wait * random.uniform(0.7, 1.0)

    def _drop(self, link: Link) -> None:
        self._touched.pop(link, None)
        if spool := self._spools.pop(link.name, None):
            spool.drop()
        connection = link.detach()
        if connection is not None:

            def close() -> None:
                cut(connection)
                connection.close()

            self._work.put(close)

    def _give_up(self, link: Link, reason: str, gone: bool) -> None:
        """What the instance held runs elsewhere.

        One that is not known to be gone may come back: then what it still runs is ended, and it takes tasks again.
        """
        self._drop(link)
        if gone:
            del self._links[link.name]
            self._gone.add(link.name)
        if link.given_up:
            return
        link.given_up = True
        reason = printable(reason)
        self._until[link.name] = now()
        for position, attempt in self.schedule.held(link.name):
            self._note_lost(link, position, attempt)
        self.job.event("gone", host=link.name, reason=reason)
        again = self.schedule.leave(link.name)
        self._note_deadly()
        self.outcome.lost += 1
        self._reasons[reason] += 1
        tasks = f"; {len(again)} {'task runs' if len(again) == 1 else 'tasks run'} elsewhere" if again else ""
        self.progress.say(f"{link.instance}: {reason}{tasks}")

    def _end_if_none_is_left(self) -> None:
        """Nothing runs, and nobody is there or may come to whom anything could be sent."""
        usable = (not link.given_up and link.name not in self._aside for link in self._links.values())
        if self._error or self.schedule.finished_all or not self.schedule.idle or any(usable):
            return
        reasons = "; ".join(reason for reason, _ in self._reasons.most_common(3))
        self._error = Failed(f"no instance is left: {reasons}; {self._unfinished()}")

    def _distrust(self, link: Link, lie: str) -> None:
        """Its agent says what can't be, or nothing where it has to: nothing more is sent there or taken from there."""
        if link.channel is not None:
            self._stop(link)
        kept = f"; {link.results} of its results are kept" if link.results else ""
        reason = f"set aside, what arrives is not from our agent ({cut_short(lie)}){kept}"
        if link.given_up:
            self.progress.say(f"{link.instance}: {reason}")
        self._give_up(link, reason, gone=True)

    def _note_aside(self, reason: str) -> None:
        """Hosts that the schedule gives no more tasks, since what happened last."""
        while self.schedule.put_aside:
            bad = self._links.get(str(self.schedule.put_aside.pop()))
            if bad is not None and bad.name not in self._aside:
                self._aside.add(bad.name)
                self._reasons[reason] += 1
                self.job.event("aside", host=bad.name)
                self.progress.say(f"{bad.instance}: set aside, {reason}")

    def _note_lost(self, link: Link, position: int, attempt: int) -> None:
        self.job.event("lost", task=self.numbers[position], attempt=attempt, host=link.name)

    def _keep_links(self, time: float) -> None:
        """Reconnect what was lost, give up what stays lost, ping what is silent."""
        lost = [link for link in self._links.values() if link.lost_at]
        for link in lost:
            if not link.opening and link.retry_at and time >= link.retry_at:
                self._open(link)
            elif link.channel is None and not link.given_up and time - link.lost_at > self.settings.mapreduce.reconnect:
                self._give_up(link, link.reason or "it could not be reached any more", gone=False)
        if self._links and len(lost) == len(self._links) and not self._slots:
            tried = [link for link in lost if link.failures >= FIRST_TRIES]
            if len(tried) == len(lost) and not self._error:
                reasons = Counter(link.reason for link in lost).most_common(3)
                self._error = Failed(f"no instance could be used: {'; '.join(reason for reason, _ in reasons)}")
        if any(link.failures for link in lost) and not self._asking and time - self._asked_ec2 > ASK_EC2_EVERY:
            self._ask_ec2([link.name for link in lost])
        if self._find and time - self._looked > LOOK_EVERY:
            self._look()
        check = time - self._checked > CHECK_EVERY
        for link in list(self._links.values()):
            if link.channel is not None:
                if time - link.heard > DEAD_AFTER:
                    self._lost(link, "it does not answer")
                elif check and (stalled := link.stalled(time)):
                    self._lost(link, stalled)
                elif link.up and time - link.heard > PING_AFTER:
                    self._ping(link)
                elif check and link.up:
                    late = link.ledger.overdue(link.reached, link.answers_since, self.settings.mapreduce.timeout)
                    if late:
                        self._distrust(link, late)
                    elif link.ledger.open and not link.pinged:
                        self._ping(link)
        if check:
            self._checked = time

    def _look(self) -> None:
        """Look for instances that may join."""
        find = self._find
        self._looked = now()

        def work() -> None:
            if find:
                with contextlib.suppress(Exception):  # nobody joins, then
                    self._events.put(("found", find()))

        self._work.put(work)

    def _on_found(self, found: Sequence[Instance]) -> None:
        joining = [one for one in found if one.id not in self._links and one.id not in self._gone]
        if joining:
            self._ask_prices(joining)
        for instance in joining:
            self.progress.say(f"{instance}: it joins")
            link = self._links[instance.id] = self._link(instance)
            self._open(link)

    def _ask_ec2(self, ids: list[str]) -> None:
        self._asking = True
        self._asked_ec2 = now()

        def work() -> None:
            alive: dict[str, str] | None = None
            with contextlib.suppress(Exception):  # EC2 can't be asked: then nobody is called dead
                alive = {found.id: found.state for found in ec2.described(self.settings, ids)}
            self._events.put(("states", ids, alive))

        self._work.put(work)

    def _on_states(self, ids: list[str], states: dict[str, str] | None) -> None:
        self._asking = False
        for name in ids if states is not None else ():
            link = self._links.get(name)
            state = (states or {}).get(name, "terminated")
            if link is not None and link.lost_at and state not in ("pending", "running"):
                self._give_up(link, f"it is {state}", gone=True)

    def _on_ready(self, link: Link) -> None:
        if self._links.get(link.name) is not link or link.channel is None:
            return
        try:
            for frame in link.receive(now()):
                if isinstance(frame, Hello):
                    self._greet(link, frame)
                else:
                    self._on_frame(link, frame)
        except EOFError:
            self._lost(link, "")
        except Unusable as error:
            self._give_up(link, str(error), gone=True)
        except Lie as error:
            self._distrust(link, str(error))

    def _greet(self, link: Link, hello: Hello) -> None:
        """An agent is there: a new one, or one that we or an earlier driver knew. Raises Lie."""
        link.greeted = now()
        gone, begun = link.ledger.hello(hello.holdings, link.greeted)
        anew = bool(link.identity) and link.identity != hello.identity
        if not anew and any(runs for _, _, runs in gone):
            raise Lie("it has forgotten what runs there")
        link.lost_at = 0.0
        link.failures = 0
        if link.given_up:
            link.given_up = False
            self._until.pop(link.name, None)
            self.progress.say(f"{link.instance}: it is back")
        slots = self._slots[link.name] = self.settings.mapreduce.slots or hello.cpus
        self._since.setdefault(link.name, now())
        if link.worker < 0:
            link.worker = self._next_worker
            self._next_worker += slots
        link.ledger.slots = slots
        link.send(agent.JOB, payload=self._settings_of(link, slots))
        instance = link.instance
        about = {"name": instance.name, "type": instance.type, "zone": instance.zone, "spot": instance.spot}
        seconds = round(now() - link.made, 3)
        self.job.event("up", host=link.name, slots=slots, seconds=seconds, **about)
        for start in begun:
            self.job.slot(*start)
        if anew:
            self.job.event("died", host=link.name)
            self.progress.say(f"{link.instance}: the agent had died; another one is there")
        link.identity = hello.identity
        self._entrusted.add(link.name)
        self.schedule.join(link.name, slots)
        self._reconcile(link, hello, anew)
        self._note_aside("it died time after time, whatever ran there")
        link.round_trips.clear()
        self._ping(link)

    def _reconcile(self, link: Link, hello: Hello, anew: bool) -> None:
        """Agree with the agent on what it holds; an agent that came `anew` took the place of one that died."""
        time = now()
        known = self.schedule.held(link.name)
        found = set()
        for holding in hello.holdings:
            position = self.positions.get(holding.task, -1)
            began = None if holding.state == agent.WAITING else time - holding.seconds
            if (position, holding.attempt) in known:
                found.add((position, holding.attempt))
                if began is not None:
                    self.schedule.started(link.name, position, holding.attempt, began)
            elif position < 0 or not self.schedule.adopt(link.name, position, holding.attempt, began):
                if holding.state == agent.ENDED:
                    link.ledger.settled(holding.task, holding.attempt)
                    link.send(agent.ACK, holding.task, holding.attempt)
                else:
                    self._order(link, True, holding.task, holding.attempt)
        lost = [key for key in known if key not in found]
        for position, attempt in lost:
            self._note_lost(link, position, attempt)
        if anew:
            self.schedule.died(link.name, lost)
        else:
            for position, attempt in lost:
                self.schedule.lost(link.name, position, attempt)
        self._note_deadly()

    def _note_deadly(self) -> None:
        """Tasks that the schedule gives up since they seem to kill what they run on have failed."""
        while self.schedule.deadly:
            position, attempt, host = self.schedule.deadly.pop()
            number = self.numbers[position]
            result = self.job.ended(number, attempt, str(host), -signal.SIGKILL, LOST, 0.0, b"", b"")
            self.outcome.failed[position] = result
            self.progress.say(f"task {number} is given up: {how_it_ended(result)}")
            if self.on_result:
                self.job.flush()
                self.on_result(position, result)

    def _settings_of(self, link: Link, slots: int) -> bytes:
        pairs = {
            "slots": slots,
            "timeout": self.settings.mapreduce.timeout,
            "linger": self.settings.mapreduce.linger,
            "worker": link.worker,
            "HARDWAY_INSTANCE_ID": link.name,
            "workdir": self.workdir,
            "files": self._load.digest if self._load else "",
        }
        items = [f"{key}={value}".encode() for key, value in pairs.items()]
        return b"\0".join([*items, b"command=" + self.command.encode("utf-8", "surrogateescape")])

    # Frames

    def _on_frame(self, link: Link, frame: Frame) -> None:
        """Take in what the agent says, once the ledger has found that it may be true. Raises Lie."""
        if link.left:
            raise Lie("it speaks after its goodbye")
        kind, task, attempt, payload = frame
        if kind == agent.DONE:
            self._on_done(link, frame)
        elif kind == agent.STARTED:
            self.job.slot(*link.ledger.started(task, attempt, payload, now()))
            self.schedule.started(link.name, self.positions.get(task, -1), attempt, now())
        elif kind == agent.CHUNK:
            self._on_chunk(link, frame)
        elif kind == agent.RETURNED:
            if link.ledger.returned(task, attempt, now()):
                self.schedule.returned(link.name, self.positions.get(task, -1), attempt)
                self.job.event("back", task=task, attempt=attempt, host=link.name)
        elif kind == agent.ERROR:
            self.progress.say(f"{link.instance}: {link.complaint(payload)}")
        elif kind == agent.BYE:
            link.left = True
        elif kind == agent.NOTICE:
            if len(payload) != 8 or not math.isfinite(seconds := struct.unpack("!d", payload)[0]):
                raise Lie("a notice of an interruption at no time")
            self._on_notice(link, seconds)
        elif kind == agent.PONG:
            self._on_pong(link, payload)
        elif kind == agent.SAID:
            link.ledger.said(task, attempt)
            self._told += 1
            if self._told <= SAID_MOST:
                more = "; more of this kind is not told" if self._told == SAID_MOST else ""
                self.progress.say(f"{link.instance}: task {task}: {text(payload)}{more}")
        elif kind == agent.SHARED:
            self._on_shared(link)
        else:
            raise Lie(f"a frame of kind {kind} in the middle")

    def _on_shared(self, link: Link) -> None:
        """Another job runs there."""
        link.ledger.shares = True
        self.schedule.share(link.name)
        if link.name not in self._sharing:
            self._sharing.add(link.name)
            self.progress.say(
                f"{link.instance}: another job runs there too; together they run no more at a time than one"
            )

    def _on_notice(self, link: Link, seconds: float) -> None:
        """The instance is about to be interrupted; told again after each reconnection."""
        if link.name in self._leaving:
            return
        self._leaving.add(link.name)
        urgent = self.schedule.interrupt(link.name, seconds, now())
        self.job.event("notice", host=link.name, seconds=round(seconds, 3))
        tasks = f"; {urgent} {'task is' if urgent == 1 else 'tasks are'} run elsewhere too" if urgent else ""
        self.progress.say(f"{link.instance}: spot interruption in {max(seconds, 0):.0f} s, nothing new starts{tasks}")

    def _ping(self, link: Link) -> None:
        link.ping(now())
        self._touched[link] = None

    def _on_pong(self, link: Link, payload: bytes) -> None:
        """The shortest of a few round trips is the link's; the others are the time that somebody was busy."""
        round_trip = link.pong(payload, now())
        if round_trip is not None:
            link.round_trips = sorted([*link.round_trips, round_trip])[:ROUND_TRIPS]
            self.schedule.distance(link.name, link.round_trips[0])
            if len(link.round_trips) < ROUND_TRIPS:
                self._ping(link)

    def _on_chunk(self, link: Link, frame: Frame) -> None:
        which, wanted = link.ledger.chunk(frame.task, frame.attempt, frame.payload, now())
        if not wanted or frame.task not in self.positions:
            return  # it has ended already, or its argument has been dropped from the job since
        spool = self._spools.get(link.name)
        if spool is None:
            spool = self._spools[link.name] = _Spool(self.job.path / "large", link.name)
        with self.job.writing():
            spool.write(frame.task, frame.attempt, which, memoryview(frame.payload)[1:])

    def _look_for_expected(self) -> None:
        """Have worker threads look whether what is expected of results is there."""
        while self._unlooked:
            batch, self._unlooked = self._unlooked[:LOOKS_MOST], self._unlooked[LOOKS_MOST:]
            self._work.put(partial(self._look_for, batch))

    def _look_for(self, batch: Sequence[tuple[int, bytes | Path, Callable[[str], None]]]) -> None:
        for position, stdout, settle in batch:
            try:
                pieces = [stdout] if isinstance(stdout, bytes) else _pieces(stdout)
                missing = self._expect.missing(self.arguments[position], pieces) if self._expect else ""
            except Exception as error:  # whatever it is, the driver's thread is told
                self._events.put(("unknown", error))
            else:
                self._events.put(("looked", settle, missing))

    @staticmethod
    def _on_looked(settle: Callable[[str], None], missing: str) -> None:
        settle(missing)

    def _on_unknown(self, error: Exception) -> None:
        self._error = error if isinstance(error, HardwayError) else Failed(f"what is expected can't be seen: {error!r}")

    def _on_done(self, link: Link, frame: Frame) -> None:
        task, attempt = frame.task, frame.attempt
        end = link.ledger.ended(task, attempt, frame.payload, now())
        spool = self._spools.get(link.name)
        with self.job.writing():
            spooled = spool.take(task, attempt) if spool else None
        position = self.positions.get(task, -1)
        if (link.name, task, attempt) in self._looking:
            return  # it came before, over another connection, and is acknowledged when it has been looked at
        if position < 0 or not end.wanted:
            self._acks.append((link, task, attempt))
            return
        flags = end.flags
        stdout: bytes | Path = end.inline[: end.sizes[0]]
        stderr: bytes | Path = end.inline[end.sizes[0] :]
        if spooled and flags & agent.HOST_FAULT:  # found when part of it was sent
            discard(spooled[0])
        elif spooled:
            (stdout, stderr), checksums = spooled
            if checksums != end.checksums:
                flags |= agent.HOST_FAULT  # what arrived is not what the agent read
        elif [zlib.crc32(end.inline[: end.sizes[0]]), zlib.crc32(end.inline[end.sizes[0] :])] != end.checksums:
            flags |= agent.HOST_FAULT
        end = end._replace(flags=flags)
        if self._expect and end.code == 0 and not flags:
            self._looking.add((link.name, task, attempt))
            self._unlooked.append((position, stdout, partial(self._settle, link, position, frame, end, stdout, stderr)))
        else:
            self._settle(link, position, frame, end, stdout, stderr)

    def _settle(
        self,
        link: Link,
        position: int,
        frame: Frame,
        end: End,
        stdout: bytes | Path,
        stderr: bytes | Path,
        missing: str = "",
    ) -> None:
        """An attempt has ended; of what is expected of it, this is missing."""
        task, attempt, flags = frame.task, frame.attempt, end.flags
        self._looking.discard((link.name, task, attempt))
        self._acks.append((link, task, attempt))
        if missing:
            flags |= MISSING
            if isinstance(stderr, bytes):
                stderr += message(missing)
            else:
                with self.job.writing(), stderr.open("ab") as file:
                    file.write(message(missing))
        self.outcome.busy += end.seconds
        ok = end.code == 0 and not flags
        if flags & agent.HOST_FAULT:
            verdict = self.schedule.spoiled(link.name, position, attempt, now())
            said = text(end.inline[end.sizes[0] :]).removeprefix("the instance's fault: ")
            self._note_aside(f"it can't run what it is sent{': ' if said else ''}{said}")
        else:
            verdict = self.schedule.finished(link.name, position, attempt, ok, end.seconds, now())
            self._note_aside("tasks that fail there succeed elsewhere")
        if verdict is Verdict.IGNORED:
            about = {"code": end.code, "seconds": round(end.seconds, 6)}
            self.job.event("ended", task=task, attempt=attempt, host=link.name, **about)
            discard([output for output in (stdout, stderr) if isinstance(output, Path)])
            return
        result = self.job.ended(task, attempt, link.name, end.code, flags, end.seconds, stdout, stderr)
        if verdict is Verdict.DONE:
            link.results += 1
            self.job.done(task, result)
        elif verdict is Verdict.FAILED:
            self.outcome.failed[position] = result
        if not ok:
            self._tell_failure(link, position, result, verdict)
        if self.on_result and verdict in (Verdict.DONE, Verdict.FAILED):
            self.job.flush()
            self.on_result(position, result)

    def _tell_failure(self, link: Link, position: int, result: Result, verdict: Verdict) -> None:
        if verdict is Verdict.RETRY:
            self.job.flush()
            how = how_it_ended(result, self.settings.mapreduce.timeout)
            said = last_line(self.job.outputs, self.numbers[position], result)
            reason = f"{how}{': ' if said else ''}{said}"
            failed = "could not run" if result.flags & agent.HOST_FAULT else "failed"
            self.progress.retry(
                f"task {self.numbers[position]} {failed} on {link.instance}: {reason}; it will be tried again"
            )

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
            if host in self._links:
                self._entrusted.add(host)
            if host in self._links and position >= 0 and attempt == history.attempts[number]:
                self.schedule.join(host, 1)
                self.schedule.adopt(host, position, attempt, now())
                self.schedule.pause(host, now())

    def _farewell(self) -> None:
        """Have the agents end what still runs, clean up and go, for a few seconds at most.

        One that may hold tasks and can't be reached at the moment is connected to again for that.
        """
        self._ending = True
        self._flush()
        for link in self._links.values():
            if link.channel is not None:
                self._stop(link)
        began = now()
        while (owed := self._owed()) and self._interrupted < 2:
            told = all(link.channel is not None for link in owed)
            if now() - began > (FAREWELL if told else FAREWELL_UNTOLD):
                break
            for link in owed:
                if link.channel is not None:
                    link.flush()
                elif not link.opening and now() >= link.retry_at:
                    self._open(link)
            with contextlib.suppress(queue.Empty):
                event = self._events.get(timeout=0.05)
                if event[0] in ("ready", "opened", "refused"):
                    getattr(self, f"_last_{event[0]}")(event[1])
        if owed := self._owed():
            names = ", ".join(link.name for link in owed[:5]) + (" ..." if len(owed) > 5 else "")
            self.progress.say(
                f"{names}: the agent there did not confirm that it ends; left alone, it does after "
                f"{self.settings.mapreduce.linger:g} s"
            )

    def _owed(self) -> list[Link]:
        """Links whose agents may hold tasks, and haven't said that they go."""
        return [link for link in self._links.values() if link.name in self._entrusted and not link.left]

    def _stop(self, link: Link) -> None:
        link.send(agent.STOP)
        link.flush()

    def _last_opened(self, link: Link) -> None:
        link.opening = False
        if self._links.get(link.name) is link:
            link.opened(now())
            self._stop(link)
        else:
            self._drop(link)

    def _last_refused(self, link: Link) -> None:
        link.opening = False
        link.retry_at = now() + BACKOFF_FIRST

    def _last_ready(self, link: Link) -> None:
        try:
            frames = link.receive(now())
        except (EOFError, HardwayError, Lie):
            self._drop(link)
            self._last_refused(link)
        else:
            link.left |= any(isinstance(frame, Frame) and frame.kind == agent.BYE for frame in frames)

    def _disconnect(self) -> None:
        """Close all connections, at the same time."""
        for spool in self._spools.values():
            spool.drop()
        connections = [connection for link in self._links.values() if (connection := link.detach())]
        for connection in connections:
            cut(connection)
        for connection in connections:
            self._work.put(connection.close)

    def _ask_prices(self, instances: Sequence[Instance]) -> None:
        def work() -> None:
            self._prices.update(hourly(self.settings, instances))
            self._events.put(("priced",))

        self._work.put(work)

    def _on_priced(self) -> None:
        self.job.event("prices", **dict(self._prices))

    def _count_time(self, end: float) -> None:
        """What the instances' time came to, in seconds of slots and in USD."""
        outcome = self.outcome
        for name, since in self._since.items():
            seconds = self._until.get(name, end) - since
            outcome.slot_seconds += self._slots[name] * seconds
            if name in self._prices:
                outcome.cost += self._prices[name] * seconds / 3600
            else:
                outcome.unpriced += 1

    def _unfinished(self) -> str:
        done, total = self.schedule.done, self.schedule.total
        return f"{done} of {total} tasks are done"

    @contextlib.contextmanager
    def _threads(self) -> Iterator[None]:
        for _ in range(min(CONNECTING_MOST, len(self._links) + 2)):
            thread = threading.Thread(target=self._serve, daemon=True)
            thread.start()
            self._workers.append(thread)
        try:
            yield
        finally:
            self._over.set()
            for _ in self._workers:
                self._work.put(None)
            # One that is connecting ends by its own timeout; nobody waits for it after an interruption.
            hurry = self._interrupted or self._left_running or self._error
            end = now() + (1.0 if hurry else self.settings.ec2.connect_timeout)
            for thread in self._workers:
                thread.join(max(0.0, end - now()))
            self._close_late()

    def _close_late(self) -> None:
        """Connections that were opened after all was over."""
        with contextlib.suppress(queue.Empty):
            while True:
                event = self._events.get_nowait()
                connection = event[1].detach() if event[0] == "opened" else None
                if connection is not None:
                    cut(connection)
                    connection.close()

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            with contextlib.suppress(Exception):  # what matters is reported by the work itself
                work()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Signals wake the loop, which ends things in order.

        Ctrl-C ends what runs on the instances; a second one doesn't wait for that. SIGTERM and SIGHUP, the end of a
        session or of a machine, leave it running.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_signal(number: int, stack: object) -> None:
            if number == signal.SIGINT:
                self._interrupted += 1
            else:
                self._left_running = number
            self._events.put(("woken",))

        before = {
            number: signal.signal(number, on_signal)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
            if signal.getsignal(number) != signal.SIG_IGN  # under nohup SIGHUP stays ignored
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_woken(self) -> None:
        pass


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            yield piece


def how_it_ended(result: Result, timeout: float = 0.0) -> str:
    """The end of an attempt in a person's words."""
    if result.flags & agent.TIMED_OUT:
        return f"timed out after {timeout or result.seconds:g} s"
    if result.flags & LOST:
        return f"{DEADLY} times the instance or its agent died while the task ran"
    if result.flags & WORKERS_DIED:
        return "one Dask worker after the other died while the task ran"
    if result.flags & agent.HOST_FAULT:
        return "the instance could not run it"
    if result.flags & agent.NO_START:
        return "it could not be started"
    if result.flags & MISSING:
        return "what is expected of it is not there"
    if result.code < 0:
        try:
            return f"killed by {signal.Signals(-result.code).name}"
        except ValueError:
            return f"killed by signal {-result.code}"
    return f"exit code {result.code}"


def last_line(outputs: Outputs, number: int, result: Result) -> str:
    """The last line an attempt wrote to stderr, shortened and safe to show."""
    lines = outputs.tail(number, result, 2000).decode(errors="replace").strip().splitlines()
    return printable(lines[-1].strip()[:200]) if lines else ""
