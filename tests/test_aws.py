"""A refusal by AWS is one line and exit code 2 for a person, and throttling is waited out."""

from __future__ import annotations

import io
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hardway import aws
from hardway.config import Aws, Settings
from hardway.ec2 import instances
from hardway.errors import Failed
from hardway.s3 import objects
from tests.conftest import Inv
from tests.test_house import HEAVY, loaded

pytestmark = pytest.mark.starts

Refuse = Callable[..., "Refuser"]
BLOB = "Ab0_-" * 60
EMPTY = (
    '<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
    "<requestId>x</requestId><reservationSet/></DescribeInstancesResponse>"
)


class Refuser:
    """An EC2 that answers the first `times` calls with an error, the others with no instances.

    Its clock is `ahead` of ours by so many seconds.
    """

    def __init__(self, code: str, times: int = 1000, said: str = "", ahead: float = 0) -> None:
        refuser = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                refuser.calls += 1
                refused = refuser.calls <= times
                body = EMPTY
                if refused:
                    words = said or f"said {code}"
                    body = (
                        f"<Response><Errors><Error><Code>{code}</Code><Message>{words}</Message></Error></Errors>"
                        "<RequestID>x</RequestID></Response>"
                    )
                self.send_response(503 if code == "RequestLimitExceeded" and refused else 403 if refused else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def date_time_string(self, timestamp: float | None = None) -> str:
                return super().date_time_string(time.time() + ahead)

            def log_message(self, *arguments: object) -> None:
                return

        self.calls = 0
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        self.env = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server.server_address[1]}",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_REGION": "us-east-1",
        }

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def refuse() -> Iterator[Refuse]:
    started: list[Refuser] = []

    def start(code: str, times: int = 1000, said: str = "", ahead: float = 0) -> Refuser:
        started.append(Refuser(code, times, said, ahead))
        return started[-1]

    yield start
    for refuser in started:
        refuser.close()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("RequestExpired", "have expired: log in again"),
        ("ExpiredToken", "have expired: log in again"),
        ("AuthFailure", "does not accept these credentials"),
        ("InvalidClientTokenId", "does not accept these credentials"),
        ("UnauthorizedOperation", "AWS denies DescribeInstances to these credentials"),
        ("SomethingNew", "AWS refused DescribeInstances: said SomethingNew (SomethingNew)"),
    ],
)
def test_a_refusal_is_a_line_that_says_what_to_do(inv: Inv, refuse: Refuse, code: str, said: str) -> None:
    result = inv("ec2.ls", env=refuse(code, 1000).env)
    assert (result.code, result.stdout) == (2, "")
    assert said in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("code", ["AuthFailure", "RequestExpired", "SignatureDoesNotMatch", "RequestTimeTooSkewed"])
@pytest.mark.parametrize(("ahead", "where"), [(3000, "50 min behind"), (-3000, "50 min ahead of")])
def test_a_wrong_clock_is_named(inv: Inv, refuse: Refuse, code: str, ahead: int, where: str) -> None:
    result = inv("ec2.ls", env=refuse(code, ahead=ahead).env)
    assert result.code == 2
    assert f"this machine's clock is {where} AWS's" in result.stderr
    assert "log in again" not in result.stderr


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        (
            "AuthFailure",
            "AWS was not able to validate the provided access credentials",
            "not enabled for the account says the same",
        ),
        ("AuthFailure", "Not authorized for images: [ami-1]", "refused DescribeInstances: Not authorized for images"),
        ("AuthFailure", "Not authorized for images: [ami-1]", "share it with this account"),
        ("OptInRequired", "You need to accept terms and subscribe: https://x.example", "subscribe: https://x.example"),
        ("RequestExpired", "Request has expired.", "log in again"),
        ("InvalidAMIID.Unavailable", "The image 'ami-1' is no longer available", "is no longer available"),
        ("UnauthorizedOperation", "You are not authorized: no VPC endpoint policy allows it", "no VPC endpoint policy"),
        ("Blocked", "This account is currently blocked", "This account is currently blocked"),
    ],
)
def test_ec2_is_quoted_where_it_says_more(inv: Inv, refuse: Refuse, code: str, words: str, said: str) -> None:
    result = inv("ec2.ls", env=refuse(code, said=words).env)
    assert result.code == 2
    [line] = result.stderr.splitlines()
    assert said in line
    assert words.split(":")[0] in line
    assert code in line
    assert ("does not accept" in line) == ("credentials" in words)


