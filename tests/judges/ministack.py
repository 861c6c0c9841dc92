"""ministack, a second implementation of EC2 beside moto, as a process; and its environment, made once.

It pins a botocore of its own, so it gets an environment of its own, inside of ours.
`python -m tests.judges.ministack` makes it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.judges.conftest import free_port, served

REQUIREMENT = "ministack==1.5.33"
ENVIRONMENT = Path(sys.prefix) / "ministack"
_PYTHON = ENVIRONMENT / "bin/python"
_INSTALLED = ENVIRONMENT / "installed"
_INSTALL_SECONDS = 600
# As /proc/net/tcp has them.
_LISTENS, _LOOPBACK = "0A", "0100007F"


def is_installed() -> bool:
    return _INSTALLED.exists() and _INSTALLED.read_text() == REQUIREMENT


def install() -> None:
    """Make the environment, if it isn't there. Raises CalledProcessError; what went wrong stands on stderr."""
    if is_installed():
        return
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(ENVIRONMENT)],
        [str(_PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", REQUIREMENT],
    ):
        subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=_INSTALL_SECONDS)
    _INSTALLED.write_text(REQUIREMENT)


@contextmanager
def running(directory: Path) -> Iterator[str]:
    """Run ministack for the block, on loopback alone; its files are in the directory. Yield its endpoint."""
    for name in ("home", "tmp", "data"):
        (directory / name).mkdir(parents=True)
    port = free_port()
    environment = {
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "HOME": str(directory / "home"),
        "TMPDIR": str(directory / "tmp"),
        "S3_DATA_DIR": str(directory / "data"),
        # A server of its own, on every address, for another service.
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        "LOG_LEVEL": "WARNING",
        # It imports no code of this repository.
        "PYTHONPATH": "",
    }
    endpoint = f"http://127.0.0.1:{port}"
    command = [str(_PYTHON), "-m", "ministack"]
    with served(command, environment, f"{endpoint}/_ministack/health", directory / "log") as pid:
        assert addresses(pid) == {_LOOPBACK}
        yield endpoint


def addresses(pid: int) -> set[str]:
    """Return the addresses at which a process listens, in the kernel's digits."""
    sockets = set()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # It may have been closed since: a closed one listens nowhere.
            sockets.add(os.readlink(each))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            local, state, inode = (line.split()[place] for place in (1, 3, 9))
            if state == _LISTENS and f"socket:[{inode}]" in sockets:
                found.add(local.partition(":")[0])
    return found


if __name__ == "__main__":
    try:
        install()
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(f"{REQUIREMENT} could not be installed into {ENVIRONMENT}: {error}")
