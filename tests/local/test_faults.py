"""Faults on demand: each as one notices it who has a connection to the instance, and as EC2's clients do."""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any

import boto3
import paramiko
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from hypothesis import given
from hypothesis import strategies as st

from hardway.errors import UsageError
from hardway.local import faults
from hardway.local.machines.spawner import marked
from tests.conftest import Inv, LocalCloud, run_local_cloud
from tests.local.conftest import Key, Machine, Machines, eventually, image
from tests.patience import patience

SILENCE = 0.4
"""Seconds without a word that stand for: it will not come. What is awaited elsewhere comes in a tenth of that."""


def fault(cloud: LocalCloud, *arguments: str) -> None:
    done = cloud.inv("local.fault", *arguments)
    assert (done.code, done.stdout, done.stderr) == (0, "", "")


class Talk:
    """A program on an instance: what it is told and what it says, by lines."""

    def __init__(self, transport: paramiko.Transport, command: str) -> None:
        self.channel = transport.open_session()
        self.channel.exec_command(command)

    def say(self, word: str) -> None:
        self.channel.sendall(word.encode() + b"\n")

    def hear(self, seconds: float | None = None) -> str:
        self.channel.settimeout(patience() if seconds is None else seconds)
        with contextlib.suppress(ConnectionResetError):
            return self.channel.recv(1000).decode()
        return ""


ECHO = "while read -r word; do echo $word; done"


