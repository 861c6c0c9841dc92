"""Python imports this at the start of each process of a test run: its directory is in PYTHONPATH.

Each request that goes through botocore is held against the service's model. botocore itself leaves most of this to
AWS: https://smithy.io/2.0/spec/constraint-traits.html lists the constraints. A request outside the model is written to
the file that `RECORD` names, and the fixture `requests_fit_the_model` fails the test.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any

RECORD = "HARDWAY_TEST_OUTSIDE_MODEL"
"""The environment variable with the file's path."""

FOR_EC2_TO_JUDGE = {"InstanceType"}
"""People name these, and EC2 has new ones before botocore has them."""

_CATEGORY = re.compile(r"\\p\{(\w)\}")


def outside(value: Any, shape: Any, where: str = "") -> Iterator[str]:
    """Say what in a parameter is outside of botocore's model of it."""
    if shape.type_name == "structure" and isinstance(value, dict):
        for name, part in value.items():
            if name in shape.members:
                yield from outside(part, shape.members[name], f"{where}.{name}")
    elif shape.type_name == "list" and isinstance(value, list | tuple):
        yield from _range(len(value), shape, where, "elements")
        for number, part in enumerate(value):
            yield from outside(part, shape.member, f"{where}[{number}]")
    elif shape.type_name == "map" and isinstance(value, dict):
        yield from _range(len(value), shape, where, "elements")
        for name, part in value.items():
            yield from outside(name, shape.key, f"{where}.{name}")
            yield from outside(part, shape.value, f"{where}.{name}")
    elif shape.type_name == "string" and isinstance(value, str):
        yield from _range(len(value), shape, where, "characters")
        yield from _word(value, shape, where)
    elif shape.type_name == "blob" and isinstance(value, str | bytes | bytearray):
        yield from _range(len(value), shape, where, "bytes")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _range(value, shape, where, "as a value")


def _range(size: float, shape: Any, where: str, what: str) -> Iterator[str]:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if (least is not None and size < least) or (most is not None and size > most):
        yield f"{where}: {size} {what}, and {shape.name} has from {least} to {most}"


def _word(value: str, shape: Any, where: str) -> Iterator[str]:
    pattern, words = shape.metadata.get("pattern"), shape.enum
    if words and value not in words and shape.name not in FOR_EC2_TO_JUDGE:
        yield f"{where}: {value!r} is none of the words of {shape.name}"
    if pattern and not re.fullmatch(*_readable(pattern, value)):
        yield f"{where}: {value!r} does not match {pattern!r} of {shape.name}"


def _readable(pattern: str, value: str) -> tuple[str, str]:
    r"""Python's `re` has no \p{L}: put the characters of the value that are in the category in its place."""

    def characters(found: re.Match[str]) -> str:
        return "".join(re.escape(each) for each in set(value) if unicodedata.category(each)[0] == found[1])

    return _CATEGORY.sub(characters, pattern).replace(r"[\w-\/", r"[\w\-\/"), value


def judge(params: Any, model: Any, **_: Any) -> None:
    """Handle botocore's event before a request is made; an emitter passes more than a judge needs."""
    if model.input_shape is None or RECORD not in os.environ:
        return
    for each in outside(params, model.input_shape):
        line = f"{model.service_model.service_name}.{model.name}{each} ({' '.join(sys.argv)})"
        with open(os.environ[RECORD], "a") as record:
            record.write(json.dumps(line) + "\n")


class _Finder(importlib.abc.MetaPathFinder):
    """Adds the judge to botocore's own handlers when a process imports them, and costs the others nothing."""

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != "botocore.handlers":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_add(module: Any) -> None:
                load(module)
                module.BUILTIN_HANDLERS.append(("before-parameter-build", judge))

            setattr(spec.loader, "exec_module", load_and_add)  # noqa: B010
        return spec


def install() -> None:
    """Judge what this process sends from now on."""
    sys.meta_path.insert(0, _Finder())


if RECORD in os.environ:
    install()
