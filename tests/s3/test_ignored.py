"""Flags that do nothing in the stub: docs/testing.md has each of them, and nothing comes of them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable

import pytest

from tests.conftest import REPOSITORY
from tests.s3.conftest import DATE, StubSide

BARE = {
    "--bucket-key-enabled", "--bypass-governance-retention", "--confirm-remove-self-bucket-access", "--debug",
    "--fetch-owner", "--force-glacier-transfer", "--ignore-glacier-warnings", "--no-bucket-key-enabled",
    "--no-bypass-governance-retention", "--no-cli-pager", "--no-confirm-remove-self-bucket-access",
    "--no-fetch-owner", "--no-object-lock-enabled-for-bucket", "--no-progress", "--no-sign-request",
    "--no-verify-ssl", "--object-lock-enabled-for-bucket", "--v2-debug", "--validate-same-s3-paths",
}  # fmt: skip
VALUES = {
    "--acl": "public-read", "--checksum-algorithm": "SHA256", "--checksum-mode": "ENABLED", "--color": "on",
    "--encoding-type": "url", "--endpoint-url": "http://127.0.0.1:9", "--grants": "read=id=1 full=id=2",
    "--request-payer": "requester", "--sse-c": "AES256", "--sse-c-copy-source": "AES256", "--tags": "k v",
}  # fmt: skip
NO_COPY = {"--sse-c-copy-source", "--sse-c-copy-source-key"}
NO_UPLOAD, NO_DOWNLOAD = {"--checksum-mode"}, {"--checksum-algorithm"}
OBJECT = "--bucket bkt --key k"
CASES: list[tuple[str, set[str]]] = [
    ("s3 ls s3://bkt", set()),
    *((f"s3 {verb} tree/f s3://bkt/new", NO_COPY | NO_UPLOAD) for verb in ("cp", "mv")),
    *((f"s3 {verb} s3://bkt/k s3://bkt/new", NO_UPLOAD) for verb in ("cp", "mv")),
    *((f"s3 {verb} s3://bkt/k new", NO_COPY | NO_DOWNLOAD) for verb in ("cp", "mv")),
    ("s3 cp - s3://bkt/new", NO_COPY | NO_UPLOAD),
    ("s3 cp s3://bkt/k -", NO_COPY | NO_DOWNLOAD),
    ("s3 sync tree s3://bkt/new", NO_COPY | NO_UPLOAD),
    ("s3 sync s3://bkt s3://other", NO_UPLOAD),
    ("s3 sync s3://bkt new", NO_COPY | NO_DOWNLOAD),
    ("s3 rm s3://bkt/k", set()),
    ("s3 rm s3://bkt --recursive", set()),
    ("s3 mb s3://other", set()),
    ("s3 presign s3://bkt/k", set()),
    (f"s3api head-object {OBJECT}", set()),
    (f"s3api get-object {OBJECT} new", set()),
    (f"s3api put-object {OBJECT} --body tree/f", set()),
    (f"s3api delete-object {OBJECT}", set()),
    ("s3api list-objects-v2 --bucket bkt", set()),
    ("s3api list-buckets", set()),
    ("s3api create-bucket --bucket other", set()),
    ("s3api head-bucket --bucket bkt", set()),
    ("s3api delete-bucket --bucket empty", set()),
    ("s3api get-bucket-location --bucket bkt", set()),
    ("s3api get-bucket-acl --bucket bkt", set()),
    ("s3api get-bucket-versioning --bucket bkt", set()),
    ("s3api list-objects --bucket bkt", set()),
    (f"s3api copy-object {OBJECT}2 --copy-source bkt/k", set()),
    ("s3api delete-objects --bucket bkt --delete Objects=[{Key=k}]", set()),
    (f"s3api get-object-tagging {OBJECT}", set()),
    (f"s3api put-object-tagging {OBJECT} --tagging TagSet=[{{Key=a,Value=b}}]", set()),
    (f"s3api delete-object-tagging {OBJECT}", set()),
    (f"s3api put-object-acl {OBJECT}", set()),
    ("s3api put-bucket-acl --bucket bkt", set()),
    ("s3api put-bucket-encryption --bucket bkt --server-side-encryption-configuration {}", set()),
    ("s3api put-bucket-ownership-controls --bucket bkt --ownership-controls {}", set()),
    ("s3api put-bucket-policy --bucket bkt --policy {}", set()),
    ("s3api put-public-access-block --bucket bkt --public-access-block-configuration {}", set()),
    ("s3api delete-bucket-encryption --bucket bkt", set()),
    ("s3api delete-bucket-ownership-controls --bucket bkt", set()),
    ("s3api delete-bucket-policy --bucket bkt", set()),
    ("s3api delete-public-access-block --bucket bkt", set()),
]
"""A command, and which of its flags the CLI refuses with these arguments."""


def documented() -> dict[str, list[str]]:
    """The flags that docs/testing.md lists, by command."""
    found: dict[str, list[str]] = {}
    text = (REPOSITORY / "docs" / "testing.md").read_text()
    for commands, flags in re.findall(r"(?m)^\| (`[a-z0-9` -]+`) \| `(--.*)` \|$", text):
        for command in re.findall(r"`(.*?)`", commands):
            found.setdefault(command, []).extend(flags.split())
    return found


FLAGS = documented()


def given(flags: Iterable[str]) -> list[str]:
    return [word for flag in flags for word in (flag, *([] if flag in BARE else VALUES.get(flag, "1").split()))]


def outcome(stub: StubSide, words: list[str]) -> tuple[object, ...]:
    """A command's output, and the state afterwards, from the same start each time."""
    for old in (*stub.session.glob("[!^]*"), *stub.root.iterdir()):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    (stub.root / "tree").mkdir()
    (stub.root / "tree" / "f").write_text("file")
    stub.put("bkt", "k", b"object")
    stub.make("empty")
    done = stub.run(words, b"stdin")
    assert done.code == 0, done.stderr
    return DATE.sub("DATE", done.stdout), done.stderr, stub.objects(), stub.files()


def test_the_docs_list_the_flags_that_the_stub_ignores(stub: StubSide) -> None:
    said = re.findall(r"(?m)^  ([a-z0-9-]+): (--.*)$", stub.run(["help"]).stdout)
    assert {command: set(flags.split()) for command, flags in said} == {name: {*all_} for name, all_ in FLAGS.items()}


@pytest.mark.parametrize(("command", "refused"), CASES)
def test_an_ignored_flag_changes_nothing(command: str, refused: set[str], stub: StubSide) -> None:
    words = command.split()
    flags = given(flag for flag in FLAGS[words[1]] if flag not in refused)
    assert outcome(stub, [*given(FLAGS["aws"]), *words, *flags]) == outcome(stub, words)


def test_each_flag_is_tried() -> None:
    tried = {
        (command.split()[1], flag) for command, refused in CASES for flag in {*FLAGS[command.split()[1]]} - refused
    }
    assert tried == {(name, flag) for name, flags in FLAGS.items() for flag in flags if name != "aws"}
