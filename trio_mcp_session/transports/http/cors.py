"""CORS: lets pages of the origins in ``allowed_origins`` call the endpoint and read its answers.

A browser sends a page's request to another origin only after a preflight, an OPTIONS request, has
allowed its method and its headers; and shows the page of an answer what the answer's headers allow
(Fetch standard, *CORS protocol*).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from ..asgi import Message, Scope, Send
from .json_response import Header, respond
from .origin import OriginPolicy

METHODS: Final = b"POST, GET, DELETE"

ALLOW_ORIGIN: Final = b"access-control-allow-origin"

EXPOSED: Final = b"Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, Retry-After"
"""Headers of answers that pages can read: the session's id, and what to do after an error."""

MAX_AGE: Final = b"7200"
"""Seconds for which a browser keeps the answer to a preflight; 2 hours are the most of Chromium.

Each request is checked again, so an origin that is removed from the list is refused at once."""

_HEADER_NAMES: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z, \t]{1,4096}")


def is_preflight(scope: Scope) -> bool:
    """Return whether a request is a preflight of a browser."""
    return scope["method"] == "OPTIONS" and bool(
        _find(scope["headers"], b"origin")
        and _find(scope["headers"], b"access-control-request-method")
    )


def with_cors(policy: OriginPolicy, scope: Scope, send: Send) -> Send:
    """Return a ``send`` that lets a page of an allowed origin read the answer.

    Args:
        policy: Which origins are allowed.
        scope: The request.
        send: Sends the answer.

    Returns:
        ``send`` itself, if the request does not come from such a page.
    """
    origin = _find(scope["headers"], b"origin")
    if origin is None or not policy.lists(origin.decode("latin-1").strip(" \t")):
        return send
    added = [
        (ALLOW_ORIGIN, origin),
        (b"access-control-expose-headers", EXPOSED),
        (b"vary", b"Origin"),
    ]

    async def send_with_cors(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message.get("headers", ())
            # Browsers accept this header once only, and public documents have one for all pages.
            if _find(headers, ALLOW_ORIGIN) is None:
                message = {**message, "headers": [*headers, *added]}
        await send(message)

    return send_with_cors


async def answer_preflight(scope: Scope, send: Send) -> None:
    """Answer the preflight of a page that was checked. A checkpoint if ``send`` is one.

    All headers that the page asks for are allowed, since ``authenticate`` can read any header.
    """
    headers: list[Header] = [
        (b"access-control-allow-methods", METHODS),
        (b"access-control-max-age", MAX_AGE),
    ]
    wanted = _find(scope["headers"], b"access-control-request-headers")
    if wanted is not None and _HEADER_NAMES.fullmatch(wanted):
        headers.append((b"access-control-allow-headers", wanted))
    # Browsers ask this before a page of the internet may reach a machine of the local network.
    if _find(scope["headers"], b"access-control-request-private-network") == b"true":
        headers.append((b"access-control-allow-private-network", b"true"))
    await respond(send, 204, headers=headers)


def _find(headers: Iterable[Header], wanted: bytes) -> bytes | None:
    return next((value for name, value in headers if name == wanted), None)
