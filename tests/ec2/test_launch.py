"""A launch as EC2 sees it: what it asks for, that it ends with as many as asked for or with nothing, whatever fails.

The instances of `quiet` never boot: what is asked of EC2 costs little there.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from invoke.context import Context

from hardway import config, launch
from hardway.config import Local
from hardway.errors import Failed, HardwayError, UsageError
from hardway.instances import Instance
from hardway.local import daemon, faults
from tasks import ec2 as tasks
from tests.conftest import LocalCloud, local_cloud
from tests.ec2.conftest import Shell
from tests.ec2.faulty import Answer, FaultyEC2, Forward, Plan, refused
from tests.local.conftest import eventually

SPOT = pytest.mark.parametrize("spot", [0, 1], ids=["ondemand", "spot"])
CHANGES = re.compile(r"Run|Create|Delete")


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A local cloud whose instances stay pending."""
    with local_cloud(tmp_path_factory.mktemp("quiet") / "state", INVOKE_LOCAL_BOOT_DELAY="3600") as running:
        yield running


@pytest.fixture(scope="module")
def proxy(quiet: LocalCloud) -> Iterator[FaultyEC2]:
    """In front of `quiet`; one for all, as a client belongs to its endpoint."""
    yield from _proxied(quiet)


@pytest.fixture(scope="module")
def real_proxy(cloud: LocalCloud) -> Iterator[FaultyEC2]:
    """In front of `cloud`, whose instances boot."""
    yield from _proxied(cloud)


def _proxied(cloud: LocalCloud) -> Iterator[FaultyEC2]:
    made = FaultyEC2(cloud.env["AWS_ENDPOINT_URL"])
    yield made
    made.close()


