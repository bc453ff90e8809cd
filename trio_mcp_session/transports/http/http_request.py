"""One HTTP request that has passed the first checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import attrs

from ...core.identity import Transport
from ...core.peer import Party, join_host_port, network_of
from ..asgi import BODY_AT_HAND, Receive, Scope, Send
from .headers import RequestHeaders

if TYPE_CHECKING:
    from ...core.identity import Principal
    from .trusted_proxies import TrustedProxies


@final
@attrs.define(eq=False)
class HttpRequest:
    """One request of an authenticated client, which may be served."""

    scope: Scope
    headers: RequestHeaders
    principal: Principal | None
    receive: Receive
    send: Send
    proxies: TrustedProxies | None = None
    """The proxies that may name the client; None if none is trusted."""

    @property
    def body_at_hand(self) -> bool:
        """Whether the server says that the whole body has come already."""
        return BODY_AT_HAND in self.scope.get("extensions", ())

    @property
    def peer(self) -> str:
        """The address of its client, with the port if that is known; empty if there is none."""
        client = self.scope.get("client")
        if client is None or self.proxies is not None:
            return self._host
        return join_host_port(self._host, client[1])

    @property
    def party(self) -> Party | None:
        """What its client is counted by; None if neither principal nor address is known."""
        return self.principal if self.principal is not None else (network_of(self._host) or None)

    @property
    def _host(self) -> str:
        if self.proxies is not None:
            return self.proxies.client_of(self.scope)
        client = self.scope.get("client")
        return "" if client is None else str(client[0])

    @property
    def transport(self) -> Transport:
        """A description of its connection."""
        return Transport("http", self.peer)
