"""Sessions of the S3 stub that an instance may see: they are looked up here alone, and shown only when they are ours.

A client names a session by variables. They are only text: an instance is shown a directory if the directory has a
session's name, is no link, belongs to this user, and is closed to all others. The instance is shown the very directory
that was checked.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping

from hardway import files
from hardway.local import beneath
from hardway.local.machines.spawner import Bind
from hardway.s3.stub_sessions import PREFIX, SESSION_VARIABLE, TMP_VARIABLE

_NAME = re.compile(r"[0-9A-Za-z-]{1,100}")


def find(requested: Mapping[str, str]) -> Bind | None:
    """The session that these variables name; None where there is none, or it isn't ours."""
    name, top = requested.get(SESSION_VARIABLE, ""), requested.get(TMP_VARIABLE) or "/tmp"
    if not _NAME.fullmatch(name) or not os.path.isabs(top) or "\0" in top:
        return None
    name = PREFIX + name
    real = os.path.realpath(top)
    try:
        with beneath.directory(b"/", os.fsencode(real)) as parent:
            found = beneath.open_at(parent, name, os.O_PATH | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        status = os.fstat(found)
    finally:
        os.close(found)
    if not files.is_ours(status) or stat.S_IMODE(status.st_mode) & 0o077:
        return None
    return {
        "source": os.path.join(real, name),
        "target": os.path.join(os.path.normpath(top), name),
        "device": status.st_dev,
        "inode": status.st_ino,
    }
