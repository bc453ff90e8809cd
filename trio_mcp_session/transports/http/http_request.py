"""One HTTP request that has passed the first checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import attrs
from msgspec import UNSET, UnsetType

from ...core.identity import Transport
from ...core.peer import Party, join_host_port, party_at
from ...protocol.jsonrpc import Batch, Message, Request as JsonRpcRequest, RequestId
from ...protocol.media_types import Forms
from ...server.request_source import RequestSource
from ..asgi import BODY_AT_HAND, Receive, Scope, Send
from .checks import accepted_forms
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
    message_id: RequestId | UnsetType = UNSET
    """The id of the JSON-RPC request in its body, once that is known: errors carry it."""
    _forms: Forms | None = None
    """What `forms` has found."""
    _party: Party | UnsetType | None = UNSET
    """What `party` has found."""

    def note_message(self, message: Message | Batch) -> None:
        """Note the message in its body: an error that is answered later carries the id."""
        if isinstance(message, JsonRpcRequest):
            self.message_id = message.id

    @property
    def forms(self) -> Forms:
        """In which forms a POST can be answered.

        Raises:
            HttpError: 406, in none.
        """
        if self._forms is None:
            self._forms = accepted_forms(self.headers)
        return self._forms

    @property
    def body_at_hand(self) -> bool:
        """Whether the server says that the whole body has come already."""
        return BODY_AT_HAND in self.scope.get("extensions", ())

    def source(self) -> RequestSource:
        """Return what handlers get to know of it, without its connection. Not a checkpoint."""
        return RequestSource(self.principal, self.scope)

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
        if self._party is UNSET:
            self._party = party_at(self.principal, self._host)
        return self._party

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
