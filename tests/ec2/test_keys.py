"""A key that can't let anybody in is told of before an instance is started, and one that can is never refused."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ec2.conftest import Shell

Make = Callable[..., Path]
Told = Callable[..., str]


@pytest.fixture
def make(home: Path) -> Make:
    """A private key's file, made by ssh-keygen."""
    (home / ".ssh").mkdir()

    def make(name: str, *options: str, passphrase: str = "") -> Path:
        file = home / name
        kind = [] if "-t" in options else ["-t", "ed25519"]
        subprocess.run(["ssh-keygen", "-q", *kind, *options, "-N", passphrase, "-f", str(file)], check=True)
        return file

    return make


@pytest.fixture
def pair(shell: Shell, name: str) -> Iterator[Callable[[Path], str]]:
    """Import a key at EC2 under the test's name."""
    ec2 = shell.cloud.client("ec2")

    def imported(file: Path) -> str:
        ec2.import_key_pair(KeyName=name, PublicKeyMaterial=file.with_name(f"{file.name}.pub").read_bytes())
        return name

    yield imported
    ec2.delete_key_pair(KeyName=name)


@pytest.fixture
def agent(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    path = tmp_path_factory.mktemp("a") / "s"
    with subprocess.Popen(["ssh-agent", "-D", "-a", str(path)], stdout=subprocess.DEVNULL) as process:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
        while not path.exists():
            assert process.poll() is None
        yield
        process.terminate()


@pytest.fixture
def refused(shell: Shell, name: str) -> Told:
    """The line that says why nothing was started."""

    def refused(key: str | Path) -> str:
        result = shell("ec2.new", "--name", name, "--key", str(key))
        assert (result.code, result.stdout) == (2, "")
        assert not shell.states(name)
        [line] = result.stderr.splitlines()
        return line

    return refused


@pytest.fixture
def taken(shell: Shell, name: str) -> Told:
    """A launch that nobody waits for says so; a launch that waits would say it as well."""

    def taken(key: str | Path) -> str:
        return shell.succeed("ec2.new", "--name", name, "--key", str(key), "--no-wait").stderr

    return taken


def test_a_key_pair_whose_private_half_is_not_here(make: Make, pair: Callable[[Path], str], refused: Told) -> None:
    file = make("elsewhere")
    name = pair(file)
    line = refused(name)
    assert f"the private half of the key pair {name} is not here" in line
    assert "--key" in line and "ssh-add" in line


def test_who_does_not_wait_is_told_of_it(make: Make, pair: Callable[[Path], str], taken: Told) -> None:
    assert "is not here" in taken(pair(make("elsewhere")))


@pytest.mark.parametrize("place", [".ssh/id_ed25519", ".ssh/{}.pem", ".ssh/{}", "configured"])
def test_a_private_half_where_ssh_finds_it(
    make: Make, pair: Callable[[Path], str], taken: Told, home: Path, place: str
) -> None:
    file = make("key")
    name = pair(file)
    file.rename(home / place.format(name))
    if place == "configured":
        (home / ".ssh/config").write_text("Host *\n  IdentityFile ~/configured\n")
    assert "is not here" not in taken(name)


def test_a_private_half_in_the_agent(make: Make, pair: Callable[[Path], str], taken: Told, agent: None) -> None:
    file = make("key")
    subprocess.run(["ssh-add", "-q", str(file)], check=True)
    name = pair(file)
    file.unlink()
    assert "is not here" not in taken(name)


@pytest.mark.parametrize("line", ["IdentityAgent ~/agent", "Include other", "PKCS11Provider /lib/x.so"])
def test_nobody_is_refused_where_it_can_not_be_told(
    make: Make, pair: Callable[[Path], str], taken: Told, home: Path, line: str
) -> None:
    (home / ".ssh/config").write_text(f"{line}\n")
    assert "is not here" not in taken(pair(make("elsewhere")))


def test_a_file_of_the_pairs_name_that_is_another_key(
    make: Make, pair: Callable[[Path], str], refused: Told, home: Path
) -> None:
    name = pair(make("elsewhere"))
    make(f".ssh/{name}.pem")
    assert "is not here" in refused(name)


@pytest.mark.parametrize("options", [(), ("-t", "rsa", "-m", "PEM"), ("-t", "rsa", "-m", "PKCS8")])
def test_an_encrypted_key_without_an_agent(
    make: Make, refused: Told, taken: Told, agent: None, options: tuple[str, ...]
) -> None:
    file = make("secret", *options, passphrase="open sesame")
    line = refused(file)
    assert f"{file} is encrypted" in line
    assert f"`ssh-add {file}`" in line
    script = file.with_name("ask")
    script.write_text("#!/bin/sh\necho open sesame\n")
    script.chmod(0o755)
    asked = {**os.environ, "SSH_ASKPASS": str(script), "SSH_ASKPASS_REQUIRE": "force"}
    subprocess.run(["ssh-add", "-q", str(file)], check=True, env=asked)
    taken(file)


def test_a_pkcs8_key_is_converted_by_the_command_that_is_said(make: Make, refused: Told, taken: Told) -> None:
    file = make("eight", "-t", "rsa", "-m", "PKCS8")
    line = refused(file)
    assert "PKCS#8" in line
    command = line[line.index("`") + 1 : line.rindex("`")]
    subprocess.run(["sh", "-c", command], check=True, input="\n\n", text=True)
    taken(file)


def test_a_kind_of_key_that_ec2_does_not_take(make: Make, refused: Told) -> None:
    assert "EC2 takes RSA and ED25519" in refused(make("curve", "-t", "ecdsa"))


def test_the_public_half_of_another_key_beside_it(make: Make, refused: Told) -> None:
    file, other = make("key"), make("other")
    shutil.copy(f"{other}.pub", f"{file}.pub")
    assert f"{file}.pub is not the public half of {file}" in refused(file)


def test_a_public_half_alone(make: Make, refused: Told) -> None:
    file = make("key")
    file.unlink()
    assert "not a private key that can be read" in refused(file)
