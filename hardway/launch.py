"""From what to launch to running, ssh-ready instances; or nothing left running.

Every launch tags its instances with a token of its own in the launch call itself, so that whatever happens to the
call's answer they can be found and terminated.
"""

from __future__ import annotations

import contextlib
import getpass
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

import paramiko

from hardway import access, aws, images, ssh
from hardway.commands import file_content
from hardway.config import Settings, number
from hardway.errors import Failed, HardwayError, Interrupted, UsageError
from hardway.instances import Instance, described, from_description, terminate

USER_DATA_BYTES = 16 * 1024
LAUNCH_TAG = "hardway-launch"


@dataclass(frozen=True)
class Request:
    """What to launch. `gigs` is the root volume in GiB (0: the image's own); `spot` 0 for on demand, 1 for spot.

    `seconds_timeout` bounds the wait for all to be ready; after `seconds_wait` (0: never) those ready by then are
    enough and the rest is terminated.
    """

    name: str
    num: int
    types: tuple[str, ...]
    spot: float
    ami: str
    key: str
    security_groups: tuple[str, ...]
    vpc: str
    subnet: str
    zone: str
    role: str
    gigs: int
    user_data: str
    ssh_user: str
    ssh_port: int
    ssh_from: str
    wait: bool
    seconds_timeout: int
    seconds_wait: int
    tags: dict[str, str] = field(default_factory=dict)


def read_request(settings: Settings, wait: bool, tags: Iterable[str] | None, **overrides: Any) -> Request:
    """A request from the settings, with what is not None of `overrides` (named as the settings are) in their place.

    Raises UsageError for a value that cannot be, before anything is asked of EC2.
    """
    chosen = asdict(settings.ec2) | {name: value for name, value in overrides.items() if value is not None}
    numbers: dict[str, Any] = {
        name: number(chosen[name], kind, f"--{name.replace('_', '-')}")
        for name, kind in (
            ("num", int),
            ("spot", float),
            ("gigs", int),
            ("ssh_port", int),
            ("seconds_timeout", int),
            ("seconds_wait", int),
        )
    }
    texts: dict[str, Any] = {
        name: str(chosen[name]) for name in ("ami", "key", "vpc", "subnet", "zone", "role", "ssh_user", "ssh_from")
    }
    types = tuple(filter(None, re.split(r"[\s,]+", str(chosen["type"]).strip())))
    if not numbers["num"]:
        raise UsageError("--num is 0: there is nothing to start")
    if not types:
        raise UsageError("--type is empty: name an instance type, such as m7i.large")
    if numbers["spot"] not in (0, 1):
        raise UsageError("--spot is 0 (on demand) or 1.0 (spot, for at most the on-demand price)")
    if not 0 < numbers["ssh_port"] < 65536:
        raise UsageError("--ssh-port is between 1 and 65535")
    return Request(
        name=str(chosen["name"]),
        types=types,
        security_groups=tuple(filter(None, re.split(r"[\s,]+", str(chosen["sg"]).strip()))),
        user_data=user_data(str(chosen["init"])),
        wait=wait,
        tags=_read_tags(tags or ()),
        **texts,
        **numbers,
    )


def _read_tags(tags: Iterable[str]) -> dict[str, str]:
    result = {}
    for tag in tags:
        key, equals, value = tag.partition("=")
        if not (key and equals) or key.startswith("aws:"):
            raise UsageError(f"--tag {tag!r}: write key=value, with a key that does not start with 'aws:'")
        result[key] = value
    return result


def launch(
    settings: Settings,
    request: Request,
    say: Callable[[str], None],
    *,
    on_ready: Callable[[int], None] = lambda count: None,
    prepare: Callable[[list[Instance]], None] | None = None,
) -> list[Instance]:
    """Launch, wait until each instance answers over SSH (unless told not to), and return them.

    `on_ready` is told how many more are ready; `prepare` is called with them all, as a part of the launch. On any
    failure, Ctrl-C, SIGTERM and SIGHUP included, what was started is terminated, `say` is told, and the error raised:
    UsageError before anything was started, Failed for what EC2 or the instances could not do.
    """
    image = images.resolve(settings, request.ami, request.types, request.ssh_user)
    call = _run_instances_call(settings, request, image, say)
    token = next(t["Value"] for t in call["TagSpecifications"][0]["Tags"] if t["Key"] == LAUNCH_TAG)
    with _signals_raise():
        try:
            ready = started = _run_instances(settings, request, call)
            if request.wait:
                ready = _until_ready(settings, started, request.seconds_timeout, request.seconds_wait, on_ready)
                _settle_for(settings, ready, started, say)
            if prepare:
                prepare(ready)
            return ready
        except BaseException as error:
            raise _terminated(settings, token, error, say) from error


