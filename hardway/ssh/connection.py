"""One instance, one fabric Connection: only this module knows user, port, keys, host keys and proxies.

Users and ports come from the instance's tags. `client_config` reads `~/.ssh/config`, ProxyJump included. The ssh-agent
and the default keys work as they do for `ssh`.

One private name of Paramiko is used: `Transport._send_user_message`. Paramiko's own channel requests wait without limit
for a reply, even from a host that hangs, and none sends a signal. So `request` and `signal` send requests of their own.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import random
import re
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import fabric
import paramiko
from paramiko.common import cMSG_CHANNEL_REQUEST

from hardway import files
from hardway.config import Settings
from hardway.ec2.instances import Instance
from hardway.errors import Failed, UsageError, reason_of
from hardway.ssh import client_config, host_keys, proxy
from hardway.ssh.client_config import Answer, Question
from hardway.ssh.keys import HostKeys, agent_keys, own_key, own_key_path, pair_name
from hardway.system.paths import expanded
from hardway.terminal import cut_short, printable

# Paramiko logs the errors that it raises, and prints them on stderr unless the log has a handler.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

KEEPALIVE_SECONDS = 15
ALIVE_SECONDS = 180
"""A host is given up after these seconds without a sign of life."""
# With data unacknowledged for this long, the connection is dead: a host that vanished sends no reset.
TCP_USER_TIMEOUT_MS = 60_000
# sshd refuses some of more than 10 connections that have not authenticated yet (MaxStartups); a bastion gets many.
# Programs that carry connections slow each other down when all start at once: the AWS CLI takes half a CPU second.
_turns = threading.BoundedSemaphore(8)
_TURN_SECONDS = 0.1
# The pause after sshd has dropped a connection: others are let in meanwhile.
_DROPPED_PAUSES = (0.1, 0.5)
# Paramiko's words; the socket's error comes behind them.
_NO_BANNER = "Error reading SSH protocol banner"
# systemd's words in /run/nologin, which PAM shows to all but root until the boot has ended; and the most shown of them.
_BOOTING = "booting up"
_MOST_WORDS = 300
# The most keys that sshd lets a client try (MaxAuthTries).
_MOST_KEYS = 6
# A login name; a user of a directory has one such as anna@corp.example.
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,127}")
_PORT = re.compile(r"[0-9]{1,5}")
_HOP = re.compile(r"(?:(?P<user>.+)@)?(?P<host>\[[^]]+\]|[^:@]+|[0-9A-Fa-f:]{3,})(?::(?P<port>[0-9]{1,5}))?")


class ConnectError(Failed):
    """An instance that could not be reached, or that refused the login."""


class Transport(paramiko.Transport):
    """AES-GCM first, which saves about a third of the client's CPU on bulk data, and the cheapest key exchange."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        options = self.get_security_options()
        options.ciphers = sorted(options.ciphers, key=lambda name: name != "aes128-gcm@openssh.com")
        options.kex = sorted(options.kex, key=lambda name: not name.startswith("curve25519"))
        self.answered = 0.0
        """The time (monotonic seconds) of the host's last answer to `ask`."""

    def ask(self) -> None:
        """Ask the host for a sign of life, as OpenSSH does, and wait for the answer.

        Paramiko's keepalive asks for no answer. Also returns when the connection ends.
        """
        self.global_request("keepalive@openssh.com")
        if self.is_active():
            self.answered = time.monotonic()


class _RememberedHostKeys(paramiko.MissingHostKeyPolicy):
    """Trust a host at first use, by the name under which it is remembered; refuse a host whose key has changed."""

    def __init__(self, name: str, known: HostKeys) -> None:
        self.name = name
        self.known = known

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        if not self.known.remember(self.name, key.get_name(), key.get_base64()):
            raise paramiko.BadHostKeyException(hostname, key, key)


