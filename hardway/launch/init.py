"""The end of user data on an instance, as cloud-init tells it, and its log.

cloud-init writes result.json when all of a boot has ended, the scripts of user data last. The file lists the failures:
https://docs.cloud-init.io/en/latest/explanation/failure_states.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hardway.config import Settings
from hardway.ec2.instances import Instance
from hardway.errors import Failed
from hardway.fanout.group import InstanceGroup, Printer, report
from hardway.ssh import channel, host_keys
from hardway.ssh import connection as ssh
from hardway.ssh.script import Script
from hardway.terminal import cut_short, printable

_RUNNING, _ENDED = 4, 5
# Seconds that may have passed since boot.sh's last look: two looks, and a slow start of the next one.
_LATELY = 180
_MOST_BYTES = 1 << 17
_LINES, _LINE_LETTERS = 5, 200
# cloud-init's own lines in the log; the others are from the scripts that it runs.
_NOT_THEIRS = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d+ - |Cloud-init v|ci-info: |<\d+>|#|-----")
# A boot's last line of this kind is "finished". Newer versions, a single process, write ssh-keygen's output below it.
_STAGE = re.compile(r"^Cloud-init v\. .* (running|finished) .*$", re.MULTILINE)
# The exit code, as cloud-init's older versions and its newer ones log it.
_CODE = re.compile(r"Failed running \S+ \[(\d{1,3})\]|^Exit code: (\d{1,3})$", re.MULTILINE)
# $1: whether to wait for a while for the end of user data, if a launch gave any. HARDWAY_ROOT is boot.sh's.
# The files of boot.sh survive a reboot and prove nothing: what counts is the time of the last look, since the boot.
_PROBE = f"""
root=${{HARDWAY_ROOT-}} watched=0 looked=
read -r up _ </proc/uptime
[ ! -s "$root/run/hardway/looked" ] || read -r looked <"$root/run/hardway/looked"
if [ -e "$root/etc/hardway/watch" ] || [ -e "$root/run/hardway/state/watch" ]; then
  if [ -n "$looked" ] && [ "$((${{up%%.*}} - looked))" -lt {_LATELY} ]; then watched=1; fi
fi
if [ -d "$root/run/systemd/system" ]; then systemctl --quiet is-active hardway.timer || watched=0; fi
printf $watched
if [ -e "$root/run/hardway/init" ]; then printf 1; else printf 0; exit 0; fi
[ "$1" = 1 ] || exit 0
result=$root/run/cloud-init/result.json looks=0
while [ ! -s "$result" ]; do
  [ $looks -lt 50 ] || exit {_RUNNING}
  looks=$((looks + 1))
  sleep 0.2 || exit {_RUNNING}
done
log=$root/var/log/cloud-init
printf '\\0'
head -c 60000 "$result"
printf '\\0'
{{ cat "$log-output.log" 2>/dev/null || sudo -n cat "$log-output.log" 2>/dev/null; }} | tail -c 30000
printf '\\0'
{{ cat "$log.log" 2>/dev/null || sudo -n cat "$log.log" 2>/dev/null; }} | grep '^Exit code: ' | tail -n 1
exit {_ENDED}
"""
# $1: whether to follow the output until user data has ended.
_SHOW = """
root=${HARDWAY_ROOT-}
log=$root/var/log/cloud-init-output.log sudo=
[ -r "$log" ] || sudo='sudo -n'
$sudo test -e "$log" || { echo "there is no $log: it does not run cloud-init" >&2; exit 1; }
[ "$1" = 1 ] || exec $sudo cat "$log"
while [ ! -s "$root/run/cloud-init/result.json" ]; do sleep 0.5; done </dev/null >/dev/null 2>&1 &
trap "kill $! 2>/dev/null" EXIT
$sudo tail -n +1 -s 0.2 -f --pid=$! "$log"
"""


@dataclass(frozen=True)
class Look:
    """The result of one look at an instance that answers.

    `watched` is True if `boot.sh` has looked at the time, and `init` if the script has seen user data besides our
    own. `busy` is True while that user data runs. `failure` says how the user data failed, and is empty if it did not.
    """

    watched: bool = True
    init: bool = False
    busy: bool = False
    failure: str = ""


def look(connection: ssh.InstanceConnection, wait: bool) -> Look:
    """Look at an instance; with `wait` wait some seconds for the end of its user data.

    Raises TransferError if no command runs there.
    """
    with channel.Channel(connection, Script(_PROBE, [str(int(wait))])) as running:
        said = running.read(_MOST_BYTES)
        code = running.finish((0, _RUNNING, _ENDED))
    marks, result, log, ended = [*said.split(b"\0"), b"", b"", b""][:4]
    why = failure(result, log.decode(errors="replace"), ended.decode(errors="replace")) if code == _ENDED else ""
    return Look(watched=marks[:1] == b"1", init=marks[1:] == b"1", busy=code == _RUNNING, failure=why)


def failure(result: bytes, log: str, ended: str = "") -> str:
    """Return how user data failed, with its last lines; empty if it did not fail.

    `result` is cloud-init's result.json, `log` the end of the output, `ended` the lines of cloud-init's own log that
    have exit codes.
    """
    try:
        errors = json.loads(result)["v1"]["errors"]
    except (ValueError, KeyError, TypeError):
        return "cloud-init's result.json can't be read"
    if not errors:
        return ""
    *_, last = [None, *_STAGE.finditer(log)]
    if last and last[1] == "finished":
        log = log[: last.start()]
    codes = [next(filter(None, found)) for found in _CODE.findall(f"{log}\n{ended.strip()}")]
    theirs = [line for line in map(str.strip, log.splitlines()) if line and not _NOT_THEIRS.match(line)][-_LINES:]
    how = f"exit code {codes[-1]}" if codes else cut_short(str(errors[-1] if isinstance(errors, list) else errors))
    lines = f"; its last lines: {' | '.join(cut_short(line, _LINE_LETTERS) for line in theirs)}" if theirs else ""
    return f"its user data failed: {how}{lines}"


def show(settings: Settings, chosen: Sequence[Instance], follow: bool, say: Callable[[str], None]) -> None:
    """Print the output of user data on our stdout; with `follow` until it has ended.

    For an instance that does not answer over SSH, print its console. Raises GroupFailed for instances that show
    nothing.
    """
    printer = Printer(prefix=len(chosen) > 1, sole=len(chosen) == 1)
    outcomes = InstanceGroup(chosen, settings).execute(Script(_SHOW, [str(int(follow))]), printer=printer, say=say)
    for connection, outcome in outcomes.items():
        if not isinstance(outcome, ssh.ConnectError):
            continue
        instance = connection.instance
        if console := host_keys.console(settings, instance.id):
            say(f"{printable(str(instance))}: {outcome}; this is its console")
            printer.write(instance, (printable(console, "\n\t").rstrip("\n") + "\n").encode(), error=False)
            outcomes[connection] = None
        else:
            outcomes[connection] = Failed(f"{outcome}; and its console shows nothing")
    if any(isinstance(outcome, BaseException) or getattr(outcome, "exit_code", 0) for outcome in outcomes.values()):
        report(outcomes, say)
