"""Runs of our program in forks of a process that has imported it: real processes, for a quarter of the CPU time.

A fork has its own pid, streams, directory and environment, and inherits from the test what a process inherits: the
ignored signals, the umask and the limits. With a session of its own, a terminal on its stdin is the session's. Only the
interpreter's start is missing, and the making of a local cloud's clients. A test about these starts `INV`.
"""

from __future__ import annotations

import array
import functools
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests import fork_server
from tests.patience import patience

READ_AT_THE_START = re.compile(r"PYTHON|LC_|LANG|LD_|OPENSSL_|SSL_CERT|MALLOC_")
"""The variables that an interpreter reads at its start, and never again."""
IGNORABLE = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)


_session: dict[str, str] = {}


def prepare() -> None:
    """Take the environment for the process that forks: a test may change its own before the process is needed."""
    _session.update(os.environ)


class Server:
    """The process that forks."""

    def __init__(self) -> None:
        self.environment = read_at_the_start(_session)
        self._asking = threading.Lock()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, fork_server.__file__, str(theirs.fileno())],
                env=_session,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def ask(self, request: Mapping[str, Any], streams: list[int]) -> tuple[int, socket.socket]:
        """Return the pid of a new fork, and the socket on which its status comes."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, os.fdopen(os.memfd_create("request"), "w+") as file:
            json.dump(request, file)
            file.flush()
            file.seek(0)
            sent = array.array("i", [file.fileno(), *streams, theirs.fileno()])
            with self._asking:
                self._channel.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, sent)])
        answer = ours.recv(20)
        assert answer, "the process that forks has ended"
        return int(answer), ours

    def stop(self) -> None:
        self._channel.close()
        self._process.wait(patience(60))


@functools.cache
def server() -> Server:
    """The one of this process; started when it is first asked."""
    return Server()


def stop() -> None:
    """End it, if there is one."""
    if server.cache_info().currsize:
        server().stop()
        server.cache_clear()


def read_at_the_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if READ_AT_THE_START.match(name)}


class Forked(subprocess.Popen[Any]):
    """A `subprocess.Popen` of a fork: the first word is a program of Python's, and the rest its arguments."""

    def _execute_child(self, args: Any, *given: Any) -> None:
        _executable, _preexec, _close, _pass, cwd, env, *_ = given
        ends = given[9:15]  # of its three pipes: for reading and for writing
        request = {
            "argv": list(args),
            "cwd": str(cwd or os.getcwd()),
            "env": dict(os.environ if env is None else env),
            "session": bool(given[20]),
            "umask": int(re.findall(r"(?m)^Umask:\s*(\d+)$", Path("/proc/self/status").read_text())[0], 8),
            "limits": [resource.getrlimit(limit) for limit in fork_server.LIMITS],
            "ignored": [each for each in IGNORABLE if signal.getsignal(each) is signal.SIG_IGN],
        }
        streams = [end if end != -1 else number for number, end in enumerate((ends[0], ends[3], ends[5]))]
        self.pid, self._answer = server().ask(request, streams)
        self._child_created = True
        getattr(self, "_close_pipe_fds")(*ends)  # noqa: B009

    def _try_wait(self, flags: int) -> tuple[int, int]:
        self._answer.setblocking(not flags & os.WNOHANG)
        try:
            status = self._answer.recv(20)
        except BlockingIOError:
            return 0, 0
        self._answer.close()
        assert status, "the process that forks has ended"
        return self.pid, int(status)

    def _internal_poll(self, _deadstate: int | None = None) -> int | None:
        if self.returncode is None:
            pid, status = self._try_wait(os.WNOHANG)
            if pid:
                getattr(self, "_handle_exitstatus")(status)  # noqa: B009
        return self.returncode


def start(*command: str, env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[Any]:
    """Start a program of Python's, the first word, with the options of Popen: in a fork, if it would be the same."""
    environment = os.environ if env is None else env
    if read_at_the_start(environment) == server().environment:
        return Forked(command, env=environment, **options)
    return subprocess.Popen([sys.executable, *command], env=environment, **options)
