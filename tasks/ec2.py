"""EC2 at the prompt: start instances, find them, run on them, copy to and from them, end them."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from invoke import Collection, Context

from hardway import config
from hardway.cli.lazy import (
    broadcast,
    commands,
    costs,
    instances,
    launch,
    lifetime,
    orphans,
    readiness,
    rsync,
    tags,
    transfer,
)
from hardway.cli.lazy import group as groups
from hardway.cli.lazy import ssh as connections
from hardway.cli.lazy import (
    user_data as userdata,
)
from hardway.cli.task import Lines, act, confirm, nothing, progress, publish, say, task
from hardway.errors import Failed, HardwayError, NothingMatched, PartlyFailed, UsageError
from hardway.tables import count

from .ec2_account import events, keys, roles
from .ec2_cleanup import cleanup
from .ec2_images import ami_new, ami_rm, amis, snapshot, snapshots
from .ec2_market import regions, spot_prices, types, zones
from .ec2_networks import authorize, deauthorize, new_vpc, rm_vpc, sg, sgs, vpcs
from .flags import ANY_OWNER, CONNECTIONS, DIRECT, JSON, PRIVATE_IP, REGION, SELECTOR, SEND_VIA, VIA, YES

if TYPE_CHECKING:
    from hardway.ec2.instances import Instance
    from hardway.fanout.commands import Command
    from hardway.fanout.group import CommandResult, Printer


@contextlib.contextmanager
def region(c: Context, name: str) -> Iterator[None]:
    """In this block, tasks called with `c` act in the region `name`, whatever the environment says."""
    before = c.config.get("hardway_region")
    c.config["hardway_region"] = name
    try:
        yield
    finally:
        c.config["hardway_region"] = before


@task(
    changes=Lines,
    autoprint=True,
    iterable=["tag"],
    help={
        "name": "Name tag",
        "num": "how many instances",
        "type": "instance type, or several with commas: on demand in that order, spot by price and capacity",
        "spot": "spot instances, at most at this part of the on-demand price (1.0 is EC2's own limit); 0: on demand",
        "ami": "noble, jammy, bookworm, al2023, ami-..., or the name of an image of your own",
        "key": "name of a key pair at EC2, or a private key's file; else one is made",
        "sg": "security groups, ids or names with commas; else one that lets SSH in from here",
        "vpc": "VPC to start in, its name or id; else the default one",
        "subnet": "subnet to start in; else those of the VPC",
        "zone": "availability zone; else where EC2 has capacity",
        "role": "name of an IAM instance profile",
        "gigs": "size of the root volume in GiB; 0 for the image's own",
        "init": "user data run at first boot: a file, or the text of a bash script",
        "tag": "key=value; repeat it for more",
        "command": "run this on each once it is up: text, a file, or - for stdin",
        "login": "log in to it once it is up",
        "wait": "wait until each answers over SSH",
        "seconds-timeout": "seconds until not being ready is a failure",
        "seconds-wait": "seconds after which those ready are enough and the rest is terminated; 0 for never",
        "ssh-user": "login user; else the image's own",
        "ssh-port": "port of the instances' SSH server",
        "region": REGION,
        "min": "how many are enough where EC2 has no more; 0 for all of --num",
        "max-hours": "hours after which each ends itself; 0 for never",
        "max-cost": "start nothing that could cost more USD than this in --max-hours; 0 for no limit",
        "private-ip": "wait for and log in to the private addresses",
        "via": VIA,
        "idle-minutes": "minutes without a connection, a pmap job or load after which each ends itself; 0 for never",
        "on-demand": "with --spot, how many of them are on demand",
    },
)
def new(
    c: Context,
    name: str | None = None,
    num: int | str | None = None,
    type: str | Sequence[str] | None = None,
    spot: float | str | None = None,
    ami: str | None = None,
    key: str | None = None,
    sg: str | Sequence[str] | None = None,
    vpc: str | None = None,
    subnet: str | None = None,
    zone: str | None = None,
    role: str | None = None,
    gigs: int | str | None = None,
    init: str | None = None,
    tag: str | Iterable[str] | None = None,
    command: str | None = None,
    login: bool = False,
    wait: bool = True,
    seconds_timeout: int | str | None = None,
    seconds_wait: int | str | None = None,
    ssh_user: str | None = None,
    ssh_port: int | str | None = None,
    region: str | None = None,
    min: int | str | None = None,
    max_hours: float | str | None = None,
    max_cost: float | str | None = None,
    private_ip: bool = False,
    via: str | None = None,
    idle_minutes: float | str | None = None,
    on_demand: int | str | None = None,
) -> Lines:
    """Start instances, ready to log in.

    Waits until they answer over SSH and prints their ids. On any failure nothing is left running, nor where the ids
    can't be written.
    """
    taken = ("c", "tag", "command", "login", "wait", "region", "private_ip", "via")
    given = {k: v for k, v in locals().items() if k not in taken}
    settings = connections.reached(config.settings(c, region), private_ip, via)
    request = launch.read_request(settings, wait, tag, **given)
    settings = replace(settings, ec2=replace(settings.ec2, key=request.key))
    script = commands.read(command) if command else None
    if login and request.num != 1:
        raise UsageError(f"--login is for one instance, --num is {request.num}")
    if (login or script) and not wait:
        raise UsageError("--no-wait leaves nothing to log in to or to run --command on")

    with contextlib.ExitStack() as bar:
        on_ready = bar.enter_context(progress("instances ready", request.num))

        def prepare(started: list[Instance]) -> None:
            bar.close()  # the output of the command comes where it stands
            if script:
                _run(settings, started, script, printer=groups.Printer(prefix=True, sole=False, to_stderr=True))

        started = launch.launch(
            settings,
            request,
            say,
            on_ready=on_ready,
            prepare=prepare if script else None,
            publish=lambda ready: publish(_ids(ready)),
            before=act,
        )
    if login:
        # A shell ends with the code of its last command: whatever that was, the id of what runs is told.
        try:
            _login(settings, started[0])
        except (Failed, KeyboardInterrupt) as error:
            say(str(error) or "interrupted")
    return _ids(started)


@task(
    autoprint=True,
    help={
        "only": SELECTOR,
        "state": "states with commas: pending, running, shutting-down, terminated, stopping, stopped",
        "json": JSON,
        "first-n": "only the newest N; 0 for all",
        "last-n": "only the oldest N; 0 for all",
        "region": REGION,
    },
)
def ls(
    c: Context,
    only: str | Iterable[str] = "",
    state: str | Iterable[str] = "",
    json: bool = False,
    first_n: int | str = "0",
    last_n: int | str = "0",
    region: str | None = None,
) -> Any:
    """List instances and what they cost.

    Newest first: name, type, state, id, AMI, spot or ondemand, address, zone, groups, tags, cost.

    The cost is the price (of spot, the one of now), the hours since the last start, and the two multiplied.
    """
    first, last = config.number(first_n, int, "--first-n"), config.number(last_n, int, "--last-n")
    states = instances.states(state) if state else instances.STATES
    settings = config.settings(c, region)
    found = instances.select(settings, only, states=states, acting=False)[::-1]
    orphans.report(found, say)
    if not found and (only or state):
        raise NothingMatched("no instance matches")
    if not found:
        say("no instances")
    shown = costs.Bill(settings, found[: first or None][-last:] if last else found[: first or None], say)
    if shown:
        say(f"total per hour now: {shown.usd_per_hour}, so far: {shown.usd}")
    return shown.json() if json else shown


@task(autoprint=True, help={"selector": SELECTOR, "region": REGION})
def id(c: Context, selector: str | Iterable[str], region: str | None = None) -> Lines:
    """Print the ids of running instances."""
    return Lines(instance.id for instance in instances.select(config.settings(c, region), selector))


@task(autoprint=True, help={"selector": SELECTOR, "private": "the private addresses", "region": REGION})
def ip(c: Context, selector: str | Iterable[str], private: bool = False, region: str | None = None) -> Lines:
    """Print the addresses of running instances.

    The public one, where there is one.
    """
    found = instances.select(config.settings(c, region), selector)
    return Lines(instance.private_ip if private else instance.address for instance in found)


@task(autoprint=True, help={"selector": SELECTOR, "region": REGION})
def ip_private(c: Context, selector: str | Iterable[str], region: str | None = None) -> Lines:
    """Print the private addresses of running instances."""
    return Lines(instance.private_ip for instance in instances.select(config.settings(c, region), selector))


@task(autoprint=True, help={"selector": SELECTOR, "region": REGION})
def dns(c: Context, selector: str | Iterable[str], region: str | None = None) -> Lines:
    """Print the DNS names of running instances.

    The public one, where there is one.
    """
    found = instances.select(config.settings(c, region), selector)
    return Lines(instance.public_dns or instance.private_dns for instance in found)


@task(
    changes=list,
    help={
        "selector": SELECTOR,
        "command": "what to run: text, a file, or - for stdin; without it, log in",
        "yes": YES,
        "quiet": "bare output lines, without the instance's name",
        "stdin": "what each command reads: a file, or - for our own stdin",
        "timeout": "seconds until a command is ended; 0 for never",
        "max-connections": CONNECTIONS,
        "real-s3": "from a stubbed shell, let `aws` on the instances reach the real S3",
        "region": REGION,
        "fold": "print the same output once, under the instances it came from, when all have ended",
        "each": "a file, or - for stdin: its Nth line is what the Nth instance reads, in the order of ec2.id",
        "private-ip": PRIVATE_IP,
        "via": VIA,
    },
)
def ssh(
    c: Context,
    selector: str | Iterable[str],
    command: str | None = None,
    yes: bool = False,
    quiet: bool = False,
    stdin: str | None = None,
    timeout: float | str = "0",
    max_connections: int | str | None = None,
    real_s3: bool = False,
    region: str | None = None,
    fold: bool = False,
    each: str | None = None,
    private_ip: bool = False,
    via: str | None = None,
) -> list[CommandResult]:
    """Run a command on instances, or log in to one.

    Output streams by line; exit code 1 if it fails anywhere.
    """
    settings = _settings(c, region, max_connections, real_s3, private_ip, via)
    seconds = config.number(timeout, float, "--timeout")
    if command is None and stdin is None and each is None and not fold:
        _login(settings, _one(instances.select(settings, selector)))
        return []
    if fold and quiet:
        raise UsageError("--fold names the instances, --quiet does not: leave one of them out")
    lines = None if each is None else commands.lines(each, command or "", stdin)
    script = commands.read(command or "", stdin)
    chosen = instances.select(settings, selector)
    if lines is not None and len(lines) != len(chosen):
        has = count(len(lines), "line")
        raise UsageError(f"--each {each} has {has} and {_count(chosen)} match: it must have one for each")
    confirm(f"run on {_count(chosen)}?", instances.Instances(chosen).brief(), yes)
    printer = groups.FoldingPrinter() if fold else groups.Printer(prefix=not quiet, sole=len(chosen) == 1)
    return _run(settings, chosen, script, seconds, printer, lines)


@task(
    changes=nothing,
    help={
        "source": "a file or a quoted glob; with a leading ':' on the instances",
        "destination": "where to; with a leading ':' on the instances, ending with '/' for a directory",
        "selector": SELECTOR,
        "yes": YES,
        "max-connections": CONNECTIONS,
        "region": REGION,
        "direct": DIRECT,
        "via": SEND_VIA,
        "private-ip": PRIVATE_IP,
    },
)
def scp(
    c: Context,
    source: str,
    destination: str,
    selector: str | Iterable[str],
    yes: bool = False,
    max_connections: int | str | None = None,
    region: str | None = None,
    direct: bool = False,
    via: str | None = None,
    private_ip: bool = False,
) -> None:
    """Copy files to instances, or from them.

    From several, each file lands under its instance's id.
    """
    settings, bucket = _sending(c, region, max_connections, private_ip, via)
    here, there = transfer.sides(source, destination)
    files = transfer.local_files(here) if isinstance(here, str) else []
    chosen = instances.select(settings, selector)
    confirm(f"copy with {_count(chosen)}?", instances.Instances(chosen).brief(), yes)
    total = sum(file.stat().st_size for file in files) * len(chosen)
    with progress("copying", total, "bytes") as on_bytes:
        group = groups.InstanceGroup(chosen, settings)
        if isinstance(here, str) and isinstance(there, transfer.Remote):
            outcomes = broadcast.send_files(group, files, there, on_bytes, direct=direct, bucket=bucket)
            groups.report(outcomes, say)
        elif isinstance(here, transfer.Remote) and isinstance(there, str):
            groups.report(transfer.fetch_files(group, here, there, on_bytes), say)


@task(
    changes=nothing,
    help={
        "source": "a directory here",
        "destination": "':' and its path on the instances, ending with '/' to put it into that directory",
        "selector": SELECTOR,
        "yes": YES,
        "sync": "send only what changed, by rsync",
        "max-connections": CONNECTIONS,
        "region": REGION,
        "direct": DIRECT,
        "via": SEND_VIA,
        "private-ip": PRIVATE_IP,
    },
)
def push(
    c: Context,
    source: str,
    destination: str,
    selector: str | Iterable[str],
    yes: bool = False,
    sync: bool = False,
    max_connections: int | str | None = None,
    region: str | None = None,
    direct: bool = False,
    via: str | None = None,
    private_ip: bool = False,
) -> None:
    """Send a tree to instances.

    As one tar stream, to all at the same time.
    """
    settings, bucket = _sending(c, region, max_connections, private_ip, via)
    here, there = transfer.sides(source, destination)
    if not isinstance(here, str) or not isinstance(there, transfer.Remote):
        raise UsageError("push sends to the instances: DESTINATION starts with ':'; ec2.pull fetches")
    tree = transfer.local_tree(here)
    chosen = instances.select(settings, selector)
    confirm(f"send {tree} to {_count(chosen)}?", instances.Instances(chosen).brief(), yes)
    group = groups.InstanceGroup(chosen, settings)
    if sync:
        return groups.report(rsync.sync(group, tree, there), say)
    with progress("sending", 0, "bytes") as on_bytes:
        outcomes = broadcast.push(group, tree, there, on_bytes, direct=direct, bucket=bucket)
        return groups.report(outcomes, say)


@task(
    changes=nothing,
    help={
        "source": "':' and the path of a directory on the instances",
        "destination": "where to here; from several instances each lands under its id",
        "selector": SELECTOR,
        "yes": YES,
        "max-connections": CONNECTIONS,
        "region": REGION,
        "private-ip": PRIVATE_IP,
        "via": VIA,
    },
)
def pull(
    c: Context,
    source: str,
    destination: str,
    selector: str | Iterable[str],
    yes: bool = False,
    max_connections: int | str | None = None,
    region: str | None = None,
    private_ip: bool = False,
    via: str | None = None,
) -> None:
    """Fetch a tree from instances.

    From several, each lands under its instance's id.
    """
    settings = _settings(c, region, max_connections, private_ip=private_ip, via=via)
    there, here = transfer.sides(source, destination)
    if not isinstance(there, transfer.Remote) or not isinstance(here, str):
        raise UsageError("pull fetches from the instances: SOURCE starts with ':'; ec2.push sends")
    chosen = instances.select(settings, selector)
    confirm(f"fetch from {_count(chosen)}?", instances.Instances(chosen).brief(), yes)
    with progress("fetching", 0, "bytes") as on_bytes:
        groups.report(transfer.pull(groups.InstanceGroup(chosen, settings), there, here, on_bytes), say)


@task(changes=Lines, autoprint=True, help={"selector": SELECTOR, "yes": YES, "region": REGION, "any-owner": ANY_OWNER})
def rm(
    c: Context,
    selector: str | Iterable[str],
    yes: bool = False,
    region: str | None = None,
    any_owner: bool = False,
) -> Lines:
    """Terminate instances.

    Prints their ids. What is terminated already is no error; an unknown id is, at the end.
    """
    settings = config.settings(c, region)
    unknown: list[str] = []
    found = instances.select(settings, selector, states=instances.STATES, on_unknown=unknown.append)
    alive = [instance for instance in found if instance.state in instances.ALIVE]
    instances.refuse_foreign(alive, any_owner)
    done: list[Instance] = []
    if alive:
        confirm(f"terminate {_count(alive)}?", instances.Instances(alive).brief(), yes)
        ended = instances.terminate(settings, alive)
        done = ended
        if ended:
            say(f"terminated {_count(ended)}, cost so far: {costs.Bill(settings, ended, say).usd}")
        _say_failed(ended.failed, "terminated", len(alive))
        if ended.failed and not unknown:
            return _all(_ids(ended), ended.failed, "terminated", len(alive))
    elif found:
        say(f"{_count(found)} terminated already")
    if unknown:
        message = f"there is no instance {', '.join(unknown)}; {len(done)} others were terminated"
        raise PartlyFailed(message, _ids(done), code=2)
    return _ids(done)


@task(
    changes=Lines,
    autoprint=True,
    help={
        "selector": SELECTOR,
        "state": "the state to wait for; running means that SSH answers, too",
        "seconds-timeout": "seconds until it is a failure",
        "region": REGION,
        "private-ip": PRIVATE_IP,
        "via": VIA,
    },
)
def wait(
    c: Context,
    selector: str | Iterable[str],
    state: str = "running",
    seconds_timeout: int | str | None = None,
    region: str | None = None,
    private_ip: bool = False,
    via: str | None = None,
) -> Lines:
    """Wait until instances are in a state.

    And answer over SSH if it is running; prints their ids.
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
        "private-ip": PRIVATE_IP,
        "via": VIA,
    },
)
def start(
    c: Context,
    selector: str | Iterable[str],
    yes: bool = False,
    wait: bool = True,
    seconds_timeout: int | str | None = None,
    region: str | None = None,
    private_ip: bool = False,
    via: str | None = None,
) -> Lines:
    """Start stopped instances.

    Waits until they answer over SSH and prints their ids. What runs already is no error.
    """
    settings = connections.reached(config.settings(c, region), private_ip, via)
    seconds = _seconds(settings, seconds_timeout)
    chosen = instances.select(settings, selector, states=("pending", "running", "stopped"))
    stopped = [instance for instance in chosen if instance.state == "stopped"]
    if stopped:
        confirm(f"start {_count(stopped)}?", instances.Instances(stopped).brief(), yes)
        started = instances.start(settings, stopped)
        if over := lifetime.over(started):
            say(f"the time of {_count(over)} was over: each ends itself in ten minutes; `inv ec2.extend` moves that")
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
        "region": REGION,
        "any-owner": ANY_OWNER,
    },
)
def stop(
    c: Context,
    selector: str | Iterable[str],
    yes: bool = False,
    wait: bool = False,
    seconds_timeout: int | str | None = None,
    region: str | None = None,
    any_owner: bool = False,
) -> Lines:
    """Stop instances, which keeps their volumes.

    Prints their ids. What is stopped already is no error.
    """
    settings = config.settings(c, region)
    seconds = _seconds(settings, seconds_timeout)
    chosen = instances.select(settings, selector, states=instances.ALIVE)
    going = [instance for instance in chosen if instance.state in ("pending", "running")]
    instances.refuse_foreign(going, any_owner)
    if going:
        confirm(f"stop {_count(going)}?", instances.Instances(going).brief(), yes)
        stopped = instances.stop(settings, going)
        return _going_on(settings, chosen, stopped.failed, "stopped", "stopped", seconds if wait else None)
    return _going_on(settings, chosen, {}, "stopped", "stopped", seconds if wait else None)