def _run_instances_call(
    settings: Settings, request: Request, image: images.Image, say: Callable[[str], None]
) -> dict[str, Any]:
    """All of RunInstances' parameters but the type; makes the key pair and the security group where needed."""
    subnet, vpc = access.network(settings, request.subnet, request.vpc, request.zone)
    token = uuid.uuid4().hex
    tags = {
        **request.tags,
        "Name": request.name,
        "owner": getpass.getuser(),
        "creation-date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "ssh-user": image.user,
        LAUNCH_TAG: token,
    }
    if request.ssh_port != 22:
        tags["ssh-port"] = str(request.ssh_port)
    groups = access.security_groups(settings, request.security_groups, vpc, request.ssh_port, request.ssh_from, say)
    tag_list = [{"Key": key, "Value": value} for key, value in tags.items()]
    call: dict[str, Any] = {
        "ImageId": image.id,
        "MinCount": request.num,
        "MaxCount": request.num,
        "ClientToken": token,
        "KeyName": access.key_pair(settings, request.key, say),
        "SecurityGroupIds": groups,
        "InstanceInitiatedShutdownBehavior": "terminate",
        "MetadataOptions": {"HttpTokens": "required"},
        "TagSpecifications": [{"ResourceType": kind, "Tags": tag_list} for kind in ("instance", "volume")],
    }
    if subnet:
        call["SubnetId"] = subnet
    if request.user_data:
        call["UserData"] = request.user_data
    if request.role:
        call["IamInstanceProfile"] = {"Name": request.role}
    if request.gigs:
        volume = {"VolumeSize": request.gigs, "VolumeType": "gp3", "DeleteOnTermination": True}
        call["BlockDeviceMappings"] = [{"DeviceName": image.root_device, "Ebs": volume}]
    if request.spot:
        options = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
        call["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": options}
    return call


def _run_instances(settings: Settings, request: Request, call: dict[str, Any]) -> list[Instance]:
    """Start them all, of the first type that EC2 has capacity for."""
    refusal: Exception | None = None
    for attempt, name in enumerate(request.types):
        try:
            # EC2 takes a client token once for one set of parameters.
            answer = aws.ec2(settings).run_instances(
                **{**call, "InstanceType": name, "ClientToken": f"{call['ClientToken']}-{attempt}"}
            )
        except Exception as error:
            if not aws.lacks_capacity(error):
                raise
            refusal = error
        else:
            return [from_description(raw, aws.region_of(settings)) for raw in answer["Instances"]]
    assert refusal is not None
    raise refusal


def wait(
    settings: Settings, chosen: Sequence[Instance], state: str, seconds: int, on_ready: Callable[[int], None]
) -> None:
    """Wait until all are in a state, and answer over SSH if it is running; `on_ready` is told how many more are.

    Raises Failed after `seconds`, and at once where an instance can no longer get there.
    """
    if state == "running":
        _until_ready(settings, chosen, seconds, 0, on_ready)
        return
    deadline = time.monotonic() + seconds
    pause, waiting = 0.1, [instance.id for instance in chosen]
    while waiting:
        late = [i for i in described(settings, waiting) if i.state != state]
        for instance in late:
            if instance.state in ("shutting-down", "terminated") and state != "terminated":
                raise Failed(f"{instance} is {instance.state}: it will not be {state}")
        on_ready(len(waiting) - len(late))
        waiting = [instance.id for instance in late]
        if late and time.monotonic() >= deadline:
            raise Failed(f"{len(late)} instances not {state} after {seconds} s: {late[0]} is {late[0].state}")
        if late:
            time.sleep(pause)
            pause = min(pause * 1.3, 2.0)


def _until_ready(
    settings: Settings,
    started: Sequence[Instance],
    seconds_timeout: int,
    seconds_wait: int,
    on_ready: Callable[[int], None],
) -> list[Instance]:
    """Wait until each is running and answers over SSH, or some do after `seconds_wait`; returns those, as they are now.

    Raises Failed after `seconds_timeout`, and where one of them dies.
    """
    begun = time.monotonic()
    given_up = threading.Event()
    probes: dict[str, Future[None]] = {}
    refusals: dict[str, str] = {}
    latest = {i.id: i for i in started}
    pause, told = 0.1, 0
    with ThreadPoolExecutor(min(settings.ec2.max_connections, len(started)), "ssh-ready") as pool:
        try:
            while True:
                for instance in described(settings, [i for i in latest if i not in probes]):
                    latest[instance.id] = instance
                    if instance.state in ("shutting-down", "terminated"):
                        raise Failed(f"{instance} went {instance.state} while it started")
                    if instance.state == "running" and instance.address:
                        probes[instance.id] = pool.submit(_until_ssh_answers, instance, settings, given_up, refusals)
                done = {i for i, probe in probes.items() if probe.done() and not probe.exception()}
                on_ready(len(done) - told)
                told = len(done)
                waited = time.monotonic() - begun
                if len(done) == len(started) or (done and seconds_wait and waited >= seconds_wait):
                    return [latest[i.id] for i in started if i.id in done]
                if waited >= seconds_timeout:
                    raise _not_ready(list(latest.values()), done, refusals, waited)
                time.sleep(pause)
                pause = min(pause * 1.3, 2.0)
        finally:
            given_up.set()


