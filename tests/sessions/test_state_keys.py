"""Typed state: keys are themselves, not their names."""

from __future__ import annotations

import pytest
from trio.testing import assert_no_checkpoints

from tests.helpers import serving
from trio_mcp_session import Router, StateKey


async def test_values_live_under_their_own_key() -> None:
    first, second = StateKey[int]("same"), StateKey[str]("same")
    async with serving(Router("test")) as manager:
        session, other = await manager.create_session(), await manager.create_session()
        with assert_no_checkpoints():
            session.set_state(first, 1)
            session.set_state(second, "two")
            assert session.get_state(first) == 1
            assert session.get_state(second) == "two"
            session.set_state(first, 3)
            assert session.get_state(first) == 3
            assert other.get_state(first, 0) == 0


async def test_a_missing_state_value_gives_the_default_or_raises() -> None:
    key = StateKey[int]("count")
    async with serving(Router("test")) as manager:
        session = await manager.create_session()
        assert session.get_state(key, 7) == 7
        with pytest.raises(KeyError) as caught:
            session.get_state(key)
        assert caught.value.args == (key,)
        session.set_state(StateKey[int]("count"), 1)
        with pytest.raises(KeyError):
            session.get_state(key)


async def test_values_outlive_the_session() -> None:
    """Callbacks at the end still find them."""
    key = StateKey[int]("count")
    async with serving(Router("test")) as manager:
        session = await manager.create_session()
        session.set_state(key, 1)
        session.terminate()
        await session.wait_terminated()
        assert session.get_state(key) == 1


def test_the_repr_of_a_state_key_names_it() -> None:
    assert repr(StateKey[int]("count")) == "StateKey('count')"
