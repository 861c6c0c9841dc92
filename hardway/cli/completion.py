"""Completion at the prompt: the shells' scripts, and the words that may stand at the cursor.

A script sends the words before the cursor, and the one at the cursor, which may be empty. Values of arguments come from
a function of the tasks. Nothing is printed where nothing is known: the shell then offers files.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping

from invoke.exceptions import ParseError
from invoke.parser import Argument, ParserContext

# An equals sign is a word of its own for bash: what stands behind it is completed like a word.
_BASH = """\
_complete_{name}() {{
    local IFS=$'\\n' word words=()
    for word in "${{COMP_WORDS[@]:0:COMP_CWORD}}"; do
        [[ $word == = ]] || words+=("$word")
    done
    COMPREPLY=($("${{COMP_WORDS[0]/#\\~/$HOME}}" --complete -- "${{words[@]}}" "$2" 2>/dev/null </dev/null))
}}
complete -F _complete_{name} -o default {name}
"""
_ZSH = """\
_complete_{name}() {{
    local -a given
    local number
    if (( $+compstate )); then
        given=("${{(@)words[1,CURRENT-1]}}" "$PREFIX")
    else
        read -cA given
        read -cn number
        given=("${{(@)given[1,number-1]}}" "$1")
    fi
    reply=(${{(f)"$(${{~given[1]}} --complete -- "${{given[@]}}" 2>/dev/null </dev/null)"}})
    (( $+compstate )) || return 0
    if (( $#reply )); then compadd -a reply; else _files; fi
}}
if (( $+functions[compdef] )); then compdef _complete_{name} {name}; else compctl -K _complete_{name} + -f {name}; fi
"""
_FISH = """\
function __complete_{name}
    set -l words (commandline --tokenize --cut-at-cursor --current-process)
    set -l word (commandline --current-token --cut-at-cursor)
    set -l found ($words[1] --complete -- (string escape -- $words) "$word" 2>/dev/null </dev/null)
    if set -q found[1]
        string join \\n -- $found
    else
        __fish_complete_path "$word"
    end
end
complete --command {name} --no-files --arguments '(__complete_{name})'
"""
_SCRIPTS = {"bash": _BASH, "fish": _FISH, "zsh": _ZSH}


def script(shell: str, name: str) -> str:
    """Return the script that completes the words of a program in a shell. Raises ParseError for an unknown shell."""
    if shell not in _SCRIPTS:
        raise ParseError(f'Completion for shell "{shell}" not supported (options are: {", ".join(_SCRIPTS)}).')
    return _SCRIPTS[shell].format(name=name)


class Place:
    """The place behind some words: the task there, and the values given before, by parameter.

    The next word is the value of `flag`; without one it is the value of `argument`; without both it is a task.
    """

    def __init__(self, task: ParserContext | None = None) -> None:
        self.task = task
        self.flag: Argument | None = None
        self.argument: Argument | None = None
        self.given: dict[str, str] = {}


Values = Callable[[str, str, Mapping[str, str], str], Iterable[str]]
"""Returns the values of an argument: of a task, a parameter, the values given before, and the word at the cursor."""


def read(text: str) -> list[str]:
    """Split the words that a script has sent; the last one is at the cursor. A quote may still be open."""
    for closing in ("", "'", '"'):
        try:
            words = shlex.split(text + closing)
        except ValueError:
            continue
        return [*words, ""] if not text or text[-1].isspace() else words
    return [""]


def place(words: Iterable[str], tasks: Mapping[str, ParserContext], core: ParserContext) -> Place:
    """Return the place behind the words that follow the program's name."""
    found, missing = Place(), list[Argument]()
    for word in words:
        name, has_value, value = word.partition("=")
        context, flag = found.task or core, found.flag
        found.flag = None
        if flag and not (flag.optional and (word.startswith("-") or word in tasks)):
            found.given[str(flag.name)] = word
        elif name in context.flags:
            argument = context.flags[name]
            if has_value:
                found.given[str(argument.name)] = value
            elif argument.takes_value:
                found.flag = argument
        elif missing and (not word.startswith("-") or word == "-"):
            found.given[str(missing.pop(0).name)] = word
        elif word in tasks:
            found = Place(tasks[word])
            missing = list(tasks[word].positional_args)
    found.argument = missing[0] if missing else None
    return found


def candidates(
    text: str, tasks: Mapping[str, ParserContext], names: Iterable[str], core: ParserContext, values: Values
) -> list[str]:
    """Return the words that may stand at the cursor, for the line that a script has sent.

    `names` are those of all tasks, `tasks` the flags of the tasks in the line, and `core` the program's own flags.
    """
    *before, word = read(text)[1:] or [""]
    at = place(before, tasks, core)
    flag, has_value, value = word.partition("=")
    if word.startswith("-") and (at.flag is None or at.flag.optional):
        flags = (at.task or core).flags
        if has_value and flag in flags:
            return [f"{flag}={each}" for each in _values(at, flags[flag], value, values)]
        return _beginning((at.task or core).flag_names(), word)
    argument = at.flag or at.argument
    return _values(at, argument, word, values) if argument else _beginning(names, word)


def _values(at: Place, argument: Argument, word: str, values: Values) -> list[str]:
    task = str(at.task.name) if at.task else ""
    return _beginning(values(task, str(argument.name), at.given, word), word)


def _beginning(words: Iterable[str], beginning: str) -> list[str]:
    return [word for word in words if word.startswith(beginning)]
