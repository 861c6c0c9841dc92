"""The calls of one launch to EC2, for instances in its pools (a type in a zone), all under the launch's token.

On-demand instances come from RunInstances, type by type in the order given, since the order is one of preference.
Spot instances, also mixed with on-demand ones, come from CreateFleet of type `instant`, which spreads over the pools
by price and capacity. Each call has a client token of its own, so that it can be repeated when its answer is lost.
Every instance, launch template and fleet carries the launch's token.

EC2 takes each instance from a bucket of 1,000, refilled by two a second. A call for more than the bucket holds gets
none. So a launch asks in portions, and halves the portion after each refusal.
Source: https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-throttling.html#throttling-limits-cost-based
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from hardway import aws
from hardway.config import Settings
from hardway.ec2 import account, quotas
from hardway.ec2.instances import ALIVE, Instance, Selector, describe
from hardway.errors import UsageError
from hardway.launch import refusals, requests
from hardway.launch.orphans import LAUNCH_TAG
from hardway.launch.prerequisites import Network
from hardway.launch.refusals import Refusal
from hardway.launch.requests import Pool

BUCKET, REFILL = 1000, 2
"""The instances that EC2 starts at once, and in each second after that."""

# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/fleet-quotas.html
_MOST_POOLS = 300
_MOST_TAGGED = 1000
_MOST_TERMINATED = 500
_MOST_FLEETS_DELETED = 25
# Errors for an id that EC2 has just given out, and may not know everywhere yet.
_UNKNOWN_INSTANCE = ("InvalidInstanceID.NotFound", "InvalidID")
_UNKNOWN_TEMPLATE = ("InvalidLaunchTemplateId.NotFound", "InvalidLaunchTemplateName.NotFoundException")
_CONSISTENT_SECONDS = 30
_FLEET_AGAIN_SECONDS = 2.0
_LATE_SECONDS = (0, 0.5, 1.0, 1.5)
_FLEET_TAG = "aws:ec2:fleet-id"


Offers = set[tuple[str, str]]
"""Pairs of an instance type and a zone that has it."""


def offers(settings: Settings) -> Offers | None:
    """Return the offers of the settings' types; None if these credentials may not look them up."""
    kinds = [{"Name": "instance-type", "Values": list(settings.ec2.types)}]
    pages = aws.ec2(settings).get_paginator("describe_instance_type_offerings")
    try:
        return {
            (offer["InstanceType"], offer["Location"])
            for page in pages.paginate(LocationType="availability-zone", Filters=kinds)
            for offer in page["InstanceTypeOfferings"]
        }
    except Exception as error:
        if not aws.is_denied(error):
            raise
        return None


def pools(settings: Settings, network: Network, offered: Offers | None) -> list[Pool]:
    """Return the types in the zones that have them, in the order of the types. Raises UsageError for none.

    With unknown offers all zones count: EC2 refuses the others.
    """
    types = settings.ec2.types
    if offered is None:
        offered = {(type, zone) for type in types for zone in network.subnets}
    found = [Pool(t, z, s) for t in types for z, s in network.subnets.items() if (t, z) in offered]
    if not found:
        zones = ", ".join(sorted({zone for _, zone in offered})) or "no zone"
        raise UsageError(f"{'/'.join(types)} is not offered in {', '.join(network.subnets)}, but in {zones}")
    if len(found) > _MOST_POOLS:
        raise UsageError(
            f"{len(types)} types in {len(network.subnets)} zones make more than {_MOST_POOLS} pairs: name fewer types"
        )
    return found


