"""The agent of pmap, over pipes: what a task finds, how it ends, and what the agent makes of nonsense."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardway.pmap import agent
from tests.patience import patience
from tests.pmap.conftest import PipedAgent, eventually

Start = Callable[..., PipedAgent]
PYTHONS = sorted(Path.home().glob(".pyenv/versions/3.*/bin/python3"))


def test_a_task_reads_its_argument_and_answers(start_agent: Start) -> None:
    one = start_agent("cat; echo said >&2; exit 3")
    assert one.run(b"\x00\xff arg\n") == (3, 0, b"\x00\xff arg\n", b"said\n")


@pytest.mark.parametrize("command", ["cat", "cat | cat"])
@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 70_000, 3_000_000])
def test_any_size_in_and_out(start_agent: Start, size: int, command: str) -> None:
    data = os.urandom(1000) * (size // 1000) + b"x" * (size % 1000)
    assert start_agent(command).run(data) == (0, 0, data, b"")


def test_where_and_as_what_a_task_runs(start_agent: Start, home: Path) -> None:
    one = start_agent('pwd; echo "$HARDWAY_TASK $HARDWAY_ATTEMPT $HARDWAY_WORKER $HARDWAY_INSTANCE_ID"', worker=7)
    assert one.run(task=5, attempt=2)[2].decode() == f"{home}\n5 2 7 i-1\n"


@pytest.mark.parametrize(
    "command", ["env", "pwd", "bash script.sh", "no-such-program", "cat /etc/hostname /no/such/file", "true"]
)
def test_a_bare_command_is_what_bash_makes_of_it(
    start_agent: Start, home: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bash is left out where it would only exec: nothing may tell the difference."""
    monkeypatch.setenv("SHLVL", "3")
    (home / "script.sh").write_text("ulimit -a; umask; trap; echo $-; echo /proc/self/fd/*")
    one = start_agent(command)
    code, _, out, err = one.run()
    names = {"JOB": one.job, "TASK": "1", "ATTEMPT": "1", "WORKER": "0", "INSTANCE_ID": "i-1"}
    scratch = str(next((home / ".hardway").glob("scratch-*/0")))
    variables = {"AWS_EC2_METADATA_DISABLED": "true", **{f"HARDWAY_{name}": value for name, value in names.items()}}
    variables |= {"HARDWAY_SCRATCH": scratch, "TMPDIR": scratch}
    by_bash = subprocess.run(
        ["bash", "-c", command], cwd=home, env={**os.environ, **variables}, capture_output=True, input=b""
    )
    assert code == by_bash.returncode
    assert sorted(out.splitlines()) == sorted(by_bash.stdout.splitlines())
    assert err == by_bash.stderr


def test_only_its_own_descriptors_and_default_signals_reach_a_task(start_agent: Start) -> None:
    command = "ls -l /proc/self/fd | awk '{print $9}' | xargs; grep -E 'Sig(Ign|Blk)' /proc/self/status"
    _, _, out, _ = start_agent(command).run()
    lines = out.decode().splitlines()
    assert lines[0].split()[:3] == ["0", "1", "2"]
    assert len(lines[0].split()) <= 4  # ls's own
    the_c_librarys_own = 0b11 << 31
    assert [int(line.split()[1], 16) & ~the_c_librarys_own for line in lines[1:]] == [0, 0]


def test_a_signal_that_ends_a_task_is_reported(start_agent: Start) -> None:
    assert start_agent("kill -SEGV $$").run()[0] == -signal.SIGSEGV


def test_the_timeout_ends_the_whole_group_with_term_then_kill(start_agent: Start, home: Path) -> None:
    one = start_agent(
        "trap 'echo term' TERM; sleep 1000 & echo $! > pid; while :; do wait; sleep 1000 & done", timeout=patience(0.3)
    )
    began = time.monotonic()
    code, flags, out, _ = one.run()
    assert (code, flags, out) == (-signal.SIGKILL, agent.TIMED_OUT, b"term\n")
    assert time.monotonic() - began < patience(6)
    assert not Path("/proc", (home / "pid").read_text().strip()).exists()


def test_what_a_task_leaves_in_the_background_without_its_outputs_ends_with_it(start_agent: Start, home: Path) -> None:
    command = "sleep 1000 >/dev/null 2>&1 & echo $! > pid; echo done"
    assert start_agent(command).run()[:3] == (0, 0, b"done\n")
    eventually(lambda: not Path("/proc", (home / "pid").read_text().strip()).exists())


def test_closing_outputs_or_reading_nothing_harms_nobody(start_agent: Start) -> None:
    one = start_agent('exec <&- >&- 2>&-; exit "$HARDWAY_ATTEMPT"')
    assert one.run(b"x" * 100_000, attempt=4) == (4, 0, b"", b"")
    assert one.run(b"", attempt=5) == (5, 0, b"", b"")


