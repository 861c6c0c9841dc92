"""Check the needs of a launch, all at the same time, before anything costs money.

Nothing is made: EC2 answers questions, and tries calls without carrying them out. Each `Check` covers one need.
"""

from __future__ import annotations

import email.utils
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from hardway import aws
from hardway.config import Settings
from hardway.ec2 import account, images, quotas, security_groups, vcpus
from hardway.ec2 import tags as tagging
from hardway.ec2.images import Image
from hardway.ec2.instances import Instance
from hardway.launch import fleet, launch, orphans, permissions, prerequisites, requests
from hardway.launch.prerequisites import Network
from hardway.money import budget, costs
from hardway.ssh import connection as ssh
from hardway.ssh import proxy
from hardway.ssh.keys import own_key_path
from hardway.system.look_ups import LookUps
from hardway.tables import Table, count, duration

OK, WARN, FAIL = "ok", "warn", "fail"
_MUCH_SKEW_SECONDS = 60
_SKEWED = "set this machine's clock: timedatectl set-ntp true"
_POLICY = "docs/permissions.md has the policy"
_LOOK = "permit servicequotas:GetServiceQuota; the local cloud has no quotas"
_FEWER = "take fewer, another --type, or ask for more at"
# The errors of a region that is not enabled, for keys that are good elsewhere.
_NOT_KNOWN_THERE = ("AuthFailure", "InvalidClientTokenId", "UnrecognizedClientException", "OptInRequired")
_ENABLED_EVERYWHERE = "us-east-1"
_RUN = "RunInstances"
# For examples: https://www.rfc-editor.org/rfc/rfc5737
_EXAMPLE = "192.0.2.1"
_AT_ONCE = 24


@dataclass(frozen=True)
class Check:
    """The result for one need: in order (ok), perhaps a nuisance (warn), or the end of a launch (fail).

    `found` is the current state, `advice` the remedy.
    """

    status: str
    what: str
    found: str
    advice: str = ""


class Checks(Table[Check]):
    """The results for all needs."""

    def __init__(self, checks: Iterable[Check]) -> None:
        super().__init__(checks, "status", "what", _sentence)

    @property
    def failures(self) -> list[Check]:
        """The checks that would stop a launch."""
        return [check for check in self if check.status == FAIL]


def _sentence(check: Check) -> str:
    return f"{check.found}: {check.advice}" if check.advice else check.found


def check(settings: Settings, tags: Iterable[str] = ()) -> Checks:
    """Check all that a launch with these settings needs; `tags` are as for `launch`."""
    own_tags = (tags,) if isinstance(tags, str) else tuple(tags)
    with LookUps(_AT_ONCE) as pool:
        look = pool.submit
        # An answer that several checks need is asked for once.
        identity = look(_identity, settings)
        image = look(images.resolve, settings)
        network = look(prerequisites.network, settings)
        offers = look(fleet.offers, settings)
        permitted = look(_permissions, settings, own_tags, image, network, offers)
        looks: dict[str, Callable[[], Iterator[Check]]] = {
            "credentials": lambda: _credentials(identity),
            "clock": lambda: _clock(identity),
            "region": lambda: _region(settings),
            "permissions": lambda: _permitted(settings, permitted),
            "quotas": lambda: _quotas(settings),
            "network": lambda: _network(settings, network, offers),
            "security groups": lambda: _security_groups(settings, network),
            "image": lambda: _image(image),
            "cost": lambda: _cost(settings, image),
            "key": lambda: _key(settings),
            "~/.ssh/config": lambda: _ssh_config(settings),
            "ssm": lambda: _ssm(settings),
            "launch": lambda: _launch(settings, own_tags),
        }
        found = [look(_guarded, what, each) for what, each in looks.items()]
        return Checks(_said_once(one for each in found for one in each.result()))


def _guarded(what: str, look: Callable[[], Iterator[Check]]) -> list[Check]:
    """Return the results of `look`; a refusal by AWS, or by this machine, is a failure."""
    try:
        return list(look())
    except Exception as error:
        known = aws.translate(error)
        if not known:
            raise
        return [Check(FAIL, what, str(known))]


