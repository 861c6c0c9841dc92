"""Faults on demand: each as one notices it who has a connection to the instance, and as EC2's clients do."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone

import paramiko
import pytest

from hardway.local.spawner import marked
from tests.conftest import LocalCloud, local_cloud
from tests.local.conftest import SECONDS, Key, Machine, Machines, eventually

SILENCE = 0.5
"""Seconds without a word that stand for: it will not come. What is awaited elsewhere comes in a tenth of that."""


@pytest.fixture(scope="module", params=["bwrap", "unshare", "none"])
def level(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A local cloud at each level of isolation."""
    with local_cloud(tmp_path_factory.mktemp("level") / "state", INVOKE_LOCAL_ISOLATION=request.param) as cloud:
        yield cloud


@pytest.fixture
def there(level: LocalCloud, key: Key) -> Iterator[Machine]:
    """A machine in a cloud of each level."""
    with contextlib.closing(Machines(level, key)) as launched:
        yield launched()[0]


def fault(machine: Machine, kind: str, *options: str) -> None:
    done = machine.cloud.inv("local.fault", kind, machine.id, *options)
    assert (done.code, done.stdout, done.stderr) == (0, "", "")


class Talk:
    """A loop on an instance that says a number whenever it gets a line; `pids` of it live on that host alone."""

    def __init__(self, transport: paramiko.Transport, command: str = "while read -r n; do echo $n; done") -> None:
        self.channel = transport.open_session()
        self.channel.settimeout(SECONDS)
        self.channel.exec_command(command)

    def say(self, word: str) -> None:
        self.channel.sendall(word.encode() + b"\n")

    def hear(self, seconds: float = SECONDS) -> str:
        self.channel.settimeout(seconds)
        return self.channel.recv(1000).decode()


def test_a_hung_host_is_silent_and_keeps_its_connections_until_it_thaws(there: Machine) -> None:
    count = "bash -c 'while :; do echo >>~/count; sleep 0.01; done'"
    there.ssh(f"setsid nohup {count} >/dev/null 2>&1 & sudo setsid nohup {count} >/dev/null 2>&1 &")
    counted = there.directory / "home" / "ubuntu" / "count"
    eventually(lambda: counted.exists() and counted.stat().st_size > 2)
    with there.transport() as transport:
        talk = Talk(transport)
        talk.say("before")
        assert talk.hear() == "before\n"

        fault(there, "hang")
        size = counted.stat().st_size
        talk.say("during")
        fresh = subprocess.Popen(there.ssh_command("echo", "fresh"), stdout=subprocess.PIPE)
        with pytest.raises(TimeoutError):
            talk.hear(SILENCE)
        assert transport.is_active()
        assert counted.stat().st_size == size
        assert fresh.poll() is None
        assert there.state == "running"

        fault(there, "hang")  # once more changes nothing
        fault(there, "thaw")
        assert talk.hear() == "during\n"
        assert fresh.communicate(timeout=SECONDS)[0] == b"fresh\n"
        eventually(lambda: counted.stat().st_size > size)
        talk.say("after")
        assert talk.hear() == "after\n"


def test_a_host_that_hangs_can_be_ended_and_rebooted(there: Machine) -> None:
    fault(there, "hang")
    there.ec2.reboot_instances(InstanceIds=[there.id])
    assert eventually(lambda: there.ssh("echo back").stdout) == b"back\n"
    fault(there, "hang")
    there.terminate()


def test_dropped_connections_are_reset_and_what_ran_goes_on(there: Machine) -> None:
    with there.transport() as one, there.transport() as other:
        Talk(one, "setsid sleep 1000 & echo $! >~/pid; wait"), Talk(other)
        pid = eventually(lambda: there.output("cat ~/pid 2>/dev/null || :").strip())
        fault(there, "drop")
        eventually(lambda: not one.is_active() and not other.is_active())
        assert isinstance(one.get_exception(), ConnectionResetError)
    assert there.output(f"kill -0 {pid} && echo lives") == "lives\n"
    assert there.state == "running"


def test_a_killed_instance_is_gone_without_goodbye(there: Machine) -> None:
    there.ssh("setsid nohup sleep 1234 >/dev/null 2>&1 &")
    with there.transport() as transport:
        talk = Talk(transport, "trap 'echo goodbye' TERM HUP; echo hello; sleep 1000")
        assert talk.hear() == "hello\n"
        fault(there, "kill")
        with contextlib.suppress(ConnectionResetError):
            assert talk.hear() == ""
        assert not talk.channel.exit_status_ready() or talk.channel.recv_exit_status() == -1
    seen = there.describe()
    assert seen["State"]["Name"] == "terminated"
    assert seen["StateReason"]["Code"] == "Server.InternalError"
    assert not marked(str(there.directory))


NOTICE = """
T=$(curl -sfX PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' $AWS_EC2_METADATA_SERVICE_ENDPOINT/latest/api/token)
get() { curl -sf -H "X-aws-ec2-metadata-token: $T" $AWS_EC2_METADATA_SERVICE_ENDPOINT/latest/meta-data/spot/$1; }
until notice=$(get instance-action); do echo nothing yet; sleep 0.05; done
echo "$notice $(get termination-time)"
sleep 1000
"""


def test_an_interrupted_instance_gets_notice_and_then_ends(machines: Machines) -> None:
    machine = machines(InstanceMarketOptions={"MarketType": "spot"})[0]
    with machine.transport() as transport:
        talk = Talk(transport, NOTICE)
        assert talk.hear() == "nothing yet\n"
        begun = datetime.now(timezone.utc)
        fault(machine, "interrupt", "--notice", "3")
        told = eventually(lambda: talk.hear().replace("nothing yet\n", ""))
        notice = json.loads(told.partition("}")[0] + "}")
        assert notice == {"action": "terminate", "time": told.split()[-1]}
        at = datetime.fromisoformat(notice["time"].replace("Z", "+00:00"))
        assert begun <= at <= datetime.now(timezone.utc) + timedelta(seconds=3)
        assert machine.state == "running"
        with contextlib.suppress(ConnectionResetError):
            assert talk.hear() == ""
        assert datetime.now(timezone.utc) >= at
    seen = machine.wait("terminated").describe()
    assert seen["StateReason"]["Code"] == "Server.SpotInstanceTermination"
