"""Handles that have ended, and handles that end after the uses that have begun."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from tests.handles.test_access import (
    ALICE,
    BOB,
    BOXES,
    SHARED,
    TWINS,
    Box,
    managing,
    opened,
    use,
)
from tests.helpers import serving
from trio_mcp_session import (
    CleanupConfig,
    HandleKind,
    Principal,
    Router,
    SessionLimits,
    SessionManager,
    SessionTerminated,
    TerminationReason,
    UnknownHandle,
)
from trio_mcp_session.handles import access as handles
from trio_mcp_session.sessions.cleanup import cleanup_session

REASON = TerminationReason
NAMESAKE = Principal(ALICE.subject, "another issuer")


def why(
    manager: SessionManager,
    handle_id: str,
    principal: Principal | None = ALICE,
    kind: HandleKind[Any] = BOXES,
) -> TerminationReason | None:
    """Return the reason in the error of a lookup, which is the one in its text."""
    with pytest.raises(UnknownHandle) as caught:
        handles.get_handle(manager, principal, kind, handle_id)
    reason = caught.value.reason
    assert str(caught.value) == str(UnknownHandle(handle_id, reason))
    assert handle_id in str(caught.value)
    return reason


@pytest.mark.parametrize("reason", list(REASON))
@pytest.mark.parametrize("owner", [ALICE, None])
async def test_the_owner_of_a_handle_that_has_ended_is_told_why(
    reason: TerminationReason, owner: Principal | None
) -> None:
    async with managing() as manager:
        handle = await opened(manager, owner)
        handle.session.terminate(reason)
        # While it ends, and afterwards.
        assert why(manager, handle.handle_id, owner) is reason
        await handle.session.wait_terminated()
        assert why(manager, handle.handle_id, owner) is reason
        # Another principal gets the text for an unknown id, as the owner does for another kind.
        for other in {ALICE, BOB, NAMESAKE, None} - {owner}:
            assert why(manager, handle.handle_id, other) is None
        assert why(manager, handle.handle_id, owner, TWINS) is None
        assert why(manager, "box_" + "x" * 32, owner) is None


async def test_another_principal_gets_no_reason_while_a_handle_ends() -> None:
    async with managing() as manager:
        handle = await opened(manager)
        handle.session.terminate()
        assert why(manager, handle.handle_id, BOB) is None
        assert why(manager, handle.handle_id, ALICE, TWINS) is None


async def test_the_clocks_of_a_handle_are_reasons(autojump_clock: MockClock) -> None:
    kind = HandleKind("box", BOXES.opener, idle_timeout=10)
    async with managing() as manager:
        handle = await opened(manager, ALICE, kind)
        await trio.sleep(20)
        assert why(manager, handle.handle_id, ALICE, kind) is REASON.IDLE
        handle = await opened(manager)

        async def crash() -> None:
            raise ValueError("secret")

        handle.session.start_soon(crash)
        await wait_all_tasks_blocked()
        assert why(manager, handle.handle_id) is REASON.CRASHED


async def test_ended_handles_are_forgotten_after_their_time(autojump_clock: MockClock) -> None:
    cleanup = CleanupConfig(ended_handle_time=100)
    async with managing(cleanup=cleanup) as manager:
        first = await opened(manager)
        await cleanup_session(first.session)
        await trio.sleep(99)
        second = await opened(manager)
        await cleanup_session(second.session)
        assert why(manager, first.handle_id) is REASON.REQUESTED
        await trio.sleep(1)
        assert why(manager, first.handle_id) is None
        assert why(manager, second.handle_id) is REASON.REQUESTED
        assert len(manager._ended_handles) == 1
        assert repr(manager._ended_handles) == "<EndedHandles: 1>"


@pytest.mark.parametrize("limit", [0, 1, 3])
async def test_the_number_of_ended_handles_that_are_remembered_is_exact(limit: int) -> None:
    async with managing(limits=SessionLimits(max_ended_handles=limit)) as manager:
        ids: list[str] = []
        for _ in range(5):
            handle = await opened(manager)
            await cleanup_session(handle.session)
            ids.append(handle.handle_id)
            assert len(manager._ended_handles) <= limit
        remembered = [why(manager, one) is not None for one in ids]
        assert remembered == [False] * (5 - limit) + [True] * limit


async def test_nothing_else_of_an_ended_handle_stays_in_memory() -> None:
    class Value:
        pass

    boxes: list[weakref.ref[Value]] = []

    @asynccontextmanager
    async def open_box() -> AsyncIterator[Value]:
        box = Value()
        boxes.append(weakref.ref(box))
        yield box

    kind = HandleKind("box", open_box)
    async with serving(Router("r")) as manager:
        principal = Principal("carol")
        handle = await handles.open_handle(manager, principal, kind, (), {})
        session = weakref.ref(handle.session)
        handle_id = handle.handle_id
        await cleanup_session(handle.session)
        del handle
        await wait_all_tasks_blocked()
        gc.collect()
        assert boxes[0]() is None
        assert session() is None
        assert why(manager, handle_id, principal, kind) is REASON.REQUESTED


async def test_a_handle_that_was_never_open_is_not_remembered() -> None:
    async with managing() as manager:
        with trio.CancelScope() as scope:
            scope.cancel()
            await opened(manager)
        with pytest.raises(TypeError):
            await opened(manager, ALICE, BOXES, "too", "many")
        assert not len(manager._ended_handles)


# Ending after the work.


def is_closed(box: Box) -> bool:
    return box.closed


async def close_after_work(manager: SessionManager, handle: Any) -> bool:
    with assert_checkpoints():
        return await handles.close_handle(
            manager, ALICE, handle.kind, handle.handle_id, after_work=True
        )


async def test_a_handle_can_be_closed_after_the_use_that_closes_it() -> None:
    async with managing() as manager:
        handle = await opened(manager)
        async with use(handle) as box:
            assert await close_after_work(manager, handle)
            await wait_all_tasks_blocked()
            assert not is_closed(box)
            assert handle.value is box
            # No further use can begin, and it is not listed.
            assert why(manager, handle.handle_id) is REASON.REQUESTED
            assert handles.list_handles(manager, ALICE, BOXES) == []
        assert await handle.session.wait_terminated() is REASON.REQUESTED
        assert is_closed(box)
        assert not await close_after_work(manager, handle)


async def test_a_handle_without_a_use_is_closed_at_once() -> None:
    async with managing() as manager:
        handle = await opened(manager)
        assert await close_after_work(manager, handle)
        assert await handle.session.wait_terminated() is REASON.REQUESTED


async def test_a_use_that_waits_for_its_turn_does_not_begin_after_the_last_one() -> None:
    async with managing() as manager, trio.open_nursery() as nursery:
        handle = await opened(manager)
        refused: list[UnknownHandle] = []

        async def wait_for_turn() -> None:
            with pytest.raises(UnknownHandle) as caught:
                async with use(handle):
                    raise AssertionError  # pragma: no cover  # it never comes
            refused.append(caught.value)

        async with use(handle) as box:
            nursery.start_soon(wait_for_turn)
            await wait_all_tasks_blocked()
            await close_after_work(manager, handle)
            await wait_all_tasks_blocked()
            assert not refused
        await handle.session.wait_terminated()
        assert is_closed(box)
    assert [one.reason for one in refused] == [REASON.REQUESTED]


async def test_concurrent_uses_that_have_begun_all_finish() -> None:
    async with managing() as manager:
        handle = await opened(manager, ALICE, SHARED)
        async with use(handle) as one:
            async with use(handle) as other:
                await close_after_work(manager, handle)
            await wait_all_tasks_blocked()
            assert one is other
            assert not one.closed
        assert await handle.session.wait_terminated() is REASON.REQUESTED


async def test_a_handle_that_ends_after_its_work_can_be_closed_at_once() -> None:
    async with managing() as manager:
        handle = await opened(manager)
        with pytest.raises(UnknownHandle):
            async with use(handle):
                handle.session.terminate(REASON.EVICTED, after_work=True)
                with pytest.raises(SessionTerminated):
                    handle.session.start_soon(trio.sleep_forever)
                handle.session.terminate(REASON.REVOKED)
                await trio.sleep_forever()
        assert await handle.session.wait_terminated() is REASON.REVOKED
