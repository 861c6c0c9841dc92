"""The parts of the clusters and of `pmap --engine` that need no engine: refusals, and missing programs."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from invoke import Config, Context

from hardway import config
from hardway.clusters import engines as clusters
from hardway.errors import UsageError
from tasks import mapreduce
from tests.conftest import run_inv
from tests.pmap.conftest import Cluster


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"engine": "ray://host:1"}, "write dask://HOST:PORT"),
        ({"engine": "dask://host"}, "write dask://HOST:PORT"),
        ({"selector": "i-0"}, "write - in place of SELECTOR"),
        ({"slots": 2}, "--slots can't be used with --engine"),
        ({"linger": 1}, "--linger can't be used with --engine"),
        ({"verify": 1}, "--verify can't be used with --engine"),
        ({"join": True}, "--join can't be used with --engine"),
    ],
)
def test_what_another_engine_has_not_is_refused(flags: dict[str, Any], said: str, home: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        mapreduce.pmap(Context(), **{"selector": "-", "args": "a", "command": "cat", "engine": "dask://h:1", **flags})
    assert not (home / ".local").exists()


def test_dask_is_missing_here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=re.escape("pip install 'hardway[engines]'")):
        mapreduce.pmap(Context(), "-", "a", "cat", engine="dask://127.0.0.1:1", progress=False)


def test_an_engine_is_missing_there(cluster: Cluster) -> None:
    """And nothing that is refused makes instances a cluster."""
    refused = run_inv("cluster.dask", cluster.selector, "--yes", "--version", "0.0.1", env=cluster.env)
    assert (refused.code, refused.stdout) == (1, "")
    for one in cluster.ids:
        assert re.search(f"failed: .*{one}: there is no distributed 0.0.1 here: add --install", refused.stderr)
    named = run_inv("cluster.spark", cluster.ids[0], "--yes", "--python", "/nowhere/python", env=cluster.env)
    assert named.code == 1
    assert "/nowhere/python has no pyspark" in named.stderr
    assert run_inv("cluster.ls", env=cluster.env).stdout == ""
    stopped = run_inv("cluster.stop", cluster.selector, "--yes", env=cluster.env)
    assert (stopped.code, stopped.stdout) == (0, "")
    tunnel = run_inv("cluster.tunnel", cluster.ids[0], env=cluster.env)
    assert tunnel.code == 2 and "to no cluster" in tunnel.stderr


@pytest.mark.parametrize(
    ("memory", "mebibytes"), [("", 0), ("512m", 512), ("4g", 4096), ("4GiB", 4096), ("2048k", 2), ("1T", 1 << 20)]
)
def test_memory(memory: str, mebibytes: int) -> None:
    assert clusters.mebibytes(config.settings(Context(), cluster={"memory": memory})) == mebibytes
    c = Context(Config(overrides={"cluster": {"memory": memory}}))
    assert clusters.mebibytes(config.settings(c)) == mebibytes


@pytest.mark.parametrize("given", [("4", ""), ("g", ""), ("-1g", ""), ("0.5g", ""), ("", "1; reboot"), ("", ">=2")])
def test_nonsense(given: tuple[str, str]) -> None:
    memory, version = given
    with pytest.raises(UsageError):
        clusters.check(config.settings(Context(), cluster={"memory": memory, "version": version}))
