"""An instance that can't run the agent: Debian's sshd, whose login shells lack this or that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import pytest

from hardway.config import Settings
from hardway.pmap import agent
from hardway.pmap.events import Event
from hardway.pmap.link import Link, Unusable, cut, now
from tests.openssh.conftest import instance, start_sshd
from tests.patience import patience

__all__ = ["start_sshd"]


HELD = b"".join(
    agent.HOLDING.pack(task, 1, state, 0, 9.0, 1.0) for task, state in ((1, agent.ENDED), (2, agent.RUNNING))
)


def greeting(version: int, held: bytes = b"") -> str:
    """The format from which printf makes the greeting of an agent of that version."""
    about = b"%d abc 2 %d\n" % (version, len(held) // agent.HOLDING.size)
    return "".join(f"\\{byte:03o}" for byte in agent.MARK + agent.frame(agent.HELLO, 0, 0, about + held))


def first_words(port: int) -> None:
    """Connect and read until the agent has spoken, or can't."""
    events: SimpleQueue[Event] = SimpleQueue()
    settings = Settings()
    link = Link(instance(0, port), events)
    link.connect(replace(settings, ec2=replace(settings.ec2, connect_timeout=10)), {}, "job")
    try:
        link.opened(now())
        while not link.up:
            events.get(timeout=patience(20))
            link.receive(now())
    finally:
        connection = link.detach()
        assert connection
        cut(connection)
        connection.close()


def put_python(tmp_path: Path, program: str) -> None:
    """Have the first sshd's logins find this for python3, and nothing else."""
    programs = tmp_path / "bin"
    programs.mkdir()
    if program:
        python = programs / "python3"
        python.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{program}\n")
        python.chmod(0o755)
    keys = tmp_path / "sshd0" / "authorized_keys"
    shell = f'PATH={programs}; export PATH; eval \\"$SSH_ORIGINAL_COMMAND\\"'
    keys.write_text(f'command="{shell}" {keys.read_text()}')


def test_the_agent_of_the_version_before_is_spoken_with(start_sshd: Callable[[int], int], tmp_path: Path) -> None:
    port = start_sshd(0)
    put_python(tmp_path, f"printf '{greeting(agent.VERSION - 1)}'; sleep 20")
    first_words(port)


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("", "it has no python3: install it there"),
        ("echo cannot allocate memory >&2; exit 1", "the agent did not start: cannot allocate memory"),
        ("yes", "its login shell prints without end"),
        (
            f"printf '{greeting(1, HELD)}'",
            r"another version of hardway started the agent.* version 1, ours of 4\)\. It has the results of 1 task, "
            "and 1 more to run. To have",
        ),
    ],
)
def test_why_no_agent_starts_is_said(start_sshd: Callable[[int], int], tmp_path: Path, program: str, said: str) -> None:
    port = start_sshd(0)
    put_python(tmp_path, program)
    with pytest.raises(Unusable, match=said):
        first_words(port)