class InstanceConnection(fabric.Connection):
    """A fabric Connection to one instance, at first not open; `connect` returns an open one.

    `settings.ec2` chooses the address, or a way such as Systems Manager. `known` is shared by the connections of one
    command. Once `given_up` is set, no further connection begins to connect.
    """

    instance: Instance
    settings: Settings
    known: HostKeys
    connect_kwargs: dict[str, Any]
    gateway: fabric.Connection | str | bool | None
    # Fabric sets this attribute on every Connection. If the class didn't know it, setting it would change the
    # configuration that all share, and leave the configuration empty for a moment, for other threads too.
    inline_ssh_env: bool = True
    proxy: proxy.Proxy | None = None
    given_up: threading.Event

    def __init__(
        self,
        instance: Instance,
        settings: Settings,
        known: HostKeys | None = None,
        given_up: threading.Event | None = None,
    ) -> None:
        proxy.check(settings)
        question = _question(instance, settings)
        # An instance without an address is refused only when it is to be connected to.
        said = client_config.lookup(question) if question.host else None
        super().__init__(
            said.hostname if said else "",
            user=question.user or (said.user if said else "") or "ubuntu",
            port=question.port,
            config=_fabric_config(),
            gateway=_gateway(said) if said and not settings.ec2.via else False,
            connect_timeout=settings.ec2.connect_timeout,
            connect_kwargs=_connect_kwargs(instance, settings, said.identity_files if said else ()),
        )
        # Assigning a missing attribute would set a key of the configuration.
        self.__dict__.update(
            instance=instance, settings=settings, known=known or HostKeys(), given_up=given_up or threading.Event()
        )
        for gateway in self.bastions():
            gateway.connect_timeout = settings.ec2.connect_timeout
            gateway.connect_kwargs = {**gateway.connect_kwargs, **_time_limits(settings)}
            gateway.client.load_system_host_keys()
            gateway.client.set_missing_host_key_policy(_RememberedHostKeys(_server_name(gateway), self.known))

    def __eq__(self, other: object) -> bool:
        # Fabric compares addresses, but instances in two networks may have the same private address.
        return isinstance(other, InstanceConnection) and self.instance.id == other.instance.id and super().__eq__(other)

    def __hash__(self) -> int:
        return hash((self.instance.id, super().__hash__()))

    def bastions(self) -> Iterator[Bastion]:
        """Yield the hosts to connect to on the way, the nearest to the instance first."""
        gateway = self.gateway
        while isinstance(gateway, Bastion):
            yield gateway
            gateway = gateway.gateway

    def proxy_command(self) -> list[str]:
        """Return the command of the program that carries this connection; empty if there is none."""
        if self.settings.ec2.via:
            return proxy.ssm_command(self.settings, self.instance.id, self.instance.region, self.port)
        # OpenSSH runs a ProxyCommand in this way.
        return ["/bin/sh", "-c", f"exec {self.gateway}"] if isinstance(self.gateway, str) else []

    def open(self) -> Any:
        """Connect and authenticate, with a socket that does not hold small frames back (Paramiko's own does)."""
        if self.is_connected:
            return None
        host_keys.confirm(self.settings, self.instance, self.known)
        _check_host_key(self.client, self.instance.id, _server_name(self), self.known)
        command = self.proxy_command()
        if command:
            with self._turn():
                self.proxy = proxy.Proxy(command)
                self.connect_kwargs = {**self.connect_kwargs, "sock": self.proxy.socket}
                return super().open()
        if not self.gateway:
            self.connect_kwargs = {**self.connect_kwargs, "sock": _socket(self.host, self.port, self.connect_timeout)}
        return super().open()

    def open_gateway(self) -> Any:
        """See `fabric.Connection.open_gateway`; a proxy program is already running by then."""
        if self.proxy:
            return self.proxy.socket
        with self._turn():
            for gateway in reversed(list(self.bastions())):
                gateway.open()
        return super().open_gateway()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        while not _turns.acquire(timeout=_TURN_SECONDS):
            if self.given_up.is_set():
                raise ConnectError("not connected to: interrupted")
        try:
            if self.given_up.is_set():
                raise ConnectError("not connected to: interrupted")
            yield
        finally:
            _turns.release()

    def close(self) -> None:
        """Close the connection and all that carries it."""
        try:
            super().close()
        finally:
            self.abandon()

    def abandon(self) -> str:
        """Close all that carries the connection, open or not; return why a proxy program says it ended, or nothing."""
        self.client.close()
        sock = self.connect_kwargs.get("sock")
        if sock:
            sock.close()
        for gateway in self.bastions():
            gateway.close()
        running, self.proxy = self.proxy, None
        return running.end() if running else ""


