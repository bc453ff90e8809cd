"""What a session reports, and what it does about hooks that fail."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.helpers import connect, errors_of, events_so_far, serving
from trio_mcp_session import (
    HookFailed,
    PeerViolation,
    Router,
    Session,
    SessionHooks,
    SessionLimits,
    SessionState,
)


async def test_a_session_has_listeners_only_while_it_is_subscribed() -> None:
    async with serving(Router("test")) as manager:
        session = await manager.create_session()
        assert not session._has_listeners()
        with session.subscribe():
            assert session._has_listeners()
        assert not session._has_listeners()


async def test_bad_input_is_counted_and_told() -> None:
    reported: list[Exception] = []

    async def on_error(session: Session, error: Exception) -> None:
        reported.append(error)

    hooks = (SessionHooks(), SessionHooks(on_error=on_error))
    async with serving(Router("test"), hooks=hooks) as manager:
        client = await connect(manager)
        await client.establish()
        with manager.subscribe() as events:
            await client.send(b"{")
            await client.receive()
            await wait_all_tasks_blocked()
            (error,) = errors_of(events_so_far(events))
        assert isinstance(error, PeerViolation)
        assert reported == [error]
        assert client.session.metrics.bad_input == 1
        assert client.session.state is SessionState.ACTIVE


async def test_failing_hook_is_told(autojump_clock: MockClock) -> None:
    cause = ValueError("in the hook")
    reported: list[Exception] = []

    async def fail(session: Session, *_: object) -> None:
        raise cause

    async def on_error(session: Session, error: Exception) -> None:
        reported.append(error)

    hooks = (SessionHooks(on_state_changed=fail), SessionHooks(on_error=on_error))
    async with serving(Router("test"), hooks=hooks) as manager:
        with manager.subscribe() as events:
            session = await manager.create_session()
            await wait_all_tasks_blocked()
            (error,) = errors_of(events_so_far(events))
        assert isinstance(error, HookFailed)
        assert error.hook == "on_state_changed"
        assert error.__cause__ is cause
        assert reported == [error]
        assert session.state is SessionState.ACTIVE
        assert session.metrics.errors == 1
        assert manager.statistics().hook_failures == 1


async def test_failing_on_error_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(session: Session, error: Exception) -> None:
        raise ValueError("in on_error")

    async with serving(Router("test"), hooks=SessionHooks(on_error=fail)) as manager:
        client = await connect(manager)
        await client.establish()
        with manager.subscribe() as events:
            await client.send(b"{")
            await client.receive()
            await wait_all_tasks_blocked()
            kinds = [type(error) for error in errors_of(events_so_far(events))]
        assert kinds == [PeerViolation, HookFailed]
        assert client.session.state is SessionState.ACTIVE
    (record,) = caplog.records
    assert "hook on_error (" in record.message
    assert client.session.session_id not in record.message


async def test_too_many_waiting_hooks_are_dropped_and_counted(autojump_clock: MockClock) -> None:
    calls: list[Exception] = []

    async def slow(session: Session, error: Exception) -> None:
        calls.append(error)
        await trio.sleep(1)

    limits = SessionLimits(max_waiting_hooks=2)
    async with serving(Router("test"), limits=limits, hooks=SessionHooks(on_error=slow)) as manager:
        client = await connect(manager)
        await client.establish()
        await client.send(b"{")
        await wait_all_tasks_blocked()
        await client.send(*[b"{"] * 4)
        await trio.sleep(10)
        assert len(calls) == 3
        assert manager.statistics().hook_failures == 2
