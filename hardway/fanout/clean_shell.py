"""rsync's remote shell: `ssh`, without the output of start-up files, and with a POSIX shell for rsync's line.

rsync starts this program as its remote shell: `python -m hardway.fanout.clean_shell ssh OPTION... HOST rsync --server
...`. Without it, rsync takes a start-up file's output for its own data, and gives up: "is your shell clean?".
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO

from hardway.ssh.script import Launch, Words, not_run

_CHUNK = 1 << 18
_STDIN, _STDOUT, _STDERR = range(3)


def main(arguments: Sequence[str]) -> int:
    """Run the command line in `arguments`, and return its exit code."""
    at = next((i for i, word in enumerate(arguments) if list(arguments[i : i + 2]) == ["rsync", "--server"]), 0)
    if not at:
        print("this is for rsync to start", file=sys.stderr)
        return 2
    launch = Launch(" ".join(arguments[at:]), both=True)
    words, complaints = Words(launch.begin, launch.end), Words(launch.begin)
    running: list[subprocess.Popen[bytes]] = []
    ending = threading.Event()

    def end(*_: object) -> None:
        ending.set()
        for each in running:
            each.kill()

    # rsync ends its remote shell by SIGUSR1, maybe while ssh starts. A host that hangs would keep ssh waiting.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, end)
    with subprocess.Popen(
        [*arguments[:at], launch.line], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as ssh:
        assert ssh.stdin and ssh.stdout and ssh.stderr
        running.append(ssh)
        if ending.is_set():
            ssh.kill()
        # rsync may keep our stdin open until we have ended.
        threading.Thread(target=_feed, args=(launch.head, ssh.stdin), daemon=True).start()
        talk = threading.Thread(target=_pass_on, args=(ssh.stderr, _STDERR, complaints))
        talk.start()
        _pass_on(ssh.stdout, _STDOUT, words)
        talk.join()
        code = ssh.wait()
    if words.code is not None:
        return words.code
    if not words.begun and code not in (0, 255):  # 255: ssh itself has said why
        print(not_run(code, complaints, words), file=sys.stderr)
    return code or 1


def _feed(head: bytes, sink: IO[bytes]) -> None:
    with contextlib.suppress(OSError):  # it has ended
        data = head
        while data:
            _write(sink.fileno(), data)
            data = os.read(_STDIN, _CHUNK)
    with contextlib.suppress(OSError):
        sink.close()


def _pass_on(source: IO[bytes], sink: int, words: Words) -> None:
    """Pass on the command's own output; if the command never begins, pass on ssh's error messages."""
    with contextlib.suppress(OSError):
        while data := source.read(_CHUNK):
            if words.too_much:
                return
            _write(sink, words.feed(data))
        _write(sink, words.rest() if words.begun else words.noise().encode() if sink == _STDERR else b"")


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
