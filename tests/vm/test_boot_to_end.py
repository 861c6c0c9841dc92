"""The life of one guest, from its boot to its end. `.ci/run` runs this, and test_cloud.py."""

from __future__ import annotations

from hardway.ssh.keys import HostKeys
from tests.vm.conftest import Shell

INIT = """#!/bin/bash
sleep 5
echo "as $(id -un) of $(hostname)" >/root/init
"""


def test_a_guest_from_boot_to_end(shell: Shell) -> None:
    guest = shell.new("--name", "first", "--type", "m5d.large", "--max-hours", "1", "--init", INIT)

    # The launch has waited for the end of its user data, by cloud-init of its own.
    assert guest.run("sudo cat /root/init").startswith("as root of ip-127-77-")
    assert guest.run("cloud-init status") == "status: done"
    assert guest.run("id -un; cat /sys/class/dmi/id/product_name").split() == ["admin", "m5d.large"]
    assert guest.run("systemctl is-active hardway.timer") == "active"
    # Its root is on NVMe as well, and stays what it is.
    assert guest.run("findmnt -no SOURCE /; findmnt -no SOURCE,FSTYPE /mnt; stat -c %U /mnt").split() == [
        "/dev/nvme0n1p1", "/dev/nvme1n1", "ext4", "admin",
    ]  # fmt: skip
    models = guest.run("cat /sys/block/nvme*/device/model").splitlines()
    assert [model.strip() for model in models] == ["Amazon Elastic Block Store", "Amazon EC2 NVMe Instance Storage"]

    # The keys on its console are the keys that it answers with, and from now on those that are trusted.
    words = guest.run("cat /etc/ssh/ssh_host_*_key.pub").split()
    keys = dict(zip(words[::3], words[1::3], strict=True))
    known = HostKeys(shell.cloud.state / "hardway" / "known_hosts")
    assert known.confirmed(guest.id)
    trusted = known.of(guest.id)
    assert {"ssh-ed25519", "ssh-rsa"} <= trusted.keys()
    assert trusted.items() <= keys.items()

    # It reaches its own metadata, and nothing else.
    assert guest.run("curl -s -o /dev/null -w '%{http_code}' http://169.254.169.254/latest/meta-data/") == "401"
    assert guest.run("curl -s -m 5 http://172.31.0.1/ || echo $?") in ("7", "28")

    guest.run("sudo systemd-run --quiet --on-active=1 poweroff")
    guest.wait_for("terminated")
    assert guest.describe()["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    assert not guest.directory.exists()