class Fleet:
    """The instances of one launch. Not for several threads.

    `instance` is the result of `requests.instance`. `bids` maps types to the highest price of a spot instance in
    USD/hour; None means EC2's own limit, the on-demand price.
    """

    def __init__(
        self,
        settings: Settings,
        token: str,
        instance: Mapping[str, Any],
        pools: Sequence[Pool],
        *,
        any_zone: bool,
        bids: Mapping[str, float] | None = None,
    ) -> None:
        self.token = token
        self._settings = settings
        self._instance = instance
        self._pools = list(pools)
        self._any_zone = any_zone
        self._bids = bids
        self._on_demand_ids: set[str] = set()
        """The on-demand instances of a mix that are not gone."""
        self._vcpus: dict[quotas.Quota, float | None] = {}
        self._portion = BUCKET
        self._template = ""
        """The id of the next fleet's launch template."""
        self._calls = 0
        self._started: set[str] = set()
        self._expected = 0
        self._templates: set[str] = set()
        self._unsure: set[str] = set()
        """Templates whose creation went unanswered: they may turn up late, as instances may."""
        self._fleets: set[str] = set()

    def start(self, num: int) -> tuple[list[str], list[Refusal]]:
        """Start `num` instances, or as many as EC2 has; return their ids, and EC2's refusals if there are fewer.

        Raises EC2's error if the reason isn't one pool's.
        """
        start = self._create_fleet if self._settings.ec2.spot else self._run_instances
        ids: list[str] = []
        while True:
            portion = min(num - len(ids), self._portion)
            new, refused = start(portion)
            ids += new
            throttled = any(refusal.is_throttled for refusal in refused)
            self._portion = max(1, portion // 2) if throttled else min(self._portion * 2, BUCKET)
            if len(new) < portion or len(ids) == num:
                return ids, refused

    def lacks_on_demand(self, ids: Collection[str]) -> int:
        """Return how many of these instances are spot, but should be on demand."""
        return max(0, self._settings.ec2.on_demand - len(self._on_demand_ids.intersection(ids)))

    def ask_for_more(self, refusal: Refusal) -> str:
        """Return a hint for raising the quota that is used up."""
        region = aws.region_of(self._settings)
        quota = quotas.of(refusal.type, spot="Spot" in refusal.code)
        if not quota:
            return f"ask for more at https://{region}.console.aws.amazon.com/servicequotas/home/services/ec2/quotas"
        if quota not in self._vcpus:
            self._vcpus[quota] = quotas.value(self._settings, quota)
        vcpus = self._vcpus[quota]
        now = "" if vcpus is None else f", {vcpus:g} vCPUs now"
        return f"ask for more of {quota.name} ({quota.code}{now}): {quota.page(region)}"

    def look(self) -> dict[str, Instance]:
        """Return all instances of this launch that EC2 shows, by id; takes one call for each thousand."""
        mine = Selector("", (), (), ((LAUNCH_TAG, self.token),))
        found = {i.id: i for i in aws.persistently(lambda: describe(self._settings, mine))}
        self._started.update(found)
        self._on_demand_ids -= {i.id for i in found.values() if i.state not in ALIVE}
        # EC2's own tag names the fleet, even one whose call went unanswered.
        self._fleets.update(i.tags[_FLEET_TAG] for i in found.values() if _FLEET_TAG in i.tags)
        return found

    def terminate(self, ids: Collection[str]) -> None:
        """Terminate instances, also new ones that EC2 may not know yet."""
        self._on_demand_ids -= set(ids)
        for some in _portions(sorted(ids), _MOST_TERMINATED):
            end = partial(aws.ec2(self._settings).terminate_instances, InstanceIds=some)
            try:
                aws.persistently(end)
            except Exception as error:
                if aws.error_code(error) not in _UNKNOWN_INSTANCE:
                    raise
                # A call with one unknown id terminates no instance.
                known = [id for id in some if id in self.look()]
                if 0 < len(known) < len(some):
                    self.terminate(known)
                    self.terminate([id for id in some if id not in known])
                else:
                    aws.persistently(end, _UNKNOWN_INSTANCE, _CONSISTENT_SECONDS)

    def check_keep(self, id: str) -> None:
        """Raise AWS's error early if these credentials may not do what `keep` does: before all instances are ready."""
        own = {"Resources": [id], "Tags": [{"Key": LAUNCH_TAG}]}
        try:
            aws.ec2_once(self._settings).delete_tags(DryRun=True, **own)
        except Exception as error:
            if aws.is_denied(error):
                raise

    def keep(self, ids: Collection[str]) -> None:
        """Take the launch's token off the instances that stay: the launch has ended well."""
        for some in _portions(sorted(ids), _MOST_TAGGED):
            untag = partial(aws.ec2(self._settings).delete_tags, Resources=some, Tags=[{"Key": LAUNCH_TAG}])
            aws.persistently(untag, _UNKNOWN_INSTANCE, _CONSISTENT_SECONDS)

    def end(self) -> list[str]:
        """Terminate all instances of the launch, and delete its fleets; return the ids of those that were running.

        Instances of an unanswered call are found by their tag; EC2 may show them late. Raises the error if
        instances can't be terminated.
        """
        ended: set[str] = set()
        for pause in _LATE_SECONDS:
            time.sleep(pause)
            self.delete_templates()
            shown = self.look()
            gone = {i.id for i in shown.values() if i.state not in ALIVE}
            running = self._started - gone - ended
            self.terminate(running)
            ended |= running
            if not self.is_unsure and not self._unsure:
                break
        self._unsure.clear()
        self._delete_fleets()
        return sorted(ended)

    @property
    def is_unsure(self) -> bool:
        """Whether instances of an unanswered call may still turn up."""
        return len(self._started) < self._expected

    def delete_templates(self) -> list[str]:
        """Delete the launch templates; return the names of those that can't be deleted."""
        ec2 = aws.ec2(self._settings)
        for name in list(self._templates):
            try:
                ec2.delete_launch_template(LaunchTemplateName=name)
            except Exception as error:
                if aws.error_code(error) not in _UNKNOWN_TEMPLATE or name in self._unsure:
                    continue
            self._templates.discard(name)
            self._unsure.discard(name)
        self._template = ""
        return sorted(self._templates)

    @contextlib.contextmanager
    def _asking_for(self, num: int) -> Iterator[None]:
        """In this block, expect up to `num` late instances if the call is not answered."""
        self._expected = len(self._started) + num
        try:
            yield
        except BaseException as error:
            if aws.is_answered(error):
                self._expected = 0
            raise
        self._expected = 0

    def _run_instances(self, num: int) -> tuple[list[str], list[Refusal]]:
        ids: list[str] = []
        refused: list[Refusal] = []
        used_up: set[quotas.Quota | None] = set()
        for pool in self._pools_by_type():
            left = num - len(ids)
            quota = quotas.of(pool.type, spot=False)
            if not left:
                break
            if quota in used_up:
                continue
            call = {**requests.run_instances(self._instance, pool, left), **self._next_token()}
            run = partial(aws.ec2_once(self._settings).run_instances, **call)
            try:
                with self._asking_for(left):
                    answer = self._until_known(run)
            except Exception as error:
                refusal = Refusal(pool.type, pool.zone, aws.error_code(error), aws.error_message(error))
                if not refusal.is_of_pool:
                    raise
                refused.append(refusal)
                if refusal.is_of_quota:
                    used_up.add(quota)
                if refusal.is_throttled:
                    break
            else:
                new = [raw["InstanceId"] for raw in answer["Instances"]]
                ids += new
                self._started.update(new)
                if len(new) < left:
                    refused.append(Refusal(pool.type, pool.zone, "InsufficientInstanceCapacity"))
        return ids, refused

    def _is_unknown_yet(self, code: str, said: str) -> bool:
        """Return whether the error is about a thing that EC2 may know in a moment."""
        if refusals.is_unknown_profile(code, said):
            return not account.lacks_instance_profile(self._settings, self._settings.ec2.role)
        return refusals.is_unknown_yet(code)

    def _until_known(self, call: Callable[[], Any]) -> Any:
        """Repeat a call for a time while EC2 does not know a thing that it names; raise throttling at once."""

        def is_passing(error: Exception) -> bool:
            return self._is_unknown_yet(aws.error_code(error), aws.error_message(error))

        return aws.until(call, is_passing, _CONSISTENT_SECONDS)

    def _pools_by_type(self) -> Iterator[Pool]:
        """Yield each type without a zone, if EC2 may choose one with room; then in each zone, for the rest."""
        for type in dict.fromkeys(pool.type for pool in self._pools):
            if self._any_zone:
                yield Pool(type, "", "")
            yield from (pool for pool in self._pools if pool.type == type)

    def _create_fleet(self, num: int) -> tuple[list[str], list[Refusal]]:
        """Create a fleet; retry for a time if EC2 starts nothing because it does not know the template's things yet."""
        deadline = time.monotonic() + _CONSISTENT_SECONDS
        while True:
            ids, refused = self._create_one_fleet(num)
            unknown = refused and not ids and all(self._is_unknown_yet(each.code, each.said) for each in refused)
            if not unknown or time.monotonic() >= deadline:
                break
            time.sleep(_FLEET_AGAIN_SECONDS)
        for each in refused:
            # EC2 calls the configuration invalid if a zone has a type, but not for spot.
            if not ids and (each.is_of_account or not any(other.is_of_pool for other in refused)):
                raise aws.refusal("CreateFleet", each.code, each.said)
        if not any(each.is_throttled for each in refused):
            self.delete_templates()
        return ids, refused

    def _create_one_fleet(self, num: int) -> tuple[list[str], list[Refusal]]:
        """Return the ids of the instances started, and EC2's refusals."""
        self._template = self._template or self._create_template(f"hardway-{self.token}-{self._calls + 1}")
        on_demand = min(num, self._settings.ec2.on_demand - len(self._on_demand_ids))
        asked = requests.create_fleet(self._template, self._pools, self._bids, num, on_demand, self._tags())
        call = {**asked, **self._next_token()}
        try:
            with self._asking_for(num):
                answer = self._until_known(partial(aws.ec2_once(self._settings).create_fleet, **call))
                self._fleets.add(answer["FleetId"])
                groups = answer.get("Instances", [])
                ids = [id for group in groups for id in group["InstanceIds"]]
                self._started.update(ids)
                self._on_demand_ids.update(
                    id for group in groups if group.get("Lifecycle") == "on-demand" for id in group["InstanceIds"]
                )
        except Exception as error:
            code, said = aws.error_code(error), aws.error_message(error)
            if not aws.is_throttled(code):
                raise
            return [], [Refusal(type, "", code, said) for type in self._settings.ec2.types]
        return ids, self._refusals(answer.get("Errors", []))

    def _create_template(self, name: str) -> str:
        """Make a launch template of this name; return its id."""
        self._templates.add(name)
        asked = requests.create_launch_template(self._instance, name, self._tags())
        create = partial(aws.ec2_once(self._settings).create_launch_template, **asked, ClientToken=name)
        self._unsure.add(name)
        answer = aws.persistently(create)
        self._unsure.discard(name)
        return str(answer["LaunchTemplate"]["LaunchTemplateId"])

    def _refusals(self, errors: Iterable[Any]) -> list[Refusal]:
        """Return the refusals in a fleet's answer, each once."""
        zones = {pool.subnet: pool.zone for pool in self._pools}
        refused = []
        for error in errors:
            override = error.get("LaunchTemplateAndOverrides", {}).get("Overrides", {})
            zone = zones.get(override.get("SubnetId", ""), override.get("AvailabilityZone", ""))
            type = override.get("InstanceType", "an instance")
            refused.append(Refusal(type, zone, error.get("ErrorCode", ""), error.get("ErrorMessage", "")))
        return list(dict.fromkeys(refused))

    def _delete_fleets(self) -> None:
        """Delete the fleets, errors ignored: an instant fleet without instances is only a record."""
        ec2 = aws.ec2(self._settings)
        for some in _portions(sorted(self._fleets), _MOST_FLEETS_DELETED):
            with contextlib.suppress(Exception):
                ec2.delete_fleets(FleetIds=some, TerminateInstances=True)

    def _next_token(self) -> dict[str, str]:
        self._calls += 1
        return {"ClientToken": f"{self.token}-{self._calls}"}

    def _tags(self) -> dict[str, str]:
        """Return the tags of the things made besides instances."""
        return {LAUNCH_TAG: self.token, "owner": aws.user()}


def _portions(items: Sequence[str], most: int) -> Iterator[list[str]]:
    for start in range(0, len(items), most):
        yield list(items[start : start + most])