def address(instance: Instance, settings: Settings) -> str:
    """Return the address to connect to; empty if the instance has none yet. Raises UsageError for a bad address."""
    return checked_address(instance, instance.private_ip if settings.ec2.private_ip else instance.address)


def checked_address(instance: Instance, text: str) -> str:
    """Return an address of the instance, or the empty text. Raises UsageError for anything else."""
    try:
        if "%" in text:  # an address of this link alone, with the name of an interface
            raise ValueError
        return str(ipaddress.ip_address(text)) if text else ""
    except ValueError:
        raise UsageError(f"{_shown(instance)} has the address {printable(text)!r}, which is invalid") from None


def _shown(instance: Instance) -> str:
    return printable(str(instance))


def _server_name(connection: fabric.Connection) -> str:
    """Return the name by which Paramiko and OpenSSH look for a server's host key."""
    return connection.host if connection.port == 22 else f"[{connection.host}]:{connection.port}"


class Bastion(fabric.Connection):
    """A host on the way to an instance; `name` is its name in ~/.ssh/config."""

    name: str = ""
    identity_files: tuple[str, ...] = ()

    def __init__(self, hop: str, gateway: Bastion | None, passed: frozenset[str]) -> None:
        """Take a hop of ProxyJump, and the gateway to it; without a gateway the hop's own configuration decides.

        A host in `passed` is reached without a further gateway: a `Host *` with a ProxyJump also matches the host that
        the ProxyJump names.
        """
        match = _HOP.fullmatch(hop.strip().removeprefix("ssh://").rstrip("/"))
        if not match:
            raise UsageError(f"a ProxyJump in ~/.ssh/config names {printable(hop)!r}: write [user@]host[:port]")
        name = match["host"].strip("[]")
        said = client_config.lookup(Question(name, match["user"] or "", int(match["port"] or 0)))
        super().__init__(
            said.hostname,
            user=said.user or None,
            port=said.port,
            config=_fabric_config(),
            gateway=gateway or (False if name in passed else _gateway(said, passed | {name})),
            connect_kwargs={"key_filename": list(said.identity_files)} if said.identity_files else {},
        )
        self.__dict__.update(name=name, identity_files=said.identity_files)


def _gateway(said: Answer, passed: frozenset[str] = frozenset()) -> Bastion | str | bool:
    """Return the way to a host: the last of ProxyJump's hosts, or a ProxyCommand; False for the network.

    ProxyJump's hosts come in the order listed, as OpenSSH visits them. (Fabric 3.2 visits them in reverse.)
    """
    gateway: Bastion | None = None
    for hop in said.proxy_jump.split(",") if said.proxy_jump else ():
        gateway = Bastion(hop, gateway, passed)
    return gateway or said.proxy_command or False


def connect(
    instance: Instance, settings: Settings, known: HostKeys | None = None, given_up: threading.Event | None = None
) -> InstanceConnection:
    """Return an open, authenticated connection, which the caller closes. Limits and errors: see `open_connection`."""
    connection = InstanceConnection(instance, settings, known, given_up)
    open_connection(connection)
    return connection


