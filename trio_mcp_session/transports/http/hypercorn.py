"""Hypercorn, for what the built-in server has not: TLS and HTTP/2."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import trio

from .asgi import ASGIApplication

if TYPE_CHECKING:
    from hypercorn.config import Config

    from ...sessions.manager import SessionManager

logger: Final = logging.getLogger("trio_mcp_session.http")


async def serve_with_hypercorn(
    manager: SessionManager,
    app: ASGIApplication,
    config: Config | None,
    listeners: Sequence[trio.SocketListener],
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    """Serve an application until the manager is drained, or until cancelled. A checkpoint.

    Hypercorn cuts what is open a moment after its shutdown trigger has returned. So that is when
    the manager is drained, and every stream has its end already.

    Args:
        manager: Whose end is the server's.
        app: The application.
        config: Further settings; a copy is used, with other addresses.
        listeners: Where clients connect. They are Hypercorn's from now on.
        task_status: Told when clients may connect.

    Raises:
        ImportError: Hypercorn is not installed: ``pip install "trio-mcp-session[hypercorn]"``.
    """
    # On first use: it takes as long to import as all the rest together.
    from hypercorn.config import Config  # noqa: PLC0415
    from hypercorn.trio import serve  # noqa: PLC0415

    if config is None:
        own = Config()
        own.accesslog, own.errorlog = None, logger
        own.graceful_timeout = manager.config.cleanup.flush_budget
    else:
        own = copy(config)
    own.bind = [f"fd://{listener.socket.detach()}" for listener in listeners]

    run = partial(
        serve, cast("Any", app), own, shutdown_trigger=manager.wait_drained, mode="asgi"
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(run)
        task_status.started()
