"""The table: which sessions are in it, which are found, and in which order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given, strategies as st
from trio.testing import MockClock, assert_no_checkpoints

from trio_mcp_session import (
    CleanupConfig,
    Principal,
    Session,
    SessionConfig,
    SessionKind,
    SessionLimits,
    SessionManager,
    SessionState,
    SessionStore,
    open_session_manager,
    validate_sessions,
)
from trio_mcp_session.core.ids import MAX_ID_LENGTH

ALICE, BOB = Principal("alice"), Principal("bob")
CONFIG = SessionConfig(
    limits=SessionLimits(max_sessions=17),
    cleanup=CleanupConfig(cleanup_interval=3, cleanup_budget=10, drain_grace=0),
)


@asynccontextmanager
async def some_manager() -> AsyncIterator[SessionManager]:
    with trio.fail_after(10_000):
        async with open_session_manager(config=CONFIG) as manager:
            yield manager
    assert len(manager.store) == 0
    assert manager.store.active_sessions == {}
    assert not manager.store._principals
    assert validate_sessions(manager.store) == []


def test_it_shows_its_settings() -> None:
    store = SessionStore(config=CONFIG)
    assert store.session_limit == 17
    assert store.cleanup_interval == 3
    assert repr(store) == "<SessionStore: 0 sessions>"
    assert list(store) == []


async def test_it_holds_sessions_until_nothing_is_left_of_them(autojump_clock: MockClock) -> None:
    @asynccontextmanager
    async def slow(_: Session) -> AsyncIterator[None]:
        yield
        await trio.sleep(5)

    async with some_manager() as manager:
        store = manager.store
        session = await manager.create_session(lifespan=slow)
        with assert_no_checkpoints():
            assert len(store) == 1
            assert list(store) == [session]
            assert store.active_sessions == {session.session_id: session}
            assert store.get(session.session_id) is session
            assert repr(store) == "<SessionStore: 1 sessions>"
        session.terminate()
        # Unknown at once, listed and counted until its end.
        assert store.get(session.session_id) is None
        await trio.sleep(4)
        assert list(store.active_sessions.values()) == [session]
        assert store.count(SessionKind.HANDLE) == 1
        await session.wait_terminated()
        assert session.state is SessionState.TERMINATED
        assert store.count(SessionKind.HANDLE) == 0
        # Long gone sessions may still be touched by code that holds them.
        session.touch()
        assert len(store) == 0


async def test_active_sessions_is_a_snapshot() -> None:
    async with some_manager() as manager:
        before = manager.store.active_sessions
        iterator = iter(manager.store)
        session = await manager.create_session()
        assert before == {}
        assert list(iterator) == []
        with pytest.raises(TypeError):
            manager.store.active_sessions[session.session_id] = session  # type: ignore[index]  # read-only


@pytest.mark.parametrize("kind", SessionKind)
async def test_an_id_of_another_kind_is_unknown(kind: SessionKind) -> None:
    async with some_manager() as manager:
        session = await manager.create_session(kind=kind)
        assert manager.store.get(session.session_id) is session
        for asked in SessionKind:
            found = manager.store.get(session.session_id, asked)
            assert found is (session if asked is kind else None)


@given(st.text())
def test_any_text_may_be_looked_up(text: str) -> None:
    assert SessionStore(config=CONFIG).get(text) is None


@pytest.mark.parametrize("text", ["", "a" * (MAX_ID_LENGTH + 1), "a b", "ä", "a\n"])
async def test_what_cannot_be_an_id_is_not_even_looked_for(text: str) -> None:
    """Not even if other code had put it there."""
    async with some_manager() as manager:
        session = await manager.create_session()
        table = manager.store._tables[SessionKind.HANDLE]
        table[text] = session  # type: ignore[index]  # no id at all
        assert manager.store.get(text) is None
        del table[text]  # type: ignore[arg-type]  # no id at all


async def test_ids_are_compared_whole() -> None:
    async with some_manager() as manager:
        session = await manager.create_session()
        sid = session.session_id
        for wrong in (sid[:-1], sid + "A", sid.swapcase(), sid[1:]):
            assert manager.store.get(wrong) is None


async def test_principals_are_indexed_while_they_hold_something() -> None:
    async with some_manager() as manager:
        store = manager.store
        first = await manager.create_session(principal=ALICE)
        second = await manager.create_session(principal=ALICE, kind=SessionKind.TASK)
        await manager.create_session(principal=BOB)
        await manager.create_session()
        # Equal by value: a principal is made anew for every request.
        assert set(store.of_principal(Principal("alice"))) == {first, second}
        assert store.of_principal(Principal("alice", issuer="elsewhere")) == []
        assert store.count_of(ALICE, SessionKind.HANDLE) == 1
        assert store.count_of(ALICE, SessionKind.TASK) == 1
        assert store.count_of(BOB, SessionKind.TASK) == 0
        first.terminate()
        assert set(store.of_principal(ALICE)) == {first, second}
        await first.wait_terminated()
        assert store.of_principal(ALICE) == [second]
        second.terminate()
        await second.wait_terminated()
        assert store.of_principal(ALICE) == []
        assert set(store._principals) == {BOB}
        assert store._principal_counts == {(BOB, SessionKind.HANDLE): 1}
        store._principal_counts[BOB, SessionKind.HANDLE] += 1
        (error,) = validate_sessions(store)
        assert "sessions of principals are counted as" in str(error)
        store._principal_counts[BOB, SessionKind.HANDLE] -= 1


@given(touches=st.lists(st.integers(0, 4)))
def test_the_longest_quiet_come_first(touches: list[int]) -> None:
    async def main() -> None:
        async with some_manager() as manager:
            sessions = [await manager.create_session() for _ in range(5)]
            other = await manager.create_session(kind=SessionKind.TASK)
            model = list(sessions)
            for number in touches:
                touched = sessions[number]
                with assert_no_checkpoints():
                    touched.touch()
                model.remove(touched)
                model.append(touched)
            assert list(manager.store.of_kind(SessionKind.HANDLE)) == model
            assert list(manager.store.of_kind(SessionKind.TASK)) == [other]
            assert list(manager.store.of_kind(SessionKind.PARKED)) == []

    trio.run(main)


async def test_finished_work_counts_as_activity() -> None:
    async with some_manager() as manager:
        first, second = [await manager.create_session() for _ in range(2)]
        with first.lease():
            pass
        assert list(manager.store.of_kind(SessionKind.HANDLE)) == [second, first]
