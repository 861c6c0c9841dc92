"""The surroundings of an instance's processes, at each level of isolation."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hardway.config import LEVELS, Ec2
from hardway.launch import user_data as userdata
from hardway.local.machines.processes import SpawnerClient
from hardway.local.machines.root_disk import RootDisk
from hardway.local.machines.sandbox import Sandbox
from hardway.local.machines.spawner import ProcessRequest, marked
from hardway.local.machines.toolbox import Toolbox
from hardway.s3 import stub_sessions
from tests.conftest import LocalCloud, run_local_cloud
from tests.local.conftest import Key, Machine, Machines, eventually
from tests.patience import patience

TOOLS = {
    "bwrap": ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "--proc", "/proc", "--dev", "/dev", "true"],
    "unshare": ["unshare", "--user", "--map-root-user", "--mount-proc", "--pid", "--fork", "true"],
}


@pytest.fixture(scope="module", params=LEVELS)
def level(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def own_cloud(level: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A local cloud with that isolation, where the tool it rests on works."""
    if level in TOOLS and (not shutil.which(level) or subprocess.run(TOOLS[level], capture_output=True).returncode):
        pytest.skip(f"{level} is not installed here or not permitted")
    with run_local_cloud(tmp_path_factory.mktemp(level) / "the state", isolation=level) as cloud:
        yield cloud


@pytest.fixture(scope="module")
def pair(own_cloud: LocalCloud, key: Key) -> tuple[Machine, Machine]:
    one, other = Machines(own_cloud, key)(2)
    return one, other


@pytest.fixture
def machine(pair: tuple[Machine, Machine]) -> Machine:
    return pair[0]


@pytest.fixture
def isolated(level: str) -> bool:
    return level != "none"


def test_status_says_which(own_cloud: LocalCloud, level: str) -> None:
    said = {"bwrap": "bubblewrap", "unshare": "unshare", "none": "none"}[level]
    assert f"isolation: {said}" in own_cloud.inv("local.status").stdout


def test_home_and_tmp_are_its_own(pair: tuple[Machine, Machine], isolated: bool) -> None:
    one, other = pair
    assert one.output('cd; touch home-mark; touch "${TMPDIR:-/tmp}/tmp-mark"; pwd; echo ${TMPDIR-none}')
    assert other.output('ls ~/home-mark "${TMPDIR:-/tmp}/tmp-mark" 2>/dev/null || :') == ""
    if isolated:
        assert one.output("pwd; echo ~ ${TMPDIR-none}") == "/home/ubuntu\n/home/ubuntu none\n"
        assert "tmp-mark" in one.output("ls /tmp").splitlines()
    assert one.output("ls -A ~").splitlines().count(".profile") == 1


def test_the_host_is_read_only(machine: Machine, isolated: bool, tmp_path: Path) -> None:
    if not isolated:
        pytest.skip("without isolation an instance may write where its user may")
    for directory in ("/etc", "/usr", "/", "/opt", "/var"):
        assert machine.ssh(f"touch {directory}/hardway-test").returncode != 0
    assert machine.ssh(f"ls {tmp_path}").returncode != 0
    assert (
        machine.output("for d in /tmp /var/tmp /var/log /run /dev/shm ~; do touch $d/x && rm $d/x; done; echo ok")
        == "ok\n"
    )


def test_the_kernel_and_the_disks_are_the_hosts(machine: Machine, isolated: bool) -> None:
    if not isolated:
        pytest.skip("without isolation an instance may do what its user may")
    kernel = "find /sys /proc -path '/proc/[0-9]*' -prune -o -path /proc/pressure -prune -o -type f -writable -print"
    assert machine.output(f"{kernel} 2>/dev/null || :") == ""
    # what anybody may write, and a terminal's
    devices = "find /dev -type b; find /dev -type c -writable"
    found = machine.output(f"({devices}) 2>/dev/null | grep -v '^/dev/pts/' || :").split()
    assert set(found) <= {f"/dev/{name}" for name in ("full", "null", "random", "tty", "urandom", "zero", "console")}
    for file in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger"):
        assert machine.ssh(f"cat {file} >/tmp/v 2>/dev/null; cat /tmp/v >{file}").returncode != 0
    # nor by a view of it of one's own
    again = "unshare -Urfp --mount-proc sh -c ': >>/proc/sys/kernel/core_pattern'"
    assert machine.ssh(again).returncode != 0


