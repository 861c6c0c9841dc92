"""The agent of pmap: runs on an instance, keeps a job's slots busy, and holds results until they are acknowledged.

The agent is one file, uses the standard library only, and needs Python 3.6 or later. It is sent over the connection
that it then talks on. It decides nothing: the driver orders all runs. It outlives its connection: it has its own
session, and listens on a socket for the next connection.

Outputs are pipes, read to their end, as ssh and xargs do. An output is counted and hashed as it is read. A small one
is kept in memory, a large one in a file without a name, whose content is checked against count and hash when it is
sent. When many small ones wait to be sent, they lie in one file together. If the instance can't keep an output, or
lacks descriptors, processes, memory or disk to start a task, the instance is at fault and not the task (HOST_FAULT).

An attempt is over when its command has ended, its outputs are at their end, and none of its descendants is left. The
agent is a subreaper: a process that loses its parent becomes the agent's child, even from another session and without
its environment. A separate thread starts the commands, so the main thread's only children are such orphans: one call
shows whether there are any, and only then is /proc read. An orphan's attempt is known by the mark in the environment,
the process group or session, the ancestors seen before, the pipe it holds, or its start time. A cgroup for each attempt
would do the same, but login users may not make one, and moving a process into it costs 0.6 ms, half of the cost of a
start. A second process, the keeper, ends all these processes when the agent is killed.

On disk, in ~/.hardway/<job>/ (mode 0700), gone when the job ends:
    lock      held (flock) by the living agent
    keeper    held by its keeper
    socket    a process started by a new connection hands that connection's stdin and stdout over here
    log       the agent's last error, if it died
    files/    the files that came with the job (`--files`), in a folder named by their digest
    stderr/   the stderr of running attempts, for people who look on
Files without a name lie in the same directory: nothing to clean up when the agent is killed.
Beside it, slots-<instance> has locks for the slots that the jobs of an instance share. Each slot has a directory for
its attempt (HARDWAY_SCRATCH, TMPDIR) below scratch_roots(), emptied after each attempt.

Reading order: Task is one attempt, and Agent runs it. Agent's parts follow, each with one job: EventPoll, Connection,
JobCommand, SpawnThread, OutputStore, Logs, Descendants, Slots, Scratch, Interruption. Then come the job's files, /proc
and small functions. `main`, where the agent starts, is at the end.

Frames, both ways: length of payload (u32), kind (u8), task (u32), attempt (u16), payload; big-endian.
    to the agent: JOB settings, RUN stdin, TAKE back if not started, KILL, ACK, PING, STOP all and leave
    from it:      HELLO holdings, STARTED in a slot, RETURNED, CHUNK of output, DONE, PONG, BYE, ERROR text,
                  NOTICE of the seconds until the instance is gone, SAID text for a person,
                  SHARED with another job, FINISHED while its outputs have yet to be sent
MARK precedes the agent's first frame, since a login shell may print any text before.
"""

# ruff: noqa: SIM105, B905, F821 (contextlib costs an import, and so do names only for types; 3.6 has no strict zip)
# The C halves of signal and socket: their Python halves take longer to import than all the rest.
import _signal as signal  # type: ignore[import-not-found]
import _socket as socket
import _thread
import errno
import fcntl
import os
import resource
import select
import struct
import time
import zlib

VERSION = 4
MARK = b"\x00\x01hardway agent\x02\x00"
HEAD = struct.Struct("!IBIH")
START = struct.Struct("!Id")  # slot, time by this machine's clock
# Exit code or -signal, flags, seconds, lengths of stdout and stderr, their CRC-32.
RESULT = struct.Struct("!hBdQQII")
HOLDING = struct.Struct("!IHBIdd")  # task, attempt, state, slot, when it started there, seconds since then
JOB, RUN, TAKE, KILL, ACK, PING, STOP = range(1, 8)
HELLO, STARTED, RETURNED, CHUNK, DONE, PONG, BYE, ERROR, NOTICE, SAID, SHARED, FINISHED = range(65, 77)
WAITING, RUNNING, ENDED = range(3)
TIMED_OUT, KILLED, NO_START, HOST_FAULT, NO_MEMORY = 1, 2, 4, 32, 64
LOGS = "stderr"  # the folder of the running attempts' stderr
LOG_MOST = 1 << 20  # bytes of an attempt's stderr there, at most
LARGEST = 1 << 30  # a longer payload than this is a broken stream
INLINE = 1 << 16  # outputs up to this travel within DONE, longer ones in CHUNKs
CHUNK_SIZE = 1 << 17
SPEAK_UP = 1 << 16  # bytes received after which the driver gets a sign of life
GRACE = 2.0  # seconds between TERM and KILL
LINKED = 1 << 20  # bytes from which a file that came with the job is linked, not copied, into an attempt's directory
AGAIN = 0.1  # seconds between one KILL and the next, which ends processes started meanwhile
STUCK = 10.0  # seconds after the first KILL until an attempt is over even if processes are left
KEPT_MOST = 1 << 24  # bytes of all tasks' outputs in memory, at most; INLINE is the limit for one task
SHELVE_FROM = 1 << 22  # bytes of outputs in memory from which small ones of ended attempts go to the disk
ROOM_AGAIN = 5.0  # seconds between looks at a disk that had no room
SPARE = 1 << 28  # bytes that an agent without a driver leaves free on the disk with its results
FAULTS_MOST = 3  # attempts in a row that the instance could not run, until an agent without a driver starts no more
PIECE = 1 << 16  # read from a pipe at a time
PIECES = 16  # read from a pipe in a row
WEIGH_EVERY = 0.25  # seconds between looks at the memory of attempts, where it is limited
OUT_OF_MEMORY = 137  # the exit code, as a shell tells it
QUIET = 0.5  # seconds for which a new attempt's outputs are not watched: most have ended by then and fit into the pipe
HELD_AFTER = 5.0  # seconds after a command's end until the holders of its output are reported
SHORT = frozenset([errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EIO])
SHORT_AGAIN = 0.2  # seconds between tries to start a task where something is short
SHORT_MOST = 10.0  # seconds of such tries, with nothing else running, until the instance is to blame
PER_TASK = 5  # descriptors: three pipes, two files
RESERVE = 24  # descriptors for all other uses
PR_SET_CHILD_SUBREAPER = 36
WNOTHREAD = 0x20000000  # waitid: children of this thread alone
CLOCK_BOOTTIME = 7  # the clock of a process's start time in /proc
PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = float(os.sysconf("SC_CLK_TCK"))
PRESENT, TURN, SLOT = 64, 1 << 16, 1 << 24  # bytes of the file that the jobs of an instance lock
JOBS_MOST = 512  # the most jobs that the file can tell apart
LOOK_FOR_SLOT = 0.02  # seconds between looks for a free slot, at most
DESCRIPTORS_LEAST = 64  # under a lower limit, no descriptor can be spared to share slots
HOLD_BACK = 0.1  # seconds for which results wait for more results, while tasks wait here
METADATA = "http://169.254.169.254"
METADATA_EVERY = 5.0  # seconds between looks for an interruption
METADATA_RARELY = 60.0  # the same where there is no metadata service, at most
WORD = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:@%+,-")


def frame(kind: int, task: int = 0, attempt: int = 0, payload: bytes = b"") -> bytes:
    """Pack one frame."""
    return HEAD.pack(len(payload), kind, task, attempt) + payload


class BrokenStream(Exception):
    """The data received is no sequence of frames."""


class Frames:
    """Cut a stream of bytes into frames."""

    def __init__(self) -> None:
        self.buffer = bytearray()

    def feed(self, data: bytes) -> "list[tuple[int, int, int, bytes]]":
        """Return the frames completed by `data`, as (kind, task, attempt, payload)."""
        self.buffer += data
        found = []
        start = 0
        size = len(self.buffer)
        while size - start >= HEAD.size:
            length, kind, task, attempt = HEAD.unpack_from(self.buffer, start)
            if length > LARGEST or not kind & 63:
                raise BrokenStream(f"a frame of kind {kind} and {length} bytes")
            if size - start < HEAD.size + length:
                break
            body = start + HEAD.size
            found.append((kind, task, attempt, bytes(self.buffer[body : body + length])))
            start = body + length
        if start:
            del self.buffer[:start]
        return found


class Output:
    """A task's stdout or stderr: counted and hashed as it is read, not as it is kept."""

    __slots__ = ("crc", "fd", "parts", "size", "spool")

    def __init__(self, fd: int) -> None:
        self.fd = fd  # the pipe; -1 after its end
        self.size = 0
        self.crc = 0
        self.parts = []  # type: list[bytes]
        self.spool = -1  # the file with the whole output, unless it is in memory


NO_OUTPUTS = []  # type: list[Output]
NO_COUNTS = [0, 0]  # both of many attempts, and never changed


class Task:
    """One attempt, from its arrival until its result is acknowledged."""

    __slots__ = (
        "attempt", "began", "crcs", "ended", "fault", "feed", "flags", "inline", "kept", "kill_at", "logged", "outputs",
        "over_by", "pid", "queued", "said", "seconds", "shelved", "shown", "sizes", "slot", "state", "status", "stdin",
        "task", "watched",
    )  # fmt: skip

    def __init__(self, task: int, attempt: int, stdin: bytes) -> None:
        self.task = task
        self.attempt = attempt
        self.stdin = stdin  # type: bytes | memoryview
        self.feed = -1  # the pipe to its stdin
        self.state = WAITING
        self.slot = 0
        self.pid = 0  # of the command; its process group
        self.began = 0.0
        self.ended = 0.0  # when the command did
        self.seconds = 0.0
        self.status = 0
        self.flags = 0
        self.watched = False
        self.shown = False
        self.said = False
        self.kill_at = 0.0  # when to send KILL; 0: TERM was not sent
        self.over_by = 0.0  # when it is over whatever is left; 0: KILL was not sent
        self.fault = ""  # what the instance lacks
        self.outputs = NO_OUTPUTS
        self.kept = 0  # bytes in memory
        self.logged = 0  # bytes of stderr that people who look on can read
        self.sizes = self.crcs = NO_COUNTS
        self.inline = b""  # its short outputs,
        self.shelved = -1  # or where they are in the file of those that wait to be sent
        self.queued = False  # its outputs wait to be sent over the present connection

    def accuse(self, error: OSError) -> None:
        """Fail the attempt; the instance is to blame."""
        self.flags |= HOST_FAULT
        self.fault = f"the instance's fault: {(error.strerror or str(error)).lower()}"
        self.excuse(self.fault)

    def excuse(self, why: str) -> None:
        """Replace all output with a line on stderr that says why there is none."""
        self.status = 126
        self.inline = why.encode("utf-8", "replace")
        self.sizes, self.crcs = [0, len(self.inline)], [0, zlib.crc32(self.inline)]

    def complete(self) -> None:
        """Prepare the outputs for sending; they have been read to their ends."""
        if self.fault or self.flags & NO_START:
            self.outputs = NO_OUTPUTS
            return
        self.sizes = [output.size for output in self.outputs]
        self.crcs = [output.crc for output in self.outputs]
        if all(output.spool < 0 for output in self.outputs):
            self.inline = b"".join([part for output in self.outputs for part in output.parts])
            self.outputs = NO_OUTPUTS

    def holding(self, now: float) -> bytes:
        """Pack the attempt for the greeting over a new connection."""
        seconds = now - self.began if self.began else 0.0
        return HOLDING.pack(self.task, self.attempt, self.state, self.slot, self.began, seconds)

    def result(self) -> bytes:
        """Pack the attempt's end, without its short outputs."""
        return RESULT.pack(self.status, self.flags, self.seconds, *self.sizes, *self.crcs)


