"""The program `inv` of this checkout, which `./inv` starts: its tasks and its invoke.yaml, from any directory."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

from hardway.__main__ import prepare

HERE = Path(__file__).resolve().parent

if __name__ == "__main__":
    # What a person types, for help, completion and the line that goes on with a job.
    sys.argv[0] = str(HERE / "inv")
    prepare()
    import_module("tasks").main("inv", HERE)
