"""botocore clients, shared and with retries, and botocore's errors as sentences.

Clients are thread-safe. Endpoints come from botocore's own settings (AWS_ENDPOINT_URL, the profile). An answer that AWS
can't have given, such as the login page of a network, is an error here, and never an empty list.
"""

from __future__ import annotations

import getpass
import json
import os
import random
import re
import shlex
import threading
import time
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from hardway import files
from hardway.config import Settings, aws_variables
from hardway.errors import Failed, HardwayError, UsageError, did_you_mean, reason_of
from hardway.tables import duration
from hardway.terminal import command_line

Answer = TypeVar("Answer")

_OF_CREDENTIALS = {"botocore.credentials", "botocore.tokens"}
# The most that is shown of the words of a program that should give credentials.
_MOST_CHARACTERS = 300
_DENIED = {"UnauthorizedOperation", "AccessDenied", "AccessDeniedException"}
# Stands between words for people and a text that only `aws sts decode-authorization-message` can read:
# https://docs.aws.amazon.com/STS/latest/APIReference/API_DecodeAuthorizationMessage.html
_ENCODED = re.compile(r"\s*Encoded authorization failure message: *(\S+)")
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_UNKNOWN_KEY = {
    "AuthFailure",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
    "SignatureDoesNotMatch",
    "InvalidAccessKeyId",
}
# The errors of a request that was signed with a wrong time.
_SKEWED = {
    "InvalidSignatureException",
    "RequestExpired",
    "RequestInTheFuture",
    "RequestTimeTooSkewed",
}
MOST_SKEW_SECONDS = 300
"""The most seconds by which a clock may be off, so that AWS accepts what was signed by it.

Source: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-troubleshooting.html
"""
# The calls that the flags of `ec2.new` change.
_LAUNCHES = ("RunInstances", "CreateFleet")
# Errors that may be over in a minute; a quota, or a price that is too low, stays as it is.
_NO_CAPACITY_NOW = {
    "InsufficientInstanceCapacity",
    "InsufficientHostCapacity",
    "InsufficientCapacity",
    "UnfulfillableCapacity",
    "InsufficientFreeAddressesInSubnet",
}
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
_QUOTA = {"MaxSpotInstanceCountExceeded", "InstanceLimitExceeded", "VcpuLimitExceeded"}
_NO_CAPACITY = _NO_CAPACITY_NOW | _QUOTA | {"SpotMaxPriceTooLow", "InsufficientAddressCapacity", "Unsupported"}
# Limits of one resource, or of one call; other limits are quotas of the account.
_FIXED_LIMITS = {"TagLimitExceeded", "FilterLimitExceeded"}
# The first spot instance of an account needs a role, which AWS makes if the credentials may have it made:
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/service-linked-roles-spot-instance-requests.html
_NO_SPOT_ROLE = "AuthFailure.ServiceLinkedRoleCreationNotPermitted"
_THROTTLED = {"RequestLimitExceeded", "Throttling", "ThrottlingException", "RequestThrottled"}
_PATIENCE_SECONDS = 120
LATE_PAUSES = (0, 0.3, 1, 3)
"""The seconds before each look for things that EC2 may show late."""
# The first element of an answer in XML, and the calls whose answers are never empty.
_ROOT = re.compile(rb"(?:\s|<\?.*?\?>|<!--.*?-->)*<(?:\w+:)?(\w+)", re.DOTALL)
_TELLS = re.compile(r"Describe|Run|Start|Stop|Terminate|Create(?!Route)")
# S3's answers that always have an ETag: when an object was read, looked at or written.
_HAS_ETAG = ("GetObjectOutput", "HeadObjectOutput", "PutObjectOutput", "UploadPartOutput")
# The parts of an answer that our own code looks up.
_MEMBER = re.compile(r"[A-Z][A-Za-z0-9]+")

MADE_TAG = "hardway-made"
"""The tag of things that hardway has made and `ec2.cleanup` may remove; its value is the time."""

KEPT_CLIENTS = 40
"""The most clients kept: one for each region, as each takes 1.5 MB, and a session of pytest may meet many clouds."""

_clients: dict[Any, Any] = {}
"""The clients by their settings and environment, the oldest one first."""
_sessions: dict[Any, Any] = {}
"""The last used session alone, since a session costs as much as a client."""
_loaders: dict[str, Any] = {}
"""botocore's loader of each service: clients of all regions share what it has read."""
_lock = threading.Lock()


