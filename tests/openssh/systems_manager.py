"""Stand-ins for AWS's session-manager-plugin and for the AWS CLI in front of it: nobody can have the service here."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from tests.patience import patience

# Carries its stdin and stdout to the port asked for of the instance asked for, until its stdin ends. Notes its process.
PLUGIN = """#!/usr/bin/env python3
import json, os, socket, sys, threading
if sys.argv[1:] == ["--version"]:
    sys.exit(print("1.2.764.0"))
_, region, operation, profile, asked, endpoint = sys.argv[1:]
asked = json.loads(asked)
assert (operation, asked["DocumentName"]) == ("StartSession", "AWS-StartSSHSession"), sys.argv
open(os.path.join(os.path.dirname(__file__), "running"), "a").write(f"{os.getpid()} {region}\\n")
address = json.load(open(os.path.join(os.path.dirname(__file__), "addresses")))[asked["Target"]]
server = socket.create_connection((address, int(asked["Parameters"]["portNumber"][0])))
def back():
    while data := server.recv(65536):
        os.write(1, data)
    os._exit(0)
threading.Thread(target=back, daemon=True).start()
while data := os.read(0, 65536):
    server.sendall(data)
"""
# The real one takes most of a second to start.
AWS = """#!/usr/bin/env python3
import json, os, subprocess, sys
refusal = os.path.join(os.path.dirname(__file__), "refusal")
if os.path.exists(refusal):
    sys.exit(open(refusal).read())
ssm, operation, *flags = sys.argv[1:]
given = dict(zip(flags[::2], flags[1::2]))
asked = {
    "Target": given["--target"],
    "DocumentName": given["--document-name"],
    "Parameters": {"portNumber": [given["--parameters"].removeprefix("portNumber=")]},
}
plugin = ["session-manager-plugin", "NAME", given["--region"], "StartSession", "", json.dumps(asked), ""]
sys.exit(subprocess.call(plugin))
"""


def stand_ins(parent: Path, addresses: Mapping[str, str]) -> Path:
    """A directory for PATH with both; `addresses` is where instances really are, by their ids."""
    directory = parent / "programs"
    directory.mkdir()
    (directory / "addresses").write_text(json.dumps(addresses))
    write(directory / "session-manager-plugin", PLUGIN)
    write(directory / "aws", AWS)
    return directory


def write(path: Path, script: str) -> None:
    """Write a program."""
    path.write_text(script)
    path.chmod(0o755)


def ended(programs: Path) -> bool:
    """Whether every plugin that was started is gone, within some seconds."""
    numbers = [int(line.split()[0]) for line in (programs / "running").read_text().splitlines()]
    deadline = time.monotonic() + patience(5)
    while any(Path(f"/proc/{number}").exists() for number in numbers):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return bool(numbers)
