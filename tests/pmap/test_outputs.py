"""A task is a command like any other: all it prints comes back, and its end is the end of all it started."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardway.pmap import agent, dask_task
from tests.conftest import run_inv
from tests.patience import patience
from tests.pmap.conftest import Cluster, PipedAgent, Pmap, eventually

Start = Callable[..., PipedAgent]

# What is right under ssh and xargs, and what files for outputs, or an end with the command, would break.
SCRIPTS = {
    "opened by name": "echo header; echo body >/dev/stdout; echo end",
    "stderr by name": "echo header >&2; echo body >/dev/stderr; echo end >&2",
    "by descriptor": "echo one; echo two >/proc/self/fd/1; echo three >>/dev/stdout; echo end",
    "tee by name": "echo a; echo b | tee /dev/stdout | cat; echo c | tee /dev/stderr; echo d",
    "awk by name": """echo a; awk 'BEGIN{print "b" >"/dev/stdout"; print "e" >"/dev/stderr"}'; echo c""",
    "perl by name": "echo a; perl -e 'open F, q(>), q(/dev/stdout); print F qq(b\\n); close F'; echo c",
    "written through a substitution": "exec > >(tee log-$HARDWAY_TASK); echo result",
    "both through one": "exec > >(cat) 2>&1; echo result; echo trouble >&2",
    "late readers": "seq 20000 | tee >(gzip >out.gz) | tail -1; while ! gzip -t out.gz 2>/dev/null; do sleep .01; done",
    "late writers": "for i in 1 2 3; do (sleep .$i; echo $i) & done",
    "a late error": "(sleep .2; echo late >&2) & echo done",
    "out of the session": "setsid sh -c 'sleep .2; echo late' & echo done",
    "much of both": "seq 30000; seq 100000 >&2; seq 5",
    "bytes": "printf 'a\\0b\\xff\\n\\n'; printf 'no newline'",
    "closed": "echo a; exec >&-; echo b 2>/dev/null; exit 3",
    "a pipe that is a pipe": "[ -p /dev/stdin ] && [ -p /dev/stdout ] && [ -p /dev/stderr ] && echo pipes",
}


def plain(script: str, stdin: bytes, folder: Path) -> tuple[int, bytes, bytes]:
    """The script's output for a reader over pipes, as xargs and sshd are."""
    environment = {**os.environ, "HARDWAY_TASK": "1"}
    done = subprocess.run(["bash", "-c", script], input=stdin, capture_output=True, cwd=folder, env=environment)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_all_that_a_command_prints_comes_back(start_agent: Start, home: Path, tmp_path: Path, script: str) -> None:
    folder = tmp_path / "by hand"
    folder.mkdir()
    code, flags, out, err = start_agent(script).run()
    assert (flags, code, out, err) == (0, *plain(script, b"", folder))


def test_a_job_gives_what_ssh_and_xargs_give(cluster: Cluster, pmap: Pmap) -> None:
    scripts = [script for name, script in SCRIPTS.items() if name not in ("closed", "bytes")]
    done = pmap("-", 'read -r -d "" script; bash -c "$script" </dev/null | cat', "-0", stdin="\0".join(scripts) + "\0")
    assert done.code == 0, done.stderr
    by_xargs = subprocess.run(
        ["xargs", "-0", "-n1", "bash", "-c", 'bash -c "$1" | cat', "bash"],
        input="\0".join(scripts).encode(),
        capture_output=True,
        cwd=cluster.jobs.parent,
    )
    assert done.stdout.encode("utf-8", "surrogateescape") == by_xargs.stdout
    script = "; ".join(
        f"( {one} )" for name, one in SCRIPTS.items() if name.startswith(("opened", "written", "late w"))
    )
    by_ssh = run_inv("ec2.ssh", cluster.ids[0], "--yes", "--quiet", "--command", script, env=cluster.env)
    assert by_ssh.stdout == pmap("x", script).stdout


