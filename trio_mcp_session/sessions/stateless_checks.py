"""Which modern requests are served, and what the library answers itself (2026-07-28)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.errors import McpError
from ..protocol.discovery import DISCOVER, REMOVED, discover_result
from ..protocol.envelope import Envelope, is_modern, read_envelope
from ..protocol.error_codes import METHOD_NOT_FOUND, UNSUPPORTED_PROTOCOL_VERSION
from ..protocol.subscription_messages import LISTEN
from .failures import FAILURES, contain

if TYPE_CHECKING:
    from ..protocol.eras import ServedEras
    from ..protocol.jsonrpc import Request
    from .application import Application
    from .requests import InFlightRequest


def check_method(application: Application, method: str) -> None:
    """Refuse methods that nobody serves, or that have no place in a request of this kind.

    Raises:
        McpError: -32601.
    """
    if method in (DISCOVER, LISTEN):
        return
    if method in REMOVED or not application.handles_request(method):
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
