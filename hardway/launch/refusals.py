"""The reasons why EC2 gives less than a launch asks for, by the codes of its refusals, in words. Pure.

A lack of capacity may be over in a minute, and a limit on requests in seconds. A thing made a second ago may not
be known everywhere at EC2. A quota, or a price, stays as it is. A problem of the account is the same in all pools.
Source of the codes: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hardway import aws
from hardway.launch.readiness import some

# Errors about a thing that the launch has looked up, or made, before it names the thing.
_UNKNOWN_YET = (
    "InvalidGroup.NotFound", "InvalidSecurityGroupID.NotFound", "InvalidKeyPair.NotFound", "InvalidSubnetID.NotFound",
    "InvalidAMIID.NotFound", "InvalidSnapshot.NotFound",
    "InvalidLaunchTemplateId.NotFound", "InvalidLaunchTemplateName.NotFoundException",
)  # fmt: skip
_OF_ACCOUNT = ("PendingVerification", "Blocked", "OptInRequired", "UnauthorizedOperation", "MaxFleetCountExceeded")


@dataclass(frozen=True)
class Refusal:
    """A refusal by EC2: a pool gets nothing, or less; `said` are EC2's words."""

    type: str
    zone: str
    code: str
    said: str = ""

    def __str__(self) -> str:
        return f"{self.pool} ({self.code})"

    @property
    def pool(self) -> str:
        """The pool that lacks instances, for a person."""
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
        """Whether EC2 may have instances in another pool, or in this one later."""
        return aws.lacks_capacity(self.code) or self.is_throttled

    @property
    def is_of_account(self) -> bool:
        """Whether EC2 refuses every request of this account with these credentials."""
        return self.code in _OF_ACCOUNT or self.code.startswith("AuthFailure")

    @property
    def is_passing(self) -> bool:
        """Whether asking again may help."""
        return aws.lacks_capacity_now(self.code) or self.is_throttled or is_unknown_yet(self.code)


def is_unknown_yet(code: str) -> bool:
    """Return whether EC2 does not know a thing that the launch names, but may know it in a moment.

    Source: https://docs.aws.amazon.com/ec2/latest/devguide/eventual-consistency.html
    """
    return code in _UNKNOWN_YET


def is_unknown_profile(code: str, said: str) -> bool:
    """Return whether EC2 does not know the instance profile; IAM may know it."""
    return code == "InvalidParameterValue" and "instance profile" in said.lower()


def told(refused: Sequence[Refusal], short: int, num: int, ask_for_more: Callable[[Refusal], str]) -> str:
    """Return why `short` of `num` instances are missing; `ask_for_more` returns a hint for raising a quota."""
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
