"""What the thread that runs a job acts on: other threads put it on its queue, or it finds it when it looks around."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from hardway.ec2.instances import Instance
    from hardway.pmap.ledger import End
    from hardway.pmap.link import Link
    from hardway.pmap.member import Member


class Ready(NamedTuple):
    """Something has arrived over a connection, or it has ended."""

    link: Link


class Opened(NamedTuple):
    """A connection to the member is open."""

    member: Member


class Refused(NamedTuple):
    """No connection to the member could be opened."""

    member: Member
    error: Exception


class Hung(NamedTuple):
    """The member's connection is of no use any more."""

    member: Member
    reason: str


class Lied(NamedTuple):
    """The member's agent says what our agent would not, or nothing where ours would."""

    member: Member
    lie: str


class Unreachable(NamedTuple):
    """The member has been away for so long that what it holds is to run elsewhere."""

    member: Member


class Described(NamedTuple):
    """EC2 has told the states of these instances; one that it doesn't know is not among them."""

    ids: Sequence[str]
    states: Mapping[str, str]


class Found(NamedTuple):
    """These instances match the selector now."""

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
    """Of what is expected of the attempt this is missing; empty: nothing."""

    ended: Ended
    missing: str


class Unseen(NamedTuple):
    """It can't be found out whether what is expected is there."""

    error: Exception


class Woken(NamedTuple):
    """A signal has come."""


Event = Ready | Opened | Refused | Hung | Lied | Unreachable | Described | Found | Priced | Looked | Unseen | Woken
