"""Whole responses, as every part of the endpoint sends them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypeAlias

from ..asgi import Send

Header: TypeAlias = tuple[bytes, bytes]
"""Name, in lower case, and value."""

# Not of `HTTPStatus`, whose members take long to look up and to compare.
OK: Final = 200
NO_CONTENT: Final = 204

JSON: Header = (b"content-type", b"application/json")


async def respond(
    send: Send, status: int, body: bytes = b"", headers: Iterable[Header] = ()
) -> None:
    """Send a whole response. A checkpoint if the server's ``send`` is one."""
    length = () if status == NO_CONTENT else ((b"content-length", b"%d" % len(body)),)
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *length]})
    await send({"type": "http.response.body", "body": body})
