"""How long a command takes before it does anything, against its peers, one after the other, again and again.

`./inv` against a bare Invoke with a tasks.py of one task, where both list tasks, show help and complete a word;
`ec2.ls` of 50 instances of moto's against awscli and the shortest boto3 script. Prints medians, of the seconds on the
clock and on the CPU and of the ratios within each round (that of the CPU stands still on a busy machine), and JSON on
stdout; exit code 1 where a ratio is over its limit.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import boto3

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.stub import moto

ROOT = Path(__file__).resolve().parents[1]
INSTANCES = 50
BOTO3 = """
import boto3
for page in boto3.client("ec2").get_paginator("describe_instances").paginate():
    for reservation in page["Reservations"]:
        for instance in reservation["Instances"]:
            print(instance["InstanceId"], instance["InstanceType"], instance["State"]["Name"])
"""
TASKS = """
from invoke import task

@task
def hello(c, name=""):
    print(name)
"""
# A command, its peer, and how many times the peer's time it may take.
LIMITS = (
    ("./inv --list", "inv --list", 1.25),
    ("./inv --help", "inv --help", 1.25),
    ("./inv --complete", "inv --complete", 1.25),
    ("./inv ec2.ls", "aws ec2 describe-instances", 0.75),
)
SHOWN = (
    *LIMITS,
    ("./inv ec2.ls", "boto3 script", 0.0),
    ("hardway --list", "inv --list", 0.0),
    ("inv --list of examples/nightly", "inv --list", 0.0),
)


def compiled() -> None:
    """Imports without .pyc files take three times as long, ours and the peers'."""
    for folder in (ROOT / "hardway", ROOT / "tasks", Path(sysconfig.get_path("purelib"))):
        compileall.compile_dir(str(folder), quiet=2, workers=2)


def commands(bare: Path) -> dict[str, tuple[Path, list[str]]]:
    """By name: the directory to run it in, and the command."""
    binaries = Path(sys.executable).parent
    inv, ours = str(binaries / "inv"), str(ROOT / "inv")
    return {
        "inv --list": (bare, [inv, "--list"]),
        "./inv --list": (ROOT, [ours, "--list"]),
        "hardway --list": (ROOT, [str(binaries / "hardway"), "--list"]),
        "inv --list of examples/nightly": (ROOT / "examples" / "nightly", [inv, "--list"]),
        "inv --help": (bare, [inv, "--help", "hello"]),
        "./inv --help": (ROOT, [ours, "--help", "ec2.new"]),
        "inv --complete": (bare, [inv, "--complete", "--", "inv", "hello", "--"]),
        "./inv --complete": (ROOT, [ours, "--complete", "--", "inv", "ec2.new", "--"]),
        "./inv ec2.ls": (ROOT, [ours, "ec2.ls"]),
        "aws ec2 describe-instances": (bare, [str(binaries / "aws"), "ec2", "describe-instances"]),
        "boto3 script": (bare, [sys.executable, "-c", BOTO3]),
    }


def seconds(folder: Path, command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """The time of one run on the clock and on the CPU."""
    before = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return time.perf_counter() - before, used.ru_utime + used.ru_stime


def measure(runs: int) -> dict[str, list[tuple[float, float]]]:
    """By command: seconds on the clock and on the CPU, of each round."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "INVOKE_"))}
    taken: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as work, moto() as endpoint:
        (Path(work) / "tasks.py").write_text(TASKS)
        keys = {"aws_access_key_id": "bench", "aws_secret_access_key": "bench", "region_name": "us-east-1"}
        environment = {
            **clean,
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": endpoint,
            "HOME": work,
        }
        ec2 = boto3.client("ec2", endpoint_url=endpoint, **keys)
        image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        ec2.run_instances(ImageId=image, MinCount=INSTANCES, MaxCount=INSTANCES)
        for run in range(runs + 1):
            for name, (folder, command) in commands(Path(work)).items():
                result = seconds(folder, command, environment)
                if run:  # the first warms up
                    taken.setdefault(name, []).append(result)
    return taken


def ratio(mine: list[tuple[float, float]], peers: list[tuple[float, float]], which: int) -> float:
    """The median of the rounds' ratios, of the clock (0) or the CPU (1)."""
    return round(statistics.median(a[which] / b[which] for a, b in zip(mine, peers, strict=True)), 2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=15, help="how often each command is timed (15)")
    options = parser.parse_args()
    compiled()
    taken = measure(options.runs)
    medians = {name: [round(statistics.median(both), 3) for both in zip(*taken[name], strict=True)] for name in taken}
    for name, (clock, cpu) in medians.items():
        print(f"{name:32}{clock:7.3f} s on the clock{cpu:7.3f} s on the CPU", file=sys.stderr)
    rows, missed = [], False
    for name, peer, limit in SHOWN:
        clock, cpu = (ratio(taken[name], taken[peer], which) for which in (0, 1))
        over = bool(limit) and clock > limit
        missed = missed or over
        rows.append({"command": name, "peer": peer, "ratio": clock, "cpu_ratio": cpu, "limit": limit or None})
        at_most = f", at most {limit}{': over' if over else ''}" if limit else ""
        print(f"{name} / {peer}: {clock:.2f} (CPU {cpu:.2f}){at_most}", file=sys.stderr)
    print(json.dumps({"instances": INSTANCES, "seconds": medians, "ratios": rows}, indent=2))
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