@task(changes=Lines, autoprint=True, help={"selector": SELECTOR, "yes": YES, "region": REGION, "any-owner": ANY_OWNER})
def reboot(
    c: Context,
    selector: str | Iterable[str],
    yes: bool = False,
    region: str | None = None,
    any_owner: bool = False,
) -> Lines:
    """Reboot running instances.

    EC2 does so within minutes; prints their ids without waiting for it.
    """
    settings = config.settings(c, region)
    chosen = instances.select(settings, selector)
    instances.refuse_foreign(chosen, any_owner)
    confirm(f"reboot {_count(chosen)}?", instances.Instances(chosen).brief(), yes)
    done = instances.reboot(settings, chosen)
    _say_failed(done.failed, "rebooted", len(chosen))
    return _all(_ids(done), done.failed, "rebooted", len(chosen))


@task(
    changes=Lines,
    autoprint=True,
    iterable=["tag"],
    help={"selector": SELECTOR, "tag": "key=value; repeat it for more", "yes": YES, "region": REGION},
)
def tag(
    c: Context,
    selector: str | Iterable[str],
    tag: str | Iterable[str] | None = None,
    yes: bool = False,
    region: str | None = None,
) -> Lines:
    """Set tags on instances.

    In any state but terminated; prints their ids.
    """
    return _retag(c, region, selector, tags.read(tag or ()), yes, "tag", tags.add)


