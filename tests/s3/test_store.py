"""The store: `aws` on two instances, which are two homes here, and the server of each."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hardway.clusters import store_server
from hardway.s3 import fast_aws
from hardway.s3.store_urls import instance_of, store_bucket
from tests.patience import eventually, patience

IDS = ("i-aaaaaaaa", "i-bbbbbbbb", "i-cccccccc")
TOKEN = "5" * 64
NAMES = [
    "..",
    "../../etc/passwd",
    ".//x",
    "/abs",
    "a b%c",
    "new\nline",
    "\u00fc",
    ".tmp-1",
    "x@",
    "~",
    "a",
    "a/b",
    "-n",
]


def free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


@dataclass
class Home:
    """One instance of the store: its id and address, its home directory, its server."""

    id: str
    address: str
    port: int
    path: Path
    server: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> Path:
        return self.path / "objects"

    @property
    def url(self) -> str:
        return f"s3://{store_bucket(self.id)}"

    def aws(self, *arguments: str, stdin: bytes = b"", before: str = "") -> tuple[int, bytes, str]:
        """Run `aws s3`, by a shell that does `before` first."""
        line = f"{before}exec {shlex.quote(str(self.path.parent / 'aws'))} s3 {shlex.join(arguments)}"
        environment = {"HOME": str(self.path), "PATH": os.environ["PATH"], "TMPDIR": str(self.path)}
        done = subprocess.run(
            ["bash", "-c", line], input=stdin, capture_output=True, cwd=self.path, env=environment, timeout=patience(60)
        )
        return done.returncode, done.stdout, done.stderr.decode()

    def start(self) -> None:
        program = [sys.executable, "-I", "-S", store_server.__file__]
        files = [str(self.folder), str(self.path / ".hardway-cluster" / "store" / "token")]
        self.server = subprocess.Popen([*program, self.id, self.address, str(self.port), *files])

    def is_up(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.address, self.port)) == 0

    def end(self) -> None:
        if self.server:
            self.server.kill()
            self.server.wait()

    def ask(self, path: str, token: str = TOKEN, method: str = "GET") -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.address, self.port, timeout=patience(20))
        try:
            connection.request(method, path, headers={"Authorization": f"Bearer {token}"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Home]]:
    root = tmp_path_factory.mktemp("store")
    (root / "aws").write_bytes(fast_aws.program())
    (root / "aws").chmod(0o700)
    addresses = [f"127.78.{os.getpid() % 250}.{last}" for last in (1, 2, 3)]
    port = free_port(addresses[0])
    made = [Home(one, address, port, root / one) for one, address in zip(IDS, addresses, strict=True)]
    try:
        for one in made[:2]:
            folder = one.path / ".hardway-cluster" / "store"
            folder.mkdir(parents=True)
            one.folder.mkdir()
            (folder / "token").write_text(TOKEN + "\n")
            members = "".join(f"{other.id} {other.address}\n" for other in made)
            (folder / "members").write_text(f"{one.id} {port} {one.folder}\n{members}")
            one.start()
        for one in made[:2]:
            eventually(one.is_up)
        yield made
    finally:
        for one in made:
            one.end()


@pytest.fixture
def here(homes: list[Home]) -> Home:
    return homes[0]


@pytest.fixture
def there(homes: list[Home]) -> Home:
    return homes[1]


pytestmark = pytest.mark.starts


def test_the_form_of_its_urls() -> None:
    assert instance_of(f"s3://{store_bucket('i-0123456789abcdef0')}/a/\nb") == "i-0123456789abcdef0"
    assert instance_of("s3://hardway_i-01234567") == "i-01234567"
    for other in (
        "s3://hardway_stub/x",
        "s3://hardway_i-0123456/x",
        "s3://bucket/hardway_i-01234567",
        "hardway_i-01234567",
    ):
        assert instance_of(other) is None


def test_a_key_is_written_once_here_and_read_there(here: Home, there: Home) -> None:
    url = f"{here.url}/counts/1"
    for _ in range(2):
        assert here.aws("cp", "-", url, stdin=b"one\n") == (0, b"", "")
    code, _, said = here.aws("cp", "-", url, stdin=b"two\n")
    assert (code, "with other bytes" in said) == (1, True)
    assert [one.aws("cp", url, "-") for one in (here, there)] == [(0, b"one\n", "")] * 2
    assert there.aws("cp", url, "got")[0] == 0
    assert (there.path / "got").read_bytes() == b"one\n"
    for refused in (("cp", "-", url), ("rm", url), ("mv", "got", f"{here.url}/got")):
        code, _, said = there.aws(*refused, stdin=b"two\n")
        assert (code, "is for reading here" in said) == (1, True)
    assert there.aws("cp", url, f"{there.url}/copy")[0] == 0
    assert here.aws("mv", url, f"{here.url}/counts/2")[0] == 0
    code, listed, _ = there.aws("ls", f"{here.url}/", "--recursive")
    assert (code, listed.split()[2:]) == (0, [b"4", b"counts/2"])
    assert here.aws("rm", f"{here.url}/counts/2")[0] == 0
    assert here.aws("rm", f"{here.url}/counts/2")[0] == 0
    assert there.aws("cp", url, "-")[0] == 1
    assert list(here.folder.iterdir()) == []


def test_no_key_leads_out_of_the_folder(here: Home, there: Home) -> None:
    script = "".join(
        f"{shlex.quote(str(here.path.parent / 'aws'))} s3 cp - {shlex.quote(f'{here.url}/{key}')} <<<x\n"
        for key in NAMES
    )
    before = {path for path in here.path.parent.rglob("*") if path.parent != here.folder}
    assert here.aws("ls", f"{here.url}/", before=f"set -e\n{script}")[0] == 0
    assert {path for path in here.path.parent.rglob("*") if path.parent != here.folder} == before
    code, listed, _ = there.aws("ls", f"{here.url}/", "--recursive")
    assert code == 0
    assert listed.decode().count(" 2 ") == len(NAMES)
    assert [there.aws("cp", f"{here.url}/{key}", "-")[:2] for key in NAMES[:3]] == [(0, b"x\n")] * 3
    long = here.aws("cp", "-", f"{here.url}/{'l' * 255}", stdin=b"x")
    assert (long[0], "[Errno 36] File name too long" in long[2]) == (1, True)
    for path in here.folder.iterdir():
        path.unlink()


def test_the_server_lets_in_the_store_and_shows_its_objects_alone(here: Home) -> None:
    (here.folder / "k").write_bytes(b"bytes")
    (here.folder / ".hidden").write_bytes(b"no")
    (here.folder / "link").symlink_to("/etc/passwd")
    (here.folder / "k@").write_text("no digest")
    os.mkfifo(here.folder / "fifo")
    (here.folder / "dir").mkdir()
    digest = hashlib.blake2b(b"bytes", digest_size=32).hexdigest()
    try:
        assert here.ask(f"/{here.id}/k") == (200, b"bytes")
        assert here.ask(f"/{here.id}/k", method="HEAD") == (200, b"")
        with socket.create_connection((here.address, here.port)) as raw:
            raw.sendall(f"GET /{here.id}/k HTTP/1.0\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
            assert digest in raw.makefile().read()
        assert here.ask(f"/{here.id}/?prefix=")[1].split()[0::3] == [b"k"]
        names = (".hidden", "link", "fifo", "dir", "k@", "../token", "%2E%2E/x", "..", "k/", "%00")
        assert {here.ask(f"/{here.id}/{name}")[0] for name in names} == {404}
        for token in ("", TOKEN[1:], TOKEN + "5", "\u00fc"):
            assert here.ask(f"/{here.id}/k", token) == (401, b"")
        assert here.ask("/i-dddddddd/k") == (421, b"")
        assert here.ask(f"/{here.id}/k", method="PUT") == (501, b"")
        for nonsense in (
            b"\r\n\r\n",
            b"\x00" * 70_000 + b"\r\n\r\n",
            b"GET\r\n\r\n",
            b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        ):
            with socket.create_connection((here.address, here.port)) as raw:
                raw.sendall(nonsense)
                raw.shutdown(socket.SHUT_WR)
                raw.settimeout(patience(20))
                assert b"bytes" not in raw.recv(1000)
        assert here.ask(f"/{here.id}/k") == (200, b"bytes")
    finally:
        (here.folder / "dir").rmdir()
        for path in here.folder.iterdir():
            path.unlink()


def test_other_bytes_than_those_of_the_digest_are_refused(here: Home, there: Home) -> None:
    url = f"{here.url}/k"
    assert here.aws("cp", "-", url, stdin=b"x" * 300_000)[0] == 0
    (here.folder / "k").write_bytes(b"y" * 300_000)
    for target in ("-", "taken"):
        code, out, said = there.aws("cp", url, target)
        assert (code, out, "are not those of its digest" in said) == (1, b"", True)
    assert not (there.path / "taken").exists()
    assert not [path for path in there.path.iterdir() if path.name.startswith((".aws", "aws"))]
    assert here.aws("rm", url)[0] == 0


def test_a_wrong_token_is_refused(here: Home, there: Home) -> None:
    token = there.path / ".hardway-cluster" / "store" / "token"
    token.write_text("6" * 64)
    try:
        code, _, said = there.aws("ls", f"{here.url}/")
        assert (code, "does not take the token" in said) == (255, True)
    finally:
        token.write_text(TOKEN)


@contextlib.contextmanager
def planted(kind: str, at: Path, target: Path) -> Iterator[None]:
    """Something lies there, as a task can put it by other means than `aws`."""
    if kind == "pipe":
        os.mkfifo(at)
    elif kind == "link":
        at.symlink_to(target)
    else:
        at.mkdir()
    try:
        yield
    finally:
        at.rmdir() if kind == "directory" else at.unlink()


@pytest.mark.parametrize("kind", ["pipe", "link", "directory"])
def test_what_is_planted_at_an_objects_name_is_no_object(here: Home, there: Home, tmp_path: Path, kind: str) -> None:
    (tmp_path / "target").write_bytes(b"bytes")
    url = f"{here.url}/planted-{kind}"
    head = f"{shlex.quote(str(here.path.parent / 'aws'))} s3api head-object --bucket {url[5:].replace('/', ' --key ')}"
    with planted(kind, here.folder / f"planted-{kind}", tmp_path / "target"):
        code, _, said = here.aws("cp", "-", url, stdin=b"bytes")
        assert code == 1
        assert said.count("\n") == 1
        assert "is no object" in said
        assert here.aws(before=f"exec {head}; ")[0] == 255
        for one in (here, there):
            code, out, said = one.aws("cp", url, "-")
            assert (code, out) == (1, b"")
            assert "404" in said


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_what_is_planted_at_a_digests_name_is_left_alone(here: Home, there: Home, tmp_path: Path, kind: str) -> None:
    url = f"{here.url}/sound-{kind}"
    with planted(kind, here.folder / f"sound-{kind}@", tmp_path / "target"):
        assert here.aws("cp", "-", url, stdin=b"bytes")[0] == 0
        assert there.aws("cp", url, "-")[:2] == (0, b"bytes")
        assert not (tmp_path / "target").exists()
    (here.folder / f"sound-{kind}").unlink()


def test_a_full_disk_is_the_tasks_error(here: Home) -> None:
    code, _, said = here.aws("cp", "-", f"{here.url}/big", stdin=b"x" * 100_000, before="ulimit -f 8; ")
    assert (code, "[Errno 27] File too large" in said) == (1, True)
    assert list(here.folder.iterdir()) == []


def test_what_the_store_does_not_do_never_reaches_another_aws(here: Home) -> None:
    (here.path / "bin").mkdir(exist_ok=True)
    real = here.path / "bin" / "aws"
    real.write_text("#!/bin/sh\necho real\n")
    real.chmod(0o700)
    path = f"PATH={shlex.quote(str(real.parent))}:$PATH; "
    for command in (
        ("sync", ".", f"{here.url}/x"),
        ("cp", "--recursive", ".", f"{here.url}/x"),
        ("presign", f"{here.url}/x"),
    ):
        code, out, said = here.aws(*command, before=path)
        assert (code, out, said.startswith("aws: the buckets of the store have no ")) == (252, b"", True)
    only = here.path / "only"
    only.write_bytes(fast_aws.program(only_store=True))
    only.chmod(0o700)
    assert here.aws("ls", before=f"{path} {shlex.quote(str(only))} s3 ls s3://bucket --profile x; ")[1].startswith(
        b"real\n"
    )


def test_data_that_went_is_told_in_one_line(homes: list[Home], here: Home) -> None:
    for gone in (homes[2].id, "i-dddddddd"):
        started = time.monotonic()
        code, out, said = here.aws("cp", f"s3://{store_bucket(gone)}/k", "-")
        assert (code, out, said) == (69, b"", f"aws: its data went with {gone}: s3://{store_bucket(gone)}/k\n")
        assert time.monotonic() - started < patience(8)


def test_a_server_that_is_back_soon_is_waited_for(here: Home, there: Home) -> None:
    url = f"{there.url}/k"
    assert there.aws("cp", "-", url, stdin=b"x")[0] == 0
    assert there.server
    there.server.send_signal(signal.SIGKILL)
    there.server.wait()
    environment = {"HOME": str(here.path), "PATH": os.environ["PATH"], "TMPDIR": str(here.path)}
    command = [str(here.path.parent / "aws"), "s3", "cp", url, "-"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as reader:
        there.start()
        assert (reader.communicate(timeout=patience(30))[0], reader.returncode) == (b"x", 0)
