"""A job under random faults: killed drivers and agents, failing tasks, cut connections, instances that go or limp.

And instances that turn bad: where the agent dies whenever a task runs, where there is no room for outputs, where what
answers in the agent's place lies.

Used by the tests, for seconds, and by bench/chaos.py, for as long as one likes.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hardway.local import faults
from tests.conftest import INV, REPOSITORY, LocalCloud
from tests.pmap import liar
from tests.pmap.conftest import Cluster
from tests.pmap.proxy import Proxy

COMMAND = (
    "read x; sleep 0.$((RANDOM % 3)); [ $((RANDOM % 15)) != 0 ] || { echo unlucky >&2; exit 1; }; "
    '[ $((x % 10)) != 0 ] || head -c 300000 /dev/zero | tr "\\0" x; echo "<$x>"'
)

KINDS = {
    "cut": 4, "agent": 3, "instance": 1, "driver": 2, "hang": 2, "slow": 1, "drop": 2, "interrupt": 1,
    "dies": 1, "has_no_room": 1, "liar": 3,
}  # fmt: skip
BAD = "bad"  # a file in the home of a bad instance that says how it is bad


@dataclass
class Report:
    """The faults of a job, and its outcome."""

    faults: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    doubled: int = 0
    forged: int = 0
    accused: set[str] = field(default_factory=set)  # instances that were called liars and are none
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
    pause: tuple[float, float] = (0.3, 1.5),
) -> Report:
    """Run a job of `tasks` until it ends, with faults for `seconds` at most; at least `spare` instances stay well.

    `pause` is the shortest and the longest time between faults. Takes two minutes at most, else TimeoutExpired.
    """
    rng = random.Random(seed)
    report = Report()
    over = threading.Event()
    drivers: list[subprocess.Popen[str]] = []
    alive, well = list(cluster.ids), list(cluster.ids)
    homes = dict(zip(cluster.ids, cluster.homes, strict=True))
    daemon = cloud.running
    liars: set[str] = set()  # noted at once: a terminated instance has no home that would tell

    def fault() -> None:
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
        one = rng.choice(alive)
        if kind in ("instance", "interrupt", "liar", *liar.SICK):
            if len(well) <= spare or (kind not in ("instance", "interrupt") and one not in well):
                return
            if one in well:
                well.remove(one)
        if kind in ("liar", *liar.SICK):
            liars.add(one)
        if kind == "cut":
            proxy.cut()
        elif kind == "liar":
            turn_bad(homes[one], rng.choice([*liar.LIES, *[liar.GARBLED] * 4]), rng.randrange(1 << 20))
        elif kind in liar.SICK:
            turn_bad(homes[one], kind)
        elif kind == "agent" and not kill_agent(cluster, rng):
            return
        elif kind in ("instance", "interrupt"):
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
        while not over.wait(rng.uniform(*pause)) and time.monotonic() < end:
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
                    [*INV, "mapreduce.pmap", selector, arguments, COMMAND, *resume],
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
    results: Counter[str] = Counter()  # by task; a result that is void doesn't count
    for line in (cluster.jobs / job / "journal").read_text().splitlines():
        kind, task = line.split(maxsplit=2)[:2]
        results[task] += {"done": 1, "void": -1}.get(kind, 0)
    report.exact = out == expected(tasks)
    report.forged = out.count("forged")
    report.accused = {
        one for one in cluster.ids for line in report.said.splitlines() if one in line and "not from our agent" in line
    } - liars
    report.lost = tasks - sum(count > 0 for count in results.values())
    report.doubled = sum(count - 1 for count in results.values() if count > 1)
    return report


def _raced(said: str) -> bool:
    """The instance was terminated between our choosing it and the driver's looking."""
    return "not running" in said


@contextlib.contextmanager
def may_turn_bad(cloud: LocalCloud) -> Iterator[None]:
    """Have the instances look, before they start an agent, whether they are to be bad."""
    tools = cloud.directory / "bin"
    shutil.copy(liar.__file__, tools / "liar.py")
    python = tools / "python3"
    python.write_text(
        f'#!/bin/sh\n[ -e ~/{BAD} ] || exec /usr/bin/python3 "$@"\nread -r kind seed <~/{BAD}\n'
        'exec /usr/bin/python3 "${0%/*}/liar.py" "$kind" "$seed" /tmp/spoken\n'
    )
    python.chmod(0o755)
    try:
        yield
    finally:
        python.unlink()


def turn_bad(home: Path, kind: str, seed: int = 0) -> None:
    """From now on nothing good answers there."""
    (home / BAD).write_text(f"{kind} {seed}\n")
    for lock in home.glob(".hardway/*/lock"):
        end_holders(lock)


def kill_agent(cluster: Cluster, rng: random.Random) -> bool:
    """End an agent, as the kernel does when memory runs out; False where there is none."""
    locks = [lock for home in cluster.homes for lock in home.glob(".hardway/*/lock")]
    if not locks:
        return False
    return end_holders(rng.choice(locks))


def end_holders(lock: Path) -> bool:
    """Kill the processes that have this file open; False where there are none."""
    holders = subprocess.run(["fuser", lock], capture_output=True, text=True).stdout.split()
    for holder in holders:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(holder), signal.SIGKILL)
    return bool(holders)
