"""The agent of pmap: runs on an instance, keeps a job's slots busy, and holds results until they are acknowledged.

One file, standard library only, Python 3.6 or later, sent over the connection it then talks on. It decides nothing:
the driver says what runs. It outlives its connection: it is its own session and listens on a socket for the next one.

On disk, in ~/.hardway/<job>/ (mode 0700), gone when the job ends:
    lock      held (flock) by the living agent
    socket    a process started by a new connection hands that connection's stdin and stdout over here
    log       what the agent had to say when it died
Beside it, slots-<instance> has locks for the slots that the jobs of an instance share.
Outputs of tasks are files without a name in the same directory: nothing to clean up when the agent is killed.

Frames, both ways: length of payload (u32), kind (u8), task (u32), attempt (u16), payload; big-endian.
    to the agent: JOB settings, RUN stdin, TAKE back if not started, KILL, ACK, PING, STOP all and leave
    from it:      HELLO holdings, STARTED slot, RETURNED, CHUNK of output, DONE, PONG, BYE, ERROR text,
                  NOTICE that the instance will be gone in so many seconds, SAID text for a person,
                  SHARED with another job
Before the first frame from the agent stands MARK, since a login shell may print what it likes.
"""

# ruff: noqa: SIM105, B905 (contextlib costs an import; zip has no strict in 3.6)
# The C halves of signal and socket: their Python halves take longer to import than all the rest.
import _signal as signal  # type: ignore[import-not-found]
import _socket as socket
import _thread
import errno
import fcntl
import os
import select
import struct
import time

VERSION = 1
MARK = b"\x00\x01hardway agent\x02\x00"
HEAD = struct.Struct("!IBIH")
RESULT = struct.Struct("!hBdIQQ")  # exit code or -signal, flags, seconds, worker, lengths of stdout and stderr
HOLDING = struct.Struct("!IHBd")  # task, attempt, state, seconds since it started
JOB, RUN, TAKE, KILL, ACK, PING, STOP = range(1, 8)
HELLO, STARTED, RETURNED, CHUNK, DONE, PONG, BYE, ERROR, NOTICE, SAID, SHARED = range(65, 76)
WAITING, RUNNING, ENDED = range(3)
TIMED_OUT, KILLED, NO_START, HOST_FAULT = 1, 2, 4, 32
LARGEST = 1 << 30  # a longer payload than this is a broken stream
INLINE = 1 << 16  # outputs up to this travel within DONE, longer ones in CHUNKs
CHUNK_SIZE = 1 << 17
SPEAK_UP = 1 << 16  # bytes received after which the driver gets a sign of life
GRACE = 2.0  # seconds between TERM and KILL
PRESENT, TURN, SLOT = 64, 1 << 16, 1 << 24  # bytes of the file that the jobs of an instance lock
JOBS_MOST = 512  # that can be told from one another there
LOOK_FOR_SLOT = 0.02  # seconds, at most
DESCRIPTORS_LEAST = 64  # with less than that none is left to share slots with
HOLD_BACK = 0.1  # results wait this long for company while more tasks wait here
METADATA = "http://169.254.169.254"
METADATA_EVERY = 5.0  # seconds between looks for an interruption; where there is no service, up to
METADATA_RARELY = 60.0
WORD = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:@%+,-")


def frame(kind: int, task: int = 0, attempt: int = 0, payload: bytes = b"") -> bytes:
    """Bytes of one frame."""
    return HEAD.pack(len(payload), kind, task, attempt) + payload


class BrokenStream(Exception):
    """What arrives is no sequence of frames."""


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


class Task:
    """One attempt, from its arrival until its result is acknowledged."""

    def __init__(self, task: int, attempt: int, stdin: bytes) -> None:
        self.task = task
        self.attempt = attempt
        self.stdin = stdin
        self.state = WAITING
        self.worker = 0
        self.pid = 0
        self.began = 0.0
        self.seconds = 0.0
        self.status = 0
        self.flags = 0
        self.kill_at = 0.0  # when to send KILL; 0: TERM was not sent
        self.outputs = []  # type: list[int]
        self.sizes = [0, 0]
        self.inline = b""

    def close(self) -> None:
        for fd in self.outputs:
            os.close(fd)
        self.outputs = []


