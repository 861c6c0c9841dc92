"""Sessions of the stub: in shells, from Python, from the command line, and what happens without one."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from hardway.errors import NothingMatched, UsageError
from hardway.s3 import stub_sessions
from tests.conftest import INV
from tests.patience import patience
from tests.s3.conftest import STUB, STUBS, TIMEOUT, RealSide, StubSide

ROOT = STUBS.parent
SCRIPT = STUBS / "stub_s3.sh"
SOURCED = shlex.quote(str(SCRIPT))
SHELLS = [
    pytest.param([name, *flags], id=" ".join([name, *flags]))
    for name, flags in (("bash", []), ("bash", ["--posix"]), ("zsh", ["-f"]), ("dash", []))
    if shutil.which(name)
]


@pytest.fixture
def clean(tmp_path: Path) -> dict[str, str]:
    """An environment without a session, where sessions land in a directory of the test."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("s3_stubbed", "AWS_"))}
    fake = tmp_path / "bin"
    fake.mkdir()
    (fake / "aws").write_text("#!/bin/sh\necho the real aws\n")
    (fake / "aws").chmod(0o755)
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    return {**kept, "TMPDIR": str(tmp), "PATH": f"{fake}:/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path)}


def shell(command: list[str], text: str, environment: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*command, "-c", text], env=environment, cwd=cwd, capture_output=True, text=True, timeout=patience(TIMEOUT)
    )


