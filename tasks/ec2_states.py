"""Starting, stopping and rebooting instances, and waiting for them; part of `ec2`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from invoke import Context

from hardway import config
from hardway.cli.task import Lines, act, confirm, progress, say, task
from hardway.errors import HardwayError

from .ec2_shared import all_or_error, connection_settings, how_many, ids_of, say_failed
from .flags import ANY_OWNER, SELECTOR, YES
from .lazy import instances, lifetime, readiness

if TYPE_CHECKING:
    from hardway.ec2.instances import Instance


@task(
    changes=Lines,
    autoprint=True,
    help={
        "selector": SELECTOR,
        "state": "the state to wait for; running means that SSH answers, too",
        "seconds-timeout": "seconds to wait at most",
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

    Print their ids. For the state running, also wait until they answer over SSH.

    Examples:
      inv ec2.wait web
      inv ec2.wait db --state terminated --seconds-timeout 60
    """
    settings = connection_settings(c, region, private_ip=private_ip, via=via, seconds_timeout=seconds_timeout)
    instances.states([state])
    chosen = instances.select(settings, selector, states=instances.STATES, dead=state == "terminated")
    return _wait(settings, chosen, state)


@task(
    changes=Lines,
    autoprint=True,
    help={
        "selector": SELECTOR,
        "yes": YES,
        "wait": "wait until each instance answers over SSH",
        "seconds-timeout": "seconds to wait until all are ready",
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

    Wait until they answer over SSH, and print their ids. An instance that runs already is no error.

    Examples:
      inv ec2.start web --yes
      inv ec2.start 'web db' -y --no-wait
    """
    settings = connection_settings(c, region, private_ip=private_ip, via=via, seconds_timeout=seconds_timeout)
    chosen = instances.select(settings, selector, states=("pending", "running", "stopped"))
    stopped = [instance for instance in chosen if instance.state == "stopped"]
    if stopped:
        confirm(f"start {how_many(stopped)}?", instances.Instances(stopped).brief(), yes)
        started = instances.start(settings, stopped)
        if over := lifetime.over(started):
            extend = settings.command("ec2.extend", " ".join(instance.id for instance in over), "HOURS")
            say(
                f"the end time of {how_many(over)} had passed: each ends itself in ten minutes; `{extend}` moves "
                "the end"
            )
        return _going_on(settings, chosen, started.failed, "started", "running", wait)
    return _going_on(settings, chosen, {}, "started", "running", wait)


@task(
    changes=Lines,
    autoprint=True,
    help={
        "selector": SELECTOR,
        "yes": YES,
        "wait": "wait until they are stopped, about a minute",
        "seconds-timeout": "seconds to wait until all are stopped",
        "any-owner": ANY_OWNER,
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
    """Stop instances and keep their volumes.

    Print their ids. An instance that is stopped already is no error.

    Examples:
      inv ec2.stop web --yes --wait
      inv ec2.stop team=data -y
    """
    settings = config.settings(c, region, ec2={"seconds_timeout": seconds_timeout})
    chosen = instances.select(settings, selector, states=instances.ALIVE)
    going = [instance for instance in chosen if instance.state in ("pending", "running")]
    instances.refuse_foreign(going, any_owner)
    if going:
        confirm(f"stop {how_many(going)}?", instances.Instances(going).brief(), yes)
        stopped = instances.stop(settings, going)
        return _going_on(settings, chosen, stopped.failed, "stopped", "stopped", wait)
    return _going_on(settings, chosen, {}, "stopped", "stopped", wait)


@task(changes=Lines, autoprint=True, help={"selector": SELECTOR, "yes": YES, "any-owner": ANY_OWNER})
def reboot(
    c: Context,
    selector: str | Iterable[str],
    yes: bool = False,
    any_owner: bool = False,
    region: str | None = None,
) -> Lines:
    """Reboot running instances.

    Print their ids at once; EC2 reboots them within minutes.

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
    wait: bool,
) -> Lines:
    """With `wait`, wait until the instances that didn't fail are in a state. Return ids as `all_or_error` does."""
    say_failed(failed, verb, len(chosen))
    going = [instance for instance in chosen if instance not in failed]
    ids = _wait(settings, going, state) if wait else ids_of(going)
    return all_or_error(ids, failed, verb, len(chosen))


def _wait(settings: config.Settings, chosen: list[Instance], state: str) -> Lines:
    act(f"wait until {how_many(chosen)} are {state}")
    with progress(f"instances {state}", len(chosen)) as on_ready:
        endless = readiness.wait(settings, chosen, state, on_ready)
    if endless:
        named = readiness.some([str(instance) for instance in endless])
        say(f"nothing there ends {how_many(endless)} ({named}), whatever the tag says: only ec2.rm does")
    return ids_of(chosen)
