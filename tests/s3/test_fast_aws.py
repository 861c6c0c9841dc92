"""The fast `aws` against the real CLI on moto, and against servers that cut off, lie and refuse."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import requests

from tests.local.conftest import eventually
from tests.s3.conftest import TIMEOUT, FastSide, RealSide, Result
from tests.s3.faulty_s3 import Fault, FaultyS3, faulty_s3
from tests.s3.test_against_cli import TABLE, Case, compare, play

OWN = re.compile(r"s3 (cp|mv|rm|ls) |s3 ls$|s3api head-object --bucket \S+ --key \S+$")
LEFT = re.compile(
    r"--(recursive|[a-z]*clude|case|force|no-validate|acl|expected-size 3)|s3://\.\.?(/|$)|--metadata ['{]"
    r"|s3://\S+ s3://\S+ --(metadata|storage)"
)
SAME_CODE = re.compile(
    r"(flag|filter|bucket|sync|call|a bucket nobody made"
    r"|upload: (file (to b|to p|from|by)|no such|dir|over|a |.*link|bad|no )"
    r"|download: (key to [.a]|a bucket|over|onto|below|bad)"
    r"|stream: (up, .*(size|dry)|down, dry|both)|rm: a local"
    r"|ls: (bad|two|summary|part|no b)|copy: (key to [bp]|mv onto)|kept: (of a|not))"
)
"""The cases of code that both share, which the stub's run compares."""
SOME = ("--acl public-read", "--metadata k=v,l=w", "s3 ls s3://never", "s3 rm s3://never/k")


def own(group: str, one: Case) -> bool:
    """Whether it does all of a case itself, and it is one to compare."""
    steps = [step if isinstance(step, str) else step[0] for step in one.steps if not callable(step)]
    if SAME_CODE.match(f"{group}: {one.name}") and one.name not in SOME:
        return False
    return all(
        OWN.match(step) and ("--long" not in step and (step.startswith("s3 ls") or not LEFT.search(step)))
        for step in steps
    )


CASES = [pytest.param(one, id=f"{group}: {one.name}") for group, one in TABLE if own(group, one)]


@pytest.mark.parametrize("one", CASES)
def test_what_it_does_itself_is_what_the_cli_does(one: Case, real: RealSide, fast: FastSide, endpoint: str) -> None:
    theirs = play(real, one)
    objects = real.objects()
    requests.post(f"{endpoint}/moto-api/reset", timeout=TIMEOUT)
    compare(one, (real, theirs), (fast, play(fast, one)))
    assert fast.objects() == objects
    assert fast.leftovers() == []


@pytest.fixture
def s3() -> Iterator[FaultyS3]:
    with faulty_s3() as running:
        yield running


@pytest.fixture
def aws(fast: FastSide, s3: FaultyS3) -> FastSide:
    """The fast `aws` in front of a server that fails, with three attempts."""
    fast.environment |= {"AWS_ENDPOINT_URL": s3.endpoint, "AWS_MAX_ATTEMPTS": "3"}
    return fast


BIG = random.Random(1).randbytes(20 << 20)


@pytest.mark.parametrize("what", [500, 503, "cut", "other"])
def test_a_download_is_tried_again(aws: FastSide, s3: FaultyS3, what: int | str) -> None:
    s3.objects["/b/k"] = b"whole"
    s3.faults = [Fault("GET", what)]
    if what == "other":  # as the ETag says; nobody can explain it
        assert aws.run(["s3", "cp", "s3://b/k", "-"]).stdout == ""
    else:
        assert aws.run(["s3", "cp", "s3://b/k", "-"]) == Result(0, "whole", "")
    assert aws.leftovers() == []


def test_a_download_that_is_cut_again_and_again_leaves_nothing(aws: FastSide, s3: FaultyS3) -> None:
    s3.objects |= {"/b/k": b"whole", "/b/big": BIG}
    s3.faults = [Fault("GET /b/k", "cut", 9)]
    (aws.root / "old").write_text("old")
    done = aws.run(["s3", "cp", "s3://b/k", "old"])
    assert (done.code, "Connection was closed" in done.stderr) == (1, True)
    s3.faults = [Fault("GET /b/big", "", 1), Fault("GET /b/big", "cut", 99)]
    assert aws.run(["s3", "cp", "s3://b/big", "old"]).code == 1
    done = aws.run(["s3", "cp", "s3://b/big", "-"])
    assert (done.code, BIG.startswith(done.stdout.encode("utf-8", "surrogateescape"))) == (1, True)
    assert aws.files() == {"old": (0o100644, b"old")}
    assert aws.leftovers() == []


