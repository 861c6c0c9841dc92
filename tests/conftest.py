"""All tests share these: a fresh home, `inv` as a process, a local cloud, and the proof that nothing of ours remains.

`home` is a HOME of the test's own, in this process and in those it starts. `inv` runs a task as a person does. `cloud`
is one local cloud for the whole run; `start_cloud` is for tests that need one to themselves.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import platformdirs
import pytest

from hardway import pytest_plugin
from hardway.config import Local
from hardway.local import daemon
from tests import forked
from tests.judges.every_process import sitecustomize as model_judge
from tests.patience import patience

REPOSITORY = Path(__file__).resolve().parent.parent
PROGRAM = str(REPOSITORY / "tasks")
INV = [sys.executable, PROGRAM]
"""The program that `./inv` starts, from any directory."""
INV_SECONDS = 120
SESSION_MARK = "HARDWAY_TEST_SESSION"
"""In the environment of everything a test starts, to tell what is left of it at the end from others' processes."""
NOT_INHERITED = re.compile(
    r"AWS_|INVOKE_|XDG_|HARDWAY_LOCAL|s3_stubbed|SSH_|.*_proxy$|.*_PROXY$|region$|PYTHONDONTWRITEBYTECODE$"
)

EVERY_PROCESS = str(Path(model_judge.__file__).parent)

STARTS = {
    "cloud", "local_cloud", "start_cloud", "own_cloud", "quiet", "level", "microburst",
    "start_sshd", "start_agent", "endpoint", "stub", "python", "browser", "inv", "small", "limited",
}  # fmt: skip
"""Fixtures that start servers, agents, the AWS CLI, the S3 stub: `./inv test --fast` leaves out what uses one."""

_endpoints: list[str] = []
model_judge.install()

# A process in the background of a script ignores these, and so would all it starts: no test of Ctrl-C could pass.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)


@dataclass(frozen=True)
class Result:
    """How a process ended, and what it said on which stream."""

    code: int
    stdout: str
    stderr: str


class Inv(Protocol):
    """`inv("ec2.ls", "--json", env={...}, stdin="...")`; `env` comes on top of this process's environment."""

    def __call__(
        self, *arguments: str, env: Mapping[str, str] | None = None, stdin: str = "", timeout: float = INV_SECONDS
    ) -> Result: ...


class LocalCloud(pytest_plugin.LocalCloud):
    """One that `inv` may be run on."""

    @property
    def env(self) -> dict[str, str]:
        return self.running.environment

    @property
    def pid(self) -> int:
        """The daemon's that runs now."""
        return daemon.find(self.directory).pid

    def inv(self, *arguments: str) -> Result:
        """Run a task of `local.` on this cloud."""
        return run_inv(*arguments, env={"XDG_STATE_HOME": str(self.state), **self.env})


def run_inv(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout: float = INV_SECONDS,
    cwd: Path = REPOSITORY,
    **options: Any,
) -> Result:
    """See `Inv`; `options` are those of `subprocess.Popen`."""
    with start_inv(*arguments, env=env, stdin=subprocess.PIPE, cwd=cwd, **options) as process:
        try:
            stdout, stderr = process.communicate(stdin, patience(timeout))
        except BaseException:
            process.kill()
            raise
    return Result(process.returncode, stdout, stderr)


