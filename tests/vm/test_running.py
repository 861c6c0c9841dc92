"""A guest that goes on running: its limits, its instance storage, its reboots, and a stop."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.vm.conftest import BOOT_SECONDS, STORES, Guest, eventually

FOUR = [f"/mnt{number} ext4 hardway{number}" for number in ("", 1, 2, 3)]
# The first attempt never ends; the others find its folder.
UNENDING = "if mkdir /var/tmp/begun 2>/dev/null; then exec sleep 10000; fi; cat"


def test_an_init_of_cloud_config_has_run(guest: Guest) -> None:
    guest.run("test -e /etc/configured")


def test_extend_moves_the_end_of_the_guest_itself(guest: Guest) -> None:
    guest.shell.succeed("ec2.extend", guest.id, "5", "--yes")
    left = int(guest.run('echo "$(($(cat /etc/hardway/ends) - $(date +%s)))"'))
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


def test_a_reboot_keeps_a_job_the_instance_storage_and_the_timer(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    assert guest.run(STORES).splitlines() == FOUR
    guest.run("echo one >/mnt/kept; echo two >/mnt1/kept")
    theirs = [guest.run(f"findmnt -no SOURCE {place}") for place in ("/mnt2", "/mnt3")]
    guest.run(f"sudo umount {' '.join(theirs)} && sudo wipefs --quiet --all {' '.join(theirs)}")
    guest.run(f"sudo mkfs.ext4 -q -L theirs {theirs[0]}")
    guest.run(f"echo , | sudo sfdisk --quiet --label gpt {theirs[1]}")
    look = f"for disk in {' '.join(theirs)}; do sudo blkid -p -o export $disk; done"
    formats, ends = guest.run(look), guest.run("cat /etc/hardway/ends")
    assert "LABEL=theirs" in formats and "PTTYPE=gpt" in formats

    monkeypatch.setenv("INVOKE_MAPREDUCE_RECONNECT", str(BOOT_SECONDS))
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(guest.shell, "mapreduce.pmap", guest.id, "one\ntwo", UNENDING, "--slots", "1")
        eventually(lambda: guest.run("ls -d /var/tmp/begun || :") != "", BOOT_SECONDS, lambda: "the job has not begun")
        guest.reboot()
        done = job.result(BOOT_SECONDS)
    assert done.stdout.splitlines() == ["one", "two"], done.stderr

    assert guest.run(STORES).splitlines() == FOUR[:2]
    assert guest.run("cat /mnt/kept /mnt1/kept").split() == ["one", "two"]
    assert guest.run(look) == formats
    assert guest.run("systemctl is-active hardway.timer") == "active"
    assert guest.run("cat /etc/hardway/ends") == ends


def test_a_stop_and_a_start_make_new_instance_storage(guest: Guest) -> None:
    guest.run("echo old >/home/admin/old; sudo touch /mnt/old")
    seconds = ("--seconds-timeout", str(BOOT_SECONDS))
    guest.shell.succeed("ec2.stop", guest.id, "--yes", "--wait", *seconds)
    guest.shell.succeed("ec2.start", guest.id, "--yes", *seconds)
    assert guest.run(STORES).splitlines() == FOUR
    assert guest.run("stat -c %U /mnt /mnt3; ls -A /mnt; cat /home/admin/old").split() == [
        "admin", "admin", "lost+found", "old",
    ]  # fmt: skip
    assert guest.run("systemctl is-active hardway.timer") == "active"
