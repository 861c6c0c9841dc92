"""Invoke's program with our manners: a typo is told what was meant, a closed pipe and Ctrl-C end it without a word.

`hardway` is such a program from the start. `inv` is Invoke's own, which has no hook for what it can't read, but loads
the tasks before it reads their names and flags: `take_over` is for tasks to call then.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections.abc import Iterator

from invoke.exceptions import ParseError
from invoke.parser import Parser, ParserContext, ParseResult
from invoke.program import Program as InvokeProgram

from hardway.cli import Task, closed_stdout_ends
from hardway.errors import HardwayError, UsageError, did_you_mean


class Program(InvokeProgram):
    """A program of the tasks it is given. Exit code 2 for what it can't read, and 130 for Ctrl-C."""

    def parse_core(self, argv: list[str] | None) -> None:
        with self._manners():
            super().parse_core(argv)

    def parse_collection(self) -> None:
        super().parse_collection()
        if self.namespace is not None:
            # Invoke looks for invoke.yaml where it has found tasks, and these come from nowhere.
            self.config.set_project_location(os.getcwd())
            with _settings_read("invoke.yaml"):
                self.config.load_project()

    def update_config(self, merge: bool = True) -> None:
        path = self.args.config.value
        if path and not os.path.isfile(path):
            raise UsageError(f"--config {path}: there is no such file")
        with _settings_read(path or "the settings"):
            super().update_config(merge)

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
        """The task that `--help` stands behind: Invoke would take it for what the task requires."""
        words = self.core.unparsed
        known = {name for task, aliases in self.collection.task_names.items() for name in (task, *aliases)}
        for place, word in enumerate(words):
            tasks = [name for name in words[:place] if name in known]
            if not tasks or not (words[place - 1] == tasks[-1] or place == len(words) - 1):
                continue
            if word == "--help" or (word == "-h" and isinstance(self.collection[tasks[-1]], Task)):
                return tasks[-1]
        return ""

    def parse_cleanup(self) -> None:
        with self._manners():
            super().parse_cleanup()

    def _make_parser(self) -> Parser:
        """Invoke's, but of those tasks alone that the command line may name: to make and copy all flags takes long."""
        words = {*self.core.unparsed, *self.core.remainder.split(), self.args.help.value}
        ignore = self.config.tasks.ignore_unknown_help
        contexts = [
            ParserContext(name=name, aliases=aliases, args=self.collection[name].get_arguments(ignore))
            for name, aliases in self.collection.task_names.items()
            if not words.isdisjoint((name, *aliases))
        ]
        return Parser(initial=self.initial_context, contexts=contexts)

    def execute(self) -> None:
        # What `hardway.__main__` has turned off for the imports.
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        super().execute()

    def print_version(self) -> None:
        from importlib.metadata import version

        print(f"{self.name} {version('hardway')}")

    @contextlib.contextmanager
    def _manners(self) -> Iterator[None]:
        with closed_stdout_ends():
            try:
                yield
            except ParseError as error:
                raise self._explained(error) from None
            except ValueError as error:
                # Of a task whose default is a number.
                wrong = re.fullmatch(r"(?:invalid literal|could not convert).*: ('.*')", str(error))
                if not wrong:
                    raise
                raise UsageError(f"{wrong[1]} is not a number") from None
            finally:
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
def _settings_read(source: str) -> Iterator[None]:
    """Files of settings may hold anything, and Invoke shows a traceback of that."""
    try:
        yield
    except HardwayError:
        raise
    except Exception as error:
        if isinstance(error, AttributeError | TypeError):
            raise UsageError(f"{source} can't be read: it must hold sections, such as ec2:, of settings") from None
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark else ""
        said = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise UsageError(f"{source} can't be read{where}: {said}") from None


def take_over() -> None:
    """If it is Invoke's own program that is running, give it our manners from here on."""
    main = sys.modules.get("invoke.main")
    running = getattr(main, "program", None)
    if type(running) is InvokeProgram:
        running.__class__ = Program
        # Called next, by what runs already and stays as it is.
        load = running.config.load_project

        def load_project(merge: bool = True) -> None:
            with _settings_read("invoke.yaml"):
                load(merge)

        running.config._set(load_project=load_project)
