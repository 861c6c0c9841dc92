"""pmap as a person uses it: `inv mapreduce.pmap` on instances of the local cloud."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from invoke import Config, Context

from hardway.errors import Failed, UsageError
from hardway.pmap.arguments import read
from hardway.pmap.results import Results, TasksFailed
from tasks import mapreduce
from tests.conftest import run_inv, start_inv
from tests.patience import patience
from tests.pmap.conftest import Cluster, Pmap, eventually


@pytest.fixture
def c(cluster: Cluster, home: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    """The context that a task gets from Invoke, in this process."""
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    return Context(Config(defaults=mapreduce.ns.configuration()))


def agents(cluster: Cluster) -> int:
    """Tasks of this test's cluster that run now, by their working directory's marker."""
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment = (process / "environ").read_bytes()
        except OSError:
            continue
        count += any(f"HARDWAY_INSTANCE_ID={one}".encode() in environment for one in cluster.ids)
    return count


def test_results_come_back_in_the_order_of_the_arguments(pmap: Pmap) -> None:
    done = pmap("\n".join(str(i) for i in range(100)), 'read x; [ "$((x % 25))" = 0 ] && sleep .3; echo "<$x>"')
    assert done.code == 0, done.stderr
    assert done.stdout == "".join(f"<{i}>\n" for i in range(100))
    assert "100 of 100 tasks done" in done.stderr


def test_the_work_is_spread_over_all_instances(pmap: Pmap, cluster: Cluster) -> None:
    done = pmap("\n".join("abcdef"), "echo $HARDWAY_INSTANCE_ID $HARDWAY_WORKER $PWD; sleep .3", "--slots", "2")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {line[0] for line in lines} == set(cluster.ids)
    assert {line[1] for line in lines} == {str(worker) for worker in range(6)}
    assert {line[2] for line in lines} == {"/home/ubuntu"}


def test_arguments_from_a_file(
    c: Context, cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "args").write_text("a b\n\nc")
    assert mapreduce.pmap(c, cluster.ids, f"@{tmp_path / 'args'}", "cat") == ["a b\n", "c\n"]
    assert "1 empty line" in capsys.readouterr().err


def test_arguments_may_hold_newlines_between_nuls(pmap: Pmap) -> None:
    done = pmap("-", "wc -c", "-0", stdin="two\nlines\0one\0")
    assert (done.stdout, done.code) == ("9\n3\n", 0)


def test_nothing_to_do_is_no_failure(c: Context, cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert mapreduce.pmap(c, cluster.ids, "", "cat") == []
    assert "nothing to do" in capsys.readouterr().err


def test_a_shell_never_sees_arguments_or_their_bytes(c: Context, cluster: Cluster) -> None:
    arguments = [b"$(touch /tmp/x) `id` ; 'a' \"b\" \\ *", bytes(range(11, 256)), "é\u2028 \U0001f600".encode()]
    results = mapreduce.pmap(c, cluster.ids, arguments, "cat", progress=False)
    assert [result.encode("utf-8", "surrogateescape") for result in results] == [item + b"\n" for item in arguments]


def test_it_is_called_from_python_with_an_open_file_too(c: Context, cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "args").write_text("x\ny\n")
    with (tmp_path / "args").open() as file:
        results = mapreduce.pmap(c, cluster.selector, file, 'printf %s "$(cat)"', progress=False)
    assert results == ["x", "y"]
    assert str(results) == "x\ny"


def test_a_failed_task_is_tried_elsewhere_until_it_succeeds(pmap: Pmap, cluster: Cluster) -> None:
    command = 'echo "$HARDWAY_ATTEMPT"; [ "$HARDWAY_ATTEMPT" = 3 ] || { echo no luck >&2; exit 7; }'
    done = pmap("x", command, "--retry-sleep", "0.1", "--job", "thrice")
    assert done.code == 0, done.stderr
    assert done.stdout == "3\n"
    assert "exit code 7: no luck" in done.stderr
    lines = (cluster.jobs / "thrice/journal").read_text().splitlines()
    starts = [line.split()[3] for line in lines if line.startswith("start")]
    assert sorted(starts) == sorted(cluster.ids)


def test_spent_retries_fail_the_job_and_are_explained(pmap: Pmap) -> None:
    command = 'read x; [ $x != 5 ] || { echo "cannot do $x" >&2; exit 4; }; echo $x'
    done = pmap("\n".join("123456789"), command, "--retries", "1", "--retry-sleep", "0", "--keep-going")
    assert (done.code, done.stdout) == (1, "1\n2\n3\n4\n\n6\n7\n8\n9\n"), "the failed one's place is empty"
    assert "1 task failed, exit code 4: cannot do 5" in done.stderr
    assert "task 5 failed, 8 of 9 are done" in done.stderr
    log = next(line for line in done.stderr.splitlines() if "such as task 5" in line).split(": ")[1]
    assert Path(log).read_text() == "cannot do 5\n"
    assert "by hand: ./inv ec2.ssh i-" in done.stderr


def test_without_keep_going_nothing_more_starts(c: Context, cluster: Cluster) -> None:
    with pytest.raises(Failed, match=r"stopped after .* failed; .*\. Fix it, then: hardway ") as failed:
        mapreduce.pmap(c, cluster.ids, list("abcdefghijklmn"), "exit 1", retries=0)
    left = int(str(failed.value).split(" not finished")[0].split()[-1])
    assert left >= 14 - 2 * len(cluster.ids)


def test_a_timeout_is_a_failure_and_leaves_no_process(
    c: Context, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Failed):
        mapreduce.pmap(c, cluster.ids, "x", "sleep 1000 & sleep 1000", timeout=0.5, retries=0)
    assert "timed out after 0.5 s" in capsys.readouterr().err
    eventually(lambda: agents(cluster) == 0)


def test_results_as_files(pmap: Pmap, tmp_path: Path) -> None:
    done = pmap("a\nb", "cat; echo err >&2", "--results", str(tmp_path / "out"), "--no-backup")
    paths = done.stdout.splitlines()
    assert paths == [str(tmp_path / "out/1.stdout"), str(tmp_path / "out/2.stdout")]
    assert [Path(path).read_text() for path in paths] == ["a\n", "b\n"]
    assert (tmp_path / "out/1.stderr").read_text() == "err\n"
    about = json.loads((tmp_path / "out/2.json").read_text())
    assert (about["exit_code"], about["attempt"]) == (0, 1)
    assert about["seconds"] > 0


def test_long_results_are_exact(c: Context, cluster: Cluster) -> None:
    results = mapreduce.pmap(c, cluster.ids, "1\n2\n3", "read x; head -c 3000000 /dev/zero | tr '\\0' $x")
    assert results == [str(i) * 3_000_000 for i in (1, 2, 3)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"slots": "many"}, "--slots is 'many'"),
        ({"retries": -1}, "--retries is '-1'"),
        ({"timeout": "soon"}, "--timeout is 'soon'"),
        ({"retry_sleep": "x"}, "--retry-sleep is 'x'"),
        ({"job": "../x"}, "a job's name"),
        ({"args": "@/no/such/file"}, "no such file"),
        ({"command": " "}, "command is empty"),
        ({"selector": "i-00000000000000000"}, "there is no instance"),
    ],
)
def test_bad_input_is_refused(c: Context, cluster: Cluster, given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        mapreduce.pmap(c, **{"selector": cluster.selector, "args": "x", "command": "cat", **given})


def test_bad_input_is_one_line_and_exit_code_2(pmap: Pmap) -> None:
    done = pmap("x", "cat", "--slots", "many")
    assert (done.code, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1


def test_ctrl_c_ends_what_runs_on_the_instances(cluster: Cluster) -> None:
    command = ("mapreduce.pmap", cluster.selector, "1\n2\n3", "trap '' TERM; sleep 1000")
    process = start_inv(*command, env=cluster.env, stdout=None)
    eventually(lambda: agents(cluster) >= 3)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, said = process.communicate(timeout=patience(30))
    assert process.returncode == 130
    assert time.monotonic() - began < patience(5)
    assert "interrupted" in said
    eventually(lambda: agents(cluster) == 0)


def test_nothing_remains_on_an_instance(pmap: Pmap, cluster: Cluster) -> None:
    """But what other jobs, whose drivers were killed, have there."""
    assert pmap("a\nb\nc", "cat", "--job", "remains").code == 0
    look = 'cd ~/.hardway 2>/dev/null || exit 0; ls | grep ^remains; [ "$(ls)" ] || echo an empty directory'
    command = ("ec2.ssh", cluster.selector, "--yes", "--quiet", "--command", look)
    assert run_inv(*command, env=cluster.env).stdout == ""


def test_verify_compares_two_instances(c: Context, cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    assert mapreduce.pmap(c, cluster.ids, list("abcdefgh"), "cat", verify=3) == [f"{x}\n" for x in "abcdefgh"]
    assert "3 tasks were run twice" in capsys.readouterr().err
    with pytest.raises(Failed, match="4 of 4 tasks that were run twice gave different results"):
        mapreduce.pmap(c, cluster.ids, list("abcdefgh"), "echo $HARDWAY_INSTANCE_ID", verify="4")
    with pytest.raises(UsageError, match="two or more"):
        mapreduce.pmap(c, cluster.ids[0], "x", "cat", verify=1)


def test_what_arguments_are() -> None:
    assert read("a\nb").items == [b"a\n", b"b\n"]
    assert read("a\n\nb\n").items == [b"a\n", b"b\n"]
    assert read("").items == []
    assert read(["", "a", b"b\n"]).items == [b"\n", b"a\n", b"b\n"]
    assert read("a\nb\0c", null=True).items == [b"a\nb", b"c"]
    assert read("\udcff").items == [b"\xff\n"]
    with pytest.raises(UsageError, match="not int"):
        read([1])  # type: ignore[list-item]


def results_of(*texts: str) -> Results:
    return Results(len(texts), lambda position: [texts[position].encode()] if texts[position] else [])


def test_how_results_print() -> None:
    assert str(results_of("a\n", "b", "", "c\n")) == "a\nb\nc"
    assert str(results_of()) == ""
    assert str(results_of("a\n\n")) == "a\n"


def test_results_are_a_sequence_of_text() -> None:
    results = results_of("a\n", "", "c")
    assert results == ["a\n", "", "c"] and results == results_of("a\n", "", "c")
    assert results != ["a\n", ""] and results != ["a\n", "", "x"] and results != "a"
    assert (results[-1], len(results), list(results), "c" in results) == ("c", 3, ["a\n", "", "c"], True)
    assert results[1:] == ["", "c"] and results[::-1][0] == "c"
    with pytest.raises(IndexError):
        results[3]


def test_the_command_line_prints_results_exactly(cluster: Cluster) -> None:
    """No newline at the end that wasn't there, whatever bytes; a long result is written as it is read."""
    command = 'read x; case $x in 1) printf "a\\xff";; 2) ;; 3) head -c 3000000 /dev/zero;; *) printf "z\\r";; esac'
    with start_inv("mapreduce.pmap", cluster.selector, "1\n2\n3\n4", command, env=cluster.env, text=False) as process:
        printed, _ = process.communicate(timeout=patience(60))
    assert printed == b"a\xff\n" + bytes(3_000_000) + b"\nz\r"


