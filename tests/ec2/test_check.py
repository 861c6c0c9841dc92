"""`ec2.check`, `ec2.new --dry-run`: what a launch needs is looked at, all at once, and nothing is made."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hardway.launch import permissions
from tests import permissions_page
from tests.conftest import LocalCloud, Result
from tests.ec2.conftest import Shell
from tests.ec2.faulty import Answer, FaultyEC2, Forward, Plan, refused
from tests.patience import patience

IN_ORDER = {
    "credentials", "clock", "region", "permissions to launch", "permissions for other tasks", "network",
    "security groups", "image", "cost", "key", "~/.ssh/config", "launch",
}  # fmt: skip
DESCRIBED = (
    "vpcs", "subnets", "internet_gateways", "route_tables", "security_groups", "key_pairs", "launch_templates",
    "instances", "snapshots", "network_acls",
)  # fmt: skip


@pytest.fixture
def proxy(cloud: LocalCloud, shell: Shell) -> Iterator[FaultyEC2]:
    made = FaultyEC2(cloud.env)
    yield made
    made.close()


@pytest.fixture
def check(shell: Shell, proxy: FaultyEC2) -> Callable[..., tuple[Result, dict[str, list[dict[str, str]]]]]:
    """Run ec2.check through the proxy; the result, and by what was looked at, what was found."""

    def check(*flags: str, **environment: str) -> tuple[Result, dict[str, list[dict[str, str]]]]:
        environment = {"AWS_ENDPOINT_URL": proxy.endpoint, **environment}
        result = shell("ec2.check", "--json", *flags, env=environment)
        found: dict[str, list[dict[str, str]]] = {}
        for each in json.loads(result.stdout):
            found.setdefault(each["what"], []).append(each)
        return result, found

    return check


Look = Callable[..., tuple[Result, dict[str, list[dict[str, str]]]]]


def things(cloud: LocalCloud) -> list[Any]:
    """All that there is in the cloud, but for what the end of other tests' instances changes."""
    client = cloud.client("ec2")
    living = {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}
    options: dict[str, Any] = {"snapshots": {"OwnerIds": ["self"]}, "instances": {"Filters": [living]}}
    found = [getattr(client, f"describe_{kind}")(**options.get(kind, {})) for kind in DESCRIBED]
    for subnet in found[DESCRIBED.index("subnets")]["Subnets"]:
        del subnet["AvailableIpAddressCount"]
    return [{name: value for name, value in each.items() if name != "ResponseMetadata"} for each in found]


def denying(*calls: str, forward: bool = True) -> Plan:
    """Credentials that may not make these calls."""

    def plan(action: str, given: dict[str, str], forward: Forward) -> Answer:
        return refused("UnauthorizedOperation", 403) if action in calls else forward()

    return plan


def test_all_is_looked_at_and_nothing_is_made(shell: Shell, home: Path) -> None:
    before = things(shell.cloud)
    result = shell("ec2.check", "--num", "2", "--spot", "1.0")
    rows = [re.split(r" {2,}", line, maxsplit=2) for line in result.stdout.splitlines()]
    assert (result.code, result.stderr) == (0, "")
    assert {what for status, what, _ in rows if status == "ok"} == IN_ORDER
    # moto has no quotas of EC2's, and it says so.
    assert [(status, what) for status, what, _ in rows if status != "ok"] == [("warn", "quota of spot")]
    assert "does not tell" in result.stdout
    said = {what: found for _, what, found in rows}
    assert said["credentials"].startswith("of arn:aws:sts::")
    assert re.match(r"us-east-1, enabled$", said["region"])
    assert re.match(r"vpc-\w+, 6 subnets .*, public addresses", said["network"])
    assert re.match(r"ami-\w+, x86_64, lets in ubuntu", said["image"])
    assert re.match(r"2 x m7i.large spot: \$[0-9.]+ to \$[0-9.]+/hour now", said["cost"])
    assert re.match(r"would start 2 instances named hardway", said["launch"])
    assert things(shell.cloud) == before


