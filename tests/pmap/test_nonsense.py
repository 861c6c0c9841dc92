"""The driver's end of the protocol: an agent that talks nonsense costs its instance, and never a traceback."""

from __future__ import annotations

import random
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hardway.config import Settings
from hardway.errors import HardwayError
from hardway.pmap import agent
from hardway.pmap.driver import Driver, Options
from hardway.pmap.journal import Job, keys_of
from hardway.pmap.progress import Progress
from tests.conftest import LocalCloud
from tests.openssh.conftest import instance, start_sshd

__all__ = ["start_sshd"]

HELLO = agent.MARK + agent.frame(agent.HELLO, 0, 0, b"%d abc 2 0\n" % agent.VERSION)
KINDS = [agent.DONE, agent.STARTED, agent.CHUNK, agent.RETURNED, agent.ERROR, agent.NOTICE, agent.PONG, agent.HELLO, 99]
NUMBERS = (0.0, -1.0, 5.0, 1e308, float("inf"), float("-inf"), float("nan"))


def nonsense(rng: random.Random) -> bytes:
    """Frames of all kinds, about tasks that exist and that don't, with payloads that fit and that don't."""
    said = b""
    for _ in range(rng.randrange(1, 30)):
        payload = rng.choice(
            [
                b"",
                rng.randbytes(rng.randrange(1, 9)),
                rng.randbytes(rng.randrange(100)),
                struct.pack("!d", rng.choice(NUMBERS)),
                b"\x00text",
                agent.RESULT.pack(rng.choice([0, 1, -9]), rng.randrange(9), rng.choice(NUMBERS), 0, 3, 0) + b"abc",
                agent.RESULT.pack(0, 0, 1.0, 0, 1 << 40, 5) + b"short",
            ]
        )
        said += agent.frame(rng.choice(KINDS), rng.choice([0, 1, 7]), rng.choice([0, 1, 60_000]), payload)
    return said + rng.choice([b"", rng.randbytes(40)])


def test_an_agent_that_talks_nonsense(
    start_sshd: Callable[[int], int],
    cloud: LocalCloud,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What runs in place of python3 says it; EC2, when asked, doesn't know the instance, which ends the job."""
    for name, value in cloud.env.items():
        monkeypatch.setenv(name, value)
    port = start_sshd(0)
    said, programs = tmp_path / "said", tmp_path / "bin"
    programs.mkdir()
    python = programs / "python3"
    python.write_text(
        f"#!/bin/sh\nexec '{sys.executable}' -c '\nimport shutil, sys, time\n"
        f'shutil.copyfileobj(open("{said}", "rb"), sys.stdout.buffer)\nsys.stdout.flush()\ntime.sleep(0.3)\'\n'
    )
    python.chmod(0o755)
    keys = tmp_path / "sshd0" / "authorized_keys"
    shell = f"PATH={programs}; export PATH; eval \\\"$SSH_ORIGINAL_COMMAND\\\""
    keys.write_text(f'command="{shell}" {keys.read_text()}')
    settings = replace(Settings(), ec2=replace(Settings().ec2, connect_timeout=5))
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    items = [b"a\n", b"b\n"]
    for number in range(8):
        said.write_bytes(HELLO + nonsense(rng))
        with Job.create("cat", name=f"nonsense{number}", selector="x", region="us-east-1", source="x") as job:
            numbers = job.number(keys_of(items))
            options = Options(reconnect=0.5)
            driver = Driver(job, items, numbers, [instance(0, port)], settings, options, Progress(False))
            try:
                driver.run()
            except HardwayError as error:
                assert "no instance" in str(error)  # or, by chance, both tasks are answered
