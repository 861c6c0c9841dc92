"""A host's health: what is charged to it, what clears it, and what it keeps while it is away."""

from __future__ import annotations

import pytest

from hardway.pmap.health import SET_ASIDE, Cause, Health


def test_a_host_is_trusted_until_something_speaks_against_it() -> None:
    health = Health()
    assert health.trusted and health.ready
    assert not (health.fails_all or health.is_faulty or health.is_deadly)


@pytest.mark.parametrize("what", ["set_aside", "leaving"])
def test_a_host_set_aside_or_about_to_end_gets_no_task(what: str) -> None:
    health = Health()
    setattr(health, what, Cause.DIES)
    assert not health.trusted and not health.ready


def test_a_host_that_rests_is_trusted_all_the_same() -> None:
    health = Health()
    health.resting = True
    assert health.trusted and not health.ready


def test_a_task_that_fails_there_again_and_again_speaks_once_against_it() -> None:
    health = Health()
    for _ in range(SET_ASIDE + 1):
        health.failed(7)
    assert health.failures == 1 and not health.fails_all


def test_failures_are_its_own_once_enough_of_them_are_disproved_elsewhere() -> None:
    health = Health()
    for task in range(SET_ASIDE):
        health.failed(task)
    assert health.fails_all
    assert not health.disproved(99), "a task that did not fail there"
    assert [health.disproved(task) for task in range(SET_ASIDE)] == [False] * (SET_ASIDE - 1) + [True]


def test_tasks_that_it_could_not_run_are_counted() -> None:
    health = Health()
    for _ in range(SET_ASIDE):
        assert not health.is_faulty
        health.could_not_run()
    assert health.is_faulty


def test_deaths_with_one_task_in_all_of_them_are_that_tasks() -> None:
    health = Health()
    for other in range(SET_ASIDE):
        health.died(frozenset({7, other}))
    assert not health.is_deadly
    health.died(frozenset({1}))
    assert health.is_deadly
    health.cleared_of(7)
    assert not health.is_deadly


def test_a_success_clears_it() -> None:
    health = Health()
    for task in range(SET_ASIDE):
        health.failed(task)
        health.disproved(task)
        health.could_not_run()
        health.died(frozenset({task}))
    health.succeeded()
    assert not (health.fails_all or health.is_faulty or health.is_deadly)
    health.failed(0)
    assert not health.disproved(0)


def test_one_that_comes_back_gets_tasks_again_and_its_deaths_still_count() -> None:
    health = Health()
    for task in range(SET_ASIDE):
        health.failed(task)
        health.could_not_run()
        health.died(frozenset({task}))
    health.set_aside, health.leaving, health.announced, health.resting = Cause.DIES, True, True, True
    health.left()
    assert health.ready and health.announced
    assert health.is_deadly and not health.fails_all and not health.is_faulty
