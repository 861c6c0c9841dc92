"""A program whose stdin and stdout carry an SSH connection (OpenSSH calls it a ProxyCommand), as a socket.

The program's stdin and stdout are one end of a socket pair. Paramiko gets the other end: a real socket, with time
limits and an end of file. (Paramiko's own ProxyCommand leaves the program unreaped, and reads through pipes with
`select`, which takes no descriptor above 1023.)
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from hardway.config import Settings, search_path
from hardway.errors import UsageError
from hardway.terminal import last_line

END_SECONDS = 1.0
_PLUGIN = "session-manager-plugin"
_GET_PLUGIN = (
    "https://docs.aws.amazon.com/systems-manager/latest/userguide/session-manager-working-with-install-plugin.html"
)


class Proxy:
    """A running program. It leads a process group of its own, so that a Ctrl-C meant for us does not end it first."""

    def __init__(self, command: Sequence[str]) -> None:
        """Start the program. Raises OSError."""
        self.socket, theirs = socket.socketpair()
        self._lock = threading.Lock()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (closed with the program)
        try:
            self._process = subprocess.Popen(
                command, stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=self._stderr, start_new_session=True
            )
        except BaseException:
            self.socket.close()
            self._stderr.close()
            raise
        finally:
            theirs.close()

    def end(self) -> str:
        """End the program and all that it has started, and wait; return its last complaint, on the first call only."""
        with self._lock:
            if self._stderr.closed:
                return ""
            # At the end of its stdin a well-behaved program ends itself and its connections elsewhere.
            self.socket.close()
            if not self._ended_within(END_SECONDS):
                self._signal(signal.SIGTERM)
                self._ended_within(END_SECONDS)
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._stderr.seek(0)
            said = last_line(self._stderr.read())
            self._stderr.close()
            return said

    def _ended_within(self, seconds: float) -> bool:
        """Wait for the program's end, but don't reap it: until then no other process group can get its number."""
        deadline = time.monotonic() + seconds
        while not os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        return True

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def ssm_command(settings: Settings, instance_id: str, region: str, port: int) -> list[str]:
    """Return the AWS CLI's command that carries an SSH connection to an instance through Systems Manager.

    Source:
    https://docs.aws.amazon.com/systems-manager/latest/userguide/session-manager-getting-started-enable-ssh-connections.html
    """
    command = [aws_program() or "aws", "ssm", "start-session", "--target", instance_id]
    command += ["--document-name", "AWS-StartSSHSession", "--parameters", f"portNumber={port}", "--region", region]
    return [*command, "--profile", settings.aws.profile] if settings.aws.profile else command


def check(settings: Settings) -> None:
    """Raise UsageError if a program for the way to connect (`ec2.via`) is missing here."""
    via, source = settings.ec2.via, settings.source("ec2.via")
    if via and not aws_program():
        raise UsageError(f"{source} {via} needs the AWS CLI: pip install awscli, or your package manager's")
    if via and not shutil.which(_PLUGIN):
        raise UsageError(f"{source} {via} needs the session-manager-plugin of the AWS CLI: {_GET_PLUGIN}")


def aws_program() -> str | None:
    """Return the path of the real AWS CLI: in a stubbed shell, the stub of `aws s3` stands first in PATH."""
    directories = [each for each in search_path() if not Path(each, "stub_s3.sh").exists()]
    return shutil.which("aws", path=os.pathsep.join(directories))


def quoted(command: Sequence[str]) -> str:
    """Return the command as OpenSSH's ProxyCommand takes it: a line for the shell, in which % starts a token."""
    return shlex.join(command).replace("%", "%%")
