"""The HTTP server of the daemon: moto behind the gate. Some requests are answered before they come to moto."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Iterable, Mapping
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

from hardway.local.api import limits, moto_patches, prices
from hardway.local.api.ec2_error import EC2Error
from hardway.local.api.launch_buckets import LaunchBuckets
from hardway.local.cloud import Cloud
from hardway.local.fault_injector import FaultInjector
from hardway.local.gate import Gate, HTTPServer
from hardway.local.running import FAULT_PATH, STATUS_PATH

SERVICES: tuple[Any, ...] = ("ec2", "s3", "iam", "sts", "ssm")
POLL_SECONDS = 0.05
"""The pause between two checks for the server's end."""
_DRY_RUN = re.compile(rb"(?:^|&)DryRun=true(?:&|$)", re.IGNORECASE)
_NOT_IN_XML = re.compile(rb"%(?:0[0-8BCEF]|1[0-9A-F]|ED%[AB]|EF%BF%B[EF])", re.IGNORECASE)
"""Characters, as a form encodes them, that XML 1.0 lacks: https://www.w3.org/TR/xml/#charsets"""


class Server:
    """A server at `endpoint` that answers from `start` to `stop`. One a process: moto's backends are global."""

    def __init__(self) -> None:
        self._server = HTTPServer()
        self._host = f"127.0.0.1:{self._server.server_port}"
        self.endpoint = f"http://{self._host}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[POLL_SECONDS], name="moto")

    def start(self, cloud: Cloud, faults: FaultInjector, buckets: LaunchBuckets) -> None:
        """Answer for a cloud."""
        moto_patches.apply(cloud, faults.grant, buckets)
        moto = DomainDispatcherApplication(create_backend_app)
        for service in SERVICES:
            moto.app_instances[service] = create_backend_app(service)
        s3, sts = moto.app_instances["s3"], moto.app_instances["sts"]
        self._server.app = Gate(self._host, cloud.keys.secret_of, _Application(moto, cloud, faults), s3, sts)
        self._thread.start()

    async def stop(self) -> None:
        """Close the server."""
        await asyncio.get_running_loop().run_in_executor(None, self._server.shutdown)
        self._thread.join()
        self._server.server_close()


class _Application:
    """The daemon's own answers, and moto's WSGI application for all other requests."""

    def __init__(self, moto: Any, cloud: Cloud, faults: FaultInjector) -> None:
        self._moto = moto
        self._cloud = cloud
        self._faults = faults

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path == STATUS_PATH:
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(self._cloud.states()).encode()]
        if path == FAULT_PATH:
            status, said = self._faults.answer(_body(environ))
            start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
            return [said.encode()]
        if environ.get("HTTP_X_AMZ_TARGET") == prices.TARGET:
            start_response("200 OK", [("Content-Type", "application/x-amz-json-1.1")])
            return [json.dumps(prices.get_products(_body(environ))).encode()]
        error = self._refusal(environ)
        answer: Iterable[bytes] = (error or self._moto)(environ, start_response)
        return answer

    def _refusal(self, environ: dict[str, Any]) -> EC2Error | None:
        if self._faults.throttles(environ):
            return EC2Error(503, "RequestLimitExceeded", "Request limit exceeded.")
        if "/ec2/" not in environ.get("HTTP_AUTHORIZATION", ""):
            return None
        form = b"&".join([_body(environ), environ.get("QUERY_STRING", "").encode("latin-1")])
        environ["wsgi.input"].seek(0)
        if _NOT_IN_XML.search(form):
            said = "A value has a character that XML does not allow."
            return EC2Error(400, "InvalidParameterValue", said)
        refusal = limits.refusal(form)
        if refusal is None and _DRY_RUN.search(form):
            # moto ignores DryRun in some calls. The owner of a local cloud may do everything.
            return EC2Error(412, "DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
        return refusal


def _body(environ: Mapping[str, Any]) -> bytes:
    body: bytes = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    return body
