"""An EC2 instance as moto keeps it, with a machine behind it to log in to.

An instance gets a loopback address at birth. `Operations` carry out each start, stop, reboot and end of an instance,
whichever call asks for it. The instance's state follows the facts.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import os
from datetime import datetime
from typing import Any, Protocol

import asyncssh
import moto.ec2.models.instances
from moto.ec2.models.instance_types import INSTANCE_TYPES

from hardway.local.addresses import AddressPool
from hardway.local.api.ec2_error import EC2Error
from hardway.local.api.public_images import PUBLIC_IMAGES, PublicImage

FOREIGN_USERS = ("ubuntu", "ec2-user")
"""The users who log in to instances of images that aren't ours."""
_STATE_CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}


class Operations(Protocol):
    """Carries out the changes of instances' states. Each call returns at once."""

    addresses: AddressPool

    def launch(self, instance: LocalInstance) -> None:
        """Make a machine for the instance, and boot the machine."""

    def boot(self, instance: LocalInstance) -> None:
        """Boot its machine."""

    def halt(self, instance: LocalInstance) -> None:
        """Halt its machine."""

    def reboot(self, instance: LocalInstance) -> None:
        """Halt and boot its machine."""

    def end(self, instance: LocalInstance) -> None:
        """Halt its machine and delete all of it."""

    def console(self, instance_id: str) -> str:
        """Return the text on the console of its machine."""


