"""What a transport knows about a request in addition to its message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

import attrs

from ..core.header_mapping import NO_HEADERS, Headers

if TYPE_CHECKING:
    from ..core.identity import Principal


@final
@attrs.define(eq=False, repr=False)
class RequestSource:
    """The principal, the headers and the ASGI scope of one request, or of one connection.

    A sink may have an attribute ``source`` with one of these: handlers get what is in it. The
    headers are read from the scope on first use.
    """

    principal: Principal | None = None
    """The principal of the request, with its own claims and scopes; None for the session's."""

    asgi_scope: Mapping[str, Any] | None = None
    """The ASGI scope of the request; None where the transport is not HTTP."""

    missing_scopes: tuple[str, ...] = attrs.field(default=(), init=False)
    """The scopes that the handler needed and the request did not have."""

    _headers: Headers | None = attrs.field(default=None, init=False)

    def __repr__(self) -> str:
        return f"<RequestSource of {self.principal!r}>"

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers, by name in any case; none where the transport has none."""
        if self._headers is None:
            scope = self.asgi_scope
            self._headers = NO_HEADERS if scope is None else Headers(scope.get("headers", ()))
        return self._headers


def source_of(sink: object) -> RequestSource | None:
    """Return what a sink knows of the source of its request; None if it does not know."""
    source: RequestSource | None = getattr(sink, "source", None)
    return source


def source_of_connection(principal: Principal | None) -> RequestSource | None:
    """Return the source of a connection's requests; None without claims and scopes."""
    if principal is None or principal is principal.identity:
        return None
    return RequestSource(principal)
