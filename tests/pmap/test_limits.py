"""pmap where something is full, or larger than memory should be."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import INV_SECONDS, REPOSITORY, Result
from tests.patience import patience
from tests.pmap.conftest import Cluster, Pmap, eventually
from tests.pmap.test_resume import started

LARGE = 50_000_000
MEASURED = """
import atexit, resource, runpy, sys
from pathlib import Path

def tell():
    status = Path("/proc/self/status").read_text().splitlines()
    print(next(line for line in status if line.startswith("VmHWM")), file=sys.stderr)

atexit.register(tell)
limit = int(sys.argv.pop(1))
if limit >= 0:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
runpy.run_path("tasks", run_name="__main__")
"""
"""`inv` that no file it writes may grow beyond so many bytes, and that tells its peak of memory on stderr.

That limit stands for a full disk: no mount is needed, and `write` fails in the same way.
"""


def clear(said: str) -> list[str]:
    """The lines on stderr, which must be clear ones; not those on a job that another test has left on the instances."""
    assert "Traceback" not in said
    assert "a bug in hardway" not in said
    return [line for line in said.splitlines() if "another job runs there too" not in line]


def measured(cluster: Cluster, *arguments: str, limit: int = -1, stdout: Path | None = None) -> tuple[Result, int]:
    """Run a pmap; what it came to, and its peak of memory in bytes."""
    target = stdout or Path(cluster.env["HOME"]) / "out"
    with target.open("wb") as file:
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, str(limit), "mapreduce.pmap", cluster.selector, *arguments],
            cwd=REPOSITORY,
            env={**os.environ, **cluster.env},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.PIPE,
            text=True,
            timeout=patience(INV_SECONDS),
        )
    said = done.stderr.splitlines(keepends=True)
    peaks = [line for line in said if line.startswith("VmHWM")]
    assert len(peaks) == 1, done.stderr
    text = "".join(line for line in said if line not in peaks)
    return Result(done.returncode, "" if stdout else target.read_text(), text), peak_of(peaks[0])


def peak_of(line: str) -> int:
    """Bytes in such a line as `VmHWM:  1234 kB`."""
    return int(line.split()[1]) * 1024


def same(path: Path, byte: bytes, size: int) -> bool:
    """Whether a file is this byte so many times; it is read piece by piece."""
    piece = byte * (1 << 20)
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            if data != piece[: len(data)]:
                return False
        return file.tell() == size


def test_a_large_output_is_exact_and_never_in_memory(cluster: Cluster, tmp_path: Path) -> None:
    _, idle = measured(cluster, "x", "cat")
    out = tmp_path / "out"
    done, peak = measured(cluster, "x", f"head -c {LARGE} /dev/zero | tr '\\0' y", "--job", "fifty", stdout=out)
    assert done.code == 0, done.stderr
    assert same(out, b"y", LARGE)
    out.unlink()
    shutil.rmtree(cluster.jobs / "fifty")
    assert peak - idle < LARGE / 2


def test_an_agent_never_has_a_large_output_in_memory(cluster: Cluster) -> None:
    """The second task tells how large its parent, the agent, ever was, once the first one's output is here."""
    one = replace(cluster, ids=cluster.ids[:1])
    cluster.remove("sent")
    command = (
        f"read x; if [ $x = 1 ]; then head -c {LARGE} /dev/zero; else until [ -e sent ]; do sleep .02; done; "
        "grep VmHWM /proc/$PPID/status; fi"
    )
    with started(one, "1\n2", command, "--job", "agents-memory", "--slots", "1", "--no-backup") as process:
        eventually(lambda: list(cluster.jobs.glob("agents-memory/large/*.stdout")))
        cluster.touch("sent")
        out, said = process.communicate(timeout=patience(60))
    cluster.remove("sent")
    shutil.rmtree(cluster.jobs / "agents-memory")
    assert process.returncode == 0, said
    zeros, _, line = out.rpartition("\0")
    assert len(zeros) + 1 == LARGE
    assert peak_of(line.strip()) < 40_000_000


