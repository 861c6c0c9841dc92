"""Instances as EC2 describes them, and selectors: one argument that chooses instances.

A selector's tokens are split by white space or commas. Tokens that name hosts add up: ids, addresses, DNS names, and
Name tags with * and ?. Networks (`vpc-`, `subnet-`, `sg-`) and `key=value` tags narrow the result.

Text in quotes, or behind a backslash, is literal: `"gpu box"` and `gpu\\ box` are one Name,
`"web*"` is no pattern, `"i-1234abcd"` no id, `role="a, b"` one value. A quote opens at the start of a token or of a
value. In quotes a backslash escapes a quote or a backslash. The items of a list are tokens already, neither split nor
unquoted; there a backslash escapes `*`, `?` or a backslash.

`parse` and `Selector.match` are pure; `select` asks EC2.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Any, TypeVar

from hardway import aws
from hardway.config import Settings
from hardway.errors import HardwayError, Interrupted, NothingMatched, UsageError, did_you_mean
from hardway.tables import Table, count
from hardway.terminal import printable

T = TypeVar("T")

STATES = ("pending", "running", "shutting-down", "terminated", "stopping", "stopped")
ALIVE = ("pending", "running", "stopping", "stopped")
ENDS_TAG = "hardway-ends"
RESTARTED = timedelta(minutes=10)
"""The least time that an instance runs after a later start: the same minutes as in `boot.sh`."""
# For the next look at the time, on-timeout.sh, and services that are slow to stop.
_TO_END = timedelta(minutes=5)

_ID = re.compile(r"i-[0-9a-f]{8}(?:[0-9a-f]{9})?")
_IPV4 = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")
_DNS = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.(?:internal|amazonaws\.com|amazonaws\.com\.cn)")
_NETWORK = re.compile(r"(vpc|subnet|sg)-[0-9a-f]{8}(?:[0-9a-f]{9})?")
_FILTERS = {"vpc": "vpc-id", "subnet": "subnet-id", "sg": "instance.group-id"}
_ANY_ID = re.compile(r"(?:i|vpc|subnet|sg)-[0-9a-f]+")
_SEPARATOR = re.compile(r"[\s,]")
_OUR_TAG = re.compile(r"Name|hardway-.*|aws:.*|creation-date|ssh-user|ssh-port")
_SPECIAL = re.compile(r"[\s,=*?\"'\\-]")  # the characters that a backslash makes literal
_MOST_VALUE = 256  # characters in a tag's value
# An unquoted name is looked for in at most this many tokens, and not across lines.
_LONGEST_RUN = 5
_TRANSITION = re.compile(r"\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) (?:GMT|UTC)\)")
# EC2 takes at most this many values in one filter.
_FILTER_VALUES = 200
# The most instances in one call.
_BATCH = 500
# After this many denials, and no success, the calls for the other instances are not tried.
_MOST_DENIALS = 5


@dataclass(frozen=True)
class Instance:
    """One instance at the time it was described. `security_groups` maps ids to names.

    `launched` is the last start. `ended` is the time of the stop or termination, if EC2 tells it. Both are in UTC.
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
    """EC2's code for the reason of the stop or end, such as Client.InstanceInitiatedShutdown."""
    state_message: str = ""
    """The reason of the stop or end in EC2's words."""
    ended: datetime | None = None
    platform: str = ""
    """The product paid for besides the hardware, in EC2's words: Linux/UNIX, Red Hat Enterprise Linux, Windows."""
    tenancy: str = ""
    account: str = ""
    """The AWS account that owns the instance, a number of twelve digits."""
    ipv6: str = ""

    @property
    def ends(self) -> datetime | None:
        """The time at which the instance ends itself, by its tag; anybody may have changed the tag since."""
        try:
            ends = datetime.fromisoformat(self.tags.get(ENDS_TAG, ""))
        except ValueError:
            return None
        return ends if ends.tzinfo else None

    def is_overdue(self, now: datetime) -> bool:
        """Return whether the instance runs though, by its tag, it should have ended itself."""
        if not self.ends or self.state != "running":
            return False
        return now > max(self.ends, self.launched + RESTARTED) + _TO_END

    @property
    def own_tags(self) -> dict[str, str]:
        """The tags that people gave, and the owner; the name and the tags of hardway and AWS are left out."""
        return {key: text for key, text in self.tags.items() if not _OUR_TAG.fullmatch(key)}

    @property
    def why_ended(self) -> str:
        """The reason of the stop or end, in full: EC2's code and words, which often begin with the code."""
        code, said = self.state_reason, self.state_message
        return printable(said if said.startswith(code) else f"{code}: {said}" if said else code)

    @property
    def address(self) -> str:
        """The address for connections: public, else private, else IPv6; empty for an instance without one."""
        return self.public_ip or self.private_ip or self.ipv6

    def __str__(self) -> str:
        """Return the id and name, safe to show: anybody may have written the name."""
        return f"{printable(self.name)} {self.id}" if self.name else self.id


