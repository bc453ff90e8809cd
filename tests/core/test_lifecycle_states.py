from __future__ import annotations

import itertools
from typing import Any, cast

import pytest

from trio_mcp_session import TRANSITIONS, SessionState
from trio_mcp_session.core.lifecycle_states import LIVE_STATES, TRIGGERS, can_move

S = SessionState

# Repeated on purpose: a change of the table has to be made in both places.
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
def test_transitions_allow_these_moves_and_no_others(old: SessionState, new: SessionState) -> None:
    assert can_move(old, new) is ((old, new) in ALLOWED)
    assert (new in TRANSITIONS[old]) is can_move(old, new)


def test_transitions_have_every_state() -> None:
    assert set(TRANSITIONS) == set(SessionState)


def test_each_transition_has_a_trigger() -> None:
    assert set(TRIGGERS) == ALLOWED
    assert all(text.endswith(".") for text in TRIGGERS.values())


def test_transitions_cannot_be_changed() -> None:
    for table in (TRANSITIONS, TRIGGERS):
        with pytest.raises(TypeError):
            cast("dict[Any, Any]", table)[S.TERMINATED] = {S.ACTIVE}
    assert all(isinstance(states, frozenset) for states in TRANSITIONS.values())


def test_every_state_leads_to_terminated_and_nothing_follows_it() -> None:
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


def test_exactly_the_live_states_can_move_to_terminating() -> None:
    assert {state for state in SessionState if can_move(state, S.TERMINATING)} == LIVE_STATES