class Process:
    """One line of /proc."""

    __slots__ = ("began", "group", "parent", "pid", "session", "state")

    def __init__(self, pid: int) -> None:
        """Read the line. Raises OSError, ValueError or IndexError if there is no such process."""
        words = read_proc(pid, "stat").rpartition(b")")[2].split()
        self.pid = pid
        self.state = words[0]
        self.parent, self.group, self.session = int(words[1]), int(words[2]), int(words[3])
        self.began = int(words[19]) / TICKS  # seconds since the machine started


class Agent:
    """Keeps the slots busy: the driver's orders, the running attempts, and the main loop."""

    def __init__(self, directory: str, home: str, link: "tuple[int, int, int]") -> None:
        self.slots = 0
        self.timeout = 0.0
        self.linger = 0.0  # until the driver sends the job's settings
        self.detached = False  # the driver means to leave, and to come back for the results
        self.last_end = 0.0  # of an attempt
        self.faults = 0  # attempts in a row that the instance could not run
        self.stuck = False  # nothing starts before a driver is there, or the disk has room
        self.tasks = {}  # type: dict[tuple[int, int], Task]
        self.waiting = []  # type: list[Task]
        self.running = {}  # type: dict[tuple[int, int], Task]
        self.commands = {}  # type: dict[int, Task]  # by pid, those that haven't ended
        self.retry_at = 0.0  # when to try again to start a task, after a shortage
        self.short_since = 0.0  # when the shortage began; 0: there is none
        self.leaving = 0.0
        self.memory = 0  # bytes that an attempt may use; 0: no limit
        self.weigh_at = 0.0
        self.killed_by_kernel = OutOfMemory()
        self.shared_told = False  # the driver knows, by the present connection, that other jobs are here

        self.wake, self.wake_in = wake_on_signals()
        self.poller = EventPoll()
        self.poller.watch(self.wake, select.POLLIN, self.woken)
        self.spawner = SpawnThread()
        self.command = JobCommand(directory, home, self.spawner)
        self.outputs = OutputStore(directory)
        self.logs = Logs(directory)
        self.shared = Slots(directory, self.wake_in)
        self.scratch = Scratch(os.path.basename(directory), home)
        job = os.path.basename(directory)
        self.descendants = Descendants(job, self.running, self.commands, self.spawner.helpers)
        self.interruption = Interruption(self.wake_in)
        self.connection = Connection(directory, self.poller, self.outputs, self.tasks, self.handle)
        os.chdir(home)
        self.connection.attach(*link)

    def run(self) -> None:
        """Run until the agent has left."""
        _thread.start_new_thread(self.interruption.look, ())
        connection = self.connection
        while True:
            self.reap()
            now = time.monotonic()
            self.start_tasks(now)
            self.enforce(now)
            if self.leaving and not self.running:
                end_children()
                connection.out += frame(BYE)
                connection.flush()
                return
            if not connection.link and now >= self.lingers_until():
                self.leave()
                continue
            if self.interruption.at and connection.link and not connection.noticed:
                connection.noticed = True
                connection.out += frame(NOTICE, 0, 0, struct.pack("!d", self.interruption.at - now))
            busy = len(self.waiting) > self.slots and not self.leaving
            if not connection.send(now, busy):
                self.poller.wait(self.patience(now))

    def patience(self, now: float) -> float:
        """Return the seconds until the next timed action."""
        times = [now + 3600]
        if not self.connection.link:
            times.append(self.lingers_until())
        elif self.connection.held_since:
            times.append(self.connection.held_since + HOLD_BACK)
        if self.waiting and self.retry_at > now:
            times.append(self.retry_at)
        if self.memory and self.running:
            times.append(self.weigh_at)
        for one in self.running.values():
            if not one.watched:
                times.append(one.began + QUIET)
            if one.kill_at:
                times.append(one.kill_at)
                continue
            if self.timeout:
                times.append(one.began + self.timeout)
            if one.ended and not one.said:
                times.append(one.ended + HELD_AFTER)
        return max(0.0, min(times) - now)

    def lingers_until(self) -> float:
        """Return when the agent ends itself, left alone; where it is meant to be alone, not before its work is done."""
        if not self.detached:
            return self.connection.alone_since + self.linger
        if self.running or (self.waiting and not self.stuck):
            return float("inf")
        return max(self.connection.alone_since, self.last_end) + self.linger

    def holds_back(self, now: float) -> bool:
        """Return whether no task may start: nobody is there to send tasks elsewhere, and the instance fails them.

        An attempt whose results don't fit on the disk would run in vain.
        """
        self.stuck = False
        if self.detached and not self.connection.link:
            self.stuck = self.faults >= FAULTS_MOST or self.outputs.is_full()
            self.retry_at = now + ROOM_AGAIN if self.stuck else self.retry_at
        return self.stuck

    def woken(self) -> None:
        os.read(self.wake, 4096)

    # The driver's orders

    def handle(self, kind: int, task: int, attempt: int, payload: bytes) -> None:
        """Carry out a frame's order. Raises ValueError, KeyError or IndexError for an order that no driver sends."""
        if kind == RUN:
            self.add(task, attempt, payload)
        elif kind == ACK:
            one = self.tasks.get((task, attempt))
            if one and one.state == ENDED:
                del self.tasks[task, attempt]
                self.connection.drop(one)
                self.outputs.forget(one)
        elif kind in (TAKE, KILL):
            self.take_back(task, attempt, kind == KILL)
        elif kind == PING:
            self.connection.out += frame(PONG, task, attempt, payload)
            self.connection.flush()
        elif kind == JOB:
            self.configure(payload)
        elif kind == STOP:
            self.leave()
        else:
            raise ValueError(f"a frame of kind {kind}")

    def configure(self, payload: bytes) -> None:
        """Take in settings: NUL-separated key=value; environment variables have an upper-case key."""
        pairs = [item.partition(b"=") for item in payload.split(b"\0")]
        settings = {key.decode(): value for key, _, value in pairs}
        slots, instance = max(1, int(settings["slots"])), str(settings["HARDWAY_INSTANCE_ID"], "utf-8")
        timeout, linger = float(settings["timeout"]), float(settings["linger"])
        self.memory = int(settings["memory"])
        self.command.configure(settings)
        self.slots, self.timeout, self.linger = slots, timeout, linger
        self.detached = settings.get("detached") == b"1"
        self.faults, self.retry_at = 0, 0.0
        self.shared.waits = self.shared.join(instance, slots)
        self.shared_told = False

    def add(self, task: int, attempt: int, stdin: bytes) -> None:
        if (task, attempt) not in self.tasks and not self.leaving:
            one = self.tasks[task, attempt] = Task(task, attempt, stdin)
            self.waiting.append(one)

    def take_back(self, task: int, attempt: int, kill: bool) -> None:
        """Give back a waiting attempt; end a running one if `kill` is set."""
        one = self.tasks.get((task, attempt))
        if one and one.state == WAITING:
            self.waiting.remove(one)
            del self.tasks[task, attempt]
            self.connection.out += frame(RETURNED, task, attempt)
        elif one and one.state == RUNNING and kill:
            one.flags |= KILLED
            self.terminate(one)
        elif not one:
            self.connection.out += frame(RETURNED, task, attempt)

    def leave(self) -> None:
        """End all tasks, then go."""
        if not self.leaving:
            self.leaving = time.monotonic()
            for one in self.waiting:
                del self.tasks[one.task, one.attempt]
            self.waiting = []
            for one in self.running.values():
                one.flags |= KILLED
                self.terminate(one)

    # The start of an attempt

    def start_tasks(self, now: float) -> None:
        if now < self.retry_at:
            return
        while self.waiting and len(self.running) < self.slots and self.room() and not self.holds_back(now):
            slot = self.shared.take()
            if slot < 0:
                break
            if not self.start(self.waiting[0], slot):
                self.shared.give(slot)
                return
        if self.shared.waits and not self.shared_told:
            self.shared_told = True
            self.connection.out += frame(SHARED)
        if not self.waiting:
            self.shared.decline()

    def room(self) -> bool:
        """Return whether descriptors suffice for one more attempt; a single attempt is always allowed."""
        taken = self.outputs.spools + PER_TASK * (len(self.running) + 1) + RESERVE
        return not self.running or taken <= self.command.limits[1]

    def start(self, one: Task, slot: int) -> bool:
        """Start the attempt in the slot; return False if the instance can't at the moment."""
        now = time.monotonic()
        pipes = []  # type: list[int]
        ready = False
        try:
            scratch = self.scratch.of(slot)
            self.command.place_files(scratch)
            for _ in range(3):
                pipes += os.pipe()
            stdin, feed, out, out_in, err, err_in = pipes
            for fd in (feed, out, err):
                os.set_blocking(fd, False)
            one.feed, one.stdin = feed, memoryview(one.stdin)
            self.push(one)
            ready = True
            one.pid = self.command.start(one, slot, scratch, (stdin, out_in, err_in))
        except OSError as error:
            one.feed = -1
            for fd in pipes:
                os.close(fd)
            return self.fail(one, slot, now, error, not ready or error.errno in SHORT)
        self.begin(one, slot, now)
        one.outputs = [Output(out), Output(err)]
        for fd in (stdin, out_in, err_in):
            os.close(fd)
        if one.stdin:
            self.poller.watch(feed, select.POLLOUT, self.push, one)
        else:
            os.close(feed)
            one.feed = -1
        self.commands[one.pid] = one
        return True

    def fail(self, one: Task, slot: int, now: float, error: OSError, ours: bool) -> bool:
        """Fail an attempt that can't be started; return False if it may start soon. `ours`: the instance's fault."""
        if ours and error.errno != errno.EIO:  # an error of the disk, or a file that was changed, doesn't pass
            self.short_since = self.short_since or now
            self.retry_at = now + SHORT_AGAIN
            if self.running or now - self.short_since < SHORT_MOST:
                self.discard(slot)  # part of the job's files may lie in it
                return False
        self.begin(one, slot, now)
        if ours:
            one.accuse(error)
        else:
            one.flags |= NO_START
            one.excuse(f"the agent could not start it: {error}")
        self.end(one)
        return True

    def begin(self, one: Task, slot: int, now: float) -> None:
        """Give the attempt the slot."""
        self.short_since = 0.0
        self.waiting.pop(0)
        one.slot, one.began, one.state = slot, now, RUNNING
        self.running[one.task, one.attempt] = one
        self.connection.out += frame(STARTED, one.task, one.attempt, START.pack(slot, now))

    def push(self, one: Task) -> None:
        """Write to the command's stdin as much as it takes."""
        try:
            while one.stdin:
                one.stdin = one.stdin[os.write(one.feed, one.stdin[: 1 << 20]) :]
        except BlockingIOError:
            return
        except OSError:
            pass  # the command reads no more
        one.stdin = b""
        if one.feed in self.poller.actions:
            self.starve(one)

    def starve(self, one: Task) -> None:
        """Close the command's stdin."""
        if one.feed >= 0:
            self.poller.unwatch(one.feed)
            os.close(one.feed)
            one.feed = -1

    # While it runs

    def attend(self, one: Task) -> None:
        """Read the attempt's outputs as they come."""
        if not one.watched:
            one.watched = True
            one.shown = not one.ended  # it runs long enough for somebody to look on
            for output in one.outputs:
                if output.fd >= 0:
                    self.poller.watch(output.fd, select.POLLIN, self.read, one, output)

    def read(self, one: Task, output: Output) -> None:
        self.drain(one, output)
        if one.ended and output.fd < 0:
            self.conclude(one)

    def drain(self, one: Task, output: Output) -> None:
        """Read what there is of an output."""
        for _ in range(PIECES):
            try:
                piece = os.read(output.fd, PIECE)
            except BlockingIOError:
                return
            except OSError as error:
                self.spoil(one, error)
                piece = b""
            if not piece:
                self.finish(output)
                return
            if not one.fault:
                try:
                    self.outputs.keep(one, output, piece)
                except OSError as error:
                    self.spoil(one, error)
                if one.shown and output is one.outputs[1]:
                    self.logs.add(one, piece)

    def finish(self, output: Output) -> None:
        """Close an output that is at its end."""
        self.poller.unwatch(output.fd)
        os.close(output.fd)
        output.fd = -1

    def spoil(self, one: Task, error: OSError) -> None:
        """End an attempt whose outputs can't be kept; the rest of the outputs is read and dropped."""
        one.accuse(error)
        self.outputs.forget(one)
        self.terminate(one)

    def enforce(self, now: float) -> None:
        """End attempts that have run too long or are too large, and the remaining processes of ended ones."""
        if self.memory and self.running and now >= self.weigh_at:
            self.weigh(now)
            self.weigh_at = time.monotonic() + WEIGH_EVERY
        for one in list(self.running.values()):
            if not one.watched and (self.outputs.chatty or now >= one.began + QUIET):
                self.attend(one)
            if one.kill_at:
                if now >= one.kill_at:
                    one.over_by = one.over_by or now + STUCK
                    self.signal(one, signal.SIGKILL)
                    one.kill_at = now + AGAIN
                    self.give_up(one, now)
            elif self.timeout and now - one.began >= self.timeout:
                one.flags |= TIMED_OUT
                self.terminate(one)
            elif one.ended and not one.said and now >= one.ended + HELD_AFTER:
                one.said = True
                self.tell(one, f"its command has ended, {holders(one)} still holds its output")

    def weigh(self, now: float) -> None:
        """Kill the attempts that use more memory than they may.

        Login users may not make a cgroup, and a limit of the address space would fail programs that only reserve
        memory.
        """
        for one, used in self.descendants.weights().items():
            if used > self.memory and not one.flags & NO_MEMORY and one.state == RUNNING:
                one.flags |= NO_MEMORY
                one.kill_at = now
                self.tell(one, f"it used {used >> 20} MB of memory, and may use {self.memory >> 20} MB")

    def tell(self, one: Task, text: str) -> None:
        self.connection.out += frame(SAID, one.task, one.attempt, text.encode("utf-8", "replace"))

    def terminate(self, one: Task) -> None:
        if not one.kill_at and one.state == RUNNING:
            one.kill_at = time.monotonic() + GRACE
            self.signal(one, signal.SIGTERM)

    def signal(self, one: Task, number: int) -> None:
        """Send a signal to all remaining processes of an attempt."""
        members = self.descendants.members(one)
        if not members and not one.ended:
            kill_group(one.pid, number)  # no /proc
        refused = []
        for pid in members:
            if not kill(pid, number):
                refused.append(pid)
        if refused:  # a process that the task started by sudo
            self.spawner.helper([b"sudo", b"-n", b"kill", b"-%d" % number, b"--"] + [b"%d" % pid for pid in refused])

    # Its end

    def reap(self) -> None:
        """Take the status of each child that ended."""
        some = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if not pid:
                break
            self.spawner.helpers.discard(pid)
            one = self.commands.pop(pid, None)
            if not one:
                some = True
                continue
            one.ended = time.monotonic()
            if not one.fault:
                one.status = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
                if one.status in (-signal.SIGKILL, OUT_OF_MEMORY) and not one.kill_at and self.killed_by_kernel.any():
                    one.flags |= NO_MEMORY
                    self.tell(one, "the instance ran out of memory, and killed it: fewer --slots leave each task more")
            for output in one.outputs:
                if output.fd >= 0:
                    self.drain(one, output)
            self.conclude(one)
        if some:
            for one in list(self.running.values()):
                if one.kill_at and one.ended:
                    self.conclude(one)

    def conclude(self, one: Task) -> None:
        """End the attempt if its command and outputs have ended and none of its processes is left."""
        if (one.task, one.attempt) not in self.running:
            return
        if one.outputs[0].fd >= 0 or one.outputs[1].fd >= 0:
            self.attend(one)
        elif not self.descendants.adopted() or not self.descendants.members(one):
            self.end(one)
        elif not one.kill_at:
            self.terminate(one)

    def give_up(self, one: Task, now: float) -> None:
        """End an attempt after KILL once none of its processes is left, or after a limited wait."""
        left = self.descendants.members(one)
        if now >= one.over_by and (left or not one.ended):
            self.tell(one, f"{names_of(left)} can't be ended")
            if not one.ended:
                one.status = -signal.SIGKILL
        elif left or not one.ended:
            return
        for output in one.outputs:  # a process that still holds an output isn't the attempt's
            if output.fd >= 0:
                self.drain(one, output)
        self.end(one)

    def end(self, one: Task) -> None:
        """End an attempt: free its slot, and deliver its outputs."""
        self.last_end = time.monotonic()
        one.seconds = self.last_end - one.began
        one.state = ENDED
        self.faults = self.faults + 1 if one.flags & HOST_FAULT else 0
        if one.flags & NO_MEMORY:
            one.status = OUT_OF_MEMORY
        self.running.pop((one.task, one.attempt), None)
        self.logs.remove(one)
        self.starve(one)
        for output in one.outputs:
            if output.fd >= 0:
                self.finish(output)
        one.complete()
        self.outputs.shelve(one)
        self.outputs.chatty = self.outputs.chatty or max(one.sizes) > PIECE // 2
        self.descendants.forget(one)
        self.discard(one.slot)
        self.shared.give(one.slot)
        if self.leaving:
            self.outputs.forget(one)
            one.outputs = NO_OUTPUTS
        else:
            self.connection.deliver(one)

    def discard(self, slot: int) -> None:
        """Empty a slot's directory; a separate process removes a large content."""
        rest = self.scratch.clear(slot)
        if rest:
            self.spawner.helper(removal(rest))


