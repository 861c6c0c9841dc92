"""An instance runs the files that lie here: they are sent with the job, or compared before its first task."""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from invoke import Config, Context

from hardway.errors import Failed, UsageError
from hardway.pmap import agent, files
from hardway.s3 import stub_sessions
from tasks import ec2, mapreduce
from tests.conftest import INV, REPOSITORY, LocalCloud, Result, run_inv
from tests.patience import patience
from tests.pmap.conftest import Cluster, eventually


@pytest.fixture
def c(cluster: Cluster, home: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    return Context(Config(defaults={**ec2.ns.configuration(), **mapreduce.ns.configuration()}))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a step of two files, which is the current one."""
    folder = tmp_path / "here"
    (folder / "lib").mkdir(parents=True)
    (folder / "step.sh").write_text('. lib/f.sh; f "$(cat)"\n')
    (folder / "lib" / "f.sh").write_text('f() { echo "old $1"; }\n')
    monkeypatch.chdir(folder)
    return folder


def test_files_are_sent_and_a_change_makes_another_job(c: Context, cluster: Cluster, here: Path) -> None:
    ids, command = cluster.ids, "bash step.sh"
    given = ["step.sh", "lib/"]
    assert mapreduce.pmap(c, ids, "a\nb", command, files=given, job="sent") == ["old a\n", "old b\n"]
    (here / "lib" / "f.sh").write_text('f() { echo "new $1"; }\n')
    with pytest.raises(UsageError, match="other content"):
        mapreduce.pmap(c, ids, "a\nb", command, files=given, resume="sent")
    # A comma list, a glob and an absolute path say the same; so does a file's age not.
    os.utime(here / "step.sh", (0, 0))
    assert mapreduce.pmap(c, ids, "a\nb", command, files="step.*,lib", job="sent2") == ["new a\n", "new b\n"]
    again = mapreduce.pmap(c, ids, "b\nc", command, files=[f"{here}/step.sh", "lib/f.sh"], resume=True)
    assert again == ["new b\n", "new c\n"]
    eventually(lambda: not [left for home in cluster.homes for left in home.glob(".hardway/sent*")])


def test_a_task_may_change_its_files_and_no_other_task_sees_it(c: Context, cluster: Cluster, here: Path) -> None:
    command = (
        'cat step.sh lib/f.sh | md5sum; ls; echo x >>step.sh; rm lib/f.sh; chmod +x step.sh; touch mine; echo "$PWD"'
    )
    results = mapreduce.pmap(c, cluster.ids, list("abcdefgh"), command, files="step.sh,lib", slots=2)
    assert {tuple(text.splitlines()[1:-1]) for text in results} == {("lib", "step.sh")}
    assert len({text.splitlines()[0] for text in results}) == 1
    places = [text.splitlines()[-1] for text in results]
    assert not any((home / place.removeprefix("/home/ubuntu/")).exists() for home in cluster.homes for place in places)


def test_where_a_task_runs(c: Context, cluster: Cluster, here: Path) -> None:
    command = 'echo "$PWD"; cd "${HARDWAY_FILES:-.}" && ls; rm -f -- *'
    (home,) = mapreduce.pmap(c, cluster.ids[:1], "x", command, files="step.sh", workdir="home")
    assert home.splitlines() == ["/home/ubuntu", "step.sh"]
    (scratch,) = mapreduce.pmap(c, cluster.ids[:1], "x", 'touch mine; echo "$PWD $HARDWAY_SCRATCH"', workdir="scratch")
    one, other = scratch.split()
    assert one == other
    assert one.startswith("/home/ubuntu/.hardway/")


def test_a_large_file_is_linked_and_can_not_be_changed_under_another_task(
    c: Context, cluster: Cluster, here: Path
) -> None:
    (here / "model").write_bytes(b"m" * (agent.LINKED + 1))
    command = "stat -c %h model; wc -c <model; read x; chmod u+w model && echo more >>model"
    with pytest.raises(Failed):
        mapreduce.pmap(c, cluster.ids[:1], "a\nb", command, files="model", retries=0, keep_going=True, job="linked")
    (first,) = mapreduce.pmap(c, cluster.ids[:1], "a", command, files="model", resume="linked")
    assert first.split()[1] == str(agent.LINKED + 1)


def test_a_stale_step_is_not_run(c: Context, cluster: Cluster, here: Path) -> None:
    (here / "stale.sh").write_text("echo one")
    command = "bash /home/ubuntu/stale.sh"
    ec2.scp(c, "stale.sh", ":", cluster.ids, yes=True)
    first = mapreduce.pmap(c, cluster.ids, "x", command, depends=["stale.sh"], job="stale")
    assert first == ["one\n"]
    (here / "stale.sh").write_text("echo two")
    with pytest.raises(UsageError, match=r"stale\.sh on i-[0-9a-f]* differs from stale\.sh here: copy it again"):
        mapreduce.pmap(c, cluster.ids, "x", command, depends=["stale.sh"], job="stale2")
    assert not (cluster.jobs / "stale2").exists(), "nothing was started"
    ec2.scp(c, "stale.sh", ":", cluster.ids, yes=True)
    assert mapreduce.pmap(c, cluster.ids, "x", command, depends=["stale.sh"], job="stale2") == ["two\n"]
    with pytest.raises(UsageError, match="other content"):
        mapreduce.pmap(c, cluster.ids, "x", command, depends=["stale.sh"], resume="stale")
    cluster.remove("stale.sh")


def test_the_file_that_a_command_names_is_compared(c: Context, cluster: Cluster, here: Path) -> None:
    """Wherever it lies there; one of the same name that the command does not name is another file."""
    one = cluster.ids[:1]
    folder = cluster.homes[0] / "steps"
    folder.mkdir()
    (folder / "step.sh").write_text("stale")
    (cluster.homes[0] / "f.sh").write_text("another file")
    try:
        with pytest.raises(UsageError, match=r"^~/steps/step\.sh on i-[0-9a-f]* differs from step\.sh here"):
            mapreduce.pmap(c, one, "x", "bash ~/steps/step.sh", depends="step.sh")
        (folder / "step.sh").write_bytes((here / "step.sh").read_bytes())
        assert mapreduce.pmap(c, one, "x", "cat; : ~/steps/step.sh", depends="step.sh") == ["x\n"]
        with pytest.raises(UsageError, match=r"^f\.sh on i-[0-9a-f]* differs from lib/f\.sh here"):
            mapreduce.pmap(c, one, "x", "cat", depends="lib/f.sh")
    finally:
        shutil.rmtree(folder)
        (cluster.homes[0] / "f.sh").unlink()


def test_what_is_not_there_can_not_be_compared_and_that_is_said(
    c: Context, cluster: Cluster, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mapreduce.pmap(c, cluster.ids[:1], "x", "cat", depends="step.sh") == ["x\n"]
    assert "step.sh was not found on 1 instance, so that it could not be compared" in capsys.readouterr().err


def test_an_instance_without_room_is_not_used_and_the_others_are(
    new_cluster: Callable[[int], Cluster], here: Path
) -> None:
    """Its home takes no directory for the job's files."""
    own = new_cluster(2)
    (own.homes[0] / ".hardway").write_text("in the way")
    done = run_in(here, own, "a\nb\nc", "bash step.sh; echo $HARDWAY_INSTANCE_ID; sleep .5", "--files", "step.sh,lib")
    assert done.code == 0, done.stderr
    assert own.ids[0] not in done.stdout
    assert done.stdout.count("old") == 3
    assert f"{own.ids[0]}: the job's files can't be put there" in done.stderr


def run_in(folder: Path, cluster: Cluster, *arguments: str) -> Result:
    return run_inv("mapreduce.pmap", cluster.selector, *arguments, env=cluster.env, cwd=folder)


def test_the_line_that_resumes_works_when_it_is_pasted(cluster: Cluster, here: Path) -> None:
    cluster.remove("mended")
    command = '[ -e ~/mended ] || exit 1; bash step.sh "$\'x"'
    failed = run_in(here, cluster, "a b\n'c'", command, "--files", "step.sh,lib", "--retries", "0", "--job", "pasted")
    assert failed.code == 1
    line = (cluster.jobs / "pasted" / "resume").read_text()
    assert line.partition(" && ")[2].strip() in failed.stderr
    cluster.touch("mended")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, **cluster.env, "PATH": path}
    # `./inv` would look at the environment that it makes first.
    line = line.replace(str(REPOSITORY / "inv"), shlex.join(INV))
    done = subprocess.run(["bash", "-c", line], cwd="/", env=env, capture_output=True, text=True, timeout=patience(60))
    cluster.remove("mended")
    assert (done.returncode, done.stdout) == (0, "old a b\nold 'c'\n"), done.stderr


