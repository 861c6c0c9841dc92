"""Tasks as functions for other people's tasks: any context, Python values, one kind of error, and nothing changed."""

from __future__ import annotations

import ast
import dataclasses
import gc
import inspect
import os
import signal
import sys
import threading
import typing
import weakref
from pathlib import Path
from typing import Any

import fabric
import pytest
from invoke import Config, Context, MockContext

from hardway import aws, config
from hardway.errors import HardwayError, UsageError
from tasks import ns
from tests.conftest import REPOSITORY

TASKS = sorted(ns.task_names)
STARTING = {"demo", "test", "bench", "local.up"}
"""Tasks that take nothing which could be wrong, and start something."""
PROCESSES = {"__main__.py", "agent.py", "brief.py", "clean_shell.py", "daemon_process.py", "spawner.py"}
"""Files that run as processes of their own: those may exit."""


def settings_of_all_sections() -> list[tuple[str, str, Any]]:
    odd = {str: "odd", int: 7, float: 7.5, bool: True}
    of = typing.get_type_hints
    sections = {name: cls for name, cls in of(config.Settings).items() if dataclasses.is_dataclass(cls)}
    return [(name, key, odd[kind]) for name, cls in sections.items() for key, kind in of(cls).items()]


def process_state() -> tuple[Any, ...]:
    """The parts of this process that a function might change for everybody else."""
    umask = os.umask(0)
    os.umask(umask)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    return environment, Path.cwd(), umask, handlers, threading.active_count(), sys.stdout.errors, sys.excepthook


@pytest.mark.parametrize("name", TASKS)
def test_every_parameter_and_result_is_annotated(name: str) -> None:
    signature = inspect.signature(ns[name].body)
    # Text for --json, else the instances, prices and so on: a union would be in the way of whoever goes on with them.
    assert signature.return_annotation != "Any" or "json" in signature.parameters
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in list(signature.parameters.values()):
        assert parameter.annotation not in (inspect.Parameter.empty, "Any"), parameter
    assert next(iter(signature.parameters.values())).annotation == "Context"


@pytest.mark.parametrize("name", [name for name in TASKS if name not in STARTING])
def test_nonsense_is_a_hardway_error_and_changes_nothing(name: str, home: Path) -> None:
    task = ns[name]
    parameters = list(inspect.signature(task.body).parameters.values())[1:]
    required = {one.name: "-nonsense" for one in parameters if one.default is inspect.Parameter.empty}
    before = process_state()
    for wrong in [{}, *({one.name: "-nonsense"} for one in parameters if "int" in one.annotation)]:
        try:
            task(Context(), **{**required, **wrong})
        except HardwayError as error:
            assert error.code in (1, 2)
            assert str(error) and "\n" not in str(error) and "a bug" not in str(error)
        else:
            assert not wrong and not required
    assert process_state() == before


def test_nothing_exits() -> None:
    """The caller of a task goes on after it."""
    for file in [*(REPOSITORY / "tasks").glob("*.py"), *(REPOSITORY / "hardway").rglob("*.py")]:
        if file.name in PROCESSES:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            named = ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""
            assert named not in ("exit", "quit", "sys.exit", "os._exit", "os.abort", "SystemExit"), file


@pytest.mark.parametrize(("section", "key", "value"), settings_of_all_sections())
def test_a_context_reaches_every_setting(section: str, key: str, value: Any, home: Path) -> None:
    c = Context(Config(overrides={section: {key: value}}))
    try:
        assert getattr(getattr(config.settings(c), section), key) == value
    except UsageError as error:
        assert key in str(error)
    # as an assignment in somebody's task, too
    c = Context()
    c.config[section] = {key: value}  # type: ignore[assignment]
    if value != "odd":
        assert getattr(getattr(config.settings(c), section), key) == value


@pytest.mark.parametrize("c", [Context(), MockContext(), fabric.Connection("example.org")])
def test_any_context_has_the_defaults(c: Context, home: Path) -> None:
    for field in dataclasses.fields(config.Settings):
        assert getattr(config.settings(c), field.name) == getattr(config.Settings(), field.name)


def test_lists_are_as_good_as_text(home: Path) -> None:
    texts = Context(Config(overrides={"ec2": {"type": "c7i.large,m7i.large", "sg": "a,b"}}))
    lists = Context(Config(overrides={"ec2": {"type": ["c7i.large", "m7i.large"], "sg": ["a", "b"]}}))
    assert config.settings(texts) == config.settings(lists)


def test_clients_of_clouds_that_are_gone_are_let_go(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws, "KEPT_CLIENTS", 1)
    settings = config.settings(Context(), "eu-west-1")
    first = aws.ec2(settings)
    assert aws.ec2(settings) is first
    gone = weakref.ref(first)
    del first
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    aws.ec2(settings)
    gc.collect()
    assert gone() is None
