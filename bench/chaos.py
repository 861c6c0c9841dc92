"""Jobs under random faults until so many tasks have run under so many faults: by default 10,000 and 300.

Prints a line a job, and at the end what was made of faults and what came of it: results lost, doubled (counted twice),
wrong (the output differs from that of an undisturbed run), forged (made up by a liar), and honest instances that were
called liars. Exits with 1 if any of them is not 0. `--seed` makes the same faults again, at other moments.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.conftest import NOT_INHERITED, run_local_cloud
from tests.pmap import chaos
from tests.pmap.conftest import launch
from tests.pmap.test_resume import behind_proxy

PAUSE = 0.15, 0.6  # seconds between faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tasks", type=int, default=10_000, help="in all jobs together")
    parser.add_argument("--faults", type=int, default=300, help="at least")
    parser.add_argument("--each", type=int, default=1000, help="tasks of one job")
    parser.add_argument("--hosts", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=60.0, help="when to give up")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    given = parser.parse_args()
    for name in [name for name in os.environ if NOT_INHERITED.match(name)]:
        del os.environ[name]
    faults: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    jobs = tasks = 0
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="chaos") as folder,
        run_local_cloud(Path(folder) / "state") as cloud,
        chaos.may_turn_bad(cloud),
    ):
        while (tasks < given.tasks or faults.total() < given.faults) and not bad.total():
            if time.monotonic() - began > 60 * given.minutes:
                bad["time"] += 1
                break
            seed = given.seed + jobs
            jobs += 1
            own = launch(cloud, Path(folder) / f"home{jobs}", given.hosts, f"chaos{jobs}")
            ids = list(own.ids)
            with behind_proxy(cloud, own) as proxy:
                report = chaos.run(
                    cloud, own, proxy, tasks=given.each, seed=seed, job=f"chaos{jobs}", seconds=60, pause=PAUSE
                )
            cloud.client("ec2").terminate_instances(InstanceIds=ids)
            tasks += given.each
            faults += report.faults
            bad.update(lost=report.lost, doubled=report.doubled, forged=report.forged, accused=len(report.accused))
            bad["wrong"] += not report.exact
            right = report.exact and not report.accused
            print(f"seed {seed}: {dict(report.faults)}, {'exact' if right else report.said}", flush=True)
    print(
        f"{jobs} jobs, {tasks} tasks, {faults.total()} faults {dict(faults)}, {time.monotonic() - began:.0f} s: "
        + ", ".join(f"{bad[what]} {what}" for what in ("lost", "doubled", "wrong", "forged", "accused"))
    )
    return 1 if bad.total() else 0


if __name__ == "__main__":
    sys.exit(main())
