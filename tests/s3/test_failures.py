"""Full disks, limits, what can't be read or written, sessions that go away: each is an error, and nothing is lost.

Disks are small tmpfs in a mount namespace of their own, limits are ulimit's, and what root may read anyway is read
without root's right to.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.patience import patience
from tests.s3.conftest import STUB, STUBS, TIMEOUT, Result, StubSide

ROOT = os.geteuid() == 0
NAMESPACE = ["unshare", "-m" if ROOT else "-rm"]
PLAIN_USER = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if ROOT else []


def script(stub: StubSide, text: str, *prefix: str) -> Result:
    """Run a bash script where `aws` is the stub, behind the commands of `prefix`."""
    path = f"{STUBS}:{os.environ['PATH']}"
    done = subprocess.run(
        [*prefix, "bash", "-c", text],
        env={**stub.environment, "PATH": path},
        cwd=stub.root,
        capture_output=True,
        timeout=patience(TIMEOUT),
    )
    out, err = (text.decode("utf-8", "surrogateescape") for text in (done.stdout, done.stderr))
    return Result(done.returncode, out, err)


def on_a_full_disk(stub: StubSide, size: str, text: str) -> Result:
    """Run a script whose session lies on a disk of that size, with a file `big` that doesn't fit."""
    (stub.root / "big").write_bytes(b"b" * 300_000)
    disk = shlex.quote(str(stub.session))
    mounted = f"mount -t tmpfs -o size={size},mode=700 none {disk} && : >{disk}/^started || exit 99"
    return script(stub, f"{mounted}\necho old | aws s3 cp - s3://b/k || exit 98\n{text}", *NAMESPACE)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("s3 cp big s3://b/k", "upload failed: ./big to s3://b/k [Errno 28] No space left on device\n"),
        ("s3 cp - s3://b/k <big", "upload failed: - to s3://b/k [Errno 28] No space left on device\n"),
        ("s3 mv big s3://b/k", "move failed: ./big to s3://b/k [Errno 28] No space left on device\n"),
        ("s3api put-object --bucket b --key k --body big", "\n[Errno 28] No space left on device\n"),
    ],
)
def test_an_upload_to_a_full_disk_leaves_the_old_object(stub: StubSide, command: str, says: str) -> None:
    done = on_a_full_disk(
        stub, "200k", f"aws {command}; echo $?; aws s3 cp s3://b/k -; ls big; ls -A {stub.session}/^tmp"
    )
    code, *rest = done.stdout.splitlines()
    assert (int(code) in (1, 255), rest, done.stderr) == (True, ["old", "big"], says)


