"""Invoke's program with our manners: a typo gets a suggestion; a closed pipe and Ctrl-C end the program silently.

`hardway` is such a program, and so is `./inv` in a checkout. `inv` alone is Invoke's own program, which runs our tasks
from somebody else's tasks.py. There `hardway.cli.executor` prints results, and Invoke handles all words before a task.

Invoke has no hook for the following cases. Each line names the loss, or the replacement:

- The messages of `inv` for a flag or an invoke.yaml that it can't read. Lost: the exit code is 1, and a broken
  invoke.yaml is a traceback.
- The reason of a ParseError. `_explained` reads its text.
- A program with fewer flags: `update_config` asks for the value of each. `parse_core_args` adds the flags that we don't
  offer.
- An argument without a flag that may be left out. `_parse_words` adds an empty one; for `inv` it is required.
- A flag with a value that is given twice. `_refuse_repeated` looks for one before Invoke reads the words.
- An unknown flag, or `--help`, of a task that requires an argument: Invoke takes it for the argument.
  `_asked_for_help` and `_explained` look for it there.
- Completion of values. `_complete` knows which word is asked for.
- Flags for only some tasks. `_Mentioned` is a tree without flags for the others.
- Settings for tasks that come from no directory. `project.load` names the directory.
- The file with a bad setting. An error names the file that was read last.
- An empty section, such as `ec2:`, that has settings in another file. Lost: this is an error.

No private name of Invoke is used. `hardway.ssh.connection` and `hardway.fanout.group` name those of Paramiko and
Fabric.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from invoke.collection import Collection
from invoke.context import Context
from invoke.exceptions import Exit, ParseError
from invoke.parser import Argument, Parser, ParserContext, ParseResult
from invoke.program import Program as InvokeProgram

from hardway.cli import completion, help, project
from hardway.cli.executor import Executor
from hardway.cli.flags import Omissible
from hardway.errors import UsageError, did_you_mean
from hardway.system import streams

# Invoke's own flags that mean something to our tasks, which run no shell commands of Invoke's here.
_FLAGS = {
    "complete", "config", "debug", "dry", "help", "list", "list-depth", "list-format", "print-completion-script",
    "version", "write-pyc",
}  # fmt: skip

Values = Callable[[Context, str, str, Mapping[str, str], str], Iterable[str]]
"""Returns the values of an argument: `hardway.cli.completion.Values`, with a context for the settings."""


class Program(InvokeProgram):
    """A program of given tasks. The exit code is 2 for words it can't parse, and 130 for Ctrl-C.

    Settings are read from the directory `project`, or from the current one for None. `values` completes the values of
    arguments at the prompt.
    """

    def __init__(
        self, *, namespace: Collection, project: Path | None = None, values: Values | None = None, **options: Any
    ) -> None:
        super().__init__(namespace=namespace, **options)
        self.project = project
        self.values = values

    def core_args(self) -> list[Argument]:
        """Return Invoke's flags that have an effect."""
        offered = [argument for argument in super().core_args() if argument.name in _FLAGS]
        for argument in offered:
            if argument.name == "dry":
                argument.help = "Show what tasks would change, and change nothing."
        return offered

    def parse_core_args(self) -> None:
        super().parse_core_args()
        for argument in super().core_args():
            if argument.name not in self.args:
                self.args[argument.name] = argument
        if shell := self.args["print-completion-script"].value:
            print(completion.script(shell, self.name), end="")
            raise Exit

    def parse_core(self, argv: list[str] | None) -> None:
        with self._manners():
            super().parse_core(argv)

    def create_config(self) -> None:
        with project.reading("the settings of this machine or user (invoke.yaml, .invoke.yaml)"):
            super().create_config()
            project.check_sections(self.config)

    def parse_collection(self) -> None:
        super().parse_collection()
        words = {*self.core.unparsed, *self.core.remainder.split(), self.args.help.value}
        self.collection = self.scoped_collection = _Mentioned(self.collection, words)

    def update_config(self, merge: bool = True) -> None:
        # Reading takes long, so a list of tasks and a help page do without.
        project.load(self.config, self.project or Path.cwd())
        path = self.args.config.value
        if path and not os.path.isfile(path):
            raise UsageError(f"--config {path}: there is no such file")
        with project.reading(path or "the settings"):
            super().update_config(merge)
            project.check_sections(self.config)

    def parse_tasks(self) -> None:
        with self._manners():
            task = self._asked_for_help()
            if not task:
                self._refuse_repeated()
                self._parse_words()
                return
            self.args.help.value = task
            self.parser = self._task_parser()
            self.tasks = ParseResult()

    def _parse_words(self) -> None:
        try:
            super().parse_tasks()
        except ParseError as error:
            missing = error.context.missing_positional_args if error.context else []
            if "required positional" not in str(error) or not all(isinstance(each, Omissible) for each in missing):
                raise
            # A task takes any words that follow for what it lacks, so that this one is the last.
            self.core.unparsed += [""] * len(missing)
            super().parse_tasks()

    def _asked_for_help(self) -> str:
        """Return the task whose `--help` Invoke would take for a required argument; empty if there is none."""
        for place, word in enumerate(self.core.unparsed):
            if word in ("--help", "-h"):
                try:
                    self._task_parser().parse_argv(self.core.unparsed[:place])
                except ParseError as error:
                    # There is no such error if `--help` is the value of a flag.
                    if error.context and "required positional" in str(error):
                        return str(error.context.name)
        return ""

    def _refuse_repeated(self) -> None:
        """Raise UsageError for a flag with a value that is given twice: Invoke would take the second value for a task's
        argument, or for a task.
        """
        words = iter(self.core.unparsed)
        contexts: Mapping[str, ParserContext] = self._task_parser().contexts
        flags: Mapping[str, Argument] = {}
        given: set[str] = set()
        for word in words:
            flag, has_value, _ = word.partition("=")
            if flag in flags:
                argument = flags[flag]
                if not argument.takes_value or argument.kind is list:
                    continue
                name = f"--{argument.name}".replace("_", "-")
                if name in given:
                    raise UsageError(f"{name} is given twice")
                given.add(name)
                if not has_value:
                    next(words, None)
            elif word in contexts:
                flags, given = contexts[word].flags, set()

    def parse_cleanup(self) -> None:
        with self._manners():
            if self.args.complete.value:
                self._complete()
                raise Exit
            super().parse_cleanup()

    def _complete(self) -> None:
        """Print the words that may stand at the cursor, and nothing else: a shell would show it at Tab."""

        def values(task: str, parameter: str, given: Mapping[str, str], word: str) -> Iterable[str]:
            if not self.values:
                return []
            try:
                self.update_config()
                return self.values(project.context(self.config), task, parameter, given, word)
            except Exception:
                return []

        tasks = self._task_parser().contexts
        words = [name for task, aliases in self.collection.task_names.items() for name in (task, *aliases)]
        for word in completion.candidates(self.core.remainder, tasks, words, self.initial_context, values):
            print(word)

    def _task_parser(self) -> Parser:
        contexts = self.collection.to_contexts(self.config.tasks.ignore_unknown_help)
        return Parser(initial=self.initial_context, contexts=contexts)

    def execute(self) -> None:
        # `hardway.__main__` has turned this off for the imports.
        if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        # The configured class is ignored: an invoke.yaml could have one imported from any current directory.
        Executor(self.collection, self.config, self.core).execute(*self.tasks)

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
            # A task whose default is a number has been given a text.
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
        hint = _meant(word, self.collection.task_names)
        return UsageError(f"{takes}there is no task {word!r}{hint}")


def _meant(word: str, tasks: Iterable[str]) -> str:
    """Return a hint at the tasks that a word may mean: those of this name in any group, or the nearest."""
    same = [name for name in tasks if name.rpartition(".")[2] == word]
    if same:
        return f"; did you mean {' or '.join(same)}?"
    return did_you_mean(word, tasks) or "; --list shows all"


class _Mentioned(Collection):
    """A tree of tasks with flags only for tasks that the words name, since making and copying all flags takes long."""

    def __init__(self, tree: Collection, words: Container[str]) -> None:
        self.__dict__.update(vars(tree))
        self._words = words

    def to_contexts(self, ignore_unknown_help: bool | None = None) -> list[ParserContext]:
        return [
            help.TaskContext(name=name, aliases=aliases, args=self[name].get_arguments(ignore_unknown_help))
            for name, aliases in self.task_names.items()
            if any(each in self._words for each in (name, *aliases))
        ]
