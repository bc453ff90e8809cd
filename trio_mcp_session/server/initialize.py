"""``initialize``: how a session of 2024-11-05 to 2025-11-25 begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..core.errors import McpError
from ..protocol.error_codes import INTERNAL_ERROR, INVALID_REQUEST
from ..protocol.handshake import initialize_too_large, read_initialize
from .busy import NO_MEMORY
from .pending_initialize import PendingInitialize
from .request import InFlightRequest

if TYPE_CHECKING:
    from ..protocol.jsonrpc import Request
    from .client_connection import ClientConnection
    from .pending_initialize import HeldMessage
    from .sink import MessageSink


def initialize(
    client: ClientConnection,
    request: Request,
    sink: MessageSink,
    take: Callable[[HeldMessage], None],
) -> None:
    """Begin to open the session, or refuse to. Not a checkpoint.

    Args:
        client: The connection that the request came on.
        request: The request.
        sink: Takes the answer.
        take: Called after the answer, with each message that the client sent before it.
    """
    if client.revision is not None:
        client.violation("a second initialize")
        client.refuse(request.id, sink, McpError(INVALID_REQUEST, "Session is already initialized"))
        return
    limit = client.manager.config.limits.max_initialize_size
    if len(request.frame) > limit:
        client.violation("initialize is too large")
        client.refuse(request.id, sink, initialize_too_large(limit))
        return
    try:
        handshake = read_initialize(request.params)
    except McpError as error:
        client.violation("initialize with bad parameters")
        client.refuse(request.id, sink, error)
        return
    # It is kept as long as the session, whose end releases it.
    if handshake.size and not client.budget.claim(handshake.size):
        client.refuse(request.id, sink, McpError(INTERNAL_ERROR, NO_MEMORY))
        return
    client.revision = handshake.revision
    in_flight = InFlightRequest(client, request, sink)
    if (watch := client.server.request_watch()) is not None:
        watch.begin(in_flight)
    client.pending = PendingInitialize(request.id, sink, handshake, take, in_flight.observed)
    client.session._allow_opening(handshake.client)
