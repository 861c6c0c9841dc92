"""A hostile instance can do nothing to the machine it runs on, or to the cloud, beyond its own directories."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from pathlib import Path

import pytest

from hardway.local import beneath
from hardway.s3 import stub_sessions
from tests.local.conftest import Key, Machine, Machines, eventually
from tests.local.test_files import sftp_of
from tests.patience import patience

LOG = "/var/log/cloud-init-output.log"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A directory of this machine's user, with a file, that no instance may touch."""
    directory = tmp_path / "victim"
    directory.mkdir()
    (directory / "file").write_text("untouched\n")
    return directory


def untouched(victim: Path) -> bool:
    (file,) = victim.iterdir()
    return file.name == "file" and file.read_text() == "untouched\n" and stat.S_IMODE(file.stat().st_mode) == 0o644


def multipart(*parts: tuple[str, str]) -> str:
    return MIMEMultipart(_subparts=[MIMEText(text, kind.partition("/")[2]) for kind, text in parts]).as_string()


def test_what_the_daemon_writes_is_not_led_elsewhere(machines: Machines, victim: Path) -> None:
    hook = f"""#cloud-boothook
#!/bin/sh
[ -e /var/log/booted ] || exit 0
echo the second boot
rm -rf /run/hardway/user-data
ln -s {victim} /run/hardway/user-data
rm {LOG}
ln -s {victim}/file {LOG}
exit 7
"""
    second = f"#cloud-boothook\n#!/bin/sh\necho of the second part\n[ -L {LOG} ] && echo a link >/var/log/found\n:\n"
    machine = machines(UserData=multipart(("text/cloud-boothook", hook), ("text/cloud-boothook", second)))[0]
    machine.output("touch /var/log/booted")
    for plant in (f"ln -s {victim}/file {LOG}", f"ln -s {victim}/new {LOG}", f"mkfifo {LOG}", f"mkdir -p {LOG}/a/b"):
        machine.output(f"rm -rf {LOG}; {plant}; rm -f /var/log/found")
        machine.ec2.reboot_instances(InstanceIds=[machine.id])
        eventually(lambda: machine.ssh(f"test -f {LOG} -a ! -L {LOG} && grep -q second {LOG}").returncode == 0)
        said = machine.output(f"cat {LOG}")
        assert "of the second part" in said  # after the first had put a link in its place
        assert untouched(victim)


def test_authorized_keys_can_be_anything(machines: Machines, tmp_path: Path, victim: Path) -> None:
    machine = machines()[0]
    guest = Key.create(tmp_path, "guest")
    as_guest = Machine(machine.cloud, machine.id, guest)
    (victim / "file").write_bytes(guest.public)
    machine.output("mkdir -m 700 .ssh")
    for plant in (
        "mkfifo authorized_keys",
        f"ln -s {victim}/file authorized_keys",
        "ln -s /proc/self/environ authorized_keys",
        "ln -s /dev/zero authorized_keys",
        "truncate -s 1T authorized_keys",
        "mkdir authorized_keys",
        "head -c 60000 /dev/urandom >authorized_keys",
        f"rm -r ../.ssh; ln -s {victim} ../.ssh; mv {victim}/file x",
    ):
        machine.ssh(f"cd .ssh; rm -rf authorized_keys; {plant}")
        assert as_guest.ssh("true").returncode == 255
        assert machine.output("echo lives") == "lives\n"
    assert (victim / "file").read_bytes() == guest.public


@pytest.fixture
def guest(machine: Machine, tmp_path: Path) -> Iterator[Machine]:
    """Somebody whom the instance's own user has let in."""
    key = Key.create(tmp_path, "guest")
    machine.ssh("mkdir -p -m 700 .ssh && cat >.ssh/authorized_keys", stdin=key.public)
    yield Machine(machine.cloud, machine.id, key)
    machine.output("rm -rf .ssh")


def set_env(session: str, top: str) -> tuple[str, ...]:
    return "-o", f"SetEnv=s3_stubbed_session={session} s3_stubbed_tmp={top}"


