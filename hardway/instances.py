"""Instances as EC2 describes them, and selectors: one argument that says which are meant.

A selector's tokens are split by white space or commas. Tokens that name hosts (an id, an address, a DNS name, a Name
tag, the last with * and ?) add up; networks (`vpc-`, `subnet-`, `sg-`) and `key=value` tags narrow what is left.
`parse` and `Selector.match` are pure; `select` asks EC2.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import cache
from typing import Any

from hardway import aws
from hardway.config import Settings
from hardway.errors import NothingMatched, UsageError, did_you_mean
from hardway.tables import aligned

STATES = ("pending", "running", "shutting-down", "terminated", "stopping", "stopped")
ALIVE = ("pending", "running", "stopping", "stopped")
ENDS_TAG = "hardway-ends"

_ID = re.compile(r"i-[0-9a-f]{8}(?:[0-9a-f]{9})?")
_IPV4 = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")
_DNS = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.(?:internal|amazonaws\.com|amazonaws\.com\.cn)")
_NETWORK = re.compile(r"(vpc|subnet|sg)-[0-9a-f]{8}(?:[0-9a-f]{9})?")
_FILTERS = {"vpc": "vpc-id", "subnet": "subnet-id", "sg": "instance.group-id"}
_TRANSITION = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)")
# EC2 takes at most this many values in one filter.
_FILTER_VALUES = 200


@dataclass(frozen=True)
class Instance:
    """One instance at the time it was described. `security_groups` maps ids to names.

    `launched` is its last start, `ended` when it was stopped or terminated, where EC2 tells that; both in UTC.
    """

    id: str
    name: str
    type: str
    state: str
    image: str
    spot: bool
    public_ip: str
    private_ip: str
    public_dns: str
    private_dns: str
    zone: str
    vpc: str
    subnet: str
    security_groups: Mapping[str, str] = field(hash=False)
    key_name: str
    launched: datetime
    region: str
    tags: Mapping[str, str] = field(hash=False)
    state_reason: str = ""
    """EC2's code for why it stopped or ended, such as Client.InstanceInitiatedShutdown."""
    ended: datetime | None = None
    platform: str = ""
    """What is paid for beside the hardware, as EC2 says it: Linux/UNIX, Red Hat Enterprise Linux, Windows."""
    tenancy: str = ""
    account: str = ""
    """The AWS account that it belongs to, a number of twelve digits."""

    @property
    def ends(self) -> datetime | None:
        """When it ends itself, by the tag that a launch or `ec2.extend` gave it, which anybody may have changed."""
        try:
            ends = datetime.fromisoformat(self.tags.get(ENDS_TAG, ""))
        except ValueError:
            return None
        return ends if ends.tzinfo else None

    @property
    def address(self) -> str:
        """Where it is reached: the public address, else the private one; empty before it has any."""
        return self.public_ip or self.private_ip

    def __str__(self) -> str:
        return f"{self.name} {self.id}" if self.name else self.id


class Instances(list[Instance]):
    """A list of instances that prints as a table, one a line, with `-` for what is not there."""

    def __str__(self) -> str:
        return "\n".join(aligned([self.row(instance) for instance in self]))

    def row(self, instance: Instance) -> list[str]:
        """The columns of one."""
        i = instance
        tags = ",".join(f"{key}={value}" for key, value in sorted(i.tags.items()) if key != "Name")
        groups = ",".join(sorted(i.security_groups.values()))
        kind = "spot" if i.spot else "ondemand"
        return [text or "-" for text in (i.name, i.type, i.state, i.id, i.image, kind, i.address, i.zone, groups, tags)]

    def facts(self, instance: Instance) -> dict[str, Any]:
        """All there is to know of one, as JSON can hold it."""
        times = {"launched": instance.launched, "ended": instance.ended}
        return asdict(instance) | {name: time and time.isoformat() for name, time in times.items()}

    def brief(self) -> list[str]:
        """Lines that say which they are: name, type, state, id, address."""
        return aligned([[i.name or "-", i.type, i.state, i.id, i.address or "-"] for i in self])

    def json(self) -> str:
        """All there is to know of each, as a JSON array of objects."""
        return json.dumps([self.facts(instance) for instance in self], indent=2)