class Agent:
    """All of a connection: frames in, slots that run tasks, frames out."""

    def __init__(self, directory: str, home: str, link: "tuple[int, int, int]") -> None:
        self.directory = directory
        self.home = home
        self.identity = os.urandom(8).hex()
        self.settings = {}  # type: dict[str, bytes]
        self.slots = 0
        self.timeout = 0.0
        self.linger = 3600.0
        self.workers = []  # type: list[int]
        self.shared = Slots()
        self.shared_told = False  # that other jobs are here, over the present connection
        self.argv = []  # type: list[bytes]
        self.program = ""
        self.environment = {}  # type: dict[bytes, bytes]
        self.tasks = {}  # type: dict[tuple[int, int], Task]
        self.waiting = []  # type: list[Task]
        self.running = {}  # type: dict[int, Task]
        self.link = None  # type: tuple[int, int, int] | None
        self.frames = Frames()
        self.out = bytearray()
        # Ended tasks whose outputs have yet to be sent, and how much of the first one's is.
        self.sending = []  # type: list[Task]
        self.sent = 0
        self.received = 0
        self.unheard = False  # what is written to the link fails
        self.held_since = 0.0
        self.leaving = 0.0
        self.alone_since = time.monotonic()
        self.gone_at = 0.0  # when the instance will be interrupted, of the monotonic clock
        self.told = False
        self.wake, self.wake_in = os.pipe()
        for fd in (self.wake, self.wake_in):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self.wake_in)
        signal.signal(signal.SIGCHLD, lambda number, stack: None)
        for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
            signal.signal(ignored, signal.SIG_IGN)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        os.chdir(directory)  # the path of a socket is short, a home directory's may not be
        try:
            os.unlink("socket")
        except OSError:
            pass
        self.listener.bind("socket")
        self.listener.listen(8)
        self.listener.setblocking(False)
        os.chdir(home)
        self.attach(*link)

    # The connection

    def attach(self, source: int, sink: int, lease: int) -> None:
        """Talk over these from now on; `lease` is closed when that is over."""
        self.detach()
        self.link = (source, sink, lease)
        for fd in (source, sink):
            os.set_blocking(fd, False)
        self.frames = Frames()
        now = time.monotonic()
        holdings = [
            HOLDING.pack(one.task, one.attempt, one.state, now - one.began if one.state == RUNNING else one.seconds)
            for one in self.tasks.values()
        ]
        about = f"{VERSION} {self.identity} {cpus()} {len(holdings)}\n"
        self.out += MARK + frame(HELLO, 0, 0, about.encode() + b"".join(holdings))
        self.sending = [one for one in self.tasks.values() if one.state == ENDED]

    def detach(self) -> None:
        if self.link:
            for fd in self.link:
                os.close(fd)
            self.link = None
            self.alone_since = time.monotonic()
            if not self.settings:
                self.linger = 0.0  # nobody ever said what the job is
        self.out = bytearray()
        self.sending = []
        self.sent = 0
        self.unheard = self.told = False

    def accept(self) -> None:
        """Another process of ours hands over the stdin and stdout of a new connection."""
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
        """Do what these bytes from the driver say."""
        try:
            for kind, task, attempt, payload in self.frames.feed(data):
                self.handle(kind, task, attempt, payload)
        except (BrokenStream, ValueError, KeyError, IndexError, struct.error) as error:
            self.out += frame(ERROR, 0, 0, f"the driver sent {error}".encode("utf-8", "replace"))
            self.flush()
            self.detach()

    def flush(self) -> None:
        """Send what can be sent without waiting."""
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
        """Nobody listens any more; but what was said before, an order to stop above all, still counts."""
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
            offset = self.sent
            index = 0
            if offset >= one.sizes[0]:
                offset -= one.sizes[0]
                index = 1
            size = min(CHUNK_SIZE, one.sizes[index] - offset)
            if size > 0:
                piece = os.pread(one.outputs[index], size, offset)
                piece += b"\0" * (size - len(piece))  # another process cut the file short meanwhile
                self.out += frame(CHUNK, one.task, one.attempt, bytes([index]) + piece)
                self.sent += size
                return
        self.out += frame(
            DONE,
            one.task,
            one.attempt,
            RESULT.pack(one.status, one.flags, one.seconds, one.worker, *one.sizes) + one.inline,
        )
        self.sending.pop(0)
        self.sent = 0

    # What the driver says

    def handle(self, kind: int, task: int, attempt: int, payload: bytes) -> None:
        if kind == RUN:
            self.add(task, attempt, payload)
        elif kind == ACK:
            one = self.tasks.get((task, attempt))
            if one and one.state == ENDED:
                del self.tasks[task, attempt]
                one.close()
        elif kind in (TAKE, KILL):
            one = self.tasks.get((task, attempt))
            if one and one.state == WAITING:
                self.waiting.remove(one)
                del self.tasks[task, attempt]
                self.out += frame(RETURNED, task, attempt)
            elif one and one.state == RUNNING and kind == KILL:
                one.flags |= KILLED
                self.terminate(one)
            elif not one:
                self.out += frame(RETURNED, task, attempt)
        elif kind == PING:
            self.out += frame(PONG, task, attempt, payload)
            self.flush()
        elif kind == JOB:
            self.configure(payload)
        elif kind == STOP:
            self.leave()
        else:
            raise ValueError(f"a frame of kind {kind}")

    def configure(self, payload: bytes) -> None:
        """Settings as NUL-separated key=value; environment variables have an upper-case key."""
        pairs = [item.partition(b"=") for item in payload.split(b"\0")]
        settings = {key.decode(): value for key, _, value in pairs}
        self.slots = max(1, int(settings["slots"]))
        self.timeout = float(settings["timeout"])
        self.linger = float(settings["linger"])
        base = int(settings["worker"])
        busy = [one.worker for one in self.running.values()]
        self.workers = [worker for worker in reversed(range(base, base + self.slots)) if worker not in busy]
        if self.settings.get("command") != settings["command"]:
            self.prepare(settings["command"])
        for key, value in settings.items():
            if key.isupper():
                self.environment[os.fsencode(key)] = value
        self.settings = settings
        instance = settings.get("HARDWAY_INSTANCE_ID", b"").decode()
        path = os.path.join(os.path.dirname(self.directory), "slots-" + instance.replace("/", "-"))
        self.shared.waits = self.shared.join(path, self.slots, self.wake_in)
        self.shared_told = False

    def prepare(self, command: bytes) -> None:
        """Decide how to start the command.

        A bare command of plain words that names a program is what `bash -c` would exec at once: then bash is asked,
        here and once, which program that is and what environment it would see, and left out from then on.
        """
        self.argv = [b"bash", b"-c", command]
        self.program = which("bash")
        self.environment = dict(os.environb)
        for name in (b"SSH_CLIENT", b"SSH_CONNECTION", b"SSH_TTY"):
            self.environment.pop(name, None)
        words = command.split()
        plain = words and WORD.issuperset(command.replace(b" ", b"")) and b"BASH_ENV" not in self.environment
        if not plain or not self.program:
            return
        read, write = os.pipe()
        null = os.open(os.devnull, os.O_RDWR)
        probe = b'test "$(type -t -- "$1")" = file && type -P -- "$1" && env -0'
        argv = [b"bash", b"-c", probe, b"bash", words[0]]
        pid = self.spawn(self.program, argv, self.environment, (null, write, null))
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
        program, _, variables = said.partition(b"\n")
        if status == 0 and program.startswith(b"/"):
            pairs = [item.partition(b"=") for item in variables.split(b"\0") if item]
            self.environment = {key: value for key, _, value in pairs}
            self.environment[b"_"] = program
            self.argv, self.program = words, os.fsdecode(program)

    def add(self, task: int, attempt: int, stdin: bytes) -> None:
        if (task, attempt) not in self.tasks and not self.leaving:
            one = self.tasks[task, attempt] = Task(task, attempt, stdin)
            self.waiting.append(one)

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

    # Running

    def start_tasks(self) -> None:
        while self.waiting and len(self.running) < self.slots and self.workers and self.shared.take():
            self.start(self.waiting.pop(0))
        if self.shared.waits and not self.shared_told:
            self.shared_told = True
            self.out += frame(SHARED)
        if not self.waiting:
            self.shared.decline()

    def start(self, one: Task) -> None:
        one.began = time.monotonic()
        one.worker = self.workers.pop()
        one.state = RUNNING
        stdin = None
        try:
            one.outputs = [nameless(self.directory), nameless(self.directory)]
            stdin = self.stdin(one.stdin)
            environment = dict(self.environment)
            environment[b"HARDWAY_JOB"] = os.fsencode(os.path.basename(self.directory))
            environment[b"HARDWAY_TASK"] = b"%d" % one.task
            environment[b"HARDWAY_ATTEMPT"] = b"%d" % one.attempt
            environment[b"HARDWAY_WORKER"] = b"%d" % one.worker
            if not self.program:
                raise OSError(errno.ENOENT, "there is no bash here")
            try:
                one.pid = self.spawn(self.program, self.argv, environment, (stdin, *one.outputs))
            except OSError:
                # Gone since, or a script without a first line: bash knows what to do.
                if self.argv[0] == b"bash":
                    raise
                bash = [b"bash", b"-c", self.settings["command"]]
                one.pid = self.spawn(which("bash"), bash, environment, (stdin, *one.outputs))
        except OSError as error:
            one.close()
            one.flags |= NO_START
            one.inline = f"the agent could not start it: {error}".encode("utf-8", "replace")
            one.sizes = [0, len(one.inline)]
            self.end(one, 126)
            return
        finally:
            if stdin is not None:
                os.close(stdin)
        one.stdin = b""
        self.running[one.pid] = one
        self.out += frame(STARTED, one.task, one.attempt, struct.pack("!I", one.worker))

    def stdin(self, data: bytes) -> int:
        """A descriptor to read `data` from: a pipe where it holds it all, else a file."""
        if len(data) <= 4096:
            read, write = os.pipe()
        else:
            read = nameless(self.directory)
            write = os.dup(read)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(write, view) :]
        except OSError:
            os.close(read)
            raise
        finally:
            os.close(write)
        if len(data) > 4096:
            os.lseek(read, 0, os.SEEK_SET)
        return read

    def spawn(
        self, program: str, argv: "list[bytes]", environment: "dict[bytes, bytes]", fds: "tuple[int, ...]"
    ) -> int:
        """Start a process in its own process group, with these as its first descriptors."""
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
        process.returncode = 0  # it is waited for by `reap`
        return process.pid

    def reap(self) -> None:
        """Take the status of each child that ended; what is left of its process group ends with it."""
        while True:
            try:
                child = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if child is None:
                return
            one = self.running.pop(child.si_pid, None)
            if one:
                # Before it is waited for its number can't be another process's.
                kill_group(one.pid, signal.SIGKILL)
            _, status = os.waitpid(child.si_pid, 0)
            if one:
                code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
                self.collect(one)
                self.end(one, code)

    def collect(self, one: Task) -> None:
        """Keep the outputs: small ones in memory, so that descriptors don't run out."""
        one.sizes = [os.fstat(fd).st_size for fd in one.outputs]
        if sum(one.sizes) <= INLINE:
            one.inline = b"".join(os.pread(fd, size, 0) for fd, size in zip(one.outputs, one.sizes))
            one.close()

    def end(self, one: Task, code: int) -> None:
        one.seconds = time.monotonic() - one.began
        one.state = ENDED
        one.status = code
        self.release_worker(one.worker)
        self.shared.give()
        if self.leaving:
            one.close()
        elif self.link:
            self.sending.append(one)

    def release_worker(self, worker: int) -> None:
        base = int(self.settings["worker"])
        if base <= worker < base + self.slots and worker not in self.workers:
            self.workers.append(worker)

    def terminate(self, one: Task) -> None:
        if not one.kill_at:
            one.kill_at = time.monotonic() + GRACE
            kill_group(one.pid, signal.SIGTERM)

    def enforce(self, now: float) -> None:
        """End what has run too long."""
        for one in self.running.values():
            if one.kill_at:
                if now >= one.kill_at:
                    kill_group(one.pid, signal.SIGKILL)
                    one.kill_at = now + GRACE
            elif self.timeout and now - one.began >= self.timeout:
                one.flags |= TIMED_OUT
                self.terminate(one)

    # The loop

    def wait(self, now: float) -> float:
        """Seconds until something is due though nothing happens."""
        times = [now + 3600]
        if not self.link:
            times.append(self.alone_since + self.linger)
        elif self.held_since:
            times.append(self.held_since + HOLD_BACK)
        for one in self.running.values():
            if one.kill_at:
                times.append(one.kill_at)
            elif self.timeout:
                times.append(one.began + self.timeout)
        return max(0.0, min(times) - now)

    def may_hold_back(self, now: float) -> bool:
        """Whether what there is to say can wait for more: nobody stands idle for it."""
        if not self.out and not self.sending:
            self.held_since = 0.0
            return False
        if len(self.waiting) <= self.slots or self.leaving or len(self.out) > INLINE:
            self.held_since = 0.0
            return False
        if not self.held_since:
            self.held_since = now
        if now - self.held_since >= HOLD_BACK:
            self.held_since = 0.0
            return False
        return True

    def watch(self) -> None:
        """Look for the notice of a spot interruption, in a thread of its own; silent where nobody can tell."""
        endpoint = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "")
        if not endpoint and os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
            return
        host, _, port = (endpoint or METADATA).partition("://")[2].rstrip("/").partition(":")
        address = (host, int(port) if port.isdigit() else 80)
        token = b""
        pause = METADATA_EVERY
        while True:
            try:
                if not token:
                    ttl = b"X-aws-ec2-metadata-token-ttl-seconds: 21600"
                    status, token = http(address, b"PUT /latest/api/token", ttl)
                    if status != 200:
                        raise ValueError
                said = b"X-aws-ec2-metadata-token: " + token
                status, body = http(address, b"GET /latest/meta-data/spot/instance-action", said)
                if status == 200:
                    self.gone_at = time.monotonic() + max(1.0, seconds_until(body.decode()))
                    os.write(self.wake_in, b"x")
                    return
                pause = METADATA_EVERY
                if status == 401:
                    token = b""
            except (OSError, ValueError, LookupError, TypeError):
                token = b""
                pause = min(2 * pause, METADATA_RARELY)
            time.sleep(pause)

    def run(self) -> None:
        _thread.start_new_thread(self.watch, ())
        while True:
            self.reap()
            self.start_tasks()
            now = time.monotonic()
            self.enforce(now)
            if self.leaving and not self.running:
                self.out += frame(BYE)
                self.flush()
                return
            if not self.link and now - self.alone_since >= self.linger:
                self.leave()
                continue
            if self.gone_at and self.link and not self.told:
                self.told = True
                self.out += frame(NOTICE, 0, 0, struct.pack("!d", self.gone_at - now))
            if not self.may_hold_back(now):
                self.flush()
            if self.unheard:
                self.hear_out()
                continue
            poll = select.poll()
            poll.register(self.wake, select.POLLIN)
            poll.register(self.listener.fileno(), select.POLLIN)
            if self.link:
                poll.register(self.link[0], select.POLLIN)
                if (self.out or self.sending) and not self.held_since:
                    poll.register(self.link[1], select.POLLOUT)
            for fd, _ in poll.poll(int(self.wait(now) * 1000) + 1):
                if fd == self.wake:
                    os.read(self.wake, 4096)
                elif fd == self.listener.fileno():
                    self.accept()
                elif self.link and fd == self.link[0]:
                    self.receive()


