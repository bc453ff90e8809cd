"""SIGTERM and SIGINT: the first retires and drains, the second cancels, the third ends all.

SIGHUP retires and drains, too; SIGUSR1 writes the tree of tasks, if that is wanted.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Final

import attrs
import trio

from ..adapters.open_session_manager import open_session_manager
from ..core.config import SessionConfig, with_loop_watch, with_shutdown_timeout
from .gc_freeze import short_collections
from .shutdown import CANCELLING, CLIENT_LEFT_TIMEOUT, Shutdown
from .task_report import TaskReport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..core.instrumentation import Instrumentation
    from ..server.application import Application
    from ..sessions.hooks import SessionHooks
    from ..sessions.manager import SessionManager

logger: Final = logging.getLogger("trio_mcp_session")

Serve = Callable[["SessionManager", Shutdown], Awaitable[object]]
"""Serves the sessions of a manager; calls `Shutdown.client_leaves` when its client leaves."""


def run_program(
    application: Application,
    serve: Serve,
    *,
    config: SessionConfig | None = None,
    hooks: SessionHooks | Iterable[SessionHooks] = (),
    instrumentation: Instrumentation | Iterable[Instrumentation] = (),
    ends_process: bool = False,
    last_words: str = "",
    report_tasks: bool = False,
    gc_freeze: bool = False,
) -> int:
    """Run Trio and serve an application until it returns or signals end it; return the status.

    If the shutdown exceeds its deadline, or a third signal comes, this ends the process.

    Args:
        application: The program to serve.
        serve: Serves it with the manager that it is given.
        config: Limits and clocks. `CleanupConfig.shutdown_timeout` is 9 seconds by default.
        hooks: What to call at the turns of each session's life.
        instrumentation: What to call when requests and sessions begin and end.
        ends_process: As for `Shutdown`; so is the next one.
        last_words: What to write before the process is ended.
        report_tasks: Whether SIGUSR1 writes the tree of tasks.
        gc_freeze: Whether collections of garbage are kept short, from when the server is open.

    Returns:
        The exit status: 0, or 128 and the number of the second signal.
    """
    config = SessionConfig() if config is None else config
    clocks = with_loop_watch(with_shutdown_timeout(config.cleanup))
    config = attrs.evolve(config, cleanup=clocks)
    report = TaskReport() if report_tasks else None
    shutdown = Shutdown(config.cleanup, ends_process=ends_process, last_words=last_words)

    async def main() -> int:
        number = await run_until_signal(
            application,
            serve,
            shutdown=shutdown,
            config=config,
            hooks=hooks,
            instrumentation=instrumentation,
            report=report,
            gc_freeze=gc_freeze,
        )
        # Shells report a process that was ended by a signal with this status.
        return 0 if number is None else 128 + number

    with shutdown:
        if report is None:
            return trio.run(main)
        with report:
            return trio.run(main, instruments=[report.ages])


async def run_until_signal(
    application: Application,
    serve: Serve,
    *,
    shutdown: Shutdown,
    config: SessionConfig | None = None,
    hooks: SessionHooks | Iterable[SessionHooks] = (),
    instrumentation: Instrumentation | Iterable[Instrumentation] = (),
    report: TaskReport | None = None,
    gc_freeze: bool = False,
) -> signal.Signals | None:
    """Serve an application until it returns, or until a signal stops it.

    A checkpoint. The first SIGTERM, SIGINT or SIGHUP retires and drains the manager; the second
    SIGTERM or SIGINT cancels what is left. When cancelled, all sessions end as *cancelled* before
    the call raises.

    Args:
        application: The program to serve.
        serve: Serves it with the manager that it is given.
        shutdown: Where the signals come from.
        config: Limits and clocks.
        hooks: What to call at the turns of each session's life.
        instrumentation: What to call when requests and sessions begin and end.
        report: Writes the tree of tasks.
        gc_freeze: As for `run_program`.

    Returns:
        The second signal, if one came; None after a clean end.

    Raises:
        ServerLifespanFailed: The server's lifespan failed while it was entered, or later.
        Exception: What ``serve`` raises, not in a group.
    """
    try:
        return await _run_until_signal(
            application,
            serve,
            shutdown,
            config,
            hooks,
            instrumentation,
            report,
            gc_freeze=gc_freeze,
        )
    except BaseExceptionGroup as group:
        only = group.exceptions[0]
        if len(group.exceptions) > 1:
            raise
        raise only from only.__cause__  # noqa: ASYNC123  # The nursery has nothing to add.


async def _run_until_signal(
    application: Application,
    serve: Serve,
    shutdown: Shutdown,
    config: SessionConfig | None,
    hooks: SessionHooks | Iterable[SessionHooks],
    instrumentation: Instrumentation | Iterable[Instrumentation],
    report: TaskReport | None,
    *,
    gc_freeze: bool,
) -> signal.Signals | None:
    forced: list[signal.Signals] = []
    shutdown.attach_to_loop()
    async with trio.open_nursery() as nursery:
        opening = trio.CancelScope()
        nursery.start_soon(_stop_opening, shutdown, opening, nursery.cancel_scope, name="opening")
        async with open_session_manager(
            application, config=config, hooks=hooks, instrumentation=instrumentation
        ) as manager:
            opening.cancel(reason="the server's lifespan has been entered")
            if report is not None:
                report.attach(manager)  # Before the shutdown, whose tree shows the ages, too.
            with shutdown.attached_to(manager), trio.CancelScope() as serving:
                stop = partial(_stop, shutdown, manager, serving)
                cancel = partial(_cancel, shutdown, manager, nursery.cancel_scope, forced)
                nursery.start_soon(stop, name="first signal")
                nursery.start_soon(cancel, name="second signal")
                with short_collections() if gc_freeze else nullcontext():
                    await serve(manager, shutdown)
        nursery.cancel_scope.cancel(reason="serving has ended")
    return forced[0] if forced else None


async def _stop_opening(
    shutdown: Shutdown, opening: trio.CancelScope, everything: trio.CancelScope
) -> None:
    """Cancel everything at the first signal, while the server's lifespan is entered."""
    with opening:
        name = (await shutdown.wait_for_signals(1)).name
        logger.info("%s: the server is not open yet; cancelling its opening", name)
        everything.cancel(reason="asked to stop by a signal")


async def _stop(shutdown: Shutdown, manager: SessionManager, serving: trio.CancelScope) -> None:
    name = (await shutdown.wait_for_signals(1)).name
    clocks = manager.config.cleanup
    if shutdown.client_left:
        manager._begin_shutdown(CLIENT_LEFT_TIMEOUT)
        logger.info("%s: the client has left; ending its session", name)
        await manager.drain(grace=0)
    else:
        if clocks.retire_grace:
            time = (
                "until all sessions have ended"
                if clocks.retire_grace == inf
                else (f"for up to {clocks.retire_grace:g} s")
            )
            logger.info("%s: retiring %s, then draining; a second signal cancels", name, time)
            await manager.retire()
        logger.info(
            "%s: draining for up to %g s; a second signal cancels", name, clocks.drain_grace
        )
        await manager.drain()
    serving.cancel(reason="asked to stop by a signal")


async def _cancel(
    shutdown: Shutdown,
    manager: SessionManager,
    everything: trio.CancelScope,
    forced: list[signal.Signals],
) -> None:
    number = await shutdown.wait_for_signals(CANCELLING)
    forced.append(number)
    manager._begin_shutdown()
    logger.warning("%s: cancelling; a further signal ends the process", number.name)
    everything.cancel(reason="asked to stop by a second signal")
