"""The faults there are, and what they default to; apart from `faults` for the help texts, which wait for no import."""

from __future__ import annotations

ON_INSTANCES = ("interrupt", "kill", "hang", "thaw", "drop", "slow")
ON_EC2 = ("capacity", "throttle", "clear")
KINDS = (*ON_INSTANCES, *ON_EC2)
NOTICE_SECONDS = 120.0
THROTTLE_SECONDS = 10.0
