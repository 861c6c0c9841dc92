"""A host whose agent is replaced by one that lies: it is set aside and named, and costs no result and no memory."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import sys
from pathlib import Path

import pytest

from hardway.ec2.instances import Instance
from hardway.errors import Failed
from hardway.pmap import connecting, job_paths, ledger, link, member
from hardway.pmap.afterwards import history
from hardway.pmap.job import Job
from tests.openssh.conftest import start_sshd
from tests.pmap import liar
from tests.pmap.test_nonsense import ec2, pair, run

__all__ = ["ec2", "pair", "start_sshd"]

SAID = {
    "holds_all": "a greeting of 564 bytes, more than for what was sent there",
    "runs_all": "a greeting of 564 bytes, more than for what was sent there",
    "holds_one": "it holds attempt 1 of task 3, which was not sent there",
    "last_attempt": "it holds attempt 65535 of task 1, which was not sent there",
    "many_cpus": "an instance of 100000000 CPUs",
    "ends_others": "the end of attempt 1 of task ",
    "ends_unstarted": " ended before it had started",
    "starts_twice": "which does not wait there",
    "starts_in_no_slot": " in a slot that is not there",
    "shares_a_slot": " in a slot where another runs",
    "gives_back_unasked": ", which waits there",
    "gives_back_what_runs": ", which runs there",
    "short_output": " of another size than it says",
    "greets_twice": "a frame of kind 65 ",
    "stays_after_goodbye": "it speaks after its goodbye",
    "gibibyte": "a frame of kind 68 and 1073741824 bytes",
    "floods": "signs of life that nothing calls for",
    "complains": "it complains twice",
}


def replace_python(tmp_path: Path, kind: str, seed: int = 0) -> None:
    """What the first of the pair has in place of python3; the tasks of the other wait until it has spoken."""
    python = tmp_path / "bin" / "python3"
    python.write_text(
        f"#!/bin/sh\nexport PATH=/usr/bin:/bin\n"
        f"exec '{sys.executable}' '{liar.__file__}' {kind} {seed} '{tmp_path}/remote/spoken'\n"
    )


def test_every_kind_of_lie_is_tried() -> None:
    assert {*SAID, "goes_at_once"} == set(liar.LIES)


@pytest.mark.parametrize("kind", SAID)
def test_a_liar_is_set_aside_and_named(pair: list[Instance], tmp_path: Path, kind: str) -> None:
    replace_python(tmp_path, kind)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = run(f"liar-{kind}", pair)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    told = [line for line in said.splitlines() if SAID[kind] in line]
    assert told, said
    assert all(line.startswith(str(pair[0])) for line in told)
    assert "\x1b" not in said
    assert str(pair[1]) not in said
    assert grown < 150_000, "KiB"


def test_one_that_goes_as_soon_as_it_has_come_does_not_keep_the_job_for_ever(
    pair: list[Instance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member, "FRUITLESS_MOST", 2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # it knows the host for no instance
    replace_python(tmp_path, "goes_at_once")
    with pytest.raises(Failed, match="no instance is left: its agent ends as soon as it has started; 0 of 20"):
        run("goes", pair[:1], reconnect=60)


def test_results_of_an_instance_that_is_found_out_later_are_made_again(pair: list[Instance], tmp_path: Path) -> None:
    replace_python(tmp_path, "turns")
    assert "; 1 result of its is made again; " in run("turns", pair)
    path = job_paths.jobs_path() / "turns"
    with Job(path) as job:
        assert {result.host for result in job.history.results.values()} == {pair[1].id}
    timeline = history.read((path / "journal").read_bytes())
    assert (timeline.done, timeline.damaged, timeline.torn) == (20, 0, 0)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("silent", "not from our agent (it "),
        ("trickles", "our agent has not spoken within 1 s"),
        ("trickles_a_frame", "a message has not ended within 1 s"),
    ],
)
def test_one_that_is_busy_with_nothing_is_found_out(
    pair: list[Instance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, says: str
) -> None:
    """Patience is shorter here than it is for people."""
    for module, names in (
        (ledger, ("ORDER_PATIENCE", "START_PATIENCE")),
        (link, ("_GREETS_WITHIN", "_ENDS_WITHIN")),
        (connecting, ("CHECK_EVERY",)),
    ):
        for name in names:
            monkeypatch.setattr(module, name, 1.0)
    replace_python(tmp_path, kind)
    if kind == "trickles":
        (tmp_path / "remote" / "spoken").touch()
    said = run(f"busy-{kind}", pair, command="sleep .3; cat", backup=False)
    assert says in said
    assert str(pair[1]) not in said


def test_a_shortage_here_is_no_hosts_fault(pair: list[Instance]) -> None:
    """All descriptors but a few are taken when the connections are opened."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []

    def take_them_all(job: Job) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        os.close(taken.pop())

    try:
        with pytest.raises(Failed, match="this machine can't go on: too many open files; 0 of 20 tasks are done"):
            run("shortage", pair, prepare=take_them_all)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for fd in taken:
            os.close(fd)


def test_an_agent_whose_words_are_garbled_forges_nothing(pair: list[Instance], tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    for number in range(4):
        replace_python(tmp_path, "mutates", seed + number)
        run(f"garbled{number}", pair)
