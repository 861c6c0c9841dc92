"""Many instances as one: fan-out over threads with a cap, and commands whose output streams line by line.

Every instance's outcome is returned, failures as values: one failed host raises nothing. Fabric's group starts a thread
a host, and returns output only as text: both are replaced. `Group._do` is the one private name of Fabric that is used:
`run`, `put` and `get` of a group call it, and Fabric plans to make it public.
"""

from __future__ import annotations

import contextlib
import hashlib
import queue
import select
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, TypeVar

import paramiko
from fabric.group import GroupException, GroupResult, ThreadingGroup

from hardway.config import Settings
from hardway.ec2.instances import Instance
from hardway.errors import Failed, HardwayError, UsageError, reason_of
from hardway.ssh import connection as ssh
from hardway.ssh.keys import HostKeys
from hardway.ssh.script import Launch, Script, Words, not_run, other_user
from hardway.system import streams
from hardway.tables import count
from hardway.terminal import printable

T = TypeVar("T")

# The wait after the last byte of an ended command's output, if a process that it left behind holds the output open.
LINGER_SECONDS = 3.0
KILL_AFTER_SECONDS = 2.0
INTERRUPT_SECONDS = 3.0
# A host that gives no answer is reported after the first of these times, and given up after the second. (ssh itself
# gives up after ServerAliveInterval times ServerAliveCountMax, `ssh.ALIVE_SECONDS` here.)
HANGS_SECONDS = 30.0
GIVE_UP_SECONDS = float(ssh.ALIVE_SECONDS)
_CHUNK = 1 << 16
_LOOK_SECONDS = 0.5
# `timeout` exits with 124 after TERM; after KILL it, or the shell above it, exits with 128 + 9.
_TIMED_OUT = (124, 137)
# The message of a host that lets another user log in. A command may print it, too, but ends with another code.
_OTHER_USER_CODE = 142


class CommandError(Failed):
    """A command that ran on an instance and did not succeed, or did not end; `result` is its result so far."""

    result: CommandResult | None = None


class ConnectionLost(ssh.ConnectError):
    """A connection that was lost under a command; `result` is the command's result so far."""

    result: CommandResult | None = None


class OutputClosed(Exception):
    """Our stdout can't be written, for the reason in `error`; the instance with the output is not to blame."""

    def __init__(self, error: HardwayError) -> None:
        super().__init__(str(error))
        self.error = error


class GroupFailed(Failed):
    """Something failed on some instances; `outcomes` has every instance's result or exception, by connection."""

    def __init__(self, message: str, outcomes: GroupResult) -> None:
        super().__init__(message)
        self.outcomes = outcomes


@dataclass(frozen=True)
class CommandResult:
    """A command's exit code and output on one instance. Output past 1 MiB stays on the disk until its use."""

    instance: Instance
    exit_code: int
    seconds: float
    _stdout: IO[bytes] = field(repr=False)
    _stderr: IO[bytes] = field(repr=False)

    @property
    def stdout(self) -> bytes:
        """The command's whole stdout, unchanged."""
        self._stdout.seek(0)
        return self._stdout.read()

    def chunks(self) -> Iterator[bytes]:
        """Yield the output in pieces, for output that doesn't fit in memory."""
        self._stdout.seek(0)
        while data := self._stdout.read(_CHUNK):
            yield data

    @property
    def stderr(self) -> bytes:
        """The command's whole stderr, unchanged."""
        self._stderr.seek(0)
        return self._stderr.read()


