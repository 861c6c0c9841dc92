"""Turn instances into a cluster of Spark or Dask, for work that outgrows pmap, and into plain instances again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from invoke import Collection, Context

from hardway import config
from hardway.cli.task import Lines, act, confirm, nothing, say, task

from .flags import JSON, SELECTOR, YES
from .lazy import engines as clusters
from .lazy import instances, proxy

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
def stop(c: Context, selector: str | Iterable[str], yes: bool = False, region: str | None = None) -> Lines:
    """Make instances of a cluster plain ones again.

    End the cluster's processes on them, and print the ids of the instances that had any.

    Examples:
      inv cluster.stop web --yes
      inv cluster.stop 'web db' -y
    """
    settings = _settings(c, region, real_s3=True)
    chosen = instances.select(settings, selector)
    confirm("end the clusters' processes on these?", instances.Instances(chosen).brief(), yes)
    return Lines(instance.id for instance in clusters.stop(settings, chosen, say))


@task(autoprint=True, help={"json": JSON})
def ls(c: Context, json: bool = False, region: str | None = None) -> Any:
    """List clusters of Spark and Dask.

    Columns: engine, address, dashboard, id of the master's instance, number of instances.

    Examples:
      inv cluster.ls
      inv cluster.ls --json
    """
    found = clusters.clusters(config.settings(c, region))
    return found.json() if json else found


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


ns = Collection(spark, dask, stop, ls, tunnel)
ns.configure(config.defaults("cluster", "aws", "ec2"))
