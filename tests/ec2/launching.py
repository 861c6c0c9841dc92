"""`ec2.new` through a proxy that fails calls as a test says, and a look behind it at what is left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from invoke.context import Context

from hardway.config import settings
from hardway.local import faults
from hardway.money import prices
from tasks import ec2 as tasks
from tests.conftest import LocalCloud
from tests.ec2.faulty import FaultyEC2, Plan

NAME = "launched"
TYPE = "m7i.large"


def proxied(cloud: LocalCloud) -> Iterator[FaultyEC2]:
    made = FaultyEC2(cloud.env)
    yield made
    made.close()


@dataclass
class Launcher:
    """`ec2.new` through the proxy, and a look behind it at what there is."""

    cloud: LocalCloud
    ec2: FaultyEC2
    shared: bool
    """Whether others' instances are in the cloud, too; ours are known by their name."""

    def __call__(self, num: int = 2, wait: bool = False, **given: Any) -> list[str]:
        return list(tasks.new(Context(), **{"num": num, "wait": wait, "name": NAME, **given}))

    def left(self) -> list[str]:
        """Instances and templates there are, and fleets that still stand for something."""
        ec2 = self.cloud.client("ec2")
        alive = [{"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}]
        if self.shared:
            alive.append({"Name": "tag:Name", "Values": [NAME]})
        pages = ec2.get_paginator("describe_instances").paginate(Filters=alive)
        found = [i["InstanceId"] for page in pages for r in page["Reservations"] for i in r["Instances"]]
        templates = [t["LaunchTemplateName"] for t in ec2.describe_launch_templates()["LaunchTemplates"]]
        fleets = [f["FleetId"] for f in ec2.describe_fleets()["Fleets"] if f["FleetState"] == "active"]
        return [*found, *templates, *(f for f in fleets if ec2.describe_fleet_instances(FleetId=f)["ActiveInstances"])]

    def end(self, ids: Sequence[str] = ()) -> None:
        """Also of what a launch that went well leaves of its fleet, so that the next test finds none."""
        ec2 = self.cloud.client("ec2")
        if ids:
            ec2.terminate_instances(InstanceIds=list(ids))
        fleets = [f["FleetId"] for f in ec2.describe_fleets()["Fleets"] if f["FleetState"] == "active"]
        if fleets:
            ec2.delete_fleets(FleetIds=fleets, TerminateInstances=True)

    @contextmanager
    def plan(self, plan: Plan) -> Iterator[None]:
        self.ec2.plan, self.ec2.calls = plan, []
        try:
            yield
        finally:
            self.ec2.plan = None

    def fault(self, kind: str, **given: Any) -> None:
        faults.send(self.cloud.running, faults.Fault(kind, **given))


def launcher_of(
    cloud: LocalCloud,
    proxy: FaultyEC2,
    monkeypatch: pytest.MonkeyPatch,
    bases: pytest.TempPathFactory,
    *,
    shared: bool = False,
) -> Iterator[Launcher]:
    """A launcher, for a fixture; what it leaves running is ended."""
    data = str(bases.getbasetemp() / "hardway-data")
    environment = {**cloud.env, "AWS_ENDPOINT_URL": proxy.endpoint, "XDG_DATA_HOME": data}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    launcher = Launcher(cloud, proxy, shared)
    # Asked for once a day, and no launch depends on it.
    prices.on_demand(settings(Context()), [TYPE])
    yield launcher
    launcher.fault("clear")
    launcher.end([left for left in launcher.left() if left.startswith("i-")])
