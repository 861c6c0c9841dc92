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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hardway.clusters.engines import START_SECONDS, STORE_TAG, on_each
from hardway.config import Settings
from hardway.ec2 import security_groups, tags
from hardway.ec2.instances import Instance, describe, tagged
from hardway.errors import Failed, UsageError
from hardway.fanout.group import CommandResult, report
from hardway.s3 import fast_aws
from hardway.s3.store_urls import store_bucket
from hardway.tables import count

PORT = 9433
_TOKEN = re.compile(r"[0-9a-f]{64}")
_USAGE = re.compile(r"(\d{1,18}) (\d{1,18}) (up|down)")
OWN_SERVER, NEXT_SERVER = 4, 5  # the exit codes of engines.sh for a server that does not answer


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
        """What a list shows of it beside engine and address."""
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
