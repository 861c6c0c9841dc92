"""Every setting, declared once with its name, kind, default, unit, limits and help.

A field of a section here is a key of invoke.yaml, a variable `INVOKE_<SECTION>_<FIELD>`, a value of
`c.config.<section>`, and the flag of a task that has a parameter of its name. The flag's help, the line in invoke.yaml
and each check come from the declaration. `settings` lays the defaults, the environment, the configuration and the flags
on each other, in this order.

Only this module reads the environment. The functions at its end give the other variables to the rest of the library.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from invoke.context import Context

from hardway.errors import UsageError, did_you_mean
from hardway.terminal import command_line

LEVELS = ("bwrap", "unshare", "none")
"""The levels of isolation of processes, the best first."""
VM = "vm"
"""The isolation of instances that are virtual machines: it is never chosen by itself."""
REGION_VARIABLES = ("INVOKE_AWS_REGION", "AWS_REGION", "AWS_DEFAULT_REGION", "region")
MOST_HOURS = 100_000.0
_BITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}  # of the units of memory
# EC2 takes bids up to ten times the on-demand price.
_MOST_SPOT = 10.0
Value = TypeVar("Value", str, int, float, bool)


def setting(
    default: Value,
    help: str,
    *,
    unit: str = "",
    unset: str = "",
    least: float = 0,
    most: float = math.inf,
    choices: tuple[str, ...] = (),
) -> Value:
    """Declare a field of a section; `Setting` explains the arguments."""
    about = {"help": help, "unit": unit, "unset": unset, "least": least, "most": most, "choices": choices}
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Aws:
    """The AWS to talk to."""

    region: str = setting("", "AWS region, such as eu-west-1", unset="AWS_REGION, then the profile's")
    profile: str = setting("", "profile of ~/.aws/config", unset="AWS_PROFILE, then the default profile")
    budget: float = setting(
        0.0,
        "that your instances may cost a month before ec2.new asks",
        unit="USD",
        unset="no budget",
    )


@dataclass(frozen=True)
class Ec2:
    """The launch of instances, and the way to reach them."""

    name: str = setting("hardway", "Name tag of new instances")
    num: int = setting(1, "how many instances to start", least=1)
    type: str = setting(
        "m7i.large", "instance type, or several with commas: on demand in that order, spot by price and capacity"
    )
    spot: float = setting(
        0.0,
        "spot instances, for at most this part of the on-demand price (1.0: EC2's limit)",
        unset="on demand",
        most=_MOST_SPOT,
    )
    ami: str = setting("noble", "noble, resolute, jammy, trixie, bookworm, al2023, ami-... or your own image's name")
    key: str = setting("", "name of a key pair at EC2, or a private key's file", unset="one is made")
    sg: str = setting("", "security groups, ids or names with commas", unset="one that lets SSH in from here is made")
    vpc: str = setting("", "VPC to start in, its name or id", unset="the default VPC")
    subnet: str = setting("", "subnet to start in", unset="the VPC's")
    zone: str = setting("", "availability zone", unset="where EC2 has capacity")
    role: str = setting("", "name of an IAM instance profile")
    gigs: int = setting(0, "of the root volume", unit="GiB", unset="the image's own size")
    init: str = setting("", "user data run at first boot: a file, or the text of a bash script")
    no_wait_init: bool = setting(False, "count instances as ready while their --init still runs")
    seconds_timeout: int = setting(300, "to wait until all instances are ready", unit="seconds")
    seconds_wait: int = setting(
        0, "after which the ready instances are enough, and the others are terminated", unit="seconds", unset="never"
    )
    ssh_user: str = setting("", "login user", unset="the image's own")
    ssh_port: int = setting(22, "port of the SSH server on new instances", least=1, most=65535)
    ssh_from: str = setting("", "network in CIDR form that hardway-ssh lets in", unset="this machine's public address")
    connect_timeout: int = setting(15, "for each step of connecting to an instance", unit="seconds")
    max_connections: int = setting(100, "instances to be connected to at the same time", least=1)
    min: int = setting(0, "how many instances are enough if EC2 has no more", unset="as many as num")
    max_hours: float = setting(
        12.0, "after which an instance ends itself", unit="hours", unset="never", most=MOST_HOURS
    )
    max_cost: float = setting(
        0.0, "that new instances may cost within max-hours; else none is started", unit="USD", unset="no limit"
    )
    private_ip: bool = setting(False, "connect to the private addresses of instances")
    via: str = setting(
        "",
        "ssm: connect by AWS Systems Manager and the CLI's session-manager-plugin",
        unset="the network",
        choices=("ssm", ""),
    )
    idle_minutes: float = setting(
        0.0,
        "without a connection, a pmap job or load after which an instance ends itself",
        unit="minutes",
        unset="never",
        most=MOST_HOURS * 60,
    )
    aws: str = setting(
        "auto",
        "`aws` of tasks: fast is hardway's, real the instance's, auto hardway's where there is none",
        choices=("auto", "fast", "real"),
    )
    on_demand: int = setting(0, "with spot, how many of the instances are on demand")

    @property
    def types(self) -> tuple[str, ...]:
        """The names in `type`."""
        return _names(self.type)

    @property
    def groups(self) -> tuple[str, ...]:
        """The names in `sg`."""
        return _names(self.sg)


@dataclass(frozen=True)
class Mapreduce:
    """The way pmap runs a job."""

    slots: int = setting(1, "commands at a time on an instance", unset="one a CPU")
    retries: int = setting(3, "attempts after a task's first")
    retry_sleep: float = setting(30.0, "to wait at most before a retry", unit="seconds")
    timeout: float = setting(0.0, "until an attempt is ended and counts as failed", unit="seconds", unset="never")
    memory: str = setting("", "memory that a task and all it starts may use, such as 2g", unset="no limit")
    reconnect: float = setting(300.0, "until an instance that can't be reached is given up", unit="seconds")
    linger: float = setting(3600.0, "without a connection until an agent on an instance ends itself", unit="seconds")
    keep_days: float = setting(
        0.0, "without work until a finished job is deleted, when another begins", unit="days", unset="never"
    )


@dataclass(frozen=True)
class Cluster:
    """The start of a cluster of an engine, Spark or Dask."""

    python: str = setting(
        "", "a Python on the instances that has the engine", unset="the one of --install, then python3"
    )
    version: str = setting(
        "", "the engine's version", unset="the installed one, for --install this machine's, then the newest"
    )
    memory: str = setting("", "memory of each worker, such as 4g or 512m", unset="the engine's choice")


@dataclass(frozen=True)
class Local:
    """The local cloud."""

    boot_delay: float = setting(0.0, "from pending to running", unit="seconds")
    isolation: str = setting(
        "auto",
        "bwrap, unshare or none; auto: the first of these that works here; vm: virtual machines",
        choices=("auto", *LEVELS, VM),
    )
    launch_bucket: int = setting(1000, "instances that can be launched at once, as at EC2", least=1)
    launch_refill: float = setting(2.0, "more instances that can be launched each second")


@dataclass(frozen=True)
class Settings:
    """All sections, and the session of the S3 stub that travels with a command to an instance."""

    aws: Aws = Aws()
    ec2: Ec2 = Ec2()
    mapreduce: Mapreduce = Mapreduce()
    cluster: Cluster = Cluster()
    local: Local = Local()
    stub_session: Mapping[str, str] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """The origin of each setting that is set, by the setting's name (`ec2.num`): its flag, its variable, or its key."""

    def source(self, name: str) -> str:
        """Name the thing to change in an error about a setting (`ec2.num`): its flag, its variable, or its key."""
        return self.sources.get(name, name)

    def in_region(self, region: str) -> Settings:
        """Return the same settings for another region, which the command lines for a person name, too."""
        aws = dataclasses.replace(self.aws, region=region)
        return dataclasses.replace(self, aws=aws, sources={**self.sources, "aws.region": "--region"})

    def command(self, *words: str) -> str:
        """Return the command line that runs a task in the region of the --region flag, for a person to paste."""
        region = ["--region", self.aws.region] if self.sources.get("aws.region") == "--region" else []
        return command_line(*words, *region)


