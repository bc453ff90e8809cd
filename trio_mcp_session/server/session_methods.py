"""Methods that the library answers for a session (2024-11-05 to 2025-11-25)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from ..core.errors import McpError
from ..protocol.error_codes import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND
from ..protocol.jsonrpc import Params
from ..protocol.log_levels import read_level
from ..protocol.methods import METHODS, is_declared
from .busy import NO_MEMORY

if TYPE_CHECKING:
    from .client_connection import ClientConnection


class Call(Protocol):
    """A request for one of these methods, as it was received or in flight."""

    @property
    def method(self) -> str:
        """Its method."""
        ...

    @property
    def params(self) -> Params:
        """Its parameters."""
        ...


Undo: TypeAlias = Callable[[], None]
"""Takes back what such a request has changed. Not a checkpoint."""

URI_SIZE: Final = 128
"""Bytes that a subscribed resource takes besides its URI, by estimate."""


def _set_level(client: ClientConnection, request: Call) -> Undo:
    before = client.log_severity
    client.log_severity = read_level(request.params)

    def undo() -> None:
        client.log_severity = before

    return undo


def _subscribe(client: ClientConnection, request: Call) -> Undo:
    uri = _uri(request)
    if client.resources is None:
        client.resources = set()
    if uri in client.resources:
        return _nothing
    limit = client.manager.config.limits.max_subscriptions
    if len(client.resources) >= limit:
        raise McpError(INVALID_PARAMS, f"No more than {limit} resources can be subscribed to")
    if not client.budget.claim(len(uri) + URI_SIZE):
        raise McpError(INTERNAL_ERROR, NO_MEMORY)
    client.resources.add(uri)
    return lambda: _forget(client, uri)


def _unsubscribe(client: ClientConnection, request: Call) -> Undo:
    _forget(client, _uri(request))
    return _nothing  # It is not subscribed, also after a failure.


def _forget(client: ClientConnection, uri: str) -> None:
    if client.resources is not None and uri in client.resources:
        client.resources.discard(uri)
        client.budget.release(len(uri) + URI_SIZE)


def _nothing() -> None:
    """Undo nothing."""


def _uri(request: Call) -> str:
    uri = request.params.get("uri")
    if not isinstance(uri, str):
        raise McpError(INVALID_PARAMS, "uri must be a string")
    return uri


_METHODS: Final[Mapping[str, Callable[[ClientConnection, Call], Undo]]] = {
    "logging/setLevel": _set_level,
    "resources/subscribe": _subscribe,
    "resources/unsubscribe": _unsubscribe,
}

SESSION_METHODS: Final = frozenset(_METHODS)
"""Methods that are answered here."""


def serve(client: ClientConnection, request: Call) -> Undo:
    """Do what a request for one of these methods asks for; its result is empty.

    Returns:
        Takes it back, for an application that answers the method, too, and fails.

    Raises:
        McpError: -32601, the application does not declare the capability; -32602, the parameters
            are wrong.
        Exception: What the application raised when it was asked for its capabilities.
    """
    assert client.revision is not None
    capabilities = client.server.served.get().capabilities(client.revision)
    if not is_declared(METHODS[request.method].capability, capabilities):
        raise McpError(METHOD_NOT_FOUND, "Method not found")
    return _METHODS[request.method](client, request)
