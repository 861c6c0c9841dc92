"""Both sides of the comparison: the real AWS CLI on moto's S3 over HTTP, and the stub on a session of its own."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from moto.server import ThreadedMotoServer

from hardway.s3 import fast_aws, stub_sessions
from tests.patience import patience

STUBS = Path(__file__).resolve().parents[2] / "stubs"
STUB = STUBS / "aws"
DATE = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.000Z)?|\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT")
TIMEOUT = 60


def _calls() -> Any:
    """The stub's program for its calls besides `aws s3`, as a module: it looks into a session without a start."""
    spec = importlib.util.spec_from_file_location("stub_calls", STUBS / "calls.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


calls = _calls()


@dataclass(frozen=True)
class Result:
    """One command as a person sees it."""

    code: int
    stdout: str
    stderr: str


@dataclass
class Side:
    """One of the two worlds: a directory of local files, and a way to run `aws` there."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, args: list[str], stdin: bytes = b"") -> Result:
        raise NotImplementedError

    def make(self, bucket: str) -> None:
        raise NotImplementedError

    def put(self, bucket: str, key: str, body: bytes) -> None:
        raise NotImplementedError

    def objects(self) -> dict[str, str]:
        """Every object of every bucket, with the MD5 of its bytes."""
        raise NotImplementedError

    def files(self) -> dict[str, tuple[int, bytes] | str]:
        """Every local file below root, with its mode and bytes; a link with its target, a directory with a slash."""
        found: dict[str, tuple[int, bytes] | str] = {}
        for path in self.root.rglob("*"):
            name = str(path.relative_to(self.root))
            if path.is_symlink():
                found[name] = os.readlink(path)
            elif path.is_dir():
                found[name + "/"] = ""
            elif path.is_file():
                found[name] = (path.stat().st_mode, path.read_bytes())
        return found


class MotoSide(Side):
    """A side whose objects are moto's."""

    client: Any

    def make(self, bucket: str) -> None:
        self.client.create_bucket(Bucket=bucket)

    def put(self, bucket: str, key: str, body: bytes) -> None:
        self.client.put_object(Bucket=bucket, Key=key, Body=body)

    def objects(self) -> dict[str, str]:
        found = {}
        for bucket in self.client.list_buckets()["Buckets"]:
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=bucket["Name"]):
                for entry in page.get("Contents", []):
                    found[f"{bucket['Name']}/{entry['Key']}"] = entry["ETag"].strip('"')
        return found


class RealSide(MotoSide):
    """The real CLI, in a process that has it imported, against moto."""

    def __init__(self, root: Path, process: subprocess.Popen[str], client: Any) -> None:
        super().__init__(root)
        self._process = process
        self.client = client

    def run(self, args: list[str], stdin: bytes = b"") -> Result:
        command = {
            "args": args,
            "cwd": str(self.root),
            "stdin": stdin.decode("utf-8", "surrogateescape"),
            "environment": self.environment,
        }
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Result(answer["code"], answer["stdout"], answer["stderr"])


class ProgramSide(Side):
    """An `aws` of ours, as a process of its own, as users run it."""

    program = STUB

    def run(self, args: list[str], stdin: bytes = b"") -> Result:
        done = subprocess.run(
            [str(self.program), *args],
            input=stdin,
            capture_output=True,
            cwd=self.root,
            env=self.environment,
            timeout=patience(TIMEOUT),
        )
        out, err = (text.decode("utf-8", "surrogateescape") for text in (done.stdout, done.stderr))
        return Result(done.returncode, out, err)


