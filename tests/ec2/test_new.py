"""ec2.new: what it starts, what it prints, and that nothing is left running when it fails."""

from __future__ import annotations

import getpass
import json
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import start_inv
from tests.ec2.conftest import Shell
from tests.local.conftest import eventually
from tests.local.test_metadata import GET
from tests.patience import patience

ID = re.compile(r"i-[0-9a-f]{17}")


def test_no_flags_start_one_that_answers(shell: Shell) -> None:
    result = shell.succeed("ec2.new")
    ids = result.stdout.splitlines()
    try:
        assert len(ids) == 1
        assert ID.fullmatch(ids[0])
        [described] = json.loads(shell.succeed("ec2.ls", "--only", ids[0], "--json").stdout)
        assert (described["name"], described["state"], described["type"]) == ("hardway", "running", "m7i.large")
        tags = described["tags"]
        assert (tags["owner"], tags["ssh-user"], tags["ssh-port"]) == (getpass.getuser(), "ubuntu", "2222")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", tags["creation-date"])
        assert shell.succeed("ec2.ssh", ids[0], "-yqc", "id -un").stdout == "ubuntu\n"
    finally:
        shell("ec2.rm", *ids, "--yes")


def test_what_is_asked_for_is_what_starts(shell: Shell, name: str, start: Callable[..., list[str]]) -> None:
    ids = start(
        "--num", "3", "--type", "c7g.large", "--ami", "al2023", "--spot", "1.0", "--gigs", "50", "--zone", "us-east-1b",
        "--tag", "team=data", "--tag", "url=http://x/?a=b", "--init", "echo from-init > /tmp/init",
    )  # fmt: skip
    assert len(set(ids)) == 3
    ec2 = shell.cloud.client("ec2")
    [reservation] = ec2.describe_instances(InstanceIds=ids)["Reservations"]
    for instance in reservation["Instances"]:
        tags = {tag["Key"]: tag["Value"] for tag in instance["Tags"]}
        assert (tags["Name"], tags["team"], tags["url"]) == (name, "data", "http://x/?a=b")
        assert tags["ssh-user"] == "ec2-user"
        assert instance["InstanceType"] == "c7g.large"
        assert instance["Architecture"] == "arm64"
        assert instance["InstanceLifecycle"] == "spot"
        assert instance["Placement"]["AvailabilityZone"] == "us-east-1b"
        [mapping] = instance["BlockDeviceMappings"]
        [volume] = ec2.describe_volumes(VolumeIds=[mapping["Ebs"]["VolumeId"]])["Volumes"]
        assert volume["Size"] == 50
        attribute = ec2.describe_instance_attribute(
            InstanceId=instance["InstanceId"], Attribute="instanceInitiatedShutdownBehavior"
        )
        assert attribute["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"
    answers = eventually(lambda: shell("ec2.ssh", name, "-yqc", "cat /tmp/init").stdout if ids else "", seconds=60)
    assert answers == "from-init\n" * 3


def test_a_command_runs_on_each_and_stdout_is_only_ids(
    shell: Shell, name: str, start: Callable[..., list[str]], home: Path
) -> None:
    (home / "prepare.sh").write_text("echo prepared; touch prepared")
    ids = start("--num", "2", "--command", str(home / "prepare.sh"))
    assert all(ID.fullmatch(line) for line in ids)
    assert shell.succeed("ec2.ssh", name, "-yqc", "ls").stdout == "prepared\nprepared\n"


def test_a_failing_command_leaves_nothing_running(shell: Shell, name: str) -> None:
    result = shell("ec2.new", "--name", name, "--num", "2", "--command", "exit 7")
    assert (result.code, result.stdout) == (1, "")
    assert "exit code 7" in result.stderr
    assert "2 instances started were terminated" in result.stderr
    assert _gone(shell, name) == 2


def test_instances_that_never_answer_are_terminated(shell: Shell, name: str) -> None:
    result = shell(
        "ec2.new", "--name", name, "--num", "2", "--ssh-port", "2223", "--seconds-timeout", "2",
    )  # fmt: skip
    assert (result.code, result.stdout) == (1, "")
    assert "2 of 2 instances not ready after 2 s" in result.stderr
    assert "connection refused" in result.stderr
    assert _gone(shell, name) == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_on_the_way_leaves_nothing_running(shell: Shell, name: str, number: int, code: int) -> None:
    # The port is wrong: it waits until the signal comes.
    with shell.running("ec2.new", "--name", name, "--num", "5", "--ssh-port", "2223") as process:
        eventually(lambda: len(shell.states(name)) == 5)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=patience(30))
    assert process.returncode == code
    assert stdout == ""
    assert "5 instances started were terminated" in stderr
    assert "Traceback" not in stderr
    assert _gone(shell, name) == 5


