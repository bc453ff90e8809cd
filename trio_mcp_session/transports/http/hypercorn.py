"""Hypercorn, for what the built-in server has not: TLS and HTTP/2."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import trio

from ..asgi import ASGIApplication, Receive, Scope, Send
from ..http1.listeners import BoundAddress, bound_address

if TYPE_CHECKING:
    from hypercorn.config import Config

    from ...sessions.manager import SessionManager

_ALL_ADDRESSES: Final = ("0.0.0.0", "::")  # noqa: S104  # it is looked for
_MAX_MILLISECONDS: Final = 2**31 - 1

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
        config: Further settings; a copy is used, without its addresses.
        listeners: Where clients connect. They are Hypercorn's from now on.
        task_status: Told when clients may connect.

    Raises:
        ImportError: Hypercorn is not installed.
    """
    # On first use: it takes as long to import as all the rest together.
    from hypercorn.config import Sockets  # noqa: PLC0415
    from hypercorn.trio import serve  # noqa: PLC0415  # pyright: ignore[reportUnknownVariableType]

    own = default_config(manager) if config is None else copy(config)
    app = _with_listening_addresses(app, [bound_address(one) for one in listeners])
    sockets = [socket.socket(fileno=listener.socket.detach()) for listener in listeners]
    for one in sockets:
        _limit_writes(one, manager.config.cleanup.send_timeout)
    # Not by their numbers, as in `bind`: they would stay open if Hypercorn does not start.
    ours = Sockets(*((sockets, []) if own.ssl_enabled else ([], sockets)), quic_sockets=[])
    cast("Any", own).create_sockets = lambda: ours

    run = partial(serve, cast("Any", app), own, shutdown_trigger=manager.wait_drained, mode="asgi")
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(run)
            task_status.started()
    finally:
        for one in sockets:
            one.close()


def _with_listening_addresses(
    app: ASGIApplication, addresses: Sequence[BoundAddress]
) -> ASGIApplication:
    """Return an application whose ``scope["server"]`` is the address that was listened on.

    Hypercorn has the address of the connection there. Where it listens on all addresses, the
    endpoint would have two rules for the hosts of one listener.
    """
    wildcards = {
        (":" in one.host, one.port): (one.host, one.port)
        for one in addresses
        if one.host in _ALL_ADDRESSES
    }
    if not wildcards:
        return app

    async def app_with_address(scope: Scope, receive: Receive, send: Send) -> None:
        server = scope.get("server")
        if server:
            scope["server"] = wildcards.get((":" in server[0], server[1]), server)
        await app(scope, receive, send)

    return app_with_address


def default_config(manager: SessionManager) -> Config:
    """Return the settings of Hypercorn that fit a manager. Not a checkpoint."""
    from hypercorn.config import Config  # noqa: PLC0415  # an extra

    config = Config()
    config.accesslog, config.errorlog = None, logger
    config.graceful_timeout = manager.config.cleanup.flush_budget
    config.include_server_header = False  # It is of no use to clients, and every header costs.
    return config


def _limit_writes(listening: socket.socket, seconds: float) -> None:
    """Let the system give up clients that do not read, where it can.

    Hypercorn shields its writes: one of them would hold up the server's end for ever, cancelled
    or not. What a listening socket has set, its connections have, too.
    """
    if seconds <= _MAX_MILLISECONDS / 1000:
        milliseconds = max(1, int(seconds * 1000))
        with suppress(AttributeError, OSError):
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
