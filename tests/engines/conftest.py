"""Three instances of the local cloud for a cluster of an engine, with the engine of this checkout's own Python."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import LocalCloud, Result, run_inv
from tests.pmap.conftest import Cluster, launch


@dataclass(frozen=True)
class Engines:
    """Instances, and `inv` as a person with this checkout's Python on all of them uses it."""

    cluster: Cluster
    env: dict[str, str]

    def __call__(self, *arguments: str, code: int = 0, env: dict[str, str] | None = None) -> Result:
        """Run a task that must end with this exit code."""
        done = run_inv(*arguments, env={**self.env, **(env or {})}, timeout=240)
        assert done.code == code, done.stderr + done.stdout
        return done

    def replace(self, lost: str) -> None:
        """Have an instance die, as when its host fails, and start another in its place."""
        killed = self.cluster.cloud.inv("local.fault", "kill", lost)
        assert killed.code == 0, killed.stderr
        ids = self.cluster.ids
        ids.remove(lost)
        ids += self("ec2.new", "--name", "engines").stdout.split()


@contextlib.contextmanager
def instances(cloud: LocalCloud, home: Path, memory: str, num: int = 3) -> Iterator[Engines]:
    cluster = launch(cloud, home, num, "engines")
    env = {**cluster.env, "INVOKE_CLUSTER_PYTHON": sys.executable, "INVOKE_CLUSTER_MEMORY": memory}
    try:
        yield Engines(cluster, env)
    finally:
        run_inv("ec2.rm", cluster.selector, "--yes", env=cluster.env)


@pytest.fixture
def engines(cloud: LocalCloud, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Engines]:
    """Three instances of the test's own."""
    with instances(cloud, tmp_path / "home", "1g") as made:
        yield made
