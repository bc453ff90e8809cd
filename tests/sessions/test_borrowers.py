"""Borrowers: tasks from elsewhere that work with what a session holds."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import (
    MockClock,
    assert_checkpoints,
    assert_no_checkpoints,
    wait_all_tasks_blocked,
)

from tests.helpers import leftovers, manager_of, serving
from trio_mcp_session import (
    EndingReason,
    Router,
    Session,
    SessionState,
    TerminationReason,
    cleanup_session,
)
from trio_mcp_session.sessions.borrowers import Borrowers


@asynccontextmanager
async def opened(log: list[str] | None = None) -> AsyncIterator[Session]:
    """A session whose lifespan writes down when it is left."""

    @asynccontextmanager
    async def lifespan(_: Session) -> AsyncIterator[None]:
        yield
        if log is not None:
            log.append("lifespan left")

    async with serving(Router("test")) as manager:
        session = await manager.create_session(lifespan=lifespan)
        yield session
        session.terminate()
        await session.wait_terminated()
        assert leftovers(manager, session) == []


# The list of them.


async def test_borrowers_counts_scopes_and_lists_their_tasks() -> None:
    guests = Borrowers()
    scopes = [trio.CancelScope(), trio.CancelScope()]
    task = trio.lowlevel.current_task()
    with assert_no_checkpoints():
        for scope in scopes:
            guests.add(scope, task)
        assert len(guests) == 2
        assert guests.tasks == {task}
        guests.remove(scopes[0])
        assert guests.tasks == {task}
        guests.remove(scopes[1])
    assert len(guests) == 0
    assert guests.tasks == set()


async def test_wait_gone_returns_when_the_last_borrower_is_removed() -> None:
    guests = Borrowers()
    scopes = [trio.CancelScope(), trio.CancelScope()]
    await guests.wait_gone()  # There is no borrower.
    for scope in scopes:
        guests.add(scope, trio.lowlevel.current_task())
    gone = False

    async def wait() -> None:
        nonlocal gone
        with assert_checkpoints():
            await guests.wait_gone()
        gone = True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        for scope in scopes:
            assert not gone
            guests.remove(scope)
            await wait_all_tasks_blocked()
        assert gone


async def test_all_are_sent_away() -> None:
    guests = Borrowers()
    scopes = [trio.CancelScope(), trio.CancelScope()]
    for scope in scopes:
        guests.add(scope, trio.lowlevel.current_task())
    with assert_no_checkpoints():
        guests.cancel_all("it ends")
    assert all(scope.cancel_called for scope in scopes)


async def test_cancelled_borrowers_may_be_given_a_reason() -> None:
    guests = Borrowers()
    scope, gone, other = [trio.CancelScope() for _ in range(3)]
    told: list[tuple[str, bool, bool]] = []

    class Told:
        def session_ends(self, why: str) -> None:
            # All have been cancelled before any is told: a task that is woken must not continue.
            told.append((why, scope.cancel_called, other.cancel_called))

        def end_soon(self, reason: EndingReason) -> None:
            told.append((reason.value, scope.cancel_called, other.cancel_called))

    tell = Told()
    task = trio.lowlevel.current_task()
    guests.add(gone, task, tell)
    guests.remove(gone)
    guests.add(scope, task, tell)
    guests.add(other, task)
    with assert_no_checkpoints():
        guests.end_soon(EndingReason.DRAIN)
        guests.cancel_all("it ends")
    assert told == [("drain", False, False), ("it ends", True, True)]
    assert not gone.cancel_called


# Visits.


async def test_a_borrowed_session_is_busy_and_not_idle(autojump_clock: MockClock) -> None:
    async with opened() as session:
        await trio.sleep(100)
        assert session.state is SessionState.IDLE
        with assert_no_checkpoints():
            visit = session._borrow()
            scope = visit.__enter__()
        assert session.metrics.last_active > session.metrics.created
        assert session._busy == 1
        assert not scope.cancel_called
        await trio.sleep(10_000)
        with assert_no_checkpoints():
            visit.__exit__(None, None, None)
        assert session._busy == 0
        assert session.idle_time == 0


async def test_a_session_is_borrowed_by_several_tasks_at_once() -> None:
    async with opened() as session, trio.open_nursery() as nursery:
        may_go = trio.Event()

        async def visit() -> None:
            with session._borrow(), session._borrow():
                await may_go.wait()

        for _ in range(3):
            nursery.start_soon(visit)
        await wait_all_tasks_blocked()
        assert session._busy == 6
        may_go.set()
        await wait_all_tasks_blocked()
        assert session._busy == 0


async def test_the_end_of_a_session_waits_for_its_borrowers(autojump_clock: MockClock) -> None:
    """They are cancelled first; its own tasks, what it holds and its lifespan come after them."""
    log: list[str] = []

    @asynccontextmanager
    async def held() -> AsyncIterator[None]:
        yield
        log.append("held context left")

    async def visit(session: Session) -> None:
        with session._borrow() as scope:
            try:
                await trio.Event().wait()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(3)
                log.append("guest left")
        assert scope.cancelled_caught

    async with opened(log) as session, trio.open_nursery() as nursery:
        await session.enter_async_context(held())
        nursery.start_soon(visit, session)
        await wait_all_tasks_blocked()
        session.terminate()
        await session.wait_terminated()
        assert trio.current_time() == 3
    assert log == ["guest left", "held context left", "lifespan left"]


async def test_a_drain_gives_borrowers_the_grace(autojump_clock: MockClock) -> None:
    async with opened() as session, trio.open_nursery() as nursery:

        async def visit(seconds: float) -> None:
            with session._borrow():
                await trio.sleep(seconds)

        nursery.start_soon(visit, 5)
        await wait_all_tasks_blocked()
        report = await session.drain(grace=10)
        assert report.completed == (session.session_id,)
        assert trio.current_time() == 5


async def test_borrowers_that_overrun_are_named(autojump_clock: MockClock) -> None:
    async with opened() as session, trio.open_nursery() as nursery:

        async def visit() -> None:
            with session._borrow(), trio.CancelScope(shield=True):
                await trio.sleep(100)

        nursery.start_soon(visit, name="the guest")
        await wait_all_tasks_blocked()
        session.terminate()
        await wait_all_tasks_blocked()
        assert session._running_tasks() == ("the guest",)
        assert await session.wait_terminated() is TerminationReason.REQUESTED
        assert trio.current_time() == 100


async def test_a_borrower_cannot_wait_for_the_end_of_its_session() -> None:
    async def end_all(session: Session) -> None:
        await manager_of(session).drain()

    async def in_a_child(session: Session) -> None:
        async with trio.open_nursery() as nursery:  # noqa: ASYNC112  # the point is a child
            nursery.start_soon(cleanup_session, session)

    async with opened() as session:
        with session._borrow():
            for wait in (
                session.wait_terminated,
                session.drain,
                partial(cleanup_session, session),
                partial(end_all, session),
            ):
                with pytest.raises(RuntimeError, match="a task that uses a session cannot wait"):
                    await wait()
            with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="uses a session")):
                await in_a_child(session)
        assert session.state is SessionState.ACTIVE
        await in_a_child(session)


async def test_a_borrower_cancelled_from_outside_leaves() -> None:
    async with opened() as session:
        with trio.CancelScope() as outer:
            with session._borrow() as scope:
                outer.cancel()
                await trio.sleep_forever()
        assert outer.cancelled_caught
        assert not scope.cancelled_caught
        assert session._busy == 0
        assert session.state is SessionState.ACTIVE
