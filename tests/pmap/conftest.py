"""A small cluster of the local cloud that the tests of pmap share, and an agent over pipes, without SSH."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from uuid import uuid4

import pytest

from hardway.pmap import agent
from hardway.pmap.link import BOOT, Frame, program
from tests.conftest import LocalCloud, Result, run_inv
from tests.patience import eventually, patience


@dataclass(frozen=True)
class Cluster:
    """Running instances, and the environment in which `inv` reaches them."""

    ids: list[str]
    env: Mapping[str, str]
    cloud: LocalCloud

    @property
    def selector(self) -> str:
        return " ".join(self.ids)

    @property
    def homes(self) -> list[Path]:
        """The home directories of the login users, as this machine sees them."""
        return [self.cloud.directory / "instances" / one / "home" / "ubuntu" for one in self.ids]

    def lines(self, name: str) -> list[str]:
        """The lines of a file in all homes where there is one."""
        files = [home / name for home in self.homes if (home / name).exists()]
        return [line for file in files for line in file.read_text().splitlines()]

    def touch(self, name: str) -> None:
        """Create a file in all homes."""
        for home in self.homes:
            (home / name).touch()

    def remove(self, *names: str) -> None:
        """Remove these files from all homes."""
        for home in self.homes:
            for name in names:
                (home / name).unlink(missing_ok=True)

    @property
    def jobs(self) -> Path:
        return Path(self.env["XDG_STATE_HOME"]) / "hardway" / "jobs"


class Pmap(Protocol):
    """`pmap("a\\nb", "cat", "--slots", "2")` as a process; on all of the cluster unless told."""

    def __call__(self, args: str, command: str, *flags: str, on: str = "", stdin: str = "") -> Result: ...


def launch(cloud: LocalCloud, home: Path, num: int, name: str) -> Cluster:
    """Start instances as a person does, from a home of their own."""
    (home / "tmp").mkdir(parents=True)
    env = {**cloud.env, "HOME": str(home), "XDG_STATE_HOME": str(home / "state"), "TMPDIR": str(home / "tmp")}
    done = run_inv("ec2.new", "--num", str(num), "--name", name, env=env)
    assert done.code == 0, done.stderr
    return Cluster(done.stdout.split(), env, cloud)


def terminate(cluster: Cluster) -> None:
    assert run_inv("ec2.rm", cluster.selector, "--yes", env=cluster.env).code == 0


@pytest.fixture(scope="session")
def cluster(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three instances for all tests that don't harm them."""
    made = launch(cloud, tmp_path_factory.mktemp("pmap") / "home", 3, "pmap")
    yield made
    terminate(made)


@pytest.fixture
def new_cluster(cloud: LocalCloud, tmp_path: Path) -> Iterator[Callable[[int], Cluster]]:
    """Instances of the test's own: `new_cluster(2)`."""
    made: list[Cluster] = []

    def start(num: int) -> Cluster:
        made.append(launch(cloud, tmp_path / f"home{len(made)}", num, f"own{len(made)}"))
        return made[-1]

    yield start
    if not made:
        return
    # Also those that the test has started beside them, whatever state the others are in.
    client, alive = cloud.client("ec2"), ["pending", "running", "stopping", "stopped"]
    named = [{"Name": "tag:Name", "Values": ["own*"]}, {"Name": "instance-state-name", "Values": alive}]
    pages = client.get_paginator("describe_instances").paginate(Filters=named)
    ids = [each["InstanceId"] for page in pages for group in page["Reservations"] for each in group["Instances"]]
    if ids:
        client.terminate_instances(InstanceIds=ids)


@pytest.fixture
def pmap(cluster: Cluster) -> Pmap:
    def run(args: str, command: str, *flags: str, on: str = "", stdin: str = "") -> Result:
        return run_inv("mapreduce.pmap", on or cluster.selector, args, command, *flags, env=cluster.env, stdin=stdin)

    return run


