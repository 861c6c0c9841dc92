"""Signatures as the daemon checks them: by AWS's published examples, and by botocore as the one who signs."""

from __future__ import annotations

import hashlib
import io
import time
import urllib.parse
from typing import Any

import pytest
from botocore.auth import HmacV1QueryAuth, S3SigV4Auth, S3SigV4QueryAuth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from hardway.local import signing
from hardway.local.signing import NOTHING, HTTPRequest, Refused, Signed

KEY, SECRET = "a key", "a secret"
HOST = "127.0.0.1:5000"
EXAMPLE = ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
EXAMPLE_TIME = 1369353600.0
SCOPE = "20130524/us-east-1/s3/aws4_request"


def verified(request: HTTPRequest, body: bytes = b"", now: float | None = None, secret: str = SECRET) -> Signed:
    def secret_of(key: str) -> str | None:
        return {KEY: secret, EXAMPLE[0]: EXAMPLE[1]}.get(key)

    signed = signing.verify(
        request, secret_of, lambda: hashlib.sha256(body).hexdigest(), time.time() if now is None else now
    )
    signing.verify_body(signed, io.BytesIO(body))
    return signed


def sent(request: AWSRequest) -> tuple[HTTPRequest, bytes]:
    """A request that botocore has signed, as a server sees it."""
    prepared = request.prepare()
    parts = urllib.parse.urlsplit(prepared.url)
    target = parts.path + ("?" + parts.query if parts.query else "")
    values = {name: value.decode() if isinstance(value, bytes) else value for name, value in prepared.headers.items()}
    headers = {"Host": parts.netloc, **values}
    body = prepared.body or b""
    return HTTPRequest(prepared.method, target, [(k.lower(), v) for k, v in headers.items()]), body


