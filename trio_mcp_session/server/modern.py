"""Checks and starts stateless requests (2026-07-28), on a pipe and over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.errors import McpError
from ..protocol import methods
from ..protocol.discovery import discover_result
from ..protocol.envelope import Envelope, is_modern, read_envelope
from ..protocol.error_codes import METHOD_NOT_FOUND, UNSUPPORTED_PROTOCOL_VERSION
from ..protocol.revisions import V2026_07_28
from ..protocol.tasks_extension import are_offered
from ..sessions.failures import FAILURES, contain
from .request import InFlightRequest
from .task_methods import serve_task_method

if TYPE_CHECKING:
    from ..core.byte_budget import ByteBudget
    from ..core.identity import Principal
    from ..core.peer import Party
    from ..protocol.eras import ServedEras
    from ..protocol.jsonrpc import Request
    from .application import Application
    from .mcp_server import McpServer
    from .request_owner import ModernOwner
    from .sink import MessageSink


def check_method(application: Application, method: str) -> None:
    """Refuse methods that are not served, or that stateless requests must not use.

    Raises:
        McpError: -32601.
    """
    if method in methods.OF_SERVER:
        is_served = method not in methods.TASK_METHODS or are_offered(
            application.capabilities(V2026_07_28)
        )
    else:
        is_served = method not in methods.REMOVED and application.handles_request(method)
    if not is_served:
        raise McpError(METHOD_NOT_FOUND, "Method not found")


def open_envelope(application: Application, request: Request, eras: ServedEras) -> Envelope:
    """Check a stateless request before it runs, in the protocol's order.

    Where there are no sessions, it may be a request of any revision.

    Raises:
        McpError: -32602, its envelope is not complete; -32022, its revision is not served; -32601,
            its method is not served.
    """
    if not eras.legacy and not is_modern(request.params):
        raise eras.no_envelope(request)
    envelope = read_envelope(request.params, eras.supported)
    eras.check_stateless(envelope.version)
    check_method(application, request.method)
    return envelope


def is_violation(error: McpError) -> bool:
    """Return whether a request that these checks refuse broke the protocol.

    A request for a revision or method that is not served did not: clients may try what is served.
    """
    return error.code not in (METHOD_NOT_FOUND, UNSUPPORTED_PROTOCOL_VERSION)


def discover(application: Application, request: InFlightRequest) -> None:
    """Answer ``server/discover``. Not a checkpoint."""
    revision = request.revision
    assert revision is not None
    try:
        capabilities = application.capabilities(revision)
        result = discover_result(
            revision, application.server_info, capabilities, application.instructions
        )
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
    party: Party | None = None,
    budget: ByteBudget | None = None,
) -> InFlightRequest:
    """Take a request: the library answers it here, a subscription begins, or it is queued.

    A request that finds no room is refused. Not a checkpoint. Check the request with
    `open_envelope` first.

    Args:
        server: The server.
        owner: The owner of the request: its connection, or, over HTTP, the server.
        message: The request.
        sink: Takes the answer.
        envelope: Its envelope.
        principal: The principal that makes it; the owner's default otherwise.
        party: What its client is counted by, where several clients share a queue.
        budget: What counts its bytes; the owner's budget otherwise.

    Returns:
        The request, in flight or answered.
    """
    budget = budget or owner.budget
    method = message.method
    if method not in methods.OF_SERVER or method in server.served.own_methods:
        return owner.admit(message, sink, envelope, principal, party, budget)
    request = InFlightRequest(owner, message, sink, envelope, principal, budget=budget)
    watch = server.request_watch()
    if watch is not None:
        watch.begin(request)
    if method == methods.LISTEN:
        server.subscriptions.admit(request, owner.stateless_queue())
        return request
    owner.counters.requests += 1
    if method == methods.DISCOVER:
        discover(server.served.get(), request)
    else:
        serve_task_method(request)
    return request
