"""The hosts of benchmarks (Debian's sshd on loopback addresses with moto's EC2, or a local cloud), and their table."""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.conftest import REPOSITORY, run_local_cloud
from tests.pmap.conftest import launch

SSHD_ADDRESSES = 16  # an sshd listens on no more


class Cluster:
    """Hosts and their description in one moto; `env` points `inv` at them. Port 0: the local cloud's instances."""

    def __init__(self, folder: Path, ids: list[str], addresses: list[str], port: int, env: dict[str, str]) -> None:
        self.folder = folder
        self.ids = ids
        self.addresses = addresses
        self.port = port
        self.env = env

    def inv(self, *arguments: str, limit: float = 600) -> tuple[float, subprocess.CompletedProcess[str]]:
        """Run a task that must succeed within `limit` seconds; seconds that the whole process took."""
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, str(REPOSITORY / "tasks"), *arguments],
            cwd=REPOSITORY,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=limit,
        )
        assert done.returncode == 0, done.stderr
        return time.monotonic() - began, done

    def pmap(self, arguments: Sequence[str], command: str, *flags: str) -> tuple[float, str]:
        """Seconds that the whole process took, and what it said."""
        file = self.folder / "arguments"
        file.write_text("".join(f"{argument}\n" for argument in arguments))
        given = ("mapreduce.pmap", " ".join(self.ids), f"@{file}", command, *flags)
        seconds, done = self.inv(*given, limit=600 + len(arguments) / 100)
        if command == "cat":
            assert done.stdout.splitlines() == list(arguments)
        return seconds, done.stderr

    def times(self, job: str, what: str) -> list[float]:
        """When the job's attempts were sent ("start") or ended ("end"), by its journal."""
        lines = (line.split() for line in (self.folder / "state/hardway/jobs" / job / "journal").open())
        return [float(line[4]) for line in lines if line[0] == what]


@contextlib.contextmanager
def cluster(
    hosts: int, own_homes: bool = False, outside: Callable[[list[str], int], tuple[list[str], Any]] | None = None
) -> Iterator[Cluster]:
    """Start sshd and moto, and stop them.

    `outside` may put something in front of the hosts: it gets their addresses and port, and gives the addresses at
    which we reach them, and a context manager for the time they stand.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench")))
        inside = addresses = [f"127.79.{n // 250}.{n % 250 + 1}" for n in range(hosts)]
        env = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "INVOKE_", "XDG_", "SSH_"))}
        env |= {
            "HOME": str(folder),
            "XDG_STATE_HOME": str(folder / "state"),
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_REGION": "us-east-1",
        }
        os.environ.update(env)
        port = stack.enter_context(sshd(folder, inside, own_homes))
        if outside:
            addresses, standing = outside(inside, port)
            stack.enter_context(standing)
        endpoint, ids = stack.enter_context(moto(addresses, port, inside))
        env["AWS_ENDPOINT_URL"] = endpoint
        yield Cluster(folder, ids, inside, port, env)


@contextlib.contextmanager
def on_local_cloud(hosts: int) -> Iterator[Cluster]:
    """Instances of a local cloud of our own, which ends with them."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "INVOKE_", "XDG_", "SSH_"))]:
        del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="bench") as folder, run_local_cloud(Path(folder) / "cloud") as cloud:
        home = Path(folder) / "home"
        made = launch(cloud, home, hosts, "bench")
        yield Cluster(home, made.ids, [], 0, {**os.environ, **made.env})


