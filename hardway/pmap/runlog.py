"""Writes the events of a run to the job's journal, counts them, and shows the important ones to a person."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hardway.pmap import agent
from hardway.pmap.endings import LOST, Outcome, end_and_complaint, how_it_ended
from hardway.pmap.events import Ended
from hardway.pmap.health import Cause
from hardway.pmap.hosts import Name
from hardway.pmap.job import Job
from hardway.pmap.journal import Result
from hardway.pmap.link import text
from hardway.pmap.member import Member
from hardway.pmap.progress import Progress
from hardway.pmap.schedule import Schedule, Verdict
from hardway.pmap.spool import discard
from hardway.tables import count

SAID_MOST = 5  # lines of agents about attempts that are shown


class RunLog:
    """The record of one run. Each method notes one thing that has happened."""

    def __init__(
        self,
        job: Job,
        numbers: Sequence[int],
        timeout: float,
        progress: Progress,
        on_result: Callable[[int, Result | None], None] | None,
    ) -> None:
        """Take the tasks' `numbers`, by position, and their `timeout` in seconds."""
        self.outcome = Outcome()
        self._job = job
        self._numbers = numbers
        self._timeout = timeout
        self._progress = progress
        self._on_result = on_result
        self._reasons: Counter[str] = Counter()  # why instances get no more tasks
        self._results = False  # whether a task has succeeded
        self._failures: dict[int, Result] = {}  # the last of each task, until the first task succeeds
        self._said = 0  # lines of agents about attempts

    # The run

    def begins(self, options: Mapping[str, Any] | None) -> None:
        """Note the beginning; `options` are those of a detached job, for its next driver."""
        detach = {} if options is None else {"detach": options}
        self._job.event("run", tasks=len(self._numbers), timeout=self._timeout, **detach)

    def priced(self, prices: Mapping[str, float]) -> None:
        """Note the prices of instances, in USD/hour."""
        self._job.event("prices", **prices)

    def over(self, why: str, prices: Mapping[str, float]) -> None:
        """Note the end, its reason, and the counts."""
        outcome = self.outcome
        about = {"seconds": round(outcome.seconds, 3), "driver": round(outcome.driver, 3)}
        about |= {"instances": outcome.instances, "cost": outcome.cost}
        self._job.event("over", why=why, prices=dict(prices), **about)
        self._job.flush()

    def unconfirmed(self, owing: Sequence[Member], linger: float) -> None:
        """Name the members whose agents have not said goodbye."""
        names = ", ".join(member.name for member in owing[:5]) + (" ..." if len(owing) > 5 else "")
        self._progress.say(f"{names}: the agent there did not confirm that it ends; it ends itself after {linger:g} s")

    def count(self, schedule: Schedule, members: Iterable[Member], end: float) -> None:
        """Compute the totals of the run."""
        outcome = self.outcome
        outcome.done, outcome.left = schedule.done, schedule.left
        outcome.attempts, outcome.retries = schedule.attempts, schedule.retried
        outcome.backups = schedule.backups
        for member in members:
            if member.first_up is None:
                continue
            outcome.instances += 1
            seconds = (end if member.given_up is None else member.given_up) - member.first_up
            outcome.slot_seconds += member.slots * seconds
            if member.price is None:
                outcome.unpriced += 1
            else:
                outcome.cost += member.price * seconds / 3600

    # Members

    def joins(self, member: Member) -> None:
        """Note an instance that takes part from now on."""
        self._progress.say(f"{member.instance}: it joins")

    def up(self, member: Member, seconds: float, cpus: int) -> None:
        """Note that the agent has said hello, `seconds` after the instance became a member."""
        instance = member.instance
        about = {"name": instance.name, "type": instance.type, "zone": instance.zone, "spot": instance.spot}
        took = round(seconds, 3)
        self._job.event("up", host=member.name, slots=member.slots, cpus=cpus, seconds=took, **about)

    def back(self, member: Member) -> None:
        """Note that a member that was given up is back."""
        self._progress.say(f"{member.instance}: it is back")

    def agent_died(self, member: Member) -> None:
        """Note that a new agent has replaced the member's earlier one."""
        self._job.event("died", host=member.name)
        self._progress.say(f"{member.instance}: the agent had died, and a new one has started")

    def away(self, member: Member) -> None:
        """Note that the member can't be reached."""
        self._job.event("away", host=member.name, reason=member.reason)
        self._progress.say(f"{member.instance}: {member.reason or 'the connection was lost'}; trying again")

    def gone(self, member: Member, reason: str, again: int) -> None:
        """Note that the member is given up; `again` is the number of its tasks that run elsewhere."""
        self._job.event("gone", host=member.name, reason=reason)
        self.outcome.lost += 1
        self._reasons[reason] += 1
        tasks = f"; its {count(again, 'task')} {'goes' if again == 1 else 'go'} to other instances" if again else ""
        self._progress.say(f"{member.instance}: {reason}{tasks}")

    def distrusted(self, member: Member, reason: str) -> None:
        """Note that a member that was given up is not wanted back."""
        self._progress.say(f"{member.instance}: {reason}")

    def aside(self, member: Member) -> None:
        """Note that the member gets no more tasks."""
        cause = member.health.set_aside
        if cause is None or member.is_gone:
            return  # the member has gone meanwhile
        why = member.fault if cause is Cause.CANNOT_RUN else ""
        reason = f"{cause.value}{': ' if why else ''}{why}"
        self._job.event("aside", host=member.name, reason=reason)
        self._reasons[reason] += 1
        self._progress.say(f"{member.instance}: set aside, {reason}")

    def notice(self, member: Member, seconds: float, urgent: int) -> None:
        """Note an interruption in `seconds`; `urgent` is the number of tasks that run elsewhere, too."""
        self._job.event("notice", host=member.name, seconds=round(seconds, 3))
        tasks = f"; {urgent} {'task is' if urgent == 1 else 'tasks are'} run elsewhere too" if urgent else ""
        self._progress.say(
            f"{member.instance}: spot interruption in {max(seconds, 0):.0f} s, nothing new starts{tasks}"
        )

    def spared(self, member: Member) -> None:
        """Note that the member has outlived its interruption."""
        self._job.event("spared", host=member.name)
        self._progress.say(f"{member.instance}: it was not interrupted, it takes tasks again")

    def shared(self, member: Member) -> None:
        """Note that another job runs on the instance."""
        self._progress.say(
            f"{member.instance}: another job runs there too; together they run no more at a time than one"
        )

    def complained(self, member: Member, complaint: str) -> None:
        """Report the reason for the agent's death."""
        self._progress.say(f"{member.instance}: {complaint}")

    def reasons(self) -> str:
        """Return why instances get no more tasks, the most frequent reasons first."""
        return "; ".join(reason for reason, _ in self._reasons.most_common(3))

    # Attempts

    def said(self, member: Member, task: int, payload: bytes) -> None:
        """Report the agent's line about an attempt that runs, unless too many were reported before."""
        self._said += 1
        if self._said <= SAID_MOST:
            more = "; further lines of this kind are not shown" if self._said == SAID_MOST else ""
            self._progress.say(f"{member.instance}: task {task}: {text(payload)}{more}")

    def returned(self, member: Member, task: int, attempt: int) -> None:
        """Note an attempt that was given back before it started."""
        self._job.event("back", task=task, attempt=attempt, host=member.name)

    def lost(self, member: Member, position: int, attempt: int) -> None:
        """Note an attempt that is lost."""
        self._job.event("lost", task=self._numbers[position], attempt=attempt, host=member.name)

    def deadly(self, position: int, attempt: int, host: Name) -> None:
        """Note that the task has failed, because it seems to kill its hosts."""
        number = self._numbers[position]
        result = self._job.ended(number, attempt, str(host), -signal.SIGKILL, LOST, 0.0, b"", b"")
        self._progress.say(f"task {number} is given up: {how_it_ended(result)}")
        self._fail(position, result)
        self._tell_result(position, result)

    def hopeless(self, positions: Sequence[int]) -> None:
        """Note that the run is stopped, because these tasks failed alike."""
        self.outcome.hopeless = list(positions)
        for position in positions:
            if position not in self.outcome.failed:
                self._fail(position, self._failures[position])
                self._tell_result(position, self._failures[position])

    def ended(self, ended: Ended, verdict: Verdict) -> None:
        """Note the end of an attempt, and the schedule's verdict on it."""
        member, position, task, attempt, end, stdout, stderr = ended
        self.outcome.busy += end.seconds
        if verdict is Verdict.IGNORED:
            about = {"code": end.code, "seconds": round(end.seconds, 6)}
            self._job.event("ended", task=task, attempt=attempt, host=member.name, **about)
            discard([output for output in (stdout, stderr) if isinstance(output, Path)])
            return
        result = self._job.ended(task, attempt, member.name, end.code, end.flags, end.seconds, stdout, stderr)
        if verdict is Verdict.DONE:
            self._results = True
            self._failures.clear()
            self._job.done(task, result)
        elif verdict is Verdict.FAILED:
            self._fail(position, result)
        if verdict is Verdict.RETRY:
            if not self._results:
                self._failures[position] = result
            self._tell_retry(member, task, result)
        else:
            self._tell_result(position, result)

    def void(self, position: int) -> None:
        """Note that the task's result counts no longer."""
        self._job.void(self._numbers[position])
        self._tell_result(position, None)

    def _fail(self, position: int, result: Result) -> None:
        self.outcome.failed[position] = result
        self._job.failed(self._numbers[position], result)

    def _tell_retry(self, member: Member, task: int, result: Result) -> None:
        self._job.flush()
        failed = "could not run" if result.flags & agent.HOST_FAULT else "failed"
        reason = end_and_complaint(self._job.outputs, task, result, self._timeout)
        self._progress.retry(f"task {task} {failed} on {member.instance}: {reason}; it will be tried again")

    def _tell_result(self, position: int, result: Result | None) -> None:
        if self._on_result:
            self._job.flush()
            self._on_result(position, result)
