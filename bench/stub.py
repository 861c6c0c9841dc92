"""How fast the S3 stub is next to the real AWS CLI on moto, side by side in one run.

Run it with the project's Python: `python bench/stub.py [--runs N]`. Prints a table on stderr and JSON on stdout, and
exits with 1 where a limit is missed. Both sides start a process a command, as scripts do; moto answers on loopback,
so the CLI's network is free.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hardway.s3 import stub_sessions

SMALL_FILES = 1_000
LISTED_KEYS = 10_000
TIMEOUT = 600
LIMITS = {"cp": 0.015, "ls": 0.015, "rm": 0.015, "cp --recursive": 1.5, "sync": 1.5, "ls --recursive": 0.3}
SINGLE = ("cp", "ls", "rm")


@contextlib.contextmanager
def moto() -> Iterator[str]:
    """An S3 of moto in a process of its own; yields its URL."""
    code = (
        "import sys; from moto.server import ThreadedMotoServer;"
        "s = ThreadedMotoServer(ip_address='127.0.0.1', port=0, verbose=False); s.start();"
        "print(s.get_host_and_port()[1], flush=True); sys.stdin.read(); s.stop()"
    )
    pipe = subprocess.PIPE
    server = subprocess.Popen(
        [sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert server.stdin and server.stdout
        yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        server.stdin.close()
        server.wait(timeout=30)
    finally:
        server.kill()
        server.wait()


def seconds(command: list[str], environment: dict[str, str], cwd: Path) -> float:
    """The wall-clock seconds of one command, its output thrown away."""
    start = time.perf_counter()
    subprocess.run(
        command,
        env=environment,
        cwd=cwd,
        check=True,
        timeout=TIMEOUT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    return time.perf_counter() - start


def measure(aws: str, environment: dict[str, str], work: Path, runs: int) -> dict[str, float]:
    """The median seconds of each command; `runs` is how often the short ones are timed."""
    subprocess.run([aws, "s3", "mb", "s3://bench"], env=environment, check=True, stdout=subprocess.DEVNULL)
    repeated: dict[str, list[float]] = {name: [] for name in SINGLE}
    for number in range(runs):
        key = f"s3://bench/single/{number}"
        for name, args in (("cp", ["cp", "one", key]), ("ls", ["ls", key]), ("rm", ["rm", key])):
            repeated[name].append(seconds([aws, "s3", *args], environment, work))
    taken = {name: statistics.median(times) for name, times in repeated.items()}
    for name, args in (
        ("cp --recursive", ["cp", "small", "s3://bench/cp", "--recursive"]),
        ("sync", ["sync", "small", "s3://bench/sync"]),
    ):
        taken[name] = seconds([aws, "s3", *args], environment, work)
    subprocess.run(
        [aws, "s3", "cp", "many", "s3://bench/many", "--recursive", "--quiet"],
        env=environment, cwd=work, check=True, timeout=TIMEOUT,
    )  # fmt: skip
    listing = [aws, "s3", "ls", "s3://bench/many/", "--recursive"]
    taken["ls --recursive"] = statistics.median(seconds(listing, environment, work) for _ in range(3))
    return taken


def fill(work: Path) -> None:
    (work / "one").write_text("one\n")
    for name, number in (("small", SMALL_FILES), ("many", LISTED_KEYS)):
        for index in range(number):
            path = work / name / f"part-{index % 20:02}" / f"file-{index:05}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name} {index}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=15, help="how often the short commands are timed (15)")
    options = parser.parse_args()
    real_aws = Path(sys.executable).with_name("aws")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with tempfile.TemporaryDirectory() as work, moto() as endpoint, stub_sessions.session() as session:
        fill(Path(work))
        cli = {
            **clean,
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        stub = measure(str(stub_sessions.directory() / "aws"), session.environment, Path(work), options.runs)
        real = measure(shutil.which("aws", path=str(real_aws.parent)) or str(real_aws), cli, Path(work), options.runs)
    rows = {
        name: {
            "stub_seconds": round(stub[name], 4),
            "cli_seconds": round(real[name], 4),
            "ratio": round(real[name] / stub[name], 1),
            "limit_seconds": limit,
            "ok": stub[name] <= limit and (name not in SINGLE or real[name] / stub[name] >= 30),
        }
        for name, limit in LIMITS.items()
    }
    print(f"{'':16}{'stub':>10}{'real CLI':>10}{'ratio':>8}{'limit':>9}", file=sys.stderr)
    for name, row in rows.items():
        print(
            f"{name:16}{row['stub_seconds']:9.4f}s{row['cli_seconds']:9.3f}s{row['ratio']:7.1f}x"
            f"{row['limit_seconds']:8.3f}s{'' if row['ok'] else '  over'}",
            file=sys.stderr,
        )
    print(json.dumps({"files": SMALL_FILES, "keys": LISTED_KEYS, "commands": rows}, indent=2))
    return 0 if all(row["ok"] for row in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
