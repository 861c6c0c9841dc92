"""The judges as processes, for the time of a module's tests: microburst in front of a local cloud, and ministack.

They listen on loopback only.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import LocalCloud, run_local_cloud
from tests.patience import patience

START_SECONDS = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def served(command: list[str], environment: Mapping[str, str], health: str, log: Path) -> Iterator[int]:
    """Run a server for the block; it has started when `health` answers. Yield its process id."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *command],  # it ends with us, also if we are killed
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + patience(START_SECONDS)
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(health, timeout=patience(5)):
                break
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield process.pid
    finally:
        process.terminate()
        process.wait(patience(START_SECONDS))


@dataclass(frozen=True)
class Microburst:
    """A proxy in front of a local cloud that makes faults by rules: https://github.com/pingedbrain/microburst#rules."""

    endpoint: str
    cloud: LocalCloud

    def rules(self, *rules: Mapping[str, Any]) -> None:
        """Have these in place of those before, and forget what those did."""
        self._call("POST", "rules", list(rules))
        self._call("DELETE", "fired")

    def fired(self) -> list[str]:
        """Each fault since: the call and what was done to it."""
        return [f"{each['operation']} {each['action']}" for each in self._call("GET", "fired?limit=1000")]

    def _call(self, method: str, path: str, content: Any = None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"{self.endpoint}/_microburst/{path}", body, method=method)
        with urllib.request.urlopen(request, timeout=patience(30)) as answer:
            return json.load(answer)


@pytest.fixture(scope="module")
def microburst(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Microburst]:
    """microburst in front of a local cloud of its own."""
    pytest.importorskip("microburst")
    directory = tmp_path_factory.mktemp("microburst")
    with run_local_cloud(directory / "state", isolation="none") as cloud:
        endpoint = f"http://127.0.0.1:{(port := free_port())}"
        command = [sys.executable, "-m", "microburst.cli", "--port", str(port), "--resign"]
        command += ["--upstream", cloud.env["AWS_ENDPOINT_URL"]]
        health = f"{endpoint}/_microburst/health"
        with served(command, cloud.env, health, directory / "log"):
            yield Microburst(endpoint, cloud)
