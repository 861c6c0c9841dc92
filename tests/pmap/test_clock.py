"""When something was on another machine: between the moments that are known, and as far apart as it was there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardway.pmap.clock import RemoteClock

SECONDS = st.floats(0, 1e6)


@given(st.lists(st.tuples(SECONDS, SECONDS, st.floats(0, 100)), min_size=1))
def test_it_is_never_outside_of_what_is_known(events: list[tuple[float, float, float]]) -> None:
    clock = RemoteClock()
    for there, earliest, within in events:
        found = clock.here(there, earliest, earliest + within)
        assert earliest - 1e-6 <= found <= earliest + within + 1e-6


@given(st.floats(-1e6, 1e6), st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), min_size=2))
def test_distances_stay_once_one_answer_was_fast(apart: float, delays: list[tuple[float, float]]) -> None:
    clock = RemoteClock()
    now = 1000.0
    clock.here(now - apart, now, now + 1)
    for before, after in delays:
        now += before
        assert clock.here(now - apart, now - before, now + after) == pytest.approx(now)


def test_a_clock_that_was_stopped_is_caught_up_with() -> None:
    clock = RemoteClock()
    assert clock.here(5.0, 100.0, 101.0) == 100.0
    assert clock.here(6.0, 500.0, 501.0) == 500.0, "it slept"
    assert clock.here(7.0, 300.0, 502.0) == 501.0
    assert clock.here(9.0, 300.0, 502.0) == 502.0, "ours did"
