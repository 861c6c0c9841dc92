"""A web page, another user of this machine, and an instance get nothing from the daemon that isn't theirs."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import pwd
import shutil
import socket
import stat
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from hardway.errors import HardwayError
from hardway.local import daemon, gate, signing
from hardway.local.running import FAULT_PATH, STATUS_PATH
from tests.conftest import LocalCloud, exports, run_inv
from tests.local.conftest import Machine, Machines
from tests.patience import patience

RUN = "Action=RunInstances&Version=2016-11-15&ImageId=ami-0123456789abcdef0&MinCount=1&MaxCount=1"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
FAULT = json.dumps({"kind": "throttle", "instances": [], "seconds": 60})


def send(
    cloud: LocalCloud, method: str, path: str, body: str | bytes = "", headers: Mapping[str, str] | None = None
) -> tuple[int, Mapping[str, str], bytes]:
    """A request as anybody on this machine can send it."""
    connection = http.client.HTTPConnection(urlsplit(cloud.running.endpoint).netloc, timeout=patience())
    try:
        connection.request(method, path, body or None, dict(headers or {}))
        answer = connection.getresponse()
        said = {name.lower(): value for name, value in answer.getheaders()}
        assert not [name for name in said if name.startswith("access-control")]
        return answer.status, said, answer.read()
    finally:
        connection.close()


def signed(
    cloud: LocalCloud,
    method: str,
    path: str,
    body: str = "",
    service: str = "ec2",
    key: str = "",
    secret: str = "",
    host: str = "",
    **headers: str,
) -> dict[str, str]:
    """The headers of a request that the owner, or who has another key, signs."""
    url = f"http://{host or urlsplit(cloud.running.endpoint).netloc}{path}"
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    request = AWSRequest(method, url, {**(FORM if service != "s3" else {}), **more}, body.encode())
    credentials = Credentials(key or "local", secret or cloud.running.secret)
    (S3SigV4Auth if service == "s3" else SigV4Auth)(credentials, service, "us-east-1").add_auth(request)
    return {**dict(request.headers.items()), "Host": urlsplit(url).netloc}


def everything(cloud: LocalCloud) -> object:
    """All that a stranger could have changed."""
    instances = [
        i["InstanceId"] for r in cloud.client("ec2").describe_instances()["Reservations"] for i in r["Instances"]
    ]
    keys = [pair["KeyName"] for pair in cloud.client("ec2").describe_key_pairs()["KeyPairs"]]
    users = [user["UserName"] for user in cloud.client("iam").list_users()["Users"]]
    return instances, keys, users, [bucket["Name"] for bucket in cloud.client("s3").list_buckets()["Buckets"]]


REQUESTS = [
    ("POST", "/", RUN, FORM),
    ("POST", "/", RUN, {"Content-Type": "text/plain"}),
    ("POST", "/?" + RUN, "", {}),
    ("GET", "/?Action=DescribeInstances&Version=2016-11-15", "", {}),
    ("POST", "/", "Action=CreateUser&Version=2010-05-08&UserName=evil", FORM),
    ("POST", "/", "{}", {"X-Amz-Target": "AmazonSSM.DescribeParameters"}),
    ("POST", "/", "{}", {"X-Amz-Target": "AWSPriceListService.GetProducts"}),
    ("GET", "/", "", {}),
    ("PUT", "/evil-bucket", "", {}),
    ("GET", "/evil-bucket/key?AWSAccessKeyId=local&Expires=9999999999&Signature=", "", {}),
    ("POST", FAULT_PATH, FAULT, {"Content-Type": "text/plain"}),
    ("GET", STATUS_PATH, "", {}),
    ("POST", "/moto-api/reset", "", {}),
    ("GET", "/moto-api/data.json", "", {}),
    ("POST", "/moto-api/seed?a=1", "", {}),
    ("GET", "/favicon.ico", "", {}),
    ("GET", "/latest/meta-data/", "", {}),
    ("GET", "/us-east-1_x/.well-known/jwks.json", "", {}),
    ("POST", "/", "Action=AssumeRoleWithWebIdentity&Version=2011-06-15", FORM),
    ("HEAD", "/evil-bucket", "", {}),
    ("TRACE", "/", "", {}),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: f"{request[0]} {request[1][:40]}")
def test_nothing_is_done_for_who_does_not_sign(
    cloud: LocalCloud, request_: tuple[str, str, str, dict[str, str]]
) -> None:
    method, path, body, headers = request_
    before = everything(cloud)
    # by nobody, by a guess, and by who knows all but the secret
    keys = {"key": "local", "secret": "local"}
    assert send(cloud, method, path, body, headers)[0] == 403
    assert send(cloud, method, path, body, {**headers, **signed(cloud, method, path, body, **keys)})[0] in (400, 403)
    unknown = signed(cloud, method, path, body, key="AKIAIOSFODNN7EXAMPLE")
    assert send(cloud, method, path, body, {**headers, **unknown})[0] in (400, 403)
    assert everything(cloud) == before  # which a fault that is let in would not allow


def test_a_web_page_gets_nothing_even_with_a_signature(cloud: LocalCloud) -> None:
    body = RUN
    host = urlsplit(cloud.running.endpoint).netloc
    before = everything(cloud)
    for origin in ("http://evil.example", "null", f"http://{host}", ""):
        for method in ("POST", "OPTIONS"):
            assert send(cloud, method, "/", body, signed(cloud, method, "/", body, Origin=origin))[0] == 403
    preflight = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    assert send(cloud, "OPTIONS", "/", "", {**preflight, "Access-Control-Request-Headers": "authorization"})[0] == 403
    # a name of the page's own that leads here
    port = host.rpartition(":")[2]
    for name in (f"evil.example:{port}", "evil.example", f"localhost:{port}", f"127.0.0.1.evil.example:{port}"):
        assert send(cloud, "POST", "/", body, signed(cloud, "POST", "/", body, host=name))[0] == 403
    asked = signed(cloud, "POST", "/", body)
    assert send(cloud, "POST", f"http://evil.example:{port}/", body, asked)[0] == 403
    assert everything(cloud) == before


def test_no_answer_is_for_web_pages(cloud: LocalCloud) -> None:
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="for-pages")
    rule = {"AllowedMethods": ["GET"], "AllowedOrigins": ["*"], "AllowedHeaders": ["*"]}
    s3.put_bucket_cors(Bucket="for-pages", CORSConfiguration={"CORSRules": [rule]})
    s3.put_object(Bucket="for-pages", Key="k", Body=b"x")
    # `send` looks at the headers of each
    assert send(cloud, "GET", "/for-pages/k", "", signed(cloud, "GET", "/for-pages/k", service="s3"))[0] == 200
    asked = signed(cloud, "GET", "/for-pages/k", service="s3", Origin="http://evil.example")
    assert send(cloud, "GET", "/for-pages/k", "", asked)[0] == 403
    assert send(cloud, "GET", STATUS_PATH, "", signed(cloud, "GET", STATUS_PATH))[0] == 200


def test_a_refusal_says_which_cloud_is_meant(cloud: LocalCloud) -> None:
    done = run_inv("ec2.ls", env={**cloud.env, "AWS_SECRET_ACCESS_KEY": "of another one"})
    assert (done.code, done.stdout) == (2, "")
    assert "credentials" in done.stderr and "Traceback" not in done.stderr


# what must be let in


def test_presigned_addresses_are_good_for_what_they_say(cloud: LocalCloud) -> None:
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="presigned")
    s3.put_object(Bucket="presigned", Key="a b/ü+~", Body=b"content")
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    session = boto3.Session(*(cloud.env[name] for name in names), region_name="us-east-1")
    version_4 = session.client("s3", endpoint_url=cloud.running.endpoint, config=Config(signature_version="s3v4"))
    given = {"Bucket": "presigned", "Key": "a b/ü+~"}
    for client in (s3, version_4):
        url = client.generate_presigned_url("get_object", {**given, "ResponseContentType": "text/x"})
        with urllib.request.urlopen(url, timeout=patience()) as answer:
            assert (answer.read(), answer.headers["Content-Type"]) == (b"content", "text/x")
        over = client.generate_presigned_url("get_object", given, ExpiresIn=-1000)
        for wrong in (
            over,
            url.replace("/a%20b/", "/other/"),
            url.replace("text%2Fx", "text%2Fhtml"),
            url + "&versionId=1",
        ):
            with pytest.raises(urllib.error.HTTPError) as error:
                urllib.request.urlopen(wrong, timeout=patience())
            assert error.value.code == 403
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(urllib.request.Request(url, method="DELETE"), timeout=patience())


def test_bodies_of_all_kinds_come_through(cloud: LocalCloud) -> None:
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket="bodies")
    big = os.urandom(gate.IN_MEMORY + 5)
    s3.put_object(Bucket="bodies", Key="big", Body=big, Metadata={"with_underscore": "1"})
    got = s3.get_object(Bucket="bodies", Key="big")
    assert (got["Body"].read() == big, got["Metadata"]) == (True, {"with_underscore": "1"})

    # as SDKs of other languages send them: chunks, each signed
    path, data = "/bodies/chunks", [b"first" * 2000, b"second", b""]
    head = signed(cloud, "PUT", path, service="s3")
    date = head["X-Amz-Date"]
    scope = f"{date[:8]}/us-east-1/s3/aws4_request"
    key = signing._signing_key(cloud.running.secret, date[:8], "us-east-1", "s3")
    names = ["host", "x-amz-content-sha256", "x-amz-date", "x-amz-decoded-content-length"]
    values = {
        "host": head["Host"], "x-amz-content-sha256": signing.CHUNKED[0], "x-amz-date": date,
        "x-amz-decoded-content-length": str(sum(map(len, data))),
    }  # fmt: skip
    request = signing.HTTPRequest("PUT", path, list(values.items()))
    seed = signature = signing._version_4(request, names, signing.CHUNKED[0], key, date, scope)
    body = b""
    for chunk in data:
        lines = ["AWS4-HMAC-SHA256-PAYLOAD", date, scope, signature, signing.NOTHING, hashlib.sha256(chunk).hexdigest()]
        signature = signing.hmac.digest(key, "\n".join(lines).encode(), "sha256").hex()
        body += b"%x;chunk-signature=%s\r\n%s\r\n" % (len(chunk), signature.encode(), chunk)
    credential = f"AWS4-HMAC-SHA256 Credential=local/{scope}, SignedHeaders={';'.join(names)}, Signature={seed}"
    headers = {**values, "Authorization": credential, "Content-Encoding": "aws-chunked"}
    assert send(cloud, "PUT", path, body.replace(b"second", b"forged"), headers)[0] == 403
    assert send(cloud, "PUT", path, body, headers)[0] == 200
    assert s3.get_object(Bucket="bodies", Key="chunks")["Body"].read() == b"".join(data)


def test_keys_that_the_owner_makes_are_good(cloud: LocalCloud) -> None:
    iam = cloud.client("iam")
    iam.create_user(UserName="made")
    made = iam.create_access_key(UserName="made")["AccessKey"]
    session = boto3.Session(made["AccessKeyId"], made["SecretAccessKey"], region_name="us-east-1")
    client = session.client("iam", endpoint_url=cloud.running.endpoint)
    assert client.list_users()["Users"]
    iam.delete_access_key(UserName="made", AccessKeyId=made["AccessKeyId"])
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        client.list_users()
    iam.delete_user(UserName="made")


# an instance


def test_the_key_of_an_instance_is_for_s3_only(cloud: LocalCloud, machines: Machines) -> None:
    machine = machines()[0]
    found = dict(line.split("=", 1) for line in machine.output("env | grep ^AWS_").splitlines())
    key, secret = found["AWS_ACCESS_KEY_ID"], found["AWS_SECRET_ACCESS_KEY"]
    assert cloud.running.secret not in found.values()

    def code(method: str, path: str, body: str = "", service: str = "ec2", **headers: str) -> int:
        return send(cloud, method, path, body, signed(cloud, method, path, body, service, key, secret, **headers))[0]

    who = "Action=GetCallerIdentity&Version=2011-06-15"
    assert code("PUT", "/of-an-instance", service="s3") == 200
    assert code("POST", "/", who, "sts") == 200
    before = everything(cloud)
    for service in ("ec2", "sts", "iam", "ssm", "hardway"):
        assert code("POST", "/", RUN, service) == 403
        assert code("POST", "/?" + RUN, who, service) == 403
        assert code("POST", "/", f"{who}&{RUN}", service) == 403
        assert code("POST", FAULT_PATH, FAULT, service) == 403
        assert code("GET", STATUS_PATH, "", service) == 403
    # S3 by its signature, something else by its looks: it stays S3
    code("POST", "/", RUN, "s3", Content_Type=FORM["Content-Type"])
    code("POST", FAULT_PATH, FAULT, "s3")
    code("POST", "/moto-api/reset", "", "s3")
    code("GET", "/v20180820/x", "", "s3")
    assert everything(cloud) == before
    machine.terminate()
    assert code("PUT", "/of-an-instance", service="s3") == 403


def test_what_describes_an_instance_is_for_its_own_processes(machine: Machine) -> None:
    endpoint = urlsplit(machine.output("echo $AWS_EC2_METADATA_SERVICE_ENDPOINT").strip())
    ttl = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}

    def ask(path: str, **headers: str) -> int:
        connection = http.client.HTTPConnection(endpoint.netloc, timeout=patience())
        try:
            connection.request("PUT", path, headers={**ttl, **headers})
            return connection.getresponse().status
        finally:
            connection.close()

    secret = endpoint.path
    assert ask(f"{secret}/latest/api/token") == 200
    for path in (
        "/latest/api/token",
        "//latest/api/token",
        "/x/latest/api/token",
        f"{secret}x/latest/api/token",
        secret[:-1],
    ):
        assert ask(path) == 403
    assert ask(f"{secret}/latest/api/token", Origin="null") == 403
    assert ask(f"{secret}/latest/api/token", Host=f"evil.example:{endpoint.port}") == 403


# another user


@pytest.fixture(scope="module")
def nobody() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program as another user."""
    if os.geteuid() or not shutil.which("setpriv"):
        pytest.skip("only root can be somebody else, by setpriv")
    user = pwd.getpwnam("nobody")
    become = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "env", "-i", "HOME=/",
              "PATH=/usr/bin:/bin"]  # fmt: skip

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*become, *command], capture_output=True, text=True, timeout=patience(), cwd="/")

    return run


