"""A copy replaces no device, no FIFO and no descriptor, on both sides, and nothing stays behind."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fabric.group import GroupResult

from hardway.config import Settings
from hardway.ec2.instances import Instance
from hardway.fanout import landing, rsync, transfer
from hardway.fanout.group import InstanceGroup
from hardway.fanout.transfer import Remote
from tests.openssh.conftest import instance
from tests.openssh.test_hostile import failure
from tests.openssh.test_transfer import contents
from tests.patience import patience

# A /dev of its own: what is in it, and that it is as it was.
DEVICES = """
mount -t tmpfs none /dev
mknod -m 666 /dev/null c 1 3
mknod -m 666 /dev/full c 1 7
mknod -m 666 /dev/urandom c 1 9
mkfifo /dev/fifo
mkdir /dev/shm
ln -s /proc/self/fd /dev/fd
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
"""
LIST = "find /dev -printf '%y %M %p %l\\n' | sort"
# argv: a port, and ways, sources and destinations; what is said goes to stderr, in the end the copies' exit codes
COPY = """
import sys
from dataclasses import replace
from pathlib import Path
from hardway.fanout import transfer
from hardway.config import Settings
from hardway.fanout.group import InstanceGroup, report
from hardway.fanout.transfer import Remote
from tests.openssh.conftest import instance
from hardway.system import signals
port, *rest = sys.argv[1:]
codes = []
for way, source, destination in zip(rest[::3], rest[1::3], rest[2::3]):
    group = InstanceGroup([instance(0, int(port))], Settings())
    copy = {"scp": transfer.fetch_files, "pull": transfer.pull}[way]
    try:
        report(copy(group, Remote(source), destination), lambda line: print(line, file=sys.stderr))
        codes.append(0)
    except BaseException as error:
        codes.append(getattr(signals.as_error(error) if isinstance(error, KeyboardInterrupt) else error, "code", 99))
