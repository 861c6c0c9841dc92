"""Instances as a cluster of Spark or Dask, and as plain instances again.

Every instance runs `engines.sh`, which starts and ends the engine's processes there. A tag of each instance names its
cluster. The master, asked through SSH at its private address, tells which workers have registered. The engines
themselves are never imported here.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import re
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paramiko
from fabric.group import GroupResult

from hardway import config
from hardway.config import Settings
from hardway.ec2 import security_groups, tags
from hardway.ec2.instances import Instance, describe, tagged
from hardway.errors import Failed, HardwayError, UsageError
from hardway.fanout.group import CommandError, CommandResult, InstanceGroup, report
from hardway.ssh import connection as ssh
from hardway.ssh.script import Script
from hardway.tables import Table
from hardway.terminal import last_line

TAG = "hardway-cluster"
"""The tag of a cluster's instances; its value is the address that clients connect to."""
STORE_TAG = "hardway-store"
"""The tag of a store's instances; its value is the store's name."""
START_SECONDS, INSTALL_SECONDS = 60, 900
REFUSED = 3  # the exit code of engines.sh after it has printed the reason
ENDS_SECONDS = 5.0  # for the ssh of a tunnel
LOOK_EVERY = 3.0  # seconds between checks that workers which have not registered still run
_QUIET = "hardway.cluster.quiet"


@dataclass(frozen=True)
class Engine:
    """One kind of cluster: its ports, the packages of Python it is in, and whom its master knows."""

    name: str
    scheme: str
    port: int
    dashboard: int
    package: str
    requirement: str
    members: str
    registered: Callable[[Any], set[str]]
    client_port: bool

    def address(self, master: Instance) -> str:
        """Return the address that a client connects to."""
        return f"{self.scheme}://{master.private_ip}:{self.port}"


DASK = Engine(
    name="dask",
    scheme="tcp",
    port=8786,
    dashboard=8787,
    package="distributed",
    requirement="dask[complete]",
    members="/json/identity.json",
    registered=lambda said: {worker["host"] for worker in said["workers"].values()},
    client_port=True,
)
SPARK = Engine(
    name="spark",
    scheme="spark",
    port=7077,
    dashboard=8080,
    package="pyspark",
    requirement="pyspark",
    members="/json/",
    registered=lambda said: {worker["host"] for worker in said["workers"] if worker["state"] == "ALIVE"},
    client_port=False,  # executors connect to their driver, which no tunnel lets them do
)
_ENGINES = {engine.scheme: engine for engine in (DASK, SPARK)}


@dataclass(frozen=True)
class EngineCluster:
    """A cluster, known by its instances' tags: ids, and the addresses of master and web pages in its network.

    `master` is empty if that instance is gone.
    """

    engine: str
    address: str
    dashboard: str
    master: str
    instances: tuple[str, ...]

    @property
    def size(self) -> int:
        """The number of its instances."""
        return len(self.instances)

    @property
    def cells(self) -> tuple[object, ...]:
        """The columns of a list beside engine and address."""
        return self.dashboard, self.master, self.size


def check(settings: Settings) -> None:
    """Raise UsageError if the settings' memory or version is invalid."""
    version, source = settings.cluster.version, settings.source("cluster.version")
    if not re.fullmatch(r"[\w.+!-]*", version):
        raise UsageError(f"{source} {version!r} is not a version: write one such as 2024.8.0")
    mebibytes(settings)


def mebibytes(settings: Settings) -> int:
    """Return the MiB of memory for a worker; 0 leaves it to the engine. Raises UsageError for an invalid amount."""
    return config.mebibytes(settings.cluster.memory, settings.source("cluster.memory"))


def start(
    settings: Settings,
    engine: Engine,
    chosen: Sequence[Instance],
    say: Callable[[str], None],
    install: bool = False,
) -> EngineCluster:
    """Make these instances a cluster; processes that already run as they should are left alone.

    With `install` the engine is installed where it is missing.

    The master is the instance tagged role=master, else the present master, else the first on demand (EC2 does not take
    it back), else the first. Raises UsageError for instances of another cluster, and Failed if a process does not
    start, or a worker has not registered after `ec2.seconds_timeout`. Started processes then go on running.
    """
    master = _master(engine, chosen)
    address = engine.address(master)
    _refuse_others(settings, address, chosen)
    security_groups.open_between(settings, chosen, say)
    common = {
        "engine": engine.name,
        "package": engine.package,
        "wanted": settings.cluster.version,
        "requirement": _requirement(engine, settings.cluster.version),
        "install": "yes" if install else "",
        "python": settings.cluster.python,
        "mebibytes": mebibytes(settings) or "",
        "master": master.private_ip,
        "port": engine.port,
        "dashboard": engine.dashboard,
    }
    each = {
        i.id: {**common, "role": "master" if i is master else "worker", "name": i.id, "ip": i.private_ip}
        for i in chosen
    }
    report(on_each(settings, chosen, "start", each, INSTALL_SECONDS if install else START_SECONDS), say)
    tags.add(settings, chosen, {TAG: address}).complete()
    _until_registered(settings, engine, master, chosen)
    return _cluster(address, chosen)


