"""botocore's models of the services we call, kept where they load fast: no documentation, no gzip, in one file.

Reading botocore's own files is a third of a short command's time. A model has thousands of shapes, and each is parsed
at its first use. botocore reads anything else, such as another service for credentials, from its own files. On any
trouble with our file it reads everything from there.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import botocore
from botocore.exceptions import DataNotFoundError
from botocore.loaders import Loader

from hardway import files
from hardway.files import cache_directory

_OF_THE_SERVICE = ("service-2", "endpoint-rule-set-1", "paginators-1", "waiters-2")
_OF_ALL_SERVICES = ("endpoints", "partitions", "sdk-default-configuration", "_retry")
_SHAPES = "shapes"
# A file for another version of botocore stays for these seconds.
_OTHERS_STAY = 30 * 24 * 3600


class _Unread(Mapping[str, Any]):
    """A mapping by name; each value is JSON text until its first use."""

    def __init__(self, texts: dict[str, str]) -> None:
        self._texts = texts
        self._read: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._read:
            self._read[name] = json.loads(self._texts[name])
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


class KeptLoader(Loader):
    """botocore's loader with the models and data of one service in a text, so that it need not look for files."""

    def __init__(self, text: str) -> None:
        super().__init__()
        first, _, rest = text.partition("\n")
        kept = json.loads(first)
        if len(rest) != kept["length"]:
            raise ValueError("cut short")
        self._version: str = kept["version"]
        self._models: dict[str, Any] = kept["models"]
        self._data: dict[str, Any] = kept["data"]
        parts: dict[str, dict[str, str]] = {part: {} for part in kept["parts"]}
        for line in rest.splitlines():
            part, name, value = line.split("\t")
            parts[part][name] = value
        self.errors: list[str] = kept["errors"]
        self._models[kept["model"]]["shapes"] = _Unread(parts[_SHAPES])
        for partition in self._data["endpoints"]["partitions"]:
            partition["services"] = _Unread(parts[partition["partition"]])

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
    """Return a loader for the models of a session that makes clients of `service`; its first use keeps them."""
    if os.path.isdir(Loader.CUSTOMER_DATA_PATH):
        # This user has put models before botocore's.
        return Loader()
    try:
        file = cache_directory() / f"botocore-{botocore.__version__}-{service}.models"
        try:
            return KeptLoader(file.read_text())
        except (OSError, ValueError, KeyError, TypeError):
            text = _text(service)
            _write(file, text)
            return KeptLoader(text)
    except (OSError, RuntimeError):
        # There is no home, no room, or no directory of ours to write in.
        return Loader()


def tell_errors(client: Any, known: Loader) -> None:
    """Tell a new client which shapes are errors: at the first error botocore would parse all shapes to find out."""
    if isinstance(known, KeptLoader):
        model = client.meta.service_model
        vars(model)["error_shapes"] = [model.shape_for(name) for name in known.errors]


def _text(service: str) -> str:
    """Write the text for a KeptLoader: a line with all but the large parts, then a line for each of their elements."""
    full = Loader()
    models = {}
    for kind in _OF_THE_SERVICE:
        with contextlib.suppress(DataNotFoundError):
            models[f"{service}/{kind}"] = full.load_service_model(service, kind)
    name = f"{service}/service-2"
    models[name] = _undocumented(models[name])
    data = {each: full.load_data(each) for each in _OF_ALL_SERVICES}
    parts = {_SHAPES: models[name].pop("shapes")}
    parts |= {partition["partition"]: partition.pop("services") for partition in data["endpoints"]["partitions"]}
    errors = [each for each, shape in parts[_SHAPES].items() if shape.get("exception")]
    version = full.determine_latest_version(service, "service-2")
    lines = (f"{part}\t{each}\t{_json(value)}" for part, values in parts.items() for each, value in values.items())
    rest = "\n".join(lines)
    first = {
        "version": version, "model": name, "models": models, "data": data, "errors": errors, "parts": list(parts),
        "length": len(rest),
    }  # fmt: skip
    return f"{_json(first)}\n{rest}"


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _undocumented(model: Any) -> Any:
    if isinstance(model, dict):
        # botocore expects the key in some places. Where its value is no text, `documentation` is the name of something.
        return {k: "" if k == "documentation" and isinstance(v, str) else _undocumented(v) for k, v in model.items()}
    return [_undocumented(each) for each in model] if isinstance(model, list) else model


def _write(file: Path, text: str) -> None:
    """Write the file, and clear out old ones."""
    files.write(file, [text.encode()])
    for other in file.parent.glob("botocore-*.models"):
        with contextlib.suppress(FileNotFoundError):
            if other.stat().st_mtime < time.time() - _OTHERS_STAY:
                other.unlink()
