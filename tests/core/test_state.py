from __future__ import annotations

import itertools
from typing import Any, cast

import pytest

from trio_mcp_session import TRANSITIONS, SessionState
from trio_mcp_session.core.state import LIVE_STATES, can_move

S = SessionState

# Written out once more, on purpose: a change of the table has to be made twice.
ALLOWED = {
    (S.INITIALIZING, S.ACTIVE),
    (S.ACTIVE, S.IDLE),
    (S.IDLE, S.ACTIVE),
    (S.INITIALIZING, S.TERMINATING),
    (S.ACTIVE, S.TERMINATING),
    (S.IDLE, S.TERMINATING),
    (S.TERMINATING, S.TERMINATED),
}


@pytest.mark.parametrize("old, new", list(itertools.product(SessionState, repeat=2)))
def test_the_table_allows_these_moves_and_no_others(old: SessionState, new: SessionState) -> None:
    assert can_move(old, new) is ((old, new) in ALLOWED)
    assert (new in TRANSITIONS[old]) is can_move(old, new)


def test_the_table_knows_every_state() -> None:
    assert set(TRANSITIONS) == set(SessionState)


def test_nobody_can_change_the_table() -> None:
    with pytest.raises(TypeError):
        cast("dict[Any, Any]", TRANSITIONS)[S.TERMINATED] = {S.ACTIVE}
    assert all(isinstance(states, frozenset) for states in TRANSITIONS.values())


def test_every_way_leads_to_the_end_and_stays_there() -> None:
    def reachable(state: SessionState) -> set[SessionState]:
        seen: set[SessionState] = set()
        ahead = [state]
        while ahead:
            new = TRANSITIONS[ahead.pop()] - seen
            seen |= new
            ahead += new
        return seen

    assert reachable(S.INITIALIZING) == set(SessionState) - {S.INITIALIZING}
    for state in set(SessionState) - {S.TERMINATED}:
        assert S.TERMINATED in reachable(state)
    assert reachable(S.TERMINATED) == set()
    assert reachable(S.TERMINATING) == {S.TERMINATED}


def test_every_state_that_is_live_can_be_ended() -> None:
    assert {state for state in SessionState if can_move(state, S.TERMINATING)} == LIVE_STATES