class Slots:
    """An instance's slots, which all jobs of its login user share: together they run no more than the largest alone.

    A slot is a lock on a byte of a file, so that those of a killed agent are free at once. Its turn is another byte,
    which who takes the slot has for a moment, and who waits for one of some slots has of all of these until then: so
    nobody is overtaken for ever, and what a small job waits for does not hold up the other slots of a large one.
    Where there can be no such file, each job is on its own.
    """

    # Locks of POSIX, which belong to the process: one descriptor does for all, and no child has them.

    def __init__(self) -> None:
        self.path = ""
        self.fd = -1
        self.place = -1
        self.slots = 0
        self.wake = -1
        self.taken = set()  # type: set[int]
        self.alone = 0  # slots taken where there is no file
        self.granted = -1  # got by waiting, not yet used
        self.waiting = False
        self.waits = False  # that was so since it was last looked at

    def lock(self, byte: int, count: int = 1, how: int = fcntl.LOCK_EX | fcntl.LOCK_NB) -> bool:
        try:
            fcntl.lockf(self.fd, how, count, byte)
        except OSError:
            return False
        return True

    def unlock(self, byte: int, count: int = 1) -> None:
        self.lock(byte, count, fcntl.LOCK_UN)

    def join(self, path: str, slots: int, wake: int) -> bool:
        """Share with the jobs that have this file, and say if there are any.

        `wake` is written to when what was waited for is there.
        """
        self.slots, self.wake = slots, wake
        path = self.path = self.path or path
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
                    raise FileNotFoundError  # the last one took it along meanwhile
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
        """Whether another job is here. Only while nobody can come or go, with byte 0."""
        below, above = self.place - PRESENT, PRESENT + JOBS_MOST - self.place - 1
        for byte, count in ((PRESENT, below), (self.place + 1, above)):
            if count > 0:
                if not self.lock(byte, count):
                    return True
                self.unlock(byte, count)
        return False

    def free(self, turns: bool) -> int:
        """A slot that nobody has, now ours; -1 if there is none. With `turns`, it is not ours before others' turn."""
        for slot in range(self.slots - 1, -1, -1):
            if slot not in self.taken and (not turns or self.lock(TURN + slot)):
                found = self.lock(SLOT + slot)
                if turns:
                    self.unlock(TURN + slot)
                if found:
                    return slot
        return -1

    def take(self) -> bool:
        """Take a slot; False where there is none: then `wake` is written to when one has become ours."""
        if self.waiting:
            return False
        if self.fd < 0:
            self.alone += 1
            return True
        slot = self.granted
        self.granted = -1
        if slot < 0:
            slot = self.free(True)
        if slot >= 0:
            self.taken.add(slot)
            return True
        self.waiting = self.waits = True
        _thread.start_new_thread(self.wait, ())
        return False

    def wait(self) -> None:
        """In a thread of its own: get a slot, and say so."""
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

    def give(self) -> None:
        """One of ours is free."""
        if self.alone:
            self.alone -= 1
        elif self.taken:
            self.unlock(SLOT + self.taken.pop())

    def decline(self) -> None:
        """Nothing is there to run in the slot that was waited for."""
        if not self.waiting and self.granted >= 0:
            self.unlock(SLOT + self.granted)
            self.granted = -1

    def leave(self) -> None:
        """The last one takes the file along."""
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


