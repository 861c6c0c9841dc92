"""The launch, from settings to running instances that answer over SSH; or to nothing left running.

`fleet` asks EC2, `replacing` replaces missing instances, `orphans` makes the remains of a killed launch findable.
"""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from hardway import aws
from hardway.config import SETTINGS, Settings
from hardway.ec2 import account, images
from hardway.ec2.instances import ENDS_TAG, Instance, check_name, is_plain, quoted
from hardway.ec2.tags import check as check_tags
from hardway.ec2.tags import read as read_tags
from hardway.errors import Failed, HardwayError, UsageError, did_you_mean
from hardway.fanout.commands import file_content
from hardway.launch import fleet, orphans, prerequisites, requests
from hardway.launch import user_data as userdata
from hardway.launch.orphans import LAUNCH_TAG
from hardway.launch.readiness import Probes, some
from hardway.launch.replacing import Gathering, lowest_enough
from hardway.money import budget, costs, prices
from hardway.ssh import proxy
from hardway.system import signals
from hardway.system.look_ups import LookUps
from hardway.tables import count

# The tags that a launch sets by itself, with the flag for each.
_OUR_TAGS = {
    "Name": "--name",
    "owner": "",
    "creation-date": "",
    "ssh-user": "--ssh-user",
    "ssh-port": "--ssh-port",
    ENDS_TAG: "--max-hours",
    LAUNCH_TAG: "",
}
# The time for a command on new instances; a launch seen from another machine counts as dead after it.
_PREPARE_SECONDS = 24 * 3600
# Calls at the same time.
_LOOK_UPS, _PREREQUISITES = 6, 2


def launch(
    settings: Settings,
    say: Callable[[str], None],
    *,
    wait: bool = True,
    tags: Iterable[str] = (),
    on_ready: Callable[[int], None] = lambda count: None,
    prepare: Callable[[list[Instance]], None] | None = None,
    publish: Callable[[list[Instance]], None] | None = None,
    before: Callable[[str], None] = lambda plan: None,
    over_budget: Callable[[str], None] = lambda why: None,
) -> list[Instance]:
    """Launch `settings.ec2.num` instances, `wait` until each answers over SSH, and return them.

    `tags` are texts, key=value. `before` is called with a sentence (`start 3 instances ...`) after all look-ups, right
    before the first thing is made. `over_budget` is called then with the reason, if the launch may exceed `aws.budget`.
    An error of either ends the launch. `on_ready` is called with the number of instances that are newly ready.
    `prepare` is called with all instances, as a part of the launch. `publish` is called when the caller is to learn of
    the instances; its failure fails the launch. On any failure, Ctrl-C, SIGTERM and SIGHUP included, all started
    instances are terminated, `say` is told, and the error is raised: UsageError before anything was started, Failed for
    a failure of EC2 or the instances.
    """
    ec2 = settings.ec2
    own_tags = _read_own_tags(settings, tags)
    init = _read_init(settings)
    _check(settings, init)
    proxy.check(settings)
    # These look-ups don't depend on each other.
    with LookUps(_LOOK_UPS) as pool:
        others = pool.submit(orphans.find, settings)
        found_image = pool.submit(images.resolve, settings)
        plain_quote = pool.submit(costs.quote, settings, prices.PLAIN[0], say)
        place = pool.submit(prerequisites.network, settings)
        offers = pool.submit(fleet.offers, settings)
        key_checked = pool.submit(prerequisites.check_key, settings)
    orphans.report(settings, others.result(), say)
    image = found_image.result()
    bids = _bids(settings, image.platform, say)
    quote = plain_quote.result() if image.platform in prices.PLAIN else costs.quote(settings, image.platform, say)
    if ec2.max_cost:
        costs.refuse_above(settings, quote, say)
    network = place.result()
    pools = fleet.pools(settings, network, offers.result())
    if why_not := key_checked.result():
        if wait:
            raise UsageError(why_not)
        say(why_not)
    over = budget.why_to_ask(settings, quote, say)
    before(f"start {count(ec2.num, 'instance')} named {ec2.name}, of {image.id} in {network.vpc}: {quote}")
    if over:
        over_budget(over)
    if not is_plain(ec2.name):
        say(f"quote the name in a selector: {shlex.quote(quoted(ec2.name))}")
    token = orphans.new_token(ec2.seconds_timeout + (_PREPARE_SECONDS if prepare else 0))
    with orphans.under_way(token) as mark:
        with ThreadPoolExecutor(_PREREQUISITES, "prerequisite") as pool:
            said_of_key: list[str] = []  # said later, so that the order of lines is always the same
            groups = pool.submit(prerequisites.security_groups, settings, network, say)
            key = pool.submit(prerequisites.key_pair, settings, said_of_key.append)
            try:
                _join(groups, key)
            finally:
                for line in said_of_key:
                    say(line)
        found = requests.Prerequisites(image, key.result(), groups.result(), init)
        now = datetime.now(timezone.utc)
        instance = requests.instance(ec2, found, own_tags, aws.user(), token, now)
        say(userdata.limits_said(settings, now))
        say(str(quote))
        started = fleet.Fleet(settings, token, instance, pools, any_zone=network.any_zone, bids=bids)
        ready = _gather(settings, wait, started, mark, say, on_ready, prepare, publish)
    return [replace(i, tags={k: v for k, v in i.tags.items() if k != LAUNCH_TAG}) for i in ready]


