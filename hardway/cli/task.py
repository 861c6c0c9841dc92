"""The layer of the tasks between a person and the library.

`task` is Invoke's decorator, and turns errors into a sentence and an exit code. `confirm` asks before a task acts, and
`act` is called where nobody is asked. In a dry run (`--dry`, `c.config.run.dry`) both show the plan and end the task.
`Lines` prints a list one item a line. Nothing here knows EC2.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar, overload

import invoke

from hardway.cli import flags
from hardway.config import SETTINGS, Setting
from hardway.errors import NO_ROOM, Failed, HardwayError, UsageError, did_you_mean, reason_of
from hardway.files import private_file, state_directory
from hardway.system import signals, streams
from hardway.tables import Table
from hardway.terminal import printable, redrawn

Body = TypeVar("Body", bound=Callable[..., Any])
Given = ParamSpec("Given")
Result = TypeVar("Result")


class Lines(list[str]):
    """A list that prints one item a line."""

    def __str__(self) -> str:
        return "\n".join(self)


def say(*lines: str) -> None:
    """Print messages to a person on stderr, each in one line. A closed stderr is no error."""
    for line in lines:
        # One write, as another thread may print, too.
        print(f"{printable(line)}\n", end="", file=streams.talk(), flush=True)


def checked_name(text: str) -> str:
    """Return a name. Raises UsageError for an empty one, and for an unknown flag, which Invoke takes for a name."""
    if not text.strip() or text.startswith("-"):
        raise UsageError(f"{text!r} is neither a known flag nor a name; see the task's --help")
    return text


def listing(found: Table[Any], json: bool, nothing: str) -> Any:
    """Return the result of a task that lists: the table, or its JSON. Say `nothing` if it is empty."""
    if not found:
        say(nothing)
    return found.json() if json else found


def _to_nobody(_result: Any) -> None:
    """Print nothing, for a caller from Python, or for a task that prints by itself."""


_put: ContextVar[Callable[[Any], None]] = ContextVar("_put", default=_to_nobody)
"""Prints the result of the task that runs."""
_dry: ContextVar[bool] = ContextVar("_dry", default=False)


class _DryRun(Exception):
    """A dry run has shown its plan, and the task ends."""


def publish(result: Any) -> None:
    """Print the task's result early, so that the task can undo its work if printing fails. It is not printed again.

    Nothing is printed for a caller from Python. Raises HardwayError if stdout can't be written.
    """
    try:
        _put.get()(result)
    except HardwayError as error:
        raise Failed(str(error.__cause__ or "") or "cannot write to stdout: nobody reads it") from error


def print_as_it_comes(result: Any) -> None:
    """Print the task's result, an object that writes itself while the task runs. It is not printed again.

    Nothing is printed for a caller from Python. Raises HardwayError, without a text if nobody reads stdout any more.
    """
    _put.get()(result)


def act(what: str, listing: Iterable[str] = ()) -> None:
    """Print the plan and end the task in a dry run; else do nothing. Call this right before acting.

    `what` is a sentence without its subject, such as `start 3 instances`.
    """
    if _dry.get():
        say(*listing, f"dry run: would {what}; nothing was done")
        raise _DryRun


class _Announcement(invoke.Task[Any]):
    """A task that is equal to none, so that Invoke, which runs equal ones once, runs it each time."""

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return id(self)


_is_announced: ContextVar[bool] = ContextVar("_is_announced", default=False)


@invoke.task(klass=_Announcement)
def announced(_c: invoke.Context) -> None:
    """Announce that an executor calls a task of ours next, so that this task prints its result.

    This task is the last prerequisite of every task of ours. A call from Python has no prerequisites, so nothing is
    announced.
    """
    streams.secure()
    streams.accept_any_bytes()
    _is_announced.set(True)


class _Output:
    """Prints the first result it is given. `changes` is whether the task changes something."""

    def __init__(self, changes: bool) -> None:
        self._changes = changes
        self._printed = False

    def put(self, result: Any) -> None:
        """Print a result. Raises HardwayError if stdout can't be written; the message names the changes made."""
        if self._printed:
            return
        self._printed = True
        if type(result) is list:
            result = Lines(result)
        if hasattr(result, "write_to"):  # it may be more than fits in memory
            translated(result.write_to)(streams.Out())
            return
        text = translated(_text)(result)
        if not text:  # Invoke itself would print a blank line
            return
        try:
            streams.put(printable(text, keep="\n\t") if sys.stdout.isatty() else text)
        except HardwayError as error:
            if not self._changes:
                raise
            why = str(error) or "nobody reads stdout"
            ids = text.splitlines()
            # Only ids, a URL or an address: other results, such as a shell's settings, may be secret.
            told = f": {' '.join(ids)}" if all(len(line.split()) == 1 for line in ids) else ""
            raise Failed(f"{why}; the task is done, but its result could not be printed{told}") from error