@pytest.mark.parametrize("number", [3, 8], ids=["one by one", "many at a time"])
@pytest.mark.parametrize("verb", ["cp --recursive", "mv --recursive", "sync --delete"])
def test_what_did_not_fit_is_said_and_stays(stub: StubSide, verb: str, number: int) -> None:
    (stub.root / "t").mkdir()
    names = [f"f{n}" for n in range(number)]
    for name in names:
        (stub.root / "t" / name).write_bytes(name.encode() * (100_000 // number))
    verb, flag = verb.split()
    look = "aws s3 ls s3://b/t/ | awk '{ print $3, $4 }'; aws s3 cp s3://b/k -"
    done = on_a_full_disk(stub, "150k", f"aws s3 {verb} t s3://b/t {flag}; echo code $?; {look}")
    lines = done.stdout.splitlines()
    said = {line.split("/")[-1] for line in lines if ": t/" in line}
    failed = {line.split("/")[-1].split()[0] for line in done.stderr.splitlines()}
    there = {line.split()[1] for line in lines if line.startswith(str(100_000 // number * 2))}
    assert "code 1" in lines
    assert lines[-1] == "old"
    assert failed, done
    assert (said | failed, said & failed, there) == (set(names), set(), said)
    assert all("No space left on device" in line for line in done.stderr.splitlines())
    left = {path.name for path in (stub.root / "t").iterdir()}
    assert left == (failed if verb == "mv" else set(names))


@pytest.mark.parametrize("number", [1, 6])
@pytest.mark.parametrize("command", ["s3 cp s3://b/k0 disk/k0", "s3 cp s3://b disk --recursive", "s3 sync s3://b disk"])
def test_a_download_to_a_full_disk_leaves_the_old_file(stub: StubSide, command: str, number: int) -> None:
    for n in range(number):
        stub.put("b", f"k{n}", b"b" * 300_000)
    (stub.root / "disk").mkdir()
    done = script(
        stub,
        "mount -t tmpfs -o size=200k none disk && echo old >disk/k0 && touch -d @0 disk/k0 || exit 99\n"
        f"aws {command}; echo $?; cat disk/k0; ls -A disk",
        *NAMESPACE,
    )
    assert done.stdout.splitlines() == ["1", "old", "k0"]
    assert "[Errno 28] No space left on device" in done.stderr


OTHERS = ("find", "half a find", "missing", "sort")
FILES = (*OTHERS, "silent find", "silent sort")
OBJECTS = (*FILES, "tr", "silent tr")
LISTINGS = {
    "s3 sync s3://src t --delete": OBJECTS,
    "s3 sync t s3://src --delete": OBJECTS,
    "s3 cp s3://src out --recursive": OBJECTS,
    "s3 cp t s3://new --recursive": FILES,
    "s3 mv t s3://new --recursive": FILES,
    "s3 rm s3://src --recursive": OBJECTS,
    "s3 rb s3://src --force": OBJECTS,
    "s3 ls s3://src": OBJECTS,
    "s3 ls s3://src --recursive": OBJECTS,
    "s3api list-objects-v2 --bucket src": ("missing",),
    "s3 ls": OTHERS,
    "s3api list-buckets": ("missing",),
    "s3api head-object --bucket src --key k --output text": ("missing",),
}
"""Commands that list, and the tools that they need."""


@pytest.mark.parametrize("command", LISTINGS)
def test_a_listing_whose_tool_fails_is_no_empty_one(stub: StubSide, command: str) -> None:
    for name in ("k", "d/x", "d/y", "e^"):
        path = stub.root / "src" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"source")
    assert stub.run(["s3", "mv", "src", "s3://src", "--recursive"]).code == 0
    shutil.rmtree(stub.root / "src")
    (stub.root / "t").mkdir()
    for name in ("only-here", "k"):
        (stub.root / "t" / name).write_bytes(b"file")
    before = stub.files(), stored(stub)
    sound = stub.environment
    for broken in LISTINGS[command]:
        tools = stub.root.parent / broken.replace(" ", "-")
        tools.mkdir()
        stub.environment = {**sound, "PATH": with_broken(broken, tools)}
        done = stub.run(command.split())
        assert done.code in (1, 255), (broken, done)
        assert done.stderr.strip(), broken
        assert done.stdout == "", broken
        (stub.root / "out").rmdir() if (stub.root / "out").exists() else None
        assert (stub.files(), stored(stub)) == before, broken


def stored(stub: StubSide) -> dict[str, bytes]:
    """The session's content; nothing of commands that have ended may be left."""
    assert not stub.leftovers()
    return {str(path): path.read_bytes() for path in stub.session.rglob("*") if path.is_file()}


def with_broken(broken: str, tools: Path) -> str:
    """A PATH on which a tool is broken, or is missing."""
    if broken == "missing":
        for name in ("sort", "tr", "cp", "mv", "rm", "mkdir", "touch", "cat", "md5sum"):
            (tools / name).symlink_to(str(shutil.which(name)))
        return str(tools)
    tool = broken.split()[-1]
    silent = broken.startswith("silent")
    body = f'{shutil.which(tool)} "$@" | head -n 1\nexit 2' if broken == "half a find" else f"exit {0 if silent else 2}"
    (tools / tool).write_text(f"#!/bin/sh\n{body}\n")
    (tools / tool).chmod(0o755)
    return f"{tools}:{os.environ['PATH']}"


@pytest.mark.parametrize("limit", ["-f 0", "-n 5", "-n 3", "-u 1", "-v 12000"])
@pytest.mark.parametrize("command", ["s3 sync s3://src t --delete", "s3 sync t s3://src --delete", "s3 ls s3://src"])
def test_a_limit_loses_nothing(stub: StubSide, limit: str, command: str) -> None:
    for n in range(6):
        stub.put("src", f"k{n}", b"source")
    (stub.root / "t").mkdir()
    for name in ("only-here", "k0"):
        (stub.root / "t" / name).write_bytes(b"file")
    session = shlex.quote(str(stub.session))
    done = script(stub, f"(ulimit {limit}; exec aws {command}) 2>&1 | cat; echo ${{PIPESTATUS[0]}}")
    *said, code = done.stdout.splitlines()
    keys = {path.name for path in (stub.session / "src").iterdir()}
    names = {path.name for path in (stub.root / "t").iterdir()}
    whole = {f"k{n}" for n in range(6)}
    if code == "0":  # it had enough
        assert "ls" in command or (keys == names)
        assert not command.startswith("s3 ls") or len(said) == 6
    else:
        assert said
        assert (keys >= whole, names >= {"only-here", "k0"}) == (True, True), (session, said)


def test_a_source_that_can_not_be_read_in_full_deletes_nothing(stub: StubSide) -> None:
    for name in ("a", "shut/b", "open/c"):
        path = stub.root / "t" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        stub.put("bkt", name, b"old")
    for shut, mode in (("shut", 0), ("shut", 0o444), ("shut", 0o111), ("a", 0)):
        (stub.root / "t" / shut).chmod(mode)
        try:
            done = script(stub, "aws s3 sync t s3://bkt --delete", *PLAIN_USER)
        finally:
            (stub.root / "t" / shut).chmod(0o755)
        assert done.code == 2, done
        assert f"t/{shut}" in done.stderr
        assert "nothing is deleted" in done.stderr
        assert sorted(name.removeprefix("bkt/") for name in stub.objects()) == ["a", "open/c", "shut/b"]
    assert script(stub, "aws s3 sync t s3://bkt --delete", *PLAIN_USER).code == 0


UNREADABLE = ("sync s3://bkt t --delete", "ls s3://bkt", "ls s3://bkt --recursive", "rm s3://bkt --recursive")


def test_a_session_that_can_not_be_read_is_not_empty(stub: StubSide) -> None:
    for name in ("a", "d/b", "d/c", "d/e", "d/f"):
        stub.put("bkt", name, b"x")
    (stub.root / "t").mkdir()
    (stub.root / "t" / "mine").write_text("mine")
    for shut in ("bkt/d%", "bkt"):
        (stub.session / shut).chmod(0)
        try:
            for command in UNREADABLE:
                done = script(stub, f"aws s3 {command}", *PLAIN_USER)
                assert (done.code in (1, 255), done.stdout) == (True, ""), command
                assert "Permission denied" in done.stderr
            done = script(stub, "aws s3api list-objects-v2 --bucket bkt --query 'length(Contents)'", *PLAIN_USER)
            assert (done.code, done.stdout, "Permission denied" in done.stderr) == (255, "", True)
        finally:
            (stub.session / shut).chmod(0o700)
    assert [path.name for path in (stub.root / "t").iterdir()] == ["mine"]
    assert len(stub.objects()) == 5


PRINTING = (
    "s3 ls",
    "s3 ls s3://bkt",
    "s3 ls s3://bkt --recursive",
    "s3 ls s3://bkt --recursive --summarize",
    "s3 cp s3://bkt/k -",
    "s3 cp s3://bkt/big -",
    "s3 cp s3://bkt/k x",
    "s3 cp s3://bkt/k x --dryrun",
    "s3 rm s3://bkt/gone",
    "s3 mb s3://new",
    "s3 rb s3://empty",
    "s3 presign s3://bkt/k",
    "s3api head-object --bucket bkt --key k",
    "s3api head-object --bucket bkt --key k --query ETag --output text",
    "s3api get-object --bucket bkt --key k x",
    "s3api get-object --bucket bkt --key k /dev/stdout",
    "s3api put-object --bucket bkt --key k2",
    "s3api list-objects-v2 --bucket bkt",
    "s3api list-objects-v2 --bucket bkt --query Contents[].Key",
    "s3api list-objects-v2 --bucket bkt --query length(Contents)",
    "s3api list-buckets",
    "--version",
    "help",
)


def test_what_can_not_be_printed_is_an_error(stub: StubSide) -> None:
    stub.put("bkt", "k", b"body\n")
    stub.put("bkt", "big", b"\0" * 100_000)
    stub.make("empty")
    for command in PRINTING:
        for stdout, reason in ((">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")):
            done = script(stub, f"aws {' '.join(map(shlex.quote, command.split()))} {stdout}")
            assert done.code != 0, (command, done)
            assert reason in done.stderr or "NoSuchBucket" in done.stderr, (command, done)
            assert "line " not in done.stderr, command


def test_a_pipe_that_nobody_reads_is_an_error(stub: StubSide) -> None:
    stub.put("bkt", "k", b"x" * 1_000_000)
    for command, code in (("s3 cp s3://bkt/k -", 1), ("s3 ls s3://bkt", 255), ("s3api list-buckets", 255)):
        done = script(stub, f"(sleep 0.2; aws {command}; echo $? >code) | true; cat code")
        assert (done.stdout, "Broken pipe" in done.stderr) == (f"{code}\n", True), command


def test_an_object_copied_to_what_takes_nothing_is_an_error(stub: StubSide) -> None:
    stub.put("bkt", "k", b"body\n")
    done = stub.run(["s3", "cp", "s3://bkt/k", "/dev/full"])
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.endswith("[Errno 28] No space left on device\n")
    assert done.stderr.startswith("download failed: s3://bkt/k to ")


def removed_by_hand(stub: StubSide) -> None:
    shutil.rmtree(stub.session)


def removed_by_clear(stub: StubSide) -> None:
    done = script(stub, f". {shlex.quote(str(STUBS))}/stub_s3.sh && clear-s3-stubbed")
    assert done.code == 0, done


@pytest.mark.parametrize("remove", [removed_by_hand, removed_by_clear])
@pytest.mark.parametrize("command", ["s3 cp - s3://bkt/k", "s3 cp - s3://other/d/k"])
def test_a_session_that_goes_under_a_command_is_an_error_and_stays_gone(
    stub: StubSide, remove: Callable[[StubSide], None], command: str
) -> None:
    stub.put("bkt", "old", b"x")
    writer = subprocess.Popen(
        [str(STUB), *command.split()],
        cwd=stub.root,
        env=stub.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert writer.stdin
        writer.stdin.write(b"x" * 100_000)
        writer.stdin.flush()
        deadline = time.monotonic() + patience(TIMEOUT)
        while not stub.leftovers():
            assert time.monotonic() < deadline
            time.sleep(0.005)
        remove(stub)
        said = writer.communicate(timeout=patience(TIMEOUT))
    finally:
        writer.kill()
        writer.wait()
    assert (writer.returncode, said[0]) == (255, b"")
    assert b"its session was removed while it ran" in said[1]
    assert not stub.session.exists()


@pytest.mark.parametrize("verb", ["cp t s3://b --recursive", "mv t s3://b --recursive", "sync s3://src t --delete"])
def test_a_session_cleared_at_any_moment_loses_no_file(stub: StubSide, verb: str) -> None:
    names = {f"{n}" for n in range(6)}
    (stub.root / "t").mkdir()
    for name in names:
        (stub.root / "t" / name).write_text(name)
    stub.make("src")
    assert stub.run(["s3", "cp", "t", "s3://src", "--recursive", "--quiet"]).code == 0
    # the tool at whose n-th call the session goes: each moment in turn, without a clock
    tools = stub.root.parent / "tools"
    tools.mkdir()
    saved = stub.root.parent / "saved"
    shutil.copytree(stub.session, saved)
    for moment in range(1, 40):
        counter = stub.root.parent / "count"
        counter.write_text("0")
        for tool in ("find", "sort", "tr", "mkdir", "cp", "mv", "touch", "rm"):
            (tools / tool).write_text(
                f"#!/bin/bash\n"
                f"exec 9<>{counter}.lock; flock 9\n"
                f"n=$(($(<{counter}) + 1)); echo $n >{counter}\n"
                f"[ $n = {moment} ] && /bin/rm -f {stub.session}/^started && /bin/rm -rf {stub.session}\n"
                f"exec 9>&-\n"
                f'exec {shutil.which(tool)} "$@"\n'
            )
            (tools / tool).chmod(0o755)
        sound = stub.environment
        stub.environment = {**sound, "PATH": f"{tools}:{os.environ['PATH']}"}
        done = stub.run(["s3", *verb.split()])
        stub.environment = sound
        if int(counter.read_text()) < moment:
            assert done.code == 0, done
            break
        assert done.code in (1, 255), (moment, done)
        assert done.stdout == "", moment
        assert not stub.session.exists()
        left = {path.name for path in (stub.root / "t").iterdir()}
        # all of a move landed before the session was ended: then its sources may be gone
        assert left == names or (verb.startswith("mv") and "while it ran" in done.stderr), (moment, left)
        shutil.copytree(saved, stub.session)
        for name in names:
            (stub.root / "t" / name).write_text(name)
    else:
        pytest.fail("it never ended")
    assert moment > 4


def test_killed_while_it_moves_many(stub: StubSide) -> None:
    """A kill that nothing can handle: each file is here or there, whole."""
    for delay in (0.0, 0.02, 0.04, 0.06, 0.08):
        (stub.root / "t").mkdir(exist_ok=True)
        for n in range(200):
            (stub.root / "t" / f"{n}").write_text(f"{n}" * 100)
        mover = subprocess.Popen(
            [str(STUB), "s3", "mv", "t", "s3://bkt/t", "--recursive", "--quiet"],
            cwd=stub.root,
            env=stub.environment,
            start_new_session=True,
        )
        time.sleep(delay)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(mover.pid, signal.SIGKILL)
        mover.wait(timeout=patience(TIMEOUT))
        for n in range(200):
            places = [stub.root / "t" / f"{n}", stub.session / "bkt" / "t%" / f"{n}"]
            texts = {place.read_text() for place in places if place.exists()}
            assert texts == {f"{n}" * 100}
        shutil.rmtree(stub.root / "t", ignore_errors=True)
        shutil.rmtree(stub.session / "bkt", ignore_errors=True)


DEVICES = r"""
set -e
mkdir dev
mount -t tmpfs none dev
for name in null full zero; do : >dev/$name; mount --bind /dev/$name dev/$name; done
mkdir dev/shm
mount -t tmpfs none dev/shm
mkfifo dev/fifo
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
mount --rbind dev /dev
cd "$OLDPWD"
set +e
kinds() { find /dev -mindepth 1 -printf '%p %y %l\n' | sort; }
before=$(kinds)
"""


@pytest.mark.parametrize("body", [b"short\n", b"long\n" * 20_000], ids=["short", "long"])
@pytest.mark.parametrize("verb", ["s3 cp s3://bkt/k", "s3api get-object --bucket bkt --key k"])
def test_devices_and_descriptors_are_written_to_not_replaced(stub: StubSide, verb: str, body: bytes) -> None:
    stub.put("bkt", "k", body)
    private = stub.root.parent / "private"
    private.mkdir()
    quiet = " --quiet" if verb.startswith("s3 ") else " >/dev/fd/7"
    text = f"""cd {shlex.quote(str(private))}{DEVICES}
exec 7>said
(echo before; aws {verb} /dev/stdout{" --quiet" if "s3 cp" in verb else ""}; echo after) >out1 || exit 11
(aws {verb} /dev/fd/5 {quiet}) 5>out5 || exit 12
(aws {verb} /proc/self/fd/6 {quiet}) 6>out6 || exit 13
aws {verb} /dev/stderr {quiet} 2>out2 || exit 14
ln -s /dev/stdout link; aws {verb} link {quiet.replace(">/dev/fd/7", "")} >out3 || exit 15
ln -s /dev/fd links; aws {verb} links/5 {quiet} 5>out4 || exit 16
aws {verb} /dev/null {quiet} || exit 17
cat /dev/fifo >out7 & aws {verb} /dev/fifo {quiet} || exit 18; wait
aws {verb} /dev/full {quiet} && exit 19
aws {verb} /dev/fd/9 {quiet} && exit 20
[ "$(kinds)" = "$before" ] || {{ kinds; exit 21; }}
aws {verb} /dev/shm/x {quiet} || exit 22
cp /dev/shm/x out8
aws {verb} /dev/new {quiet} || exit 23
cat /dev/new >out9
[ "$(ls -A /dev | grep -c aws)" = 0 ] || exit 24
[ -L link ] || exit 25
"""
    done = script(stub, text, *NAMESPACE)
    assert done.code == 0, done
    plain = {"out1": b"before\n" + body + b"after\n"}
    for n in (1, 2, 3, 4, 5, 6, 7, 8, 9):
        written = (stub.root / f"out{n}").read_bytes()
        expected = plain.get(f"out{n}", body)
        if verb.startswith("s3api") and n in (1, 3):
            assert written.startswith(expected.removesuffix(b"after\n"))  # then come the members, as JSON
        else:
            assert written == expected, n


def test_many_downloads_go_past_devices(stub: StubSide) -> None:
    for name in ("null", "fifo", "a", "b", "c", "d"):
        stub.put("bkt", name, name.encode())
    private = stub.root.parent / "private"
    private.mkdir()
    text = f"""cd {shlex.quote(str(private))}{DEVICES}
cat /dev/fifo >fifo & aws s3 cp s3://bkt /dev --recursive --quiet || exit 1
wait
[ -c /dev/null ] && [ -p /dev/fifo ] && cat fifo /dev/a /dev/b /dev/c /dev/d
ls -A /dev | grep aws
"""
    done = script(stub, text, *NAMESPACE)
    assert (done.stdout, done.stderr) == ("fifoabcd", "")


def test_a_link_in_a_session_is_not_followed(stub: StubSide) -> None:
    """A place that an instance of the local cloud can write to: it must not lead to files of the user."""
    home = stub.root.parent / "home"
    home.mkdir()
    (home / "secret").write_text("secret")
    stub.put("bkt", "d/k", b"x")
    (stub.session / "trap").symlink_to(home)
    (stub.session / "bkt" / "dir%").symlink_to(home)
    (stub.session / "bkt" / "file").symlink_to(home / "secret")
    (stub.root / "evil").write_text("evil")
    (stub.root / "many").mkdir()
    for n in range(5):
        (stub.root / "many" / f"{n}").write_text("evil")
    for command in (
        "cp evil s3://trap/secret",
        "cp evil s3://bkt/dir/secret",
        "cp - s3://trap/new",
        "cp many s3://trap --recursive",
        "cp many s3://bkt/dir --recursive",
        "sync many s3://trap --delete",
        "cp s3://trap/secret out",
        "cp s3://trap/secret -",
        "cp s3://bkt/file out",
        "cp s3://bkt/file -",
        "cp s3://bkt/file s3://bkt/copied",
        "cp s3://trap out --recursive",
        "rm s3://trap/secret",
        "rm s3://trap --recursive",
        "rb s3://trap --force",
        "ls s3://trap",
        "ls s3://bkt/dir/ --recursive",
    ):
        done = stub.run(["s3", *command.split()], b"evil")
        assert done.code != 0, command
        assert (done.stdout, "secret\n" in done.stderr) == ("", False), command
    assert stub.run(["s3", "cp", "evil", "s3://bkt/file"]).code == 0
    work = stub.session / "^tmp"
    shutil.rmtree(work)
    work.symlink_to(home)
    assert stub.run(["s3", "cp", "evil", "s3://bkt/x"]).code == 255
    assert {path.name: path.read_text() for path in home.iterdir()} == {"secret": "secret"}


def test_a_session_of_somebody_else_is_refused(stub: StubSide, tmp_path: Path) -> None:
    real = stub.session
    stub.environment = {**stub.environment, "s3_stubbed_session": "planted", "s3_stubbed_tmp": str(tmp_path)}
    planted = tmp_path / "s3_stubbed_session_planted"
    planted.symlink_to(real)
    done = stub.run(["s3", "ls"])
    assert (done.code, done.stdout, "not yours" in done.stderr) == (255, "", True)
    planted.unlink()
    planted.mkdir()
    (planted / "^started").touch()
    if ROOT:
        os.chown(planted, 65534, 65534)
        done = stub.run(["s3", "ls"])
        assert (done.code, done.stdout, "not yours" in done.stderr) == (255, "", True)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("put-object --key k --body new --content-md5 AAAAAAAAAAAAAAAAAAAAAA==", "BadDigest"),
        ("put-object --key k --body new --content-md5 nonsense", "InvalidDigest"),
        ("delete-objects --delete Objects=[{Key=k,VersionId=x}]", "it keeps no versions"),
        ("delete-objects --delete file://many.json", "MalformedXML"),
    ],
)
def test_what_s3_refuses_and_moto_lets_pass(stub: StubSide, words: str, says: str) -> None:
    """S3's API reference: Content-MD5 of PutObject; at most 1,000 objects in DeleteObjects."""
    stub.put("bkt", "k", b"old")
    (stub.root / "new").write_text("new")
    keys = ",".join(f'{{"Key": "{name}"}}' for name in ["k", *range(1000)])
    (stub.root / "many.json").write_text(f'{{"Objects": [{keys}]}}')
    done = stub.run(["s3api", *words.split(), "--bucket", "bkt"])
    assert (done.code, says in done.stderr) == (255, True)
    assert stub.run(["s3", "cp", "s3://bkt/k", "-"]).stdout == "old"


@pytest.mark.parametrize("umask", ["000", "777", "022"])
def test_modes_are_set_not_inherited(stub: StubSide, umask: str) -> None:
    (stub.root / "t" / "d").mkdir(parents=True)
    for name in ("a", "b", "c", "d/e", "d/f"):
        (stub.root / "t" / name).write_text("x")
    commands = [
        f"umask {umask}",
        "aws s3 cp t/a s3://b/k",
        "aws s3 cp t s3://b/t --recursive",
        "aws s3 mb s3://new",
        "aws s3api put-object --bucket b --key d/k",
        "echo x | aws s3 cp - s3://c/d/e",
        "umask 022",
        "aws s3 cp s3://b/k out",
    ]
    done = script(stub, " && ".join(commands))
    assert (done.code, done.stderr) == (0, "")
    inside = [path for path in stub.session.rglob("*") if path.name != "^started"]
    assert len(inside) > 10
    assert [path for path in inside if path.stat().st_mode & 0o777 not in (0o600, 0o700)] == []
    assert (stub.root / "out").stat().st_mode & 0o777 == 0o644
