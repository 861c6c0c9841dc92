"""The programs `hardway` and `./inv` before any task runs: typos, closed pipes, Ctrl-C.

And Invoke's own `inv` where somebody's tasks.py has our tasks.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import invoke
import pytest

from tests.conftest import INV, REPOSITORY, LocalCloud, Result
from tests.patience import patience

PROGRAMS = {"inv": INV, "hardway": [sys.executable, "-m", "hardway"]}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("ec2.nwe", "there is no task 'ec2.nwe'; did you mean ec2.new?"),
        ("ec2.ls ec2.nwe", "ec2.ls takes no 'ec2.nwe', and there is no task 'ec2.nwe'; did you mean ec2.new?"),
        ("--help mapreduce.map", "there is no task 'mapreduce.map'; did you mean mapreduce.pmap?"),
        ("ec2.new --nmu 5", "ec2.new has no flag --nmu; did you mean --num?"),
        ("ec2.id --regoin eu-west-1 web", "ec2.id has no flag --regoin; did you mean --region?"),
        ("ec2.ls --zzz", "ec2.ls has no flag --zzz"),
        ("--lst", "there is no flag --lst; did you mean --list?"),
        ("pmap web @urls.txt", "there is no task 'pmap'; did you mean mapreduce.pmap?"),
        ("ls", "there is no task 'ls'; did you mean ec2.ls or cluster.ls?"),
        ("ec2.new --num 2 --num 3", "--num is given twice"),
        ("ec2.new -n 2 --name web --num=3", "--num is given twice"),
        ("ec2.rm --region eu-west-1 --region web", "--region is given twice"),
        ("ec2.new --name web --name test", "--name is given twice"),
        ("ec2", "ec2 is a group of tasks: --list ec2 shows them"),
        ("xyz", "there is no task 'xyz'; --list shows all"),
        ("ec2.new --seconds-timeout", "--seconds-timeout needs a value"),
        ("ec2.types --vcpus many", "--vcpus is 'many': it must be a whole number, 0 or more"),
        ("ec2.types --memory many", "--memory is 'many': it must be a number, 0 or more"),
        ("--config no.yaml ec2.ls", "--config no.yaml: there is no such file"),
        ("ec2.id", "'ec2.id' did not receive required positional arguments: 'selector'"),
        ("--print-completion-script csh", 'Completion for shell "csh" not supported (options are: bash, fish, zsh).'),
    ],
)
def test_what_cannot_be_read_is_told_with_what_was_meant(
    arguments: str, said: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hardway.cli.program import Program
    from tasks import ns

    with pytest.raises(SystemExit) as exit:
        Program(binary="hardway", namespace=ns).run(["hardway", *arguments.split()])
    output = capsys.readouterr()
    assert (exit.value.code, output.out, output.err) == (2, "", f"{said}\n")


@pytest.mark.parametrize(
    "arguments", ["ec2.ssh --help", "ec2.ssh -h", "ec2.ssh web --help", "ec2.ssh web -c x -h", "ec2.ssh test --help"]
)
def test_help_of_a_task_may_stand_behind_it(arguments: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hardway.cli.program import Program
    from tasks import ns

    with pytest.raises(SystemExit) as exit:
        Program(binary="hardway", namespace=ns).run(["hardway", *arguments.split()])
    output = capsys.readouterr()
    assert (exit.value.code, output.err) == (0, "")
    assert output.out.startswith("Usage: hardway [--core-opts] ec2.ssh ")


@pytest.mark.parametrize(
    ("arguments", "name"),
    [("explain", ""), ("explain one", "one"), ("report --to /dev/null", ""), ("report --to /dev/null one", "one")],
)
def test_the_job_may_be_left_out(arguments: str, name: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hardway.cli.program import Program
    from hardway.pmap.job import Job
    from tasks import ns

    for each in ("one", "two"):
        Job.create("cat", name=each).close()
    Program(binary="hardway", namespace=ns).run(["hardway", *f"mapreduce.{arguments}".split()], exit=False)
    output = capsys.readouterr()
    assert output.err == ("" if name else "the newest job: two\n")
    assert output.out.startswith("/dev/null" if "--to" in arguments else f"job {name or 'two'}: cat")


def test_help_may_be_a_flags_value(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hardway.cli.program import Program
    from tasks import ns

    with pytest.raises(SystemExit):
        Program(binary="hardway", namespace=ns).run(["hardway", "s3.clear", "x", "ec2.ssh", "--command", "--help"])
    assert "Usage" not in capsys.readouterr().out


TASKS = """
from invoke import Collection, task
from hardway import config
from hardway.tasks import ec2

@task
def mine(c, num=1):
    print(num, config.settings(c).ec2.name)

