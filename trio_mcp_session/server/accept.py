"""`accept`: how a transport opens a session for a client."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from ..core.ids import SessionKind
from ..protocol.eras import served_eras
from .client_connection import ClientConnection
from .mcp_server import server_of

if TYPE_CHECKING:
    from ..core.identity import Principal, Transport
    from ..protocol.eras import Eras, ServedEras
    from ..sessions.manager import SessionManager
    from ..sessions.session import Session
    from .sink import SessionSink


async def accept(
    manager: SessionManager,
    sink: SessionSink,
    *,
    transport: Transport,
    principal: Principal | None = None,
    kind: SessionKind = SessionKind.CONNECTION,
    handshake_timeout: float = inf,
    eras: Eras | None = None,
) -> Session:
    """Open a session for a new client of a transport, which will send ``initialize``.

    For transports of your own. The session is *initializing* when this returns; its handshake
    clock runs, and `receive` takes what the client sends. A checkpoint only if another session has
    to end first; when cancelled, no session is opened.

    Args:
        manager: The manager that opens the session.
        sink: Sends messages to the client outside of its requests. When the session ends, its
            ``finish`` is awaited.
        transport: The transport that connects the client.
        principal: The principal of the client.
        kind: How the session is reached.
        handshake_timeout: Seconds for the handshake of a connection, if
            `CleanupConfig.connection_handshake_timeout` leaves them to the transport; off by
            default. Sessions of other kinds have `CleanupConfig.handshake_timeout`.
        eras: Which revisions are served to the client; what the application says by default.

    Raises:
        SessionLimitReached: A limit was reached, and the admission policy made no room.
        ShuttingDown: The manager retires, drains or is closed.
        RuntimeError: The manager was opened without an application.
        ValueError: ``handshake_timeout`` is not positive, or ``eras`` is unknown.
    """
    return await accept_client(
        manager,
        sink,
        served_eras(server_of(manager).served.get(), eras),
        transport=transport,
        principal=principal,
        kind=kind,
        handshake_timeout=handshake_timeout,
    )


async def accept_client(
    manager: SessionManager,
    sink: SessionSink,
    eras: ServedEras,
    *,
    transport: Transport,
    principal: Principal | None,
    kind: SessionKind,
    handshake_timeout: float = inf,
) -> Session:
    """Open a session as `accept` does, where it is known which revisions are served."""
    server = server_of(manager)
    return await manager._accept(
        lambda session: ClientConnection(session, server, sink, eras),
        kind=kind,
        transport=transport,
        principal=principal,
        lifespan=server.served.get().lifespan,
        handshake_timeout=handshake_timeout,
    )
