"""botocore clients, each made once, with retries set; and botocore's errors as sentences.

Clients are thread-safe and shared. Endpoints come from botocore's own settings (AWS_ENDPOINT_URL, the profile).
"""

from __future__ import annotations

import os
import threading
from datetime import datetime
from typing import Any

from hardway.config import Settings
from hardway.errors import Failed, HardwayError, UsageError, did_you_mean

_GET_CREDENTIALS = (
    "run `aws configure`, set AWS_PROFILE, or try it all on this machine: eval \"$(inv local.up)\""
)
_DENIED = {"UnauthorizedOperation", "AccessDenied", "AccessDeniedException"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_UNKNOWN_KEY = {
    "AuthFailure", "InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch",
    "InvalidAccessKeyId",
}
_NO_CAPACITY = {
    "InsufficientInstanceCapacity", "InsufficientHostCapacity", "MaxSpotInstanceCountExceeded",
    "InstanceLimitExceeded", "VcpuLimitExceeded", "SpotMaxPriceTooLow",
}

_clients: dict[Any, Any] = {}
_lock = threading.Lock()


def ec2(settings: Settings) -> Any:
    """The EC2 client of the settings' profile and region."""
    return _client("ec2", settings)


def ssm(settings: Settings) -> Any:
    """The Systems Manager client, for the public parameters that name AMIs."""
    return _client("ssm", settings)


def s3(settings: Settings) -> Any:
    """The S3 client."""
    return _client("s3", settings)


def region_of(settings: Settings) -> str:
    """The region that calls go to, the AWS profile's where nothing else names one."""
    return str(ec2(settings).meta.region_name)


def _client(service: str, settings: Settings) -> Any:
    """Raises UsageError for no region, an unknown one, or an unknown profile."""
    # A client keeps the endpoint and the credentials it was made with: another environment is another client.
    environment = frozenset((key, value) for key, value in os.environ.items() if key.startswith("AWS_"))
    key = (service, settings.aws, environment)
    with _lock:
        if key not in _clients:
            _clients[key] = _new_client(service, settings)
        return _clients[key]


def _new_client(service: str, settings: Settings) -> Any:
    # boto3 would add the resources to the same clients, and half as long again to their import.
    from botocore.config import Config
    from botocore.session import Session

    from hardway import models

    session = Session(profile=settings.aws.profile or None)
    if settings.aws.region:
        session.set_config_variable("region", settings.aws.region)
    region = session.get_config_variable("region")
    if not region:
        raise UsageError("no AWS region: add --region, or set AWS_REGION, aws.region in invoke.yaml or the profile's")
    if not session.get_config_variable("data_path"):
        session.register_component("data_loader", models.loader(service))
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=_timestamp)
    known = [r for p in session.get_available_partitions() for r in session.get_available_regions("ec2", p)]
    if region not in known:
        raise UsageError(
            f"there is no AWS region {region!r}{did_you_mean(region, known)} (a very new one: pip install -U botocore)"
        )
    config = Config(retries={"mode": "standard", "max_attempts": 5}, connect_timeout=10, read_timeout=60)
    return session.create_client(service, config=config)


def _timestamp(value: Any) -> datetime:
    """botocore's own parser takes a third of the time that an answer with many instances does."""
    from botocore.utils import parse_timestamp

    try:
        return datetime.fromisoformat(value.replace("Z", "+00:00"))
    except (AttributeError, ValueError):
        return parse_timestamp(value)


def error_code(error: Exception) -> str:
    """The AWS error code of a botocore ClientError, such as `InvalidAMIID.NotFound`; empty for anything else."""
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def lacks_capacity(error: Exception) -> bool:
    """Whether EC2 refused a launch since it has no capacity, or the account no quota, for it."""
    return error_code(error) in _NO_CAPACITY


def translate(error: Exception) -> HardwayError | None:
    """The sentence for an error of botocore's; None for what is not one."""
    from botocore import exceptions as b

    if isinstance(error, b.ClientError):
        return _refused(error)
    if isinstance(error, b.NoCredentialsError | b.PartialCredentialsError):
        return UsageError(f"no AWS credentials: {_GET_CREDENTIALS}")
    if isinstance(error, b.ProfileNotFound):
        return UsageError(f"{error}: `aws configure list-profiles` shows those there are")
    if isinstance(error, b.TokenRetrievalError | b.UnauthorizedSSOTokenError | b.SSOTokenLoadError):
        return UsageError(f"the AWS login has ended: run `aws sso login` ({error})")
    if isinstance(error, b.HTTPClientError | b.ConnectionError):
        return UsageError(
            f"cannot reach AWS: {error}; check the network and the region, or, for the local cloud, `inv local.up`"
        )
    if isinstance(error, b.BotoCoreError):
        return UsageError(f"AWS: {error}")
    return None


def _refused(error: Any) -> HardwayError:
    code = error_code(error)
    said = error.response["Error"].get("Message", "")
    if code in _EXPIRED:
        return UsageError(f"the AWS credentials have expired: log in again (`aws sso login`, or a new token) ({code})")
    if code in _UNKNOWN_KEY:
        return UsageError(f"AWS does not accept these credentials ({code}): {_GET_CREDENTIALS}")
    if code in _DENIED:
        return UsageError(
            f"AWS denies {error.operation_name} to these credentials: ask for that permission, "
            f"or use another profile ({code}: {said})"
        )
    if code in _NO_CAPACITY:
        return Failed(f"AWS has no capacity for this: try another --type or --zone ({code}: {said})")
    return UsageError(f"AWS refused {error.operation_name}: {said} ({code})")