def wake_on_signals() -> "tuple[int, int]":
    """Make a pipe that is written to when a child ends, its reading end first; ignore the signals of a lost login."""
    wake, wake_in = os.pipe()
    for fd in (wake, wake_in):
        os.set_blocking(fd, False)
    signal.set_wakeup_fd(wake_in)
    signal.signal(signal.SIGCHLD, lambda number, stack: None)
    for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)
    return wake, wake_in


class EventPoll:
    """Maps descriptors to the actions to do when they are ready."""

    def __init__(self) -> None:
        self.poll = select.poll()
        self.actions = {}  # type: dict[int, tuple[object, ...]]

    def watch(self, fd: int, events: int, act: "Callable[..., None]", *args: object) -> None:  # type: ignore[name-defined]
        self.poll.register(fd, events)
        self.actions[fd] = (act, *args)

    def unwatch(self, fd: int) -> None:
        if self.actions.pop(fd, None):
            self.poll.unregister(fd)

    def wait(self, seconds: float) -> None:
        """Wait until a descriptor is ready, and do its action."""
        for fd, _ in self.poll.poll(int(seconds * 1000) + 1):
            act = self.actions.get(fd)
            if act:
                act[0](*act[1:])  # type: ignore[operator]


class Connection:
    """The one connection to the driver: frames both ways, and the outputs of ended tasks that are still unsent."""

    def __init__(
        self,
        directory: str,
        poller: EventPoll,
        outputs: "OutputStore",
        tasks: "dict[tuple[int, int], Task]",
        handle: "Callable[[int, int, int, bytes], None]",  # type: ignore[name-defined]
    ) -> None:
        """Change to this directory, and listen there for a process that hands over another connection."""
        self.poller = poller
        self.outputs = outputs
        self.tasks = tasks
        self.handle = handle
        self.identity = os.urandom(8).hex()
        self.link = None  # type: tuple[int, int, int] | None
        self.frames = Frames()
        self.out = bytearray()
        self.sending = []  # type: list[Task]  # ended, with outputs that are not sent yet
        self.sent = 0  # bytes of the first one's outputs
        self.sent_crc = 0
        self.received = 0
        self.unheard = False  # writing to the link has failed
        self.held_since = 0.0
        self.noticed = False  # the driver knows of an interruption
        self.alone_since = time.monotonic()
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        os.chdir(directory)  # a socket's path must be short, and a home directory's may be long
        try:
            os.unlink("socket")
        except OSError:
            pass
        self.listener.bind("socket")
        self.listener.listen(8)
        self.listener.setblocking(False)
        poller.watch(self.listener.fileno(), select.POLLIN, self.accept)

    def accept(self) -> None:
        """Take the stdin and stdout of a new connection from another process of ours."""
        try:
            fd, _ = self.listener._accept()  # type: ignore[attr-defined]
        except OSError:
            return
        lease = socket.socket(fileno=fd)
        fds = []  # type: list[int]
        try:
            lease.settimeout(5)
            _, passed, _, _ = lease.recvmsg(1, socket.CMSG_SPACE(8))
            for level, kind, data in passed:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds += [pair[0] for pair in struct.iter_unpack("i", data[: len(data) // 4 * 4])]
        except OSError:
            pass
        if len(fds) == 2:
            for passed_fd in fds:
                os.set_inheritable(passed_fd, False)
            self.attach(fds[0], fds[1], lease.detach())
        else:
            for passed_fd in fds:
                os.close(passed_fd)
            lease.close()

    def attach(self, source: int, sink: int, lease: int) -> None:
        """Talk over these descriptors from now on; `lease` is closed when the connection ends."""
        self.detach()
        self.link = (source, sink, lease)
        for fd in (source, sink):
            os.set_blocking(fd, False)
        self.poller.watch(source, select.POLLIN, self.receive)
        self.frames = Frames()
        now = time.monotonic()
        holdings = [one.holding(now) for one in self.tasks.values()]
        about = f"{VERSION} {self.identity} {cpus()} {len(holdings)}\n"
        self.out += MARK + frame(HELLO, 0, 0, about.encode() + b"".join(holdings))
        self.sending = [one for one in self.tasks.values() if one.state == ENDED]
        for one in self.sending:
            one.queued = True

    def detach(self) -> None:
        if self.link:
            for fd in self.link:
                self.poller.unwatch(fd)
                os.close(fd)
            self.link = None
            self.alone_since = time.monotonic()
        self.out = bytearray()
        for one in self.sending:
            one.queued = False
        self.sending = []
        self.sent = 0
        self.unheard = self.noticed = False

    def receive(self) -> None:
        try:
            data = os.read(self.link[0], 1 << 18) if self.link else b""
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.detach()
            return
        self.take(data)
        self.received += len(data)
        if self.received >= SPEAK_UP:
            self.received = 0
            self.out += frame(PONG)
            self.flush()

    def take(self, data: bytes) -> None:
        """Carry out the orders in these bytes from the driver."""
        try:
            for kind, task, attempt, payload in self.frames.feed(data):
                self.handle(kind, task, attempt, payload)
        except (BrokenStream, ValueError, KeyError, IndexError, struct.error) as error:
            self.out += frame(ERROR, 0, 0, f"the driver sent {error}".encode("utf-8", "replace"))
            self.flush()
            self.detach()

    def deliver(self, one: Task) -> None:
        """Send the outputs and the end of an attempt, if a driver is connected."""
        if self.link:
            if one.outputs or any(other.outputs for other in self.sending):  # short ones come with DONE
                self.out += frame(FINISHED, one.task, one.attempt)
            one.queued = True
            self.sending.append(one)

    def drop(self, one: Task) -> None:
        """Stop sending an attempt: the driver has all that it wants."""
        if one.queued:
            self.sent = 0 if one is self.sending[0] else self.sent
            self.sending.remove(one)

    def send(self, now: float, busy: bool) -> bool:
        """Send frames that are due; return True if the connection is found gone. `busy`: tasks wait here."""
        if not self.may_hold_back(now, busy):
            self.flush()
        if self.unheard:
            self.hear_out()
            return True
        if self.link:
            if not (self.out or self.sending) or self.held_since:
                self.poller.unwatch(self.link[1])
            elif self.link[1] not in self.poller.actions:
                self.poller.watch(self.link[1], select.POLLOUT, self.flush)
        return False

    def may_hold_back(self, now: float, busy: bool) -> bool:
        """Return whether the frames can wait for more without a slot standing idle."""
        if not (self.out or self.sending) or not busy or len(self.out) > INLINE:
            self.held_since = 0.0
            return False
        if not self.held_since:
            self.held_since = now
        if now - self.held_since >= HOLD_BACK:
            self.held_since = 0.0
            return False
        return True

    def flush(self) -> None:
        """Send as much as can be sent without waiting."""
        while self.link and not self.unheard:
            if len(self.out) < CHUNK_SIZE and self.sending:
                self.next_output()
            if not self.out:
                return
            try:
                count = os.write(self.link[1], self.out[: 1 << 18])
            except BlockingIOError:
                return
            except OSError:
                self.unheard = True
                return
            del self.out[:count]

    def hear_out(self) -> None:
        """Take in the orders sent before the connection was lost: above all, an order to stop still counts."""
        while self.link:
            try:
                data = os.read(self.link[0], 1 << 18)
            except OSError:
                break
            if not data:
                break
            self.take(data)
        self.detach()

    def next_output(self) -> None:
        """Move one more piece of the ended tasks' outputs to `out`."""
        one = self.sending[0]
        if one.outputs:
            index = int(self.sent >= one.sizes[0])
            offset = self.sent - index * one.sizes[0]
            size = min(CHUNK_SIZE, one.sizes[index] - offset)
            if size > 0:
                piece = self.checked(one, index, offset, size)
                if piece:
                    self.out += frame(CHUNK, one.task, one.attempt, bytes([index]) + piece)
                    self.sent += size
                    return
        inline = self.inline(one)  # which may change how it ended
        self.out += frame(DONE, one.task, one.attempt, one.result() + inline)
        self.sending.pop(0).queued = False
        self.sent = 0

    def inline(self, one: Task) -> bytes:
        """Return an attempt's short outputs; if they have changed on the disk, fail the attempt."""
        if one.shelved < 0:
            return one.inline
        try:
            return self.outputs.from_shelf(one)
        except OSError as error:
            one.accuse(error)
            self.outputs.forget(one)
            return one.inline

    def checked(self, one: Task, index: int, offset: int, size: int) -> bytes:
        """Read a piece of an output; if it has changed, fail the attempt and return no bytes."""
        if not offset:
            self.sent_crc = 0
        try:
            piece = self.outputs.piece(one.outputs[index], offset, size)
            self.sent_crc = zlib.crc32(piece, self.sent_crc)
            if offset + size == one.sizes[index] and self.sent_crc != one.crcs[index]:
                raise OSError(errno.EIO, "an output that was kept here has changed")
        except OSError as error:
            one.accuse(error)
            self.outputs.forget(one)
            one.outputs = NO_OUTPUTS
            return b""
        return piece


class JobCommand:
    """Starts a job's command: program, arguments, environment, and the files that came with the job."""

    def __init__(self, directory: str, home: str, spawner: "SpawnThread") -> None:
        self.directory = directory
        self.home = home
        self.spawner = spawner
        self.limits = raise_limit()  # of descriptors: the tasks', ours, the most there may be
        self.text = None  # type: bytes | None
        self.argv = []  # type: list[bytes]
        self.program = ""
        self.environment = {}  # type: dict[bytes, bytes]
        self.first_worker = 0  # the number of slot 0 among all slots of the job
        self.in_scratch = False  # where it runs; else in the home directory
        self.digest = ""  # of the job's files
        self.placed = None  # type: list[tuple[bytes, bytes | None, os.stat_result | None]] | None

    def configure(self, settings: "dict[str, bytes]") -> None:
        self.first_worker = int(settings["worker"])
        if self.text != settings["command"]:
            use_store(self.home, str(settings["HARDWAY_INSTANCE_ID"], "utf-8"))
            self.prepare(settings["command"])
        for key, value in settings.items():
            if key.isupper():
                self.environment[os.fsencode(key)] = value
        self.in_scratch = settings["workdir"] == b"scratch"
        self.digest = str(settings["files"], "utf-8")

    def prepare(self, text: bytes) -> None:
        """Decide how to start the command.

        `bash -c` would exec a bare command of plain words at once. For such a command this asks bash once for the
        program and its environment; the attempts then start without bash.
        """
        self.text = text
        self.argv = [b"bash", b"-c", text]
        self.program = which("bash")
        self.environment = dict(os.environb)
        for name in (b"SSH_CLIENT", b"SSH_CONNECTION", b"SSH_TTY"):
            self.environment.pop(name, None)
        words = text.split()
        plain = words and WORD.issuperset(text.replace(b" ", b"")) and b"BASH_ENV" not in self.environment
        if plain and self.program:
            program, _, variables = self.ask_bash(words[0]).partition(b"\n")
            if program.startswith(b"/"):
                pairs = [item.partition(b"=") for item in variables.split(b"\0") if item]
                self.environment = {key: value for key, _, value in pairs}
                self.environment[b"_"] = program
                self.argv, self.program = words, os.fsdecode(program)

    def ask_bash(self, word: bytes) -> bytes:
        """Return a line with the path that bash finds for a word, then the environment; empty if it finds none."""
        read, write = os.pipe()
        null = os.open(os.devnull, os.O_RDWR)
        probe = b'test "$(type -t -- "$1")" = file && type -P -- "$1" && env -0'
        argv = [b"bash", b"-c", probe, b"bash", word]
        pid = spawn(self.program, argv, self.environment, (null, write, null))
        os.close(write)
        os.close(null)
        said = b""
        while True:
            piece = os.read(read, 65536)
            if not piece:
                break
            said += piece
        os.close(read)
        _, status = os.waitpid(pid, 0)
        return said if status == 0 else b""

    def place_files(self, scratch: str) -> None:
        """Copy the job's files into an attempt's directory. Raises OSError."""
        if not self.digest:
            return
        source = os.path.join(self.directory, "files", self.digest)
        if self.placed is None:
            self.placed = [(name, path, None if path is None else os.stat(path)) for name, path, _ in tree_of(source)]
        for name, path, before in self.placed:
            target = os.path.join(os.fsencode(scratch), name)
            if path is None or before is None:
                os.mkdir(target, 0o755)
            else:
                place_file(path, before, target)

    def start(self, one: Task, slot: int, scratch: str, fds: "tuple[int, ...]") -> int:
        """Start the command for an attempt, with these as its first descriptors. Raises OSError."""
        if not self.program:
            raise OSError(errno.ENOENT, "there is no bash here")
        environment = self.environment_of(one, slot, scratch)
        if self.in_scratch:
            os.chdir(scratch)
        soft, most, hard = self.limits
        if soft != most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        try:
            try:
                return self.spawner.child(self.program, self.argv, environment, fds)
            except OSError as error:
                # The program is gone, or a script without a `#!` line: bash knows what to do.
                if self.argv[0] == b"bash" or error.errno in SHORT:
                    raise
                bash = [b"bash", b"-c", self.text]
                return self.spawner.child(which("bash"), bash, environment, fds)
        finally:
            if soft != most:
                resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            if self.in_scratch:
                os.chdir(self.home)

    def environment_of(self, one: Task, slot: int, scratch: str) -> "dict[bytes, bytes]":
        environment = dict(self.environment)
        environment[b"HARDWAY_JOB"] = os.fsencode(os.path.basename(self.directory))
        environment[b"HARDWAY_TASK"] = b"%d" % one.task
        environment[b"HARDWAY_ATTEMPT"] = b"%d" % one.attempt
        environment[b"HARDWAY_WORKER"] = b"%d" % (self.first_worker + slot)
        environment[b"HARDWAY_SCRATCH"] = environment[b"TMPDIR"] = os.fsencode(scratch)
        if self.digest:
            environment[b"HARDWAY_FILES"] = os.fsencode(scratch)
        if self.in_scratch:
            environment[b"PWD"] = os.fsencode(scratch)
        return environment


class SpawnThread:
    """Starts processes in a separate thread, so that the main thread's only children are orphans."""

    def __init__(self) -> None:
        self.helpers = set()  # type: set[int]
        self.order = ()  # type: tuple[object, ...]
        self.spawned = 0  # type: int | OSError
        self.ordered, self.spawned_one = _thread.allocate_lock(), _thread.allocate_lock()
        self.ordered.acquire()
        self.spawned_one.acquire()
        _thread.start_new_thread(self.serve, ())

    def child(self, *order: object) -> int:
        """Have the other thread start a process, see `spawn`. Raises OSError."""
        self.order = order
        self.ordered.release()
        self.spawned_one.acquire()
        if not isinstance(self.spawned, int):
            raise self.spawned
        return self.spawned

    def serve(self) -> None:
        while True:
            self.ordered.acquire()
            try:
                self.spawned = spawn(*self.order)  # type: ignore[arg-type]
            except OSError as error:
                self.spawned = error
            except BaseException as error:
                self.spawned = OSError(0, repr(error))
            self.spawned_one.release()

    def helper(self, argv: "list[bytes]") -> None:
        """Start a process that belongs to no task and that nobody waits for, if the program exists."""
        program = which(os.fsdecode(argv[0]))
        if program:
            try:
                null = os.open(os.devnull, os.O_RDWR)
                try:
                    self.helpers.add(self.child(program, argv, dict(os.environb), (null, null, null)))
                finally:
                    os.close(null)
            except OSError:
                pass


def spawn(program: str, argv: "list[bytes]", environment: "dict[bytes, bytes]", fds: "tuple[int, ...]") -> int:
    """Start a process in its own process group, with these as its first descriptors. Raises OSError."""
    if hasattr(os, "posix_spawn"):
        moves = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(fds)]
        return os.posix_spawn(
            program,
            argv,
            environment,
            file_actions=moves,
            setpgroup=0,
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT, signal.SIGCHLD],
        )
    import subprocess

    def as_new() -> None:
        os.setpgid(0, 0)
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)

    process = subprocess.Popen(
        argv,
        executable=program,
        env=environment,
        stdin=fds[0],
        stdout=fds[1],
        stderr=fds[2],
        preexec_fn=as_new,
    )
    process.returncode = 0  # `reap` waits for it
    return process.pid


