"""The types of ASGI 3, which has none of its own, and the answers that every part sends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

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

Header: TypeAlias = tuple[bytes, bytes]
"""Name, in lower case, and value."""

JSON: Header = (b"content-type", b"application/json")


async def respond(
    send: Send, status: int, body: bytes = b"", headers: Iterable[Header] = ()
) -> None:
    """Send a whole response. A checkpoint if the server's ``send`` is one."""
    length = () if status == 204 else ((b"content-length", b"%d" % len(body)),)  # noqa: PLR2004
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *length]})
    await send({"type": "http.response.body", "body": body})
