"""The inside of a session: moves, activity, and what is not allowed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import (
    connect,
    events_so_far,
    leftovers,
    modern,
    modern_result,
    notification,
    request,
    serving,
    told,
)
from trio_mcp_session import (
    CleanupConfig,
    Connected,
    Disconnected,
    InvalidTransition,
    RequestContext,
    Router,
    Session,
    SessionHooks,
    SessionLimits,
    SessionManager,
    SessionState,
    StateChanged,
    TerminationReason,
    open_session_manager,
)
from trio_mcp_session.server.mcp_server import server_of


@asynccontextmanager
async def opened(**settings: Any) -> AsyncIterator[tuple[SessionManager, Session]]:
    async with serving(Router("test"), **settings) as manager:
        session = await manager.create_session()
        await wait_all_tasks_blocked()
        yield manager, session
        session.terminate()
        await session.wait_terminated()
        assert leftovers(manager, session) == []


async def test_illegal_move_changes_nothing() -> None:
    async with opened() as (manager, session):
        with session.subscribe() as events, manager.subscribe() as all_events:
            with pytest.raises(InvalidTransition) as caught:
                session._move(SessionState.TERMINATED)
            assert (caught.value.old, caught.value.new) == (
                SessionState.ACTIVE,
                SessionState.TERMINATED,
            )
            assert session.state is SessionState.ACTIVE
            assert events_so_far(events) == events_so_far(all_events) == []


async def test_every_state_change_is_sent_to_all_subscribers() -> None:
    moves: list[tuple[SessionState, SessionState]] = []

    async def on_changed(session: Session, old: SessionState, new: SessionState) -> None:
        moves.append((old, new))

    hooks = SessionHooks(on_state_changed=on_changed)
    async with serving(Router("test"), hooks=(hooks, hooks)) as manager:
        with manager.subscribe() as events:
            session = await manager.create_session()
            await wait_all_tasks_blocked()
            with session.subscribe() as own_events:
                session.terminate(TerminationReason.EVICTED)
                await session.wait_terminated()
                own = events_so_far(own_events)
            everything = events_so_far(events)
    s = SessionState
    expected = [
        (s.INITIALIZING, s.ACTIVE),
        (s.ACTIVE, s.TERMINATING),
        (s.TERMINATING, s.TERMINATED),
    ]
    assert moves == [move for move in expected for _ in range(2)]
    assert [(e.old, e.new) for e in everything if isinstance(e, StateChanged)] == expected
    assert [(e.old, e.new) for e in own if isinstance(e, StateChanged)] == expected[1:]
    assert isinstance(everything[0], Connected)
    assert isinstance(everything[-1], Disconnected)
    assert [e.reason for e in everything if isinstance(e, StateChanged)] == [
        None,
        TerminationReason.EVICTED,
        TerminationReason.EVICTED,
    ]


async def test_work_wakes_an_idle_session(autojump_clock: MockClock) -> None:
    cleanup = CleanupConfig(idle_after=5, cleanup_interval=0)
    async with opened(cleanup=cleanup) as (_, session):
        for begin in (session.touch, lambda: session.start_soon(trio.sleep, 1)):
            await trio.sleep(10)
            assert session.state is SessionState.IDLE
            begin()
            assert session.state is SessionState.ACTIVE  # type: ignore[comparison-overlap]  # it moved


async def test_running_tasks_names_what_delays_the_end_of_a_session(
    autojump_clock: MockClock,
) -> None:
    @asynccontextmanager
    async def stubborn() -> AsyncIterator[None]:
        yield
        with trio.CancelScope(shield=True):
            await trio.sleep(50)

    async def stubborn_task() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(50)

    async with opened() as (manager, _):
        session = await manager.create_session(lifespan=lambda session: stubborn())
        await session.enter_async_context(stubborn())
        session.start_soon(stubborn_task, name="one")
        session.start_soon(stubborn_task, name="two")
        await wait_all_tasks_blocked()
        session.terminate()
        await trio.sleep(25)
        assert session._running_tasks() == ("held context", "one", "two")
        await trio.sleep(50)
        assert session._running_tasks() == ("held context",)
        await trio.sleep(50)
        assert session._running_tasks() == ("session",)
        await session.wait_terminated()


async def test_a_request_cannot_wait_for_the_end_of_its_connection() -> None:
    """Also where it sees no session: it runs beside the one that waits for it."""
    router = Router("test")
    outcomes: list[BaseException] = []

    @router.request("wait")
    async def wait(ctx: RequestContext) -> None:
        (session,) = manager.sessions()
        with pytest.raises(RuntimeError, match="the end of its connection") as caught:
            await session.wait_terminated()
        outcomes.append(caught.value)

    async with serving(router) as manager:
        peer = await connect(manager)
        await peer.send(modern(1, "wait"))
        assert told(await peer.receive()) == modern_result(1)
        assert len(outcomes) == 1
        assert peer.session.state is SessionState.ACTIVE
        await peer.channel.aclose()


# Everything that waits is answered.


async def test_waiting_requests_are_answered_with_the_reason() -> None:
    router = Router("test")

    @router.request("hang")
    async def hang(ctx: RequestContext) -> None:
        await trio.sleep_forever()

    async with serving(router, limits=SessionLimits(max_in_flight=2)) as manager:
        client = await connect(manager)
        await client.establish()
        await client.send(*[request(number, "hang") for number in range(4)])
        await wait_all_tasks_blocked()
        assert (client.session.metrics.in_flight, client.session.metrics.queued) == (2, 2)
        client.session.terminate(TerminationReason.LIFETIME)
        answers = await client.waiting()
        assert sorted(answer["id"] for answer in answers) == [0, 1, 2, 3]
        for answer in answers:
            assert answer["error"]["message"] == "Session has ended: lifetime"
        await client.session.wait_terminated()
        assert leftovers(manager, client.session) == []


async def test_a_manager_without_an_application_serves_no_requests() -> None:
    async with open_session_manager() as manager:
        with pytest.raises(RuntimeError, match="without an application"):
            server_of(manager).served.get()


async def test_notifications_of_an_ending_session_go_nowhere(autojump_clock: MockClock) -> None:
    heard: list[str] = []
    router = Router("test")

    @router.notification("notifications/heard")
    async def hear(ctx: RequestContext) -> None:
        heard.append(ctx.method)

    async def stubborn() -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(5)

    async with serving(router) as manager:
        client = await connect(manager)
        await client.establish()
        await client.send(notification("notifications/heard"))
        await wait_all_tasks_blocked()
        client.session.start_soon(stubborn)
        client.session.terminate()
        await client.send(notification("notifications/heard"))
        await client.session.wait_terminated()
        assert heard == ["notifications/heard"]
