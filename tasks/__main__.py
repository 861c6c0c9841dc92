"""The program `inv` of this checkout, which `./inv` starts with the checkout's tasks, from any directory."""

from __future__ import annotations

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]

if __name__ == "__main__":
    sys.path[0] = str(CHECKOUT)
    # The name that a person types, for the line that goes on with a job.
    sys.argv[0] = str(CHECKOUT / "inv")
    from hardway.__main__ import run

    run("tasks", "inv", CHECKOUT)
