"""The answers of the shuffle are those of one process: in a session of the S3 stub, and on instances with a store."""

from __future__ import annotations

import collections
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from invoke import Context

from hardway.s3.stub_sessions import Session
from hardway.tasks import cluster, mapreduce

HERE = Path(__file__).parent
SEED, PARTS, ROWS = "7", ("1", "2", "3"), "400"


def run(*command: str, stdin: str = "") -> str:
    return subprocess.run(command, cwd=HERE, input=stdin, capture_output=True, text=True, check=True).stdout


def answers() -> Iterator[str]:
    """Yield the lines of all answers, in the order of the partitions, without any shuffle."""
    lines = [line for part in PARTS for line in run("python3", "trips.py", SEED, part, ROWS).splitlines()]
    trips = [(line, [int(field) for field in line.split(",")]) for line in lines]
    yield from (line for line, _ in sorted(trips, key=lambda trip: (trip[1][5], trip[0])))
    yield from (line for line, _ in sorted(trips, key=lambda trip: (-trip[1][4], trip[0]))[:10])
    number, cents = collections.Counter[int](), collections.Counter[int]()
    for _, fields in trips:
        number[fields[1]] += 1
        cents[fields[1]] += fields[5]
    for zone in sorted(number, key=lambda zone: (zone % 2, zone)):
        yield f"{zone},{number[zone]},{cents[zone]}"


def test_in_a_session_of_the_stub(s3_stub: Session) -> None:
    pieces = [run("bash", "step1.sh", SEED, ROWS, stdin=f"{part}\n") for part in PARTS]
    partitions = mapreduce.group(Context(), "".join(pieces))
    found = [run("bash", "step2.sh", stdin=f"{line}\n") for line in str(partitions).splitlines()]
    assert "".join(found).splitlines() == [*answers()]


@pytest.mark.instances(2)
def test_on_a_store(instances: list[str]) -> None:
    c = Context()
    files = [str(HERE / name) for name in ("step1.sh", "step2.sh", "trips.py")]
    cluster.store(c, instances, yes=True)
    pieces = mapreduce.pmap(c, instances, PARTS, f"bash step1.sh {SEED} {ROWS}", files=files, progress=False)
    partitions = mapreduce.group(c, pieces)
    found = mapreduce.pmap(c, instances, partitions, "bash step2.sh", files=files, progress=False)
    assert str(found).splitlines() == [*answers()]
