"""Invoke's program with our manners: a typo is told what was meant, a closed pipe and Ctrl-C end it without a word.

`hardway` is such a program from the start. `inv` is Invoke's own, which has no hook for what it can't read, but loads
the tasks before it reads their names and flags: `take_over` is for tasks to call then.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import sys
from collections.abc import Iterator
from typing import Any

from invoke.config import Config
from invoke.exceptions import ParseError
from invoke.parser import Argument, Parser, ParseResult
from invoke.program import Program as InvokeProgram

from hardway import streams
from hardway.cli import help
from hardway.config import SECTIONS
from hardway.errors import HardwayError, UsageError, did_you_mean

# Invoke's own flags that mean something to our tasks, which run no shell commands of Invoke's here.
_FLAGS = {
    "complete", "config", "debug", "dry", "help", "list", "list-depth", "list-format", "print-completion-script",
    "version", "write-pyc",
}  # fmt: skip


class Program(InvokeProgram):
    """A program of the tasks it is given. Exit code 2 for what it can't read, and 130 for Ctrl-C."""

    def core_args(self) -> list[Argument]:
        """Those of Invoke's flags that do something; all, where the tasks are somebody else's."""
        every: list[Argument] = super().core_args()
        if self.namespace is None:
            return every
        offered = [argument for argument in every if argument.name in _FLAGS]
        for argument in offered:
            if argument.name == "dry":
                argument.help = "Show what tasks would change, and change nothing."
        return offered

    def parse_core_args(self) -> None:
        super().parse_core_args()
        for argument in super().core_args():
            # Invoke looks at their values.
            if argument.name not in self.core[0].args:
                self.core[0].add_arg(argument)

    def parse_core(self, argv: list[str] | None) -> None:
        with self._manners():
            super().parse_core(argv)

    def create_config(self) -> None:
        with _read_settings("the settings of this machine or user (invoke.yaml, .invoke.yaml)"):
            super().create_config()
            _check_sections(self.config, "_system", "_user")

    def parse_collection(self) -> None:
        super().parse_collection()
        if self.namespace is not None:
            # Invoke looks for invoke.yaml where it has found tasks, and these come from nowhere. An invoke.py would be
            # run, which is for whoever calls `inv` where there are tasks of theirs.
            self.config._set(_file_suffixes=("yaml", "yml", "json"))
            self.config.set_project_location(os.getcwd())
            _load_project(self.config)

    def update_config(self, merge: bool = True) -> None:
        path = self.args.config.value
        if path and not os.path.isfile(path):
            raise UsageError(f"--config {path}: there is no such file")
        with _read_settings(path or "the settings"):
            super().update_config(merge=False)
            _check_sections(self.config, "_runtime")
            self.config.merge()

    def parse_tasks(self) -> None:
        with self._manners():
            task = self._asked_for_help()
            if not task:
                super().parse_tasks()
                return
            self.args.help.value = task
            self.parser = self._make_parser()
            self.tasks = ParseResult()

    def _asked_for_help(self) -> str:
        """The task whose `--help` Invoke would take for what the task requires; empty for none such."""
        for place, word in enumerate(self.core.unparsed):
            if word in ("--help", "-h"):
                try:
                    self._make_parser().parse_argv(self.core.unparsed[:place])
                except ParseError as error:
                    # Not where it is the value of a flag.
                    if error.context and "required positional" in str(error):
                        return str(error.context.name)
        return ""

    def parse_cleanup(self) -> None:
        with self._manners():
            super().parse_cleanup()

    def _make_parser(self) -> Parser:
        """Invoke's, but of those tasks alone that the command line may name: to make and copy all flags takes long."""
        words = {*self.core.unparsed, *self.core.remainder.split(), self.args.help.value}
        ignore = self.config.tasks.ignore_unknown_help
        contexts = [
            help.TaskContext(name=name, aliases=aliases, args=self.collection[name].get_arguments(ignore))
            for name, aliases in self.collection.task_names.items()
            if not words.isdisjoint((name, *aliases))
        ]
        return Parser(initial=self.initial_context, contexts=contexts)

    def execute(self) -> None:
        # What `hardway.__main__` has turned off for the imports.
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        super().execute()

    def print_task_help(self, name: str) -> None:
        help.show(self, name)

    def print_version(self) -> None:
        from importlib.metadata import version

        print(f"{self.name} {version('hardway')}")

    @contextlib.contextmanager
    def _manners(self) -> Iterator[None]:
        try:
            yield
        except ParseError as error:
            raise self._explained(error) from None
        except BrokenPipeError as error:
            raise streams.unwritable(error) from None
        except OSError as error:
            # Invoke's own lists and texts of help; a file that can't be read has a name.
            if error.filename:
                raise
            raise streams.unwritable(error) from None
        except ValueError as error:
            # Of a task whose default is a number.
            wrong = re.fullmatch(r"(?:invalid literal|could not convert).*: ('.*')", str(error))
            if not wrong:
                raise
            raise UsageError(f"{wrong[1]} is not a number") from None
        finally:
            with streams.writing():
                sys.stdout.flush()

    def _explained(self, error: ParseError) -> UsageError:
        if valueless := re.fullmatch(r"Flag <\w+: (\w+)\b.*> needed value and was not given one!", str(error)):
            return UsageError(f"--{valueless[1].replace('_', '-')} needs a value")
        unknown = re.fullmatch(r"No idea what '(.*)' is!", str(error))
        if not unknown:
            return UsageError(str(error))
        word, task = unknown[1], error.context if error.context and error.context.name else None
        if task:
            # Invoke takes an unknown flag for what is required, and stumbles over its value.
            given = [argument.value for argument in task.args.values() if argument.positional]
            word = next((value for value in given if str(value).startswith("--")), word)
        if word.startswith("-"):
            flags = task.flag_names() if task else self.initial_context.flag_names()
            where = f"{task.name} has" if task else "there is"
            return UsageError(f"{where} no flag {word}{did_you_mean(word, flags)}")
        if word in self.collection.collections:
            return UsageError(f"{word} is a group of tasks: --list {word} shows them")
        takes = f"{task.name} takes no {word!r}, and " if task else ""
        hint = did_you_mean(word, self.collection.task_names) or "; --list shows all"
        return UsageError(f"{takes}there is no task {word!r}{hint}")


