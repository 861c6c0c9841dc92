"""The stderr of tasks: while they run, from the agents' files; afterwards, from the job's directory."""

from __future__ import annotations

from pathlib import Path

from hardway.config import Settings
from hardway.ec2 import instances
from hardway.errors import Failed, UsageError
from hardway.fanout import group
from hardway.pmap.agent import LOGS
from hardway.pmap.job import Asked, Outputs, read_asked, read_journal
from hardway.pmap.journal import History
from hardway.pmap.results import Results
from hardway.ssh.script import Script
from hardway.tables import count

_COME_SECONDS = 30  # for an agent to appear
# The files are there while their attempts run. An open file can be read to its end after it has been removed.
_TELL = """
import os, select, sys, time
agent, folder, task, follow, patience = sys.argv[1:]
agent = os.path.join(os.path.expanduser("~"), ".hardway", agent)
out, told = sys.stdout.buffer, {}
deadline = time.time() + float(patience)
reader = select.poll()
reader.register(1, 0)

def tell(name, last):
    file, rest = told[name]
    data = rest + file.read()
    whole = len(data) if last else data.rfind(b"\\n") + 1
    head = b"" if task else b"task %s: " % name.split(".")[0].encode()
    for line in data[:whole].splitlines(True):
        out.write(head + line + (b"" if line.endswith(b"\\n") else b"\\n"))
    told[name][1] = data[whole:]
    if last:
        file.close()
        del told[name]

while not reader.poll(0):
    present = os.path.isdir(agent)
    try:
        names = sorted(os.listdir(os.path.join(agent, folder)))
    except OSError:
        names = []
    for name in names:
        if name not in told and task in ("", name.split(".")[0]):
            try:
                told[name] = [open(os.path.join(agent, folder, name), "rb"), b""]
            except OSError:
                pass
    for name in list(told):
        tell(name, not follow or os.fstat(told[name][0].fileno()).st_nlink == 0)
    out.flush()
    if not follow or not present and (time.time() > deadline or told == {} and patience == "0"):
        break
    if present:
        patience = "0"
    time.sleep(0.2)
"""


class JobLogs:
    """The logs of one job, or of one of its tasks."""

    def __init__(self, path: Path, task: str = "") -> None:
        """Read a job. `task` is a number, empty for all tasks that run. Raises UsageError and Damaged."""
        self.asked: Asked = read_asked(path)
        self._path = path
        _, self._history = read_journal(path, self.asked)
        self._task = task
        if task and not (task.isdigit() and 0 < int(task) <= self._history.tasks):
            raise UsageError(f"job {path.name} has no task {task!r}: its tasks are 1 to {self._history.tasks}")

    def ended(self) -> Results | None:
        """Return the stderr of the task, if it has ended; None for a task that hasn't, and for all tasks."""
        history: History = self._history
        if not self._task:
            return None
        number = int(self._task)
        result = history.results.get(number) or history.failed.get(number)
        outputs = Outputs(self._path)
        return Results(1, lambda place: outputs.pieces(number, result, "stderr")) if result else None

    def show(self, settings: Settings, follow: bool) -> int:
        """Print what running tasks have written to stderr, from their instances; return the number of instances.

        With `follow` go on until the job has left the instances. Raises Failed if instances can't be asked.
        """
        wanted = {host for host in self._history.open.values() if host.startswith("i-")}
        if follow:
            wanted |= {host for host in self._history.sent if host.startswith("i-")}
        if not wanted:
            return 0
        found = instances.select(settings, wanted, states=instances.STATES, on_unknown=lambda name: None)
        chosen = [one for one in found if one.state == "running"]
        words = [LOGS, self._task, "follow" if follow else "", str(_COME_SECONDS)]
        agents = {one.id: f"{self.asked.name}-{self.asked.token}-{one.id}" for one in chosen}
        reached = group.InstanceGroup(chosen, settings)
        outcomes = reached.execute(
            Script('read -r agent; program=$1; shift; exec python3 -c "$program" "$agent" "$@"', [_TELL, *words]),
            each={name: f"{agent}\n".encode() for name, agent in agents.items()},  # each reads its own
            printer=group.Printer(prefix=not self._task, sole=False),
        )
        failed = {c.instance: why for c, outcome in outcomes.items() if (why := group.describe_outcome(outcome))}
        if failed:
            told = "; ".join(f"{one}: {why}" for one, why in list(failed.items())[:3])
            raise Failed(f"{count(len(failed), 'instance')} of {len(chosen)} could not be asked: {told}")
        return len(chosen)
