"""Jobs under random faults, for as long as one likes: `--minutes N`. Prints faults made, results lost and doubled."""

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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--tasks", type=int, default=300)
    parser.add_argument("--hosts", type=int, default=6)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    given = parser.parse_args()
    for name in [name for name in os.environ if NOT_INHERITED.match(name)]:
        del os.environ[name]
    faults: Counter[str] = Counter()
    jobs = lost = doubled = wrong = 0
    end = time.monotonic() + 60 * given.minutes
    with tempfile.TemporaryDirectory(prefix="chaos") as folder, run_local_cloud(Path(folder) / "state") as cloud:
        while time.monotonic() < end:
            seed = given.seed + jobs
            jobs += 1
            own = launch(cloud, Path(folder) / f"home{jobs}", given.hosts, f"chaos{jobs}")
            ids = list(own.ids)
            with behind_proxy(cloud, own) as proxy:
                report = chaos.run(cloud, own, proxy, tasks=given.tasks, seed=seed, job=f"chaos{jobs}", seconds=60)
            cloud.client("ec2").terminate_instances(InstanceIds=ids)
            faults += report.faults
            lost += report.lost
            doubled += report.doubled
            wrong += not report.exact
            print(f"seed {seed}: {dict(report.faults)}, {'exact' if report.exact else report.said}", flush=True)
    print(f"jobs {jobs}, faults {dict(faults)}, results lost {lost}, doubled {doubled}, outputs not exact {wrong}")
    return 1 if lost or doubled or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
