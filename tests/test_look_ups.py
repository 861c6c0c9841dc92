"""Calls at the same time: Ctrl-C ends the wait for them, wherever the system delivers it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.patience import patience

PROGRAM = """
import signal, sys, threading, time
from hardway.system.look_ups import LookUps

def hang():
    time.sleep(0.3)  # until the main thread waits
    # As if the signal had come just before the wait: nothing wakes the main thread.
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    threading.Event().wait(60)

try:
    with LookUps(1) as calls:
        call = calls.submit(hang)
        if sys.argv[1] == "result":
            call.result()
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("waits_for", ["result", "end"])
def test_ctrl_c_is_seen_though_nothing_wakes_the_main_thread(waits_for: str) -> None:
    command = [sys.executable, "-c", PROGRAM, waits_for]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patience(20))
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")
