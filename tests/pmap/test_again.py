"""Data that went with an instance is made again, and nothing else: a result, what it was made of, and then the job."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from invoke import Config, Context

from hardway import config
from hardway.errors import Failed, UsageError
from hardway.pmap import again
from hardway.pmap.expect import Expected
from hardway.pmap.job import Job, keys_of
from tasks import mapreduce
from tests.conftest import LocalCloud, Result, run_inv, start_inv
from tests.patience import patience
from tests.pmap.conftest import Cluster, Pmap, eventually

GONE, OTHER, LAST = "i-0000000a", "i-0000000b", "i-0000000c"
# Stand for `aws s3 cp` to and from the store: an object's content is the end of its key.
FETCH = """
fetch() {
    instance=${1#s3://hardway_}; instance=${instance%%/*}
    if grep -qx $instance gone; then echo "aws: $1: its data went with $instance" >&2; return 1; fi
    echo ${1##*/}
}
while [ -e hold ]; do sleep .02; done
"""
FIRST = 'read n; echo "first $n" >>log; echo "s3://hardway_$HARDWAY_INSTANCE_ID/first/$n"'
SECOND = (
    FETCH + 'read u; n=$(fetch $u) || exit; echo "second $n" >>log; echo "$n s3://hardway_$HARDWAY_INSTANCE_ID/2/$n"'
)
THIRD = FETCH + 'read n u; n=$(fetch $u) || exit; echo "third $n" >>log; echo "<$n>"'
ANSWERS = "".join(f"<{n}>\n" for n in range(1, 13))


def terminate_one(cluster: Cluster, results: str) -> str:
    """End the instance that most of these results name; what `fetch` is told of it is that it is gone."""
    gone = max(cluster.ids, key=results.count)
    assert run_inv("ec2.rm", gone, "--yes", env=cluster.env).code == 0
    cluster.ids.remove(gone)
    for home in cluster.homes:
        with (home / "gone").open("a") as file:
            file.write(f"{gone}\n")
    return gone


def test_a_chain_of_jobs_is_mended_from_its_beginning_whatever_is_killed(new_cluster: Callable[[int], Cluster]) -> None:
    cluster = new_cluster(3)
    cluster.touch("gone")

    def pmap(args: str, command: str, *flags: str) -> Result:
        # A hint for where tasks run would have few instances hold all: here each has some.
        on = ("--slots", "1", "--no-locality", "--retries", "10", "--retry-sleep", "0.1", "--no-backup")
        return run_inv("mapreduce.pmap", cluster.selector, args, command, *on, *flags, env=cluster.env)

    made = pmap("\n".join(map(str, range(1, 13))), FIRST, "--job", "first").stdout
    parts = pmap(made, SECOND, "--job", "second").stdout
    gone = terminate_one(cluster, parts)
    lost = {line.split()[0] for line in parts.splitlines() if gone in line}
    needed = {n for n in lost if f"{gone}/first/{n}\n" in made}
    failed = pmap(parts, THIRD, "--job", "third", "--keep-going")
    assert failed.code == 1
    tasks = "1 task" if len(lost) == 1 else f"{len(lost)} tasks"
    assert f"{tasks} failed, its data went with {gone}\n" in failed.stderr
    assert failed.stderr.splitlines()[-1].endswith("mapreduce.again third")
    assert f" {len(lost)} failed, 12 attempts, " in failed.stderr, "none was tried again"

    cluster.remove("log")
    cluster.touch("hold")
    with start_inv("mapreduce.again", "third", env=cluster.env) as process:
        eventually(lambda: runs_again(cluster.jobs / "second"))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=patience(20))
    cluster.remove("hold")
    done = run_inv("mapreduce.again", "third", env=cluster.env)
    assert (done.code, done.stdout) == (0, ANSWERS), done.stderr
    ran = sorted(cluster.lines("log"))
    assert ran == sorted([f"first {n}" for n in needed] + [f"{job} {n}" for job in ("second", "third") for n in lost])
    rest = run_inv("mapreduce.again", "third", env=cluster.env)
    assert (rest.code, rest.stdout, sorted(cluster.lines("log"))) == (0, ANSWERS, ran), "there is nothing left to do"

    # By hand: job after job, with the arguments as they were at first.
    gone = terminate_one(cluster, run_inv("mapreduce.results", "second", env=cluster.env).stdout)
    pmap("\n".join(map(str, range(1, 13))), FIRST, "--resume", "first")
    resumed = pmap(made, SECOND, "--resume", "second")
    assert resumed.code == 0 and " to be made again: the data went with i-" in resumed.stderr and gone in resumed.stderr
    other = pmap(parts, THIRD, "--job", "other")
    assert (other.code, other.stdout) == (0, ANSWERS), "its first URL is still the name of an object"


def test_two_jobs_on_a_real_store_and_an_instance_lost_in_between(new_cluster: Callable[[int], Cluster]) -> None:
    cluster = new_cluster(2)

    def inv(*arguments: str) -> Result:
        return run_inv(*arguments, env=cluster.env)

    assert inv("cluster.store", cluster.selector, "--yes").code == 0
    make = 'n=$(cat); seq $n | aws s3 cp - "$HARDWAY_STORE/$n" && printf "all\\t%s\\n" "$HARDWAY_STORE/$n"'
    fetch = 'while read -r url; do aws s3 cp "$url" - || exit; done'
    add = f"set -o pipefail; cut -f 2- | tr '\\t' '\\n' | {fetch} | awk '{{ n += $1 }} END {{ print n }}'"
    lines = inv("mapreduce.pmap", cluster.selector, "1\n2\n3\n4", make, "--job", "make", "--slots", "1").stdout
    partition = inv("mapreduce.group", lines).stdout
    gone = terminate_one(cluster, lines)
    failed = inv("mapreduce.pmap", cluster.selector, partition, add, "--job", "add")
    assert (failed.code, failed.stdout) == (1, ""), failed.stderr
    assert f"1 task failed, its data went with {gone}\n" in failed.stderr
    done = inv("mapreduce.again", "add")
    assert (done.code, done.stdout) == (0, "20\n"), done.stderr


def runs_again(job: Path) -> bool:
    """Whether a job whose results were void has begun a task again."""
    text = (job / "journal").read_text()
    return "\nslot " in text.rpartition("\nvoid ")[2] and "\nvoid " in text


def test_what_a_task_says_of_its_data_is_checked(pmap: Pmap, cluster: Cluster) -> None:
    """A failure is final if the argument names the instance, and EC2 knows none of this id."""
    living = cluster.ids[0]
    urls = [f"s3://hardway_{living}/1", f"s3://hardway_{GONE}/2", f"{GONE}: no URL"]
    command = f"""read u; [ $HARDWAY_ATTEMPT = 1 ] || {{ echo "$u"; exit; }}
        case $u in *{living}*) id={living};; *) id={GONE};; esac; echo "fetch: its data went with $id" >&2; exit 1"""
    done = pmap("\n".join(urls), command, "--keep-going", "--retry-sleep", "0.1", "--no-backup", "--job", "claims")
    assert (done.code, done.stdout) == (1, f"{urls[0]}\n\n{urls[2]}\n")
    assert f"1 task failed, its data went with {GONE}\n" in done.stderr
    assert "1 failed, 5 attempts, 2 retries, " in done.stderr
    again = run_inv("mapreduce.again", "claims", env=cluster.env)
    assert (again.code, again.stdout) == (1, "")
    said = (
        f"task 2 of job claims needs s3://hardway_{GONE}/2, whose instance is gone, and no job on this machine made it"
    )
    assert again.stderr == f"{said}: nothing was started\n"


def test_results_that_always_name_a_gone_instance_are_made_again_once_a_run(pmap: Pmap, cluster: Cluster) -> None:
    command = f"read n; echo s3://hardway_{GONE}/$n"
    first = pmap("1\n2", command, "--job", "lies")
    again = pmap("1\n2", command, "--resume", "lies")
    assert (again.code, again.stdout) == (0, first.stdout)
    assert f"2 results to be made again: the data went with {GONE}, gone according to EC2\n" in again.stderr
    assert "2 of 2 tasks done, 2 attempts, " in again.stderr


@pytest.fixture
def settings(cloud: LocalCloud, home: Path, monkeypatch: pytest.MonkeyPatch) -> config.Settings:
    for name, value in cloud.env.items():
        monkeypatch.setenv(name, value)
    return config.settings(Context(Config(defaults=mapreduce.ns.configuration())))


Ran = tuple[str, str]
"""The instance where a task ran, and its result."""


def job(name: str, tasks: list[tuple[str, list[Ran]]], flags: str = "") -> Path:
    """A job on the disk: its arguments, and for each the results that it has had, the last of which counts."""
    items = [f"{argument}\n".encode() for argument, _ in tasks]
    with Job.create("cmd", name=name, selector="web") as made:
        for number, (_, results) in zip(made.number(keys_of(items), items), tasks, strict=True):
            for attempt, (host, text) in enumerate(results, 1):
                if number in made.history.results:
                    made.void(number)
                made.started(number, attempt, host)
                made.done(number, made.ended(number, attempt, host, 0, 0, 1.0, f"{text}\n".encode(), b""))
        made.leave("resume", f"inv mapreduce.pmap web @x cmd {flags} --resume {name}\n".encode())
    return made.path


def planned(settings: config.Settings, path: Path) -> list[tuple[str, bytes]]:
    return [(step.job, b"".join(step.arguments)) for step in again.plan(settings, path, "")]


def url(instance: str, key: str) -> str:
    return f"s3://hardway_{instance}/{key}"


def on(instance: str, key: str) -> list[Ran]:
    """The task ran there, and made this object."""
    return [(instance, url(instance, key))]


def test_what_is_needed_is_planned_in_order_and_no_more(settings: config.Settings) -> None:
    job("a", [(str(n), on(GONE, f"a{n}")) for n in (1, 2, 3)])
    job("b", [(url(GONE, f"a{n}"), on(OTHER, f"b{n}")) for n in (1, 2)])
    # A task that only passes a URL on has made nothing, not even on the same instance.
    job("passes", [(url(OTHER, "b1"), on(OTHER, "b1"))])
    partition = f"p\t{url(OTHER, 'b1')}\t{url(GONE, 'a3')}"
    target = job("c", [(partition, []), (url(OTHER, "b2"), [(LAST, "done")]), ("x", [])])
    assert planned(settings, target) == [
        ("a", b"1\n3\n"),
        ("b", f"{url(GONE, 'a1')}\n".encode()),
        ("c", f"{partition}\n{url(OTHER, 'b2')}\nx\n".encode()),
    ]


def test_the_second_of_two_equal_arguments_is_run_with_the_first(settings: config.Settings) -> None:
    job(
        "twice",
        [("1", on(OTHER, "k")), ("2", on(OTHER, "k")), ("1", on(GONE, "k"))],
        "--slots=2 --notify=mail --detach",
    )
    twice, last = again.plan(settings, job("last", [(url(GONE, "k"), [])], "--notify=mail --detach"), "")
    assert ([*twice.arguments], twice.flags, last.flags) == ([b"1\n", b"1\n"], ["--slots=2"], ["--notify=mail"])


def test_a_long_result_that_counted_once_still_says_what_the_task_made(settings: config.Settings) -> None:
    maker = job("long", [("1", [])])
    for _ in range(2):  # a driver may come and go in between
        with Job(maker) as made:
            if 1 in made.history.results:
                made.void(1)
            else:
                output = made.path / "large" / "1.1.part0"
                output.write_text(f"{'x' * 100_000}\n" * 30 + url(GONE, "k"))
                made.started(1, 1, GONE)
                made.done(1, made.ended(1, 1, GONE, 0, 0, 1.0, output, b""))
    Job(maker).close()
    target = job("reader", [(url(GONE, "k"), [])])
    assert planned(settings, target) == [("long", b"1\n"), ("reader", f"{url(GONE, 'k')}\n".encode())]


def test_expected_results_on_a_store_are_on_their_instance(settings: config.Settings) -> None:
    assert Expected(settings, "results").missing(b"1\n", [url(GONE, "k").encode()]) == ""


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ([("1", [*on(GONE, "17"), (OTHER, "nothing")])], "task 1 of job maker, which made it, has written other names"),
        ([("1", [(OTHER, url(GONE, "17"))])], "no job on this machine made it: nothing was started"),
    ],
)
def test_data_that_cannot_be_made_again_is_named(
    settings: config.Settings, tasks: list[tuple[str, list[Ran]]], said: str
) -> None:
    job("maker", tasks)
    target = job("reader", [(url(GONE, "17"), [])])
    with pytest.raises(Failed, match=f"^task 1 of job reader needs {url(GONE, '17')}, .*{said}"):
        again.plan(settings, target, "")


def test_jobs_that_need_each_other_are_refused(settings: config.Settings) -> None:
    path = job("one", [("1", on(GONE, "a")), (url(GONE, "b"), [])])
    job("two", [(url(GONE, "a"), on(GONE, "b"))])
    with pytest.raises(
        Failed, match=r"jobs need each other's data, which is gone: (one -> two -> one|two -> one -> two);"
    ):
        again.plan(settings, path, "")


def test_a_job_that_cannot_be_run_from_here_says_so(settings: config.Settings) -> None:
    path = job("sends", [("1", [])], "--files=step.sh")
    [step] = again.plan(settings, path, "")
    assert (step.selector, step.flags) == ("web", ["--files=step.sh"])
    (path / "resume").write_text("inv mapreduce.pmap web - cmd --resume sends\n")
    with pytest.raises(UsageError, match="came from a pipe"):
        again.plan(settings, path, "")
    (path / "resume").write_text("torn")
    with pytest.raises(Failed, match="is not what was written"):
        again.plan(settings, path, "")
