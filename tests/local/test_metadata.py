"""The metadata service of an instance: asked by curl, by botocore, and by clients that ask wrongly."""

from __future__ import annotations

import contextlib
import json
import shlex
import socket
import sys
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import LocalCloud
from tests.local.conftest import Key, Machine, Machines
from tests.patience import patience

TTL = "X-aws-ec2-metadata-token-ttl-seconds: 60"
TOKEN = f'T=$(curl -sfX PUT -H "{TTL}" $AWS_EC2_METADATA_SERVICE_ENDPOINT/latest/api/token)\n'
GET = TOKEN + 'get() { curl -sf -H "X-aws-ec2-metadata-token: $T" "$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest/$1"; }\n'
ASK = 'ask() { curl -s -o /dev/null -w "%{http_code}\\n" "$@"; }; at=$AWS_EC2_METADATA_SERVICE_ENDPOINT/latest\n'
TAGS = {"Name": "a name", "team": "blue & green", "a/b c": "d"}


@pytest.fixture(scope="module")
def tagged(cloud: LocalCloud, key: Key) -> Iterator[Machine]:
    """A spot instance with tags."""
    with contextlib.closing(Machines(cloud, key)) as launched:
        tags = [{"Key": key, "Value": value} for key, value in TAGS.items()]
        yield launched(
            InstanceType="c7i.xlarge",
            InstanceMarketOptions={"MarketType": "spot"},
            TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
        )[0]


def test_curl_learns_what_ec2_describes(tagged: Machine) -> None:
    seen = tagged.describe()
    expected = {
        "instance-id": tagged.id,
        "instance-type": "c7i.xlarge",
        "ami-id": seen["ImageId"],
        "placement/region": "us-east-1",
        "placement/availability-zone": seen["Placement"]["AvailabilityZone"],
        "local-ipv4": seen["PrivateIpAddress"],
        "public-ipv4": seen["PublicIpAddress"],
        "hostname": seen["PrivateDnsName"],
        "public-hostname": seen["PublicDnsName"],
        "instance-life-cycle": "spot",
        "tags/instance/Name": "a name",
        "tags/instance/team": "blue & green",
        "tags/instance/a%2Fb%20c": "d",
    }
    mac = tagged.output(GET + "get meta-data/mac")
    expected[f"network/interfaces/macs/{mac}/local-ipv4s"] = seen["PrivateIpAddress"]
    expected["public-keys/0/openssh-key"] = tagged.key.public.decode().strip()
    expected["public-keys/"] = f"0={tagged.key.name}"
    said = tagged.output(GET + "".join(f"get meta-data/{path}; echo\n" for path in expected))
    assert dict(zip(expected, said.splitlines(), strict=True)) == expected

    assert set(tagged.output(GET + "get meta-data/tags/instance").splitlines()) == {"Name", "team", "a/"}
    listing = tagged.output(GET + "get meta-data/").splitlines()
    assert "instance-id" in listing and "placement/" in listing and "tags/" in listing
    assert "public-keys/" in listing and "public-keys" not in listing
    identity = json.loads(tagged.output(GET + "get dynamic/instance-identity/document"))
    assert identity["instanceId"] == tagged.id
    assert identity["region"] == "us-east-1"
    assert identity["privateIp"] == seen["PrivateIpAddress"]
    assert identity["accountId"] and identity["pendingTime"] == f"{seen['LaunchTime']:%Y-%m-%dT%H:%M:%SZ}"


def test_tags_are_those_of_now(tagged: Machine) -> None:
    tagged.ec2.create_tags(Resources=[tagged.id], Tags=[{"Key": "late", "Value": "yes"}])
    assert tagged.output(GET + "get meta-data/tags/instance/late") == "yes"
    tagged.ec2.delete_tags(Resources=[tagged.id], Tags=[{"Key": "late"}])
    assert tagged.ssh(GET + "get meta-data/tags/instance/late").returncode == 22