def http(address: "tuple[str, int]", what: bytes, header: bytes) -> "tuple[int, bytes]":
    """Status and body of the answer to one request. Raises OSError, ValueError or IndexError."""
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
    """Seconds until the time in a notice such as {"action": "terminate", "time": "2026-01-02T03:04:05Z"}."""
    import calendar
    import json

    at = calendar.timegm(time.strptime(json.loads(notice)["time"], "%Y-%m-%dT%H:%M:%SZ"))
    return at - time.time()


def kill_group(pid: int, number: int) -> None:
    """Send a signal to a process group, if there is one."""
    try:
        os.killpg(pid, number)
    except OSError:
        pass


def cpus() -> int:
    """How many CPUs this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return os.cpu_count() or 1


def which(name: str) -> str:
    """The path of a program; empty where there is none."""
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK):
            return path
    return ""


def nameless(directory: str) -> int:
    """A new file that no directory lists: it is gone when its last descriptor is."""
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600)
    except (OSError, AttributeError) as error:
        if getattr(error, "errno", 0) == errno.ENOSPC:
            raise
    path = os.path.join(directory, "output-" + os.urandom(8).hex())
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(path)
    return fd


def end_orphans(job: str) -> None:
    """End what an agent of this job left running when it was killed."""
    mark = os.fsencode("HARDWAY_JOB=" + job)
    for pid in os.listdir("/proc"):
        if pid.isdigit():
            try:
                with open("/proc/" + pid + "/environ", "rb") as file:
                    ours = mark in file.read().split(b"\0")
                if ours and int(pid) != os.getpid():
                    os.kill(int(pid), signal.SIGKILL)
            except OSError:
                pass


def locked(directory: str) -> int:
    """The descriptor of the job's lock, or -1 if an agent holds it."""
    fd = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return fd
    except OSError:
        os.close(fd)
        return -1


