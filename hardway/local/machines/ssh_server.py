"""The SSH server of one instance: where it listens, who may log in, and its connections.

asyncssh speaks real SSH, on the instance's own address.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import asyncssh

from hardway.local.addresses import Address
from hardway.local.machines.asyncssh_internals import Wire, create_channel, interpose
from hardway.local.machines.sandbox import Sandbox
from hardway.local.machines.ssh_session import SSHSession, accepts

LOGIN_SECONDS = 120
BACKLOG = 128


class SSHServer:
    """The server of the instance `name`, and its connections.

    `authorized` is the key that the instance was launched with; None for none. `background` runs a coroutine that the
    instance's machine ends.
    """

    def __init__(
        self,
        name: str,
        sandbox: Sandbox,
        authorized: asyncssh.SSHKey | None,
        background: Callable[[Coroutine[Any, Any, None]], Any],
    ) -> None:
        self.name = name
        self.sandbox = sandbox
        self.authorized = authorized
        self.background = background
        self._key = asyncssh.generate_private_key("ssh-ed25519")
        self._connections: dict[asyncssh.SSHServerConnection, Wire] = {}
        self._acceptor: asyncssh.SSHAcceptor | None = None

    @property
    def host_key(self) -> str:
        """The public host key, as OpenSSH writes it."""
        return self._key.export_public_key("openssh").decode().strip()

    async def listen(self, address: Address) -> None:
        """Listen there. Raises OSError."""
        self._acceptor = await asyncssh.listen(sock=_listen(address), options=self._options())

    def close(self) -> None:
        """Listen no more, and cut every connection."""
        if self._acceptor:
            self._acceptor.close()
            self._acceptor = None
        self.drop()

    def drop(self) -> None:
        """Cut every connection, as a network does: no goodbye, a reset."""
        for connection, wire in list(self._connections.items()):
            wire.sever()
            connection.abort()

    def hold(self) -> None:
        """Let nothing in or out; connections stay open."""
        for wire in self._connections.values():
            wire.hold()

    def release(self) -> None:
        """Undo `hold`."""
        for wire in self._connections.values():
            wire.release()

    def connected(self, connection: asyncssh.SSHServerConnection) -> None:
        """Note a new connection, before anybody has logged in."""
        wire = self._connections[connection] = interpose(connection)
        if self.sandbox.frozen:
            wire.hold()

    def disconnected(self, connection: asyncssh.SSHServerConnection) -> None:
        """Forget a connection that is gone."""
        self._connections.pop(connection, None)

    def _options(self) -> asyncssh.SSHServerConnectionOptions:
        return asyncssh.SSHServerConnectionOptions(
            server_factory=lambda: _SSHConnection(self),
            server_host_keys=[self._key],
            gss_host=None,
            password_auth=False,
            kbdint_auth=False,
            host_based_auth=False,
            allow_pty=True,
            line_editor=False,
            x11_forwarding=False,
            agent_forwarding=False,
            rdns_lookup=False,
            encoding=None,
            login_timeout=LOGIN_SECONDS,
            server_version="hardway",
        )


class _GuestKeys:
    """A login user's authorized_keys, on the instance's disk: they let in guests, not the owner."""

    def __init__(self, connection: _SSHConnection, keys: asyncssh.SSHAuthorizedKeys) -> None:
        self._connection = connection
        self._keys = keys

    def validate(self, key: asyncssh.SSHKey, *more: Any, **named: Any) -> Any:
        found = self._keys.validate(key, *more, **named)
        return found if found is not None and self._connection.enters(key) else None

    def validate_x509(self, *certificate: Any) -> Any:
        if not self._connection.enters(None):
            return None, None
        return self._keys.validate_x509(*certificate)


class _SSHConnection(asyncssh.SSHServer):
    """One connection. The instance's key pair opens it, or a key in the user's authorized_keys.

    `_is_owner` says whether the key pair opened it: only a person who may launch chooses the key pair. Requests that
    reach beyond the instance are taken from the owner alone.
    """

    def __init__(self, server: SSHServer) -> None:
        self._server = server
        self._is_owner = False
        self._user = ""
        self._connection: asyncssh.SSHServerConnection

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._server.connected(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.disconnected(self._connection)

    def begin_auth(self, username: str) -> bool:
        self._user = username
        # As in sshd, the keys in the login user's own authorized_keys let in too.
        with contextlib.suppress(OSError, ValueError, asyncssh.KeyImportError):
            text = self._server.sandbox.disk.read_authorized_keys(username)
            if text is not None:
                keys: Any = _GuestKeys(self, asyncssh.import_authorized_keys(text.decode()))
                self._connection.set_authorized_keys(keys)
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        if username not in self._server.sandbox.disk.users or key != self._server.authorized:
            return False
        return self.enters(key)

    def enters(self, key: asyncssh.SSHKey | None) -> bool:
        """Note an accepted key. asyncssh asks again with the signature, so the last key noted is the one that let in.

        As in sshd, PAM has the last word: it may end the connection, with a message.
        """
        words = None if self._user == "root" else self._server.sandbox.disk.read_nologin()
        if words is not None:
            self._connection.send_auth_banner(words)
            self._connection.close()
            return False
        self._is_owner = key is not None and key == self._server.authorized
        return True

    def session_requested(self) -> Any:
        server, user = self._server, self._connection.get_extra_info("username")
        session = SSHSession(server.name, server.sandbox, user, self._is_owner, server.background)
        return create_channel(self._connection, accepts), session

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> bool:
        return True

    def server_requested(self, listen_host: str, listen_port: int) -> Any:
        if listen_host in ("localhost", "127.0.0.1"):
            return True
        # as GatewayPorts=no: whatever was asked for, nothing listens beyond loopback
        return self._connection.forward_local_port("127.0.0.1", listen_port, listen_host, listen_port)


def _listen(address: Address) -> socket.socket:
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.ip, address.port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