@contextlib.contextmanager
def sshd(folder: Path, addresses: list[str], own_homes: bool = False) -> Iterator[int]:
    """Debian's sshd on all the addresses; yields its port.

    With `own_homes`, which needs root, each address has a process and a home directory, in `folder`, of its own.
    """
    from hardway.ssh.keys import own_key

    with socket.socket() as probe:
        probe.bind((addresses[0], 0))
        port = int(probe.getsockname()[1])
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "host_key"], check=True)
    (folder / "authorized_keys").write_text(own_key().public + "\n")
    common = (
        f"HostKey {folder}/host_key\nAuthorizedKeysFile {folder}/authorized_keys .ssh/authorized_keys\n"
        "UsePAM no\nStrictModes no\nSubsystem sftp internal-sftp\n"
        "PidFile none\nMaxStartups 300\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n"
        # not this machine's start-up files
        f"SetEnv {'' if own_homes else f'HOME={folder}/remote '}AWS_EC2_METADATA_DISABLED=true\n"
    )
    (folder / "remote").mkdir()
    if os.getuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    program = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    assert program, "install openssh-server"
    processes = []
    try:
        step = 1 if own_homes else SSHD_ADDRESSES
        for start in range(0, len(addresses), step):
            config = folder / f"sshd_config{start}"
            some = addresses[start : start + step]
            config.write_text(common + "".join(f"ListenAddress {address}:{port}\n" for address in some))
            command = [program, "-D", "-f", str(config)]
            if own_homes:
                home = folder / some[0]
                home.mkdir()
                # sshd takes the home directory of the login from /etc/passwd, whatever HOME says.
                mounted = f"mount --bind {shlex.quote(str(home))} ~ && exec {shlex.join(command)}"
                command = ["unshare", "--mount", "env", f"HOME={Path('~root').expanduser()}", "sh", "-c", mounted]
            processes.append(subprocess.Popen(command, stderr=subprocess.DEVNULL))
        end = time.monotonic() + 10
        for address in addresses:
            while not answers(address, port):
                assert time.monotonic() < end, "sshd did not start"
                time.sleep(0.05)
        yield port
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(10)


def answers(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), 1):
        return True
    return False


@contextlib.contextmanager
def moto(
    addresses: list[str], port: int, private: Sequence[str] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """moto's EC2 with an instance for each address, `private` the addresses among them; its endpoint and the ids."""
    import logging

    import boto3
    from moto.ec2.models import ec2_backends
    from moto.server import ThreadedMotoServer

    from hardway.ssh.keys import own_key

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, number = server.get_host_and_port()
    endpoint = f"http://{host}:{number}"
    try:
        client = boto3.client("ec2", endpoint_url=endpoint, region_name="us-east-1")
        tags = {"ssh-user": getpass.getuser(), "ssh-port": str(port), "Name": "bench"}
        made = client.run_instances(
            ImageId="ami-12c6146b",
            MinCount=len(addresses),
            MaxCount=len(addresses),
            KeyName=own_key().name,
            TagSpecifications=[
                {"ResourceType": "instance", "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
            ],
        )
        ids = [one["InstanceId"] for one in made["Instances"]]
        for backends in ec2_backends.values():
            backend = backends["us-east-1"]
            for one, address, inside in zip(ids, addresses, private or addresses, strict=True):
                with contextlib.suppress(Exception):
                    interface = backend.get_instance(one).nics[0]
                    interface.public_ip, interface.private_ip_address = address, inside
        yield endpoint, ids
    finally:
        server.stop()


def retag(one: Cluster, port: int) -> None:
    import boto3

    client = boto3.client("ec2", endpoint_url=one.env["AWS_ENDPOINT_URL"], region_name="us-east-1")
    client.create_tags(Resources=one.ids, Tags=[{"Key": "ssh-port", "Value": str(port)}])


# The table


def row(
    part: str, who: str, value: float, unit: str, ratio: float | None = None, goal: str = ""
) -> dict[str, Any]:
    met = None
    if ratio is not None and goal:
        sign, limit = goal.split()
        met = ratio >= float(limit) if sign == ">=" else ratio <= float(limit)
    verdict = {True: "met", False: "MISSED", None: ""}[met]
    shown = f"{ratio:8.2f} {goal:>8} {verdict}".rstrip() if ratio is not None else ""
    print(f"{part:45} {who:28} {value:10.1f} {unit:12} {shown}", flush=True)
    return {"part": part, "who": who, "value": value, "unit": unit, "ratio": ratio, "goal": goal, "met": met}