def hand_over(directory: str) -> bool:
    """Give this process's stdin and stdout to the living agent; False if there is none to take them."""
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
    """Wait until the agent closes its end of the lease: the connection is no longer used."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.set_blocking(lease, True)
    try:
        while os.read(lease, 1):
            pass
    except OSError:
        pass


def become_agent(directory: str, home: str, lease: int) -> None:
    """The rest of this process's life is the agent's."""
    os.setsid()
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
        for one in agent.running.values():
            kill_group(one.pid, signal.SIGKILL)
        if agent.link:
            os.set_blocking(agent.link[1], True)
            os.write(agent.link[1], frame(ERROR, 0, 0, text.encode("utf-8", "replace")))
        raise
    agent.listener.close()
    agent.shared.leave()
    for name in ("socket", "log", "lock"):
        os.unlink(os.path.join(directory, name))
    for path in (directory, os.path.dirname(directory)):
        try:
            os.rmdir(path)
        except OSError:
            return


def main(job: str) -> None:
    """Connect this process's stdin and stdout to the agent of the job, starting it if there is none."""
    home = os.path.expanduser("~")
    if not os.path.isdir(home):
        home = "/"
    os.chdir(home)
    directory = os.path.join(home, ".hardway", job)
    for _ in range(100):
        try:
            os.makedirs(directory, 0o700, exist_ok=True)
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
            continue
        try:
            if os.fstat(lock).st_ino != os.stat(os.path.join(directory, "lock")).st_ino:
                raise FileNotFoundError
        except FileNotFoundError:
            os.close(lock)
            continue
        if killed:
            end_orphans(job)
        ours, lease = os.pipe()
        if os.fork() == 0:
            try:
                os.close(ours)
                become_agent(directory, home, lease)
            finally:
                os._exit(1)
        os.close(lock)
        os.close(lease)
        release(ours)
        return
    os.write(1, MARK + frame(ERROR, 0, 0, b"the agent of this job neither answers nor dies"))
