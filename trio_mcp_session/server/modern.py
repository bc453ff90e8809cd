"""The one way in for a modern request (2026-07-28), on a pipe and over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.errors import McpError
from ..protocol import methods
from ..protocol.discovery import discover_result
from ..protocol.envelope import Envelope, is_modern, read_envelope
from ..protocol.error_codes import METHOD_NOT_FOUND, UNSUPPORTED_PROTOCOL_VERSION
from ..sessions.failures import FAILURES, contain
from .request import InFlightRequest

if TYPE_CHECKING:
    from ..core.identity import Principal
    from ..protocol.eras import ServedEras
    from ..protocol.jsonrpc import Request
    from .application import Application
    from .mcp_server import McpServer
    from .request_owner import ModernOwner
    from .sink import MessageSink


def check_method(application: Application, method: str) -> None:
    """Refuse methods that nobody serves, or that have no place in a request of this kind.

    Raises:
        McpError: -32601.
    """
    if method in (methods.DISCOVER, methods.LISTEN):
        return
    if method in methods.REMOVED or not application.handles_request(method):
        raise McpError(METHOD_NOT_FOUND, "Method not found")


def open_envelope(application: Application, request: Request, eras: ServedEras) -> Envelope:
    """Check what can be told of a modern request before it runs, in the protocol's order.

    It may also be any request at all, where there are no sessions.

    Raises:
        McpError: -32602, its envelope is not whole; -32022, its revision is not served; -32601,
            its method is not.
    """
    if not eras.legacy and not is_modern(request.params):
        raise eras.no_envelope(request)
    envelope = read_envelope(request.params, eras.supported)
    eras.check_stateless(envelope.version)
    check_method(application, request.method)
    return envelope


def is_violation(error: McpError) -> bool:
    """Tell whether a request that these checks refuse broke the protocol.

    One for a revision or a method that is not served did not: clients ask what there is.
    """
    return error.code not in (METHOD_NOT_FOUND, UNSUPPORTED_PROTOCOL_VERSION)


def discover(application: Application, request: InFlightRequest) -> None:
    """Answer ``server/discover``. Not a checkpoint."""
    revision = request.revision
    assert revision is not None
    try:
        capabilities = application.capabilities(revision)
        result = discover_result(capabilities, application.instructions)
    except FAILURES as error:  # the application may say anything of itself
        request.handler_name = "capabilities of the application"
        request.crash(contain(error))
    else:
        request.answer(result)


def admit(
    server: McpServer,
    owner: ModernOwner,
    message: Request,
    sink: MessageSink,
    envelope: Envelope,
    principal: Principal | None = None,
) -> InFlightRequest:
    """Answer a request, subscribe its client, run it, let it wait, or refuse it.

    Not a checkpoint. What can be checked before has been: see `open_envelope`.

    Args:
        server: The server.
        owner: What the request belongs to: its connection, or, over HTTP, the server.
        message: The request.
        sink: Where its answer goes.
        envelope: What it says of itself.
        principal: On whose behalf it is made; the owner's default otherwise.

    Returns:
        The request that is in flight for it, or that has its answer.
    """
    match message.method:
        case methods.DISCOVER:
            request = InFlightRequest.of(owner, message, sink, envelope, principal)
            owner.counters.requests += 1
            _observe(server, request)
            discover(server.served.get(), request)
        case methods.LISTEN:
            request = InFlightRequest.of(owner, message, sink, envelope, principal)
            _observe(server, request)
            server.subscriptions.admit(request, owner.subscription_queue())
        case _:
            request = owner.admit(message, sink, envelope, principal)
    return request


def _observe(server: McpServer, request: InFlightRequest) -> None:
    if server.manager._instruments:
        request.observe(server.manager._instruments)
