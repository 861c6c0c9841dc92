"""A Python that has imported what our program imports, and forks for each run: a process of its own without the start.

`tests/forked.py` is the other side, and says what a fork is given. The fork runs the program as the interpreter would,
and is ended by the interpreter, but for the freeing of memory.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import fcntl
import gc
import importlib
import io
import json
import os
import re
import resource
import runpy
import selectors
import signal
import socket
import sys
import tempfile
import termios
import time
from pathlib import Path
from typing import Any

DESCRIPTORS = 5
"""The request, the three standard streams, and the socket for the answer."""
MODULES = ("boto3", "botocore.handlers", "botocore.signers", "fabric", "rich.console", "yaml", "hardway.cli.program")
OF_A_LOCAL_CLOUD = {
    "AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED", "AWS_DEFAULT_REGION",
    "AWS_REGION",
}  # fmt: skip
LEADS_CLIENTS = re.compile(r"AWS_|BOTO|REQUESTS_|SSL_|s3_stubbed_|.*_proxy$", re.IGNORECASE)
"""The variables that a client of AWS depends on."""
OF_ALL = {(name, value) for name, value in os.environ.items() if LEADS_CLIENTS.match(name)}
LIMITS = [getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")]
runs: dict[frozenset[tuple[str, str]], int] = {}
"""The number of runs, by the variables that lead to a cloud."""
exit_code: int | None = None
"""The fork's, unless the interpreter is to find it."""


def preload() -> None:
    """Import the tasks, and what they import."""
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    for name in MODULES:
        importlib.import_module(name)
    for name in importlib.import_module("tasks.lazy")._MODULES.values():
        importlib.import_module(name)


def warm(environment: dict[str, str]) -> None:
    """Make the clients of AWS that most tasks begin with; for a local cloud, when a second run is pointed at it."""
    cloud = frozenset((name, value) for name, value in environment.items() if LEADS_CLIENTS.match(name))
    runs[cloud] = runs.get(cloud, 0) + 1
    if runs[cloud] != 2 or not is_plain(environment):
        return
    os.environ.clear()
    os.environ.update(environment)
    from invoke.context import Context

    from hardway import aws, config

    with contextlib.suppress(Exception):  # the run itself has the error
        settings = config.settings(Context())
        for make in (aws.ec2, aws.ec2_once, aws.ssm):
            make(settings)
    gc.freeze()


def is_plain(environment: dict[str, str]) -> bool:
    """Whether no more than a local cloud's variables decides how clients of AWS are, besides what all runs have."""
    own = {(name, value) for name, value in environment.items() if LEADS_CLIENTS.match(name)}
    differs = {name for name, _ in own ^ OF_ALL}
    return differs == OF_A_LOCAL_CLOUD and not os.path.exists(os.path.join(environment.get("HOME", "/"), ".aws"))


def forget() -> None:
    """Let the run make, and import, what the environment that it has now would change."""
    from hardway import aws, config, errors

    if not is_plain(dict(os.environ)):
        aws._clients.clear()
        aws._sessions.clear()
    try:
        config.defaults(*config.SECTIONS)
    except errors.HardwayError:  # the import of the tasks is to raise it
        for name in [name for name in sys.modules if name.partition(".")[0] == "tasks"]:
            del sys.modules[name]


def serve(channel: socket.socket) -> None:
    """Return in each fork. End when nobody is left to ask."""
    waiting = selectors.DefaultSelector()
    waiting.register(channel, selectors.EVENT_READ)
    running: dict[int, tuple[int, socket.socket]] = {}
    while True:
        for key, _ in waiting.select():
            if key.fd in running:
                pid, answer = running.pop(key.fd)
                waiting.unregister(key.fd)
                os.close(key.fd)
                _tell(answer, os.waitpid(pid, 0)[1])
                answer.close()
                continue
            asked = _received(channel)
            if not asked:
                os._exit(0)
            request = _read(asked[0])
            warm(request["env"])
            pid = os.fork()
            if pid == 0:
                waiting.close()
                for each in (channel, *(answer for _, answer in running.values())):
                    each.detach()
                _become(request, *asked)
                return
            answer = socket.socket(fileno=asked[-1])
            for descriptor in asked[:-1]:
                os.close(descriptor)
            _tell(answer, pid)
            ended = os.pidfd_open(pid)
            running[ended] = (pid, answer)
            waiting.register(ended, selectors.EVENT_READ)


def _received(channel: socket.socket) -> list[int]:
    found = array.array("i")
    _, ancillary, _, _ = channel.recvmsg(1, socket.CMSG_SPACE(found.itemsize * DESCRIPTORS))
    for _, _, part in ancillary:
        found.frombytes(part)
    return found.tolist()


def _tell(answer: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):
        answer.send(b"%d" % number)


def _read(request: int) -> dict[str, Any]:
    with open(request, closefd=False) as file:
        return dict(json.load(file))


def _become(asked: dict[str, Any], request: int, stdin: int, stdout: int, stderr: int, _answer: int) -> None:
    """Be as the process that was asked for is at its start."""
    for number, descriptor in enumerate((stdin, stdout, stderr)):
        os.dup2(descriptor, number)
    os.closerange(3, max(request, stdin, stdout, stderr, _answer) + 3)
    for limit, values in zip(LIMITS, asked["limits"], strict=True):
        if resource.getrlimit(limit) != tuple(values):
            resource.setrlimit(limit, values)
    if asked["session"]:
        os.setsid()
        if os.isatty(0):
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for each in asked["ignored"]:
        signal.signal(each, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    os.umask(asked["umask"])
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    time.tzset()
    tempfile.tempdir = None
    forget()
    sys.argv[:] = asked["argv"]
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        setattr(sys, name, _stream(number))
        setattr(sys, f"__{name}__", getattr(sys, name))


def _stream(number: int) -> Any:
    """A standard stream as the interpreter makes it."""
    raw = io.FileIO(number, "r" if number == 0 else "w", closefd=False)
    if number == 0:
        return io.TextIOWrapper(io.BufferedReader(raw), "utf-8", "strict")
    errors = "backslashreplace" if number == 2 else "strict"
    return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", errors, "\n", line_buffering=number == 2 or raw.isatty())


def _end() -> None:
    """End without freeing each object, which would take as long as the run; the last that a fork does at its exit."""
    if exit_code is None:
        return
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            return  # the interpreter has a message and an exit code for this
    os._exit(exit_code)


def _run(program: str) -> None:
    global exit_code
    sys.path[0] = program
    try:
        runpy.run_path(program, run_name="__main__")
        exit_code = 0
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            exit_code = (ended.code or 0) & 0xFF
        raise


if __name__ == "__main__":
    atexit.register(_end)
    preload()
    gc.collect()
    # Ctrl-C is for the tests, which need forks to clean up. A fork is sent it when it is ready.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    gc.freeze()  # else a collection in a fork would copy all these pages
    serve(socket.socket(fileno=int(sys.argv[1])))
    _run(sys.argv[0])