class LocalInstance(moto.ec2.models.instances.Instance):
    """moto's instance. A machine carries out each change of its state."""

    operations: Operations
    """The cloud's, set before the first launch: moto's backends are global."""
    interruption: datetime | None = None
    """The time at which EC2 takes it back; None without a notice."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.address = self.operations.addresses.take()
        self._public = bool(self.nics[0].public_ip)
        self._use_address()
        self._set_state("pending")
        self.operations.launch(self)

    def start(self) -> Any:
        previous = super().start()
        self._use_address()
        if previous.name == "stopped":
            self._set_state("pending")
            self.operations.boot(self)
        else:
            self._state = previous
        return copy.copy(previous)

    def stop(self, *args: Any, **kwargs: Any) -> Any:
        if self.state not in ("pending", "running"):
            return copy.copy(self._state)
        if self.lifecycle == "spot":
            said = f"You can't stop the Spot Instance '{self.id}' because it is associated with a one-time request."
            raise EC2Error(400, "UnsupportedOperation", said)
        previous = super().stop(*args, **kwargs)
        self._set_state("stopping")
        self.operations.halt(self)
        self.nics[0].public_ip = None
        return previous

    def terminate(self, *args: Any, **kwargs: Any) -> Any:
        if not self.alive:
            return copy.copy(self._state)
        previous = super().terminate(*args, **kwargs)
        self._set_state("shutting-down")
        self.operations.end(self)
        return previous

    def reboot(self, *args: Any, **kwargs: Any) -> None:
        if self.state == "running":
            self.operations.reboot(self)

    def power(self, word: str) -> None:
        """React as EC2 does when the instance itself powers off or reboots."""
        if word == "reboot":
            self.reboot()
        elif self.instance_initiated_shutdown_behavior == "terminate" or self.lifecycle == "spot":
            self.terminate()
        else:
            self.stop()
        if word == "poweroff":
            self.state_reason.code = "Client.InstanceInitiatedShutdown"
            self.state_reason.message = "Client.InstanceInitiatedShutdown: Instance initiated shutdown"

    def lose(self, code: str, message: str) -> None:
        """Terminate the instance, for a reason of EC2's own."""
        self.terminate()
        self.state_reason.code = code
        self.state_reason.message = f"{code}: {message}"
        self._reason = code

    def settle(self, state: str) -> None:
        """Note the state that its machine has reached."""
        if state == "terminated":
            # moto leaves the network interfaces behind that it made itself.
            for nic in list(self.nics.values()):
                if nic.description == "Primary network interface":
                    self.ec2_backend.enis.pop(nic.id, None)
        self._set_state(state)

    @property
    def alive(self) -> bool:
        """Whether it exists and is not on its way out."""
        return self.state not in ("shutting-down", "terminated")

    @property
    def public_image(self) -> PublicImage | None:
        """The public image at the bottom of its image; None for an image that isn't ours."""
        images = self.ec2_backend.amis
        image = images.get(self.image_id)
        while image is not None and getattr(image, "instance", None) is not None:  # an image made of an instance
            image = images.get(image.instance.image_id)
        return next((known for known in PUBLIC_IMAGES if image and known.name == image.name), None)

    @property
    def users(self) -> tuple[str, ...]:
        """The users who may log in."""
        return (self.public_image.user,) if self.public_image else FOREIGN_USERS

    @property
    def store_count(self) -> int:
        """The number of its NVMe disks of instance storage."""
        storage = INSTANCE_TYPES.get(self.instance_type, {}).get("InstanceStorageInfo", {})
        disks = storage.get("Disks", []) if storage.get("NvmeSupport") != "unsupported" else []
        return sum(each["Count"] for each in disks)

    @property
    def mac(self) -> str:
        """The address of its network interface."""
        return str(self.nics[0].mac_address)

    @property
    def key(self) -> asyncssh.SSHKey | None:
        """The public half of its key pair; None where it has none."""
        pair = self.ec2_backend.key_pairs.get(self.key_name)
        if pair is None:
            return None
        return asyncssh.import_public_key(pair.material_public)

    @property
    def user_data_content(self) -> bytes:
        """The user data, decoded."""
        if not self.user_data:
            return b""
        given: Any = self.user_data
        data: bytes = given.as_bytes() if hasattr(given, "as_bytes") else os.fsencode(given)
        with contextlib.suppress(ValueError):
            data = base64.b64decode(data, validate=True)
        return data

    def metadata(self) -> dict[str, str]:
        """The text at each path below /latest/ of the instance's metadata service."""
        known = {
            "ami-id": self.image_id,
            "ami-launch-index": str(self.ami_launch_index),
            "hostname": self.private_dns_name,
            "instance-id": self.id,
            "instance-life-cycle": "spot" if self.lifecycle == "spot" else "on-demand",
            "instance-type": self.instance_type,
            "local-hostname": self.private_dns_name,
            "local-ipv4": self.private_ip,
            "placement/availability-zone": self.placement.zone,
            "placement/region": self.region_name,
            "public-hostname": self.public_dns_name,
            "public-ipv4": self.public_ip,
        }
        if self.interruption:
            at = _iso(self.interruption)
            known["spot/instance-action"] = json.dumps({"action": "terminate", "time": at})
            known["spot/termination-time"] = at
        for key, value in dict(self.ec2_backend.tags.get(self.id, {})).items():
            known[f"tags/instance/{key}"] = value
        found = {f"meta-data/{path}": str(text) for path, text in {**known, **self._network()}.items() if text}
        if pair := self.ec2_backend.key_pairs.get(self.key_name):
            found["meta-data/public-keys"] = f"0={self.key_name}"
            found["meta-data/public-keys/0/openssh-key"] = _text(pair.material_public).strip()
        if self.user_data:
            found["user-data"] = _text(self.user_data_content)
        return {**found, "dynamic/instance-identity/document": json.dumps(self._identity(), indent=2)}

    def _network(self) -> dict[str, str | None]:
        """The metadata of its one network interface."""
        nic = self.nics[0]
        here = f"network/interfaces/macs/{nic.mac_address}"
        return {
            "mac": nic.mac_address,
            f"{here}/device-number": "0",
            f"{here}/interface-id": nic.id,
            f"{here}/local-hostname": self.private_dns_name,
            f"{here}/local-ipv4s": self.private_ip,
            f"{here}/mac": nic.mac_address,
            f"{here}/owner-id": self.owner_id,
            f"{here}/public-ipv4s": self.public_ip,
        }

    def _identity(self) -> dict[str, str | None]:
        """Its identity document, unsigned."""
        return {
            "accountId": self.owner_id,
            "architecture": self.architecture,
            "availabilityZone": self.placement.zone,
            "billingProducts": None,
            "devpayProductCodes": None,
            "imageId": self.image_id,
            "instanceId": self.id,
            "instanceType": self.instance_type,
            "kernelId": None,
            "marketplaceProductCodes": None,
            "pendingTime": _iso(self.launch_time),
            "privateIp": self.private_ip,
            "ramdiskId": None,
            "region": self.region_name,
            "version": "2017-09-30",
        }

    # a terminated instance has no address any more

    @property
    def private_ip(self) -> str | None:
        return None if self.state == "terminated" else super().private_ip

    @property
    def private_ip_address(self) -> str | None:
        return self.private_ip

    @property
    def private_dns_name(self) -> str:
        return super().private_dns_name if self.private_ip else ""

    @property
    def network_interfaces(self) -> Any:
        return [] if self.state == "terminated" else super().network_interfaces

    def _use_address(self) -> None:
        nic = self.nics[0]
        nic.private_ip_address = self.address.ip
        nic.private_ip_addresses = [{"Primary": True, "PrivateIpAddress": self.address.ip}]
        nic.private_dns_name = nic.private_ip_addresses[0]["PrivateDnsName"] = self.private_dns_name
        nic.public_ip = self.address.ip if self._public else None

    def _set_state(self, name: str) -> None:
        self._state = moto.ec2.models.instances.InstanceState(name, _STATE_CODES[name])


def _text(content: str | bytes) -> str:
    """Bytes that need not be UTF-8, as text that has them all."""
    return content.decode(errors="surrogateescape") if isinstance(content, bytes) else content


def _iso(time: datetime) -> str:
    """A time in UTC as EC2 writes it."""
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"