class Instances(Table[Instance]):
    """Instances as a table."""

    def __init__(self, instances: Iterable[Instance] = ()) -> None:
        super().__init__(
            instances,
            *("name", "type", "state", "id", "image"),
            lambda one: "spot" if one.spot else "ondemand",
            *("address", "zone"),
            lambda one: sorted(one.security_groups.values()),
            lambda one: {key: value for key, value in one.tags.items() if key != "Name"},
        )

    def brief(self) -> list[str]:
        """Return lines that identify the instances."""
        return self.lines("name", "type", "state", "id", "address")


@dataclass(frozen=True)
class Selector:
    """A parsed selector: `hosts` add up, each kind of `networks` and each tag key narrows.

    Names and values are patterns with EC2's wildcards; a backslash makes the next character literal. `runs` are
    neighbouring tokens, with the text between them, that could be one unquoted name.
    """

    text: str
    hosts: tuple[str, ...]
    networks: tuple[str, ...]
    tags: tuple[tuple[str, str], ...]
    runs: tuple[str, ...] = ()

    def narrows(self, instance: Instance) -> bool:
        """Return whether the instance is in the networks and has the tags; one of each kind or key is enough."""
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
        """Return the matching instances, in the order given, each once."""
        return [i for i in instances if self.narrows(i) and (not self.hosts or self.names(i))]

    def names(self, instance: Instance) -> bool:
        """Return whether some host token names this instance."""
        return any(token_names(token, instance) for token in self.hosts)


def token_names(token: str, instance: Instance) -> bool:
    """Return whether one host token (id, address, DNS name, Name with globs) names the instance."""
    if _ID.fullmatch(token):
        return token == instance.id
    return _addresses(token, instance) or (not _IPV4.fullmatch(token) and bool(_glob(token).fullmatch(instance.name)))


def _addresses(token: str, instance: Instance) -> bool:
    """Return whether a token is an address, or a DNS name, of the instance."""
    if _IPV4.fullmatch(token):
        return token in (instance.public_ip, instance.private_ip)
    return bool(_DNS.fullmatch(token)) and token in (instance.public_dns, instance.private_dns)


def tagged(key: str, value: str | None = None) -> Selector:
    """Return the selector of instances with a tag; `value`, if given, is matched exactly."""
    return Selector("", (), (), ((key, "*" if value is None else _literally(value)),))


def quoted(name: str) -> str:
    """Return the selector of the instances with exactly this name."""
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'


def check_name(name: str, what: str) -> None:
    """Raise UsageError for a name that nobody should give to an instance, or to anything else selected by name.

    Refused are names that look like something else, invisible characters, and values that EC2 doesn't take:
    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html#tag-restrictions
    """
    why = ""
    if not name.strip():
        why = "it is empty"
    elif name.startswith("-"):
        why = "it would be taken for a flag"
    elif printable(name) != name or name != name.strip():
        why = "it has characters that can't be seen"
    elif len(name) > _MOST_VALUE:
        why = f"it has more than {_MOST_VALUE} characters"
    elif _ANY_ID.fullmatch(name) or _IPV4.fullmatch(name) or _DNS.fullmatch(name):
        why = "it would be taken for an id or an address"
    if why:
        raise UsageError(f"{what} {name[:80]!r} can't be a name: {why}")


