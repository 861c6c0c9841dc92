"""A job under random faults: killed drivers and agents, failing tasks, cut connections, instances that go or limp.

Used by the tests, for seconds, and by bench/chaos.py, for as long as one likes.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from hardway.local import faults
from tests.conftest import REPOSITORY, LocalCloud
from tests.pmap.conftest import Cluster
from tests.pmap.proxy import Proxy

COMMAND = (
    "read x; sleep 0.$((RANDOM % 3)); [ $((RANDOM % 15)) != 0 ] || { echo unlucky >&2; exit 1; }; "
    '[ $((x % 10)) != 0 ] || head -c 300000 /dev/zero | tr "\\0" x; echo "<$x>"'
)

KINDS = {
    "cut": 4, "agent": 3, "instance": 1, "driver": 2, "hang": 2, "slow": 1, "drop": 2, "interrupt": 1
}  # fmt: skip


@dataclass
class Report:
    """What was done to the job and what came of it."""

    faults: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    doubled: int = 0
    exact: bool = False
    said: str = ""


def expected(tasks: int) -> str:
    """The output of an undisturbed run."""
    return "".join(("x" * 300_000 if x % 10 == 0 else "") + f"<{x}>\n" for x in range(tasks))


def run(
    cloud: LocalCloud,
    cluster: Cluster,
    proxy: Proxy,
    *,
    tasks: int,
    seed: int,
    job: str,
    spare: int = 2,
    seconds: float = 15.0,
) -> Report:
    """Run a job of `tasks` until it ends, with faults for `seconds` at most; at least `spare` instances survive.

    Takes two minutes at most, else TimeoutExpired.
    """
    rng = random.Random(seed)
    report = Report()
    over = threading.Event()
    drivers: list[subprocess.Popen[str]] = []
    alive = list(cluster.ids)
    daemon = cloud.running

    def fault() -> None:
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
        one = rng.choice(alive)
        if kind == "cut":
            proxy.cut()
        elif kind == "agent" and not kill_agent(cluster, rng):
            return
        elif kind in ("instance", "interrupt"):
            if len(alive) <= spare:
                return
            alive.remove(one)
            if kind == "instance":
                cloud.client("ec2").terminate_instances(InstanceIds=[one])
            else:
                faults.send(daemon, faults.Fault("interrupt", (one,), notice=rng.uniform(1, 3)))
        elif kind == "driver":
            drivers[-1].send_signal(signal.SIGKILL)
        elif kind == "drop":
            faults.send(daemon, faults.Fault("drop", (one,)))
        elif kind == "hang":
            faults.send(daemon, faults.Fault("hang", (one,)))
            faults.send(daemon, faults.Fault("thaw", (one,), after=rng.uniform(0.5, 2)))
        elif kind == "slow":
            faults.send(daemon, faults.Fault("slow", (one,), factor=3))
            faults.send(daemon, faults.Fault("slow", (one,), factor=1, after=rng.uniform(0.5, 2)))
        report.faults[kind] += 1

    def harm() -> None:
        end = time.monotonic() + seconds
        while not over.wait(rng.uniform(0.3, 1.5)) and time.monotonic() < end:
            fault()

    arguments = "\n".join(str(x) for x in range(tasks))
    harmer = threading.Thread(target=harm)
    deadline = time.monotonic() + 120
    try:
        while True:
            resume = ("--resume", job) if (cluster.jobs / job / "job.json").exists() else ("--job", job)
            selector = " ".join(alive)
            drivers.append(
                subprocess.Popen(
                    [sys.executable, "-m", "invoke", "mapreduce.pmap", selector, arguments, COMMAND, *resume],
                    cwd=REPOSITORY,
                    env={**os.environ, **cluster.env, "INVOKE_MAPREDUCE_RETRY_SLEEP": "0.2"},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            if len(drivers) == 1:
                harmer.start()
            out, said = drivers[-1].communicate(timeout=max(1.0, deadline - time.monotonic()))
            report.said += said
            if drivers[-1].returncode != -signal.SIGKILL and not _raced(said):
                break
    finally:
        over.set()
        if harmer.ident:
            harmer.join()
        faults.send(daemon, faults.Fault("thaw", tuple(alive)))
        faults.send(daemon, faults.Fault("slow", tuple(alive), factor=1))
        drivers[-1].kill()
        drivers[-1].communicate()
    results = Counter(
        line.split()[1] for line in (cluster.jobs / job / "journal").read_text().splitlines() if line.startswith("done")
    )
    report.exact = out == expected(tasks)
    report.lost = tasks - len(results)
    report.doubled = sum(count - 1 for count in results.values())
    return report


def _raced(said: str) -> bool:
    """The instance was terminated between our choosing it and the driver's looking."""
    return "not running" in said


def kill_agent(cluster: Cluster, rng: random.Random) -> bool:
    """End an agent, as the kernel does when memory runs out; False where there is none."""
    locks = [lock for home in cluster.homes for lock in home.glob(".hardway/*/lock")]
    if not locks:
        return False
    holders = subprocess.run(["fuser", rng.choice(locks)], capture_output=True, text=True).stdout.split()
    for holder in holders:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(holder), signal.SIGKILL)
    return bool(holders)
