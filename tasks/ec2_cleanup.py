"""Removing what hardway made in an account; part of `ec2`."""

from __future__ import annotations

from invoke import Context

from hardway import config
from hardway.cli.task import Lines, confirm, say, task

from .flags import YES
from .lazy import cleanup as cleaning


@task(changes=Lines, autoprint=True, help={"yes": YES})
def cleanup(c: Context, yes: bool = False, region: str | None = None) -> Lines:
    """Remove unused things that hardway made.

    In the region, remove key pairs, security groups, VPCs, volumes without an instance and remains of killed launches.
    Print the removed ids.

    Examples:
      inv --dry ec2.cleanup
      inv ec2.cleanup --yes
    """
    settings = config.settings(c, region)
    found = cleaning.find(settings, say)
    for thing in found:
        if thing.kept:
            say(f"kept: {thing}: {thing.kept}")
    unused = [thing for thing in found if not thing.kept]
    if not unused:
        say("nothing to remove")
        return Lines()
    confirm(f"remove {'these' if len(unused) > 1 else 'it'}?", map(str, unused), yes)
    return Lines(cleaning.remove(settings, unused, say))
