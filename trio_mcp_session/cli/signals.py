"""SIGTERM and SIGINT: the first drains, the second cancels."""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from ..sessions.opening import open_session_manager

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..core.config import SessionConfig
    from ..sessions.application import Application
    from ..sessions.hooks import SessionHooks
    from ..sessions.manager import SessionManager

logger: Final = logging.getLogger("trio_mcp_session")


async def run_until_signal(
    application: Application,
    serve: Callable[[SessionManager], Awaitable[object]],
    *,
    config: SessionConfig | None = None,
    hooks: SessionHooks | Iterable[SessionHooks] = (),
) -> int | None:
    """Serve an application until it is through, or until a signal asks to stop.

    A checkpoint. The first SIGTERM or SIGINT drains the manager; the second cancels what is left.
    When cancelled, all sessions end as *cancelled* before the call raises.

    Args:
        application: The program to serve.
        serve: Serves it with the manager it is given.
        config: Limits and clocks.
        hooks: What to call at the turns of each session's life.

    Returns:
        The second signal, if it took one; None after a clean end.
    """
    forced: list[int] = []
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            async with open_session_manager(application, config=config, hooks=hooks) as manager:
                with trio.CancelScope() as serving:
                    stop = partial(_stop, signals, manager, serving, nursery, forced)
                    nursery.start_soon(stop, name="signals")
                    await serve(manager)
            nursery.cancel_scope.cancel(reason="nothing is served any more")
    return forced[0] if forced else None


async def _stop(
    signals: AsyncIterator[int],
    manager: SessionManager,
    serving: trio.CancelScope,
    nursery: trio.Nursery,
    forced: list[int],
) -> None:
    number = await anext(signals)
    logger.info("%s: draining; a second signal cancels", signal.Signals(number).name)
    # It listens for as long as anything is left, not only during the drain.
    nursery.start_soon(_stop_at_once, signals, nursery.cancel_scope, forced)
    await manager.drain()
    serving.cancel(reason="asked to stop by a signal")


async def _stop_at_once(
    signals: AsyncIterator[int], everything: trio.CancelScope, forced: list[int]
) -> None:
    forced.append(await anext(signals))
    logger.warning("%s: cancelling", signal.Signals(forced[0]).name)
    everything.cancel(reason="asked to stop by a second signal")