def test_a_large_object_is_whole_in_spite_of_failures(aws: FastSide, s3: FaultyS3) -> None:
    (aws.root / "big").write_bytes(BIG)
    s3.faults = [Fault("partNumber=2", 503), Fault("partNumber=3", "cut"), Fault("POST", 500)]
    assert aws.run(["s3", "cp", "big", "s3://b/big"]).code == 0
    assert aws.run(["s3", "cp", "-", "s3://b/stream"], BIG).code == 0
    assert (s3.objects["/b/big"], s3.objects["/b/stream"], s3.uploads) == (BIG, BIG, {})
    s3.faults = [Fault("GET", 500), Fault("GET", "cut")]
    assert aws.run(["s3", "mv", "s3://b/big", "back"]).code == 0
    assert ((aws.root / "back").read_bytes(), "/b/big" in s3.objects, aws.leftovers()) == (BIG, False, [])


def test_an_upload_that_fails_is_aborted(aws: FastSide, s3: FaultyS3) -> None:
    s3.faults = [Fault("partNumber=2", 403, 9)]
    done = aws.run(["s3", "cp", "-", "s3://b/k"], BIG)
    says = "upload failed: - to s3://b/k An error occurred (Oops) when calling the UploadPart operation: a & b\n"
    assert (done, s3.uploads, s3.objects) == (Result(1, "", says), {}, {})
    assert aws.leftovers() == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 143)])
def test_an_upload_that_is_ended_is_aborted(aws: FastSide, s3: FaultyS3, number: int, code: int) -> None:
    command = [str(aws.program), "s3", "cp", "-", "s3://b/k"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=aws.environment, cwd=aws.root) as process:
        assert process.stdin
        process.stdin.write(BIG)
        process.stdin.flush()
        eventually(lambda: s3.asked("partNumber=1"))
        process.send_signal(number)
        process.stdin.close()
        assert process.wait(TIMEOUT) == code
    assert (s3.uploads, s3.objects, aws.leftovers()) == ({}, {}, [])


def test_a_reader_that_leaves_ends_it(aws: FastSide, s3: FaultyS3) -> None:
    s3.objects["/b/k"] = BIG
    text = f"{aws.program} s3 cp s3://b/k - | head -c 3 >/dev/null; echo ${{PIPESTATUS[*]}}"
    done = subprocess.run(["/bin/bash", "-c", text], env=aws.environment, capture_output=True, text=True)
    assert (done.stdout, aws.leftovers()) == ("1 0\n", [])


def test_a_bucket_in_another_region_is_followed_by_name_alone(aws: FastSide, s3: FaultyS3) -> None:
    s3.objects["/b/k"] = b"there"
    s3.faults = [Fault("GET", "eu-west-1"), Fault("PUT", "evil.example/")]
    assert aws.run(["s3", "cp", "s3://b/k", "-"]).stdout == "there"
    assert [
        f"/{region}/s3/" in headers["authorization"]
        for region, headers in zip(("us-east-1", "eu-west-1"), s3.asked("GET"), strict=True)
    ] == [True, True]
    assert aws.run(["s3", "cp", "-", "s3://b/x"], b"x").code != 0
    assert "/b/x" not in s3.objects


@pytest.mark.parametrize(
    "command", ["s3 ls s3://b", "s3 cp - s3://b/k", "s3 cp big s3://b/k", "s3 cp s3://b/a s3://b/c"]
)
def test_an_answer_that_says_nothing_is_no_success(aws: FastSide, s3: FaultyS3, command: str) -> None:
    (aws.root / "big").write_bytes(BIG)
    s3.objects["/b/a"] = b"a"
    s3.faults = [Fault("^(GET|PUT|POST)", 200, 9)]
    assert aws.run(command.split(), b"x").code in (1, 252)


def test_no_secret_is_on_a_command_line_or_in_a_file(aws: FastSide, s3: FaultyS3) -> None:
    aws.environment |= {"AWS_SECRET_ACCESS_KEY": "hush+/secret", "AWS_SESSION_TOKEN": "hush/token=="}
    seen = aws.root.parent / "seen"
    wrapped = aws.root.parent / "bin"
    wrapped.mkdir()
    for tool in aws.program.parent.iterdir():
        said = f'{{ cat /proc/$PPID/cmdline; printf "%s\\n" "$0" "$@"; }} >>{seen}'
        script = f'#!/bin/bash\nPATH=/usr/bin:/bin\n{said}\nexec {tool} "$@"\n'
        (wrapped / tool.name).write_text(script)
        (wrapped / tool.name).chmod(0o755)
    aws.environment["PATH"] = str(wrapped)
    assert aws.run(["s3", "cp", "-", "s3://b/k", "--request-payer", "requester", "--sse"], b"x").code == 0
    (headers,) = s3.asked("PUT")
    assert headers["x-amz-security-token"] == "hush/token=="
    names = re.search("SignedHeaders=([^,]*),", headers["authorization"])
    assert names and names[1].split(";") == sorted(
        ["host", *(name for name in headers if name.startswith("x-amz-") or name == "content-type")]
    )
    assert (headers["x-amz-request-payer"], headers["x-amz-server-side-encryption"]) == ("requester", "AES256")
    kept = [seen, *Path(aws.environment["XDG_RUNTIME_DIR"]).rglob("*")]
    assert b"curl" in seen.read_bytes()
    assert [path for path in kept if path.is_file() and b"hush" in path.read_bytes()] == []