@pytest.mark.parametrize("size", [10, 5000, 70_000, 2_000_000])
def test_stdin_is_a_pipe_of_any_size(start_agent: Start, tmp_path: Path, size: int) -> None:
    script = "read x; echo $x; cat /dev/stdin | wc -c; [ -p /dev/stdin ] && echo pipe"
    data = b"first\n" + b"x" * size
    code, flags, out, err = start_agent(script).run(data)
    assert (flags, code, out, err) == (0, *plain(script, data, tmp_path))


def test_a_stdin_that_nobody_reads_harms_nobody(start_agent: Start) -> None:
    one = start_agent("exec <&-; sleep .2; echo $HARDWAY_ATTEMPT")
    assert one.run(b"x" * 3_000_000, attempt=4)[:3] == (0, 0, b"4\n")
    assert one.run(b"x" * 100, attempt=5)[:3] == (0, 0, b"5\n")


# What descends from a task

LEAVING = {
    "in the background": "{} &",
    "in another session": "setsid {} &",
    "twice forked": "( setsid {} & ) &",
    "in a group of its own": "set -m; {} &",
    "under timeout": "timeout 900 {} &",
    "under nohup": "nohup {} &",
    "in a terminal of its own": "script -qc {} /dev/null &",
    "ignoring TERM": "(trap '' TERM HUP; setsid {}) &",
    "without its environment": "( env -i setsid {} & ) &",
}


def marked(*words: str) -> list[int]:
    """Living processes that have these among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if {word.encode() for word in words} <= set(path.read_bytes().split(b"\0")):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


@pytest.fixture
def mark(home: Path) -> str:
    """An argument that only this test's processes have, and `~/stay` that keeps it for 900 s."""
    stay = home / "stay"
    stay.write_text("#!/bin/bash\nexec 9<> <(:)\nread -rt 900 -u 9\n")  # without a process of its own
    stay.chmod(0o755)
    return f"mark-{uuid.uuid4()}"


def stays(home: Path, mark: str, quiet: bool) -> str:
    """Shell text that leaves a marked process behind in each way; `quiet`: without the task's outputs."""
    text = ""
    for how, leave in LEAVING.items():
        stay = f"{home}/stay '{mark}' '{how}'"
        text += f"( {leave.format(shlex.quote(stay) if 'script' in leave else stay)}\n)\n"
    return f"{{\n{text}}} {'</dev/null >/dev/null 2>&1' if quiet else ''}\nuntil [ -e up ]; do sleep .01; done"


def wait_up(home: Path, mark: str) -> None:
    """Wait until all of them are there."""
    eventually(lambda: all(marked(mark, how) for how in LEAVING))
    (home / "up").touch()


def test_what_writes_nowhere_ends_with_its_task(start_agent: Start, home: Path, mark: str) -> None:
    one = start_agent(stays(home, mark, quiet=True) + "; echo done")
    one.send(agent.RUN, 1, 1)
    wait_up(home, mark)
    assert one.result()[:3] == (0, 0, b"done\n")
    assert marked(mark) == []


@pytest.mark.parametrize("end", ["killed", "timed out", "stopped", "left alone", "agent killed"])
def test_the_end_of_an_attempt_is_the_end_of_all_it_started(
    start_agent: Start, home: Path, mark: str, end: str
) -> None:
    timeout, linger = patience(3) if end == "timed out" else 0, 0.3 if end == "left alone" else 20
    one = start_agent(stays(home, mark, quiet=False) + "; wait; sleep 900", timeout=timeout, linger=linger)
    one.send(agent.RUN, 1, 1)
    wait_up(home, mark)
    if end == "killed":
        one.send(agent.KILL, 1, 1)
        assert one.result()[1] == agent.KILLED
    elif end == "timed out":
        assert one.result()[1] == agent.TIMED_OUT
    elif end == "stopped":
        one.stop()
    elif end == "left alone":
        one.hang_up()
    else:
        lock = home / ".hardway" / one.job / "lock"
        holder = subprocess.run(["fuser", str(lock)], capture_output=True, text=True)
        os.kill(int(holder.stdout), signal.SIGKILL)
        one.hang_up()
    if end in ("killed", "timed out", "stopped"):
        assert marked(mark) == []
    eventually(lambda: not marked(mark))
    if end == "agent killed":
        one.connect()


