"""A local cloud of virtual machines as a whole: nothing of it is left, however it ends. It waits for no boot."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from hardway.local import faults
from hardway.local.machines import guest_image
from tests.conftest import LocalCloud, run_local_cloud
from tests.local.conftest import image
from tests.vm.conftest import END_SECONDS, eventually


def launch(cloud: LocalCloud) -> str:
    """Start an instance; returns its id as soon as its machine runs."""
    ec2 = cloud.client("ec2")
    answer = ec2.run_instances(ImageId=image(cloud), InstanceType="m5d.large", MinCount=1, MaxCount=1)
    id = str(answer["Instances"][0]["InstanceId"])
    eventually(lambda: machines(id) != [] and state(cloud, id) == "running", END_SECONDS, lambda: state(cloud, id))
    return id


def state(cloud: LocalCloud, id: str) -> str:
    answer = cloud.client("ec2").describe_instances(InstanceIds=[id])
    return str(answer["Reservations"][0]["Instances"][0]["State"]["Name"])


def machines(id: str) -> list[int]:
    """The processes that run an instance's machine."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if id.encode() in (process / "cmdline").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:  # it has just ended
            continue
    return found


@pytest.mark.parametrize("way", ["down", "killed", "terminated"])
def test_nothing_is_left(way: str, tmp_path: Path) -> None:
    guest_image.build(guest_image.USUAL)
    with run_local_cloud(tmp_path / "state", isolation="vm") as cloud:
        id = launch(cloud)
        if way == "killed":
            os.kill(cloud.pid, signal.SIGKILL)
            eventually(lambda: machines(id) == [], END_SECONDS, lambda: f"{machines(id)} run on")
        elif way == "terminated":
            cloud.client("ec2").terminate_instances(InstanceIds=[id])
            eventually(lambda: state(cloud, id) == "terminated", END_SECONDS, lambda: state(cloud, id))
            assert not (cloud.directory / "instances" / id).exists()
            assert machines(id) == []
    assert machines(id) == []
    assert not (tmp_path / "state" / "hardway" / "local").exists()


def test_drop_resets_connections(tmp_path: Path) -> None:
    guest_image.build(guest_image.USUAL)
    with run_local_cloud(tmp_path / "state", isolation="vm") as cloud:
        id = launch(cloud)
        described = cloud.client("ec2").describe_instances(InstanceIds=[id])["Reservations"][0]["Instances"][0]
        address = described["PublicIpAddress"], cloud.running.ssh_port
        with socket.create_connection(address, 60) as connection:
            faults.send(cloud.running, faults.Fault("drop", (id,)))
            with pytest.raises(ConnectionResetError):
                connection.recv(1)