def open_connection(connection: InstanceConnection) -> None:
    """Connect and authenticate; each step takes at most `ec2.connect_timeout` seconds.

    Raises ConnectError with the reason; then nothing is left open.
    """
    if not connection.host:
        raise ConnectError(f"{connection.instance} has no address: it is {connection.instance.state}")
    deadline = time.monotonic() + (connection.connect_timeout or 15)
    while True:
        try:
            connection.open()
            break
        except BaseException as error:
            # Before all is closed: the error alone does not tell a wrong key from a server that lets nobody in.
            reason = _reason(error, connection)
            is_early = _is_dropped(error) or _is_booting(connection)
            said = connection.abandon()
            # A program on the way that has said why would say it again.
            is_asked_again = not said and is_early and time.monotonic() < deadline
            # A random pause, so that not all connect at the same time again.
            if is_asked_again and not connection.given_up.wait(random.uniform(*_DROPPED_PAUSES)):
                continue
            if reason is None:
                raise
            reason = f"{reason} ({said})" if said else reason
            where = f"{connection.user}@{connection.host}:{connection.port}"
            raise ConnectError(f"cannot connect to {where}: {reason}") from error
    connection.transport.set_keepalive(KEEPALIVE_SECONDS)


def _is_dropped(error: BaseException) -> bool:
    """Return whether the server hung up before its first word, as sshd does above MaxStartups connections."""
    return isinstance(error, EOFError | ConnectionResetError) or str(error).startswith(_NO_BANNER)


def _is_booting(connection: InstanceConnection) -> bool:
    """Return whether a server lets nobody in yet, since its boot has not ended."""
    return _BOOTING in (_last_words(_not_logged_in(connection)) or "")


def _not_logged_in(connection: InstanceConnection) -> fabric.Connection:
    """Return the first server on the way, a bastion or the instance, that has not let us in."""
    for bastion in reversed(list(connection.bastions())):
        transport = bastion.client.get_transport()
        if transport and not (transport.auth_handler and transport.auth_handler.is_authenticated()):
            return bastion
    return connection


def _last_words(server: fabric.Connection) -> str | None:
    """Return the message with which a server ended the connection during the login; None if it did not end it."""
    transport = server.client.get_transport()
    login = transport.auth_handler if transport else None
    if transport is None or login is None or transport.is_active() or login.is_authenticated():
        return None
    return " ".join((login.banner or b"").decode(errors="replace").split())


def _login_refused(error: paramiko.SSHException, connection: InstanceConnection) -> str:
    """Return why a server has not let us in, in a person's words; empty if the error is about something else."""
    server = _not_logged_in(connection)
    who, user = "it" if server is connection else f"the bastion {server.host}", server.user
    words = _last_words(server)
    # Paramiko then goes on with the next key, and raises the error of that.
    if words is not None:
        if words:
            return f"{who} does not let {user} in now, and says: {cut_short(words, _MOST_WORDS)}"
        return f"{who} closed the connection during the login, as servers do that go down, or get too many keys"
    if isinstance(error, paramiko.BadAuthenticationType):
        return f"{who} takes no keys, only {' or '.join(error.allowed_types)}"
    # Paramiko raises a plain SSHException if it has no key at all to try.
    if not isinstance(error, paramiko.AuthenticationException) and "No authentication methods" not in str(error):
        return ""
    if "timeout" in str(error):
        return f"{who} did not answer to the login within the connect timeout"
    if isinstance(error, paramiko.PasswordRequiredException):
        return f"{who} accepts no key that could be read; one is encrypted, and not in ssh-agent (ssh-add adds it)"
    if server is not connection:
        return f"{who} accepts none of our keys for the user {user}; ~/.ssh/config names its user and key"
    return (
        f"it accepts none of our keys for the user {user}; name the private key's file in ec2.key, or add it to "
        f"ssh-agent; if {user} is the wrong user, start with --ssh-user, or tag it ssh-user=NAME"
    )


def _reason(error: BaseException, connection: InstanceConnection) -> str | None:
    """Return why connecting failed, in a person's words; None if the error is no failure to connect."""
    if isinstance(error, paramiko.BadHostKeyException):
        name, known = connection.instance.id, connection.known
        bastion = next((b for b in connection.bastions() if error.hostname in (b.host, _server_name(b))), None)
        if bastion:
            return f"the bastion {bastion.host} has another host key than before, so nothing was sent"
        right = f"one that the console of {name} shows" if known.confirmed(name) else f"the one {name} had before"
        return (
            f"its host key is not {right}; nothing was sent, since somebody may be in between (if you trust the "
            "new key, "
            f"remove the lines of {name} from {known.path})"
        )
    if isinstance(error, paramiko.SSHException) and (reason := _login_refused(error, connection)):
        return reason
    # Paramiko's words when it gave up before the server's first word.
    if isinstance(error, TimeoutError | socket.timeout) or str(error) == "No existing session":
        if connection.settings.ec2.via:
            return "no answer within the connect timeout (does its role let it connect to Systems Manager?)"
        return f"no answer within the connect timeout (does the security group let port {connection.port} in?)"
    if isinstance(error, paramiko.SSHException | EOFError):
        return str(error) or "the host closed the connection"
    if isinstance(error, OSError):
        return reason_of(error)
    return None


