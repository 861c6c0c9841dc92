"""Debian's sshd as the other real server: the library against what runs on real instances."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from types import MappingProxyType

import pytest

from hardway.config import Settings
from hardway.ec2.instances import Instance
from hardway.ssh.keys import own_key
from tests.patience import patience

HOSTS = 6


def instance(number: int, port: int) -> Instance:
    """Host `number` of the test's sshd, as EC2 would describe it."""
    address = f"127.78.0.{number + 1}"
    return Instance(
        id=f"i-{number:017x}",
        name=f"host{number}",
        type="m7i.large",
        state="running",
        image="ami-12345678",
        spot=False,
        public_ip=address,
        private_ip=address,
        public_dns="",
        private_dns="",
        zone="us-east-1a",
        vpc="vpc-12345678",
        subnet="subnet-12345678",
        security_groups={},
        key_name=own_key().name,
        launched=datetime(2026, 1, 1, tzinfo=timezone.utc),
        region="us-east-1",
        tags={"Name": f"host{number}", "ssh-user": getpass.getuser(), "ssh-port": str(port)},
    )


@pytest.fixture
def settings() -> Settings:
    defaults = Settings()
    return replace(defaults, ec2=replace(defaults.ec2, connect_timeout=round(patience(10))))


@pytest.fixture
def start_sshd(home: Path, tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Starts an sshd on a port (0: a free one) that our own key opens, its config ending in `lines`; returns the port.

    With `shell` that is the login shell there; `setup`, a script for sh, is run before it in a mount namespace, which
    all that it starts is in. It listens at `addresses`, else at those of `instance`, and sets `environment` for what it
    starts. The home of the n-th one is tmp_path/sshd<n>, its log `log` there.
    """
    program = shutil.which("sshd", path="/usr/sbin:/usr/bin:/sbin")
    if not program:
        pytest.skip("no sshd here: install openssh-server")
    started: list[subprocess.Popen[bytes]] = []

    def start(
        port: int,
        *lines: str,
        shell: str = "",
        setup: str = "",
        addresses: Sequence[str] = tuple(f"127.78.0.{n + 1}" for n in range(HOSTS)),
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> int:
        directory = tmp_path / f"sshd{len(started)}"
        directory.mkdir()
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / "host_key"], check=True)
        (directory / "authorized_keys").write_text(own_key().public + "\n")
        port = port or _free_port(addresses[0])
        config = [
            f"HostKey {directory}/host_key",
            f"AuthorizedKeysFile {directory}/authorized_keys {directory}/.ssh/authorized_keys",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
            "UsePAM no",
            "StrictModes no",
            "PidFile none",
            "MaxStartups 200",  # unlike other lines, the last one counts
            "Subsystem sftp internal-sftp",
            # bash would read the start-up files of whoever runs the tests
            " ".join(["SetEnv", *(f"{key}={value}" for key, value in {"HOME": directory, **environment}.items())]),
            *lines,
            *(f"ListenAddress {address}:{port}" for address in addresses),
        ]
        (directory / "config").write_text("\n".join(config) + "\n")
        if os.getuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        with (directory / "log").open("wb") as log:
            command = [program, "-D", "-e", "-f", str(directory / "config")]
            if shell or setup:
                command = _in_namespace(command, directory, shell, setup)
            started.append(subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL))
        _wait_for_port(addresses[-1], port)
        return port

    yield start
    for process in started:
        process.terminate()
        process.wait(patience(10))


@pytest.fixture
def sshd(start_sshd: Callable[[int], int]) -> int:
    return start_sshd(0)


@pytest.fixture
def hosts(sshd: int) -> list[Instance]:
    """Instances whose addresses Debian's sshd listens on."""
    return [instance(number, sshd) for number in range(HOSTS)]


def _in_namespace(command: list[str], directory: Path, shell: str, setup: str) -> list[str]:
    user = pwd.getpwuid(os.getuid())
    account = f"{user.pw_name}:x:{user.pw_uid}:{user.pw_gid}::{directory}:{shell or '/bin/bash'}\n"
    others = [line for line in Path("/etc/passwd").read_text().splitlines() if f":x:{user.pw_uid}:" not in line]
    (directory / "passwd").write_text(account + "\n".join(others) + "\n")
    (directory / "setup").write_text(f'set -e\nmount --bind "{directory}/passwd" /etc/passwd\n{setup}\nexec "$@"\n')
    if user.pw_uid == 0:
        return ["unshare", "-m", "sh", str(directory / "setup"), *command]
    back = ["unshare", "-U", f"--map-user={user.pw_uid}", f"--map-group={user.pw_gid}"]
    return ["unshare", "-rm", "sh", str(directory / "setup"), *back, *command]


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


def _wait_for_port(address: str, port: int) -> None:
    deadline = time.monotonic() + patience(10)
    while True:
        try:
            socket.create_connection((address, port), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
