"""How fast pmap is, against its peers, in the same minute on the same hosts.

Hosts are Debian's sshd on loopback addresses with moto's EC2 or, with --local, instances of the local cloud. Prints a
table and, with --json FILE, the same as JSON. Peers that aren't installed are left out. `--only tiny,long,uneven,many`
takes some of the parts.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import heapq
import json
import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.conftest import REPOSITORY, local_cloud
from tests.pmap.conftest import launch
from tests.pmap.proxy import Proxy

HOSTS = 50
SSHD_ADDRESSES = 16  # an sshd listens on no more
PARTS = ("tiny", "long", "uneven", "many")


class Cluster:
    """Hosts and their description in one moto; `env` points `inv` at them. Port 0: the local cloud's instances."""

    def __init__(self, folder: Path, ids: list[str], addresses: list[str], port: int, env: dict[str, str]) -> None:
        self.folder = folder
        self.ids = ids
        self.addresses = addresses
        self.port = port
        self.env = env

    def pmap(self, arguments: Sequence[str], command: str, *flags: str, hosts: int = HOSTS) -> tuple[float, str]:
        """Seconds that the whole process took, and what it said."""
        file = self.folder / "arguments"
        file.write_text("".join(f"{argument}\n" for argument in arguments))
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "invoke", "mapreduce.pmap", " ".join(self.ids[:hosts]), f"@{file}", command, *flags],
            cwd=REPOSITORY,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=600,
        )
        seconds = time.monotonic() - began
        assert done.returncode == 0, done.stderr
        if command == "cat":
            assert done.stdout.splitlines() == list(arguments)
        return seconds, done.stderr

    def times(self, job: str, what: str) -> list[float]:
        """When the job's attempts were sent ("start") or ended ("end"), by its journal."""
        lines = (line.split() for line in (self.folder / "state/hardway/jobs" / job / "journal").open())
        return [float(line[4]) for line in lines if line[0] == what]


@contextlib.contextmanager
def cluster(hosts: int) -> Iterator[Cluster]:
    """Start sshd and moto, and stop them."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench")))
        addresses = [f"127.79.{n // 250}.{n % 250 + 1}" for n in range(hosts)]
        env = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "INVOKE_", "XDG_", "SSH_"))}
        env |= {
            "HOME": str(folder),
            "XDG_STATE_HOME": str(folder / "state"),
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_REGION": "us-east-1",
        }
        os.environ.update(env)
        port = stack.enter_context(sshd(folder, addresses))
        endpoint, ids = stack.enter_context(moto(addresses, port))
        env["AWS_ENDPOINT_URL"] = endpoint
        yield Cluster(folder, ids, addresses, port, env)


@contextlib.contextmanager
def on_local_cloud(hosts: int) -> Iterator[Cluster]:
    """Instances of a local cloud of our own, which ends with them."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "INVOKE_", "XDG_", "SSH_"))]:
        del os.environ[name]
    with tempfile.TemporaryDirectory(prefix="bench") as folder, local_cloud(Path(folder) / "cloud") as cloud:
        home = Path(folder) / "home"
        made = launch(cloud, home, hosts, "bench")
        yield Cluster(home, made.ids, [], 0, {**os.environ, **made.env})


@contextlib.contextmanager
def sshd(folder: Path, addresses: list[str]) -> Iterator[int]:
    """Debian's sshd on all the addresses; yields its port."""
    from hardway.keys import own_key

    with socket.socket() as probe:
        probe.bind((addresses[0], 0))
        port = int(probe.getsockname()[1])
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "host_key"], check=True)
    (folder / "authorized_keys").write_text(own_key().public + "\n")
    common = (
        f"HostKey {folder}/host_key\nAuthorizedKeysFile {folder}/authorized_keys\nUsePAM no\nStrictModes no\n"
        "PidFile none\nMaxStartups 300\nPermitRootLogin prohibit-password\nPasswordAuthentication no\n"
        f"SetEnv HOME={folder}/remote AWS_EC2_METADATA_DISABLED=true\n"  # not this machine's start-up files
    )
    (folder / "remote").mkdir()
    if os.getuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    program = shutil.which("sshd", path="/usr/sbin:/usr/bin")
    assert program, "install openssh-server"
    processes = []
    try:
        for start in range(0, len(addresses), SSHD_ADDRESSES):
            config = folder / f"sshd_config{start}"
            some = addresses[start : start + SSHD_ADDRESSES]
            config.write_text(common + "".join(f"ListenAddress {address}:{port}\n" for address in some))
            processes.append(subprocess.Popen([program, "-D", "-f", str(config)], stderr=subprocess.DEVNULL))
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
def moto(addresses: list[str], port: int) -> Iterator[tuple[str, list[str]]]:
    """moto's EC2 with an instance for each address; yields its endpoint and the ids."""
    import logging

    import boto3
    from moto.ec2.models import ec2_backends
    from moto.server import ThreadedMotoServer

    from hardway.keys import own_key

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
            for one, address in zip(ids, addresses, strict=True):
                with contextlib.suppress(Exception):
                    interface = backend.get_instance(one).nics[0]
                    interface.public_ip = interface.private_ip_address = address
        yield endpoint, ids
    finally:
        server.stop()