class OutputStore:
    """The attempts' outputs: small ones in memory, others in files without a name."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.kept = 0  # bytes in memory
        self.spools = 0  # files
        self.shelf = -1  # the file with short outputs of many attempts that have ended,
        self.shelf_end = 0  # where it ends, and the number of attempts that have outputs in it
        self.on_shelf = 0
        self.chatty = False  # a task has filled half a pipe

    def keep(self, one: Task, output: Output, piece: bytes) -> None:
        """Count, hash and keep a piece. Raises OSError if the disk doesn't take it."""
        size = len(piece)
        output.size += size
        output.crc = zlib.crc32(piece, output.crc)
        if output.spool < 0 and one.kept + size <= INLINE and self.kept + size <= KEPT_MOST:
            output.parts.append(piece)
            one.kept += size
            self.kept += size
            return
        self.chatty = True
        if output.spool < 0:
            output.spool = nameless(self.directory)
            self.spools += 1
            before = b"".join(output.parts)
            output.parts = []
            one.kept -= len(before)
            self.kept -= len(before)
            write_all(output.spool, before)
        write_all(output.spool, piece)

    def forget(self, one: Task) -> None:
        """Drop all outputs of the attempt."""
        for output in one.outputs:
            output.parts = []
            if output.spool >= 0:
                os.close(output.spool)
                output.spool = -1
                self.spools -= 1
        self.kept -= one.kept
        one.kept = 0
        if one.shelved >= 0:
            one.shelved = -1
            self.on_shelf -= 1
            if not self.on_shelf:
                os.ftruncate(self.shelf, 0)
                self.shelf_end = 0

    def shelve(self, one: Task) -> None:
        """Move the short outputs of an attempt that has ended from memory to the disk, if there are many."""
        if self.kept <= SHELVE_FROM or not one.inline or not one.kept:
            return
        try:
            if self.shelf < 0:
                self.shelf = nameless(self.directory)
                self.spools += 1
            os.lseek(self.shelf, self.shelf_end, os.SEEK_SET)
            write_all(self.shelf, one.inline)
        except OSError:
            return  # they stay in memory; those of the next attempts find none there, and tell of the disk
        one.shelved = self.shelf_end
        self.shelf_end += len(one.inline)
        self.on_shelf += 1
        self.kept -= one.kept
        one.kept, one.inline = 0, b""

    def from_shelf(self, one: Task) -> bytes:
        """Return the short outputs of an attempt, from the disk. Raises OSError, also if they have changed there."""
        found = read_at(self.shelf, sum(one.sizes), one.shelved)
        parts = found[: one.sizes[0]], found[one.sizes[0] :]
        if [zlib.crc32(part) for part in parts] != one.crcs:
            raise OSError(errno.EIO, "what was kept of an output is not what was read")
        return found

    def is_full(self) -> bool:
        """Return whether results lie on the disk and it has little room left."""
        try:
            about = os.statvfs(self.directory)
        except OSError:
            return False
        return self.spools > 0 and about.f_bavail * about.f_frsize < SPARE

    @staticmethod
    def piece(output: Output, offset: int, size: int) -> bytes:
        """Read some bytes of an output. Raises OSError."""
        if output.spool < 0:
            if len(output.parts) > 1:
                output.parts[:] = [b"".join(output.parts)]
            return output.parts[0][offset : offset + size]
        return read_at(output.spool, size, offset)


