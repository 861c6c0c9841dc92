"""Sessions of the S3 stub that an instance is to see: looked up by name, here alone, and bound only when they are ours.

Who logs in names one by what its shell has in its environment. That is text: a directory is shown to an instance only
if it has a session's name, is a directory and no link to one, belongs to this user and is closed to all others. What is
bound is the very directory that was looked at.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping

from hardway.local import beneath
from hardway.local.machines.spawner import Bind
from hardway.stub_sessions import PREFIX, SESSION_VARIABLE, TMP_VARIABLE

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
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        return None
    return {
        "source": os.path.join(real, name),
        "target": os.path.join(os.path.normpath(top), name),
        "device": status.st_dev,
        "inode": status.st_ino,
    }