def is_plain(name: str) -> bool:
    """Return whether the name, unquoted, is a selector of instances with this name."""
    parsed = parse(name)
    return (parsed.hosts, parsed.networks, parsed.tags) == ((name,), (), ()) and not re.search(r"[*?]", name)


# A token as it was written: its start and end, its characters, and whether each character is literal.
_Token = tuple[int, int, list[tuple[str, bool]]]


def parse(selector: str | Iterable[str]) -> Selector:
    """Read a selector given as text or as a list of tokens.

    Raises UsageError for a token that starts with `-` (Invoke hands an unknown flag over as a selector), an id that is
    cut short, an unclosed quote, and a value that isn't text.
    """
    if isinstance(selector, str):
        text = selector
        tokens = list(_tokens(text))
    elif not isinstance(selector, Iterable):
        raise UsageError(f"a selector is a text or a list of texts, not {type(selector).__name__}")
    else:
        items = [_item(item) for item in selector]
        tokens = [(0, 0, item) for item in items if item]
        text = " ".join(map(_written, (item for _, _, item in tokens)))
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise UsageError(f"the selector {text!r} is not UTF-8, but every name at EC2 is")
    hosts, networks, tags, places = [], [], [], []
    for begin, end, token in tokens:
        plain = "".join(character for character, _ in token)
        is_literal = any(literal for _, literal in token)
        if token and token[0] == ("-", False):
            raise UsageError(f"{plain!r} is neither a known flag nor a selector; see the task's --help")
        if ("=", False) in token:
            equals = token.index(("=", False))
            if not equals:
                raise UsageError(f"{plain!r} is not a tag: write key=value")
            tags.append((plain[:equals], _pattern(token[equals + 1 :])))
            continue
        if not plain:
            raise UsageError("the selector has an empty name in quotes: write a name in them, or leave them out")
        if is_literal:
            pattern = _pattern(token)
            # It was quoted: a name, even if it looks like an id.
            hosts.append(f"\\{pattern}" if pattern == plain and _looks_special(plain) else pattern)
        elif _NETWORK.fullmatch(plain):
            networks.append(plain)
            continue
        elif _ANY_ID.fullmatch(plain) and not _ID.fullmatch(plain):
            raise UsageError(f"{plain!r} is not a whole id: an id has 8 or 17 hexadecimal digits")
        else:
            hosts.append(_pattern(token))
        if end and not is_literal and not _is_exact(plain):
            places.append((begin, end))
    return Selector(text, _once(hosts), _once(networks), _once(tags), _runs(text, places))


def _once(items: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(items))


def text_of(selector: str | Iterable[str]) -> str:
    """Return a selector as text in one line, with the same meaning."""
    if isinstance(selector, str):
        return " ".join(selector[begin:end] for begin, end, _ in _tokens(selector))
    return parse(selector).text


def _tokens(text: str) -> Iterator[_Token]:
    place = 0
    while place < len(text):
        if _SEPARATOR.match(text[place]):
            place += 1
            continue
        begin, token, may_quote = place, list[tuple[str, bool]](), True
        while place < len(text) and not _SEPARATOR.match(text[place]):
            character = text[place]
            if character == "\\" and _SPECIAL.match(text[place + 1 : place + 2]):
                token.append((text[place + 1], True))
                place += 2
                may_quote = False
            elif character in "\"'" and may_quote:
                inside, place = _until_closed(text, place)
                token += [(each, True) for each in inside] or [("", True)]
                may_quote = False
            else:
                may_quote = character == "=" and ("=", False) not in token
                token.append((character, False))
                place += 1
        yield begin, place, token


def _until_closed(text: str, place: int) -> tuple[str, int]:
    """Return the text in the quotes that open at `place`, and the place after the closing quote."""
    quote, inside = text[place], ""
    place += 1
    while place < len(text) and text[place] != quote:
        if text[place] == "\\" and text[place + 1 : place + 2] in (quote, "\\"):
            place += 1
        inside += text[place]
        place += 1
    if place >= len(text):
        raise UsageError(f"the quote {quote} is not closed in {text!r}: close it, or write \\{quote} within a name")
    return inside, place + 1


