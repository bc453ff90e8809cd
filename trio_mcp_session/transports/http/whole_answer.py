"""An answer that is the only message of its response: as JSON, or as a stream of one event."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from ...protocol.media_types import Forms
from ...protocol.sse import encode_event
from ..asgi import Send
from .json_response import JSON, Header, respond
from .sse_response import SSE_HEADERS


async def respond_whole(
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
        send: The request's ``send``.
        frame: The message, encoded as JSON.
        forms: What the client accepts. Errors with a status of their own are always JSON, as all
            errors of HTTP.
        status: The HTTP status.
        headers: Further headers of the response.
    """
    if forms.json or status != HTTPStatus.OK:
        await respond(send, status, frame, (JSON, *headers))
    else:
        await respond(send, status, encode_event(frame, None), (*SSE_HEADERS, *headers))
