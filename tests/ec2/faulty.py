"""A proxy in front of EC2 that a test makes fail: this call, before or after it is carried out."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

Answer = tuple[int, bytes]
Forward = Callable[[], Answer]
Plan = Callable[[str, dict[str, str], Forward], Answer | None]


class FaultyEC2:
    """Forwards to `endpoint`; counts the calls by their action.

    `plan`, if set, answers in place of that: it is given the action, its parameters (JSON has an empty name) and what
    forwards the call, and returns the answer, or None to close the connection without one.
    """

    def __init__(self, endpoint: str) -> None:
        faulty = self
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
                    connection = http.client.HTTPConnection(target, timeout=60)
                    headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
                    connection.request("POST", self.path, body, headers)
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

            def log_message(self, *arguments: object) -> None:
                return

        self.calls: list[tuple[str, dict[str, str]]] = []
        self.plan: Plan | None = None
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def actions(self) -> list[str]:
        return [action for action, _ in self.calls]


def refused(code: str, status: int = 400) -> Answer:
    """EC2 says no."""
    text = (
        f"<Response><Errors><Error><Code>{code}</Code><Message>said {code}</Message></Error></Errors>"
        "<RequestID>x</RequestID></Response>"
    )
    return status, text.encode()