print(*codes, file=sys.stderr)
sys.exit(max(codes))
"""
ROOT = pytest.mark.skipif(os.getuid() != 0, reason="to make devices takes root")


def copy(*arguments: str, namespace: str = "", before: str = 'exec "$@"') -> subprocess.Popen[bytes]:
    """A copy as a process, which a script of sh runs: `namespace` in a mount namespace, or `before`."""
    command = ["sh", "-ec", namespace or before, "sh", sys.executable, "-c", COPY, *arguments]
    unshare = ["unshare", "-m"] if namespace else []
    repository = Path(__file__).parents[2]
    return subprocess.Popen([*unshare, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=repository)


@ROOT
def test_nothing_here_is_put_in_place_of_a_device(start_sshd: Callable[..., int], tmp_path: Path) -> None:
    port = str(start_sshd(0, shell="/bin/bash"))
    home = tmp_path / "sshd0"
    (home / "f").write_text("content")
    (home / "tree").mkdir()
    (home / "tree" / "null").write_text("content")
    (tmp_path / "link").symlink_to("/dev/null")
    run = f'{DEVICES}\nbefore=$({LIST})\nif "$@"; then code=0; else code=$?; fi\n'
    run += f'[ "$({LIST})" = "$before" ] || exit 42\nexit $code'
    through = ["/dev/null", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", str(tmp_path / "link")]
    refused = [
        *(("scp", "f", "/dev/new"), ("scp", "f", "/dev/full"), ("scp", "f", "/dev/"), ("scp", "f", "/dev/no/place")),
        *(("pull", "tree", "/dev"), ("pull", "tree", "/dev/new"), ("pull", "tree", "/proc/")),
    ]
    done = copy(port, *(word for to in through for word in ("scp", "f", to)), *itertools.chain(*refused), namespace=run)
    out, said = done.communicate(timeout=patience(60))
    assert (done.returncode, out) == (1, b"content" * 3), said
    assert said.splitlines()[-1] == b" ".join([b"0"] * len(through) + [b"1"] * len(refused)), said
    done = copy(port, "scp", "f", "/dev/shm/f", namespace=run)
    done.communicate(timeout=patience(60))
    assert done.returncode == 42  # a plain directory, in which it is now
    assert (tmp_path / "link").is_symlink()


@ROOT
def test_nothing_there_is_put_in_place_of_a_device(
    start_sshd: Callable[..., int], settings: Settings, tmp_path: Path
) -> None:
    host = instance(0, start_sshd(0, shell="/bin/bash", setup=DEVICES))
    group = InstanceGroup([host], settings)
    (tmp_path / "f").write_text("content")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "null").write_text("content")

    def devices() -> bytes:
        [result] = InstanceGroup([host], settings).execute(LIST).values()
        return bytes(result.stdout)

    before = devices()
    (tmp_path / "sshd0" / "link").symlink_to("/dev/null")
    for target in ("/dev/null", "/dev/stdout", "link"):
        assert not transfer.send_files(group, [tmp_path / "f"], Remote(target)).failed
    for target in ("/dev/new", "/dev/full", "/dev/", "/dev/no/such"):
        failure(transfer.send_files(group, [tmp_path / "f"], Remote(target)))
    for target in ("/dev", "/dev/new", "/proc/x", "/dev/null"):
        failure(transfer.push(group, tmp_path / "tree", Remote(target)))
        failure(rsync.sync(group, tmp_path / "tree", Remote(target)))
    assert devices() == before
    assert not transfer.send_files(group, [tmp_path / "f"], Remote("/dev/shm/f")).failed


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[tuple[Path, list[bytes]]]:
    """A FIFO, and what somebody reads from it."""
    fifo = tmp_path / "fifos" / "fifo"
    fifo.parent.mkdir()
    os.mkfifo(fifo)
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(fifo.read_bytes()))
    thread.start()
    yield fifo, got
    with contextlib.suppress(OSError):
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    thread.join(patience(10))


@pytest.mark.parametrize("way", ["send", "push", "fetch", "fetch into", "pull"])
def test_a_fifo_is_written_through(
    hosts: list[Instance], settings: Settings, tmp_path: Path, reader: tuple[Path, list[bytes]], way: str
) -> None:
    fifo, got = reader
    group = InstanceGroup(hosts[:1], settings)
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "fifo").write_text("content")
    (tmp_path / "tree" / "more").write_text("more")
    outcomes = {
        "send": lambda: transfer.send_files(group, [tmp_path / "tree" / "fifo"], Remote(str(fifo))),
        "push": lambda: transfer.push(group, tmp_path / "tree", Remote(str(fifo.parent))),
        "fetch": lambda: transfer.fetch_files(group, Remote(f"{tmp_path}/tree/fifo"), str(fifo)),
        "fetch into": lambda: transfer.fetch_files(group, Remote(f"{tmp_path}/tree/fifo"), f"{fifo.parent}/"),
        "pull": lambda: transfer.pull(group, Remote(f"{tmp_path}/tree"), str(fifo.parent)),
    }[way]()
    assert not outcomes.failed, outcomes.failed
    deadline = time.monotonic() + patience(10)
    while not got and time.monotonic() < deadline:
        time.sleep(0.01)
    assert got == [b"content"]
    assert stat.S_ISFIFO(fifo.lstat().st_mode)
    assert sorted(os.listdir(fifo.parent)) == (["fifo", "more"] if way in ("push", "pull") else ["fifo"])


def test_a_symlink_that_a_person_names_stays(hosts: list[Instance], settings: Settings, tmp_path: Path) -> None:
    group = InstanceGroup(hosts[:1], settings)
    (tmp_path / "f").write_text("new")
    (tmp_path / "d").mkdir()
    ways: list[Callable[[Path], GroupResult]] = [
        lambda to: transfer.send_files(group, [tmp_path / "f"], Remote(str(to))),
        lambda to: transfer.fetch_files(group, Remote(f"{tmp_path}/f"), str(to)),
    ]
    for number, copy_it in enumerate(ways):
        real, link, dangling = (tmp_path / "d" / f"{name}{number}" for name in ("real", "link", "dangling"))
        real.write_text("old")
        link.symlink_to(real.name)
        dangling.symlink_to(f"nothing{number}")
        for to in (link, dangling):
            assert not copy_it(to).failed
            assert to.is_symlink()
            assert to.read_text() == "new"
    assert not [name for name in os.listdir(tmp_path / "d") if name.startswith(".")]


@ROOT
@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_what_another_user_has_put_in_the_place_is_refused(
    hosts: list[Instance], settings: Settings, tmp_path: Path, kind: str
) -> None:
    """As Linux does it in a directory for all, where it is told to; somebody may wait there for a copy."""
    group = InstanceGroup(hosts[:1], settings)
    (tmp_path / "f").write_text("new")
    (tmp_path / "mine").write_text("mine")
    public = tmp_path / "public"
    public.mkdir()
    public.chmod(0o1777)
    trap = public / "f"
    if kind == "link":
        trap.symlink_to(tmp_path / "mine")
    else:
        os.mkfifo(trap, 0o666)
        trap.chmod(0o666)
    os.chown(trap, 65534, 65534, follow_symlinks=False)
    reader = os.open(trap, os.O_RDONLY | os.O_NONBLOCK)
    try:
        for to in (trap, public):
            assert "another user" in failure(transfer.send_files(group, [tmp_path / "f"], Remote(str(to))))
        assert "another user" in failure(transfer.fetch_files(group, Remote(f"{tmp_path}/f"), str(trap)))
        if kind == "fifo":
            assert "another user" in failure(transfer.fetch_files(group, Remote(f"{tmp_path}/f"), f"{public}/"))
            assert os.read(reader, 100) == b""
    finally:
        os.close(reader)
    assert (tmp_path / "mine").read_text() == "mine"
    os.chown(trap, 0, 0, follow_symlinks=False)
    if kind == "link":
        assert not transfer.send_files(group, [tmp_path / "f"], Remote(str(trap))).failed
        assert (tmp_path / "mine").read_text() == "new"


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + patience(20)
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("way", "number"),
    [
        *(("pull", number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL)),
        *(("scp", number) for number in (signal.SIGTERM, signal.SIGKILL)),
    ],
)
def test_a_copy_that_is_ended_leaves_nothing_for_long(
    start_sshd: Callable[..., int], settings: Settings, tmp_path: Path, number: signal.Signals, way: str
) -> None:
    """At once, where we may end; where we may not, the next copy removes it, but nothing that is in use."""
    port = start_sshd(0, shell="/bin/bash")
    home, into = tmp_path / "sshd0", tmp_path / "into"
    (home / "tree").mkdir()
    with (home / "tree" / "big").open("wb") as file:
        file.truncate(1 << 40)
    source = "tree" if way == "pull" else "tree/big"
    (into / "t").mkdir(parents=True)
    (into / "t" / "big").write_text("mine")
    begun = copy(str(port), way, source, f"{into}/t")
    wait_for(lambda: list(into.rglob(f"{landing.PREFIX}*/**/big")))
    begun.send_signal(number)
    begun.communicate(timeout=patience(30))
    assert begun.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130}.get(number, 128 + number)
    left = [path for path in into.rglob("*") if path.name.startswith(landing.PREFIX)]
    assert bool(left) == (number == signal.SIGKILL)
    (home / "tree" / "big").write_text("new")
    with landing.workspace(into / "t") as alive:
        assert not transfer.pull(InstanceGroup([instance(0, port)], settings), Remote("tree"), f"{into}/t").failed
        assert alive.exists()
    assert contents(into) == {"t": ("40755", b""), "t/big": ("100644", b"new")}


def test_what_a_killed_copy_left_there_is_removed(
    start_sshd: Callable[..., int], settings: Settings, tmp_path: Path
) -> None:
    """The scripts are killed, as when an instance is rebooted."""
    group = InstanceGroup([instance(0, start_sshd(0, shell="/bin/bash"))], settings)
    home = tmp_path / "sshd0"
    (tmp_path / "tree").mkdir()
    with (tmp_path / "tree" / "big").open("wb") as file:
        file.truncate(1 << 33)
    for send in (
        lambda: transfer.send_files(group, [tmp_path / "tree" / "big"], Remote("into/")),
        lambda: transfer.push(group, tmp_path / "tree", Remote("into/pushed")),
    ):
        said: list[str] = []
        thread = threading.Thread(target=lambda send=send, said=said: said.append(failure(send())))
        thread.start()
        wait_for(lambda: list((home / "into").glob(".hardway-copy-*")))
        left = next((home / "into").glob(".hardway-copy-*"))
        for pid in holders(left):
            os.kill(pid, signal.SIGKILL)
        thread.join(patience(30))
        assert said
        assert left.exists()
        (tmp_path / "small").write_text("small")
        assert not transfer.send_files(group, [tmp_path / "small"], Remote("into/")).failed
        assert os.listdir(home / "into") == ["small"]


def holders(path: Path) -> list[int]:
    """The processes that have it, or something in it, open."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(link).startswith(str(path)):
                found.add(int(link.parts[2]))
    return sorted(found)