def _item(item: Any) -> list[tuple[str, bool]]:
    """Return a list's item as a token; empty for a blank one. A line read from a file still ends in its newline."""
    if not isinstance(item, str):
        raise UsageError(f"a selector is a text or a list of texts, not of {type(item).__name__}")
    found = re.findall(r"\\([*?\\])|(.)", item.strip("\r\n"), re.DOTALL) if item.strip() else []
    return [(escaped or character, bool(escaped)) for escaped, character in found]


def _written(token: Iterable[tuple[str, bool]]) -> str:
    """Return a token in the syntax of a selector."""
    return "".join(f"\\{c}" if literal or (_SPECIAL.match(c) and c not in "*?=-") else c for c, literal in token)


def _pattern(token: Iterable[tuple[str, bool]]) -> str:
    return "".join(f"\\{c}" if (literal and c in ("*", "?")) or c == "\\" else c for c, literal in token)


def _literally(text: str) -> str:
    return re.sub(r"([*?\\])", r"\\\1", text)


def _looks_special(name: str) -> bool:
    return bool(_is_exact(name) or _NETWORK.fullmatch(name) or _ANY_ID.fullmatch(name))


def _runs(text: str, places: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    """Return the parts of the text that may be one unquoted name: tokens with nothing but separators between them."""
    found = []
    for first in range(len(places)):
        for last in range(first + 1, min(len(places), first + _LONGEST_RUN)):
            run = text[places[first][0] : places[last][1]]
            if "\n" in run or len(re.findall(r"[^\s,]+", run)) != last - first + 1:
                break
            found.append(run)
    return tuple(found)


def select(
    settings: Settings,
    selector: str | Iterable[str],
    *,
    states: Sequence[str] = ("running",),
    acting: bool = True,
    dead: bool = False,
    on_unknown: Callable[[str], None] | None = None,
) -> list[Instance]:
    """Return the instances that a selector means, oldest first.

    The instances must be in one of `states`. `acting` announces an action on them: then an empty selector and a bare
    `*` are refused. The result is never quietly smaller than asked for: raises UsageError for an id or address that
    does not exist or is in another state, NothingMatched if nothing matches a name or the whole selector. EC2 still
    lists an instance for an hour after its end: an action counts it only by its id, if no living one has its name, or
    with `dead`. `on_unknown` is called with an id or address that does not exist, in place of the error.
    """
    parsed = parse(selector)
    if acting:
        _refuse_everything(parsed)
    found = sorted(describe(settings, parsed), key=lambda i: (i.launched, i.id))
    matching = parsed.match(found)
    result = [i for i in matching if i.state in states]
    if acting and not dead:
        result = _without_namesakes(parsed, result, matching)
    if acting:
        _refuse_unquoted(parsed, found, states)
        _refuse_ambiguous(parsed, result)
    for token in parsed.hosts:
        named = [i for i in found if token_names(token, i)]
        if on_unknown and not named and _is_exact(token):
            on_unknown(token)
        else:
            _check_token(settings, token, named, states)
    if acting and not result:
        every = describe(settings)
        hint = _unquoted(parsed.text, every) or _near_tag(every, parsed) or _all_shown(settings)
        raise NothingMatched(f"no{_in(states)} instance matches {parsed.text!r}{hint}")
    return result


def _without_namesakes(parsed: Selector, result: Sequence[Instance], matching: Sequence[Instance]) -> list[Instance]:
    """Leave out the dead instances that only share a name, or tags, with living ones, and so are not meant."""
    living = [i for i in matching if i.state in ALIVE]
    if not parsed.hosts:
        return [i for i in result if i.state in ALIVE or not living]
    asking = [t for t in parsed.hosts if _is_exact(t) or not any(token_names(t, i) for i in living)]
    return [i for i in result if i.state in ALIVE or any(token_names(t, i) for t in asking)]


def _refuse_unquoted(parsed: Selector, found: Iterable[Instance], states: Sequence[str]) -> None:
    """Raise UsageError if an instance's name is two neighbouring tokens: it, or two other instances, may be meant."""
    for instance in found:
        if instance.name in parsed.runs and instance.state in states and instance.state in ALIVE:
            raise UsageError(
                f"{instance.name!r} may be the names of several instances, and is the whole name of {instance.id}: "
                f"write {quoted(instance.name)}, with the quotes, for {instance.id}, or the ids of the others"
            )


def _refuse_ambiguous(parsed: Selector, result: Sequence[Instance]) -> None:
    """Raise UsageError if several instances have an address, such as a private one in several VPCs."""
    for token in parsed.hosts:
        having = [i for i in result if _addresses(token, i)]
        alive = [i for i in having if i.state in ALIVE] or having
        if len(alive) > 1:
            each = ", ".join(f"{i} in {i.vpc or 'no VPC'}" for i in alive)
            raise UsageError(f"{token} is the address of {len(alive)} instances ({each}): give an id instead")


def _all_shown(settings: Settings) -> str:
    return f"; `{settings.command('ec2.ls')}` shows them all"


def _unquoted(text: str, instances: Iterable[Instance]) -> str:
    """Return a hint if the whole selector, unquoted, is an instance's name."""
    whole = text.strip()
    if any(instance.name == whole for instance in instances) and not is_plain(whole):
        return f"; an instance has this whole text as its name: write {quoted(whole)}, with the quotes"
    return ""


def _check_token(settings: Settings, token: str, named: Sequence[Instance], states: Sequence[str]) -> None:
    if any(i.state in states for i in named):
        return
    region = aws.region_of(settings)
    if _is_exact(token):
        if not named:
            raise UsageError(f"there is no instance {token} in {region}{_all_shown(settings)}")
        raise UsageError(f"{named[-1]} is {named[-1].state}, not{_in(states)}")
    also = f" ({len(named)} {'/'.join(sorted({i.state for i in named}))})" if named else ""
    known = {i.name for i in describe(settings) if i.name and i.state in states} if not named else ()
    near = next((name for name in known if token in re.split(r"[\s,]+", name) and not is_plain(name)), "")
    hint = f"; an instance is named {near!r}: write {quoted(near)}, with the quotes" if near else ""
    hint = hint or did_you_mean(token, known) or _all_shown(settings)
    raise NothingMatched(f"no{_in(states)} instance is named {token!r}{also} in {region}{hint}")


def _near_tag(instances: Iterable[Instance], parsed: Selector) -> str:
    """Return a hint for the first tag in the selector that no instance has."""
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
    """Return whether the token can mean only one instance: an id, an address or a DNS name."""
    return bool(_ID.fullmatch(token) or _IPV4.fullmatch(token) or _DNS.fullmatch(token))


def _refuse_everything(selector: Selector) -> None:
    if not (selector.hosts or selector.networks or selector.tags):
        raise UsageError("the selector is empty: name instances by id, address, name or key=value")
    for token in selector.hosts:
        if _is_everything(token):
            raise UsageError(f"{token!r} would select every instance of the account: name fewer")
    keys = {key: [value for each, value in selector.tags if each == key] for key, _ in selector.tags}
    if not selector.hosts and not selector.networks and all(any(map(_is_everything, keys[key])) for key in keys):
        each = " ".join(f"{key}=*" for key in keys)
        raise UsageError(f"{each!r} would select every instance with such a tag: give a value")


def _is_everything(pattern: str) -> bool:
    """Return whether the pattern matches every name, or every name but short ones."""
    return bool(pattern) and not pattern.strip("*?")


def refuse_foreign(chosen: Iterable[Instance], any_owner: bool) -> None:
    """Raise UsageError if an instance has another user's `owner` tag, unless `any_owner`; the error names at most 3."""
    foreign = [instance for instance in chosen if aws.other_owner(instance.tags)]
    if foreign and not any_owner:
        named = ", ".join(f"{instance} ({instance.tags['owner']}'s)" for instance in foreign[:3])
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise UsageError(
            f"nothing was done, since not all instances are {aws.user()}'s: {named}{more}; add --any-owner to act "
            "on them"
        )


def describe(settings: Settings, selector: Selector | None = None) -> list[Instance]:
    """Return the instances that a selector may mean (all, for None), in any state and order, as EC2 describes them."""
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
    """Return the filters of the DescribeInstances calls whose answers together hold all that the selector may mean.

    Calls for named hosts do not narrow, so that a host outside the networks can be told from a missing one.
    """
    narrow: dict[str, list[str]] = {}
    for network in selector.networks:
        narrow.setdefault(_FILTERS[_kind(network)], []).append(network)
    for key, value in selector.tags:
        narrow.setdefault(f"tag:{key}", []).append(_asked(value))
    if not selector.hosts:
        return [[{"Name": name, "Values": values} for name, values in narrow.items()]]
    by_filter: dict[str, list[str]] = {}
    for token in selector.hosts:
        for name in _host_filters(token):
            by_filter.setdefault(name, []).append(_asked(token) if name == "tag:Name" else token)
    if selector.runs:
        by_filter.setdefault("tag:Name", []).extend(_asked(_literally(run)) for run in selector.runs)
    return [
        [{"Name": name, "Values": values[start : start + _FILTER_VALUES]}]
        for name, values in by_filter.items()
        for start in range(0, len(values), _FILTER_VALUES)
    ]


def _asked(pattern: str) -> str:
    """Return the pattern as a filter's value: `?` stands for each character that an API may read in another way."""
    return re.sub(r"\\.|[\[\]\\]", "?", pattern, flags=re.DOTALL)


def _host_filters(token: str) -> tuple[str, ...]:
    if _ID.fullmatch(token):
        return ("instance-id",)
    if _IPV4.fullmatch(token):
        return ("ip-address", "private-ip-address")
    if _DNS.fullmatch(token):
        return ("dns-name", "private-dns-name", "tag:Name")
    return ("tag:Name",)


def described(settings: Settings, ids: Sequence[str]) -> Iterator[Instance]:
    """Yield the instances of these ids that EC2 knows. EC2 may not know an id yet that it has just given out."""
    if ids:
        wanted = {*ids}
        yield from (i for i in describe(settings, Selector("", tuple(ids), (), ())) if i.id in wanted)


class Done(list[Instance]):
    """The instances on which a call succeeded; `failed` maps the others to their errors."""

    def __init__(self, done: Iterable[Instance], failed: Mapping[Instance, HardwayError]) -> None:
        super().__init__(done)
        self.failed = dict(failed)

    def complete(self) -> None:
        """Raise the error of the first instance that failed, if any."""
        for instance, why in self.failed.items():
            raise HardwayError(f"{instance}: {why}" if self else str(why), why.code) from why


def terminate(settings: Settings, instances: Iterable[Instance]) -> Done:
    """Terminate instances. EC2 must know each of them. Idempotent."""
    call = aws.ec2_once(settings).terminate_instances
    return each(instances, lambda ids: call(InstanceIds=ids), "TerminatingInstances")


def start(settings: Settings, instances: Iterable[Instance]) -> Done:
    """Start stopped instances. Idempotent."""
    call = aws.ec2_once(settings).start_instances
    return each(instances, lambda ids: call(InstanceIds=ids), "StartingInstances")


def stop(settings: Settings, instances: Iterable[Instance]) -> Done:
    """Stop running instances. Idempotent. EC2 can't stop spot instances of a one-time request."""
    call = aws.ec2_once(settings).stop_instances
    done = each(instances, lambda ids: call(InstanceIds=ids), "StoppingInstances")
    for instance in done.failed:
        error = done.failed[instance].__cause__
        if instance.spot and isinstance(error, Exception) and aws.error_code(error) == "UnsupportedOperation":
            rm = settings.command("ec2.rm", instance.id)
            done.failed[instance].message = f"EC2 can't stop spot instances; `{rm}` terminates this one"
    return done


def reboot(settings: Settings, instances: Iterable[Instance]) -> Done:
    """Ask EC2 to reboot running instances, which it does within minutes."""
    call = aws.ec2_once(settings).reboot_instances
    return each(instances, lambda ids: call(InstanceIds=ids))


def each(
    instances: Iterable[Instance], call: Callable[[list[str]], Any], answered: str = "", size: int = _BATCH
) -> Done:
    """Have EC2 do something to each instance, in batches; a refused instance doesn't hold up the others.

    EC2 refuses a whole call, or a zone's part of it, for a single instance. The rest is then tried without the
    instances that the refusal names, else in halves. `call` takes ids and must be idempotent. `answered` is the list in
    the answer that has each instance. Raises errors that concern all: EC2 can't be reached, or refuses the credentials.
    """
    chosen = {instance.id: instance for instance in instances}
    batches = list(in_batches(chosen.values(), size))
    done: set[str] = set()
    failed: dict[str, HardwayError] = {}
    denials = 0
    try:
        while batches:
            ids = batches.pop(0)
            try:
                answer = aws.persistently(partial(call, ids))
            except Exception as error:
                why = aws.translate(error)
                if why is None:
                    raise
                if why is not error:
                    why.__cause__ = error
                denials += aws.is_denied(error) and len(ids) == 1
                if not aws.is_about_one(error) or (denials >= _MOST_DENIALS and not done):
                    if not done and not failed:
                        raise
                    failed |= dict.fromkeys([*ids, *(id for batch in batches for id in batch)], why)
                    break
                if len(ids) == 1:
                    failed[ids[0]] = why
                    continue
                named = [id for id in ids if id in str(error)]
                rest = [id for id in ids if id not in named]
                if named and rest:
                    batches[:0] = [rest, *([id] for id in named)]
                else:
                    batches[:0] = [ids[: len(ids) // 2], ids[len(ids) // 2 :]]
            else:
                shown = {each["InstanceId"] for each in answer.get(answered, [])} if answered else {*ids}
                done |= shown & {*ids}
                failed |= {id: aws.Garbled(f"EC2's answer has no {id}") for id in ids if id not in shown}
    except KeyboardInterrupt as error:
        ids = [id for id in chosen if id in done]
        if not ids:
            raise
        raise Interrupted(f"interrupted; done before for {count(len(ids), 'instance')}: {' '.join(ids)}") from error
    return Done([i for i in chosen.values() if i.id in done], {chosen[id]: why for id, why in failed.items()})


def in_batches(instances: Iterable[Instance], size: int = _BATCH) -> Iterator[list[str]]:
    """Yield the instances' ids, at most `size` at a time."""
    ids = [instance.id for instance in instances]
    for first in range(0, len(ids), size):
        yield ids[first : first + size]


def user_data(settings: Settings, instance: Instance) -> bytes:
    """Return the instance's user data, as EC2 keeps it; empty for none."""
    attribute = aws.ec2(settings).describe_instance_attribute(InstanceId=instance.id, Attribute="userData")
    return base64.b64decode(attribute.get("UserData", {}).get("Value", ""))


def _kind(network: str) -> str:
    return network.partition("-")[0]


@cache
def _glob(pattern: str) -> re.Pattern[str]:
    """Compile EC2's wildcards in filters: `*` for any text, `?` for one character; a backslash makes either literal.

    https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Filtering.html#Filtering_Resources_CLI
    """
    parts = {"*": ".*", "?": "."}
    pieces = re.findall(r"\\(.)|(.)", pattern, re.DOTALL)
    return re.compile("".join(re.escape(c) if c else parts.get(p) or re.escape(p) for c, p in pieces), re.DOTALL)


def from_description(raw: Mapping[str, Any], region: str, account: str = "") -> Instance:
    """Return an Instance from one element of DescribeInstances' answer; `account` stands beside the element."""
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
        state_message=raw.get("StateReason", {}).get("Message", ""),
        ended=_ended(raw),
        platform=raw.get("PlatformDetails", ""),
        tenancy=raw.get("Placement", {}).get("Tenancy", ""),
        account=account,
        ipv6=raw.get("Ipv6Address", ""),
    )


def _ended(raw: Mapping[str, Any]) -> datetime | None:
    """Return the time of the stop or termination; EC2 tells it only in words, and not for every instance."""
    time = _TRANSITION.search(raw.get("StateTransitionReason") or "")
    if not time or raw["State"]["Name"] in ("pending", "running"):
        return None
    return datetime.fromisoformat(f"{time[1]}+00:00")


def states(text: str | Iterable[str]) -> tuple[str, ...]:
    """Return instance states from text such as `running,stopped`. Raises UsageError for an unknown state."""
    words = tuple(re.split(r"[\s,]+", text.strip())) if isinstance(text, str) else tuple(text)
    for word in words:
        if word not in STATES:
            raise UsageError(
                f"{word!r} is not a state of an instance ({', '.join(STATES)}){did_you_mean(word, STATES)}"
            )
    return words
