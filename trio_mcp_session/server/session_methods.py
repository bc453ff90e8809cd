"""Methods that the library answers for a session (2024-11-05 to 2025-11-25)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from ..core.errors import McpError
from ..protocol.error_codes import INVALID_PARAMS, METHOD_NOT_FOUND
from ..protocol.jsonrpc import Request
from ..protocol.log_levels import read_level

if TYPE_CHECKING:
    from .client_connection import ClientConnection


def _set_level(client: ClientConnection, request: Request) -> None:
    if "logging" not in _capabilities(client):
        raise McpError(METHOD_NOT_FOUND, "Method not found")
    client.log_severity = read_level(request.params)


def _subscribe(client: ClientConnection, request: Request) -> None:
    uri = _resource(client, request)
    if client.resources is None:
        client.resources = set()
    limit = client.manager.config.limits.max_subscriptions
    if uri not in client.resources and len(client.resources) >= limit:
        raise McpError(INVALID_PARAMS, f"No more than {limit} resources can be subscribed to")
    client.resources.add(uri)


def _unsubscribe(client: ClientConnection, request: Request) -> None:
    uri = _resource(client, request)
    if client.resources is not None:
        client.resources.discard(uri)


def _resource(client: ClientConnection, request: Request) -> str:
    if not _capabilities(client).get("resources", {}).get("subscribe"):
        raise McpError(METHOD_NOT_FOUND, "Method not found")
    uri = request.params.get("uri")
    if not isinstance(uri, str):
        raise McpError(INVALID_PARAMS, "uri must be a string")
    return uri


def _capabilities(client: ClientConnection) -> Mapping[str, Any]:
    assert client.revision is not None
    return client.server.served.get().capabilities(client.revision)


SESSION_METHODS: Final[Mapping[str, Callable[[ClientConnection, Request], None]]] = {
    "logging/setLevel": _set_level,
    "resources/subscribe": _subscribe,
    "resources/unsubscribe": _unsubscribe,
}
"""The function for each method: the answer is an empty result, or the error that it raises."""
