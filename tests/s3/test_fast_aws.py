"""The fast `aws` against the real CLI on moto, and against servers that cut off, lie and refuse."""

from __future__ import annotations

import re

import pytest
import requests

from tests.s3.conftest import TIMEOUT, FastSide, RealSide
from tests.s3.test_against_cli import TABLE, Case, compare, play

OWN = re.compile(r"s3 (cp|mv|rm|ls) |s3 ls$|s3api head-object --bucket \S+ --key \S+$")
LEFT = re.compile(
    r"--(recursive|[a-z]*clude|case|force|no-validate|acl|expected-size 3|long)|s3://\.\.?(/|$)|--metadata ['{]"
    r"|s3://\S+ s3://\S+ --(metadata|storage)"
)
SAME_CODE = ("flag", "a bucket nobody made", "filter", "bucket", "sync", "call")
"""What the stub's run compares in the code that both share, but for some."""
SOME = (
    "--acl public-read",
    "--metadata k=v,l=w",
    "--dryrun",
    "--unknown value",
    "s3 ls s3://never",
    "s3 rm s3://never/k",
)


def own(group: str, one: Case) -> bool:
    """Whether it does all of a case itself, and it is one to compare."""
    steps = [step if isinstance(step, str) else step[0] for step in one.steps if not callable(step)]
    if group in SAME_CODE and one.name not in SOME:
        return False
    return all(OWN.match(step) and (step.startswith("s3 ls") or not LEFT.search(step)) for step in steps)


CASES = [pytest.param(one, id=f"{group}: {one.name}") for group, one in TABLE if own(group, one)]


@pytest.mark.parametrize("one", CASES)
def test_what_it_does_itself_is_what_the_cli_does(one: Case, real: RealSide, fast: FastSide, endpoint: str) -> None:
    theirs = play(real, one)
    objects = real.objects()
    requests.post(f"{endpoint}/moto-api/reset", timeout=TIMEOUT)
    compare(one, (real, theirs), (fast, play(fast, one)))
    assert fast.objects() == objects
    assert fast.leftovers() == []