def retag(one: Cluster, port: int) -> None:
    import boto3

    client = boto3.client("ec2", endpoint_url=one.env["AWS_ENDPOINT_URL"], region_name="us-east-1")
    client.create_tags(Resources=one.ids, Tags=[{"Key": "ssh-port", "Value": str(port)}])


# The parts


def tiny(one: Cluster, tasks: int) -> list[dict[str, Any]]:
    """`cat` for each of many arguments, connecting and starting agents included."""
    arguments = [f"argument {n}" for n in range(tasks)]
    rates = {"pmap": [], "xargs -P2": []}  # type: dict[str, list[float]]
    for _ in range(3):
        rates["xargs -P2"].append(tasks / xargs(arguments))
        rates["pmap"].append(tasks / one.pmap(arguments, "cat")[0])
    if one.port and shutil.which("parallel"):
        some = arguments[: min(tasks, 300)]
        rates["GNU parallel, ControlMaster"] = [len(some) / parallel(one, some)]
    if dask := os.environ.get("BENCH_DASK_PYTHON"):
        some = arguments[: min(tasks, 1500)]
        rates["Dask, 2 processes here"] = [len(some) / distributed(dask, DASK_HERE, some)]
        if one.port:
            rates["Dask, a worker on each host"] = [len(some) / distributed(dask, DASK_ON_HOSTS, some, one)]
    best = {name: max(all_of) for name, all_of in rates.items()}
    goals = {
        "xargs -P2": ">= 1.0",
        "GNU parallel, ControlMaster": ">= 12.0",
        "Dask, 2 processes here": "",
        "Dask, a worker on each host": ">= 3.0",
    }
    rows = [row(f"tiny: {tasks} cat, {HOSTS} hosts", "pmap", best["pmap"], "tasks/s")]
    for name, goal in goals.items():
        if name in best:
            rows.append(row("tiny", name, best[name], "tasks/s", best["pmap"] / best[name], goal))
    return rows