def test_slots_run_at_the_same_time_each_with_its_own_number(start_agent: Start) -> None:
    command = "echo $HARDWAY_WORKER; touch w$HARDWAY_WORKER; until [ -e w10 -a -e w11 ]; do sleep .01; done"
    one = start_agent(command, slots=2, worker=10)
    for task in (1, 2):
        one.send(agent.RUN, task, 1)
    slots = [agent.START.unpack(one.expect(agent.STARTED).payload)[0] for _ in range(2)]
    assert sorted(slots) == [0, 1]
    assert {one.result()[2], one.result()[2]} == {b"10\n", b"11\n"}


def test_a_start_tells_the_slot_and_when_it_was_free(start_agent: Start) -> None:
    """By the agent's clock; what can't be started has had a slot too."""
    one = start_agent("sleep 0.02; exit", slots=3)
    for task in range(1, 31):
        one.send(agent.RUN, task, 1)
    began: dict[tuple[int, int], tuple[int, float]] = {}
    free = dict.fromkeys(range(3), 0.0)
    ends: list[tuple[int, float, float]] = []
    while len(ends) < 30:
        frame = one.expect(agent.STARTED, agent.DONE)
        if frame.kind == agent.STARTED:
            began[frame.task, frame.attempt] = agent.START.unpack(frame.payload)
        else:
            slot, since = began[frame.task, frame.attempt]
            ends.append((slot, since, since + agent.RESULT.unpack_from(frame.payload)[2]))
    for slot, since, until in sorted(ends):
        assert since >= free[slot] - 1e-6
        free[slot] = until


def test_what_waits_can_be_taken_back_and_what_runs_can_be_killed(start_agent: Start) -> None:
    one = start_agent("sleep 1000")
    for task in (1, 2):
        one.send(agent.RUN, task, 1)
    assert one.expect(agent.STARTED).task == 1
    one.send(agent.TAKE, 1, 1)
    one.send(agent.TAKE, 2, 1)
    assert one.expect(agent.RETURNED).task == 2
    one.send(agent.KILL, 1, 1)
    assert one.result()[:2] == (-signal.SIGTERM, agent.KILLED)


def test_results_wait_for_the_next_connection_until_acknowledged(start_agent: Start, home: Path) -> None:
    one = start_agent('read x; until [ -e "$x" ]; do sleep .01; done; echo "$x"; head -c 200000 /dev/zero')
    one.send(agent.RUN, 1, 1, b"go\n")
    slot, began = agent.START.unpack(one.expect(agent.STARTED).payload)
    one.hang_up()
    (home / "go").touch()
    for _ in range(2):
        one.connect()
        hello = one.expect(agent.HELLO)
        line, _, rest = hello.payload.partition(b"\n")
        task, attempt, _, *where, _ = agent.HOLDING.unpack(rest)
        assert (task, attempt, line.split()[3]) == (1, 1, b"1")
        assert where == [slot, began], "it is told again"
        assert one.expect(agent.DONE, agent.CHUNK)
        one.hang_up()
    one.connect()
    assert one.result()[2] == b"go\n" + bytes(200000)
    one.send(agent.PING)
    one.expect(agent.PONG)
    one.hang_up()
    one.connect()
    assert one.expect(agent.HELLO).payload.split()[3] == b"0"


def test_a_new_connection_takes_over_from_a_silent_one(start_agent: Start) -> None:
    one = start_agent("cat")
    old = one.process
    one.connect()
    assert one.run(b"x")[2] == b"x"
    assert old.wait(patience(10)) == 0
    for stream in (old.stdin, old.stdout):
        assert stream
        stream.close()