class Logs:
    """The stderr of running attempts, in files for people to read. No attempt depends on them."""

    def __init__(self, directory: str) -> None:
        self.directory = os.path.join(directory, LOGS)
        remove_tree(self.directory)  # of an agent that was killed

    def path(self, one: Task) -> str:
        return os.path.join(self.directory, f"{one.task}.{one.attempt}")

    def add(self, one: Task, piece: bytes) -> None:
        """Add to an attempt's file, up to its limit; a full disk doesn't fail the attempt."""
        piece = piece[: max(0, LOG_MOST - one.logged)]
        if not piece:
            return
        try:
            if not one.logged:
                os.makedirs(self.directory, 0o700, exist_ok=True)
            one.logged += len(piece)
            fd = os.open(self.path(one), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                write_all(fd, piece)
            finally:
                os.close(fd)
        except OSError:
            pass

    def remove(self, one: Task) -> None:
        """Remove an attempt's file; a reader that has it open can read it to its end."""
        if one.logged:
            try:
                os.unlink(self.path(one))
            except OSError:
                pass


class Descendants:
    """Finds the attempts' descendants, and the attempt of each."""

    def __init__(
        self,
        job: str,
        running: "dict[tuple[int, int], Task]",
        commands: "dict[int, Task]",
        helpers: "set[int]",
    ) -> None:
        self.job = os.fsencode(job)
        self.running = running
        self.commands = commands
        self.helpers = helpers
        self.subreaper = become_subreaper()
        self.owners = {}  # type: dict[tuple[int, float], Task]  # of processes seen, by pid and start

    def adopted(self) -> bool:
        """Return whether there are children that we haven't started."""
        if not self.subreaper:
            return True
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT | WNOTHREAD)
        except ChildProcessError:
            return False
        except OSError:  # a kernel older than 4.7
            pass
        return True

    def members(self, one: Task) -> "list[int]":
        """Return the living processes of an attempt."""
        me = os.getpid()
        now = time.clock_gettime(CLOCK_BOOTTIME) - time.monotonic()
        processes = all_processes()
        children = {}  # type: dict[int, list[Process]]
        for process in processes.values():
            children.setdefault(process.parent, []).append(process)
        lost = [process for process in children.get(me, ()) if process.pid not in self.helpers]
        if not self.subreaper:
            lost += children.get(1, ())
        owners = {}  # type: dict[tuple[int, float], Task]
        found = []
        for top in lost:
            owner = self.commands.get(top.pid) or self.owner(top, now)
            below = [top]
            for process in below:
                below += children.get(process.pid, ())
                if owner:
                    owners[process.pid, process.began] = owner
            if owner is one:
                found += [process.pid for process in below if process.state not in b"ZX"]
        self.owners = owners
        return found

    def weights(self) -> "dict[Task, int]":
        """Return the bytes of memory that each attempt uses, with all it has started; shared memory doesn't count."""
        first = next(iter(self.running.values()))
        self.members(first)  # finds the owners of all processes
        found = {}  # type: dict[Task, int]
        for (pid, _), one in self.owners.items():
            try:
                _, resident, shared = map(int, read_proc(pid, "statm").split()[:3])
            except (OSError, ValueError):
                continue  # it has ended
            found[one] = found.get(one, 0) + max(0, resident - shared) * PAGE
        return found

    def owner(self, process: Process, zero: float) -> "Task | None":
        """Return the attempt of a process that has lost its parent."""
        known = self.owners.get((process.pid, process.began))
        if known:
            return known
        try:
            variables = read_proc(process.pid, "environ").split(b"\0")
        except OSError:
            variables = []
        said = dict(variable.partition(b"=")[::2] for variable in variables if variable.startswith(b"HARDWAY_"))
        if said.get(b"HARDWAY_JOB") == self.job:
            try:
                found = self.running.get((int(said[b"HARDWAY_TASK"]), int(said[b"HARDWAY_ATTEMPT"])))
            except (KeyError, ValueError):
                found = None
            if not found:  # its attempt was given up
                kill(process.pid, signal.SIGKILL)
            return found
        if not self.subreaper:
            return next((one for one in self.running.values() if process.group == one.pid), None)
        for one in self.running.values():
            if one.pid in (process.group, process.session):
                return one
        held = pipes_of(process.pid)
        for one in self.running.values():
            if any(output.fd >= 0 and os.fstat(output.fd).st_ino in held for output in one.outputs):
                return one
        candidates = [one for one in self.running.values() if one.began + zero <= process.began + 2 / TICKS]
        return candidates[0] if len(candidates) == 1 else None

    def forget(self, one: Task) -> None:
        """Forget the processes of an attempt that is over."""
        if self.owners:
            self.owners = {who: owner for who, owner in self.owners.items() if owner is not one}


