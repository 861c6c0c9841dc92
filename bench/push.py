"""How fast a file comes to many instances, against the tools that people use for that, on the same hosts.

Hosts are Debian's sshd on loopback addresses, each with a home directory of its own (needs root). First what we send
passes a proxy that lets so many bytes a second through, as a laptop's uplink does, and instances reach each other
without it; then nothing is limited. Peers that aren't installed are left out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from hosts import Cluster, cluster, row

from tests.pmap.proxy import Proxy

ROUNDS = 2


def copy(one: Cluster, file: Path, hosts: int, *flags: str) -> float:
    """Seconds of our copy to the first so many instances; it has come whole."""
    ids = " ".join(one.ids[:hosts])
    name = f"copy{time.monotonic_ns()}"
    seconds, _ = one.inv("ec2.scp", str(file), f":{name}", ids, "--yes", *flags)
    for address in one.addresses[:hosts]:
        landed = one.folder / address / name
        assert landed.stat().st_size == file.stat().st_size
        landed.unlink()
    return seconds


def limited(size: int, hosts: int, rate: float) -> list[dict]:
    """Through the narrow uplink: to many in how many times the time of one."""

    def narrow(inside: list[str], port: int) -> tuple[list[str], Proxy]:
        outside = [address.replace("127.79.", "127.80.") for address in inside]
        return outside, Proxy(outside, port, targets=inside, rate=rate)

    with cluster(hosts, own_homes=True, outside=narrow) as one:
        file = made(one, size)
        alone = copy(one, file, 1)
        spread = copy(one, file, hosts)
    what = f"{size >> 20} MiB, uplink {rate / 2**20:g} MiB/s"
    return [
        row(f"{what}: to 1", "ec2.scp", alone, "s"),
        row(f"{what}: to {hosts}", "ec2.scp", spread, "s", spread / alone, "<= 2.5"),
    ]


def unlimited(size: int, hosts: int) -> list[dict]:
    """Without a limit, against the peers; the best of a few rounds of each, taken in turn."""
    with cluster(hosts, own_homes=True) as one:
        file = made(one, size)
        config = one.folder / "ssh_config"
        config.write_text(
            f"Host *\nUserKnownHostsFile {one.folder}/known\nStrictHostKeyChecking no\nLogLevel ERROR\n"
            f"IdentityFile {one.folder}/.local/share/hardway/id_ed25519\nPort {one.port}\n"
        )
        ways = {
            "ec2.scp": lambda: copy(one, file, hosts),
            "ec2.scp --direct": lambda: copy(one, file, hosts, "--direct"),
            "clush --copy": lambda: peer(
                one, "clush", "-f", str(hosts), "-o", f"-F {config}", "-w", ",".join(one.addresses), "--copy",
                str(file), "--dest", f"{Path('~root').expanduser()}/peer",
            ),
            "rsync under xargs": lambda: peer(
                one, "xargs", "-P", str(hosts), "-n1", "sh", "-c",
                f'exec rsync -e "ssh -F {config}" {file} "$0":peer', stdin="\n".join(one.addresses),
            ),
        }  # fmt: skip
        if not shutil.which("clush"):
            del ways["clush --copy"]
        if not shutil.which("rsync"):
            del ways["rsync under xargs"]
        best = {name: min(way() for _ in range(ROUNDS)) for name, way in ways.items()}
    what = f"{size >> 20} MiB to {hosts}, no limit"
    ours = best["ec2.scp"]
    goals = {"clush --copy": "<= 1.0", "rsync under xargs": "<= 1.0"}
    rows = [row(what, "ec2.scp", ours, "s")]
    for name, seconds in best.items():
        if name != "ec2.scp":
            rows.append(row(what, name, seconds, "s", ours / seconds, goals.get(name, "")))
    return rows


def peer(one: Cluster, *command: str, stdin: str = "") -> float:
    began = time.monotonic()
    done = subprocess.run(command, env=one.env, input=stdin, capture_output=True, text=True, timeout=300)
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr
    for address in one.addresses:
        (one.folder / address / "peer").unlink()
    return seconds


def made(one: Cluster, size: int) -> Path:
    file = one.folder / "file"
    with file.open("wb") as target:
        for _ in range(size >> 20):
            target.write(os.urandom(1 << 20))
    return file


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=64)
    parser.add_argument("--hosts", type=int, default=32)
    parser.add_argument("--rate", type=float, default=8, help="MiB/s of the uplink")
    given = parser.parse_args()
    if os.getuid():
        parser.error("each host gets a home directory of its own: that needs root")
    rows = limited(given.mib << 20, given.hosts, given.rate * 2**20) + unlimited(given.mib << 20, given.hosts)
    return 0 if all(one["met"] is not False for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