class Garbled(Failed):
    """An answer that AWS can't have given, or that was cut on its way: nobody knows what the call has done."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}; is a proxy, or the login page of a network, between here and AWS?")


def ec2(settings: Settings) -> Any:
    """Return the EC2 client of the settings' profile and region."""
    return _client("ec2", settings)


def ec2_once(settings: Settings) -> Any:
    """Return the EC2 client without botocore's retries, for `persistently`: they retry a lack of capacity."""
    return _client("ec2", settings, retries=0)


def ssm(settings: Settings) -> Any:
    """Return the Systems Manager client, for the public parameters that name AMIs."""
    return _client("ssm", settings)


def s3(settings: Settings, endpoint: str | None = None) -> Any:
    """Return the S3 client; a given `endpoint` (a URL, or empty for AWS's own) overrides the environment."""
    return _client("s3", settings, endpoint=endpoint)


def pricing(settings: Settings) -> Any:
    """Return the Price List client of us-east-1, which answers for every region."""
    return _client("pricing", replace(settings, aws=replace(settings.aws, region="us-east-1")), retries=2)


def service_quotas(settings: Settings) -> Any:
    """Return the Service Quotas client, which does not wait for long."""
    return _client("service-quotas", settings, retries=1)


def iam(settings: Settings) -> Any:
    """Return the client of Identity and Access Management, which is one for all regions."""
    return _client("iam", settings)


def sts(settings: Settings) -> Any:
    """Return the client of the Security Token Service, which tells the owner of the credentials."""
    return _client("sts", settings)


def region_of(settings: Settings) -> str:
    """Return the region of calls: the settings', else the AWS profile's."""
    return str(ec2(settings).meta.region_name)


def _client(service: str, settings: Settings, retries: int = 5, endpoint: str | None = None) -> Any:
    """Return the shared client of a service. Raises UsageError for no region, an unknown one, or an unknown profile."""
    # A client keeps its first endpoint and credentials, so another environment needs another client.
    key = (service, settings.aws, frozenset(aws_variables().items()), retries, endpoint)
    if client := _clients.get(key):
        return client  # at once: others may be making clients of many regions
    with _lock:
        client = _clients[key] = _clients.get(key) or _new_client(service, settings, retries, endpoint)
        while len(_clients) > KEPT_CLIENTS:
            del _clients[next(iter(_clients))]
        return client


def _new_client(service: str, settings: Settings, retries: int, endpoint: str | None) -> Any:
    # boto3 would add resources to the same clients, and make their import half as long again.
    from botocore.config import Config
    from botocore.regions import EndpointResolver

    from hardway.aws import models

    session = _session(settings)
    region = settings.aws.region or session.get_config_variable("region")
    if not region:
        raise UsageError("no AWS region: add --region, or set AWS_REGION, aws.region in invoke.yaml or the profile's")
    if not session.get_config_variable("data_path"):
        if service not in _loaders:
            _loaders[service] = models.loader(service)
        session.register_component("data_loader", _loaders[service])
    loader = session.get_component("data_loader")
    # The session would read the model of EC2 for this, whatever the service.
    endpoints = EndpointResolver(loader.load_data("endpoints"))
    known = [r for p in endpoints.get_available_partitions() for r in endpoints.get_available_endpoints("ec2", p)]
    if region not in known:
        raise UsageError(
            f"there is no AWS region {region!r} (a very new one: pip install -U botocore){did_you_mean(region, known)}"
        )
    # A price, or a quota, is not worth a long wait.
    connect, read = (5, 10) if service in ("pricing", "service-quotas") else (10, 60)
    config = Config(retries={"mode": "standard", "max_attempts": retries}, connect_timeout=connect, read_timeout=read)
    if endpoint is not None:
        config = config.merge(Config(ignore_configured_endpoint_urls=True))
    client = session.create_client(service, region, config=config, endpoint_url=endpoint or None)
    models.tell_errors(client, loader)
    return client


def _session(settings: Settings) -> Any:
    """Return the session of the profile and the environment, so that a person is asked only once for an MFA code."""
    from hardway.aws import credentials

    key = (settings.aws.profile, frozenset(aws_variables().items()))
    if key not in _sessions:
        made = credentials.session(settings.aws.profile, settings.aws.region)
        parsers = made.get_component("response_parser_factory")
        parsers.set_parser_defaults(timestamp_parser=_timestamp)
        make = parsers.create_parser
        parsers.create_parser = lambda protocol: _checked(make(protocol), protocol == "ec2")
        _sessions.clear()
        _sessions[key] = made
    return _sessions[key]