def _user(instance: Instance, settings: Settings) -> str:
    """Return the login user by the tag, else by the settings; empty for none. Raises UsageError for a bad name."""
    tag = instance.tags.get("ssh-user")
    user = tag or settings.ec2.ssh_user
    if user and not _USER.fullmatch(user):
        whose = f"the tag ssh-user of {_shown(instance)}" if tag else "the setting ec2.ssh_user"
        raise UsageError(f"{whose} is {printable(user)!r}, which is not a user's name")
    return user


def _port(instance: Instance, settings: Settings) -> int:
    tag = instance.tags.get("ssh-port")
    text = tag or str(settings.ec2.ssh_port)
    if not _PORT.fullmatch(text) or not 0 < int(text) < 1 << 16:
        whose = f"the tag ssh-port of {_shown(instance)}" if tag else "the setting ec2.ssh_port"
        raise UsageError(f"{whose} is {printable(text)!r}: a port is a number from 1 to 65535")
    return int(text)


def _question(instance: Instance, settings: Settings) -> Question:
    return Question(address(instance, settings), _user(instance, settings), _port(instance, settings))


def read_configuration(instances: Iterable[Instance], settings: Settings) -> None:
    """Look up the settings of many instances in ~/.ssh/config in advance. Raises UsageError."""
    questions = [_question(instance, settings) for instance in instances]
    client_config.ask_ahead(question for question in questions if question.host)


def _connect_kwargs(instance: Instance, settings: Settings, identity_files: Sequence[str]) -> dict[str, Any]:
    kwargs = {**_time_limits(settings), "transport_factory": Transport}
    files = [*map(str, private_keys(instance, settings)), *identity_files]
    if files:
        kwargs["key_filename"] = files
    return kwargs


def _time_limits(settings: Settings) -> dict[str, Any]:
    """Return the time limits of all steps; Paramiko would wait an hour for a bastion to reach the next host."""
    return dict.fromkeys(("banner_timeout", "auth_timeout", "channel_timeout"), settings.ec2.connect_timeout)


def private_keys(instance: Instance, settings: Settings) -> list[Path]:
    """Return the files that may hold the private half of the instance's key pair, the likeliest first."""
    return _configured_key(settings) + _named_keys(instance)


def _configured_key(settings: Settings) -> list[Path]:
    key = settings.ec2.key
    return [expanded(key)] if key and is_key_file(key) else []


def _named_keys(instance: Instance) -> list[Path]:
    """Return the files that belong to the instance's key pair, by the key pair's name."""
    if not instance.key_name:
        return []
    own = [own_key_path()] if own_key_path().exists() and own_key().name == instance.key_name else []
    return own + named_files(instance.key_name)


def named_files(key_name: str) -> list[Path]:
    """Return the keys in ~/.ssh with the key pair's name, or with a public half that we gave this name."""
    directory = Path.home() / ".ssh"
    called = [directory / name for name in (key_name, f"{key_name}.pem")]
    if key_name.startswith("hardway-"):
        called += [public.with_suffix("") for public in sorted(directory.glob("*.pub")) if _pair_of(public) == key_name]
    return [file for file in called if file.is_file()]


def _pair_of(public: Path) -> str:
    """Return our name for the key pair of a public key's file; empty for a file that can't be read."""
    try:
        return pair_name(public.read_text(errors="replace"))
    except OSError:
        return ""


