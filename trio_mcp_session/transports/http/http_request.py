"""One HTTP request that has passed the first checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import attrs
from msgspec import UNSET, UnsetType

from ...core.identity import Transport
from ...protocol.jsonrpc import Batch, Message, Request as JsonRpcRequest, RequestId
from ..asgi import BODY_AT_HAND, Receive, Scope, Send
from .headers import RequestHeaders

if TYPE_CHECKING:
    from ...core.identity import Principal


@final
@attrs.define(eq=False)
class HttpRequest:
    """One request of an authenticated client, which may be served."""

    scope: Scope
    headers: RequestHeaders
    principal: Principal | None
    receive: Receive
    send: Send
    message_id: RequestId | UnsetType = attrs.field(default=UNSET, init=False)
    """The id of the JSON-RPC request in its body, once that is known: errors carry it."""

    def note_message(self, message: Message | Batch) -> None:
        """Note the message in its body: an error that is answered later carries the id."""
        if isinstance(message, JsonRpcRequest):
            self.message_id = message.id

    @property
    def body_at_hand(self) -> bool:
        """Whether the server says that the whole body has come already."""
        return BODY_AT_HAND in self.scope.get("extensions", ())

    @property
    def transport(self) -> Transport:
        """A description of its connection."""
        client = self.scope.get("client")
        return Transport("http", "" if client is None else f"{client[0]}:{client[1]}")
