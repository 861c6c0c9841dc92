"""The host keys that cloud-init prints on an instance's console at its first boot, as EC2 shows them.

The console comes over HTTPS from AWS, so no stranger at the instance's address can forge it. cloud-init prints the
keys in its last stage, some seconds after the SSH server has begun to answer, too late for a launch. So a launch trusts
the key of its first use, and the console confirms the key at a later connection.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

from hardway import aws
from hardway.config import Settings
from hardway.ec2.instances import Instance
from hardway.errors import HardwayError
from hardway.ssh.keys import HostKeys

YOUNG = timedelta(hours=1)
"""The age up to which an instance's console is asked to confirm a key that was remembered at first use."""

_BLOCK = re.compile(r"-----BEGIN SSH HOST KEY KEYS-----\s*\n(.*?)-----END SSH HOST KEY KEYS-----", re.DOTALL)
# The kernel or systemd may put a prefix before each line of the console.
_KEY = re.compile(
    r"(?:^|\s)(ssh-ed25519|ecdsa-sha2-nistp(?:256|384|521)|ssh-rsa) ([A-Za-z0-9+/]+={0,2})(?=\s|$)", re.MULTILINE
)
_KINDS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")


def host_keys(output: str) -> dict[str, str]:
    """Return base64 keys by key type, of the last whole block of host keys in a console's output; empty for none.

    A key torn by another line of the console is left out.
    """
    blocks = _BLOCK.findall(output.replace("\r", "\n"))
    found = {kind: key for kind, key in _KEY.findall(blocks[-1]) if _is_key(kind, key)} if blocks else {}
    return {kind: found[kind] for kind in _KINDS if kind in found}


def _is_key(kind: str, key: str) -> bool:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    try:
        load_ssh_public_key(f"{kind} {key}".encode())
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True


def confirm(settings: Settings, instance: Instance, known: HostKeys) -> None:
    """Have `known` hold the keys that the instance's console shows, if that is still unknown.

    Takes one call for an instance never met, or met within an hour of its start and not confirmed since; no call for
    others. If EC2 does not tell the keys, for whatever reason, the key of the first use stays.
    """
    if known.confirmed(instance.id):
        return
    if known.of(instance.id) and datetime.now(timezone.utc) - instance.launched > YOUNG:
        return
    if known.may_ask(instance.id):
        known.confirm(instance.id, host_keys(console(settings, instance.id)))


def console(settings: Settings, instance_id: str) -> str:
    """Return the console's text of now; for types that are not on Nitro, of the last change of state.

    Empty if EC2 does not tell.
    """
    for latest in ({"Latest": True}, {}):
        try:
            answer = aws.ec2(settings).get_console_output(InstanceId=instance_id, **latest)
        except Exception as error:
            if latest and aws.error_code(error) == "UnsupportedOperation":
                continue
            if isinstance(error, HardwayError) or aws.translate(error):
                break
            raise
        return str(answer.get("Output", ""))
    return ""