class _Metadata(BaseHTTPRequestHandler):
    """The metadata of an instance, with a role."""

    ends = ""
    asked: ClassVar[list[str]] = []

    def log_message(self, *args: object) -> None:
        pass

    def do_PUT(self) -> None:
        self.say("token==")

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != "token==":
            return self.send_error(401)
        role = "/latest/meta-data/iam/security-credentials/"
        found = {"AccessKeyId": "AK", "SecretAccessKey": "S/k", "Token": "of-role", "Expiration": self.ends}
        return self.say("my-role" if self.path == role else json.dumps(found, indent=1))

    def say(self, text: str) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.mark.parametrize(("seconds", "times"), [(3600, 3), (240, 6)], ids=["kept", "about to end"])
def test_an_instances_role_is_asked_for_once(aws: FastSide, s3: FaultyS3, seconds: int, times: int) -> None:
    _Metadata.ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))
    _Metadata.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Metadata)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"):
            aws.environment.pop(name)
        aws.environment["AWS_EC2_METADATA_SERVICE_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}/"
        for _ in range(2):
            assert aws.run(["s3", "cp", "-", "s3://b/k"], b"x").code == 0
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    kept = [path for path in Path(aws.environment["XDG_RUNTIME_DIR"]).rglob("*") if path.is_file()]
    assert {headers["x-amz-security-token"] for headers in s3.asked("PUT")} == {"of-role"}
    assert ({path.stat().st_mode & 0o777 for path in kept}, len(_Metadata.asked)) == ({0o600}, times)


def test_a_profile_says_where_and_as_whom(aws: FastSide, s3: FaultyS3) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"):
        aws.environment.pop(name)
    (aws.root / "config").write_text(
        f"[default]\nregion = x\n[profile own]\nregion = eu-south-2\ns3 =\n  endpoint_url = {s3.endpoint}\n"
    )
    (aws.root / "shared").write_text(
        "[own]\naws_access_key_id = ID\naws_secret_access_key=SE/+\n[other]\naws_session_token=t"
    )
    aws.environment |= {"AWS_CONFIG_FILE": "config", "AWS_SHARED_CREDENTIALS_FILE": "shared", "AWS_PROFILE": "own"}
    assert aws.run(["s3", "rm", "s3://b/k"]).code == 0
    (headers,) = s3.asked("DELETE")
    assert "Credential=ID/" in headers["authorization"] and "/eu-south-2/s3/" in headers["authorization"]
    assert aws.run(["s3", "rm", "s3://b/k", "--profile", "nope"]).code == 255
    flags = ["--region", "eu-west-3", "--endpoint-url", f"{s3.endpoint}/base/", "--no-sign-request"]
    assert aws.run(["s3", "rm", "s3://b/other", *flags]).code == 0
    assert [headers.get("authorization") for headers in s3.asked("DELETE /base/b/other$")] == [None]


def test_the_rest_is_the_real_clis(aws: FastSide, s3: FaultyS3) -> None:
    done = aws.run(["s3", "sync", "a", "s3://b"])
    assert (done.code, done.stderr.count("\n"), "pip install awscli" in done.stderr) == (252, 1, True)
    real = aws.root / "real"
    real.mkdir()
    (real / "aws").write_text('#!/bin/bash\necho "$LC_ALL|$TZ|$*"; echo err >&2; cat; exit 7')
    (real / "aws").chmod(0o755)
    aws.environment |= {"PATH": f"{aws.program.parent}:{real}", "LC_ALL": "C.UTF-8"}
    for command in ("s3 sync a s3://b", "ec2 describe-instances", "s3 cp - s3://b/k --sse-c AES256"):
        assert aws.run(command.split(), b"in") == Result(7, f"C.UTF-8||{command}\nin", "err\n")
    aws.environment["s3_stubbed_session"] = "s"
    assert aws.run(["s3", "rm", "s3://b/k"]).code == 7
    assert s3.requests == []
