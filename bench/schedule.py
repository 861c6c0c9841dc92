"""pmap's state machine far beyond any real cluster: by default 10,000 hosts, 10 million tasks, under a simulated clock.

`python bench/schedule.py [--hosts N] [--tasks N] [--prefer]`; by default it takes a minute or two. It is the class that
production runs, driven as the driver drives it: events of 20 ms are handled together, then it decides. A tenth of the
hosts is lost and replaced, attempts straggle and fail, all drawn from `--seed`. With `--prefer` each task prefers a
host. Prints a line on stderr and JSON on stdout, and exits with 1 where a task has not exactly one result or a limit is
missed.

A decision is a start, a recall or a cancel; they are counted per second of CPU spent within the schedule, the events
that led to them included, the simulation around it not. Ideal is the time in which the hosts' slots, none of them ever
idle and none of their work lost, would do the work of the attempts that counted.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import json
import random
import sys
import time
from array import array
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hardway.pmap.schedule import Cancel, Schedule, Start, Verdict

TICK = 0.02  # seconds of events that are handled together, as in the driver
DECISIONS = 100_000  # a second, at least
MAKESPAN = 1.10  # of ideal, at most
DURATION = 1.0  # seconds, the mean of a task
SPREAD = 0.5  # sigma of its logarithm
STRAGGLES = 0.001  # attempts that take ten times as long
FAILS = 0.001  # attempts that fail
ROUND_TRIP = 0.08
REPLACED = 60.0  # seconds until a lost host has a successor

FINISH, LOSE, JOIN = range(3)


class Simulation:
    """Hosts with one slot each, running what the schedule sends them in the order in which it came."""

    def __init__(self, hosts: int, tasks: int, losses: int, seed: int, prefer: bool) -> None:
        self.random = random.Random(seed)
        self.schedule = Schedule(tasks, seed=seed)
        self.now = 0.0
        self.taken = 0.0  # seconds of CPU within the schedule
        self.decisions = 0
        self.results = bytearray(tasks)
        self.useful = 0.0  # seconds of the attempts that counted
        self.lost = 0
        self.names = hosts
        self.queue: dict[int, dict[int, int]] = {}  # host: attempts that wait, by task
        self.running: dict[int, tuple[int, int]] = {}
        self.events: list[tuple] = []
        self.preferred = array("I", [self.random.randrange(hosts) for _ in range(tasks)] if prefer else [])
        self.near = 0  # attempts that started where their task prefers
        for task, name in enumerate(self.preferred):
            self.schedule.prefer(task, name)
        for name in range(hosts):
            self.join(name)
        expected = tasks * DURATION / hosts
        for _ in range(losses):
            heapq.heappush(self.events, (self.random.uniform(0.05, 0.9) * expected, LOSE))

    def join(self, name: int) -> None:
        self.queue[name] = {}
        began = time.process_time()
        self.schedule.join(name, 1)
        self.schedule.distance(name, ROUND_TRIP)
        self.taken += time.process_time() - began

    def run(self) -> None:
        schedule, events = self.schedule, self.events
        while not schedule.finished_all:
            self.decide()
            due = schedule.due(self.now)
            next_event = events[0][0] if events else float("inf")
            self.now = max(self.now, min(next_event, float("inf") if due is None else due)) + TICK
            batch = []
            while events and events[0][0] <= self.now:
                event = heapq.heappop(events)
                if event[1] == FINISH:
                    batch.append(event)
                elif event[1] == JOIN:
                    self.join(event[2])
                elif self.running:
                    self.lose()
            self.finish(batch)

    def decide(self) -> None:
        began = time.process_time()
        decisions = self.schedule.decide(self.now)
        self.taken += time.process_time() - began
        self.decisions += len(decisions)
        returned = []
        idle = []
        for decision in decisions:
            name, task, attempt = decision
            if isinstance(decision, Start):
                self.queue[name][task] = attempt
                self.near += bool(self.preferred) and self.preferred[task] == name
                if name not in self.running:
                    idle.append(name)
            elif self.queue[name].get(task) == attempt:
                del self.queue[name][task]
                returned.append(decision)
            elif isinstance(decision, Cancel) and self.running.get(name) == (task, attempt):
                heapq.heappush(self.events, (self.now + TICK, FINISH, name, task, attempt, False, 1.0))
        began = time.process_time()
        for name, task, attempt in returned:
            self.schedule.returned(name, task, attempt)
        self.taken += time.process_time() - began
        self.start(idle)

    def start(self, names: list[int]) -> None:
        """Let these hosts, which are free, begin what waits there first."""
        begun = []
        for name in names:
            queue = self.queue.get(name)
            if not queue or name in self.running:
                continue
            task = next(iter(queue))
            attempt = queue.pop(task)
            self.running[name] = task, attempt
            duration = DURATION * self.random.lognormvariate(-SPREAD * SPREAD / 2, SPREAD)
            if self.random.random() < STRAGGLES:
                duration *= 10
            ok = self.random.random() >= FAILS
            heapq.heappush(self.events, (self.now + duration, FINISH, name, task, attempt, ok, duration))
            begun.append((name, task, attempt))
        began = time.process_time()
        started, now = self.schedule.started, self.now
        for name, task, attempt in begun:
            started(name, task, attempt, now)
        self.taken += time.process_time() - began

    def finish(self, batch: list[tuple]) -> None:
        ended = [event[2:] for event in batch if self.running.get(event[2]) == (event[3], event[4])]
        for event in ended:
            self.running.pop(event[0], None)
        began = time.process_time()
        finished, now = self.schedule.finished, self.now
        verdicts = [finished(name, task, attempt, ok, took, now) for name, task, attempt, ok, took in ended]
        self.taken += time.process_time() - began
        for (_, task, _, _, duration), verdict in zip(ended, verdicts, strict=True):
            if verdict is Verdict.DONE:
                self.results[task] = min(2, self.results[task] + 1)
                self.useful += duration
        self.start([event[0] for event in ended])

    def lose(self) -> None:
        """One host dies; another takes its place later."""
        name = self.random.choice(list(self.running))
        del self.running[name], self.queue[name]
        began = time.process_time()
        self.schedule.leave(name)
        self.taken += time.process_time() - began
        self.lost += 1
        heapq.heappush(self.events, (self.now + REPLACED, JOIN, self.names))
        self.names += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--hosts", type=int, default=10_000)
    parser.add_argument("--tasks", type=int, default=10_000_000)
    parser.add_argument("--prefer", action="store_true")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    gc.disable()  # nothing here makes cycles, and it would look through the simulation's objects on the schedule's time
    simulation = Simulation(given.hosts, given.tasks, given.hosts // 10, given.seed, given.prefer)
    simulation.run()
    schedule = simulation.schedule
    ideal = simulation.useful / given.hosts
    figures = {
        "hosts": given.hosts,
        "tasks": given.tasks,
        "seed": given.seed,
        "hosts_lost": simulation.lost,
        "retries": schedule.retried,
        "backups": schedule.backups,
        "near": round(simulation.near / given.tasks, 4),
        "results_lost": simulation.results.count(0),
        "results_doubled": simulation.results.count(2),
        "decisions": simulation.decisions,
        "decisions_per_second": round(simulation.decisions / simulation.taken),
        "makespan_to_ideal": round(simulation.now / ideal, 4),
    }
    print(json.dumps(figures, indent=1))
    exact = not figures["results_lost"] and not figures["results_doubled"]
    fast = figures["decisions_per_second"] >= DECISIONS
    tight = figures["makespan_to_ideal"] <= MAKESPAN
    print(
        f"{given.tasks:,} tasks on {given.hosts:,} hosts, {simulation.lost:,} of them lost: "
        f"{'each exactly one result' if exact else 'NOT EXACT'}; "
        f"{figures['decisions_per_second']:,} decisions a second (at least {DECISIONS:,}); "
        f"makespan {figures['makespan_to_ideal']} of ideal (at most {MAKESPAN})",
        file=sys.stderr,
    )
    return 0 if exact and fast and tight else 1


if __name__ == "__main__":
    sys.exit(main())
