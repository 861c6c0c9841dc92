"""Where credentials come from: one session of botocore for all clients of a command, so that nobody is asked twice.

What a role's session was given is kept where the AWS CLI keeps it: whoever has typed an MFA code for one of them is not
asked by the other. Source: the AWS CLI's own `awscli/customizations/assumerole.py` (~/.aws/cli/cache).
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from botocore.credentials import create_credential_resolver
from botocore.session import Session
from botocore.utils import JSONFileCache


class _Cache(JSONFileCache):
    """The AWS CLI's cache. A file that can't be read is none, and one that can't be written costs a question."""

    def __contains__(self, key: str) -> bool:
        try:
            return isinstance(self[key], dict)
        except (KeyError, OSError, ValueError):
            return False

    def __setitem__(self, key: str, value: Any) -> None:
        with contextlib.suppress(OSError):
            super().__setitem__(key, value)


def session(profile: str, region: str) -> Session:
    """A session of a profile, which asks the Security Token Service of a region; empty is the environment's.

    Raises ProfileNotFound.
    """
    made = Session(profile=profile or None)
    cache = _Cache(str(Path("~/.aws/cli/cache").expanduser()))
    made.register_component("credential_provider", create_credential_resolver(made, cache, region or None))
    return made
