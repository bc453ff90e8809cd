"""Requests about the session itself, which its own state answers (2024-11-05 to 2025-11-25)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from ..core.errors import McpError
from ..protocol.error_codes import INVALID_PARAMS, METHOD_NOT_FOUND
from ..protocol.jsonrpc import Request
from ..protocol.log_levels import read_level

if TYPE_CHECKING:
    from .session import Session


def _set_level(session: Session, request: Request) -> None:
    if "logging" not in _capabilities(session):
        raise McpError(METHOD_NOT_FOUND, "Method not found")
    session._log_severity = read_level(request.params)


def _subscribe(session: Session, request: Request) -> None:
    uri = _resource(session, request)
    if session._resources is None:
        session._resources = set()
    limit = session._manager.config.limits.max_subscriptions
    if uri not in session._resources and len(session._resources) >= limit:
        raise McpError(INVALID_PARAMS, f"No more than {limit} resources can be subscribed to")
    session._resources.add(uri)


def _unsubscribe(session: Session, request: Request) -> None:
    uri = _resource(session, request)
    if session._resources is not None:
        session._resources.discard(uri)


def _resource(session: Session, request: Request) -> str:
    if not _capabilities(session).get("resources", {}).get("subscribe"):
        raise McpError(METHOD_NOT_FOUND, "Method not found")
    uri = request.params.get("uri")
    if not isinstance(uri, str):
        raise McpError(INVALID_PARAMS, "uri must be a string")
    return uri


def _capabilities(session: Session) -> Mapping[str, Any]:
    assert session._revision is not None
    return session._manager._served().capabilities(session._revision)


OWN_METHODS: Final[Mapping[str, Callable[[Session, Request], None]]] = {
    "logging/setLevel": _set_level,
    "resources/subscribe": _subscribe,
    "resources/unsubscribe": _unsubscribe,
}
"""What answers each of them with an empty result, or raises what it is refused with."""
