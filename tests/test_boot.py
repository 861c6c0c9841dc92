"""`boot.sh`, run with everything it changes below a directory, and the programs that need a real machine played."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from hardway.config import Ec2
from hardway.launch import user_data as userdata
from hardway.local.machines import cloudinit
from tests.conftest import REPOSITORY
from tests.local.conftest import eventually
from tests.patience import patience
from tests.pmap.conftest import PipedAgent

STORE = "Amazon EC2 NVMe Instance Storage"
# A device is a file: empty, or with what blkid would say of it.
PLAYED = {
    "blkid": 'for device; do :; done; [ -s "$device" ] || exit 2; cat "$device"',
    "mkfs.ext4": 'for device; do :; done; while [ "$1" != -L ]; do shift; done\n'
    'echo "mkfs $(basename "$device")" >>"$log"\n'
    'printf "DEVNAME=%s\\nLABEL=%s\\nTYPE=ext4\\n" "$device" "$2" >"$device"',
    "mount": 'echo "mount $(basename "$3") $(basename "$4")" >>"$log"',
    "chown": '[ "$1" = 1000 ] || grep -qx "$1" "${log%log}users" || exit 1\necho "chown $1 $(basename "$2")" >>"$log"',
    "systemctl": 'echo "systemctl $*" >>"$log"',
    "poweroff": 'echo poweroff >>"$log"',
    "sleep": 'echo "sleep $1" >>"$log"',
    "sync": ":",
}
# What an end asks for: first in a way that gives services their time and that no lock can hold up, then harder.
DOWN = [
    "systemctl start --no-block --job-mode=replace-irreversibly poweroff.target",
    *("sleep 600", "systemctl --force poweroff", "sleep 60", "sleep 3", "sleep 3", "sleep 3"),
]


def uptime() -> int:
    return int(float(Path("/proc/uptime").read_text().split()[0]))


class Box:
    """An instance's root directory, where `boot.sh` is its boothook."""

    def __init__(self, root: Path, *, hours: float = 0, idle_minutes: float = 0, port: int = 22, systemd: bool = True):
        self.root = root
        self.log = root / "log"
        self.users = root / "users"
        self.hook = root / "hook"
        self.etc = root / "etc" / "hardway"
        for directory in ("sbin", "dev", "proc", "sys/block", "run/hardway", "run/systemd/system" if systemd else "."):
            (root / directory).mkdir(parents=True, exist_ok=True)
        for name, body in PLAYED.items():
            (root / "sbin" / name).write_text(f"#!/bin/sh\nlog={self.log}\n{body}\n")
            (root / "sbin" / name).chmod(0o755)
        settings = Ec2(max_hours=hours, idle_minutes=idle_minutes, ssh_port=port)
        [part] = cloudinit.parts(userdata.compose(settings, b"", "ubuntu"))
        self.hook.write_bytes(part.content)
        self.hook.chmod(0o700)
        self.log.touch()

    def boot(self, instance: str = "i-1") -> list[str]:
        """Boot with an empty /run; returns the lines that the played programs left."""
        shutil.rmtree(self.root / "run" / "hardway")
        return self.run(str(self.hook), INSTANCE_ID=instance)

    def boot_alone(self) -> list[str]:
        """Boot without cloud-init, by systemd and the first look; returns as `boot` does."""
        shutil.rmtree(self.root / "run" / "hardway")
        return [*self.watch("start"), *self.watch("look")]

    def is_machine(self, asset: str, uuid: str = "") -> None:
        """Have firmware that says so."""
        dmi = self.root / "sys" / "class" / "dmi" / "id"
        dmi.mkdir(parents=True, exist_ok=True)
        (dmi / "board_asset_tag").write_text(f"{asset}\n")
        (dmi / "product_uuid").write_text(f"{uuid}\n")

    def watch(self, *arguments: str, **environment: str) -> list[str]:
        """The commands that systemd and `ec2.extend` call."""
        return self.run("sh", str(self.etc / "watch"), *arguments, **environment)

    def run(self, *command: str, **environment: str) -> list[str]:
        before = len(self.log.read_text().splitlines())
        done = subprocess.run(
            command,
            env={**os.environ, "HARDWAY_ROOT": str(self.root), **environment},
            capture_output=True,
            timeout=patience(30),
        )
        assert (done.returncode, done.stderr.removeprefix(b"Killed\n")) == (0, b"")
        return self.log.read_text().splitlines()[before:]

    @property
    def ends(self) -> float:
        """Seconds from now."""
        return int((self.etc / "ends").read_text()) - time.time()

    def disk(self, name: str, model: str = STORE, holds: str = "") -> None:
        device = self.root / "sys" / "block" / name / "device"
        device.mkdir(parents=True)
        (device / "model").write_text(f"{model:40}\n")
        (self.root / "dev" / name).write_text(holds)