def test_an_order_to_stop_counts_though_nobody_listens_any_more(
    start_agent: Start, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent has something to say, and finds the connection gone, before it reads the order."""
    bash = home / "bin" / "bash"
    bash.parent.mkdir()
    bash.write_text('#!/bin/sh\ntouch ~/asked\nwhile [ -e ~/gate ]; do sleep .01; done\nexec /bin/bash "$@"\n')
    bash.chmod(0o755)
    monkeypatch.setenv("PATH", f"{bash.parent}:{os.environ['PATH']}")
    one = start_agent("true", linger=3600)
    one.send(agent.PING)
    one.expect(agent.PONG)
    (home / "asked").unlink()
    (home / "gate").touch()
    job = b"\0".join(f"{key}={value}".encode() for key, value in one.settings.items()) + b"\0command=sleep 1000"
    one.write(agent.frame(agent.JOB, payload=job) + agent.frame(agent.RUN, 1, 1))
    eventually((home / "asked").exists)
    one.send(agent.STOP)
    for stream in (one.process.stdin, one.process.stdout):
        assert stream
        stream.close()
    (home / "gate").unlink()
    eventually(lambda: not (home / ".hardway").exists(), 10)
    one.process.wait(patience(10))


def test_an_agent_left_alone_ends_its_tasks_and_itself(start_agent: Start, home: Path) -> None:
    one = start_agent("echo $$ > pid; sleep 1000", linger=0.3)
    one.send(agent.RUN, 1, 1)
    eventually(lambda: (home / "pid").exists() and (home / "pid").read_text())
    one.hang_up()
    eventually(lambda: not (home / ".hardway").exists())
    assert not Path("/proc", (home / "pid").read_text().strip()).exists()


def test_a_killed_agent_is_replaced_and_its_tasks_end(start_agent: Start, home: Path) -> None:
    one = start_agent("read x; echo $$ > pid; sleep $x; echo x")
    first = one.expect(agent.HELLO).payload.split()[1]
    one.send(agent.RUN, 7, 1, b"1000\n")
    eventually(lambda: (home / "pid").exists() and (home / "pid").read_text())
    orphan = (home / "pid").read_text().strip()
    listening = subprocess.run(["fuser", str(home / ".hardway" / one.job / "lock")], capture_output=True, text=True)
    os.kill(int(listening.stdout), signal.SIGKILL)
    one.hang_up()
    one.connect()
    assert one.expect(agent.HELLO).payload.split()[1] != first
    eventually(lambda: not Path("/proc", orphan).exists())
    assert one.run(b"0\n")[2] == b"x\n"


@pytest.mark.skipif(not PYTHONS, reason="no other Pythons here")
def test_it_runs_on_old_and_new_pythons(home: Path) -> None:
    for python in PYTHONS:
        one = PipedAgent(home, "cat; echo x >&2", python=str(python))
        assert one.run(b"arg") == (0, 0, b"arg", b"x\n"), python
        one.hang_up()
        one.connect()
        assert one.run(b"arg", attempt=2) == (0, 0, b"arg", b"x\n"), python
        one.stop()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 127), st.integers(0, 2**32 - 1), st.integers(0, 65535), st.binary(max_size=300))),
    st.lists(st.integers(1, 40), min_size=1),
)
def test_frames_survive_any_cut(items: list[tuple[int, int, int, bytes]], cuts: list[int]) -> None:
    items = [item for item in items if item[0] & 63]
    data = b"".join(agent.frame(*item) for item in items)
    reader, found, at = agent.Frames(), [], 0
    while at < len(data):
        size = cuts[at % len(cuts)]
        found += reader.feed(data[at : at + size])
        at += size
    assert found == items


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_nonsense_ends_the_connection_not_the_agent(data: st.DataObject) -> None:
    one = FUZZED[0]
    kind = data.draw(st.integers(0, 255))
    payload = data.draw(st.binary(max_size=200))
    first = b""
    if kind not in (agent.STOP, agent.RUN):
        first = agent.frame(kind, data.draw(st.integers(0, 9)), data.draw(st.integers(0, 9)), payload)
    one.write(first + b"\xff" * 20)
    with pytest.raises(EOFError):
        while True:
            one.expect(agent.BYE)
    one.hang_up()
    one.connect()


FUZZED: list[PipedAgent] = []


@pytest.fixture(autouse=True)
def _fuzzed(request: pytest.FixtureRequest) -> None:
    if request.node.name == "test_nonsense_ends_the_connection_not_the_agent":
        FUZZED[:] = [request.getfixturevalue("start_agent")("cat")]


def test_the_agent_runs_on_python_3_6() -> None:
    """Its syntax and what it imports and calls, by vermin's tables: images of 2018 have no other Python."""
    pytest.importorskip("vermin", reason="no vermin here")
    # Asked for before it is used.
    newer = ["--exclude", "os.posix_spawn", "--exclude", "os.POSIX_SPAWN_DUP2"]
    command = [sys.executable, "-c", "import vermin; vermin.main()", "-t=3.6-", "--no-tips", "-vvv"]
    done = subprocess.run([*command, *newer, agent.__file__], capture_output=True, text=True, timeout=patience(60))
    assert done.returncode == 0, done.stdout


def test_an_end_is_told_before_its_output_is_sent(start_agent: Start) -> None:
    one = start_agent("head -c 300000 /dev/zero")
    one.send(agent.RUN, 1, 1)
    told = [one.expect(agent.FINISHED, agent.CHUNK, agent.DONE).kind for _ in range(5)]
    assert told == [agent.FINISHED, *[agent.CHUNK] * 3, agent.DONE]
    one.send(agent.ACK, 1, 1)


def test_a_task_that_uses_too_much_memory_is_killed_with_all_it_started(start_agent: Start, home: Path) -> None:
    """Memory that is only reserved, as by Java, doesn't count."""
    grow = f"{sys.executable} -c 'import time; x = b\"x\" * (200 << 20); time.sleep(60)' & wait"
    one = start_agent(grow, memory=100 << 20)
    one.send(agent.RUN, 1, 1)
    assert re.fullmatch(rb"it used [12]\d\d MB of memory, and may use 100 MB", one.expect(agent.SAID).payload)
    assert one.result()[:2] == (137, agent.NO_MEMORY)
    reserve = f"{sys.executable} -c 'import mmap, time; x = mmap.mmap(-1, 1 << 30, flags=34); time.sleep(0.6)'"
    assert start_agent(reserve, memory=100 << 20).run()[:2] == (0, 0)


def test_what_the_kernel_killed_for_memory_is_counted_once() -> None:
    counted = agent.OutOfMemory()
    assert not counted.any()
    counted.seen -= 1  # as if the kernel had killed one since
    assert counted.any()
    assert not counted.any()
