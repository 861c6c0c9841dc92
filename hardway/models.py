"""botocore's models of the services we call, kept where they load fast: no documentation, no gzip, in one file.

Reading them is a third of what a short command takes. What is not kept there, such as another service that leads to
credentials, botocore reads from its own files, and everything on any trouble with ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import botocore
from botocore.exceptions import DataNotFoundError
from botocore.loaders import Loader
from platformdirs import user_cache_path

_OF_THE_SERVICE = ("service-2", "endpoint-rule-set-1", "paginators-1", "waiters-2")
_OF_ALL_SERVICES = ("endpoints", "partitions", "sdk-default-configuration", "_retry")
# Seconds that a file stays which another version of botocore made.
_OTHERS_STAY = 30 * 24 * 3600


class KeptLoader(Loader):
    """botocore's loader, that need not look for what `kept` holds: the models and data of one service."""

    def __init__(self, kept: dict[str, Any]) -> None:
        super().__init__()
        self._version: str = kept["version"]
        self._models: dict[str, Any] = kept["models"]
        self._data: dict[str, Any] = kept["data"]

    def load_service_model(self, service_name: str, type_name: str, api_version: str | None = None) -> Any:
        """See `botocore.loaders.Loader.load_service_model`."""
        name = f"{service_name}/{type_name}"
        if name not in self._models or api_version not in (None, self._version):
            return super().load_service_model(service_name, type_name, api_version)
        return self._models[name]

    def load_data_with_path(self, name: str) -> Any:
        """See `botocore.loaders.Loader.load_data_with_path`."""
        if name not in self._data:
            return super().load_data_with_path(name)
        return self._data[name], os.path.join(self.BUILTIN_DATA_PATH, name)


def loader(service: str) -> Loader:
    """What loads the models of a session that makes clients of `service`; they are kept at the first use."""
    if os.path.isdir(Loader.CUSTOMER_DATA_PATH):
        # Models that this user has put before botocore's.
        return Loader()
    try:
        file = user_cache_path("hardway") / f"botocore-{botocore.__version__}-{service}.json"
        try:
            return KeptLoader(json.loads(file.read_bytes()))
        except (OSError, ValueError, KeyError, TypeError):
            kept = _read(service)
            _write(file, json.dumps(kept, separators=(",", ":")))
            return KeptLoader(kept)
    except (OSError, RuntimeError):
        # No home, no room, or not ours to write in.
        return Loader()


def _read(service: str) -> dict[str, Any]:
    full = Loader()
    models = {}
    for kind in _OF_THE_SERVICE:
        with contextlib.suppress(DataNotFoundError):
            models[f"{service}/{kind}"] = full.load_service_model(service, kind)
    models[f"{service}/service-2"] = _undocumented(models[f"{service}/service-2"])
    data = {name: full.load_data(name) for name in _OF_ALL_SERVICES}
    return {"version": full.determine_latest_version(service, "service-2"), "models": models, "data": data}


def _undocumented(model: Any) -> Any:
    if isinstance(model, dict):
        # botocore looks for it in places, and where it is no text it is the name of something.
        return {k: "" if k == "documentation" and isinstance(v, str) else _undocumented(v) for k, v in model.items()}
    return [_undocumented(each) for each in model] if isinstance(model, list) else model


def _write(file: Path, text: str) -> None:
    """Put the file there whole, or not at all, whoever else does the same now; and clear out old ones."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, prefix=f".{file.name}.", delete=False) as new:
        try:
            new.write(text)
            new.flush()
            os.replace(new.name, file)
        except BaseException:
            os.unlink(new.name)
            raise
    for other in file.parent.glob("botocore-*.json"):
        with contextlib.suppress(FileNotFoundError):
            if other.stat().st_mtime < time.time() - _OTHERS_STAY:
                other.unlink()