def _master(engine: Engine, chosen: Sequence[Instance]) -> Instance:
    tagged = [instance for instance in chosen if instance.tags.get("role") == "master"]
    if len(tagged) > 1:
        raise UsageError(f"{len(tagged)} instances are tagged role=master: a cluster has one master")
    already = [instance for instance in chosen if instance.tags.get(TAG) == engine.address(instance)]
    on_demand = [instance for instance in chosen if not instance.spot]
    return (tagged or already or on_demand or list(chosen))[0]


def _refuse_others(settings: Settings, address: str, chosen: Sequence[Instance]) -> None:
    """Raise UsageError for an instance of another cluster whose master still runs."""
    ids = {instance.id for instance in chosen}
    for instance in chosen:
        other = instance.tags.get(TAG, address)
        if other == address:
            continue
        for cluster in _clusters(describe(settings, tagged(TAG, other))):
            moves = cluster.engine == _engine(address).name and cluster.master in ids
            if cluster.master and not moves:
                stop = settings.command("cluster.stop", instance.id)
                raise UsageError(
                    f"{instance} is in the {cluster.engine} cluster {other}, whose master is {cluster.master}: "
                    f"select the master, too, or run `{stop}` first"
                )


def _requirement(engine: Engine, version: str) -> str:
    """Return the requirement for `pip`, by default with our own version, as client and cluster should match."""
    if not version:
        try:
            version = importlib.metadata.version(engine.package)
        except importlib.metadata.PackageNotFoundError:
            return engine.requirement
    return f"{engine.requirement}=={version}"


def on_each(
    settings: Settings, chosen: Sequence[Instance], verb: str, values: Mapping[str, Mapping[str, object]], limit: int
) -> GroupResult:
    """Run `engines.sh` on instances with each one's `values`, by id; the outcome of a refusal has the reason."""
    script = Path(__file__).with_name("engines.sh").read_text()
    each = {
        one: "".join(f"{name}={value}\n" for name, value in own.items() if value != "").encode()
        for one, own in values.items()
    }
    outcomes = InstanceGroup(chosen, settings).execute(Script(script, [verb]), each=each, timeout=limit)
    for connection, outcome in outcomes.items():
        if isinstance(outcome, CommandResult) and outcome.exit_code == REFUSED:
            outcomes[connection] = CommandError(last_line(outcome.stderr) or "it refused")
    return outcomes


def _until_registered(settings: Settings, engine: Engine, master: Instance, chosen: Sequence[Instance]) -> None:
    """Wait until the master knows every instance. If one never registers, raises Failed with its process's log.

    A process that has ended is not awaited.
    """
    seconds = settings.ec2.seconds_timeout
    deadline = time.monotonic() + seconds
    connection = ssh.connect(master, settings)
    # Paramiko logs an error for each connection that the master does not take yet.
    logging.getLogger(_QUIET).addHandler(logging.NullHandler())
    connection.transport.set_log_channel(_QUIET)
    try:
        look_at = time.monotonic() + LOOK_EVERY
        while True:
            known = _registered(connection, engine)
            missing = [i for i in chosen if known is None or i.private_ip not in known]
            late = time.monotonic() >= deadline
            if not missing:
                return
            if late or time.monotonic() >= look_at:
                role, waited_for = ("master", [master]) if known is None else ("worker", missing)
                _look(settings, waited_for, role, seconds if late else None)
                look_at = time.monotonic() + LOOK_EVERY
            time.sleep(0.2)
    finally:
        connection.close()


