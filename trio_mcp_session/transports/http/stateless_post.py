"""POST of a stateless request (2026-07-28)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...core.errors import HandlerCrashed, McpError
from ...core.rate_limit import whole_seconds
from ...protocol.envelope import Envelope, read_envelope
from ...protocol.error_codes import (
    INTERNAL_ERROR,
    METHOD_NOT_FOUND,
    MISSING_CLIENT_CAPABILITY,
)
from ...protocol.header_agreement import check_agreement, check_parameters
from ...protocol.jsonrpc import Request, is_object
from ...protocol.methods import DISCOVER, LISTEN
from ...server.modern import admit, check_method, is_violation
from ...server.request_rates import TOO_OFTEN
from ...sessions.failures import FAILURES, contain
from .checks import http_error_of
from .headers import read_parameters
from .http_error import HttpError, too_often
from .scope_checks import check_missed, check_scopes
from .stateless_stream import StatelessStream
from .whole_answer import respond_whole

if TYPE_CHECKING:
    from ...core.byte_budget import ByteBudget
    from ...core.peer import Party
    from .endpoint import Endpoint
    from .http_request import HttpRequest

STATUS_OF = {MISSING_CLIENT_CAPABILITY: 400, METHOD_NOT_FOUND: 404}
"""HTTP statuses of errors of requests that ran; all others have 200."""


async def serve_stateless(
    endpoint: Endpoint, request: HttpRequest, message: Request, size: int
) -> None:
    """Serve a stateless request. A checkpoint where it has to wait.

    Raises:
        HttpError: It is not served, in the protocol's order of reasons.
    """
    server = endpoint.server
    owner = server.stateless
    counters = owner.counters
    counters.messages_received += 1
    counters.bytes_received += size
    try:
        envelope = _check(endpoint, request, message)
    except McpError as error:
        if is_violation(error):
            owner.violation("a modern request that is not complete")
        raise http_error_of(error, message.id, message.method) from error
    server.served.notices.modern_client_came()
    forms = request.forms
    party = request.party
    if server.rates is not None:
        check_rate(endpoint, party, message)
    listens = message.method == LISTEN
    if listens and not forms.events:
        raise HttpError(
            406,
            f"Not acceptable: {LISTEN} is answered as text/event-stream only",
            request_id=message.id,
        )
    if message.method == DISCOVER and (why := server.no_turn_for(party, at_once=True)) is not None:
        raise endpoint.unavailable(why, message.id)
    check_scopes(endpoint, request, message)
    source = request.source()
    budget = endpoint.manager._byte_budgets.of(party, "http")
    stream = StatelessStream(
        endpoint,
        request.receive,
        budget,
        may_drop=not listens,
        may_stream=forms.events,
        source=source,
        http=request,
    )
    try:
        in_flight = admit(
            server, owner, message, stream, envelope, request.principal, party, budget
        )
        request_id = message.id
        del message, envelope  # While the request waits, its parameters do not stay here.
        stream.request = in_flight
        response = await stream.decided()
        if response is not None:
            await response.run(request.send)
        elif in_flight.no_room is not None:
            raise endpoint.unavailable(in_flight.no_room, request_id)
        elif stream.answer is not None:
            check_missed(endpoint, request, source, request_id)
            code = in_flight.error_code
            status = 200 if code is None else STATUS_OF.get(code, 200)
            await respond_whole(request.send, stream.answer, forms, lambda: budget, status=status)
    except OSError:
        pass  # The client has left.
    finally:
        stream.close()


def check_rate(endpoint: Endpoint, party: Party | None, message: Request) -> None:
    """Refuse a request of a party that makes too many.

    Raises:
        HttpError: 429.
    """
    rates = endpoint.server.rates
    if rates is not None and party is not None:
        wait = rates.take(party, message.method)
        if wait:
            raise too_often(TOO_OFTEN.format(whole_seconds(wait)), wait, message.id)


def budget_of(endpoint: Endpoint, request: HttpRequest) -> ByteBudget:
    """Return what counts the bytes of a request: the budget of its principal, or its address."""
    return endpoint.manager._byte_budgets.of(request.party, "http")


def _check(endpoint: Endpoint, request: HttpRequest, message: Request) -> Envelope:
    """Check in the protocol's order what can be told before the request runs.

    Raises:
        McpError: What is wrong with it.
        HttpError: 500, the application failed to say what it serves; 421, it names another node.
    """
    application = endpoint.server.served.get()
    headers = request.headers
    envelope = read_envelope(message.params, endpoint.eras.supported)
    check_agreement(
        message,
        envelope.version,
        header_version=headers.protocol_version,
        header_method=headers.method,
        header_name=headers.name,
    )
    endpoint.eras.check_stateless(envelope.version)
    try:
        check_method(application, message.method)
        wanted = application.header_parameters(message.method, message.params)
    except McpError:
        raise
    except FAILURES as error:  # the application is asked what it serves
        raise _application_failed(endpoint, message, error) from error
    if wanted:
        arguments = message.params.get("arguments")
        parameters = read_parameters(request.scope["headers"])
        check_parameters(wanted, arguments if is_object(arguments) else {}, parameters)
    if endpoint.node_check is not None:
        endpoint.node_check.check_message(request, message, wanted)
    return envelope


def check_node(endpoint: Endpoint, request: HttpRequest, message: Request) -> None:
    """Refuse a request of an older client that is called with a handle of another node.

    Raises:
        HttpError: 421; or 500, the application failed to say what it serves.
    """
    if endpoint.node_check is None:
        return
    application = endpoint.server.served.get()
    try:
        repeated = application.header_parameters(message.method, message.params)
    except FAILURES as error:  # the application is asked what it serves
        raise _application_failed(endpoint, message, error) from error
    endpoint.node_check.check_message(request, message, repeated)


def _application_failed(endpoint: Endpoint, message: Request, error: BaseException) -> HttpError:
    """Report that the application failed to say what it serves; return the answer."""
    report = HandlerCrashed(message.method, "handles_request or header_parameters")
    report.__cause__ = contain(error)
    endpoint.server.stateless.report(report)
    return HttpError(500, "Internal error", code=INTERNAL_ERROR, request_id=message.id)
