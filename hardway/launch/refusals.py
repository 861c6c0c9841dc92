"""Why EC2 gives less than a launch asks for, told by the code of its refusal; and the words for it. Pure.

A lack of capacity may be over in a minute, and a limit on requests in seconds. What was made a second ago, EC2 may not
know everywhere yet. A quota, or a price, stays as it is, and what is wrong with the account is wrong for all pools.
Source of the codes: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hardway import aws
from hardway.launch.readiness import some

# Each is of a thing that the launch has looked up, or made, before it names it.
_UNKNOWN_YET = (
    "InvalidGroup.NotFound", "InvalidSecurityGroupID.NotFound", "InvalidKeyPair.NotFound", "InvalidSubnetID.NotFound",
    "InvalidAMIID.NotFound", "InvalidSnapshot.NotFound",
    "InvalidLaunchTemplateId.NotFound", "InvalidLaunchTemplateName.NotFoundException",
)  # fmt: skip
_OF_ACCOUNT = ("PendingVerification", "Blocked", "OptInRequired", "UnauthorizedOperation", "MaxFleetCountExceeded")


@dataclass(frozen=True)
class Refusal:
    """Why EC2 gave nothing, or less, of a pool; `said` are its own words."""

    type: str
    zone: str
    code: str
    said: str = ""

    def __str__(self) -> str:
        return f"{self.pool} ({self.code})"

    @property
    def pool(self) -> str:
        """Of what there was nothing, or less."""
        return f"{self.type} in {self.zone or 'any zone'}"

    @property
    def words(self) -> str:
        """EC2's words and code."""
        return f"{self.said.rstrip('.')} ({self.code})"

    @property
    def is_throttled(self) -> bool:
        """Whether EC2 takes no more requests, or starts no more instances, for some seconds."""
        return aws.is_throttled(self.code)

    @property
    def is_of_quota(self) -> bool:
        """Whether the account has used up a quota."""
        return aws.is_quota(self.code)

    @property
    def is_of_price(self) -> bool:
        """Whether spot costs more than was offered."""
        return self.code == "SpotMaxPriceTooLow"

    @property
    def is_of_pool(self) -> bool:
        """Whether EC2 may give of another pool, or of this one later."""
        return aws.lacks_capacity(self.code) or self.is_throttled

    @property
    def is_of_account(self) -> bool:
        """Whether EC2 refuses whatever this account, with these credentials, asks for."""
        return self.code in _OF_ACCOUNT or self.code.startswith("AuthFailure")

    @property
    def is_passing(self) -> bool:
        """Whether asking again may help."""
        return aws.lacks_capacity_now(self.code) or self.is_throttled or is_unknown_yet(self.code)


def is_unknown_yet(code: str) -> bool:
    """Whether EC2 does not know what the launch names, which it may in a moment.

    Source: https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html
    """
    return code in _UNKNOWN_YET


def is_unknown_profile(code: str, said: str) -> bool:
    """Whether EC2 does not know the instance profile, which IAM may."""
    return code == "InvalidParameterValue" and "instance profile" in said.lower()


def told(refused: Sequence[Refusal], short: int, num: int, ask_for_more: Callable[[Refusal], str]) -> str:
    """Why there are `short` fewer than `num`; `ask_for_more` says how a quota is raised."""
    parts = []
    for refusal in refused:
        if refusal.is_of_quota:
            parts.append(f"{refusal.words}; {ask_for_more(refusal)}")
    if cheap := [f"{one.pool}: {one.words}" for one in refused if one.is_of_price]:
        parts.append(f"spot costs more than was offered: {some(cheap)}")
    if any(one.is_throttled for one in refused):
        parts.append(f"EC2 has started {num - short} of {num}, and starts no more for now")
    lacking = [str(one) for one in refused if not (one.is_of_quota or one.is_of_price or one.is_throttled)]
    if lacking or not refused:
        parts.append(f"EC2 has no capacity for {short} of {num}: {some(lacking, 6) or 'it does not say why'}")
    return "; ".join(dict.fromkeys(parts))
