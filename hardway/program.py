"""Invoke's program with our manners: a typo is told what was meant, a closed pipe and Ctrl-C end it without a word.

`hardway` is such a program from the start. `inv` is Invoke's own, which has no hook for what it can't read, but loads
the tasks before it reads their names and flags: `take_over` is for tasks to call then.
"""

from __future__ import annotations

import contextlib
import re
import signal
import sys
from collections.abc import Iterator

from invoke.exceptions import ParseError
from invoke.parser import Parser, ParserContext
from invoke.program import Program as InvokeProgram

from hardway.cli import closed_stdout_ends
from hardway.errors import UsageError, did_you_mean


class Program(InvokeProgram):
    """A program of the tasks it is given. Exit code 2 for what it can't read, and 130 for Ctrl-C."""

    def parse_core(self, argv: list[str] | None) -> None:
        with self._manners():
            super().parse_core(argv)

    def parse_tasks(self) -> None:
        with self._manners():
            super().parse_tasks()

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
            finally:
                sys.stdout.flush()

    def _explained(self, error: ParseError) -> UsageError:
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
        takes = f"{task.name} takes no {word!r}, and " if task else ""
        return UsageError(f"{takes}there is no task {word!r}{did_you_mean(word, self.collection.task_names)}")


def take_over() -> None:
    """If it is Invoke's own program that is running, give it our manners from here on."""
    main = sys.modules.get("invoke.main")
    running = getattr(main, "program", None)
    if type(running) is InvokeProgram:
        running.__class__ = Program
