"""A store: objects that stay on the instances that made them, for the next step of a job.

`engines.sh` starts `store_server.py` on every instance, and puts an `aws` there that knows the store's buckets. A tag
of each instance names its store. An instance knows the others by a file with their ids and private addresses, written
whenever a store is made or enlarged. To enlarge a store, make it again with all of its instances, new ones included.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hardway.clusters.engines import START_SECONDS, STORE_TAG, on_each
from hardway.config import Settings
from hardway.ec2 import security_groups, tags
from hardway.ec2.instances import Instance, describe, tagged
from hardway.errors import Failed, UsageError
from hardway.fanout.group import CommandResult, InstanceGroup, report
from hardway.s3 import fast_aws
from hardway.s3.store_urls import instance_of, store_bucket
from hardway.ssh.script import Script
from hardway.tables import count
from hardway.terminal import last_line

PORT = 9433
_TOKEN = re.compile(r"[0-9a-f]{64}")
_USAGE = re.compile(r"(\d{1,18}) (\d{1,18}) (up|down)")
NEXT_SERVER = 5  # the exit code of engines.sh if the next instance's server does not answer
_MOST_DIGITS = 20  # of an object's size, and a newline
# stdin: a URL a line; stdout: for each, a line with the size, and the bytes
_FETCH = """
file=$(mktemp) || exit 1
trap 'rm -f -- "$file"' EXIT
while IFS= read -r url; do
  "$HOME/.hardway-cluster/store/bin/aws" s3 cp "$url" "$file" --only-show-errors || exit 1
  stat -c %s -- "$file" && cat -- "$file" || exit 1
done
"""


@dataclass(frozen=True)
class Bucket:
    """One instance's part of a store: its URL, and what is there; `state` is up, down or unreachable."""

    engine: str
    address: str
    objects: int
    bytes: int
    state: str
    store: str

    @property
    def cells(self) -> tuple[object, ...]:
        """The columns of a list beside engine and address."""
        if self.state == "unreachable":
            return self.state, "", self.store
        held = f"{count(self.objects, 'object')}{'' if self.state == 'up' else ', its server is down'}"
        return held, count(self.bytes, "byte"), self.store


def start(settings: Settings, chosen: Sequence[Instance], say: Callable[[str], None]) -> list[str]:
    """Make these instances a store, and return the URLs of their buckets; objects that are there stay.

    Raises UsageError if an instance is in a store with others, and Failed if a server does not answer.
    """
    name = _name(settings, chosen)
    token = _token(settings, chosen)
    security_groups.open_between(settings, chosen, say)
    server = Path(__file__).with_name("store_server.py").read_bytes()
    common = {
        "engine": "store",
        "port": PORT,
        "token": token,
        "members": ",".join(f"{one.id} {one.private_ip}" for one in chosen),
        "version": hashlib.sha256(server).hexdigest()[:16],
        "server": base64.b64encode(gzip.compress(server, mtime=0)).decode(),
        "aws": fast_aws.packed_for_store(),
    }
    each = {one.id: {**common, "name": one.id, "ip": one.private_ip} for one in chosen}
    report(on_each(settings, chosen, "start", each, START_SECONDS), say)
    tags.add(settings, chosen, {STORE_TAG: name}).complete()
    _until_reached(settings, chosen)
    return [f"s3://{store_bucket(one.id)}" for one in chosen]


def _name(settings: Settings, chosen: Sequence[Instance]) -> str:
    """Return the name of the store that these are in, or a new one."""
    ids = {one.id for one in chosen}
    names = sorted({one.tags[STORE_TAG] for one in chosen if STORE_TAG in one.tags})
    for name in names:
        others = [one for one in describe(settings, tagged(STORE_TAG, name)) if one.state == "running"]
        if left := [one.id for one in others if one.id not in ids]:
            stop = settings.command("cluster.stop", left[0])
            raise UsageError(f"{left[0]} is in the same store: select all of its instances, or run `{stop}` first")
    return names[0] if names else f"store-{secrets.token_hex(4)}"


def _token(settings: Settings, chosen: Sequence[Instance]) -> str:
    """Return the token that an instance of the store has, or a new one."""
    known = [one for one in chosen if STORE_TAG in one.tags]
    outcomes = on_each(settings, known, "token", {one.id: {"name": one.id} for one in known}, START_SECONDS)
    for outcome in outcomes.values():
        said = outcome.stdout.decode(errors="replace").strip() if isinstance(outcome, CommandResult) else ""
        if _TOKEN.fullmatch(said):
            return said
    return secrets.token_hex(32)


