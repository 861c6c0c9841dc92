"""Running commands on instances, and logging in to one; part of `ec2`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from typing import TYPE_CHECKING

from invoke import Context

from hardway import config
from hardway.cli.task import act, confirm, say, task
from hardway.errors import Failed, UsageError
from hardway.tables import count

from .ec2_shared import connection_settings, how_many
from .flags import SELECTOR, YES
from .lazy import commands, instances
from .lazy import group as groups
from .lazy import ssh as connections

if TYPE_CHECKING:
    from hardway.ec2.instances import Instance
    from hardway.fanout.commands import Command
    from hardway.fanout.group import CommandResult, Printer


@task(
    changes=list,
    help={
        "selector": SELECTOR,
        "command": "what to run: text, a file, or - for stdin; without it, log in",
        "yes": YES,
        "quiet": "print output lines without the instance's name",
        "fold": "print equal outputs once, under the names of their instances, when all have ended",
        "stdin": "the stdin of every command: a file, or - for our own stdin",
        "each": "a file, or - for stdin: the Nth instance reads its Nth line, in the order of ec2.id",
        "timeout": "seconds until a command is ended; 0 for never",
        "real-s3": "from a shell with the S3 stub, let `aws` on the instances reach the real S3",
    },
)
def ssh(
    c: Context,
    selector: str | Iterable[str],
    command: str | None = None,
    yes: bool = False,
    quiet: bool = False,
    fold: bool = False,
    stdin: str | None = None,
    each: str | None = None,
    timeout: float | str = 0,
    real_s3: bool = False,
    region: str | None = None,
    via: str | None = None,
    private_ip: bool = False,
    max_connections: int | str | None = None,
) -> list[CommandResult]:
    """Run a command on instances, or log in to one.

    Print output line by line as it comes. The exit code is 1 if the command fails on any instance.

    Examples:
      inv ec2.ssh db
      inv ec2.ssh web --yes --command 'mkdir -p logs && uptime >logs/uptime.log'
      inv ec2.ssh 'web batch' --fold -yc setup.sh
    """
    settings = connection_settings(c, region, max_connections, real_s3, private_ip, via)
    seconds = config.number(timeout, float, "--timeout")
    if command is None and stdin is None and each is None and not fold:
        check_login()
        log_in(settings, _one(instances.select(settings, selector)))
        return []
    if fold and quiet:
        raise UsageError("--fold names the instances, --quiet does not: leave one of them out")
    lines = None if each is None else commands.lines(each, command or "", stdin)
    script = commands.read(command or "", stdin)
    chosen = instances.select(settings, selector)
    if lines is not None and len(lines) != len(chosen):
        has = count(len(lines), "line")
        raise UsageError(f"--each {each} has {has} and {how_many(chosen)} match: give one line for each instance")
    confirm(f"run on {how_many(chosen)}?", instances.Instances(chosen).brief(), yes)
    printer = groups.FoldingPrinter() if fold else groups.Printer(prefix=not quiet, sole=len(chosen) == 1)
    return run(settings, chosen, script, seconds, printer, lines)


def _one(chosen: list[Instance]) -> Instance:
    if len(chosen) > 1:
        raise UsageError(f"{how_many(chosen)} match: add --command, or select the one to log in to")
    return chosen[0]


def check_login() -> None:
    """Raise UsageError where a login is not possible from this machine."""
    import shutil  # at its first use: --list and --help do without

    if not shutil.which("ssh"):
        raise UsageError("a login needs ssh, which is not installed here (package openssh-client); --command does not")


def log_in(settings: config.Settings, instance: Instance) -> None:
    """Hand the terminal over to the real `ssh`. Raises HardwayError with its exit code."""
    act(f"log in to {instance}")
    code = subprocess.call(connections.login_command(instance, settings))
    if code:
        raise Failed(f"ssh ended with {code}")


def run(
    settings: config.Settings,
    chosen: list[Instance],
    script: Command,
    seconds: float = 0,
    printer: Printer | None = None,
    lines: list[bytes] | None = None,
) -> list[CommandResult]:
    """Run a command on instances; `lines` are the stdins, in order. Raises HardwayError with a list of failures."""
    group = groups.InstanceGroup(chosen, settings)
    script = commands.with_aws(script, settings)
    each = {instance.id: line for instance, line in zip(chosen, lines, strict=True)} if lines else None
    outcomes = group.execute(script.line, stdin=script.stdin, each=each, timeout=seconds, printer=printer, say=say)
    results = [outcomes[connection] for connection in group]
    if isinstance(printer, groups.FoldingPrinter):
        printer.fold(results)
    groups.report(outcomes, say)
    return results
