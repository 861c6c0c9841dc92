"""Invoke's executor, which prints what a task of ours returns.

Invoke makes the class that the setting `tasks.executor_class` names. The executor alone can tell a task that was named
on the command line from a task that another one calls. A named task prints its result once and whole, raises where
stdout can't be written, and prints nothing for an empty result.
"""

from __future__ import annotations

import sys
from typing import Any

import invoke

from hardway.cli.task import Lines, Task, needs_executor, translated
from hardway.config import SECTIONS
from hardway.errors import Failed, HardwayError
from hardway.system import streams
from hardway.terminal import printable


class Executor(invoke.Executor):
    """Runs tasks, ours and others; of ours, those named on the command line print their results."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if any(section in self.config and self.config[section] is None for section in SECTIONS):
            self.config = self.config.clone(into=_Config)

    def execute(self, *tasks: Any) -> dict[Any, Any]:
        """See `invoke.Executor.execute`; the standard streams are made ready for results before."""
        streams.secure()
        streams.accept_any_bytes()
        return super().execute(*tasks)

    def normalize(self, tasks: Any) -> list[invoke.Call]:
        """The calls of the named tasks."""
        calls: list[invoke.Call] = super().normalize(tasks)
        for call in calls:
            if isinstance(call.task, Task):
                call.task = _Named(call.task)
        return calls

    def expand_calls(self, calls: list[Any]) -> list[invoke.Call]:
        """The calls with those before and after them; without the check for this executor."""
        return super().expand_calls([call for call in calls if call is not needs_executor])

    def dedupe(self, calls: list[invoke.Call]) -> list[invoke.Call]:
        """The calls without repetitions; a named one stays where it is also another's prerequisite."""
        named = [call for call in calls if isinstance(call.task, _Named)]
        return super().dedupe([next((each for each in named if each == call), call) for call in calls])


class _Config(invoke.Config):
    """Leaves a section empty that a file leaves empty: Invoke can't merge it with the defaults of a collection."""

    def load_collection(self, data: dict[str, Any], merge: bool = True) -> None:
        empty = {name for name in data if name in self and self[name] is None}
        super().load_collection({name: data[name] for name in data.keys() - empty}, merge)


class _Named(Task):
    """A task that was named on the command line, equal to the task that it copies."""

    def __init__(self, task: Task) -> None:
        # Invoke prints nothing then.
        self.__dict__.update(vars(task), autoprint=False)
        self._prints = task.autoprint

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        put = _Output(self.changes is not None).put if self._prints else _print_nothing
        try:
            result = self.call(put, *args, **kwargs)
        except HardwayError as error:
            if error.result is not None:
                put(error.result)
            raise
        put(result)
        return result


def _print_nothing(_result: Any) -> None:
    """Print nothing, for a task that prints by itself, or nothing at all."""


class _Output:
    """Prints the first result it is given. `changes` is whether the task changes something."""

    def __init__(self, changes: bool) -> None:
        self._changes = changes
        self._printed = False

    def put(self, result: Any) -> None:
        """Print a result. Raises HardwayError where stdout can't be written; it names what has been changed."""
        if self._printed:
            return
        self._printed = True
        if type(result) is list:
            result = Lines(result)
        if hasattr(result, "write_to"):  # it may be more than fits in memory
            translated(result.write_to)(streams.Out())
            return
        text = translated(str)(result)
        if not text:  # Invoke itself would print a blank line
            return
        try:
            streams.put(printable(text, keep="\n\t") if sys.stdout.isatty() else text)
        except HardwayError as error:
            if not self._changes:
                raise
            why = str(error) or "nobody reads stdout"
            ids = text.splitlines()
            # Ids, a URL, an address: anything else, such as a shell's settings, may be a secret, and can be asked for.
            told = f": {' '.join(ids)}" if all(len(line.split()) == 1 for line in ids) else ""
            raise Failed(f"{why}; what has been done, and could not be printed{told}") from error
