"""The same command on both sides, the real AWS CLI on moto and the stub: what a person sees must be the same."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.s3.conftest import RealSide, Result, Side, StubSide, transfer_lines

OLD = 1_500_000_000
PARTIAL = re.compile(r"\.[0-9a-zA-Z]{8}'")  # the CLI names the file that it downloads to
USAGE = (
    "usage: aws [options]",
    "usage: Note: AWS CLI",
    "Note: AWS CLI",
    "To see help text",
    "  aws help",
    "  aws <",
)
Step = str | tuple[str, bytes] | Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """Commands, run one after the other, and what there is before the first."""

    name: str
    steps: tuple[Step, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    objects: Mapping[str, str] = field(default_factory=dict)
    buckets: tuple[str, ...] = ("bkt", "other")
    differs: str = ""  # a word; lines with it are not compared
    why: str = ""  # and why they must differ
    ordered: bool = False  # the lines come in an order of their own


def case(name: str, *steps: Step, **options: object) -> Case:
    return Case(name, steps, **options)  # type: ignore[arg-type]


TREE = {"t/a.txt": "a", "t/b.log": "bb", "t/sub/c.txt": "ccc", "t/sub/deep/d.log": "dddd", "t/sub-2/e": "e"}
KEYS = {
    "bkt/p/a.txt": "a",
    "bkt/p/b.log": "bb",
    "bkt/p/sub/c.txt": "ccc",
    "bkt/p/sub/deep/d.log": "dddd",
    "bkt/p-2/e": "e",
    "bkt/top": "t",
}


def write(name: str, text: str, when: int = OLD) -> Callable[[Path], None]:
    def step(root: Path) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.utime(path, (when, when))

    return step


def stamp(name: str, when: float) -> Callable[[Path], None]:
    return lambda root: os.utime(root / name, (when, when))


def link(name: str, target: str) -> Callable[[Path], None]:
    return lambda root: (root / name).symlink_to(target)


def fifo(name: str) -> Callable[[Path], None]:
    return lambda root: os.mkfifo(root / name)


def forbid(name: str, mode: int = 0) -> Callable[[Path], None]:
    return lambda root: (root / name).chmod(mode)


UPLOAD = [
    case("a file that can't be read", forbid("a"), "s3 cp a s3://bkt/x", forbid("a", 0o644), files={"a": "hi"}),
    case(
        "files that can't be read",
        forbid("t/a.txt"),
        "s3 cp t s3://bkt/x --recursive",
        forbid("t/a.txt", 0o644),
        files=TREE,
    ),
    case(
        "a directory that can't be read",
        forbid("t/sub"),
        "s3 cp t s3://bkt/x --recursive",
        "s3 sync t s3://other",
        forbid("t/sub", 0o755),
        files=TREE,
    ),
    case("file to key", "s3 cp a s3://bkt/x", files={"a": "hi"}),
    case("file to bucket", "s3 cp a s3://bkt", files={"a": "hi"}),
    case("file to bucket/", "s3 cp a s3://bkt/", files={"a": "hi"}),
    case("file to prefix/", "s3 cp a s3://bkt/p/q/", files={"a": "hi"}),
    case("file from a directory", "s3 cp t/sub/c.txt s3://bkt/", files=TREE),
    case("file by a path with ..", "s3 cp t/../t/./a.txt s3://bkt/", files=TREE),
    case("file from above", lambda root: (root.parent / "up").write_text("u"), "s3 cp ../up s3://bkt/u"),
    case("empty file", "s3 cp a s3://bkt/x", files={"a": ""}),
    case("no such file", "s3 cp nope s3://bkt/x"),
    case("no such file, recursive", "s3 cp nope s3://bkt/x --recursive"),
    case("directory without --recursive", "s3 cp t s3://bkt/x", files=TREE),
    case("recursive", "s3 cp t s3://bkt/x --recursive", files=TREE),
    case("recursive to bucket", "s3 cp t s3://bkt --recursive", files=TREE),
    case("recursive with slashes", "s3 cp t/ s3://bkt/x/ --recursive", files=TREE),
    case("recursive from .", "s3 cp . s3://bkt/x --recursive", files=TREE),
    case("recursive of a file", "s3 cp a s3://bkt/x --recursive", files={"a": "hi"}),
    case("recursive of an empty directory", lambda root: (root / "e").mkdir(), "s3 cp e s3://bkt/x --recursive"),
    case("overwrite", "s3 cp a s3://bkt/x", files={"a": "new"}, objects={"bkt/x": "old"}),
    case("a key and a key below it", "s3 cp a s3://bkt/x", "s3 cp a s3://bkt/x/y", files={"a": "hi"}),
    case(
        "odd names",
        "s3 cp . s3://bkt/ --recursive",
        files={"a b": "1", "q'\"uo": "2", "é/ü": "3", "a%b^c": "4"},
    ),
    case(
        "names that start with a dash",
        "s3 cp ./-n s3://bkt/",
        "s3 cp . s3://bkt/d --recursive",
        files={"-n": "1"},
    ),
    case("follow a link", link("l", "a"), "s3 cp l s3://bkt/", files={"a": "hi"}),
    case("follow links", link("t/l", "a.txt"), link("t/d", "sub"), "s3 cp t s3://bkt --recursive", files=TREE),
    case(
        "don't follow links",
        link("t/l", "a.txt"),
        link("t/d", "sub"),
        "s3 cp t s3://bkt --recursive --no-follow-symlinks",
        files=TREE,
    ),
    case(
        "don't follow the link named",
        link("l", "a"),
        "s3 cp l s3://bkt/ --no-follow-symlinks",
        files={"a": "hi"},
    ),
    case("a broken link", link("l", "gone"), "s3 cp l s3://bkt/"),
    case("a broken link among files", link("t/l", "gone"), "s3 cp t s3://bkt --recursive", files=TREE),
    case(
        "links in a circle",
        link("t/self", "self"),
        link("t/one", "two"),
        link("t/two", "one"),
        "s3 cp t s3://bkt --recursive",
        "s3 sync t s3://other",
        files=TREE,
    ),
    case(
        "the last of the flags counts",
        link("t/l", "a.txt"),
        "s3 cp t s3://bkt --recursive --no-follow-symlinks --follow-symlinks",
        "s3 cp t s3://other --recursive --follow-symlinks --no-follow-symlinks",
        files=TREE,
    ),
    case("a fifo", fifo("f"), "s3 cp f s3://bkt/"),
    case("a fifo among files", fifo("t/f"), "s3 cp t s3://bkt --recursive", files=TREE),
    case("a fifo among files, quiet", fifo("t/f"), "s3 cp t s3://bkt --recursive --quiet", files=TREE),
    case("mv a file", "s3 mv a s3://bkt/x", files={"a": "hi"}),
    case("mv recursive", "s3 mv t s3://bkt/x --recursive", files=TREE),
    case("mv recursive with a filter", "s3 mv t s3://bkt/x --recursive --exclude *.log", files=TREE),
    case("longest key", f"s3 cp a s3://bkt/{'k' * 1024}", files={"a": "hi"}),
    case("bad bucket name", "s3 cp a 's3://no good/x'", files={"a": "hi"}),
    case("no bucket", "s3 cp a s3://", "s3 cp a s3:///x", files={"a": "hi"}),
    case("two local paths", "s3 cp a b", "s3 mv a b", "s3 sync a b", files={"a": "hi"}),
]

DOWNLOAD = [
    case(
        "into a directory that can't be written",
        forbid("t/sub", 0o555),
        "s3 cp s3://bkt/top t/sub/x",
        "s3 cp s3://bkt/p t/sub --recursive --exclude sub/*",
        forbid("t/sub", 0o755),
        files=TREE,
        objects=KEYS,
    ),
    case(
        "over a file that can't be written",
        forbid("a", 0o444),
        "s3 cp s3://bkt/top a",
        objects=KEYS,
        files={"a": "x"},
    ),
    case("key to file", "s3 cp s3://bkt/top x", objects=KEYS),
    case("key to .", "s3 cp s3://bkt/p/a.txt .", objects=KEYS),
    case("key to directory/", "s3 cp s3://bkt/p/a.txt new/dir/", objects=KEYS),
    case("key to a directory that is there", "s3 cp s3://bkt/top t", objects=KEYS, files=TREE),
    case("key to a path of new directories", "s3 cp s3://bkt/top x/y/z", objects=KEYS),
    case("no such key", "s3 cp s3://bkt/nope x", "s3 cp s3://bkt/p x"),
    case("no such key, quiet", "s3 cp s3://bkt/nope x --quiet", "s3 cp s3://bkt/nope x --only-show-errors"),
    case("a bucket without --recursive", "s3 cp s3://bkt x", "s3 cp s3://bkt/ .", objects=KEYS),
    case("a prefix without --recursive", "s3 cp s3://bkt/p/ x", objects=KEYS),
    case("recursive", "s3 cp s3://bkt/p out --recursive", objects=KEYS),
    case("recursive with slashes", "s3 cp s3://bkt/p/ out/ --recursive", objects=KEYS),
    case("recursive of a bucket", "s3 cp s3://bkt out --recursive", objects=KEYS),
    case("recursive to .", "s3 cp s3://bkt/p . --recursive", objects=KEYS),
    case("recursive of nothing", "s3 cp s3://bkt/nothing out --recursive", objects=KEYS),
    case("recursive of one key's name", "s3 cp s3://bkt/top out --recursive", objects=KEYS),
    case("overwrite", "s3 cp s3://bkt/top a", objects=KEYS, files={"a": "old"}),
    case(
        "overwrite a link, not what it points to",
        link("l", "a"),
        "s3 cp s3://bkt/top l",
        objects=KEYS,
        files={"a": "o"},
    ),
    case("onto a directory without a slash", "s3 cp s3://bkt/top t/sub", objects=KEYS, files=TREE),
    case("below a file", "s3 cp s3://bkt/top a/b", objects=KEYS, files={"a": "x"}),
    case(
        "markers are skipped",
        "s3 cp s3://bkt out --recursive",
        objects={"bkt/d/": "", "bkt/d/x": "1", "bkt/e/": ""},
    ),
    case(
        "key that leads out",
        "s3 cp s3://bkt/p/ out --recursive",
        objects={"bkt/p/../../up": "1", "bkt/p/in": "2"},
    ),
    case(
        "key that leads out at the root",
        "s3 cp s3://bkt/ out --recursive",
        objects={"bkt//../up": "1", "bkt/in": "2"},
    ),
    case("key with .. that stays in", "s3 cp s3://bkt/ out --recursive", objects={"bkt/a/../b": "1"}),
    case("single key with ..", "s3 cp s3://bkt/a/../b out", objects={"bkt/a/../b": "1"}),
    case("keys with empty parts", "s3 cp s3://bkt/ out --recursive", objects={"bkt/a//b": "1", "bkt//c": "2"}),
    case(
        "odd keys",
        "s3 cp s3://bkt/ out --recursive",
        objects={"bkt/a b": "1", "bkt/é/ü\u4e00": "2", "bkt/a%b^c": "3"},
    ),
    case("mv a key", "s3 mv s3://bkt/top x", objects=KEYS),
    case("mv recursive", "s3 mv s3://bkt/p out --recursive", objects=KEYS),
    case("mv no such key", "s3 mv s3://bkt/nope x"),
    case("to /dev/null", "s3 cp s3://bkt/top /dev/null", objects=KEYS),
    case(
        "case conflict, skip",
        "s3 cp s3://bkt/ out --recursive --case-conflict skip",
        objects={"bkt/x": "1", "bkt/y": "2"},
    ),
    case("bad case conflict", "s3 cp s3://bkt/ out --recursive --case-conflict maybe"),
    case("bad bucket name", "s3 cp 's3://no good/x' y", "s3 cp 's3://no good/' y --recursive"),
]

COPY = [
    case("key to key", "s3 cp s3://bkt/top s3://other/x", objects=KEYS),
    case("key to bucket", "s3 cp s3://bkt/p/a.txt s3://other", objects=KEYS),
    case("key to prefix/", "s3 cp s3://bkt/p/a.txt s3://other/q/", objects=KEYS),
    case("no such key", "s3 cp s3://bkt/nope s3://other/x"),
    case("recursive", "s3 cp s3://bkt/p s3://other/q --recursive", objects=KEYS),
    case("recursive in a bucket", "s3 cp s3://bkt/p s3://bkt/q --recursive", objects=KEYS),
    case("recursive of a bucket", "s3 cp s3://bkt s3://other --recursive", objects=KEYS),
    case(
        "recursive with filters",
        "s3 cp s3://bkt/p s3://other --recursive --exclude * --include *.txt",
        objects=KEYS,
    ),
    case("markers are skipped", "s3 cp s3://bkt s3://other --recursive", objects={"bkt/d/": "", "bkt/d/x": "1"}),
    case("mv key", "s3 mv s3://bkt/top s3://other/x", objects=KEYS),
    case("mv recursive", "s3 mv s3://bkt/p s3://other/q --recursive", objects=KEYS),
    case("mv onto itself", "s3 mv s3://bkt/top s3://bkt/top", "s3 mv s3://bkt/top s3://bkt/", objects=KEYS),
    case(
        "copy onto itself", "s3 cp s3://bkt/top s3://bkt/top", "s3 cp s3://bkt/p s3://bkt/p --recursive", objects=KEYS
    ),
    case("copy with new metadata onto itself", "s3 cp s3://bkt/top s3://bkt/top --metadata a=b", objects=KEYS),
    case("storage class", "s3 cp s3://bkt/top s3://other/x --storage-class STANDARD_IA", objects=KEYS),
]

STREAM = [
    case("up", ("s3 cp - s3://bkt/x", b"some\0bytes\n")),
    case("up, nothing", ("s3 cp - s3://bkt/x", b"")),
    case("up to a prefix/", ("s3 cp - s3://bkt/p/", b"x")),
    case("up to a bucket", ("s3 cp - s3://bkt", b"x")),
    case("up, expected size", ("s3 cp - s3://bkt/x --expected-size 3", b"abc")),
    case("up, bad expected size", ("s3 cp - s3://bkt/x --expected-size many", b"abc")),
    case("up, dry", ("s3 cp - s3://bkt/x --dryrun", b"x")),
    case("up, dry and quiet", ("s3 cp - s3://bkt/x --dryrun --quiet", b"x")),
    case("up to a bad bucket", ("s3 cp - 's3://no good/x'", b"x")),
    case("down", "s3 cp s3://bkt/top -", objects={"bkt/top": "line\nline"}, ordered=True),
    case("down, no such key", "s3 cp s3://bkt/nope -"),
    case("down, no such key, quiet", "s3 cp s3://bkt/nope - --quiet"),
    case("down, dry", "s3 cp s3://bkt/top - --dryrun", objects=KEYS),
    case("recursive", "s3 cp - s3://bkt/x --recursive", "s3 cp s3://bkt/x - --recursive"),
    case("mv and sync", "s3 mv - s3://bkt/x", "s3 mv s3://bkt/x -", "s3 sync - s3://bkt/x"),
    case("both sides", "s3 cp - -"),
    case(
        "the seed of it all",
        ("s3 cp - s3://fake-bucket/path/key.txt", b"foo\n"),
        "s3 cp s3://fake-bucket/path/key.txt -",
        buckets=("fake-bucket",),
    ),
]

REMOVE = [
    case("key", "s3 rm s3://bkt/top", objects=KEYS),
    case("no such key", "s3 rm s3://bkt/nope"),
    case("a prefix without --recursive", "s3 rm s3://bkt/p", "s3 rm s3://bkt/p/", objects=KEYS),
    case("a bucket without --recursive", "s3 rm s3://bkt", "s3 rm s3://bkt/", objects=KEYS),
    case("recursive", "s3 rm s3://bkt/p --recursive", objects=KEYS),
    case("recursive of a bucket", "s3 rm s3://bkt --recursive", objects=KEYS),
    case("recursive of nothing", "s3 rm s3://bkt/nothing --recursive", objects=KEYS),
    case("recursive with markers", "s3 rm s3://bkt/ --recursive", objects={"bkt/d/": "", "bkt/d/x": "1"}),
    case("dry", "s3 rm s3://bkt/p --recursive --dryrun", objects=KEYS),
    case("quiet", "s3 rm s3://bkt/p --recursive --quiet", objects=KEYS),
    case("only errors", "s3 rm s3://bkt/p --recursive --only-show-errors", objects=KEYS),
    case("exclude", "s3 rm s3://bkt/p --recursive --exclude *.txt", objects=KEYS),
    case("exclude and include", "s3 rm s3://bkt --recursive --exclude * --include p/*.log", objects=KEYS),
    case("a local path", "s3 rm a", files={"a": "x"}),
    case("no path, two paths", "s3 rm", "s3 rm s3://bkt/a s3://bkt/b"),
]

LIST = [
    case("bucket", "s3 ls s3://bkt", "s3 ls s3://bkt/", "s3 ls bkt", objects=KEYS, ordered=True),
    case("prefix/", "s3 ls s3://bkt/p/", objects=KEYS, ordered=True),
    case("prefix", "s3 ls s3://bkt/p", objects=KEYS, ordered=True),
    case("part of a name", "s3 ls s3://bkt/p/su", "s3 ls s3://bkt/to", objects=KEYS, ordered=True),
    case("key", "s3 ls s3://bkt/p/a.txt", objects=KEYS, ordered=True),
    case("nothing there", "s3 ls s3://bkt/nope", "s3 ls s3://bkt/nope/ --recursive", "s3 ls s3://bkt"),
    case(
        "recursive",
        "s3 ls s3://bkt --recursive",
        "s3 ls s3://bkt/p/s --recursive",
        objects=KEYS,
        ordered=True,
    ),
    case(
        "summary",
        "s3 ls s3://bkt --summarize",
        "s3 ls s3://bkt --recursive --summarize",
        objects=KEYS,
        ordered=True,
    ),
    case(
        "summary of nothing",
        "s3 ls s3://bkt --summarize",
        "s3 ls s3://bkt/x --summarize --human-readable",
        ordered=True,
    ),
    case(
        "human sizes",
        "s3 ls s3://bkt --human-readable --summarize",
        objects={f"bkt/{n}": "x" * n for n in (0, 1, 2, 1023, 1024, 1075, 1076, 1587, 10240, 1048064, 1048065)},
        ordered=True,
    ),
    case(
        "order",
        "s3 ls s3://bkt --recursive",
        "s3 ls s3://bkt",
        "s3 ls s3://bkt/a",
        objects={
            f"bkt/{k}": k for k in ("a", "a/b", "a-b", "a.b", "a/b/c", "a0", "A", "é", "z", "\U0001f600", "\uffee")
        },
        ordered=True,
    ),
    case(
        "odd keys",
        "s3 ls s3://bkt --recursive",
        "s3 ls s3://bkt",
        "s3 ls s3://bkt/d/",
        "s3 ls s3://bkt/a/",
        objects={
            "bkt/a//b": "1",
            "bkt//lead": "2",
            "bkt/d/": "",
            "bkt/../x": "3",
            "bkt/./y": "4",
            "bkt/%41^": "5",
        },
        ordered=True,
    ),
    case(
        "page size",
        "s3 ls s3://bkt --page-size 1",
        "s3 ls s3://bkt/p/ --page-size 2",
        objects=KEYS,
        ordered=True,
    ),
    case("bad page size", "s3 ls s3://bkt --page-size many", objects=KEYS),
    case(
        "buckets",
        "s3 mb s3://first",
        "s3 mb s3://second",
        "s3 ls",
        "s3 ls s3://",
        "s3 ls --recursive",
        buckets=(),
        ordered=True,
    ),
    case(
        "buckets by prefix",
        "s3 mb s3://first",
        "s3 mb s3://second",
        "s3 ls --bucket-name-prefix f",
        buckets=(),
    ),
    case("no buckets", "s3 ls", "s3 ls --summarize", buckets=(), ordered=True),
    case("bad bucket name", "s3 ls 's3://no good'"),
    case("two paths", "s3 ls s3://bkt s3://other"),
    case("unknown flag", "s3 ls s3://bkt --long"),
]

BUCKETS = [
    case("mb", "s3 mb s3://newer", "s3 ls", buckets=(), ordered=True),
    case("mb twice", "s3 mb s3://newer", "s3 mb s3://newer", buckets=()),
    case("mb with a key", "s3 mb s3://newer/key", buckets=()),
    case("mb without s3://", "s3 mb newer", "s3 mb", buckets=()),
    case("mb of a bad name", "s3 mb s3://ab", "s3 mb 's3://a b c'", "s3 mb s3://", buckets=()),
    case("mb with tags", "s3 mb s3://newer --tags a b --tags c d", "s3 mb s3://newest --tags a", buckets=()),
    case("rb", "s3 mb s3://newer", "s3 rb s3://newer", "s3 ls", buckets=()),
    case("rb of a full bucket", "s3 rb s3://bkt", objects=KEYS),
    case("rb of a full bucket, forced", "s3 rb s3://bkt --force", objects=KEYS),
    case("rb of an empty bucket, forced", "s3 rb s3://bkt --force"),
    case("rb after rm", "s3 rm s3://bkt --recursive", "s3 rb s3://bkt", objects=KEYS),
    case("rb with a key", "s3 rb s3://bkt/key", "s3 rb bkt", "s3 rb"),
    case(
        "use after rb",
        "s3 rb s3://bkt",
        "s3 mb s3://bkt",
        "s3 cp a s3://bkt/x",
        "s3 ls s3://bkt",
        files={"a": "1"},
    ),
]

FILTERS = [
    case(
        f"{flags} ({'up' if up else 'down'})",
        f"s3 cp t s3://bkt/x --recursive --dryrun {flags}"
        if up
        else f"s3 cp s3://bkt/p out --recursive --dryrun {flags}",
        files=TREE,
        objects=KEYS,
    )
    for up in (True, False)
    for flags in (
        "--exclude '*.txt'",
        "--exclude '*' --include '*.txt'",
        "--include '*.txt' --exclude '*'",
        "--exclude 'sub/*'",
        "--exclude 'sub*' --include 'sub/deep/*'",
        "--exclude '?.txt'",
        "--exclude '[ab].*'",
        "--exclude '[!a].*'",
        "--exclude '*/[c-d].???'",
        "--exclude a.txt --exclude b.log",
        "--exclude '/*'",
        "--exclude '*' --include 'sub/[c'",
    )
] + [
    case(
        "one file excluded",
        "s3 cp a s3://bkt/x --exclude a",
        "s3 cp a s3://bkt/y --exclude b",
        files={"a": "1"},
    ),
    case(
        "one file by a path excluded",
        "s3 cp t/a.txt s3://bkt/x --exclude a.txt",
        "s3 cp t/a.txt s3://bkt/y --exclude t/*",
        files=TREE,
    ),
    case(
        "one key excluded",
        "s3 cp s3://bkt/p/a.txt x --exclude a.*",
        "s3 rm s3://bkt/top --exclude *",
        objects=KEYS,
    ),
    case(
        "patterns that are more to bash",
        "s3 cp . s3://bkt --recursive --exclude '+(a)' --exclude '\\*' --exclude '[[:alpha:]]'",
        files={"aa": "1", "+(a)": "2", "*": "3", "b": "4", ":]": "5", "x\\y": "6"},
    ),
    case(
        "a caret is a character",
        "s3 cp . s3://bkt --recursive --exclude '[^a]'",
        files={"a": "1", "b": "2", "^": "3"},
    ),
    case(
        "? is a character, not a byte",
        "s3 cp . s3://bkt --recursive --exclude '?'",
        files={"é": "1", "ab": "2"},
    ),
    case("--include=PATTERN", "s3 cp t s3://bkt --recursive --exclude=* --include=*.txt", files=TREE),
    case("--exclude without a pattern", "s3 cp t s3://bkt --recursive --exclude", files=TREE),
]

SYNC = [
    case("up", "s3 sync t s3://bkt/x", "s3 sync t s3://bkt/x", files=TREE),
    case("up to a bucket", "s3 sync t s3://bkt", files=TREE),
    case(
        "up, newer file",
        "s3 sync t s3://bkt",
        stamp("t/a.txt", 4_000_000_000),
        "s3 sync t s3://bkt",
        files=TREE,
    ),
    case("up, other size", "s3 sync t s3://bkt", write("t/a.txt", "longer"), "s3 sync t s3://bkt", files=TREE),
    case(
        "up, older file of the same size",
        "s3 sync t s3://bkt",
        write("t/a.txt", "z", OLD - 9),
        "s3 sync t s3://bkt",
        files=TREE,
    ),
    case(
        "up, size only",
        "s3 sync t s3://bkt",
        stamp("t/a.txt", 4_000_000_000),
        "s3 sync t s3://bkt --size-only",
        files=TREE,
    ),
    case(
        "up, delete",
        "s3 sync t s3://bkt/p --delete",
        "s3 sync t s3://bkt/p --delete",
        files=TREE,
        objects=KEYS,
    ),
    case("up, delete, dry", "s3 sync t s3://bkt/p --delete --dryrun", files=TREE, objects=KEYS),
    case("up, delete, excluded", "s3 sync t s3://bkt/p --delete --exclude *.log", files=TREE, objects=KEYS),
    case("up, no such directory", "s3 sync nope s3://bkt"),
    case("up, a file", "s3 sync a s3://bkt", files={"a": "1"}),
    case("up, a fifo", fifo("t/f"), "s3 sync t s3://bkt", files=TREE),
    case("down", "s3 sync s3://bkt/p out", "s3 sync s3://bkt/p out", objects=KEYS),
    case(
        "down, newer file here",
        "s3 sync s3://bkt/p out",
        stamp("out/a.txt", 4_000_000_000),
        "s3 sync s3://bkt/p out",
        objects=KEYS,
    ),
    case(
        "down, older file here",
        "s3 sync s3://bkt/p out",
        stamp("out/a.txt", OLD),
        "s3 sync s3://bkt/p out",
        objects=KEYS,
    ),
    case(
        "down, exact timestamps",
        "s3 sync s3://bkt/p out",
        stamp("out/a.txt", OLD),
        "s3 sync s3://bkt/p out --exact-timestamps",
        "s3 sync s3://bkt/p out --exact-timestamps",
        objects=KEYS,
    ),
    case(
        "down, size only",
        "s3 sync s3://bkt/p out",
        stamp("out/a.txt", 4_000_000_000),
        "s3 sync s3://bkt/p out --size-only",
        objects=KEYS,
    ),
    case("down, delete", "s3 sync s3://bkt/p t --delete", files=TREE, objects=KEYS),
    case("down, delete, excluded", "s3 sync s3://bkt/p t --delete --exclude *.log", files=TREE, objects=KEYS),
    case(
        "down, delete makes way for a directory",
        "s3 sync s3://bkt/p t --delete",
        files={"t/sub": "x"},
        objects=KEYS,
    ),
    case("down, filters", "s3 sync s3://bkt/p out --exclude * --include *.txt", objects=KEYS),
    case("down, nothing", "s3 sync s3://bkt/nothing out", objects=KEYS),
    case("down, dry", "s3 sync s3://bkt/p out --dryrun", objects=KEYS),
    case("across", "s3 sync s3://bkt/p s3://other/q", "s3 sync s3://bkt/p s3://other/q", objects=KEYS),
    case("across, delete", "s3 sync s3://bkt/p s3://other/q --delete", objects={**KEYS, "other/q/old": "1"}),
    case("with --recursive", "s3 sync t s3://bkt --recursive", files=TREE),
    case("quiet", "s3 sync t s3://bkt --quiet", files=TREE),
    case(
        "a file among directories of like names",
        "s3 sync t s3://bkt",
        "s3 sync s3://bkt u",
        "s3 sync u s3://bkt --delete",
        files={"t/a": "1", "t/a-/x": "2", "t/a.b": "3", "t/a0/y": "4", "t/b/c": "5", "t/b-c": "6"},
    ),
]

FLAGS = [
    case(flags, f"s3 cp a s3://bkt/x {flags}", files={"a": "hi"})
    for flags in (
        "--dryrun",
        "--quiet",
        "--only-show-errors",
        "--no-progress",
        "--dryrun --quiet",
        "--dryrun --only-show-errors",
        "--acl public-read",
        "--acl nonsense",
        "--storage-class GLACIER_IR",
        "--storage-class COLD",
        "--sse",
        "--sse AES256",
        "--sse nonsense",
        "--content-type text/plain",
        "--metadata k=v,l=w",
        '--metadata {\\"k\\":\\"v\\"}',
        "--metadata nonsense",
        "--metadata a=b,c",
        "--metadata a,b=c",
        "--cache-control no-cache",
        "--grants read=id=1 full=id=2",
        "--grants nonsense",
        "--grants write=id=1",
        "--no-guess-mime-type",
        "--follow-symlinks",
        "--page-size 10",
        "--page-size x",
        "--metadata-directive REPLACE",
        "--metadata-directive X",
        "--content-encoding gzip",
        "--website-redirect /x",
        "--request-payer",
        "--request-payer requester",
        "--checksum-algorithm SHA256",
        "--checksum-mode ENABLED",
        "--ignore-glacier-warnings",
        "--force-glacier-transfer",
        "--sse-c",
        "--sse-c-key abc",
        "--sse-c-copy-source AES256 --sse-c-copy-source-key abc",
        "--expires 2030-01-01T00:00:00Z",
        "--region eu-west-1",
        "--output json",
        "--output yaml",
        "--no-verify-ssl",
        "--no-paginate",
        "--color off",
        "--color pink",
        "--cli-read-timeout 5",
        "--cli-connect-timeout 5",
        "--endpoint-url nonsense",
        "--unknown",
        "--unknown value",
        "--dryrun=yes",
        "--quie",
        "--dry",
        "--no-pro",
        "--e x",
        "--content plain",
        "--content-t text/plain",
        "--recursive=1",
        "--region",
        "--acl",
        "--delete",
        "--size-only",
        "--force",
        "extra",
        "-x",
    )
] + [
    case("flags first", "s3 cp --quiet --acl private a s3://bkt/x", files={"a": "hi"}),
    case(
        "flags between",
        "s3 cp a --quiet s3://bkt/x",
        "s3 cp a --region us-east-1 s3://bkt/x",
        files={"a": "hi"},
    ),
    case("global flags first", "--region us-east-1 --output text s3 cp a s3://bkt/x", files={"a": "hi"}),
    case("global flags in the middle", "s3 --region us-east-1 cp a s3://bkt/x", files={"a": "hi"}),
    case("flags before the command", "s3 --quiet cp a s3://bkt/x", files={"a": "hi"}),
    case("nothing", "", "s3", "s3 cp", "s3 cp a", "s3 mv a", "s3 sync a", files={"a": "hi"}),
    case("three paths", "s3 cp a b s3://bkt/x", files={"a": "hi"}),
    case("no such command", "s3 copy a s3://bkt/x", files={"a": "hi"}),
    case("presign of nothing", "s3 presign", "s3 presign s3://bkt/x --expires-in soon"),
    case(
        "mv flags",
        "s3 mv a s3://bkt/x --expected-size 3",
        "s3 mv a s3://bkt/x --validate-same-s3-paths",
        files={"a": "1"},
    ),
    case("rm flags", "s3 rm s3://bkt/top --acl private", "s3 rm s3://bkt/top --page-size 3", objects=KEYS),
    case("only errors of a recursive copy", "s3 cp t s3://bkt --recursive --only-show-errors", files=TREE),
]

NEVER = [
    case(
        f"{command}",
        command,
        files={"t/a": "1", "t/b/c": "2", "a": "3"},
        objects={"bkt/k": "1"},
    )
    for command in (
        "s3 ls s3://never",
        "s3 ls s3://never/p/ --recursive",
        "s3 ls s3://never --recursive --human-readable --summarize",
        "s3 cp s3://never/k x",
        "s3 cp s3://never/k -",
        "s3 cp s3://never x",
        "s3 mv s3://never/ x",
        "s3 cp s3://never s3://bkt/x",
        "s3 cp s3://never x --recursive",
        "s3 cp s3://never x --recursive --exclude *",
        "s3 cp s3://never/k s3://bkt/x",
        "s3 cp s3://never s3://bkt --recursive",
        "s3 mv s3://never/k x",
        "s3 mv s3://never x --recursive",
        "s3 mv s3://never/k s3://bkt/x",
        "s3 mv s3://never s3://bkt --recursive",
        "s3 rm s3://never/k",
        "s3 rm s3://never/k --quiet",
        "s3 rm s3://never/k --dryrun",
        "s3 rm s3://never",
        "s3 rm s3://never --recursive",
        "s3 rm s3://never/p/ --recursive --dryrun",
        "s3 sync s3://never t",
        "s3 sync s3://never/x t --delete",
        "s3 sync s3://never t --delete --dryrun",
        "s3 sync s3://never t --delete --quiet",
        "s3 sync s3://never s3://bkt --delete",
        "s3 rb s3://never",
        "s3 rb s3://never --force",
        "s3api head-object --bucket never --key k",
        "s3api get-object --bucket never --key k out",
        "s3api delete-object --bucket never --key k",
        "s3api list-objects-v2 --bucket never",
        "s3api list-objects-v2 --bucket never --query Contents[].Key",
        "s3 ls s3://NEVER",
        "s3 ls s3://..",
        "s3 cp s3://../k x",
        "s3 cp a s3://../k",
        "s3 cp a s3://./k",
        "s3 rm s3://../k",
        "s3 mb s3://..",
        "s3 mb s3://a..b",
        "s3 mb s3://NEVER",
        f"s3 mb s3://{'n' * 64}",
        f"s3 mb s3://{'n' * 256}",
        f"s3 cp a s3://{'n' * 256}/k",
    )
]

API = [
    case("head-object", "s3api head-object --bucket bkt --key top", objects=KEYS, ordered=True),
    case("head-object, missing", "s3api head-object --bucket bkt --key nope"),
    case("head-object, text", "s3api head-object --bucket bkt --key top --output text", objects=KEYS),
    case(
        "head-object, query",
        "s3api head-object --bucket bkt --key top --query ContentLength",
        "s3api head-object --bucket bkt --key top --query ETag --output text",
        "s3api head-object --bucket bkt --key top --query ETag",
        objects=KEYS,
        ordered=True,
    ),
    case(
        "head-object, bad arguments",
        "s3api head-object",
        "s3api head-object --bucket bkt",
        "s3api head-object --key k",
        "s3api head-object --bucket bkt --key k --foo",
        "s3api head-object --bucket bkt --key k extra",
    ),
    case("get-object", "s3api get-object --bucket bkt --key top out", objects=KEYS, ordered=True),
    case(
        "get-object, missing",
        "s3api get-object --bucket bkt --key nope out",
        "s3api get-object --bucket bkt --key top",
    ),
    case(
        "get-object, range",
        *(
            f"s3api get-object --bucket bkt --key k --range bytes={r} out{i}"
            for i, r in enumerate(("0-0", "2-4", "3-", "-2", "0-99", "9-12"))
        ),
        objects={"bkt/k": "0123456789"},
        ordered=True,
    ),
    case("put-object", "s3api put-object --bucket bkt --key k --body a", files={"a": "hi"}),
    case(
        "put-object, no body",
        "s3api put-object --bucket bkt --key k",
        "s3api put-object --bucket bkt --key k --body nope",
    ),
    case(
        "delete-object",
        "s3api delete-object --bucket bkt --key top",
        "s3api delete-object --bucket bkt --key top",
        objects=KEYS,
    ),
    case(
        "create-bucket",
        "s3api create-bucket --bucket newer",
        "s3api create-bucket --bucket ab",
        buckets=(),
        ordered=True,
    ),
    case(
        "list-buckets",
        "s3 mb s3://first",
        "s3 mb s3://second",
        "s3api list-buckets --query Buckets[].Name",
        "s3api list-buckets --query Buckets[].Name --output text",
        "s3api list-buckets --query length(Buckets)",
        buckets=(),
        ordered=True,
    ),
    *(
        case(
            f"list-objects-v2 {flags}",
            f"s3api list-objects-v2 --bucket bkt {flags}",
            ordered=True,
            objects={"bkt/a": "1", "bkt/b/c": "22", "bkt/b/d": "3", 'bkt/q"\\é\t': "4"},
        )
        for flags in (
            "",
            "--prefix b",
            "--prefix none",
            "--delimiter /",
            "--delimiter / --prefix b/",
            "--start-after a",
            "--max-items 1",
            "--max-items 9",
            "--no-paginate",
            "--max-keys 9",
            "--query Contents[].Key",
            "--query 'Contents[].Key' --output text",
            "--query 'Contents[*].[Key,Size]' --output text",
            "--query 'Contents[].[Key, Size]'",
            "--query 'length(Contents)'",
            "--query 'Contents[0].Key'",
            "--query 'Contents[-1].Size' --output text",
            "--prefix none --query Contents[].Key",
            "--prefix none --query Contents[].Key --output text",
            "--prefix none --query length(Contents)",
            "--max-keys x",
        )
    ),
]

HEAD = "s3api head-object --bucket bkt --key"
GIVEN = (
    "--metadata k=v,L=w --cache-control no-cache --storage-class STANDARD_IA --content-disposition inline "
    "--content-language de --content-encoding gzip --expires 2030-01-01T00:00:00Z --website-redirect /x"
)
PAGES = {f"t/{n}.html": str(n) for n in range(6)}  # so many that they are not sent one by one
MADE = {"bkt/a.html": "1", "bkt/b": "2"}

KEPT = [
    case("by the file's name", "s3 cp a.txt s3://bkt/", f"{HEAD} a.txt", files={"a.txt": "1"}, ordered=True),
    case("not by the key's name", "s3 cp a.txt s3://bkt/a.html", f"{HEAD} a.html", files={"a.txt": "1"}),
    case("of a name without a type", "s3 cp a s3://bkt/a.txt", f"{HEAD} a.txt", files={"a": "1"}),
    case("of a key without a type", "s3 cp a.txt s3://bkt/a", f"{HEAD} a", files={"a.txt": "1"}),
    case("of a name with two endings", "s3 cp a.tar.gz s3://bkt/b.gz", f"{HEAD} b.gz", files={"a.tar.gz": "1"}),
    case("of stdin", ("s3 cp - s3://bkt/a.txt", b"x"), f"{HEAD} a.txt"),
    case("guess nothing", "s3 cp a.txt s3://bkt/ --no-guess-mime-type", f"{HEAD} a.txt", files={"a.txt": "1"}),
    case("of put-object", f"{HEAD} a.html", "s3api get-object --bucket bkt --key a.html out", objects=MADE),
    case("all that is given", f"s3 cp a.txt s3://bkt/k {GIVEN}", f"{HEAD} k", files={"a.txt": "1"}, ordered=True),
    case("as JSON", """s3 cp a s3://bkt/k --metadata '{"k": "v, w=x"}'""", f"{HEAD} k", files={"a": "1"}),
    case(
        "of many",
        f"s3 sync t s3://bkt/x {GIVEN}",
        f"{HEAD} x/3.html",
        "s3 cp t s3://bkt/y --recursive",
        f"{HEAD} y/3.html",
        "s3 cp t s3://bkt/x --recursive",
        f"{HEAD} x/3.html",
        files=PAGES,
    ),
    case(
        "of many copies",
        f"s3 cp t s3://bkt/x --recursive {GIVEN}",
        "s3 cp s3://bkt/x s3://bkt/y --recursive",
        f"{HEAD} y/3.html",
        "s3 mv s3://bkt/y s3://bkt/z --recursive --storage-class ONEZONE_IA",
        f"{HEAD} z/3.html",
        "s3 sync s3://bkt/x s3://bkt/w --metadata q=r --metadata-directive REPLACE",
        f"{HEAD} w/3.html",
        "s3api list-objects-v2 --bucket bkt --query Contents[].[Key,StorageClass] --output text",
        files=PAGES,
    ),
    case(
        "of copies",
        f"s3 cp a.txt s3://bkt/k {GIVEN}",
        "s3 cp s3://bkt/k s3://bkt/same",
        f"{HEAD} same",
        "s3 cp s3://bkt/k s3://bkt/new.html --metadata q=r",
        f"{HEAD} new.html",
        "s3 cp s3://bkt/k s3://bkt/none.html --metadata-directive REPLACE",
        f"{HEAD} none.html",
        "s3 cp a.txt s3://bkt/k",
        f"{HEAD} k",
        files={"a.txt": "1"},
    ),
    case(
        "of copies with other names",
        "s3 cp s3://bkt/a.html s3://bkt/c.txt",
        f"{HEAD} c.txt",
        "s3 cp b.txt s3://bkt/b.txt",
        "s3 cp s3://bkt/b.txt s3://bkt/d",
        f"{HEAD} d",
        "s3 cp s3://bkt/d s3://bkt/e.html",
        f"{HEAD} e.html",
        objects=MADE,
        files={"b.txt": "1"},
    ),
    case(
        "of copy-object",
        "s3api put-object --bucket bkt --key k --metadata a=b --content-type text/x --tagging t=u&v=w",
        "s3api copy-object --bucket bkt --key c.txt --copy-source bkt/k --query CopyObjectResult.ETag",
        f"{HEAD} c.txt",
        "s3api copy-object --bucket bkt --key d --copy-source bkt/k --metadata-directive REPLACE --query X",
        f"{HEAD} d",
        "s3api copy-object --bucket bkt --key e --copy-source bkt/none",
        "s3api copy-object --bucket bkt --key k --copy-source bkt/k",
        "s3api copy-object --bucket bkt --key e --copy-source never/k",
    ),
    case(
        "tags",
        "s3api put-object --bucket bkt --key k --tagging t=u&v=w",
        "s3api get-object-tagging --bucket bkt --key k",
        "s3api put-object-tagging --bucket bkt --key k --tagging TagSet=[{Key=a,Value=b}]",
        "s3api get-object-tagging --bucket bkt --key k",
        f"{HEAD} k",
        "s3api delete-object-tagging --bucket bkt --key k",
        "s3api get-object-tagging --bucket bkt --key k",
        "s3api get-object-tagging --bucket bkt --key none",
        ordered=True,
    ),
    case(
        "the ETag of what is sent in parts",
        lambda root: (root / "big").write_bytes(b"x" * 17_000_000),
        "s3 cp big s3://bkt/ --quiet",
        f"{HEAD} big --query ETag",
        "s3 cp s3://bkt/big s3://bkt/big2 --quiet",
        f"{HEAD} big2 --query ETag",
        "s3api put-object --bucket bkt --key big3 --body big",
        f"{HEAD} big3 --query ETag",
        "s3api list-objects-v2 --bucket bkt --query Contents[].ETag",
    ),
]

