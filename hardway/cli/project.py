"""The settings in the files of a project, of this user and of this machine, checked as Invoke does not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from invoke.config import AmbiguousMergeError, Config
from invoke.context import Context

from hardway.config import SECTIONS, defaults
from hardway.errors import HardwayError, UsageError

_NO_SECTIONS = "it must hold settings in sections, such as ec2:"


def load(config: Config, directory: Path) -> None:
    """Read a project's invoke.yaml, if there is one. Raises UsageError.

    An invoke.py is not read, as it would be executed: it belongs to somebody's own tasks, for `inv`.
    """
    found = [name for name in ("invoke.yaml", "invoke.yml", "invoke.json") if (directory / name).exists()]
    if found:
        with reading(found[0]):
            config.set_project_location(directory)
            config.load_project()
            check_sections(config)


def context(config: Config) -> Context:
    """Return the context that a task gets: with the environment above the files, and these above the defaults."""
    config.load_collection(defaults(*SECTIONS))
    config.load_shell_env()
    return Context(config)


@contextlib.contextmanager
def reading(source: str) -> Iterator[None]:
    """Raise UsageError for a malformed file of settings, where Invoke would show a traceback."""
    try:
        yield
    except HardwayError as error:
        raise UsageError(f"{source}: {error}") from None
    except AmbiguousMergeError:
        why = "a section (such as ec2:) that has settings in one file is empty, or no section, in another"
        raise UsageError(f"{source}: {why}") from None
    except AttributeError:  # a list, or a text, where Invoke asks for items
        raise UsageError(f"{source}: {_NO_SECTIONS}") from None
    except Exception as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        said = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise UsageError(f"{source} can't be read{where}: {said}") from None


def check_sections(config: Config) -> None:
    """Raise UsageError for a section that is no mapping of settings."""
    if not all(isinstance(name, str) for name in config):
        raise UsageError(_NO_SECTIONS)
    for section in SECTIONS:
        values = config.get(section)
        if values is not None and not (isinstance(values, dict) and all(map(_is_setting, values.items()))):
            raise UsageError(f"{section} must hold names of settings and their values")


def _is_setting(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and not isinstance(item[1], dict)