def test_an_instance_that_ends_while_it_starts_ends_the_launch(
    shell: Shell, name: str, start: Callable[..., list[str]]
) -> None:
    [other] = start("--num", "1")
    result = shell("ec2.new", "--name", name, "--num", "2", "--init", "poweroff", "--seconds-timeout", "20")
    assert (result.code, result.stdout) == (1, "")
    assert "while it started" in result.stderr or "not ready" in result.stderr
    states = shell.states(name)
    assert states.pop(other) == "running"
    eventually(lambda: set(shell.states(name).values()) == {"running", "terminated"})


@pytest.mark.parametrize(("image", "user"), [("trixie", "admin"), ("resolute", "ubuntu")])
@pytest.mark.parametrize("type", ["m7i.large", "m7g.large"])
def test_the_newest_releases_have_names(shell: Shell, name: str, image: str, user: str, type: str) -> None:
    shell.succeed("ec2.new", "--name", name, "--ami", image, "--type", type)
    assert shell.succeed("ec2.ssh", name, "-yqc", "id -un").stdout == f"{user}\n"


def test_as_many_tags_as_ec2_takes(shell: Shell, name: str, start: Callable[..., list[str]]) -> None:
    [id_] = start("--no-wait", *(f"--tag=k{number}=v" for number in range(43)))
    [described] = json.loads(shell.succeed("ec2.ls", "--only", id_, "--json").stdout)
    assert len(described["tags"]) == 49  # but for that of the launch, which has ended


def test_the_port_of_a_flag_is_the_instances_whatever_else_says(
    shell: Shell, name: str, start: Callable[..., list[str]]
) -> None:
    """The environment says 2222, to each later command as well."""
    [one] = start("--no-wait", "--ssh-port", "22")
    eventually(lambda: shell.states(name) == {one: "running"})
    assert ":22: " in shell("ec2.ssh", name, "-yqc", "true").stderr


