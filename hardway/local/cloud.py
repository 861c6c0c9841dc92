"""EC2, S3, IAM, STS, SSM and prices of the local cloud: moto's server, whose instances are hosts one can log in to.

Instances get loopback addresses at birth; every start, stop, reboot and end of one, whoever asks for it by whichever
call, is carried out on its `Host`, and its state follows what really happened. Owns addresses, images and parameters.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import hashlib
import hmac
import json
import logging
import os
import random
import re
import socket
import threading
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

# before moto is imported: its hundreds of images would each cost time and memory in every region
os.environ.update(
    MOTO_EC2_LOAD_DEFAULT_AMIS="false", MOTO_ENABLE_KEYPAIR_VALIDATION="true", MOTO_DISABLE_GLOBAL_CORS="true"
)

import asyncssh

import hardway.local.offerings  # noqa: F401  (for what it does to moto's EC2, hence before it)

# isort: split
import moto.ec2.models.amis
import moto.ec2.models.availability_zones_and_regions
import moto.ec2.models.instance_types
import moto.ec2.models.instances
import moto.ec2.responses.general
import moto.iam.models
import moto.ssm.models
from moto.core.responses import ActionResult
from moto.core.utils import utcnow
from moto.ec2.utils import Base64EncodedString
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from hardway.local import capacity, cloudinit, fleets, images, pricing
from hardway.local.daemon import ACCESS_KEY, FAULT_PATH, STATUS_PATH
from hardway.local.faults import Faults
from hardway.local.gate import Gate, Server
from hardway.local.host import Address, Host
from hardway.local.metadata import Metadata
from hardway.local.sandbox import Isolation, Sandbox, SandboxError, Spawner, Toolbox

SERVICES: tuple[Any, ...] = ("ec2", "s3", "iam", "sts", "ssm")
PORTS = (2222, 2022, 22222, 42222)
"""Where hosts listen: the first that is free on every loopback address."""
_POLL_SECONDS = 0.05
"""How often moto's server looks whether it is to stop."""
_NOT_IN_XML = re.compile(rb"%(?:0[0-8BCEF]|1[0-9A-F]|ED%[AB]|EF%BF%B[EF])", re.IGNORECASE)
"""Characters, as a form has them, that XML 1.0 lacks: https://www.w3.org/TR/xml/#charsets"""
FOREIGN_USERS = ("ubuntu", "ec2-user")
CANONICAL, DEBIAN, AMAZON = "099720109477", "136693071363", "137112412989"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Image:
    """A public image: which name a parameter gives it, who owns it, who logs in."""

    parameter: str
    name: str
    owner: str
    user: str
    architecture: str
    root_device: str

    def id_in(self, region: str) -> str:
        return "ami-" + hashlib.sha256(f"{region} {self.name}".encode()).hexdigest()[:17]


def _images(arch: str, short: str) -> list[Image]:
    ubuntu = f"/aws/service/canonical/ubuntu/server/{{}}/stable/current/{short}/hvm/ebs-{{}}/ami-id"
    noble = f"ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-{short}-server-local"
    jammy = f"ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-{short}-server-local"
    debian = f"/aws/service/debian/release/12/latest/{short}"
    amazon = f"/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{arch}"
    return [
        Image(ubuntu.format("24.04", "gp3"), noble, CANONICAL, "ubuntu", arch, "/dev/sda1"),
        Image(ubuntu.format("22.04", "gp2"), jammy, CANONICAL, "ubuntu", arch, "/dev/sda1"),
        Image(debian, f"debian-12-{short}-local", DEBIAN, "admin", arch, "/dev/xvda"),
        Image(amazon, f"al2023-ami-local-kernel-default-{arch}", AMAZON, "ec2-user", arch, "/dev/xvda"),
    ]


IMAGES = [*_images("x86_64", "amd64"), *_images("arm64", "arm64")]


