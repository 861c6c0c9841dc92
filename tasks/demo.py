"""The demo, the tests and the benchmarks of this repository."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

from invoke import Context

from hardway import config
from hardway.cli.task import act, nothing, say, task
from hardway.errors import Failed, Interrupted, UsageError, did_you_mean
from hardway.terminal import command_line

_FAST = "not engines and not long and not vm and not starts"
_ROOT = Path(__file__).resolve().parent.parent


@task(changes=nothing, help={"num": "how many instances"})
def demo(c: Context, num: int | str = 4) -> None:
    """Run the whole job on this machine, to watch.

    Start a local cloud and a cluster in it, run two chained pmap jobs over S3, and throw everything away.

    Examples:
      inv demo
      inv demo --num 8
    """
    import tempfile

    count = config.number(num, int, "--num")
    with tempfile.TemporaryDirectory(prefix="hardway-demo-") as state:
        own = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), *config.search_path()]),
            "XDG_STATE_HOME": f"{state}/state",
            "XDG_DATA_HOME": f"{state}/data",
            "NUM": str(max(1, count)),
        }
        environment = config.child_environment(own, without=("AWS_", "INVOKE_", "s3_stubbed"))
        _run(["bash", "examples/wordcount/demo.sh"], environment)


@task(
    changes=nothing,
    help={
        "args": "arguments of pytest, such as '-k selector -x'",
        "engines": "run all tests: long ones, too, and those that need Spark, Dask or ministack; install these first",
        "fast": "no tests that start a local cloud, an sshd, the AWS CLI or the S3 stub: under a minute",
        "vm": "run the tests with virtual machines, which take a quarter of an hour, and no others",
    },
)
def test(c: Context, args: str = "", engines: bool = False, fast: bool = False, vm: bool = False) -> None:
    """Run the tests of this repository.

    Examples:
      inv test
      inv test --fast
      inv test --args 'tests/ec2 -n0 -x'
    """
    import shutil

    if engines + fast + vm > 1:
        raise UsageError("--engines, --fast and --vm each choose the tests: give one of them")
    if engines:
        with_uv = ["uv", "pip", "install", "--quiet", "--python", sys.executable]
        with_pip = [sys.executable, "-m", "pip", "install", "-qq"]
        _run([*(with_uv if shutil.which("uv") else with_pip), "--editable", f"{_ROOT}[engines]"])
        _run([sys.executable, "-m", "tests.judges.ministack"])
    # a guest of a virtual machine takes all of a small machine
    chosen = ["-n0", "-m", "vm"] if vm else ["-m", "not vm"] if engines else ["-m", _FAST] if fast else []
    _run([sys.executable, "-m", "pytest", *chosen, *shlex.split(args)])


@task(changes=nothing, help={"name": "one of bench/*.py; without it, list them", "args": "its arguments"})
def bench(c: Context, name: str = "", args: str = "") -> None:
    """Run one of this repository's benchmarks.

    Print ratios against its peers.

    Examples:
      inv bench
      inv bench --name hosts
    """
    known = sorted(path.stem for path in (_ROOT / "bench").glob("*.py"))
    if not name:
        say(*(command_line("bench", "--name", each) for each in known))
        return
    if name not in known:
        raise UsageError(f"there is no benchmark {name!r} ({', '.join(known)}){did_you_mean(name, known)}")
    _run([sys.executable, f"bench/{name}.py", *shlex.split(args)])


def _run(command: list[str], environment: dict[str, str] | None = None) -> None:
    """Run a program of this repository to its end; at Ctrl-C it has a minute to clean up after itself.

    Raises Failed, or Interrupted.
    """
    act(f"run {shlex.join(command)}")
    process = subprocess.Popen(command, cwd=_ROOT, env=environment)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        raise Interrupted() from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if code:
        raise Failed(f"{command[1]} ended with {code}")
