"""GetConsoleOutput of an instance with a machine behind it."""

from __future__ import annotations

from typing import Any

from moto.core.responses import ActionResult
from moto.core.utils import utcnow
from moto.ec2.utils import Base64EncodedString


def get_console_output(response: Any) -> ActionResult:
    """Answer GetConsoleOutput with the text on the console of an instance's machine."""
    instance = response.ec2_backend.get_instance(response._get_param("InstanceId"))
    output = Base64EncodedString.from_raw_string(instance.operations.console(instance.id))
    return ActionResult({"InstanceId": instance.id, "Timestamp": utcnow(), "Output": output})
