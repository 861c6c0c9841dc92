"""From what to launch to running, ssh-ready instances; or nothing left running.

Every launch tags its instances with a token of its own in the launch call itself, so that whatever happens to the
call's answer they can be found and terminated.
"""

from __future__ import annotations

import contextlib
import getpass
import ipaddress
import re
import signal
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import paramiko

from hardway import aws, ssh
from hardway.commands import file_content
from hardway.config import Settings, number
from hardway.errors import Failed, HardwayError, Interrupted, UsageError, did_you_mean
from hardway.instances import Instance, described, from_description, terminate
from hardway.keys import own_key

USER_DATA_BYTES = 16 * 1024
LAUNCH_TAG = "hardway-launch"
SECURITY_GROUP = "hardway-ssh"
# Says which public address a request came from: https://docs.aws.amazon.com/vpc/latest/userguide/
_ADDRESS_URL = "https://checkip.amazonaws.com"

_CANONICAL = "/aws/service/canonical/ubuntu/server"
# Where the owners of images publish the newest one's id, and the user their images let in.
IMAGES: dict[str, tuple[str, str, dict[str, str]]] = {
    "noble": (f"{_CANONICAL}/24.04/stable/current/{{arch}}/hvm/ebs-gp3/ami-id", "ubuntu", {}),
    "jammy": (f"{_CANONICAL}/22.04/stable/current/{{arch}}/hvm/ebs-gp2/ami-id", "ubuntu", {}),
    "bookworm": ("/aws/service/debian/release/12/latest/{arch}", "admin", {}),
    "al2023": (
        "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{arch}",
        "ec2-user",
        {"amd64": "x86_64"},
    ),
}


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


@dataclass(frozen=True)
class Image:
    """An AMI: `architecture` as EC2 says it (x86_64, arm64), `user` the one it lets in over SSH."""

    id: str
    architecture: str
    root_device: str
    user: str


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
    image = resolve_image(settings, request)
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


def resolve_image(settings: Settings, request: Request) -> Image:
    """The AMI that `request.ami` means for the instance types asked for.

    Raises UsageError for an unknown name or type, or types of several architectures.
    """
    architecture = _architecture(settings, request.types)
    ec2 = aws.ec2(settings)
    user = ""
    if request.ami.startswith("ami-"):
        images = _images(lambda: ec2.describe_images(ImageIds=[request.ami]))
    elif request.ami in IMAGES:
        parameter, user, names = IMAGES[request.ami]
        short = {"x86_64": "amd64"}.get(architecture, architecture)
        value = _parameter(settings, parameter.format(arch=names.get(short, short)))
        images = _images(lambda: ec2.describe_images(ImageIds=[value]))
    else:
        own = [{"Name": "name", "Values": [request.ami]}, {"Name": "architecture", "Values": [architecture]}]
        images = _images(lambda: ec2.describe_images(Owners=["self"], Filters=own))
    if not images:
        raise UsageError(
            f"there is no AMI {request.ami!r} in {aws.region_of(settings)}{did_you_mean(request.ami, IMAGES)} "
            f"(--ami takes {', '.join(IMAGES)}, an id (ami-...), or the name of an image of your own)"
        )
    newest = max(images, key=lambda image: image.get("CreationDate", ""))
    if newest["Architecture"] != architecture:
        raise UsageError(
            f"the AMI {request.ami} is for {newest['Architecture']}, but {'/'.join(request.types)} is {architecture}"
        )
    tags = {tag["Key"]: tag["Value"] for tag in newest.get("Tags", [])}
    return Image(
        newest["ImageId"],
        architecture,
        newest.get("RootDeviceName", "/dev/sda1"),
        request.ssh_user or user or tags.get("ssh-user", "") or "ubuntu",
    )


def _images(describe: Callable[[], Any]) -> list[Any]:
    try:
        return list(describe()["Images"])
    except Exception as error:
        if aws.error_code(error).startswith("InvalidAMIID"):
            return []
        raise


def _parameter(settings: Settings, name: str) -> str:
    ssm = aws.ssm(settings)
    try:
        return str(ssm.get_parameter(Name=name)["Parameter"]["Value"])
    except ssm.exceptions.ParameterNotFound:
        raise UsageError(
            f"{aws.region_of(settings)} has no public parameter {name}: name an AMI by its id (--ami ami-...)"
        ) from None


