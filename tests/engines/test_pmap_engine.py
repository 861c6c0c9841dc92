"""pmap on real Dask: the same results, journal and exit codes as on our own driver, and an instance lost on the way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hardway.s3 import stub_sessions
from tests.conftest import INV, REPOSITORY, Inv
from tests.engines.conftest import Engines
from tests.patience import patience
from tests.pmap.conftest import eventually

pytestmark = pytest.mark.engines

STEP = 'read -r x; echo "$x $HARDWAY_TASK $HARDWAY_ATTEMPT"; pwd; echo "$HARDWAY_INSTANCE_ID" >&2'
SCHEDULER = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""
MIXED = """
import os, sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.readline()
        for name in ("s3_stubbed_session", "s3_stubbed_tmp"):
            del os.environ[name]
        cluster.scale(2)
        sys.stdin.read()
"""


def test_an_instance_is_lost(engines: Engines, tmp_path: Path) -> None:
    """And `aws` of the tasks is the stub of the shell that started the cluster, or nothing runs."""
    session, other = stub_sessions.start(tmp_path), stub_sessions.start(tmp_path)
    stubbed = {"s3_stubbed_session": session.uuid, "s3_stubbed_tmp": str(tmp_path)}
    selector = engines.cluster.selector
    address = engines("cluster.dask", selector, "--yes", env=stubbed).stdout.strip()
    [master] = [id for id in engines.cluster.ids if id in engines("cluster.ls").stdout]
    command = 'read -r x; sleep 1; echo "$x" | aws s3 cp - "s3://out/$x" && aws s3 cp "s3://out/$x" -'
    arguments = [f"argument-{number}" for number in range(30)]
    pmap = ["mapreduce.pmap", "-", "\n".join(arguments), command, "--engine", address, "--job", "lost"]
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(lambda: engines(*pmap, env=stubbed))
        eventually(lambda: job.done() or len([*session.path.glob("out/*")]) > 5)
        engines.cluster.cloud.inv("local.fault", "kill", next(id for id in engines.cluster.ids if id != master))
        done = job.result(timeout=patience(120))
    assert done.stdout.splitlines() == arguments
    assert "30 of 30 tasks done" in done.stderr and "1 instance lost" in done.stderr
    journal = (engines.cluster.jobs / "lost" / "journal").read_text().splitlines()
    hosts = {line.split()[3] for line in journal if line.startswith("end ")}
    assert hosts <= set(engines.cluster.ids) and len(hosts) > 1
    unstubbed = engines("mapreduce.pmap", "-", "a", "cat", "--engine", address)
    assert unstubbed.stdout == "a\n"
    refused = engines(*pmap[:-2], code=2, env={**stubbed, "s3_stubbed_session": other.uuid})
    assert "is not in this shell's session of the S3 stub" in refused.stderr
    assert other.usage() == (0, 0)


@pytest.fixture
def scheduler(home: Path) -> Iterator[str]:
    """The address of a Dask cluster that is no work of ours."""
    with subprocess.Popen(
        [sys.executable, "-c", SCHEDULER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout and process.stdin
        yield process.stdout.readline().strip()
        process.stdin.close()
        assert not process.stdout.read()  # until the last of its processes has ended


def test_it_is_pmap(scheduler: str, inv: Inv, home: Path, tmp_path: Path) -> None:
    engine = ["--engine", scheduler.replace("tcp:", "dask:")]
    many = "\n".join(map(str, range(200, 0, -1)))
    same = inv("mapreduce.pmap", "-", many, STEP, *engine, "--job", "same", "--results", str(tmp_path / "results"))
    assert same.code == 0, same.stderr
    files = same.stdout.splitlines()
    assert [Path(file).read_text() for file in files] == [f"{200 - n} {n + 1} 1\n{home}\n" for n in range(200)]
    assert {Path(file).with_suffix(".stderr").read_text() for file in files} == {"0\n", "1\n"}
    again = inv("mapreduce.pmap", "", many, STEP, *engine, "--resume")
    assert again.stdout.splitlines() == [line for file in files for line in Path(file).read_text().splitlines()]
    assert "200 results there" in again.stderr and "attempt" not in again.stderr
    explained = inv("mapreduce.explain", "same")
    assert explained.code == 0 and "200 of 200" in explained.stdout, explained.stderr

    flaky = inv("mapreduce.pmap", "-", "a\nb", '[ "$HARDWAY_ATTEMPT" -gt 2 ] && cat', *engine)
    assert (flaky.code, flaky.stdout) == (0, "a\nb\n")
    assert "6 attempts, 4 retries" in flaky.stderr

    mixed = "read -r x; case $x in 1) exit 3 ;; 2) sleep 60 & sleep 60 ;; 3) kill -9 $$ ;; esac; echo ok"
    flags = ["--retries", "0", "--keep-going", "--timeout", "1"]
    failed = inv("mapreduce.pmap", "-", "0\n1\n2\n3", mixed, *engine, *flags)
    assert (failed.code, failed.stdout) == (1, "ok\n\n\n\n"), "the places of those that failed are empty"
    for said in ("exit code 3", "timed out after 1 s", "killed by SIGKILL", "3 tasks failed, 1 of 4 are done"):
        assert said in failed.stderr
    assert f"--engine {scheduler}" in failed.stderr

    pid = tmp_path / "pid"
    with subprocess.Popen(
        [*INV, "mapreduce.pmap", "-", "a\nb\nc", f"echo $$ >>{pid}; sleep 600", *engine],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        running = eventually(lambda: pid.exists() and len(found := pid.read_text().split()) == 2 and found)
        assert running
        process.send_signal(signal.SIGINT)
        assert process.wait(patience(30)) == 130
        assert process.stderr
        said = process.stderr.read()
        # The arguments were text: they lie in the job's directory, so that the line is whole.
        line = re.search(r"0 of 3 tasks are done; to go on: \S*inv mapreduce\.pmap - @(\S+) ", said)
        assert line and Path(line[1]).read_text().split() == ["a", "b", "c"], said
    assert not [one for one in running if os.path.exists(f"/proc/{one}")]

    for flags, said in ((["--slots", "2"], "--slots"), (["--verify", "1"], "--verify"), (["--join"], "--join")):
        refused = inv("mapreduce.pmap", "-", "a", "cat", *engine, *flags)
        assert refused.code == 2 and f"{said} can't be used with --engine" in refused.stderr
    selected = inv("mapreduce.pmap", "i-0", "a", "cat", *engine)
    assert selected.code == 2 and "write - in place of SELECTOR" in selected.stderr


def test_a_scheduler_that_goes(home: Path, inv: Inv) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCHEDULER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL,
    ) as cluster:  # fmt: skip
        assert cluster.stdout and cluster.stdin
        address = cluster.stdout.readline().strip()
        journal = home / ".local" / "state" / "hardway" / "jobs" / "gone" / "journal"
        with ThreadPoolExecutor(1) as pool:
            command = f"read -r x; echo $$ >>{home}/pids; exec sleep $x"
            pmap = ["mapreduce.pmap", "-", "0\n2", command, "--engine", address, "--job", "gone"]
            job = pool.submit(lambda: inv(*pmap))
            eventually(lambda: journal.exists() and "\ndone " in journal.read_text())
            cluster.kill()
            gone = job.result(timeout=patience(60))
    assert gone.code == 1
    assert f"the scheduler at {address} has gone; 1 of 2 tasks are done; to go on" in gone.stderr
    assert "Traceback" not in gone.stderr
    # What a worker ran that was killed comes to its own end.
    eventually(lambda: not [one for one in (home / "pids").read_text().split() if os.path.exists(f"/proc/{one}")])
    nobody = inv("mapreduce.pmap", "-", "a", "cat", "--engine", address, env={"INVOKE_EC2_CONNECT_TIMEOUT": "1"})
    assert nobody.code == 1
    assert f"there is no Dask scheduler that answers at {address}" in nobody.stderr


def test_a_worker_that_refuses_after_others_have_run_tasks(home: Path, inv: Inv, tmp_path: Path) -> None:
    """The job has started: what is done is kept."""
    session = stub_sessions.start(tmp_path)
    stubbed = {"s3_stubbed_session": session.uuid, "s3_stubbed_tmp": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", MIXED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL, env={**os.environ, **stubbed},
    ) as cluster:  # fmt: skip
        assert cluster.stdout and cluster.stdin
        address = cluster.stdout.readline().strip()
        journal = home / ".local" / "state" / "hardway" / "jobs" / "mixed" / "journal"
        many = "\n".join(map(str, range(300)))
        pmap = ["mapreduce.pmap", "-", many, "sleep 0.2; cat", "--engine", address, "--job", "mixed"]
        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(lambda: inv(*pmap, env=stubbed))
            eventually(lambda: journal.exists() and "\ndone " in journal.read_text())
            cluster.stdin.write("\n")
            cluster.stdin.flush()
            refused = job.result(timeout=patience(100))
        cluster.stdin.close()
        assert not cluster.stdout.read()  # until the last of its processes has ended
    assert refused.code == 1
    assert "is not in this shell's session of the S3 stub" in refused.stderr
    assert "--resume mixed" in refused.stderr
    assert "\ndone " in journal.read_text()