def test_what_does_not_depend_on_each_other_runs_at_the_same_time(check: Look, proxy: FaultyEC2) -> None:
    under_way: list[str] = []
    together: set[str] = set()

    def slowly(action: str, given: dict[str, str], forward: Forward) -> Answer:
        under_way.append(action)
        time.sleep(0.5)
        if action == "GetCallerIdentity":
            together.update(under_way)
        under_way.remove(action)
        return forward()

    proxy.plan = slowly
    result, _ = check()
    assert result.code == 0
    assert {"DescribeInstanceTypes", "DescribeRegions", "DescribeVpcs"} - together == set()


@pytest.mark.parametrize("task", ["ec2.check", "ec2.new"])
def test_ctrl_c_does_not_wait_for_a_network_that_hangs(shell: Shell, task: str) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as silent:
        silent.settimeout(patience(30))
        hung = replace(shell, env={**shell.env, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}"})
        with hung.running(task) as process:
            first, _ = silent.accept()
            with first:
                process.send_signal(signal.SIGINT)
                stdout, stderr = process.communicate(timeout=patience(10))
    assert (process.returncode, stdout, stderr.strip()) == (130, "", "interrupted")


def test_a_permission_that_a_launch_lacks_stops_it(check: Look, proxy: FaultyEC2) -> None:
    proxy.plan = denying("TerminateInstances", "ImportKeyPair", "StopInstances")
    result, found = check()
    [launch], [others] = found["permissions to launch"], found["permissions for other tasks"]
    assert (launch["status"], launch["found"]) == ("fail", "denied: ImportKeyPair, TerminateInstances")
    assert "docs/permissions.md" in launch["advice"]
    assert (others["status"], others["found"]) == ("warn", "denied: StopInstances")
    assert (result.code, "1 of 13 checks would stop a launch" in result.stderr) == (1, True)


def test_what_ec2_does_not_tell_is_not_called_allowed(check: Look, proxy: FaultyEC2) -> None:
    def plan(action: str, given: dict[str, str], forward: Forward) -> Answer:
        return refused("InvalidInstanceID.NotFound") if action in ("StopInstances", "StartInstances") else forward()

    proxy.plan = plan
    result, found = check()
    [others] = found["permissions for other tasks"]
    assert (result.code, others["status"]) == (0, "ok")
    assert re.fullmatch(r"(\d+) of (\d+) calls allowed; 2 can't be tried .*", others["found"])


@pytest.mark.parametrize(("flags", "code"), [((), 0), (("--spot", "1.0"), 1)])
def test_what_spot_needs_is_needed_with_spot(check: Look, proxy: FaultyEC2, flags: tuple[str, ...], code: int) -> None:
    proxy.plan = denying("CreateFleet")
    result, found = check(*flags)
    assert result.code == code
    assert found[f"permissions {'to launch' if code else 'for other tasks'}"][0]["found"] == "denied: CreateFleet"


def test_this_very_launch_is_tried(check: Look, proxy: FaultyEC2) -> None:
    def plan(action: str, given: dict[str, str], forward: Forward) -> Answer:
        # These credentials may only launch where a policy's conditions hold.
        return refused("PendingVerification") if "TagSpecification.1.Tag.1.Key" in given else forward()

    proxy.plan = plan
    result, found = check()
    [row] = found["dry run"]
    assert (result.code, row["status"], "said PendingVerification" in row["found"]) == (1, "fail", True)
    [tried] = [given for action, given in proxy.calls if "TagSpecification.1.Tag.1.Key" in given]
    assert (tried["DryRun"], tried["InstanceType"]) == ("true", "m7i.large")
    assert tried["ImageId"] in found["image"][0]["found"]
    assert "KeyName" not in tried or tried["KeyName"] in found["key"][0]["found"]


@pytest.mark.parametrize(
    ("ahead", "status", "said"), [(0, "ok", "as AWS's"), (80, "warn", "80 s behind"), (-900, "fail", "15 min ahead")]
)
def test_the_clock_is_compared_with_aws(check: Look, proxy: FaultyEC2, ahead: float, status: str, said: str) -> None:
    proxy.ahead = ahead
    result, found = check()
    [row] = found["clock"]
    assert (result.code, row["status"]) == (int(status == "fail"), status)
    assert re.sub(r"(?:79|8[0-9])(\.\d)? s", "80 s", row["found"]).startswith(said)
    assert bool(row["advice"]) == (status != "ok")


def quotas(value: float) -> Plan:
    """A cloud that tells the same value for every quota."""

    def plan(action: str, given: dict[str, str], forward: Forward) -> Answer:
        return (200, json.dumps({"Quota": {"Value": value}}).encode()) if action == "GetServiceQuota" else forward()

    return plan


def test_a_quota_is_told_less_what_is_in_use(check: Look, proxy: FaultyEC2, start: Callable[..., list[str]]) -> None:
    def left(found: dict[str, list[dict[str, str]]]) -> int:
        said = re.search(r"L-1216C47A\): (-?\d+) of 1000 vCPUs left", found["quota on demand"][0]["found"])
        assert said
        return int(said[1])

    proxy.plan = quotas(1000)
    before = left(check()[1])
    start("--type", "m7i.xlarge")
    result, found = check("--num", "2")
    assert (result.code, left(found)) == (0, before - 4)
    assert found["quota on demand"][0]["found"].endswith("4 needed")


def test_a_quota_that_is_too_small_stops_a_launch(check: Look, proxy: FaultyEC2) -> None:
    proxy.plan = quotas(0)
    result, found = check("--type", "m7i.large,c7i.xlarge", "--num", "3", "--spot", "1.0")
    [row] = found["quota of spot"]
    assert (result.code, row["status"]) == (1, "fail")
    # Tests beside this one may have spot instances in this cloud.
    assert re.search(r"(0|-\d+) of 0 vCPUs left, 12 needed$", row["found"])
    assert "L-34B43A08" in row["advice"]


def test_another_family_may_have_room(check: Look, proxy: FaultyEC2) -> None:
    proxy.plan = quotas(0)
    result, found = check("--type", "m7i.large,g4dn.xlarge")
    assert (result.code, [row["status"] for row in found["quota on demand"]]) == (0, ["warn", "warn"])


def test_a_region_that_is_not_enabled(check: Look, proxy: FaultyEC2) -> None:
    def plan(action: str, given: dict[str, str], forward: Forward) -> Answer:
        status, content = forward()
        return status, content.replace(
            b"opt-in-not-required", b"not-opted-in"
        ) if action == "DescribeRegions" else content

    proxy.plan = plan
    result, found = check()
    [row] = found["region"]
    assert (result.code, row["status"]) == (1, "fail")
    assert row["advice"] == "aws account enable-region --region-name us-east-1"


def test_one_cause_is_told_once(shell: Shell) -> None:
    result = shell("ec2.check", env={"AWS_ACCESS_KEY_ID": "AKIAUNKNOWNTOALL0000"})
    lines = result.stdout.splitlines()
    assert (result.code, "AWS does not accept these credentials" in lines[0]) == (1, True)
    assert sum("aws configure" in line for line in lines) < len(lines) / 2
    assert any(line.endswith("as for region") for line in lines)


@pytest.mark.parametrize(
    ("flags", "what", "said"),
    [
        (["--ami", "nobel"], "image", "did you mean noble?"),
        (["--type", "m7i.lrage"], "image", "did you mean m7i.large?"),
        (["--vpc", "elsewhere"], "network", "there is no VPC 'elsewhere'"),
        (["--key", "nobodys"], "key", "there is no key pair 'nobodys'"),
        (["--key", "./nothing.pem"], "key", "is not a private key that can be read"),
        (["--via", "ssm"], "ssm", "session-manager-plugin"),
    ],
)
def test_what_would_stop_a_launch_is_told_with_what_to_do(
    shell: Shell, flags: list[str], what: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = shell("ec2.check", *flags)
    [line] = [line for line in result.stdout.splitlines() if line.split()[:2] == ["fail", what]]
    assert (result.code, said in line, "Traceback" in result.stderr) == (1, True, False)


def test_a_key_whose_private_half_is_elsewhere(shell: Shell) -> None:
    client = shell.cloud.client("ec2")
    client.create_key_pair(KeyName="elsewhere")
    try:
        result = shell("ec2.check", "--key", "elsewhere")
    finally:
        client.delete_key_pair(KeyName="elsewhere")
    assert result.code == 1
    said = r"^fail +key +the private half of the key pair elsewhere is not here"
    assert re.search(said, result.stdout, re.MULTILINE)


def test_the_way_through_a_bastion_is_told(shell: Shell, home: Path) -> None:
    (home / ".ssh").mkdir()
    (home / ".ssh" / "config").write_text("Host 192.0.2.*\n  ProxyJump bastion.example\n")
    result = shell.succeed("ec2.check")
    assert re.search(r"192\.0\.2\.1:\d+ through bastion\.example$", result.stdout, re.MULTILINE)


def test_a_configuration_of_ssh_that_cannot_be_read(shell: Shell, home: Path) -> None:
    (home / ".ssh").mkdir()
    (home / ".ssh" / "config").write_text("Host *\n  NoSuchOption yes\n")
    result = shell("ec2.check")
    assert re.search(r"^fail +~/\.ssh/config .*nosuchoption", result.stdout, re.MULTILINE | re.IGNORECASE)
    assert (result.code, "Traceback" in result.stderr) == (1, False)


# ec2.new --dry-run


def test_a_dry_run_of_a_launch_checks_for_its_flags(shell: Shell, name: str) -> None:
    before = things(shell.cloud)
    flags = ["--name", name, "--num", "3", "--type", "c7i.large", "--zone", "us-east-1b", "--tag", "team=data"]
    result = shell.succeed("ec2.new", "--dry-run", *flags)
    assert result.stdout == ""
    assert f"would start 3 instances named {name}" in result.stderr
    assert re.search(r"1 subnet \(us-east-1b\)", result.stderr)
    assert result.stderr.endswith("nothing was started\n")
    assert things(shell.cloud) == before


@pytest.mark.parametrize(
    "flags", [["--zone", "us-east-1x"], ["--tag", "nonsense"], ["--max-cost", "0.001"], ["--sg", "none-such"]]
)
def test_a_dry_run_of_a_launch_that_would_not_start(shell: Shell, name: str, flags: list[str]) -> None:
    result = shell("ec2.new", "--dry-run", "--name", name, *flags)
    assert (result.code, result.stdout, shell.states(name)) == (1, "", {})
    assert re.search(r"^fail ", result.stderr, re.MULTILINE)
    assert result.stderr.endswith("nothing was started\n")


# The policy


def test_the_policy_names_what_the_source_can_call() -> None:
    assert permissions_page.PAGE.read_text() == permissions_page.page(), "python -m tests.permissions_page"
    named = [action for part in permissions_page.policy()["Statement"] for action in part["Action"]]
    assert sorted(named) == sorted(permissions_page.called())
    # https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html, without white space
    assert len("".join(json.dumps(permissions_page.policy()).split())) <= 6144


def test_every_call_of_ec2_is_tried() -> None:
    calls = {each.removeprefix("ec2:") for each in permissions_page.called() if each.startswith("ec2:")}
    with_dry_run = {call for call in calls if permissions_page.has_dry_run(call)}
    assert (with_dry_run, calls - with_dry_run) == ({*permissions.TRIED}, {*permissions.NOT_TRIED})


def test_what_a_launch_calls_is_what_it_is_said_to_need(
    shell: Shell, proxy: FaultyEC2, name: str, home: Path, tmp_path: Path
) -> None:
    environment = {"AWS_ENDPOINT_URL": proxy.endpoint, "XDG_DATA_HOME": str(tmp_path / "new-key")}
    ids = shell.succeed("ec2.new", "--name", name, "--spot", "1.0", "--num", "2", env=environment).stdout
    shell.succeed("ec2.ls", env=environment)
    shell.succeed("ec2.rm", ids, "--yes", env=environment)
    called = {*proxy.actions()} - {"GetParameter", "GetProducts"}
    assert {"RunInstances", "CreateFleet", "ImportKeyPair"} & called == {"CreateFleet", "ImportKeyPair"}
    goes_on_without = {"GetConsoleOutput", "DescribeVolumes"}
    assert called - permissions.LAUNCH - permissions.SPOT - permissions.PRICES <= goes_on_without