SECTIONS: dict[str, type[Any]] = {"aws": Aws, "ec2": Ec2, "mapreduce": Mapreduce, "cluster": Cluster, "local": Local}


class Setting(NamedTuple):
    """One setting's declaration.

    `help` goes on after `unit`, if there is one: seconds, until something happens. `unset` is the meaning of 0 or of an
    empty text. `least` and `most` are the limits of a number; a text is one of the `choices`, if there are any.
    """

    section: str
    name: str
    default: Any
    help: str
    unit: str
    unset: str
    least: float
    most: float
    choices: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def kind(self) -> type[Any]:
        """The type of its values: str, int, float or bool."""
        return type(self.default)

    @property
    def flag(self) -> str:
        """The flag of tasks that have a parameter of this name."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def variable(self) -> str:
        """The variable of the environment, as Invoke names it."""
        return f"INVOKE_{self.section}_{self.name}".upper()

    def described(self, empty: str) -> str:
        """Explain the setting in a line; `empty` stands before the meaning of the empty text."""
        zero = f"; {empty if self.kind is str else '0:'} {self.unset}" if self.unset else ""
        return f"{self.unit} {self.help}{zero}".lstrip()

    def read(self, value: Any, source: str) -> Any:
        """Return `value`, text or not, as the setting's kind. Raises UsageError about `source` for a bad value."""
        if self.kind is bool:
            return _switch(value, source)
        if self.kind is str:
            return _one_of(_text(value), self.choices, source)
        return number(value, self.kind, source, least=self.least, most=self.most, unit=self.unit)