@task(
    changes=Lines,
    autoprint=True,
    iterable=["tag"],
    help={"selector": SELECTOR, "tag": "key, without a value; repeat it for more", "yes": YES, "region": REGION},
)
def untag(
    c: Context,
    selector: str | Iterable[str],
    tag: str | Iterable[str] | None = None,
    yes: bool = False,
    region: str | None = None,
) -> Lines:
    """Take tags off instances.

    In any state but terminated; prints their ids.
    """
    return _retag(c, region, selector, tags.read_keys(tag or ()), yes, "untag", tags.remove)


def _retag(
    c: Context,
    region: str | None,
    selector: str | Iterable[str],
    given: Any,
    yes: bool,
    verb: str,
    change: Callable[[config.Settings, list[Instance], Any], instances.Done],
) -> Lines:
    if not given:
        raise UsageError(f"there is nothing to {verb}: add --tag, once or more")
    settings = config.settings(c, region)
    chosen = instances.select(settings, selector, states=instances.ALIVE)
    confirm(f"{verb} {_count(chosen)}?", instances.Instances(chosen).brief(), yes)
    done = change(settings, chosen, given)
    _say_failed(done.failed, f"{verb}ged", len(chosen))
    return _all(_ids(done), done.failed, f"{verb}ged", len(chosen))


