"""Guests that end themselves: in time, though something is in the way; and launches that fail in the guest."""

from __future__ import annotations

import contextlib

from tests.vm.conftest import BOOT_SECONDS, Guest, Shell

HUNG = "printf '%s\\n' '#!/bin/bash' 'trap \"\" TERM' 'sleep 1000' | sudo tee /etc/hardway/on-timeout.sh"
FULL = "sudo dd if=/dev/zero of=/full bs=1M status=none || :"
READ_ONLY = "sudo mount --bind /etc /etc && sudo mount -o remount,bind,ro /etc"
AHEAD = "sudo date -s '+2 hours'"


def ends(guest: Guest) -> None:
    guest.wait_for("terminated")
    assert guest.describe()["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"


def test_an_unused_guest_ends(shell: Shell) -> None:
    guest = shell.new("--name", "idle", "--max-hours", "1", "--idle-minutes", "2")
    assert guest.run("findmnt -rno TARGET | grep ^/mnt || :") == ""  # its type has no instance storage
    # A connection keeps it for longer than it may be idle.
    guest.run("sleep 200")
    assert guest.state == "running"
    ends(guest)


def test_its_time_ends_a_guest_whose_clock_is_set_and_whose_disk_is_full(shell: Shell) -> None:
    guest = shell.new("--name", "hindered", "--max-hours", "1")
    guest.run(HUNG)
    guest.run(FULL)
    guest.run(READ_ONLY)
    with contextlib.suppress(AssertionError):  # it may end under the command
        guest.run(AHEAD)
    ends(guest)


def test_an_init_that_fails_is_told(shell: Shell) -> None:
    init = "#!/bin/bash\necho the reason >&2\nexit 3\n"
    seconds = str(BOOT_SECONDS)
    done = shell("ec2.new", "--ami", "bookworm", "--name", "failing", "--seconds-timeout", seconds, "--init", init)
    assert done.code == 1
    assert "exit code 3" in done.stderr and "the reason" in done.stderr
