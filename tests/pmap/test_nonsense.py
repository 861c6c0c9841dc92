"""The driver's end of the protocol: an agent that talks nonsense costs its instance, and neither job nor result."""

from __future__ import annotations

import io
import math
import random
import signal
import struct
import sys
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from hardway.config import Ec2, Mapreduce, Settings
from hardway.ec2.instances import Instance
from hardway.pmap import agent
from hardway.pmap.driver import Driver
from hardway.pmap.job import Job, keys_of
from hardway.pmap.progress import Progress
from tests.conftest import LocalCloud
from tests.openssh.conftest import instance, start_sshd
from tests.patience import patience

__all__ = ["start_sshd"]

HELLO = agent.MARK + agent.frame(agent.HELLO, 0, 0, b"%d abc 2 0\n" % agent.VERSION)
KINDS = [agent.DONE, agent.STARTED, agent.CHUNK, agent.RETURNED, agent.ERROR, agent.NOTICE, agent.PONG, agent.HELLO, 99]
ABC = zlib.crc32(b"abc")
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
                agent.RESULT.pack(rng.choice([0, -9]), rng.randrange(9), rng.choice(NUMBERS), 3, 0, ABC, 0) + b"abc",
                agent.RESULT.pack(0, 0, 1.0, 1 << 40, 5, 0, 0) + b"short",
            ]
        )
        kind = rng.choice(KINDS)
        # With the right attempt, what it says of an end would be an answer, if a wrong one.
        attempt = rng.choice([0, 60_000] if kind == agent.DONE else [0, 1, 60_000])
        said += agent.frame(kind, rng.choice([0, 1, 7]), attempt, payload)
    return said + rng.choice([b"", rng.randbytes(40)])


def login(sshd: Path, prepare: str) -> None:
    """Have logins to this sshd start with these commands."""
    keys = sshd / "authorized_keys"
    keys.write_text(f'command="{prepare}; eval \\"$SSH_ORIGINAL_COMMAND\\"" {keys.read_text()}')


@pytest.fixture
def pair(start_sshd: Callable[[int], int], tmp_path: Path) -> list[Instance]:
    """Two hosts; in place of python3, the first has what says the content of `said`. The other's tasks wait."""
    found = [instance(0, start_sshd(0)), instance(1, start_sshd(0))]
    programs, home = tmp_path / "bin", tmp_path / "remote"
    programs.mkdir()
    home.mkdir()
    python = programs / "python3"
    python.write_text(
        f"#!/bin/sh\nexec '{sys.executable}' -c '\nimport shutil, sys, time\ntry:\n"
        f'    shutil.copyfileobj(open("{tmp_path}/said", "rb"), sys.stdout.buffer)\n    sys.stdout.flush()\n'
        f'    time.sleep(0.3)\nfinally:\n    open("{home}/spoken", "w")\'\n'
    )
    python.chmod(0o755)
    login(tmp_path / "sshd0", f"PATH={programs}; export PATH")
    login(tmp_path / "sshd1", f"HOME={home}; export HOME; cd")
    return found


def run(
    name: str,
    pair: list[Instance],
    command: str = "cat",
    prepare: Callable[[Job], None] = lambda job: None,
    backup: bool = True,
    **options: float,
) -> str:
    """A job on the two, which must end by itself, with exactly the results that the second gives; what was said."""
    stream = io.StringIO()
    mapreduce = Mapreduce(**{"reconnect": 0.5, **options})  # type: ignore[arg-type]
    settings = Settings(ec2=Ec2(connect_timeout=round(patience(5))), mapreduce=mapreduce)
    items = [b"%d\n" % number for number in range(20)]
    impatience = threading.Timer(patience(30), signal.raise_signal, [signal.SIGINT])
    impatience.start()
    try:
        with Job.create(f"until [ -e spoken ]; do sleep .02; done; {command}", name=name) as job:
            numbers = job.number(keys_of(items))
            prepare(job)
            shown = Progress(stream=stream)
            Driver(job, job.asked.command, items, numbers, pair, settings, shown, backup=backup).run()
            results = job.history.results
            assert [b"".join(job.pieces(number, results[number])) for number in numbers] == items
    finally:
        impatience.cancel()
        impatience.join()
        print(stream.getvalue())
    return stream.getvalue()


@pytest.fixture(autouse=True)
def ec2(cloud: LocalCloud, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An EC2 to ask, which knows neither of the two."""
    for name, value in cloud.env.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("kind", [agent.NOTICE, agent.PONG], ids=["notice", "pong"])
@pytest.mark.parametrize("payload", [bytes(7), bytes(70_000)], ids=["short", "long"])
def test_a_number_of_another_length(pair: list[Instance], tmp_path: Path, kind: int, payload: bytes) -> None:
    (tmp_path / "said").write_bytes(HELLO + agent.frame(kind, payload=payload))
    assert "what arrives is not from our agent" in run("length", pair)


@pytest.mark.parametrize("number", NUMBERS)
def test_an_interruption_at_any_time(pair: list[Instance], tmp_path: Path, number: float) -> None:
    (tmp_path / "said").write_bytes(HELLO + agent.frame(agent.NOTICE, payload=struct.pack("!d", number)))
    said = "spot interruption in " if math.isfinite(number) else "not from our agent (a notice of an interruption at no"
    assert said in run("notice", pair)


@pytest.mark.parametrize("number", [1e308, float("inf"), float("-inf"), float("nan")])
def test_a_round_trip_of_no_length(pair: list[Instance], tmp_path: Path, number: float) -> None:
    (tmp_path / "said").write_bytes(HELLO + agent.frame(agent.PONG, payload=struct.pack("!d", number)))
    assert "what arrives is not from our agent (a round trip of" in run("pong", pair)


def test_an_agent_that_talks_nonsense(pair: list[Instance], tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for number in range(6):
        (tmp_path / "said").write_bytes(HELLO + nonsense(rng))
        run(f"nonsense{number}", pair)
