"""Guests of a local cloud of virtual machines, started by `ec2.new` as a person does it: `inv test --vm` runs these.

A boot takes a minute or more without KVM, so tests share guests where they leave them as they found them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hardway.local.machines import guest_image
from tests.conftest import LocalCloud, Result, run_inv, run_local_cloud

BOOT_SECONDS = 1800
"""How long a boot may take on a machine with other work: a launch gives up after half of it."""
END_SECONDS = 600
"""How long the end of a guest may take: its timer looks each minute."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.vm)


@dataclass(frozen=True)
class Shell:
    """A person's shell after `eval "$(inv local.up --isolation vm)"`, in a home of the tests' own."""

    cloud: LocalCloud
    home: Path

    @property
    def env(self) -> Mapping[str, str]:
        """Its variables."""
        places = {"XDG_CACHE_HOME": self.home / "cache", "XDG_DATA_HOME": self.home / "data",
                  "XDG_STATE_HOME": self.cloud.state, "HOME": self.home}  # fmt: skip
        return {**self.cloud.env, **{name: str(place) for name, place in places.items()}}

    def __call__(self, *arguments: str, timeout: float = BOOT_SECONDS) -> Result:
        return run_inv(*arguments, env=self.env, timeout=timeout)

    def succeed(self, *arguments: str, timeout: float = BOOT_SECONDS) -> str:
        """Run a task that must succeed; returns its result."""
        done = self(*arguments, timeout=timeout)
        assert done.code == 0, done.stderr
        return done.stdout

    def new(self, *arguments: str) -> Guest:
        """Launch a guest, and wait until it is ready."""
        id = self.succeed("ec2.new", "--ami", "bookworm", "--seconds-timeout", str(BOOT_SECONDS), *arguments).strip()
        return Guest(self, id)


@dataclass(frozen=True)
class Guest:
    """An instance that is a virtual machine."""

    shell: Shell
    id: str

    def run(self, command: str) -> str:
        """Run a command by `ec2.ssh`; returns its output."""
        return self.shell.succeed("ec2.ssh", self.id, "--yes", "--quiet", "--command", command).strip()

    def describe(self) -> dict[str, Any]:
        answer = self.shell.cloud.client("ec2").describe_instances(InstanceIds=[self.id])
        return dict(answer["Reservations"][0]["Instances"][0])

    @property
    def state(self) -> str:
        return str(self.describe()["State"]["Name"])

    @property
    def console(self) -> str:
        answer = self.shell.cloud.client("ec2").get_console_output(InstanceId=self.id)
        return str(answer["Output"])

    @property
    def directory(self) -> Path:
        """Its directory on this host."""
        return self.shell.cloud.directory / "instances" / self.id

    def wait_for(self, state: str) -> None:
        eventually(lambda: self.state == state, END_SECONDS, lambda: f"{self.id} is {self.state}\n{self.console}")


def eventually(condition: Callable[[], bool], seconds: float, why_not: Callable[[], str]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, why_not()
        time.sleep(0.5)


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    guest_image.build(guest_image.USUAL)
    home = tmp_path_factory.mktemp("home")
    with run_local_cloud(home / "state", isolation="vm") as cloud:
        yield Shell(cloud, home)


@pytest.fixture(scope="session")
def guest(shell: Shell) -> Iterator[Guest]:
    """A guest with two disks of instance storage, for tests that leave it as they found it."""
    launched = shell.new("--name", "shared", "--type", "m5d.8xlarge", "--max-hours", "2")
    yield launched
    shell.cloud.client("ec2").terminate_instances(InstanceIds=[launched.id])
    launched.wait_for("terminated")