@pytest.mark.parametrize("options", ["", "set -eu"], ids=["plain", "strict"])
@pytest.mark.parametrize("command", SHELLS)
def test_a_session_in_a_shell(command: list[str], options: str, clean: dict[str, str], tmp_path: Path) -> None:
    strict = f"{options}\n" + ("set -o pipefail\n" if options and command[0] != "dash" else "")
    done = shell(
        command,
        f"""{strict}. {SOURCED}
echo "$s3_stubbed_tmp/s3_stubbed_session_$s3_stubbed_session"
echo foo | aws s3 cp - s3://fake-bucket/path/key.txt
first=$s3_stubbed_session
. {SOURCED}
[ "$first" = "$s3_stubbed_session" ] && echo same session
echo "$PATH"
sh -c 'aws s3 cp s3://fake-bucket/path/key.txt -'
env bash -c 'aws s3 ls s3://fake-bucket/path/ | cut -c 21-'
clear-s3-stubbed
aws
clear-s3-stubbed
echo "$PATH/${{s3_stubbed_session-none}}/${{s3_stubbed_tmp-none}}"
""",
        clean,
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    directory, same, path, content, listing, cleared, real, rest = done.stdout.splitlines()
    assert re.fullmatch(
        re.escape(clean["TMPDIR"]) + r"/s3_stubbed_session_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
        directory,
    )
    assert same == "same session"
    assert path == f"{STUBS}:{clean['PATH']}"
    assert (content, listing.split()) == ("foo", ["4", "key.txt"])
    assert cleared == f"$ rm -rf {directory}"
    assert not Path(directory).exists()
    assert real == "the real aws"
    assert done.stderr == "clear-s3-stubbed: there is no session of the S3 stub in this shell\n"
    assert rest == f"{clean['PATH']}/none/none"


@pytest.mark.parametrize("command", SHELLS)
def test_sourced_in_a_function_and_by_a_relative_path(command: list[str], clean: dict[str, str]) -> None:
    done = shell(command, "start() { . ./stub_s3.sh; }\nstart\ncommand -v aws\nclear-s3-stubbed", clean, STUBS)
    assert (done.returncode, done.stdout.splitlines()[0], done.stderr) == (0, str(STUB), "")


VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_S3_CONTROL", "AWS_S3_ENDPOINT", "S3_ENDPOINT_URL", "S3_ENDPOINT")
SHOW = f"""show() {{
for name in AWS_IGNORE_CONFIGURED_ENDPOINT_URLS {" ".join(VARIABLES)}; do
  eval "value=\\${{$name-unset}}"
  printf '%s=%s\\n' "$name" "$value"
  sh -c "printf '%s in a child\\n' \"\\${{$name-unset}}\""
done; }}
"""


@pytest.mark.parametrize("options", ["", "set -eu"], ids=["plain", "strict"])
@pytest.mark.parametrize("command", SHELLS)
def test_what_leads_to_s3_is_closed_and_given_back(
    command: list[str], options: str, clean: dict[str, str], tmp_path: Path
) -> None:
    """Set, unset, empty, exported or not; sourced twice, its session removed in between, ended in a sub-shell first."""
    values = {
        "AWS_ENDPOINT_URL_S3": "http://a 'b'\nc",
        "S3_ENDPOINT_URL": "",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "TRUE",
    }
    text = f"""{options}
S3_ENDPOINT=set AWS_S3_ENDPOINT=
{SHOW}
show >before
. {SOURCED}
show >during
. {SOURCED}
sh ./child.sh
. {SOURCED}
show >again
clear-s3-stubbed
show >after
clear-s3-stubbed
show >twice
set | grep -a "^s3_stubbed" || echo nothing left
"""
    (tmp_path / "child.sh").write_text(f"{SHOW}\n. {SOURCED}\n_s3_stubbed_clear >&2\nshow >child\n")
    done = shell(command, text, {**clean, **values}, tmp_path)
    assert done.returncode == 0, done.stderr
    said = {name: (tmp_path / name).read_text() for name in ("before", "during", "child", "again", "after", "twice")}
    assert said["during"].count("127.0.0.1:9/") == 2 * len(VARIABLES)
    assert "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=false\nfalse in a child" in said["during"]
    assert said["again"] == said["during"]
    assert said["after"] == said["twice"] == said["before"]
    never_exported = {"S3_ENDPOINT=set\n": "S3_ENDPOINT=unset\n", "AWS_S3_ENDPOINT=\n": "AWS_S3_ENDPOINT=unset\n"}
    for here, child in never_exported.items():
        said["before"] = said["before"].replace(here, child)
    assert said["child"] == said["before"]
    assert done.stdout.splitlines()[-1] == "nothing left"


def test_what_was_set_in_a_session_stays(clean: dict[str, str], tmp_path: Path) -> None:
    text = f'. {SOURCED}; export S3_ENDPOINT=mine; clear-s3-stubbed >&2; echo "$S3_ENDPOINT"'
    assert shell(["bash"], text, clean, tmp_path).stdout == "mine\n"


REAL_CLIENT = """
import boto3, sys
ec2 = boto3.client("ec2", "us-east-1")
print(len(ec2.describe_instances()["Reservations"]))
for service, call, more in (
    ("s3", "list_buckets", {}),
    ("s3", "put_object", {"Bucket": "bkt", "Key": "k", "Body": b"x"}),
    ("s3control", "list_jobs", {"AccountId": "123456789012"}),
):
    try:
        getattr(boto3.client(service, "us-east-1"), call)(**more)
    except Exception as error:
        print("S3-is-stubbed-in-this-shell" in str(error))
"""


def test_a_real_client_of_s3_fails_whatever_path_says(
    endpoint: str, real: RealSide, clean: dict[str, str], tmp_path: Path
) -> None:
    """As after `activate`, under a shim, in a login shell: the real CLI is found first. Calls of EC2 arrive."""
    config = tmp_path / "config"
    config.write_text(
        f"[default]\nservices = mine\nignore_configured_endpoint_urls = true\n"
        f"[services mine]\ns3 =\n  endpoint_url = {endpoint}\n"
    )
    environment = {
        **clean,
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_CONFIG_FILE": str(config),
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
    }
    venv = shlex.quote(str(Path(sys.executable).parent))
    text = f""". {SOURCED}
PATH={venv}:$PATH
command -v aws
python -c {shlex.quote(REAL_CLIENT)}
bash -lc "$(command -v aws) s3 cp - s3://bkt/k" <<<x; echo $?
aws ec2 describe-instances --query Reservations
clear-s3-stubbed
export AWS_IGNORE_CONFIGURED_ENDPOINT_URLS=false
aws s3 mb s3://made-after
"""
    done = shell(["bash"], text, environment, tmp_path)
    first, *rest = done.stdout.splitlines()
    assert Path(first).parent == Path(sys.executable).parent
    assert rest[:6] == ["0", "True", "True", "True", "1", "[]"], done
    assert rest[-1] == "make_bucket: made-after"
    assert done.stderr.count("https://127.0.0.1:9/S3-is-stubbed-in-this-shell") == 1
    assert [bucket["Name"] for bucket in real.client.list_buckets()["Buckets"]] == ["made-after"]


def test_a_person_is_told(clean: dict[str, str], tmp_path: Path) -> None:
    master, terminal = os.openpty()
    try:
        subprocess.run(
            ["bash", "-c", f". {SOURCED}; . {SOURCED}; clear-s3-stubbed"],
            env=clean, cwd=tmp_path, stderr=terminal, stdout=subprocess.DEVNULL, check=True, timeout=patience(TIMEOUT),
        )  # fmt: skip
        said = os.read(master, 10_000).decode()
    finally:
        os.close(master)
        os.close(terminal)
    assert said.count("\n") == said.count("S3 is stubbed in this shell") == 1


def test_a_full_disk_starts_no_session(clean: dict[str, str], tmp_path: Path) -> None:
    text = f"mount -t tmpfs -o nr_inodes=2 none tmp && . {SOURCED}; echo $? ${{s3_stubbed_session-none}}\n"
    text += "ls -A tmp; aws s3 ls"
    namespace = ["unshare", "-m" if os.geteuid() == 0 else "-rm", "bash"]
    done = shell(namespace, text, clean, tmp_path)
    assert (done.stdout, "no session" in done.stderr) == ("1 none\n", True), done


def test_a_session_from_python_has_modes_of_its_own(tmp_path: Path) -> None:
    before = os.umask(0o777)
    try:
        started = stub_sessions.start(tmp_path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(started.path.stat().st_mode) == 0o700
    assert started.usage() == (0, 0)
    stub_sessions.remove(started)


def test_sessions_that_can_not_be_read_are_not_none(tmp_path: Path) -> None:
    """A file that root may read anyway is read without root's rights."""
    code = "from hardway.s3 import stub_sessions as s3stub; print(s3stub.sessions())"
    shut = tmp_path / "shut"
    shut.mkdir(mode=0o311)
    plain = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*plain, sys.executable, "-c", code],
        env={**os.environ, "TMPDIR": str(shut), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=patience(TIMEOUT),
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert f"cannot read {shut}: permission denied" in done.stderr


def test_only_its_owner_can_read_a_session(clean: dict[str, str], tmp_path: Path) -> None:
    done = shell(["bash"], f'umask 0; . {SOURCED}; ls -ld "$TMPDIR"/*; clear-s3-stubbed', clean, tmp_path)
    assert done.stdout.startswith("drwx------")
    with stub_sessions.session() as session:
        assert stat.S_IMODE(session.path.stat().st_mode) == 0o700


def test_the_seed(real: RealSide, clean: dict[str, str], tmp_path: Path) -> None:
    """Write, read back, clear; then reading fails, in a new session with the very words of the real CLI."""
    done = shell(
        ["bash", "-e"],
        f""". {SOURCED}
echo foo | aws s3 cp - s3://fake-bucket/path/key.txt
aws s3 cp s3://fake-bucket/path/key.txt -
clear-s3-stubbed
. {SOURCED}
aws s3 cp s3://fake-bucket/path/key.txt - || echo "code $?"
aws s3 cp s3://fake-bucket/path/key.txt x || echo "code $?"
clear-s3-stubbed""",
        clean,
        tmp_path,
    )
    real.client.create_bucket(Bucket="fake-bucket")
    theirs = [real.run(["s3", "cp", "s3://fake-bucket/path/key.txt", to]) for to in ("-", "x")]
    assert done.stdout.splitlines()[0] == "foo"
    assert [line for line in done.stdout.splitlines() if line.startswith("code")] == [f"code {r.code}" for r in theirs]
    assert done.stderr == "".join(result.stderr for result in theirs)


def test_without_a_session_it_fails(stub: StubSide) -> None:
    command = ["s3", "ls"]
    environment = stub.environment
    stub.environment = {**environment, "s3_stubbed_session": ""}
    done = stub.run(command)
    assert (done.code, done.stdout) == (255, "")
    assert "there is no session" in done.stderr
    stub.environment = {**environment, "s3_stubbed_session": "11111111-gone"}
    done = stub.run(command)
    assert done.code == 255
    assert "is gone" in done.stderr
    stub.environment = {**environment, "s3_stubbed_session": "../etc"}
    assert stub.run(command).code == 255


@pytest.mark.parametrize(
    "command",
    ["ec2 describe-instances", "sts assume-role", "s3control list-jobs", "s3api list-object-versions --bucket b"],
)
def test_only_s3_is_stubbed(stub: StubSide, command: str) -> None:
    done = stub.run(command.split())
    assert (done.code, done.stdout, done.stderr.count("\n")) == (255, "", 1)
    assert "stub" in done.stderr


def test_a_refusal_where_the_answer_could_be_wrong(stub: StubSide) -> None:
    stub.put("bkt", "k", b"v")
    for words in (
        ["list-objects-v2", "--bucket", "bkt", "--output", "table"],
        ["put-bucket-versioning", "--bucket", "bkt", "--versioning-configuration", "Status=Enabled"],
        ["delete-object", "--bucket", "bkt", "--key", "k", "--version-id", "1"],
    ):
        done = stub.run(["s3api", *words])
        assert (done.code, done.stdout, done.stderr.count("\n")) == (255, "", 1), words
    for command in (["s3", "ls", "s3://arn:aws:s3:us-east-1:123456789012:accesspoint/x"],):
        assert "no access points" in stub.run(command).stderr


def test_key_of_more_than_1024_bytes(stub: StubSide) -> None:
    """moto takes any length; S3 does not, and these are its words."""
    done = stub.run(["s3", "cp", "-", f"s3://bkt/{'é' * 513}"], b"x")
    assert done.code == 1
    assert "(KeyTooLongError) when calling the PutObject operation: Your key is too long" in done.stderr
    done = stub.run(["s3", "cp", f"s3://bkt/{'k' * 1025}", "x"])
    assert (done.code, "(400) when calling the HeadObject operation" in done.stderr) == (1, True)


@pytest.mark.parametrize("key", ["plain", "a b/é?#%", "x" * 300, "line\nbreak/../up"])
def test_presign_gives_the_object_and_no_address_of_the_real_s3(stub: StubSide, key: str) -> None:
    stub.put("bkt", key, b"body")
    done = stub.run(["s3", "presign", f"s3://bkt/{key}", "--expires-in", "60"])
    assert (done.code, done.stdout.count("\n"), "amazonaws" in done.stdout) == (0, 1, False)
    assert "stub" in done.stderr
    with urllib.request.urlopen(done.stdout.strip()) as answer:
        assert answer.read() == b"body"


def test_a_flag_of_version_2_is_no_error(stub: StubSide) -> None:
    """--no-cli-pager is unknown to the CLI 1.x; scripts for both versions use it, and there is no pager here."""
    assert stub.run(["--no-cli-pager", "s3", "ls"]).code == 0
    assert stub.run(["s3", "ls", "--no-cli-pager"]).code == 0


def test_a_bucket_is_made_by_the_first_put(stub: StubSide) -> None:
    """S3 wants a bucket made first; a script under test should not have to make the buckets of production."""
    (stub.root / "a").write_text("a")
    for number, put in enumerate(("cp a s3://new-0/k", "cp . s3://new-1 --recursive", "sync . s3://new-2 --delete")):
        assert stub.run(["s3", "ls", f"s3://new-{number}"]).code == 255
        assert stub.run(["s3", *put.split()]).code == 0
        assert stub.run(["s3", "ls", f"s3://new-{number}"]).code == 0
    stub.put("new-3", "k", b"")
    assert stub.run(["s3", "rm", "s3://new-3/k"]).code == 0
    assert stub.run(["s3", "ls", "s3://new-3"]).code == 0, "a bucket stays when it is empty"
    assert stub.run(["s3", "rb", "s3://new-3"]).stdout == "remove_bucket: new-3\n"
    assert stub.run(["s3", "ls", "s3://new-3"]).code == 255


def test_downloads_have_the_time_of_the_object(stub: StubSide) -> None:
    for number in range(5):
        stub.put("bkt", f"d/{number}", b"v")
    assert stub.run(["s3", "cp", "s3://bkt/d", "many", "--recursive"]).code == 0
    assert stub.run(["s3", "cp", "s3://bkt/d/0", "one"]).code == 0
    listed = stub.run(["s3api", "head-object", "--bucket", "bkt", "--key", "d/0", "--query", "LastModified"]).stdout
    when = (stub.root / "one").stat()
    assert when.st_mtime_ns % 1_000_000_000 == 0
    assert (
        subprocess.check_output(["date", "-u", "-d", listed.strip('"\n'), "+%s"], text=True)
        == f"{int(when.st_mtime)}\n"
    )
    assert {path.stat().st_mtime_ns % 1_000_000_000 for path in (stub.root / "many").iterdir()} == {0}
    assert stat.S_IMODE(when.st_mode) == stat.S_IMODE((stub.root / "many" / "1").stat().st_mode)


def test_sessions_from_python() -> None:
    with stub_sessions.session() as session:
        environment = session.environment
        run = ["aws", "s3", "cp", "-", "s3://bkt/key"]
        subprocess.run(run, input=b"four", env=environment, check=True, timeout=patience(TIMEOUT))
        assert session.usage() == (1, 4)
        assert session in stub_sessions.sessions()
        assert stub_sessions.find(session.uuid).path == session.path
        assert 0 <= session.age < TIMEOUT
    assert not session.path.exists()
    with pytest.raises(NothingMatched, match=session.uuid):
        stub_sessions.find(session.uuid)
    with pytest.raises(UsageError):
        stub_sessions.find("../x")


def test_a_session_is_removed_when_the_block_fails() -> None:
    with pytest.raises(ZeroDivisionError), stub_sessions.session() as session:
        _ = 1 / 0
    assert not session.path.exists()


def inv(*args: str, environment: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [*INV, *args]
    path = f"{ROOT}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    return subprocess.run(
        command,
        env={**environment, "PYTHONPATH": path},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=patience(TIMEOUT),
    )


def test_the_tasks(clean: dict[str, str], tmp_path: Path) -> None:
    done = inv("s3.stub", environment=clean, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"{SCRIPT}\n"), done.stderr
    start = f'. {SOURCED}; printf 12345 | aws s3 cp - s3://bkt/k; echo "$s3_stubbed_session"'
    uuids = [shell(["bash"], start, clean, tmp_path).stdout.strip() for _ in range(3)]
    done = inv("s3.sessions", environment=clean, cwd=tmp_path)
    listed = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert set(listed) == set(uuids)
    assert listed[uuids[0]].endswith("  1 key  5 bytes")
    done = inv("s3.clear", uuids[0], environment=clean, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    done = inv("s3.clear", uuids[0], environment=clean, cwd=tmp_path)
    assert (done.returncode, uuids[0] in done.stderr) == (1, True)
    done = inv("s3.clear", uuids[1], "--all", environment=clean, cwd=tmp_path)
    assert done.returncode == 2
    done = inv("s3.clear", "--all", environment=clean, cwd=tmp_path)
    assert done.returncode == 0
    assert list(Path(clean["TMPDIR"]).iterdir()) == []


def test_configure_is_kept_in_the_session(stub: StubSide, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    stub.environment = {**stub.environment, "HOME": str(home)}
    assert stub.run(["configure", "get", "region"]) == stub.run(["configure", "get", "nonsense"])
    assert stub.run(["configure", "get", "region"]).code == 1
    for name, value in (("region", "eu-west-1"), ("profile.other.region", "eu-west-3"), ("region", "eu-west-2")):
        done = stub.run(["configure", "set", name, value])
        assert (done.code, done.stdout, done.stderr) == (0, "", "")
    assert stub.run(["configure", "get", "region"]).stdout == "eu-west-2\n"
    assert stub.run(["configure", "get", "region", "--profile", "other"]).stdout == "eu-west-3\n"
    assert "eu-west-2" in stub.run(["configure", "list"]).stdout
    assert list(home.iterdir()) == []


def test_it_says_that_it_is_the_stub(stub: StubSide) -> None:
    identity = json.loads(stub.run(["sts", "get-caller-identity"]).stdout)
    assert (identity["Account"], "stub" in identity["Arn"]) == ("123456789012", True)
    assert re.match(r"aws-cli/1\.\S+ \(S3 stub of hardway[;)]", stub.run(["--version"]).stdout)
    for words in (["help"], ["s3", "help"], ["s3", "cp", "help"], ["s3api", "help"]):
        done = stub.run(words)
        assert (done.code, "S3 stub" in done.stdout) == (0, True), words


def test_without_jmespath_a_query_is_refused(stub: StubSide, tmp_path: Path) -> None:
    """As where neither the session nor the stub's place knows of one."""
    shutil.copytree(STUBS, tmp_path / "alone" / "stubs")
    alone = str(tmp_path / "alone" / "stubs" / "aws")
    for handed, code in ((stub.environment["s3_stubbed_jmespath"], 0), ("", 255)):
        done = subprocess.run(
            [alone, "s3api", "list-buckets", "--query", "length(Buckets)"],
            env={**stub.environment, "s3_stubbed_jmespath": handed},
            capture_output=True,
            text=True,
            timeout=patience(TIMEOUT),
        )
        assert (done.returncode, done.stdout) == (code, "0\n" if code == 0 else "")
    assert "needs jmespath" in done.stderr


def test_one_of_many_conditional_writers_succeeds(stub: StubSide) -> None:
    """The way of scripts to lock."""
    command = [str(STUB), "s3api", "put-object", "--bucket", "bkt", "--key", "lock", "--if-none-match", "*"]
    nowhere = subprocess.DEVNULL
    writers = [subprocess.Popen(command, env=stub.environment, stdout=nowhere, stderr=nowhere) for _ in range(8)]
    codes = sorted(writer.wait(timeout=patience(TIMEOUT)) for writer in writers)
    assert codes == [0] + [255] * 7
    assert stub.leftovers() == []


def test_an_object_and_what_is_kept_of_it_are_never_mixed(stub: StubSide) -> None:
    """A writer is killed at each call of a tool in turn: then the old object is there with what was given with it."""
    (stub.root / "a").write_text("old")
    old = ["s3", "cp", "a", "s3://bkt/k", "--metadata", "body=old"]
    assert stub.run(old).code == 0
    (stub.root / "a").write_text("new")
    tools = stub.root.parent / "tools"
    tools.mkdir()
    sound = stub.environment
    seen = set()
    for moment in range(1, 20):
        counter = stub.root.parent / "count"
        counter.write_text("0")
        for tool in ("find", "mkdir", "cp", "mv", "touch", "ln", "cat", "rm"):
            (tools / tool).write_text(
                f"#!/bin/bash\nn=$(($(<{counter}) + 1)); echo $n >{counter}\n"
                f'[ $n = {moment} ] && kill -9 $PPID && exit 1\nexec {shutil.which(tool)} "$@"\n'
            )
            (tools / tool).chmod(0o755)
        stub.environment = {**sound, "PATH": f"{tools}:{os.environ['PATH']}"}
        stub.run(["s3", "cp", "a", "s3://bkt/k", "--metadata", "body=new"])
        stub.environment = sound
        body = stub.run(["s3", "cp", "s3://bkt/k", "-"]).stdout
        kept = stub.run(["s3api", "head-object", "--bucket", "bkt", "--key", "k", "--query", "Metadata.body"]).stdout
        assert json.loads(kept) == body
        seen.add(body)
        if int(counter.read_text()) < moment:
            break
        (stub.root / "a").write_text("old")
        assert stub.run(old).code == 0
        (stub.root / "a").write_text("new")
    assert seen == {"old", "new"}


def test_what_killed_writers_leave_is_counted_and_goes(stub: StubSide) -> None:
    session = stub_sessions.find(stub.environment["s3_stubbed_session"])
    stub.put("bkt", "k", b"1234")
    mine, gone = session.path / "^tmp" / f"{os.getpid()}.1", session.path / "^tmp" / "4194304.1"
    for path in (mine, gone):
        path.write_bytes(b"x" * 100)
    assert session.usage() == (1, 204)
    for path in (mine, gone):
        os.utime(path, (1_500_000_000, 1_500_000_000))
    assert session.usage() == (1, 104)
    assert (mine.exists(), gone.exists()) == (True, False)