def _ids(chosen: Iterable[Instance]) -> Lines:
    return Lines(instance.id for instance in chosen)


def _say_failed(failed: Mapping[Instance, HardwayError], verb: str, total: int) -> None:
    if failed and total > 1:  # else it is the error
        say(f"{verb} {total - len(failed)} of {count(total, 'instance')}")
        say(*(f"failed: {instance}: {why}" for instance, why in failed.items()))


def _all(ids: Lines, failed: Mapping[Instance, HardwayError], verb: str, total: int) -> Lines:
    """The ids of those that something was done to. Raises HardwayError with them as its result where some failed."""
    if not failed:
        return ids
    if len(failed) == total == 1:
        [(instance, why)] = failed.items()
        raise HardwayError(f"nothing was {verb}: {instance}: {why}", why.code)
    raise PartlyFailed(f"failed on {len(failed)} of {count(total, 'instance')}", ids)


def _going_on(
    settings: config.Settings,
    chosen: list[Instance],
    failed: Mapping[Instance, HardwayError],
    verb: str,
    state: str,
    seconds: int | None,
) -> Lines:
    """Wait until those that did not fail are in a state, if for so many seconds; their ids, as `_all` tells them."""
    _say_failed(failed, verb, len(chosen))
    going = [instance for instance in chosen if instance not in failed]
    ids = _ids(going) if seconds is None else _wait(settings, going, state, seconds)
    return _all(ids, failed, verb, len(chosen))


