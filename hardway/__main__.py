"""The program `hardway`, also as `python -m hardway`."""

from __future__ import annotations

import signal
from importlib import import_module


def prepare() -> None:
    """Make this process a program, before the imports that take long."""
    # Ctrl-C would interrupt the imports with a traceback; once a task runs, it raises again.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    import_module("hardway.streams").secure()


def main() -> None:
    """Run the tasks of `hardway.tasks`, from any directory, without a tasks.py."""
    prepare()
    import_module("hardway.tasks").main("hardway")


if __name__ == "__main__":
    main()
