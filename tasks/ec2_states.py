"""Starting, stopping and rebooting instances, and waiting for them; part of `ec2`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from invoke import Context

from hardway import config
from hardway.cli.lazy import instances, lifetime, readiness
from hardway.cli.lazy import ssh as connections
from hardway.cli.task import Lines, act, confirm, progress, say, task
from hardway.errors import HardwayError

from .ec2_shared import all_or_error, how_many, ids_of, say_failed
from .flags import ANY_OWNER, PRIVATE_IP, REGION, SELECTOR, VIA, YES

if TYPE_CHECKING:
    from hardway.ec2.instances import Instance


@task(
    changes=Lines,
    autoprint=True,
    help={
        "selector": SELECTOR,
        "state": "the state to wait for; running means that SSH answers, too",
        "seconds-timeout": "seconds until it is a failure",
        "region": REGION,
        "via": VIA,
        "private-ip": PRIVATE_IP,
    },
)
def wait(
    c: Context,
    selector: str | Iterable[str],
    state: str = "running",
    seconds_timeout: int | str | None = None,
    region: str | None = None,
    via: str | None = None,
    private_ip: bool = False,
) -> Lines:
    """Wait until instances are in a state.

    And answer over SSH if it is running; prints their ids.

    Examples:
      inv ec2.wait web
      inv ec2.wait db --state terminated --seconds-timeout 60
    """
    settings = connections.reached(config.settings(c, region), private_ip, via)
    seconds = _seconds(settings, seconds_timeout)
    instances.states([state])
    chosen = instances.select(settings, selector, states=instances.STATES)
    return _wait(settings, chosen, state, seconds)


@task(
    changes=Lines,
    autoprint=True,
    help={
        "selector": SELECTOR,
        "yes": YES,
        "wait": "wait until each answers over SSH",
        "seconds-timeout": "seconds until not being ready is a failure",
        "region": REGION,
        "via": VIA,
        "private-ip": PRIVATE_IP,
    },
)
def start(
    c: Context,
    selector: str | Iterable[str],
    yes: bool = False,
    wait: bool = True,
    seconds_timeout: int | str | None = None,
    region: str | None = None,
    via: str | None = None,
    private_ip: bool = False,
) -> Lines:
    """Start stopped instances.

    Waits until they answer over SSH and prints their ids. What runs already is no error.

    Examples:
      inv ec2.start web --yes
      inv ec2.start 'web db' -y --no-wait
    """
    settings = connections.reached(config.settings(c, region), private_ip, via)
    seconds = _seconds(settings, seconds_timeout)
    chosen = instances.select(settings, selector, states=("pending", "running", "stopped"))
    stopped = [instance for instance in chosen if instance.state == "stopped"]
    if stopped:
        confirm(f"start {how_many(stopped)}?", instances.Instances(stopped).brief(), yes)
        started = instances.start(settings, stopped)
        if over := lifetime.over(started):
            say(f"the time of {how_many(over)} was over: each ends itself in ten minutes; `inv ec2.extend` moves that")
        return _going_on(settings, chosen, started.failed, "started", "running", seconds if wait else None)
    return _going_on(settings, chosen, {}, "started", "running", seconds if wait else None)


@task(
    changes=Lines,
    autoprint=True,
    help={
        "selector": SELECTOR,
        "yes": YES,
        "wait": "wait until they are stopped, which takes EC2 a minute",
        "seconds-timeout": "seconds until not being stopped is a failure",
        "any-owner": ANY_OWNER,
        "region": REGION,
    },
)
def stop(
    c: Context,
    selector: str | Iterable[str],
    yes: bool = False,
    wait: bool = False,
    seconds_timeout: int | str | None = None,
    any_owner: bool = False,
    region: str | None = None,
) -> Lines:
    """Stop instances, which keeps their volumes.

    Prints their ids. What is stopped already is no error.

    Examples:
      inv ec2.stop web --yes --wait
      inv ec2.stop team=data -y
    """
    settings = config.settings(c, region)
    seconds = _seconds(settings, seconds_timeout)
    chosen = instances.select(settings, selector, states=instances.ALIVE)
    going = [instance for instance in chosen if instance.state in ("pending", "running")]
    instances.refuse_foreign(going, any_owner)
    if going:
        confirm(f"stop {how_many(going)}?", instances.Instances(going).brief(), yes)
        stopped = instances.stop(settings, going)
        return _going_on(settings, chosen, stopped.failed, "stopped", "stopped", seconds if wait else None)
    return _going_on(settings, chosen, {}, "stopped", "stopped", seconds if wait else None)


@task(changes=Lines, autoprint=True, help={"selector": SELECTOR, "yes": YES, "any-owner": ANY_OWNER, "region": REGION})
def reboot(
    c: Context,
    selector: str | Iterable[str],
    yes: bool = False,
    any_owner: bool = False,
    region: str | None = None,
) -> Lines:
    """Reboot running instances.

    EC2 does so within minutes; prints their ids without waiting for it.

    Examples:
      inv ec2.reboot web --yes
      inv ec2.reboot db -y
    """
    settings = config.settings(c, region)
    chosen = instances.select(settings, selector)
    instances.refuse_foreign(chosen, any_owner)
    confirm(f"reboot {how_many(chosen)}?", instances.Instances(chosen).brief(), yes)
    done = instances.reboot(settings, chosen)
    say_failed(done.failed, "rebooted", len(chosen))
    return all_or_error(ids_of(done), done.failed, "rebooted", len(chosen))


def _going_on(
    settings: config.Settings,
    chosen: list[Instance],
    failed: Mapping[Instance, HardwayError],
    verb: str,
    state: str,
    seconds: int | None,
) -> Lines:
    """Wait until those that did not fail are in a state, if for so many seconds; their ids, as by `all_or_error`."""
    say_failed(failed, verb, len(chosen))
    going = [instance for instance in chosen if instance not in failed]
    ids = ids_of(going) if seconds is None else _wait(settings, going, state, seconds)
    return all_or_error(ids, failed, verb, len(chosen))


def _seconds(settings: config.Settings, flag: int | str | None) -> int:
    return int(config.number(settings.ec2.seconds_timeout if flag is None else flag, int, "--seconds-timeout"))


def _wait(settings: config.Settings, chosen: list[Instance], state: str, seconds: int) -> Lines:
    act(f"wait until {how_many(chosen)} are {state}")
    with progress(f"instances {state}", len(chosen)) as on_ready:
        readiness.wait(settings, chosen, state, seconds, on_ready)
    return ids_of(chosen)