@dataclass(frozen=True)
class Selector:
    """A parsed selector: `hosts` add up, each kind of `networks` and each tag key narrows."""

    text: str
    hosts: tuple[str, ...]
    networks: tuple[str, ...]
    tags: tuple[tuple[str, str], ...]

    def narrows(self, instance: Instance) -> bool:
        """Whether the instance is in the networks and has the tags asked for (of one kind or key: any of them)."""
        has = {"vpc": {instance.vpc}, "subnet": {instance.subnet}, "sg": set(instance.security_groups)}
        for kind in {_kind(n) for n in self.networks}:
            if not has[kind] & {n for n in self.networks if _kind(n) == kind}:
                return False
        for key in {k for k, _ in self.tags}:
            wanted = [v for k, v in self.tags if k == key]
            if key not in instance.tags or not any(_glob(v).fullmatch(instance.tags[key]) for v in wanted):
                return False
        return True

    def match(self, instances: Iterable[Instance]) -> list[Instance]:
        """The instances meant, in the order given, each once."""
        return [i for i in instances if self.narrows(i) and (not self.hosts or self.names(i))]

    def names(self, instance: Instance) -> bool:
        """Whether some host token names this instance."""
        return any(token_names(token, instance) for token in self.hosts)


def token_names(token: str, instance: Instance) -> bool:
    """Whether one host token (id, address, DNS name, Name with globs) names the instance."""
    if _ID.fullmatch(token):
        return token == instance.id
    if _IPV4.fullmatch(token):
        return token in (instance.public_ip, instance.private_ip)
    if _DNS.fullmatch(token) and token in (instance.public_dns, instance.private_dns):
        return True
    return bool(_glob(token).fullmatch(instance.name))


def parse(selector: str | Iterable[str]) -> Selector:
    """Read a selector given as text or as a list of tokens.

    Raises UsageError for a token that starts with `-` (Invoke hands an unknown flag over as a selector), and for an
    id that is cut short.
    """
    text = selector if isinstance(selector, str) else " ".join(selector)
    hosts, networks, tags = [], [], []
    for token in re.split(r"[\s,]+", text.strip()):
        if not token:
            continue
        if token.startswith("-"):
            raise UsageError(f"{token!r} is neither a known flag nor a selector; see the task's --help")
        if "=" in token:
            key, _, value = token.partition("=")
            if not key:
                raise UsageError(f"{token!r} is no tag: write key=value")
            tags.append((key, value))
        elif _NETWORK.fullmatch(token):
            networks.append(token)
        elif re.fullmatch(r"(i|vpc|subnet|sg)-[0-9a-f]+", token) and not _ID.fullmatch(token):
            raise UsageError(f"{token!r} is no whole id: it has 8 or 17 hexadecimal digits")
        else:
            hosts.append(token)
    return Selector(text, tuple(dict.fromkeys(hosts)), tuple(dict.fromkeys(networks)), tuple(dict.fromkeys(tags)))


def select(
    settings: Settings,
    selector: str | Iterable[str],
    *,
    states: Sequence[str] = ("running",),
    acting: bool = True,
    on_unknown: Callable[[str], None] | None = None,
) -> list[Instance]:
    """The instances a selector means, oldest first.

    `states` are those the instances must be in. `acting` says that something will be done to them: then an empty
    selector and a bare `*` are refused. Never quietly fewer than asked for: raises UsageError for an id or address
    that does not exist or is in another state, NothingMatched where nothing matches a name or the whole selector.
    `on_unknown` is called with an id or address that does not exist, in place of the error.
    """
    parsed = parse(selector)
    if acting:
        _refuse_everything(parsed)
    found = sorted(describe(settings, parsed), key=lambda i: (i.launched, i.id))
    matching = parsed.match(found)
    result = [i for i in matching if i.state in states]
    for token in parsed.hosts:
        named = [i for i in found if token_names(token, i)]
        if on_unknown and not named and _is_exact(token):
            on_unknown(token)
        else:
            _check_token(settings, token, named, states)
    if acting and not result:
        hint = _near_tag(describe(settings), parsed) or "; `inv ec2.ls` shows them all"
        raise NothingMatched(f"no{_in(states)} instance matches {parsed.text!r}{hint}")
    return result


def _check_token(settings: Settings, token: str, named: Sequence[Instance], states: Sequence[str]) -> None:
    if any(i.state in states for i in named):
        return
    region = aws.region_of(settings)
    if _is_exact(token):
        if not named:
            raise UsageError(f"there is no instance {token} in {region}; `inv ec2.ls` shows them all")
        raise UsageError(f"{named[-1]} is {named[-1].state}, not{_in(states)}")
    also = f" ({len(named)} {'/'.join(sorted({i.state for i in named}))})" if named else ""
    known = {i.name for i in describe(settings) if i.name and i.state in states} if not named else ()
    hint = did_you_mean(token, known) or "; `inv ec2.ls` shows them all"
    raise NothingMatched(f"no{_in(states)} instance is named {token!r}{also} in {region}{hint}")


