"""`open_session_manager`: the nursery of sessions, as one ``async with`` block.

::

    the caller's task                         the body runs here
     └ outside          a nursery
        ├ sentinel      unshielded: sees a cancellation from outside, ends every session for it
        └ house         shielded: no cancellation tears the middle out of a session
           ├ watcher    every clock
           └ sessions   a task each
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from ..core.config import SessionConfig
from ..core.reasons import TerminationReason
from . import drain
from .cleanup import run_cleanup
from .hooks import SessionHooks
from .manager import SessionManager

if TYPE_CHECKING:
    from .application import Application

logger: Final = logging.getLogger("trio_mcp_session")


@final
@attrs.define(eq=False)
class _House:
    """The shielded nursery that sessions live in."""

    ready: trio.Event = attrs.field(factory=trio.Event, init=False)
    nursery: trio.Nursery = attrs.field(init=False)

    async def keep(self) -> None:
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as self.nursery:
                self.ready.set()
                await trio.sleep_forever()


@asynccontextmanager
async def open_session_manager(
    application: Application | None = None,
    *,
    config: SessionConfig | None = None,
    hooks: SessionHooks | Iterable[SessionHooks] = (),
) -> AsyncIterator[SessionManager]:
    """Open a session manager for the length of an ``async with`` block.

    It composes into any nursery and any program: it installs no signal handlers, opens no ports,
    keeps nothing global. Entering and leaving are checkpoints. Left normally, it drains with
    `CleanupConfig.drain_grace`; left by an error, or cancelled, it ends all sessions at once, in
    the same order of clean-up. It is left when no session is left. What the body raises comes
    out as it is, in no group.

    Args:
        application: The program that clients are served by; a `Router`, for example. None where
            the application opens all sessions itself.
        config: Limits and clocks.
        hooks: What to call at the turns of each session's life.
    """
    config = SessionConfig() if config is None else config
    body_error: BaseException | None = None
    house = _House()
    async with trio.open_nursery() as outside:
        outside.start_soon(house.keep, name="sessions")
        with trio.CancelScope(shield=True):
            await house.ready.wait()
        manager: SessionManager = SessionManager._create(
            application,
            config,
            hooks=(hooks,) if isinstance(hooks, SessionHooks) else tuple(hooks),
            house=house.nursery,
        )
        house.nursery.start_soon(run_cleanup, manager.store)  # noqa: ASYNC113  # nobody waits for it
        outside.start_soon(_end_when_cancelled, manager, name="sentinel of sessions")
        try:
            yield manager
            await manager.drain()
        except BaseException as error:  # noqa: BLE001, ASYNC103  # raised again below
            body_error = error
        cancelled = isinstance(body_error, trio.Cancelled)
        with trio.CancelScope(shield=True):
            await _end_all(
                manager, TerminationReason.CANCELLED if cancelled else TerminationReason.SHUTDOWN
            )
        manager._drained.set()
        manager._subscribers.finish()
        # The sentinel's cancellation must not come out in the place of the body's own error.
        outside.cancel_scope.shield = True
        house.nursery.cancel_scope.cancel(reason="session manager is left")
        outside.cancel_scope.cancel(reason="session manager is left")
    if body_error is not None:
        raise body_error


async def _end_when_cancelled(manager: SessionManager) -> None:
    try:
        await trio.sleep_forever()
    finally:
        # Also when the manager is left: then there is nothing to end any more.
        manager._draining = True
        with trio.CancelScope(shield=True):
            manager._stateless.end()
            await manager._listens.end()
            await drain.end(manager.sessions(), TerminationReason.CANCELLED)


async def _end_all(manager: SessionManager, reason: TerminationReason) -> None:
    """End every session and wait for all, however long that takes; tell for whom."""
    manager._draining = True
    manager._stateless.end()
    await manager._listens.end()
    sessions = manager.sessions()
    await drain.end(sessions, reason)
    with trio.move_on_after(drain.ending_budget(manager.config.cleanup)):
        await drain.wait_for(sessions)
    for session in sessions:
        if not session._over:
            logger.warning("still waiting for %r: %s", session, session._running_tasks())
    await drain.wait_for(sessions)
