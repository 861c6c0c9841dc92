"""The house stays in order: imports run one way, what is typed waits for nothing heavy, what is public is described."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from tasks import lazy
from tests.conftest import REPOSITORY, Inv, Result

# Folders and the modules in hardway/ itself, lowest floor first; what stands beside each other is in brackets. A module
# reaches none on a higher floor, by whatever way. The tasks and the pytest plugin stand on top: nine floors in all.
CHAIN = (
    ("files", "terminal"),
    ("errors", "tables"),
    ("config", "system"),
    "aws",
    ("cli", "ec2", "s3"),
    ("money", "ssh"),
    "fanout",
    ("clusters", "launch", "pmap"),
)
# The same inside hardway/local: what both sides of a local cloud share, what it is made of, the cloud, its server, its
# life. `daemon` starts `daemon_process` as a process.
LOCAL = (
    ("addresses", "beneath", "faults", "running", "signing"),
    ("api", "gate", "machines"),
    ("cloud", "daemon"),
    "fault_injector",
    "server",
    "daemon_process",
)
# What runs on instances imports nothing of ours, and what decides nothing but its own pure parts.
DECIDE_NOTHING_ELSE = ("attempts", "backlog", "complaints", "durations", "health", "hosts", "schedule")
PURE = tuple(f"hardway.pmap.{name}" for name in DECIDE_NOTHING_ELSE)
ON_THEIR_OWN = ("hardway.pmap.agent", *PURE)
PURE_IMPORTS = (
    "__future__", "array", "bisect", "collections", "enum", "hardway", "heapq", "itertools", "math", "random", "typing",
)  # fmt: skip
# It is sent as one file to where nothing else of ours is, and its names are its own.
ALONE_ON_INSTANCES = ("hardway.pmap.agent",)
# Production code meets the local cloud as an endpoint and addresses.
MEET_LOCAL = ("hardway.pytest_plugin", "tasks.demo", "tasks.lazy", "tasks.local", "tasks.overview")
# `cli` makes a sentence of what botocore raised, and imports it then.
WHEN_IT_HAS_FAILED = ("hardway.cli.task", "hardway.aws")
# The first two run on instances and workers. The local cloud's daemon sets variables that moto reads.
READ_IT_ELSEWHERE = ("hardway.pmap.agent", "hardway.pmap.dask_task", "hardway.local.api.moto_import")
NOT_IN_TASKS = ("asyncssh", "boto3", "botocore", "fabric", "moto", "paramiko", "threading")
HEAVY = ("asyncssh", "boto3", "botocore", "cryptography", "fabric", "moto", "paramiko", "rich", "s3transfer")


@cache
def modules(folder: str) -> Mapping[str, Path]:
    """By dotted name, the modules in a folder of this repository."""
    found = {}
    for file in sorted((REPOSITORY / folder).rglob("*.py")):
        parts = file.relative_to(REPOSITORY).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


class _Imports(ast.NodeVisitor):
    """Collects the dotted names of what a module imports, in its functions, too."""

    def __init__(self, package: str, types: bool) -> None:
        self._package = package
        self._types = types
        self.found: set[str] = set()

    def visit_If(self, node: ast.If) -> None:
        for part in [*(node.body if self._types or ast.unparse(node.test) != "TYPE_CHECKING" else []), *node.orelse]:
            self.visit(part)

    def visit_Import(self, node: ast.Import) -> None:
        self.found |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = ".".join(filter(None, [self._package if node.level else "", node.module]))
        for alias in node.names:
            place = f"{base}.{alias.name}"
            self.found.add(getattr(lazy, alias.name).__name__ if base == "tasks.lazy" else place)


@cache
def imported(name: str, types: bool = True) -> frozenset[str]:
    """Dotted names of what a module of ours imports, in place of `tasks.lazy` where that leads to.

    Without `types`, what only a type checker reads is left out.
    """
    file = modules(name.split(".")[0])[name]
    visitor = _Imports(name if file.name == "__init__.py" else name.rpartition(".")[0], types)
    visitor.visit(ast.parse(file.read_text()))
    return frozenset(visitor.found)


def ours(name: str, types: bool = True) -> set[str]:
    """The modules of the library that a module imports."""
    found = set()
    for dotted in imported(name, types):
        while dotted and dotted not in modules("hardway"):
            dotted = dotted.rpartition(".")[0]
        found |= {dotted} - {"", "hardway", name}
    return found - ({WHEN_IT_HAS_FAILED[1]} if name == WHEN_IT_HAS_FAILED[0] else set())


def reached(name: str, edges: Mapping[str, set[str]]) -> dict[str, str]:
    """Each module that the import of this one leads to, with the one right before it on a way there."""
    before: dict[str, str] = {}
    todo = [name]
    while todo:
        for each in edges[todo[0]] - before.keys():
            before[each] = todo[0]
            todo.append(each)
        del todo[0]
    return before


def way(name: str, end: str, before: Mapping[str, str]) -> str:
    steps = [end]
    while steps[0] != name or len(steps) == 1:
        steps.insert(0, before[steps[0]])
    return " -> ".join(steps)


def ranks(package: str, chain: tuple[str | tuple[str, ...], ...]) -> dict[str, int]:
    """By its name, the floor of each module of a package that stands on a floor of this chain."""
    return {
        name: position
        for position, places in enumerate(chain)
        for place in ([places] if isinstance(places, str) else places)
        for name in modules("hardway")
        if re.match(rf"{package}\.{place}(\.|$)", name) and name not in ON_THEIR_OWN
    }


@pytest.mark.parametrize(("package", "chain"), [("hardway", CHAIN), ("hardway.local", LOCAL)])
def test_imports_run_one_way(package: str, chain: tuple[str | tuple[str, ...], ...]) -> None:
    edges = {name: ours(name) for name in modules("hardway")}
    rank = ranks(package, chain)
    wrong = []
    for name in rank:
        before = reached(name, edges)
        wrong += [way(name, end, before) for end in before if rank.get(end, -1) > rank[name]]
    assert wrong == []


@pytest.mark.parametrize(
    ("package", "chain", "above"),
    [("hardway", CHAIN, {"hardway.__main__", "hardway.pytest_plugin"}), ("hardway.local", LOCAL, set())],
)
def test_each_file_stands_on_a_floor(package: str, chain: tuple[str | tuple[str, ...], ...], above: set[str]) -> None:
    direct = [name for name in modules("hardway") if name.rpartition(".")[0] == package]
    flat = {name for name in direct if modules("hardway")[name].name != "__init__.py"}
    assert flat - {*ranks(package, chain)} == above


def test_no_imports_run_in_a_circle() -> None:
    names = modules("hardway")
    edges = {name: ours(name, types=False) & {*names} for name in names}
    assert [way(name, name, before) for name in edges if name in (before := reached(name, edges))] == []


@pytest.mark.parametrize("name", ON_THEIR_OWN)
def test_what_stands_on_its_own_imports_nothing_of_ours(name: str) -> None:
    assert ours(name) - {*PURE} == set()


@pytest.mark.parametrize("name", PURE)
def test_what_is_pure_can_do_no_io(name: str) -> None:
    assert {each.split(".")[0] for each in imported(name)} <= {*PURE_IMPORTS}


def test_the_local_cloud_is_met_as_an_endpoint() -> None:
    names = [name for name in (*modules("hardway"), *modules("tasks")) if not name.startswith("hardway.local")]
    meet = [name for name in names if any(each.startswith("hardway.local") for each in ours(name))]
    assert set(meet) <= set(MEET_LOCAL)


def test_only_config_reads_the_environment() -> None:
    reads = re.compile(r"\b(os\.environb?|os\.getenv|getproxies_environment)\b")
    files = {**modules("hardway"), **modules("tasks")}
    found = {name for name, file in files.items() if reads.search(file.read_text())}
    assert found - {*READ_IT_ELSEWHERE} == {"hardway.config"}


def test_tasks_are_thin() -> None:
    for name in modules("tasks"):
        assert [each for each in imported(name) if each.split(".")[0] in NOT_IN_TASKS] == [], name


def test_a_file_of_tasks_is_read_in_one_go() -> None:
    long = {file.name for file in (REPOSITORY / "tasks").glob("*.py") if file.read_text().count("\n") > 250}
    assert not long


def test_what_is_for_tasks_is_theirs() -> None:
    for name in modules("hardway"):
        assert not any(each.startswith(("tasks", "hardway.tasks")) for each in imported(name)), name


def test_a_class_name_stands_for_one_thing() -> None:
    declared: dict[str, list[str]] = {}
    for name, file in modules("hardway").items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef) and name not in ALONE_ON_INSTANCES:
                declared.setdefault(node.name, []).append(name)
    assert {name: places for name, places in declared.items() if len(places) > 1} == {}


def test_what_comes_later_is_there() -> None:
    for name in lazy.__all__:
        assert getattr(lazy, name).__name__ in modules("hardway"), name


def test_what_is_public_has_a_docstring() -> None:
    missing = []
    for folder in ("hardway", "tasks"):
        for name, file in modules(folder).items():
            tree = ast.parse(file.read_text())
            missing += [name] if not ast.get_docstring(tree) else []
            for node in tree.body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                    if any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list):
                        continue
                    missing += [f"{name}.{node.name}"] if not ast.get_docstring(node) else []
    assert missing == []


@pytest.mark.parametrize("arguments", ["--list", "--help ec2.new", "--complete -- inv ec2.n"])
def test_what_is_typed_often_waits_for_nothing_heavy(arguments: str, inv: Inv) -> None:
    result = inv(*arguments.split(), env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert (result.code, bool(result.stdout)) == (0, True)
    assert loaded(result) & {*HEAVY} == set()


def loaded(result: Result) -> set[str]:
    """The modules that a process with PYTHONPROFILEIMPORTTIME imported."""
    return {line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if line.startswith("import time:")}
