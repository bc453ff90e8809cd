"""What an application of the official SDK can ask about the HTTP request: headers, user, stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final, final

import attrs
import trio

from ..core.identity import is_of_connection

if TYPE_CHECKING:
    from ..core.identity import Principal
    from ..server.request_source import RequestSource
    from .sdk_names import FastMcp, Sdk

NOT_KNOWN: Final = ""
"""The token of a client that did not send one: another part of the program authenticated it."""


@final
@attrs.frozen
class TransportFacts:
    """Tells their code about requests, as their transports do. Not a checkpoint."""

    _sdk: Sdk
    _fastmcp: FastMcp | None

    @contextmanager
    def told(
        self,
        source: RequestSource | None,
        principal: Principal | None,
        close_stream: Callable[[], object] | None = None,
    ) -> Iterator[Any]:
        """Set their context variables for a block, and return their metadata of the request.

        Args:
            source: What the transport knows of the request.
            principal: The principal that makes it.
            close_stream: Closes the stream of the request, if its client can reconnect.
        """
        scope = None if source is None else source.asgi_scope
        http_request = None if scope is None else self._sdk.http_request(scope)
        with ExitStack() as stack:
            user = self._user(scope, principal)
            if user is not None:
                stack.callback(self._sdk.user.reset, self._sdk.user.set(user))
            if self._fastmcp is not None:
                names = self._fastmcp
                kind = "stdio" if scope is None else "streamable-http"
                stack.callback(names.transport.reset, names.transport.set(kind))
                if http_request is not None:
                    token = names.http_request.set(http_request)
                    stack.callback(names.http_request.reset, token)
            if http_request is None:
                yield None
            else:
                yield self._sdk.metadata(
                    request_context=http_request,
                    close_sse_stream=None if close_stream is None else _as_async(close_stream),
                )

    def _user(self, scope: Any, principal: Principal | None) -> Any:
        """Return their user object for a request; None for a client without authentication."""
        found = None if scope is None else scope.get("user")
        if isinstance(found, self._sdk.authenticated):
            return found
        if principal is None or is_of_connection(principal):
            return None
        claims = dict(principal.claims)
        if principal.issuer:
            claims.setdefault("iss", principal.issuer)
        token = self._sdk.access_token(
            token=NOT_KNOWN,
            client_id=str(claims.get("client_id") or claims.get("azp") or principal.subject),
            scopes=sorted(principal.scopes),
            subject=principal.subject,
            claims=claims or None,
        )
        return self._sdk.authenticated(token)


def _as_async(function: Callable[[], object]) -> Any:
    async def call() -> None:
        function()
        await trio.lowlevel.checkpoint()

    return call
