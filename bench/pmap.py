"""How fast pmap is, against its peers, in the same minute on the same hosts.

Hosts are Debian's sshd on loopback addresses with moto's EC2 or, with --local, instances of the local cloud. Prints a
table and, with --json FILE, the same as JSON. Peers that aren't installed are left out. `--only tiny,long,uneven,many`
takes some of the parts. The part `million` takes a quarter of an hour and is run by its name only.

GNU parallel is a peer if it is installed, Dask if BENCH_DASK_PYTHON names a Python that has `distributed`, and
HyperQueue, Parsl and Ray as `peers.py` says.
"""

from __future__ import annotations

import argparse
import getpass
import heapq
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import peers
from hosts import Cluster, cluster, on_local_cloud, retag, row

from tests.pmap.proxy import Proxy

HOSTS = 50
PARTS = ("tiny", "long", "uneven", "many")
MILLION = "million"


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
    best = {name: max(all_of) for name, all_of in rates.items()} | peers.rates(arguments[: min(tasks, 1500)])
    goals = {
        "xargs -P2": ">= 1.3",
        "GNU parallel, ControlMaster": ">= 12.0",
        "Dask, 2 processes here": "",
        "Dask, a worker on each host": ">= 3.0",
        **peers.GOALS,
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
    from hardway.ssh.keys import own_key_path

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
    from hardway.ssh.keys import own_key_path

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


def million(one: Cluster, tasks: int) -> list[dict[str, Any]]:
    """So many tiny tasks, against rates of peers that are measured with a part of them, before and after."""
    arguments = [str(n) for n in range(tasks)]
    some = arguments[: max(1, tasks // 50)]
    best = [len(some) / xargs(some)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, _ = one.pmap(arguments, "cat")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    best.append(len(some) / xargs(some))
    rate = tasks / seconds
    cpu = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / tasks * 1e6
    rows = [
        row(f"million: {tasks} cat, {HOSTS} hosts", "pmap", rate, "tasks/s"),
        row("million", "xargs -P2", max(best), "tasks/s", rate / max(best), ">= 1.5"),
        row("million: the driver's CPU for a task", "pmap", cpu, "us", cpu / 60, "<= 1.0"),
    ]
    for name, other in peers.rates(some, ["HyperQueue"]).items():
        rows.append(row("million", name, other, "tasks/s", rate / other, peers.GOALS[name]))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas: " + ",".join([*PARTS, MILLION]))
    parser.add_argument("--tasks", type=int, default=5000, help="tiny tasks")
    parser.add_argument("--many", type=int, default=100_000)
    parser.add_argument("--million", type=int, default=1_000_000, help="tasks of that part")
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
        if MILLION in parts:
            rows += million(one, given.million)
    if given.json:
        Path(given.json).write_text(json.dumps(rows, indent=1) + "\n")
    return 0 if all(one["met"] is not False for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
