"""`open_session_manager`: a session manager and its server, in one block."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import TYPE_CHECKING

from ..server.application import server_lifespans_of
from ..server.mcp_server import McpServer
from ..server.served_application import ServedApplication
from ..sessions.interrupts import leave_unprotected
from ..sessions.open_manager import ManagerBlock
from .recognise import AnyApplication, as_application

if TYPE_CHECKING:
    from ..core.config import SessionConfig
    from ..core.instrumentation import Instrumentation
    from ..sessions.hooks import SessionHooks
    from ..sessions.manager import SessionManager


def open_session_manager(
    application: AnyApplication | None = None,
    *,
    config: SessionConfig | None = None,
    hooks: SessionHooks | Iterable[SessionHooks] = (),
    instrumentation: Instrumentation | Iterable[Instrumentation] = (),
) -> AbstractAsyncContextManager[SessionManager]:
    """Open a session manager for the length of an ``async with`` block.

    It works in any nursery and any program: it installs no signal handlers, opens no ports, and has
    no global state. Entering and leaving are checkpoints. If the body ends normally, the manager
    drains with `CleanupConfig.drain_grace`. If the body raises or is cancelled, it ends all
    sessions at once, in the same order of clean-up. The block is left when all sessions have ended.

    If the application has a ``server_lifespan`` (see `Router`), it is entered before the body
    begins. Then a cancellation ends the entering. It is left within `CleanupConfig.cleanup_budget`
    when all sessions and requests have ended. If that fails, the failure is logged.

    An error of the body is raised as it is, not in a group. `KeyboardInterrupt` ends all sessions
    at once, wherever it is raised. If the body or a task fails as well, both errors are raised in a
    group.

    Args:
        application: The program that clients are served by: a `Router` or another `Application`,
            or an ``MCPServer``, ``FastMCP`` or low-level ``Server`` of the official SDK. None if
            your program opens all sessions itself.
        config: Limits and clocks.
        hooks: Called when sessions open, change and end.
        instrumentation: Called when requests and sessions begin and end, for tracing and metrics.

    Raises:
        TypeError: ``application`` is something else.
        CannotServe: A part of an application of another library does not run on Trio.
        UnsupportedVersion: The installed version of another library is not supported.
        ServerLifespanFailed: The server's lifespan failed while it was entered; then the body does
            not begin. Or it failed while the block was open; then all sessions end, and the body
            is cancelled. In the block of the manager, not in a group.
    """
    served = None if application is None else as_application(application)
    if served is not None:
        leave_unprotected(served.handle)
    make_server = partial(McpServer, ServedApplication(served))
    return ManagerBlock(
        make_server,
        config=config,
        hooks=hooks,
        instrumentation=instrumentation,
        lifespans=server_lifespans_of(served),
    )
