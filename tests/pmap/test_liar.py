"""A host whose agent is replaced by one that lies: it is set aside and named, and costs no result and no memory."""

from __future__ import annotations

import random
import resource
import sys
from pathlib import Path

import pytest

from hardway.errors import Failed
from hardway.instances import Instance
from hardway.pmap import driver
from tests.openssh.conftest import start_sshd
from tests.pmap import liar
from tests.pmap.test_nonsense import ec2, pair, run

__all__ = ["ec2", "pair", "start_sshd"]

SAID = {
    "holds_all": "a greeting of 324 bytes, more than for what was sent there",
    "runs_all": "a greeting of 324 bytes, more than for what was sent there",
    "holds_one": "it holds attempt 1 of task 3, which was not sent there",
    "last_attempt": "it holds attempt 65535 of task 1, which was not sent there",
    "many_cpus": "an instance of 100000000 CPUs",
    "ends_others": "the end of attempt 1 of task ",
    "ends_unstarted": " ended before it had started",
    "starts_twice": "which does not wait there",
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
    monkeypatch.setattr(driver, "FRUITLESS_MOST", 2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # it knows the host for no instance
    replace_python(tmp_path, "goes_at_once")
    with pytest.raises(Failed, match="no instance is left: its agent goes as soon as it has come; 0 of 20"):
        run("goes", pair[:1], reconnect=60)


def test_an_agent_whose_words_are_garbled_forges_nothing(pair: list[Instance], tmp_path: Path) -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    for number in range(4):
        replace_python(tmp_path, "mutates", seed + number)
        run(f"garbled{number}", pair)