CALLS = [
    case(
        "head-bucket and its kind",
        *(
            f"s3api {call} --bucket {bucket}"
            for call in ("head-bucket", "get-bucket-location", "get-bucket-versioning", "delete-bucket-policy")
            for bucket in ("bkt", "never", "'no good'")
        ),
        "s3api head-bucket --bucket bkt --output text",
        "s3api head-bucket",
        ordered=True,
    ),
    case("delete-bucket", *("s3api delete-bucket --bucket bkt",) * 2, "s3api head-bucket --bucket bkt"),
    case("delete-bucket that is full", "s3api delete-bucket --bucket bkt", objects=MADE),
    case(
        "list-objects",
        *(
            f"s3api list-objects --bucket bkt {flags} --query 'Contents[].[Key,Size,ETag,StorageClass]'"
            for flags in ("", "--prefix p", "--max-items 2", "--delimiter /", "--marker p/a.txt", "--page-size 2")
        ),
        "s3api list-objects --bucket bkt --delimiter / --query CommonPrefixes",
        "s3api list-objects --bucket bkt --prefix none",
        "s3api list-objects --bucket never",
        objects=KEYS,
        ordered=True,
    ),
    case(
        "delete-objects",
        "s3api delete-objects --bucket bkt --delete 'Objects=[{Key=top},{Key=none}]'",
        lambda root: (root / "these.json").write_text('{"Objects": [{"Key": "p/a.txt"}, {"Key": "p/b.log"}]}'),
        "s3api delete-objects --bucket bkt --delete file://these.json",
        "s3api delete-objects --bucket bkt --delete file://none.json",
        "s3api delete-objects --bucket bkt --delete nonsense",
        "s3api delete-objects --bucket bkt --delete Objects=[]",
        "s3api delete-objects --bucket never --delete Objects=[{Key=a}]",
        objects=KEYS,
        ordered=True,
    ),
    case(
        "wait",
        "s3api wait bucket-exists --bucket bkt",
        "s3api wait bucket-not-exists --bucket never",
        "s3api wait object-exists --bucket bkt --key top",
        "s3api wait object-not-exists --bucket bkt --key none",
        "s3api wait object-exists",
        "s3api wait",
        "s3api wait nonsense",
        objects=KEYS,
    ),
    case(
        "conditional writes",
        "s3api put-object --bucket bkt --key k --if-none-match '*'",
        "s3api put-object --bucket bkt --key k --if-none-match '*'",
        "s3api put-object --bucket bkt --key k --body a --if-match nonsense",
        "s3api put-object --bucket bkt --key k --body a --if-match d41d8cd98f00b204e9800998ecf8427e",
        "s3api put-object --bucket bkt --key none --body a --if-match d41d8cd98f00b204e9800998ecf8427e",
        f"{HEAD} k --if-match x",
        "s3api get-object --bucket bkt --key k out --if-match x",
        files={"a": "1"},
    ),
    case(
        "accepted",
        "s3api put-bucket-acl --bucket bkt --acl private",
        "s3api put-object-acl --bucket bkt --key top --acl public-read",
        "s3api put-object-acl --bucket bkt --key none --acl public-read",
        "s3api put-public-access-block --bucket bkt --public-access-block-configuration BlockPublicAcls=true",
        "s3api put-bucket-policy --bucket never --policy {}",
        "s3api put-bucket-policy --bucket bkt",
        objects=KEYS,
    ),
    case(
        "queries",
        *(
            f"s3api list-objects-v2 --bucket bkt --query {query} {output}"
            for query in (
                "'Contents[?Size>`1`].Key'",
                "'sort_by(Contents, &Size)[-1].Key'",
                "'Contents[?contains(Key, `p/`)].{k: Key, s: Size}'",
                "'[length(Contents), Prefix]'",
                "'max_by(Contents, &Size)'.Key",
                "Nope",
                "'bad['",
                "'length(Nope)'",
            )
            for output in ("", "--output text")
        ),
        "s3api list-objects-v2 --bucket bkt --page-size 2 --query Contents[].Key --output text",
        "s3api list-objects-v2 --bucket bkt --max-items 2 --query Contents[].Key --output text",
        "s3api delete-object --bucket bkt --key none --query X",
        objects=KEYS,
        ordered=True,
    ),
    case("get-caller-identity", "sts get-caller-identity --query Account --output text"),
]