class PipedAgent:
    """An agent started as over SSH, but with pipes; `python` is the instance's."""

    def __init__(
        self,
        home: Path,
        command: str,
        python: str = sys.executable,
        job: str = "job",
        login: Callable[[str], str] = str,
        **settings: object,
    ) -> None:
        """`login` makes what the login shell runs from what it is told to; `settings` are the job's."""
        self.home = home
        self.login = login
        self.job = job
        self.python = python
        self.settings = {"slots": 1, "timeout": 0, "linger": 20, "memory": 0, "worker": 0, "workdir": "home"}
        self.settings |= {"files": "", "HARDWAY_INSTANCE_ID": "i-1", **settings}
        self.command = command
        self.connect()

    def connect(self) -> None:
        """Open a (further) connection."""
        environment = {"AWS_EC2_METADATA_DISABLED": "true", **os.environ, "HOME": str(self.home)}
        shell = BOOT.replace("exec python3", f"exec {shlex.quote(self.python)}")
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", self.login(shell)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            bufsize=0,
        )
        self.write(program(f"main({self.job!r})".encode()))
        self.frames = agent.Frames()
        self.got: list[Frame] = []
        self.mark = bytearray()
        while agent.MARK not in self.mark:
            data = self.read()
            assert data, "the agent ended before it said a word"
            self.mark += data
        self.take(bytes(self.mark.partition(agent.MARK)[2]))
        pairs = [f"{key}={value}".encode() for key, value in self.settings.items()]
        self.send(agent.JOB, payload=b"\0".join([*pairs, b"command=" + self.command.encode()]))

    def write(self, data: bytes) -> None:
        assert self.process.stdin
        view = memoryview(data)
        while view:
            view = view[self.process.stdin.write(view) or 0 :]

    def read(self) -> bytes:
        assert self.process.stdout
        return self.process.stdout.read(1 << 18)

    def take(self, data: bytes) -> None:
        self.got += [Frame(*raw) for raw in self.frames.feed(data)]

    def send(self, kind: int, task: int = 0, attempt: int = 0, payload: bytes = b"") -> None:
        self.write(agent.frame(kind, task, attempt, payload))

    def expect(self, *kinds: int) -> Frame:
        """The next frame of one of these kinds; earlier ones are dropped. EOFError at the end."""
        while True:
            while self.got:
                frame = self.got.pop(0)
                if frame.kind in kinds:
                    return frame
            data = self.read()
            if not data:
                raise EOFError
            self.take(data)

    def run(self, stdin: bytes = b"", task: int = 1, attempt: int = 1) -> tuple[int, int, bytes, bytes]:
        """Run one attempt; returns exit code, flags, stdout, stderr."""
        self.send(agent.RUN, task, attempt, stdin)
        return self.result()

    def result(self) -> tuple[int, int, bytes, bytes]:
        outputs = [b"", b""]
        while True:
            frame = self.expect(agent.DONE, agent.CHUNK)
            if frame.kind == agent.CHUNK:
                outputs[frame.payload[0]] += frame.payload[1:]
                continue
            code, flags, _, out, err, *checksums = agent.RESULT.unpack_from(frame.payload)
            sizes = [out, err]
            inline = frame.payload[agent.RESULT.size :]
            if inline:
                outputs = [inline[: sizes[0]], inline[sizes[0] :]]
            assert [len(output) for output in outputs] == sizes
            assert [zlib.crc32(output) for output in outputs] == checksums
            self.send(agent.ACK, frame.task, frame.attempt)
            return code, flags, outputs[0], outputs[1]

    def hang_up(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            assert stream
            stream.close()
        self.process.wait(patience())

    def stop(self) -> None:
        """End the agent; it has cleaned up after that."""
        self.send(agent.STOP)
        self.expect(agent.BYE)
        self.hang_up()


@pytest.fixture
def start_agent(home: Path) -> Iterator[Callable[..., PipedAgent]]:
    """Starts an agent for a command; it is ended, and must leave nothing behind."""
    started: list[PipedAgent] = []

    def start(command: str, **settings: object) -> PipedAgent:
        # An agent ends what an earlier agent of its job left: tests beside this one must have other jobs.
        started.append(PipedAgent(home, command, job=f"job-{uuid4().hex}", **settings))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for one in started:
        if one.process.stdin and not one.process.stdin.closed:
            one.stop()
    eventually(lambda: not (home / ".hardway").exists())