class Printer:
    """Writes lines from many instances to our stdout and stderr, never torn.

    With `prefix` each line begins with its instance's name; without, a sole instance's bytes pass unchanged.
    `to_stderr` sends all output to stderr, if the result on stdout is another one.
    """

    def __init__(self, prefix: bool, sole: bool, to_stderr: bool = False) -> None:
        self.prefix = prefix
        self.verbatim = sole and not prefix
        self.to_stderr = to_stderr
        self._lock = threading.Lock()
        self._partial: dict[tuple[str, bool], bytearray] = {}

    def write(self, instance: Instance, data: bytes, error: bool) -> None:
        """Take some output (stderr's if `error`), and print its whole lines at once."""
        if self.verbatim:
            self._emit(data, error)
            return
        partial = self._partial.setdefault((instance.id, error), bytearray())
        partial += data
        end = partial.rfind(b"\n") + 1
        if end:
            lines = bytes(partial[:end])
            del partial[:end]
            self._emit(self._named(instance, lines), error)

    def finish(self, instance: Instance) -> None:
        """Print the last line without a newline, at an instance's end."""
        for error in (False, True):
            partial = self._partial.pop((instance.id, error), None)
            if partial:
                self._emit(self._named(instance, bytes(partial) + b"\n"), error)

    def _named(self, instance: Instance, lines: bytes) -> bytes:
        if not self.prefix:
            return lines
        name = f"{printable(str(instance))}: ".encode()
        return b"".join(name + line for line in lines.splitlines(keepends=True))

    def _emit(self, data: bytes, error: bool) -> None:
        talk = error or self.to_stderr
        stream = streams.talk() if talk else sys.stdout
        with self._lock, contextlib.nullcontext() if talk else _closed_is_no_failure():
            stream.flush()
            # A stream that a Python caller put in place may take only text.
            binary = getattr(stream, "buffer", None)
            if binary:
                binary.write(data)
            else:
                stream.write(data.decode(errors="replace"))
            stream.flush()


class FoldingPrinter(Printer):
    """Holds stdout back until the commands have ended, for `fold` to print equal outputs once; stderr streams."""

    def __init__(self) -> None:
        super().__init__(prefix=True, sole=False)

    def write(self, instance: Instance, data: bytes, error: bool) -> None:
        """See `Printer.write`."""
        if error:
            super().write(instance, data, error)

    def fold(self, outcomes: Iterable[Any]) -> None:
        """Print each output once, under a line with its instances; the output of the most instances comes first.

        Outputs are equal if all bytes and the command's end are equal. Raises HardwayError if stdout can't be written.
        """
        same: dict[tuple[str, bytes], list[CommandResult]] = {}
        for outcome in outcomes:
            result = outcome.result if isinstance(outcome, CommandError | ConnectionLost) else outcome
            if isinstance(result, CommandResult):
                digest = hashlib.blake2b()
                for chunk in result.chunks():
                    digest.update(chunk)
                ended = describe_outcome(outcome) or ""
                same.setdefault((ended, digest.digest()), []).append(result)
        try:
            for (ended, _), results in sorted(same.items(), key=lambda group: len(group[1]), reverse=True):
                self._emit(f"--- {_whose(results, ended)}\n".encode(), error=False)
                last = b""
                for last in results[0].chunks():
                    self._emit(last, error=False)
                if last and not last.endswith(b"\n"):
                    self._emit(b"\n", error=False)
        except OutputClosed as closed:
            raise closed.error from closed


def _whose(results: Sequence[CommandResult], ended: str) -> str:
    """Return the number of instances, their command's end if it failed, and their names and ids."""
    by_name: dict[str, list[str]] = {}
    for result in results:
        by_name.setdefault(result.instance.name, []).append(result.instance.id)
    how = f", {ended}" if ended else ""
    names = "; ".join(" ".join(filter(None, [printable(name), *ids])) for name, ids in by_name.items())
    return f"{count(len(results), 'instance')}{how}: {names}"


@contextlib.contextmanager
def _closed_is_no_failure() -> Iterator[None]:
    try:
        with streams.writing():
            yield
    except HardwayError as error:
        raise OutputClosed(error) from error