HOLDS = {"nothing": ">/dev/null 2>&1", "stdout": "2>/dev/null", "stderr": ">/dev/null", "both": ""}
SHAPES = [
    "{} &",
    "setsid {} &",
    "( {} & )",
    "( setsid {} & ) &",
    "env -i {} &",
    "( env -i setsid {} & ) &",
    "nohup {} &",
]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(SHAPES), st.sampled_from(sorted(HOLDS)), st.booleans()), min_size=1, max_size=4),
    st.booleans(),
)
def test_any_family_of_processes(children: list[tuple[str, str, bool]], closed: bool) -> None:
    """A process that holds an output writes a line late and is waited for; one that holds none and stays is ended."""
    one, home = FAMILY[0]
    mark = f"mark-{uuid.uuid4()}"
    script, out, err = "", [], []
    for number, (shape, holds, stay) in enumerate(children):
        late = f"sleep 0.0{number + 1}; echo o{number}; echo e{number} >&2; : {mark}"
        rest = "; sleep 900" if stay and holds == "nothing" else ""
        script += shape.format(f"bash -c '{late}{rest}' {mark} </dev/null {HOLDS[holds]}") + "\n"
        out += [f"o{number}"] if holds in ("stdout", "both") else []
        err += [f"e{number}"] if holds in ("stderr", "both") else []
    script += "echo main; exec >&- 2>&-" if closed else "echo main"
    number = next(TASKS)
    code, flags, stdout, stderr = one.run(script.encode(), task=number)
    assert (code, flags) == (0, 0)
    assert sorted(stdout.decode().split()) == sorted(["main", *out])
    assert sorted(line for line in stderr.decode().splitlines() if "nohup" not in line) == err
    assert marked(mark) == []
    assert home.is_dir()


TASKS = iter(range(1, 1 << 20))
FAMILY: list[tuple[PipedAgent, Path]] = []


@pytest.fixture(autouse=True)
def _family(request: pytest.FixtureRequest) -> None:
    if request.node.name == "test_any_family_of_processes":
        started = request.getfixturevalue("start_agent")('bash -c "$(cat)"')
        FAMILY[:] = [(started, request.getfixturevalue("home"))]


def test_tasks_beside_each_other_end_only_their_own(start_agent: Start, home: Path, mark: str) -> None:
    """Also where what is left behind can't be told by its environment, group or session."""
    one = start_agent(
        f"read x; ( env -i setsid {home}/stay {mark}-$x & ) >/dev/null 2>&1; until [ -e end-$x ]; do sleep .01; done",
        slots=3,
    )
    for task in (1, 2, 3):
        one.send(agent.RUN, task, 1, b"%d\n" % task)
        eventually(lambda task=task: marked(f"{mark}-{task}"))  # type: ignore[misc]
    (home / "end-2").touch()
    assert one.result()[:2] == (0, 0)
    assert marked(f"{mark}-1")
    assert marked(f"{mark}-3")
    (home / "end-1").touch()
    assert one.result()[:2] == (0, 0)
    assert marked(f"{mark}-3")
    (home / "end-3").touch()
    assert one.result()[:2] == (0, 0)
    assert [marked(f"{mark}-{task}") for task in (1, 2, 3)] == [[], [], []]


def test_who_holds_the_output_of_a_command_that_has_ended_is_said(start_agent: Start, home: Path) -> None:
    one = start_agent("(until [ -e go ]; do sleep .05; done; echo late) & echo $! >pid; echo done")
    one.send(agent.RUN, 1, 1)
    said = one.expect(agent.SAID)
    pid = (home / "pid").read_text().strip()
    assert f"its command has ended, PID {pid} (bash)" in said.payload.decode()
    assert "still holds its output" in said.payload.decode()
    (home / "go").touch()
    assert one.result()[:3] == (0, 0, b"done\nlate\n")


# On a worker of Dask's

NUMBERS = iter(range(1, 1 << 20))


