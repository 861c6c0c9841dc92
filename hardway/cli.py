"""What every task shares on its way between a person and the library.

`task` is Invoke's decorator with errors translated to a sentence and an exit code; `confirm` asks before something
acts; `Lines` prints a list one item a line. Nothing here knows EC2.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ParamSpec, TextIO, TypeVar, overload

import invoke

from hardway import signals
from hardway.errors import NO_ROOM, Failed, HardwayError, UsageError, did_you_mean
from hardway.tables import Table

if TYPE_CHECKING:
    from rich.console import Console

Body = TypeVar("Body", bound=Callable[..., Any])
Given = ParamSpec("Given")
Result = TypeVar("Result")


class Lines(list[str]):
    """A list that prints one item a line."""

    def __str__(self) -> str:
        return "\n".join(self)


def say(*lines: str) -> None:
    """Talk to a person: stderr."""
    for line in lines:
        print(line, file=sys.stderr, flush=True)


def checked_name(text: str) -> str:
    """A name. Raises UsageError for none, and for an unknown flag, which Invoke takes for a name."""
    if not text.strip() or text.startswith("-"):
        raise UsageError(f"{text!r} is neither a known flag nor a name; see the task's --help")
    return text


def listing(found: Table[Any], json: bool, nothing: str) -> Any:
    """What a task that lists returns: the table, or its JSON; `nothing` is said where it is empty."""
    if not found:
        say(nothing)
    return found.json() if json else found


class Task(invoke.Task[Any]):
    """Invoke's task with short flags that mean something: none is `-` (which makes `--`) or `h` (which is for help).

    `short` maps a parameter to a short flag that is no letter of its name. With `autoprint`, prints its result when it
    is named on the command line; for an empty result Invoke itself would print a blank line.
    """

    def __init__(self, *args: Any, short: dict[str, str] | None = None, **options: Any) -> None:
        self._named = False
        super().__init__(*args, **options)
        self.short = short or {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Task:
        """A task that is quick to copy: Invoke copies each twice at each start, and changes its texts of help alone."""
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__, help=dict(self.help))
        return new

    @property
    def autoprint(self) -> bool:
        """Always False; but Invoke only asks about a task that was named on the command line, right before its call."""
        self._named = True
        return False

    @autoprint.setter
    def autoprint(self, prints: bool) -> None:
        self._prints = prints

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        named, self._named = self._named, False
        if named:
            _accept_any_bytes()
        result = super().__call__(*args, **kwargs)
        if named and self._prints:
            if hasattr(result, "write_to"):  # it may be more than fits in memory
                _translated(result.write_to)(sys.stdout.buffer)
            elif text := _translated(str)(result):
                with closed_stdout_ends():
                    print(text, flush=True)
        return result

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Any]:
        """See `invoke.Task.get_arguments`."""
        texts = dict(self.help)  # Invoke takes them out, and would have none for who asks again
        arguments: list[Any] = super().get_arguments(ignore_unknown_help)
        self.help = texts
        for place, argument in enumerate(arguments, 1):
            own = self.short.get(argument.attr_name or argument.name)
            given = [name for name in argument.names if len(name) > 1 or (not own and name not in ("-", "h"))]
            argument.names = (*given, own) if own else tuple(given)
            if argument.positional:
                # Invoke puts these first, and shows them as if they were flags like any other.
                argument.help = f"(argument {place}) {argument.help or ''}".rstrip()
            elif default := self._default(argument.attr_name or argument.name, argument.default):
                argument.help = f"{argument.help or ''} (default: {default})".lstrip()
        return arguments

    def _default(self, parameter: str, given: Any) -> str:
        """What a flag that is left out stands for, as text: its own default, else its setting's; empty for nothing."""
        from hardway import config

        if given is None:
            # ec2_images is a part of ec2
            section = self.body.__module__.rpartition(".")[2].partition("_")[0]
            given = config.default(section, parameter)
        if given is None or given is False or isinstance(given, list | tuple):
            return ""
        if given is True:
            return "yes"
        return f"{given:g}" if isinstance(given, float) else str(given)


@overload
def task(body: Callable[Given, Result], /) -> Callable[Given, Result]: ...


@overload
def task(**options: Any) -> Callable[[Callable[Given, Result]], Callable[Given, Result]]: ...


