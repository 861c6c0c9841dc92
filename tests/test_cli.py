"""The face: the tree of tasks, their flags, which are public, and what a bug looks like to a person."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from invoke.context import Context
from invoke.program import Program

from hardway.cli import flags
from hardway.errors import UsageError
from tests import tasks_page
from tests.conftest import INV, REPOSITORY, Inv
from tests.patience import patience


def tasks() -> list[str]:
    from tasks import ns

    return sorted(ns.task_names)


@pytest.mark.parametrize("task", tasks())
def test_flags_are_public(task: str, home: Path) -> None:
    """A flag that is renamed or gone changes people's scripts."""
    assert tasks_page.block(task) in tasks_page.PAGE.read_text(), "python -m tests.tasks_page writes docs/tasks.md anew"


def test_help_at_the_prompt_is_the_same(inv: Inv) -> None:
    result = inv("--help", "ec2.new-vpc")
    assert (result.code, result.stdout) == (0, tasks_page.help_of("ec2.new-vpc"))


def test_the_page_of_tasks_has_them_all_and_no_other(home: Path) -> None:
    assert tasks_page.page() == tasks_page.PAGE.read_text(), "python -m tests.tasks_page writes docs/tasks.md anew"


def test_help_shows_flags_in_the_order_of_parameters_and_what_they_take(home: Path) -> None:
    options = tasks_page.help_of("ec2.types").partition("Options:\n")[2]
    assert re.findall(r"^  (?:-\w\b.* )?--(\w+)=?(\w*)", options, re.MULTILINE) == [
        ("only", "STRING"),
        ("vcpus", "INT"),
        ("memory", "FLOAT"),
        ("nvme", "INT"),
        ("arch", "STRING"),
        ("json", ""),
        ("region", "STRING"),
    ]


def test_every_flag_has_help() -> None:
    from tasks import ns

    for name in ns.task_names:
        for argument in ns[name].get_arguments():
            assert argument.help, f"{name} --{argument.name}"


def test_a_letter_is_the_same_flag_in_every_task() -> None:
    from tasks import ns

    for name in ns.task_names:
        for argument in ns[name].get_arguments():
            letter = flags.LETTERS.get(argument.name)
            assert [each for each in argument.names if len(each) == 1] == ([letter] if letter else []), name
    assert len(set(flags.LETTERS.values())) == len(flags.LETTERS)


def test_a_letter_means_nothing_else_behind_a_task() -> None:
    """Behind a task's name Invoke takes its own flags, too, where the task has no such letter."""
    own = {name for argument in Program().core_args() + Program().task_args() for name in argument.names}
    assert own & {*flags.LETTERS.values()} == {"c", "r"}  # --collection and --search-root, which come before a task


def test_modules_of_tasks_shadow_nothing_importable() -> None:
    """Invoke puts tasks/ itself on sys.path."""
    names = [file.stem for file in (REPOSITORY / "tasks").glob("*.py") if not file.stem.startswith("__")]
    code = "import importlib.util, sys; sys.exit(any(importlib.util.find_spec(n) for n in sys.argv[1:]))"
    assert subprocess.run([sys.executable, "-I", "-c", code, *names], cwd="/").returncode == 0


def test_a_closed_pipe_is_no_error(home: Path) -> None:
    command = f"{shlex.join(INV)} s3.stub | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, timeout=patience(60))
    assert (done.returncode in (0, 141), done.stderr) == (True, "")


def test_an_empty_result_prints_nothing(inv: Inv) -> None:
    assert inv("s3.sessions").stdout == ""


def test_a_task_that_another_calls_prints_nothing(home: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(
        "from invoke import Collection, task\n"
        "from hardway.tasks import s3\n"
        "@task\ndef outer(c):\n    print('stub' in s3.stub(c))\n"
        "ns = Collection(outer, s3)\n"
    )
    command = [sys.executable, "-m", "invoke", "outer", "s3.stub"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=patience(60))
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert (first, Path(second).name) == ("True", "stub_s3.sh")


def test_a_bug_is_a_line_with_its_traceback_in_a_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from invoke.context import Context

    from hardway.cli.task import task
    from hardway.errors import HardwayError

    @task
    def broken(c: Context) -> None:
        """A task with a bug."""
        raise ZeroDivisionError("of mine")

    with pytest.raises(HardwayError) as error:
        broken(Context())
    assert error.value.code == 1
    message = str(error.value)
    assert "a bug in hardway: ZeroDivisionError: of mine" in message
    log = Path(message.rpartition(" ")[2])
    assert log.is_relative_to(home)
    assert "in broken" in log.read_text()


def test_what_others_have_said_moves_no_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    from hardway.cli.task import say
    from hardway.errors import Failed, HardwayError

    hostile = "web\x1b]52;c;eA==\x07\nfailed: db\u202e \x9b2J"
    say(hostile, f"{hostile} again")
    for error in (HardwayError(hostile), Failed("its log", [hostile, "and more"])):
        print(error, file=sys.stderr)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 6
    assert all(line.isprintable() for line in said)
    assert said[0] == r"web\x1b]52;c;eA==\x07\nfailed: db\u202e \x9b2J"


def test_a_call_that_a_task_does_not_take_is_the_callers() -> None:
    from tasks import ec2

    with pytest.raises(UsageError, match=r"new: got an unexpected keyword argument 'nmu'; did you mean num\?"):
        ec2.new(Context(), nmu=3)  # type: ignore[call-arg]  # the mistake that this is about
    with pytest.raises(UsageError, match="ip: missing a required argument: 'selector'"):
        ec2.ip(Context())  # type: ignore[call-arg]  # and another


def test_help_is_there_for_who_asks_twice() -> None:
    from tasks import ns

    for _ in range(2):
        assert all(argument.help for argument in ns["ec2.ls"].get_arguments())


UNITS = r"seconds|minutes|hours|days|USD|GiB|MiB|port|how many|attempts|commands|instances|newest|oldest|tasks|part of"


def test_a_flag_tells_its_default_and_what_its_number_counts() -> None:
    from tasks import ns

    shown = yaml.safe_load((REPOSITORY / "invoke.yaml").read_text())
    told = set()
    for name in ns.task_names:
        section = shown.get(name.partition(".")[0], {})
        for argument in ns[name].get_arguments():
            setting = argument.attr_name or argument.name
            if argument.positional:
                assert "(default:" not in argument.help, f"{name} --{argument.name} is required"
                assert argument.help.startswith(f"(argument {list(ns[name].positional).index(setting) + 1}) ")
            elif argument.default is None and setting in section:
                default = section[setting]
                if default != "" and default is not False:
                    text = default if isinstance(default, str) else f"{default:g}"
                    assert argument.help.endswith(f"(default: {text})"), f"{name} --{argument.name}"
                    told.add(setting)
                if isinstance(default, int | float) and not isinstance(default, bool):
                    assert re.search(UNITS, argument.help), f"{name} --{argument.name}: {argument.help}"
    assert told >= {"num", "type", "max_hours", "seconds_timeout", "retries", "slots"}


def test_the_list_of_tasks_is_a_table_of_contents() -> None:
    from tasks import ns

    for name in ns.task_names:
        first = (ns[name].__doc__ or "").strip().splitlines()[0]
        assert len(first) <= 57, f"{name}: more than a line of 80 columns"