def on_a_worker(script: str, home: Path, stdin: bytes = b"", timeout: float = 0.0) -> tuple[int, int, bytes, bytes]:
    """Exit code, flags, stdout and stderr, as `dask_task.run` gets them."""
    mark = {"HARDWAY_JOB": str(home), "HARDWAY_TASK": str(next(NUMBERS))}
    since = time.clock_gettime(time.CLOCK_BOOTTIME)
    process = subprocess.Popen(
        ["bash", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=home,
        env={**os.environ, **mark},
        start_new_session=True,
    )
    marks = {os.fsencode(f"{key}={value}") for key, value in mark.items()}
    flags, out, err = dask_task.wait(process, stdin, timeout, marks, since)
    return process.returncode, flags, out, err


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
def test_all_that_a_command_prints_comes_back_from_dask(home: Path, tmp_path: Path, script: str) -> None:
    folder = tmp_path / "by hand"
    folder.mkdir()
    code, flags, out, err = on_a_worker(script, home)
    assert (flags, code, out, err) == (0, *plain(script, b"", folder))


@pytest.mark.parametrize("limited", [False, True])
def test_the_end_of_an_attempt_is_the_end_of_all_it_started_on_dask(home: Path, mark: str, limited: bool) -> None:
    timeout = patience(1) if limited else 0.0
    ways = [leave for how, leave in LEAVING.items() if how != "without its environment" and "script" not in leave]
    script = "\n".join(leave.format(f"{home}/stay {mark}") for leave in ways)
    script = f"{{ {script}\n}} {'' if limited else '>/dev/null 2>&1'}; sleep .2; echo done"
    code, flags, out, _ = on_a_worker(script, home, timeout=timeout)
    assert (code, flags) == (0, dask_task.TIMED_OUT if limited else 0)
    assert out == b"done\n"
    assert marked(mark) == []


# What the instance lacks


def test_what_a_full_disk_can_not_keep_is_the_instances_fault(start_agent: Start, home: Path) -> None:
    """A real one, in a mount namespace; what is small is right all the same, and there is room again afterwards."""
    folder = home / ".hardway"
    folder.mkdir()

    def login(shell: str) -> str:
        mount = f"mount -t tmpfs -o size=400k none {shlex.quote(str(folder))}; {shell}"
        return f"exec unshare -rm sh -ec {shlex.quote(mount)}"

    one = start_agent("read n; head -c $n /dev/zero; echo end >&2", slots=3, login=login)
    sizes = [100, 3_000_000, 60_000, 900_000, 10, 250_000]
    for task, size in enumerate(sizes, 1):
        one.send(agent.RUN, task, 1, b"%d\n" % size)
    for _ in range(6):
        code, flags, out, err = one.result()
        if flags:
            assert (code, flags, out) == (126, agent.HOST_FAULT, b"")
            assert err == b"the instance's fault: no space left on device"
        else:
            assert (code, err) == (0, b"end\n")
            sizes.remove(len(out))
    assert 3_000_000 in sizes
    assert {10, 100, 60_000}.isdisjoint(sizes)
    assert one.run(b"300000\n", task=9)[:3] == (0, 0, bytes(300_000))
    one.stop()
    folder.rmdir()


@pytest.mark.parametrize("harm", ["truncate -s 1000 $f", "printf x | dd of=$f conv=notrunc bs=1 seek=1000 2>&1"])
def test_a_result_that_was_not_kept_as_it_was_read_never_counts(start_agent: Start, harm: str) -> None:
    one = start_agent(
        "head -c 300000 /dev/zero | tr '\\0' y; sleep .3; for f in /proc/$PPID/fd/*; do "
        f'case "$(readlink $f)" in *deleted*) {harm};; esac; done >/dev/null; echo end'
    )
    one.send(agent.RUN, 1, 1)
    done = one.expect(agent.DONE)
    code, flags, *_ = agent.RESULT.unpack_from(done.payload)
    assert (code, flags) == (126, agent.HOST_FAULT)
    assert b"an output that was kept here " in done.payload


def test_a_result_that_an_instance_can_not_keep_comes_from_another(
    cluster: Cluster, pmap: Pmap, start_limited: None
) -> None:
    done = pmap(
        "\n".join("123456"),
        "read x; head -c 300000 /dev/zero | wc -c; head -c 300000 /dev/zero | tr '\\0' $x",
        "--retries",
        "0",
        "--slots",
        "2",
    )
    assert done.code == 0, done.stderr
    assert done.stdout.splitlines() == [line for x in "123456" for line in ("300000", 300_000 * x)]
    assert "the instance could not run it: the instance's fault: file too large" in done.stderr


@pytest.fixture
def start_limited(cluster: Cluster) -> Iterator[None]:
    """On one of the instances, nothing can write a file of more than 100 KiB."""
    file = cluster.homes[0] / ".bashrc"
    before = file.read_bytes() if file.exists() else None
    file.write_text("ulimit -f 100\n")
    yield
    file.unlink() if before is None else file.write_bytes(before)


def test_a_shortage_of_descriptors_is_not_the_tasks(start_agent: Start) -> None:
    one = start_agent("cat", login="ulimit -n 64; {}".format, slots=60)
    for task in range(1, 201):
        one.send(agent.RUN, task, 1, b"x" * 5000)
    assert {one.result() for _ in range(200)} == {(0, 0, b"x" * 5000, b"")}


def test_a_handful_of_descriptors_is_enough(start_agent: Start) -> None:
    one = start_agent("cat", login="ulimit -n 16; {}".format, slots=4)
    for task in range(1, 9):
        one.send(agent.RUN, task, 1, b"x" * 200_000)
    assert {one.result() for _ in range(8)} == {(0, 0, b"x" * 200_000, b"")}


def test_tasks_have_the_limit_of_descriptors_that_they_would_have(start_agent: Start) -> None:
    assert (
        start_agent("ulimit -Sn; ulimit -Hn", login="ulimit -Sn 100; ulimit -Hn 300; {}".format).run()[2]
        == b"100\n300\n"
    )


def test_it_is_said_once_what_holds_an_output(cluster: Cluster, pmap: Pmap) -> None:
    """And the time limit ends it."""
    done = pmap("x", "sleep 900 & echo done", "--timeout", "6", "--retries", "0")
    assert done.code == 1
    [said] = [line for line in done.stderr.splitlines() if "its command has ended" in line]
    assert re.search(r": task 1: its command has ended, PID \d+ \(sleep\) still holds its output$", said)
    assert "1 task failed, timed out after 6 s" in done.stderr


# A directory of its own


def test_each_attempt_has_an_empty_directory_that_is_gone_afterwards(start_agent: Start, home: Path) -> None:
    (home / "kept").mkdir()
    (home / "kept" / "file").touch()
    one = start_agent(
        'cd "$HARDWAY_SCRATCH"; [ "$TMPDIR" = "$PWD" ]; echo $? $(ls -A | wc -l) $(stat -c %a .); '
        "mktemp >/dev/null; mkdir -p a/b; touch a/b/c; ln -s ~/kept l; ln -s ~/kept a/l; chmod 500 a/b a; chmod 0 a/b"
    )
    for task in range(1, 4):
        assert one.run(task=task)[2] == b"0 0 700\n"
    root = next((home / ".hardway").glob("scratch-*"))
    eventually(lambda: not list(root.iterdir()))
    assert (home / "kept" / "file").exists()


def test_tasks_beside_each_other_do_not_share_it(start_agent: Start) -> None:
    one = start_agent("echo $HARDWAY_TASK >tmp.txt; sleep .1; cat tmp.txt; pwd", slots=4, workdir="scratch")
    for task in range(1, 13):
        one.send(agent.RUN, task, 1)
    said = [one.result()[2].decode().split() for _ in range(12)]
    assert sorted(int(number) for number, _ in said) == list(range(1, 13))
    assert all("/scratch-" in folder for _, folder in said)


def test_the_directories_are_on_a_disk_that_came_with_the_instance(start_agent: Start, home: Path) -> None:
    (home / "disk").mkdir()

    def login(shell: str) -> str:
        mount = f"mount --bind {shlex.quote(str(home / 'disk'))} /mnt; {shell}"
        return f"exec unshare -rm sh -ec {shlex.quote(mount)}"

    one = start_agent('echo "$TMPDIR"; mktemp', login=login)
    first, second = one.run()[2].decode().split()
    assert first.startswith("/mnt/.hardway/scratch-")
    assert second.startswith(first + "/")
    one.stop()
    assert not list((home / "disk").iterdir())
