"""Machines of the local cloud, and OpenSSH's own clients to reach them.

A `Machine` is what EC2 describes of an instance plus the key that opens it. `machines` launches any number through
boto3, as any client may; `machine` is one that a module's tests share. `ssh` and friends are the real programs, run
with nothing of this machine's configuration.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko
import pytest

from tests.conftest import LocalCloud
from tests.patience import SECONDS, eventually, patience


@dataclass(frozen=True)
class Key:
    """A key pair: `name` in EC2, the private half in `path`."""

    name: str
    path: Path

    @classmethod
    def create(cls, directory: Path, name: str, kind: str = "ed25519") -> Key:
        path = directory / name
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(path)], check=True)
        return cls(name, path)

    @property
    def public(self) -> bytes:
        return self.path.with_suffix(".pub").read_bytes()


@dataclass
class Machine:
    """An instance and how to log in to it."""

    cloud: LocalCloud
    id: str
    key: Key
    user: str = "ubuntu"
    region: str = "us-east-1"

    @property
    def ec2(self) -> Any:
        return self.cloud.client("ec2", self.region)

    def describe(self) -> dict[str, Any]:
        answer = self.ec2.describe_instances(InstanceIds=[self.id])
        return dict(answer["Reservations"][0]["Instances"][0])

    @property
    def state(self) -> str:
        return str(self.describe()["State"]["Name"])

    @functools.cached_property
    def address(self) -> str:
        return str(self.describe()["PublicIpAddress"])

    @property
    def directory(self) -> Path:
        """Its directory on this host."""
        return self.cloud.directory / "instances" / self.id

    @property
    def host_key(self) -> bytes:
        """The key by which its SSH server proves its identity."""
        command = ["ssh-keyscan", "-t", "ed25519", "-p", self.cloud.env["INVOKE_EC2_SSH_PORT"], self.address]
        return subprocess.run(command, capture_output=True, timeout=patience(), check=True).stdout.split()[-1]

    def wait(self, state: str) -> Machine:
        eventually(lambda: self.state == state)
        return self

    def options(self) -> list[str]:
        """Options that ssh, scp and sftp have in common."""
        settings = {
            "IdentityFile": f'"{self.key.path}"',
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "BatchMode": "yes",
            "StrictHostKeyChecking": "no",
            "UserKnownHostsFile": "/dev/null",
            "LogLevel": "ERROR",
            "ConnectTimeout": "15",
            "Port": self.cloud.env["INVOKE_EC2_SSH_PORT"],
        }
        return ["-F", "/dev/null", *(part for name, value in settings.items() for part in ("-o", f"{name}={value}"))]

    @property
    def login(self) -> str:
        return f"{self.user}@{self.address}"

    def ssh_command(self, *command: str, options: tuple[str, ...] = ()) -> list[str]:
        return ["ssh", *self.options(), *options, self.login, *command]

    def ssh(
        self, *command: str, options: tuple[str, ...] = (), stdin: bytes = b"", timeout: float = SECONDS
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command by OpenSSH's client; its three streams apart."""
        return subprocess.run(
            self.ssh_command(*command, options=options), input=stdin, capture_output=True, timeout=patience(timeout)
        )

    def output(self, command: str, **options: Any) -> str:
        """The stdout of a command that must succeed."""
        done = self.ssh(command, **options)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    @contextlib.contextmanager
    def transport(self) -> Iterator[paramiko.Transport]:
        """A paramiko connection, logged in, for what OpenSSH's clients can't be made to do."""
        port = int(self.cloud.env["INVOKE_EC2_SSH_PORT"])
        with socket.create_connection((self.address, port), timeout=patience()) as connection:
            transport = paramiko.Transport(connection)
            try:
                transport.connect(username=self.user, pkey=paramiko.Ed25519Key(filename=str(self.key.path)))
                yield transport
            finally:
                transport.close()

    def terminate(self) -> None:
        self.ec2.terminate_instances(InstanceIds=[self.id])
        self.wait("terminated")


class Machines:
    """Launches machines by boto3 and terminates them at the end."""

    def __init__(self, cloud: LocalCloud, key: Key) -> None:
        self.cloud = cloud
        self.key = key
        self.started: list[Machine] = []

    def __call__(self, count: int = 1, region: str = "us-east-1", wait: bool = True, **launch: Any) -> list[Machine]:
        """Launch instances of the noble image; `launch` are further arguments of RunInstances."""
        ec2 = self.cloud.client("ec2", region)
        with contextlib.suppress(ec2.exceptions.ClientError):  # imported for an earlier test already
            ec2.import_key_pair(KeyName=self.key.name, PublicKeyMaterial=self.key.public)
        launch = {"ImageId": image(self.cloud, region), "KeyName": self.key.name, "InstanceType": "m7i.large", **launch}
        answer = ec2.run_instances(MinCount=count, MaxCount=count, **launch)
        ids = [instance["InstanceId"] for instance in answer["Instances"]]
        machines = [Machine(self.cloud, id, self.key, region=region) for id in ids]
        self.started += machines
        for machine in machines if wait else ():
            machine.wait("running")
        return machines

    def close(self) -> None:
        for machine in self.started:
            machine.ec2.terminate_instances(InstanceIds=[machine.id])
        for machine in self.started:
            machine.wait("terminated")


NOBLE = "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id"


def image(cloud: LocalCloud, region: str = "us-east-1", parameter: str = NOBLE) -> str:
    """The image that a public parameter names."""
    return str(cloud.client("ssm", region).get_parameter(Name=parameter)["Parameter"]["Value"])


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return Key.create(tmp_path_factory.mktemp("a key"), "tests")


@pytest.fixture
def machines(cloud: LocalCloud, key: Key) -> Iterator[Machines]:
    """Launch machines of this test's own: `machines(3)`."""
    with contextlib.closing(Machines(cloud, key)) as launched:
        yield launched


@pytest.fixture(scope="module")
def machine(cloud: LocalCloud, key: Key) -> Iterator[Machine]:
    """A running machine for tests that leave it as they found it."""
    with contextlib.closing(Machines(cloud, key)) as launched:
        yield launched()[0]
