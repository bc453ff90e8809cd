"""`open_session_manager`: a block that is left when nothing of its sessions is left."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from tests.helpers import at_every_step, cancelled_at_step, connect, leftovers, request
from trio_mcp_session import (
    CleanupConfig,
    Disconnected,
    RequestContext,
    Router,
    Session,
    SessionConfig,
    SessionHooks,
    SessionManager,
    SessionState,
    SessionTerminated,
    ShuttingDown,
    TerminationReason,
    connect_memory,
    current_session,
    open_session_manager,
)
from trio_mcp_session.server.mcp_server import server_of


async def test_entering_and_leaving_are_checkpoints() -> None:
    opening = open_session_manager()
    with assert_checkpoints():
        manager = await opening.__aenter__()
    assert server_of(manager).application is None
    assert manager.config == SessionConfig()
    with assert_checkpoints():
        await opening.__aexit__(None, None, None)


@pytest.mark.parametrize("plural", [False, True])
async def test_the_manager_takes_one_or_several_hooks(plural: bool) -> None:
    called: list[Session] = []

    async def on_created(session: Session) -> None:
        called.append(session)

    one, other = (SessionHooks(on_session_created=on_created) for _ in range(2))
    async with open_session_manager(hooks=[one, other] if plural else one) as manager:
        await manager.create_session()
        assert len(called) == 1 + plural


async def test_left_normally_it_drains_with_grace(autojump_clock: MockClock) -> None:
    config = SessionConfig(cleanup=CleanupConfig(drain_grace=20))
    ended: list[float] = []

    async def work(seconds: float) -> None:
        try:
            await trio.sleep(seconds)
        finally:
            ended.append(trio.current_time())

    async with open_session_manager(config=config) as manager:
        sessions = [await manager.create_session() for _ in range(3)]
        sessions[0].start_soon(work, 15)
        sessions[1].start_soon(work, 50)
        sessions[2].start_soon(work, 50, service=True)
        await wait_all_tasks_blocked()
    assert ended == [0, 15, 20]
    assert trio.current_time() == 20
    assert {session.termination_reason for session in sessions} == {TerminationReason.SHUTDOWN}
    assert leftovers(manager, *sessions) == []


async def test_requests_in_flight_are_answered_when_it_is_left(autojump_clock: MockClock) -> None:
    router = Router("test")

    @router.request("work")
    async def work(ctx: RequestContext) -> dict[str, str]:
        await trio.sleep(5)
        return {"done": "yes"}

    config = SessionConfig(cleanup=CleanupConfig(drain_grace=10))
    async with open_session_manager(router, config=config) as manager:
        client = await connect(manager)
        await client.establish()
        await client.send(request(1, "work"))
        await wait_all_tasks_blocked()
    assert trio.current_time() == 5
    assert await client.waiting() == [{"jsonrpc": "2.0", "id": 1, "result": {"done": "yes"}}]


async def test_error_of_the_body_comes_out_bare_and_without_grace(
    autojump_clock: MockClock,
) -> None:
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        async with open_session_manager() as manager:
            session = await manager.create_session()
            session.start_soon(trio.sleep_forever)
            raise error
    assert caught.value is error
    assert trio.current_time() == 0
    assert session.termination_reason is TerminationReason.SHUTDOWN
    assert leftovers(manager, session) == []


@pytest.mark.parametrize("when", ["before", "inside", "meanwhile"])
async def test_error_of_the_body_in_a_cancelled_scope(when: str) -> None:
    """It is not lost in the cancellation."""
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        with trio.CancelScope() as scope:
            if when == "before":
                scope.cancel()
            async with open_session_manager() as manager:
                if when != "before":
                    await manager.create_session()
                    scope.cancel()
                try:
                    if when == "meanwhile":
                        await trio.sleep_forever()
                finally:
                    raise error
    assert caught.value is error
    assert manager.sessions() == []


async def test_group_of_the_body_comes_out_as_it_is() -> None:
    group = ExceptionGroup("mine", [ValueError()])
    with pytest.RaisesGroup(ValueError) as caught:
        async with open_session_manager():
            raise group
    assert caught.value is group


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), GeneratorExit()])
async def test_interrupt_of_the_body_comes_out_bare(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        async with open_session_manager() as manager:
            await manager.create_session()
            raise error
    assert caught.value is error
    assert manager.sessions() == []


async def test_in_a_cancelled_scope() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        async with open_session_manager() as manager:
            await manager.create_session()
    assert scope.cancelled_caught
    assert manager.statistics().opened == 0
    assert manager.statistics().draining


async def test_a_deadline_around_the_manager_ends_sessions_in_order_and_within_budgets(
    autojump_clock: MockClock,
) -> None:
    """Its end is the same one, in the same order, and bounded by the same budgets."""
    trace: list[tuple[str, float]] = []

    @asynccontextmanager
    async def slow(what: str, seconds: float) -> AsyncIterator[None]:
        yield
        await trio.sleep(seconds)
        trace.append((what, trio.current_time()))

    config = SessionConfig(cleanup=CleanupConfig(cleanup_budget=10))
    with trio.move_on_after(5) as scope:
        async with open_session_manager(config=config) as manager:
            session = await manager.create_session(lifespan=lambda session: slow("lifespan", 2))
            await session.enter_async_context(slow("held", 3))
            session.start_soon(trio.sleep_forever)
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trace == [("held", 8), ("lifespan", 10)]
    assert session.termination_reason is TerminationReason.CANCELLED
    assert session.error is None
    assert leftovers(manager, session) == []


async def test_cancelled_during_the_grace(autojump_clock: MockClock) -> None:
    with trio.move_on_after(3) as scope:
        async with open_session_manager() as manager:
            session = await manager.create_session()
            session.start_soon(trio.sleep_forever)
            await wait_all_tasks_blocked()
    assert scope.cancelled_caught
    assert trio.current_time() == 3
    assert session.termination_reason is TerminationReason.CANCELLED


async def test_a_manager_cancelled_at_any_step_leaves_no_session(autojump_clock: MockClock) -> None:
    entered: list[Session] = []
    left: list[Session] = []
    told: list[TerminationReason] = []

    @asynccontextmanager
    async def slow(session: Session) -> AsyncIterator[None]:
        await trio.sleep(1)
        entered.append(session)
        yield
        await trio.sleep(1)
        left.append(session)

    async def on_terminated(session: Session, reason: TerminationReason) -> None:
        await trio.sleep(1)
        told.append(reason)

    hooks = SessionHooks(on_session_terminated=on_terminated)
    router = Router("test", lifespan=slow)

    async def attempt(step: int) -> bool:
        entered.clear()
        left.clear()
        told.clear()
        managers: list[SessionManager] = []
        with cancelled_at_step(step) as scope:
            async with open_session_manager(router, hooks=hooks) as manager:
                managers.append(manager)
                session = await manager.create_session(lifespan=slow)
                # What can't be cancelled may be told first that the session is.
                with suppress(SessionTerminated, trio.EndOfChannel):
                    await session.enter_async_context(slow(session))
                    session.start_soon(trio.sleep, 1)
                    client = await connect_memory(manager)
                    await client.send(b'{"jsonrpc":"2.0","id":1,"method":"ping"}')
                    await client.receive()
        for one in managers:
            assert leftovers(one, *entered) == []
            assert one.statistics().opened == sum(one.statistics().ended.values())
        assert left == entered[::-1] or sorted(map(id, left)) == sorted(map(id, entered))
        return not scope.cancel_called

    assert await at_every_step(attempt) > 20
    assert told == [TerminationReason.SHUTDOWN]  # The connection was never established.


# User code that refuses to end.


async def test_leaving_the_manager_waits_for_stubborn_tasks_and_names_them(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    budgets = CleanupConfig(drain_grace=5, flush_budget=1, cleanup_budget=10, hook_budget=2)

    async def stubborn() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(100)

    async with open_session_manager(config=SessionConfig(cleanup=budgets)) as manager:
        session = await manager.create_session()
        other = await manager.create_session()
        session.start_soon(stubborn, name="the stubborn one")
        await wait_all_tasks_blocked()
        subscribing = manager.subscribe()
        events = subscribing.__enter__()
    assert trio.current_time() == 100
    # Nothing is closed before: its end is told like any other.
    told = [event async for event in events]
    assert isinstance(told[-1], Disconnected)
    assert told[-1].session_id == session.session_id
    subscribing.__exit__(None, None, None)
    assert session.state is SessionState.TERMINATED
    assert other.state is SessionState.TERMINATED
    overran, record = caplog.records
    assert "the drain did not end 1 sessions in time" in overran.message
    assert "the stubborn one" in str(overran.stack_info)
    assert record.levelno == logging.WARNING
    assert record.name == "trio_mcp_session"
    assert "still waiting for <Session" in record.message
    assert "the stubborn one" in record.message
    assert session.session_id not in record.message


async def test_body_that_refuses_to_end_keeps_no_session_alive(autojump_clock: MockClock) -> None:
    """Sessions end at the cancellation, not when the body gives in."""
    with trio.CancelScope() as scope:
        async with open_session_manager() as manager:
            session = await manager.create_session()
            scope.cancel()
            with trio.CancelScope(shield=True):
                assert await session.wait_terminated() is TerminationReason.CANCELLED
                assert trio.current_time() == 0
                with pytest.raises(ShuttingDown):
                    await manager.create_session()
                await trio.sleep(10)
    assert trio.current_time() == 10


# Composition


async def test_a_closed_manager_creates_no_sessions() -> None:
    async with open_session_manager() as manager:
        pass
    with pytest.raises(ShuttingDown):
        await manager.create_session()


async def test_the_end_of_the_manager_ends_event_subscriptions() -> None:
    with trio.fail_after(5):
        async with open_session_manager() as manager:
            subscribing = manager.subscribe()
            events = subscribing.__enter__()
            await manager.create_session()
        told = [event async for event in events]
        assert isinstance(told[-1], Disconnected)
        subscribing.__exit__(None, None, None)


async def test_two_managers_share_no_sessions_or_statistics(autojump_clock: MockClock) -> None:
    async def use(seconds: float) -> None:
        async with open_session_manager() as manager:
            managers.append(manager)
            session = await manager.create_session()
            await trio.sleep(seconds)
            assert manager.sessions() == [session]
            assert manager.statistics().opened == 1

    managers: list[SessionManager] = []
    async with trio.open_nursery() as nursery:
        for seconds in (3, 1, 2):
            nursery.start_soon(use, seconds)
        await wait_all_tasks_blocked()
        (known, *_), (other, *_) = (manager.sessions() for manager in managers[:2])
        assert managers[0].get_session(known.session_id) is known
        assert managers[0].get_session(other.session_id) is None


async def test_a_manager_may_be_nested_in_another_manager(autojump_clock: MockClock) -> None:
    async with open_session_manager() as outer, open_session_manager() as inner:
        sessions = [await manager.create_session() for manager in (outer, inner)]
        for session in sessions:
            session.start_soon(trio.sleep, 3)
        await wait_all_tasks_blocked()
    assert trio.current_time() == 3
    assert {session.termination_reason for session in sessions} == {TerminationReason.SHUTDOWN}


async def test_one_inside_a_session_of_another(autojump_clock: MockClock) -> None:
    """The session's end cancels the manager, which ends its own sessions."""
    inner_sessions: list[Session] = []

    async def nest() -> None:
        async with open_session_manager() as inner:
            inner_sessions.append(await inner.create_session())
            await trio.sleep_forever()

    async with open_session_manager() as outer:
        session = await outer.create_session()
        session.start_soon(nest)
        await wait_all_tasks_blocked()
        session.terminate()
        await session.wait_terminated()
        (inner_session,) = inner_sessions
        assert inner_session.state is SessionState.TERMINATED
        assert inner_session.termination_reason is TerminationReason.CANCELLED
        assert session.error is None


async def test_the_block_of_a_manager_has_no_current_session() -> None:
    async with open_session_manager():
        with pytest.raises(LookupError):
            current_session()