def _near_tag(instances: Iterable[Instance], parsed: Selector) -> str:
    """What was meant by the first tag asked for that no instance has."""
    known: dict[str, set[str]] = {}
    for instance in instances:
        for key, value in instance.tags.items():
            known.setdefault(key, set()).add(value)
    for key, value in parsed.tags:
        if key not in known:
            return did_you_mean(key, known)
        if not any(_glob(value).fullmatch(each) for each in known[key]):
            return did_you_mean(f"{key}={value}", [f"{key}={each}" for each in known[key]])
    return ""


def _in(states: Sequence[str]) -> str:
    return "" if set(states) == set(STATES) else " " + " or ".join(states)


def _is_exact(token: str) -> bool:
    """Whether the token can mean one instance only: an id, an address or a DNS name."""
    return bool(_ID.fullmatch(token) or _IPV4.fullmatch(token) or _DNS.fullmatch(token))


def _refuse_everything(selector: Selector) -> None:
    if not (selector.hosts or selector.networks or selector.tags):
        raise UsageError("an empty selector: say which instances are meant (ids, addresses, names, key=value)")
    for token in selector.hosts:
        if not token.strip("*?"):
            raise UsageError(f"{token!r} would mean every instance of the account: say which are meant")


def refuse_foreign(chosen: Iterable[Instance], any_owner: bool) -> None:
    """Raise UsageError where some of them carry another user's `owner` tag, unless `any_owner`; names up to three."""
    foreign = [instance for instance in chosen if aws.other_owner(instance.tags)]
    if foreign and not any_owner:
        named = ", ".join(f"{instance} ({instance.tags['owner']}'s)" for instance in foreign[:3])
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise UsageError(f"not {aws.user()}'s, so nothing was done: {named}{more}; add --any-owner if that is meant")


def describe(settings: Settings, selector: Selector | None = None) -> list[Instance]:
    """Ask EC2 for the instances a selector may mean (all, for None), in any state and order."""
    found: dict[str, Instance] = {}
    pages = aws.ec2(settings).get_paginator("describe_instances")
    region = aws.region_of(settings)
    for filters in _queries(selector) if selector else [[]]:
        for page in pages.paginate(Filters=filters, PaginationConfig={"PageSize": 1000}):
            for reservation in page["Reservations"]:
                for raw in reservation["Instances"]:
                    found[raw["InstanceId"]] = from_description(raw, region, reservation.get("OwnerId", ""))
    return list(found.values())


def _queries(selector: Selector) -> list[list[dict[str, Any]]]:
    """The filters of the DescribeInstances calls whose answers together hold all that the selector may mean.

    Where hosts are named the calls do not narrow, so that a host narrowed out can be told from one that is not there.
    """
    narrow: dict[str, list[str]] = {}
    for network in selector.networks:
        narrow.setdefault(_FILTERS[_kind(network)], []).append(network)
    for key, value in selector.tags:
        narrow.setdefault(f"tag:{key}", []).append(value)
    if not selector.hosts:
        return [[{"Name": name, "Values": values} for name, values in narrow.items()]]
    by_filter: dict[str, list[str]] = {}
    for token in selector.hosts:
        for name in _host_filters(token):
            by_filter.setdefault(name, []).append(token)
    return [
        [{"Name": name, "Values": values[start : start + _FILTER_VALUES]}]
        for name, values in by_filter.items()
        for start in range(0, len(values), _FILTER_VALUES)
    ]


def _host_filters(token: str) -> tuple[str, ...]:
    if _ID.fullmatch(token):
        return ("instance-id",)
    if _IPV4.fullmatch(token):
        return ("ip-address", "private-ip-address")
    if _DNS.fullmatch(token):
        return ("dns-name", "private-dns-name", "tag:Name")
    return ("tag:Name",)


def described(settings: Settings, ids: Sequence[str]) -> Iterator[Instance]:
    """The instances of these ids that EC2 knows. It may not know an id yet that it has just given out."""
    if not ids:
        return
    yield from describe(settings, Selector("", tuple(ids), (), ()))


def terminate(settings: Settings, instances: Iterable[Instance]) -> None:
    """Terminate instances, each of which EC2 must know. Idempotent."""
    for ids in in_batches(instances):
        aws.ec2(settings).terminate_instances(InstanceIds=ids)