SETTINGS = {
    f"{section}.{each.name}": Setting(section, each.name, each.default, **each.metadata)
    for section, cls in SECTIONS.items()
    for each in dataclasses.fields(cls)
}


def defaults(*sections: str) -> dict[str, dict[str, Any]]:
    """Return the defaults of the named sections, as `ns.configure` takes them.

    Invoke reads an `INVOKE_*` variable only for a key that some collection has declared. It would show a traceback for
    a variable that it can't read as the declared kind. Raises UsageError for such a variable first.
    """
    for known in SETTINGS.values():
        if known.section in sections and known.variable in os.environ:
            known.read(os.environ[known.variable], known.variable)
    return {name: dataclasses.asdict(SECTIONS[name]()) for name in sections}


def settings(
    c: Context,
    region: str | None = None,
    *,
    ec2: Mapping[str, Any] | None = None,
    mapreduce: Mapping[str, Any] | None = None,
    cluster: Mapping[str, Any] | None = None,
    local: Mapping[str, Any] | None = None,
    real_s3: bool = False,
) -> Settings:
    """Return the settings from the defaults, the environment, the context's configuration and the flags of a task.

    `region` is the value of a `--region` flag, and the mappings are the values of the sections' flags. None means not
    given, and so does False, since a switch can't be turned off by a flag. With `real_s3` no session of the S3 stub
    travels. Raises UsageError for a bad value, or a setting that does not exist.
    """
    chosen: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    sources: dict[str, str] = {}
    for known, value, source in _layers(c, {"ec2": ec2, "mapreduce": mapreduce, "cluster": cluster, "local": local}):
        values, name = chosen[known.section], str(known)
        if source == name and values.get(known.name) == value:
            continue  # Invoke also takes this value from the environment
        values[known.name], sources[name] = value, source
    sections = {section: cls(**chosen[section]) for section, cls in SECTIONS.items()}
    aws = dataclasses.replace(sections["aws"], region=_region(c, region, sections["aws"].region))
    if region or c.config.get("hardway_region"):
        sources["aws.region"] = "--region"
    stub = {} if real_s3 else _stub_variables()
    return Settings(**{**sections, "aws": aws}, stub_session=stub, sources=sources)


def _layers(c: Context, flags: Mapping[str, Mapping[str, Any] | None]) -> Iterator[tuple[Setting, Any, str]]:
    """Yield each setting that is set, place by place: the setting, its value, and the thing to change there."""
    yield from _variables()
    for section in SECTIONS:
        for key, value in (c.config.get(section) or {}).items():
            known = _find(section, key, "in invoke.yaml")
            yield known, known.read(value, f"the setting {known}"), str(known)
    for section, values in flags.items():
        for key, value in (values or {}).items():
            if value is not None and value is not False:
                known = SETTINGS[f"{section}.{key}"]
                yield known, known.read(value, known.flag), known.flag


def _variables() -> Iterator[tuple[Setting, Any, str]]:
    """Yield the settings in the environment.

    Invoke reads variables for the collection of the called task only. When a task of another collection calls ours,
    none of these settings is in the context's configuration.
    """
    for variable, value in os.environ.items():
        section = next((name for name in SECTIONS if variable.startswith(f"INVOKE_{name}_".upper())), "")
        if section:
            key = variable.removeprefix(f"INVOKE_{section}_".upper()).lower()
            known = _find(section, key, f"{variable} in the environment")
            yield known, known.read(value, variable), variable