class InstanceGroup(ThreadingGroup):
    """Connections to many instances, opened as they are needed, at most `ec2.max_connections` at a time.

    Fabric's own `run`, `put` and `get` work on it too, and raise GroupException as they do there.
    """

    def __init__(self, instances: Iterable[Instance], settings: Settings) -> None:
        known = HostKeys()
        super().__init__()
        self.settings = settings
        #: Set once Ctrl-C has been pressed: actions that wait should look at it.
        self.interrupted = threading.Event()
        instances = list(instances)
        ssh.read_configuration(instances, settings)
        self.extend(ssh.InstanceConnection(instance, settings, known, self.interrupted) for instance in instances)

    def fanout(
        self,
        action: Callable[[ssh.InstanceConnection], T],
        on_outcome: Callable[[ssh.InstanceConnection, T | Exception], None] | None = None,
    ) -> GroupResult:
        """Do `action` with an open connection to each instance; return each connection's result or exception.

        A connection is closed when its action ends. `on_outcome` is called in the caller's thread. On Ctrl-C running
        commands are ended, every connection is closed, every thread is joined, and KeyboardInterrupt is raised. Raises
        HardwayError if a printer's stdout can't be written.
        """
        waiting: queue.SimpleQueue[ssh.InstanceConnection] = queue.SimpleQueue()
        outcomes: queue.SimpleQueue[tuple[ssh.InstanceConnection, T | Exception]] = queue.SimpleQueue()
        for connection in self:
            waiting.put(connection)

        def worker() -> None:
            while not self.interrupted.is_set():
                try:
                    connection = waiting.get_nowait()
                except queue.Empty:
                    return
                outcomes.put((connection, self._attempt(connection, action)))

        threads = [
            threading.Thread(target=worker, name=f"fanout-{n}", daemon=True)
            for n in range(min(len(self), self.settings.ec2.max_connections))
        ]
        results = GroupResult()
        try:
            for thread in threads:
                thread.start()
            while len(results) < len(self):
                try:
                    connection, outcome = outcomes.get(timeout=1)
                except queue.Empty:
                    continue
                if isinstance(outcome, OutputClosed):
                    raise outcome.error
                results[connection] = outcome
                if on_outcome:
                    on_outcome(connection, outcome)
        except BaseException:
            self.interrupted.set()
            # Commands are ended first, over connections that are closed afterwards.
            deadline = time.monotonic() + INTERRUPT_SECONDS
            for thread in threads:
                if thread.ident:
                    thread.join(max(0.0, deadline - time.monotonic()))
            for connection in self:
                connection.client.close()
            raise
        finally:
            for thread in threads:
                if thread.ident:
                    thread.join(2 * self.settings.ec2.connect_timeout)
        return results

    def _attempt(self, connection: ssh.InstanceConnection, action: Callable[[ssh.InstanceConnection], T]) -> Any:
        try:
            ssh.open_connection(connection)
            return action(connection)
        except (paramiko.SSHException, EOFError, OSError) as error:
            return ssh.ConnectError(f"connection lost: {error}") if connection.transport else error
        except Exception as error:
            return error
        finally:
            connection.close()

    def _do(self, method: str, *args: Any, **kwargs: Any) -> GroupResult:
        results = self.fanout(lambda connection: getattr(connection, method)(*args, **kwargs))
        if results.failed:
            raise GroupException(results)
        return results

    def execute(
        self,
        command: str | Script,
        *,
        stdin: Callable[[], Iterator[bytes]] | None = None,
        each: Mapping[str, bytes] | None = None,
        timeout: float = 0,
        printer: Printer | None = None,
        on_outcome: Callable[[ssh.InstanceConnection, Any], None] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> GroupResult:
        """Run a command of the login shell, or a script, on each instance; return results or exceptions.

        `stdin` returns the chunks that every instance reads (None for an empty stdin). After them an instance reads
        its text in `each`, by its id. `timeout`, in seconds, ends the command with TERM, then KILL; 0 is no limit.
        `printer` shows the output as it comes; `say` reports an instance that hangs. A non-zero exit code is a
        CommandResult, too.
        """

        def run(connection: ssh.InstanceConnection) -> CommandResult:
            def chunks() -> Iterator[bytes]:
                yield from stdin() if stdin else ()
                yield from [each[connection.instance.id]] if each else ()

            channel = ssh.open_session(connection, self.settings.stub_session)
            running = _Command(connection, channel, printer, self.interrupted, say)
            try:
                read = chunks if stdin or each else None
                return running.run(command, read, timeout, connection.connect_timeout or 15)
            finally:
                channel.close()
                running.pulse.end()
                if printer:
                    printer.finish(connection.instance)

        return self.fanout(run, on_outcome)


class _Command:
    """One command on one channel, from exec to exit code."""

    def __init__(
        self,
        connection: ssh.InstanceConnection,
        channel: paramiko.Channel,
        printer: Printer | None,
        interrupted: threading.Event,
        say: Callable[[str], None] | None,
    ) -> None:
        self.instance = connection.instance
        self.channel = channel
        self.printer = printer
        self.interrupted = interrupted
        self.words: Words | None = None
        self.complaints: Words | None = None
        self.pulse = _Pulse(connection, say)
        # The files live as long as the result.
        self.stdout: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=1 << 20)  # noqa: SIM115
        self.stderr: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=1 << 20)  # noqa: SIM115

    def run(
        self,
        command: str | Script,
        stdin: Callable[[], Iterator[bytes]] | None,
        timeout: float,
        answer_timeout: float,
    ) -> CommandResult:
        started = time.monotonic()
        line, head = command, b""
        if isinstance(command, Script) or timeout:
            launch = Launch(_limited(timeout, command), both=True)
            line, head = launch.line, launch.head
            # A person's text is run by a second login shell, which greets a second time.
            script = isinstance(command, Script)
            self.words = Words(launch.begin, launch.end, keep_noise=script)
            self.complaints = Words(launch.begin, keep_noise=script)
        ssh.execute(self.channel, str(line), answer_timeout)
        feeder = None
        if stdin or head:
            feeder = threading.Thread(target=self._feed, args=(head, stdin), daemon=True)
            feeder.start()
        else:
            self.channel.shutdown_write()
        try:
            return self._run(started, timeout, answer_timeout, feeder)
        except (CommandError, ConnectionLost) as error:
            error.result = CommandResult(self.instance, -1, time.monotonic() - started, self.stdout, self.stderr)
            raise

    def _run(
        self, started: float, timeout: float, answer_timeout: float, feeder: threading.Thread | None
    ) -> CommandResult:
        try:
            in_time = self._read(started + timeout + KILL_AFTER_SECONDS + answer_timeout if timeout else None)
        finally:
            self.channel.close()
            if feeder:
                feeder.join(answer_timeout)
        seconds = time.monotonic() - started
        if not in_time:
            raise ConnectionLost(f"no answer for {seconds:.0f} s: the host hangs")
        code = self.channel.exit_status
        if self.words:
            self._take(self.words.rest(), self.stdout, error=False)
            self._take(self.complaints.rest() if self.complaints else b"", self.stderr, error=True)
            # The login shell may change the exit code, so its own says nothing.
            code = code if self.words.code is None else self.words.code
        if timeout and seconds >= timeout and code in _TIMED_OUT:
            raise CommandError(f"still running after {timeout:g} s, ended")
        if code < 0:
            if self.channel.transport.is_active():
                raise CommandError("ended by a signal")
            raise ConnectionLost("connection lost before the command ended")
        if self.words and self.complaints and not self.words.begun:
            raise CommandError(not_run(code, self.complaints, self.words))
        if self.words and not code and self.words.code is None:
            raise CommandError("its login shell ended before the command did")
        if code == _OTHER_USER_CODE:
            self.stdout.seek(0)
            if other := other_user(self.stdout.read(_CHUNK)):
                raise CommandError(other)
        return CommandResult(self.instance, code, seconds, self.stdout, self.stderr)

    def _feed(self, head: bytes, stdin: Callable[[], Iterator[bytes]] | None) -> None:
        """Send stdin. A command that ends, or closes its stdin, before it has read all of it is no error."""
        try:
            if head:
                self.channel.sendall(head)
            for chunk in stdin() if stdin else ():
                self.channel.sendall(chunk)
            self.channel.shutdown_write()
        except (OSError, EOFError, paramiko.SSHException):
            return

    def _read(self, deadline: float | None) -> bool:
        """Take output until the command has ended; return False if the deadline (monotonic seconds) comes first."""
        poll = select.poll()
        poll.register(self.channel.fileno(), select.POLLIN)
        quiet_since = time.monotonic()
        while True:
            if self._drain():
                quiet_since = time.monotonic()
                self.pulse.heard()
                continue
            ended = self.channel.exit_status_ready()
            if self.channel.closed or (ended and self.channel.eof_received):
                # Output that came between the last read and the end.
                while self._drain():
                    pass
                return True
            now = time.monotonic()
            if ended and now - quiet_since > LINGER_SECONDS:
                return True
            if deadline is not None and now >= deadline and not ended:
                return False
            if self.interrupted.is_set():
                ssh.signal(self.channel, "TERM")
                raise CommandError("interrupted")
            if not ended:
                self.pulse.look()
            wait = _LOOK_SECONDS if deadline is None or ended else min(_LOOK_SECONDS, max(0.0, deadline - now))
            if self.channel.eof_received:
                # At the end of the output the channel's descriptor is readable for good.
                self.channel.status_event.wait(wait)
            else:
                poll.poll(wait * 1000)

    def _drain(self) -> bool:
        got = False
        if self.channel.recv_ready():
            data = self.channel.recv(_CHUNK)
            got |= bool(data)
            self._take(self.words.feed(data) if self.words else data, self.stdout, error=False)
        if self.channel.recv_stderr_ready():
            data = self.channel.recv_stderr(_CHUNK)
            got |= bool(data)
            self._take(self.complaints.feed(data) if self.complaints else data, self.stderr, error=True)
        if self.words and self.complaints and (self.words.too_much or self.complaints.too_much):
            raise CommandError("its login shell prints without end before anything runs")
        return got

    def _take(self, data: bytes, spool: IO[bytes], error: bool) -> None:
        if not data:
            return
        try:
            spool.write(data)
        except OSError as full:
            raise CommandError(f"its output can't be kept here: {reason_of(full)}") from full
        if self.printer:
            self.printer.write(self.instance, data, error)


