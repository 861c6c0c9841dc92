"""A reboot in which nothing helps a guest: no cloud-init, no space, and a program that wants no shutdown."""

from __future__ import annotations

from tests.vm.conftest import Shell
from tests.vm.test_ends import FULL, ends
from tests.vm.test_running import STORES, reboot

# Without its blocks being written, which would take minutes; FULL does the rest.
MOST = 'sudo fallocate -l "$(($(df --output=avail -B1 / | tail -n 1) * 9 / 10))" /most'
DISABLED = "sudo touch /etc/cloud/cloud-init.disabled"
LOCKED = "sudo systemd-run --quiet systemd-inhibit --what=shutdown --mode=block sleep infinity"


def test_it_mounts_its_disks_and_ends_all_the_same(shell: Shell) -> None:
    guest = shell.new("--name", "alone", "--type", "m5d.8xlarge", "--max-hours", "1")
    before = guest.run(STORES)
    guest.run(DISABLED)
    guest.run(MOST)
    guest.run(FULL)
    reboot(guest)
    assert guest.run("ls /run/hardway/here || :") == ""  # our part of its user data has not run
    assert guest.run(STORES) == before
    assert guest.run("systemctl is-active hardway.timer") == "active"
    guest.run(LOCKED)
    shell.succeed("ec2.extend", guest.id, "0.01", "--yes")
    ends(guest)
