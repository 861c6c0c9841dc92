"""The program `inv` of this checkout, which `./inv` starts: its tasks and its invoke.yaml, from any directory."""

from __future__ import annotations

import sys
from pathlib import Path

from hardway.__main__ import run

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    # What a person types, for the line that goes on with a job.
    sys.argv[0] = str(HERE / "inv")
    run("tasks", "inv", HERE)
