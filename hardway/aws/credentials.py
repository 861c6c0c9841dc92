"""The source of credentials: one session of botocore for all clients of a command, so that nobody is asked twice.

The credentials of a role's session are kept where the AWS CLI keeps them. A person who has typed an MFA code for either
program is not asked by the other. Source: the AWS CLI's own `awscli/customizations/assumerole.py` (~/.aws/cli/cache).
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from botocore.credentials import create_credential_resolver
from botocore.session import Session
from botocore.utils import JSONFileCache


class _Cache(JSONFileCache):
    """The AWS CLI's cache. An unreadable file counts as missing; after a failed write, a person is asked again."""

    def __contains__(self, key: str) -> bool:
        try:
            return isinstance(self[key], dict)
        except (KeyError, OSError, ValueError):
            return False

    def __setitem__(self, key: str, value: Any) -> None:
        with contextlib.suppress(OSError):
            super().__setitem__(key, value)


def session(profile: str, region: str) -> Session:
    """Return a session of a profile (empty: the environment's), with the Security Token Service of a region.

    Raises ProfileNotFound.
    """
    made = Session(profile=profile or None)
    cache = _Cache(str(Path("~/.aws/cli/cache").expanduser()))
    made.register_component("credential_provider", create_credential_resolver(made, cache, region or None))
    return made