def _text(result: Any) -> str:
    """Return a result as text for stdout: a table fits the terminal."""
    if isinstance(result, Table) and sys.stdout.isatty():
        import shutil  # at its first use: --list and --help do without

        return result.on_terminal(shutil.get_terminal_size().columns)
    return str(result)


class Task(invoke.Task[Any]):
    """Invoke's task with the short flags that all tasks share.

    `changes` is set for a task that changes something: a function that makes its result in a dry run. With `autoprint`
    the task prints its result when an executor calls it: once, whole, and nothing if it is empty. Invoke itself would
    print a blank line for an empty result, escape codes in a host's text, and nothing for a task that has partly
    failed. A launch could not know whether its ids were printed.
    """

    def __init__(
        self,
        *args: Any,
        autoprint: bool = False,
        changes: Callable[[], Any] | None = None,
        **options: Any,
    ) -> None:
        self.changes = changes
        self.prints = autoprint
        super().__init__(*args, **{**options, "auto_shortflags": False})
        # Invoke declares texts, and takes tasks.
        before: list[Any] = [*self.pre, announced]
        self.pre = before

    def __deepcopy__(self, memo: dict[int, Any]) -> Task:
        """Return a quick copy: Invoke copies each task twice at each start, and changes only its help texts."""
        new = object.__new__(type(self))
        new.__dict__.update(self.__dict__, help=dict(self.help))
        return new

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if _is_announced.get():
            _is_announced.set(False)
            return self.call_and_print(*args, **kwargs)
        return self._call(_to_nobody, *args, **kwargs)

    def call_and_print(self, *args: Any, **kwargs: Any) -> Any:
        """Call the task as an executor does. Raises HardwayError also if stdout can't be written."""
        put = _Output(self.changes is not None).put if self.prints else _to_nobody
        try:
            result = self._call(put, *args, **kwargs)
        except HardwayError as error:
            if error.result is not None:
                put(error.result)
            raise
        put(result)
        return result

    def _call(self, put: Callable[[Any], None], *args: Any, **kwargs: Any) -> Any:
        token = _put.set(put)
        try:
            return super().__call__(*args, **kwargs)
        finally:
            _put.reset(token)

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Any]:
        """See `invoke.Task.get_arguments`."""
        texts = dict(self.help)  # Invoke removes the texts, and would have none for a second call
        parameters = self.argspec(self.body).parameters
        made = super().get_arguments(ignore_unknown_help)
        arguments = [flags.chosen(argument, parameters[str(argument.name)]) for argument in made]
        self.help = texts
        for place, argument in enumerate(arguments, 1):
            if argument.positional:
                # Invoke puts required parameters first, and shows them like optional flags.
                argument.help = f"(argument {place}) {argument.help or ''}".rstrip()
                continue
            default = argument.default
            if (default is None or default is False) and (known := self._setting(str(argument.name))):
                argument.help = argument.help or known.described("else")
                default = known.default
            if shown := _shown(default):
                argument.help = f"{argument.help or ''} (default: {shown})".lstrip()
        return arguments

    def _setting(self, parameter: str) -> Setting | None:
        """Return the setting that a parameter's flag overrides; None if there is none."""
        # ec2_images is a part of ec2
        section = self.body.__module__.rpartition(".")[2].partition("_")[0]
        return SETTINGS.get(f"{section}.{parameter}") or SETTINGS.get(f"aws.{parameter}")


def _shown(given: Any) -> str:
    """Return a flag's default as text; empty if there is none."""
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
    """Make a task as `invoke.task` does; for any error a person gets one line, and Python callers a HardwayError.

    A task that changes something sets `changes` to a function that makes its result in a dry run, such as `list` or
    `str`. To a type checker a task is its body, as other people's tasks call it like one.
    """
    if args:
        return invoke.task(translated(args[0]), klass=Task)
    return lambda body: invoke.task(**{"klass": Task, **options})(translated(body, options.get("changes")))


def nothing() -> None:
    """Make the result of a task that returns nothing, in a dry run: for `changes`."""


