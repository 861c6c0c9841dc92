"""EC2 at the prompt: start instances, find them, run on them, copy to and from them, end them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from invoke import Collection, Context

from hardway import config
from hardway.cli.task import Lines, act, confirm, progress, publish, say, task
from hardway.errors import Failed, UsageError

from . import ec2_run, ec2_shared
from .ec2_account import events, keys, roles
from .ec2_check import check, say_checks
from .ec2_cleanup import cleanup
from .ec2_copy import pull, push, scp
from .ec2_ending import extend, rm
from .ec2_images import ami_new, ami_rm, amis, snapshot, snapshots
from .ec2_list import dns, id, ip, log, ls, user_data
from .ec2_market import regions, spot_prices, types, zones
from .ec2_networks import authorize, deauthorize, new_vpc, rm_vpc, sg, sgs, vpcs
from .ec2_run import ssh
from .ec2_states import reboot, start, stop, wait
from .ec2_tags import tag, untag
from .lazy import block, commands, launch
from .lazy import group as groups

if TYPE_CHECKING:
    from hardway.ec2.instances import Instance


@contextlib.contextmanager
def region(c: Context, name: str) -> Iterator[None]:
    """Have tasks called with `c` in this block act in the region `name`, before any other setting of the region."""
    before = c.config.get("hardway_region")
    c.config["hardway_region"] = name
    try:
        yield
    finally:
        c.config["hardway_region"] = before


@contextlib.contextmanager
def cluster(c: Context, **flags: Any) -> Iterator[Lines]:
    """Start instances as `new(c, **flags)` does, for this block only: it gets their ids.

    They are terminated at the end of the block, however it ends: by an error, Ctrl-C, SIGTERM or SIGHUP, too.
    """
    with block.terminated(config.settings(c, flags.get("region")), say) as ours:
        ids = new(c, **flags)
        ours += ids
        yield ids


@task(
    changes=Lines,
    autoprint=True,
    iterable=["tag"],
    help={
        "tag": "key=value; repeat it for more",
        "command": "what to run on each instance once it is up: text, a file, or - for stdin",
        "for": "run this on this machine, by bash, with $ids in its environment; then terminate the instances",
        "login": "log in to the instance once it is up",
        "wait": "wait until each instance answers over SSH",
        "yes": "do not ask where aws.budget may be exceeded",
        "dry_run": "run ec2.check for these flags, and start nothing (inv --dry only says what would be started)",
    },
)
def new(
    c: Context,
    name: str | None = None,
    num: int | str | None = None,
    type: str | Sequence[str] | None = None,
    spot: float | str | None = None,
    on_demand: int | str | None = None,
    ami: str | None = None,
    gigs: int | str | None = None,
    tag: str | Iterable[str] | None = None,
    command: str | None = None,
    init: str | None = None,
    no_wait_init: bool = False,
    for_: str | None = None,
    login: bool = False,
    wait: bool = True,
    max_hours: float | str | None = None,
    idle_minutes: float | str | None = None,
    max_cost: float | str | None = None,
    min: int | str | None = None,
    seconds_wait: int | str | None = None,
    seconds_timeout: int | str | None = None,
    key: str | None = None,
    role: str | None = None,
    sg: str | Sequence[str] | None = None,
    vpc: str | None = None,
    subnet: str | None = None,
    zone: str | None = None,
    ssh_user: str | None = None,
    ssh_port: int | str | None = None,
    dry_run: bool = False,
    yes: bool = False,
    region: str | None = None,
    via: str | None = None,
    private_ip: bool = False,
) -> Lines:
    """Start instances, ready to log in.

    Wait until all answer over SSH and their --init has ended, and print their ids. On any failure, also a failure to
    print the ids, terminate all of them.

    With --for 'COMMAND', they live as long as a command on this machine, which finds the ids in $ids. Its stdout and
    exit code are those of ec2.new.

    Examples:
      inv ec2.new --name web --num 2 --tag team=data
      inv ec2.new -n 3 -t m7i.large,m7a.large --spot 0.5 --min 2 --max-hours 2 --name batch
      inv ec2.new --name db --init setup.sh --command 'uname -a'
    """
    flags = {
        "name": name,
        "num": num,
        "type": type,
        "spot": spot,
        "on_demand": on_demand,
        "ami": ami,
        "gigs": gigs,
        "init": init,
        "no_wait_init": no_wait_init,
        "max_hours": max_hours,
        "idle_minutes": idle_minutes,
        "max_cost": max_cost,
        "min": min,
        "seconds_wait": seconds_wait,
        "seconds_timeout": seconds_timeout,
        "key": key,
        "role": role,
        "sg": sg,
        "vpc": vpc,
        "subnet": subnet,
        "zone": zone,
        "ssh_user": ssh_user,
        "ssh_port": ssh_port,
        "via": via,
        "private_ip": private_ip,
    }
    settings = config.settings(c, region, ec2=flags)
    script = commands.read(command) if command else None
    if login and settings.ec2.num != 1:
        raise UsageError(f"--login is for one instance, {settings.source('ec2.num')} is {settings.ec2.num}")
    if login:
        ec2_run.check_login()
    if for_ is not None and not for_.strip():
        raise UsageError("--for is empty: it takes a command to run while the instances are there")
    if login and for_:
        raise UsageError("--login and --for both say what the instances are for: leave one of them out")
    if (login or script) and not wait:
        raise UsageError("--no-wait leaves nothing to log in to or to run --command on")
    if dry_run:
        return say_checks(settings, tag or ())

    def launched(tell: Callable[[Lines], None]) -> list[Instance]:
        with contextlib.ExitStack() as bar:
            on_ready = bar.enter_context(progress("instances ready", settings.ec2.num))

            def ask(why: str) -> None:
                bar.close()  # it would cover the question
                confirm(f"{why}. Start {'it' if settings.ec2.num == 1 else 'them'}?", [], yes)

            def prepare(started: list[Instance]) -> None:
                bar.close()  # the output of the command comes where it stands
                if script:
                    printer = groups.Printer(prefix=True, sole=False, to_stderr=True)
                    ec2_run.run(settings, started, script, printer=printer)

            return launch.launch(
                settings,
                say,
                wait=wait,
                tags=tag or (),
                on_ready=on_ready,
                prepare=prepare if script else None,
                publish=lambda ready: tell(ec2_shared.ids_of(ready)),
                before=act,
                over_budget=ask,
            )

    if for_:
        with block.terminated(settings, say) as ours:
            launched(ours.extend)
            say(f"the command runs, then these are terminated: {' '.join(ours)}")
            block.run(for_, ours, {"INVOKE_AWS_REGION": region} if region else {})
        return Lines()
    started = launched(publish)
    if login:
        # A shell ends with the exit code of its last command. The instance runs whatever the code is, and its id is
        # printed.
        try:
            ec2_run.log_in(settings, started[0])
        except (Failed, KeyboardInterrupt) as error:
            say(str(error) or "interrupted")
    return ec2_shared.ids_of(started)


ns = Collection(
    *(new, ls, id, ip, dns, ssh, scp, push, pull, rm, wait, start, stop, reboot, extend),
    *(tag, untag, user_data, log),
    *(amis, ami_new, ami_rm, snapshots, snapshot, sgs, sg, authorize, deauthorize, vpcs, new_vpc, rm_vpc),
    *(regions, zones, types, spot_prices, keys, roles, events, check, cleanup),
)
ns.configure(config.defaults("aws", "ec2"))
