"""Real Dask and real Spark on instances of the local cloud: jobs outlive an instance, and all of it can be ended."""

from __future__ import annotations

import collections
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
import urllib.request
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hardway.s3 import stub_sessions
from tests.conftest import INV, REPOSITORY, LocalCloud
from tests.engines.conftest import Engines, instances
from tests.patience import patience
from tests.pmap.conftest import eventually

pytestmark = pytest.mark.engines
INDEX = r"""
mkdir -p .config/pip .config/uv
printf '[global]\nno-index = true\nfind-links = %s\n' ~ >.config/pip/pip.conf
printf 'no-index = true\nfind-links = ["%s"]\n' ~ >.config/uv/uv.toml
"""


def test_dask(engines: Engines) -> None:
    from distributed import Client, wait

    # Functions of a function travel whole: the instances have no copy of this module.
    def counts(part: int) -> collections.Counter[int]:
        time.sleep(0.3)
        return collections.Counter(part * number % 7 for number in range(100))

    def merged(parts: list[collections.Counter[int]]) -> collections.Counter[int]:
        return sum(parts, collections.Counter())

    ids = engines.cluster.ids
    engines("ec2.ssh", ids[1], "--yes", "--command", "mkdir -p .config/dask && echo '{' >.config/dask/bad.yaml")
    failed = engines("cluster.dask", engines.cluster.selector, "--yes", code=1)
    assert f"the worker on engines {ids[1]} has ended" in failed.stderr
    assert "is malformed" in failed.stderr
    engines("ec2.ssh", ids[1], "--yes", "--command", "rm .config/dask/bad.yaml")
    late = engines("cluster.dask", engines.cluster.selector, "--yes", "--seconds-timeout", "0", code=1)
    assert f"the worker on engines {ids[1]} has not registered after 0 s" in late.stderr
    address = engines("cluster.dask", engines.cluster.selector, "--yes").stdout.strip()
    assert address.startswith("tcp://127.77.") and address.endswith(":8786")
    with Client(address) as client:
        before = members(client)
        assert sorted(before) == sorted(ids)
        assert engines("cluster.dask", engines.cluster.selector, "--yes").stdout.strip() == address
        assert members(client) == before

        parts = client.map(counts, range(40), pure=False)
        total = client.submit(merged, parts)
        wait(parts[:3])
        [master] = [id for id in ids if id in engines("cluster.ls").stdout]
        engines.replace(next(id for id in ids if id != master))
        assert engines("cluster.dask", engines.cluster.selector, "--yes").stdout.strip() == address
        assert sorted(members(client)) == sorted(engines.cluster.ids)
        every = (part * number % 7 for part in range(40) for number in range(100))
        assert total.result(timeout=patience(60)) == collections.Counter(every)
    assert engines("cluster.ls").stdout == f"dask  {address}  http://{address[6:-5]}:8787  {master}  3\n"
    [one] = json.loads(engines("cluster.ls", "--json").stdout)
    assert (one["engine"], one["master"], sorted(one["instances"])) == ("dask", master, sorted(engines.cluster.ids))
    refused = engines("cluster.spark", engines.cluster.selector, "--yes", code=2)
    assert f"is in the dask cluster {address}" in refused.stderr

    for sent in (signal.SIGINT, signal.SIGKILL):
        through(engines, master, sent)
    assert sorted(engines("cluster.stop", engines.cluster.selector, "--yes").stdout.split()) == sorted(
        engines.cluster.ids
    )
    assert engines("cluster.stop", engines.cluster.selector, "--yes").stdout == ""
    assert engines("cluster.ls").stdout == ""
    left = engines("ec2.ssh", engines.cluster.selector, "--yes", "--quiet", "--command", "pgrep -f '[d]ask_' || :")
    assert left.stdout == ""