def test_a_failure_is_an_exception_in_python(c: Context, cluster: Cluster) -> None:
    """It carries what is done, and what failed how."""
    command = 'read x; [ $x = a ] || { echo "no $x" >&2; exit 3; }; echo $x'
    with pytest.raises(TasksFailed, match="2 tasks failed, 1 of 3 are done") as raised:
        mapreduce.pmap(c, cluster.ids, list("bac"), command, retries=0, keep_going=True, progress=False)
    assert raised.value.results == ["", "a\n", ""]
    told = [(one.task, one.argument, one.exit_code, one.stderr) for one in raised.value.failed]
    assert told == [(1, "b", 3, "no b\n"), (3, "c", 3, "no c\n")]
    # An attempt that a host could not run, or that was taken back, has a number, too.
    assert all(one.attempts >= 1 for one in raised.value.failed)
    with pytest.raises(TasksFailed, match="task 1 failed, 0 of 1 are done"):
        mapreduce.pmap(c, cluster.ids, ["x"], "exit 1", retries=0, progress=False)


def test_the_longest_of_the_last_time_come_first(pmap: Pmap, cluster: Cluster, tmp_path: Path) -> None:
    command = 'read x; sleep "0.$x"; echo "<$x>"; [ "$x" != 03 ] || [ -e ~/second ] || exit 1'
    arguments = ["01", "5", "03", "2", "9"]
    once = pmap("\n".join(arguments), command, "--retries", "0", "--keep-going", "--slots", "1")
    assert once.code == 1
    cluster.touch("second")
    more = ["07", *arguments]
    again = pmap("\n".join(more), command, "--job", "again", "--results", str(tmp_path), on=cluster.ids[0])
    cluster.remove("second")
    assert again.code == 0, again.stderr
    starts = [line.split() for line in (cluster.jobs / "again" / "journal").read_text().splitlines()]
    order = [int(words[1]) for words in starts if words[0] == "start"]
    # 07 and 03 have no time yet: the mean of the others is theirs
    assert [more[number - 1] for number in order] == ["9", "5", "07", "03", "2", "01"]
    paths = again.stdout.split()
    assert [Path(path).read_text() for path in paths] == [f"<{x}>\n" for x in more]
    assert [Path(path).name for path in paths] == [f"{n}.stdout" for n in range(1, 7)]


def test_a_full_results_folder_is_named(c: Context, cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "1.stdout").symlink_to("/dev/full")
    said = rf"cannot write to {tmp_path}: no space left on device; to go on, .*: hardway .*--resume"
    with pytest.raises(Failed, match=said):
        mapreduce.pmap(c, cluster.ids, "x", "cat", results=str(tmp_path), linger=1, progress=False)


def test_a_failure_is_told_of_the_argument_that_failed(pmap: Pmap, cluster: Cluster) -> None:
    command = 'read x; sleep "0.$x"; [ ! -e ~/bad ] || [ "$x" != 2 ] || { echo "bad $x" >&2; exit 3; }'
    assert pmap("1\n2\n4", command).code == 0
    cluster.touch("bad")
    failed = pmap("1\n2\n4", command, "--retries", "0", "--job", "told")
    cluster.remove("bad")
    assert failed.code == 1
    assert "1 task failed, exit code 3: bad 2" in failed.stderr
    assert "task 2 on" in failed.stderr
    assert (cluster.jobs / "told" / "failed" / "2.stdin").read_text() == "2\n"
