"""hardway without Invoke: a script's cluster, and what a notebook shows."""

from __future__ import annotations

from pathlib import Path

import pytest

import hardway
from hardway.errors import HardwayError
from hardway.pmap.results import Results
from hardway.tables import Table
from tests.conftest import LocalCloud


def test_a_script_has_instances_for_a_block(
    cloud: LocalCloud, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name, value in cloud.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "invoke.yaml").write_text("ec2: {name: by-file}\n")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("sent")
    with pytest.raises(HardwayError, match="task 1 failed") as error, hardway.cluster(num=2, spot=1.0) as cluster:
        assert cluster.map("wc -c", ["a", "bb"], progress=False) == ["2\n", "3\n"]
        cluster.push("tree", ":tree")
        assert [ended.exit_code for ended in cluster.run("cat tree/file", quiet=True)] == [0, 0]
        cluster.pull(":tree", "pulled")
        cluster.map("false", ["x"], retries=0, progress=False)
    assert error.value.code == 1
    assert capfd.readouterr().out == "sent\nsent\n"
    assert sorted(path.name for path in (tmp_path / "pulled").iterdir()) == sorted(cluster.ids)
    found = cloud.client("ec2").describe_instances(InstanceIds=cluster.ids)["Reservations"]
    described = [one for reservation in found for one in reservation["Instances"]]
    assert {one["State"]["Name"] for one in described} <= {"shutting-down", "terminated"}
    assert {tag["Value"] for one in described for tag in one["Tags"] if tag["Key"] == "Name"} == {"by-file"}


def test_settings_that_cannot_be_read_are_one_error(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "invoke.yaml").write_text("- nonsense")
    with pytest.raises(HardwayError, match=r"invoke\.yaml: it must hold settings in sections"), hardway.cluster():
        pass


def test_a_notebook_shows_tables_without_foreign_html() -> None:
    table = Table([{"name": "<b>x</b>\n", "size": 3}], "name", "size", lambda row: "&")
    assert table._repr_html_() == (
        "<table><tr><th>name</th><th>size</th><th></th></tr>"
        "<tr><td>&lt;b&gt;x&lt;/b&gt;\\n</td><td>3</td><td>&amp;</td></tr></table>"
    )
    many = Results(1000, lambda place: iter([b"<i>", b"\xff" * 10_000_000]), missing={1})._repr_html_()
    assert "<td>1</td><td>&lt;i&gt;" in many
    assert "<td>2</td><td>(no result)</td>" in many
    assert "and 950 more" in many and len(many) < 100_000
