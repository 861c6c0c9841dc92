"""A cluster for tests of the verbs: started by `ec2.new`, thrown away by `ec2.rm`, as a person does it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tests.conftest import Inv, LocalCloud, Result, run_local_cloud, start_inv
from tests.ec2.faulty import FaultyEC2
from tests.ec2.launching import Launcher, launcher_of, proxied


@dataclass
class Shell:
    """A shell pointed at the local cloud: `shell("ec2.ls", "--json")`."""

    inv: Inv
    cloud: LocalCloud
    env: Mapping[str, str]

    def __call__(self, *arguments: str, env: Mapping[str, str] | None = None, **options: Any) -> Result:
        return self.inv(*arguments, env={**self.env, **(env or {})}, **options)

    def succeed(self, *arguments: str, **options: Any) -> Result:
        """Run a task that must succeed."""
        result = self(*arguments, **options)
        assert result.code == 0, result.stderr
        return result

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A task under way; killed if the block leaves it running."""
        with start_inv(*arguments, env=self.env) as process:
            try:
                yield process
            finally:
                process.kill()

    def states(self, selector: str) -> dict[str, str]:
        """Instance id to state, of all that match, terminated ones included."""
        found: dict[str, str] = {}
        filters = [{"Name": "tag:Name", "Values": [selector]}]
        for reservation in self.cloud.client("ec2").describe_instances(Filters=filters)["Reservations"]:
            for instance in reservation["Instances"]:
                found[instance["InstanceId"]] = instance["State"]["Name"]
        return found

    def end(self, name: str) -> None:
        """Terminate what a test has left running under a name."""
        alive = [i for i, state in self.states(name).items() if state not in ("terminated", "shutting-down")]
        if alive:
            self.cloud.client("ec2").terminate_instances(InstanceIds=alive)


@pytest.fixture
def shell(
    inv: Inv, cloud: LocalCloud, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Shell:
    """A person's shell after `eval "$(inv local.up)"`, with one key pair for all tests."""
    data = tmp_path_factory.getbasetemp() / "hardway-data"
    environment = {**cloud.env, "XDG_DATA_HOME": str(data)}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Shell(inv, cloud, environment)


@pytest.fixture
def name(shell: Shell, request: pytest.FixtureRequest) -> Iterator[str]:
    """A Name tag of the test's own; whatever carries it at the end is terminated."""
    own = f"{request.node.originalname}-{os.urandom(4).hex()}"
    yield own
    shell.end(own)


@pytest.fixture
def start(shell: Shell, name: str) -> Callable[..., list[str]]:
    """Start instances under the test's name: `start("--num", "3")`; returns their ids."""

    def start(*arguments: str) -> list[str]:
        return shell.succeed("ec2.new", "--name", name, *arguments).stdout.split()

    return start


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A local cloud whose instances stay pending."""
    with run_local_cloud(tmp_path_factory.mktemp("quiet") / "state", boot_delay=3600.0) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(quiet: LocalCloud) -> Iterator[FaultyEC2]:
    """In front of `quiet`; one for all, as a client belongs to its endpoint."""
    yield from proxied(quiet)


@pytest.fixture(scope="module")
def real_proxy(cloud: LocalCloud) -> Iterator[FaultyEC2]:
    """In front of `cloud`, whose instances boot."""
    yield from proxied(cloud)


@pytest.fixture
def launcher(
    quiet: LocalCloud,
    proxy: FaultyEC2,
    home: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Launcher]:
    """A launcher of instances that stay pending."""
    yield from launcher_of(quiet, proxy, monkeypatch, tmp_path_factory)


@pytest.fixture
def booting(
    cloud: LocalCloud,
    real_proxy: FaultyEC2,
    home: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Launcher]:
    """A launcher of instances that do boot."""
    yield from launcher_of(cloud, real_proxy, monkeypatch, tmp_path_factory, shared=True)
