"""The examples that start a cluster of a service, as they stand, on the local cloud."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import INV, REPOSITORY, LocalCloud, run_inv
from tests.patience import patience

pytestmark = pytest.mark.engines


@pytest.fixture
def environment(cloud: LocalCloud, home: Path) -> Iterator[dict[str, str]]:
    """A person's, who has `inv` on PATH; the clusters named `example` are ended."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    yield {**os.environ, **cloud.env, "PATH": path}
    run_inv("ec2.rm", "example", "--yes", env=cloud.env)


def run(*command: str, environment: dict[str, str]) -> list[str]:
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=patience(240)
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_spark(environment: dict[str, str]) -> None:
    environment |= {"INVOKE_CLUSTER_PYTHON": sys.executable, "INVOKE_CLUSTER_MEMORY": "1g"}
    address, dashboard = run(sys.executable, "examples/spark_cluster.py", "example", "2", environment=environment)
    assert address.startswith("spark://127.77.") and dashboard.startswith("http://127.77.")
    [listed] = run(*INV, "cluster.ls", environment=environment)
    assert listed.split()[:3] == ["spark", address, dashboard] and listed.split()[-1] == "2"


def test_cassandra_by_a_stand_in(environment: dict[str, str], tmp_path: Path) -> None:
    image = tmp_path / "init.sh"
    standin = Path(__file__).with_name("standin.py").read_text()
    image.write_text(
        "#!/bin/bash\ncd /home/ubuntu 2>/dev/null || cd ~ubuntu\n"
        f"cat >standin.py <<'EOF'\n{standin}\nEOF\n"
        "printf 'cluster_name: x\\n  - seeds: \"1.1.1.1\"\\nlisten_address: localhost\\n' >new\n"
        "mv new cassandra.yaml\n"
    )
    environment |= {
        "INVOKE_EC2_INIT": str(image),
        # What an image would have from the start comes by user data here, a moment later.
        "CASSANDRA_YAML": "$(until [ -e cassandra.yaml ]; do sleep 0.1; done; echo cassandra.yaml)",
        "CASSANDRA_START": "python3 standin.py",
        "NODETOOL": "python3 standin.py",
    }
    addresses = run("examples/cassandra_cluster.sh", "example", "3", environment=environment)
    listed = run(*INV, "ec2.ip", "example", "--private", environment=environment)
    assert len(addresses) == 3 and sorted(addresses) == sorted(listed)
    see = ["--yes", "--quiet", "--command", "python3 standin.py status | sort"]
    seen = run(*INV, "ec2.ssh", addresses[2], *see, environment=environment)
    assert [line.split()[1] for line in seen] == sorted(addresses)
