"""The life of the daemon, and EC2 as its clients see it."""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from hardway.local import daemon
from hardway.local.machines.spawner import marked
from tests.conftest import REPOSITORY, Inv, LocalCloud, exports, run_inv, run_local_cloud
from tests.local.conftest import NOBLE, Key, Machine, Machines, eventually, image
from tests.patience import patience

pytestmark = pytest.mark.starts

BOOT_DELAY = 0.7
PARAMETERS = {
    NOBLE: ("099720109477", "/dev/sda1", "x86_64"),
    NOBLE.replace("amd64", "arm64"): ("099720109477", "/dev/sda1", "arm64"),
    "/aws/service/canonical/ubuntu/server/22.04/stable/current/amd64/hvm/ebs-gp2/ami-id": (
        "099720109477",
        "/dev/sda1",
        "x86_64",
    ),
    "/aws/service/debian/release/12/latest/arm64": ("136693071363", "/dev/xvda", "arm64"),
    "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64": ("137112412989", "/dev/xvda", "x86_64"),
}


@pytest.fixture(scope="module")
def other_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A second local cloud beside the first; its instances take their time to boot."""
    with run_local_cloud(tmp_path_factory.mktemp("other") / "state", boot_delay=BOOT_DELAY) as running:
        yield running


def listens(address: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


# the daemon


def test_a_whole_life(inv: Inv, home: Path) -> None:
    nothing = inv("local.env")
    assert (nothing.code, nothing.stdout) == (1, "")
    assert "./inv local.up" in nothing.stderr

    try:
        # four at once start one; it outlives their terminal
        with ThreadPoolExecutor() as pool:
            in_terminal = pool.submit(up_in_terminal)
            ups = list(pool.map(lambda _: inv("local.up"), range(3)))
        in_terminal.result()
        assert [up.code for up in ups] == [0] * 3, ups
        again = inv("local.up")
        assert {up.stdout for up in ups} == {again.stdout} == {inv("local.env").stdout}
        assert "already" in again.stderr
        environment = exports(again.stdout)
        assert set(environment) == {
            "AWS_ENDPOINT_URL",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_DEFAULT_REGION",
            "AWS_REGION",
            "AWS_EC2_METADATA_DISABLED",
            "INVOKE_EC2_SSH_PORT",
            "INVOKE_EC2_SSH_FROM",
        }

        status = inv("local.status")
        assert (status.code, status.stderr) == (0, "")
        said = dict(line.split(": ", 1) for line in status.stdout.splitlines())
        assert said["endpoint"] == environment["AWS_ENDPOINT_URL"]
        assert said["instances"] == "none"
        assert any(said["isolation"] in up.stderr for up in ups) or "isolation" not in "".join(up.stderr for up in ups)
        pid = int(said["pid"])
        assert os.getsid(pid) != os.getsid(0)

        state = home / ".local" / "state" / "hardway" / "local"
        assert state.stat().st_mode & 0o777 == 0o700
    finally:
        down = inv("local.down")
    assert (down.code, down.stdout) == (0, "")
    assert not state.parent.exists()
    eventually(lambda: not Path(f"/proc/{pid}").exists())  # its parent may take a moment to notice
    again = inv("local.down")
    assert (again.code, again.stdout, "not running" in again.stderr) == (0, "", True)


def up_in_terminal() -> None:
    """`inv local.up` as the only process of a terminal, which is then gone."""
    script = "import pty, sys; pty.spawn([sys.executable, '-m', 'invoke', 'local.up'])"
    subprocess.run(
        [sys.executable, "-c", script],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=patience(60),
    )


def test_clouds_live_side_by_side(cloud: LocalCloud, other_cloud: LocalCloud, key: Key) -> None:
    other = other_cloud
    assert other.env["AWS_ENDPOINT_URL"] != cloud.env["AWS_ENDPOINT_URL"]
    ours, theirs = Machines(cloud, key), Machines(other, key)
    try:
        machines = ours(3) + theirs(3)
        assert len({machine.address for machine in machines}) == 6
        assert [machine.output("echo $HOSTNAME >~/mark; cat ~/mark") for machine in machines]
    finally:
        ours.close()
    # what ends in one doesn't touch the other
    assert theirs.started[0].output("echo still here") == "still here\n"
    theirs.close()


def test_a_killed_daemon_takes_everything_with_it_and_the_next_up_recovers(
    start_cloud: Callable[..., LocalCloud], key: Key
) -> None:
    cloud = start_cloud()
    machine = Machines(cloud, key)()[0]
    machine.ssh("setsid nohup sleep 1000 >/dev/null 2>&1 &")
    address, port = machine.address, int(cloud.env["INVOKE_EC2_SSH_PORT"])
    assert marked(str(cloud.directory))

    os.kill(cloud.pid, signal.SIGKILL)
    eventually(lambda: not marked(str(cloud.directory)))
    assert not listens(address, port)
    gone = cloud.inv("local.status")
    assert (gone.code, gone.stdout) == (1, "")

    up = cloud.inv("local.up")
    assert up.code == 0, up.stderr
    fresh = LocalCloud(cloud.state, daemon.find(cloud.directory))
    assert fresh.client("ec2").describe_instances()["Reservations"] == []
    assert list((cloud.directory / "instances").iterdir()) == []

    # nor does it outlive the process that starts the others
    pid = cloud.pid
    for helper in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        os.kill(int(helper), signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{pid}").exists())
    gone = cloud.inv("local.status")
    log = cloud.directory / "log"
    assert f"not ended by local.down; its log is {log}" in gone.stderr
    assert "was killed" in log.read_text()
    assert cloud.inv("local.up").code == 0
    os.kill(LocalCloud(cloud.state, daemon.find(cloud.directory)).pid, signal.SIGTERM)
    eventually(lambda: "ended by SIGTERM" in log.read_text())


def test_an_isolation_that_does_not_exist_is_refused(inv: Inv, home: Path) -> None:
    up = inv("local.up", env={"INVOKE_LOCAL_ISOLATION": "docker"})
    assert (up.code, up.stdout) == (2, "")
    assert "INVOKE_LOCAL_ISOLATION is 'docker'" in up.stderr and "auto, bwrap, unshare" in up.stderr
    assert "Traceback" not in up.stderr
    assert not (home / ".local" / "state" / "hardway").exists()


def test_an_isolation_that_does_not_work_here_is_said_with_its_reason(inv: Inv, home: Path) -> None:
    tools = home / "bin"
    tools.mkdir()
    (tools / "bwrap").write_text("#!/bin/sh\necho 'bwrap: no permission to create a namespace' >&2\nexit 1\n")
    (tools / "bwrap").chmod(0o755)
    path = {"PATH": f"{tools}:{os.environ['PATH']}"}
    up = inv("local.up", env={"INVOKE_LOCAL_ISOLATION": "bwrap", **path})
    assert (up.code, up.stdout) == (2, "")
    assert "no permission to create a namespace" in up.stderr
    try:
        up = inv("local.up", env=path)
        assert up.code == 0
        assert "bwrap: bwrap: no permission to create a namespace" in up.stderr
        assert "no permission to create a namespace" in inv("local.status").stdout
    finally:
        inv("local.down")


def test_nothing_listens_beyond_loopback(cloud: LocalCloud, machines: Machines) -> None:
    machines(2)
    inodes = set()
    pid = cloud.pid
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        # The cloud may close a descriptor between the list and the look: a closed one listens nowhere.
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
            if target.startswith("socket:"):
                inodes.add(target[8:-1])
    found = 0
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes:
                found += 1
                address = bytes.fromhex(fields[1].partition(":")[0])[::-1]
                assert address[0] == 127, line
    assert found >= 5


# EC2


@pytest.mark.parametrize("parameter", PARAMETERS)
@pytest.mark.parametrize("region", ["us-east-1", "eu-west-1"])
def test_public_parameters_name_images_that_exist(cloud: LocalCloud, parameter: str, region: str) -> None:
    ami = image(cloud, region, parameter)
    described = cloud.client("ec2", region).describe_images(ImageIds=[ami])["Images"][0]
    got = (described["OwnerId"], described["RootDeviceName"], described["Architecture"])
    assert got == PARAMETERS[parameter]
    assert described["Name"] and described["Public"]


def test_images_differ_by_region(cloud: LocalCloud) -> None:
    assert image(cloud, "us-east-1") != image(cloud, "eu-west-1")


def test_addresses_are_loopback_ones_and_agree_from_the_first_answer_on(
    cloud: LocalCloud, machines: Machines, key: Key
) -> None:
    machines(1)
    ec2 = cloud.client("ec2")
    answer = ec2.run_instances(ImageId=image(cloud), KeyName=key.name, MinCount=2, MaxCount=2)
    born = answer["Instances"]
    try:
        for instance in born:
            assert instance["State"]["Name"] == "pending"
            ip = instance["PrivateIpAddress"]
            assert ip.startswith("127.77.")
            assert instance["PrivateDnsName"] == f"ip-{ip.replace('.', '-')}.ec2.internal"
            machine = Machine(cloud, instance["InstanceId"], key).wait("running")
            described = machine.describe()
            assert described["PrivateIpAddress"] == ip == described["PublicIpAddress"]
            assert described["PrivateDnsName"] == instance["PrivateDnsName"]
            assert described["PublicDnsName"] == f"ec2-{ip.replace('.', '-')}.compute-1.amazonaws.com"
            (interface,) = described["NetworkInterfaces"]
            assert interface["PrivateIpAddress"] == ip == interface["Association"]["PublicIp"]
            by_address = ec2.describe_instances(Filters=[{"Name": "private-ip-address", "Values": [ip]}])
            assert by_address["Reservations"][0]["Instances"][0]["InstanceId"] == machine.id
    finally:
        ec2.terminate_instances(InstanceIds=[instance["InstanceId"] for instance in born])


def test_another_region_and_another_image(cloud: LocalCloud, machines: Machines) -> None:
    parameter = "/aws/service/debian/release/12/latest/amd64"
    machine = machines(region="eu-west-1", ImageId=image(cloud, "eu-west-1", parameter))[0]
    machine.user = "admin"
    assert machine.describe()["PrivateDnsName"].endswith(".eu-west-1.compute.internal")
    assert machine.output("echo $USER $AWS_DEFAULT_REGION; basename ~") == "admin eu-west-1\nadmin\n"
    machine.user = "ubuntu"
    assert machine.ssh("true").returncode == 255


def test_an_image_nobody_knows_has_both_usual_users(machines: Machines) -> None:
    machine = machines(ImageId="ami-0123456789abcdef0")[0]
    for machine.user in ("ubuntu", "ec2-user"):
        assert machine.output("echo $USER; basename ~") == f"{machine.user}\n" * 2


def test_an_image_made_of_an_instance_keeps_its_user(cloud: LocalCloud, machines: Machines) -> None:
    first = machines(ImageId=image(cloud, parameter="/aws/service/debian/release/12/latest/amd64"))[0]
    made = cloud.client("ec2").create_image(InstanceId=first.id, Name="made of a debian")["ImageId"]
    second = machines(ImageId=made)[0]
    second.user = "admin"
    assert second.output("echo $USER") == "admin\n"


def test_a_fleet_starts_real_machines(cloud: LocalCloud, machines: Machines, key: Key) -> None:
    machines(1)
    ec2 = cloud.client("ec2")
    template = ec2.create_launch_template(
        LaunchTemplateName="fleet",
        LaunchTemplateData={"ImageId": image(cloud), "KeyName": key.name, "InstanceType": "m7i.large"},
    )["LaunchTemplate"]["LaunchTemplateId"]
    fleet = ec2.create_fleet(
        Type="instant",
        LaunchTemplateConfigs=[
            {
                "LaunchTemplateSpecification": {"LaunchTemplateId": template, "Version": "$Latest"},
                "Overrides": [{"InstanceType": "c7i.large"}],
            }
        ],
        TargetCapacitySpecification={"TotalTargetCapacity": 2, "DefaultTargetCapacityType": "spot"},
    )
    ids = [id for started in fleet["Instances"] for id in started["InstanceIds"]]
    try:
        assert len(ids) == 2
        for id in ids:
            assert Machine(cloud, id, key).wait("running").output("echo hello") == "hello\n"
    finally:
        ec2.terminate_instances(InstanceIds=ids)
        ec2.delete_launch_template(LaunchTemplateId=template)


def test_a_key_pair_that_does_not_exist_is_refused(cloud: LocalCloud) -> None:
    with pytest.raises(ClientError, match="InvalidKeyPair"):
        cloud.client("ec2").run_instances(ImageId=image(cloud), KeyName="nobody's", MinCount=1, MaxCount=1)


def test_a_created_key_pair_opens_its_instance(cloud: LocalCloud, machines: Machines, tmp_path: Path) -> None:
    ec2 = cloud.client("ec2")
    for kind in ("rsa", "ed25519"):
        material = ec2.create_key_pair(KeyName=f"created {kind}", KeyType=kind)["KeyMaterial"]
        path = tmp_path / kind
        path.write_text(material)
        path.chmod(0o600)
        machine = machines(KeyName=f"created {kind}")[0]
        machine.key = Key(f"created {kind}", path)
        assert machine.output("echo hello") == "hello\n"


def test_pending_lasts_as_long_as_the_boot_delay_and_can_be_cut_short(other_cloud: LocalCloud, key: Key) -> None:
    with contextlib.closing(Machines(other_cloud, key)) as launched:
        began = time.monotonic()
        machine = launched(wait=False)[0]
        port = int(other_cloud.env["INVOKE_EC2_SSH_PORT"])
        assert machine.state == "pending"
        assert not listens(machine.address, port)
        machine.wait("running")
        assert time.monotonic() - began >= BOOT_DELAY
        assert listens(machine.address, port)

        short = launched(wait=False)[0]
        short.terminate()
        assert not (short.directory / "home").exists()
        stopped = launched(wait=False)[0]
        stopped.ec2.stop_instances(InstanceIds=[stopped.id])
        stopped.wait("stopped")


def test_stop_start_and_reboot_keep_the_home_and_drop_processes_and_tmp(machine: Machine) -> None:
    ec2, address = machine.ec2, machine.address
    host_key = machine.host_key
    mark = machine.directory

    def fill() -> None:
        machine.output(
            "echo kept >~/kept; echo dropped >${TMPDIR:-/tmp}/dropped; setsid nohup sleep 1000 >&- 2>&- <&- &"
        )
        assert "sleep" in machine.output("ps -eo args | grep '[s]leep 1000'")

    def check() -> None:
        assert machine.output("cat ~/kept; test ! -e ${TMPDIR:-/tmp}/dropped && echo dropped") == "kept\ndropped\n"
        for pid in marked(str(mark)):
            assert b"sleep\x001000" not in Path(f"/proc/{pid}/cmdline").read_bytes()

    fill()
    ec2.reboot_instances(InstanceIds=[machine.id])
    eventually(lambda: machine.ssh("test -e ${TMPDIR:-/tmp}/dropped").returncode == 1)
    check()
    assert machine.state == "running"

    fill()
    answer = ec2.stop_instances(InstanceIds=[machine.id])["StoppingInstances"][0]
    assert answer["CurrentState"]["Name"] == "stopping"
    machine.wait("stopped")
    assert marked(str(mark)) == []
    described = machine.describe()
    assert "PublicIpAddress" not in described
    assert described["PrivateIpAddress"] == address
    answer = ec2.start_instances(InstanceIds=[machine.id])["StartingInstances"][0]
    assert (answer["PreviousState"]["Name"], answer["CurrentState"]["Name"]) == ("stopped", "pending")
    machine.wait("running")
    check()
    assert machine.host_key == host_key


def test_termination_ends_every_process_and_leaves_no_file(machines: Machines) -> None:
    machine = machines()[0]
    machine.output("for i in 1 2 3; do (trap '' TERM HUP; setsid sleep 1000) >&- 2>&- <&- & done; mkdir d; chmod 0 d")
    login = subprocess.Popen(machine.ssh_command("sleep 1000"), stderr=subprocess.DEVNULL)
    eventually(lambda: "sleep 1000" in machine.output("ps -eo args"))
    directory, address = machine.directory, machine.address
    answer = machine.ec2.terminate_instances(InstanceIds=[machine.id])["TerminatingInstances"][0]
    assert answer["CurrentState"]["Name"] == "shutting-down"
    machine.wait("terminated")
    assert login.wait(patience(30)) == 255
    assert marked(str(directory)) == []
    assert not directory.exists()
    assert not listens(address, int(machine.cloud.env["INVOKE_EC2_SSH_PORT"]))
    described = machine.describe()
    assert "PublicIpAddress" not in described and "PrivateIpAddress" not in described
    assert described["NetworkInterfaces"] == []


@pytest.mark.parametrize(
    ("command", "behaviour", "state"),
    [
        ("sudo poweroff", "stop", "stopped"),
        ("sudo shutdown -h now", "terminate", "terminated"),
        ("halt", "stop", "stopped"),
    ],
)
def test_an_instance_that_powers_off_stops_or_terminates(
    machines: Machines, command: str, behaviour: str, state: str
) -> None:
    machine = machines(InstanceInitiatedShutdownBehavior=behaviour)[0]
    machine.ssh(command)
    machine.wait(state)
    assert machine.describe()["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"


def test_an_instance_that_reboots_comes_back(machine: Machine) -> None:
    machine.output("touch ${TMPDIR:-/tmp}/before")
    machine.ssh("sudo reboot")
    eventually(lambda: machine.ssh("test -e ${TMPDIR:-/tmp}/before").returncode == 1)
    assert machine.state == "running"


def test_user_data_runs_once_at_first_boot_as_root(machines: Machines) -> None:
    # With the line ends of Windows, which cloud-init takes as well.
    script = "#!/bin/bash\r\necho started >>~/runs; whoami; pwd; echo to stderr >&2; echo ~\r\n"
    machine = machines(UserData=script)[0]
    log = machine.directory / "log" / "cloud-init-output.log"
    lines = eventually(lambda: log.exists() and len(log.read_text().splitlines()) == 4 and log.read_text().splitlines())
    assert isinstance(lines, list)
    assert "to stderr" in lines
    assert lines[1].endswith("/root") and lines[3].endswith("/root")
    machine.ec2.reboot_instances(InstanceIds=[machine.id])
    machine.ec2.stop_instances(InstanceIds=[machine.id])
    machine.wait("stopped")
    machine.ec2.start_instances(InstanceIds=[machine.id])
    machine.wait("running")
    assert (machine.directory / "root" / "runs").read_text() == "started\n"


def test_user_data_that_is_no_script_is_left_alone_with_a_word_in_the_log(machines: Machines) -> None:
    machine = machines(UserData="#cloud-config\npackages: [tree]\n")[0]
    log = machine.directory / "log" / "cloud-init-output.log"
    eventually(lambda: log.exists() and "#!" in log.read_text())


def test_boothooks_run_at_every_boot_before_ssh_and_scripts_of_a_multipart_once_by_name(machines: Machines) -> None:
    kinds = {"b": "x-shellscript", "a": "x-shellscript", "hook": "cloud-boothook"}
    parts = []
    for name, kind in kinds.items():
        part = MIMEText(f'#!/bin/sh\necho "{name} $INSTANCE_ID" >>"${{HARDWAY_ROOT-}}/root/runs"\nexit 1\n', kind)
        part.add_header("Content-Disposition", "attachment", filename=name)
        parts.append(part)
    machine = machines(UserData=gzip.compress(MIMEMultipart(_subparts=parts).as_bytes()))[0]
    runs = machine.directory / "root" / "runs"
    eventually(lambda: runs.read_text() == f"hook {machine.id}\na \nb \n")
    machine.ec2.stop_instances(InstanceIds=[machine.id])
    machine.wait("stopped")
    machine.ec2.start_instances(InstanceIds=[machine.id])
    machine.wait("running")
    assert runs.read_text().endswith(f"b \nhook {machine.id}\n")


def test_user_data_is_told_by_ec2_as_it_was_given(machines: Machines) -> None:
    machine = machines(UserData="#!/bin/sh\n: \n")[0]
    told = machine.ec2.describe_instance_attribute(InstanceId=machine.id, Attribute="userData")
    assert base64.b64decode(told["UserData"]["Value"]) == b"#!/bin/sh\n: \n"


def test_types_are_offered_as_on_ec2_and_have_a_price_history(cloud: LocalCloud) -> None:
    for region, zone in (("us-east-1", "us-east-1a"), ("eu-west-1", "eu-west-1b")):
        ec2 = cloud.client("ec2", region)
        filters = [{"Name": "instance-type", "Values": ["m7i.large", "no.such"]}]
        for location_type, location in (("region", region), ("availability-zone", zone)):
            answer = ec2.describe_instance_type_offerings(LocationType=location_type, Filters=filters)
            offered = answer["InstanceTypeOfferings"]
            assert {"InstanceType": "m7i.large", "LocationType": location_type, "Location": location} in offered
        history = ec2.describe_spot_price_history(InstanceTypes=["m7i.large"])["SpotPriceHistory"]
        assert {price["InstanceType"] for price in history} == {"m7i.large"}


def test_the_other_services_answer(cloud: LocalCloud) -> None:
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="bucket")
    s3.put_object(Bucket="bucket", Key="a/key", Body=b"value")
    assert s3.get_object(Bucket="bucket", Key="a/key")["Body"].read() == b"value"
    assert cloud.client("sts").get_caller_identity()["Account"]
    role = json.dumps({"Version": "2012-10-17", "Statement": []})
    assert cloud.client("iam").create_role(RoleName="r", AssumeRolePolicyDocument=role)["Role"]["RoleName"] == "r"


def test_fifty_instances_are_soon_ready_and_cost_little(other_cloud: LocalCloud, key: Key) -> None:
    cloud = other_cloud
    began = time.monotonic()
    launched = Machines(cloud, key)(50, wait=False)
    ec2 = cloud.client("ec2")

    def states() -> set[str]:
        pages = ec2.get_paginator("describe_instances").paginate(
            Filters=[{"Name": "instance-state-name", "Values": ["pending", "running"]}]
        )
        return {i["State"]["Name"] for page in pages for r in page["Reservations"] for i in r["Instances"]}

    eventually(lambda: states() == {"running"})
    assert launched[-1].output("echo ready") == "ready\n"
    assert time.monotonic() - began < patience(15)  # 2 s on two idle cores; this machine may be busy

    pid = cloud.pid
    pids = {pid, *marked(str(cloud.directory))}
    pids.update(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    kilobytes = 0
    for each in pids:
        lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        kilobytes += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    assert kilobytes < 300_000

    def cpu() -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before = cpu()
    time.sleep(1)
    assert cpu() - before < 0.1
    ec2.terminate_instances(InstanceIds=[machine.id for machine in launched])
    eventually(lambda: not list((cloud.directory / "instances").iterdir()))


def test_clients_ask_no_proxy_for_it(cloud: LocalCloud, home: Path) -> None:
    proxies = {"http_proxy": "http://127.0.0.1:9", "no_proxy": "internal.example"}
    env = {"XDG_STATE_HOME": str(cloud.state), **proxies}
    pointed = exports(run_inv("local.env", env=env).stdout)
    assert pointed["no_proxy"] == pointed["NO_PROXY"] == "internal.example,127.0.0.1"
    assert run_inv("ec2.ls", "--only", "team=nobody", env={**env, **pointed}).code == 1
    assert "no_proxy" not in exports(run_inv("local.env", env={"XDG_STATE_HOME": str(cloud.state)}).stdout)


def test_what_no_answer_could_tell_is_refused(machines: Machines) -> None:
    machine = machines()[0]
    ec2 = machine.ec2
    image_id = machine.describe()["ImageId"]

    def tags(value: str) -> list[dict[str, str]]:
        return [{"Key": f"k{value}", "Value": "v"}, {"Key": "Name", "Value": value}]

    for text in ("a\x1b[2J", "\x00", "\x0b", "\uffff"):
        tagged = [{"ResourceType": "instance", "Tags": tags(text)}]
        with pytest.raises(ClientError, match="InvalidParameterValue"):
            ec2.create_tags(Resources=[machine.id], Tags=tags(text))
        with pytest.raises(ClientError, match="InvalidParameterValue"):
            ec2.run_instances(ImageId=image_id, MinCount=1, MaxCount=1, TagSpecifications=tagged)
        with pytest.raises(ClientError, match="InvalidParameterValue"):
            ec2.create_security_group(GroupName="g", Description=text)
    # what XML has, whatever a terminal makes of it, comes back as it was
    kept = "a\x9b31m\u202e\ue000\U0001f600\nforged\t%1B"
    ec2.create_tags(Resources=[machine.id], Tags=tags(kept))
    assert {"Key": "Name", "Value": kept} in machine.describe()["Tags"]