class Slots:
    """An instance's slots, which all jobs of its login user share: together they run no more than the largest alone.

    A slot is a lock on a byte of a file, so that the slots of a killed agent are free at once. Each slot has another
    byte, its turn. An agent locks the turn for a moment when it takes the slot. An agent that waits for a slot locks
    the turns of all slots that it can use, until it gets one. So no agent is overtaken for ever, and a small job that
    waits does not hold up a large job's other slots. If the file can't be made, the jobs do not share.
    """

    # Locks of POSIX, which belong to the process: one descriptor does for all, and no child has them.

    def __init__(self, directory: str, wake: int) -> None:
        """Take a descriptor to write to when an awaited slot is ours."""
        self.folder = os.path.dirname(directory)
        self.path = ""
        self.fd = -1
        self.place = -1
        self.slots = 0
        self.wake = wake
        self.taken = set()  # type: set[int]
        self.granted = -1  # the slot that a wait has brought, until it is used
        self.waiting = False
        self.waits = False  # other jobs are here, or a slot had to be waited for

    def lock(self, byte: int, count: int = 1, how: int = fcntl.LOCK_EX | fcntl.LOCK_NB) -> bool:
        try:
            fcntl.lockf(self.fd, how, count, byte)
        except OSError:
            return False
        return True

    def unlock(self, byte: int, count: int = 1) -> None:
        self.lock(byte, count, fcntl.LOCK_UN)

    def join(self, instance: str, slots: int) -> bool:
        """Share with the jobs of this instance, and return whether there are any."""
        self.slots = slots
        path = self.path = self.path or os.path.join(self.folder, "slots-" + instance.replace("/", "-"))
        enough = self.fd >= 0 or os.sysconf("SC_OPEN_MAX") >= DESCRIPTORS_LEAST
        for _ in range(100 if enough else 0):
            try:
                if self.fd < 0:
                    self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                if self.lock(0):
                    if self.place >= 0 or os.fstat(self.fd).st_ino == os.stat(path).st_ino:
                        places = range(PRESENT, PRESENT + JOBS_MOST)
                        if self.place < 0:
                            self.place = next((byte for byte in places if self.lock(byte)), -1)
                        found = self.others()
                        self.unlock(0)
                        return found
                    raise FileNotFoundError  # the last agent removed it meanwhile
            except FileNotFoundError:
                os.close(self.fd)
                self.fd = -1
            except OSError:
                break
            time.sleep(0.01)
        if self.place < 0 and self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        return False

    def others(self) -> bool:
        """Return whether another job is here. Call this only with byte 0 locked, while no job can come or go."""
        below, above = self.place - PRESENT, PRESENT + JOBS_MOST - self.place - 1
        for byte, count in ((PRESENT, below), (self.place + 1, above)):
            if count > 0:
                if not self.lock(byte, count):
                    return True
                self.unlock(byte, count)
        return False

    def free(self, turns: bool) -> int:
        """Take a free slot; return -1 if there is none. With `turns`, agents whose turn it is come first."""
        for slot in range(self.slots - 1, -1, -1):
            if slot in self.taken:
                continue
            if self.fd < 0:
                return slot
            if not turns or self.lock(TURN + slot):
                found = self.lock(SLOT + slot)
                if turns:
                    self.unlock(TURN + slot)
                if found:
                    return slot
        return -1

    def take(self) -> int:
        """Take a slot; return -1 if none is free, and write to `wake` once one is ours."""
        if self.waiting:
            return -1
        slot = self.granted
        self.granted = -1
        if slot >= self.slots:  # there are fewer by now
            self.unlock(SLOT + slot)
            slot = -1
        if slot < 0:
            slot = self.free(True)
        if slot >= 0:
            self.taken.add(slot)
        elif self.fd >= 0:
            self.waiting = self.waits = True
            _thread.start_new_thread(self.wait, ())
        return slot

    def wait(self) -> None:
        """Wait for a slot, and announce it; runs in a separate thread."""
        slots = self.slots
        while not self.lock(TURN, slots, fcntl.LOCK_EX):
            time.sleep(LOOK_FOR_SLOT)
        pause = 0.001
        slot = self.free(False)
        while slot < 0:
            time.sleep(pause)
            pause = min(LOOK_FOR_SLOT, 2 * pause)
            slot = self.free(False)
        self.unlock(TURN, slots)
        self.granted = slot
        self.waiting = False
        os.write(self.wake, b"x")

    def give(self, slot: int) -> None:
        """Let others have the slot."""
        self.taken.remove(slot)
        if self.fd >= 0:
            self.unlock(SLOT + slot)

    def decline(self) -> None:
        """Let others have the awaited slot, since no task is left to run in it."""
        if not self.waiting and self.granted >= 0:
            self.unlock(SLOT + self.granted)
            self.granted = -1

    def leave(self) -> None:
        """Leave; the last one removes the file."""
        for _ in range(100 if self.fd >= 0 else 0):
            if self.lock(0):
                try:
                    if not self.others():
                        os.unlink(self.path)
                except OSError:
                    pass
                os.close(self.fd)
                return
            time.sleep(0.01)


class Scratch:
    """A directory for each slot, on a disk that came with the instance where there is one; emptied after use."""

    def __init__(self, job: str, home: str) -> None:
        self.roots = scratch_roots(job, home)
        self.times = struct.unpack("!I", os.urandom(4))[0]  # the mtime of directories, until a task touches them
        self.made = {}  # type: dict[int, str]
        self.trash = 0

    def of(self, slot: int) -> str:
        """Return the empty directory of a slot. Raises OSError."""
        path = self.made.get(slot)
        if path is None:
            root = self.roots[slot % len(self.roots)]
            os.makedirs(root, 0o700, exist_ok=True)
            path = os.path.join(root, str(slot))
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                os.rename(path, self.rest(root))
                os.mkdir(path, 0o700)
            os.utime(path, ns=(self.times, self.times))
            self.made[slot] = path
        return path

    def clear(self, slot: int) -> str:
        """Empty the directory of a slot; return the path of a large rest that has yet to be removed."""
        path = self.made.get(slot, "")
        try:
            about = os.lstat(path)
            if about.st_mtime_ns == self.times and about.st_mode & 0o7777 == 0o700:
                return ""
        except OSError:
            pass
        if not self.made.pop(slot, None):
            return ""
        rest = self.rest(os.path.dirname(path))
        try:
            os.rename(path, rest)
            return "" if remove_few(rest) else rest
        except OSError:
            return ""

    def rest(self, root: str) -> str:
        self.trash += 1
        return os.path.join(root, f"used-{self.trash}")

    def remove(self) -> None:
        """Remove the directories of all slots."""
        for path in self.made.values():
            try:
                os.rmdir(path)
            except OSError:
                pass  # it is not empty: `remove_roots` removes it
        remove_roots(self.roots)


def scratch_roots(job: str, home: str) -> "list[str]":
    """Return the roots of the attempts' directories: short paths, as sockets are made there."""
    name = f"scratch-{zlib.crc32(os.fsencode(job)):08x}"
    found = []
    try:
        with open("/proc/self/mounts", "rb") as file:
            for line in file:
                device, path = line.split()[:2]
                of_boot = device.startswith(b"/dev/") and path.startswith(b"/mnt") and not path[4:].strip(b"0123456789")
                if of_boot and os.stat(path).st_uid == os.getuid() and os.access(path, os.W_OK):
                    found.append(os.path.join(os.fsdecode(path), ".hardway", name))
    except (OSError, ValueError):
        pass
    return found or [os.path.join(home, ".hardway", name)]


def remove_few(path: str) -> bool:
    """Remove a directory with a few plain files; return False if it has more."""
    try:
        with os.scandir(path) as entries:
            names = [entry.name for entry, _ in zip(entries, range(33)) if not entry.is_dir(follow_symlinks=False)]
        for name in names:
            os.unlink(os.path.join(path, name))
        os.rmdir(path)
        return True
    except OSError:
        return False


def removal(path: str) -> "list[bytes]":
    """Return a command that removes a tree of any owner, follows no links and leaves other disks alone."""
    script = (
        'chmod -R u+rwx -- "$1"; rm -rf --one-file-system -- "$1" || sudo -n rm -rf --one-file-system -- "$1"; '
        'test ! -e "$1"'
    )
    return [b"sh", b"-c", script.encode(), b"sh", os.fsencode(path)]


def remove_tree(path: str) -> None:
    """Remove a tree, if there is one."""
    if os.path.lexists(path) and not remove_few(path):
        pid = os.fork()
        if pid == 0:
            try:
                null = os.open(os.devnull, os.O_RDWR)
                for fd in (0, 1, 2):
                    os.dup2(null, fd)
                os.execvp("sh", removal(path))
            finally:
                os._exit(127)
        os.waitpid(pid, 0)


def remove_roots(roots: "list[str]") -> None:
    """Remove the directories of a job's attempts, and then empty parents."""
    for root in roots:
        remove_tree(root)
        try:
            os.rmdir(os.path.dirname(root))
        except OSError:
            pass


