"""AWS's signatures, from both sides: our own requests are signed, everybody's requests are checked.

Version 4 in a header, as chunks, or in the query; and version 2 in the query of S3, which boto3 still presigns with.
The rules: https://docs.aws.amazon.com/IAM/latest/UserGuide/create-signed-request.html,
https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html,
https://docs.aws.amazon.com/AmazonS3/latest/API/RESTAuthentication.html. Pure.
"""

from __future__ import annotations

import base64
import calendar
import hashlib
import hmac
import posixpath
import re
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import IO

ALGORITHM = "AWS4-HMAC-SHA256"
DATE = "%Y%m%dT%H%M%SZ"
SKEW_SECONDS = 15 * 60
MOST_SECONDS = 7 * 24 * 3600
"""The longest time that a presigned request may be good for."""
UNSIGNED = ("UNSIGNED-PAYLOAD", "STREAMING-UNSIGNED-PAYLOAD-TRAILER")
CHUNKED = ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER")
NOTHING = hashlib.sha256(b"").hexdigest()
MOST_CHUNK = 64 << 20
_OF_S3 = """accelerate acl analytics cors delete defaultObjectAcl inventory lifecycle location logging metrics
notification partNumber policy replication requestPayment restore select select-type tagging torrent uploadId uploads
versionId versioning versions website response-cache-control response-content-disposition response-content-encoding
response-content-language response-content-type response-expires"""
SUBRESOURCES = frozenset(_OF_S3.split())
"""The parameters of a query that version 2 signs."""
Pairs = Sequence[tuple[str, str]]


class Refused(Exception):
    """A request is not let in, with S3's code and message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class HTTPRequest:
    """A request as it was sent. `target` is path and query. Headers keep their order, with names in lower case."""

    method: str
    target: str
    headers: Pairs

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def query(self) -> Pairs:
        """Names and values, decoded."""
        pairs = [part.partition("=") for part in self.target.partition("?")[2].split("&") if part]
        return [(_decoded(name), _decoded(value)) for name, _, value in pairs]

    def header(self, name: str) -> str:
        """Return all values of a header as one, "" for none."""
        return ",".join(" ".join(value.split()) for key, value in self.headers if key == name)


@dataclass(frozen=True)
class Signed:
    """A request whose signature is right: its key, its service, and `payload`, the digest or kind that its body claims.

    The remaining parts are for the signatures of chunks.
    """

    key_id: str
    service: str
    payload: str
    key: bytes = b""
    date: str = ""
    scope: str = ""
    signature: str = ""


def sign(method: str, url: str, body: bytes, key_id: str, secret: str) -> dict[str, str]:
    """Sign a request of our own to an address of the daemon's; return its headers."""
    parts = urllib.parse.urlsplit(url)
    date, digest = time.strftime(DATE, time.gmtime()), hashlib.sha256(body).hexdigest()
    headers = [("host", parts.netloc), ("x-amz-content-sha256", digest), ("x-amz-date", date)]
    names = [name for name, _ in headers]
    scope = f"{date[:8]}/local/hardway/aws4_request"
    key = _signing_key(secret, *scope.split("/")[:3])
    signature = _version_4(HTTPRequest(method, parts.path, headers), names, digest, key, date, scope)
    authorization = f"{ALGORITHM} Credential={key_id}/{scope}, SignedHeaders={';'.join(names)}, Signature={signature}"
    return {**dict(headers[1:]), "authorization": authorization}


def verify(
    request: HTTPRequest, secret_of: Callable[[str], str | None], hash_body: Callable[[], str], now: float
) -> Signed:
    """Check the signature of a request, and return the request as signed.

    `secret_of` returns the secret of a key's id, None for an unknown key. `hash_body` returns the SHA-256 of the body;
    it is called if no header gives the digest. Raises Refused for a request that isn't signed, isn't signed well, or
    comes too early or late.
    """
    query = request.query
    named = {name for name, _ in query}
    ways = [
        (bool(request.header("authorization")), _by_header),
        ("X-Amz-Signature" in named, _by_query),
        ("Signature" in named, _by_old_query),
    ]
    used = [way for given, way in ways if given]
    if not used:
        raise Refused("AccessDenied", "The local cloud answers signed requests only; see local.env.")
    if len(used) > 1:
        raise Refused("InvalidRequest", "Only one way of signing a request is allowed.")
    return used[0](request, secret_of, hash_body, now)


