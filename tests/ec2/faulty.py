"""A proxy in front of EC2 that a test makes fail: this call, before or after it is carried out."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Mapping
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.patience import patience

Answer = tuple[int, bytes]
Forward = Callable[[], Answer]
Plan = Callable[[str, dict[str, str], Forward], Answer | None]


class FaultyEC2:
    """Forwards to where an environment points; counts the calls by their action.

    `plan`, if set, answers in place of that: it is given the action, its parameters (JSON has an empty name) and what
    forwards the call, and returns the answer, or None to close the connection without one. Its clock is `ahead` by so
    many seconds.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        faulty = self
        endpoint = self._target = environment["AWS_ENDPOINT_URL"]
        self._credentials = Credentials(environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"])
        target = endpoint.removeprefix("http://")

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                action = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
                parameters = {"": body.decode()}
                if not action:
                    parameters = {name: values[0] for name, values in parse_qs(body.decode()).items()}
                    action = parameters["Action"]
                faulty.calls.append((action, parameters))

                def forward() -> Answer:
                    connection = http.client.HTTPConnection(target, timeout=patience(60))
                    connection.request(
                        "POST", self.path, body, faulty.signed(self.path, body, dict(self.headers.items()))
                    )
                    answered = connection.getresponse()
                    content = answered.read()
                    connection.close()
                    return answered.status, content

                plan = faulty.plan
                answer = plan(action, parameters, forward) if plan else forward()
                if answer is None:
                    self.close_connection = True
                    return
                self.send_response(answer[0])
                self.send_header("Content-Length", str(len(answer[1])))
                self.end_headers()
                try:
                    self.wfile.write(answer[1])
                except OSError:
                    self.close_connection = True

            def date_time_string(self, timestamp: float | None = None) -> str:
                return formatdate(time.time() + faulty.ahead, usegmt=True)

            def log_message(self, *arguments: object) -> None:
                return

        self.calls: list[tuple[str, dict[str, str]]] = []
        self.plan: Plan | None = None
        self.ahead = 0.0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def signed(self, path: str, body: bytes, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers of a call as the client would have sent them to where it is forwarded to."""
        again = {k: v for k, v in headers.items() if k.lower() not in ("host", "authorization", "x-amz-date")}
        _, _, region, service, _ = headers["Authorization"].split(",")[0].split("/")
        request = AWSRequest("POST", self._target + path, again, body)
        SigV4Auth(self._credentials, service, region).add_auth(request)
        return dict(request.headers.items())

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def actions(self) -> list[str]:
        return [action for action, _ in self.calls]


def refused(code: str, status: int = 400, said: str = "") -> Answer:
    """EC2 says no."""
    text = (
        f"<Response><Errors><Error><Code>{code}</Code><Message>{said or f'said {code}'}</Message></Error></Errors>"
        "<RequestID>x</RequestID></Response>"
    )
    return status, text.encode()


def refused_fleet(*codes: str, said: str = "no") -> Answer:
    """CreateFleet succeeds, with an error of each code and no instance."""
    errors = "".join(f"<item><errorCode>{code}</errorCode><errorMessage>{said}</errorMessage></item>" for code in codes)
    answer = '<CreateFleetResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><fleetId>fleet-1</fleetId>'
    return 200, f"{answer}<errorSet>{errors}</errorSet></CreateFleetResponse>".encode()
