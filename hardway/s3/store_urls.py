"""The form of URLs of the store: the bucket is the instance that has the object.

No bucket of S3 can have an underscore in its name. A step without our `aws` therefore fails, and writes to nobody's
bucket.
"""

from __future__ import annotations

import re

_URL = re.compile(r"s3://hardway_(i-[0-9a-f]{8}(?:[0-9a-f]{9})?)(?:/.*)?", re.DOTALL)


def store_bucket(instance_id: str) -> str:
    """Return the name of an instance's bucket, without `s3://`."""
    return f"hardway_{instance_id}"


def instance_of(url: str) -> str | None:
    """Return the id of the instance that has this object or bucket; None for another URL or text."""
    found = _URL.fullmatch(url)
    return found[1] if found else None
