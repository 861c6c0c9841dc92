"""A running local cloud: its files, its record, and requests to it.

The daemon and its clients share this module: the daemon writes the record, clients read it.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass, field
from pathlib import Path

import platformdirs

from hardway import config
from hardway.config import Local
from hardway.errors import Failed, HardwayError, UsageError, reason_of
from hardway.local import signing

REGION = "us-east-1"
ACCESS_KEY = "local"
"""The id of the owner's key. Its secret is new at each start, and only the record has it."""
STATUS_PATH = "/moto-api/hardway/status"
"""The path of the number of instances by state. moto takes no path with this prefix for a bucket."""
FAULT_PATH = "/moto-api/hardway/fault"
"""The path that takes a fault: see `faults`."""
STATUS_SECONDS = 10
RECORD = "daemon.json"
LOG = "log"
ALIVE = "alive"
"""The file that the daemon keeps locked for as long as it lives."""
SPAWNER = "spawner"
"""The file that is kept locked by the process that starts the processes of instances."""


def state_directory() -> Path:
    """Return the directory of this user's local cloud, the log included."""
    return platformdirs.user_state_path("hardway") / "local"


def own_directories(directory: Path) -> tuple[Path, ...]:
    """Return a cloud's directory, and the one around it if that is hardway's."""
    return (directory.parent, directory) if directory.parent.name == "hardway" else (directory,)


@dataclass(frozen=True)
class Running:
    """The record of a running daemon.

    `isolation` describes how instances are kept apart, `level` is its short name. `settings` are the settings that the
    daemon was started with. The owner of `secret` may do everything in the cloud.
    """

    pid: int
    endpoint: str
    ssh_port: int
    isolation: str
    level: str
    settings: Local
    secret: str = field(repr=False)

    @classmethod
    def read(cls, text: str) -> Running:
        """Read the record from its text. Raises HardwayError for another version's."""
        said = json.loads(text)
        try:
            return cls(**{**said, "settings": Local(**said["settings"])})
        except (KeyError, TypeError):
            pid = said.get("pid")
            raise HardwayError(f"a local cloud of another version of hardway is running: kill {pid} ends it") from None

    @property
    def text(self) -> str:
        """The record as one line of text."""
        return json.dumps(asdict(self))

    @property
    def environment(self) -> dict[str, str]:
        """The variables that point a shell, and all that it starts, at this local cloud."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "INVOKE_EC2_SSH_PORT": str(self.ssh_port),
            "INVOKE_EC2_SSH_FROM": "127.0.0.0/8",
            **_past_proxies(),
        }

    def instances(self) -> dict[str, int]:
        """Count the instances by state. Raises Failed."""
        answer = self.ask("GET", STATUS_PATH, b"", STATUS_SECONDS)
        return {state: int(count) for state, count in json.loads(answer).items()}

    def cause(self, fault: bytes, seconds: float) -> None:
        """Have the daemon carry out a fault, in the form of `faults`. Raises the errors of `ask`."""
        self.ask("POST", FAULT_PATH, fault, seconds)

    def ask(self, method: str, path: str, body: bytes, seconds: float) -> bytes:
        """Send the daemon a signed request and return its answer.

        Raises UsageError for a request that the daemon does not understand, Failed if the daemon fails or is silent.
        """
        url = self.endpoint + path
        headers = signing.sign(method, url, body, ACCESS_KEY, self.secret)
        request = urllib.request.Request(url, body or None, headers, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=seconds) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            with error:
                said = error.read().decode(errors="replace")
            raise (UsageError if error.code == 400 else Failed)(said) from None
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", None)  # urllib wraps the error of a connection
            why = reason_of(cause if isinstance(cause, OSError) else error)
            raise Failed(f"the local cloud does not answer: {why}") from None


def _past_proxies() -> dict[str, str]:
    """Return the variables that keep clients of the local cloud away from the environment's proxies."""
    if not config.proxies():
        return {}
    past = ",".join(dict.fromkeys([*config.proxy_exceptions(), "127.0.0.1"]))
    return {"NO_PROXY": past, "no_proxy": past}
