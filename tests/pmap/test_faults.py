"""Jobs whose instances misbehave as `inv local.fault` makes them: results are exact, and nothing is taken twice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.conftest import LocalCloud, run_inv
from tests.patience import patience
from tests.pmap.conftest import Cluster, eventually
from tests.pmap.test_resume import ANSWERS, ARGUMENTS, SLOW, started


def fault(cloud: LocalCloud, *arguments: str) -> None:
    done = cloud.inv("local.fault", *arguments)
    assert done.code == 0, done.stderr


def taken(cluster: Cluster, job: str) -> Counter[str]:
    """How many results of each task were taken."""
    lines = (cluster.jobs / job / "journal").read_text().splitlines()
    return Counter(line.split()[1] for line in lines if line.startswith("done"))


def test_an_interruption_is_seen_coming(cloud: LocalCloud, new_cluster: Callable[[int], Cluster]) -> None:
    own = new_cluster(2)
    fault(cloud, "interrupt", own.ids[0], "--notice", "100")
    # The other one holds the job up until the notice has been seen.
    waits = f"[ $HARDWAY_INSTANCE_ID != {own.ids[0]} ] || sleep 1000; until [ -e go ]; do sleep 0.05; done"
    command = f'read x; echo $x >> log; {waits}; echo "<$x>"'
    with started(own, ARGUMENTS, command, "--job", "spot") as process:
        assert process.stderr
        line = next(line for line in process.stderr if "spot interruption" in line)
        (own.homes[1] / "go").touch()
        out, said = process.communicate(timeout=patience(30))
    assert (process.returncode, out) == (0, ANSWERS), said
    assert f"{own.ids[0]}: spot interruption in " in line
    assert "nothing new starts" in line
    here = own.homes[0] / "log"
    assert not here.exists() or len(here.read_text().splitlines()) == 1
    assert set(taken(own, "spot").values()) == {1}


def test_a_killed_instance_loses_nothing(cloud: LocalCloud, new_cluster: Callable[[int], Cluster]) -> None:
    own = new_cluster(3)
    with started(own, ARGUMENTS, SLOW, "--no-backup", "--job", "killed") as process:
        eventually(lambda: len(own.lines("log")) == 3)
        fault(cloud, "kill", own.ids[0])
        for home in own.homes[1:]:
            (home / "go").touch()
        out, said = process.communicate(timeout=patience(30))
    assert (process.returncode, out) == (0, ANSWERS), said
    assert set(taken(own, "killed").values()) == {1}


def test_dropped_connections_lose_nothing_and_run_nothing_twice(
    cloud: LocalCloud, new_cluster: Callable[[int], Cluster]
) -> None:
    own = new_cluster(2)
    with started(own, ARGUMENTS, SLOW, "--no-backup", "--job", "dropped") as process:
        eventually(lambda: len(own.lines("log")) == 2)
        fault(cloud, "drop", own.selector)
        own.touch("go")
        out, said = process.communicate(timeout=patience(30))
    assert (process.returncode, out) == (0, ANSWERS), said
    assert sorted(own.lines("log")) == sorted(f"{i} 1" for i in range(12))


def test_what_hangs_runs_elsewhere_and_its_late_result_is_not_taken(
    cloud: LocalCloud, new_cluster: Callable[[int], Cluster]
) -> None:
    """The task on the hung instance gets a backup; thawed, the first attempt ends too, while the job goes on."""
    own = new_cluster(2)
    hung = own.ids[0]
    command = (
        "read x; echo $x >> log; if [ $x = 11 ]; then until [ -e last ]; do sleep .02; done; "
        f'elif [ $HARDWAY_INSTANCE_ID = {hung} ]; then until [ -e go ]; do sleep .02; done; fi; echo "<$x>"'
    )
    here, there = own.homes
    with started(own, ARGUMENTS, command, "--job", "hung", "--slots", "2") as process:
        eventually(lambda: len(own.lines("log")) >= 4 and (here / "log").exists())
        fault(cloud, "hang", hung)
        tasks = set((here / "log").read_text().split())
        eventually(lambda: tasks <= set((there / "log").read_text().split()))
        (here / "go").touch()
        fault(cloud, "thaw", hung)
        own.touch("last")
        out, said = process.communicate(timeout=patience(30))
    assert (process.returncode, out) == (0, ANSWERS), said
    assert set(taken(own, "hung").values()) == {1}


def test_an_instance_where_tasks_fail_is_set_aside(new_cluster: Callable[[int], Cluster]) -> None:
    """Where three in a row fail that succeed elsewhere."""
    own = new_cluster(3)
    bad, tasks = own.ids[0], 100
    fails = f"[ $HARDWAY_INSTANCE_ID != {bad} ] || exit 7"
    command = f'read x; echo $x >> log; {fails}; sleep .05; echo "<$x>"'
    numbers = "\n".join(str(i) for i in range(tasks))
    with started(own, numbers, command, "--job", "aside", "--retry-sleep", "0.1") as process:
        out, said = process.communicate(timeout=patience(60))
    assert (process.returncode, out) == (0, "".join(f"<{i}>\n" for i in range(tasks))), said
    aside = [line for line in said.splitlines() if "set aside" in line]
    assert aside, said
    assert all(bad in line for line in aside), said
    assert set(taken(own, "aside").values()) == {1}
    here = own.homes[0] / "log"
    assert 3 <= len(here.read_text().splitlines()) < tasks // 2, "it is spared"


def test_a_task_that_kills_its_agents_is_given_up(new_cluster: Callable[[int], Cluster]) -> None:
    own = new_cluster(2)
    command = 'read x; [ $x != 3 ] || kill -9 $PPID; echo "<$x>"'
    with started(own, ARGUMENTS, command, "--job", "deadly", "--keep-going") as process:
        out, said = process.communicate(timeout=patience(60))
    assert (process.returncode, len(out.splitlines()), out.splitlines()[3]) == (1, 12, ""), said
    assert "1 task failed, 5 times the instance or its agent died while the task ran" in said
    assert "11 of 12 are done" in said
    assert "Traceback" not in said


def test_the_cost_is_told_where_the_price_is_known(new_cluster: Callable[[int], Cluster], tmp_path: Path) -> None:
    own = new_cluster(1)
    spot = run_inv("ec2.new", "--spot", "1", "--name", "own-spot", env=own.env)
    assert spot.code == 0, spot.stderr
    no_price_list = {"AWS_ENDPOINT_URL_PRICING": "http://127.0.0.1:9", "XDG_CACHE_HOME": str(tmp_path)}
    cost = r", <?\$0\.0\d*[1-9]\d*"
    for environment, selector, told in (
        ({}, "own*", cost),
        (no_price_list, "own*", rf"{cost} \(1 instance's cost unknown\)"),
        (no_price_list, own.selector, ", 1 instance's cost unknown"),
    ):
        done = run_inv("mapreduce.pmap", selector, ARGUMENTS, "sleep .1; cat", env={**own.env, **environment})
        assert done.code == 0, done.stderr
        assert re.search(rf"{told}$", done.stderr, re.MULTILINE), done.stderr


def test_verify_with_one_instance_that_answers_is_no_verification(
    cloud: LocalCloud, new_cluster: Callable[[int], Cluster]
) -> None:
    own = new_cluster(2)
    fault(cloud, "hang", own.ids[0])
    impatient = replace(own, env={**own.env, "INVOKE_EC2_CONNECT_TIMEOUT": "2"})
    with started(impatient, ARGUMENTS, "cat", "--verify", "3", "--reconnect", "1") as process:
        out, said = process.communicate(timeout=patience(60))
    assert (process.returncode, out) == (1, ""), said
    assert "only one could be used" in said
