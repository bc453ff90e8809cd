"""SIGTERM and SIGINT: the first drains, the second cancels."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from ..sessions.opening import open_session_manager

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..core.config import SessionConfig
    from ..sessions.application import Application
    from ..sessions.hooks import SessionHooks
    from ..sessions.manager import SessionManager


async def run_until_signal(
    application: Application,
    serve: Callable[[SessionManager], Awaitable[object]],
    *,
    config: SessionConfig | None = None,
    hooks: SessionHooks | Iterable[SessionHooks] = (),
) -> None:
    """Serve an application until it is through, or until a signal asks to stop.

    A checkpoint. The first SIGTERM or SIGINT drains the manager; the second cancels what is left.

    Args:
        application: The program to serve.
        serve: Serves it with the manager it is given.
        config: Limits and clocks.
        hooks: What to call at the turns of each session's life.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            async with open_session_manager(application, config=config, hooks=hooks) as manager:
                with trio.CancelScope() as serving:
                    nursery.start_soon(_stop, signals, manager, serving, nursery.cancel_scope)
                    await serve(manager)
            nursery.cancel_scope.cancel(reason="nothing is served any more")


async def _stop(
    signals: AsyncIterator[int],
    manager: SessionManager,
    serving: trio.CancelScope,
    everything: trio.CancelScope,
) -> None:
    await anext(signals)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_at_once, signals, everything)
        await manager.drain()
        serving.cancel(reason="asked to stop by a signal")
        nursery.cancel_scope.cancel(reason="drained")


async def _stop_at_once(signals: AsyncIterator[int], everything: trio.CancelScope) -> None:
    await anext(signals)
    everything.cancel(reason="asked to stop by a second signal")