@dataclass
class Launcher:
    """`ec2.new` through the proxy, and a look behind it at what there is."""

    cloud: LocalCloud
    ec2: FaultyEC2

    def __call__(self, num: int = 2, wait: bool = False, **given: Any) -> list[str]:
        return list(tasks.new(Context(), **{"num": num, "wait": wait, "name": "launched", **given}))

    def left(self) -> list[str]:
        """Instances and templates there are, and fleets that still stand for something."""
        ec2 = self.cloud.client("ec2")
        alive = [{"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}]
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
        running = daemon.Running(0, self.cloud.env["AWS_ENDPOINT_URL"], 0, "", "", Local())
        faults.send(running, faults.Fault(kind, **given))


def _launcher(cloud: LocalCloud, proxy: FaultyEC2, monkeypatch: pytest.MonkeyPatch, data: str) -> Iterator[Launcher]:
    environment = {**cloud.env, "AWS_ENDPOINT_URL": proxy.endpoint, "XDG_DATA_HOME": data}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    launcher = Launcher(cloud, proxy)
    yield launcher
    launcher.fault("clear")
    launcher.end([left for left in launcher.left() if left.startswith("i-")])


@pytest.fixture
def launcher(
    quiet: LocalCloud,
    proxy: FaultyEC2,
    home: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Launcher]:
    yield from _launcher(quiet, proxy, monkeypatch, str(tmp_path_factory.getbasetemp() / "hardway-data"))


@pytest.fixture
def booting(
    cloud: LocalCloud,
    real_proxy: FaultyEC2,
    home: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Launcher]:
    """A launcher of instances that do boot."""
    yield from _launcher(cloud, real_proxy, monkeypatch, str(tmp_path_factory.getbasetemp() / "hardway-data"))


def _calls_of(launcher: Launcher, **given: Any) -> list[str]:
    """The calls of a launch that goes well, in their order; not the first one in the region."""
    launcher.end(launcher(**given))
    with launcher.plan(lambda action, parameters, forward: forward()):
        started = launcher(**given)
    launcher.end(started)
    return launcher.ec2.actions()


def _at(number: int, fail: Callable[[Forward], Answer | None]) -> Plan:
    """A plan that fails the call of this number, and no other."""
    calls = iter(range(10**6))
    return lambda action, parameters, forward: fail(forward) if next(calls) == number else forward()


@SPOT
def test_whichever_call_fails_nothing_is_left(launcher: Launcher, spot: int) -> None:
    for number, action in enumerate(_calls_of(launcher, spot=spot)):
        for carried_out in (False, True) if CHANGES.match(action) else (False,):

            def fail(forward: Forward, carried_out: bool = carried_out) -> Answer:
                if carried_out:
                    forward()
                return refused("UnauthorizedOperation", 403)

            started: list[str] = []
            with launcher.plan(_at(number, fail)):
                if action == "DeleteLaunchTemplate":
                    started = launcher(spot=spot)
                else:
                    with pytest.raises(HardwayError, match="UnauthorizedOperation"):
                        launcher(spot=spot)
            assert launcher.ec2.actions()[number] == action
            assert len(launcher.left()) == (3 if started else 0), (action, carried_out, launcher.left())
            launcher.end(started)


def test_what_failed_the_first_time_in_a_region_is_made_up_for(launcher: Launcher) -> None:
    region = "eu-west-1"
    for action in ("CreateSecurityGroup", "AuthorizeSecurityGroupIngress", "ImportKeyPair", ""):

        def fail(called: str, parameters: dict[str, str], forward: Forward, action: str = action) -> Answer:
            return refused("UnauthorizedOperation", 403) if called == action else forward()

        with launcher.plan(fail):
            if action:
                with pytest.raises(HardwayError, match=f"denies {action}"):
                    launcher(region=region)
                assert "RunInstances" not in launcher.ec2.actions()
            else:
                ids = launcher(region=region)
    launcher.cloud.client("ec2", region).terminate_instances(InstanceIds=ids)


@SPOT
def test_ctrl_c_at_whichever_call_leaves_nothing(launcher: Launcher, spot: int) -> None:
    assert threading.current_thread() is threading.main_thread()
    for number, action in enumerate(_calls_of(launcher, spot=spot)):
        for carried_out in (False, True) if CHANGES.match(action) else (False,):
            sent = signal.SIGTERM if action in ("RunInstances", "CreateFleet") and carried_out else signal.SIGINT

            def interrupt(forward: Forward, carried_out: bool = carried_out, sent: int = sent) -> Answer | None:
                answer = forward() if carried_out else None
                os.kill(os.getpid(), sent)
                time.sleep(0.1)  # the one who waits for the answer goes first
                return answer

            with launcher.plan(_at(number, interrupt)), pytest.raises(HardwayError) as error:
                launcher(spot=spot)
            assert error.value.code == (143 if sent == signal.SIGTERM else 130)
            assert launcher.ec2.actions()[number] == action
            assert launcher.left() == [], (action, carried_out)
            launcher.end()


@SPOT
def test_a_call_whose_answer_is_lost_is_carried_out_once(launcher: Launcher, spot: int) -> None:
    lost: set[str] = set()

    def lose(action: str, parameters: dict[str, str], forward: Forward) -> Answer | None:
        answer = forward()
        if CHANGES.match(action) and action not in lost:
            lost.add(action)
            return None
        return answer

    with launcher.plan(lose):
        ids = launcher(spot=spot)
    assert lost >= ({"CreateLaunchTemplate", "CreateFleet"} if spot else {"RunInstances"})
    assert {left for left in launcher.left() if not left.startswith("fleet-")} == set(ids)
    launcher.end(ids)


@SPOT
def test_throttling_is_waited_out(launcher: Launcher, spot: int) -> None:
    end = time.monotonic() + 1

    def throttle(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        busy = time.monotonic() < end or launcher.ec2.actions().count(action) == 1 and CHANGES.match(action)
        return refused("RequestLimitExceeded", 503) if busy else forward()

    with launcher.plan(throttle):
        ids = launcher(spot=spot)
    assert len(ids) == 2
    assert len(launcher.ec2.calls) > len(set(launcher.ec2.actions())) + 3
    launcher.end(ids)


@SPOT
def test_what_ec2_does_not_know_yet_is_waited_for(launcher: Launcher, spot: int) -> None:
    unknown = {"DeleteTags": "InvalidInstanceID.NotFound", "CreateFleet": "InvalidLaunchTemplateId.NotFound"}

    def forget(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        if launcher.ec2.actions().count(action) <= 2:
            if action in unknown:
                return refused(unknown[action])
            if action == "DescribeInstances":
                return 200, EMPTY
        return forward()

    with launcher.plan(forget):
        ids = launcher(spot=spot)
    assert len(ids) == 2
    launcher.end(ids)


def test_what_ec2_does_not_know_yet_is_terminated_all_the_same(launcher: Launcher) -> None:
    """One id that it doesn't know, and EC2 terminates none of them."""
    began = False

    def forget(action: str, parameters: dict[str, str], forward: Forward) -> Answer:
        nonlocal began
        began = began or action == "RunInstances"
        if action == "DescribeInstances" and began and launcher.ec2.actions().count(action) <= 4:
            return 200, EMPTY
        if action == "DeleteTags":
            return refused("UnauthorizedOperation", 403)
        if action == "TerminateInstances" and launcher.ec2.actions().count(action) <= 2:
            return refused("InvalidInstanceID.NotFound")
        return forward()

    with launcher.plan(forget), pytest.raises(HardwayError, match="the 2 instances started were terminated"):
        launcher()
    assert launcher.ec2.actions().count("TerminateInstances") >= 3
    assert launcher.left() == []


EMPTY = (
    b'<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
    b"<requestId>x</requestId><reservationSet/></DescribeInstancesResponse>"
)