def _find(section: str, name: str, where: str) -> Setting:
    if f"{section}.{name}" not in SETTINGS:
        names = [each.name for each in SETTINGS.values() if each.section == section]
        raise UsageError(f"there is no setting {section}.{name} ({where}){did_you_mean(name, names)}")
    return SETTINGS[f"{section}.{name}"]


def _region(c: Context, flag: str | None, configured: str) -> str:
    """Take the region from the flag, `with ec2.region(...)`, the environment or invoke.yaml; empty: the profile's."""
    chosen = flag or c.config.get("hardway_region")
    if chosen:
        return str(chosen)
    return next((os.environ[name] for name in REGION_VARIABLES if os.environ.get(name)), configured)


def _text(value: Any) -> str:
    """Return `value` as text: a list's items, from invoke.yaml or Python, with commas; empty for None."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else "" if value is None else str(value)


def _names(value: str) -> tuple[str, ...]:
    return tuple(filter(None, re.split(r"[\s,]+", value)))


def _one_of(value: str, choices: tuple[str, ...], what: str) -> str:
    if choices and value not in choices:
        wanted = ", ".join(choice or "empty" for choice in choices)
        raise UsageError(f"{what} is {value!r}: it must be one of {wanted}{did_you_mean(value, choices)}")
    return value


def _switch(value: Any, what: str) -> bool:
    """Read a switch. Invoke takes every word for true, so only texts with one meaning to both are accepted."""
    if isinstance(value, bool):
        return value
    if str(value) not in ("", "0", "1"):
        raise UsageError(f"{what} is {str(value)!r}: it must be 1 or 0, in invoke.yaml true or false")
    return str(value) == "1"


def number(value: Any, kind: type, what: str, *, least: float = 0, most: float = math.inf, unit: str = "") -> Any:
    """Read `value` (text or a number) as a `kind` (int or float) within limits; `what` names it in the error."""
    try:
        result = kind(str(value))
        if not least <= result <= most:
            raise ValueError
    except ValueError:
        wanted = ("a whole number" if kind is int else "a number") + (f" of {unit}" if unit else "")
        limits = f"{least:.0f} or more" if most == math.inf else f"at least {least:.0f} and at most {most:.0f}"
        raise UsageError(f"{what} is {str(value)!r}: it must be {wanted}, {limits}") from None
    return result


def mebibytes(text: str, what: str) -> int:
    """Return the MiB in an amount such as 512m or 4g; 0 for an empty text. `what` names it in the error.

    Raises UsageError for an invalid amount.
    """
    found = re.fullmatch(r"(\d{1,9})([kmgt]?)(i?b)?", text.strip().lower())
    amount = int(found[1]) << _BITS[found[2]] >> 20 if found else 0
    if text and not amount:
        raise UsageError(f"{what} {text!r}: write it as 512m or 4g, at least 1m")
    return amount


# The rest of the environment, for us and for the programs that we start.


def child_environment(added: Mapping[str, str] | None = None, *, without: tuple[str, ...] = ()) -> dict[str, str]:
    """Return this process's environment for a new process: `added`, and without names that begin with `without`."""
    return {name: value for name, value in os.environ.items() if not name.startswith(without)} | dict(added or {})


def aws_variables() -> dict[str, str]:
    """Return the variables that lead clients of AWS, and the S3 stub's, where it saves the values that it replaces."""
    return {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "s3_stubbed_"))}


def search_path() -> list[str]:
    """Return the directories of PATH."""
    return os.environ.get("PATH", os.defpath).split(os.pathsep)


def temporary_directory() -> Path:
    """Return a shell's directory for temporary files."""
    return Path(os.environ.get("TMPDIR") or "/tmp").resolve()


def proxies() -> dict[str, str]:
    """Return the proxies, by the scheme of a URL."""
    from urllib.request import getproxies_environment  # a hundred modules that most tasks don't need

    return getproxies_environment()


def proxy_exceptions() -> list[str]:
    """Return the hosts that are reached without a proxy."""
    said = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    return list(filter(None, said.split(",")))


@contextlib.contextmanager
def variables_set(added: Mapping[str, str]) -> Iterator[None]:
    """Set these variables of the environment in this block, for calls to another AWS."""
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _stub_variables() -> dict[str, str]:
    names = ("s3_stubbed_session", "s3_stubbed_tmp", "s3_stubbed_cli")
    found = {name: os.environ[name] for name in names if os.environ.get(name)}
    if "s3_stubbed_session" not in found or found.get("s3_stubbed_cli") not in ("1", "2"):
        found.pop("s3_stubbed_cli", None)
    return found