ns = Collection(mine, ec2)
"""


def test_settings_are_read_where_one_is(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tasks.py").write_text(TASKS)
    settings = tmp_path / "invoke.yaml"

    def said(program: str, *arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", program, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=patience(60))
        return done.returncode, done.stdout + done.stderr

    settings.write_text("ec2:\n  num: many\n")
    assert said("hardway", "ec2.ls") == (2, "the setting ec2.num is 'many': it must be a whole number, 1 or more\n")
    settings.write_text("ec2:\n  name: mine\n")
    assert said("invoke", "mine") == (0, "1 mine\n")
    settings.write_text("ec2:\n#  name: mine\n")
    assert said("invoke", "mine") == (0, "1 hardway\n")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ec2: [\n", "can't be read in line 2: "),
        ("- ec2\n", ""),
        ("ec2: 3\n", "ec2 must hold names of settings"),
        ("ec2: {3: 4}\n", "ec2 must hold names of settings"),
        ("ec2: {name: {a: b}}\n", "ec2 must hold names of settings"),
        ("3: 4\n", "must hold settings in sections"),
    ],
)
@pytest.mark.parametrize("file", ["invoke.yaml", "home/.invoke.yaml", "other.yaml"])
def test_settings_that_are_none_are_told_in_a_line(
    file: str,
    text: str,
    why: str,
    tmp_path: Path,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hardway.cli.program import Program
    from tasks import ns

    (tmp_path / file).write_text(text)
    monkeypatch.chdir(tmp_path)
    flags = ["--config", file] if file == "other.yaml" else []
    with pytest.raises(SystemExit) as exit:
        Program(binary="hardway", namespace=ns).run(["hardway", *flags, "ec2.ls"])
    error = capsys.readouterr().err
    assert (exit.value.code, len(error.splitlines())) == (2, 1)
    assert why in error


def test_hardway_runs_no_python_that_lies_about(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from hardway.cli.program import Program
    from tasks import ns

    (tmp_path / "invoke.py").write_text("print('it was run')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        Program(binary="hardway", namespace=ns).run(["hardway", "ec2.ls"])
    assert "it was run" not in capsys.readouterr().out


@pytest.mark.parametrize("text", ["ec2: [\n", "- ec2\n", "ec2: 3\n"])
def test_inv_tells_so_too(text: str, tmp_path: Path, home: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    shutil.copytree(REPOSITORY / "tasks", checkout / "tasks")
    (checkout / "invoke.yaml").write_text(text)
    command = [sys.executable, str(checkout / "tasks"), "s3.stub"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=patience(60))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "invoke.yaml" in done.stderr


def test_a_number_that_is_none_is_told_in_a_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from hardway.cli.program import Program

    @invoke.task
    def mine(c: invoke.Context, num: int = 1) -> None:
        print(num)

    with pytest.raises(SystemExit) as exit:
        Program(binary="hardway", namespace=invoke.Collection(mine)).run(["hardway", "mine", "--num", "x"])
    assert (exit.value.code, capsys.readouterr().err) == (2, "'x' is not a number\n")


def test_a_section_may_be_empty(tmp_path: Path, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def run() -> int:
        return subprocess.run([*PROGRAMS["hardway"], "local.status"], cwd=tmp_path, timeout=patience(60)).returncode

    (home / ".invoke.yaml").write_text("local:\n#  boot_delay: 3\n")
    said = f'the local cloud is not running; eval "$({sys.executable} -m hardway local.up)" starts it\n'
    assert (run(), capfd.readouterr()) == (1, ("", said))
    # Invoke can't merge it with one that has settings.
    (tmp_path / "invoke.yaml").write_text("local: {boot_delay: 3}\n")
    said = "invoke.yaml: a section (such as ec2:) that has settings in one file is empty, or no section, in another\n"
    assert (run(), capfd.readouterr()) == (2, ("", said))


def test_an_import_beside_invokes_program_changes_nothing(home: Path) -> None:
    script = "import invoke.main, hardway.tasks; assert type(invoke.main.program) is invoke.Program"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=patience(60))


@pytest.mark.parametrize("directory", [REPOSITORY, REPOSITORY / "examples/nightly"], ids=["here", "elsewhere"])
def test_inv_tells_what_was_meant_too(directory: Path, home: Path) -> None:
    done = subprocess.run(
        [*INV, "ec2.new", "--nmu", "5"], cwd=directory, capture_output=True, text=True, timeout=patience(60)
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "ec2.new has no flag --nmu; did you mean --num?\n"


@pytest.mark.parametrize(
    ("program", "arguments"),
    [
        ("hardway", "--list"),
        ("hardway", "--help"),
        ("hardway", "--help ec2.new"),
        ("hardway", "--version"),
        ("inv", "--list"),
        ("inv", "--help ec2.new"),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_nobody_reads_on_is_no_error(program: str, arguments: str, unbuffered: str, home: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    command = [*PROGRAMS[program], *arguments.split()]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(
        command, cwd=REPOSITORY, stdout=write, stderr=subprocess.PIPE, env=environment, timeout=patience(60)
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_ctrl_c_during_the_imports_says_nothing(home: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "hardway", "ec2.ls"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if "invoke.exceptions" in line:
                process.send_signal(signal.SIGINT)
                break
        rest = process.stderr.read()
        code = process.wait(patience(60))
    # A shell shows the first as the second.
    assert code in (-signal.SIGINT, 128 + signal.SIGINT)
    assert [line for line in rest.splitlines() if not line.startswith("import time:")] == []


def test_an_environment_that_is_only_linked_to_is_left_alone(tmp_path: Path) -> None:
    python = tmp_path / "elsewhere/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@"\n')
    python.chmod(0o755)
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("inv", "pyproject.toml"):
        shutil.copy(REPOSITORY / name, checkout)
    (checkout / ".venv").symlink_to(tmp_path / "elsewhere")
    done = subprocess.run(
        [checkout / "inv", "--list"], cwd=tmp_path, capture_output=True, text=True, timeout=patience(60)
    )
    assert (done.stdout, done.stderr) == (f"{checkout}/tasks --list\n", "")
    assert [*(tmp_path / "elsewhere").rglob("*")] == [python.parent, python]


LINE = "tasks: {executor_class: hardway.cli.executor.Executor}"


@pytest.fixture
def project(tmp_path: Path, home: Path) -> Path:
    """A project with a tasks.py that has our tasks, where Invoke's own `inv` is run."""
    directory = tmp_path / "project"
    directory.mkdir()
    (directory / "tasks.py").write_text(
        "from invoke import Collection, task\n"
        "from hardway.tasks import ec2, s3\n"
        "@task\ndef mine(c):\n    print(s3.stub(c))\n"
        "@task(pre=[s3.stub])\ndef after(c):\n    print('after')\n"
        "ns = Collection(mine, after, ec2, s3)\n"
    )
    return directory


