"""Small commands that instances find first on their PATH, in place of those that can't work in a sandbox.

`sudo` runs the command, `poweroff` and its kin tell the daemon, `aws` is the stub of S3 in a stubbed session and
the real CLI otherwise. A person's own `aws` and `sudo` are never touched.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from hardway.s3 import stub_sessions

SUDO = r"""#!/bin/bash
# sudo: a user who logs in here may do everything already, so the command just runs
login= directory=
while [ $# -gt 0 ]; do
  case $1 in
    --) shift; break ;;
    -u | -g | -U | -C | -p | -r | -t | -T | -R | --user | --group | --other-user | --prompt | --command-timeout)
      shift 2 ;;
    -D | --chdir) directory=$2; shift 2 ;;
    --chdir=*) directory=${1#*=}; shift ;;
    -h)
      if [ $# -eq 1 ]; then echo 'usage: sudo [options] [VAR=value] command' >&2; exit 0; fi
      shift 2 ;;
    -K | -k | -v | --validate | --remove-timestamp | --reset-timestamp)
      [ $# -gt 1 ] || exit 0; shift ;;
    -l | --list) echo '(ALL : ALL) NOPASSWD: ALL'; exit 0 ;;
    -V | --version) echo 'Sudo of a local instance: runs the command'; exit 0 ;;
    -i | --login | -s | --shell) login=$1; shift ;;
    --*) shift ;;
    -[ugUCprTtRD]?*) shift ;;
    -*[is]*) login=-s; case $1 in *i*) login=-i ;; esac; shift ;;
    -*[ug]) shift 2 ;;
    -*) shift ;;
    *=*) export "${1?}"; shift ;;
    *) break ;;
  esac
done
[ -z "$directory" ] || cd -- "$directory" || exit 1
case $login in
  -i | --login)
    cd ~ || exit 1
    if [ $# -eq 0 ]; then exec -l "${SHELL:-/bin/bash}"; fi
    exec -l "${SHELL:-/bin/bash}" -c '"$@"' sudo "$@" ;;
  -s | --shell)
    if [ $# -eq 0 ]; then exec "${SHELL:-/bin/bash}"; fi
    exec "${SHELL:-/bin/bash}" -c '"$@"' sudo "$@" ;;
esac
if [ $# -eq 0 ]; then echo 'usage: sudo [options] [VAR=value] command' >&2; exit 1; fi
exec "$@"
"""

POWER = r"""#!/bin/sh
# poweroff, halt, shutdown, reboot: the daemon does what EC2 would
ask=poweroff
case ${0##*/} in reboot) ask=reboot ;; esac
for argument; do
  case $argument in
    -c | -k | --help) exit 0 ;;
    --reboot) ask=reboot ;;
    --poweroff | --halt) ask=poweroff ;;
    --*) ;;
    -*r*) [ "${0##*/}" != shutdown ] || ask=reboot ;;
  esac
done
for power in /run/hardway/power "$HARDWAY_LOCAL/run/hardway/power"; do
  if [ -p "$power" ]; then echo "$ask" >"$power"; exit 0; fi
done
echo "${0##*/}: this instance is already on its way down" >&2
exit 1
"""

AWS = r"""#!/bin/sh
# aws: the stub of S3 when the caller's shell is stubbed, else the real one, which this environment points at the daemon
if [ -n "${{s3_stubbed_session-}}" ] && [ -x {stub} ]; then s3_stubbed_jmespath={jmespath} exec {stub} "$@"; fi
if [ -x {real} ]; then exec {command} "$@"; fi
echo 'aws: the AWS CLI is not installed on the machine this local instance runs on (pip install awscli)' >&2
exit 127
"""


def install(directory: Path, path: str) -> list[Path]:
    """Write the commands into `directory`; `path` is where instances find commands otherwise.

    Returns the directories of the host that they need to reach.
    """
    stub = stub_sessions.directory().resolve()
    jmespath = stub_sessions.jmespath()
    needed = [stub, jmespath / "jmespath"]
    real = _real_aws(stub)
    if real:
        needed.append(real.resolve().parent.parent)
    texts = {
        "sudo": SUDO,
        "aws": AWS.format(
            stub=_quoted(stub / "aws"), jmespath=_quoted(jmespath), real=_quoted(real), command=_command(real)
        ),
        **dict.fromkeys(("poweroff", "halt", "shutdown", "reboot"), POWER),
    }
    for name, text in texts.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    if not shutil.which("python3", path=path):
        (directory / "python3").symlink_to(Path(sys.base_prefix, "bin", "python3"))
    return needed


def _quoted(path: Path | None) -> str:
    return "'" + str(path or "/nonexistent").replace("'", "'\\''") + "'"


def _command(aws: Path | None) -> str:
    """The command that runs the CLI. The first line of a script beside our Python breaks on a path with a blank."""
    ours = aws and aws.parent == Path(sys.executable).parent
    return f"{_quoted(Path(sys.executable))} {_quoted(aws)}" if ours else _quoted(aws)


def _real_aws(stub: Path) -> Path | None:
    """The host's AWS CLI: beside our Python, else on PATH, where the stub may stand first."""
    for directory in (str(Path(sys.executable).parent), *os.get_exec_path()):
        found = shutil.which("aws", path=directory)
        if found and Path(found).resolve().parent != stub:
            return Path(found)
    return None
