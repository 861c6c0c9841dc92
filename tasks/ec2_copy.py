"""Copying to instances and from them; part of `ec2`."""

from __future__ import annotations

from collections.abc import Iterable

from invoke import Context

from hardway import config
from hardway.cli.lazy import broadcast, instances, rsync, transfer
from hardway.cli.lazy import group as groups
from hardway.cli.task import confirm, nothing, progress, say, task
from hardway.errors import UsageError

from .ec2_shared import connection_settings, how_many
from .flags import CONNECTIONS, DIRECT, PRIVATE_IP, REGION, SELECTOR, SEND_VIA, VIA, YES


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
    confirm(f"copy with {how_many(chosen)}?", instances.Instances(chosen).brief(), yes)
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
    confirm(f"send {tree} to {how_many(chosen)}?", instances.Instances(chosen).brief(), yes)
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
    settings = connection_settings(c, region, max_connections, private_ip=private_ip, via=via)
    there, here = transfer.sides(source, destination)
    if not isinstance(there, transfer.Remote) or not isinstance(here, str):
        raise UsageError("pull fetches from the instances: SOURCE starts with ':'; ec2.push sends")
    chosen = instances.select(settings, selector)
    confirm(f"fetch from {how_many(chosen)}?", instances.Instances(chosen).brief(), yes)
    with progress("fetching", 0, "bytes") as on_bytes:
        groups.report(transfer.pull(groups.InstanceGroup(chosen, settings), there, here, on_bytes), say)


def _sending(
    c: Context, region: str | None, max_connections: int | str | None, private_ip: bool, via: str | None
) -> tuple[config.Settings, str]:
    """The settings, and what `--via` names to send by way of, if that is no way to connect."""
    bucket = via if via and via != "ssm" else ""
    settings = connection_settings(
        c, region, max_connections, real_s3=not bucket, private_ip=private_ip, via=None if bucket else via
    )
    return settings, bucket