class _Pulse:
    """A check that the host of a silent command lives: the host answers, even if its command is busy."""

    def __init__(self, connection: ssh.InstanceConnection, say: Callable[[str], None] | None) -> None:
        self._connection = connection
        self._say = say or (lambda _line: None)
        self._heard = self._asked = time.monotonic()
        self._hangs = False
        self._asking: threading.Thread | None = None

    def heard(self) -> None:
        """Note that data came from the host."""
        self._heard = time.monotonic()

    def look(self) -> None:
        """Ask the host if it is time. Raises ConnectionLost if the host has not answered for too long."""
        now = time.monotonic()
        transport = self._connection.transport
        silent = now - max(self._heard, getattr(transport, "answered", 0.0))
        if silent >= GIVE_UP_SECONDS:
            # Else a thread that waits to send to the host would wait for ever.
            transport.close()
            raise ConnectionLost(f"no answer for {silent:.0f} s: the host hangs, given up")
        if self._hangs != (silent >= HANGS_SECONDS):
            self._hangs = not self._hangs
            name = printable(str(self._connection.instance))
            hangs = f"no answer for {silent:.0f} s: it hangs; waiting for it until {GIVE_UP_SECONDS:g} s"
            self._say(f"{name}: {hangs if self._hangs else 'answers again'}")
        if now - max(self._heard, self._asked) >= HANGS_SECONDS / 3 and transport.is_active():
            self._asked = now
            # A host that hangs does not even take this once the buffers on the way are full.
            if self._asking is None or not self._asking.is_alive():
                self._asking = threading.Thread(target=self._ask, args=(transport,), daemon=True)
                self._asking.start()

    def _ask(self, transport: ssh.Transport) -> None:
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            transport.ask()

    def end(self) -> None:
        """End the question under way, and wait for its thread. The connection is closed, since it has no other use."""
        if self._asking:
            if self._asking.is_alive():
                self._connection.client.close()
            self._asking.join(self._connection.connect_timeout or 15)


