"""Instances for the length of a block or of a local command: terminated at its end, however it ends.

A `kill -9` of this process leaves the instances to their own end, `--max-hours`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from hardway import aws
from hardway.config import Settings, child_environment
from hardway.ec2 import instances
from hardway.errors import Failed, HardwayError
from hardway.money import budget, costs
from hardway.system import signals
from hardway.tables import count

_PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before each further try to terminate the instances
_END_SECONDS = 20.0  # for a command to end by itself after a signal: a job ends its tasks on the instances first


@contextlib.contextmanager
def terminated(settings: Settings, say: Callable[[str], None]) -> Iterator[list[str]]:
    """Yield an empty list; terminate the instances whose ids are in it at the end of the block.

    SIGTERM and SIGHUP interrupt the block as Ctrl-C does, and become a HardwayError. Raises Failed if instances can't
    be terminated; after an error of the block `say` is told.
    """
    ids: list[str] = []
    with signals.raised():
        try:
            yield ids
        except BaseException as error:
            if failure := _end(settings, ids, say):
                say(failure)
            if isinstance(error, signals.Signal):
                raise signals.as_error(error) from None
            raise
        if failure := _end(settings, ids, say):
            raise Failed(failure)


def run(command: str, ids: Iterable[str], added: Mapping[str, str]) -> None:
    """Run a command by bash on this machine, with `ids`, one a line, and `added` in its environment.

    Raises HardwayError with its exit code unless that is 0. After Ctrl-C or a Signal the command gets the same signal,
    and is killed if it goes on for long.
    """
    words = [shutil.which("bash") or "/bin/sh", "-c", command]
    # A terminal sends Ctrl-C to the whole foreground group, and only that may read from it.
    shares_group = sys.stdin is not None and sys.stdin.isatty()
    environment = child_environment({"ids": "\n".join(ids), **added})
    process = subprocess.Popen(words, env=environment, start_new_session=not shares_group)

    def send(number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number) if shares_group else os.killpg(process.pid, number)

    try:
        code = process.wait()
    except KeyboardInterrupt as interrupt:
        number = interrupt.args[0] if isinstance(interrupt, signals.Signal) else signal.SIGINT
        if not (shares_group and number == signal.SIGINT):
            send(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
        raise
    finally:
        if process.poll() is None:
            send(signal.SIGKILL)
            process.wait()
    if code:
        code = code if code > 0 else 128 - code
        raise HardwayError("" if code == 128 + signal.SIGPIPE else f"--for: the command's exit code is {code}", code)


def _end(settings: Settings, ids: list[str], say: Callable[[str], None]) -> str:
    """Terminate instances; return the failure as a text, empty if none is left."""
    if not ids:
        return ""
    failure = ""
    with signals.ignored():
        for pause in (*_PAUSES, 0.0):
            unknown: list[str] = []
            try:
                found = instances.select(settings, ids, states=instances.STATES, on_unknown=unknown.append)
                done = instances.terminate(settings, [one for one in found if one.state in instances.ALIVE])
                if done:
                    bill = costs.bill(settings, done, say)
                    budget.note(settings, bill)
                    say(f"terminated {count(len(done), 'instance')}, cost so far: {bill.usd}")
                failure = "; ".join(f"{one}: {why}" for one, why in done.failed.items())
            except Exception as error:
                failure = str(aws.translate(error) or error)
            # EC2 may not know new instances yet, and forgets instances that ended long ago.
            if not (failure or unknown):
                break
            time.sleep(pause)
    if not failure:
        return ""
    again = settings.command("ec2.rm", " ".join(ids), "--yes")
    return f"instances could not be terminated ({failure}); they cost money until they end themselves: run `{again}`"
