"""Many at once on the same keys: nothing torn, nothing lost, nothing half-written ever seen."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.patience import patience
from tests.s3.conftest import STUB, TIMEOUT, StubSide

WRITERS = 50
SIZE = 200_000


def start(stub: StubSide, args: list[str], **pipes: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([str(STUB), *args], cwd=stub.root, env=stub.environment, **pipes)  # type: ignore[call-overload]


@contextlib.contextmanager
def ended(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    try:
        yield
        for process in processes:
            assert process.wait(timeout=patience(TIMEOUT)) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_fifty_writers_on_one_key_and_on_many(stub: StubSide) -> None:
    bodies = {bytes([65 + n % 26]) * (SIZE + n) for n in range(WRITERS)}
    for n, body in enumerate(sorted(bodies)):
        (stub.root / f"in-{n:02}").write_bytes(body)
    stub.put("bkt", "one", min(bodies))
    torn: list[str] = []
    names: set[str] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            done = stub.run(["s3", "cp", "s3://bkt/one", "-"])
            if done.code != 0 or done.stdout.encode() not in bodies:
                torn.append(f"{done.code} {done.stderr} {len(done.stdout)}")

    def listing() -> None:
        while not stop.is_set():
            done = stub.run(["s3", "ls", "s3://bkt", "--recursive"])
            keys = [line.split()[-1] for line in done.stdout.splitlines()]
            if done.code != 0 or len(keys) != len(set(keys)) or "one" not in keys:
                torn.append(done.stdout)
            names.update(keys)

    watchers = [threading.Thread(target=read), threading.Thread(target=listing)]
    for watcher in watchers:
        watcher.start()
    try:
        writers = []
        for n in range(WRITERS):
            writers.append(start(stub, ["s3", "cp", f"in-{n:02}", "s3://bkt/one", "--quiet"]))
            writers.append(start(stub, ["s3", "cp", f"in-{n:02}", f"s3://bkt/many/{n % 5}/{n}", "--quiet"]))
        with ended(writers):
            pass
    finally:
        stop.set()
        for watcher in watchers:
            watcher.join(patience(TIMEOUT))
    assert torn == []
    expected = {f"many/{n % 5}/{n}" for n in range(WRITERS)} | {"one"}
    assert "one" in names
    assert names <= expected
    done = stub.run(["s3", "ls", "s3://bkt", "--recursive"])
    assert {line.split()[-1] for line in done.stdout.splitlines()} == expected


def test_recursive_writers_and_removers_do_not_disturb_each_other(stub: StubSide) -> None:
    for n in range(40):
        path = stub.root / "in" / f"d{n % 4}" / f"f{n}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{n}\n" * 100)
    for n in range(6):
        stub.make(f"empty-{n}")
    processes = []
    for n in range(6):
        processes.append(start(stub, ["s3", "cp", "in", "s3://bkt/shared", "--recursive", "--quiet"]))
        processes.append(start(stub, ["s3", "sync", "in", f"s3://bkt/own-{n}", "--quiet"]))
        processes.append(start(stub, ["s3", "rb", f"s3://empty-{n}"], stdout=subprocess.DEVNULL))
    with ended(processes):
        pass
    for prefix in ["shared", *(f"own-{n}" for n in range(6))]:
        assert stub.run(["s3", "cp", f"s3://bkt/{prefix}", prefix, "--recursive"]).code == 0
        for path in (stub.root / "in").rglob("*"):
            copied = stub.root / prefix / path.relative_to(stub.root / "in")
            assert path.is_dir() or copied.read_text() == path.read_text()


def test_a_writer_that_is_killed_leaves_the_old_object(stub: StubSide) -> None:
    stub.put("bkt", "k", b"old")
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        writer = start(stub, ["s3", "cp", "-", "s3://bkt/k"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        try:
            assert writer.stdin
            writer.stdin.write(b"x" * 1_000_000)
            writer.stdin.flush()
            wait_for_bytes(Path(stub.environment["s3_stubbed_tmp"]), stub.environment["s3_stubbed_session"])
            os.kill(writer.pid, number)
            with contextlib.suppress(BrokenPipeError):
                writer.stdin.close()
            assert writer.wait(timeout=patience(TIMEOUT)) != 0
        finally:
            writer.kill()
            writer.wait()
        assert stub.run(["s3", "cp", "s3://bkt/k", "-"]).stdout == "old"
        assert [line.split()[-1] for line in stub.run(["s3", "ls", "s3://bkt", "--recursive"]).stdout.splitlines()] == [
            "k"
        ]


def wait_for_bytes(tmp: Path, session: str) -> None:
    """Until something of the new object is on disk: the writer is half-way."""
    deadline = time.monotonic() + patience(TIMEOUT)
    work = tmp / f"s3_stubbed_session_{session}" / "^tmp"
    while not any(path.stat().st_size for path in work.glob("*")):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_download_is_whole_or_not_there(stub: StubSide) -> None:
    for letter in b"ab":
        stub.put("bkt", chr(letter), bytes([letter]) * SIZE)
    processes = [start(stub, ["s3", "cp", f"s3://bkt/{key}", "x", "--quiet"]) for key in "ab" * 10]
    seen = set()
    with ended(processes):
        while any(process.poll() is None for process in processes):
            with contextlib.suppress(FileNotFoundError):
                seen.add((stub.root / "x").read_bytes())
    assert seen <= {b"a" * SIZE, b"b" * SIZE}
    assert [path.name for path in stub.root.iterdir()] == ["x"]
