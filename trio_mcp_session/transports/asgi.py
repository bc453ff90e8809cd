"""The words of ASGI 3, which has no types of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
"""What is known of a request before its body."""

Message: TypeAlias = MutableMapping[str, Any]
"""One event, either way."""

Receive: TypeAlias = Callable[[], Awaitable[Message]]
"""Waits for the next event of the client."""

Send: TypeAlias = Callable[[Message], Awaitable[None]]
"""Takes one event for the client."""

ASGIApplication: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An ASGI 3 application."""

BODY_AT_HAND: Final = "trio_mcp_session.body_at_hand"
"""An extension of the scope: the whole body has come already, and is not waited for."""


class ClientDisconnected(OSError):
    """Nothing can be sent to this client: it left, or it was cut off."""
