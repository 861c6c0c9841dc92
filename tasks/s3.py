"""The S3 stub from the command line: print its file to source, list its sessions, remove them."""

from __future__ import annotations

from typing import Any

from invoke import Argument, Collection, Context

from hardway.cli.task import Task, act, listing, nothing, task
from hardway.errors import UsageError
from hardway.tables import count
from hardway.terminal import command_line

from .flags import JSON
from .lazy import stub_sessions


class _Instead(Argument):
    """A flag in place of a positional argument, which Invoke would otherwise insist on."""

    def __init__(self, flag: Argument, positional: Argument) -> None:
        super().__init__(names=flag.names, kind=bool, default=False, help=flag.help)
        self._stands_in_for = positional

    def set_value(self, value: Any, cast: bool = True) -> None:
        super().set_value(value, cast)
        if self._stands_in_for.value is None:
            self._stands_in_for.set_value("", cast=False)


class _UuidOrAll(Task):
    """`s3.clear UUID` or `s3.clear --all`: Invoke itself has no optional positionals."""

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        arguments: list[Argument] = super().get_arguments(ignore_unknown_help)
        uuid = next(argument for argument in arguments if argument.name == "uuid")
        uuid.default = None
        return [_Instead(argument, uuid) if argument.name == "all" else argument for argument in arguments]


@task(autoprint=True)
def stub(c: Context) -> str:
    """Print the file to source for the stub of `aws s3`.

    `. "$(inv s3.stub)"` begins a session of the stub in this shell.

    Examples:
      . "$(inv s3.stub)"
    """
    return str(stub_sessions.script())


@task(autoprint=True, help={"json": JSON})
def sessions(c: Context, json: bool = False) -> Any:
    """List sessions of the S3 stub.

    The oldest comes first. Columns: uuid, age, keys, bytes.

    Examples:
      inv s3.sessions
      inv s3.sessions --json
    """
    return listing(stub_sessions.table(stub_sessions.sessions()), json, "no sessions")


@task(
    changes=nothing,
    klass=_UuidOrAll,
    positional=["uuid"],
    help={"uuid": "the session to remove", "all": "remove every session of this user"},
)
def clear(c: Context, uuid: str = "", all: bool = False) -> None:
    """Remove a session of the S3 stub and its objects.

    With --all, remove every session.

    Examples:
      inv s3.clear "$s3_stubbed_session"
      inv s3.clear --all
    """
    if bool(uuid) == all:
        raise UsageError(f"which session? Give one uuid (`{command_line('s3.sessions')}` lists them) or --all")
    found = stub_sessions.sessions() if all else [stub_sessions.find(uuid)]
    act(f"remove {count(len(found), 'session')}", str(stub_sessions.table(found)).splitlines())
    for session in found:
        stub_sessions.remove(session)


ns = Collection(stub, sessions, clear)