def start_inv(*arguments: str, env: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[Any]:
    """A run of `./inv` under way, in the repository, its output in pipes; `options` are those of `subprocess.Popen`."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    options = {"cwd": REPOSITORY, "env": {**os.environ, **(env or {})}, "text": True, **pipes, **options}
    return forked.start(PROGRAM, *arguments, **options)


def exports(text: str) -> dict[str, str]:
    """Return the variables that a text sets, which has nothing but `export NAME=value` lines."""
    pairs = {}
    for line in text.splitlines():
        word, assignment = shlex.split(line)
        assert word == "export", line
        name, _, value = assignment.partition("=")
        pairs[name] = value
    return pairs


@contextlib.contextmanager
def run_local_cloud(state: Path, **settings: Any) -> Iterator[LocalCloud]:
    """A local cloud for the time of the block; `settings` are those of `local.`."""
    with pytest_plugin.run_local_cloud(state, Local(**settings)) as cloud:
        _endpoints.append(cloud.running.endpoint)
        yield LocalCloud(cloud.state, cloud.running)


@pytest.fixture
def home(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh HOME and TMPDIR for this process and its children; no AWS, Invoke or XDG variable is set.

    But one: what botocore's models are read into is shared by all tests, as it is by all that a person does.
    """
    for name in os.environ:
        if NOT_INHERITED.match(name) and name != SESSION_MARK:
            monkeypatch.delenv(name)
    directory = tmp_path / "home"
    (directory / "tmp").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(directory))
    monkeypatch.setenv("TMPDIR", str(directory / "tmp"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    return directory


@pytest.fixture(autouse=True)
def requests_fit_the_model(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that sends AWS a request outside of botocore's model: moto would take much that AWS refuses.

    A test that means to send one says so: `@pytest.mark.outside_the_model`.
    """
    yield
    record = Path(os.environ[model_judge.RECORD])
    found = [json.loads(line) for line in record.read_text().splitlines()]
    record.write_text("")
    if found and not request.node.get_closest_marker("outside_the_model"):
        pytest.fail("\n".join(["AWS refuses what was sent:", *found]), pytrace=False)


@pytest.fixture
def price_cache(home: Path) -> Iterator[Path]:
    """The file that on-demand prices are kept in; nothing is there at first, nor after the test."""
    path = platformdirs.user_cache_path("hardway") / "on-demand.json"
    path.unlink(missing_ok=True)
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def inv(home: Path) -> Inv:
    """Run `./inv` as a process, in the repository and in the fresh home."""
    return run_inv


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """One local cloud for all tests; each ends the instances it starts."""
    with run_local_cloud(tmp_path_factory.mktemp("cloud") / "state") as running:
        yield running


@pytest.fixture
def start_cloud(tmp_path: Path) -> Iterator[Callable[..., LocalCloud]]:
    """Start a local cloud of the test's own: `start_cloud(isolation="none")`."""
    with contextlib.ExitStack() as stack:

        def start(**settings: Any) -> LocalCloud:
            return stack.enter_context(run_local_cloud(tmp_path / f"state{len(_endpoints)}", **settings))

        yield start


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not STARTS.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("starts")


def pytest_sessionstart(session: pytest.Session) -> None:
    for name in [name for name in os.environ if NOT_INHERITED.match(name)]:
        del os.environ[name]
    _use_the_real_python3()
    os.environ[SESSION_MARK] = uuid.uuid4().hex
    descriptor, os.environ[model_judge.RECORD] = tempfile.mkstemp(prefix="outside-model-")
    os.close(descriptor)
    searched = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if EVERY_PROCESS not in searched:
        os.environ["PYTHONPATH"] = os.pathsep.join([EVERY_PROCESS, *filter(None, searched)])
    forked.prepare()
    session.config.stash[_STATE_BEFORE] = _own_state_exists()


def _use_the_real_python3() -> None:
    """Put the directory of the python3 on PATH first: a version manager's script costs each start 50 ms of CPU."""
    command = ["python3", "-c", "import sys; print(sys.executable)"]
    real = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()).parent
    if real != Path(shutil.which("python3") or "").parent:
        os.environ["PATH"] = f"{real}{os.pathsep}{os.environ['PATH']}"


@pytest.hookimpl(trylast=True)  # after a Ctrl-C pytest's own hook ends the fixtures
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the run if a process, a listener or a state directory of ours remains."""
    forked.stop()
    Path(os.environ[model_judge.RECORD]).unlink(missing_ok=True)
    left = _marked_processes()
    left += [f"something still listens at {endpoint}" for endpoint in _endpoints if _listens(endpoint)]
    base = getattr(session.config, "_tmp_path_factory").getbasetemp()  # noqa: B009
    left += [f"{path.parent} still exists" for path in base.rglob("hardway/local/lock")]
    if _own_state_exists() and not session.config.stash[_STATE_BEFORE]:
        left.append(f"{platformdirs.user_state_path('hardway')} has come into being: a test ran outside its home")
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print("\nleft behind by the tests:", *left, sep="\n  ", file=sys.stderr)


_STATE_BEFORE = pytest.StashKey[bool]()


def _own_state_exists() -> bool:
    return platformdirs.user_state_path("hardway").exists()


def _marked_processes() -> list[str]:
    mark = f"{SESSION_MARK}={os.environ[SESSION_MARK]}".encode()
    left = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError):
                if mark in Path("/proc", name, "environ").read_bytes().split(b"\0"):
                    command = Path("/proc", name, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    left.append(f"process {name}: {command}")
    return left


def _listens(endpoint: str) -> bool:
    host, _, port = endpoint.removeprefix("http://").rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0