def _until_reached(settings: Settings, chosen: Sequence[Instance]) -> None:
    """Have each instance ask its own server and the next one's. Raises Failed for a server that does not answer."""
    following = dict(zip([one.id for one in chosen], [*chosen[1:], chosen[0]], strict=True))
    each = {one: {"name": one, "next": other.id} for one, other in following.items()}
    outcomes = on_each(settings, chosen, "reach", each, START_SECONDS)
    for connection, outcome in outcomes.items():
        instance = connection.instance
        if isinstance(outcome, BaseException):
            raise Failed(f"the store on {instance}: {outcome}")
        if outcome.exit_code == NEXT_SERVER:
            hint = "do the security groups let the instances reach each other?"
            raise Failed(f"{instance} does not reach the store on {following[instance.id]}; {hint}")
        if outcome.exit_code:
            log = outcome.stdout.decode(errors="replace").strip() or "(its log is empty)"
            raise Failed(f"the server of the store on {instance} does not answer", log.splitlines())


class Fetched:
    """The objects of one instance, in the order in which they were asked for; see `fetch`."""

    def __init__(self, result: CommandResult) -> None:
        self._chunks, self._held = result.chunks(), b""

    def object(self) -> Iterator[bytes]:
        """Yield the bytes of the next object. Raises Failed if the answer ends early."""
        while b"\n" not in self._held[:_MOST_DIGITS]:
            if len(self._held) >= _MOST_DIGITS:
                raise Failed("the answer of an instance makes no sense")
            self._held += self._more()
        size, _, self._held = self._held.partition(b"\n")
        left = int(size) if size.isdigit() else -1
        while left > len(self._held):
            left -= len(self._held)
            yield self._held
            self._held = self._more()
        if left < 0:
            raise Failed("the answer of an instance makes no sense")
        yield self._held[:left]
        self._held = self._held[left:]

    def _more(self) -> bytes:
        if chunk := next(self._chunks, b""):
            return chunk
        raise Failed("the answer of an instance ends early")


def fetch(settings: Settings, urls: Sequence[str]) -> Mapping[str, Fetched]:
    """Fetch objects, and return the answer of each instance, by its id; all of it waits in a temporary file.

    Raises Failed if an instance is gone, or an object can't be read.
    """
    asked: dict[str, list[str]] = {}
    for url in urls:
        asked.setdefault(str(instance_of(url)), []).append(url)
    chosen = [one for one in describe(settings, tagged(STORE_TAG)) if one.state == "running" and one.id in asked]
    for gone in asked.keys() - {one.id for one in chosen}:
        raise Failed(f"its data went with {gone}: {asked[gone][0]}")
    each = {one.id: "".join(f"{url}\n" for url in asked[one.id]).encode() for one in chosen}
    answers = {}
    for connection, outcome in InstanceGroup(chosen, settings).execute(Script(_FETCH), each=each).items():
        if isinstance(outcome, CommandResult) and outcome.exit_code == 0:
            answers[connection.instance.id] = Fetched(outcome)
        else:
            said = last_line(outcome.stderr) if isinstance(outcome, CommandResult) else str(outcome)
            raise Failed(f"the store on {connection.instance}: {said}")
    return answers


def buckets(settings: Settings) -> list[Bucket]:
    """Return what is in all stores of the region, an item for each instance."""
    found = [one for one in describe(settings, tagged(STORE_TAG)) if one.state == "running"]
    found.sort(key=lambda one: (one.tags[STORE_TAG], one.launched, one.id))
    outcomes = on_each(settings, found, "usage", {one.id: {"name": one.id} for one in found}, START_SECONDS)
    said = {connection.instance.id: outcome for connection, outcome in outcomes.items()}
    return [_bucket(one, said.get(one.id)) for one in found]


def _bucket(instance: Instance, outcome: object) -> Bucket:
    text = outcome.stdout.decode(errors="replace").strip() if isinstance(outcome, CommandResult) else None
    usage = _USAGE.fullmatch(text) if text is not None else None
    objects, size, state = (
        (usage[1], usage[2], usage[3]) if usage else ("0", "0", "down" if text == "" else "unreachable")
    )
    address = f"s3://{store_bucket(instance.id)}"
    return Bucket("store", address, int(objects), int(size), state, instance.tags[STORE_TAG])
