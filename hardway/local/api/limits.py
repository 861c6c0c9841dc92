"""The limits on lengths and numbers that EC2 has, and moto has not.

Sources: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html#tag-restrictions,
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceTypes.html
"""

from __future__ import annotations

import re
from collections import Counter
from urllib.parse import parse_qsl

from hardway.local.api.ec2_error import EC2Error

_TAG = re.compile(r"(.*\b)Tag\.\d+\.(Key|Value)")
_MOST = {"Key": 128, "Value": 256}
_MOST_TAGS = 50
_MOST_TYPES = 100


def refusal(form: bytes) -> EC2Error | None:
    """Return EC2's answer to a call that is too long, or of too many; None for one that is neither."""
    parameters = parse_qsl(form.decode("latin-1"), keep_blank_values=True, encoding="utf-8", errors="replace")
    tags: Counter[str] = Counter()
    types = 0
    for name, value in parameters:
        types += name.startswith("InstanceType.")
        if not (found := _TAG.fullmatch(name)):
            continue
        of, kind = found[1], found[2]
        if len(value) > _MOST[kind]:
            said = f"Tag {kind.lower()} exceeds the maximum length of {_MOST[kind]} characters"
            return EC2Error(400, "InvalidParameterValue", said)
        tags[of] += kind == "Value"
    if any(count > _MOST_TAGS for count in tags.values()):
        return EC2Error(400, "TagLimitExceeded", "The maximum number of Tags for a resource has been reached.")
    if types > _MOST_TYPES and ("Action", "DescribeInstanceTypes") in parameters:
        said = f"The maximum number of instance types is {_MOST_TYPES}."
        return EC2Error(400, "InvalidParameterValue", said)
    return None
