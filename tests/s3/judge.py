"""The real AWS CLI as a server: reads a command a line as JSON on stdin, runs each in a fork, answers in JSON.

Importing the CLI takes half a second; a fork of a process that has done so takes none of it.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

from awscli import clidriver  # type: ignore[import-untyped]
from awscli.customizations.s3 import subcommands  # type: ignore[import-untyped]  # noqa: F401  imported before the first fork

VERSION_2 = hasattr(clidriver, "AWSCLIEntryPoint")
# version 2 reads AWS_ENDPOINT_URL from 2.13 on
BEFORE = ["--endpoint-url", os.environ["AWS_ENDPOINT_URL"]] if VERSION_2 else []


def run(entry: Callable[[list[str]], Any], command: dict[str, Any]) -> dict[str, Any]:
    """The exit code and the output, in surrogate-escaped text, of one command."""
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        stdin.write(command["stdin"].encode("utf-8", "surrogateescape"))
        stdin.seek(0)
        pid = os.fork()
        if pid == 0:
            code = 70
            try:
                for number, file in enumerate((stdin, out, err)):
                    os.dup2(file.fileno(), number)
                os.chdir(command["cwd"])
                os.environ.update(command["environment"])
                # argparse names the program after it
                sys.argv = ["aws", *command["args"]]
                code = entry([*BEFORE, *command["args"]])
            except SystemExit as exit:
                code = exit.code if isinstance(exit.code, int) else 1
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code or 0)
        _, status = os.waitpid(pid, 0)
        answer: dict[str, Any] = {"code": os.waitstatus_to_exitcode(status)}
        for name, file in (("stdout", out), ("stderr", err)):
            file.seek(0)
            answer[name] = file.read().decode("utf-8", "surrogateescape")
        return answer


def remember_clients(session: Any) -> None:
    """Let equal calls of create_client share a client: making its three takes most of the time of a `cp`."""
    create = session.create_client
    made: dict[str, Any] = {}

    def create_client(*args: Any, **kwargs: Any) -> Any:
        # the client of an earlier command has no hook for the file that get-object writes
        if kwargs.get("config") is not None or "get-object" in sys.argv:
            return create(*args, **kwargs)
        call = repr((args, sorted(kwargs.items())))
        if call not in made:
            made[call] = create(*args, **kwargs)
        return made[call]

    session.create_client = create_client


def main() -> None:
    driver = clidriver.create_clidriver()
    entry = driver.main
    if VERSION_2:
        entry = clidriver.AWSCLIEntryPoint(driver).main
        # its C library has a thread for its log, and doesn't start one in a fork
        clidriver.disable_crt_logging = lambda: None
    driver._get_command_table()
    remember_clients(driver.session)
    # what the first command imports and caches, every fork has; one of s3api would change those after it
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        entry([*BEFORE, "s3", "ls"])
    driver.session.get_waiter_model("s3")
    driver.session.get_paginator_model("s3")
    # a collection in a fork would copy every page it looks at
    gc.freeze()
    gc.disable()
    channel = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        json.dump(run(entry, json.loads(line)), channel)
        channel.write("\n")
        channel.flush()


if __name__ == "__main__":
    main()