def _by_header(
    request: HTTPRequest, secret_of: Callable[[str], str | None], hash_body: Callable[[], str], now: float
) -> Signed:
    algorithm, _, rest = request.header("authorization").partition(" ")
    fields = dict(part.strip().partition("=")[::2] for part in rest.split(","))
    if algorithm != ALGORITHM or not {"Credential", "SignedHeaders", "Signature"} <= set(fields):
        raise Refused("AccessDenied", f"The local cloud takes signatures by {ALGORITHM} only.")
    key_id, scope = _credential(fields["Credential"])
    names = fields["SignedHeaders"].split(";")
    date = request.header("x-amz-date")
    if abs(_time(date) - now) > SKEW_SECONDS:
        raise Refused("RequestTimeTooSkewed", "The time of the request is too far from the time here.")
    if not {"host", "x-amz-date"} <= set(names):
        raise Refused("AccessDenied", "host and x-amz-date must be among the signed headers.")
    payload = request.header("x-amz-content-sha256")
    key = _key_of(key_id, scope, date, secret_of)
    signature = _version_4(request, names, payload or hash_body(), key, date, scope)
    _compare(signature, fields["Signature"])
    return Signed(key_id, scope.split("/")[2], payload, key, date, scope, signature)


def _by_query(
    request: HTTPRequest, secret_of: Callable[[str], str | None], hash_body: Callable[[], str], now: float
) -> Signed:
    given = _once(request.query)
    wanted = ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders")
    if any(name not in given for name in wanted) or given["X-Amz-Algorithm"] != ALGORITHM:
        raise Refused("AuthorizationQueryParametersError", f"A presigned request needs {', '.join(wanted)}.")
    key_id, scope = _credential(given["X-Amz-Credential"])
    names = given["X-Amz-SignedHeaders"].split(";")
    date, good_for = given["X-Amz-Date"], given["X-Amz-Expires"]
    if not re.fullmatch("[0-9]{1,6}", good_for) or int(good_for) > MOST_SECONDS or "host" not in names:
        raise Refused("AuthorizationQueryParametersError", "X-Amz-Expires or X-Amz-SignedHeaders is invalid.")
    if _time(date) > now + SKEW_SECONDS or _time(date) + int(good_for) < now:
        raise Refused("AccessDenied", "Request has expired")
    s3 = scope.split("/")[2] == "s3"
    payload = request.header("x-amz-content-sha256") or ("UNSIGNED-PAYLOAD" if s3 else "")
    key = _key_of(key_id, scope, date, secret_of)
    signature = _version_4(request, names, payload or hash_body(), key, date, scope)
    _compare(signature, given["X-Amz-Signature"])
    return Signed(key_id, scope.split("/")[2], payload, key, date, scope, signature)


def _by_old_query(
    request: HTTPRequest, secret_of: Callable[[str], str | None], hash_body: Callable[[], str], now: float
) -> Signed:
    given = _once(request.query)
    expires, key_id = given.get("Expires", ""), given.get("AWSAccessKeyId", "")
    if not re.fullmatch("[0-9]{1,12}", expires) or int(expires) < now:
        raise Refused("AccessDenied", "Request has expired")
    amz: dict[str, list[str]] = {}
    for name, value in request.headers:
        if name.startswith("x-amz-"):
            amz.setdefault(name, []).append(value.strip())
    parts = [f"{name}={value}" if value else name for name, value in sorted(request.query) if name in SUBRESOURCES]
    lines = [
        request.method,
        request.header("content-md5"),
        request.header("content-type"),
        expires,
        *(f"{name}:{','.join(values)}" for name, values in sorted(amz.items())),
        request.path + ("?" + "&".join(parts) if parts else ""),
    ]
    secret = _secret_of(key_id, secret_of)
    digest = hmac.digest(secret.encode(), _bytes("\n".join(lines)), "sha1")
    _compare(base64.b64encode(digest).decode(), given["Signature"])
    return Signed(key_id, "s3", "UNSIGNED-PAYLOAD")


def verify_body(signed: Signed, body: IO[bytes]) -> None:
    """Read a body and check it against the signature. Raises Refused."""
    if signed.payload in CHUNKED:
        _verify_chunks(signed, body)
    elif signed.payload and signed.payload not in UNSIGNED:
        digest = hashlib.sha256()
        while data := body.read(1 << 20):
            digest.update(data)
        if not hmac.compare_digest(digest.hexdigest(), signed.payload):
            raise Refused("XAmzContentSHA256Mismatch", "The provided 'x-amz-content-sha256' does not match the body.")


def _verify_chunks(signed: Signed, body: IO[bytes]) -> None:
    previous = signed.signature
    for kind, digests, given in _chunks(body):
        lines = [f"{ALGORITHM}-{kind}", signed.date, signed.scope, previous, *digests]
        previous = hmac.digest(signed.key, "\n".join(lines).encode(), "sha256").hex()
        _compare(previous, given)
    if body.read(1):
        raise Refused("IncompleteBody", "The body has more than the signed chunks.")