def test_what_can_not_be_sent_is_refused(here: Path) -> None:
    os.mkfifo(here / "fifo")
    (here / "lib" / "up").symlink_to(here / "lib")
    (here / "other").mkdir()
    (here / "other" / "dangling").symlink_to("nowhere")
    (here / "other" / "step.sh").write_text("another")
    refused = {
        "none.sh": "there is no such file",
        "": "it matches no file",
        "fifo": "it is neither a file nor a directory",
        "other": "no such file",
        "lib": "a link leads back to a directory that it is in",
        f"step.sh,{here}/other/step.sh": "would both be step.sh",
        "~nosuch/x": "there is no user nosuch",
        "a\0b": "no NUL",
    }
    for named, said in refused.items():
        with pytest.raises(UsageError, match=said) as error:
            files.pack([named])
        assert str(error.value).startswith("--files")
    assert files.pack([]) is None


NAMES = st.text("ab .,é*\udcff\n'", min_size=1, max_size=6).filter(lambda name: name.strip(".") and name.strip())


@settings(max_examples=15, deadline=None)
@given(st.dictionaries(NAMES, st.tuples(st.binary(max_size=50), st.booleans()), min_size=1, max_size=5))
def test_any_files_arrive_as_they_are(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, tuple[bytes, bool]]
) -> None:
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for name, (content, executable) in tree.items():
        (source / name).write_bytes(content)
        (source / name).chmod(0o755 if executable else 0o600)
    packed = files.pack([str(source)])
    assert packed
    with packed:
        code = f"{Path(agent.__file__).read_text()}\nreceive_files({str(target)!r}, {packed.digest!r}, {packed.size})"
        subprocess.run(
            [sys.executable, "-IS", "-c", code], input=b"".join(packed.pieces()), check=True, timeout=patience(30)
        )
    arrived = target / packed.digest / source.name
    assert {
        path.name: (path.read_bytes(), bool(path.stat().st_mode & stat.S_IXUSR)) for path in arrived.iterdir()
    } == tree