def _checked(parser: Any, of_ec2: bool) -> Any:
    """Make botocore's parser raise Garbled for a bad answer, in place of other exceptions or an empty answer."""
    parse = parser.parse

    def parsed(response: Any, shape: Any) -> Any:
        body = response["body"]
        try:
            answer = parse(response, shape)
        except Exception as error:
            raise Garbled(f"AWS's answer can't be read{_excerpt(body)}") from error
        if of_ec2 and 300 <= response["status_code"] < 500 and not answer.get("Error", {}).get("Code"):
            raise Garbled(f"EC2 refuses this, and does not say why{_excerpt(body)}")
        if of_ec2 and response["status_code"] == 200:
            root = _ROOT.match(body)
            if not root or not root[1].endswith(b"Response"):
                raise Garbled(f"this is not an answer of EC2{_excerpt(body)}")
            told = answer.keys() - {"ResponseMetadata"}
            if shape is not None and not told and _TELLS.match(shape.name):
                raise Garbled(f"EC2's answer tells nothing{_excerpt(body)}")
        if shape is not None and shape.name in _HAS_ETAG and response["status_code"] < 300 and "ETag" not in answer:
            raise Garbled(f"this is not an answer of S3{_excerpt(body)}")
        return answer

    parser.parse = parsed
    return parser


def _excerpt(body: Any) -> str:
    if not isinstance(body, bytes):
        return ""
    return f" ({body[:60].decode(errors='replace')!a}{'...' if len(body) > 60 else ''})" if body else " (empty)"


def _timestamp(value: Any) -> datetime:
    """Read a time. For an answer with many instances, a third of the work would be botocore's own reading of times."""
    from botocore.utils import parse_timestamp

    try:
        return datetime.fromisoformat(value.replace("Z", "+00:00"))
    except (AttributeError, ValueError):
        return parse_timestamp(value)