def test_it_is_clean() -> None:
    script = str(REPOSITORY / "hardway" / "launch" / "boot.sh")
    for shell in ("dash", "bash"):
        if shutil.which(shell):
            subprocess.run([shell, "-n", script], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", script], check=True)


def test_systemd_takes_the_timer(tmp_path: Path) -> None:
    box = Box(tmp_path, hours=1)
    assert box.boot() == ["systemctl daemon-reload", "systemctl start --no-block hardway.timer"]
    units = tmp_path / "etc" / "systemd" / "system"
    timer = (units / "hardway.timer").read_text()
    assert "OnUnitActiveSec=1min" in timer
    assert "Conflicts=shutdown.target" in timer
    files = [unit for unit in units.iterdir() if unit.is_file()]
    assert all("IgnoreOnIsolate=yes" in unit.read_text() for unit in files)
    assert f"ExecStart=/bin/sh {box.etc}/watch look\n" in (units / "hardway.service").read_text()
    if shutil.which("systemd-analyze"):
        done = subprocess.run(
            ["systemd-analyze", "verify", *map(str, files)], capture_output=True, text=True, timeout=patience(60)
        )
        assert (done.returncode, [line for line in done.stderr.splitlines() if "hardway" in line]) == (0, [])


def test_a_boot_without_cloud_init_ends_it_all_the_same(tmp_path: Path) -> None:
    """By what the first boot has left on the disk: cloud-init may be disabled, gone, or without metadata."""
    box = Box(tmp_path, hours=1)
    box.is_machine("i-1")
    box.disk("nvme1n1")
    box.users.write_text("ubuntu\n")
    box.boot()
    units = tmp_path / "etc" / "systemd" / "system"
    for target in ("sysinit", "emergency"):
        for unit in ("hardway.timer", "hardway-boot.service"):
            assert (units / f"{target}.target.wants" / unit).resolve() == units / unit
    assert f"ExecStart=/bin/sh {box.etc}/watch start\n" in (units / "hardway-boot.service").read_text()
    (box.etc / "ends").write_text("1000\n")
    assert box.boot_alone() == ["mount nvme1n1 mnt", "chown ubuntu mnt"]
    assert 590 < box.ends <= 600
    (box.etc / "ends").write_text("1000\n")
    assert box.watch("look") == DOWN


@pytest.mark.parametrize("asset", ["i-2", "Not Specified", ""])
def test_another_machine_made_of_its_image_is_left_alone(tmp_path: Path, asset: str) -> None:
    """Somebody else may start it, without our user data. Xen knows no id, but has a number for each machine."""
    box = Box(tmp_path, hours=1)
    box.is_machine("i-1" if asset == "i-2" else asset, "ec2e1916")
    box.disk("nvme1n1")
    box.users.write_text("ubuntu\n")
    box.boot()
    (box.etc / "ends").write_text("1000\n")
    if asset != "i-2":
        assert box.boot_alone() != []
        (box.etc / "ends").write_text("1000\n")
    box.is_machine(asset, "ec2e1917")
    assert box.boot_alone() == []
    assert (box.etc / "ends").read_text() == "1000\n"


def test_a_full_disk_takes_nothing_away(tmp_path: Path) -> None:
    box = Box(tmp_path, hours=1)
    box.boot()
    end = box.etc / "ends"
    watch, place = (box.etc / "watch").read_text(), end.stat().st_ino
    before = {path: path.stat().st_mtime_ns for path in box.etc.parent.rglob("*") if path.is_file()}
    for path in before:
        path.with_name(f"{path.name}.new").symlink_to("/dev/full")
    box.boot()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    box.hook.write_text(box.hook.read_text().replace("limit=3600", "limit=7200"))
    box.boot()
    assert ((box.etc / "watch").read_text(), box.ends <= 3600) == (watch, True)
    box.watch("extend", "7200")
    assert (7190 < box.ends <= 7200, end.stat().st_ino) == (True, place)


def test_a_disk_that_cannot_be_written_is_no_way_out(tmp_path: Path) -> None:
    box = Box(tmp_path, hours=1)
    box.etc.parent.mkdir()
    box.etc.write_text("so nothing can be made below it")
    assert box.boot()[-1] == "systemctl start --no-block hardway.timer"
    box.etc = tmp_path / "run" / "hardway" / "state"
    service = (tmp_path / "run" / "systemd" / "system" / "hardway.service").read_text()
    assert f"ExecStart=/bin/sh {box.etc}/watch look\n" in service
    assert 3590 < box.ends <= 3600
    (box.etc / "ends").write_text("1000\n")
    assert box.watch("look") == DOWN


def test_a_clock_that_is_set_back_makes_the_end_no_later(tmp_path: Path) -> None:
    box = Box(tmp_path, hours=1)
    box.boot()
    until = tmp_path / "run" / "hardway" / "until"
    assert box.watch("look") == []
    ends, up = map(int, until.read_text().split())
    assert abs(up - uptime() - 3600) < 10
    until.write_text(f"{ends} {uptime()}\n")  # an hour has passed, whatever the clock says
    assert box.watch("look") == DOWN


def test_a_file_that_holds_no_time_is_no_end(tmp_path: Path) -> None:
    box = Box(tmp_path, idle_minutes=1)
    box.boot()
    (box.etc / "ends").write_text("tomorrow\n")
    assert box.watch("look") == []
    (tmp_path / "run" / "hardway" / "seen").write_text(f"{uptime() - 100} {1 << 50} {uptime() - 1}\n")
    assert box.watch("look") == DOWN


def test_what_refuses_is_asked_again_in_another_way(tmp_path: Path) -> None:
    box = Box(tmp_path, hours=1)
    box.boot()
    (box.etc / "ends").write_text("1000\n")
    (tmp_path / "sbin" / "systemctl").write_text(f'#!/bin/sh\necho "systemctl $*" >>{box.log}\nexit 1\n')
    assert box.watch("look") == [DOWN[0], "poweroff", *DOWN[1:]]
    assert (tmp_path / "proc" / "sysrq-trigger").read_text() == "o\n"


def test_a_killed_watch_that_nobody_has_waited_for_is_started_again(tmp_path: Path) -> None:
    box = Box(tmp_path, hours=1, systemd=False)
    box.etc.mkdir(parents=True)
    (box.etc / "ends").write_text(f"{int(time.time()) - 1}\n")
    shutil.copy(box.hook, box.etc / "watch")
    killed = subprocess.Popen(["sleep", "1000"])
    (tmp_path / "run" / "hardway" / "loop").write_text(f"{killed.pid}\n")
    assert box.watch("again") == []
    killed.kill()  # and is a zombie until it is waited for
    try:
        box.watch("again")
        deadline = time.monotonic() + patience(30)
        while "poweroff" not in box.log.read_text():
            assert time.monotonic() < deadline, "nothing ended the instance"
            time.sleep(0.05)
    finally:
        killed.wait()
        box.etc.rename(tmp_path / "over")  # ends the loop


def test_the_end_is_a_time_that_a_reboot_does_not_move(tmp_path: Path) -> None:
    box = Box(tmp_path, hours=2)
    box.boot()
    assert 7190 < box.ends <= 7200
    (box.etc / "ends").write_text(f"{int(time.time()) + 3000}\n")
    box.boot()
    assert 2990 < box.ends <= 3000
    assert box.watch("look") == []


def test_who_starts_it_again_past_its_end_has_ten_minutes(tmp_path: Path) -> None:
    box = Box(tmp_path, hours=2)
    box.boot()
    (box.etc / "ends").write_text("1000\n")
    box.boot()
    assert 590 < box.ends <= 600


def test_an_image_made_of_an_instance_starts_anew(tmp_path: Path) -> None:
    box = Box(tmp_path, hours=2)
    box.boot("i-1")
    (box.etc / "ends").write_text("1000\n")
    box.boot("i-2")
    assert 7190 < box.ends <= 7200


def test_without_limits_nothing_watches_until_it_is_given_one(tmp_path: Path) -> None:
    box = Box(tmp_path)
    assert box.boot() == []
    assert not (box.etc / "ends").exists()
    assert "systemctl start --no-block hardway.timer" in box.watch("extend", "60")
    assert 50 < box.ends <= 60


@pytest.mark.parametrize("executable", [False, True])
def test_on_timeout_has_its_time_and_no_more(tmp_path: Path, executable: bool) -> None:
    box = Box(tmp_path, hours=1)
    box.boot()
    (box.etc / "ends").write_text("1000\n")
    last = box.etc / "on-timeout.sh"
    said = f"echo saved $HOME >>{box.log}"
    last.write_text(f"#!/bin/bash\ntrap '' TERM\n[[ 1 ]] && {said}\nsleep 20\n")
    last.chmod(0o755 if executable else 0o644)
    begun = time.monotonic()
    # A service of systemd's has no HOME.
    assert box.watch("look", HARDWAY_GRACE="0.2", HOME="") == [f"saved {tmp_path}/root", *DOWN]
    assert 0.2 < time.monotonic() - begun < patience(15)


def test_on_timeout_runs_once_though_the_machine_takes_long_to_go_down(tmp_path: Path) -> None:
    box = Box(tmp_path, hours=1)
    box.boot()
    (box.etc / "ends").write_text("1000\n")
    (box.etc / "on-timeout.sh").write_text(f"echo saved >>{box.log}\n")
    assert box.watch("look") == ["saved", *DOWN]
    assert box.watch("look") == DOWN
    box.boot()
    (box.etc / "ends").write_text("1000\n")
    assert box.watch("look") == ["saved", *DOWN]


@pytest.mark.parametrize("idle_minutes", [0, 1])
def test_who_extends_it_while_on_timeout_runs_keeps_it(tmp_path: Path, idle_minutes: int) -> None:
    box = Box(tmp_path, hours=1, idle_minutes=idle_minutes)
    box.boot()
    if idle_minutes:
        now = uptime()
        (tmp_path / "run" / "hardway" / "seen").write_text(f"{now - 100} {1 << 50} {now - 1}\n")
    else:
        (box.etc / "ends").write_text("1000\n")
    save = box.etc / "on-timeout.sh"
    watch, log = shlex.quote(str(box.etc / "watch")), shlex.quote(str(box.log))
    save.write_text(f"sh {watch} extend 36000; echo saved >>{log}\n")
    extended = "systemctl start --no-block hardway.timer"
    assert box.watch("look")[1:] == [extended, "saved"]
    assert box.ends > 35000
    assert box.watch("look") == []
    save.write_text(f"echo saved >>{box.log}\n")
    (box.etc / "ends").write_text("1000\n")
    assert box.watch("look") == ["saved", *DOWN]


def test_use_keeps_it_and_disuse_ends_it(tmp_path: Path, home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        box = Box(tmp_path / "box", idle_minutes=1, port=port)
        box.boot()
        seen = tmp_path / "box" / "run" / "hardway" / "seen"
        (tmp_path / "box" / "root").symlink_to(home)

        def ends(spent: int = 1 << 50, **environment: str) -> bool:
            """Whether it ends, unused for 100 s so far; `spent` is the CPU time at the look before this."""
            now = uptime()
            seen.write_text(f"{now - 100} {spent} {now - 1}\n")
            return box.watch("look", **environment) == DOWN

        assert ends()
        assert not ends(spent=0)
        with socket.create_connection(("127.0.0.1", port)):
            assert not ends()
            assert not ends(HARDWAY_ADDRESS="127.0.0.1")
            assert ends(HARDWAY_ADDRESS="127.77.0.9")
        agent = PipedAgent(home, "cat")
        assert not ends(HARDWAY_ADDRESS="127.77.0.9")
        agent.stop()
        assert ends(HARDWAY_ADDRESS="127.77.0.9")
        seen.unlink()
        assert not box.watch("look")


def test_instance_storage_is_mounted_and_nothing_else_is_touched(tmp_path: Path) -> None:
    box = Box(tmp_path)
    others = {"nvme0n1": ("Amazon Elastic Block Store", ""), "nvme3n1": (STORE, "PTTYPE=gpt\n"),
              "nvme4n1": (STORE, "LABEL=theirs\nTYPE=xfs\n")}  # fmt: skip
    for name, (model, holds) in others.items():
        box.disk(name, model, holds)
    box.disk("nvme1n1")
    box.disk("nvme2n1")
    assert sorted(box.boot()) == sorted(["mkfs nvme1n1", "mount nvme1n1 mnt", "mkfs nvme2n1", "mount nvme2n1 mnt1"])
    # cloud-init makes the user later.
    box.users.write_text("other\nubuntu\n")
    owned = ["chown ubuntu mnt", "chown ubuntu mnt1"]
    eventually(lambda: sorted(box.log.read_text().splitlines()[4:]) == owned)
    # After a reboot they have changed names: what is on them stays, and where it is.
    one, two = tmp_path / "dev" / "nvme1n1", tmp_path / "dev" / "nvme2n1"
    # All are mounted already: no failure.
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "mountpoint").symlink_to("/bin/true")
    assert box.run(str(box.hook), INSTANCE_ID="i-1", PATH=f"{tmp_path}/bin:{os.environ['PATH']}") == []
    held = one.read_text(), two.read_text()
    one.write_text(held[1])
    two.write_text(held[0])
    assert sorted(line for line in box.boot() if "chown" not in line) == ["mount nvme1n1 mnt1", "mount nvme2n1 mnt"]
    assert {name: (tmp_path / "dev" / name).read_text() for name in others} == {n: h for n, (_, h) in others.items()}


def test_a_disk_that_cannot_be_looked_at_is_left_alone(tmp_path: Path) -> None:
    box = Box(tmp_path)
    box.disk("nvme1n1")
    (tmp_path / "sbin" / "blkid").write_text("#!/bin/sh\nexit 8\n")
    assert box.boot() == []
