"""The program `hardway`, also as `python -m hardway`."""

from __future__ import annotations

import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any


def main() -> None:
    """Run the tasks of `hardway.tasks`, from any directory, without a tasks.py."""
    run("hardway.tasks", "hardway")


def run(tasks: str, name: str, project: Path | None = None) -> None:
    """Run the tasks of the module `tasks` as the program `name`, with the settings in `project`: see `Program`."""
    # Ctrl-C would interrupt the imports with a traceback; once a task runs, it raises again.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    import_module("hardway.system.streams").secure()
    hardway_error = import_module("hardway.errors").HardwayError
    try:
        namespace = import_module(tasks).ns
    except hardway_error as error:  # a variable of the environment with a bad value
        print(error, file=sys.stderr)
        sys.exit(error.code)
    program = import_module("hardway.cli.program").Program

    def values(*place: Any) -> Any:
        return import_module(f"{tasks}.completion").values(*place)

    program(name=name, binary=name, binary_names=[name], namespace=namespace, project=project, values=values).run()


if __name__ == "__main__":
    main()