def test_another_user_gets_nothing(
    nobody: Callable[..., subprocess.CompletedProcess[str]], cloud: LocalCloud, machine: Machine, tmp_path: Path
) -> None:
    assert nobody("id", "-un").stdout == "nobody\n"
    at = cloud.running.endpoint
    for path in (STATUS_PATH, "/moto-api/data.json", "/", "/?Action=DescribeInstances&Version=2016-11-15"):
        assert nobody("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", at + path).stdout == "403"
    told = nobody("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-d", FAULT, at + FAULT_PATH)
    assert told.stdout == "403"

    theirs = Path("/tmp") / f"hardway-test-{os.getpid()}"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", theirs], check=True)
    try:
        for half in (theirs, theirs.with_suffix(".pub")):
            shutil.chown(half, "nobody")
        options = [option for option in machine.options() if "IdentityFile" not in option and option != "-o"]
        ssh = [
            "ssh",
            "-F",
            "/dev/null",
            "-i",
            str(theirs),
            *(f"-o{o}" for o in options[2:]),
            "-oSetEnv=s3_stubbed_tmp=/",
        ]
        for user in ("ubuntu", "root", "nobody", f"../../../../../../..{theirs.parent}", "../../../../../root"):
            done = nobody(*ssh, "-l", user, machine.address, "id")
            assert (done.returncode, done.stdout) == (255, ""), done
            assert "Permission denied" in done.stderr
    finally:
        theirs.unlink()
        theirs.with_suffix(".pub").unlink()

    assert nobody("ls", str(cloud.directory)).returncode != 0
    assert nobody("cat", str(cloud.directory / "daemon.json")).stdout == ""
    assert nobody("cat", f"/proc/{cloud.pid}/environ").stdout == ""
    arguments = nobody("ps", "-eww", "-o", "args").stdout
    assert str(cloud.directory) in arguments and cloud.running.secret not in arguments


