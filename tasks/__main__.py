"""The program `inv` of this checkout, started by `./inv` in any directory, with the checkout's tasks and invoke.yaml."""

from __future__ import annotations

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]

if __name__ == "__main__":
    sys.path[0] = str(CHECKOUT)
    # What a person types, for the line that goes on with a job.
    sys.argv[0] = str(CHECKOUT / "inv")
    from hardway.__main__ import run

    run("tasks", "inv", CHECKOUT)
