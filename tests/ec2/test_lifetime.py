"""Instances that end themselves: when their time is up, when nobody uses them; and what moves that."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Iterator
from datetime import datetime, timezone

import pytest
from invoke.context import Context

from hardway import config
from hardway.ec2 import instances
from hardway.ec2.instances import Instance
from hardway.errors import HardwayError, UsageError
from hardway.ssh import connection as ssh
from tasks import ec2
from tests.ec2.conftest import Shell
from tests.local.conftest import eventually
from tests.patience import patience

ON_TIMEOUT = """
cat >"${HARDWAY_ROOT-}/etc/hardway/on-timeout.sh" <<'END'
exec 3<>/dev/tcp/127.0.0.1/%d
echo "last words" >&3
END
"""


@pytest.fixture
def name(shell: Shell) -> Iterator[str]:
    own = f"lifetime-{os.urandom(4).hex()}"
    yield own
    shell.end(f"{own}*")


def described(ids: list[str]) -> list[Instance]:
    return list(instances.described(config.settings(Context()), ids))


def state(id: str) -> str:
    return described([id])[0].state


def tagged_end(id: str) -> float:
    """Hours from now."""
    ends = datetime.fromisoformat(described([id])[0].tags["hardway-ends"])
    return (ends - datetime.now(timezone.utc)).total_seconds() / 3600


def test_an_image_that_does_not_run_user_data_is_told_of(
    shell: Shell, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Played by a boothook that takes away what ours has left."""
    init = "#cloud-boothook\n#!/bin/sh\nrm ${HARDWAY_ROOT-}/etc/hardway/watch\n"
    [one] = ec2.new(Context(), name=name, init=init)
    assert f"nothing but ec2.rm ends 1 instance ({one}): " in capsys.readouterr().err
    ec2.new(Context(), name=name, init=init, max_hours=0)
    ec2.new(Context(), name=name)
    assert "nothing but ec2.rm" not in capsys.readouterr().err


def test_time_and_disuse_end_instances(shell: Shell, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """All at the same time, for what it takes is waiting: two with little time, two that end unused."""
    c = Context()
    hours = math.ceil(patience(7)) / 3600  # the end is a whole number of seconds away
    with socket.create_server(("127.0.0.1", 0)) as listener:
        unused, used = ec2.new(c, name=f"{name}-idle", num=2, max_hours=0, idle_minutes=0.1)
        connection = ssh.connect(described([used])[0], config.settings(c))
        try:
            ssh.execute(ssh.open_session(connection), "sleep 100", 15)
            init = ON_TIMEOUT % listener.getsockname()[1]
            short, extended = ec2.new(c, name=f"{name}-short", num=2, max_hours=hours, init=init)
            assert "instances terminate themselves" in capsys.readouterr().err
            assert tagged_end(short) <= hours
            assert ec2.extend(c, extended, hours=2, yes=True) == [extended]
            assert 1.9 < tagged_end(extended) <= 2
            listener.settimeout(patience(30) + hours * 3600)
            said = listener.accept()[0]
            with said, said.makefile() as lines:
                assert lines.readline() == "last words\n"
            eventually(lambda: state(short) == "terminated")
            eventually(lambda: state(unused) == "terminated")
            if "isolation: none" not in shell.cloud.inv("local.status").stdout:
                assert state(used) == "running"
            assert state(extended) == "running"
        finally:
            connection.close()
    eventually(lambda: state(used) == "terminated")


def test_an_end_can_be_given_later(shell: Shell, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    c = Context()
    one, other = ec2.new(c, name=name, num=2, max_hours=0)
    assert "until somebody ends them" in capfd.readouterr().err
    assert "hardway-ends" not in described([one])[0].tags
    [gone] = ec2.ssh(c, other, 'rm "${HARDWAY_ROOT-}/etc/hardway/watch"', yes=True)
    assert gone.exit_code == 0
    with pytest.raises(HardwayError, match="failed on 1 of 2") as failed:
        ec2.extend(c, name, hours=0.5, yes=True)
    assert failed.value.code == 1
    assert f"failed: {name} {other}: it has no end to move" in capfd.readouterr().err
    assert 0.4 < tagged_end(one) <= 0.5
    assert "hardway-ends" not in described([other])[0].tags
    ec2.ssh(c, one, 'cat "${HARDWAY_ROOT-}/etc/hardway/ends"', quiet=True, yes=True)
    assert 0.4 < (int(capfd.readouterr().out) - time.time()) / 3600 <= 0.5
    for hours, message in ((0, "--hours is 0"), ("x", "--hours is 'x'"), (1e6, "at most 100000")):
        with pytest.raises(UsageError, match=message):
            ec2.extend(c, name, hours=hours, yes=True)
    with pytest.raises(UsageError, match="add --yes"):
        ec2.extend(c, name, hours=1)
    with pytest.raises(UsageError, match="2 instances match"):
        ec2.user_data(c, name)
    text = ec2.user_data(c, one)
    assert "\nlimit=0 idle=0 user=ubuntu port=" in text