def test_the_published_example_of_a_header() -> None:
    headers = [
        ("host", "examplebucket.s3.amazonaws.com"),
        ("range", "bytes=0-9"),
        ("x-amz-content-sha256", NOTHING),
        ("x-amz-date", "20130524T000000Z"),
        (
            "authorization",
            f"AWS4-HMAC-SHA256 Credential={EXAMPLE[0]}/{SCOPE},"
            "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
            "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
    ]
    assert verified(HTTPRequest("GET", "/test.txt", headers), now=EXAMPLE_TIME).key_id == EXAMPLE[0]
    with pytest.raises(Refused, match="match"):
        verified(HTTPRequest("GET", "/text.txt", headers), now=EXAMPLE_TIME)


def test_the_published_example_of_a_query() -> None:
    target = (
        f"/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={EXAMPLE[0]}%2F{SCOPE.replace('/', '%2F')}"
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )
    request = HTTPRequest("GET", target, [("host", "examplebucket.s3.amazonaws.com")])
    assert verified(request, now=EXAMPLE_TIME + 86000).service == "s3"
    for late in (-2000, 87000):
        with pytest.raises(Refused, match="expired"):
            verified(request, now=EXAMPLE_TIME + late)
    with pytest.raises(Refused):
        verified(HTTPRequest("PUT", target, request.headers), now=EXAMPLE_TIME)


CHUNKS = [
    (65536, "ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648"),
    (1024, "0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497"),
    (0, "b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9"),
]


def test_the_published_example_of_chunks() -> None:
    names = "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;"
    headers = [
        ("host", "s3.amazonaws.com"),
        ("x-amz-date", "20130524T000000Z"),
        ("x-amz-storage-class", "REDUCED_REDUNDANCY"),
        (
            "authorization",
            f"AWS4-HMAC-SHA256 Credential={EXAMPLE[0]}/{SCOPE},SignedHeaders={names}x-amz-storage-class,"
            "Signature=4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
        ),
        ("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        ("content-encoding", "aws-chunked"),
        ("x-amz-decoded-content-length", "66560"),
        ("content-length", "66824"),
    ]
    request = HTTPRequest("PUT", "/examplebucket/chunkObject.txt", headers)
    body = b"".join(b"%x;chunk-signature=%s\r\n" % (n, s.encode()) + b"a" * n + b"\r\n" for n, s in CHUNKS)
    assert verified(request, body, EXAMPLE_TIME).payload == "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"
    for wrong in (
        body.replace(b"aa\r\n", b"ab\r\n"),
        body[: body.index(b"\r\n400;")] + b"\r\n",  # a chunk less, and no last one
        body[: body.index(b"400;")] + body[body.index(b"0;chunk-signature=b6c6") :],
        body + b"more",
        b"fffffffffff;chunk-signature=",
        b"",
    ):
        with pytest.raises(Refused):
            verified(request, wrong, EXAMPLE_TIME)


texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
ITS_OWN = ("AWSAccessKeyId", "Expires", "Signature")
"""The parameters that a presigned request adds."""
pairs = st.dictionaries(texts.filter(lambda text: text not in ITS_OWN), st.text(max_size=5).filter(str.isprintable))


def signed_by_botocore(
    how: Any, service: str, key: str, query: dict[str, str], body: bytes
) -> tuple[HTTPRequest, bytes]:
    path = urllib.parse.quote("/bucket/" + key, safe="/~")
    url = f"http://{HOST}{path}"
    if query:
        url += "?" + urllib.parse.urlencode(query, quote_via=urllib.parse.quote)
    headers = {"Content-Type": "text/plain", "X-Amz-Meta-Note": "two  blanks"} if how is SigV4Auth else {}
    request = AWSRequest("PUT", url, headers, body)
    request.context["payload_signing_enabled"] = True
    if how is HmacV1QueryAuth:
        how(Credentials(KEY, SECRET)).add_auth(request)
    else:
        how(Credentials(KEY, SECRET), service, "us-east-1").add_auth(request)
    return sent(request)


@settings(max_examples=30, deadline=None)
@given(key=texts, query=pairs, body=st.binary(max_size=20))
@pytest.mark.parametrize(
    ("how", "service"), [(SigV4Auth, "ec2"), (S3SigV4Auth, "s3"), (S3SigV4QueryAuth, "s3"), (HmacV1QueryAuth, "s3")]
)
def test_what_botocore_signs_is_let_in_and_nothing_that_differs(
    how: Any, service: str, key: str, query: dict[str, str], body: bytes
) -> None:
    if how is SigV4Auth:
        key = key.replace("/", "").strip(".") or "x"
    # presigned without a body, which botocore would take for more of the query
    presigned = how in (S3SigV4QueryAuth, HmacV1QueryAuth)
    request, body = signed_by_botocore(how, service, key, query, b"" if presigned else body)
    assert verified(request, body).key_id == KEY

    path, _, rest = request.target.partition("?")
    others = [
        HTTPRequest("GET", request.target, request.headers),
        HTTPRequest(request.method, path + "x?" + rest, request.headers),
        HTTPRequest(request.method, request.target, [*request.headers, ("x-amz-copy-source", "/other/object")]),
    ]
    if how is not HmacV1QueryAuth:  # which signs neither
        others += [
            HTTPRequest(request.method, request.target + ("&" if rest else "?") + "more=1", request.headers),
            HTTPRequest(
                request.method, request.target, [(n, v if n != "host" else "evil") for n, v in request.headers]
            ),
        ]
    for other in others:
        with pytest.raises(Refused):
            verified(other, body)
    with pytest.raises(Refused):
        verified(request, body, secret="another")
    for away in (1_000_000,) if how is HmacV1QueryAuth else (-100_000, 1_000_000):
        with pytest.raises(Refused):
            verified(request, body, time.time() + away)
    if how in (SigV4Auth, S3SigV4Auth):
        with pytest.raises(Refused):
            verified(request, body + b"x")


def test_our_own_requests() -> None:
    headers = {"Host": HOST, **signing.sign("POST", f"http://{HOST}/a/path", b"body", KEY, SECRET)}
    request = HTTPRequest("POST", "/a/path", [(name.lower(), value) for name, value in headers.items()])
    assert verified(request, b"body").service == "hardway"
    with pytest.raises(Refused):
        verified(request, b"other")


AUTHORIZATION = f"AWS4-HMAC-SHA256 Credential={KEY}/{SCOPE}, SignedHeaders=host;x-amz-date, Signature="


@settings(deadline=None)
@given(
    target=st.text(st.characters(max_codepoint=255), max_size=60),
    headers=st.lists(
        st.tuples(
            st.sampled_from(["host", "authorization", "x-amz-date", "x-amz-content-sha256", "x-amz-meta-a"]),
            st.one_of(
                st.text(st.characters(max_codepoint=255), max_size=60),
                st.sampled_from(["20130524T000000Z", AUTHORIZATION, AUTHORIZATION + "é", "AWS4-HMAC-SHA256 a=b,c"]),
            ),
        ),
        max_size=6,
    ),
    query=st.lists(st.sampled_from(["X-Amz-Signature=1", "Signature=", "X-Amz-Expires=%ff", "Expires=99999999999",
                                    "X-Amz-Date=20130524T000000Z", f"AWSAccessKeyId={KEY}", "&&", "=%"]), max_size=6),
)  # fmt: skip
def test_no_nonsense_is_let_in_or_breaks_it(target: str, headers: list[tuple[str, str]], query: list[str]) -> None:
    with pytest.raises(Refused):
        verified(HTTPRequest("GET", f"/{target}?{'&'.join(query)}", headers), now=EXAMPLE_TIME)
