"""Events that the driver acts on. Other threads put them on its queue; the driver's own checks yield some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hardway.pmap.link import Ready

if TYPE_CHECKING:
    from hardway.ec2.instances import Instance
    from hardway.pmap.ledger import End
    from hardway.pmap.member import Member


class Opened(NamedTuple):
    """A connection to the member is open."""

    member: Member


class NotOpened(NamedTuple):
    """No connection to the member could be opened."""

    member: Member
    error: Exception


class Hung(NamedTuple):
    """The member's connection is no longer of use."""

    member: Member
    reason: str


class Lied(NamedTuple):
    """The member's agent sends a message that ours would not, or is silent where ours would speak."""

    member: Member
    lie: str


class Unreachable(NamedTuple):
    """The member has been away for too long: its tasks are to run elsewhere."""

    member: Member


class Described(NamedTuple):
    """EC2 has returned the states of instances; an id that EC2 doesn't know has no state."""

    ids: Sequence[str]
    states: Mapping[str, str]


class Found(NamedTuple):
    """These instances match the selector."""

    instances: Sequence[Instance]


class Priced(NamedTuple):
    """Prices of members are known."""


class Ended(NamedTuple):
    """An attempt has ended, and all of its output is here."""

    member: Member
    position: int
    task: int
    attempt: int
    end: End
    stdout: bytes | Path
    stderr: bytes | Path

    @property
    def is_good(self) -> bool:
        """Whether nothing speaks against its result."""
        return self.end.code == 0 and not self.end.flags


class Looked(NamedTuple):
    """Somebody has looked for the objects expected of an attempt; `missing` is the first that isn't there."""

    ended: Ended
    missing: str


class Unseen(NamedTuple):
    """S3 can't be asked whether the expected objects are there."""

    error: Exception


class Checked(NamedTuple):
    """EC2 has said whether an instance is gone on which failed attempts say their data was."""

    instance: str
    gone: bool


class Woken(NamedTuple):
    """A signal has come."""


_OfMembers = Opened | NotOpened | Hung | Lied | Unreachable | Described | Found | Priced
Event = Ready | _OfMembers | Looked | Unseen | Checked | Woken