TABLE = [
    (group, one)
    for group, cases in {
        "upload": UPLOAD,
        "download": DOWNLOAD,
        "copy": COPY,
        "stream": STREAM,
        "rm": REMOVE,
        "ls": LIST,
        "bucket": BUCKETS,
        "filter": FILTERS,
        "sync": SYNC,
        "flag": FLAGS,
        "s3api": API,
        "kept": KEPT,
        "call": CALLS,
        "a bucket nobody made": NEVER,
    }.items()
    for one in cases
]


def prepare(side: Side, one: Case) -> None:
    for name, text in one.files.items():
        write(name, text)(side.root)
    text = " ".join([str(one.steps), *one.objects])
    for bucket in one.buckets:
        if bucket in text:
            side.make(bucket)
    if isinstance(side, StubSide) and one.objects is KEYS:
        source = side.root.parent / "objects"
        for name, text in KEYS.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_text(text)
        assert side.run(["s3", "cp", str(source / "bkt"), "s3://bkt", "--recursive"]).code == 0
        return
    for name, text in one.objects.items():
        bucket, _, key = name.partition("/")
        side.put(bucket, key, text.encode())


def play(side: Side, one: Case) -> list[Result]:
    prepare(side, one)
    results = []
    for step in one.steps:
        if callable(step):
            step(side.root)
        elif isinstance(step, tuple):
            results.append(side.run(shlex.split(step[0]), step[1]))
        else:
            results.append(side.run(shlex.split(step)))
    return results