def start(settings: Settings, instances: Iterable[Instance]) -> None:
    """Start stopped instances. Idempotent."""
    for ids in in_batches(instances):
        aws.ec2(settings).start_instances(InstanceIds=ids)


def stop(settings: Settings, instances: Iterable[Instance]) -> None:
    """Stop running instances. Idempotent. Raises UsageError for spot instances whose request is for one time."""
    chosen = list(instances)
    for ids in in_batches(chosen):
        try:
            aws.ec2(settings).stop_instances(InstanceIds=ids)
        except Exception as error:
            spot = ", ".join(str(instance) for instance in chosen if instance.spot)
            if not spot or aws.error_code(error) != "UnsupportedOperation":
                raise
            nothing = "nothing was stopped: " if ids[0] == chosen[0].id else ""
            raise UsageError(f"{nothing}EC2 can't stop spot instances ({spot}); `inv ec2.rm` terminates them") from None


def reboot(settings: Settings, instances: Iterable[Instance]) -> None:
    """Ask EC2 to reboot running instances, which it does within minutes."""
    for ids in in_batches(instances):
        aws.ec2(settings).reboot_instances(InstanceIds=ids)


def in_batches(instances: Iterable[Instance], size: int = 500) -> Iterator[list[str]]:
    """Their ids, as many at a time as one call takes."""
    ids = [instance.id for instance in instances]
    for first in range(0, len(ids), size):
        yield ids[first : first + size]


def user_data(settings: Settings, instance: Instance) -> bytes:
    """What the instance was launched with, as EC2 keeps it; empty for none."""
    attribute = aws.ec2(settings).describe_instance_attribute(InstanceId=instance.id, Attribute="userData")
    return base64.b64decode(attribute.get("UserData", {}).get("Value", ""))


def _kind(network: str) -> str:
    return network.partition("-")[0]


@cache
def _glob(pattern: str) -> re.Pattern[str]:
    """EC2's own wildcards in filters: `*` for any text, `?` for one character; nothing else is special."""
    parts = {"*": ".*", "?": "."}
    return re.compile("".join(parts.get(char) or re.escape(char) for char in pattern), re.DOTALL)


def from_description(raw: Mapping[str, Any], region: str, account: str = "") -> Instance:
    """An Instance from one element of DescribeInstances' answer; whose it is stands beside that."""
    tags = {tag["Key"]: tag["Value"] for tag in raw.get("Tags", [])}
    return Instance(
        id=raw["InstanceId"],
        name=tags.get("Name", ""),
        type=raw.get("InstanceType", ""),
        state=raw["State"]["Name"],
        image=raw.get("ImageId", ""),
        spot=raw.get("InstanceLifecycle") == "spot",
        public_ip=raw.get("PublicIpAddress", ""),
        private_ip=raw.get("PrivateIpAddress", ""),
        public_dns=raw.get("PublicDnsName", ""),
        private_dns=raw.get("PrivateDnsName", ""),
        zone=raw.get("Placement", {}).get("AvailabilityZone", ""),
        vpc=raw.get("VpcId", ""),
        subnet=raw.get("SubnetId", ""),
        security_groups={group["GroupId"]: group["GroupName"] for group in raw.get("SecurityGroups", [])},
        key_name=raw.get("KeyName", ""),
        launched=raw["LaunchTime"],
        region=region,
        tags=tags,
        state_reason=raw.get("StateReason", {}).get("Code", ""),
        ended=_ended(raw),
        platform=raw.get("PlatformDetails", ""),
        tenancy=raw.get("Placement", {}).get("Tenancy", ""),
        account=account,
    )


def _ended(raw: Mapping[str, Any]) -> datetime | None:
    """When it was stopped or terminated, which EC2 tells only in words, and not of all."""
    time = _TRANSITION.search(raw.get("StateTransitionReason") or "")
    if not time or raw["State"]["Name"] in ("pending", "running"):
        return None
    return datetime.fromisoformat(f"{time[1]}+00:00")


def states(text: str | Iterable[str]) -> tuple[str, ...]:
    """Instance states from text such as `running,stopped`. Raises UsageError for one that EC2 does not have."""
    words = tuple(re.split(r"[\s,]+", text.strip())) if isinstance(text, str) else tuple(text)
    for word in words:
        if word not in STATES:
            raise UsageError(f"{word!r} is no state of an instance ({', '.join(STATES)}){did_you_mean(word, STATES)}")
    return words