def test_a_session_is_shown_to_the_owner_only(machine: Machine, guest: Machine) -> None:
    with stub_sessions.session() as session:
        options = set_env(session.uuid, str(session.path.parent))
        look = f"env | grep -c s3_stubbed; ls -d {session.path}"
        assert guest.ssh(look, options=options).stdout == b"0\n"
        # nor to a guest that has first tried the owner's key, without what proves it
        both = guest.ssh_command(look, options=(*options, "-i", str(machine.key.path) + ".pub"))
        assert subprocess.run(both, capture_output=True, timeout=patience()).stdout == b"0\n"
        assert machine.output(look, options=options) == f"2\n{session.path}\n"
    assert not session.path.exists()


def test_only_a_session_of_ours_is_bound(machine: Machine, tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()

    def shown(name: str, where: str = str(top)) -> bool:
        prefixed = os.path.normpath(f"{where}/{stub_sessions.PREFIX}{name}")
        return machine.ssh(f"ls '{prefixed}/mark'", options=set_env(name, where)).returncode == 0

    def make(path: Path, mode: int = 0o700) -> Path:
        path.mkdir(parents=True)
        (path / "mark").touch()
        path.chmod(mode)
        return path

    make(top / "s3_stubbed_session_mine")
    assert shown("mine")
    make(top / "s3_stubbed_session_open", 0o755)
    (top / "s3_stubbed_session_link").symlink_to(make(tmp_path / "elsewhere"))
    make(top / "s3_stubbed_session_x" / "sub")
    (top / "s3_stubbed_session_file").touch()
    assert not [name for name in ("open", "link", "x/sub", "file", "../elsewhere", "none", "") if shown(name)]
    assert not shown("mine", "top") and not shown("mine", f"..{top}")
    if os.geteuid() == 0:
        shutil.chown(top / "s3_stubbed_session_mine", "nobody")
        assert not shown("mine")


# SFTP


def test_sftp_shows_nothing_of_the_daemons_own(machine: Machine) -> None:
    machine.output("ln -sfn /proc/self/environ environ; ln -sfn /proc p; ln -sfn /dev/fd/0 d")
    with sftp_of(machine) as sftp:
        daemons = f"/proc/{machine.cloud.pid}/environ"
        links = ("environ", "p/self/cmdline", "d", "/tmp/../proc/self/fd/0")
        for path in ("/proc/self/environ", daemons, "/dev/zero", "/sys/kernel", "/proc", *links):
            with pytest.raises(OSError):
                sftp.open(path)
            with pytest.raises(OSError):
                sftp.listdir(path)
            with pytest.raises(OSError):
                sftp.stat(path)
        with pytest.raises(OSError):
            sftp.stat("a/" * 5000)
    machine.output("rm environ p d")


def test_sftp_keeps_what_the_instance_rests_on(machine: Machine, victim: Path) -> None:
    with sftp_of(machine) as sftp:
        for top in ("/tmp", "/var/tmp", "/run", "/home", "/root", "/var/log", "/etc/hardway"):
            with pytest.raises(OSError):
                sftp.rmdir(top)
            with pytest.raises(OSError):
                sftp.remove(top)
            with pytest.raises(OSError):
                sftp.rename(top, "/tmp/moved")
            with pytest.raises(OSError):
                sftp.posix_rename("/home/ubuntu", top)
            with pytest.raises(OSError):
                sftp.symlink(str(victim), top)
    assert all((machine.directory / name).is_dir() for name in ("tmp", "vartmp", "run", "home", "root", "log"))
    assert not any((machine.directory / name).is_symlink() for name in os.listdir(machine.directory))


def test_sftp_is_not_raced_out_of_the_instance(machine: Machine, victim: Path) -> None:
    turns = "from os import rename\nwhile True:\n    for n in ('real', 'evil'): rename(n, 'd'); rename('d', n)"
    swap = f'mkdir -p real/sub; echo own >real/file; ln -sfn {victim} evil; exec python3 -c "{turns}"'
    racing = subprocess.Popen(machine.ssh_command(swap))
    try:
        with sftp_of(machine) as sftp:
            end = time.monotonic() + 2
            while time.monotonic() < end:
                with contextlib.suppress(OSError), sftp.open("d/planted", "w") as file:
                    file.write("x")
                with contextlib.suppress(OSError), sftp.open("d/file") as file:
                    assert file.read() == b"own\n"
                with contextlib.suppress(OSError):
                    sftp.chmod("d/file", 0o777)
                with contextlib.suppress(OSError):
                    sftp.rename("d/file", "d/stolen")
                with contextlib.suppress(OSError):
                    sftp.rename("d/stolen", "d/file")
    finally:
        machine.ssh("pkill python3")
        racing.wait(patience())
    assert untouched(victim)
    machine.output("rm -rf real evil d")


# the end of it


def test_no_tree_keeps_an_instance_from_ending(machines: Machines, victim: Path) -> None:
    machine = machines()[0]
    deep = "import os\nfor _ in range(1100):\n    os.mkdir('d' * 100); os.chdir('d' * 100)\nopen('file', 'w')"
    machine.output(f'mkdir deep && cd deep && python3 -c "{deep}"')
    machine.output(f"mkdir many; cd many; for i in $(seq 300); do mkdir -p $i/sub; ln -s {victim} $i/sub/link; done")
    machine.output(f"mkdir shut && ln -s {victim} shut/link && mkfifo shut/pipe && chmod 0 shut; ln -s {victim} link")
    # it asks to be started anew again and again
    machine.ssh("for i in $(seq 5000); do echo reboot; done >/run/hardway/power")
    machine.terminate()
    assert not machine.directory.exists()
    assert untouched(victim)


# the mechanism itself, with and without openat2


@pytest.fixture(params=["openat2", "name by name"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(beneath, "_without_openat2", request.param != "openat2")
    return str(request.param)


def test_nothing_is_opened_through_a_link(way: str, tmp_path: Path, victim: Path) -> None:
    top = tmp_path / "top"
    (top / "a" / "b").mkdir(parents=True)
    (top / "a" / "b" / "file").write_text("own")
    assert beneath.read(top, "a/b/file", 10) == b"own"
    (top / "out").symlink_to(victim)
    (top / "a" / "in").symlink_to("b")
    (top / "a" / "last").symlink_to(victim / "file")
    os.mkfifo(top / "a" / "pipe")
    for path in (
        "out/file",
        "a/in/file",
        "a/last",
        "../victim/file",
        "a/../../victim/file",
        "a/pipe",
        "a/b",
        "a/none/x",
    ):
        with pytest.raises(OSError):
            beneath.read(top, path, 100)
    with pytest.raises(OSError):
        beneath.read(top, "a/b/file", 2)
    with pytest.raises(OSError):
        beneath.open_pipe(top, "a/b/file")
    os.close(beneath.open_pipe(top, "a/pipe"))

    beneath.write(top, "out/new/file", b"content", 0o700)
    assert (top / "out" / "new" / "file").read_bytes() == b"content" and not (top / "out").is_symlink()
    assert untouched(victim)


def test_what_changes_meanwhile_is_removed_and_nothing_else(tmp_path: Path, victim: Path) -> None:
    top = tmp_path / "top"
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            with contextlib.suppress(OSError):
                (top / "a" / "b").mkdir(parents=True)
            with contextlib.suppress(OSError):
                (top / "a" / "b").rename(top / "moved")
            with contextlib.suppress(OSError):
                (top / "a" / "b").symlink_to(victim)
            with contextlib.suppress(OSError):
                (top / "a" / "b").unlink()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(100):
            beneath.remove(top)
    finally:
        over.set()
        thread.join()
    beneath.remove(top)
    beneath.remove(top)
    assert not top.exists() and untouched(victim)