def said(text: str, root: Path) -> list[str]:
    """stderr without the usage, without the places of the two sides, without random names."""
    _, marker, rest = text.replace(str(root), "<root>").rpartition("aws: error: ")
    if marker:
        return [rest.split("valid choices are:")[0].split("could match")[0].strip()]
    lines = transfer_lines(PARTIAL.sub("'", rest))
    return sorted(line for line in lines if line.strip() and not line.startswith(USAGE))


def printed(text: str, root: Path, one: Case) -> list[str]:
    lines = transfer_lines(text.replace(str(root), "<root>"))
    if one.differs:
        lines = [line.rstrip(",") for line in lines if line and one.differs not in line]
    return lines if one.ordered else sorted(line for line in lines if line)


def compare(one: Case, theirs: tuple[RealSide, list[Result]], ours: tuple[Side, list[Result]]) -> None:
    """Assert that a person sees the same of both sides' commands, and finds the same local files after them."""
    (real, real_results), (side, results) = theirs, ours
    commands = (step for step in one.steps if not callable(step))
    for step, their, our in zip(commands, real_results, results, strict=True):
        assert (our.code, said(our.stderr, side.root)) == (their.code, said(their.stderr, real.root)), step
        assert printed(our.stdout, side.root, one) == printed(their.stdout, real.root, one), step
    assert side.files() == real.files()


@pytest.mark.parametrize("one", [pytest.param(one, id=f"{group}: {one.name}") for group, one in TABLE])
def test_case(one: Case, real: RealSide, stub: StubSide) -> None:
    with ThreadPoolExecutor(1) as other:
        real_results = other.submit(play, real, one)
        stub_results = play(stub, one)
    compare(one, (real, real_results.result()), (stub, stub_results))
    assert stub.objects() == real.objects()
    assert stub.leftovers() == []
