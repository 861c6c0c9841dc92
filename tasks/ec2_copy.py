"""Copying to instances and from them; part of `ec2`."""

from __future__ import annotations

from collections.abc import Iterable

from invoke import Context

from hardway.cli.task import confirm, nothing, progress, say, task
from hardway.errors import UsageError

from .ec2_shared import connection_settings, how_many
from .flags import DIRECT, S3, SELECTOR, YES
from .lazy import broadcast, instances, rsync, transfer
from .lazy import group as groups


@task(
    changes=nothing,
    help={
        "source": "a file or a quoted glob; a leading ':' means on the instances",
        "destination": "the target; a leading ':' means on the instances, a '/' at the end a directory",
        "selector": SELECTOR,
        "yes": YES,
        "direct": DIRECT,
        "s3": S3,
    },
)
def scp(
    c: Context,
    source: str,
    destination: str,
    selector: str | Iterable[str],
    yes: bool = False,
    direct: bool = False,
    s3: str = "",
    region: str | None = None,
    via: str | None = None,
    private_ip: bool = False,
    max_connections: int | str | None = None,
) -> None:
    """Copy files to instances, or from them.

    Files from several instances land in a directory for each, named by its id.

    Examples:
      inv ec2.scp 'step*.sh' :jobs/ web --yes
      inv ec2.scp ':logs/*.log' logs/ web --yes
      inv ec2.scp large.bin :data/ web --yes --s3 s3://bucket/tmp
    """
    # In a stubbed shell, the instances must fetch from the stub, too.
    settings = connection_settings(c, region, max_connections, real_s3=not s3, private_ip=private_ip, via=via)
    here, there = transfer.sides(source, destination)
    files = transfer.local_files(here) if isinstance(here, str) else []
    chosen = instances.select(settings, selector)
    confirm(f"copy with {how_many(chosen)}?", instances.Instances(chosen).brief(), yes)
    total = sum(file.stat().st_size for file in files) * len(chosen)
    with progress("copying", total, "bytes") as on_bytes:
        group = groups.InstanceGroup(chosen, settings)
        if isinstance(here, str) and isinstance(there, transfer.Remote):
            outcomes = broadcast.send_files(group, files, there, on_bytes, direct=direct, bucket=s3)
            groups.report(outcomes, say)
        elif isinstance(here, transfer.Remote) and isinstance(there, str):
            groups.report(transfer.fetch_files(group, here, there, on_bytes), say)


@task(
    changes=nothing,
    help={
        "source": "a directory on this machine",
        "destination": "':' and the new path on the instances; a '/' at the end puts the tree into that directory",
        "selector": SELECTOR,
        "yes": YES,
        "sync": "send only changed files, by rsync",
        "direct": DIRECT,
        "s3": S3,
    },
)
def push(
    c: Context,
    source: str,
    destination: str,
    selector: str | Iterable[str],
    yes: bool = False,
    sync: bool = False,
    direct: bool = False,
    s3: str = "",
    region: str | None = None,
    via: str | None = None,
    private_ip: bool = False,
    max_connections: int | str | None = None,
) -> None:
    """Send a tree to instances.

    Send it as one tar stream, to all instances at the same time.

    Examples:
      inv ec2.push site :/tmp/site web --yes
      inv ec2.push site :site web --yes --sync
    """
    # In a stubbed shell, the instances must fetch from the stub, too.
    settings = connection_settings(c, region, max_connections, real_s3=not s3, private_ip=private_ip, via=via)
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
        outcomes = broadcast.push(group, tree, there, on_bytes, direct=direct, bucket=s3)
        return groups.report(outcomes, say)


@task(
    changes=nothing,
    help={
        "source": "':' and the path of a directory on the instances",
        "destination": "the target on this machine; a tree from one of several instances lands under its id",
        "selector": SELECTOR,
        "yes": YES,
    },
)
def pull(
    c: Context,
    source: str,
    destination: str,
    selector: str | Iterable[str],
    yes: bool = False,
    region: str | None = None,
    via: str | None = None,
    private_ip: bool = False,
    max_connections: int | str | None = None,
) -> None:
    """Fetch a tree from instances.

    Trees from several instances land in a directory for each, named by its id.

    Examples:
      inv ec2.pull :logs logs-of-web web --yes
      inv ec2.pull :jobs jobs web -y
    """
    settings = connection_settings(c, region, max_connections, private_ip=private_ip, via=via)
    there, here = transfer.sides(source, destination)
    if not isinstance(there, transfer.Remote) or not isinstance(here, str):
        raise UsageError("pull fetches from the instances: SOURCE starts with ':'; ec2.push sends")
    chosen = instances.select(settings, selector)
    confirm(f"fetch from {how_many(chosen)}?", instances.Instances(chosen).brief(), yes)
    with progress("fetching", 0, "bytes") as on_bytes:
        groups.report(transfer.pull(groups.InstanceGroup(chosen, settings), there, here, on_bytes), say)