def test_a_directory_of_somebody_else_is_not_used(
    nobody: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    theirs = tmp_path / "state" / "hardway"
    theirs.mkdir(parents=True)
    shutil.chown(theirs, "nobody")
    with pytest.raises(HardwayError, match="another user's"):
        daemon.up(daemon.Local(), theirs / "local", os.getpid())
    assert list(theirs.iterdir()) == []


@pytest.mark.parametrize("existing", [False, True])
def test_modes_are_set_and_not_inherited(home: Path, existing: bool) -> None:
    top = home / ".local" / "state"
    if existing:
        (top / "hardway" / "local").mkdir(parents=True)
        for path in (top / "hardway", top / "hardway" / "local"):
            path.chmod(0o777)
    before = os.umask(0)
    try:
        up = run_inv("local.up")
    finally:
        os.umask(before)
    try:
        assert up.code == 0, up.stderr
        modes = {
            path: stat.S_IMODE(path.lstat().st_mode) for path in (top / "hardway").rglob("*") if not path.is_symlink()
        }
        for path in (top / "hardway", *(() if existing else (top, top.parent))):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert modes[top / "hardway" / "local"] == 0o700
        assert not [path for path, mode in modes.items() if mode & 0o022 and not mode & stat.S_ISVTX]
        holding = [
            path for path in modes if path.is_file() and exports(up.stdout)["AWS_SECRET_ACCESS_KEY"] in path.read_text()
        ]
        assert [(path.name, modes[path]) for path in holding] == [("daemon.json", 0o600)]
        assert modes[top / "hardway" / "local" / "log"] == 0o600
    finally:
        run_inv("local.down")


def test_each_cloud_has_a_secret_of_its_own(cloud: LocalCloud, start_cloud: Callable[..., LocalCloud]) -> None:
    other = start_cloud(isolation="none")
    assert len({cloud.running.secret, other.running.secret}) == 2
    assert cloud.running.secret not in repr(cloud.running) + cloud.inv("local.status").stdout
    body = "Action=DescribeInstances&Version=2016-11-15"
    assert send(other, "POST", "/", body, signed(other, "POST", "/", body))[0] == 200
    assert send(other, "POST", "/", body, signed(other, "POST", "/", body, secret=cloud.running.secret))[0] == 403


# what is no request


def test_garbage_does_not_stop_the_daemon(cloud: LocalCloud) -> None:
    host, port = urlsplit(cloud.running.endpoint).netloc.split(":")
    posted = f"POST / HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: ".encode()
    size = (cloud.directory / "log").stat().st_size
    many = b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n"
    for sent in (
        b"\x16\x03\x01\x02\x00\x01", os.urandom(5000), b"\r\n" * 100, b"GET //[ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n", b"GET /\r\n", b"A" * 200_000, many, b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000,
        posted + b"-5\r\n\r\n", posted + b"99999999999999999999999\r\n\r\n",
        posted + b"9\r\nContent-Length: 1\r\n\r\nx",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /%ff%00 HTTP/1.1\r\n\xff\xff: \x00\r\n\r\n",
    ):  # fmt: skip
        with socket.create_connection((host, int(port)), timeout=patience()) as connection:
            try:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                answer = b"".join(iter(lambda: connection.recv(4096), b""))
            except OSError:  # it was cut off
                continue
        assert not answer.startswith((b"HTTP/1.1 2", b"HTTP/1.1 3")), (sent[:50], answer)
    assert cloud.running.instances() is not None
    assert (cloud.directory / "log").stat().st_size == size


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[gate.HTTPServer]:
    """The daemon's HTTP server, behind whose door nobody is, in a hurry."""
    monkeypatch.setattr(gate, "HEAD_SECONDS", 0.3)
    server = gate.HTTPServer()
    host = f"127.0.0.1:{server.server_port}"
    server.app = gate.Gate(host, lambda _: ("secret", False), gate._closed, gate._closed, gate._closed)
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_who_is_slow_is_cut_off(server: gate.HTTPServer) -> None:
    starts = [b"", b"GET / HT", b"GET / HTTP/1.1\r\nA: b\r\n", None]
    for start in starts:
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=patience()) as connection:
            if start is None:  # says that more is to come, whose digest is signed
                host = f"127.0.0.1:{server.server_port}"
                headers = {"Host": host, **signing.sign("POST", f"http://{host}/", b"", "a key", "a secret")}
                del headers["x-amz-content-sha256"]
                headers["authorization"] = headers["authorization"].replace("x-amz-content-sha256;", "")
                lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                start = f"POST / HTTP/1.1\r\n{lines}Content-Length: 1000\r\n\r\n".encode()
            connection.sendall(start)
            ended = b"x"
            while ended:  # drips on, for as long as it is let
                try:
                    connection.settimeout(0.05)
                    ended = connection.recv(4096)
                except TimeoutError:
                    try:
                        connection.sendall(b"a")
                    except ConnectionError:
                        break
                except ConnectionError:
                    break


def test_time_runs_out_for_a_signature(cloud: LocalCloud) -> None:
    path = STATUS_PATH
    headers = signing.sign("GET", cloud.running.endpoint + path, b"", "local", cloud.running.secret)
    assert send(cloud, "GET", path, "", headers)[0] == 200
    old = time.strftime(signing.DATE, time.gmtime(time.time() - 3600))
    assert send(cloud, "GET", path, "", {**headers, "x-amz-date": old})[0] == 403
