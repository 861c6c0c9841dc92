"""Guests of a local cloud of virtual machines, started by `ec2.new` as a person does it: `inv test --vm` runs these.

A boot takes a minute or more without KVM, so tests share a guest where they can. They run in the order of their files:
the last one waits for the end of the shared guest.
"""

from __future__ import annotations

import contextlib
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
CONFIGURED = "#cloud-config\nruncmd:\n  - [touch, /etc/configured]\n"
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
STORES = "findmnt -rno TARGET,FSTYPE,LABEL | grep ^/mnt | sort"
"""A command that lists the instance storage that is mounted."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    ours = [number for number, item in enumerate(items) if item.path.is_relative_to(here)]
    ordered = sorted((items[number] for number in ours), key=lambda item: (item.path, item.location[1] or 0))
    for number, item in zip(ours, ordered, strict=True):
        item.add_marker(pytest.mark.vm)
        items[number] = item


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

    def new(self, *arguments: str, ami: str = "bookworm") -> Guest:
        """Launch a guest, which has the name of its image, and wait until it is ready."""
        guest_image.build(ami)
        id = self.succeed("ec2.new", "--ami", ami, "--seconds-timeout", str(BOOT_SECONDS), *arguments).strip()
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

    def reboot(self) -> None:
        """Reboot by EC2, and wait until it answers again."""
        booted = self.run(BOOT_ID)
        self.shell.succeed("ec2.reboot", self.id, "--yes")

        def is_new() -> bool:
            with contextlib.suppress(AssertionError):  # it does not answer
                return self.run(BOOT_ID) != booted
            return False

        eventually(is_new, BOOT_SECONDS, lambda: f"it does not come back\n{self.console}")

    def wait_for(self, state: str) -> None:
        eventually(lambda: self.state == state, END_SECONDS, lambda: f"{self.id} is {self.state}\n{self.console}")

    def wait_for_its_own_end(self) -> None:
        """Wait until it has ended itself."""
        self.wait_for("terminated")
        assert self.describe()["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"


def eventually(condition: Callable[[], bool], seconds: float, why_not: Callable[[], str]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, why_not()
        time.sleep(0.5)


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    guest_image.build(guest_image.USUAL)  # the local cloud tries KVM with it
    home = tmp_path_factory.mktemp("home")
    with run_local_cloud(home / "state", isolation="vm") as cloud:
        yield Shell(cloud, home)


@pytest.fixture(scope="session")
def guest(shell: Shell) -> Iterator[Guest]:
    """A guest with four disks of instance storage. It ends when it has been unused for two minutes."""
    limits = ("--max-hours", "2", "--idle-minutes", "2")
    launched = shell.new("--name", "shared", "--type", "m5d.24xlarge", *limits, "--init", CONFIGURED)
    yield launched
    shell.cloud.client("ec2").terminate_instances(InstanceIds=[launched.id])
    launched.wait_for("terminated")
