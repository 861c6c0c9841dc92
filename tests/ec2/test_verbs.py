"""The verbs on a running cluster, as a person types them: stdout, stderr and exit code apart."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shlex
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from invoke.context import Context

from hardway.errors import Failed
from tasks import ec2
from tests import forked
from tests.conftest import INV, PROGRAM, REPOSITORY, Inv, LocalCloud
from tests.ec2.conftest import Shell
from tests.local.conftest import eventually
from tests.patience import patience

NAME = "verbs"


@pytest.fixture(scope="module")
def started(cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """Ids of three instances that the tests of this module leave as they found them."""
    from tests.conftest import run_inv

    base = tmp_path_factory.getbasetemp()
    home = tmp_path_factory.mktemp("home")
    environment = {**cloud.env, "HOME": str(home), "XDG_DATA_HOME": str(base / "hardway-data")}
    result = run_inv("ec2.new", "--name", NAME, "--num", "3", "--tag", "role=worker", env=environment)
    assert result.code == 0, result.stderr
    yield result.stdout.split()
    assert run_inv("ec2.rm", NAME, "--yes", env=environment).code == 0


@pytest.fixture
def ids(started: list[str], shell: Shell) -> list[str]:
    return started


def test_ls_shows_what_there_is_in_columns(shell: Shell, ids: list[str]) -> None:
    lines = shell.succeed("ec2.ls", "--only", NAME, "--state", "running").stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        name, kind, state, id_, image, market, address, zone, groups, tags, *cost = line.split()
        assert (name, kind, state, market, groups) == (NAME, "m7i.large", "running", "ondemand", "hardway-ssh")
        assert id_ in ids
        assert image.startswith("ami-")
        assert address.startswith("127.77.")
        assert zone.startswith("us-east-1")
        assert "role=worker" in tags.split(",")
        assert cost[0] == "$0.10/hour"
    again = shell.succeed("ec2.ls", "-o", NAME, "-s", "running").stdout.splitlines()
    assert [line.split()[3] for line in again] == [line.split()[3] for line in lines]


@pytest.mark.parametrize("plain", [{}, {"NO_COLOR": "1", "TERM": "dumb"}])
@pytest.mark.parametrize(
    ("columns", "titles"),
    [
        (200, ["NAME", "TYPE", "STATE", "ID", "ADDRESS", "ZONE", "AGE", "COST"]),
        (80, ["NAME", "TYPE", "STATE", "ID", "ADDRESS", "ZONE", "AGE", "COST"]),
        (72, ["NAME", "TYPE", "STATE", "ID", "ADDRESS", "AGE", "COST"]),
        (55, ["NAME", "STATE", "ID", "ADDRESS", "COST"]),
    ],
)
def test_ls_fits_the_terminal(
    shell: Shell,
    ids: list[str],
    columns: int,
    titles: list[str],
    plain: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in plain.items():
        monkeypatch.setenv(name, value)
    shown = _in_terminal(["ec2.ls", "--only", NAME, "--state", "running"], columns=columns)
    told, header, *lines = shown.text.splitlines()
    assert told.startswith("total per hour now")
    assert header.split() == titles
    assert {line.split()[titles.index("ID")] for line in lines} == set(ids)
    assert {len(line.split()) for line in lines} == {len(titles)}
    assert max(map(len, lines)) <= columns
    assert "\x1b" not in shown.text


def test_ls_shows_a_long_name_in_part_where_it_does_not_fit(shell: Shell, ids: list[str]) -> None:
    narrow = _in_terminal(["ec2.ls", "--only", NAME, "--state", "running"], columns=50)
    assert all(re.match(r"\w+\.\.\. ", line) for line in narrow.text.splitlines()[2:])


def test_ls_shows_all_columns_on_a_terminal_if_it_is_asked_to(shell: Shell, ids: list[str]) -> None:
    shown = _in_terminal(["ec2.ls", "--only", NAME, "--state", "running", "--wide"], columns=80)
    _, header, *lines = shown.text.splitlines()
    titles = "NAME TYPE STATE ID AMI MARKET ADDRESS ZONE GROUPS TAGS PRICE AGE COST"
    assert header.split() == titles.split()
    assert len(lines) == 3
    for line in lines:
        assert "role=worker" in line
        assert "owner=" in line
        assert "hardway-" not in line.replace("hardway-ssh", "")
        assert "creation-date" not in line


def test_ls_of_nothing(shell: Shell) -> None:
    nothing = shell("ec2.ls", "--only", "no-such-name")
    assert (nothing.code, nothing.stdout) == (1, "")
    empty = shell("ec2.ls", env={"AWS_REGION": "eu-south-1"})
    assert (empty.code, empty.stderr) == (0, "no instances\n")
    assert json.loads(shell.succeed("ec2.ls", "--json", "--region", "eu-south-1").stdout) == []


def test_region_precedence(shell: Shell, ids: list[str]) -> None:
    assert shell("ec2.id", NAME, env={"AWS_REGION": "eu-north-1"}).code == 1
    assert shell.succeed("ec2.id", NAME, "--region", "us-east-1", env={"AWS_REGION": "eu-north-1"}).stdout
    environment = {"AWS_REGION": "", "AWS_DEFAULT_REGION": "", "region": "us-east-1"}
    assert shell.succeed("ec2.ls", "-s", "running", env=environment).stdout


def test_id_and_ip_name_the_same_instances(shell: Shell, ids: list[str]) -> None:
    assert sorted(shell.succeed("ec2.id", "role=worker").stdout.split()) == sorted(ids)
    addresses = shell.succeed("ec2.ip", " ".join(ids)).stdout.split()
    assert sorted(shell.succeed("ec2.id", ",".join(addresses)).stdout.split()) == sorted(ids)
    assert len(shell.succeed("ec2.ip", NAME, "--private").stdout.split()) == 3


def test_ssh_names_each_line_and_reports_on_stderr(shell: Shell, ids: list[str]) -> None:
    result = shell.succeed("ec2.ssh", NAME, "--yes", "--command", "echo out; echo err >&2")
    assert sorted(result.stdout.splitlines()) == sorted(f"{NAME} {i}: out" for i in ids)
    errors = result.stderr.splitlines()
    assert sorted(errors[:3]) == sorted(f"{NAME} {i}: err" for i in ids)
    assert errors[3:] == ["3 of 3 instances succeeded"]


def test_ssh_that_fails_on_one_is_exit_1_with_the_others_output(shell: Shell, ids: list[str]) -> None:
    last = shell.succeed("ec2.ssh", ids[2], "-yqc", "hostname").stdout.strip()
    result = shell("ec2.ssh", NAME, "-yqc", f"[ $(hostname) = {last} ] && exit 5; echo fine")
    assert (result.code, result.stdout) == (1, "fine\nfine\n")
    assert f"failed: {NAME} {ids[2]}: exit code 5" in result.stderr


def test_ssh_reads_stdin_and_scripts(shell: Shell, ids: list[str], home: Path) -> None:
    (home / "in.txt").write_text("from a file")
    assert shell.succeed("ec2.ssh", ids[0], "-yqc", "cat", "--stdin", str(home / "in.txt")).stdout == "from a file"
    assert shell.succeed("ec2.ssh", NAME, "-yqc", "cat", "--stdin", "-", stdin="piped\n").stdout == "piped\n" * 3
    (home / "s.py").write_text("#!/usr/bin/env python3\nprint('python', end='')\n")
    assert shell.succeed("ec2.ssh", ids[0], "-yqc", str(home / "s.py")).stdout == "python"
    assert shell.succeed("ec2.ssh", ids[0], "-yqc", "-", stdin="x=1\necho $x").stdout == "1\n"


def test_ssh_ends_what_takes_too_long(shell: Shell, ids: list[str]) -> None:
    begun = time.monotonic()
    result = shell("ec2.ssh", NAME, "-yqc", "echo begun; sleep 100", "--timeout", "1")
    assert result.code == 1
    assert result.stdout == "begun\n" * 3
    assert result.stderr.count("still running after 1 s, ended") == 3
    assert time.monotonic() - begun < patience(30)
    assert shell("ec2.ssh", NAME, "-yqc", "ps -A -o args= | grep '[s]leep 100'").stdout == ""


def test_ctrl_c_ends_what_runs(shell: Shell, ids: list[str]) -> None:
    with shell.running("ec2.ssh", NAME, "-yqc", "echo begun; sleep 200") as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        process.send_signal(2)
        _, stderr = process.communicate(timeout=patience(15))
    assert process.returncode == 130
    assert "Traceback" not in stderr
    running = "ps -A -o args= | grep '[s]leep 200' || true"
    eventually(lambda: shell("ec2.ssh", NAME, "-yqc", running).stdout == "")


def test_a_reader_that_has_seen_enough_is_no_error(shell: Shell, ids: list[str]) -> None:
    command = f"{shlex.join(INV)} ec2.ssh {NAME} -yqc 'yes some output; exit 1' | head -n 1"
    done = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, timeout=patience(60))
    assert (done.stdout, done.stderr) == ("some output\n", "")
    running = "ps -A -o args= | grep '[y]es some output' || true"
    eventually(lambda: shell("ec2.ssh", NAME, "-yqc", running).stdout == "")


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["ec2.ssh", "", "-c", "true"], 2, "the selector is empty"),
        (["ec2.ssh", "*", "-c", "true"], 2, "every instance"),
        (["ec2.rm", "--bogus"], 2, "'--bogus'"),
        (["ec2.rm", "*", "--yes"], 2, "every instance"),
        (["ec2.rm", NAME], 2, "add --yes"),
        (["ec2.ssh", NAME, "-c", "true"], 2, "add --yes"),
        (["ec2.ssh", NAME], 2, "3 instances match: add --command"),
        (["ec2.ssh", "nobody", "-yc", "true"], 1, "no running instance is named 'nobody'"),
        (["ec2.ssh", f"{NAME} nobody", "-yc", "true"], 1, "no running instance is named 'nobody'"),
        (["ec2.ssh", "i-00000000000000000", "-yc", "true"], 2, "there is no instance i-00000000000000000"),
        (["ec2.ssh", NAME.replace("b", ""), "-yc", "true"], 1, f"did you mean {NAME}?"),
        (["ec2.ssh", f"Nmae={NAME}", "-yc", "true"], 1, "did you mean Name?"),
        (["ec2.ssh", f"Name={NAME}x", "-yc", "true"], 1, f"did you mean Name={NAME}?"),
        (["ec2.ssh", f"{NAME} 127.77.0.0", "-yc", "true"], 2, "there is no instance 127.77.0.0"),
        (["ec2.ssh", NAME, "-yc", ""], 2, "there is no command"),
        (["ec2.ssh", NAME, "-yc", "true", "--timeout", "x"], 2, "--timeout is 'x'"),
        (["ec2.ssh", NAME, "-yc", "true", "--stdin", "/no/file"], 2, "cannot read --stdin /no/file"),
        (["ec2.ls", "--state", "runing"], 2, "did you mean running?"),
        (["ec2.scp", "a", "b", NAME], 2, "must start with ':'"),
        (["ec2.scp", "no-such-file", ":", NAME], 2, "there is no file no-such-file"),
        (["ec2.push", "pyproject.toml", ":", NAME], 2, "use ec2.scp"),
        (["ec2.push", ":a", "b", NAME], 2, "ec2.pull fetches"),
        (["ec2.pull", "a", ":b", NAME], 2, "ec2.push sends"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_refused_is_one_line(shell: Shell, ids: list[str], arguments: list[str], code: int, said: str) -> None:
    result = shell(*arguments)
    assert (result.code, result.stdout) == (code, "")
    assert said in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_files_go_there_and_come_back(shell: Shell, ids: list[str], home: Path) -> None:
    for name in ("one.sh", "two.sh"):
        (home / name).write_text(f"echo {name}")
    shell.succeed("ec2.scp", f"{home}/*.sh", ":/home/ubuntu/scripts/", NAME, "--yes")
    assert shell.succeed("ec2.ssh", ids[0], "-yqc", "bash scripts/one.sh; bash scripts/two.sh").stdout == (
        "one.sh\ntwo.sh\n"
    )
    shell.succeed("ec2.scp", ":scripts/*.sh", str(home / "back"), NAME, "--yes")
    assert sorted(os.listdir(home / "back")) == sorted(ids)
    assert {p.name: p.read_text() for p in (home / "back" / ids[0]).iterdir()} == {
        "one.sh": "echo one.sh",
        "two.sh": "echo two.sh",
    }


@pytest.mark.parametrize("sync", [False, True])
def test_trees_go_there_and_come_back(shell: Shell, ids: list[str], home: Path, sync: bool) -> None:
    tree = home / "a tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "file").write_text("content")
    (tree / "link").symlink_to("sub/file")
    target = f":pushed-{sync}"
    shell.succeed("ec2.push", str(tree), target, NAME, "--yes", *(["--sync"] if sync else []))
    shell.succeed("ec2.pull", target, str(home / "back"), NAME, "--yes")
    for id_ in ids:
        assert (home / "back" / id_ / "sub" / "file").read_text() == "content"
        assert os.readlink(home / "back" / id_ / "link") == "sub/file"


def test_a_person_is_asked(shell: Shell, ids: list[str]) -> None:
    """In a terminal: the list, the question, and only a yes acts."""
    for answer, code in (("n", 1), ("\x04", 1), ("what\ny", 0)):  # the second is Ctrl-D
        output = _in_terminal(["ec2.ssh", NAME, "-qc", "echo acted"], answer)
        assert all(i in output.text for i in ids)
        assert "run on 3 instances? y/n" in output.text
        assert output.code == code
        assert ("nothing done" in output.text.splitlines()) == (code == 1)
        assert output.text.count("acted\r\n") == (3 if code == 0 else 0)


def test_a_login_is_a_real_one(shell: Shell, ids: list[str]) -> None:
    output = _in_terminal(["ec2.ssh", ids[0]], "test -t 0 && echo at $(hostname) as $(id -un)\nexit 3")
    assert "as ubuntu" in output.text
    assert "at ip-127-77-" in output.text
    assert "ssh ended with 3" in output.text
    assert output.code == 1


def test_a_login_without_openssh_is_one_line(shell: Shell, ids: list[str], tmp_path: Path) -> None:
    for arguments in (["ec2.ssh", ids[0]], ["ec2.new", "--name", "nothing-to-log-in-to", "--login"]):
        result = shell(*arguments, env={"PATH": str(tmp_path)})
        assert (result.code, result.stdout, result.stderr) == (
            2,
            "",
            "a login needs ssh, which is not installed here (package openssh-client); --command does not\n",
        )
    assert not shell("ec2.id", "nothing-to-log-in-to").stdout
    command = ["ec2.ssh", ids[0], "--yes", "--quiet", "--command", "echo in"]
    assert shell.succeed(*command, env={"PATH": str(tmp_path)}).stdout == "in\n"


class Terminal:
    def __init__(self, text: str, code: int) -> None:
        self.text = text
        self.code = code


def _in_terminal(arguments: list[str], typed: str = "", columns: int = 80) -> Terminal:
    """Run a task on a terminal of its own and type at it once it has said something."""
    descriptor, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    # Without the size of another terminal: readline, imported by pytest, leaves the size in the environment.
    own = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal)
    process = forked.start(PROGRAM, *arguments, cwd=REPOSITORY, env=own, start_new_session=True, **streams)
    os.close(terminal)
    text, sent = b"", False
    deadline = time.monotonic() + patience(60)
    try:
        while time.monotonic() < deadline:
            if select.select([descriptor], [], [], 0.3)[0]:
                try:
                    chunk = os.read(descriptor, 65536)
                except OSError:
                    break
                if not chunk:
                    break
                text += chunk
            elif text and typed and not sent:
                os.write(descriptor, typed.encode() + b"\n")
                sent = True
    finally:
        os.close(descriptor)
        code = process.wait(patience())
    return Terminal(text.decode(errors="replace"), code)


def test_who_is_not_let_in_yet_waits_and_later_is_told_why(
    shell: Shell, cloud: LocalCloud, ids: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """As PAM does it for all but root while an instance boots, and when its end is near."""
    nologin = cloud.directory / "instances" / ids[0] / "run" / "nologin"
    nologin.write_text("System is booting up. Come back later.\n")
    booted = threading.Timer(0.5, nologin.unlink)
    booted.start()
    try:
        [result] = ec2.ssh(Context(), ids[0], command="echo in", yes=True)
        assert result.stdout == b"in\n"
        booted.join()
        nologin.write_text("The system is going down at noon.\n")
        with pytest.raises(Failed):
            ec2.ssh(Context(), ids[0], command="echo in", yes=True)
        assert "does not let ubuntu in now, and says: The system is going down at noon.\n" in capfd.readouterr().err
    finally:
        booted.join()
        nologin.unlink(missing_ok=True)


def test_rm_and_wait(shell: Shell, name: str, start: Callable[..., list[str]]) -> None:
    ids = start("--num", "3")
    shell.cloud.client("ec2").terminate_instances(InstanceIds=ids[:1])
    # EC2 still lists it.
    assert set(shell.succeed("ec2.wait", name).stdout.split()) == set(ids[1:])
    unknown = "i-00000000000000000"
    result = shell("ec2.rm", " ".join([*ids, unknown]), "--yes")
    assert result.code == 2
    assert f"there is no instance {unknown}" in result.stderr
    assert set(shell.succeed("ec2.wait", " ".join(ids), "--state", "terminated").stdout.split()) == set(ids)
    assert set(shell.states(name).values()) == {"terminated"}
    again = shell.succeed("ec2.rm", " ".join(ids), "--yes")
    assert (again.stdout.strip(), again.stderr) == ("", "3 instances terminated already\n")


def test_an_instance_that_dies_half_way_costs_only_its_own_output(
    shell: Shell, name: str, start: Callable[..., list[str]]
) -> None:
    ids = start("--num", "3")
    with shell.running("ec2.ssh", name, "-yqc", "echo begun; sleep 5; echo ended") as process:
        assert process.stdout
        assert [process.stdout.readline() for _ in ids] == ["begun\n"] * 3
        shell.cloud.client("ec2").terminate_instances(InstanceIds=ids[:1])
        stdout, stderr = process.communicate(timeout=patience(30))
    assert (process.returncode, stdout) == (1, "ended\nended\n")
    assert f"failed: {name} {ids[0]}: " in stderr
    assert "2 of 3 instances succeeded" in stderr


def test_wait_for_what_cannot_come(shell: Shell, name: str, start: Callable[..., list[str]]) -> None:
    [id_] = start()
    late = shell("ec2.wait", id_, "--state", "stopped", "--seconds-timeout", "1")
    assert (late.code, late.stdout) == (1, "")
    assert f"{id_} is running" in late.stderr
    shell.succeed("ec2.rm", id_, "--yes")
    never = shell("ec2.wait", id_, "--seconds-timeout", "60")
    assert (never.code, never.stdout) == (1, "")
    assert "Traceback" not in never.stderr


def test_errors_of_aws_are_one_line(inv: Inv, shell: Shell) -> None:
    cases = [
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no AWS credentials"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "cannot reach AWS"),
        ({"AWS_PROFILE": "nobody"}, "nobody"),
        ({"AWS_REGION": "", "AWS_DEFAULT_REGION": ""}, "no AWS region"),
        ({"AWS_REGION": "mars-1"}, "there is no AWS region 'mars-1'"),
        ({"INVOKE_EC2_NUM": "many"}, "INVOKE_EC2_NUM is 'many'"),
    ]
    for environment, said in cases:
        result = shell("ec2.ls", env=environment)
        assert (result.code, result.stdout) == (2, ""), environment
        assert said in result.stderr
        assert len(result.stderr.splitlines()) == 1
