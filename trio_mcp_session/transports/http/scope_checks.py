"""Scopes that a request needs: checked before it runs, so that HTTP can answer with a status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import UNSET, UnsetType

from ...core.errors import HandlerCrashed, InsufficientScope
from ...protocol.error_codes import INTERNAL_ERROR
from ...protocol.jsonrpc import Batch, Message, Request, RequestId
from ...sessions.failures import FAILURES, contain
from .challenges import challenge_of
from .http_error import HttpError

if TYPE_CHECKING:
    from ...server.application import RequiredScopes
    from ...server.request_source import RequestSource
    from .endpoint import Endpoint
    from .http_request import HttpRequest


def check_scopes(endpoint: Endpoint, request: HttpRequest, message: Message | Batch) -> None:
    """Refuse a request whose principal lacks scopes; a batch, if one of its requests is refused.

    Raises:
        HttpError: 403, or 401 if the request has no principal.
    """
    if endpoint.required_scopes is None:
        return
    if isinstance(message, Request):
        _check(endpoint, endpoint.required_scopes, request, message, message.id)
    elif isinstance(message, Batch):
        for one in message.messages:
            if isinstance(one, Request):
                _check(endpoint, endpoint.required_scopes, request, one, UNSET)


def _check(
    endpoint: Endpoint,
    required: RequiredScopes,
    request: HttpRequest,
    message: Request,
    request_id: RequestId | UnsetType,
) -> None:
    try:
        needed = required(message.method, message.params)
    except FAILURES as error:  # the application is asked what it needs
        raise _failed(endpoint, message, contain(error)) from error
    if not needed:
        return
    held = frozenset[str]() if request.principal is None else request.principal.scopes
    if not held.issuperset(needed):
        raise _insufficient_scope(endpoint, request, tuple(needed), request_id)


def _failed(endpoint: Endpoint, message: Request, error: Exception) -> HttpError:
    report = HandlerCrashed(message.method, "required_scopes of the application")
    report.__cause__ = error
    endpoint.server.stateless.report(report)
    return HttpError(500, "Internal error", code=INTERNAL_ERROR, request_id=message.id)


def check_missed(
    endpoint: Endpoint,
    request: HttpRequest,
    source: RequestSource | None,
    request_id: RequestId | UnsetType,
) -> None:
    """Refuse a request whose handler ended because the principal lacks scopes.

    Args:
        endpoint: The endpoint.
        request: The POST.
        source: The source of the request, in which its handler notes the scopes that it misses.
        request_id: The id; UNSET for a batch, whose other answers would be lost.

    Raises:
        HttpError: 403, or 401 if the request has no principal.
    """
    if source is not None and source.missing_scopes and request_id is not UNSET:
        raise _insufficient_scope(endpoint, request, source.missing_scopes, request_id)


def _insufficient_scope(
    endpoint: Endpoint,
    request: HttpRequest,
    needed: tuple[str, ...],
    request_id: RequestId | UnsetType,
) -> HttpError:
    """Return the error of a request that lacks scopes: 403, or 401 without a principal."""
    error = InsufficientScope(needed)
    anonymous = request.principal is None
    challenge = challenge_of(
        endpoint.authenticate,
        needed,
        error=None if anonymous else "insufficient_scope",
        description=None if anonymous else error.message,
    )
    return HttpError(
        401 if anonymous else 403,
        error.message,
        code=error.code,
        data=error.data,
        request_id=request_id,
        headers=[(b"www-authenticate", challenge.encode("ascii"))],
    )