def _said_once(checks: Iterable[Check]) -> Iterator[Check]:
    """Yield the checks; a failure for the same reason as an earlier one refers to it, and no warning comes twice."""
    before: dict[str, str] = {}
    for each in checks:
        if each.found not in before:
            yield each
        elif each.status == FAIL:
            yield replace(each, found=f"as for {before[each.found]}", advice="")
        if each.status != OK:
            before.setdefault(each.found, each.what)


@dataclass(frozen=True)
class _Identity:
    """The answer of the Security Token Service: the user, or the error; and the seconds by which its clock is ahead."""

    answer: Mapping[str, Any] | Exception
    ahead: float | None


def _identity(settings: Settings) -> _Identity:
    before = datetime.now(timezone.utc)
    answer: Mapping[str, Any] | Exception
    try:
        answer = aws.sts(settings).get_caller_identity()
    except Exception as error:
        answer = error
    after = datetime.now(timezone.utc)
    response = answer if isinstance(answer, Mapping) else getattr(answer, "response", {})
    said = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        theirs = email.utils.parsedate_to_datetime(said)
    except ValueError:
        return _Identity(answer, None)
    return _Identity(answer, (theirs - before - (after - before) / 2).total_seconds())


def _credentials(identity: Future[_Identity]) -> Iterator[Check]:
    answer = identity.result().answer
    if isinstance(answer, Exception):
        raise answer
    arn = str(answer["Arn"])
    if arn.endswith(":root"):
        yield Check(WARN, "credentials", f"of the account's root user ({arn})", "make a role or a user for this")
    else:
        yield Check(OK, "credentials", f"of {arn}")


def _clock(identity: Future[_Identity]) -> Iterator[Check]:
    ahead = identity.result().ahead
    if ahead is None:
        yield Check(WARN, "clock", "AWS's answer does not tell the time, so nothing is known of this machine's clock")
        return
    off = abs(ahead)
    # The header is in whole seconds.
    if off < 2:
        yield Check(OK, "clock", "as AWS's")
        return
    status = OK if off <= _MUCH_SKEW_SECONDS else WARN if off <= aws.MOST_SKEW_SECONDS else FAIL
    found = (
        f"{duration(off)} {'behind' if ahead > 0 else 'ahead of'} AWS's, which may be {aws.MOST_SKEW_SECONDS} s at most"
    )
    yield Check(status, "clock", found, "" if status == OK else _SKEWED)


def _region(settings: Settings) -> Iterator[Check]:
    name = aws.region_of(settings)
    try:
        raw = _described_region(settings, name)
    except Exception as error:
        if aws.is_denied(error):
            yield Check(WARN, "region", f"{name}: whether it is enabled can't be told without DescribeRegions")
            return
        if aws.error_code(error) not in _NOT_KNOWN_THERE:
            raise
        elsewhere = replace(settings, aws=replace(settings.aws, region=_ENABLED_EVERYWHERE))
        raw = _described_region(elsewhere, name)
    if raw.get("OptInStatus") == "not-opted-in":
        enable = f"aws account enable-region --region-name {name}"
        yield Check(FAIL, "region", f"{name} is not enabled for this account", enable)
    else:
        yield Check(OK, "region", f"{name}, enabled")


def _described_region(settings: Settings, name: str) -> Mapping[str, Any]:
    [raw] = aws.ec2(settings).describe_regions(RegionNames=[name], AllRegions=True)["Regions"]
    return dict(raw)


@dataclass(frozen=True)
class _Tried:
    """Whether each call is permitted, by dry runs, and EC2's word on this very launch, if enough is known to try it."""

    permitted: Mapping[str, bool]
    launch: str | None


def _permissions(
    settings: Settings,
    tags: Sequence[str],
    image: Future[Image],
    network: Future[Network],
    offers: Future[fleet.Offers | None],
) -> _Tried:
    found = permissions.find(settings)
    try:
        parameters = _run_instances(settings, tags, image.result(), network.result(), offers.result())
    except Exception:  # the check of the image, or of the network, reports it
        return _Tried(found, None)
    return _Tried(found, permissions.dry_run(settings, _RUN, parameters))