def made(kind: str, more: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Return TagSpecifications for a thing that hardway makes in the account; `kind` is EC2's resource type."""
    tags = {MADE_TAG: datetime.now(timezone.utc).isoformat(timespec="seconds"), "owner": user()}
    tags |= more or {}
    return [{"ResourceType": kind, "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}]


def user() -> str:
    """Return this user for the tag `owner`: the login name, or the user's number if there is no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        return str(os.getuid())


def other_owner(tags: Mapping[str, str]) -> str:
    """Return the user in the tag `owner` if it is somebody else, else an empty text."""
    owner = tags.get("owner", "")
    return "" if owner == user() else owner


def error_code(error: Exception) -> str:
    """Return the AWS error code of a botocore ClientError, such as `InvalidAMIID.NotFound`; empty for other errors."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def error_message(error: Exception) -> str:
    """Return AWS's words in a botocore ClientError; empty for other errors."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Message", "")) if isinstance(response, dict) else ""


def is_denied(error: Exception) -> bool:
    """Return whether these credentials may not make the call."""
    return error_code(error) in _DENIED


def lacks_capacity(code: str) -> bool:
    """Return whether EC2 has no capacity for the type in the zone, or the account no quota."""
    return code in _NO_CAPACITY


def is_quota(code: str) -> bool:
    """Return whether the account has used up a quota: asking again, elsewhere or later, changes nothing."""
    return code in _QUOTA


def is_throttled(code: str) -> bool:
    """Return whether AWS takes no more requests, or EC2 starts no more instances, for some seconds."""
    return code in _THROTTLED


def lacks_capacity_now(code: str) -> bool:
    """Return whether capacity is lacking now, and may be there in a minute."""
    return code in _NO_CAPACITY_NOW


def persistently(call: Callable[[], Answer], codes: Collection[str] = (), seconds: float = _PATIENCE_SECONDS) -> Answer:
    """Repeat a call, with growing pauses, while EC2 throttles or answers one of `codes`, for at most `seconds`.

    The fifth outage, or missing answer, is raised. EC2 must carry out the call only once, even if it is repeated.
    """
    return until(call, lambda error: error_code(error) in _THROTTLED or error_code(error) in codes, seconds)


def until(call: Callable[[], Answer], is_passing: Callable[[Exception], bool], seconds: float) -> Answer:
    """Repeat a call, as `persistently` does, while `is_passing` returns True for the error."""
    deadline = time.monotonic() + seconds
    attempt, outages = 0, 0
    while True:
        try:
            return call()
        except Exception as error:
            if not is_passing(error):
                outages += 1
                if outages >= 5 or not _is_outage(error):
                    raise
            # https://docs.aws.amazon.com/AWSEC2/latest/APIReference/query-api-troubleshooting.html#api-request-rate
            pause = random.uniform(0.5, 1.0) * min(10.0, 0.2 * 2**attempt)
            if time.monotonic() + pause >= deadline:
                raise
        attempt += 1
        time.sleep(pause)


def made_once(make: Callable[[], Any], find: Callable[[], Any]) -> Any:
    """Make a thing only once, by a call that takes no client token; EC2 would make a second one at a second call.

    `make` is a call of `ec2_once`. If its answer does not come, `find` looks for the thing, and returns it or a false
    value.
    """
    is_unsure = False

    def call() -> Any:
        nonlocal is_unsure
        for pause in LATE_PAUSES if is_unsure else ():
            time.sleep(pause)
            if found := find():
                return found
        try:
            return make()
        except Exception as error:
            is_unsure = is_unsure or not is_answered(error)
            raise

    return persistently(call)


def refusal(operation: str, code: str, message: str) -> Exception:
    """Return the error for a refusal inside of a successful answer."""
    from botocore.exceptions import ClientError

    return ClientError({"Error": {"Code": code, "Message": message}}, operation)


def is_answered(error: BaseException) -> bool:
    """Return whether EC2 has refused; otherwise it is unknown whether EC2 has carried out the call."""
    return isinstance(error, Exception) and bool(error_code(error)) and not _is_outage(error)


def is_about_one(error: Exception) -> bool:
    """Return whether EC2 has refused the things in this call; a call for other things may succeed."""
    return is_answered(error) and error_code(error) not in _EXPIRED | _UNKNOWN_KEY | _THROTTLED


def _is_outage(error: Exception) -> bool:
    from botocore.exceptions import ConnectionError, HTTPClientError

    if isinstance(error, HTTPClientError | ConnectionError | Garbled):
        return True
    status = getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status >= 500 and error_code(error) not in _NO_CAPACITY | _THROTTLED


def translate(error: Exception) -> HardwayError | None:
    """Return the sentence for an error of botocore's, or for an answer with a missing part; None for other errors.

    An error of ours is a sentence already and stays as it is.
    """
    if isinstance(error, HardwayError):
        return error
    if isinstance(error, KeyError) and error.args and _MEMBER.fullmatch(str(error.args[0])) and _is_ours(error):
        return Garbled(f"AWS's answer has no {error.args[0]!r}, which it must have")
    from botocore import exceptions as b

    if isinstance(error, b.ClientError):
        return _refused(error)
    if isinstance(error, b.NoCredentialsError | b.PartialCredentialsError):
        return UsageError(f"no AWS credentials: {_how_to_get_credentials()}")
    if isinstance(error, b.ProfileNotFound):
        return UsageError(f"{error}: `aws configure list-profiles` lists the known profiles")
    if isinstance(error, b.TokenRetrievalError | b.UnauthorizedSSOTokenError | b.SSOTokenLoadError):
        return UsageError(f"the AWS login has ended: run `aws sso login` ({error})")
    if why := _lacks_credentials(error):
        return UsageError(f"can't get AWS credentials: {why}")
    if isinstance(error, b.HTTPClientError | b.ConnectionError):
        return UsageError(
            f"cannot reach AWS: {error}; check the network and the region; the local cloud is started, and this shell "
            f'pointed at it, by eval "$({command_line("local.up")})"'
        )
    if isinstance(error, b.BotoCoreError):
        return UsageError(f"AWS: {error}")
    return None


def _how_to_get_credentials() -> str:
    up = command_line("local.up")
    return f'run `aws configure`, set AWS_PROFILE, or try it all on this machine: eval "$({up})"'


def _lacks_credentials(error: Exception) -> str:
    """Return why there are no credentials, in a line; empty for an error that has another source."""
    from botocore.exceptions import CredentialRetrievalError

    if isinstance(error, CredentialRetrievalError):
        source, said = error.kwargs.get("provider"), str(error.kwargs.get("error_msg"))
        source = "credential_process" if source == "custom-process" else source
        # The reason stands at the end of a program's words.
        last = [line.strip() for line in said.splitlines() if line.strip()][-1:]
        return f"{source} failed{f': {last[0][:_MOST_CHARACTERS]}' if last else ' and does not say why'}"
    passed = {frame.f_globals.get("__name__") for frame, _ in traceback.walk_tb(error.__traceback__)}
    if not passed & _OF_CREDENTIALS:
        return ""
    if isinstance(error, EOFError):
        return "no MFA code was given: run this, or `aws sts get-caller-identity`, once in a terminal"
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return "credential_process has not printed JSON, in UTF-8, on its stdout"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {reason_of(error)}"
    return f"{type(error).__name__}: {error}"[:_MOST_CHARACTERS]


def _is_ours(error: BaseException) -> bool:
    """Return whether the error was raised in this package, not in other tasks that call it."""
    *_, (frame, _) = [(None, 0), *traceback.walk_tb(error.__traceback__)]
    return frame is not None and str(frame.f_globals.get("__package__")).partition(".")[0] == __name__.partition(".")[0]


def _refused(error: Any) -> HardwayError:
    code, said = error_code(error), error_message(error)
    if code in _EXPIRED | _UNKNOWN_KEY | _SKEWED and (skew := _skew(error)):
        return UsageError(
            f"this machine's clock is {skew} AWS's, so AWS refuses its signatures: set the clock (timedatectl "
            f"set-ntp true) ({code}: {said})"
        )
    if code in _EXPIRED:
        return UsageError(
            f"the AWS credentials have expired: log in again (`aws sso login`, or a new token) ({code}: {said})"
        )
    if code in _UNKNOWN_KEY and "not authorized for images" in said.lower():
        return UsageError(
            f"AWS refused {error.operation_name}: {said} ({code}): the image's owner must share it with this account, "
            "or its terms be accepted in AWS Marketplace"
        )
    if code in _UNKNOWN_KEY:
        # https://docs.aws.amazon.com/accounts/latest/reference/manage-acct-regions.html
        return UsageError(
            f"AWS does not accept these credentials ({code}: {said}): {_how_to_get_credentials()}; a region that is "
            "not enabled for the account says the same (`aws account list-regions`)"
        )
    if code in _DENIED:
        return UsageError(
            f"AWS denies {error.operation_name} to these credentials: ask for the permission, or use another profile "
            f"({code}: {_decodable(said)})"
        )
    if code == _NO_SPOT_ROLE:
        return UsageError(
            "this account has not used spot yet, and these credentials may not make the role that it needs: whoever "
            f"administers IAM runs `aws iam create-service-linked-role --aws-service-name spot.amazonaws.com` ({code})"
        )
    if code.endswith(("LimitExceeded", "CountExceeded")) and code not in _FIXED_LIMITS | _THROTTLED:
        return Failed(
            f"the account's quota is used up: {said.rstrip('.')} ({code}); ask for more in Service Quotas: "
            "https://console.aws.amazon.com/servicequotas/home"
        )
    if code in _NO_CAPACITY:
        advice = "another --type or --zone" if error.operation_name in _LAUNCHES else "again later"
        return Failed(f"AWS has no capacity for this: try {advice} ({code}: {said})")
    return UsageError(f"AWS refused {error.operation_name}: {said or 'it gives no reason'} ({code})")


def _skew(error: Any) -> str:
    """Return how wrong this machine's clock is, by the time in AWS's answer; empty if AWS accepts it."""
    said = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
    try:
        ahead = time.time() - parsedate_to_datetime(said).timestamp()
    except ValueError:
        return ""
    if abs(ahead) <= MOST_SKEW_SECONDS:
        return ""
    return f"{duration(abs(ahead), digits=2)} {'ahead of' if ahead > 0 else 'behind'}"


def _decodable(said: str) -> str:
    """Return a denial's words for people; its code goes to a file, and the command that decodes the file is added."""
    found = _ENCODED.search(said)
    if not found:
        return said
    words = said[: found.start()]
    try:
        file = files.state_directory() / "denial"
        files.write(file, [found[1].encode()])
    except OSError:
        return words
    decode = "aws sts decode-authorization-message --query DecodedMessage --output text --encoded-message"
    return f"{words} `{decode} {shlex.quote(f'file://{file}')}` says why"