def _chunks(body: IO[bytes]) -> Iterator[tuple[str, list[str], str]]:
    """Yield the kind of each chunk, and of the trailer, the digests that are signed, the signature. Raises Refused."""
    size = -1
    while size:
        head = re.fullmatch(rb"([0-9a-fA-F]{1,8});chunk-signature=([0-9a-f]{64})\r\n", body.readline(1024))
        size = int(head[1], 16) if head else -1
        data = body.read(size) if 0 <= size <= MOST_CHUNK else b""
        if not head or len(data) != size or size > MOST_CHUNK:
            raise Refused("IncompleteBody", "The body is not made of signed chunks.")
        yield "PAYLOAD", [NOTHING, hashlib.sha256(data).hexdigest()], head[2].decode()
        if size and body.read(2) != b"\r\n":
            raise Refused("IncompleteBody", "The body is not made of signed chunks.")
    trailer = b""
    while (line := body.readline(8192)) not in (b"", b"\r\n"):
        name, _, value = line.strip().partition(b":")
        if name == b"x-amz-trailer-signature":
            yield "TRAILER", [hashlib.sha256(trailer).hexdigest()], value.decode("latin-1")
            trailer = b""
        else:
            trailer += name + b":" + value + b"\n"
            if len(trailer) > 1 << 16:
                raise Refused("IncompleteBody", "The trailer is too long.")
    if trailer:
        raise Refused("AccessDenied", "The trailer is not signed.")


def _version_4(request: HTTPRequest, names: Sequence[str], payload: str, key: bytes, date: str, scope: str) -> str:
    given = {name for name, _ in request.headers}
    if not set(names) <= given or sorted(names) != list(names):
        raise Refused("AccessDenied", "The signed headers must be present, and sorted.")
    if any(name.startswith("x-amz-") and name not in names for name in given):
        raise Refused("AccessDenied", "There were headers present in the request which were not signed")
    path = _encoded(_decoded(request.path))
    if scope.split("/")[2] != "s3":
        path = urllib.parse.quote(_normal(request.path), safe="/-_.~")
    query = sorted(
        (_encoded(name, ""), _encoded(value, "")) for name, value in request.query if name != "X-Amz-Signature"
    )
    lines = [
        request.method,
        path,
        "&".join(f"{name}={value}" for name, value in query),
        *(f"{name}:{request.header(name)}" for name in names),
        "",
        ";".join(names),
        payload,
    ]
    digest = hashlib.sha256(_bytes("\n".join(lines))).hexdigest()
    return hmac.digest(key, "\n".join([ALGORITHM, date, scope, digest]).encode(), "sha256").hex()


def _credential(text: str) -> tuple[str, str]:
    """Return the key's id and the scope. Raises Refused."""
    key_id, _, scope = text.partition("/")
    parts = scope.split("/")
    if len(parts) != 4 or parts[3] != "aws4_request" or not scope.isascii():
        raise Refused("AuthorizationHeaderMalformed", "The credential is not KEY/DATE/REGION/SERVICE/aws4_request.")
    return key_id, scope


def _key_of(key_id: str, scope: str, date: str, secret_of: Callable[[str], str | None]) -> bytes:
    day, region, service, _ = scope.split("/")
    if day != date[:8]:
        raise Refused("AccessDenied", "The credential is for another day than the request.")
    return _signing_key(_secret_of(key_id, secret_of), day, region, service)


def _secret_of(key_id: str, secret_of: Callable[[str], str | None]) -> str:
    secret = secret_of(key_id)
    if secret is None:
        raise Refused("InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records.")
    return secret


@lru_cache(maxsize=256)
def _signing_key(secret: str, day: str, region: str, service: str) -> bytes:
    key = b"AWS4" + secret.encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _compare(ours: str, theirs: str) -> None:
    if not hmac.compare_digest(ours.encode(), _bytes(theirs)):
        raise Refused(
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. "
            "This shell may point at another local cloud, or a former one: evaluate what local.env prints",
        )


def _time(date: str) -> float:
    try:
        return calendar.timegm(time.strptime(date, DATE))
    except ValueError:
        raise Refused("AccessDenied", "X-Amz-Date is not a time.") from None


def _once(query: Pairs) -> Mapping[str, str]:
    """Return a query as a mapping. Raises Refused if a name is there twice."""
    names = [name for name, _ in query]
    if len(names) != len(set(names)):
        raise Refused("InvalidRequest", "A parameter of a presigned request is there twice.")
    return dict(query)


def _normal(path: str) -> str:
    normal = posixpath.normpath(path) if path else "/"
    normal = "/" + normal.lstrip("/")
    return normal + "/" if path.endswith("/") and normal != "/" else normal


def _decoded(text: str) -> str:
    return urllib.parse.unquote(text, "utf-8", "surrogateescape")


def _encoded(text: str, safe: str = "/") -> str:
    return urllib.parse.quote(text, safe + "-_.~", "utf-8", "surrogateescape")


def _bytes(text: str) -> bytes:
    """Return the bytes as they were sent: headers are decoded as Latin-1."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")