def confirm(question: str, listing: Iterable[str], yes: bool) -> None:
    """Show the targets in `listing` and ask; `yes` skips both. A dry run shows the targets, and ends the task.

    Raises UsageError if nobody can be asked, and HardwayError(code 1) for a no.
    """
    lines = list(listing)
    act(question.rstrip("?"), lines)
    if yes:
        return
    say(*lines)
    if not sys.stdin.isatty():
        raise UsageError(f"{question} There is no terminal to ask on: add --yes")
    answer = ""
    talk = streams.talk()
    while answer not in ("y", "yes", "n", "no"):
        print(f"{printable(question)} y/n ", end="", file=talk, flush=True)
        if not getattr(talk, "works", True):
            raise UsageError(f"{question} stderr, to ask on, can't be written: add --yes")
        line = ""
        try:
            line = sys.stdin.readline()
        except UnicodeDecodeError:
            line = "?\n"
        finally:
            if not line.endswith("\n"):  # Ctrl-C or Ctrl-D: the next message begins a new line
                say("")
        answer = line.strip().lower() if line else "n"
    if answer.startswith("n"):
        raise Failed("nothing done")


@contextlib.contextmanager
def progress(label: str, total: int, unit: str = "items") -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr, on a terminal, after a second; yield a function that advances it, from any thread.

    `total` is in items, or in bytes if `unit` says so; 0 means unknown.
    """
    console = redrawn(streams.talk())
    if not console:
        yield lambda count: None
        return
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    amount = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), amount, TimeElapsedColumn())
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


def translated(body: Body, changes: Callable[[], Any] | None = None) -> Body:
    """Return the same function, with every error raised as a HardwayError."""

    @functools.wraps(body)
    def call(*args: Any, **kwargs: Any) -> Any:
        context = args[0] if args else kwargs.get("c")
        dry = _dry.set(_is_dry(context)) if isinstance(context, invoke.Context) else None
        try:
            if changes and _dry.get() and _is_of_nothing(args[1] if len(args) > 1 else kwargs.get("selector")):
                act(f"go on with {body.__name__}, on what has not been started")
            with closed_stdout_ends():
                return body(*args, **kwargs)
        except _DryRun:
            return changes() if changes else None
        except HardwayError:
            raise
        except KeyboardInterrupt as interrupt:
            raise signals.as_error(interrupt) from None
        except TypeError as error:
            raise _misuse(body, args, kwargs) or _as_hardway_error(error) from error
        except Exception as error:
            raise _as_hardway_error(error) from error
        finally:
            if dry is not None:
                _dry.reset(dry)

    return call  # type: ignore[return-value]


def _is_of_nothing(selector: Any) -> bool:
    """Return whether the selector is an empty result, as another task returns in a dry run."""
    return isinstance(selector, Lines) and not selector


def _is_dry(context: invoke.Context) -> bool:
    run = context.config.get("run")
    return bool(run and run.get("dry"))


def _misuse(body: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> UsageError | None:
    """Return the error in the arguments of a call from Python; None if the body takes them."""
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
    """End silently, as shell programs do, if the reader of our stdout has closed it.

    Use this around code that prints by itself. Other broken pipes and connections are still errors.
    """
    try:
        yield
    except BrokenPipeError as error:
        if not streams.is_unread():
            raise
        raise streams.unwritable(error) from None


def _as_hardway_error(error: Exception) -> HardwayError:
    from hardway import aws

    known = aws.translate(error) or _of_this_machine(error)
    if known:
        return known
    bug = f"a bug in hardway: {type(error).__name__}: {error}"
    try:
        log = state_directory() / "errors.log"
        with open(log, "a", opener=private_file) as file:
            traceback.print_exception(error, file=file)
    except (OSError, HardwayError) as unwritable:
        return Failed(f"{bug}; its traceback could not be written: {unwritable}")
    return Failed(f"{bug}; the traceback is in {log}")


def _of_this_machine(error: Exception) -> HardwayError | None:
    """Return the error for a fault of a disk, a file's name or a lost connection; None for a bug."""
    if isinstance(error, UnicodeError):
        what = getattr(error, "object", b"")
        text = what.decode(errors="surrogateescape") if isinstance(what, bytes) else str(what)
        return UsageError(f"{text[:80]!r} must be UTF-8, and is not") if text else None
    if isinstance(error, RuntimeError) and "home directory" in str(error):
        # pathlib's, for ~ and ~somebody
        return UsageError("a path begins with ~ or ~USER, and there is no such home directory here")
    if not isinstance(error, OSError):
        return None
    why = reason_of(error)
    if error.errno in NO_ROOM:
        target = f" to {_named(error)}" if error.filename else ""
        return Failed(f"cannot write{target}: {why}")
    if error.filename:
        return Failed(f"{_named(error)}: {why}")
    if error.errno in (errno.EISDIR, errno.EIO, errno.EAGAIN, errno.EBADF):  # a standard stream, which has no name
        return Failed(f"cannot read or write: {why}")
    if isinstance(error, ConnectionError | TimeoutError):
        return Failed(f"a connection was lost: {why}")
    return None


def _named(error: OSError) -> str:
    return error.filename.decode(errors="surrogateescape") if isinstance(error.filename, bytes) else str(error.filename)
