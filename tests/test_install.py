"""An installed hardway: the wheel, in an environment of its own, without this checkout."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import REPOSITORY, LocalCloud
from tests.test_docs import run

MAIN = "from hardway.__main__ import main; main()"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment, with the wheel built from the sdist in it; only dependencies are ours."""
    dist = tmp_path_factory.mktemp("dist")
    built = run([sys.executable, "-m", "build", "--no-isolation", "--outdir", str(dist), "."], REPOSITORY)
    assert built.returncode == 0, built.stdout + built.stderr
    [wheel], [_] = dist.glob("*.whl"), dist.glob("*.tar.gz")
    new = tmp_path_factory.mktemp("environment")
    made = run([sys.executable, "-m", "venv", "--without-pip", str(new)], new)
    assert made.returncode == 0, made.stderr
    [packages] = new.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            # What installers do and zipfile doesn't: keep the mode.
            os.chmod(archive.extract(member, packages), member.external_attr >> 16)
    files = [file for file in (REPOSITORY / "hardway").rglob("*.*") if file.suffix != ".pyc"]
    assert [file for file in files if not (packages / file.relative_to(REPOSITORY)).exists()] == []
    # A path in a .pth file comes last, and the .pth files there, such as that of this checkout, are not read.
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = "import hardway, hardway.tasks; print(hardway.__file__, hardway.tasks.__file__, sep='\\n')"
    for line in run([str(new / "bin" / "python"), "-c", where], new).stdout.splitlines():
        assert Path(line).is_relative_to(packages)
    return new / "bin" / "python"


def test_the_local_cloud_brings_few_packages() -> None:
    """A person who installs hardway waits for each of them."""
    found: set[str] = set()
    todo = [Requirement("hardway[local]")]
    while todo:
        wanted = todo.pop()
        found.add(canonicalize_name(wanted.name))
        for text in distribution(wanted.name).requires or ():
            needed = Requirement(text)
            extras = wanted.extras or {""}
            applies = any(needed.marker is None or needed.marker.evaluate({"extra": extra}) for extra in extras)
            if applies and (needed.extras or canonicalize_name(needed.name) not in found):
                todo.append(needed)
    assert {"moto", "flask", "asyncssh", "boto3"} <= found
    assert len(found) <= 45, sorted(found)


def test_a_project_of_ones_own_is_tested_with_what_is_installed(python: Path, home: Path, tmp_path: Path) -> None:
    project = shutil.copytree(REPOSITORY / "examples" / "nightly", tmp_path / "my project")
    done = run([str(python), "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider"], project)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def test_the_program_works_from_any_directory(python: Path, home: Path) -> None:
    stub = run([str(python), "-c", MAIN, "s3.stub"], home)
    assert stub.returncode == 0, stub.stderr
    script = ". \"$1\" && echo kept | aws s3 cp - s3://b/k && aws s3 cp s3://b/k - && clear-s3-stubbed"
    used = run(["bash", "-euc", script, "-", stub.stdout.strip()], home)
    assert "kept\n" in used.stdout, used.stderr
    listed = run([str(python), "-c", MAIN, "--list"], home)
    assert "ec2.new" in listed.stdout
    assert "demo" not in listed.stdout


def test_without_the_extra_only_the_local_cloud_is_missing(
    python: Path, home: Path, cloud: LocalCloud, tmp_path: Path
) -> None:
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.startswith(("moto", "asyncssh")):
            (tmp_path / entry.name).symlink_to(entry)
    [packages] = python.parent.parent.glob("lib/python*/site-packages")
    main = [sys.executable, "-S", "-c", MAIN]
    environment = {**cloud.env, "PYTHONPATH": f"{packages}{os.pathsep}{tmp_path}"}
    up = run([*main, "local.up"], home, **environment)
    assert (up.returncode, up.stdout) == (2, "")
    assert up.stderr == "the local cloud needs moto and asyncssh: pip install 'hardway[local]'\n"
    listed = run([*main, "ec2.ls", "--only", "nobody"], home, **environment)
    assert (listed.returncode, "is named 'nobody'" in listed.stderr) == (1, True), listed.stderr
    status = run([*main, "local.status"], home, **environment, XDG_STATE_HOME=str(cloud.state))
    assert (status.returncode, cloud.running.endpoint in status.stdout) == (0, True), status.stderr
