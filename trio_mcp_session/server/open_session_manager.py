"""`open_session_manager`: sessions, and the server that they are served by, in one block."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING

from ..sessions.interrupts import leave_unprotected
from ..sessions.open_manager import ManagerBlock
from .mcp_server import McpServer
from .served_application import ServedApplication

if TYPE_CHECKING:
    from ..core.config import SessionConfig
    from ..core.instrumentation import Instrumentation
    from ..sessions.hooks import SessionHooks
    from ..sessions.manager import SessionManager
    from .application import Application


def open_session_manager(
    application: Application | None = None,
    *,
    config: SessionConfig | None = None,
    hooks: SessionHooks | Iterable[SessionHooks] = (),
    instrumentation: Instrumentation | Iterable[Instrumentation] = (),
) -> AbstractAsyncContextManager[SessionManager]:
    """Open a session manager for the length of an ``async with`` block.

    It composes into any nursery and any program: it installs no signal handlers, opens no ports,
    keeps nothing global. Entering and leaving are checkpoints. Left normally, it drains with
    `CleanupConfig.drain_grace`; left by an error, or cancelled, it ends all sessions at once, in
    the same order of clean-up. It is left when no session is left.

    What the body raises comes out as it is, in no group. `KeyboardInterrupt` ends all sessions at
    once, wherever it strikes; where the body or a task fails as well, both come out in a group.

    Args:
        application: The program that clients are served by; a `Router`, for example. None where
            the application opens all sessions itself.
        config: Limits and clocks.
        hooks: What to call when sessions open, change and end.
        instrumentation: What watches requests and sessions, for tracing and metrics.
    """
    if application is not None:
        leave_unprotected(application.handle)
    make_server = partial(McpServer, ServedApplication(application))
    return ManagerBlock(make_server, config=config, hooks=hooks, instrumentation=instrumentation)