def plain(project: Path, line: str) -> Result:
    """Run a line of bash, with `inv` for Invoke's own; the exit code is that of the first program of its pipeline."""
    script = f'inv() {{ {shlex.quote(sys.executable)} -m invoke "$@"; }}; {line}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=project,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=patience(120),
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("executor", ["ours", "invoke's"])
def test_a_composed_task_prints_its_result(project: Path, executor: str) -> None:
    if executor == "ours":
        (project / "invoke.yaml").write_text(f"{LINE}\n")
    stub = plain(project, "inv s3.stub").stdout
    assert Path(stub.strip()).name == "stub_s3.sh"
    assert plain(project, "inv s3.sessions").stdout == ""
    assert plain(project, "inv mine s3.stub") == Result(0, stub * 2, "")
    assert plain(project, "inv s3.sessions s3.sessions --json 2>&1").stdout == "no sessions\nno sessions\n[]\n"
    prerequisite = "" if executor == "ours" else stub
    assert plain(project, "inv after") == Result(0, f"{prerequisite}after\n", "")
    assert plain(project, "inv after s3.stub") == Result(0, f"{stub}after\n", "")
    assert plain(project, "inv s3.clear x") == Result(
        1, "", f"there is no session x of the S3 stub; `{sys.executable} -m invoke s3.sessions` lists them\n"
    )
    assert plain(project, "inv s3.stub | true").stderr == ""
    full = Result(1, "", "cannot write to stdout: no space left on device\n")
    assert plain(project, "inv s3.stub >/dev/full") == full


def test_what_comes_before_a_task_is_invokes(project: Path) -> None:
    wrong = plain(project, "inv s3.nothing")
    assert (wrong.code, wrong.stdout, wrong.stderr) == (1, "", "No idea what 's3.nothing' is!\n")


def test_a_section_that_a_file_leaves_empty_has_its_defaults(project: Path, cloud: LocalCloud) -> None:
    (project / "invoke.yaml").write_text(f"{LINE}\nec2:\n#  num: 3\n")
    environment = "".join(f"export {name}={shlex.quote(value)}; " for name, value in cloud.env.items())
    assert plain(project, f"{environment} inv ec2.ls --only nobody-has-this").code in (0, 1)
    assert "Traceback" not in plain(project, f"{environment} inv ec2.ls --only nobody-has-this").stderr


def test_a_composed_launch_whose_ids_are_lost_is_ended(project: Path, cloud: LocalCloud) -> None:
    environment = "".join(f"export {name}={shlex.quote(value)}; " for name, value in cloud.env.items())
    done = plain(project, f"{environment} inv ec2.new --name unprinted --no-wait >/dev/full")
    assert (done.code, done.stdout) == (1, "")
    found = cloud.client("ec2").describe_instances(Filters=[{"Name": "tag:Name", "Values": ["unprinted"]}])
    states = {one["State"]["Name"] for each in found["Reservations"] for one in each["Instances"]}
    assert states <= {"shutting-down", "terminated"}, done.stderr
