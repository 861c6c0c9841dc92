"""The stub where it follows version 2 of the AWS CLI (`s3_stubbed_cli=2`), with that version as the judge."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.patience import patience
from tests.s3.conftest import TIMEOUT, RealSide, Result, StubSide, start_judge
from tests.s3.test_against_cli import TABLE, compare, play

CASES = {f"{group}: {one.name}": one for group, one in TABLE}
CODES: Mapping[str, tuple[int, ...]] = {
    "upload: two local paths": (252, 252, 252),
    "copy: mv onto itself": (252, 252),
    "rm: no path, two paths": (252, 252),
    "bucket: rb with a key": (252, 252, 252),
    "flag: --acl nonsense": (252,),
    "flag: --metadata nonsense": (252,),
    "flag: --page-size x": (255,),
    "flag: nothing": (252,) * 6,
    "s3api: head-object, missing": (254,),
    "s3api: head-object, bad arguments": (252,) * 5,
    "s3api: get-object, missing": (254, 252),
    "s3api: put-object, no body": (0, 252),
    "call: wait": (0, 0, 0, 0, 252, 252, 252),
    "upload: no such file": (255,),
    "a bucket nobody made: s3 ls s3://never": (254,),
    "a bucket nobody made: s3 cp s3://never/k x": (1,),
}
"""The exit codes of version 2 in cases of the table; most differ from those of version 1."""

OTHERWISE = {
    "upload: no bucket": "2.9 names the target s3://",
    "download: key that leads out at the root": "2.9 writes above the target",
    "download: bad case conflict": "2.9 has no such option",
    "bucket: mb with tags": "2.9 has no such option",
    "flag: --checksum-mode ENABLED": "2.9 has no such option",
    "s3api: list-objects-v2 --prefix none": "2.9 prints nothing, where later versions print the prefix",
    "call: list-objects": "2.9 prints nothing, where later versions print the prefix",
    "call: queries": "2.9 doesn't know the prefix of an answer",
    "call: head-bucket and its kind": "2.9 doesn't know the region of an answer",
}
NEWER = ("ChecksumCRC32", "ExpiresString", "TagCount", "RequestCharged", '"Prefix"')
"""Fields that answers have since a version of the CLI after 2.9, or after the judge's own."""


def interpreter() -> list[str]:
    """The Python of the machine's AWS CLI 2. Its binary packages have none that could run the judge."""
    for path in (Path("/usr/bin/aws"), Path("/usr/local/bin/aws")):
        with path.open("rb") if path.is_file() else open(os.devnull, "rb") as file:
            first = file.readline(200)
        if first.startswith(b"#!") and b"python" in first:
            command = first[2:].decode().split()
            done = subprocess.run(
                [*command, "-c", "import awscli; print(awscli.__version__)"],
                capture_output=True,
                text=True,
                timeout=patience(TIMEOUT),
            )
            if done.stdout.startswith("2.9."):  # later versions print some things in another way
                return command
    pytest.skip("no AWS CLI 2.9 that is a Python program (Debian 12: apt-get install awscli)")


@pytest.fixture(scope="module")
def judge_2(cli_environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    # nothing that overlooks the endpoint leaves the machine
    closed = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    # after one attempt, version 2 would add that all retries are used up
    with start_judge(interpreter(), {**cli_environment, **closed, "AWS_MAX_ATTEMPTS": "2"}) as process:
        yield process


@pytest.fixture
def stub_2(stub: StubSide) -> StubSide:
    stub.environment["s3_stubbed_cli"] = "2"
    return stub


@pytest.mark.parametrize("name", CODES)
def test_exit_codes(name: str, stub_2: StubSide) -> None:
    assert tuple(result.code for result in play(stub_2, CASES[name])) == CODES[name]


def test_dates_and_copies(stub_2: StubSide) -> None:
    """Dates are ISO 8601; a copy with other attributes keeps the attributes that are not given."""
    stub_2.put("bkt", "a", b"1")
    head = "s3api head-object --bucket bkt --output text --query"
    given = "--website-redirect /x --metadata k=v --cache-control no-cache --content-type text/x --expires 2030-01-01"
    printed = [
        stub_2.run(command.split()).stdout
        for command in (
            f"s3 cp s3://bkt/a s3://bkt/b --quiet {given}",
            "s3 cp s3://bkt/b s3://bkt/c --quiet --metadata q=r",
            f"{head} [Metadata.q,Metadata.k,CacheControl,ContentType,Expires] --key c",
            "s3 cp s3://bkt/b s3://bkt/d --quiet --metadata q=r --metadata-directive REPLACE",
            f"{head} [Metadata.q,CacheControl,Expires] --key d",
            f"{head} LastModified --key a",
        )
    ]
    assert "Website" not in stub_2.run(["s3api", "head-object", "--bucket", "bkt", "--key", "c"]).stdout
    assert printed[2].rstrip("\n").split("\t") == ["r", "None", "no-cache", "text/x", "2030-01-01T00:00:00+00:00"]
    assert printed[4].rstrip("\n").split("\t") == ["r", "None", "None"]
    assert printed[5].endswith("+00:00\n")
    listed = stub_2.run(["s3api", "list-objects-v2", "--bucket", "bkt"]).stdout
    assert listed.count('+00:00"') == 4


@pytest.mark.parametrize(
    ("cli", "code", "says"), [("2", 0, "aws-cli/2."), ("1", 0, "aws-cli/1."), ("3", 255, "neither 1 nor 2: 3")]
)
def test_the_version_tells(stub: StubSide, cli: str, code: int, says: str) -> None:
    stub.environment["s3_stubbed_cli"] = cli
    done = stub.run(["--version"])
    assert (done.code, says in done.stdout + done.stderr) == (code, True)


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in CASES if name not in OTHERWISE])
def test_case(
    name: str, judge_2: subprocess.Popen[str], endpoint: str, client: Any, stub_2: StubSide, tmp_path: Path
) -> None:
    requests.post(f"{endpoint}/moto-api/reset", timeout=patience(TIMEOUT))
    root, one = tmp_path / "real" / "work", CASES[name]
    root.mkdir(parents=True)
    real = RealSide(root, judge_2, client)
    with ThreadPoolExecutor(1) as other:
        theirs, ours = other.submit(play, real, one), play(stub_2, one)
    if name in CODES:
        assert tuple(result.code for result in theirs.result()) == CODES[name]
    pairs = zip(theirs.result(), ours, strict=True)
    if any("Unknown options: " in their.stderr and "Unknown options: " not in our.stderr for their, our in pairs):
        pytest.skip("the judge is older than an option of this case")
    compare(one, (real, known(theirs.result())), (stub_2, known(ours)))


def known(results: list[Result]) -> list[Result]:
    """The results without what only some versions print."""
    lines = ([line.rstrip(",") for line in done.stdout.split("\n")] for done in results)
    texts = ("\n".join(line for line in some if not any(name in line for name in NEWER)) for some in lines)
    return [replace(done, stdout=text) for done, text in zip(results, texts, strict=True)]