def _registered(connection: ssh.InstanceConnection, engine: Engine) -> set[str] | None:
    """Return the private addresses of workers that the master knows; None while it does not answer."""
    host, timeout = connection.instance.private_ip, connection.connect_timeout or 15
    if not connection.transport.is_active():
        raise ssh.ConnectError(f"the connection to {connection.instance} was lost")
    try:
        channel = connection.transport.open_channel(
            "direct-tcpip", (host, engine.dashboard), ("127.0.0.1", 0), timeout=timeout
        )
    except (paramiko.SSHException, EOFError):
        return None
    try:
        channel.settimeout(timeout)
        # HTTP/1.0: the answer ends with the connection.
        channel.sendall(f"GET {engine.members} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
        answer = b""
        while piece := channel.recv(1 << 16):
            answer += piece
        head, _, body = answer.partition(b"\r\n\r\n")
        return engine.registered(json.loads(body)) if b" 200 " in head.split(b"\r\n")[0] else None
    except (OSError, ValueError, KeyError, paramiko.SSHException):
        return None
    finally:
        channel.close()


def _look(settings: Settings, instances: Sequence[Instance], role: str, waited: int | None) -> None:
    """Raise Failed with the log's end if a process has ended, or for the first one after `waited` seconds in vain."""
    outcomes = on_each(settings, instances, "look", {i.id: {"role": role} for i in instances}, START_SECONDS)
    for connection, outcome in outcomes.items():
        if isinstance(outcome, BaseException):
            raise Failed(f"the {role} on {connection.instance}: {outcome}")
        if outcome.exit_code:
            why = "has ended"
        elif waited is not None:
            hint = "do the security groups let the instances reach each other?"
            why = f"{'does not answer' if role == 'master' else 'has not registered'} after {waited} s; {hint}"
        else:
            continue
        log = outcome.stdout.decode(errors="replace").strip() or "(its log is empty)"
        raise Failed(f"the {role} on {connection.instance} {why}", log.splitlines())


def stop(settings: Settings, chosen: Sequence[Instance], say: Callable[[str], None]) -> list[Instance]:
    """End the processes of clusters and stores on these instances, and remove a store's objects and the tags.

    Return the instances where processes ran.

    Raises GroupFailed if an instance could not be reached.
    """
    outcomes = on_each(settings, chosen, "stop", {i.id: {"name": i.id} for i in chosen}, START_SECONDS)
    done = [c.instance for c, outcome in outcomes.items() if isinstance(outcome, CommandResult)]
    ran = {c.instance.id for c, outcome in outcomes.items() if c.instance in done and outcome.stdout.strip()}
    tags.remove(settings, done, [TAG, STORE_TAG]).complete()
    ended = [instance for instance in chosen if instance.id in ran]
    try:
        report(outcomes, say)
    except HardwayError as error:
        error.result = [instance.id for instance in ended]
        raise
    return ended


def clusters(settings: Settings) -> Table[EngineCluster]:
    """Return all clusters of the region."""
    found = _clusters(describe(settings, tagged(TAG)))
    return Table(found, "engine", "address", "dashboard", "master", "size")


def _clusters(instances: Sequence[Instance]) -> list[EngineCluster]:
    found: dict[str, list[Instance]] = {}
    for instance in sorted(instances, key=lambda instance: (instance.launched, instance.id)):
        if instance.state == "running" and instance.tags.get(TAG, "").partition(":")[0] in _ENGINES:
            found.setdefault(instance.tags[TAG], []).append(instance)
    return [_cluster(address, members) for address, members in found.items()]


def _cluster(address: str, members: Sequence[Instance]) -> EngineCluster:
    engine, host = _engine(address), _host(address)
    master = next((one.id for one in members if one.private_ip == host), "")
    ids = tuple(one.id for one in members)
    return EngineCluster(engine.name, address, f"http://{host}:{engine.dashboard}", master, ids)


def _engine(address: str) -> Engine:
    return _ENGINES[address.partition(":")[0]]


def _host(address: str) -> str:
    return address.partition("://")[2].rpartition(":")[0]


def tunnel(settings: Settings, chosen: Sequence[Instance], say: Callable[[str], None]) -> None:
    """Forward ports here to the cluster's dashboard, and to the master's port if a client can use it.

    The ports are open until Ctrl-C, which is no failure. Raises UsageError for instances of no cluster or of two, and
    Failed if the real `ssh` ends by itself.
    """
    addresses = {instance.tags[TAG] for instance in chosen if TAG in instance.tags}
    if len(addresses) != 1:
        what = f"{len(addresses)} clusters" if addresses else "no cluster"
        raise UsageError(f"the instances belong to {what}: `{settings.command('cluster.ls')}` lists all clusters")
    [address] = addresses
    engine, host = _engine(address), _host(address)
    members = describe(settings, tagged(TAG, address))
    master = next((one for one in members if one.private_ip == host and one.state == "running"), None)
    if not master:
        raise UsageError(f"the master of {address} is gone: start the cluster again")
    ports = {engine.dashboard: _free_port(engine.dashboard)}
    if engine.client_port:
        ports[engine.port] = _free_port(engine.port)
    forwards = [f"-L127.0.0.1:{here}:{host}:{there}" for there, here in ports.items()]
    program, *options = ssh.login_command(master, settings)
    # When we end, for any reason, its stdin ends, then `cat`, and so ssh.
    command = [program, "-T", "-oExitOnForwardFailure=yes", *forwards, *options, "exec cat"]
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
    except FileNotFoundError:
        raise UsageError("there is no `ssh` here: install OpenSSH's client (openssh-client)") from None
    try:
        say(f"the dashboard: http://127.0.0.1:{ports[engine.dashboard]}")
        if engine.client_port:
            say(f"the cluster: {engine.scheme}://127.0.0.1:{ports[engine.port]}")
        say("Ctrl-C closes the tunnel")
        code = process.wait()
    except KeyboardInterrupt:
        return
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(ENDS_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdin:
            process.stdin.close()
    raise Failed(f"ssh ended with {code}")


def _free_port(wanted: int) -> int:
    """Return the wanted port if nothing here listens on it, else any free one."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            # As ssh does: a port that was in use until a moment ago can be used again.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise Failed("no port is free here")
