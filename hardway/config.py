"""Every setting with its default, read once from an Invoke context and validated into frozen objects.

A field here is a key of invoke.yaml, an `INVOKE_<SECTION>_<FIELD>` variable and a value of `c.config.<section>`.
Only this module reads the environment; the library takes `Settings` and never looks further.
"""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from invoke.context import Context

from hardway.errors import UsageError, did_you_mean

REGION_VARIABLES = ("INVOKE_AWS_REGION", "AWS_REGION", "AWS_DEFAULT_REGION", "region")


@dataclass(frozen=True)
class Aws:
    """Which AWS to talk to. An empty string leaves the choice to the AWS profile."""

    region: str = ""
    profile: str = ""


@dataclass(frozen=True)
class Ec2:
    """Defaults of what is launched, and how instances are reached. Times are in seconds, but `max_hours`; USD."""

    name: str = "hardway"
    num: int = 1
    type: str = "m7i.large"
    spot: float = 0.0
    ami: str = "noble"
    key: str = ""
    sg: str = ""
    vpc: str = ""
    subnet: str = ""
    zone: str = ""
    role: str = ""
    gigs: int = 0
    init: str = ""
    seconds_timeout: int = 300
    seconds_wait: int = 0
    ssh_user: str = ""
    ssh_port: int = 22
    ssh_from: str = ""
    connect_timeout: int = 15
    max_connections: int = 100
    min: int = 0
    max_hours: float = 12.0
    max_cost: float = 0.0
    private_ip: bool = False
    via: str = ""
    idle_minutes: float = 0.0
    on_demand: int = 0


@dataclass(frozen=True)
class Mapreduce:
    """Defaults of pmap. Times are in seconds; 0 for `timeout` means no limit, 0 for `slots` one a CPU."""

    slots: int = 1
    retries: int = 10
    retry_sleep: float = 30.0
    timeout: float = 0.0
    reconnect: float = 300.0
    linger: float = 3600.0


@dataclass(frozen=True)
class Cluster:
    """Defaults of the clusters of an engine. An empty string leaves the choice to what is on the instances."""

    python: str = ""
    version: str = ""
    memory: str = ""


@dataclass(frozen=True)
class Local:
    """The local cloud. `boot_delay` is in seconds; `isolation` is auto, bwrap, unshare or none."""

    boot_delay: float = 0.0
    isolation: str = "auto"


@dataclass(frozen=True)
class Settings:
    """All sections, and what of the caller's environment travels with a command to an instance."""

    aws: Aws = Aws()
    ec2: Ec2 = Ec2()
    mapreduce: Mapreduce = Mapreduce()
    cluster: Cluster = Cluster()
    local: Local = Local()
    stub_session: Mapping[str, str] = field(default_factory=dict)


SECTIONS: dict[str, type[Any]] = {"aws": Aws, "ec2": Ec2, "mapreduce": Mapreduce, "cluster": Cluster, "local": Local}


def defaults(*sections: str) -> dict[str, dict[str, Any]]:
    """The defaults of the named sections, as `ns.configure` takes them.

    Invoke reads an `INVOKE_*` variable only for a key that some collection has declared, and shows a traceback for one
    that it cannot read as the declared kind: raises UsageError for such a variable first.
    """
    for section in sections:
        for key, kind in typing.get_type_hints(SECTIONS[section]).items():
            variable = f"INVOKE_{section}_{key}".upper()
            if variable in os.environ:
                _value(variable, kind, os.environ[variable])
    return {name: dataclasses.asdict(SECTIONS[name]()) for name in sections}


def default(section: str, key: str) -> Any:
    """The default of a setting; None where there is no such section or setting."""
    return getattr(SECTIONS.get(section), key, None)


def settings(c: Context, region: str | None = None) -> Settings:
    """Read the context's configuration; `region` is what a `--region` flag said.

    Raises UsageError for a value of the wrong kind or a setting that does not exist.
    """
    sections = {name: _section(name, cls, c.config.get(name) or {}) for name, cls in SECTIONS.items()}
    aws = dataclasses.replace(sections["aws"], region=_region(c, region, sections["aws"].region))
    stub = {key: os.environ[key] for key in ("s3_stubbed_session", "s3_stubbed_tmp") if os.environ.get(key)}
    if not sections["ec2"].max_connections:
        raise UsageError("ec2.max_connections is 0: it must be 1 or more")
    return Settings(**{**sections, "aws": aws}, stub_session=stub)


def _region(c: Context, flag: str | None, configured: str) -> str:
    """Flag, `with ec2.region(...)`, environment, invoke.yaml; empty leaves it to the AWS profile."""
    chosen = flag or c.config.get("hardway_region")
    if chosen:
        return str(chosen)
    return next((os.environ[name] for name in REGION_VARIABLES if os.environ.get(name)), configured)


def _section(name: str, cls: type[Any], values: Mapping[str, Any]) -> Any:
    types = typing.get_type_hints(cls)
    for key in values:
        if key not in types:
            raise UsageError(f"there is no setting {name}.{key} (in invoke.yaml){did_you_mean(key, types)}")
    prefix = f"INVOKE_{name}_".upper()
    for variable in os.environ:
        key = variable.removeprefix(prefix).lower()
        if variable.startswith(prefix) and key not in types:
            where = f"({variable} in the environment)"
            raise UsageError(f"there is no setting {name}.{key} {where}{did_you_mean(key, types)}")
    chosen = {key: _value(f"{name}.{key}", types[key], value) for key, value in values.items()}
    for key in types.keys() - chosen.keys():
        # Invoke reads variables for the collection of the task that was called: in a task of another one, that calls
        # ours, none of these keys is there.
        variable = f"INVOKE_{name}_{key}".upper()
        if variable in os.environ:
            chosen[key] = _value(variable, types[key], os.environ[variable])
    return cls(**chosen)


def _value(setting: str, kind: type, value: Any) -> Any:
    if kind is str:
        return text(value)
    if kind is bool:
        return _switch(setting, value)
    return number(value, kind, f"the setting {setting}")


def text(value: Any) -> str:
    """`value` as text: a list's items with commas, as in invoke.yaml or from Python; empty for None."""
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else "" if value is None else str(value)


def _switch(setting: str, value: Any) -> bool:
    """True or false. Of texts only those that Invoke, which takes every word for true, reads the same way."""
    if isinstance(value, bool):
        return value
    if str(value) not in ("", "0", "1"):
        raise UsageError(f"the setting {setting} is {str(value)!r}: it must be 1 or 0, in invoke.yaml true or false")
    return str(value) == "1"


def number(value: Any, kind: type, what: str) -> Any:
    """`value` (text or a number) as a non-negative `kind` (int or float); `what` names it in the error."""
    try:
        result = kind(str(value))
        if result < 0 or result != result:
            raise ValueError
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        raise UsageError(f"{what} is {str(value)!r}: it must be {wanted}, 0 or more") from None
    return result