def is_key_file(key: str) -> bool:
    """Return whether `--key` names a private key's file; else it is the name of a key pair at EC2."""
    return os.sep in key or expanded(key).is_file()


def _check_host_key(client: paramiko.SSHClient, name: str, server: str, known: HostKeys) -> None:
    for kind, key in known.of(name).items():
        entry = paramiko.hostkeys.HostKeyEntry.from_line(f"{server} {kind} {key}")
        if entry and entry.key:
            client.get_host_keys().add(server, kind, entry.key)
    client.set_missing_host_key_policy(_RememberedHostKeys(name, known))


def _socket(host: str, port: int, timeout: float) -> socket.socket:
    sock = socket.create_connection((host, port), timeout)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
    return sock


@lru_cache(maxsize=1)
def _fabric_config() -> fabric.Config:
    """Read the configuration once for all instances, since it looks for fabric.yaml; without ~/.ssh/config."""
    return fabric.Config(ssh_config=paramiko.SSHConfig())


def open_session(connection: fabric.Connection, environment: Mapping[str, str] | None = None) -> paramiko.Channel:
    """Open a session channel, with variables set by SSH environment requests; return it ready for exec.

    Raises UsageError if the host refuses a variable: without the variables, which name the session of the S3 stub, the
    host would run the real `aws`. Raises ConnectError if the connection is lost.
    """
    channel: paramiko.Channel = connection.transport.open_session()
    for name, value in (environment or {}).items():
        message = _message(channel, "env", reply=True)
        message.add_string(name)
        message.add_string(value)
        if not request(channel, message, connection.connect_timeout or 15):
            raise _refusal(connection)
    return channel


def _refusal(connection: fabric.Connection) -> Failed | UsageError:
    """Return the error for a variable that was not taken: to Paramiko, a refusal and a dying host look the same."""
    try:
        connection.transport.open_session(timeout=connection.connect_timeout or 15).close()
    except (paramiko.SSHException, EOFError, OSError) as error:
        return ConnectError(f"the connection was lost ({error})" if str(error) else "the connection was lost")
    return UsageError(
        f"{connection.host} is not a local instance: its `aws` would reach the real S3 though this shell is "
        "stubbed; run "
        "clear-s3-stubbed first, or add --real-s3"
    )


def execute(channel: paramiko.Channel, command: str, timeout: float) -> None:
    """Start a command on the channel; the host's login shell parses it. Raises ConnectError after `timeout` seconds."""
    message = _message(channel, "exec", reply=True)
    message.add_string(command.encode(errors="surrogateescape"))
    if not request(channel, message, timeout):
        raise ConnectError("the host refused to start a command, or closed the connection")


def signal(channel: paramiko.Channel, name: str) -> None:
    """Send a signal (`TERM`, without SIG) to the process group of the channel's command."""
    message = _message(channel, "signal", reply=False)
    message.add_string(name)
    channel.transport._send_user_message(message)


def _message(channel: paramiko.Channel, kind: str, reply: bool) -> paramiko.Message:
    message = paramiko.Message()
    message.add_byte(cMSG_CHANNEL_REQUEST)
    message.add_int(channel.remote_chanid)
    message.add_string(kind)
    message.add_boolean(reply)
    return message


def request(channel: paramiko.Channel, message: paramiko.Message, timeout: float) -> bool:
    """Send a channel request that wants a reply, and wait for it; False for a refusal, with the channel closed.

    Raises ConnectError for no reply within `timeout` seconds.
    """
    channel.event.clear()
    channel.event_ready = False
    channel.transport._send_user_message(message)
    deadline = time.monotonic() + timeout
    if not channel.event.wait(max(0.0, deadline - time.monotonic())):
        raise ConnectError(f"no answer within {timeout:g} s")
    return bool(channel.event_ready)