def task(*args: Any, **options: Any) -> Any:
    """`invoke.task`, for bodies that may raise anything: a person gets one line, Python callers a HardwayError.

    To a type checker a task is its body, which is how other people's tasks call it.
    """
    if args:
        return invoke.task(_translated(args[0]), klass=Task)
    return lambda body: invoke.task(**{"klass": Task, **options})(_translated(body))


def confirm(question: str, listing: Iterable[str], yes: bool) -> None:
    """Show what will be acted on and ask; `yes` skips both.

    Raises UsageError where nobody can be asked, and HardwayError(code 1) for a no.
    """
    if yes:
        return
    say(*listing)
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody to ask, there is no terminal: add --yes")
    answer = ""
    while answer not in ("y", "yes", "n", "no"):
        print(f"{question} y/n ", end="", file=sys.stderr, flush=True)
        line = ""
        try:
            line = sys.stdin.readline()
        finally:
            if not line.endswith("\n"):  # Ctrl-C or Ctrl-D: what is said next begins a line
                say("")
        answer = line.strip().lower() if line else "n"
    if answer.startswith("n"):
        raise Failed("nothing done")


def redrawn(stream: TextIO) -> Console | None:
    """rich's console for a terminal on which something can be drawn again and again; None for what only takes lines."""
    if not stream.isatty():
        return None
    from rich.console import Console

    console = Console(file=stream)
    return console if console.is_interactive else None


@contextlib.contextmanager
def progress(label: str, total: int, unit: str = "items") -> Iterator[Callable[[int], None]]:
    """A bar on stderr for what takes more than a second, on a terminal; yields what advances it, from any thread.

    `total` is in items, or in bytes where `unit` says so; 0 is not known.
    """
    console = redrawn(sys.stderr)
    if not console:
        yield lambda count: None
        return
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    amount = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=True, redirect_stdout=False)
    task_id = bar.add_task(label, total=total or None)
    show = threading.Timer(1.0, bar.start)
    show.daemon = True
    show.start()
    try:
        yield lambda count: bar.advance(task_id, count)
    finally:
        show.cancel()
        show.join()
        bar.stop()


def _translated(body: Body) -> Body:
    @functools.wraps(body)
    def translated(*args: Any, **kwargs: Any) -> Any:
        try:
            with closed_stdout_ends():
                return body(*args, **kwargs)
        except HardwayError:
            raise
        except KeyboardInterrupt as interrupt:
            raise signals.as_error(interrupt) from None
        except TypeError as error:
            raise _misuse(body, args, kwargs) or _as_hardway_error(error) from error
        except Exception as error:
            raise _as_hardway_error(error) from error

    return translated  # type: ignore[return-value]


def _misuse(body: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> UsageError | None:
    """What is wrong with a call from Python that the body does not take; None where it does."""
    import inspect

    try:
        signature = inspect.signature(body)
    except ValueError:  # a builtin
        return None
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        unknown = next((name for name in kwargs if name not in signature.parameters), "")
        return UsageError(f"{body.__name__}: {error}{did_you_mean(unknown, signature.parameters) if unknown else ''}")
    return None


@contextlib.contextmanager
def closed_stdout_ends() -> Iterator[None]:
    """Whoever read our stdout has seen enough: end as a program of the shell does, without a word."""
    try:
        yield
    except BrokenPipeError:
        _forget_what_stdout_holds()
        raise HardwayError("", 128 + signal.SIGPIPE) from None


def _forget_what_stdout_holds() -> None:
    """Where stdout takes no more: else the interpreter complains of that while it exits."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _accept_any_bytes() -> None:
    """stdout must carry what instances wrote, bytes that are no UTF-8 included."""
    with contextlib.suppress(AttributeError, ValueError):
        sys.stdout.reconfigure(errors="surrogateescape")  # type: ignore[union-attr]


def _as_hardway_error(error: Exception) -> HardwayError:
    from platformdirs import user_state_path

    from hardway import aws, private

    known = aws.translate(error)
    if known:
        return known
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        _forget_what_stdout_holds()
        target = f" to {error.filename}" if error.filename else ""
        return Failed(f"cannot write{target}: {(error.strerror or str(error)).lower()}")
    log = user_state_path("hardway") / "errors.log"
    try:
        private.state()
        with log.open("a") as file:
            traceback.print_exception(error, file=file)
        where = f"the traceback is in {log}"
    except OSError as unwritable:
        where = f"its traceback could not be written to {log}: {unwritable.strerror}"
    return Failed(f"a bug in hardway: {type(error).__name__}: {error}; {where}")