@pytest.fixture(params=["auto", "unshare", "none"])
def level(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A local cloud at each level of isolation; the best one's is that of all tests."""
    if request.param == "auto":
        yield request.getfixturevalue("cloud")
        return
    with run_local_cloud(tmp_path_factory.mktemp("level") / "state", isolation=request.param) as cloud:
        yield cloud


def test_a_host_hangs_thaws_and_is_lost(level: LocalCloud, key: Key) -> None:
    with contextlib.closing(Machines(level, key)) as machines:
        machine, other = machines(2)
        # each finds metadata of its own
        ask = 'curl -s -o /dev/null -w "%{http_code} %{remote_ip}" $AWS_EC2_METADATA_SERVICE_ENDPOINT/latest/'
        assert [m.output(ask) for m in (machine, other)] == [f"401 {m.address}" for m in (machine, other)]

        count = "bash -c 'while :; do echo >>~/count; sleep 0.01; done'"
        machine.ssh(f"setsid nohup {count} >/dev/null 2>&1 & sudo setsid nohup {count} >/dev/null 2>&1 &")
        counted = machine.directory / "home" / "ubuntu" / "count"
        eventually(lambda: counted.exists() and counted.stat().st_size > 2)
        with machine.transport() as transport, other.transport() as elsewhere:
            talk, neighbour = Talk(transport, ECHO), Talk(elsewhere, ECHO)
            talk.say("before")
            assert talk.hear() == "before\n"

            fault(level, "hang", machine.id)
            size = counted.stat().st_size
            talk.say("during")
            fresh = subprocess.Popen(machine.ssh_command("echo", "fresh"), stdout=subprocess.PIPE)
            with pytest.raises(TimeoutError):
                talk.hear(SILENCE)
            assert transport.is_active()
            assert counted.stat().st_size == size
            assert fresh.poll() is None
            assert machine.state == "running"
            neighbour.say("untouched")
            assert neighbour.hear() == "untouched\n"

            fault(level, "thaw", machine.id)
            assert talk.hear() == "during\n"
            assert fresh.communicate(timeout=patience())[0] == b"fresh\n"
            eventually(lambda: counted.stat().st_size > size)

            farewell = Talk(transport, "trap 'echo goodbye' TERM HUP; echo hello; sleep 1000")
            assert farewell.hear() == "hello\n"
            fault(level, "kill", machine.id)
            assert machine.state == "terminated"
            assert machine.describe()["StateReason"]["Code"] == "Server.InternalError"
            assert talk.hear() == farewell.hear() == ""
            assert farewell.channel.recv_exit_status() == -1
            assert not marked(str(machine.directory))


def test_what_was_stopped_before_stays_stopped_and_what_watches_children_sees_nothing(machine: Machine) -> None:
    with machine.transport() as transport:
        script = "import os, subprocess; p = subprocess.Popen(['sleep', '1000']); print(p.pid, flush=True); "
        watch = script + "print(os.waitpid(p.pid, os.WUNTRACED)[1], flush=True)"
        talk = Talk(transport, f"python3 -c {json.dumps(watch)}")
        pid = talk.hear().strip()
        machine.output("sh -c 'kill -STOP $$' >/dev/null 2>&1 & echo $! >~/stopped")
        fault(machine.cloud, "hang", machine.id)
        fault(machine.cloud, "thaw", machine.id)
        with pytest.raises(TimeoutError):
            talk.hear(SILENCE)
        states = "for pid in $(cat ~/stopped) %s; do cut -d' ' -f3 /proc/$pid/stat; kill -9 $pid; done"
        assert machine.output(states % pid).split() == ["T", "S"]
        assert talk.hear() == "9\n"


def test_a_hung_host_can_be_rebooted_and_ended(machines: Machines) -> None:
    machine, other = machines(2)
    fault(machine.cloud, "hang", f"{machine.id},{other.id}")
    machine.ec2.reboot_instances(InstanceIds=[machine.id])
    assert eventually(lambda: machine.ssh("echo back").stdout) == b"back\n"
    other.terminate()


def test_dropped_connections_are_reset_and_what_ran_goes_on(machine: Machine) -> None:
    with machine.transport() as one, machine.transport() as other:
        pid = Talk(one, "setsid sleep 1000 >/dev/null & echo $!; wait").hear().strip()
        began = time.monotonic()
        fault(machine.cloud, "drop", machine.address, "--after", "1")
        assert one.is_active() or time.monotonic() - began > 1
        eventually(lambda: not one.is_active() and not other.is_active())
        assert time.monotonic() - began > 1
        assert isinstance(one.get_exception(), ConnectionResetError)
    assert machine.output(f"kill {pid} && echo lived") == "lived\n"
    assert machine.state == "running"


NOTICE = """
T=$(curl -sfX PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' $AWS_EC2_METADATA_SERVICE_ENDPOINT/latest/api/token)
get() { curl -sf -H "X-aws-ec2-metadata-token: $T" $AWS_EC2_METADATA_SERVICE_ENDPOINT/latest/meta-data/spot/$1; }
get instance-action || echo nothing yet
until notice=$(get instance-action); do sleep 0.05; done
echo "$notice $(get termination-time)"
sleep 1000
"""


def test_an_interrupted_instance_gets_notice_and_then_ends(machines: Machines) -> None:
    machine = machines(InstanceMarketOptions={"MarketType": "spot"})[0]
    with machine.transport() as transport:
        talk = Talk(transport, NOTICE)
        assert talk.hear() == "nothing yet\n"
        begun = datetime.now(timezone.utc)
        fault(machine.cloud, "interrupt", machine.id, "--notice", "5")
        told = talk.hear()
        notice = json.loads(told.partition("}")[0] + "}")
        assert notice == {"action": "terminate", "time": told.split()[-1]}
        at = datetime.fromisoformat(notice["time"].replace("Z", "+00:00"))
        assert begun <= at <= datetime.now(timezone.utc) + timedelta(seconds=5)
        assert machine.state == "running"
        assert talk.hear() == ""
        assert datetime.now(timezone.utc) >= at
    seen = machine.wait("terminated").describe()
    assert seen["StateReason"]["Code"] == "Server.SpotInstanceTermination"


SPIN = """
import time
began = time.time()
while time.process_time() < 0.2:
    pass
print(time.time() - began)
"""


def test_a_slow_host_gets_a_part_of_the_cpu_and_answers_late(machine: Machine) -> None:
    def spin() -> float:
        """The wall time that 200 ms of CPU take."""
        return float(machine.output(f"python3 -c '{SPIN}'"))

    with machine.transport() as transport:
        talk = Talk(transport, ECHO)

        def longest_wait(seconds: float) -> float:
            """For an answer, of many in that time."""
            waits, end = [], time.monotonic() + seconds
            while time.monotonic() < end:
                asked = time.monotonic()
                talk.say("well?")
                talk.hear()
                waits.append(time.monotonic() - asked)
            return max(waits)

        fault(machine.cloud, "slow", machine.id, "--factor", "10")
        slow_spin = spin()
        assert slow_spin > 0.2 * 10 * 0.5
        assert longest_wait(0.6) > 0.15
        fault(machine.cloud, "slow", machine.id, "--factor", "1")
        # others use this machine too
        assert eventually(lambda: spin() < slow_spin / 2)
        assert eventually(lambda: longest_wait(0.2) < 0.1)


def trying(cloud: LocalCloud, attempts: int) -> Any:
    """A client of EC2 that tries so many times."""
    names = ("aws_access_key_id", "aws_secret_access_key")
    keys = {name: cloud.env[name.upper()] for name in names}
    config = Config(retries={"total_max_attempts": attempts})
    return boto3.client("ec2", "us-east-1", endpoint_url=cloud.env["AWS_ENDPOINT_URL"], config=config, **keys)


def refused(cloud: LocalCloud, **launch: Any) -> tuple[str, int]:
    """Error code and HTTP status of RunInstances."""
    with pytest.raises(ClientError) as error:
        trying(cloud, 1).run_instances(ImageId=image(cloud), MinCount=2, MaxCount=2, **launch)
    return error.value.response["Error"]["Code"], error.value.response["ResponseMetadata"]["HTTPStatusCode"]


LACKS = ("InsufficientInstanceCapacity", 500)


def test_launches_find_no_capacity_until_it_is_back(cloud: LocalCloud, machines: Machines) -> None:
    here: dict[str, Any] = {"Placement": {"AvailabilityZone": "us-east-1a"}}
    fault(cloud, "capacity", "--zone", "us-east-1a", "--type", "c7i.large")
    try:
        assert refused(cloud, InstanceType="c7i.large", **here) == LACKS
        # elsewhere, or of another type, there is some; and who names no zone is sent elsewhere
        assert [m.describe()["InstanceType"] for m in machines(InstanceType="m7i.large", wait=False, **here)]
        zones = {
            m.describe()["Placement"]["AvailabilityZone"] for m in machines(2, InstanceType="c7i.large", wait=False)
        }
        assert "us-east-1a" not in zones

        # a fleet takes what there is, and says of what there was none
        ec2 = trying(cloud, 1)
        subnet = ec2.describe_subnets(Filters=[{"Name": "availability-zone", "Values": ["us-east-1a"]}])["Subnets"][0]
        data = {"ImageId": image(cloud), "InstanceType": "c7i.large", "KeyName": machines.key.name}
        ec2.create_launch_template(LaunchTemplateName="faults", LaunchTemplateData=data)

        def fleet(*types: str) -> Any:
            overrides = [{"InstanceType": type, "SubnetId": subnet["SubnetId"]} for type in types]
            named = {"LaunchTemplateName": "faults", "Version": "$Latest"}
            answer = ec2.create_fleet(
                Type="instant",
                LaunchTemplateConfigs=[{"LaunchTemplateSpecification": named, "Overrides": overrides}],
                TargetCapacitySpecification={"TotalTargetCapacity": 2, "DefaultTargetCapacityType": "on-demand"},
            )
            ids = [id for group in answer.get("Instances", []) for id in group["InstanceIds"]]
            machines.started += [Machine(cloud, id, machines.key) for id in ids]
            failed = [error["LaunchTemplateAndOverrides"]["Overrides"]["InstanceType"] for error in answer["Errors"]]
            assert {error["ErrorCode"] for error in answer["Errors"]} <= {LACKS[0]}
            return len(ids), failed

        assert fleet("c7i.large", "c7i.xlarge") == (2, ["c7i.large"])
        assert fleet("c7i.large") == (0, ["c7i.large"])

        fault(cloud, "capacity", "--type", "m7a.large", "--seconds", "2")
        assert refused(cloud, InstanceType="m7a.large") == LACKS
        assert eventually(lambda: launched(machines, "m7a.large"))
        assert refused(cloud, InstanceType="c7i.large", **here) == LACKS
    finally:
        fault(cloud, "clear")
    assert machines(InstanceType="c7i.large", wait=False, **here)


def launched(machines: Machines, type: str) -> bool:
    """Whether there is capacity for one."""
    try:
        return bool(machines(InstanceType=type, wait=False))
    except ClientError:
        return False


def test_a_throttled_api_refuses_for_a_while(cloud: LocalCloud, machine: Machine) -> None:
    ec2 = trying(cloud, 1)
    began = time.monotonic()
    fault(cloud, "throttle", "--seconds", "2")
    with pytest.raises(ClientError) as error:
        ec2.describe_instances()
    assert error.value.response["Error"]["Code"] == "RequestLimitExceeded"
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 503
    fault(cloud, "thaw", machine.id)  # faults still find their instances
    assert cloud.client("s3").list_buckets()

    def answered() -> bool:
        with contextlib.suppress(ClientError):
            return bool(ec2.describe_instances())
        return False

    assert eventually(answered)
    assert time.monotonic() - began > 1


def test_clear_ends_what_can_end(machine: Machine) -> None:
    cloud = machine.cloud
    with ThreadPoolExecutor() as pool:
        slow = ("slow", machine.id, "--factor", "50")
        for arguments in (("hang", machine.id), slow, ("throttle", "--seconds", "0")):
            pool.submit(fault, cloud, *arguments)
    fault(cloud, "kill", machine.id, "--after", "9")
    began = time.monotonic()
    fault(cloud, "clear")
    assert machine.output("echo here") == "here\n"
    assert trying(cloud, 1).describe_instances()
    eventually(lambda: time.monotonic() - began > 9.1)
    assert machine.state == "running"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["kil", "x"], "did you mean kill?"),
        (["kill", "--nonsense"], "neither a known flag nor a selector"),
        (["drop", "i-0123456789abcdef0"], "there is no instance i-0123456789abcdef0"),
        (["capacity", "--type", "m7i.lrage"], "did you mean m7i.large?"),
    ],
)
def test_bad_input_is_one_line(cloud: LocalCloud, arguments: list[str], said: str) -> None:
    done = cloud.inv("local.fault", *arguments)
    assert (done.code, done.stdout) == (2, ""), done.stderr
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        ("kill", {"selector": ""}, "needs a selector"),
        ("throttle", {}, "takes no selector"),
        ("slow", {}, "--factor"),
        ("slow", {"factor": "0.5"}, "--factor"),
        ("slow", {"factor": "inf"}, "must be finite"),
        ("kill", {"after": "soon"}, "--after is 'soon'"),
        ("kill", {"notice": "5"}, "--notice is not for kill"),
        ("capacity", {"selector": ""}, "--zone, --type or both"),
        ("throttle", {"selector": "", "seconds": "-1"}, "--seconds is '-1'"),
    ],
)
def test_what_makes_no_sense_is_refused(kind: str, given: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError) as refusal:
        faults.read(kind, **{"selector": "x", **given})
    assert said in str(refusal.value)


def test_without_a_local_cloud_it_says_so(inv: Inv) -> None:
    done = inv("local.fault", "throttle")
    assert (done.code, "./inv local.up" in done.stderr) == (1, True)


@given(
    kind=st.sampled_from(faults.KINDS) | st.text(max_size=9),
    selector=st.text(max_size=5),
    after=st.text(max_size=5) | st.floats(),
    notice=st.none() | st.text(max_size=5),
    factor=st.none() | st.text(max_size=5) | st.floats(),
    zone=st.none() | st.text(max_size=5),
    seconds=st.none() | st.floats(),
)
def test_anything_given_is_a_fault_or_refused(kind: str, selector: str, after: Any, **given: Any) -> None:
    with contextlib.suppress(UsageError):
        asked = faults.read(kind, selector, after, **given)
        assert asked.kind in faults.KINDS
        assert 0 <= asked.after < float("inf") and 1 <= asked.factor < float("inf") and asked.seconds >= 0
