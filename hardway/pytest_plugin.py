"""pytest fixtures to test one's own jobs with on this machine: a local cloud, instances, their faults, the S3 stub.

pytest imports this wherever hardway is installed, so nothing of hardway or boto3 is imported before a fixture is used.
Tests that use one see no AWS variable, profile or `INVOKE_` setting of the person who runs them. The fixtures undo
their changes at the end. A fixture lasts for a test; `start_local_cloud` makes one of a wider scope.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from hardway.config import Local
    from hardway.local.running import Running
    from hardway.s3 import stub_sessions

_NO_PROFILES = f"{os.devnull}/no AWS profile in tests with hardway"


@dataclass(frozen=True)
class LocalCloud:
    """A local cloud for tests; tasks of `local.` find it with `state` as their XDG_STATE_HOME."""

    state: Path
    running: Running
    _clients: dict[tuple[str, str], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that point a process at the cloud, besides `state`."""
        return self.running.environment

    @property
    def directory(self) -> Path:
        """The directory of the daemon's files: `log`, and `instances/ID` for each instance."""
        return _daemon_directory(self.state)

    def client(self, service: str, region: str = "us-east-1") -> Any:
        """Return a boto3 client of this cloud, whatever the environment is; made once."""
        if (service, region) not in self._clients:
            import boto3

            keys = (self.environment[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
            session = boto3.Session(*keys, region_name=region)
            self._clients[service, region] = session.client(service, endpoint_url=self.running.endpoint)
        return self._clients[service, region]


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark."""
    config.addinivalue_line(
        "markers", "instances(num=1, **settings): what the fixture `instances` starts; settings are as for `ec2.new`"
    )


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    """See `pytest_runtest_call`: fixtures launch, too."""
    _interrupt((yield))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """End the run of pytest on Ctrl-C in a task of ours, too: the task raises a HardwayError for it."""
    _interrupt((yield))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """See `pytest_runtest_call`: fixtures terminate, too."""
    _interrupt((yield))


def _interrupt(outcome: Any) -> None:
    errors = sys.modules.get("hardway.errors")
    if errors and outcome.excinfo and isinstance(outcome.excinfo[1], errors.Interrupted):
        outcome.force_exception(KeyboardInterrupt(str(outcome.excinfo[1])))


@contextlib.contextmanager
def run_local_cloud(state: Path, settings: Local | None = None) -> Iterator[LocalCloud]:
    """Run a local cloud in the directory `state` for the block; this process's environment stays as it is.

    The cloud ends with this process at the latest, even after a kill. Raises HardwayError if it doesn't start.
    """
    from hardway.config import Local
    from hardway.local import daemon

    directory = _daemon_directory(state)
    try:
        running, _ = daemon.up(settings or Local(), directory, os.getpid())
        yield LocalCloud(state, running)
    finally:
        daemon.down(directory)


@contextlib.contextmanager
def start_local_cloud(directory: Path) -> Iterator[LocalCloud]:
    """Run a local cloud for the block, and point this process and all it starts at the cloud.

    To share one among tests, override the fixture: `@pytest.fixture(scope="session") def local_cloud(tmp_path_factory)`
    with `with start_local_cloud(tmp_path_factory.mktemp("cloud")) as cloud: yield cloud`. `INVOKE_LOCAL_` settings
    hold. Raises HardwayError if it doesn't start.
    """
    from invoke import Context

    from hardway import config

    with _no_aws(), run_local_cloud(directory / "state", config.settings(Context()).local) as cloud:
        own = {"XDG_STATE_HOME": str(cloud.state), "XDG_DATA_HOME": str(directory / "data")}
        with _environment({**cloud.environment, **own}):
            yield cloud


@pytest.fixture
def local_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """Give a fresh local cloud to the test and all it starts; nothing of the cloud is left afterwards."""
    with start_local_cloud(tmp_path_factory.mktemp("hardway")) as cloud:
        yield cloud


@pytest.fixture
def instances(local_cloud: LocalCloud, request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Give the ids of running instances that answer over SSH, as a selector for tasks: one instance, or the number in
    `@pytest.mark.instances(4)`. The instances are ended after the test.
    """
    from invoke import Config, Context

    from hardway import aws, config
    from hardway.cli.task import Lines, say
    from hardway.launch import launch

    mark = request.node.get_closest_marker("instances")
    values = {**dict(zip(["num"], mark.args, strict=False)), **mark.kwargs} if mark else {}
    settings = config.settings(Context(Config(overrides={"ec2": values})))
    started = launch.launch(settings, say)
    client = aws.ec2(settings)  # made now, since the test may change the environment
    yield Lines(instance.id for instance in started)
    client.terminate_instances(InstanceIds=[instance.id for instance in started])


@pytest.fixture
def local_faults(local_cloud: LocalCloud) -> Iterator[Callable[..., None]]:
    """Make something go wrong in the local cloud, as the task `local.fault` does: `local_faults("kill", ids, after=2)`.

    Faults that last or wait after the test are undone.
    """
    from invoke import Context

    from hardway import config
    from hardway.local import faults

    def cause(
        kind: str,
        selector: Any = "",
        after: float = 0,
        *,
        notice: float | None = None,
        factor: float | None = None,
        zone: str | None = None,
        type: str | None = None,
        seconds: float | None = None,
        left: int | None = None,
    ) -> None:
        fault = faults.read(kind, selector, after, notice, factor, zone, type, seconds, left)
        faults.cause(config.settings(Context()), local_cloud.running, fault, selector)

    yield cause
    faults.send(local_cloud.running, faults.Fault("clear"))


@pytest.fixture
def s3_stub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[stub_sessions.Session]:
    """Give an empty session of the S3 stub: `aws` is the stub in all that the test starts, also on instances."""
    from hardway.s3 import stub_sessions

    with (
        _no_aws(),
        stub_sessions.session(tmp_path_factory.mktemp("s3")) as session,
        _environment(stub_sessions.variables(session.variables)),
    ):
        yield session


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables in this block. Not by pytest's fixture `monkeypatch`: a test may undo its changes in between."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


@contextlib.contextmanager
def _no_aws() -> Iterator[None]:
    """Hide the AWS settings, and the S3 stub, of the person who runs the tests; do nothing inside of such a block."""
    from hardway import config
    from hardway.s3 import stub_sessions

    environment = config.child_environment()
    if environment.get("AWS_CONFIG_FILE") == _NO_PROFILES:
        yield
        return
    ours = [f"INVOKE_{section}_".upper() for section in config.SECTIONS if section != "local"]
    hidden = ("AWS_", "s3_stubbed_", *ours)
    with pytest.MonkeyPatch.context() as patch:
        for name in environment:
            if name.startswith(hidden) or name == "region":
                patch.delenv(name)
        stub = str(stub_sessions.directory())
        patch.setenv("PATH", os.pathsep.join(folder for folder in config.search_path() if folder != stub))
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, _NO_PROFILES)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("INVOKE_AWS_PROFILE", "")
        if "boto3" in sys.modules:
            patch.setattr("boto3.DEFAULT_SESSION", None)
        yield


def _daemon_directory(state: Path) -> Path:
    return state / "hardway" / "local"
