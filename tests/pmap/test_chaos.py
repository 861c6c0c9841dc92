"""Whatever happens to driver, connections, agents and instances: every result is there, once, and exact."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from hardway.pmap.afterwards import explain, history
from tests.conftest import LocalCloud
from tests.patience import patience
from tests.pmap import chaos
from tests.pmap.conftest import Cluster
from tests.pmap.test_resume import behind_proxy, started


@pytest.mark.long
def test_the_output_is_exact_under_random_faults(cloud: LocalCloud, new_cluster: Callable[[int], Cluster]) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    own = new_cluster(5)
    with behind_proxy(cloud, own) as proxy, chaos.may_turn_bad(cloud):
        report = chaos.run(cloud, own, proxy, tasks=60, seed=seed, job="chaos")
    assert (report.exact, report.lost, report.doubled, report.forged) == (True, 0, 0, 0), f"seed {seed}: {report}"
    assert not report.accused, f"seed {seed}: {report}"
    assert report.faults, "no fault was made"
    told = history.read((own.jobs / "chaos" / "journal").read_bytes())
    assert (told.done, told.damaged) == (60, 0)
    assert sum(explain.figures(told).time.share(part) for part in explain.PARTS) == pytest.approx(1)


def test_bad_instances_cost_the_job_nothing_and_are_named(
    cloud: LocalCloud, new_cluster: Callable[[int], Cluster]
) -> None:
    """One where the agent dies whenever a task runs, one without room, one that lies, and one that is well."""
    own = new_cluster(4)
    with chaos.may_turn_bad(cloud):
        for home, kind in zip(own.homes, ("dies", "has_no_room", "ends_unstarted"), strict=False):
            chaos.turn_bad(home, kind)
        with started(own, "\n".join(str(x) for x in range(100)), chaos.COMMAND, "--retries", "20") as process:
            out, said = process.communicate(timeout=patience(100))
    assert (process.returncode, out) == (0, chaos.expected(100)), said
    dies, full, liar, _ = own.ids
    aside = {one: line for line in said.splitlines() if "set aside" in line for one in own.ids if one in line}
    assert "it died time after time, whatever ran there" in aside[dies], said
    assert "not from our agent" in aside[liar], said
    assert set(aside) <= {dies, full, liar}, said