@contextlib.contextmanager
def _read_settings(source: str) -> Iterator[None]:
    """Files of settings may hold anything, and Invoke shows a traceback of that."""
    try:
        yield
    except HardwayError:
        raise
    except Exception as error:
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        said = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise UsageError(f"{source} can't be read{where}: {said}") from None


def _load_project(config: Config) -> None:
    suffixes = ("yaml", "yml", "json", "py")
    found = (f"invoke.{suffix}" for suffix in suffixes if os.path.isfile(f"{config._project_prefix}invoke.{suffix}"))
    with _read_settings(next(found, "invoke.yaml")):
        Config.load_project(config, merge=False)
        _check_sections(config, "_project")
        config.merge()


def _check_sections(config: Config, *levels: str) -> None:
    """Make an empty section, with all that is in it a comment, one without settings; raise UsageError for nonsense."""
    for level in levels:
        settings = getattr(config, level)
        if not isinstance(settings, dict) or not all(isinstance(section, str) for section in settings):
            raise UsageError(f"{_file_of(config, level)} must hold sections, such as ec2:, of settings")
        for section in SECTIONS:
            if section in settings:
                values = settings[section] = {} if settings[section] is None else settings[section]
                if not isinstance(values, dict) or not all(map(_is_setting, values.items())):
                    file = _file_of(config, level)
                    raise UsageError(f"{file}: {section} must hold names of settings and their values")


def _is_setting(item: tuple[Any, Any]) -> bool:
    return isinstance(item[0], str) and not isinstance(item[1], dict)


def _file_of(config: Config, level: str) -> str:
    return str(getattr(config, f"{level}_path", None) or "invoke.yaml")


def take_over() -> None:
    """If it is Invoke's own program that is running, give it our manners from here on."""
    running = getattr(sys.modules.get("invoke.main"), "program", None)
    config = getattr(running, "config", None)
    if config is None or type(running) is not InvokeProgram:
        return
    running.__class__ = Program
    streams.secure()
    _check_sections(config, "_system", "_user")
    # Called next, by what runs already and stays as it is.
    config._set(load_project=functools.partial(_load_project, config))