def test_an_encoded_denial_is_a_command_that_decodes_it(inv: Inv, refuse: Refuse, tmp_path: Path) -> None:
    words = f"You are not authorized to perform this operation. Encoded authorization failure message: {BLOB}"
    result = inv("ec2.ls", env=refuse("UnauthorizedOperation", said=words).env)
    [line] = result.stderr.splitlines()
    assert BLOB[:40] not in line
    assert "You are not authorized to perform this operation. (" not in line
    command = line[line.index("`") + 1 : line.rindex("`")]
    assert command.startswith("aws sts decode-authorization-message ")
    stand_in = tmp_path / "aws"
    stand_in.write_text('#!/bin/sh\nfor last; do :; done; cat "${last#file://}"\n')
    stand_in.chmod(0o755)
    words = subprocess.check_output(["sh", "-c", command], env={"PATH": f"{tmp_path}:/bin:/usr/bin"}, text=True)
    assert words == BLOB
    assert Path(shlex.split(command)[-1].removeprefix("file://")).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("operation", "advised"),
    [("RunInstances", True), ("CreateFleet", True), ("StartInstances", False), ("ModifyInstanceAttribute", False)],
)
def test_advice_is_for_the_task(operation: str, advised: bool) -> None:
    said = str(aws.translate(aws.refusal(operation, "InsufficientInstanceCapacity", "Not enough m7i.large.")))
    assert "Not enough m7i.large." in said
    assert ("--type" in said) == advised


def test_an_answer_without_a_part_is_told_and_a_task_that_calls_us_is_not_blamed_on_aws() -> None:
    with pytest.raises(KeyError) as ours:
        instances.from_description({}, "us-east-1", "")
    assert str(aws.translate(ours.value)).startswith("AWS's answer has no 'InstanceId'")
    assert aws.translate(KeyError("InstanceId")) is None


def test_throttling_is_waited_out(inv: Inv, refuse: Refuse) -> None:
    throttled = refuse("RequestLimitExceeded", 2)
    result = inv("ec2.ls", env=throttled.env)
    assert (result.code, result.stderr) == (0, "no instances\n")
    assert throttled.calls == 4  # two refusals, the instances, the volumes that some have left


def test_a_listing_waits_only_for_botocore(inv: Inv, refuse: Refuse) -> None:
    result = inv("ec2.ls", env={**refuse("", 0).env, "PYTHONPROFILEIMPORTTIME": "1"})
    assert result.code == 0
    assert loaded(result) & {*HEAVY} == {"botocore"}


class LoginPage(BaseHTTPRequestHandler):
    """A server that answers in place of every other, as a hotel's network does."""

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "13")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(b"<html></html>")

    do_PUT = do_HEAD = do_POST = do_GET

    def log_message(self, *arguments: object) -> None:
        return


def test_a_login_page_is_no_object_in_s3() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), LoginPage) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            with pytest.MonkeyPatch.context() as patch:
                for name, value in (("ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}"),
                                    ("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "x")):  # fmt: skip
                    patch.setenv(f"AWS_{name}", value)
                store = objects.store(replace(Settings(), aws=Aws(region="us-east-1")))
                which = objects.parse("s3://bucket/key")
                for use in (
                    lambda: store.exists(which),
                    lambda: store.read(which, io.BytesIO()),
                    lambda: store.write(which, io.BytesIO(b"content")),
                ):
                    with pytest.raises(Failed, match="login page"):
                        use()
        finally:
            server.shutdown()
            thread.join()
