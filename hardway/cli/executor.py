"""Invoke's executor, changed: our tasks that were named on the command line print their results.

Our programs use this executor. Invoke's own program `inv` uses it if the setting `tasks.executor_class` names it.
Without the setting, `inv` runs Invoke's executor, and `announced` of `hardway.cli.task` stands in for ours. A task of
ours then prints its result even if it is another task's prerequisite.
"""

from __future__ import annotations

from typing import Any

import invoke

from hardway.cli.task import Task, announced
from hardway.config import SECTIONS
from hardway.system import streams


class Executor(invoke.Executor):
    """Runs all tasks. Our tasks print their results if they are named on the command line."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if any(section in self.config and self.config[section] is None for section in SECTIONS):
            self.config = self.config.clone(into=_Config)

    def execute(self, *tasks: Any) -> dict[Any, Any]:
        """Run tasks as `invoke.Executor.execute` does, after making the standard streams ready for results."""
        streams.secure()
        streams.accept_any_bytes()
        return super().execute(*tasks)

    def normalize(self, tasks: Any) -> list[invoke.Call]:
        """Return the calls of the named tasks."""
        calls: list[invoke.Call] = super().normalize(tasks)
        for call in calls:
            if isinstance(call.task, Task):
                call.task = _Named(call.task)
        return calls

    def expand_calls(self, calls: list[Any]) -> list[invoke.Call]:
        """Return the calls with their prerequisites and followers; a named task of ours needs no announcement here."""
        return super().expand_calls([call for call in calls if call is not announced])

    def dedupe(self, calls: list[invoke.Call]) -> list[invoke.Call]:
        """Return the calls without repetitions; keep a named one that is also another's prerequisite."""
        named = [call for call in calls if isinstance(call.task, _Named)]
        return super().dedupe([next((each for each in named if each == call), call) for call in calls])


class _Config(invoke.Config):
    """Drops a collection's defaults for a section that a file leaves empty, since Invoke can't merge the two."""

    def load_collection(self, data: dict[str, Any], merge: bool = True) -> None:
        empty = {name for name in data if name in self and self[name] is None}
        super().load_collection({name: data[name] for name in data.keys() - empty}, merge)


class _Named(Task):
    """A task that was named on the command line, equal to the task that it copies."""

    def __init__(self, task: Task) -> None:
        self.__dict__.update(vars(task))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.call_and_print(*args, **kwargs)
