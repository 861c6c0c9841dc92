"""The life of the daemon, and EC2 as clients see it."""

from __future__ import annotations

from tests.conftest import Inv, exports


def test_up_env_status_and_down_say_their_results_on_stdout_and_all_else_on_stderr(inv: Inv) -> None:
    up = inv("local.up")
    again = inv("local.up")
    assert (up.code, again.code) == (0, 0)
    pairs = exports(up.stdout)
    assert exports(again.stdout) == pairs == exports(inv("local.env").stdout)
    inv("local.down")