def _seconds(settings: config.Settings, flag: int | str | None) -> int:
    return int(config.number(settings.ec2.seconds_timeout if flag is None else flag, int, "--seconds-timeout"))


def _wait(settings: config.Settings, chosen: list[Instance], state: str, seconds: int) -> Lines:
    act(f"wait until {_count(chosen)} are {state}")
    with progress(f"instances {state}", len(chosen)) as on_ready:
        readiness.wait(settings, chosen, state, seconds, on_ready)
    return _ids(chosen)


@task(
    changes=Lines,
    autoprint=True,
    help={
        "selector": SELECTOR,
        "hours": "hours from now after which each ends itself",
        "yes": YES,
        "max-connections": CONNECTIONS,
        "region": REGION,
        "private-ip": PRIVATE_IP,
        "via": VIA,
    },
)
def extend(
    c: Context,
    selector: str | Iterable[str],
    hours: float | str,
    yes: bool = False,
    max_connections: int | str | None = None,
    region: str | None = None,
    private_ip: bool = False,
    via: str | None = None,
) -> Lines:
    """Move the time at which instances end themselves.

    Prints the ids of those.
    """
    settings = _settings(c, region, max_connections, private_ip=private_ip, via=via)
    wanted = config.number(hours, float, "--hours")
    lifetime.check(wanted)
    chosen = instances.select(settings, selector)
    confirm(f"have {_count(chosen)} end {count(wanted, 'hour')} from now?", instances.Instances(chosen).brief(), yes)
    outcomes = lifetime.extend(settings, chosen, wanted)
    try:
        groups.report(outcomes, say)
    except HardwayError as error:
        error.result = _ids(c.instance for c, outcome in outcomes.items() if not groups.describe_outcome(outcome))
        raise
    return _ids(chosen)


