"""The README does what it says: its tutorial runs, its tasks.py composes, its table has every task."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, LocalCloud

README = (REPOSITORY / "README.md").read_text()


def blocks(section: str, language: str) -> list[str]:
    """The code blocks of a section in a language."""
    [text] = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def run(command: list[str], directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=directory,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=180,
        stdin=subprocess.DEVNULL,
    )


def test_the_tutorial(home: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ended = "trap 'code=$?; inv local.down; exit $code' EXIT\n"
    done = run(["bash", "-euo", "pipefail", "-c", ended + "\n".join(blocks("Tutorial", "sh"))], REPOSITORY, PATH=path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len([line for line in lines if re.match(r"tutorial +m7i.large +running +i-", line)]) == 4
    assert len([line for line in lines if re.match(r"tutorial i-[0-9a-f]{17}: ip-127-77-", line)]) == 4
    assert len([line for line in lines if re.fullmatch(r"\d+ \w+", line)]) == 9
    assert len([line for line in lines if re.fullmatch(r"i-[0-9a-f]{17}", line)]) == 4
    assert lines[-1].startswith("$ rm -rf ")


def test_every_task_is_in_the_table() -> None:
    from tasks import ns

    named = set(re.findall(r"`([a-z0-9]+\.[a-z-]+)`", README))
    own = {name for name in ns.task_names if "." in name}
    assert own <= named, own - named
    assert {name for name in named if name.split(".")[0] in ("cluster", "ec2", "mapreduce", "s3", "local")} <= own


def test_a_tasks_file_of_ones_own(cloud: LocalCloud, home: Path, tmp_path: Path) -> None:
    if (cloud.inv("local.status").stdout).find("isolation: none") >= 0:
        pytest.skip("without isolation an instance has no /home/ubuntu")
    project = tmp_path / "a project"
    project.mkdir()
    [composed] = blocks("In a project of your own", "python")
    (project / "tasks.py").write_text(composed.replace("num=50", "num=2") + "\nfrom pathlib import Path\n")
    text = (project / "tasks.py").read_text()
    (project / "tasks.py").write_text(text.replace('    ec2.rm(c', '    print("\\n".join(urls))\n    ec2.rm(c'))
    (project / "step1.sh").write_text("read -r url; echo counted $url\n")
    (project / "s3_inputs.txt").write_text("s3://b/1\ns3://b/2\ns3://b/3\n")
    done = run([sys.executable, "-m", "invoke", "nightly"], project, **cloud.env)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line] == [f"counted s3://b/{n}" for n in (1, 2, 3)]
    states = run([sys.executable, "-m", "invoke", "ec2.ls", "--only", "nightly"], project, **cloud.env).stdout
    assert [line.split()[2] for line in states.splitlines()] in (["terminated"] * 2, ["shutting-down"] * 2)


def test_the_tests_shown_are_those_of_the_demo() -> None:
    """Which this repository's own suite runs."""
    tests = (REPOSITORY / "examples/wordcount/test_wordcount.py").read_text()
    alone, together, _ = blocks("Test your own job", "python")
    assert alone in tests and together in tests
