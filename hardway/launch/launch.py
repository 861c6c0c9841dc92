"""From what to launch to running, ssh-ready instances; or nothing left running.

`fleet` asks EC2, `replacing` replaces what is missing, `orphans` has those found that a killed launch leaves behind.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from hardway import aws, signals
from hardway.config import Settings, number, text
from hardway.ec2 import account, images
from hardway.ec2.instances import ENDS_TAG, Instance, check_name, is_plain, quoted
from hardway.ec2.tags import read as read_tags
from hardway.errors import Failed, HardwayError, UsageError, did_you_mean
from hardway.fanout.commands import file_content
from hardway.launch import fleet, orphans, prerequisites
from hardway.launch import user_data as userdata
from hardway.launch.orphans import LAUNCH_TAG
from hardway.launch.readiness import Probes, some
from hardway.launch.replacing import Gathering, Wanted
from hardway.money import costs, prices
from hardway.tables import count

# EC2 takes bids of up to ten times the on-demand price.
_MOST_SPOT = 10
# What a launch tags instances with by itself, and the flag that says so.
_OUR_TAGS = {
    "Name": "--name",
    "owner": "",
    "creation-date": "",
    "ssh-user": "--ssh-user",
    "ssh-port": "--ssh-port",
    ENDS_TAG: "--max-hours",
    LAUNCH_TAG: "",
}
# What a command run on new instances may take, until a launch that is seen from elsewhere is taken to be dead.
_PREPARE_SECONDS = 24 * 3600


@dataclass(frozen=True)
class Request:
    """What to launch. `gigs` is the root volume in GiB (0: the image's own).

    `spot` is 0 for on demand, else the highest price of a spot instance as a part of the on-demand price; so many as
    `on_demand` says are on demand then.
    `seconds_timeout` bounds the wait for all to be ready; after `seconds_wait` (0: never) those ready by then are
    enough, and `min` (0: `num`) are once EC2 has no more; the rest is terminated. What could cost more than `max_cost`
    USD within its limits is not started (0: no matter what).
    """

    name: str
    num: int
    types: tuple[str, ...]
    spot: float
    ami: str
    key: str
    security_groups: tuple[str, ...]
    vpc: str
    subnet: str
    zone: str
    role: str
    gigs: int
    init: bytes
    limits: userdata.Limits
    ssh_user: str
    ssh_port: int
    ssh_from: str
    wait: bool
    seconds_timeout: int
    seconds_wait: int
    min: int
    max_cost: float
    on_demand: int
    tags: dict[str, str] = field(default_factory=dict)


def read_request(settings: Settings, wait: bool, tags: Iterable[str] | None, **overrides: Any) -> Request:
    """A request from the settings, with what is not None of `overrides` (named as the settings are) in their place.

    Raises UsageError for a value that cannot be, before anything is asked of EC2.
    """
    chosen = asdict(settings.ec2) | {name: value for name, value in overrides.items() if value is not None}
    numbers: dict[str, Any] = {
        name: number(chosen[name], kind, f"--{name.replace('_', '-')}")
        for name, kind in (
            ("num", int),
            ("spot", float),
            ("gigs", int),
            ("ssh_port", int),
            ("seconds_timeout", int),
            ("seconds_wait", int),
            ("min", int),
            ("max_hours", float),
            ("max_cost", float),
            ("idle_minutes", float),
            ("on_demand", int),
        )
    }
    texts: dict[str, Any] = {
        name: str(chosen[name]) for name in ("ami", "key", "vpc", "subnet", "zone", "role", "ssh_user", "ssh_from")
    }
    types = tuple(filter(None, re.split(r"[\s,]+", text(chosen["type"]).strip())))
    if not numbers["num"]:
        raise UsageError("--num is 0: there is nothing to start")
    if not types:
        raise UsageError("--type is empty: name an instance type, such as m7i.large")
    if numbers["spot"] > _MOST_SPOT:
        raise UsageError(f"--spot is a part of the on-demand price, such as 0.5, and at most {_MOST_SPOT}")
    if numbers["min"] > numbers["num"]:
        raise UsageError(f"--min is {numbers['min']}, more than --num {numbers['num']}")
    if numbers["on_demand"] > numbers["num"]:
        raise UsageError(f"--on-demand is {numbers['on_demand']}, more than --num {numbers['num']}")
    if numbers["on_demand"] and not numbers["spot"]:
        raise UsageError("--on-demand is for a mix with spot instances: add --spot 1.0; without it all are on demand")
    if not 0 < numbers["ssh_port"] < 65536:
        raise UsageError("--ssh-port is between 1 and 65535")
    check_name(str(chosen["name"]), "--name")
    init = _read_init(str(chosen["init"]))
    limits = userdata.Limits(numbers.pop("max_hours"), numbers.pop("idle_minutes"))
    userdata.compose(init, limits, texts["ssh_user"], numbers["ssh_port"])
    return Request(
        name=str(chosen["name"]),
        types=types,
        security_groups=tuple(filter(None, re.split(r"[\s,]+", text(chosen["sg"]).strip()))),
        init=init,
        limits=limits,
        wait=wait,
        tags=_read_own_tags(tags or ()),
        **texts,
        **numbers,
    )


def _read_own_tags(texts: Iterable[str]) -> dict[str, str]:
    tags = read_tags(texts)
    for key in tags:
        if key in _OUR_TAGS:
            flag = _OUR_TAGS[key] and f": use {_OUR_TAGS[key]}"
            raise UsageError(f"--tag {key} is a tag that a launch sets itself{flag}")
    return tags


def launch(
    settings: Settings,
    request: Request,
    say: Callable[[str], None],
    *,
    on_ready: Callable[[int], None] = lambda count: None,
    prepare: Callable[[list[Instance]], None] | None = None,
    publish: Callable[[list[Instance]], None] | None = None,
    before: Callable[[str], None] = lambda plan: None,
) -> list[Instance]:
    """Launch, wait until each instance answers over SSH (unless told not to), and return them.

    `before` is called with a sentence (`start 3 instances ...`) when all is looked up, right before the first thing is
    made; what it raises ends the launch. `on_ready` is told how many more are ready; `prepare` is called with them
    all, as a part of the launch, and `publish` when they are to be told to whoever asked for them: a launch of which
    nobody learns has not ended well. On any
    failure, Ctrl-C, SIGTERM and SIGHUP included, what was started is terminated, `say` is told, and the error raised:
    UsageError before anything was started, Failed for what EC2 or the instances could not do.
    """
    orphans.look(settings, say)
    image = images.resolve(settings, request.ami, request.types, request.ssh_user)
    bids = _bids(settings, request, image.platform, say)
    on_demand = request.on_demand if request.spot else request.num
    spot = request.num - on_demand
    quote = costs.quote(settings, request.types, spot, on_demand, request.zone, image.platform, say)
    if request.max_cost:
        costs.refuse_above(settings, quote, request.spot, request.max_cost, request.limits.max_hours, say)
    network = prerequisites.network(settings, request.subnet, request.vpc, request.zone)
    pools = fleet.pools(settings, request.types, network)
    before(f"start {count(request.num, 'instance')} named {request.name}, of {image.id} in {network.vpc}: {quote}")
    if not is_plain(request.name):
        say(f"in a selector the name is to be quoted: {shlex.quote(quoted(request.name))}")
    token = orphans.new_token(request.seconds_timeout + (_PREPARE_SECONDS if prepare else 0))
    with orphans.under_way(token) as mark:
        call = _call(settings, request, image, network, token, say)
        say(str(quote))
        started = fleet.Fleet(
            settings,
            token,
            call,
            pools,
            spot=request.spot > 0,
            any_zone=network.any_zone,
            bids=bids,
            on_demand=request.on_demand,
        )
        ready = _gather(settings, request, started, mark, say, on_ready, prepare, publish)
    return [replace(i, tags={k: v for k, v in i.tags.items() if k != LAUNCH_TAG}) for i in ready]


def _gather(
    settings: Settings,
    request: Request,
    started: fleet.Fleet,
    mark: orphans.Mark,
    say: Callable[[str], None],
    on_ready: Callable[[int], None],
    prepare: Callable[[list[Instance]], None] | None,
    publish: Callable[[list[Instance]], None] | None,
) -> list[Instance]:
    """Start instances until enough are ready, and prepare them; or end what was started, and say so in the error."""
    wanted = Wanted(request.num, request.min, request.wait, request.seconds_timeout, request.seconds_wait)
    with Probes(settings, request.num) as probes, signals.raised():
        try:
            ready = Gathering(wanted, started, probes, say, on_ready).run()
            if request.limits.max_hours or request.limits.idle_minutes:
                _warn_of_endless(ready, probes.unwatched, say)
            if prepare:
                prepare(ready)
            # Until their ids are out the tag says whose they are, should we be killed.
            if publish:
                publish(ready)
            started.keep([instance.id for instance in ready])
        except BaseException as error:
            raise _with_near_role(settings, request.role, _ended(started, error, mark, say)) from error
        _delete_templates(started, mark, say)
    return ready


def _bids(
    settings: Settings, request: Request, platform: str, say: Callable[[str], None]
) -> dict[str, float] | None:
    """The highest price in USD/hour by type; None for EC2's own limit. Raises UsageError for a price not known."""
    if request.spot in (0, 1):
        return None
    known = prices.on_demand(settings, request.types if platform in prices.PLAIN else (), say)
    unknown = [name for name in request.types if name not in known]
    if unknown:
        raise UsageError(
            f"--spot {request.spot:g} is a part of the on-demand price, and that of {', '.join(unknown)} is not known: "
            "use --spot 1.0, which is at most the on-demand price"
        )
    return {name: known[name] * request.spot for name in request.types}


def _call(
    settings: Settings,
    request: Request,
    image: images.Image,
    network: prerequisites.Network,
    token: str,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """What RunInstances and a launch template both take; makes the key pair and the security group where needed."""
    now = datetime.now(timezone.utc)
    tags = {
        **request.tags,
        "Name": request.name,
        "owner": aws.user(),
        "creation-date": now.isoformat(timespec="seconds"),
        "ssh-user": image.user,
    }
    if request.ssh_port != 22:
        tags["ssh-port"] = str(request.ssh_port)
    own_tags = {**tags, **request.limits.tags(now), LAUNCH_TAG: token}
    groups = prerequisites.security_groups(
        settings,
        request.security_groups,
        network.vpc,
        request.ssh_port,
        request.ssh_from,
        say,
        private=settings.ec2.private_ip or not network.public,
    )
    call: dict[str, Any] = {
        "ImageId": image.id,
        "KeyName": prerequisites.key_pair(settings, request.key, say),
        "SecurityGroupIds": groups,
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpTokens": "required"},
        "TagSpecifications": [
            {"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tagged.items()]}
            for kind, tagged in (("instance", own_tags), ("volume", tags))
        ],
        "UserData": userdata.compose(request.init, request.limits, image.user, request.ssh_port),
    }
    if request.role:
        call["IamInstanceProfile"] = {"Name": request.role}
    disks: dict[str, dict[str, Any]] = {
        device: {**volume, "DeleteOnTermination": True} for device, volume in image.kept_disks.items()
    }
    if request.gigs:
        disks[image.root_device] = {"VolumeSize": request.gigs, "VolumeType": "gp3", "DeleteOnTermination": True}
    if disks:
        call["BlockDeviceMappings"] = [{"DeviceName": device, "Ebs": disk} for device, disk in disks.items()]
    say(request.limits.said(now))
    return call


def _warn_of_endless(ready: Iterable[Instance], unwatched: set[str], say: Callable[[str], None]) -> None:
    """What ends an instance is a part of its user data, which some images don't run."""
    ids = [instance.id for instance in ready if instance.id in unwatched]
    if ids:
        which = f"{count(len(ids), 'instance')} ({some(ids)})"
        say(f"no limit on {which}: the image has not run its user data, and nothing but `inv ec2.rm` ends it")


def _delete_templates(started: fleet.Fleet, mark: orphans.Mark, say: Callable[[str], None]) -> None:
    """Each is deleted once used; those that could not be, now. One that is left costs nothing: no reason to fail."""
    with signals.ignored():
        for name in started.delete_templates():
            mark.stays = True
            say(f"the launch template {name} could not be deleted: inv ec2.cleanup will")


def _ended(
    started: fleet.Fleet, error: BaseException, mark: orphans.Mark, say: Callable[[str], None]
) -> BaseException:
    """Terminate all of a launch; returns the error to raise, which says so."""
    with signals.ignored():
        if isinstance(error, KeyboardInterrupt):
            error = signals.as_error(error)
            say(f"{error}: terminating what was started")
        try:
            ids = started.end()
            mark.stays = started.is_unsure
            _delete_templates(started, mark, say)
        except Exception as failure:
            mark.stays = True
            return Failed(
                f"{error}; and what was started could not be terminated ({aws.translate(failure) or failure}): "
                f"run `inv ec2.rm {LAUNCH_TAG}={started.token}`"
            )
    known = error if isinstance(error, HardwayError) else None
    if isinstance(error, Exception) and not known:
        known = aws.translate(error)
    if known is None:
        say(f"{len(ids)} started instances were terminated" if ids else "nothing was started")
        return error
    ended = f"the {len(ids)} instances started were terminated" if ids else "nothing was started"
    return HardwayError(f"{known}; {ended}", known.code)


def _with_near_role(settings: Settings, role: str, error: BaseException) -> BaseException:
    """The error, with the role that was meant where EC2 has said that there is none of this name."""
    # `Invalid IAM Instance Profile name`, of a parameter's value.
    if not role or not isinstance(error, HardwayError) or "instance profile" not in str(error).lower():
        return error
    try:
        known = [profile.name for profile in account.instance_profiles(settings)]
    except Exception:  # whoever may launch may not be allowed to list them
        return error
    return HardwayError(f"{error}{did_you_mean(role, known)}", error.code)


def _read_init(init: str) -> bytes:
    """What `--init` means: a file's content, else the text itself.

    Raises UsageError for what looks like a file, and is none: as a script it would fail where nobody sees it.
    """
    content = file_content(init, "--init")
    if content is None and re.fullmatch(r"\S*[./]\S*", init):
        what = "a directory" if os.path.isdir(init) else "no file here"
        raise UsageError(f"--init {init} is {what}; a script that runs it on the instance: --init 'exec {init}'")
    return init.encode(errors="surrogateescape") if content is None else content
