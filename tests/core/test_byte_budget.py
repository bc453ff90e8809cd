"""Budgets of bytes: a claim counts at all levels or at none, and an end releases everything."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from trio_mcp_session.core.byte_budget import ByteBudget


def chain(session: int = 10, party: int = 20, manager: int = 30) -> tuple[ByteBudget, ...]:
    outer = ByteBudget("manager", manager)
    middle = ByteBudget("address", party, outer)
    return ByteBudget("session", session, middle), middle, outer


def held(levels: tuple[ByteBudget, ...]) -> list[int]:
    return [level.held for level in levels]


def test_a_claim_counts_at_all_levels_up_to_the_limit() -> None:
    levels = chain()
    assert levels[0].claim(10)
    assert held(levels) == [10, 10, 10]
    assert not levels[0].claim(1)
    assert held(levels) == [10, 10, 10]
    levels[0].release(4)
    assert levels[0].claim(4)
    assert held(levels) == [10, 10, 10]
    assert repr(levels[0]) == "<ByteBudget of a session: 10 of 10 bytes>"


@pytest.mark.parametrize("full", [0, 1, 2])
def test_a_level_without_room_refuses_for_all_and_is_named(full: int) -> None:
    levels = chain(*(5 if number == full else 9 for number in range(3)))
    refused: list[ByteBudget] = []
    levels[2].on_refused = refused.append
    assert not levels[0].claim(6)
    assert held(levels) == [0, 0, 0]
    assert refused == [levels[full]]
    assert levels[0].claim(5)


def test_a_refusal_that_is_not_watched_changes_nothing() -> None:
    levels = chain(party=3)
    assert not levels[0].claim(4)
    assert held(levels) == [0, 0, 0]


def test_what_cannot_be_refused_is_added_beyond_the_limit() -> None:
    levels = chain()
    levels[0].add(100)
    assert held(levels) == [100, 100, 100]
    assert not levels[0].claim(1)
    levels[0].release(95)
    assert levels[0].claim(5)


def test_whether_something_can_ever_be_held_does_not_depend_on_what_is_held() -> None:
    levels = chain(party=6)
    assert levels[0].claim(6)
    assert levels[0].can_hold(6)
    assert not levels[0].can_hold(7)


def test_the_end_of_a_session_releases_what_it_counts_and_only_that() -> None:
    levels = chain()
    other = ByteBudget("session", 10, levels[1])
    assert levels[0].claim(8)
    assert other.claim(5)
    levels[0].close()
    assert held((*levels, other)) == [0, 5, 5, 5]
    # What is released late was released already, and nothing new is held.
    levels[0].release(8)
    assert not levels[0].claim(1)
    levels[0].close()
    assert held(levels[1:]) == [5, 5]


def test_the_end_of_the_outermost_level_has_no_other_effect() -> None:
    budget = ByteBudget("manager", 10)
    assert budget.claim(3)
    budget.close()
    assert budget.held == 0


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 12)), max_size=30))
def test_each_level_counts_what_the_levels_below_count(claims: list[tuple[int, int]]) -> None:
    first, middle, outer = chain()
    sessions = [first, ByteBudget("session", 10, middle)]
    taken = [0, 0]
    for number, count in claims:
        if sessions[number].claim(count):
            taken[number] += count
    assert [one.held for one in sessions] == taken
    assert middle.held == outer.held == sum(taken)
    assert all(one.held <= one.limit for one in (*sessions, middle, outer))