@task(autoprint=True, help={"selector": SELECTOR, "region": REGION})
def user_data(c: Context, selector: str | Iterable[str], region: str | None = None) -> str:
    """Print what an instance was given to run at boot."""
    settings = config.settings(c, region)
    chosen = instances.select(settings, selector, states=instances.ALIVE)
    if len(chosen) > 1:
        raise UsageError(f"{_count(chosen)} match: select the one to look at")
    data = instances.user_data(settings, chosen[0])
    if not data:
        say(f"{chosen[0]} was given nothing to run")
    return userdata.text(data)


def _settings(
    c: Context,
    region: str | None,
    max_connections: int | str | None,
    real_s3: bool = True,
    private_ip: bool = False,
    via: str | None = None,
) -> config.Settings:
    settings = connections.reached(config.settings(c, region), private_ip, via)
    if max_connections is not None:
        cap = config.number(max_connections, int, "--max-connections")
        if not cap:
            raise UsageError("--max-connections is 0: it must be 1 or more")
        settings = replace(settings, ec2=replace(settings.ec2, max_connections=cap))
    return replace(settings, stub_session={}) if real_s3 else settings


def _sending(
    c: Context, region: str | None, max_connections: int | str | None, private_ip: bool, via: str | None
) -> tuple[config.Settings, str]:
    """The settings, and what `--via` names to send by way of, if that is no way to connect."""
    bucket = via if via and via != "ssm" else ""
    settings = _settings(
        c, region, max_connections, real_s3=not bucket, private_ip=private_ip, via=None if bucket else via
    )
    return settings, bucket


