"""What a person reads when AWS says no: one line, exit code 2, and throttling is waited out."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hardway.config import Aws, Settings
from hardway.errors import Failed
from hardway.s3 import objects
from tests.conftest import Inv
from tests.test_house import HEAVY, loaded

Refuse = Callable[[str, int], "Refuser"]
EMPTY = (
    '<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
    "<requestId>x</requestId><reservationSet/></DescribeInstancesResponse>"
)


class Refuser:
    """An EC2 that answers the first `times` calls with an error, the others with no instances."""

    def __init__(self, code: str, times: int) -> None:
        refuser = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                refuser.calls += 1
                refused = refuser.calls <= times
                body = EMPTY
                if refused:
                    body = (
                        f"<Response><Errors><Error><Code>{code}</Code><Message>said {code}</Message></Error></Errors>"
                        "<RequestID>x</RequestID></Response>"
                    )
                self.send_response(503 if code == "RequestLimitExceeded" and refused else 403 if refused else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

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

    def start(code: str, times: int = 1000) -> Refuser:
        started.append(Refuser(code, times))
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
    """What answers in the place of everybody, as a hotel's network does."""

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
