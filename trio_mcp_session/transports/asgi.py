"""Types for ASGI 3, which has none of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
"""The scope: a request without its body."""

Message: TypeAlias = MutableMapping[str, Any]
"""One event, in either direction."""

Receive: TypeAlias = Callable[[], Awaitable[Message]]
"""Waits for the next event of the client."""

Send: TypeAlias = Callable[[Message], Awaitable[None]]
"""Sends one event to the client."""

ASGIApplication: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An ASGI 3 application."""

BODY_AT_HAND: Final = "trio_mcp_session.body_at_hand"
"""An extension of the scope: the whole body, which has been received already."""

UNIX_PEER: Final = "trio_mcp_session.unix_peer"
"""A key of the scope: the process, user and group id of the client of a Unix socket."""


class ClientDisconnected(OSError):
    """Nothing can be sent to this client: it left, or its connection was closed."""