# These options override a person's own settings for all hosts. Some of those settings are not meant for a host that
# may be hostile. Others let another host than this instance answer: a shared connection checks no host key.
_CAREFUL = (
    ("ControlMaster", "no"),
    ("ControlPath", "none"),
    ("GlobalKnownHostsFile", "none"),
    ("VerifyHostKeyDNS", "no"),
    ("CanonicalizeHostname", "no"),
    ("PermitLocalCommand", "no"),
    ("RemoteCommand", "none"),
    ("ForwardAgent", "no"),
    ("ForwardX11", "no"),
    ("Tunnel", "no"),
    ("GSSAPIDelegateCredentials", "no"),
    ("ServerAliveInterval", str(ALIVE_SECONDS // 6)),
    ("ServerAliveCountMax", "6"),
)


def login_command(instance: Instance, settings: Settings) -> list[str]:
    """Return the real `ssh`'s command line for a login: the same user, port, keys, known host keys, and way there."""
    connection = InstanceConnection(instance, settings)
    options = [f"-o{name}={value}" for name, value in _openssh_options(connection)]
    return ["ssh", *options, "--", f"{connection.user}@{connection.host}"]


def config_file(connection: InstanceConnection) -> str:
    """Return the same options as an ssh_config, before the user's own: OpenSSH takes the first value that it meets."""
    lines = [f"{name} {value}" for name, value in _openssh_options(connection)]
    return "\n".join([*lines, "Match all", "Include ~/.ssh/config", ""])


def _openssh_options(connection: InstanceConnection) -> list[tuple[str, str]]:
    instance, settings, known = connection.instance, connection.settings, connection.known
    host_keys.confirm(settings, instance, known)
    options = [
        ("Port", str(connection.port)),
        ("HostKeyAlias", instance.id),
        *_host_key_options(known),
        # `accept-new` would accept a key of a new type from a known host.
        ("StrictHostKeyChecking", "yes" if known.of(instance.id) else "accept-new"),
        ("ConnectTimeout", str(settings.ec2.connect_timeout)),
        ("LogLevel", "ERROR"),
        *_CAREFUL,
    ]
    named = _named_keys(instance)
    files = _configured_key(settings) + named
    options += [("IdentityFile", _quoted(file)) for file in files]
    # ssh tries the agent's keys first, then the files whose keys the agent does not have.
    if named and len(agent_keys()) + len(files) > _MOST_KEYS:
        options.append(("IdentitiesOnly", "yes"))
    if settings.ec2.via:
        options.append(("ProxyCommand", proxy.quoted(connection.proxy_command())))
    elif isinstance(connection.gateway, Bastion):
        options.append(("ProxyCommand", _jump_command(connection.gateway, known)))
    if settings.stub_session:
        variables = " ".join(f'{name}="{value}"' for name, value in settings.stub_session.items())
        options.append(("SetEnv", variables))
    return options


def _host_key_options(known: HostKeys) -> list[tuple[str, str]]:
    files.private(known.path.parent)
    # Debian's ssh hashes names by default; we could not find a host by a hashed name.
    return [("UserKnownHostsFile", _quoted(known.path)), ("HashKnownHosts", "no")]


def _jump_command(gateway: Bastion, known: HostKeys) -> str:
    """Return the ProxyCommand for a ProxyJump, but with the bastion's host key in our known_hosts, as for Fabric.

    The user's known_hosts is read as well, but never written.
    """
    options = [*_host_key_options(known), ("StrictHostKeyChecking", "accept-new"), ("LogLevel", "ERROR")]
    options += [(name, value) for name, value in _CAREFUL if name != "GlobalKnownHostsFile"]
    options[0] = ("UserKnownHostsFile", f"{options[0][1]} ~/.ssh/known_hosts")
    options += [("IdentityFile", _quoted(Path(file))) for file in gateway.identity_files]
    if isinstance(gateway.gateway, Bastion):
        options.append(("ProxyCommand", _jump_command(gateway.gateway, known)))
    command = ["ssh", *(f"-o{name}={value}" for name, value in options)]
    command += ["-p", str(gateway.port), "-l", gateway.user]
    return f"{proxy.quoted(command)} -W '[%h]:%p' -- {proxy.quoted([gateway.name])}"


def _quoted(path: Path) -> str:
    """Return a path as OpenSSH's configuration wants it with blanks; a % would start a token."""
    return '"' + str(path).replace("%", "%%") + '"'
