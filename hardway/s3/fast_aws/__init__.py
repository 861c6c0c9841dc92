"""The fast `aws` for instances: one file of bash, made of those that it shares with the S3 stub and those of its own.

The agent of a job brings it (`bring_aws` there), and so does a command of ec2.ssh whose text has the word.
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
from pathlib import Path

from hardway.config import Settings
from hardway.s3 import stub_sessions

_OWN = Path(__file__).parent
_ALWAYS = ("start", "command", "handover", "credentials", "signing", "requests", "objects")
_LATER = (
    "download", "given", "head", "lists", "ls", "metadata", "odd", "parts", "profile", "store", "stream", "times",
    "types",
)  # fmt: skip

# $1: auto or fast; $2: a directory in .hardway; $3: the program. Leaves the directory first on PATH, if it is wanted;
# else that of a store, whose `aws` leaves all else to the instance's own.
BRING = """
if [ "$1" != auto ] || ! command -v aws >/dev/null; then
  d=${HOME:-}/.hardway/$2
  [ -x "$d/aws" ] || {
    (umask 077 && mkdir -p "$d" && printf %s "$3" | base64 -d | gzip -d >"$d/aws-$$" && chmod 700 "$d/aws-$$") &&
      mv -f "$d/aws-$$" "$d/aws"
  } || { rm -f "$d/aws-$$"; echo "hardway's aws can't be put into $d" >&2; exit 1; }
  PATH=$d:$PATH
  export PATH
elif [ -x "${HOME:-}/.hardway-cluster/store/bin/aws" ]; then
  PATH=$HOME/.hardway-cluster/store/bin:$PATH
  export PATH
fi
shift 3
"""


@functools.cache
def program(only_store: bool = False) -> bytes:
    """Return the program, to be put on an instance's PATH as `aws`.

    With `only_store` it does what names a bucket of the store, and leaves all else to the instance's own `aws`.
    """
    start = "\n".join(map(_part, _ALWAYS))
    # the table and the call of main follow
    line, places = start.count("\n") + 2, []
    for name in _LATER:
        length = _part(name).count("\n")
        places.append(f"[{name}]={line}:{length}")
        line += length
    table = f"declare -A parts_at=({' '.join(places)})\n"
    main = 'main "$@"\n'
    if only_store:
        main = f"names_store || hand_over 'what is not of the store'; {main}"
    return (start + table + main + "".join(map(_part, _LATER))).encode()


def _part(name: str) -> str:
    own = _OWN / f"{name}.bash"
    return (own if own.exists() else stub_sessions.directory() / own.name).read_text()


def packed_for_store() -> str:
    """Return the program that does nothing but the store, in gzip and base64."""
    return base64.b64encode(gzip.compress(program(only_store=True), mtime=0)).decode()


def brought(settings: Settings) -> tuple[str, str, str] | None:
    """Return when it is brought, the directory for it, and the program, in gzip and base64; None if it never is.

    A session of the S3 stub has its own `aws`.
    """
    if settings.ec2.aws == "real" or settings.stub_session:
        return None
    name, packed = _packed()
    return settings.ec2.aws, name, packed


@functools.cache
def _packed() -> tuple[str, str]:
    digest = hashlib.sha256(program()).hexdigest()
    return f"aws-{digest[:16]}", base64.b64encode(gzip.compress(program(), mtime=0)).decode()
