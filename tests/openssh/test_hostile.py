"""Copies from a host that is hostile: only what was asked for comes, and only to where it was to go."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from hardway.config import Settings
from hardway.ec2.instances import Instance
from hardway.fanout import extract, transfer
from hardway.fanout.group import GroupFailed, InstanceGroup, report
from hardway.fanout.transfer import Remote
from hardway.ssh.channel import TransferError
from tests.openssh.conftest import instance
from tests.openssh.test_transfer import contents


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644, **more: Any) -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.mode = kind, link, mode
    for key, value in more.items():
        setattr(found, key, value)
    return found


def archive(*members: tarfile.TarInfo, form: int = tarfile.GNU_FORMAT, content: bytes = b"evil") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for each in members:
            data = content if each.isreg() and each.size == 0 else b""
            each.size = each.size or len(data)
            tar.addfile(each, io.BytesIO(data.ljust(each.size, b"x")) if each.size < 1 << 20 else None)
    return buffer.getvalue()


ROOT = member("./", tarfile.DIRTYPE, mode=0o755)
HOSTILE = {
    "a link and then a file": [ROOT, member("x", tarfile.SYMTYPE, "{outside}/file"), member("x")],
    "through a link": [ROOT, member("door", tarfile.SYMTYPE, "{outside}"), member("door/file")],
    "a directory becomes a link": [
        ROOT,
        member("door", tarfile.DIRTYPE),
        member("door/a"),
        member("door", tarfile.SYMTYPE, "{outside}"),
        member("door/file"),
    ],
    "a link becomes a directory": [
        ROOT,
        member("door", tarfile.SYMTYPE, "{outside}"),
        member("door", tarfile.DIRTYPE, mode=0o777),
        member("door/file"),
    ],
    "up": [ROOT, member("../outside/file")],
    "up within": [ROOT, member("a/../../outside/file")],
    "absolute": [ROOT, member("{outside}/file")],
    "hard link out": [ROOT, member("x", tarfile.LNKTYPE, "{outside}/file", mode=0o777), member("x")],
    "hard link up": [ROOT, member("x", tarfile.LNKTYPE, "../outside/file", mode=0o777)],
    "hard link through a link": [
        ROOT,
        member("door", tarfile.SYMTYPE, "{outside}"),
        member("x", tarfile.LNKTYPE, "door/file", mode=0o777),
    ],
    "hard link to a link": [
        ROOT,
        member("door", tarfile.SYMTYPE, "{outside}/file"),
        member("x", tarfile.LNKTYPE, "door", mode=0o777),
    ],
    "twice": [ROOT, member("x"), member("x")],
    "device": [ROOT, member("x", tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "block device": [ROOT, member("x", tarfile.BLKTYPE, devmajor=1, devminor=3)],
    "fifo": [ROOT, member("x", tarfile.FIFOTYPE)],
    "sparse": [ROOT, member("x", tarfile.GNUTYPE_SPARSE)],
    "deep": [ROOT, member("d/" * 1500 + "x")],
    "long name": [ROOT, member("x" * 300)],
    "root is a link": [member("./", tarfile.SYMTYPE, "{outside}"), member("file")],
    "root is a file": [member("./", tarfile.REGTYPE)],
    "no root": [member("x")],
    "nothing": [],
}


@pytest.fixture
def hostile(start_sshd: Callable[..., int], tmp_path: Path) -> Callable[[bytes], Instance]:
    """A host whose `tar` sends these bytes, whatever it is asked for."""
    host = instance(0, start_sshd(0, shell="/bin/bash"))
    home = tmp_path / "sshd0"
    (home / "bin").mkdir()
    (home / "bin" / "tar").write_text(f'#!/bin/sh\ncat "{home}/evil.tar"\n')
    (home / "bin" / "tar").chmod(0o755)
    (home / ".bashrc").write_text(f'PATH="{home}/bin:$PATH"\n')
    (home / "tree").mkdir()
    (home / "data.txt").write_text("data")

    def send(data: bytes) -> Instance:
        (home / "evil.tar").write_bytes(data)
        return host

    return send


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "file").write_text("mine")
    (directory / "file").chmod(0o600)
    return directory


def failure(outcomes: Any) -> str:
    """The message to a person about a failure."""
    said: list[str] = []
    with pytest.raises(GroupFailed) as failed:
        report(outcomes, said.append)
    assert failed.value.code == 1
    return said[-1]


def test_a_hostile_tree_changes_nothing(
    hostile: Callable[[bytes], Instance], settings: Settings, tmp_path: Path, outside: Path
) -> None:
    before = contents(outside)
    target = tmp_path / "into" / "target"
    for there, form in ((False, tarfile.GNU_FORMAT), (True, tarfile.PAX_FORMAT)):
        if there:
            target.mkdir()
            (target / "mine").write_text("mine")
        for what, members in HOSTILE.items():
            for each in members:
                each.name = each.name.replace("{outside}", str(outside))
                each.linkname = each.linkname.replace("{outside}", str(outside))
            host = hostile(archive(*members, form=form))
            said = failure(transfer.pull(InstanceGroup([host], settings), Remote("tree"), str(target)))
            assert said.startswith(f"failed: {host}: "), what
            assert "refused" in said or what in ("hard link to a link", "long name", "no root", "nothing"), said
            assert contents(outside) == before, what
            mine = {"target": ("40755", b""), "target/mine": ("100644", b"mine")} if there else {}
            assert contents(tmp_path / "into") == mine, what


def test_a_pulled_tree_has_no_set_id_bits_and_is_ours(
    hostile: Callable[[bytes], Instance], settings: Settings, tmp_path: Path
) -> None:
    host = hostile(
        archive(
            member(".", tarfile.DIRTYPE, mode=0o7755),
            member("d", tarfile.DIRTYPE, mode=0o7777),
            member("d/run", mode=0o6755, uid=12, gid=12, uname="games"),
            member("d/same", tarfile.LNKTYPE, "d/run", mode=0o6777),
            member("d/out", tarfile.SYMTYPE, "/etc/passwd"),
            member("d/back", tarfile.SYMTYPE, "run"),
        )
    )
    outcomes = transfer.pull(InstanceGroup([host], settings), Remote("tree"), str(tmp_path / "t"))
    assert not outcomes.failed, outcomes.failed
    assert contents(tmp_path / "t") == {
        "d": ("40777", b""),
        "d/run": ("100755", b"evil"),
        "d/same": ("100755", b"evil"),
        "d/out": ("link", b"/etc/passwd"),
        "d/back": ("link", b"run"),
    }
    assert stat.S_IMODE((tmp_path / "t").stat().st_mode) == 0o755
    assert {path.lstat().st_uid for path in (tmp_path / "t").rglob("*")} == {os.getuid()}


def test_what_an_earlier_pull_left_leads_nowhere(
    hostile: Callable[[bytes], Instance], settings: Settings, tmp_path: Path, outside: Path
) -> None:
    """A symlink is kept, as it should be; the next tree does not go through it."""
    before = contents(outside)
    link = member("door", tarfile.SYMTYPE, str(outside))
    file = member("data.txt", tarfile.SYMTYPE, str(outside / "file"))
    host = hostile(archive(ROOT, link, file))
    target = str(tmp_path / "t")
    assert not transfer.pull(InstanceGroup([host], settings), Remote("tree"), target).failed
    hostile(archive(ROOT, member("door", tarfile.DIRTYPE, mode=0o777), member("door/file")))
    assert "door" in failure(transfer.pull(InstanceGroup([host], settings), Remote("tree"), target))
    hostile(archive(member("data.txt")))
    assert not transfer.fetch_files(InstanceGroup([host], settings), Remote("data.txt"), f"{target}/").failed
    assert (tmp_path / "t" / "data.txt").read_bytes() == b"evil"
    assert not (tmp_path / "t" / "data.txt").is_symlink()
    assert contents(outside) == before


@pytest.mark.parametrize(
    "members",
    [
        [member(".bashrc")],
        [member("data.txt"), member(".bashrc")],
        [member("data.txt", tarfile.SYMTYPE, "/etc/passwd")],
        [member("data.txt", tarfile.DIRTYPE)],
        [member("data.txt", tarfile.FIFOTYPE)],
        [member("data.txt", tarfile.LNKTYPE, "../../.bashrc")],
        [member("data.txt"), member("a/data.txt")],
        [member("..")],
        [member("/")],
        [],
    ],
    ids=lambda members: " ".join(each.name for each in members) or "nothing",
)
def test_only_files_that_were_asked_for(
    hostile: Callable[[bytes], Instance], settings: Settings, tmp_path: Path, members: list[tarfile.TarInfo]
) -> None:
    into = tmp_path / "into"
    into.mkdir()
    (into / "data.txt").write_text("mine")
    host = hostile(archive(*members))
    for target in (f"{into}/", f"{into}/data.txt", f"{into}/new"):
        said = failure(transfer.fetch_files(InstanceGroup([host], settings), Remote("data.txt"), target))
        assert "refused" in said or "two of the files" in said or "it sent no file" in said or "cannot write" in said
        assert contents(into) == {"data.txt": ("100644", b"mine")}


def header(**fields: bytes) -> bytes:
    """A header with fields as they are given, and the right checksum."""
    block = bytearray(member("x").tobuf(tarfile.GNU_FORMAT))
    places = {"name": (0, 100), "mode": (100, 8), "size": (124, 12), "mtime": (136, 12), "kind": (156, 1)}
    for name, value in fields.items():
        start, length = places[name]
        block[start : start + length] = value.ljust(length, b"\0")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


END = b"\0" * 1024


@pytest.mark.parametrize(
    "stream",
    [
        header(size=b"\xff" * 12) + END,  # -1
        header(size=b"\x80" + b"\xff" * 11) + END,
        header(size=b"77777777777") + END,
        header(size=b"nonsense") + END,
        header(kind=b"L", size=b"\x80" + b"\0" * 6 + b"\xff" * 5) + END,
        header(kind=b"x", size=b"\xff" * 12) + END,
        header(kind=b"x", size=b"00000000001") + b"0".ljust(512, b"\0") + header() + END,
        header(kind=b"x", size=b"00000000012") + b"10 size=-1\n".ljust(512, b"\0") + header() + END,
        header(kind=b"x", size=b"00000000014") + b"12 path=\0/x\n".ljust(512, b"\0") + header() + END,
        header(kind=b"x", size=b"00000000030") + b"24 GNU.sparse.major=1\n\n\n".ljust(512, b"\0") + header() + END,
        header(kind=b"g", size=b"00000177777") + END,
        header(kind=b"5", size=b"00000000005") + END,
        b"x" * 512 + END,
        header() + b"\0" * 100,
        b"",
        b"\x1f\x8b" * 700,
    ],
)
def test_absurd_headers_are_refused(stream: bytes, tmp_path: Path) -> None:
    with pytest.raises(TransferError):
        unpack(stream, tmp_path / "into")


def unpack(stream: bytes, into: Path) -> None:
    into.mkdir()
    root = extract.beneath(None, into)
    tree = extract.Tree(root)
    source = io.BytesIO(stream)
    try:
        for each in extract.members(source.read):
            tree.add(each, source.read, lambda _: None)
        tree.finish()
    finally:
        tree.close()
        os.close(root)


def test_endless_headers_take_no_memory(tmp_path: Path) -> None:
    import tracemalloc

    block = header(kind=b"x", size=b"00000160000") + b"9 path=a\n" * 6371 + b"\0" * 5
    stream = iter([block[: 512 + 57344]] * 200)

    class Source:
        left = b""

        def read(self, size: int) -> bytes:
            while len(self.left) < size:
                self.left += next(stream, b"") or b"\0" * size
            data, self.left = self.left[:size], self.left[size:]
            return data

    tracemalloc.start()
    with pytest.raises(TransferError):
        list(extract.members(Source().read))
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


parts = st.sampled_from(["a", "b", "..", ".", "", "door", "x" * 256, "\udcff", "new\nline", "/"])
names = st.lists(parts, min_size=1, max_size=4).map("/".join)
kinds = st.sampled_from([b"0", b"0", b"1", b"2", b"5", b"5", b"3", b"6", b"7", b"\0", b"S", b"L", b"x"])
links = st.one_of(names, st.sampled_from(["OUTSIDE", "OUTSIDE/file", "../outside", "../outside/file", "/dev/null"]))
infos = st.lists(st.tuples(names, kinds, links, st.integers(0, 0o7777), st.integers(-9, 600)), max_size=8)


@hypothesis_settings(max_examples=200, deadline=None)
@given(infos, st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]), st.binary(max_size=600))
def test_whatever_a_stream_has_nothing_outside_changes(
    tmp_path_factory: pytest.TempPathFactory, members: list[tuple[str, bytes, str, int, int]], form: Any, tail: bytes
) -> None:
    top = tmp_path_factory.mktemp("any")
    (top / "outside").mkdir()
    (top / "outside" / "file").write_text("mine")
    before = contents(top / "outside"), os.stat(top / "outside").st_mode, sorted(os.listdir(top))
    stream = b""
    for name, kind, link, mode, size in members:
        info = member(name, kind, link.replace("OUTSIDE", str(top / "outside")), mode, size=max(size, 0))
        try:
            stream += info.tobuf(form, "utf-8", "surrogateescape") + b"z" * (-(-max(size, 0) // 512) * 512)
        except ValueError:
            continue
    with contextlib.suppress(TransferError):
        unpack(stream + tail + END, top / "into")
    made = {*top.joinpath("into").rglob("*")}
    for path in made:
        mode = path.lstat().st_mode
        assert stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)
        assert stat.S_ISLNK(mode) or not mode & 0o7000
    after = contents(top / "outside"), os.stat(top / "outside").st_mode, sorted(set(os.listdir(top)) - {"into"})
    assert after == before


def test_an_absurd_size_ends_with_the_disk(
    hostile: Callable[[bytes], Instance], settings: Settings, tmp_path: Path
) -> None:
    host = hostile(header(name=b"./", kind=b"5") + header(name=b"big", size=b"77777777777") + b"x" * 1000)
    assert "too early" in failure(transfer.pull(InstanceGroup([host], settings), Remote("tree"), str(tmp_path / "t")))
    assert not (tmp_path / "t").exists()


def test_a_pull_of_real_trees_of_any_format(
    hosts: list[Instance], settings: Settings, tmp_path: Path
) -> None:
    """Each of GNU tar's formats is read as GNU tar writes it."""
    tree = tmp_path / "tree"
    (tree / ("d" * 120) / ("e" * 120)).mkdir(parents=True)
    (tree / ("d" * 120) / ("e" * 120) / ("f" * 200)).write_text("long")
    os.link(tree / ("d" * 120) / ("e" * 120) / ("f" * 200), tree / "linked")
    (tree / "to long").symlink_to("g" * 300)
    (tree / b"\xff\n".decode(errors="surrogateescape")).write_text("odd")
    (tree / "empty").write_text("")
    os.utime(tree / "empty", (1, 1.5))
    home = tmp_path / "sshd0"
    (home / "bin").mkdir()
    (home / ".bashrc").write_text(f'PATH="{home}/bin:$PATH"\n')
    for form in ("gnu", "oldgnu", "posix", "pax"):
        (home / "bin" / "tar").write_text(f'#!/bin/sh\nexec /bin/tar --format={form} "$@"\n')
        (home / "bin" / "tar").chmod(0o755)
        outcomes = transfer.pull(InstanceGroup(hosts[:1], settings), Remote(str(tree)), str(tmp_path / form))
        assert not outcomes.failed, outcomes.failed
        assert contents(tmp_path / form) == contents(tree)
        assert int((tmp_path / form / "empty").stat().st_mtime) == 1
        assert (tmp_path / form / "linked").stat().st_nlink == 2
