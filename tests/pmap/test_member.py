"""When an instance is tried again, and what its time counts for."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue

import pytest

from hardway.pmap.events import Event
from hardway.pmap.health import Cause, Health
from hardway.pmap.link import Link
from hardway.pmap.member import BACKOFF_FIRST, BACKOFF_MOST, FRUITLESS_MOST, SOON, Member, Presence, Tries
from hardway.pmap.spool import Spool
from tests.openssh.conftest import instance


def new_member(folder: Path) -> Member:
    events: SimpleQueue[Event] = SimpleQueue()
    one = instance(0, 22)
    return Member(one, Link(one, events), Health(), Spool(folder, one.id))


def test_waits_between_tries_are_doubled_up_to_a_limit_and_never_more() -> None:
    tries = Tries()
    waits = []
    for _ in range(5000):  # a night without the network
        tries.failure(0.0)
        waits.append(tries.next)
    assert 0.7 * BACKOFF_FIRST <= waits[0] <= BACKOFF_FIRST
    assert all(0.7 * BACKOFF_MOST <= wait <= BACKOFF_MOST for wait in waits[10:])


def test_one_try_at_a_time() -> None:
    tries = Tries()
    assert not tries.is_due(1e9), "none was planned"
    tries.failure(100.0)
    assert not tries.is_due(100.0)
    assert tries.is_due(100.0 + BACKOFF_FIRST)
    tries.begin()
    assert not tries.is_due(1e9)


def test_connections_that_end_soon_and_bring_nothing_are_in_vain(tmp_path: Path) -> None:
    one = new_member(tmp_path)
    for time in range(FRUITLESS_MOST + 1):
        assert not one.tries.in_vain
        one.is_back(float(time))
        one.is_lost(time + SOON / 2)
        one.presence = Presence.AWAY
    assert one.tries.in_vain
    one.is_back(100.0)
    one.is_lost(100.0 + SOON)
    assert not one.tries.in_vain


@pytest.mark.parametrize("presence", Presence)
def test_one_that_may_come_back_is_usable_unless_it_is_given_up_or_set_aside(
    tmp_path: Path, presence: Presence
) -> None:
    one = new_member(tmp_path)
    one.presence = presence
    assert one.is_usable == (presence not in (Presence.GIVEN_UP, Presence.GONE))
    one.health.leaving = True  # it may be spared
    assert one.is_usable == (presence not in (Presence.GIVEN_UP, Presence.GONE))
    one.health.set_aside = Cause.DIES
    assert not one.is_usable


def test_the_shortest_round_trip_counts(tmp_path: Path) -> None:
    one = new_member(tmp_path)
    assert [one.measured(seconds, 4) for seconds in (0.3, 0.1, 0.2)] == [0.3, 0.1, 0.1]
