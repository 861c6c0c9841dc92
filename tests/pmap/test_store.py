"""The store on instances of the local cloud, as a person uses it: two steps of a job, and an instance that is lost."""

from __future__ import annotations

from collections.abc import Callable

from hardway.s3 import stub_sessions
from tests.conftest import Result, run_inv
from tests.pmap.conftest import Cluster

STEP1 = 'n=$(cat); echo "part $n" | aws s3 cp - "$HARDWAY_STORE/counts/$n" && echo "$HARDWAY_STORE/counts/$n"'
STEP2 = 'aws s3 cp "$(cat)" -'
SERVER = '"$(pgrep -P "$(cut -d " " -f 1 .hardway-cluster/store.pid)")"'


def test_a_job_of_two_steps(new_cluster: Callable[[int], Cluster]) -> None:
    cluster = new_cluster(2)
    one, other = cluster.ids
    cluster.cloud.client("s3").create_bucket(Bucket="gathered")

    def inv(*arguments: str, code: int = 0, **more: str) -> Result:
        done = run_inv(*arguments, env={**cluster.env, **more})
        assert done.code == code, done.stderr + done.stdout
        return done

    assert inv("cluster.store", cluster.selector, "--yes").stdout.split() == [
        f"s3://hardway_{id}" for id in (one, other)
    ]
    assert f"{other} is in the same store" in inv("cluster.store", one, "--yes", code=2).stderr
    urls = [inv("mapreduce.pmap", id, number, STEP1).stdout.strip() for number, id in enumerate_ids(cluster)]
    assert urls == [f"s3://hardway_{id}/counts/{number}" for number, id in enumerate_ids(cluster)]
    # an own aws is used for all but the store
    step = f"{STEP2}; aws s3 mb s3://by-the-real-one"
    read = inv("mapreduce.pmap", other, urls[0], step, INVOKE_EC2_AWS="real")
    assert read.stdout == "part 0\nmake_bucket: by-the-real-one\n"
    kept = [line.split("  ")[:4] for line in inv("cluster.ls").stdout.splitlines()]
    assert kept == [["store", f"s3://hardway_{id}", "1 object", "7 bytes"] for id in cluster.ids]
    inv("mapreduce.gather", "\n".join(urls), "s3://gathered/all")
    [joined] = cluster.cloud.client("s3").list_objects_v2(Bucket="gathered")["Contents"]
    assert joined["Size"] == len("part 0\npart 1\n")
    step = 'head -c 3000000 /dev/zero | aws s3 cp - "$HARDWAY_STORE/big" && echo "$HARDWAY_STORE/big"'
    big = inv("mapreduce.pmap", one, "x", step).stdout.strip()
    inv("mapreduce.gather", f"{big}\n{urls[0]}", "s3://gathered/big")
    assert cluster.cloud.client("s3").head_object(Bucket="gathered", Key="big")["ContentLength"] == 3_000_000 + 7

    inv("ec2.ssh", one, "--yes", "--command", f"kill -9 {SERVER}")
    assert inv("mapreduce.pmap", other, urls[0], STEP2).stdout == "part 0\n"
    assert cluster.cloud.inv("local.fault", "kill", one).code == 0
    lost = inv("mapreduce.pmap", other, urls[0], STEP2, "--retries", "0", code=1)
    assert f"1 task failed, its data went with {one}" in lost.stderr
    assert (
        f"its data went with {one}: {urls[0]}" in inv("mapreduce.gather", urls[0], "s3://gathered/all", code=1).stderr
    )
    inv("cluster.store", other, "--yes")
    assert inv("mapreduce.pmap", other, urls[1], STEP2).stdout == "part 1\n"
    assert inv("cluster.stop", other, "--yes").stdout == f"{other}\n"
    assert inv("mapreduce.pmap", other, "x", 'echo "${HARDWAY_STORE-none}"').stdout == "none\n"
    assert inv("cluster.ls").stdout == ""


def enumerate_ids(cluster: Cluster) -> list[tuple[str, str]]:
    return [(str(number), id) for number, id in enumerate(cluster.ids)]


def test_the_same_steps_run_in_a_session_of_the_stub(cluster: Cluster) -> None:
    with stub_sessions.session() as session:
        environment = {**cluster.env, **session.variables}
        [one, other, _] = cluster.ids
        written = run_inv("mapreduce.pmap", one, "1", STEP1, env=environment)
        assert (written.code, written.stdout) == (0, f"s3://hardway_{one}/counts/1\n"), written.stderr
        read = run_inv("mapreduce.pmap", other, written.stdout, STEP2, env=environment)
        assert (read.code, read.stdout) == (0, "part 1\n"), read.stderr
