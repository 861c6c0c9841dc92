"""The instances of the local cloud: each start, stop, reboot and end of one is carried out on its machine.

The steps of an instance happen one after the other. Its state follows the facts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from hardway.config import VM
from hardway.errors import HardwayError
from hardway.local.addresses import AddressPool
from hardway.local.api.access_keys import AccessKeys
from hardway.local.api.local_instance import LocalInstance
from hardway.local.machines import cloudinit, guest_image
from hardway.local.machines.isolation import Isolation
from hardway.local.machines.machine import Machine
from hardway.local.machines.metadata import MetadataService
from hardway.local.machines.process_machine import ProcessMachine
from hardway.local.machines.processes import SandboxError, SpawnerClient
from hardway.local.machines.qemu import Hardware
from hardway.local.machines.root_disk import RootDisk
from hardway.local.machines.sandbox import Sandbox
from hardway.local.machines.toolbox import Toolbox
from hardway.local.machines.virtual_machine import Host, VirtualMachine

log = logging.getLogger(__name__)

Step = Callable[[LocalInstance], Coroutine[Any, Any, None]]


class Cloud:
    """The instances of one local cloud, and a machine for each. They stay pending for `boot_delay` seconds.

    `secret` belongs to the owner's key. The object belongs to the event loop; moto's threads only hand work over to it.
    """

    def __init__(
        self,
        directory: Path,
        spawner: SpawnerClient,
        toolbox: Toolbox,
        isolation: Isolation,
        boot_delay: float,
        secret: str,
        endpoint: str,
    ) -> None:
        self.addresses = AddressPool()
        self.machines: dict[str, Machine] = {}
        self.instances: dict[str, LocalInstance] = {}
        self.keys = AccessKeys(secret, self.instances)
        self._directory = directory
        self._spawner = spawner
        self._toolbox = toolbox
        self._isolation = isolation
        self._boot_delay = boot_delay
        self._endpoint = endpoint
        self._loop = asyncio.get_running_loop()
        self._metadata: dict[str, MetadataService] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._cut_short: dict[str, asyncio.Event] = {}
        self._work: set[asyncio.Task[None]] = set()
        self._rebooting: set[str] = set()

    async def stop(self) -> None:
        """End every instance."""
        for task in list(self._work):
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        await asyncio.gather(*(machine.halt() for machine in self.machines.values()), return_exceptions=True)

    async def lose(self, instance: LocalInstance, code: str, message: str) -> None:
        """End an instance for a reason of EC2's own. Nothing of the instance is left when this returns."""
        if machine := self.machines.get(instance.id):
            machine.drop()
        instance.lose(code, message)
        await asyncio.sleep(0)  # let the step begin that this call hands over
        await asyncio.gather(*(task for task in self._work if task.get_name() == instance.id), return_exceptions=True)

    def states(self) -> dict[str, int]:
        """Count the instances by state."""
        return dict(Counter(instance.state for instance in list(self.instances.values())))

    # called by moto's threads: see `Operations`

    def console(self, instance_id: str) -> str:
        machine = self.machines.get(instance_id)
        return machine.console if machine else ""

    def launch(self, instance: LocalInstance) -> None:
        self.instances[instance.id] = instance
        self._hand_over(instance, self._launch)

    def boot(self, instance: LocalInstance) -> None:
        self._hand_over(instance, self._boot)

    def halt(self, instance: LocalInstance) -> None:
        self._hand_over(instance, self._halt)

    def end(self, instance: LocalInstance) -> None:
        self._hand_over(instance, self._end)

    def reboot(self, instance: LocalInstance) -> None:
        if instance.id not in self._rebooting:  # an instance that reboots without end can still be ended
            self._rebooting.add(instance.id)
            self._hand_over(instance, self._reboot)

    def _hand_over(self, instance: LocalInstance, step: Step) -> None:
        self._loop.call_soon_threadsafe(self._begin, instance, step)

    # in the event loop; steps of one instance happen one after the other, in the order they were asked for

    def _begin(self, instance: LocalInstance, step: Step) -> None:
        cut_short = self._cut_short.setdefault(instance.id, asyncio.Event())
        if step in (self._halt, self._end):
            cut_short.set()
        task = self._loop.create_task(self._in_turn(instance, step(instance)), name=instance.id)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _in_turn(self, instance: LocalInstance, step: Coroutine[Any, Any, None]) -> None:
        async with self._turns.setdefault(instance.id, asyncio.Lock()):
            try:
                await step
            except Exception:
                log.exception("%s", instance.id)

    async def _launch(self, instance: LocalInstance) -> None:
        try:
            machine = self.machines[instance.id] = await self._machine(instance)
            await machine.create()
        except (HardwayError, SandboxError, OSError) as error:
            self._fail(instance, error)
            return
        await self._boot(instance)
        if instance.state == "running":
            machine.start_user_data()

    async def _machine(self, instance: LocalInstance) -> Machine:
        """Give an instance the machine that it will run on. Raises OSError, HardwayError for a missing guest."""
        metadata = self._metadata[instance.id] = MetadataService(instance.metadata)
        if self._isolation.level == VM:
            return self._virtual_machine(instance, metadata)
        sandbox = self._sandbox(instance, await metadata.listen(instance.address.ip))
        with open(self._toolbox.hosts, "a") as hosts:
            hosts.write(f"{instance.address.ip} {sandbox.disk.hostname} {instance.private_dns_name}\n")
        user_data = cloudinit.parts(instance.user_data_content)
        return ProcessMachine(instance.id, instance.address, sandbox, instance.key, instance.power, user_data)

    def _virtual_machine(self, instance: LocalInstance, metadata: MetadataService) -> VirtualMachine:
        image = instance.public_image
        guest = guest_image.find(guest_image.release_of(image.name if image else ""))
        hardware = Hardware(instance.id, instance.instance_type, instance.mac, instance.address, instance.users[0])
        host = Host(self._spawner, self._isolation.accelerator)
        place = self._place(instance)
        return VirtualMachine(host, hardware, guest, place, instance.store_count, metadata, instance.power)

    def _place(self, instance: LocalInstance) -> Path:
        """The directory of an instance's machine."""
        return self._directory / "instances" / instance.id

    def _sandbox(self, instance: LocalInstance, metadata_endpoint: str) -> Sandbox:
        environment = {
            "AWS_ENDPOINT_URL": self._endpoint,
            "AWS_ACCESS_KEY_ID": instance.id,
            "AWS_SECRET_ACCESS_KEY": self.keys.instance_secret(instance.id),
            "AWS_DEFAULT_REGION": instance.region_name,
            "AWS_REGION": instance.region_name,
            "AWS_EC2_METADATA_DISABLED": "false",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata_endpoint,
            "HARDWAY_ADDRESS": instance.address.ip,
        }
        hostname = "ip-" + instance.address.ip.replace(".", "-")
        disk = RootDisk(self._place(instance), self._toolbox, hostname, instance.users, self._isolation.level)
        return Sandbox(self._spawner, disk, environment)

    async def _boot(self, instance: LocalInstance) -> None:
        await self._delay(instance)
        if instance.state != "pending":
            return
        try:
            await self.machines[instance.id].boot()
        except (SandboxError, OSError) as error:
            self._fail(instance, error)
            return
        if instance.state == "pending":
            instance.settle("running")

    async def _delay(self, instance: LocalInstance) -> None:
        """Wait for the boot delay, unless the instance is ended meanwhile."""
        self._cut_short[instance.id].clear()
        if instance.state in ("pending", "running"):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._cut_short[instance.id].wait(), self._boot_delay)

    def _fail(self, instance: LocalInstance, error: Exception) -> None:
        """Terminate an instance that does not start, as EC2 does."""
        log.error("%s does not boot: %s", instance.id, error)
        instance.lose("Server.InternalError", str(error))

    async def _halt(self, instance: LocalInstance) -> None:
        await self.machines[instance.id].stop()
        if instance.state == "stopping":
            instance.settle("stopped")

    async def _end(self, instance: LocalInstance) -> None:
        if machine := self.machines.pop(instance.id, None):
            await machine.halt()
            try:
                await self._loop.run_in_executor(None, machine.remove)
            except OSError as error:
                log.error("%s: its directory stays until the cloud ends: %s", instance.id, error)
        self._metadata.pop(instance.id).close()
        self.addresses.free(instance.address)
        instance.settle("terminated")
        del self._turns[instance.id], self._cut_short[instance.id]

    async def _reboot(self, instance: LocalInstance) -> None:
        machine = self.machines.get(instance.id)
        if machine is None:  # ended meanwhile
            self._rebooting.discard(instance.id)
            return
        await machine.shut_down()
        self._rebooting.discard(instance.id)
        await self._delay(instance)
        if instance.state == "running":
            try:
                await machine.boot()
            except (SandboxError, OSError) as error:
                self._fail(instance, error)