def test_nothing_is_said_without_a_token_that_it_gave_itself(tagged: Machine, machine: Machine) -> None:
    other = machine.output(TOKEN + "echo $T").strip()
    asked = f"""{TOKEN}{ASK}
    ask $at/meta-data/instance-id
    ask -H 'X-aws-ec2-metadata-token: made-up' $at/meta-data/instance-id
    ask -H "X-aws-ec2-metadata-token: {other}" $at/meta-data/instance-id
    ask -H "X-aws-ec2-metadata-token: $T" $at/meta-data/instance-id
    ask -H "X-aws-ec2-metadata-token: $T" $at/meta-data/nonsense
    ask -H "X-aws-ec2-metadata-token: $T" $at/meta-data/spot/instance-action
    ask -H "X-aws-ec2-metadata-token: $T" -X POST $at/meta-data/instance-id
    ask -X PUT $at/api/token
    ask -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 21601' $at/api/token
    ask -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' -H 'X-Forwarded-For: 10.0.0.1' $at/api/token
    ask $at/api/token
    """
    codes = [int(code) for code in tagged.output(asked).split()]
    assert codes == [401, 401, 401, 200, 404, 404, 405, 400, 400, 403, 405]


def test_a_token_ends(tagged: Machine) -> None:
    lapsing = TOKEN.replace(": 60", ": 1") + ASK + 'at=$at/meta-data/instance-id; H="X-aws-ec2-metadata-token: $T"\n'
    said = tagged.output(lapsing + 'ask -H "$H" $at; while [ "$(ask -H "$H" $at)" = 200 ]; do sleep 0.1; done; ask $at')
    assert said.split() == ["200", "401"]


def test_botocore_finds_the_region(tagged: Machine) -> None:
    script = (
        "from botocore.session import get_session; from botocore.utils import InstanceMetadataRegionFetcher as F; "
        "s = get_session(); s.set_config_variable('region', None); import os; "
        "print(F(config={'ec2_metadata_service_endpoint': s.get_config_variable('ec2_metadata_service_endpoint')})"
        ".retrieve_region())"
    )
    assert tagged.output(shlex.join([sys.executable, "-c", script])) == "us-east-1\n"


def test_it_lives_as_long_as_the_instance(machines: Machines) -> None:
    machine = machines()[0]
    at = urlsplit(machine.output("echo $AWS_EC2_METADATA_SERVICE_ENDPOINT").strip())
    assert at.hostname == machine.address
    machine.ec2.stop_instances(InstanceIds=[machine.id])
    machine.wait("stopped").ec2.start_instances(InstanceIds=[machine.id])
    assert machine.wait("running").output(GET + "get meta-data/instance-id") == machine.id
    machine.terminate()
    with socket.socket() as probe:
        assert probe.connect_ex((str(at.hostname), int(at.port or 0))) != 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sent=st.one_of(
        st.binary(max_size=200),
        st.builds(
            lambda method, path, header, end: b"%s /%s HTTP/1.1\r\n%s%s" % (method, path, header, end),
            st.sampled_from([b"GET", b"PUT", b"", b"get"]),
            st.binary(max_size=20),
            st.sampled_from([b"", b"Content-Length: -1\r\n", b"Content-Length: x\r\n", b"no header\r\n", b"\xff: \r\n",
                             b"X-aws-ec2-metadata-token: AAAA\r\n", b"X-aws-ec2-metadata-token: \xe9\r\n",
                             b"X-aws-ec2-metadata-token-ttl-seconds: \xb2\r\n"]),
            st.sampled_from([b"\r\n", b"\r\n\r\n", b""]),
        ),
    )
)  # fmt: skip
def test_no_request_upsets_it(tagged: Machine, endpoint: tuple[str, int], sent: bytes) -> None:
    """Whatever is sent is answered or waited for, and the next one is served."""
    with socket.create_connection(endpoint, timeout=patience()) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(4096):
            answer += data
    assert not answer or answer.startswith(b"HTTP/1.1 ")
    assert not answer.startswith(b"HTTP/1.1 5")
    assert b"metadata.py" not in (tagged.cloud.directory / "log").read_bytes()


@pytest.fixture(scope="module")
def endpoint(tagged: Machine) -> tuple[str, int]:
    at = urlsplit(tagged.output("echo $AWS_EC2_METADATA_SERVICE_ENDPOINT").strip())
    return str(at.hostname), int(at.port or 0)
