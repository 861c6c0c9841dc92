"""How fast the shuffle of examples/shuffle is on a store next to the AWS CLI on moto's S3, side by side in one run.

Run it with the project's Python: `python bench/shuffle.py [--parts N] [--rows N]`. Each step is a process of its own,
two at a time. On the store one instance maps and another reduces, so every byte is fetched over HTTP. Prints a table on
stderr and JSON on stdout, and exits with 1 where the answers differ or the limit is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.stub import TIMEOUT, moto
from hardway.clusters import store_server
from hardway.s3 import fast_aws
from hardway.s3.store_urls import store_bucket

SHUFFLE = Path(__file__).resolve().parents[1] / "examples" / "shuffle"
LEAST = 5.0
"""How many times faster than the AWS CLI's way it has to be."""
PORT = 29433
MEMBERS = {"i-00000001": "127.79.0.1", "i-00000002": "127.79.0.2"}
Variables = Mapping[str, str]


@contextlib.contextmanager
def store(work: Path) -> Iterator[list[dict[str, str]]]:
    """Two instances of a store, which are two homes; yields the variables of a task on each."""
    (work / "bin").mkdir()
    (work / "bin" / "aws").write_bytes(fast_aws.program())
    (work / "bin" / "aws").chmod(0o755)
    token, found = secrets.token_hex(32), []
    with contextlib.ExitStack() as servers:
        for one, address in MEMBERS.items():
            own = work / one / ".hardway-cluster" / "store"
            (own / "objects").mkdir(parents=True)
            (own / "token").write_text(token)
            members = "".join(f"{other} {there}\n" for other, there in MEMBERS.items())
            (own / "members").write_text(f"{one} {PORT} {own / 'objects'}\n{members}")
            program = [sys.executable, "-I", "-S", store_server.__file__]
            server = subprocess.Popen([*program, one, address, str(PORT), str(own / "objects"), str(own / "token")])
            servers.callback(server.wait)
            servers.callback(server.kill)
            path = f"{work / 'bin'}:{os.environ['PATH']}"
            found.append({"HOME": str(work / one), "PATH": path, "HARDWAY_STORE": f"s3://{store_bucket(one)}"})
        yield found


def cli(endpoint: str) -> list[dict[str, str]]:
    """The variables of a task with the AWS CLI, for both steps."""
    keys = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench-secret", "AWS_DEFAULT_REGION": "us-east-1"}
    boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="bench", aws_secret_access_key="bench", region_name="us-east-1"
    ).create_bucket(Bucket="bench")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return [{**keys, "PATH": path, "AWS_ENDPOINT_URL": endpoint, "HARDWAY_STORE": "s3://bench"}] * 2


def shuffle(mapping: Variables, reducing: Variables, parts: int, rows: int) -> tuple[float, bytes]:
    """Return the seconds of the whole job, and its answers."""

    def step(command: list[str], stdin: str, variables: Variables) -> bytes:
        outside = {name: text for name, text in os.environ.items() if not name.startswith(("AWS_", "s3_stubbed"))}
        return subprocess.run(
            command,
            cwd=SHUFFLE,
            env={**outside, **variables},
            input=stdin.encode(),
            stdout=subprocess.PIPE,
            check=True,
            timeout=TIMEOUT,
        ).stdout

    started = time.perf_counter()
    with ThreadPoolExecutor(2) as pool:
        first = ["bash", "step1.sh", "1", str(rows)]
        pieces = b"".join(pool.map(lambda part: step(first, f"{part}\n", mapping), range(parts))).decode()
        grouped: dict[str, list[str]] = {}
        for line in pieces.splitlines():
            partition, _, url = line.partition("\t")
            grouped.setdefault(partition, []).append(url)
        lines = ["\t".join([partition, *urls]) + "\n" for partition, urls in sorted(grouped.items())]
        answers = b"".join(pool.map(lambda line: step(["bash", "step2.sh"], line, reducing), lines))
    return time.perf_counter() - started, answers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--parts", type=int, default=4, help="parts of the input (4)")
    parser.add_argument("--rows", type=int, default=20_000, help="trips in each part (20000)")
    options = parser.parse_args()
    if not shutil.which("aws", path=str(Path(sys.executable).parent)):
        sys.exit("there is no AWS CLI beside this Python: pip install awscli")
    with tempfile.TemporaryDirectory() as name:
        with store(Path(name)) as (one, other):
            kept, answers = shuffle(one, other, options.parts, options.rows)
        with moto() as endpoint:
            taken, same = shuffle(*cli(endpoint), options.parts, options.rows)
    ratio = taken / kept
    print(f"store {kept:.2f} s  AWS CLI on moto {taken:.2f} s ({ratio:.1f} times)", file=sys.stderr)
    print(json.dumps({"store": kept, "aws": taken, "lines": answers.count(b"\n")}, indent=2))
    if answers != same:
        print("the answers differ", file=sys.stderr)
    elif ratio < LEAST:
        print(f"the store is {ratio:.2f} times as fast, not {LEAST:g}", file=sys.stderr)
    return 1 if answers != same or ratio < LEAST else 0


if __name__ == "__main__":
    sys.exit(main())