def test_without_waiting(shell: Shell, name: str, start: Callable[..., list[str]]) -> None:
    ids = start("--num", "2", "--no-wait")
    assert set(shell.succeed("ec2.wait", name).stdout.split()) == set(ids)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--num", "abc"], "--num is 'abc'"),
        (["--num", "0"], "--num is '0': it must be a whole number, 1 or more"),
        (["--num", "-1"], "--num"),
        (["--type", "m7i.lrge"], "did you mean m7i.large?"),
        (["--type", "m7i.large,m7g.large"], "mixes architectures"),
        (["--ami", "nobel"], "did you mean noble?"),
        (["--ami", "ami-00000000000000000"], "for this account in us-east-1: The image id"),
        (["--region", "us-esat-1"], "did you mean us-east-1?"),
        (["--key", "nokey"], "there is no key pair 'nokey'"),
        (["--key", "/no/such/file"], "not a private key that can be read"),
        (["--sg", "nosg"], "there is no security group 'nosg'"),
        (["--vpc", "vpc-00000000"], "vpc-00000000"),
        (["--subnet", "subnet-00000000"], "there is no subnet subnet-00000000"),
        (["--zone", "us-east-1z"], "did you mean us-east-1"),
        (["--role", "norole"], "norole"),
        (["--spot", "11"], "at most 10"),
        (["--min", "3", "--num", "2"], "--min is 3"),
        (["--num", "2", "--spot", "1", "--on-demand", "3"], "--on-demand is 3, more than --num 2"),
        (["--on-demand", "1"], "add --spot 1.0"),
        (["--tag", "novalue"], "--tag 'novalue': write key=value"),
        (["--tag", f"{'k' * 129}=v"], "a key has at most 128 characters"),
        (["--tag", f"k={'v' * 257}"], "a value 256"),
        (["--tag", "AWS:x=y"], "does not start with 'aws:'"),
        ([f"--tag=k{number}=v" for number in range(44)], "would have 51 tags, 7 of them hardway's, but EC2 takes 50"),
        ([f"--tag=k{number}=v" for number in range(51)], "names 51 tags, but EC2 takes 50"),
        (["--type", ",".join(f"m{number}i.large" for number in range(101))], "--type names 101 types"),
        (["--ssh-user", "u" * 257], "the value of the tag ssh-user has 257 characters"),
        (["--ssh-port", "99999"], "--ssh-port"),
        (["--login", "--num", "2"], "--login is for one instance"),
        (["--init", random.Random(0).randbytes(20000).hex()], "16 KiB"),
        (["--init", "/no/setup.sh"], "--init /no/setup.sh is no file here"),
        (["--init", "./tests"], "--init ./tests is a directory"),
        (["--max-hours", "inf"], "--max-hours"),
        (["--idle-minutes", "-1"], "--idle-minutes"),
        (["--command", " "], "there is no command"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line_and_starts_nothing(shell: Shell, name: str, arguments: list[str], said: str) -> None:
    result = shell("ec2.new", "--name", name, *arguments)
    assert (result.code, result.stdout) == (2, "")
    assert said in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert not shell.states(name)


def test_two_at_once_for_the_first_time(shell: Shell, name: str, tmp_path: Path) -> None:
    """A fresh machine in a region nobody has used: both make the key, the key pair and the security group."""
    environment = {"XDG_DATA_HOME": str(tmp_path / "fresh"), "AWS_REGION": "eu-west-3"}
    processes = [start_inv("ec2.new", "--name", name, env=environment) for _ in range(2)]
    ended = [process.communicate(timeout=patience(90)) for process in processes]
    ids = [line for stdout, _ in ended for line in stdout.split()]
    try:
        assert [process.returncode for process in processes] == [0, 0], ended
        assert len(set(ids)) == 2
    finally:
        shell.cloud.client("ec2", "eu-west-3").terminate_instances(InstanceIds=ids)


def test_a_key_file_of_the_users_own(shell: Shell, name: str, start: Callable[..., list[str]], home: Path) -> None:
    file = home / "my key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    start("--key", str(file))
    assert "accepts none of our keys" in shell("ec2.ssh", name, "-yqc", "echo in").stderr
    assert shell("ec2.ssh", name, "-yqc", "echo in", env={"INVOKE_EC2_KEY": str(file)}).stdout == "in\n"
    (home / ".ssh").mkdir()
    for path in (file, file.with_suffix(".pub")):
        path.rename(home / ".ssh" / path.name)
    assert shell.succeed("ec2.ssh", name, "-yqc", "echo in").stdout == "in\n"


def _gone(shell: Shell, name: str) -> int:
    """How many instances carry the name, all of them terminated by now or soon."""
    deadline = time.monotonic() + patience(20)
    while True:
        states = shell.states(name)
        if all(state == "terminated" for state in states.values()):
            return len(states)
        assert time.monotonic() < deadline, states
        time.sleep(0.05)


def test_ready_means_that_init_has_ended(shell: Shell, name: str, start: Callable[..., list[str]]) -> None:
    ids = start("--num", "2", "--init", "sleep 2; touch /tmp/done", "--command", "ls /tmp/done")
    assert len(ids) == 2
    assert shell.succeed("ec2.ssh", name, "-yqc", "ls /tmp/done").stdout == "/tmp/done\n" * 2


def test_an_init_that_fails_is_told_and_is_not_ready(shell: Shell, name: str) -> None:
    script = "for i in 1 2 3 4 5 6 7; do echo line-$i; done; echo bad >&2; exit 7"
    begun = time.monotonic()
    result = shell("ec2.new", "--name", name, "--num", "2", "--init", script)
    assert time.monotonic() - begun < patience(60)  # nothing is replaced, for it would fail as well
    assert (result.code, result.stdout) == (1, "")
    assert "its user data failed: exit code 7; its last lines: line-4 | line-5 | line-6 | line-7 | bad" in result.stderr
    assert "2 instances started were terminated" in result.stderr
    assert len(shell.states(name)) == 2
    assert _gone(shell, name) == 2


def test_those_whose_init_has_failed_may_be_done_without(
    shell: Shell, name: str, start: Callable[..., list[str]]
) -> None:
    ids = start("--num", "2", "--min", "1", "--init", GET + '[ "$(get meta-data/ami-launch-index)" != 0 ]')
    assert len(ids) == 1
    eventually(lambda: sorted(shell.states(name).values()) == ["running", "terminated"])


def test_without_waiting_for_init_its_end_can_be_watched(shell: Shell, start: Callable[..., list[str]]) -> None:
    script = "echo begun; until [ -e /tmp/go ]; do sleep 0.1; done; echo ended; exit 9"
    [one] = start("--no-wait-init", "--init", script)
    eventually(lambda: shell.succeed("ec2.log", one).stdout == "begun\n")
    with shell.running("ec2.log", one, "--follow") as following:
        shell.succeed("ec2.ssh", one, "-yc", "touch /tmp/go")
        assert "begun\nended\n" in following.communicate(timeout=patience(60))[0]
    result = shell("ec2.wait", one)
    assert (result.code, result.stdout) == (1, "")
    assert "its user data failed: exit code 9" in result.stderr
    assert shell.succeed("ec2.wait", one, env={"INVOKE_EC2_NO_WAIT_INIT": "1"}).stdout.split() == [one]


def test_a_log_that_ssh_does_not_show_is_the_consoles(shell: Shell, start: Callable[..., list[str]]) -> None:
    [one] = start("--num", "1")
    shell.succeed("ec2.tag", one, "--tag", "ssh-port=1", "--yes")
    result = shell.succeed("ec2.log", one)
    assert "-----BEGIN SSH HOST KEY KEYS-----" in result.stdout
    assert "this is its console" in result.stderr
