"""Turn instances into a cluster of Spark or Dask, or a store of objects, and into plain instances again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from invoke import Collection, Context

from hardway import config
from hardway.cli.task import Lines, act, confirm, nothing, say, task
from hardway.tables import Table

from .flags import JSON, SELECTOR, YES
from .lazy import engines as clusters
from .lazy import instances, proxy
from .lazy import store as stores

if TYPE_CHECKING:
    from hardway.clusters.engines import Engine

_HELP = {
    "selector": SELECTOR,
    "yes": YES,
    "install": "where the engine is missing, install it into a virtual environment there, by uv or pip",
    "seconds-timeout": "seconds to wait until every worker has registered",
    "real-s3": "from a shell with the S3 stub, let `aws` on the instances reach the real S3",
}


@task(changes=str, autoprint=True, help=_HELP)
def spark(
    c: Context,
    selector: str | Iterable[str],
    yes: bool = False,
    install: bool = False,
    version: str | None = None,
    python: str | None = None,
    memory: str | None = None,
    seconds_timeout: int | str | None = None,
    real_s3: bool = False,
    region: str | None = None,
) -> str:
    """Make instances a cluster of Spark.

    Start a worker on each instance, and print the cluster's address. Called again, replace lost workers.

    The instance tagged role=master, else the first on demand, else the first, runs the master. Instances need Java.

    Examples:
      inv cluster.spark web --yes
      inv cluster.spark web --install --version 3.5.1 --memory 4g -y
    """
    given = {"version": version, "python": python, "memory": memory}
    settings = _settings(c, region, real_s3, given, seconds_timeout)
    return _start(settings, clusters.SPARK, selector, install, yes)


@task(changes=str, autoprint=True, help=_HELP)
def dask(
    c: Context,
    selector: str | Iterable[str],
    yes: bool = False,
    install: bool = False,
    version: str | None = None,
    python: str | None = None,
    memory: str | None = None,
    seconds_timeout: int | str | None = None,
    real_s3: bool = False,
    region: str | None = None,
) -> str:
    """Make instances a cluster of Dask.

    Start a worker on each instance, and print the cluster's address. Called again, replace lost workers.

    The instance tagged role=master, else the first on demand, else the first, runs the scheduler.

    Examples:
      inv cluster.dask web --yes
      inv cluster.dask web --install --memory 4g -y
    """
    given = {"version": version, "python": python, "memory": memory}
    settings = _settings(c, region, real_s3, given, seconds_timeout)
    return _start(settings, clusters.DASK, selector, install, yes)


@task(changes=Lines, autoprint=True, help={"selector": SELECTOR, "yes": YES})
def store(c: Context, selector: str | Iterable[str], yes: bool = False, region: str | None = None) -> Lines:
    """Make instances a store for the objects between two steps.

    Each instance keeps what its tasks write to "$HARDWAY_STORE", and the others read it. Print their buckets. There are
    no copies. Called again with all instances, take new ones in.

    Examples:
      inv cluster.store web --yes
      inv cluster.store 'web db' -y
    """
    settings = _settings(c, region, real_s3=True)
    chosen = instances.select(settings, selector)
    confirm("make these a store?", instances.Instances(chosen).brief(), yes)
    return Lines(stores.start(settings, chosen, say))


@task(changes=Lines, autoprint=True, help={"selector": SELECTOR, "yes": YES})
def stop(c: Context, selector: str | Iterable[str], yes: bool = False, region: str | None = None) -> Lines:
    """Make instances of a cluster or a store plain ones again.

    End its processes on them, remove a store's objects, and print the ids of the instances that had any processes.

    Examples:
      inv cluster.stop web --yes
      inv cluster.stop 'web db' -y
    """
    settings = _settings(c, region, real_s3=True)
    chosen = instances.select(settings, selector)
    confirm(
        "end the clusters' processes on these, and remove the stores' objects?",
        instances.Instances(chosen).brief(),
        yes,
    )
    return Lines(instance.id for instance in clusters.stop(settings, chosen, say))


@task(autoprint=True, help={"json": JSON})
def ls(c: Context, json: bool = False, region: str | None = None) -> Any:
    """List clusters of Spark and Dask, and stores.

    Columns: engine, address, dashboard, id of the master's instance, number of instances. A line for each instance of a
    store: store, its bucket, number of objects, bytes, name of the store.

    Examples:
      inv cluster.ls
      inv cluster.ls --json
    """
    settings = _settings(c, region, real_s3=True)
    found: Table[Any] = clusters.clusters(settings)
    if buckets := stores.buckets(settings):
        found = Table([*found, *buckets], "engine", "address", *(_cell(number) for number in range(3)))
    return found.json() if json else found


def _cell(number: int) -> Callable[[Any], object]:
    """Return the column of a list of clusters and buckets whose meaning is not the same for both."""
    return lambda row: row.cells[number]


@task(changes=nothing, help={"selector": SELECTOR})
def tunnel(c: Context, selector: str | Iterable[str], region: str | None = None) -> None:
    """Reach a cluster's dashboard from this machine.

    Open a port of this machine for the dashboard, and for Dask's scheduler, until Ctrl-C.

    Examples:
      inv cluster.tunnel web
      inv cluster.tunnel team=data
    """
    settings = _settings(c, region, real_s3=True)
    chosen = instances.select(settings, selector)
    act("open a tunnel to the cluster of these", instances.Instances(chosen).brief())
    clusters.tunnel(settings, chosen, say)


def _settings(
    c: Context,
    region: str | None,
    real_s3: bool,
    cluster: Mapping[str, str | None] | None = None,
    seconds_timeout: int | str | None = None,
) -> config.Settings:
    settings = config.settings(c, region, ec2={"seconds_timeout": seconds_timeout}, cluster=cluster, real_s3=real_s3)
    proxy.check(settings)
    return settings


def _start(settings: config.Settings, engine: Engine, selector: str | Iterable[str], install: bool, yes: bool) -> str:
    clusters.check(settings)
    chosen = instances.select(settings, selector)
    confirm(f"make these a cluster of {engine.name}?", instances.Instances(chosen).brief(), yes)
    made = clusters.start(settings, engine, chosen, say, install)
    say(f"the dashboard: {made.dashboard}; from here: {settings.command('cluster.tunnel', made.master)}")
    run = settings.command("ec2.ssh", made.master, "--yes", "--command", ".hardway-cluster/run PROGRAM.py")
    say(f"a program of yours, on it: {run}")
    return made.address


ns = Collection(spark, dask, store, stop, ls, tunnel)
ns.configure(config.defaults("cluster", "aws", "ec2"))