@pytest.mark.parametrize("way", ["scp", "push", "pull", "fetch"])
def test_a_full_disk_is_told_and_leaves_all_as_it_was(
    start_sshd: Callable[..., int], settings: Settings, tmp_path: Path, way: str
) -> None:
    """There it is a file system of a megabyte, here a limit on the size of files, which is told in other words."""
    there = tmp_path / "there"
    there.mkdir()
    port = start_sshd(0, shell="/bin/bash", setup=f'mount -t tmpfs -o size=1m none "{there}"; echo mine >"{there}/big"')
    group = InstanceGroup([instance(0, port)], settings)
    home = tmp_path / "sshd0"
    for place in (tmp_path, home):
        (place / "tree").mkdir()
        (place / "tree" / "big").write_bytes(bytes(3 << 20))
    if way in ("scp", "push"):
        sends: dict[str, Callable[[], GroupResult]] = {
            "scp": lambda: transfer.send_files(group, [tmp_path / "tree" / "big"], Remote(f"{there}/")),
            "push": lambda: transfer.push(group, tmp_path / "tree", Remote(str(there))),
        }
        send = sends[way]
        assert "no space left" in failure(send()).lower()
        [result] = InstanceGroup([instance(0, port)], settings).execute(f'cd "{there}" && ls -A && cat big').values()
        assert result.stdout == b"big\nmine\n"
        return
    (tmp_path / "into").mkdir()
    (tmp_path / "into" / "big").write_text("mine")
    arguments = ("pull", "tree") if way == "pull" else ("scp", "tree/big")
    limited = copy(str(port), *arguments, f"{tmp_path}/into", before='ulimit -f 1000; trap "" XFSZ; exec "$@"')
    _, said = limited.communicate(timeout=patience(60))
    assert (limited.returncode, b"file too large" in said, b"host0" in said) == (1, True, True), said
    assert contents(tmp_path / "into") == {"big": ("100644", b"mine")}


@pytest.mark.parametrize("way", ["fetch", "pull"])
def test_what_stands_in_the_way_here_is_named(
    hosts: list[Instance], settings: Settings, tmp_path: Path, way: str
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "f").write_text("content")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "into" / "f").mkdir(parents=True)
    before = contents(tmp_path / "into")
    group = InstanceGroup(hosts[:1], settings)
    for target, word in (("file/x", "file"), ("into", "is a directory")):
        copies: dict[str, Callable[[str], GroupResult]] = {
            "fetch": lambda to: transfer.fetch_files(group, Remote(f"{tmp_path}/tree/f"), to),
            "pull": lambda to: transfer.pull(group, Remote(f"{tmp_path}/tree"), to),
        }
        said = failure(copies[way](f"{tmp_path}/{target}"))
        assert word in said
        assert "twice" not in said
    assert (tmp_path / "file").read_text() == "mine"
    assert contents(tmp_path / "into") == before