def _run_instances(
    settings: Settings, tags: Sequence[str], image: Image, network: Network, offers: fleet.Offers | None
) -> dict[str, Any]:
    """Return this launch's call for one instance, without a key pair or a security group that is still to be made."""
    pool = fleet.pools(settings, network, offers)[0]
    key = prerequisites.own_key_name(settings)
    known = {pair.name for pair in account.key_pairs(settings, key)}
    groups = prerequisites.security_groups(settings, network, _nobody) if settings.ec2.groups else []
    found = requests.Prerequisites(image, key, groups, b"")
    own_tags = tagging.read(tags)
    token = orphans.new_token(0)
    one = requests.instance(settings.ec2, found, own_tags, aws.user(), token, datetime.now(timezone.utc))
    absent = [name for name, there in (("KeyName", key in known), ("SecurityGroupIds", groups)) if not there]
    call = requests.run_instances(one, pool, 1)
    return {name: value for name, value in call.items() if name not in absent}


def _nobody(line: str) -> None:
    """Say nothing."""


def _permitted(settings: Settings, tried: Future[_Tried]) -> Iterator[Check]:
    permitted, launch_said = dict(tried.result().permitted), tried.result().launch
    needed = permissions.LAUNCH | (permissions.SPOT if settings.ec2.spot else frozenset())
    if launch_said in ("allowed", "denied"):
        # Only this dry run names the launch's own image, subnet and tags.
        permitted[_RUN] = launch_said == "allowed"
    denied = {call for call, may in permitted.items() if not may}
    others = {*permissions.TRIED} - needed
    yield _permitted_for("to launch", needed, permitted, FAIL if needed & denied else OK)
    yield _permitted_for("for other tasks", others, permitted, WARN if others & denied else OK)
    if launch_said not in (None, "", "allowed", "denied"):
        # A fleet has other limits and prices than RunInstances.
        yield Check(WARN if settings.ec2.spot else FAIL, "dry run", launch_said)
    if launch_said == "":
        yield Check(WARN, "dry run", "this cloud has no dry runs")


def _permitted_for(whom: str, calls: Iterable[str], permitted: Mapping[str, bool], status: str) -> Check:
    what = f"permissions {whom}"
    all_ = sorted(calls)
    denied = [call for call in all_ if not permitted.get(call, True)]
    untold = [call for call in all_ if call not in permitted]
    if denied:
        return Check(status, what, f"denied: {', '.join(denied)}", _POLICY)
    missing = f"; {len(untold)} can't be tried without the thing that they act on" if untold else ""
    return Check(status, what, f"{len(all_) - len(untold)} of {count(len(all_), 'call')} allowed{missing}")


def _quotas(settings: Settings) -> Iterator[Check]:
    ec2 = settings.ec2
    each = vcpus.of(settings, ec2.types)
    used = vcpus.in_use(settings)
    on_demand = ec2.on_demand if ec2.spot else ec2.num
    for spot, num in ((True, ec2.num - on_demand), (False, on_demand)):
        if not num:
            continue
        families: dict[quotas.Quota | None, list[str]] = {}
        for name in ec2.types:
            families.setdefault(quotas.of(name, spot), []).append(name)
        for quota, names in families.items():
            what = f"quota {'of spot' if spot else 'on demand'}"
            if quota is None:
                yield Check(WARN, what, f"none is known for {', '.join(names)}")
                continue
            most = quotas.value(settings, quota)
            if most is None:
                yield Check(WARN, what, f"Service Quotas does not tell: {quota.name} ({quota.code})", _LOOK)
                continue
            sizes = [each.get(name, 0) for name in names]
            least = min(ec2.min or num, num) * min(sizes)
            left = most - used[quota]
            # With types of several families, another family may have room.
            status = OK if num * max(sizes) <= left else FAIL if least > left and len(families) == 1 else WARN
            found = f"{quota.name} ({quota.code}): {left:g} of {most:g} vCPUs left, {num * max(sizes)} needed"
            more = f"{_FEWER} {quota.page(aws.region_of(settings))}"
            yield Check(status, what, found, "" if status == OK else more)


def _network(settings: Settings, network: Future[Network], offers: Future[fleet.Offers | None]) -> Iterator[Check]:
    there = network.result()
    zones = ", ".join(sorted(there.subnets))
    found = f"{there.vpc}, {count(len(there.subnets), 'subnet')} ({zones})"
    offered = fleet.pools(settings, there, offers.result())
    without = sorted({name for name in settings.ec2.types if all(pool.type != name for pool in offered)})
    if without:
        yield Check(WARN, "network", f"{', '.join(without)} is offered in none of {zones}")
    if there.public or settings.ec2.private_ip or settings.ec2.via:
        yield Check(OK, "network", f"{found}{', public addresses' if there.public else ''}")
    else:
        way = "--private-ip if this machine is in the VPC or has a VPN to it, else --via ssm"
        yield Check(WARN, "network", f"{found}, which give no public addresses", way)


