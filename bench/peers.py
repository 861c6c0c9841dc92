"""Frameworks that run many tasks, each in a process of a Python that has it, on this machine alone.

`BENCH_HYPERQUEUE_PYTHON`, `BENCH_PARSL_PYTHON` and `BENCH_RAY_PYTHON` name these Pythons; one may have all. A peer
without such a variable is left out. Only the tasks are timed, in the peers' favour: their workers have started, and
they connect to no host. Each task starts a bash, as with pmap.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

CORES = 2
HOSTS = 50  # HyperQueue is faster with a worker of as many cores as there are hosts
_BEGIN = """
import subprocess, sys, time
items = sys.stdin.buffer.read().splitlines()
def work(text):
    import subprocess
    return subprocess.run(["bash", "-c", "cat"], input=text, capture_output=True).stdout
"""
_HYPERQUEUE = """
from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig
if __name__ == "__main__":
    with LocalCluster() as cluster:
        cluster.start_worker(WorkerConfig(cores={hosts}))
        client = cluster.client()
        job = Job()
        for item in items:  # its results would be a file each: without them it is faster
            job.program(["bash", "-c", "cat"], stdin=item, stdout=None, stderr=None)
        began = time.monotonic()
        client.wait_for_jobs([client.submit(job)])
        print(time.monotonic() - began)
"""
_PARSL = """
import os, parsl
from parsl.config import Config
from parsl.executors import HighThroughputExecutor
if __name__ == "__main__":
    executor = HighThroughputExecutor(max_workers_per_node={cores}, address="127.0.0.1", loopback_address="127.0.0.1")
    with parsl.load(Config(executors=[executor], run_dir="parsl")):
        app = parsl.python_app(work)
        app(b"the workers have started").result()
        began = time.monotonic()
        results = [future.result() for future in [app(item) for item in items]]
        ended = time.monotonic()
    assert results == items
    print(ended - began)
"""
_RAY = """
import ray
if __name__ == "__main__":
    ray.init(num_cpus={cores}, include_dashboard=False, object_store_memory=100 << 20, _node_ip_address="127.0.0.1")
    task = ray.remote(work)
    ray.get([task.remote(b"the workers have started") for _ in range({cores})])
    began = time.monotonic()
    results = ray.get([task.remote(item) for item in items])
    ended = time.monotonic()
    assert results == items
    ray.shutdown()
    print(ended - began)
"""
_SCRIPTS = {"HyperQueue": _HYPERQUEUE, "Parsl": _PARSL, "Ray": _RAY}
GOALS = {"HyperQueue": ">= 2.5", "Parsl": "", "Ray": ""}


def rates(arguments: Sequence[str], only: Sequence[str] = tuple(_SCRIPTS)) -> dict[str, float]:
    """Tasks a second of each peer that is there."""
    pythons = {name: os.environ.get(f"BENCH_{name.upper()}_PYTHON") for name in only}
    found = {name: _seconds(python, _SCRIPTS[name], arguments) for name, python in pythons.items() if python}
    return {name: len(arguments) / seconds for name, seconds in found.items()}


def _seconds(python: str, script: str, arguments: Sequence[str]) -> float:
    programs = os.pathsep.join([str(Path(python).parent), os.environ["PATH"]])  # Parsl starts some of its own
    with tempfile.TemporaryDirectory(prefix="peer") as folder:
        done = subprocess.run(
            [python, "-c", (_BEGIN + script).replace("{cores}", str(CORES)).replace("{hosts}", str(HOSTS))],
            input="\n".join(arguments),
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, "PATH": programs, "RAY_USAGE_STATS_ENABLED": "0"},
            timeout=400 + len(arguments) / 50,
        )
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout.split()[-1])


def main() -> int:
    for name, rate in rates([str(n) for n in range(500)]).items():
        print(f"{name:12} {rate:.0f} tasks/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
