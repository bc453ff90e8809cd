"""Authentication of HTTP clients by the user that they run as, over a Unix socket."""

from __future__ import annotations

from collections.abc import Mapping

from ...core.identity import Principal
from ..asgi import UNIX_PEER, Scope
from ..unix_sockets import principal_of_credentials
from .authentication import AuthenticationFailed


async def authenticate_unix_peer(  # noqa: ASYNC124  # the interface of a hook
    scope: Scope, _headers: Mapping[str, str]
) -> Principal:
    """Return the principal of an HTTP client on a Unix socket: the user that it runs as (Linux).

    For ``authenticate`` of `serve_http`, with its built-in server. `unix_peer` returns the same
    principal. Not a checkpoint.

    Raises:
        AuthenticationFailed: The client connected over TCP.
        RuntimeError: The server does not know the user of the client.
    """
    credentials = scope.get(UNIX_PEER)
    if credentials is not None:
        return principal_of_credentials(credentials)
    if scope.get("client") is not None:
        raise AuthenticationFailed("This server serves clients of its Unix socket only")
    raise RuntimeError("the server does not know the user of its client: use the built-in server")
