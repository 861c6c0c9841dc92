"""The models of botocore that are kept: the same but for the documentation, and never in the way."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.loaders import Loader
from botocore.session import Session

from hardway.aws import models

SERVICES = ("ec2", "ssm")


def undocumented(shape: dict[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in shape.items() if key not in ("documentation", "members", "member", "key")}
    for one in ("member", "key"):
        if one in shape:
            plain[one] = {key: value for key, value in shape[one].items() if key != "documentation"}
    members = shape.get("members", {})
    return plain | {f".{name}": undocumented(member) for name, member in members.items()}


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_kept_is_the_model(service: str, home: Path) -> None:
    whole = Loader()
    models.loader(service)
    read_back = models.loader(service)
    assert isinstance(read_back, models.KeptLoader)
    kept, full = read_back.load_service_model(service, "service-2"), whole.load_service_model(service, "service-2")
    assert kept["metadata"] == full["metadata"]
    assert read_back.errors == [name for name, shape in full["shapes"].items() if shape.get("exception")]
    for part in ("operations", "shapes"):
        assert list(kept[part]) == list(full[part])
        for name, one in full[part].items():
            assert undocumented(kept[part][name]) == undocumented(one), name
            assert list(kept[part][name].get("members", {})) == list(one.get("members", {})), name
    version = whole.determine_latest_version(service, "service-2")
    for kind in ("paginators-1", "waiters-2", "endpoint-rule-set-1"):
        assert read_back.load_service_model(service, kind, version) == whole.load_service_model(service, kind), kind
    for name in ("endpoints", "partitions", "sdk-default-configuration", "_retry"):
        assert read_back.load_data(name) == whole.load_data(name)


def test_other_services_of_the_same_session_are_botocores(home: Path) -> None:
    session = Session()
    session.register_component("data_loader", models.loader("ec2"))
    sts = session.create_client("sts", region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="x")
    assert hasattr(sts, "assume_role")
    assert sts.meta.endpoint_url == "https://sts.eu-west-1.amazonaws.com"


@pytest.mark.parametrize("spoil", [lambda good: "", lambda good: "{", lambda good: "[]\n", lambda good: good[:-100]])
def test_a_broken_file_is_made_anew(spoil: Callable[[str], str], home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    models.loader("ssm")
    (file,) = (home / "cache" / "hardway").iterdir()
    good = file.read_text()
    file.write_text(spoil(good))
    assert "GetParameter" in models.loader("ssm").load_service_model("ssm", "service-2")["operations"]
    assert file.read_text() == good


def test_without_a_place_for_the_file_botocore_reads_its_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "file"))
    assert "GetParameter" in models.loader("ssm").load_service_model("ssm", "service-2")["operations"]


def test_a_models_directory_of_the_users_own_comes_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = home / ".aws" / "models"
    (mine / "ssm" / "2099-01-01").mkdir(parents=True)
    (mine / "ssm" / "2099-01-01" / "service-2.json").write_text(json.dumps({"metadata": {}, "operations": {}}))
    monkeypatch.setattr(Loader, "CUSTOMER_DATA_PATH", str(mine))
    assert models.loader("ssm").load_service_model("ssm", "service-2")["operations"] == {}


def test_files_of_earlier_versions_go_in_time(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "cache"))
    folder = home / "cache" / "hardway"
    folder.mkdir(parents=True)
    old, recent = folder / "botocore-1.34.0-ec2.models", folder / "botocore-1.40.0-ec2.models"
    old.touch()
    recent.touch()
    os.utime(old, (time.time() - 40 * 24 * 3600,) * 2)
    models.loader("ssm")
    assert (old.exists(), recent.exists()) == (False, True)
    assert len(list(folder.iterdir())) == 2
