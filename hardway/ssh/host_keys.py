"""The host keys that cloud-init prints on an instance's console at its first boot, as EC2 shows them.

They come to us over HTTPS from AWS, not from whoever answers at the instance's address. cloud-init prints them in its
last stage, some seconds after the SSH server has begun to answer, so that a launch would ask in vain: what it meets is
remembered at first use, and confirmed when the instance is next connected to.
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
"""While it is younger, the console of an instance whose key is remembered may yet show that it is the right one."""

_BLOCK = re.compile(r"-----BEGIN SSH HOST KEY KEYS-----\s*\n(.*?)-----END SSH HOST KEY KEYS-----", re.DOTALL)
# In front of a key may stand what the kernel or systemd puts before each line of the console.
_KEY = re.compile(
    r"(?:^|\s)(ssh-ed25519|ecdsa-sha2-nistp(?:256|384|521)|ssh-rsa) ([A-Za-z0-9+/]+={0,2})(?=\s|$)", re.MULTILINE
)
_KINDS = ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521", "ssh-rsa")


def host_keys(output: str) -> dict[str, str]:
    """Key type to base64 key, of the last whole block of host keys in a console's output; empty where there is none.

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
    """Have `known` hold the keys that the instance's console shows, where that is not known yet.

    One call for an instance never met, or met within an hour of its start and not confirmed since; none for the others.
    What EC2 does not tell, for whatever reason, leaves us with the key of the first use.
    """
    if known.confirmed(instance.id):
        return
    if known.of(instance.id) and datetime.now(timezone.utc) - instance.launched > YOUNG:
        return
    if known.may_ask(instance.id):
        known.confirm(instance.id, host_keys(console(settings, instance.id)))


def console(settings: Settings, instance_id: str) -> str:
    """What the console shows now, or, of a type that is not on Nitro, did at the last change of its state.

    Empty where EC2 does not tell.
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
