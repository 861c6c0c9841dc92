"""One copy up, instances pass it on: it is whole everywhere, whoever dies, and nothing of the passing on remains."""

from __future__ import annotations

import hashlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from invoke.context import Context

from hardway import config
from hardway.ec2 import instances
from hardway.ec2.instances import Instance
from hardway.errors import UsageError
from hardway.fanout import broadcast, transfer
from hardway.fanout.broadcast import Board, Payload
from hardway.fanout.group import GroupFailed, InstanceGroup
from hardway.s3 import stub_sessions
from tasks import ec2
from tests.conftest import Inv, LocalCloud
from tests.ec2.conftest import Shell
from tests.local.conftest import eventually
from tests.patience import patience

NAME = "spread"
SIZE = 9_000_000


@pytest.fixture(scope="module")
def ids(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Five instances that the tests of this module share."""
    from tests.conftest import run_inv

    env = {**cloud.env, "XDG_DATA_HOME": str(tmp_path_factory.getbasetemp() / "hardway-data")}
    env["HOME"] = str(tmp_path_factory.mktemp("home"))
    made = run_inv("ec2.new", "--name", NAME, "--num", "5", env=env)
    assert made.code == 0, made.stderr
    yield made.stdout.split()
    run_inv("ec2.rm", made.stdout, "--yes", env=env)


@pytest.fixture
def five(shell: Shell, ids: list[str]) -> list[Instance]:
    return instances.select(config.settings(Context()), ids)


def home_of(cloud: LocalCloud, id_: str) -> Path:
    """The login user's home on an instance, as this machine sees it."""
    return cloud.directory / "instances" / id_ / "home" / "ubuntu"


def hidden(cloud: LocalCloud, id_: str) -> list[str]:
    """The files that a transfer might leave behind."""
    home = home_of(cloud, id_)
    return [str(path.relative_to(home)) for path in home.rglob("*") if "hardway" in path.name or path.is_fifo()]


class Counter:
    """Counts bytes that came to instances, and the whole files that came in one go: from another instance."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.passed_on = 0
        self.bytes = 0
        self._lock = threading.Lock()

    def __call__(self, count: int) -> None:
        with self._lock:
            self.bytes += count
            self.passed_on += count == self.size


def send(
    chosen: list[Instance], content: bytes, to: str, digest: str = "", cap: int = 100
) -> tuple[Counter, list[Any]]:
    settings = config.settings(Context())
    settings = replace(settings, ec2=replace(settings.ec2, max_connections=cap))
    group = InstanceGroup(chosen, settings)
    with tempfile.TemporaryFile() as file:
        file.write(content)
        payload = Payload.of(file)
        payload = Payload(file, payload.size, digest or payload.digest)
        counter = Counter(payload.size)
        arguments = [to, transfer.temporary_name(), "name", "640", str(payload.size)]
        outcomes = broadcast.spread(group, payload, transfer.RECEIVE, arguments, counter)
        return counter, [outcomes[connection] for connection in group]


def test_one_copy_goes_up_and_is_whole_everywhere(shell: Shell, five: list[Instance]) -> None:
    content = os.urandom(SIZE)
    line = "# a line of the user's own, without its newline"
    keys = home_of(shell.cloud, five[0].id) / ".ssh" / "authorized_keys"
    keys.parent.mkdir(mode=0o700, exist_ok=True)
    keys.write_text(line)
    counter, outcomes = send(five, content, "there")
    assert outcomes == [None] * 5
    assert (counter.passed_on, counter.bytes) == (4, 5 * SIZE)
    for one in five:
        assert (home_of(shell.cloud, one.id) / "there").read_bytes() == content
        assert (home_of(shell.cloud, one.id) / "there").stat().st_mode & 0o777 == 0o640
        assert not hidden(shell.cloud, one.id)
    assert keys.read_text() == line + "\n"
    keys.unlink()
    assert not (home_of(shell.cloud, five[1].id) / ".ssh" / "authorized_keys").exists()


def test_fewer_connections_than_instances(shell: Shell, five: list[Instance]) -> None:
    counter, outcomes = send(five, b"small", "few", cap=2)
    assert outcomes == [None] * 5
    assert counter.passed_on >= 3
    assert {(home_of(shell.cloud, one.id) / "few").read_bytes() for one in five} == {b"small"}


def test_what_comes_is_checked(shell: Shell, five: list[Instance]) -> None:
    digest = hashlib.sha256(b"something else").hexdigest()
    _, outcomes = send(five[:3], b"what was not meant", "wrong", digest)
    assert [str(outcome) for outcome in outcomes] == ["what came is not what was sent"] * 3
    for one in five[:3]:
        assert not (home_of(shell.cloud, one.id) / "wrong").exists()
        assert not hidden(shell.cloud, one.id)


def test_where_no_instance_lets_another_in_all_get_it_from_here(shell: Shell, five: list[Instance]) -> None:
    links = [home_of(shell.cloud, one.id) / ".ssh" / "authorized_keys" for one in five]
    for link in links:
        link.parent.mkdir(mode=0o700, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to("/dev/null")
    try:
        _, outcomes = send(five, b"from here", "direct")
    finally:
        for link in links:
            link.unlink()
    assert outcomes == [None] * 5
    assert {(home_of(shell.cloud, one.id) / "direct").read_bytes() for one in five} == {b"from here"}


def test_the_tasks_choose_by_size_and_number(shell: Shell, five: list[Instance], ids: list[str], home: Path) -> None:
    """A large file comes to all with its mode and name, a tree with all that is in it, by way of S3 too."""
    (home / "a file").write_bytes(os.urandom(SIZE))
    (home / "a file").chmod(0o750)
    ec2.scp(Context(), f"{home}/a file", ":to/", ids, yes=True)
    tree = home / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "large").write_bytes(os.urandom(SIZE))
    (tree / "link").symlink_to("sub/large")
    ec2.push(Context(), str(tree), ":pushed", ids, yes=True)
    with stub_sessions.session() as session:
        shell.succeed("ec2.push", str(tree), ":fetched", NAME, "--yes", "--s3", "s3://b/p", env=session.environment)
        assert not list(session.path.rglob("hardway*"))
    for one in five:
        there = home_of(shell.cloud, one.id)
        assert (there / "to" / "a file").read_bytes() == (home / "a file").read_bytes()
        assert (there / "to" / "a file").stat().st_mode & 0o777 == 0o750
        for pushed in (there / "pushed", there / "fetched"):
            assert (pushed / "sub" / "large").read_bytes() == (tree / "sub" / "large").read_bytes()
            assert os.readlink(pushed / "link") == "sub/large"
        assert not hidden(shell.cloud, one.id)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"direct": True, "s3": "s3://b/p"}, "contradict each other"),
        ({"via": "s3://b/p"}, "send by way of S3 with --s3"),
        ({"s3": "http://b/p"}, "is not the URL of an object"),
        ({"s3": "s3://b/a b"}, "has white space in it"),
    ],
)
def test_ways_that_are_none(five: list[Instance], ids: list[str], home: Path, flags: dict[str, Any], said: str) -> None:
    (home / "file").touch()
    with pytest.raises(UsageError, match=said):
        ec2.scp(Context(), f"{home}/file", ":", ids, yes=True, **flags)


def test_more_files_than_s3_is_used_for_are_not_sent_another_way(ids: list[str], home: Path, shell: Shell) -> None:
    (home / "many").mkdir()
    for n in range(1500):
        (home / "many" / f"{n:0100}").touch()
    with pytest.raises(UsageError, match=r"--s3 can't take 1500 files at once: .* use ec2\.push"):
        ec2.scp(Context(), f"{home}/many/*", ":many/", ids, yes=True, s3="s3://b/p")


def test_a_host_lost_on_the_way_costs_the_others_nothing(
    shell: Shell, name: str, inv: Inv, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = shell.succeed("ec2.new", "--name", name, "--num", "5").stdout.split()
    (home / "file").write_bytes(os.urandom(4 * SIZE))
    first: list[str] = []

    def kill_the_first_that_has_it() -> None:
        whole = eventually(lambda: [i for i in lost if [*home_of(shell.cloud, i).glob(".hardway-*/whole")]])
        first.append(whole[0])
        shell("local.fault", "kill", whole[0])

    killer = threading.Thread(target=kill_the_first_that_has_it)
    killer.start()
    try:
        ec2.scp(Context(), f"{home}/file", ":", lost, yes=True)
    except GroupFailed as error:
        # Unless the others were faster than its end.
        assert "failed on 1 of 5" in str(error)
        assert f"failed: {name} {first[0]}" in capsys.readouterr().err
    finally:
        killer.join(patience(60))
    for id_ in lost:
        if id_ not in first:
            assert (home_of(shell.cloud, id_) / "file").read_bytes() == (home / "file").read_bytes()
            assert not hidden(shell.cloud, id_)


def test_after_ctrl_c_nothing_of_it_stays(shell: Shell, ids: list[str], home: Path) -> None:
    (home / "file").write_bytes(bytes(20 * SIZE))
    homes = [home_of(shell.cloud, id_) for id_ in ids]
    with shell.running("ec2.scp", str(home / "file"), ":half", NAME, "--yes") as process:
        eventually(lambda: any([*there.glob(".hardway-*/part")] for there in homes))
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=patience(30))
    assert process.returncode == 130, said
    eventually(lambda: not any(hidden(shell.cloud, id_) for id_ in ids))
    assert not any((there / ".ssh" / "authorized_keys").exists() for there in homes)


@given(
    st.integers(1, 12),
    st.sets(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=40),
    st.sets(st.integers(0, 11), max_size=3),
    st.integers(1, 12),
)
def test_everybody_alive_gets_it_whatever_fails(
    count: int, broken: set[tuple[int, int]], dead: set[int], cap: int
) -> None:
    """Threads on a board, as they are in a transfer: some pairs never work, some instances die as they have got it."""
    board = Board([str(n) for n in range(count)], cap, lambda: time.monotonic() > end)
    end = time.monotonic() + 20
    room = threading.Semaphore(cap)
    got: dict[str, str] = {}

    def instance(n: int) -> None:
        name = str(n)
        with room:
            board.begin(name)
            try:
                while name not in got:
                    source = board.source(name)
                    if source != broadcast.HERE and ((int(source), n) in broken or source not in got):
                        board.failed(name, source)
                    else:
                        got[name] = source
                        board.got(name, source)
                if n not in dead:
                    board.serve(name, lambda: None)
            finally:
                board.leave(name)

    threads = [threading.Thread(target=instance, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(patience(30))
    assert set(got) == {str(n) for n in range(count)}
    if not broken and not dead and cap >= count:
        assert [source for source in got.values() if source == broadcast.HERE] == [broadcast.HERE]
