"""The one-letter flags, the same for every task, and flags that take a number.

None of Invoke's own letters that have an effect behind a task's name (`-d`, `-e`, `-f`, `-l`, `-p`, `-w`, ...) is among
them. `-h` is help.
"""

from __future__ import annotations

from inspect import Parameter
from typing import Any

from invoke import Argument

LETTERS = {
    "all": "a",
    "command": "c",
    "json": "j",
    "keep_going": "k",
    "null": "0",  # as xargs has it
    "num": "n",
    "only": "o",
    "quiet": "q",
    "region": "r",
    "state": "s",
    "type": "t",
    "yes": "y",
}
"""The letter of each flag, by parameter."""


class Number(Argument):
    """A flag for a number. The task parses the text, so that a bad number is a sentence and exit code 2."""

    def __init__(self, flag: Argument, kind: type) -> None:
        self.value_name = kind.__name__.upper()
        super().__init__(
            names=flag.names,
            # Invoke's help shows a float's flag as if it took no value.
            kind=int if kind is int else str,
            default=flag.default,
            help=flag.help,
            positional=flag.positional,
            attr_name=flag.attr_name,
        )

    def set_value(self, value: Any, cast: bool = True) -> None:
        """See `invoke.Argument.set_value`."""
        super().set_value(value, cast=False)


class Omissible(Argument):
    """An argument without a flag that may be left out: Invoke knows only required ones, and `Program` adds it."""


def chosen(flag: Argument, parameter: Parameter) -> Argument:
    """Return a parameter's flag with its letter, if any.

    It is a Number if the annotation begins with a number type, and Omissible if a positional has a default.
    """
    if flag.positional and parameter.default is not Parameter.empty:
        return Omissible(names=flag.names, kind=flag.kind, help=flag.help, positional=True, attr_name=flag.attr_name)
    letter = LETTERS.get(str(flag.name))
    flag.names = (*flag.names, letter) if letter else flag.names
    kind = {"int": int, "float": float}.get(str(parameter.annotation).split(" | ")[0])
    return Number(flag, kind) if kind else flag
