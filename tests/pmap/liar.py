"""A program in place of python3 on a host: it gets our agent as python3 would, and does something else with it.

`liar.py KIND SEED FILE`: FILE is made once it has spoken. Each kind but the SICK is one that no honest agent shows.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any


class Liar:
    """The other end of the protocol, by the definitions of the agent that was sent."""

    def __init__(self, source: bytes, seed: int, spoken: str) -> None:
        self.source = source
        self.random = random.Random(seed)
        self.spoken = spoken
        self.agent: dict[str, Any] = {"__name__": "agent"}
        exec(source.rpartition(b"\nmain(")[0], self.agent)
        self.frames = self.agent["Frames"]()

    def __getattr__(self, name: str) -> Any:
        return self.agent[name]

    def say(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(1, view) :]
        with open(self.spoken, "w"):
            pass

    def hello(self, *holdings: tuple[int, int, int, int, float, float], cpus: int = 2) -> None:
        about = f"{self.VERSION} {'a' * 16} {cpus} {len(holdings)}\n".encode()
        packed = b"".join(self.HOLDING.pack(*one) for one in holdings)
        self.say(self.MARK + self.frame(self.HELLO, 0, 0, about + packed))

    def heard(self) -> Iterator[tuple[int, int, int, bytes]]:
        """The driver's frames; pings are answered. Ends with the connection."""
        while data := os.read(0, 1 << 16):
            for frame in self.frames.feed(data):
                if frame[0] == self.PING:
                    self.say(self.frame(self.PONG, 0, 0, frame[3]))
                yield frame

    def given(self) -> Iterator[tuple[int, int]]:
        """Tasks, and attempts, that are sent here."""
        for kind, task, attempt, _ in self.heard():
            if kind == self.RUN:
                yield task, attempt

    def done(self, task: int, attempt: int, forged: bytes = b"forged\n") -> bytes:
        return bytes(self.frame(self.DONE, task, attempt, self.result(len(forged), forged) + forged))

    def result(self, size: int, out: bytes, seconds: float = 0.1) -> bytes:
        return bytes(self.RESULT.pack(0, 0, seconds, size, 0, zlib.crc32(out), 0))

    def started(self, task: int, attempt: int, slot: int = 0) -> bytes:
        return bytes(self.frame(self.STARTED, task, attempt, self.START.pack(slot, time.monotonic())))

    # The kinds

    def holds_all(self) -> None:
        """It says that it has all results."""
        self.hello(*((task, 1, self.ENDED, 0, 1.0, 0.1) for task in range(1, 21)))
        self.say(b"".join(self.done(task, 1) for task in range(1, 21)))
        self.listen()

    def holds_one(self) -> None:
        self.hello((3, 1, self.ENDED, 0, 1.0, 0.1))
        self.listen()

    def runs_all(self) -> None:
        self.hello(*((task, 1, self.RUNNING, 0, 1.0, 0.1) for task in range(1, 21)))
        self.listen()

    def last_attempt(self) -> None:
        self.hello((1, 65_535, self.RUNNING, 0, 1.0, 0.1))
        self.listen()

    def many_cpus(self) -> None:
        self.hello(cpus=10**8)
        self.listen()

    def ends_others(self) -> None:
        """It gives results of tasks that are not its own."""
        self.hello()
        for task, _ in self.given():
            others = [other for other in range(1, 21) if other != task]
            self.say(b"".join(self.done(other, 1) for other in others))

    def ends_unstarted(self) -> None:
        self.hello()
        for task, attempt in self.given():
            self.say(self.done(task, attempt))

    def starts_twice(self) -> None:
        self.hello()
        for task, attempt in self.given():
            self.say(2 * self.started(task, attempt))

    def starts_in_no_slot(self) -> None:
        self.hello()
        for task, attempt in self.given():
            self.say(self.started(task, attempt, slot=1))

    def shares_a_slot(self) -> None:
        """Its results are right, and take longer than it is until the next task starts there."""
        self.hello()
        for kind, task, attempt, payload in self.heard():
            if kind == self.RUN:
                said = self.result(len(payload), payload, seconds=5.0) + payload
                self.say(self.started(task, attempt) + self.frame(self.DONE, task, attempt, said))

    def gives_back_unasked(self) -> None:
        self.hello()
        for task, attempt in self.given():
            self.say(self.frame(self.RETURNED, task, attempt))

    def gives_back_what_runs(self) -> None:
        self.hello()
        for task, attempt in self.given():
            self.say(self.started(task, attempt) + self.frame(self.RETURNED, task, attempt))

    def short_output(self) -> None:
        """It says that there is more output than it sends."""
        self.hello()
        for task, attempt in self.given():
            said = self.result(100, b"forged") + b"forged"
            self.say(self.started(task, attempt) + self.frame(self.DONE, task, attempt, said))

    def greets_twice(self) -> None:
        self.hello()
        self.say(self.frame(self.HELLO, 0, 0, f"{self.VERSION} {'a' * 16} 2 0\n".encode()))
        self.listen()

    def stays_after_goodbye(self) -> None:
        self.hello()
        self.say(self.frame(self.BYE) + self.frame(self.PONG))
        self.listen()

    def gibibyte(self) -> None:
        """One frame of output without end."""
        self.hello()
        for task, attempt in self.given():
            self.say(self.started(task, attempt) + self.HEAD.pack(1 << 30, self.CHUNK, task, attempt))
            for _ in range(1 << 10):
                self.say(bytes(1 << 20))

    def floods(self) -> None:
        """Small frames without end, which say nothing."""
        self.hello()
        for _ in range(1 << 12):
            self.say(1000 * bytes(self.frame(self.PONG)))

    def goes_at_once(self) -> None:
        """It ends as soon as it has greeted, always the same."""
        self.hello()

    def complains(self) -> None:
        """With terminal codes."""
        self.hello()
        for _ in range(1000):
            self.say(self.frame(self.ERROR, 0, 0, b"\x1b]52;c;x\x07oops\nforged row\n"))
        self.listen()

    def mutates(self) -> None:
        """Our own agent, of whose frames some are lost, doubled, swapped, cut short or of something else."""
        source = os.memfd_create("agent")  # an argument of a program is not as long
        os.write(source, self.source)
        words = [sys.executable, "-IS", "-c", f"exec(open('/proc/self/fd/{source}', 'rb').read())"]
        agent = subprocess.Popen(words, stdin=0, stdout=subprocess.PIPE, pass_fds=[source])
        assert agent.stdout
        frames = self.agent["Frames"]()
        marked = b""
        try:
            while data := os.read(agent.stdout.fileno(), 1 << 16):
                if self.MARK not in marked:
                    marked += data
                    data = marked.partition(self.MARK)[2]
                    if self.MARK in marked:
                        self.say(self.MARK)
                for frame in frames.feed(data):
                    self.say(b"".join(bytes(self.frame(*one)) for one in self.mutated(*frame)))
        finally:
            agent.kill()
            agent.wait()

    def mutated(self, kind: int, task: int, attempt: int, payload: bytes) -> list[tuple[int, int, int, bytes]]:
        same = kind, task, attempt, payload
        if self.random.random() > 0.06:
            return [same]
        head = bytearray(payload[: self.RESULT.size if kind == self.DONE else None])
        if head:
            head[self.random.randrange(len(head))] ^= 1 << self.random.randrange(8)
        return self.random.choice(
            [
                [],
                [same, same],
                [(self.random.randrange(65, 75), task, attempt, payload)],
                [(kind, task + 100, attempt, payload)],
                [(kind, task, attempt + 1, payload)],
                [(kind, task, attempt, payload[: self.random.randrange(len(payload) + 1)])],
                [(kind, task, attempt, bytes(head) + payload[len(head) :])],
                [(self.RETURNED, task, attempt, b""), same],
                [same, (self.STARTED, task, attempt, bytes(4))],
            ]
        )

    # What takes time to find out

    def silent(self) -> None:
        """It answers pings and does nothing."""
        self.hello()
        self.listen()

    def trickles(self) -> None:
        """A login shell that never comes to the agent."""
        while True:
            self.say(b".")
            time.sleep(0.1)

    def trickles_a_frame(self) -> None:
        self.hello()
        self.say(self.HEAD.pack(1000, self.ERROR, 0, 0))
        for _ in range(990):
            self.say(b".")
            time.sleep(0.1)

    def turns(self) -> None:
        """Its first result is forged and could be true, and what it says of the second task is a lie."""
        self.hello()
        plausible = True
        for kind, task, attempt, _ in self.heard():
            if kind == self.RUN:
                self.say(self.started(task, attempt) + (self.done(task, attempt) if plausible else b"\xff" * 99))
                plausible = False

    # An honest agent on a host that is not well

    def dies(self) -> None:
        """Whenever a task runs, as by the hand of the kernel when memory is out."""
        start = self.Agent.start

        def start_and_die(*given: Any) -> bool:
            if start(*given) is not False:
                os.kill(os.getpid(), signal.SIGKILL)
            return False

        self.Agent.start = start_and_die
        self.be_agent()

    def has_no_room(self) -> None:
        """Outputs are kept on a full device."""
        self.agent["nameless"] = lambda directory: os.open("/dev/full", os.O_RDWR)
        self.be_agent()

    def be_agent(self) -> None:
        exec(self.source[self.source.rindex(b"\nmain(") :], self.agent)

    def listen(self) -> None:
        for _ in self.heard():
            pass


def exactly(size: int) -> bytes:
    """So many bytes of stdin."""
    data = b""
    while len(data) < size:
        data += os.read(0, size - len(data)) or sys.exit(1)
    return data


def main(kind: str, seed: str, spoken: str) -> None:
    lengths = exactly(24)
    source, _, call = (exactly(int(lengths[at : at + 8])) for at in (0, 8, 16))
    liar = Liar(zlib.decompress(source) + b"\n" + call.partition(b"\0")[2], int(seed), spoken)
    try:
        method: Callable[[], None] = getattr(liar, kind)
        method()
        time.sleep(0.2)
    except OSError:
        pass  # the driver has had enough


SICK = ["dies", "has_no_room"]
GARBLED = "mutates"
LIES = [
    *("holds_all", "holds_one", "runs_all", "last_attempt", "many_cpus", "ends_others", "ends_unstarted"),
    *(
        "starts_twice",
        "starts_in_no_slot",
        "shares_a_slot",
        "gives_back_unasked",
        "gives_back_what_runs",
        "short_output",
        "greets_twice",
    ),
    *("stays_after_goodbye", "gibibyte", "floods", "goes_at_once", "complains"),
]

if __name__ == "__main__":
    main(*sys.argv[1:])