@pytest.mark.parametrize(
    ("what", "tasks", "command", "limit"),
    [
        pytest.param("small", 60, "read x; head -c 30000 /dev/zero | tr '\\0' y; echo $x", 400_000),
        pytest.param("long", 6, "read x; head -c 1000000 /dev/zero | tr '\\0' y; echo $x", 400_000),
        pytest.param("no", 100, "sleep .01", 12_000),
    ],
    ids=["small-outputs", "long-outputs", "journal"],
)
def test_a_full_disk_is_said_in_a_line_and_resumed_from(
    cluster: Cluster, tmp_path: Path, what: str, tasks: int, command: str, limit: int
) -> None:
    (tmp_path / "args").write_text("".join(f"{i}\n" for i in range(tasks)))
    size = int((re.findall(r"-c (\d+)", command) or ["0"])[0])
    expected = "".join(f"{'y' * size}{i}\n" for i in range(tasks)) if size else ""
    job = f"full-{what}"
    try:
        done, _ = measured(cluster, f"@{tmp_path / 'args'}", command, "--job", job, "--no-backup", limit=limit)
    finally:
        # Whatever went wrong, the agents don't outlive this test.
        again, _ = measured(cluster, f"@{tmp_path / 'args'}", command, "--resume", job)
    assert (again.code, again.stdout == expected) == (0, True), again.stderr
    assert (done.code, done.stdout) == (1, "")
    summary, reason = clear(done.stderr)
    assert f"of {tasks} tasks done" in summary
    assert reason.startswith(f"cannot write to {cluster.jobs / job}")
    assert f"--resume {job}" in reason


def test_a_disk_that_is_full_from_the_start_leaves_no_half_made_job(cluster: Cluster) -> None:
    done, _ = measured(cluster, "x", "cat", "--job", "full-at-once", limit=0)
    assert done.code == 1
    (reason,) = clear(done.stderr)
    assert reason.startswith("cannot write to ")
    again, _ = measured(cluster, "x", "cat", "--job", "full-at-once")
    assert (again.code, again.stdout) == (0, "x\n"), again.stderr


def test_a_full_disk_below_stdout_is_said_in_a_line(cluster: Cluster) -> None:
    done, _ = measured(cluster, "x", "cat", stdout=Path("/dev/full"))
    assert done.code == 1
    summary, reason = clear(done.stderr)
    assert "1 of 1 task done" in summary
    assert "no space left on device" in reason.lower()
    assert reason.startswith("cannot write to stdout: ") and " --resume " in reason  # which prints them again


@pytest.mark.parametrize(
    ("where", "task", "said"),
    [
        ("file", "(ulimit -f 10; exec head -c 100000 /dev/zero >fat)", "exit code 153"),
        ("disk", "head -c 100000 /dev/zero >/dev/full", "exit code 1: head: .*: No space left on device"),
    ],
    ids=["file", "disk"],
)
def test_a_task_that_has_no_room_is_its_own_failure(
    pmap: Pmap, cluster: Cluster, where: str, task: str, said: str
) -> None:
    cluster.remove("room", "fat")
    command = f'read x; [ $x != 3 ] || [ -e room ] || {task} || exit; echo "<$x>"'
    flags = ("--retries", "1", "--retry-sleep", "0")
    done = pmap("\n".join("123456"), command, *flags, "--keep-going", "--job", f"no-room-{where}")
    try:
        assert (done.code, done.stdout) == (1, "<1>\n<2>\n\n<4>\n<5>\n<6>\n")
        assert re.search(f"^1 task failed, {said}", done.stderr, re.MULTILINE), done.stderr
        assert " failed, 5 of 6 are done" in done.stderr
        cluster.touch("room")
        again = pmap("\n".join("123456"), command, *flags, "--resume", f"no-room-{where}")
    finally:
        cluster.remove("room", "fat")
    assert (again.code, again.stdout) == (0, "".join(f"<{i}>\n" for i in "123456")), again.stderr
    assert "6 of 6 tasks done, 1 attempt," in again.stderr
