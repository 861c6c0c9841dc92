"""The local cloud from the command line: start it, point a shell at it, look at it, end it."""

from __future__ import annotations

import shlex

from invoke import Collection, Context

from hardway import config
from hardway.cli import Lines, say, task
from hardway.local import daemon


@task(autoprint=True)
def up(c: Context) -> Lines:
    """Start the local cloud, or find it running, and point this shell at it: `eval "$(inv local.up)"`."""
    settings = config.settings(c).local
    running, new = daemon.up(settings)
    if new:
        say(f"the local cloud is up at {running.endpoint}; isolation of instances: {running.isolation}")
    else:
        say(f"the local cloud is already up at {running.endpoint}")
        if running.settings != settings:
            say(f"it was started with other settings than now asked for: {running.settings}; inv local.down ends it")
    return _exports(running)


@task(autoprint=True)
def env(c: Context) -> Lines:
    """Print what points a shell at the running local cloud: `eval "$(inv local.env)"`."""
    return _exports(daemon.find())


@task(autoprint=True)
def status(c: Context) -> Lines:
    """Print endpoint, process, isolation, instances and log of the running local cloud."""
    running = daemon.find()
    instances = [f"{count} {state}" for state, count in sorted(running.instances().items())]
    return Lines(
        [
            f"endpoint: {running.endpoint}",
            f"pid: {running.pid}",
            f"isolation: {running.isolation}",
            f"instances: {', '.join(instances) or 'none'}",
            f"log: {daemon.state_directory() / 'log'}",
        ]
    )


@task
def down(c: Context) -> None:
    """End the local cloud and everything in it: no process, no file stays."""
    say("the local cloud is down" if daemon.down() else "the local cloud was not running")


def _exports(running: daemon.Running) -> Lines:
    return Lines(f"export {name}={shlex.quote(value)}" for name, value in running.environment.items())


ns = Collection(up, env, status, down)
ns.configure(config.defaults("local"))
