"""A guest that goes on running: its limits, its instance storage, and its reboots."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

from tests.vm.conftest import BOOT_SECONDS, Guest, eventually

STORES = "findmnt -rno TARGET,FSTYPE,LABEL | grep ^/mnt | sort"


def test_extend_moves_the_end_of_the_guest_itself(guest: Guest) -> None:
    guest.shell.succeed("ec2.extend", guest.id, "5", "--yes")
    left = int(guest.run("cat /etc/hardway/ends")) - datetime.now(timezone.utc).timestamp()
    assert 4.8 * 3600 < left <= 5 * 3600


def test_faults_meet_a_guest(guest: Guest) -> None:
    with ThreadPoolExecutor(1) as pool:
        cut = pool.submit(guest.shell, "ec2.ssh", guest.id, "--yes", "--command", "touch /tmp/there; sleep 1000")
        eventually(lambda: guest.run("ls /tmp/there || :") != "", BOOT_SECONDS, lambda: "the command has not begun")
        guest.shell.succeed("local.fault", "drop", guest.id)
        assert cut.result(BOOT_SECONDS).code == 1
    guest.shell.succeed("local.fault", "hang", guest.id)
    assert guest.shell("ec2.ssh", guest.id, "--yes", "--command", "true", "--timeout", "20").code == 1
    guest.shell.succeed("local.fault", "thaw", guest.id)
    assert guest.run("echo here") == "here"


def test_a_reboot_keeps_instance_storage_and_the_timer(guest: Guest) -> None:
    before = guest.run(STORES)
    assert [line.split()[0] for line in before.splitlines()] == ["/mnt", "/mnt1"]
    guest.run("echo one >/mnt/kept; echo two >/mnt1/kept")
    ends = guest.run("cat /etc/hardway/ends")
    reboot(guest)
    assert guest.run(STORES) == before
    assert guest.run("cat /mnt/kept /mnt1/kept").split() == ["one", "two"]
    assert guest.run("systemctl is-active hardway.timer") == "active"
    assert guest.run("cat /etc/hardway/ends") == ends


def reboot(guest: Guest) -> None:
    """Reboot by EC2, and wait until it is ready again."""
    booted = guest.run("cat /proc/sys/kernel/random/boot_id")
    guest.shell.cloud.client("ec2").reboot_instances(InstanceIds=[guest.id])

    def is_new() -> bool:
        with contextlib.suppress(AssertionError):  # it does not answer
            return guest.run("cat /proc/sys/kernel/random/boot_id") != booted
        return False

    eventually(is_new, BOOT_SECONDS, lambda: f"it does not come back\n{guest.console}")