class StubSide(ProgramSide):
    """The stub."""

    @property
    def session(self) -> Path:
        """The directory of its session."""
        return Path(self.environment["s3_stubbed_tmp"], f"s3_stubbed_session_{self.environment['s3_stubbed_session']}")

    def leftovers(self) -> list[Path]:
        """Temporary files of commands that have ended."""
        return list((self.session / "^tmp").glob("*"))

    def make(self, bucket: str) -> None:
        assert self.run(["s3", "mb", f"s3://{bucket}"]).code == 0

    def put(self, bucket: str, key: str, body: bytes) -> None:
        with self._inside():
            calls.store({"bucket": bucket, "key": key}, io.BytesIO(body), {}, "PutObject")

    def objects(self) -> dict[str, str]:
        found = {}
        with self._inside() as caller:
            for _, bucket in calls.list_buckets(caller, {}).items:
                for _, entry in calls.list_objects_v2(caller, {"bucket": bucket["Name"]}).items:
                    found[f"{bucket['Name']}/{entry['Key']}"] = entry["ETag"].strip('"')
        return found

    @contextlib.contextmanager
    def _inside(self) -> Iterator[Any]:
        """This process is in the session, as that of a call is; yields a call's caller."""
        before, mask = os.getcwd(), os.umask(0o077)
        try:
            os.chdir(self.session)
            yield calls.Caller(str(self.root), str(self.session), "json", "", True, "")
        finally:
            os.chdir(before)
            os.umask(mask)


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture(scope="session")
def cli_environment(endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that uses the real CLI against moto, and no one's configuration."""
    nowhere = str(tmp_path_factory.mktemp("aws") / "none")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "s3_stubbed"))}
    return {
        **kept,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": nowhere,
        "AWS_SHARED_CREDENTIALS_FILE": nowhere,
        "AWS_MAX_ATTEMPTS": "1",
        "no_proxy": "127.0.0.1",
        "PYTHONUTF8": "1",
    }


@contextlib.contextmanager
def start_judge(python: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Start the real CLI that this Python has."""
    process = subprocess.Popen(
        [*python, str(Path(__file__).parent / "judge.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        yield process
    finally:
        assert process.stdin
        process.stdin.close()
        process.wait(timeout=patience(TIMEOUT))


@pytest.fixture(scope="session")
def judge(cli_environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    with start_judge([sys.executable], cli_environment) as process:
        yield process


@pytest.fixture(scope="session")
def client(endpoint: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )


@pytest.fixture
def real(judge: subprocess.Popen[str], endpoint: str, client: Any, tmp_path: Path) -> RealSide:
    requests.post(f"{endpoint}/moto-api/reset", timeout=patience(TIMEOUT))
    root = tmp_path / "real" / "work"
    root.mkdir(parents=True)
    return RealSide(root, judge, client)


class FastSide(ProgramSide, MotoSide):
    """The fast `aws`, against moto, with no other tools than it may use, and no real CLI."""

    def __init__(self, root: Path, environment: dict[str, str], program: Path, client: Any) -> None:
        super().__init__(root, environment)
        self.program, self.client = program, client

    def leftovers(self) -> list[Path]:
        """Temporary files of commands that have ended."""
        return list(Path(self.environment["TMPDIR"]).iterdir())


@pytest.fixture(scope="session")
def fast_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fast `aws`, in a directory with all the tools that it needs."""
    tools = tmp_path_factory.mktemp("tools")
    needed = "cat curl dd head md5sum mkdir mv readlink rm sha256sum sleep stat touch"
    for name in needed.split():
        (tools / name).symlink_to(shutil.which(name) or name)
    (tools / "aws").write_bytes(fast_aws.program())
    (tools / "aws").chmod(0o755)
    return tools / "aws"


@pytest.fixture
def fast(fast_program: Path, cli_environment: dict[str, str], client: Any, tmp_path: Path) -> FastSide:
    root, private = tmp_path / "fast" / "work", tmp_path / "fast" / "run"
    root.mkdir(parents=True)
    private.mkdir(mode=0o700)
    (tmp_path / "fast" / "tmp").mkdir()
    environment = {
        **cli_environment,
        "PATH": str(fast_program.parent),
        "TMPDIR": str(tmp_path / "fast" / "tmp"),
        "XDG_RUNTIME_DIR": str(private),
    }
    return FastSide(root, environment, fast_program, client)


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[StubSide]:
    root = tmp_path / "stub" / "work"
    root.mkdir(parents=True)
    with stub_sessions.session() as session:
        environment = {name: value for name, value in session.environment.items() if not name.startswith("AWS_")}
        environment.pop("s3_stubbed_cli", None)
        yield StubSide(root, environment)


def transfer_lines(text: str) -> list[str]:
    """Lines as they end up on a terminal: progress is overwritten by what comes after its carriage return."""
    shown = [line.rpartition("\r")[2].rstrip() for line in text.split("\n")]
    return [DATE.sub("<date>", line) for line in shown]