@pytest.fixture
def uncovered() -> Iterator[Path]:
    """A directory where an instance sees what is the host's."""
    place = next((place for place in (Path("/srv"), Path("/opt")) if os.access(place, os.W_OK)), None)
    if place is None:
        pytest.skip("this user can write only where instances have directories of their own")
    directory = place / f"hardway-test-{os.getpid()}"
    directory.mkdir()
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize("tool", TOOLS)
def test_the_secret_and_the_home_of_the_user_are_hidden_wherever_they_lie(
    tool: str, uncovered: Path, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which(tool) or subprocess.run(TOOLS[tool], capture_output=True).returncode:
        pytest.skip(f"{tool} is not installed here or not permitted")
    home = uncovered / "home"
    (home / ".ssh").mkdir(parents=True)
    for file in (home / ".ssh" / "id_ed25519", uncovered / "visible"):
        file.write_text("text")
    monkeypatch.setenv("HOME", str(home))
    with run_local_cloud(uncovered / "state", isolation=tool) as cloud:
        machine = Machines(cloud, key)()[0]
        assert machine.output(f"cat {uncovered}/visible") == "text"
        assert machine.output(f"find {uncovered} -mindepth 2 | grep -v {sys.prefix} || :").split() == [
            str(uncovered / "state" / "hardway")
        ]
        assert machine.ssh(f"grep -rs {cloud.running.secret} {uncovered}").returncode != 0
        assert machine.ssh(f"touch {home}/x {uncovered}/state/hardway/x").returncode != 0


def test_identity(machine: Machine, isolated: bool) -> None:
    if isolated:
        name = f"ip-{machine.address.replace('.', '-')}"
        assert machine.output("hostname; cat /etc/hostname; cat /proc/sys/kernel/hostname") == f"{name}\n" * 3
        assert machine.output("id -un; id -gn; whoami; stat -c %U ~ ~/.profile") == "ubuntu\n" * 5
        assert machine.output(f"getent hosts {name}").split()[0] == machine.address


def test_instances_know_each_other_by_name(pair: tuple[Machine, Machine], isolated: bool) -> None:
    one, other = pair
    if isolated:
        name = other.describe()["PrivateDnsName"]
        assert one.output(f"getent hosts {name}").split()[0] == other.address


def test_sessions_share_processes_and_other_instances_do_not(pair: tuple[Machine, Machine], isolated: bool) -> None:
    one, other = pair
    # Without isolation all of this machine's processes are in sight, those of other tests, too.
    seconds = 1_000_000 + secrets.randbelow(1_000_000)
    pid = one.output(f"setsid nohup sleep {seconds} >/dev/null 2>&1 </dev/null & echo $!").strip()
    assert one.output(f"ps -eo args | grep -c '[s]leep {seconds}'") == "1\n"
    assert one.output(f"tr '\\0' ' ' </proc/{pid}/cmdline") == f"sleep {seconds} "
    assert b"HOME" in one.ssh(f"cat /proc/{pid}/environ").stdout
    if isolated:
        assert other.ssh(f"ps -eo args | grep '[s]leep {seconds}'").returncode == 1
        assert len(one.output("ps -e").splitlines()) < 10
    assert one.ssh(f"kill {pid}").returncode == 0


def test_orphans_are_reaped(machine: Machine) -> None:
    # by a name of their own: without isolation all of this machine's zombies are in sight
    machine.output("cp /bin/bash ~/orphaned; for i in 1 2 3 4 5; do (~/orphaned -c : &) ; done")
    eventually(lambda: machine.ssh("ps -eo stat,comm | grep '^Z.*orphaned'").returncode == 1)


def test_a_boot_that_is_given_up_leaves_no_process(own_cloud: LocalCloud, level: str, tmp_path: Path) -> None:
    async def run() -> None:
        with contextlib.closing(SpawnerClient(tmp_path)) as spawner:
            sandbox = Sandbox(spawner, RootDisk(tmp_path / "root", Toolbox.create(tmp_path), "ip", ("ubuntu",), level))
            sandbox.disk.create()
            boot = asyncio.create_task(sandbox.boot())
            await asyncio.sleep(0)
            boot.cancel()
            await asyncio.gather(boot, return_exceptions=True)
            await sandbox.halt()
            assert marked(str(tmp_path)) == []
            sandbox.disk.remove()

    asyncio.run(run())


def test_a_process_that_never_executes_holds_up_no_other(tmp_path: Path) -> None:
    async def run() -> int:
        with contextlib.closing(SpawnerClient(tmp_path)) as spawner, open(os.devnull) as null, _full_pipe() as full:
            # Its message about the missing program does not fit into the pipe.
            spawner.spawn(_request("/missing"), [null.fileno(), null.fileno(), full])
            return await asyncio.wait_for(spawner.spawn(_request("/bin/true"), [null.fileno()] * 3).exited, 10)

    assert asyncio.run(run()) == 0


@contextlib.contextmanager
def _full_pipe() -> Iterator[int]:
    """A pipe's end that takes no further byte: a writer waits."""
    read, write = os.pipe()
    with open(read, "rb"), open(write, "wb") as end:
        os.set_blocking(write, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(write, bytes(4096))
        os.set_blocking(write, True)
        yield end.fileno()


def _request(program: str) -> ProcessRequest:
    return {
        "argv": [program], "name": program, "env": {}, "cwd": ["/"], "holder": 0, "root": False, "binds": [],
        "spare": False, "terminal": None,
    }  # fmt: skip


def test_a_terminal_of_its_own(machine: Machine) -> None:
    done = machine.ssh("tty && python3 -c 'import os; print(os.ttyname(os.openpty()[1]))'", options=("-tt",))
    names = done.stdout.decode().split()
    assert len(names) == 2 and all(name.startswith("/dev/pts/") for name in names)


def test_killing_all_processes_does_not_end_the_instance(machine: Machine, isolated: bool) -> None:
    if not isolated:
        # as that would be all of this user's, on the whole machine: not even signal 0 may be sent so
        refused = machine.ssh("kill -0 -1")
        assert refused.returncode != 0 and b"not permitted" in refused.stderr
        assert machine.ssh("sleep 100 & kill -9 $!; wait $!").returncode == 137
        return
    machine.output("sleep 1000 >/dev/null 2>&1 </dev/null &")
    # only where it is for the instance's own
    for _ in range(3):
        machine.ssh("[ $(ps -e | wc -l) -lt 20 ] && kill -9 -1")
        assert machine.output("echo lives; pgrep -x sleep || echo none") == "lives\nnone\n"
    assert machine.ssh("[ $(ps -e | wc -l) -lt 20 ] && kill -STOP -1; kill -CONT -1").returncode == 0
    machine.output("for i in 1 2 3; do (bash -c : &); done")
    eventually(lambda: "Z" not in machine.output("ps -eo stat"))
    assert machine.state == "running"


def test_an_instance_ends_itself_though_all_its_processes_were_killed(
    own_cloud: LocalCloud, key: Key, isolated: bool
) -> None:
    if not isolated:
        pytest.skip("without isolation nothing may kill all processes")
    data = userdata.compose(Ec2(max_hours=6 / 3600, idle_minutes=0), b"", "ubuntu")
    machine = Machines(own_cloud, key)(UserData=data, InstanceInitiatedShutdownBehavior="terminate")[0]
    for _ in range(2):
        machine.ssh("[ $(ps -e | wc -l) -lt 20 ] && for _ in $(seq 20); do kill -9 -1; done")
    assert machine.output("echo lives") == "lives\n"
    machine.wait("terminated")


def test_termination_leaves_nothing(own_cloud: LocalCloud, key: Key, level: str) -> None:
    machine = Machines(own_cloud, key)()[0]
    machine.output("(trap '' HUP TERM; setsid nohup sh -c 'sleep 1000; :') >/dev/null 2>&1 </dev/null &")
    machine.output('mkdir -p a/b; touch a/b/c; chmod 0 a/b/c a/b a; (umask 777; mkdir "${TMPDIR:-/tmp}/closed")')
    directory = machine.directory
    assert marked(str(directory))
    machine.terminate()
    assert marked(str(directory)) == []
    assert not directory.exists()


def test_sudo_just_runs_the_command(machine: Machine) -> None:
    commands = [
        "sudo echo it ran",
        "sudo -n -E echo it ran",
        "sudo -H -u root -- echo it ran",
        "sudo -nu root echo it ran",
        "sudo --user=root --non-interactive echo it ran",
        "sudo WHAT=it bash -c 'echo $WHAT ran'",
        "sudo -i echo it ran",
        "sudo -s echo it ran",
        "sudo -i -u ubuntu bash -c 'echo it ran'",
        "sudo sudo -k echo it ran",
        "echo it ran | sudo tee /dev/null",
        "sudo -s <<<'echo it ran'",
        "sudo -u root -i <<<'echo it ran'",
        "sudo -D / pwd | sed 's,^/$,it ran,'",
    ]
    script = "\n".join(f"echo {shlex.quote(command)}; {command}" for command in commands)
    done = machine.ssh("bash -l", stdin=script.encode())
    assert done.stdout.decode().splitlines() == [line for command in commands for line in (command, "it ran")]


def test_sudo_passes_arguments_streams_and_exit_code(machine: Machine) -> None:
    done = machine.ssh("""sudo -- bash -c 'cat; printf "%s|" "$@" >&2; exit 9' x 'a  b' '$c' '*'""", stdin=b"in")
    assert (done.returncode, done.stdout, done.stderr) == (9, b"in", b"a  b|$c|*|")
    assert machine.ssh("sudo").returncode == 1
    assert machine.ssh("sudo no-such-command").returncode == 127


def test_root_of_an_instance_is_root(own_cloud: LocalCloud, key: Key, isolated: bool) -> None:
    # As cloud-init gives it: HOME is not set.
    script = '#!/bin/sh\nid -u; whoami; pwd; echo "<${HOME-}>"; touch "${HARDWAY_ROOT-}/root/x" /tmp/y\necho done\n'
    machine = Machines(own_cloud, key)(UserData=script)[0]
    log = machine.directory / "log" / "cloud-init-output.log"
    eventually(lambda: log.exists() and "done" in log.read_text())
    if isolated:
        assert log.read_text() == "0\nroot\n/root\n<>\ndone\n"
        assert machine.output("cat /var/log/cloud-init-output.log") == log.read_text()
    machine.terminate()


# aws


def test_the_real_aws_and_boto3_reach_the_daemons_s3(own_cloud: LocalCloud, machine: Machine, level: str) -> None:
    if not shutil.which("aws", path=str(Path(sys.executable).parent)):
        pytest.skip("the AWS CLI is not installed beside this Python")
    s3 = own_cloud.client("s3")
    bucket = f"bucket-{level}"
    s3.create_bucket(Bucket=bucket)
    machine.output(f"echo content | aws s3 cp - s3://{bucket}/by-cli")
    assert s3.get_object(Bucket=bucket, Key="by-cli")["Body"].read() == b"content\n"
    if level != LEVELS[0]:
        return
    program = f"import boto3; print(boto3.client('s3').get_object(Bucket='{bucket}', Key='by-cli')['Body'].read())"
    assert machine.output(f'{shlex.quote(sys.executable)} -c "{program}"') == "b'content\\n'\n"


@pytest.mark.parametrize("place", ["TMPDIR", "elsewhere"])
def test_a_stubbed_session_reaches_the_hosts_objects(
    pair: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str
) -> None:
    if place == "elsewhere":
        monkeypatch.setenv("TMPDIR", str(tmp_path))
    with stub_sessions.session() as session:
        variables = {"s3_stubbed_session": session.uuid, "s3_stubbed_tmp": str(session.path.parent)}
        options = ("-o", "SetEnv=" + " ".join(f"{name}={value}" for name, value in variables.items()))
        for machine in pair:
            machine.output(f"echo {machine.id} | aws s3 cp - s3://bucket/{machine.id}", options=options)
        listed = pair[0].output("aws s3 ls s3://bucket/ | awk '{ print $NF }'", options=options)
        assert sorted(listed.split()) == sorted(machine.id for machine in pair)
        options = (options[0], f"{options[1]} s3_stubbed_cli=2")
        assert pair[0].output("aws --version", options=options).startswith("aws-cli/2.")
        # from the host, and from a grandchild that got rid of its descriptors
        stub = subprocess.run(
            [str(stub_sessions.directory() / "aws"), "s3", "cp", f"s3://bucket/{pair[1].id}", "-"],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=patience(30),
        )
        assert stub.stdout == f"{pair[1].id}\n"
        again = (
            f"python3 -c \"import subprocess; subprocess.run(['aws', 's3', 'cp', 's3://bucket/{pair[0].id}', '-'])\""
        )
        assert pair[1].output(again, options=options) == f"{pair[0].id}\n"
    assert not session.path.exists()


def test_what_ends_it_keeps_to_the_instance(own_cloud: LocalCloud, key: Key, isolated: bool) -> None:
    def on_this_machine() -> list[tuple[str, float]]:
        places = [Path("/etc/hardway"), Path("/run/hardway"), Path("/run/systemd/system")]
        return [(str(p), p.stat().st_mtime) for place in places if place.exists() for p in (place, *place.iterdir())]

    before = on_this_machine()
    machines = Machines(own_cloud, key)
    machine = machines(UserData=userdata.compose(Ec2(max_hours=1, idle_minutes=1), b"", "ubuntu"))[0]
    own = machine.directory / "etc" / "hardway"
    assert machine.output('cat "${HARDWAY_ROOT-}/etc/hardway/ends"') == (own / "ends").read_text()
    assert on_this_machine() == before
    if isolated:
        assert machine.output("touch /etc/hardway/new; ls /etc/hardway; ls -A /sys/block").split() == [
            "ends", "instance", "new", "watch",
        ]  # fmt: skip
        assert machine.output("cat /etc/os-release") == Path("/etc/os-release").read_text()
        assert machine.ssh("touch /etc/new").returncode != 0
    machines.close()