def _security_groups(settings: Settings, network: Future[Network]) -> Iterator[Check]:
    what, there = "security groups", network.result()
    if settings.ec2.groups:
        yield Check(OK, what, ", ".join(prerequisites.security_groups(settings, there, _nobody)))
        return
    own = [group for group in security_groups.find(settings, vpc_id=there.vpc) if group.name == security_groups.OURS]
    made = f"{own[0].name} ({own[0].id})" if own else f"{security_groups.OURS}, which the launch makes"
    yield Check(OK, what, made)


def _image(image: Future[Image]) -> Iterator[Check]:
    there = image.result()
    yield Check(OK, "image", f"{there.id}, {there.architecture}, lets in {there.user}")


def _cost(settings: Settings, image: Future[Image]) -> Iterator[Check]:
    said: list[str] = []
    quote = costs.quote(settings, image.result().platform, said.append)
    if settings.ec2.max_cost:
        costs.refuse_above(settings, quote, said.append)
    yield Check(WARN if quote.lowest is None or quote.unknown else OK, "cost", str(quote))
    if over := budget.why_to_ask(settings, quote, said.append):
        yield Check(WARN, "cost", over)
    for line in said:
        yield Check(WARN, "cost", line)


def _key(settings: Settings) -> Iterator[Check]:
    name = prerequisites.own_key_name(settings)
    if not name:
        yield Check(OK, "key", f"{own_key_path()}, which the launch makes")
        return
    if why_not := prerequisites.check_key(settings):
        yield Check(FAIL, "key", why_not)
        return
    there = any(pair.name == name for pair in account.key_pairs(settings, name))
    files = ssh.private_keys(_example(settings, name), settings)
    at_ec2 = "" if there else ", which the launch imports"
    yield Check(OK, "key", f"{name}{at_ec2}{f'; its private half is {files[0]}' if files else ''}")


def _ssh_config(settings: Settings) -> Iterator[Check]:
    what = "~/.ssh/config"
    direct = replace(settings, ec2=replace(settings.ec2, via="", key=""))
    one = ssh.InstanceConnection(_example(direct, ""), direct)
    through = [bastion.host for bastion in one.bastions()]
    program = one.proxy_command()
    way = f" through {', '.join(through)}" if through else " through a ProxyCommand" if program else ""
    yield Check(OK, what, f"an address such as {_EXAMPLE} is reached as {one.user}@{one.host}:{one.port}{way}")


def _example(settings: Settings, key_name: str) -> Instance:
    """Return an instance that does not exist."""
    user = {"ssh-user": settings.ec2.ssh_user} if settings.ec2.ssh_user else {}
    return Instance(
        id=f"i-{'0' * 17}", name="", type="", state="running", image="", spot=False, public_ip=_EXAMPLE,
        private_ip=_EXAMPLE, public_dns="", private_dns="", zone="", vpc="", subnet="", security_groups={},
        key_name=key_name, launched=datetime.now(timezone.utc), region="", tags=user,
    )  # fmt: skip


def _ssm(settings: Settings) -> Iterator[Check]:
    if not settings.ec2.via:
        return
    proxy.check(settings)
    if settings.ec2.role:
        yield Check(OK, "ssm", "the AWS CLI and its session-manager-plugin are here")
    else:
        role = "--role with one that has AmazonSSMManagedInstanceCore"
        yield Check(
            WARN, "ssm", "without a role, instances come to Systems Manager only by the account's default", role
        )


class _Planned(Exception):
    """A launch has come to the point where it would start."""


def _launch(settings: Settings, tags: Iterable[str]) -> Iterator[Check]:
    """Run a launch up to the point where it would start, and report what it finds."""
    said: list[str] = []

    def stop(plan: str) -> None:
        raise _Planned(plan)

    try:
        launch.launch(settings, said.append, tags=tags, before=stop)
    except _Planned as planned:
        yield Check(OK, "launch", f"would {planned}")
    for line in said:
        yield Check(WARN, "launch", line)