class OutOfMemory:
    """Counts the processes that the kernel has killed because the instance had no memory left."""

    def __init__(self) -> None:
        self.seen = self.count()
        self.left = 0  # kills that no attempt is known for yet

    def count(self) -> int:
        try:
            with open("/proc/vmstat", "rb") as file:
                counters = file.read()
            return int(counters.split(b"\noom_kill ", 1)[1].split(b"\n", 1)[0])
        except (OSError, IndexError, ValueError):  # a kernel older than 4.13
            return 0

    def any(self) -> bool:
        """Return whether the kernel may have killed the process that has just been found killed."""
        seen = self.count()
        self.left += seen - self.seen
        self.seen = seen
        if self.left <= 0:
            return False
        self.left -= 1
        return True


class Interruption:
    """Watches for the notice that the instance will be interrupted; silent without a metadata service."""

    def __init__(self, wake: int) -> None:
        self.wake = wake
        self.at = 0.0  # the interruption's time by the monotonic clock; 0: none is announced

    def look(self) -> None:
        """Poll for the notice; runs in a separate thread."""
        endpoint = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "")
        if not endpoint and os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
            return
        place, _, top = (endpoint or METADATA).partition("://")[2].rstrip("/").partition("/")
        host, _, port = place.partition(":")
        base = (b"/" + top.encode() if top else b"") + b"/latest/"
        address = (host, int(port) if port.isdigit() else 80)
        token = b""
        pause = METADATA_EVERY
        while True:
            try:
                if not token:
                    ttl = b"X-aws-ec2-metadata-token-ttl-seconds: 21600"
                    status, token = http(address, b"PUT " + base + b"api/token", ttl)
                    if status != 200:
                        raise ValueError
                said = b"X-aws-ec2-metadata-token: " + token
                status, body = http(address, b"GET " + base + b"meta-data/spot/instance-action", said)
                if status == 200:
                    self.at = time.monotonic() + max(1.0, seconds_until(body.decode()))
                    os.write(self.wake, b"x")
                    return
                pause = METADATA_EVERY
                if status == 401:
                    token = b""
            except (OSError, ValueError, LookupError, TypeError):
                token = b""
                pause = min(2 * pause, METADATA_RARELY)
            time.sleep(pause)


def http(address: "tuple[str, int]", what: bytes, header: bytes) -> "tuple[int, bytes]":
    """Return status and body of the answer to one request. Raises OSError, ValueError or IndexError."""
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        connection.settimeout(2)
        connection.connect(address)
        connection.sendall(what + b" HTTP/1.1\r\nHost: " + address[0].encode() + b"\r\n" + header)
        connection.sendall(b"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        answer = b""
        while len(answer) < 65536:
            piece = connection.recv(4096)
            if not piece:
                break
            answer += piece
    finally:
        connection.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def seconds_until(notice: str) -> float:
    """Return the seconds until the time in a notice such as {"action": "terminate", "time": "2026-01-02T03:04:05Z"}."""
    import calendar
    import json

    at = calendar.timegm(time.strptime(json.loads(notice)["time"], "%Y-%m-%dT%H:%M:%SZ"))
    return at - time.time()


# The files that a job sends, and those that it expects here


def digest_of(entries: "list[tuple[bytes, bool, bytes]]") -> str:
    """Digest files: the name of each, whether it may be executed, and a hash of its content (empty: a directory)."""
    import hashlib

    digest = hashlib.blake2b(digest_size=16)
    for name, executable, content in sorted(entries):
        digest.update(struct.pack("!I?I", len(name), executable, len(content)) + name + content)
    return digest.hexdigest()


def hash_of(path: "bytes | str") -> "hashlib.blake2b":  # type: ignore[name-defined]
    """Hash a file's content. Raises OSError."""
    import hashlib

    digest = hashlib.blake2b()
    with open(path, "rb") as file:
        while True:
            piece = file.read(1 << 18)
            if not piece:
                return digest
            digest.update(piece)


def tree_of(top: str) -> "list[tuple[bytes, bytes | None, bool]]":
    """List a tree, parents first: name, path (None for a directory) and whether it may be executed."""
    found = []  # type: list[tuple[bytes, bytes | None, bool]]
    root = os.fsencode(top)
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in folders:
            found.append((os.path.relpath(os.path.join(folder, name), root), None, True))
        for name in files:
            path = os.path.join(folder, name)
            found.append((os.path.relpath(path, root), path, bool(os.lstat(path).st_mode & 0o100)))
    return found


def place_file(path: bytes, before: "os.stat_result", target: bytes) -> None:
    """Copy a file; a large one is linked, and must be unchanged since `before`. Raises OSError."""
    mode = 0o755 if before.st_mode & 0o100 else 0o644
    if before.st_size > LINKED:
        now = os.stat(path)
        if (now.st_size, now.st_mtime) != (before.st_size, before.st_mtime):
            raise OSError(errno.EIO, "a file that came with the job was changed here: " + os.fsdecode(path))
        try:
            os.link(path, target)
            return
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
                raise
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(fd, "wb") as copy, open(path, "rb") as source:
        while True:
            piece = source.read(1 << 18)
            if not piece:
                break
            copy.write(piece)
    os.chmod(target, mode)


def entrust(job: str, digest: str, size: int, wanted: "list[tuple[list[str], int, str]]") -> bool:
    """Report on the files that the job depends on, then read the job's own, of this digest and size, from stdin.

    The report is lines of JSON. Return whether all files are right. If not, leave nothing here. `wanted`: see
    `compare`.
    """
    os.write(1, MARK)
    home = os.path.expanduser("~")
    os.chdir(home if os.path.isdir(home) else "/")
    top = os.path.join(os.getcwd(), ".hardway", job, "files")
    differ, absent = compare(wanted)
    have = not digest or is_whole(os.path.join(top, digest), digest)
    say(differ=differ, absent=absent, have=have)
    if differ:
        return False
    if have:
        return True
    try:
        receive_files(top, digest, size)
        say(error="")
        return True
    except Exception as error:
        for path in (top, os.path.dirname(top), os.path.dirname(os.path.dirname(top))):
            try:
                os.rmdir(path)
            except OSError:
                break
        say(error=str(error) or type(error).__name__)
        return False


def say(**said: object) -> None:
    """Write a line of JSON to stdout."""
    import json

    write_all(1, json.dumps(said).encode() + b"\n")


def compare(wanted: "list[tuple[list[str], int, str]]") -> "tuple[list[tuple[int, int]], list[int]]":
    """Compare files here with the driver's; return (file, place) for each that differs, and the absent files.

    `wanted` has for each file its possible places, the number of these that are checked if it is in one of them, and
    its content's hash.
    """
    differ, absent = [], []
    for number, (places, first, content) in enumerate(wanted):
        paths = [os.path.expanduser(place.encode("utf-8", "surrogateescape")) for place in places]
        there = [place for place, path in enumerate(paths) if os.path.isfile(path)]
        if not there:
            absent.append(number)
        for place in [place for place in there if place < first] or there:
            try:
                same = hash_of(paths[place]).hexdigest() == content
            except OSError:
                same = False
            if not same:
                differ.append((number, place))
    return differ, absent


def is_whole(tree: str, digest: str) -> bool:
    """Return whether the tree has the files of this digest."""
    try:
        return digest == digest_of(
            [(name, executable, hash_of(path).digest() if path else b"") for name, path, executable in tree_of(tree)]
        )
    except OSError:
        return False


def receive_files(top: str, digest: str, size: int) -> None:
    """Unpack files from stdin into a directory named by their digest. Raises OSError or ValueError."""
    os.makedirs(top, 0o700, exist_ok=True)
    new = os.path.join(top, ".new")
    remove_tree(new)
    os.mkdir(new, 0o700)
    stream = stdin_of(size)
    try:
        unpack(stream, new)
        while stream.read(1 << 18):
            pass
        if not is_whole(new, digest):
            raise ValueError("the files that came differ from those that were sent")
        os.chmod(new, 0o755)
        remove_tree(os.path.join(top, digest))
        os.rename(new, os.path.join(top, digest))
    finally:
        remove_tree(new)


def stdin_of(size: int) -> "io.BufferedReader":  # type: ignore[name-defined]
    """Return the next `size` bytes of stdin as a file; reading raises ValueError if stdin ends before."""
    import io

    class Stdin(io.RawIOBase):
        left = size

        def readable(self) -> bool:
            return True

        def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
            data = os.read(0, min(len(buffer), self.left))
            if not data and self.left:
                raise ValueError("the connection was lost before all files were here")
            buffer[: len(data)] = data
            self.left -= len(data)
            return len(data)

    return io.BufferedReader(Stdin(), 1 << 18)


def unpack(stream: "io.BufferedReader", top: str) -> None:  # type: ignore[name-defined]
    """Write the files of a tar stream below a directory. Raises OSError or ValueError."""
    import tarfile

    with tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            name = member.name.encode("utf-8", "surrogateescape")
            if name.startswith(b"/") or b".." in name.split(b"/"):
                raise ValueError("a name that leads elsewhere")
            path = os.path.join(os.fsencode(top), name)
            os.makedirs(path if member.isdir() else os.path.dirname(path), 0o755, exist_ok=True)
            source = tar.extractfile(member)
            if source is not None:
                with open(path, "xb") as file:
                    while True:
                        piece = source.read(1 << 18)
                        if not piece:
                            break
                        file.write(piece)
                os.chmod(path, 0o555 if member.mode & 0o100 else 0o444)


# Processes


def read_proc(pid: int, name: str) -> bytes:
    """Read a file of a process. Raises OSError."""
    fd = os.open(f"/proc/{pid}/{name}", os.O_RDONLY)
    try:
        data = os.read(fd, 1 << 16)
        while len(data) % 4096 == 0 and data:
            more = os.read(fd, 1 << 16)
            if not more:
                break
            data += more
        return data
    finally:
        os.close(fd)


def all_processes() -> "dict[int, Process]":
    """Return all processes by id; none without /proc."""
    found = {}
    try:
        names = os.listdir("/proc")
    except OSError:
        names = []
    for name in names:
        if name.isdigit():
            try:
                found[int(name)] = Process(int(name))
            except (OSError, ValueError, IndexError):
                pass
    return found


def pipes_of(pid: int) -> "set[int]":
    """Return the numbers of the pipes that a process has open, if we may know."""
    found = set()
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                target = os.readlink(f"/proc/{pid}/fd/{fd}")
            except OSError:
                continue
            if target.startswith("pipe:["):
                found.add(int(target[6:-1]))
    except OSError:
        pass
    return found


def holders(one: Task) -> str:
    """Return text that names the processes that hold an output of the attempt."""
    pipes = {os.fstat(output.fd).st_ino for output in one.outputs if output.fd >= 0}
    found = [pid for pid in all_processes() if pid != os.getpid() and pipes & pipes_of(pid)]
    return names_of(found)


def names_of(pids: "list[int]") -> str:
    """Return text that names processes for a person."""
    names = []
    for pid in pids[:5]:
        try:
            names.append(f"PID {pid} ({read_proc(pid, 'comm').decode('utf-8', 'replace').strip()})")
        except OSError:
            pass
    return ", ".join(names) + (" ..." if len(pids) > 5 else "") if names else "a process that can't be seen from here"


def kill(pid: int, number: int) -> bool:
    """Send a signal to a process, if it exists; return False if we may not."""
    try:
        os.kill(pid, number)
    except PermissionError:
        return False
    except OSError:
        pass
    return True


def kill_group(pid: int, number: int) -> None:
    """Send a signal to a process group, if it exists."""
    try:
        os.killpg(pid, number)
    except OSError:
        pass


def end_children() -> None:
    """End all descendants of this process, within a few seconds."""
    until = time.monotonic() + GRACE
    while time.monotonic() < until:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        processes = all_processes()
        below = {os.getpid()}
        for _ in processes:
            more = {process.pid for process in processes.values() if process.parent in below} - below
            if not more:
                break
            below |= more
        for pid in below - {os.getpid()}:
            kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def become_subreaper() -> bool:
    """Have processes that lose their parent become our children; return False if this is not possible."""
    try:
        import _ctypes  # its Python half takes longer to import

        prctl = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type]
        return _ctypes.call_function(prctl, (PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) == 0
    except (ImportError, AttributeError, OSError, TypeError):
        return False


# Files and limits


def write_all(fd: int, data: bytes) -> None:
    """Write all data to a file. Raises OSError."""
    count = os.write(fd, data)
    while count < len(data):
        more = os.write(fd, data[count:])
        if not more:
            raise OSError(errno.ENOSPC, "the disk takes no more")
        count += more


def read_at(fd: int, size: int, offset: int) -> bytes:
    """Read this many bytes of a file. Raises OSError."""
    piece = os.pread(fd, size, offset)
    while len(piece) < size:
        more = os.pread(fd, size - len(piece), offset + len(piece))
        if not more:
            raise OSError(errno.EIO, "what was kept of an output is cut short")
        piece += more
    return piece


def raise_limit() -> "tuple[int, int, int]":
    """Raise our limit of descriptors; return the earlier, the present and the highest limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1 << 16 if hard == resource.RLIM_INFINITY else min(hard, 1 << 16)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return soft, soft if soft >= 0 else most, hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return soft, most, hard


def cpus() -> int:
    """Count the CPUs that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return os.cpu_count() or 1


def which(name: str) -> str:
    """Return the path of a program; empty if there is none."""
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK):
            return path
    return ""


