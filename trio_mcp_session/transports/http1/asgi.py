"""The words of ASGI 3, as types."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


BODY_AT_HAND = "trio_mcp_session.body_at_hand"
"""An extension of the scope: the whole body has come already, and is not waited for."""


class ClientDisconnected(OSError):
    """Nothing can be sent to this client any more: it left, or it was cut off."""
