"""Settings: one source of defaults, precedence of the region, one line for what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from invoke.config import Config
from invoke.context import Context

from hardway import config
from hardway.errors import UsageError

SECTIONS = ("aws", "ec2", "mapreduce", "cluster", "local")


def context(**sections: object) -> Context:
    return Context(Config(overrides=sections))


@pytest.fixture(autouse=True)
def no_region(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in config.REGION_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_invoke_yaml_holds_every_default_with_a_comment() -> None:
    file = Path(__file__).parent.parent / "invoke.yaml"
    executor = {"tasks": {"executor_class": "hardway.cli.executor.Executor"}}
    assert yaml.safe_load(file.read_text()) == {**config.defaults(*SECTIONS), **executor}
    settings = [line for line in file.read_text().splitlines() if line.startswith("  ")]
    assert all("# " in line for line in settings)


def test_a_bare_context_has_the_defaults() -> None:
    assert config.settings(Context()).ec2 == config.Ec2()


def test_a_context_overrides() -> None:
    settings = config.settings(context(ec2={"type": "c7i.large", "num": "3", "spot": 1}))
    assert (settings.ec2.type, settings.ec2.num, settings.ec2.spot) == ("c7i.large", 3, 1.0)


def test_a_variable_reaches_a_context_that_declares_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task of somebody's own that calls ours runs with its own collection's configuration."""
    monkeypatch.setenv("INVOKE_EC2_SSH_PORT", "2222")
    assert config.settings(Context()).ec2.ssh_port == 2222
    assert config.settings(context(ec2={"ssh_port": 23})).ec2.ssh_port == 23
    monkeypatch.setenv("INVOKE_EC2_SSH_PORT", "x")
    with pytest.raises(UsageError, match="INVOKE_EC2_SSH_PORT"):
        config.settings(Context())
    monkeypatch.delenv("INVOKE_EC2_SSH_PORT")
    monkeypatch.setenv("INVOKE_EC2_SSH_PROT", "2222")
    with pytest.raises(UsageError, match=r"\(INVOKE_EC2_SSH_PROT in the environment\); did you mean ssh_port\?"):
        config.settings(Context())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"tpye": "x"}, "there is no setting ec2.tpye (in invoke.yaml); did you mean type?"),
        ({"num": "many"}, "ec2.num is 'many'"),
        ({"connect_timeout": -1}, "ec2.connect_timeout is '-1'"),
        ({"spot": "nan"}, "ec2.spot is 'nan'"),
        ({"num": 1.5}, "ec2.num is '1.5'"),
        ({"max_connections": 0}, "ec2.max_connections is 0"),
    ],
)
def test_what_cannot_be_is_named(values: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError) as error:
        config.settings(context(ec2=values))
    assert said in str(error.value)
    assert error.value.code == 2


def test_where_the_region_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    c = context(aws={"region": "eu-north-1"})
    assert config.settings(c).aws.region == "eu-north-1"
    for name, value in (
        ("region", "us-west-1"),
        ("AWS_DEFAULT_REGION", "us-west-2"),
        ("AWS_REGION", "eu-west-1"),
        ("INVOKE_AWS_REGION", "eu-west-2"),
    ):
        monkeypatch.setenv(name, value)
        assert config.settings(c).aws.region == value
    assert config.settings(c, "ap-south-1").aws.region == "ap-south-1"


def test_a_block_in_a_region(monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks import ec2

    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    c = Context()
    with ec2.region(c, "eu-north-1"):
        assert config.settings(c).aws.region == "eu-north-1"
        with ec2.region(c, "us-east-2"):
            assert config.settings(c).aws.region == "us-east-2"
        assert config.settings(c).aws.region == "eu-north-1"
    assert config.settings(c).aws.region == "eu-west-1"