def _limited(timeout: float, command: str | Script) -> str:
    """Return a line of the POSIX shell; with a limit in seconds, it runs under coreutils' `timeout`.

    `timeout` ends the command on the instance even without us: sshd passes no signal on for root, and a connection may
    be gone when the time is up. A person's text is for the login shell, with and without a limit.
    """
    line = command.command if isinstance(command, Script) else f'"${{SHELL:-sh}}" -c {shlex.quote(command)}'
    # bash reads its start-up file where it is the first one.
    first = "" if isinstance(command, Script) else "SHLVL=0 "
    return f"{first}timeout -k {KILL_AFTER_SECONDS:g} {timeout:g} {line}" if timeout else line


def describe_outcome(outcome: Any) -> str | None:
    """Return the reason that an outcome is a failure, in one line; None for a success."""
    if isinstance(outcome, CommandResult):
        return f"exit code {outcome.exit_code}" if outcome.exit_code else None
    if isinstance(outcome, BaseException):
        return printable(str(outcome)) or type(outcome).__name__
    return None


def report(outcomes: GroupResult, say: Callable[[str], None]) -> None:
    """Print the number of successes, then each failure with its reason.

    Raises GroupFailed if any failed. If an instance refused bad input, raises its UsageError.
    """
    failures = [(c.instance, why) for c, outcome in outcomes.items() if (why := describe_outcome(outcome))]
    say(f"{len(outcomes) - len(failures)} of {len(outcomes)} instances succeeded")
    for instance, why in sorted(failures, key=lambda failure: str(failure[0])):
        say(f"failed: {printable(str(instance))}: {why}")
    for outcome in outcomes.values():
        if isinstance(outcome, UsageError):
            raise outcome
    if failures:
        raise GroupFailed(f"failed on {len(failures)} of {len(outcomes)} instances", outcomes)
