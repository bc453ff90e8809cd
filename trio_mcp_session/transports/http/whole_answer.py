"""An answer that is the only message of its response: as JSON, or as a stream of one event."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ...core.byte_budget import FREE, ByteBudget
from ...protocol.media_types import Forms
from ...protocol.sse import encode_event
from ..asgi import Send
from .json_response import JSON, OK, Header, respond
from .sse_response import SSE_HEADERS


async def respond_whole(
    send: Send,
    frame: bytes,
    forms: Forms,
    budget: Callable[[], ByteBudget],
    *,
    status: int = OK,
    headers: Iterable[Header] = (),
) -> None:
    """Send one message as a whole response, in a form that the client accepts.

    A checkpoint if the server's ``send`` is one.

    Args:
        send: The request's ``send``.
        frame: The message, encoded as JSON.
        forms: What the client accepts. Errors with a status of their own are always JSON, as all
            errors of HTTP.
        budget: Returns what counts the response until it is written, if it is not a short one.
        status: The HTTP status.
        headers: Further headers of the response.
    """
    if forms.json or status != OK:
        described: Iterable[Header] = (JSON, *headers)
    else:
        frame, described = encode_event(frame, None), (*SSE_HEADERS, *headers)
    size = len(frame)
    if size <= FREE:
        await respond(send, status, frame, described)
        return
    counting = budget()
    counting.add(size)
    try:
        await respond(send, status, frame, described)
    finally:
        counting.release(size)
