"""A task's page of help: flags in the order of its parameters, numbers shown as numbers, examples at the end."""

from __future__ import annotations

import inspect
import textwrap

from invoke.parser import Argument, ParserContext
from invoke.parser.context import to_flag
from invoke.program import Program

from hardway.cli.flags import Number, Omissible

_EXAMPLES = "\n\nExamples:\n"


class TaskContext(ParserContext):
    """A task's flags in the order of its parameters. Invoke's class sorts them by name, and shows only two kinds."""

    def help_tuples(self) -> list[tuple[str, str | None]]:
        """See `invoke.parser.ParserContext.help_tuples`."""
        return [self.help_for(to_flag(name)) for name in self.args]

    def help_for(self, flag: str) -> tuple[str, str]:
        """See `invoke.parser.ParserContext.help_for`."""
        shown, text = super().help_for(flag)
        argument = self.flags[flag]
        if isinstance(argument, Number):
            shown = shown.replace("STRING", argument.value_name)
        return (f"{shown}=STRING" if argument.kind is list else shown), text


def show(program: Program, name: str) -> None:
    """Print the page of a task."""
    text, _, examples = (inspect.getdoc(program.collection[name]) or "").partition(_EXAMPLES)
    context = program.parser.contexts[name]
    words = [_word(argument) for argument in context.positional_args]
    flags = ["[--options]"] if len(context.args) > len(words) else []
    print("Usage:", program.binary, "[--core-opts]", name, *words, *flags, "[other tasks here ...]")
    print(f"\n{textwrap.indent(text, program.leading_indent)}\n")
    if context.args:
        print("Options:")
        program.print_columns(context.help_tuples())
    if examples:
        print(f"Examples:\n{textwrap.indent(textwrap.dedent(examples), program.leading_indent)}")


def _word(argument: Argument) -> str:
    name = str(argument.name).upper()
    return f"[{name}]" if isinstance(argument, Omissible) else name