def test_install(cloud: LocalCloud, tmp_path: Path) -> None:
    """From a package index on the instance, whose Dask is the one of this checkout."""
    version = importlib.metadata.version("distributed")
    with zipfile.ZipFile(tmp_path / f"dask-{version}-py3-none-any.whl", "w") as wheel:
        about = f"dask-{version}.dist-info"
        wheel.writestr("engines.pth", sysconfig.get_path("purelib") + "\n")
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: dask\nVersion: {version}\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    with instances(cloud, tmp_path / "home", "512m", num=1) as engines:
        del engines.env["INVOKE_CLUSTER_PYTHON"]
        [one] = engines.cluster.ids
        engines("ec2.scp", str(tmp_path / "*.whl"), ":", one, "--yes")
        there = engines("ec2.ssh", one, "--yes", "--quiet", "--command", f"{INDEX}python3 --version").stdout
        if there.split()[1].split(".")[:2] != [str(part) for part in sys.version_info[:2]]:
            pytest.skip("the instances' python3 is not of this Python's version")
        missing = engines("cluster.dask", one, "--yes", "--install", "--version", "0.0.1", code=1)
        assert "dask[complete]==0.0.1 could not be installed" in missing.stderr
        engines("cluster.dask", one, "--yes", "--install")
        (engines.cluster.homes[0] / "job.py").write_text(
            "import sys\nfrom distributed import Client\nif __name__ == '__main__':\n"
            "    with Client() as client:\n        print(client.submit(lambda: sys.prefix).result())\n"
        )
        ran = engines("ec2.ssh", one, "--yes", "--quiet", "--command", ".hardway-cluster/run job.py").stdout
        assert ran.strip().endswith("/.hardway-cluster/dask")


def members(client: Any) -> dict[str, int]:
    """The names of the cluster's workers, and the processes they are."""
    return dict(client.run(lambda dask_worker: (dask_worker.name, os.getpid())).values())


def through(engines: Engines, master: str, sent: signal.Signals) -> None:
    """The tunnel of `master`'s cluster leads to its dashboard and its scheduler, and ends with its task."""
    from distributed import Client

    with subprocess.Popen(
        [*INV, "cluster.tunnel", master],
        cwd=REPOSITORY,
        env={**os.environ, **engines.env},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr
            dashboard, scheduler, _ = (process.stderr.readline().split()[-1] for _ in range(3))
            assert b'"workers"' in eventually(lambda: fetched(f"{dashboard}/json/identity.json"))
            with Client(scheduler) as client:
                assert client.submit(sum, [1, 2]).result(timeout=patience(30)) == 3
            process.send_signal(sent)
            assert process.wait(patience(20)) == (0 if sent == signal.SIGINT else -sent)
            eventually(lambda: not fetched(f"{dashboard}/json/identity.json"))
        finally:
            process.kill()


def fetched(url: str) -> bytes:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=patience(10)) as answer:
            return answer.read()
    except OSError:
        return b""


def test_spark(engines: Engines, tmp_path: Path) -> None:
    started = stub_sessions.start(tmp_path)
    session = started.path
    stubbed = {"s3_stubbed_session": started.uuid, "s3_stubbed_tmp": str(tmp_path)}
    orders = [(number * 7 % 50, number % 97) for number in range(3000)]
    for part in range(3):
        lines = [f"{customer},{amount}\n" for customer, amount in orders[part::3]]
        written(session / "orders" / f"{part}.csv", "customer,amount\n", *lines)
    written(session / "customers" / "all.csv", "id,name\n", *(f"{number},name{number}\n" for number in range(50)))

    address = engines("cluster.spark", engines.cluster.selector, "--yes", env=stubbed).stdout.strip()
    assert address.startswith("spark://127.77.") and address.endswith(":7077")
    [master] = [id for id in engines.cluster.ids if id in engines("cluster.ls").stdout]
    engines("ec2.scp", str(Path(__file__).with_name("spark_job.py")), ":", master, "--yes")
    command = ["ec2.ssh", master, "--yes", "--quiet", "--command", f".hardway-cluster/run spark_job.py {session}"]
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(lambda: engines(*command, env=stubbed))
        try:
            eventually(lambda: (session / "loaded").exists() or job.done(), 150)
            engines.replace(next(id for id in engines.cluster.ids if id != master))
            assert engines("cluster.spark", engines.cluster.selector, "--yes", env=stubbed).stdout.strip() == address
        finally:
            (session / "go-on").touch()
        said = job.result(timeout=patience(150)).stdout.splitlines()
    totals: collections.Counter[int] = collections.Counter()
    for customer, amount in orders:
        totals[customer] += amount
    ranked = sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    assert said == [f"{customer} name{customer} {total}" for customer, total in ranked]
    engines("cluster.stop", engines.cluster.selector, "--yes")
    left = engines("ec2.ssh", engines.cluster.selector, "--yes", "--quiet", "--command", "pgrep java || :")
    assert left.stdout == ""


def written(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines))
