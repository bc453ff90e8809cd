"""What must not continue without a session is cancelled with it."""

from __future__ import annotations

import pytest
import trio
from trio.testing import assert_no_checkpoints

from tests.helpers import serving
from trio_mcp_session import Router
from trio_mcp_session.sessions.session import cancelled_with


async def test_scope_is_cancelled_when_the_session_is_told_to_end() -> None:
    async with serving(Router("test")) as manager:
        session = await manager.create_session()
        with trio.CancelScope() as scope, cancelled_with(session, scope):
            session.terminate()
            assert scope.cancel_called
            # At once: nothing of the session had to end for it.
            assert session in manager.sessions()
            await trio.sleep_forever()
        assert scope.cancelled_caught


async def test_scope_is_cancelled_when_the_session_has_ended_already() -> None:
    async with serving(Router("test")) as manager:
        session = await manager.create_session()
        session.terminate()
        await session.wait_terminated()
        with trio.CancelScope() as scope, cancelled_with(session, scope):
            await trio.sleep_forever()
        assert scope.cancelled_caught


@pytest.mark.parametrize("failing", [False, True])
async def test_scope_is_let_go_at_the_end_of_the_block(failing: bool) -> None:
    async with serving(Router("test")) as manager:
        session = await manager.create_session()
        scope = trio.CancelScope()
        error = ValueError() if failing else None
        with assert_no_checkpoints():
            block = cancelled_with(session, scope)
            block.__enter__()
            block.__exit__(None if error is None else ValueError, error, None)
        session.terminate()
        assert not scope.cancel_called
