"""The local cloud from the command line: start it, point a shell at it, look at it, end it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from json import dumps
from typing import TYPE_CHECKING, Any

from invoke import Argument, Collection, Context

from hardway import config
from hardway.cli.task import Lines, Task, act, nothing, say, task
from hardway.local import faults
from hardway.terminal import command_line

from .flags import JSON
from .lazy import daemon, guest_image

if TYPE_CHECKING:
    from hardway.local.running import Running


class _Kind(Argument):
    """The kind of a fault. Invoke has no optional positionals: a kind about no instance does without the selector."""

    def __init__(self, kind: Argument, selector: Argument) -> None:
        super().__init__(names=kind.names, kind=str, help=kind.help, positional=True)
        self._selector = selector

    def set_value(self, value: Any, cast: bool = True) -> None:
        super().set_value(value, cast)
        if value in faults.ON_EC2:
            self._selector.set_value("", cast=False)


class _KindAndSelector(Task):
    """`local.fault KIND SELECTOR`, or `local.fault KIND` for a kind about no instance."""

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Any]:
        arguments: list[Argument] = super().get_arguments(ignore_unknown_help)
        selector = next(argument for argument in arguments if argument.name == "selector")
        selector.default = None
        return [_Kind(argument, selector) if argument.name == "kind" else argument for argument in arguments]


@task(changes=Lines, autoprint=True)
def up(c: Context, isolation: str | None = None) -> Lines:
    """Start the local cloud, and point this shell at it.

    If it runs already, only point this shell at it. The shell evaluates the output: `eval "$(inv local.up)"`. Virtual
    machines boot a guest that `local.image` has built.

    Examples:
      eval "$(inv local.up)"
      eval "$(inv local.up --isolation vm)"
    """
    settings = config.settings(c, local={"isolation": isolation}).local
    act("start the local cloud, unless it runs already")
    running, new = daemon.up(settings)
    if new:
        say(f"the local cloud is up at {running.endpoint}; isolation of instances: {running.isolation}")
    else:
        say(f"the local cloud is already up at {running.endpoint}")
        if running.settings != settings:
            down = command_line("local.down")
            say(f"it was started with other settings than yours: {running.settings}; `{down}` ends it")
    return _exports(running)


@task(autoprint=True)
def env(c: Context) -> Lines:
    """Print variables that point a shell at the local cloud.

    The shell evaluates them: `eval "$(inv local.env)"`.

    Examples:
      eval "$(inv local.env)"
    """
    return _exports(daemon.find())


@task(autoprint=True, help={"json": JSON})
def status(c: Context, json: bool = False) -> Lines | str:
    """Print the state of the local cloud.

    Rows: endpoint, process, isolation, instances, log.

    Examples:
      inv local.status
      inv local.status --json
    """
    running = daemon.find()
    about = {"endpoint": running.endpoint, "pid": running.pid, "isolation": running.isolation}
    states, log = running.instances(), str(daemon.state_directory() / "log")
    if json:
        return dumps({**about, "instances": states, "log": log}, indent=2)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "none"
    return Lines(f"{name}: {value}" for name, value in {**about, "instances": counts, "log": log}.items())


@task(
    changes=nothing,
    positional=["release"],
    help={"release": "a release of Debian, such as bookworm"},
)
def image(c: Context, release: str) -> None:
    """Build a guest for virtual machines of the local cloud.

    Take Debian's packages from this machine's mirror. Keep the guest in the cache. Do nothing if it is there.

    Examples:
      inv local.image bookworm
      inv local.image trixie
    """
    act(f"build the guest {release}, unless it is there")
    guest, new = guest_image.build(release)
    say(f"the guest {release} is {'built' if new else 'there already'}: {guest.directory}")


@task(changes=nothing)
def down(c: Context) -> None:
    """End the local cloud and everything in it.

    Leave no process and no file behind.

    Examples:
      inv local.down
    """
    act("end the local cloud and everything in it")
    say("the local cloud is down" if daemon.down() else "the local cloud was not running")


@task(
    changes=nothing,
    klass=_KindAndSelector,
    positional=["kind", "selector"],
    help={
        "kind": ", ".join(faults.KINDS),
        "selector": f"which instances: ids, addresses, names, key=value (not for {', '.join(faults.ON_EC2)})",
        "after": "seconds until the fault happens; the command returns at once",
        "notice": f"interrupt: seconds from the notice in the metadata to the end ({faults.NOTICE_SECONDS:g})",
        "factor": "slow: processes get 1/N of the CPU, answers come late; 1 undoes it",
        "zone": "capacity: the zone without capacity",
        "type": "capacity: the instance type without capacity",
        "seconds": "capacity, throttle: seconds until it ends; 0 is until `local.fault clear` "
        f"(throttle: {faults.THROTTLE_SECONDS:g}, capacity: 0)",
        "left": "capacity: this number of instances can still be launched",
    },
)
def fault(
    c: Context,
    kind: str,
    selector: str | Iterable[str] = "",
    after: float | str = 0,
    notice: float | str | None = None,
    factor: float | str | None = None,
    zone: str | None = None,
    type: str | None = None,
    seconds: float | str | None = None,
    left: int | str | None = None,
) -> None:
    """Make something go wrong in the local cloud.

    `inv local.fault KIND SELECTOR`:

    interrupt: the instance gets a spot interruption notice, and ends later. On-demand instances do so, too.
    kill: the instance is gone at once, as if its host were lost.
    hang: the instance stops answering and its processes stand still. Its connections stay open.
    thaw: an end to hang.
    drop: every connection to the instance is cut. The instance and its processes live on.
    slow --factor N: the instance's processes get 1/N of the CPU, and its answers come late.
    capacity --zone Z --type T: launches of the type in the zone get InsufficientInstanceCapacity.
    throttle: EC2's API answers RequestLimitExceeded.
    clear: an end to hang, slow, capacity and throttle. Faults that --after put off don't happen.

    Examples:
      inv local.fault interrupt batch --after 5 --notice 10
      inv local.fault slow web --factor 10
      inv local.fault capacity --zone us-east-1a --type m7i.large --seconds 60
    """
    asked = faults.read(kind, selector, after, notice, factor, zone, type, seconds, left)
    act(f"have the local cloud cause {kind}")
    faults.cause(config.settings(c), daemon.find(), asked, selector)


def _exports(running: Running) -> Lines:
    return Lines(f"export {name}={shlex.quote(value)}" for name, value in running.environment.items())


ns = Collection(up, env, status, down, fault, image)
ns.configure(config.defaults("local"))
