"""An answer that is the only message of its response: as JSON, or as a stream of one event."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from ...core.byte_budget import ByteBudget
from ...protocol.media_types import Forms
from ...protocol.sse import encode_event
from ..asgi import Send
from .json_response import JSON, Header, respond_within
from .sse_response import SSE_HEADERS


async def respond_whole(
    budget: ByteBudget,
    send: Send,
    frame: bytes,
    forms: Forms,
    *,
    status: int = HTTPStatus.OK,
    headers: Iterable[Header] = (),
) -> None:
    """Send one message as a whole response, in a form that the client accepts.

    A checkpoint if the server's ``send`` is one.

    Args:
        budget: What counts the response until it is written.
        send: The request's ``send``.
        frame: The message, encoded as JSON.
        forms: What the client accepts. Errors with a status of their own are always JSON, as all
            errors of HTTP.
        status: The HTTP status.
        headers: Further headers of the response.
    """
    if forms.json or status != HTTPStatus.OK:
        await respond_within(budget, send, status, frame, (JSON, *headers))
    else:
        event = encode_event(frame, None)
        await respond_within(budget, send, status, event, (*SSE_HEADERS, *headers))