def _until_ssh_answers(
    instance: Instance, settings: Settings, given_up: threading.Event, refusals: dict[str, str]
) -> None:
    """Retry until a real session runs a command: sshd, the key and the user may all come late in a boot.

    Keeps the newest reason why not in `refusals`, by id. Raises Failed once given up.
    """
    pause = 0.1
    while not given_up.wait(pause if instance.id in refusals else 0):
        try:
            connection = ssh.connect(instance, settings)
            try:
                channel = ssh.open_session(connection)
                ssh.execute(channel, "true", settings.ec2.connect_timeout)
                channel.status_event.wait(settings.ec2.connect_timeout)
                if channel.exit_status == 0:
                    return
                refusals[instance.id] = "a command did not run"
            finally:
                connection.close()
        except (ssh.ConnectError, paramiko.SSHException, EOFError, OSError) as error:
            refusals[instance.id] = str(error)
        pause = min(pause * 1.5, 5.0)
    raise Failed("given up")


def _settle_for(
    settings: Settings, ready: list[Instance], started: Sequence[Instance], say: Callable[[str], None]
) -> None:
    """Terminate those that are not ready, if any."""
    enough = {instance.id for instance in ready}
    rest = [instance for instance in started if instance.id not in enough]
    if rest:
        terminate(settings, rest)
        say(f"{len(ready)} of {len(started)} instances are ready: going on with them, {len(rest)} terminated")


def _not_ready(instances: Sequence[Instance], ready: set[str], refusals: dict[str, str], waited: float) -> Failed:
    missing = [instance for instance in instances if instance.id not in ready]
    what = "; ".join(f"{i} is {i.state}, {refusals.get(i.id, 'not reached yet')}" for i in missing[:3])
    more = f"; and {len(missing) - 3} more" if len(missing) > 3 else ""
    return Failed(f"{len(missing)} of {len(instances)} instances not ready after {waited:.0f} s: {what}{more}")


class _Signal(KeyboardInterrupt):
    """A signal that ends us. Like Ctrl-C no Exception: botocore would take it for a failed request, and retry."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.error = HardwayError(f"ended by {signal.Signals(number).name}", 128 + number)


@contextlib.contextmanager
def _signals_raise() -> Iterator[None]:
    """SIGTERM and SIGHUP interrupt as Ctrl-C does, so that what was started is terminated; main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, _frame: Any) -> None:
        raise _Signal(number)

    previous = {s: signal.signal(s, interrupt) for s in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for which, handler in previous.items():
            signal.signal(which, handler)


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Nothing interrupts the termination of what was started; main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {s: signal.signal(s, signal.SIG_IGN) for s in signals}
    try:
        yield
    finally:
        for which, handler in previous.items():
            signal.signal(which, handler)


def _terminated(settings: Settings, token: str, error: BaseException, say: Callable[[str], None]) -> BaseException:
    """Terminate what carries this launch's token; returns the error to raise, which says so."""
    with _signals_wait():
        if isinstance(error, KeyboardInterrupt):
            error = error.error if isinstance(error, _Signal) else Interrupted()
            say(f"{error}: terminating what was started")
        try:
            ids = _terminate_launch(settings, token)
        except Exception as failure:
            return Failed(
                f"{error}; and what was started could not be terminated ({aws.translate(failure) or failure}): "
                f"run `inv ec2.rm {LAUNCH_TAG}={token}`"
            )
    translated = error if isinstance(error, HardwayError) else _translated(error)
    if translated is None:
        say(f"{len(ids)} started instances were terminated" if ids else "nothing was started")
        return error
    ended = f"the {len(ids)} instances started were terminated" if ids else "nothing was started"
    return HardwayError(f"{translated}; {ended}", translated.code)


def _translated(error: BaseException) -> HardwayError | None:
    return aws.translate(error) if isinstance(error, Exception) else None


def _terminate_launch(settings: Settings, token: str) -> list[str]:
    """Terminate by tag, which finds instances whose launch call was never answered. EC2 may show them late."""
    ec2 = aws.ec2(settings)
    filters: list[Any] = [
        {"Name": f"tag:{LAUNCH_TAG}", "Values": [token]},
        {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]},
    ]
    ended: list[str] = []
    for attempt in range(3):
        if attempt:
            time.sleep(0.5)
        pages = ec2.get_paginator("describe_instances").paginate(Filters=filters)
        ids = [raw["InstanceId"] for page in pages for r in page["Reservations"] for raw in r["Instances"]]
        if ids:
            ec2.terminate_instances(InstanceIds=ids)
            ended += [i for i in ids if i not in ended]
    return ended


def user_data(init: str) -> str:
    """What `--init` means: a file's content, else the text itself; EC2 takes at most 16 KiB of it.

    Source: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/user-data.html
    """
    content = file_content(init, "--init")
    text = init if content is None else content.decode(errors="surrogateescape")
    if text and not text.startswith(("#!", "#cloud-config")):
        text = "#!/bin/bash\n" + text
    if len(text.encode(errors="surrogateescape")) > USER_DATA_BYTES:
        raise UsageError("--init is longer than the 16 KiB that EC2 takes: let it fetch the rest from S3")
    return text
