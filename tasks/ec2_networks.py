"""Security groups and VPCs; part of `ec2`."""

from __future__ import annotations

from typing import Any

from invoke import Context

from hardway import config
from hardway.cli.task import Lines, act, checked_name, confirm, listing, nothing, say, task
from hardway.tables import Table

from .flags import ANY_OWNER, JSON, YES
from .lazy import networks, security_groups

GROUP = "security group, its name or id"
RULE = {
    "port": "port, or a range such as 8000-8100; for tcp and udp (default: 22)",
    "source": "address, network (203.0.113.0/24) or security group's id; else this machine's public address",
    "protocol": "tcp, udp, icmp, icmpv6 or all",
}


@task(autoprint=True, help={"json": JSON})
def sgs(c: Context, json: bool = False, region: str | None = None) -> Any:
    """List security groups and their rules.

    Columns: name, id, VPC, rules of incoming traffic (protocol/port:source), description.

    Examples:
      inv ec2.sgs
      inv ec2.sgs --json
    """
    found = security_groups.find(config.settings(c, region))
    return listing(Table(found, "name", "id", "vpc", "rules", "description"), json, "no security groups")


@task(
    changes=Lines,
    autoprint=True,
    help={"name": "name of the group", "vpc": "VPC, name or id; else the default one"},
)
def sg(c: Context, name: str, vpc: str | None = None, region: str | None = None) -> Lines:
    """Make a security group.

    Print its id, also if a group of this name exists. ec2.authorize lets traffic in.

    Examples:
      inv ec2.sg web
      inv ec2.sg web-of-lab --vpc lab
    """
    settings = config.settings(c, region)
    where = networks.find(settings, settings.ec2.vpc if vpc is None else vpc)
    act(f"make the security group {checked_name(name)} in {where}, unless it is there")
    group, made = security_groups.make(settings, name, where, "made by hardway")
    if made:
        say(f"made the security group {name} ({group.id}) in {where}")
    return Lines([group.id])


@task(changes=nothing, help={"group": GROUP, **RULE})
def authorize(
    c: Context,
    group: str,
    port: str | int | None = None,
    source: str | None = None,
    protocol: str = "tcp",
    region: str | None = None,
) -> None:
    """Let traffic in to a security group.

    A rule that is there already is no error.

    Examples:
      inv ec2.authorize web --port 443 --source 0.0.0.0/0
      inv ec2.authorize web --port 8000-8100 --source 203.0.113.0/24 --protocol udp
    """
    settings = config.settings(c, region)
    rule = security_groups.read_rule(settings, port, source, protocol)
    found = security_groups.one(settings, checked_name(group))
    act(f"let {rule} in to {found.name} ({found.id})")
    now = "now" if security_groups.authorize(settings, found, rule) else "already"
    say(f"{found.name} ({found.id}) {now} lets in {rule}")


@task(changes=nothing, help={"group": GROUP, **RULE})
def deauthorize(
    c: Context,
    group: str,
    port: str | int | None = None,
    source: str | None = None,
    protocol: str = "tcp",
    region: str | None = None,
) -> None:
    """Remove a rule of a security group.

    A rule that is not there is no error. Say which other rules still let the traffic in.

    Examples:
      inv ec2.deauthorize web --port 443 --source 0.0.0.0/0
      inv ec2.deauthorize web --port 8000-8100 --source 203.0.113.0/24 --protocol udp
    """
    settings = config.settings(c, region)
    rule = security_groups.read_rule(settings, port, source, protocol)
    found = security_groups.one(settings, checked_name(group))
    act(f"remove the rule {rule} of {found.name} ({found.id})")
    removed, others = security_groups.deauthorize(settings, found, rule)
    say(f"{found.name} ({found.id}) {'no longer has' if removed else 'did not have'} the rule {rule}")
    for other in others:
        say(f"still lets in {other}")


@task(autoprint=True, help={"json": JSON})
def vpcs(c: Context, json: bool = False, region: str | None = None) -> Any:
    """List VPCs and their subnets.

    Columns: name, id, default, subnet, zone, network, public, free addresses.

    Examples:
      inv ec2.vpcs
      inv ec2.vpcs --json
    """
    settings = config.settings(c, region)
    found = networks.subnets(settings)
    columns = ("name", "vpc", "default", "subnet", "zone", "cidr", "public", "free")
    return listing(Table(found, *columns), json, f"no VPCs; `{settings.command('ec2.new-vpc', 'NAME')}` makes one")


@task(changes=Lines, autoprint=True, help={"name": "its Name tag, which --vpc takes"})
def new_vpc(c: Context, name: str, region: str | None = None) -> Lines:
    """Make a VPC with a public subnet in every zone.

    If the VPC is there already, add the missing parts. Print its id. On failure, remove a new VPC again.

    Examples:
      inv ec2.new-vpc lab
      inv ec2.new-vpc lab --region eu-west-1
    """
    settings = config.settings(c, region)
    act(f"make the VPC {checked_name(name)}, or add what it lacks")
    return Lines([networks.make(settings, name, say)])


@task(
    changes=Lines,
    autoprint=True,
    help={"vpc": "its name or id", "yes": YES, "any-owner": ANY_OWNER},
)
def rm_vpc(c: Context, vpc: str, yes: bool = False, any_owner: bool = False, region: str | None = None) -> Lines:
    """Remove a VPC with all that is in it.

    Remove its subnets, gateway and security groups, too, unless an instance is in it. Print its id.

    Examples:
      inv ec2.rm-vpc lab --yes
      inv ec2.rm-vpc lab -y --region eu-west-1
    """
    settings = config.settings(c, region)
    id_ = networks.find(settings, checked_name(vpc))
    networks.refuse_foreign(settings, id_, any_owner)
    confirm("remove all of this?", networks.contents(settings, id_), yes)
    networks.remove_vpc(settings, id_)
    return Lines([id_])