def _join(*calls: Future[Any]) -> None:
    """Wait for calls within the block of their pool, so that an interrupt ends no call half way."""
    wait_for(calls)


def _check(settings: Settings, init: bytes) -> None:
    """Raise UsageError for settings that exclude each other, before anything is asked of EC2."""
    ec2, source = settings.ec2, settings.source
    num = f"{source('ec2.num')} {ec2.num}"
    if not ec2.types:
        raise UsageError(f"{source('ec2.type')} is empty: name an instance type, such as m7i.large")
    if len(ec2.types) > images.MOST_TYPES:
        raise UsageError(
            f"{source('ec2.type')} names {len(ec2.types)} types, but EC2 takes {images.MOST_TYPES}: name fewer"
        )
    if ec2.min > ec2.num:
        raise UsageError(f"{source('ec2.min')} is {ec2.min}, more than {num}")
    if ec2.on_demand > ec2.num:
        raise UsageError(f"{source('ec2.on_demand')} is {ec2.on_demand}, more than {num}")
    if ec2.on_demand and not ec2.spot:
        raise UsageError(
            f"{source('ec2.on_demand')} is for a mix with spot instances: add --spot 1.0; without it all are on demand"
        )
    lowest = lowest_enough(ec2)
    seconds = math.ceil((lowest - fleet.BUCKET) / fleet.REFILL)
    if seconds > ec2.seconds_timeout:
        raise UsageError(
            f"{num} is more than EC2 starts in {source('ec2.seconds_timeout')} {ec2.seconds_timeout}: it starts "
            f"{fleet.BUCKET:,} at once, then {fleet.REFILL} a second, and needs {seconds:,} seconds for {lowest:,}"
        )
    check_name(ec2.name, source("ec2.name"))
    userdata.compose(ec2, init, ec2.ssh_user)


def _read_own_tags(settings: Settings, texts: Iterable[str]) -> dict[str, str]:
    """Return the tags that a person has asked for, by texts or by a flag. Raises UsageError."""
    ec2 = settings.ec2
    tags = read_tags(texts)
    for key in tags:
        if key in _OUR_TAGS:
            flag = _OUR_TAGS[key] and f": use {_OUR_TAGS[key]}"
            raise UsageError(f"--tag {key} is a tag that a launch sets itself{flag}")
    now = datetime.now(timezone.utc)
    all_ = requests.lasting_tags(ec2, ec2.ssh_user, tags, aws.user(), now) | requests.passing_tags(ec2, "", now)
    check_tags(all_, tags)
    if settings.source("ec2.ssh_port") == SETTINGS["ec2.ssh_port"].flag:
        # Later commands may lack this environment's port.
        tags["ssh-port"] = str(ec2.ssh_port)
    return tags


def _gather(
    settings: Settings,
    wait: bool,
    started: fleet.Fleet,
    mark: orphans.Mark,
    say: Callable[[str], None],
    on_ready: Callable[[int], None],
    prepare: Callable[[list[Instance]], None] | None,
    publish: Callable[[list[Instance]], None] | None,
) -> list[Instance]:
    """Start instances until enough are ready, and prepare them; on failure end all, and say so in the error."""
    with Probes(settings, settings.ec2.num, bool(settings.ec2.init.strip())) as probes, signals.raised():
        try:
            ready = Gathering(settings.ec2, wait, started, probes, say, on_ready).run()
            if settings.ec2.max_hours or settings.ec2.idle_minutes:
                _warn_of_endless(ready, probes.unwatched, say)
            if prepare:
                prepare(ready)
            # If we are killed before the ids are out, the tag still tells whose instances these are.
            if publish:
                publish(ready)
            started.keep([instance.id for instance in ready])
        except BaseException as error:
            raise _with_near_role(settings, _ended(settings, started, error, mark, say)) from error
        _delete_templates(settings, started, mark, say)
    return ready


