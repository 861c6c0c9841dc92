"""Settings: one source of defaults, precedence of the region, one line for what cannot be."""

from __future__ import annotations

import re

import pytest
import yaml
from invoke.config import Config
from invoke.context import Context

from hardway import config
from hardway.errors import UsageError
from tests import invoke_yaml
from tests.tasks_page import help_of

SECTIONS = ("aws", "ec2", "mapreduce", "cluster", "local")


def context(**sections: object) -> Context:
    return Context(Config(overrides=sections))


@pytest.fixture(autouse=True)
def no_region(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in config.REGION_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_invoke_yaml_holds_every_setting_as_it_is_declared() -> None:
    """`python -m tests.invoke_yaml` writes it anew."""
    text = invoke_yaml.FILE.read_text()
    assert text == invoke_yaml.content()
    executor = {"tasks": {"executor_class": "hardway.cli.executor.Executor"}}
    assert yaml.safe_load(text) == {**config.defaults(*SECTIONS), **executor}
    assert all("# " in line and len(line) <= 120 for line in text.splitlines() if line.startswith("  "))


def test_every_setting_is_declared_in_full() -> None:
    for setting in config.SETTINGS.values():
        assert setting.read(setting.default, "the default") == setting.default
        assert setting.help and not setting.help.endswith("."), setting
        assert setting.choices == () or setting.kind is str


def test_help_says_what_a_setting_says() -> None:
    shown = " ".join(help_of("ec2.new").split())
    assert "how many instances to start (default: 1)" in shown
    assert "hours after which an instance ends itself; 0: never (default: 12)" in shown
    assert "VPC to start in, its name or id; else the default VPC" in shown
    assert "AWS region, such as eu-west-1; else AWS_REGION, then the profile's" in shown
    assert "attempts after a task's first (default: 3)" in " ".join(help_of("mapreduce.pmap").split())


def test_a_flag_is_the_last_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVOKE_EC2_NUM", "2")
    monkeypatch.setenv("INVOKE_EC2_GIGS", "20")
    c = context(ec2={"gigs": 30, "role": "reader", "private_ip": True})
    flags = {"num": None, "gigs": None, "role": ["a", "b"], "private_ip": False}
    ec2 = config.settings(c, ec2=flags, mapreduce={"slots": "4"}).ec2
    assert (ec2.num, ec2.gigs, ec2.role, ec2.private_ip) == (2, 30, "a,b", True)
    assert config.settings(c, mapreduce={"slots": "4"}).mapreduce.slots == 4
    assert config.settings(c, ec2={"private_ip": True, "num": 3}).ec2.num == 3


def test_an_error_names_where_the_value_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(c: Context, **flags: dict[str, object]) -> str:
        with pytest.raises(UsageError) as error:
            config.settings(c, **flags)  # type: ignore[arg-type]
        return str(error.value)

    wanted = "it must be a whole number of seconds, 0 or more"
    c = context(ec2={"seconds_timeout": "late"})
    assert refusal(c) == f"the setting ec2.seconds_timeout is 'late': {wanted}"
    assert refusal(Context(), ec2={"seconds_timeout": "soon"}) == f"--seconds-timeout is 'soon': {wanted}"
    monkeypatch.setenv("INVOKE_EC2_SECONDS_TIMEOUT", "-1")
    assert refusal(Context()) == f"INVOKE_EC2_SECONDS_TIMEOUT is '-1': {wanted}"


def test_a_setting_knows_where_a_person_would_change_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVOKE_EC2_NUM", "2")
    # As Invoke has it, which reads the environment, too.
    c = context(ec2={"num": 2, "min": 3})
    settings = config.settings(c, ec2={"on_demand": 4})
    sources = [settings.source(f"ec2.{name}") for name in ("num", "min", "on_demand", "gigs")]
    assert sources == ["INVOKE_EC2_NUM", "ec2.min", "--on-demand", "ec2.gigs"]


def test_limits_are_those_declared() -> None:
    for flags, said in (
        ({"ssh_port": 65536}, "--ssh-port is '65536': it must be a whole number, at least 1 and at most 65535"),
        ({"spot": 10.5}, "--spot is '10.5': it must be a number, at least 0 and at most 10"),
        ({"idle_minutes": 6_000_001}, "at least 0 and at most 6000000"),
        ({"via": "smm"}, "--via is 'smm': it must be one of ssm, empty; did you mean ssm?"),
    ):
        with pytest.raises(UsageError, match=re.escape(said)):
            config.settings(Context(), ec2=flags)
    with pytest.raises(UsageError, match=r"the setting local\.isolation is 'bwarp': it must be one of auto, bwrap"):
        config.settings(context(local={"isolation": "bwarp"}))


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
        ({"max_connections": 0}, "ec2.max_connections is '0'"),
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