@pytest.fixture
def session(tmp_path: Path) -> Iterator[stub_sessions.Session]:
    with stub_sessions.session() as session:
        yield session


def test_a_result_counts_once_what_is_expected_is_there(
    cluster: Cluster, session: stub_sessions.Session, cloud: LocalCloud
) -> None:
    """And a job is not gone on with where its objects are not."""
    stub = {"s3_stubbed_session": session.uuid, "s3_stubbed_tmp": str(session.path.parent)}
    stubbed = Cluster(cluster.ids, {**cluster.env, **stub}, cloud)
    forgets = (
        'read x; [ $x$HARDWAY_ATTEMPT = b1 ] || echo $x | aws s3 cp --quiet - s3://b/out/$x; echo "is s3://b/out/$x"'
    )

    def pmap(args: str, command: str, *more: str, on: Cluster = stubbed) -> Result:
        flags = ("--retry-sleep", "0", "--no-backup", *more)
        return run_inv("mapreduce.pmap", on.selector, args, command, *flags, env=on.env)

    done = pmap("a\nb\nc", forgets, "--expect", "results", "--job", "expects")
    assert (done.code, done.stdout) == (0, "".join(f"is s3://b/out/{x}\n" for x in "abc")), done.stderr
    assert "hardway: expected s3://b/out/b, which is not there" in done.stderr
    aws = [str(stub_sessions.directory() / "aws"), "s3", "rm", "--quiet", "s3://b/out/b"]
    subprocess.run(aws, env=session.environment, check=True)
    again = pmap("a\nb\nc", forgets, "--expect", "s3://b/out/{}", "--resume", "expects")
    assert again.code == 0, again.stderr
    assert "1 result run again: an object is missing, such as s3://b/out/b" in again.stderr
    failed = pmap("d", "head -c 200000 /dev/zero", "--expect", "s3://b/{}/none", "--retries", "0")
    assert failed.code == 1
    assert "an object that it should write is missing: hardway: expected s3://b/d/none" in failed.stderr
    with pytest.raises(UsageError, match="write s3://bucket/key"):
        mapreduce.pmap(Context(), cluster.ids, "d", "cat", expect="out/{}")
    with stub_sessions.session() as other:
        there = Cluster(cluster.ids, {**stubbed.env, "s3_stubbed_session": other.uuid}, cloud)
        elsewhere = pmap("a\nb\nc", forgets, "--resume", "expects", on=there)
        assert (elsewhere.code, elsewhere.stdout) == (2, "")
        said = f"job expects ran elsewhere (session of the S3 stub {session.uuid}, here {other.uuid})"
        assert said in elsewhere.stderr
        newest = pmap("a", forgets, "--resume", on=there)
        assert newest.code == 0
        assert "job expects can't be resumed here: it ran elsewhere" in newest.stderr
        assert "this is a new job" in newest.stderr


def test_what_is_expected_is_looked_for_in_s3_itself(c: Context, cluster: Cluster, cloud: LocalCloud) -> None:
    client = cloud.client("s3")
    client.create_bucket(Bucket="expected")
    client.put_object(Bucket="expected", Key="out/a b", Body=b"")
    assert mapreduce.pmap(c, cluster.ids[:1], "a b", "cat", expect="s3://expected/out/{}") == ["a b\n"]
    for place in ("s3://expected/none/{}", "s3://never-made/{}"):
        with pytest.raises(Failed, match="task 1 failed, 0 of 1 are done"):
            mapreduce.pmap(c, cluster.ids[:1], "a b", "cat", expect=place, retries=0)
