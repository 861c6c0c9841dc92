"""Access keys of the local cloud: the owner's, one for each instance, and those that IAM and STS have made."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any

import moto.iam.models

from hardway.local.api.local_instance import LocalInstance
from hardway.local.running import ACCESS_KEY


class AccessKeys:
    """Knows the secret of each key. `secret` belongs to the owner's key; a key of an instance has the instance's id."""

    def __init__(self, secret: str, instances: Mapping[str, LocalInstance]) -> None:
        self._secret = secret
        self._instances = instances

    def secret_of(self, key_id: str) -> tuple[str, bool] | None:
        """The secret of a key, and whether it is an instance's; None for no such key."""
        if key_id == ACCESS_KEY:
            return self._secret, False
        instance = self._instances.get(key_id)
        if instance is not None:
            return (self.instance_secret(key_id), True) if instance.alive else None
        # Only somebody who may do everything can have IAM or STS make a key.
        for accounts in list(moto.iam.models.iam_backends.values()):
            for backend in list(accounts.values()):
                key: Any = backend.access_keys.get(key_id)
                if key is not None and key.status == "Active":
                    return key.secret_access_key, False
        return None

    def instance_secret(self, id: str) -> str:
        """The secret of an instance's key."""
        return hmac.digest(self._secret.encode(), id.encode(), "sha256").hex()[:40]
