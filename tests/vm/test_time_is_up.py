"""Guests that end themselves, though much is in the way. The guest of test_running.py comes to its end here, too."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.vm.conftest import BOOT_SECONDS, STORES, Guest, Shell

FAILING = "#cloud-config\nruncmd:\n  - echo the reason >&2\n  - exit 3\n"
DISABLED = "sudo touch /etc/cloud/cloud-init.disabled"
HUNG = "printf '%s\\n' '#!/bin/bash' 'trap \"\" TERM' 'sleep 1000' | sudo tee /etc/hardway/on-timeout.sh"
# Most of it without blocks being written, which would take minutes.
FULL = """
sudo fallocate -l "$(($(stat -f -c '%f * %S' /) * 99 / 100))" /most
sudo dd if=/dev/zero of=/rest bs=1M status=none
! sudo dd if=/dev/zero of=/one bs=4096 count=1 status=none
"""
LOCKED = "sudo systemd-run --quiet systemd-inhibit --what=shutdown --mode=block sleep infinity"
READ_ONLY = "sudo mount --bind /etc /etc && sudo mount -o remount,bind,ro /etc"
AHEAD = "sudo date -s '+2 hours'"


@pytest.fixture(scope="module")
def connected(guest: Guest) -> Iterator[Future[str]]:
    """The state of a guest at the end of a connection that was longer than the guest may be unused."""

    def hold() -> str:
        guest.run("sleep 200")
        return guest.state

    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(hold)


@pytest.mark.usefixtures("connected")  # to share its wait
def test_its_time_ends_a_guest_that_nothing_helps(shell: Shell) -> None:
    options = ("--type", "m5d.8xlarge", "--max-hours", "1", "--no-wait-init", "--init", FAILING)
    guest = shell.new("--name", "alone", *options, ami="trixie")
    failed = shell("ec2.wait", guest.id, "--seconds-timeout", str(BOOT_SECONDS))
    assert failed.code == 1
    assert "exit code 3" in failed.stderr and "the reason" in failed.stderr

    before = guest.run(STORES)
    assert before.splitlines() == ["/mnt ext4 hardway", "/mnt1 ext4 hardway1"]
    guest.run(DISABLED)
    guest.run(HUNG)
    guest.run(FULL)
    guest.reboot()
    assert guest.run("ls /run/hardway/here || :") == ""  # our part of its user data has not run
    assert guest.run(STORES) == before
    assert guest.run("systemctl is-active hardway.timer") == "active"

    shell.succeed("ec2.extend", guest.id, "0.5", "--yes")
    guest.run(LOCKED)
    guest.run(READ_ONLY)
    with contextlib.suppress(AssertionError):  # it may end under the command
        guest.run(AHEAD)
    guest.wait_for_its_own_end()


def test_an_unused_guest_ends(guest: Guest, connected: Future[str]) -> None:
    assert connected.result(BOOT_SECONDS) == "running"
    guest.wait_for_its_own_end()