def _one(chosen: list[Instance]) -> Instance:
    if len(chosen) > 1:
        raise UsageError(f"{_count(chosen)} match: add --command, or select the one to log in to")
    return chosen[0]


def _count(chosen: list[Instance]) -> str:
    return count(len(chosen), "instance")


def _login(settings: config.Settings, instance: Instance) -> None:
    """Hand the terminal over to the real `ssh`. Raises HardwayError with its exit code."""
    act(f"log in to {instance}")
    code = subprocess.call(connections.login_command(instance, settings))
    if code:
        raise Failed(f"ssh ended with {code}")


def _run(
    settings: config.Settings,
    chosen: list[Instance],
    script: Command,
    seconds: float = 0,
    printer: Printer | None = None,
    lines: list[bytes] | None = None,
) -> list[CommandResult]:
    group = groups.InstanceGroup(chosen, settings)
    each = {instance.id: line for instance, line in zip(chosen, lines, strict=True)} if lines else None
    outcomes = group.execute(script.line, stdin=script.stdin, each=each, timeout=seconds, printer=printer, say=say)
    results = [outcomes[connection] for connection in group]
    if isinstance(printer, groups.FoldingPrinter):
        printer.fold(results)
    groups.report(outcomes, say)
    return results


ns = Collection(
    *(new, ls, id, ip, ip_private, dns, ssh, scp, push, pull, rm, wait, start, stop, reboot, extend),
    *(tag, untag, user_data),
    *(amis, ami_new, ami_rm, snapshots, snapshot, sgs, sg, authorize, deauthorize, vpcs, new_vpc, rm_vpc),
    *(regions, zones, types, spot_prices, keys, roles, events, cleanup),
)
ns.configure(config.defaults("aws", "ec2"))
