"""Whatever happens to driver, connections, agents and instances: every result is there, once, and exact."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from hardway.pmap import explain, history
from tests.conftest import LocalCloud
from tests.pmap import chaos
from tests.pmap.conftest import Cluster
from tests.pmap.test_resume import behind_proxy


def test_the_output_is_exact_under_random_faults(cloud: LocalCloud, new_cluster: Callable[[int], Cluster]) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    own = new_cluster(4)
    with behind_proxy(cloud, own) as proxy:
        report = chaos.run(cloud, own, proxy, tasks=60, seed=seed, job="chaos")
    assert (report.exact, report.lost, report.doubled) == (True, 0, 0), f"seed {seed}: {report}"
    assert report.faults, "no fault was made"
    told = history.read((own.jobs / "chaos" / "journal").read_bytes())
    assert (told.done, told.damaged) == (60, 0)
    assert sum(explain.figures(told).time.share(part) for part in explain.PARTS) == pytest.approx(1)