def _architecture(settings: Settings, types: Sequence[str]) -> str:
    ec2 = aws.ec2(settings)
    try:
        described = ec2.describe_instance_types(InstanceTypes=list(types))["InstanceTypes"]
    except Exception as error:
        if aws.error_code(error) not in ("InvalidInstanceType", "InvalidParameterValue"):
            raise
        described = []
    known = {t["InstanceType"]: t["ProcessorInfo"]["SupportedArchitectures"] for t in described}
    for name in types:
        if name not in known:
            pages = ec2.get_paginator("describe_instance_type_offerings").paginate()
            offered = [o["InstanceType"] for page in pages for o in page["InstanceTypeOfferings"]]
            raise UsageError(
                f"{aws.region_of(settings)} has no instance type {name!r}{did_you_mean(name, offered)}"
            )
    architectures = {next((a for a in ("x86_64", "arm64") if a in known[t]), str(known[t][0])) for t in types}
    if len(architectures) > 1:
        raise UsageError(f"--type {','.join(types)} mixes architectures ({', '.join(sorted(architectures))})")
    return architectures.pop()


def _run_instances_call(
    settings: Settings, request: Request, image: Image, say: Callable[[str], None]
) -> dict[str, Any]:
    """All of RunInstances' parameters but the type; makes the key pair and the security group where needed."""
    subnet, vpc = _network(settings, request)
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
    tag_list = [{"Key": key, "Value": value} for key, value in tags.items()]
    call: dict[str, Any] = {
        "ImageId": image.id,
        "MinCount": request.num,
        "MaxCount": request.num,
        "ClientToken": token,
        "KeyName": _key_name(settings, request, say),
        "SecurityGroupIds": _security_groups(settings, request, vpc, say),
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


def _network(settings: Settings, request: Request) -> tuple[str, str]:
    """The subnet to launch into and its VPC. Raises UsageError where there is none."""
    ec2 = aws.ec2(settings)
    if request.subnet:
        found = ec2.describe_subnets(Filters=[{"Name": "subnet-id", "Values": [request.subnet]}])["Subnets"]
        if not found:
            raise UsageError(f"there is no subnet {request.subnet} in {aws.region_of(settings)}")
        return request.subnet, found[0]["VpcId"]
    filters: list[Any] = [{"Name": "vpc-id", "Values": [request.vpc]}]
    if not request.vpc:
        vpcs = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
        if not vpcs:
            raise UsageError(f"{aws.region_of(settings)} has no default VPC: add --vpc or --subnet")
        filters = [{"Name": "vpc-id", "Values": [vpcs[0]["VpcId"]]}]
    if request.zone:
        filters.append({"Name": "availability-zone", "Values": [request.zone]})
    subnets = ec2.describe_subnets(Filters=filters)["Subnets"]
    if not subnets:
        where = " in ".join(filter(None, [request.zone, request.vpc or "the default VPC"]))
        raise UsageError(f"there is no subnet in {where}: check --zone and --vpc, or add --subnet")
    if not request.zone and not request.vpc:
        # EC2 picks the zone, by where it has capacity.
        return "", subnets[0]["VpcId"]
    return max(subnets, key=lambda s: s.get("AvailableIpAddressCount", 0))["SubnetId"], subnets[0]["VpcId"]


def _key_name(settings: Settings, request: Request, say: Callable[[str], None]) -> str:
    """The name of the key pair at EC2; ours is imported there at its first use."""
    ec2 = aws.ec2(settings)
    if request.key and not ssh.is_key_file(request.key):
        if not _key_exists(ec2, request.key):
            raise UsageError(
                f"there is no key pair {request.key!r} in {aws.region_of(settings)}: leave --key out and one is made, "
                "or give a private key's file"
            )
        return request.key
    if request.key:
        name, public = _from_key_file(Path(request.key).expanduser())
    else:
        own = own_key()
        name, public = own.name, own.public
    if not _key_exists(ec2, name):
        try:
            ec2.import_key_pair(KeyName=name, PublicKeyMaterial=public.encode())
        except Exception as error:
            if aws.error_code(error) != "InvalidKeyPair.Duplicate":
                raise
        else:
            say(f"imported the key pair {name}")
    return name


def _key_exists(ec2: Any, name: str) -> bool:
    return bool(ec2.describe_key_pairs(Filters=[{"Name": "key-name", "Values": [name]}])["KeyPairs"])


def _from_key_file(path: Path) -> tuple[str, str]:
    """The name and public half of a private key's file, from the `.pub` beside it where there is one."""
    public_file = path.with_name(path.name + ".pub")
    try:
        if public_file.is_file():
            kind, key = public_file.read_text().split()[:2]
        else:
            private = paramiko.PKey.from_path(path)
            kind, key = private.get_name(), private.get_base64()
    except (OSError, ValueError, paramiko.SSHException) as error:
        raise UsageError(f"--key {path} is no private key that can be read: {error}") from None
    return f"hardway-{path.stem}", f"{kind} {key}"


def _security_groups(settings: Settings, request: Request, vpc: str, say: Callable[[str], None]) -> list[str]:
    """Ids of the groups asked for, else of our own, made and opened to SSH from here where that is missing."""
    ec2 = aws.ec2(settings)
    groups = ec2.describe_security_groups(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["SecurityGroups"]
    if request.security_groups:
        ids = {name: g["GroupId"] for g in groups for name in (g["GroupId"], g["GroupName"])}
        for name in request.security_groups:
            if name not in ids:
                raise UsageError(f"there is no security group {name!r} in {vpc}{did_you_mean(name, ids)}")
        return [ids[name] for name in request.security_groups]
    own = next((g for g in groups if g["GroupName"] == SECURITY_GROUP), None)
    if own:
        group, rules = own["GroupId"], own.get("IpPermissions", [])
    else:
        group, rules = _make_security_group(ec2, vpc), []
        say(f"made the security group {SECURITY_GROUP} ({group}) in {vpc}")
    source = request.ssh_from or _own_address()
    if not _lets_in(rules, request.ssh_port, source):
        rule = {
            "IpProtocol": "tcp",
            "FromPort": request.ssh_port,
            "ToPort": request.ssh_port,
            "IpRanges": [{"CidrIp": source, "Description": "SSH, by hardway"}],
        }
        try:
            ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
        except Exception as error:
            if aws.error_code(error) != "InvalidPermission.Duplicate":
                raise
        else:
            say(f"{SECURITY_GROUP} now lets SSH (port {request.ssh_port}) in from {source}")
    return [group]


def _make_security_group(ec2: Any, vpc: str) -> str:
    try:
        made = ec2.create_security_group(
            GroupName=SECURITY_GROUP, Description="SSH to instances that hardway launches", VpcId=vpc
        )
        return str(made["GroupId"])
    except Exception as error:
        if aws.error_code(error) != "InvalidGroup.Duplicate":
            raise
    filters = [{"Name": "vpc-id", "Values": [vpc]}, {"Name": "group-name", "Values": [SECURITY_GROUP]}]
    return str(ec2.describe_security_groups(Filters=filters)["SecurityGroups"][0]["GroupId"])


def _lets_in(rules: Sequence[Any], port: int, source: str) -> bool:
    return any(
        rule.get("IpProtocol") in ("tcp", "-1")
        and rule.get("FromPort", 0) <= port <= rule.get("ToPort", 65535)
        and any(r.get("CidrIp") in (source, "0.0.0.0/0") for r in rule.get("IpRanges", []))
        for rule in rules
    )


def _own_address() -> str:
    """This machine's public address as a /32, as AWS sees it."""
    try:
        with urllib.request.urlopen(_ADDRESS_URL, timeout=10) as answer:
            return f"{ipaddress.IPv4Address(answer.read(64).decode().strip())}/32"
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot find out this machine's public address ({_ADDRESS_URL}: {error}): set ec2.ssh_from to the "
            "network that may use SSH, such as 203.0.113.7/32, or name a security group with --sg"
        ) from None


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
    settings: Settings, instances: Sequence[Instance], state: str, seconds: int, on_ready: Callable[[int], None]
) -> None:
    """Wait until all are in a state, and answer over SSH if it is running; `on_ready` is told how many more are.

    Raises Failed after `seconds`, and at once where an instance can no longer get there.
    """
    if state == "running":
        _until_ready(settings, instances, seconds, 0, on_ready)
        return
    deadline = time.monotonic() + seconds
    pause, waiting = 0.1, [instance.id for instance in instances]
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
                        probes[instance.id] = pool.submit(_until_ssh_answers, instance, settings, given_up)
                done = {i for i, probe in probes.items() if probe.done() and not probe.exception()}
                on_ready(len(done) - told)
                told = len(done)
                waited = time.monotonic() - begun
                if len(done) == len(started) or (done and seconds_wait and waited >= seconds_wait):
                    return [latest[i.id] for i in started if i.id in done]
                if waited >= seconds_timeout:
                    raise _not_ready(list(latest.values()), done, waited)
                time.sleep(pause)
                pause = min(pause * 1.3, 2.0)
        finally:
            given_up.set()


def _until_ssh_answers(instance: Instance, settings: Settings, given_up: threading.Event) -> None:
    """Retry until a real session runs a command; what is not SSH yet (sshd, the key, the user) may come still."""
    pause = 0.1
    while not given_up.is_set():
        try:
            connection = ssh.connect(instance, settings)
            try:
                channel = ssh.open_session(connection)
                ssh.execute(channel, "true", settings.ec2.connect_timeout)
                channel.status_event.wait(settings.ec2.connect_timeout)
                if channel.exit_status == 0:
                    return
            finally:
                connection.close()
        except (ssh.ConnectError, paramiko.SSHException, EOFError, OSError) as error:
            last = error
        else:
            last = Failed("a command did not run")
        if given_up.wait(pause):
            raise last
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


def _not_ready(instances: Sequence[Instance], ready: set[str], waited: float) -> Failed:
    missing = [instance for instance in instances if instance.id not in ready]
    what = "; ".join(f"{i} is {i.state}{', no SSH' if i.state == 'running' else ''}" for i in missing[:3])
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
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