def xargs(arguments: Sequence[str]) -> float:
    """A fresh bash for each argument on this machine alone, two at a time. In its favour: there is nothing to read."""
    text = "".join(f"{argument}\n" for argument in arguments)
    began = time.monotonic()
    subprocess.run(
        ["xargs", "-P2", "-d", "\\n", "-n1", "bash", "-c", "cat"],
        input=text,
        stdout=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return time.monotonic() - began


def parallel(one: Cluster, arguments: Sequence[str]) -> float:
    from hardway.keys import own_key_path

    config = one.folder / "ssh_config"
    config.write_text(
        f"Host *\nUserKnownHostsFile {one.folder}/known\nStrictHostKeyChecking no\nLogLevel ERROR\n"
        f"IdentityFile {own_key_path()}\nPort {one.port}\nControlMaster auto\nControlPath {one.folder}/cm-%h\n"
        "ControlPersist 20\n"
    )
    logins = ",".join(f"1/ssh -F {config} {address}" for address in one.addresses)
    began = time.monotonic()
    subprocess.run(
        ["parallel", "--will-cite", "-S", logins, "-k", "echo {} | cat"],
        input="".join(f"{argument}\n" for argument in arguments),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
        env=one.env,
    )
    seconds = time.monotonic() - began
    for address in one.addresses:
        subprocess.run(["ssh", "-F", config, "-O", "exit", address], stderr=subprocess.DEVNULL, check=False)
    return seconds


# Of Dask only the tasks are timed, which is in its favour: its workers have started, as our agents haven't.
DASK = """
import json, subprocess, sys, time
from distributed import Client, LocalCluster, SSHCluster
def work(text):
    return subprocess.run(["bash", "-c", "cat"], input=text, capture_output=True).stdout
if __name__ == "__main__":
    hosts, options = json.loads(sys.argv[1]), json.loads(sys.argv[2])
    items = sys.stdin.buffer.read().splitlines()
    with {cluster} as cluster, Client(cluster) as client:
        client.wait_for_workers(len(hosts) or 2, timeout=240)
        began = time.monotonic()
        results = client.gather(client.map(work, items, pure=False))
        ended = time.monotonic()
        assert results == items
        print(ended - began)
"""
# The best shape it has on this machine: two processes with the threads of all hosts, and no host.
DASK_HERE = "LocalCluster(n_workers=2, threads_per_worker=25, dashboard_address=None)"
DASK_ON_HOSTS = """SSHCluster(
        [hosts[0], *hosts],
        connect_options={**options, "known_hosts": None},
        scheduler_options={"dashboard": False},
        worker_options={"nthreads": 1},
        remote_python=sys.executable,
    )"""


def distributed(python: str, kind: str, arguments: Sequence[str], one: Cluster | None = None) -> float:
    """Seconds of the tasks alone, on a Dask cluster of this kind; with hosts, over Dask's own SSH."""
    from hardway.keys import own_key_path

    options = {"username": getpass.getuser(), "client_keys": [str(own_key_path())], "port": one.port if one else 0}
    hosts = one.addresses if one else []
    done = subprocess.run(
        [python, "-c", DASK.replace("{cluster}", kind), json.dumps(hosts), json.dumps(options)],
        input="\n".join(arguments),
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout.split()[-1])


def long(one: Cluster, tasks: int) -> list[dict[str, Any]]:
    """The same tasks with 80 ms of round trip, after the connections stand."""
    arguments = [str(n) for n in range(tasks)]
    few = [str(n) for n in range(HOSTS)]
    near = tasks / (one.pmap(arguments, "cat")[0] - one.pmap(few, "cat")[0])
    with Proxy(one.addresses, one.port, 0.04) as proxy:
        retag(one, proxy.port)
        try:
            far = tasks / (one.pmap(arguments, "cat")[0] - one.pmap(few, "cat")[0])
        finally:
            retag(one, one.port)
    return [
        row("long links: the same without delay", "pmap", near, "tasks/s"),
        row("long links: 80 ms of round trip", "pmap", far, "tasks/s", far / near, ">= 0.8"),
    ]


def uneven(one: Cluster, tasks: int) -> list[dict[str, Any]]:
    """Sleeps of lognormal length (sigma 1.5), the longest 15 s, in a random order; then with one host 10 times slower.

    At first a task's length shows only as it runs, and the longest may come last: nobody can promise the ideal, which
    is the larger of total/hosts and the longest task. So the first run is held against list scheduling that costs
    nothing, and a second one, which knows what the first took, against the ideal.
    """
    rng = random.Random(1)
    sleeps = [rng.lognormvariate(0, 1.5) for _ in range(tasks)]
    sleeps = [sleep * 15 / max(sleeps) for sleep in sleeps]
    ideal = max(sum(sleeps) / HOSTS, max(sleeps))
    jobs = iter(range(10))

    def measure(command: str) -> float:
        """From the first task sent to the last one ended, by the job's journal."""
        name = f"uneven{next(jobs)}"
        one.pmap([f"{sleep:.4f}" for sleep in sleeps], command, "--job", name)
        return max(one.times(name, "end")) - min(one.times(name, "start"))

    first, second = measure("read x; sleep $x"), measure("read x; sleep $x")
    slow = f'read x; [ $HARDWAY_INSTANCE_ID = {one.ids[7]} ] && x=$(awk "BEGIN{{print 10*$x}}"); sleep $x'
    slower = measure(slow)
    greedy = list_scheduling(sleeps, HOSTS)
    return [
        row(f"uneven: lengths unknown, greedy {greedy:.1f} s", "pmap", first, "s", first / greedy, "<= 1.05"),
        row(f"uneven: run again, ideal {ideal:.1f} s", "pmap", second, "s", second / ideal, "<= 1.05"),
        row("uneven: and one host 10 times slower", "pmap", slower, "s", slower / greedy, "<= 1.15"),
    ]


def list_scheduling(lengths: Sequence[float], hosts: int) -> float:
    """The makespan when each host takes the next task at once as it becomes free."""
    free = [0.0] * hosts
    for length in lengths:
        heapq.heapreplace(free, free[0] + length)
    return max(free)


def many(one: Cluster, tasks: int) -> list[dict[str, Any]]:
    """100,000 arguments of 100 bytes."""
    arguments = [f"{n:0100d}" for n in range(tasks)]
    began = time.time()
    seconds, _ = one.pmap(arguments, "cat", "--job", "many")
    first = min(one.times("many", "start")) - began
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return [
        row(f"many: {tasks} arguments of 100 bytes", "pmap", tasks / seconds, "tasks/s"),
        row("many: from nothing to the first task sent", "pmap", first, "s"),
        row("many: driver's memory", "pmap", memory, "MB", memory / 300, "<= 1.0"),
    ]


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas: " + ",".join(PARTS))
    parser.add_argument("--tasks", type=int, default=5000, help="tiny tasks")
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--local", action="store_true", help="on instances of the local cloud in place of sshd's hosts")
    parser.add_argument("--json", help="file for the rows as JSON")
    given = parser.parse_args()
    parts = given.only.split(",")
    rows: list[dict[str, Any]] = []
    with on_local_cloud(HOSTS) if given.local else cluster(HOSTS) as one:
        if "tiny" in parts:
            rows += tiny(one, given.tasks)
        if "long" in parts and one.port:
            rows += long(one, given.tasks)
        if "uneven" in parts:
            rows += uneven(one, 1000)
        if "many" in parts:
            rows += many(one, given.many)
    if given.json:
        Path(given.json).write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if all(one["met"] is not False for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