class _Addresses:
    """Loopback addresses that no other instance has, of this or any other local cloud on the machine.

    A UDP socket bound to an address holds it, unlike a TCP one undisturbed by connections that are just over.
    """

    def __init__(self) -> None:
        self._next = random.randrange(1, 1 << 16)
        self._lock = threading.Lock()
        self._held: dict[str, socket.socket] = {}
        self.port = next((port for port in PORTS if _free("127.77.0.0", port)), 0)

    def take(self) -> Address:
        with self._lock:
            for _ in range(1 << 16):
                self._next = self._next % 65533 + 1
                ip = f"127.77.{self._next >> 8}.{self._next & 255}"
                if self._next & 255 in (0, 255) or ip in self._held:
                    continue
                holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                try:
                    holder.bind((ip, self.port))
                except OSError:
                    holder.close()
                    continue
                if not _free(ip, self.port):
                    holder.close()
                    continue
                self._held[ip] = holder
                return Address(ip, self.port)
        raise OSError("no loopback address is free")

    def free(self, address: Address) -> None:
        with self._lock:
            if holder := self._held.pop(address.ip, None):
                holder.close()


def _free(ip: str, port: int) -> bool:
    """Whether an SSH server could listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ip, port))
            probe.listen(1)
        except OSError:
            return False
    return True


class Instance(moto.ec2.models.instances.Instance):
    """moto's instance, whose every change of state is carried out on a host."""

    cloud: Cloud
    interruption: datetime | None = None
    """When EC2 takes it back; None without a notice."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.address = self.cloud.addresses.take()
        self._public = bool(self.nics[0].public_ip)
        self._use_address()
        self._set_state("pending")
        self.cloud.launch(self)

    def start(self) -> Any:
        previous = super().start()
        self._use_address()
        if previous.name == "stopped":
            self._set_state("pending")
            self.cloud.boot(self)
        else:
            self._state = previous
        return copy.copy(previous)

    def stop(self, *args: Any, **kwargs: Any) -> Any:
        if self.state not in ("pending", "running"):
            return copy.copy(self._state)
        if self.lifecycle == "spot":
            said = f"You can't stop the Spot Instance '{self.id}' because it is associated with a one-time request."
            raise capacity.Refusal(400, "UnsupportedOperation", said)
        previous = super().stop(*args, **kwargs)
        self._set_state("stopping")
        self.cloud.halt(self)
        self.nics[0].public_ip = None
        return previous

    def terminate(self, *args: Any, **kwargs: Any) -> Any:
        if not self.alive:
            return copy.copy(self._state)
        previous = super().terminate(*args, **kwargs)
        self._set_state("shutting-down")
        self.cloud.end(self)
        return previous

    def reboot(self, *args: Any, **kwargs: Any) -> None:
        if self.state == "running":
            self.cloud.reboot(self)

    def power(self, word: str) -> None:
        """Do as EC2 does when the instance itself powers off or reboots."""
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
        """Terminate it, for a reason of EC2's own."""
        self.terminate()
        self.state_reason.code = code
        self.state_reason.message = f"{code}: {message}"
        self._reason = code

    def settle(self, state: str) -> None:
        """Note what has really happened."""
        if state == "terminated":
            # moto leaves behind those it made itself.
            for nic in list(self.nics.values()):
                if nic.description == "Primary network interface":
                    self.ec2_backend.enis.pop(nic.id, None)
        self._set_state(state)

    @property
    def alive(self) -> bool:
        """Whether it exists and is not on its way out."""
        return self.state not in ("shutting-down", "terminated")

    @property
    def users(self) -> tuple[str, ...]:
        images = self.ec2_backend.amis
        image = images.get(self.image_id)
        while image is not None and getattr(image, "instance", None) is not None:  # an image made of an instance
            image = images.get(image.instance.image_id)
        return next(((known.user,) for known in IMAGES if image and known.name == image.name), FOREIGN_USERS)

    @property
    def key(self) -> asyncssh.SSHKey | None:
        pair = self.ec2_backend.key_pairs.get(self.key_name)
        if pair is None:
            return None
        return asyncssh.import_public_key(pair.material_public)

    def metadata(self) -> dict[str, str]:
        """What it may learn about itself: the text at each path below /latest/ of its metadata service."""
        identity = {
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
        found = {f"meta-data/{path}": str(text) for path, text in known.items() if text}
        return {**found, "dynamic/instance-identity/document": json.dumps(identity, indent=2)}

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
        codes = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
        self._state = moto.ec2.models.instances.InstanceState(name, codes[name])


def _iso(time: datetime) -> str:
    """A time in UTC as EC2 writes it."""
    return f"{time:%Y-%m-%dT%H:%M:%SZ}"


def _load_images(backend: Any) -> None:
    """In place of moto's images in a region: ours."""
    for image in IMAGES:
        ami_id = image.id_in(backend.region_name)
        backend.amis[ami_id] = moto.ec2.models.amis.Ami(
            backend,
            ami_id,
            name=image.name,
            description=f"{image.name}: stands in for the real one",
            owner_id=image.owner,
            public=True,
            virtualization_type="hvm",
            architecture=image.architecture,
            hypervisor="xen",
            root_device_type="ebs",
            root_device_name=image.root_device,
            region_name=backend.region_name,
            image_location=f"{image.owner}/{image.name}",
        )


class _Parameters(moto.ssm.models.ParameterDict):
    """A region's parameters: the public ones name our images, not moto's."""

    def __init__(self, account_id: str, region_name: str) -> None:
        super().__init__(account_id, region_name)
        for image in IMAGES:
            self[image.parameter].append(
                moto.ssm.models.Parameter(  # type: ignore[abstract]
                    account_id=account_id,
                    name=image.parameter,
                    value=image.id_in(region_name),
                    parameter_type="String",
                    description=None,
                    allowed_pattern=None,
                    keyid=None,
                    last_modified_date=utcnow(),
                    version=1,
                    data_type="aws:ec2:image",
                )
            )

    def _load_latest_amis(self) -> None:
        pass


def _console_output(self: Any) -> ActionResult:
    """GetConsoleOutput: what an instance's host has on its console."""
    instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
    host = instance.cloud.hosts.get(instance.id)
    output = Base64EncodedString.from_raw_string(host.console if host else "")
    return ActionResult({"InstanceId": instance.id, "Timestamp": utcnow(), "Output": output})


class Cloud:
    """The servers and the hosts of one local cloud. `boot_delay` in seconds is how long instances stay pending;
    `secret` is that of the owner's key.

    `start` and `stop` belong to the event loop; moto's threads only hand work over to it.
    """

    def __init__(
        self,
        directory: Path,
        spawner: Spawner,
        toolbox: Toolbox,
        isolation: Isolation,
        boot_delay: float,
        secret: str,
    ) -> None:
        self.addresses = _Addresses()
        self.endpoint = ""
        self.hosts: dict[str, Host] = {}
        self.instances: dict[str, Instance] = {}
        self.faults = Faults(self)
        self._directory = directory
        self._spawner = spawner
        self._toolbox = toolbox
        self._isolation = isolation
        self._boot_delay = boot_delay
        self._secret = secret
        self._loop = asyncio.get_running_loop()
        self._metadata: dict[str, Metadata] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._cut_short: dict[str, asyncio.Event] = {}
        self._work: set[asyncio.Task[None]] = set()
        self._rebooting: set[str] = set()
        self._server: Server
        self._thread: threading.Thread

    def start(self) -> None:
        """Listen. One cloud a process: moto's backends are global."""
        Instance.cloud = self
        moto.ec2.models.instances.Instance = Instance  # type: ignore[misc]
        capacity.install(self.faults.grant)
        fleets.install()
        pricing.install()
        images.install()
        moto.ec2.models.amis.AmiBackend._load_amis = _load_images  # type: ignore[method-assign,assignment]
        moto.ec2.responses.general.General.get_console_output = _console_output  # type: ignore[method-assign]
        moto.ssm.models.ParameterDict = _Parameters  # type: ignore[misc]
        app = DomainDispatcherApplication(create_backend_app)
        for service in SERVICES:
            app.app_instances[service] = create_backend_app(service)
        self._server = Server()
        host = f"127.0.0.1:{self._server.server_port}"
        self.endpoint = f"http://{host}"
        s3, sts = app.app_instances["s3"], app.app_instances["sts"]
        self._server.app = Gate(host, self._secret_of, self._answer(app), s3, sts)
        self._thread = threading.Thread(target=self._server.serve_forever, args=[_POLL_SECONDS], name="moto")
        self._thread.start()

    def _answer(self, app: Any) -> Any:
        """Wrap moto's application with what this daemon itself is asked."""

        def answer(environ: dict[str, Any], start_response: Any) -> Any:
            path = environ.get("PATH_INFO")
            if path == STATUS_PATH:
                states = Counter(instance.state for instance in list(self.instances.values()))
                start_response("200 OK", [("Content-Type", "application/json")])
                return [json.dumps(states).encode()]
            if path == FAULT_PATH:
                status, said = self.faults.answer(_body(environ))
                start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
                return [said.encode()]
            if environ.get("HTTP_X_AMZ_TARGET") == pricing.TARGET:
                start_response("200 OK", [("Content-Type", "application/x-amz-json-1.1")])
                return [json.dumps(pricing.get_products(_body(environ))).encode()]
            if self.faults.throttles(environ):
                return capacity.Refusal(503, "RequestLimitExceeded", "Request limit exceeded.")(environ, start_response)
            if _is_unanswerable(environ):
                said = "A value has a character that XML has not, and no answer could tell of it."
                return capacity.Refusal(400, "InvalidParameterValue", said)(environ, start_response)
            return app(environ, start_response)

        return answer

    def _secret_of(self, key_id: str) -> tuple[str, bool] | None:
        """The secret of a key, and whether it is an instance's; None for no such key."""
        if key_id == ACCESS_KEY:
            return self._secret, False
        instance = self.instances.get(key_id)
        if instance is not None:
            return (self._instance_secret(key_id), True) if instance.alive else None
        # What somebody who may do everything has made by IAM or STS.
        for accounts in list(moto.iam.models.iam_backends.values()):
            for backend in list(accounts.values()):
                key: Any = backend.access_keys.get(key_id)
                if key is not None and key.status == "Active":
                    return key.secret_access_key, False
        return None

    def _instance_secret(self, id: str) -> str:
        return hmac.digest(self._secret.encode(), id.encode(), "sha256").hex()[:40]

    async def stop(self) -> None:
        """End every instance, then the servers."""
        await self._loop.run_in_executor(None, self._server.shutdown)
        self._thread.join()
        self._server.server_close()
        await self.faults.close()
        for task in list(self._work):
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        await asyncio.gather(*(host.halt() for host in self.hosts.values()), return_exceptions=True)

    def zones_and_types(self) -> tuple[list[str], list[str]]:
        """The zones of all regions, and the instance types, that EC2 knows."""
        regions = moto.ec2.models.availability_zones_and_regions.RegionsAndZonesBackend.zones.values()
        return [zone.name for zones in regions for zone in zones], list(moto.ec2.models.instance_types.INSTANCE_TYPES)

    async def lose(self, instance: Instance, code: str, message: str) -> None:
        """End an instance for a reason of EC2's own; when this returns, nothing of it is left."""
        if host := self.hosts.get(instance.id):
            host.drop()
        instance.lose(code, message)
        await asyncio.sleep(0)  # for what that hands over to begin
        await asyncio.gather(*(task for task in self._work if task.get_name() == instance.id), return_exceptions=True)

    # called by moto's threads

    def launch(self, instance: Instance) -> None:
        self.instances[instance.id] = instance
        self._hand_over(instance, self._launch)

    def boot(self, instance: Instance) -> None:
        self._hand_over(instance, self._boot)

    def halt(self, instance: Instance) -> None:
        self._hand_over(instance, self._halt)

    def end(self, instance: Instance) -> None:
        self._hand_over(instance, self._end)

    def reboot(self, instance: Instance) -> None:
        if instance.id not in self._rebooting:  # it may ask for that as often as it likes, and must still be endable
            self._rebooting.add(instance.id)
            self._hand_over(instance, self._reboot)

    def _hand_over(self, instance: Instance, step: Any) -> None:
        self._loop.call_soon_threadsafe(self._begin, instance, step)

    # in the event loop; steps of one instance happen one after the other, in the order they were asked for

    def _begin(self, instance: Instance, step: Any) -> None:
        cut_short = self._cut_short.setdefault(instance.id, asyncio.Event())
        if step in (self._halt, self._end):
            cut_short.set()
        task = self._loop.create_task(self._in_turn(instance, step(instance)), name=instance.id)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _in_turn(self, instance: Instance, step: Coroutine[Any, Any, None]) -> None:
        async with self._turns.setdefault(instance.id, asyncio.Lock()):
            try:
                await step
            except Exception:
                log.exception("%s", instance.id)

    async def _launch(self, instance: Instance) -> None:
        metadata = self._metadata[instance.id] = Metadata(instance.metadata)
        try:
            endpoint = await metadata.listen(instance.address.ip)
        except OSError as error:
            self._fail(instance, error)
            return
        sandbox = Sandbox(
            self._isolation.level,
            self._spawner,
            self._toolbox,
            self._directory / "instances" / instance.id,
            "ip-" + instance.address.ip.replace(".", "-"),
            instance.users,
            {
                "AWS_ENDPOINT_URL": self.endpoint,
                "AWS_ACCESS_KEY_ID": instance.id,
                "AWS_SECRET_ACCESS_KEY": self._instance_secret(instance.id),
                "AWS_DEFAULT_REGION": instance.region_name,
                "AWS_REGION": instance.region_name,
                "AWS_EC2_METADATA_DISABLED": "false",
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": endpoint,
                "HARDWAY_ADDRESS": instance.address.ip,
            },
        )
        user_data = cloudinit.parts(_user_data(instance.user_data))
        host = Host(instance.id, instance.address, sandbox, instance.key, instance.power, user_data)
        self.hosts[instance.id] = host
        try:
            sandbox.create()
            with open(self._toolbox.hosts, "a") as hosts:
                hosts.write(f"{instance.address.ip} {sandbox.hostname} {instance.private_dns_name}\n")
        except OSError as error:
            self._fail(instance, error)
            return
        await self._boot(instance)
        if instance.state == "running":
            host.background(host.run_user_data())

    async def _boot(self, instance: Instance) -> None:
        await self._delay(instance)
        if instance.state != "pending":
            return
        try:
            await self.hosts[instance.id].boot()
        except (SandboxError, OSError) as error:
            self._fail(instance, error)
            return
        if instance.state == "pending":
            instance.settle("running")

    async def _delay(self, instance: Instance) -> None:
        """What booting takes, unless the instance is ended meanwhile."""
        self._cut_short[instance.id].clear()
        if instance.state in ("pending", "running"):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._cut_short[instance.id].wait(), self._boot_delay)

    def _fail(self, instance: Instance, error: Exception) -> None:
        """As EC2 does with what it can't start."""
        log.error("%s does not boot: %s", instance.id, error)
        instance.lose("Server.InternalError", str(error))

    async def _halt(self, instance: Instance) -> None:
        await self.hosts[instance.id].halt()
        if instance.state == "stopping":
            instance.settle("stopped")

    async def _end(self, instance: Instance) -> None:
        if host := self.hosts.pop(instance.id, None):
            await host.halt()
            try:
                await self._loop.run_in_executor(None, host.sandbox.remove)
            except OSError as error:
                log.error("%s: its directory stays until the cloud ends: %s", instance.id, error)
        self._metadata.pop(instance.id).close()
        self.addresses.free(instance.address)
        instance.settle("terminated")
        del self._turns[instance.id], self._cut_short[instance.id]

    async def _reboot(self, instance: Instance) -> None:
        host = self.hosts.get(instance.id)
        if host is None:  # ended meanwhile
            self._rebooting.discard(instance.id)
            return
        await host.halt()
        self._rebooting.discard(instance.id)
        await self._delay(instance)
        if instance.state == "running":
            try:
                await host.boot()
            except (SandboxError, OSError) as error:
                self._fail(instance, error)


def _is_unanswerable(environ: dict[str, Any]) -> bool:
    """Whether a call of EC2's API says something that its answers, which are XML, could not say again."""
    if "/ec2/" not in environ.get("HTTP_AUTHORIZATION", ""):
        return False
    body = _body(environ)
    environ["wsgi.input"].seek(0)
    return bool(_NOT_IN_XML.search(body) or _NOT_IN_XML.search(environ.get("QUERY_STRING", "").encode("latin-1")))


def _body(environ: dict[str, Any]) -> bytes:
    body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    return body


def _user_data(given: Any) -> bytes:
    if not given:
        return b""
    data: bytes = given.as_bytes() if hasattr(given, "as_bytes") else os.fsencode(given)
    with contextlib.suppress(ValueError):
        data = base64.b64decode(data, validate=True)
    return data