def _bids(settings: Settings, platform: str, say: Callable[[str], None]) -> dict[str, float] | None:
    """Return the highest spot price in USD/hour by type; None for EC2's own limit.

    Raises UsageError for an unknown price.
    """
    spot, types = settings.ec2.spot, settings.ec2.types
    if spot in (0, 1):
        return None
    known = prices.on_demand(settings, types if platform in prices.PLAIN else (), say)
    unknown = [name for name in types if name not in known]
    if unknown:
        raise UsageError(
            f"--spot {spot:g} is a part of the on-demand price, and the price of {', '.join(unknown)} is not known: "
            "use --spot 1.0, which is at most the on-demand price"
        )
    return {name: known[name] * spot for name in types}


def _warn_of_endless(ready: Iterable[Instance], unwatched: set[str], say: Callable[[str], None]) -> None:
    """Warn of instances that may never end: the limits are part of user data, which some images don't run."""
    ids = [instance.id for instance in ready if instance.id in unwatched]
    if ids:
        which = f"{count(len(ids), 'instance')} ({some(ids)})"
        say(f"nothing but ec2.rm ends {which}: the image did not run its user data, which sets the limit")


def _delete_templates(settings: Settings, started: fleet.Fleet, mark: orphans.Mark, say: Callable[[str], None]) -> None:
    """Delete the templates that could not be deleted after their use. One left costs nothing, and is no error."""
    with signals.ignored():
        for name in started.delete_templates():
            mark.stays = True
            say(f"the launch template {name} could not be deleted: `{settings.command('ec2.cleanup')}` will")


def _ended(
    settings: Settings, started: fleet.Fleet, error: BaseException, mark: orphans.Mark, say: Callable[[str], None]
) -> BaseException:
    """Terminate all of a launch; return the error to raise, with the outcome in its text."""
    with signals.ignored():
        if isinstance(error, KeyboardInterrupt):
            error = signals.as_error(error)
            say(f"{error}: terminating what was started")
        try:
            ids = started.end()
            mark.stays = started.is_unsure
            _delete_templates(settings, started, mark, say)
        except Exception as failure:
            mark.stays = True
            return Failed(
                f"{error}; and what was started could not be terminated ({aws.translate(failure) or failure}): "
                f"run `{settings.command('ec2.rm', f'{LAUNCH_TAG}={started.token}')}`"
            )
    known = error if isinstance(error, HardwayError) else None
    if isinstance(error, Exception) and not known:
        known = aws.translate(error)
    if known is None:
        say(f"{len(ids)} started instances were terminated" if ids else "nothing was started")
        return error
    ended = f"the {len(ids)} instances started were terminated" if ids else "nothing was started"
    return HardwayError(f"{known}; {ended}", known.code)


def _with_near_role(settings: Settings, error: BaseException) -> BaseException:
    """Return the error; if EC2 knows no role of the given name, add the nearest role."""
    role = settings.ec2.role
    # EC2 says `Invalid IAM Instance Profile name`, in the error of a parameter's value.
    if not role or not isinstance(error, HardwayError) or "instance profile" not in str(error).lower():
        return error
    try:
        known = [profile.name for profile in account.instance_profiles(settings)]
    except Exception:  # a person who may launch may not be allowed to list roles
        return error
    return HardwayError(f"{error}{did_you_mean(role, known)}", error.code)


def _read_init(settings: Settings) -> bytes:
    """Return the user data that `ec2.init` means: a file's content, else the text itself.

    Raises UsageError for the path of a missing file: as a script it would fail unseen.
    """
    init, source = settings.ec2.init, settings.source("ec2.init")
    content = file_content(init, source)
    if content is None and re.fullmatch(r"\S*[./]\S*", init):
        what = "a directory" if os.path.isdir(init) else "no file here"
        raise UsageError(
            f"{source} {init} is {what}; to run this path on the instance, give a script: --init 'exec {init}'"
        )
    return init.encode(errors="surrogateescape") if content is None else content