def nameless(directory: str) -> int:
    """Open a new file without a name: it is gone when its last descriptor is closed."""
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600)
    except (OSError, AttributeError) as error:
        if getattr(error, "errno", 0) == errno.ENOSPC:
            raise
    path = os.path.join(directory, "output-" + os.urandom(8).hex())
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(path)
    return fd


# The start of the agent


def main(job: str, aws: "tuple[str, str, str] | None" = None) -> None:
    """Connect this process's stdin and stdout to the agent of the job, starting it if there is none.

    `aws` is what `bring_aws` takes.
    """
    home = os.path.expanduser("~")
    if not os.path.isdir(home):
        home = "/"
    os.chdir(home)
    directory = os.path.join(home, ".hardway", job)
    for _ in range(100):
        try:
            os.makedirs(directory, 0o700, exist_ok=True)
            if aws:
                bring_aws(home, *aws)
                aws = None
            killed = os.path.exists(os.path.join(directory, "socket"))
            lock = locked(directory)
        except FileNotFoundError:
            continue  # the agent before us is just leaving
        except OSError as error:
            os.write(1, MARK + frame(ERROR, 0, 0, str(error).encode("utf-8", "replace")))
            return
        if lock < 0:
            if hand_over(directory):
                return
            time.sleep(0.05)
        elif is_present(lock, directory):
            if killed:
                wait_for_keeper(directory)
                end_orphans(job)
                remove_roots(scratch_roots(job, home))
            release(fork_keeper(directory, home, lock))
            return
        else:
            os.close(lock)
    os.write(1, MARK + frame(ERROR, 0, 0, b"the agent of this job neither answers nor dies"))


def bring_aws(home: str, when: str, name: str, packed: str) -> None:
    """Put our `aws` first on PATH; with `when` "auto" only if there is none. Its file stays, for the next job."""
    if when == "auto" and which("aws"):
        return
    folder = os.path.join(home, ".hardway", name)
    path = os.path.join(folder, "aws")
    if not os.access(path, os.X_OK):
        import binascii

        os.makedirs(folder, 0o700, exist_ok=True)
        new = path + "-" + os.urandom(8).hex()
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o700)
        try:
            write_all(fd, zlib.decompress(binascii.a2b_base64(packed), 47))
            os.rename(new, path)
        except OSError:
            os.unlink(new)
            raise
        finally:
            os.close(fd)
    os.environ["PATH"] = folder + os.pathsep + os.environ.get("PATH", os.defpath)


def use_store(home: str, instance: str) -> None:
    """Set HARDWAY_STORE where the instance has a store, and in a session of the S3 stub, whose `aws` takes any bucket.

    The store brings an `aws` that leaves all else to the instance's own. It is put first on PATH, unless we have
    brought one that knows the store.
    """
    if "s3_stubbed_session" not in os.environ:
        folder = os.path.join(home, ".hardway-cluster", "store")
        try:
            with open(os.path.join(folder, "members")) as file:
                if file.readline().split()[:1] != [instance]:
                    return  # of the instance that this one is a copy of
        except (OSError, ValueError):
            return
        if not (which("aws") or "").startswith(os.path.join(home, ".hardway", "aws-")):
            os.environ["PATH"] = os.path.join(folder, "bin") + os.pathsep + os.environ.get("PATH", os.defpath)
    os.environ["HARDWAY_STORE"] = "s3://hardway_" + instance


def locked(directory: str) -> int:
    """Return the descriptor of the job's lock, or -1 if an agent holds it."""
    fd = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return fd
    except OSError:
        os.close(fd)
        return -1


def is_present(lock: int, directory: str) -> bool:
    """Return whether the locked file is still the job's: the agent before us may have removed it."""
    try:
        return os.fstat(lock).st_ino == os.stat(os.path.join(directory, "lock")).st_ino
    except FileNotFoundError:
        return False


def hand_over(directory: str) -> bool:
    """Give this process's stdin and stdout to the living agent; return False if there is none."""
    lease = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    lease.settimeout(5)
    home = os.getcwd()
    os.chdir(directory)
    try:
        lease.connect("socket")
        lease.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("2i", 0, 1))])
    except OSError:
        lease.close()
        return False
    finally:
        os.chdir(home)
    release(lease.detach())
    return True


def release(lease: int) -> None:
    """Wait until the agent no longer uses this connection, and so closes its end of the lease."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.set_blocking(lease, True)
    try:
        while os.read(lease, 1):
            pass
    except OSError:
        pass


def wait_for_keeper(directory: str) -> None:
    """Wait a few seconds at most until a killed agent's keeper has ended the agent's processes."""
    try:
        fd = os.open(os.path.join(directory, "keeper"), os.O_RDWR)
    except OSError:
        return
    until = time.monotonic() + 2 * GRACE
    while time.monotonic() < until:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            time.sleep(0.01)
    os.close(fd)


def end_orphans(job: str) -> None:
    """End the processes that a killed agent of this job left."""
    mark = os.fsencode("HARDWAY_JOB=" + job)
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                with open("/proc/" + pid + "/environ", "rb") as file:
                    ours = mark in file.read().split(b"\0")
                if ours and int(pid) != os.getpid():
                    kill(int(pid), signal.SIGKILL)
            except OSError:
                pass


def fork_keeper(directory: str, home: str, lock: int) -> int:
    """Start the keeper, which starts the agent; return a pipe that ends when the agent stops using this connection."""
    ours, lease = os.pipe()
    if os.fork() == 0:
        code = 1
        try:
            os.close(ours)
            keep_agent(directory, home, lock, lease)
            code = 0
        finally:
            os._exit(code)
    os.close(lock)
    os.close(lease)
    return ours


def keep_agent(directory: str, home: str, lock: int, lease: int) -> None:
    """Start the agent, and end its processes if it is killed."""
    os.setsid()
    for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)
    become_subreaper()
    # The lock is held while processes may be left: the start of the next agent waits for it.
    keeper = os.open(os.path.join(directory, "keeper"), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(keeper, fcntl.LOCK_EX | fcntl.LOCK_NB)
    agent = os.fork()
    if agent == 0:
        os.close(keeper)
        become_agent(directory, home, lease)
        return
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for fd in (null, lock, lease):
        os.close(fd)
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == agent:
            break
    if status:
        end_children()
        remove_roots(scratch_roots(os.path.basename(directory), home))


def become_agent(directory: str, home: str, lease: int) -> None:
    """Be the agent for the rest of this process's life."""
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(os.path.join(directory, "log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for fd, number in ((null, 0), (log, 1), (log, 2)):
        os.dup2(fd, number)
    for fd in (null, log):
        os.close(fd)
    agent = Agent(directory, home, (source, sink, lease))
    try:
        agent.run()
    except BaseException:
        import traceback

        text = traceback.format_exc()
        os.write(2, text.encode("utf-8", "replace"))
        end_children()
        link = agent.connection.link
        if link:
            os.set_blocking(link[1], True)
            os.write(link[1], frame(ERROR, 0, 0, text.encode("utf-8", "replace")))
        raise
    agent.connection.listener.close()
    remove_tree(os.path.join(directory, "files"))
    remove_tree(agent.logs.directory)
    agent.scratch.remove()
    agent.shared.leave()
    for name in ("socket", "log", "keeper", "lock"):
        os.unlink(os.path.join(directory, name))
    for path in (directory, os.path.dirname(directory)):
        try:
            os.rmdir(path)
        except OSError:
            return
